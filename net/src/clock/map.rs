//! Kernel receive timestamps are on the wall clock; this puts them on the clock of everything else.

use std::time::Duration;

use probe_protocol::time::{Timestamp, WallTime};

use super::Sample;

/// A change of the offset between wall clock and boot-time clock up to this is no step.
pub const STEP_TOLERANCE: Duration = Duration::from_millis(1);

/// How long after a step nothing is converted: as long as a datagram may have waited in the socket's queue with
/// a timestamp from before the step.
const SETTLE: Duration = Duration::from_secs(1);

/// Turns kernel wall-clock timestamps into boot-time ones.
///
/// Pair once per batch: hand [`WallMap::update`] a [`super::sample`] taken after the batch was read, then convert
/// the batch's timestamps. Where the wall clock stepped since the pairing before, and for a second after,
/// [`WallMap::boot`] answers `None`: such a stamp may be from either side of the step.
#[derive(Clone, Debug)]
pub struct WallMap {
    offset: i64,
    newest: Timestamp,
    slack: Duration,
    void_until: Timestamp,
    steps: u64,
}

impl WallMap {
    /// A map that starts from one pairing.
    pub fn new(first: &Sample) -> Self {
        Self {
            offset: first.wall_minus_boot(),
            newest: first.boot,
            slack: first.spread,
            void_until: Timestamp::ZERO,
            steps: 0,
        }
    }

    /// Takes the pairing that follows a batch. Answers by how many nanoseconds the wall clock was stepped since
    /// the pairing before, forward positive; zero where it was not.
    pub fn update(&mut self, pairing: &Sample) -> i64 {
        let offset = pairing.wall_minus_boot();
        let moved = offset.wrapping_sub(self.offset);
        let explained = STEP_TOLERANCE + self.slack + pairing.spread;
        // A clock that is slewed moves the offset a little at every batch: that is followed, not reported.
        let stepped = u128::from(moved.unsigned_abs()) > explained.as_nanos();
        if stepped {
            self.void_until = pairing.boot + SETTLE;
            self.steps += 1;
        }
        self.offset = offset;
        self.newest = pairing.boot;
        self.slack = pairing.spread;
        if stepped { moved } else { 0 }
    }

    /// The boot-time instant at which the wall clock showed `wall`, or `None` where a step makes that unknown:
    /// within a second of one, or where the instant would lie after the latest pairing.
    pub fn boot(&self, wall: WallTime) -> Option<Timestamp> {
        let boot = wall.0.wrapping_sub(self.offset);
        let boot = Timestamp::from_nanos(u64::try_from(boot).ok()?);
        let future = boot > self.newest + STEP_TOLERANCE + self.slack;
        (boot >= self.void_until && !future).then_some(boot)
    }

    /// How many steps of the wall clock were seen.
    pub const fn steps(&self) -> u64 {
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn pair(boot_ms: u64, wall_ms: i64) -> Sample {
        let boot = Timestamp::from_nanos(boot_ms * MS);
        Sample { boot, mono: boot, wall: WallTime(wall_ms * MS as i64), spread: Duration::ZERO }
    }

    fn wall(ms: i64) -> WallTime {
        WallTime(ms * MS as i64)
    }

    fn boot(ms: u64) -> Option<Timestamp> {
        Some(Timestamp::from_nanos(ms * MS))
    }

    #[test]
    fn converts_by_the_latest_pairing() {
        let mut map = WallMap::new(&pair(1_000, 501_000));
        assert_eq!(map.update(&pair(2_000, 502_000)), 0);
        assert_eq!(map.boot(wall(501_500)), boot(1_500));
    }

    #[test]
    fn follows_slewing_and_voids_beyond_the_tolerance() {
        let mut map = WallMap::new(&pair(1_000, 1_000));
        assert_eq!(map.update(&pair(2_000, 2_001)), 0, "one millisecond is within the tolerance");
        assert_eq!(map.boot(wall(1_501)), boot(1_500));
        assert_eq!(map.update(&pair(3_000, 3_003)), 2 * MS as i64, "two are not");
        assert_eq!(map.boot(wall(2_503)), None);
        assert_eq!(map.steps(), 1);
    }

    #[test]
    fn after_a_step_nothing_is_converted_for_a_second() {
        let mut map = WallMap::new(&pair(10_000, 110_000));
        assert_eq!(map.update(&pair(10_100, 115_100)), 5_000 * MS as i64);
        assert_eq!(map.boot(wall(115_090)), None);
        assert_eq!(map.update(&pair(11_099, 116_099)), 0);
        assert_eq!(map.boot(wall(116_099)), None, "still inside the second");
        assert_eq!(map.update(&pair(11_200, 116_200)), 0);
        assert_eq!(map.boot(wall(116_100)), boot(11_100), "the second is over");
    }

    #[test]
    fn a_stamp_from_after_the_latest_pairing_is_not_believed() {
        // The clock was set back by 5 s and the batch read before the step could be seen by a pairing.
        let map = WallMap::new(&pair(10_000, 105_000));
        assert_eq!(map.boot(wall(110_000)), None);
        assert_eq!(map.boot(wall(105_000)), boot(10_000));
    }

    #[test]
    fn a_stamp_from_before_the_boot_is_not_believed() {
        let map = WallMap::new(&pair(10_000, 105_000));
        assert_eq!(map.boot(wall(94_000)), None);
    }

    #[test]
    fn a_slow_pairing_is_no_step() {
        let mut map = WallMap::new(&pair(1_000, 1_000));
        let slow = Sample { spread: Duration::from_millis(8), ..pair(2_000, 2_006) };
        assert_eq!(map.update(&slow), 0);
    }
}
