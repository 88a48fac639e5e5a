//! Clocks, absolute sleep and timer slack.
#![allow(unsafe_code)]

use libc::{CLOCK_BOOTTIME, CLOCK_MONOTONIC, c_int, clockid_t, timespec};

#[inline]
pub(crate) fn boot_nanos() -> u64 {
    read(CLOCK_BOOTTIME)
}

#[inline]
pub(crate) fn monotonic_nanos() -> u64 {
    read(CLOCK_MONOTONIC)
}

#[inline]
fn read(clock: clockid_t) -> u64 {
    let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec to write to for the length of the call. Both clocks exist on every
    // kernel since 2.6.39, so the call cannot fail; if it did, the reading would be zero.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Sleeps until the boot-time clock shows `nanos`, or a signal comes; the caller looks at the clock again.
pub(crate) fn sleep_until(nanos: u64) {
    let until = timespec_of(nanos);
    // SAFETY: `until` is a valid timespec for the length of the call; with TIMER_ABSTIME the remainder is unused.
    unsafe { libc::clock_nanosleep(CLOCK_BOOTTIME, libc::TIMER_ABSTIME, &until, std::ptr::null_mut()) };
}

/// Asks the kernel to end this thread's sleeps within `nanos` of the asked time; the default is 50 us.
pub(crate) fn set_timer_slack(nanos: u64) -> bool {
    // SAFETY: PR_SET_TIMERSLACK takes one unsigned long and touches no memory of ours.
    let done: c_int = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, nanos as libc::c_ulong) };
    done == 0
}

pub(super) fn timespec_of(nanos: u64) -> timespec {
    timespec {
        tv_sec: (nanos / 1_000_000_000) as libc::time_t,
        tv_nsec: (nanos % 1_000_000_000) as libc::c_long,
    }
}
