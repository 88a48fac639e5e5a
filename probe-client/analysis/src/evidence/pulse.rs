//! The run's pulse: what all its flows together sent and got back, over time, in constant memory. Empty bins stay: to
//! leave them out would hide blackouts.

use std::time::Duration;

/// Bins at most: half a megabyte, 0.8 s each after a night.
const MAX_BINS: usize = 1 << 16;
/// Length of a bin at first.
const FIRST_LENGTH: Duration = Duration::from_millis(100);

/// What happened to the probes that were sent within one bin; counts stop at 65,535.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bin {
    /// Sent and counted.
    pub sent: u16,
    /// Answered.
    pub received: u16,
    /// Lost on the way up.
    pub lost_up: u16,
    /// Lost on the way down.
    pub lost_down: u16,
}

impl Bin {
    /// All that were lost.
    pub fn lost(&self) -> u16 {
        self.sent.saturating_sub(self.received)
    }

    /// Adds another bin's counts.
    pub fn add(&mut self, other: &Self) {
        self.sent = self.sent.saturating_add(other.sent);
        self.received = self.received.saturating_add(other.received);
        self.lost_up = self.lost_up.saturating_add(other.lost_up);
        self.lost_down = self.lost_down.saturating_add(other.lost_down);
    }
}

/// Counts per bin since the run's start.
#[derive(Clone, Debug)]
pub struct Pulse {
    length: Duration,
    bins: Vec<Bin>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self { length: FIRST_LENGTH, bins: Vec::new() }
    }
}

impl Pulse {
    /// Adds counts at a time after the run's start.
    pub fn add(&mut self, since_start: Duration, bin: &Bin) {
        loop {
            // In 64 bits, which hold centuries: a division of 128 takes longer than all the rest of this.
            let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
            let n = nanos(since_start) / nanos(self.length).max(1);
            if n < MAX_BINS as u64 {
                let n = n as usize;
                if self.bins.len() <= n {
                    self.bins.resize(n + 1, Bin::default());
                }
                self.bins[n].add(bin);
                return;
            }
            self.length *= 2;
            self.bins = self
                .bins
                .chunks(2)
                .map(|pair| {
                    let mut sum = Bin::default();
                    pair.iter().for_each(|bin| sum.add(bin));
                    sum
                })
                .collect();
        }
    }

    /// Length of a bin.
    pub fn length(&self) -> Duration {
        self.length
    }

    /// The bins, from the run's start on.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// Seconds from the run's start to the start of a bin.
    pub fn start_s(&self, bin: usize) -> f64 {
        self.length.as_secs_f64() * bin as f64
    }

    /// The sum of the bins that lie within a window, seconds after the run's start; bins that it only touches are left
    /// out.
    pub fn within(&self, from_s: f64, to_s: f64) -> Bin {
        let length = self.length.as_secs_f64();
        let first = (from_s.max(0.0) / length).ceil() as usize;
        let end = ((to_s.max(0.0) / length).floor() as usize).min(self.bins.len());
        let mut sum = Bin::default();
        self.bins.get(first..end).unwrap_or_default().iter().for_each(|bin| sum.add(bin));
        sum
    }
}

/// A moment of silence over flows of all kinds that ended: probes were sent and none was answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Blackout {
    /// Seconds after the run's start: begin of the first bin of silence.
    pub from_s: f64,
    /// End of the last one.
    pub to_s: f64,
    /// Probes sent in it.
    pub sent: u64,
    /// Of those, lost on the way up.
    pub lost_up: u64,
    /// Of those, lost on the way down.
    pub lost_down: u64,
    /// Bins of silence in which something was sent.
    pub bins: usize,
    /// Nothing came after it: it lasted to the end.
    pub to_the_end: bool,
}

impl Pulse {
    /// Stretches of bins in which probes were sent and none was answered, of at least `least` bins with probes. A bin
    /// without probes neither breaks nor proves a silence.
    pub fn blackouts(&self, least: usize) -> Vec<Blackout> {
        let length = self.length.as_secs_f64();
        let mut found = Vec::new();
        let mut open: Option<Blackout> = None;
        for (n, bin) in self.bins.iter().enumerate() {
            if bin.sent == 0 {
                continue;
            }
            if bin.received > 0 {
                found.extend(open.take());
                continue;
            }
            let from_s = self.start_s(n);
            let silent = open.get_or_insert(Blackout {
                from_s,
                to_s: from_s,
                sent: 0,
                lost_up: 0,
                lost_down: 0,
                bins: 0,
                to_the_end: false,
            });
            silent.to_s = from_s + length;
            silent.sent += u64::from(bin.sent);
            silent.lost_up += u64::from(bin.lost_up);
            silent.lost_down += u64::from(bin.lost_down);
            silent.bins += 1;
        }
        found.extend(open.map(|open| Blackout { to_the_end: true, ..open }));
        found.retain(|silent| silent.bins >= least);
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_lost_when_bins_are_joined(seconds in proptest::collection::vec(0u64..100_000, 0..80)) {
            let mut pulse = Pulse::default();
            for s in &seconds {
                pulse.add(Duration::from_secs(*s), &Bin { sent: 1, ..Bin::default() });
            }
            prop_assert!(pulse.bins().len() <= MAX_BINS);
            for (n, bin) in pulse.bins().iter().enumerate() {
                let (from, to) = (pulse.start_s(n), pulse.start_s(n + 1));
                let expected = seconds.iter().filter(|s| (from..to).contains(&(**s as f64))).count();
                prop_assert_eq!(usize::from(bin.sent), expected);
            }
        }
    }

    #[test]
    fn a_blackout_lasts_from_the_last_answer_to_the_next() {
        let mut pulse = Pulse::default();
        for n in 0..100u64 {
            // Nothing is sent in the 40th, nothing answered from the 30th to the 60th.
            if n != 40 {
                let received = u16::from(!(30..60).contains(&n));
                pulse.add(Duration::from_millis(n * 100), &Bin { sent: 1, received, ..Bin::default() });
            }
        }
        let found = pulse.blackouts(20);
        assert_eq!(found.len(), 1);
        assert!((found[0].from_s - 3.0).abs() < 1e-9 && (found[0].to_s - 6.0).abs() < 1e-9);
        assert_eq!((found[0].sent, found[0].to_the_end), (29, false));
        assert!(pulse.blackouts(30).is_empty());
        assert_eq!(pulse.within(3.05, 6.0).sent, 28);
    }
}
