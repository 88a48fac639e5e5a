//! The offset between two clocks, with its bound, and one-way delays within that bound.
//!
//! A probe leaves at `t1` and returns at `t4` on the client's clock, and stays from `t2` to `t3` on the listener's. The
//! offset (listener minus client) lies between `t3 - t4` and `t2 - t1`, so half the round trip bounds the error of the
//! middle (RFC 5905 section 8). The probe with the shortest round trip bounds it best: a minimum filter. Clocks drift,
//! so each window of ten seconds has an estimate of its own, and delays are taken against their own window's.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use super::histogram::Histogram;

/// Length of a window.
const WINDOW: Duration = Duration::from_secs(10);
/// Probes kept of the current window; further ones count for its offset, not for its delays.
const MAX_WINDOW: usize = 1024;
/// Windows between which the drift is taken at least.
const MIN_DRIFT_SPAN: Duration = Duration::from_secs(30);

/// The four readings of one probe's round trip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// Sent, client's clock.
    pub t1: Timestamp,
    /// Arrived, listener's clock.
    pub t2: Timestamp,
    /// Answered, listener's clock.
    pub t3: Timestamp,
    /// Returned, client's clock.
    pub t4: Timestamp,
}

/// An offset and how far off it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offset {
    /// When, on the client's clock.
    pub at: Timestamp,
    /// Listener minus client, nanoseconds.
    pub nanos: i64,
    /// The true offset is within this of it, nanoseconds.
    pub bound: u64,
}

impl RoundTrip {
    /// The round trip without the listener's share, nanoseconds; zero where readings contradict each other.
    pub fn path_nanos(&self) -> u64 {
        let all = self.t4.signed_since(self.t1);
        let stay = self.t3.signed_since(self.t2);
        u64::try_from(all - stay).unwrap_or(0)
    }

    fn offset(&self) -> Offset {
        let low = self.t3.signed_since(self.t4);
        let high = self.t2.signed_since(self.t1);
        let nanos = low + (high - low) / 2;
        Offset { at: self.t1, nanos, bound: self.path_nanos().div_ceil(2) }
    }
}

/// One direction's delays and their bound.
#[derive(Clone, Debug, Default)]
pub struct OneWay {
    /// Delays on the way up, nanoseconds.
    pub up: Histogram,
    /// Delays on the way down, nanoseconds.
    pub down: Histogram,
    /// Every delay is within this of the truth, nanoseconds.
    pub bound: u64,
}

/// Follows the offset between the two ends' clocks over one flow; round trips are handed in by time.
#[derive(Clone, Debug, Default)]
pub struct ClockOffset {
    window: Option<(Timestamp, Offset)>,
    trips: Vec<RoundTrip>,
    best: Option<Offset>,
    first: Option<Offset>,
    last: Option<Offset>,
    one_way: OneWay,
}

impl ClockOffset {
    /// Takes one round trip.
    pub fn push(&mut self, trip: RoundTrip) {
        let offset = trip.offset();
        match &mut self.window {
            Some((start, best)) if trip.t1.since(*start) < WINDOW => {
                if offset.bound < best.bound {
                    *best = offset;
                }
            }
            Some(_) | None => {
                self.close();
                self.window = Some((trip.t1, offset));
            }
        }
        if self.trips.len() < MAX_WINDOW {
            self.trips.push(trip);
        }
    }

    /// Ends the current window: at the end of the run, or where a clock is another one from here on.
    pub fn close(&mut self) {
        let Some((_, offset)) = self.window.take() else { return };
        for trip in self.trips.drain(..) {
            let up = trip.t2.signed_since(trip.t1) - offset.nanos;
            let down = trip.t4.signed_since(trip.t3) + offset.nanos;
            self.one_way.up.add(u64::try_from(up).unwrap_or(0));
            self.one_way.down.add(u64::try_from(down).unwrap_or(0));
        }
        self.one_way.bound = self.one_way.bound.max(offset.bound);
        if self.best.is_none_or(|best| offset.bound < best.bound) {
            self.best = Some(offset);
        }
        self.first.get_or_insert(offset);
        self.last = Some(offset);
    }

    /// Whether nothing waits for the end of a window.
    pub fn is_closed(&self) -> bool {
        self.window.is_none()
    }

    /// Gives back room that is not used.
    pub fn shrink(&mut self) {
        self.trips.shrink_to_fit();
        self.one_way.up.shrink();
        self.one_way.down.shrink();
    }

    /// A clock is another one from here on.
    pub fn reset(&mut self) {
        self.close();
        (self.first, self.last, self.best) = (None, None, None);
    }

    /// The offset with the narrowest bound, of the windows that are closed.
    pub fn best(&self) -> Option<Offset> {
        self.best
    }

    /// One-way delays of the windows that are closed; none without any.
    pub fn one_way(&self) -> Option<&OneWay> {
        (self.one_way.up.count() > 0).then_some(&self.one_way)
    }

    /// How fast the listener's clock gains on the client's, and how far off that may be, in millionths; none over too
    /// short a time.
    pub fn drift_ppm(&self) -> Option<(f64, f64)> {
        let (first, last) = (self.first?, self.last?);
        let span = last.at.since(first.at);
        (span >= MIN_DRIFT_SPAN).then(|| {
            let per_million = 1e6 / span.as_nanos() as f64;
            ((last.nanos - first.nanos) as f64 * per_million, (first.bound + last.bound) as f64 * per_million)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trip(at: u64, offset: i64, up: u64, stay: u64, down: u64) -> RoundTrip {
        let t1 = Timestamp(1_000_000_000_000 + at);
        let t2 = Timestamp((t1.as_nanos() + up).wrapping_add_signed(offset));
        RoundTrip {
            t1,
            t2,
            t3: Timestamp(t2.as_nanos() + stay),
            t4: Timestamp(t1.as_nanos() + up + stay + down),
        }
    }

    proptest! {
        #[test]
        fn the_truth_is_always_within_the_bound(
            offset in -1_000_000_000i64..1_000_000_000,
            trips in proptest::collection::vec((1u64..50_000_000, 0u64..1_000_000, 1u64..50_000_000), 1..100),
        ) {
            let mut clock = ClockOffset::default();
            for (n, (up, stay, down)) in trips.iter().enumerate() {
                clock.push(trip(n as u64 * 300_000_000, offset, *up, *stay, *down));
            }
            clock.close();
            let best = clock.best().unwrap();
            prop_assert!(best.nanos.abs_diff(offset) <= best.bound);
            let shortest = trips.iter().map(|(up, _, down)| up + down).min().unwrap();
            prop_assert_eq!(best.bound, shortest.div_ceil(2));
            let one_way = clock.one_way().unwrap();
            prop_assert_eq!(one_way.up.count(), trips.len() as u64);
            let longest = trips.iter().map(|t| t.0).max().unwrap();
            prop_assert!(one_way.up.max().unwrap().abs_diff(longest) <= one_way.bound);
        }

        #[test]
        fn drift_is_within_its_bound(ppm in -200i64..200, up in 1u64..1_000_000, down in 1u64..1_000_000) {
            let mut clock = ClockOffset::default();
            for second in 0..100u64 {
                let at = second * 1_000_000_000;
                clock.push(trip(at, at as i64 / 1_000_000 * ppm, up, 0, down));
            }
            clock.close();
            let (drift, bound) = clock.drift_ppm().unwrap();
            prop_assert!((drift - ppm as f64).abs() <= bound, "{} +- {} for {}", drift, bound, ppm);
        }
    }

    #[test]
    fn nothing_measured_is_nothing_said() {
        let clock = ClockOffset::default();
        assert!(clock.best().is_none() && clock.one_way().is_none() && clock.drift_ppm().is_none());
    }
}
