//! Waiting for many sockets, a waker and a deadline at once.
//!
//! On Linux this is epoll with deadlines to the nanosecond (ended some 50 us late, as every sleep is); elsewhere
//! `poll`, with deadlines rounded up to the next millisecond. A sender that needs better waits here until
//! [`crate::pace::SPIN`] before its time and for the rest in [`crate::pace::sleep_until`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use probe_protocol::time::Timestamp;

use crate::{AsRawSource, clock, sys};

/// The longest single wait inside the kernel. Its time-outs do not count sleep, so a machine that wakes up after a
/// night looks at the clock at most this much later.
const SLICE: Duration = Duration::from_secs(1);

/// The token that callers must not use; it is the waker's.
pub const RESERVED_TOKEN: u64 = u64::MAX;

/// What to wait for on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interest {
    /// Datagrams or bytes have arrived, or a connection waits to be accepted.
    pub readable: bool,
    /// The send buffer has room.
    pub writable: bool,
}

impl Interest {
    /// Reading alone.
    pub const READ: Self = Self { readable: true, writable: false };
    /// Reading and writing.
    pub const BOTH: Self = Self { readable: true, writable: true };
    /// Errors alone, which are always reported.
    pub const NONE: Self = Self { readable: false, writable: false };
}

/// A socket that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The token it was added with.
    pub token: u64,
    /// It can be read.
    pub readable: bool,
    /// It can be written.
    pub writable: bool,
    /// An error or a report waits on it. Take it with [`crate::udp::UdpSocket::take_report`] until there is none, and
    /// read the socket: what is left makes the next wait end at once.
    pub failed: bool,
}

/// What ended a wait. Made once and used again.
#[derive(Debug, Default)]
pub struct Ready {
    events: Vec<Event>,
    woken: bool,
    reached: bool,
}

impl Ready {
    /// Room for what one wait reports.
    pub fn new() -> Self {
        Self { events: Vec::with_capacity(64), woken: false, reached: false }
    }

    /// The sockets that are ready; at most 64 at once, the others are reported by the next wait.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether a [`Waker`] was used.
    pub const fn woken(&self) -> bool {
        self.woken
    }

    /// Whether the deadline has been reached. It can be so beside events.
    pub const fn deadline_reached(&self) -> bool {
        self.reached
    }

    pub(crate) fn note(&mut self, token: u64, readable: bool, writable: bool, failed: bool) {
        self.events.push(Event { token, readable, writable, failed });
    }

    pub(crate) fn note_woken(&mut self) {
        self.woken = true;
    }

    fn is_empty(&self) -> bool {
        self.events.is_empty() && !self.woken
    }
}

/// Ends the wait of a [`Poller`] from any thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<sys::poll::Waker>);

impl Waker {
    /// Ends the current wait or, where there is none, the next. Several calls may end one wait.
    pub fn wake(&self) {
        self.0.wake();
    }
}

/// Waits for sockets, a waker and a deadline. A socket stays ready until it is read empty (level-triggered).
///
/// Sockets are added by reference and are not kept open by the poller: remove a socket before dropping it.
#[derive(Debug)]
pub struct Poller(sys::poll::Poller);

impl Poller {
    /// An empty poller.
    ///
    /// # Errors
    /// Those of the system: no descriptors left.
    pub fn new() -> io::Result<Self> {
        sys::poll::Poller::new().map(Self)
    }

    /// What ends this poller's waits from elsewhere.
    pub fn waker(&self) -> Waker {
        Waker(self.0.waker())
    }

    /// Adds a socket. `token` comes back in its events.
    ///
    /// # Errors
    /// Those of the system; `InvalidInput` for [`RESERVED_TOKEN`].
    pub fn add(&self, source: &impl AsRawSource, token: u64, interest: Interest) -> io::Result<()> {
        if token == RESERVED_TOKEN {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this token is the waker's"));
        }
        self.0.add(source, token, interest)
    }

    /// Changes what is waited for on a socket.
    ///
    /// # Errors
    /// Those of the system: the socket was not added; `InvalidInput` for [`RESERVED_TOKEN`].
    pub fn modify(&self, source: &impl AsRawSource, token: u64, interest: Interest) -> io::Result<()> {
        if token == RESERVED_TOKEN {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "this token is the waker's"));
        }
        self.0.modify(source, token, interest)
    }

    /// Removes a socket.
    ///
    /// # Errors
    /// Those of the system: the socket was not added.
    pub fn remove(&self, source: &impl AsRawSource) -> io::Result<()> {
        self.0.remove(source)
    }

    /// Waits until a socket is ready, the waker is used, or the clock shows `deadline`
    /// ([`Timestamp::NEVER`]: no deadline). What ended it is in `ready`, whose old content is forgotten.
    ///
    /// # Errors
    /// Those of the system. A signal is none: the wait goes on.
    pub fn wait(&self, ready: &mut Ready, deadline: Timestamp) -> io::Result<()> {
        ready.events.clear();
        ready.woken = false;
        ready.reached = false;
        loop {
            let left = if deadline == Timestamp::NEVER { None } else { Some(deadline.since(clock::now())) };
            self.0.wait(ready, left.map(|left| left.min(SLICE)))?;
            ready.reached = deadline != Timestamp::NEVER && clock::now() >= deadline;
            if ready.reached || !ready.is_empty() {
                return Ok(());
            }
        }
    }
}
