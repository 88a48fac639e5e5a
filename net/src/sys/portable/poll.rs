//! Waiting with `poll`, to the millisecond. The waker is a UDP socket that sends to itself, the one thing every
//! platform's `poll` can wait for.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::AsRawSource;
use crate::sys::platform::{self, PollEntry, RawSource};
use crate::wait::{Interest, Ready};

#[derive(Debug)]
pub(crate) struct Poller {
    waker: Arc<Waker>,
    sources: Mutex<Sources>,
}

#[derive(Debug, Default)]
struct Sources {
    list: Vec<(RawSource, u64, Interest)>,
    /// What is handed to the system: the waker, then the list, in its order.
    entries: Vec<PollEntry>,
}

#[derive(Debug)]
pub(crate) struct Waker(UdpSocket);

impl Waker {
    fn new() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        // Connected to itself, it receives from nobody else.
        socket.connect(socket.local_addr()?)?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    pub(crate) fn wake(&self) {
        // A full buffer means that a wake-up is pending already.
        let _ = self.0.send(&[1]);
    }

    fn drain(&self) {
        while self.0.recv(&mut [0; 1]).is_ok() {}
    }
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { waker: Arc::new(Waker::new()?), sources: Mutex::default() })
    }

    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    pub(crate) fn add(&self, source: &impl AsRawSource, token: u64, interest: Interest) -> io::Result<()> {
        let raw = platform::raw(source);
        let mut sources = self.lock();
        if sources.list.iter().any(|(known, ..)| *known == raw) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        sources.list.push((raw, token, interest));
        Ok(())
    }

    pub(crate) fn modify(&self, source: &impl AsRawSource, token: u64, interest: Interest) -> io::Result<()> {
        let raw = platform::raw(source);
        let mut sources = self.lock();
        let entry = sources.list.iter_mut().find(|(known, ..)| *known == raw);
        *entry.ok_or(io::ErrorKind::NotFound)? = (raw, token, interest);
        Ok(())
    }

    pub(crate) fn remove(&self, source: &impl AsRawSource) -> io::Result<()> {
        let raw = platform::raw(source);
        let mut sources = self.lock();
        let at = sources.list.iter().position(|(known, ..)| *known == raw).ok_or(io::ErrorKind::NotFound)?;
        sources.list.swap_remove(at);
        Ok(())
    }

    pub(crate) fn wait(&self, ready: &mut Ready, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: rather late than spinning through the last millisecond. -1 waits without end.
        let millis = timeout
            .map_or(-1, |timeout| i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX));
        // Taken out of the lock for the wait, so that other threads can add and remove meanwhile; they wake us where
        // that matters to them.
        let (mut entries, tokens) = {
            let mut sources = self.lock();
            let mut entries = std::mem::take(&mut sources.entries);
            entries.clear();
            entries.push(platform::entry(platform::raw(&self.waker.0), Interest::READ));
            entries.extend(sources.list.iter().map(|&(raw, _, interest)| platform::entry(raw, interest)));
            (entries, sources.list.iter().map(|&(_, token, _)| token).collect::<Vec<_>>())
        };
        let result = platform::poll(&mut entries, millis);
        if result.is_ok() {
            let (waker, others) = entries.split_at(1);
            if platform::outcome(&waker[0]).0 {
                self.waker.drain();
                ready.note_woken();
            }
            for (entry, token) in others.iter().zip(tokens) {
                let (readable, writable, failed) = platform::outcome(entry);
                if readable || writable || failed {
                    ready.note(token, readable, writable, failed);
                }
            }
        }
        self.lock().entries = entries;
        match result {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
