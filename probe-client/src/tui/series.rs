//! Delay and loss over time, for charts: in constant memory however long the run.

use std::collections::VecDeque;
use std::time::Duration;

use probe_protocol::time::Timestamp;

/// Bins of the near past.
const NEAR: usize = 600;
const NEAR_BIN: Duration = Duration::from_secs(1);
/// Bins of the whole run; their length doubles when there are more.
const FAR: usize = 720;
const FAR_BIN: Duration = Duration::from_secs(10);

/// What happened within one bin: 16 bytes, of which a terminal's view holds a hundred thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Bin {
    /// Probes that count.
    pub(crate) sent: u32,
    /// Lost, whichever way.
    pub(crate) lost: u32,
    sum_us: f32,
    most_us: u32,
}

impl Bin {
    fn add(&mut self, rtt: Option<Duration>) {
        self.sent += 1;
        match rtt {
            None => self.lost += 1,
            Some(rtt) => {
                let us = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
                self.sum_us += us as f32;
                self.most_us = self.most_us.max(us);
            }
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.lost += other.lost;
        self.sum_us += other.sum_us;
        self.most_us = self.most_us.max(other.most_us);
    }

    fn answered(&self) -> u32 {
        self.sent - self.lost
    }

    /// Mean round trip, milliseconds.
    pub(crate) fn mean_ms(&self) -> Option<f64> {
        (self.answered() > 0).then(|| f64::from(self.sum_us) / f64::from(self.answered()) / 1e3)
    }

    /// Longest round trip, milliseconds.
    pub(crate) fn most_ms(&self) -> Option<f64> {
        (self.answered() > 0).then(|| f64::from(self.most_us) / 1e3)
    }
}

/// One flow's, or everybody's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    near: VecDeque<Bin>,
    /// Number of the first near bin, since the run's start.
    near_first: u64,
    far: Vec<Bin>,
    far_bin: Option<Duration>,
}

impl Series {
    /// Adds a settled probe that was sent so long after the run's start.
    pub(crate) fn add(&mut self, since_start: Duration, rtt: Option<Duration>) {
        let bin = since_start.as_secs() / NEAR_BIN.as_secs();
        if self.near.is_empty() {
            self.near_first = bin;
        }
        let end = self.near_first + self.near.len() as u64;
        if bin >= end + NEAR as u64 {
            // After a long silence nothing of the near past is near.
            self.near.clear();
            self.near_first = bin;
        }
        while self.near_first + (self.near.len() as u64) <= bin {
            self.near.push_back(Bin::default());
            if self.near.len() > NEAR {
                self.near.pop_front();
                self.near_first += 1;
            }
        }
        if let Some(place) = bin.checked_sub(self.near_first).and_then(|at| self.near.get_mut(at as usize)) {
            place.add(rtt);
        }
        self.add_far(since_start, rtt);
    }

    fn add_far(&mut self, since_start: Duration, rtt: Option<Duration>) {
        let length = self.far_bin.get_or_insert(FAR_BIN);
        while since_start.as_secs() / length.as_secs() >= FAR as u64 {
            *length *= 2;
            self.far = self
                .far
                .chunks(2)
                .map(|pair| {
                    let mut sum = Bin::default();
                    pair.iter().for_each(|bin| sum.merge(bin));
                    sum
                })
                .collect();
        }
        let at = (since_start.as_secs() / length.as_secs()) as usize;
        if self.far.len() <= at {
            self.far.resize(at + 1, Bin::default());
        }
        self.far[at].add(rtt);
    }

    /// The bins of the last `window` before `now`, or of the whole run: each with its middle, seconds since the start.
    pub(crate) fn bins(&self, window: Option<Duration>, now: Duration) -> Vec<(f64, Bin)> {
        match window {
            Some(window) if window <= NEAR_BIN * NEAR as u32 => {
                let from = now.saturating_sub(window).as_secs();
                (self.near_first..)
                    .zip(&self.near)
                    .filter(|(n, _)| *n >= from)
                    .map(|(n, bin)| (n as f64 + 0.5, *bin))
                    .collect()
            }
            other => {
                let length = self.far_bin.unwrap_or(FAR_BIN).as_secs_f64();
                let from = other.map_or(0.0, |window| now.saturating_sub(window).as_secs_f64() - length);
                let middle = |n: usize| (n as f64 + 0.5) * length;
                self.far
                    .iter()
                    .enumerate()
                    .map(|(n, bin)| (middle(n), *bin))
                    .filter(|(at, _)| *at >= from)
                    .collect()
            }
        }
    }
}

/// Seconds since a start.
pub(crate) fn since(start: Option<Timestamp>, at: Timestamp) -> Duration {
    start.map_or(Duration::ZERO, |start| at.since(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_takes_no_more_room_than_a_day_and_nothing_is_lost() {
        let mut series = Series::default();
        let step = 700;
        let count = 365 * 24 * 3600 / step;
        for n in 0..count {
            series.add(Duration::from_secs(n * step), (n % 3 > 0).then_some(Duration::from_millis(20)));
        }
        assert!(series.near.len() <= NEAR && series.far.len() <= FAR);
        let all = series.bins(None, Duration::from_secs(count * step));
        assert_eq!(all.iter().map(|(_, bin)| u64::from(bin.sent)).sum::<u64>(), count);
        assert_eq!(all.iter().map(|(_, bin)| u64::from(bin.lost)).sum::<u64>(), count.div_ceil(3));
        assert!(all.iter().filter_map(|(_, bin)| bin.mean_ms()).all(|ms| (ms - 20.0).abs() < 1e-9));
    }

    #[test]
    fn late_news_of_the_near_past_find_their_place() {
        let mut series = Series::default();
        for second in [10, 12, 11, 400, 20] {
            series.add(Duration::from_secs(second), None);
        }
        let bins = series.bins(Some(Duration::from_secs(600)), Duration::from_secs(400));
        let lost: Vec<f64> = bins.iter().filter(|(_, bin)| bin.lost > 0).map(|(at, _)| *at).collect();
        assert_eq!(lost, [10.5, 11.5, 12.5, 20.5, 400.5]);
        assert_eq!(series.bins(Some(Duration::from_secs(60)), Duration::from_secs(400)).len(), 61);
    }
}
