//! macOS, and the other Unix systems as far as they are alike.
#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use libc::{c_int, c_short, pollfd};

use crate::wait::Interest;

pub(crate) mod time {
    use std::time::Duration;

    use libc::{clockid_t, timespec};

    /// On macOS `CLOCK_MONOTONIC_RAW` goes on while the machine sleeps and `CLOCK_UPTIME_RAW` does not
    /// (clock_gettime(3)). Elsewhere the one monotonic clock stands for both, and a sleep is not seen.
    #[cfg(target_vendor = "apple")]
    const CLOCKS: (clockid_t, clockid_t) = (libc::CLOCK_MONOTONIC_RAW, libc::CLOCK_UPTIME_RAW);
    #[cfg(not(target_vendor = "apple"))]
    const CLOCKS: (clockid_t, clockid_t) = (libc::CLOCK_MONOTONIC, libc::CLOCK_MONOTONIC);

    pub(crate) fn boot_nanos() -> u64 {
        read(CLOCKS.0)
    }

    pub(crate) fn monotonic_nanos() -> u64 {
        read(CLOCKS.1)
    }

    fn read(clock: clockid_t) -> u64 {
        let mut time = timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is a valid timespec to write to for the length of the call. The clocks exist on every
        // supported system; if the call failed, the reading would be zero.
        unsafe { libc::clock_gettime(clock, &mut time) };
        time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
    }

    /// A relative sleep of a second at most: it does not count the machine's sleep, so the caller looks again.
    pub(crate) fn sleep_until(nanos: u64) {
        let left = Duration::from_nanos(nanos.saturating_sub(boot_nanos()));
        std::thread::sleep(left.min(Duration::from_secs(1)));
    }

    pub(crate) fn set_timer_slack(_: u64) -> bool {
        false
    }
}

/// A datagram longer than the buffer is cut without a word (`std` does not show the flag).
pub(super) const CUTS_SILENTLY: bool = true;

pub(super) fn was_too_long(_: &io::Error) -> bool {
    false
}

/// Without `SO_REUSEADDR` a bind is exclusive here.
pub(super) fn claim_exclusively(_: &socket2::Socket) -> io::Result<()> {
    Ok(())
}

#[cfg(target_vendor = "apple")]
pub(super) fn set_dont_fragment(socket: &UdpSocket, v6: bool, on: bool) -> io::Result<()> {
    let (level, name) = match v6 {
        true => (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
        false => (libc::IPPROTO_IP, libc::IP_DONTFRAG),
    };
    let value = c_int::from(on);
    // SAFETY: the descriptor is borrowed and open; the option's value points to one int of the length given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(not(target_vendor = "apple"))]
pub(super) fn set_dont_fragment(_: &UdpSocket, _: bool, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) type RawSource = RawFd;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct PollEntry(pollfd);

impl std::fmt::Debug for PollEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PollEntry({})", self.0.fd)
    }
}

pub(super) fn raw(source: &impl AsFd) -> RawSource {
    source.as_fd().as_raw_fd()
}

pub(super) fn entry(fd: RawSource, interest: Interest) -> PollEntry {
    let read = if interest.readable { libc::POLLIN } else { 0 };
    let write = if interest.writable { libc::POLLOUT } else { 0 };
    PollEntry(pollfd { fd, events: read | write, revents: 0 })
}

pub(super) fn outcome(entry: &PollEntry) -> (bool, bool, bool) {
    let has = |bits: c_short| entry.0.revents & bits != 0;
    (has(libc::POLLIN), has(libc::POLLOUT), has(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL))
}

pub(super) fn poll(entries: &mut [PollEntry], millis: c_int) -> io::Result<()> {
    // SAFETY: `PollEntry` is a transparent wrapper of `pollfd`, and the kernel reads and writes as many of them as
    // the slice has.
    let done = unsafe { libc::poll(entries.as_mut_ptr().cast(), entries.len() as libc::nfds_t, millis) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
