//! Waiting with epoll, to the nanosecond.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use libc::{c_int, epoll_event};

use super::time::timespec_of;
use crate::wait::{Interest, Ready};

/// Events taken from the kernel with one call; what is ready beyond them is reported by the next.
const EVENTS: usize = 64;
/// The waker's own token.
const WAKER: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    waker: Arc<Waker>,
    /// Whether the kernel has `epoll_pwait2` (5.11, and not forbidden by a sandbox); found out by trying.
    precise: AtomicBool,
}

#[derive(Debug)]
pub(crate) struct Waker(OwnedFd);

impl Waker {
    pub(crate) fn wake(&self) {
        let one = 1_u64;
        // SAFETY: the descriptor is open, `one` is readable for eight bytes. A full counter (EAGAIN) means that a
        // wake-up is pending already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    fn drain(&self) {
        let mut count = 0_u64;
        // SAFETY: the descriptor is open and non-blocking, `count` is writable for eight bytes.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed; the result is checked before it is owned.
        let epoll = owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: likewise.
        let waker = owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let poller = Self { epoll, waker: Arc::new(Waker(waker)), precise: AtomicBool::new(true) };
        poller.control(libc::EPOLL_CTL_ADD, &poller.waker.0, WAKER, libc::EPOLLIN as u32)?;
        Ok(poller)
    }

    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    pub(crate) fn add(&self, source: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, source, token, mask(interest))
    }

    pub(crate) fn modify(&self, source: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, source, token, mask(interest))
    }

    pub(crate) fn remove(&self, source: &impl AsFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, source, 0, 0)
    }

    /// Waits for `timeout` at most (`None`: without end) and adds what is ready to `ready`.
    pub(crate) fn wait(&self, ready: &mut Ready, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = [epoll_event { events: 0, u64: 0 }; EVENTS];
        let count = match self.wait_raw(&mut events, timeout) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in &events[..count.min(EVENTS)] {
            let (token, bits) = (event.u64, event.events as c_int);
            if token == WAKER {
                self.waker.drain();
                ready.note_woken();
            } else {
                let failed = bits & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
                ready.note(token, bits & libc::EPOLLIN != 0, bits & libc::EPOLLOUT != 0, failed);
            }
        }
        Ok(())
    }

    fn wait_raw(&self, events: &mut [epoll_event; EVENTS], timeout: Option<Duration>) -> io::Result<usize> {
        let time = timeout.map(|timeout| timespec_of(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)));
        let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
        let epoll = self.epoll.as_raw_fd();
        if self.precise.load(Ordering::Relaxed) {
            // The system call itself: older C libraries have no wrapper. It takes the kernel's 64-bit timespec,
            // which is what `timespec` is on 64-bit platforms; on others `precise` ends at the first try or never
            // starts, see below.
            // SAFETY: `events` is writable for the number given, `time` is null or points to a live timespec, and
            // no signal mask is passed.
            let count = unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    epoll,
                    events.as_mut_ptr(),
                    EVENTS as c_int,
                    time,
                    ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            };
            if let Ok(count) = usize::try_from(count) {
                return Ok(count);
            }
            let error = io::Error::last_os_error();
            if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) {
                return Err(error);
            }
            self.precise.store(false, Ordering::Relaxed);
        }
        // An epoll descriptor can itself be polled, and `ppoll` counts in nanoseconds on every kernel.
        let mut poll = libc::pollfd { fd: epoll, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live pollfd, `time` as above, no signal mask.
        checked(unsafe { libc::ppoll(&mut poll, 1, time, ptr::null()) })?;
        // SAFETY: `events` is writable for the number given.
        checked(unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), EVENTS as c_int, 0) })
    }

    fn control(&self, what: c_int, source: &impl AsFd, token: u64, events: u32) -> io::Result<()> {
        let mut event = epoll_event { events, u64: token };
        // SAFETY: both descriptors are open, `event` is a valid structure that the kernel copies.
        checked(unsafe {
            libc::epoll_ctl(self.epoll.as_raw_fd(), what, source.as_fd().as_raw_fd(), &mut event)
        })?;
        Ok(())
    }
}

fn mask(interest: Interest) -> u32 {
    let read = if interest.readable { libc::EPOLLIN } else { 0 };
    let write = if interest.writable { libc::EPOLLOUT } else { 0 };
    (read | write) as u32
}

fn checked(result: c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    checked(fd)?;
    // SAFETY: the call that made it succeeded, so this is a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
