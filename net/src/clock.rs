//! The host's three clocks, and what their differences tell.
//!
//! * [`now`] never steps and counts the time the machine sleeps: every deadline and every duration uses it.
//! * [`monotonic`] never steps and does not count sleep: its gap to [`now`] is how a sleep is seen.
//! * [`wall`] is what people and NTP set: kernel receive timestamps are on it, see [`WallMap`].
//!
//! | | Linux | macOS | Windows |
//! | --- | --- | --- | --- |
//! | [`now`] | `CLOCK_BOOTTIME` | `CLOCK_MONOTONIC_RAW` | `QueryInterruptTimePrecise` |
//! | [`monotonic`] | `CLOCK_MONOTONIC` | `CLOCK_UPTIME_RAW` | `QueryUnbiasedInterruptTimePrecise` |

mod map;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use probe_protocol::time::{Timestamp, WallTime};

use crate::sys;

pub use map::{STEP_TOLERANCE, WallMap};

/// The time on the clock that counts sleep and never steps.
#[inline]
pub fn now() -> Timestamp {
    Timestamp::from_nanos(sys::time::boot_nanos())
}

/// The time on the clock that stands still while the machine sleeps. Its zero differs from that of [`now`].
#[inline]
pub fn monotonic() -> Timestamp {
    Timestamp::from_nanos(sys::time::monotonic_nanos())
}

/// The wall-clock time, which may step at any moment.
#[inline]
#[expect(clippy::disallowed_methods, reason = "this is the driver that reads the clock")]
pub fn wall() -> WallTime {
    WallTime(match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    })
}

/// The three clocks read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// [`now`], at the middle of the reading.
    pub boot: Timestamp,
    /// [`monotonic`].
    pub mono: Timestamp,
    /// [`wall`].
    pub wall: WallTime,
    /// How long the reading took: the readings belong together to within half of it.
    pub spread: Duration,
}

impl Sample {
    /// The wall clock minus the boot-time clock, in nanoseconds.
    pub const fn wall_minus_boot(&self) -> i64 {
        self.wall.0.wrapping_sub(self.boot.as_nanos() as i64)
    }
}

/// Reads the three clocks together. Where the thread was interrupted in between, it reads again (three times at
/// most) and keeps the tightest reading.
pub fn sample() -> Sample {
    const TIGHT: Duration = Duration::from_micros(3);
    let mut best = sample_once();
    for _ in 0..2 {
        if best.spread <= TIGHT {
            break;
        }
        let again = sample_once();
        if again.spread < best.spread {
            best = again;
        }
    }
    best
}

fn sample_once() -> Sample {
    let before = now();
    let mono = monotonic();
    let wall = wall();
    let spread = now().since(before);
    Sample { boot: before + spread / 2, mono, wall, spread }
}

/// What happened to the clocks between two samples of one host and boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Time that went by, sleep included.
    pub elapsed: Duration,
    /// Of it, the time the machine slept; zero where it is within the error of the reading.
    pub slept: Duration,
    /// How far the wall clock was set in between, forward positive; zero where it is within what slewing
    /// (NTP may slew by 500 ppm) and the error of the reading explain.
    pub wall_step_ns: i64,
}

/// Compares two samples, `later` taken after `earlier`.
///
/// A sleep below a millisecond and a wall-clock step below [`STEP_TOLERANCE`] are not told from noise.
pub fn between(earlier: &Sample, later: &Sample) -> Passed {
    /// NTP's largest slew rate, RFC 5905 section 12 (kernel discipline), in parts per million.
    const SLEW_PPM: u64 = 500;
    let elapsed = later.boot.since(earlier.boot);
    let noise = earlier.spread + later.spread;
    let slept = elapsed.saturating_sub(later.mono.since(earlier.mono));
    let slept = if slept > Duration::from_millis(1) + noise { slept } else { Duration::ZERO };
    let step = later.wall_minus_boot().wrapping_sub(earlier.wall_minus_boot());
    let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
    let explained =
        STEP_TOLERANCE + noise + Duration::from_nanos((nanos / 1_000_000).saturating_mul(SLEW_PPM));
    let wall_step_ns = if u128::from(step.unsigned_abs()) > explained.as_nanos() { step } else { 0 };
    Passed { elapsed, slept, wall_step_ns }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ms: u64, mono_ms: u64, wall_ms: i64) -> Sample {
        Sample {
            boot: Timestamp::from_nanos(boot_ms * 1_000_000),
            mono: Timestamp::from_nanos(mono_ms * 1_000_000),
            wall: WallTime(wall_ms * 1_000_000),
            spread: Duration::ZERO,
        }
    }

    #[test]
    fn an_undisturbed_second_shows_neither_sleep_nor_step() {
        let passed = between(&at(1_000, 900, 50_000), &at(2_000, 1_900, 51_000));
        assert_eq!(
            passed,
            Passed { elapsed: Duration::from_secs(1), slept: Duration::ZERO, wall_step_ns: 0 }
        );
    }

    #[test]
    fn a_sleep_is_the_gap_between_boot_and_monotonic_and_no_step() {
        let passed = between(&at(0, 0, 50_000), &at(3_600_000, 1_000, 3_650_000));
        assert_eq!(passed.slept, Duration::from_secs(3_599));
        assert_eq!(passed.wall_step_ns, 0);
        // Its twin: a gap within the error of the reading.
        assert_eq!(between(&at(0, 0, 0), &at(1_000, 999, 1_000)).slept, Duration::ZERO);
    }

    #[test]
    fn a_set_clock_is_a_step_with_its_sign_and_slewing_is_none() {
        assert_eq!(between(&at(0, 0, 10_000), &at(1_000, 1_000, 13_000)).wall_step_ns, 2_000_000_000);
        assert_eq!(between(&at(0, 0, 10_000), &at(1_000, 1_000, 9_000)).wall_step_ns, -2_000_000_000);
        // 100 s of slewing at 400 ppm move the offset by 40 ms; a step of 60 ms in that time is still seen.
        assert_eq!(between(&at(0, 0, 0), &at(100_000, 100_000, 100_040)).wall_step_ns, 0);
        assert_eq!(between(&at(0, 0, 0), &at(100_000, 100_000, 100_060)).wall_step_ns, 60_000_000);
    }

    #[test]
    fn a_slow_reading_widens_what_counts_as_noise() {
        let mut slow = at(1_000, 1_000, 1_005);
        assert_eq!(between(&at(0, 0, 0), &slow).wall_step_ns, 5_000_000);
        slow.spread = Duration::from_millis(10);
        assert_eq!(between(&at(0, 0, 0), &slow).wall_step_ns, 0);
    }

    #[test]
    fn the_clocks_of_this_host_run_forward_and_agree() {
        let first = sample();
        let second = sample();
        assert!(second.boot >= first.boot && second.mono >= first.mono);
        assert!(first.boot >= first.mono || cfg!(not(target_os = "linux")), "boot time counts sleep on top");
        assert!(first.wall.as_secs() > 1_500_000_000, "the wall clock counts from 1970");
        assert_eq!(between(&first, &second).slept, Duration::ZERO);
    }
}
