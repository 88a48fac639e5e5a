//! Windows.
#![allow(unsafe_code)]

use std::io;
use std::net::UdpSocket;
use std::os::windows::io::{AsRawSocket, AsSocket};

use windows_sys::Win32::Networking::WinSock::{
    IP_DONTFRAGMENT, IPPROTO_IP, IPPROTO_IPV6, IPV6_DONTFRAG, POLLERR, POLLHUP, POLLNVAL, POLLRDNORM,
    POLLWRNORM, SO_EXCLUSIVEADDRUSE, SOCKET, SOL_SOCKET, WSAEMSGSIZE, WSAPOLLFD, WSAPoll, setsockopt,
};

use crate::wait::Interest;

pub(crate) mod power {
    use windows_sys::Win32::System::Power::{ES_CONTINUOUS, ES_SYSTEM_REQUIRED, SetThreadExecutionState};

    pub(crate) fn stay_awake(on: bool) -> bool {
        let state = if on { ES_CONTINUOUS | ES_SYSTEM_REQUIRED } else { ES_CONTINUOUS };
        // SAFETY: the call takes flags and touches no memory of ours.
        unsafe { SetThreadExecutionState(state) != 0 }
    }
}

pub(crate) mod time {
    use std::time::Duration;

    use windows_sys::Win32::System::WindowsProgramming::{
        QueryInterruptTimePrecise, QueryUnbiasedInterruptTimePrecise,
    };

    /// The interrupt time counts in 100 ns.
    const UNIT: u64 = 100;

    pub(crate) fn boot_nanos() -> u64 {
        let mut time = 0;
        // SAFETY: `time` is writable for the length of the call, which cannot fail.
        unsafe { QueryInterruptTimePrecise(&mut time) };
        time.saturating_mul(UNIT)
    }

    pub(crate) fn monotonic_nanos() -> u64 {
        let mut time = 0;
        // SAFETY: `time` is writable for the length of the call, which cannot fail.
        unsafe { QueryUnbiasedInterruptTimePrecise(&mut time) };
        time.saturating_mul(UNIT)
    }

    /// A relative sleep of a second at most: the caller looks at the clock again. (`std` uses a high-resolution
    /// timer where the system has one.)
    pub(crate) fn sleep_until(nanos: u64) {
        let left = Duration::from_nanos(nanos.saturating_sub(boot_nanos()));
        std::thread::sleep(left.min(Duration::from_secs(1)));
    }

    pub(crate) fn set_timer_slack(_: u64) -> bool {
        false
    }
}

/// A datagram longer than the buffer is an error.
pub(super) const CUTS_SILENTLY: bool = false;

pub(super) fn was_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(WSAEMSGSIZE)
}

/// Without this another program may bind the same port and take its traffic.
pub(super) fn claim_exclusively(socket: &socket2::Socket) -> io::Result<()> {
    set(socket.as_raw_socket() as SOCKET, SOL_SOCKET, SO_EXCLUSIVEADDRUSE, 1)
}

pub(super) fn set_dont_fragment(socket: &UdpSocket, v6: bool, on: bool) -> io::Result<()> {
    let (level, name) = if v6 { (IPPROTO_IPV6, IPV6_DONTFRAG) } else { (IPPROTO_IP, IP_DONTFRAGMENT) };
    set(socket.as_raw_socket() as SOCKET, level, name, i32::from(on))
}

fn set(socket: SOCKET, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the socket is borrowed and open; the option's value points to one int of the length given.
    let done = unsafe { setsockopt(socket, level, name, (&raw const value).cast(), size_of::<i32>() as i32) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) type RawSource = SOCKET;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct PollEntry(WSAPOLLFD);

impl std::fmt::Debug for PollEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PollEntry({})", self.0.fd)
    }
}

pub(super) fn raw(source: &impl AsSocket) -> RawSource {
    source.as_socket().as_raw_socket() as SOCKET
}

pub(super) fn entry(fd: RawSource, interest: Interest) -> PollEntry {
    let read = if interest.readable { POLLRDNORM } else { 0 };
    let write = if interest.writable { POLLWRNORM } else { 0 };
    PollEntry(WSAPOLLFD { fd, events: read | write, revents: 0 })
}

pub(super) fn outcome(entry: &PollEntry) -> (bool, bool, bool) {
    let has = |bits: i16| entry.0.revents & bits != 0;
    (has(POLLRDNORM), has(POLLWRNORM), has(POLLERR | POLLHUP | POLLNVAL))
}

pub(super) fn poll(entries: &mut [PollEntry], millis: i32) -> io::Result<()> {
    // SAFETY: `PollEntry` is a transparent wrapper of `WSAPOLLFD`, and the system reads and writes as many of them
    // as the slice has.
    let done = unsafe { WSAPoll(entries.as_mut_ptr().cast(), entries.len() as u32, millis) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
