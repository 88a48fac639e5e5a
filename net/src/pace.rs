//! Sleeping until an absolute time, precisely.
//!
//! The kernel ends a sleep some 5 to 60 us late (timer slack, scheduling, leaving a CPU's idle state). [`Precision::Precise`] sleeps
//! until [`SPIN`] before the time and spins for the rest: at a 1 ms interval that costs up to 10 % of one core.
//! [`Precision::Relaxed`] never spins and costs nothing beyond the wake-up.
//!
//! A time that is past already returns at once, and says so: a missed slot is the caller's to record, never to make
//! up for with a burst.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use crate::{clock, sys};

/// How long before the time a precise sleep starts to spin.
pub const SPIN: Duration = Duration::from_micros(if cfg!(target_os = "linux") { 100 } else { 1_500 });

/// How exactly a sleep ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Sleep, then spin up to [`SPIN`]: ends within a few microseconds of the time while the thread has a core.
    Precise,
    /// Sleep alone: ends when the kernel gets round to it.
    #[default]
    Relaxed,
}

/// Sleeps until [`clock::now`] shows `until`, sleep of the machine included, and answers the time it then was.
pub fn sleep_until(until: Timestamp, precision: Precision) -> Timestamp {
    let coarse = match precision {
        Precision::Precise => until - SPIN,
        Precision::Relaxed => until,
    };
    let mut now = clock::now();
    while now < coarse {
        sys::time::sleep_until(coarse.as_nanos());
        now = clock::now();
    }
    while now < until {
        std::hint::spin_loop();
        now = clock::now();
    }
    now
}

/// Prepares the calling thread for pacing: its sleeps are no longer lengthened to save power (Linux
/// `PR_SET_TIMERSLACK` of 1 ns instead of 50 us). Answers whether the platform did it.
pub fn prepare_thread() -> bool {
    sys::time::set_timer_slack(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_never_ends_early_and_a_past_time_returns_at_once() {
        prepare_thread();
        for precision in [Precision::Precise, Precision::Relaxed] {
            for micros in [0, 1, 50, 500, 3_000] {
                let until = clock::now() + Duration::from_micros(micros);
                let woke = sleep_until(until, precision);
                assert!(woke >= until, "{precision:?} ended before its time");
                assert!(clock::now() >= woke);
            }
            let past = clock::now() - Duration::from_secs(1);
            assert!(sleep_until(past, precision) > past);
        }
    }
}
