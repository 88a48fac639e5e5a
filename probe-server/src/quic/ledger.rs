//! The ledger of a UDP socket under QUIC: which datagrams arrived and left, per connection.
//!
//! QUIC's own statistics never say what was lost on the path: it sends lost content again in other packets. So
//! datagrams are counted here, each known by a hash of its end, as they are on the wire.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use probe_net::quic::{Arrival, Tap};
use probe_protocol::control::datagram_hash;
use probe_protocol::time::Timestamp;

use crate::core::book::DatagramLedger;

/// Datagrams remembered of addresses that no connection has yet: handshakes, and connections that just moved.
const MAX_EARLY: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct SocketLedger {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_address: HashMap<SocketAddr, Arc<Mutex<DatagramLedger>>>,
    early: VecDeque<Early>,
}

#[derive(Clone, Copy, Debug)]
struct Early {
    address: SocketAddr,
    received: bool,
    hash: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SocketLedger {
    fn note(&self, address: SocketAddr, received: bool, datagram: &[u8]) {
        let hash = datagram_hash(datagram);
        let mut inner = lock(&self.inner);
        if let Some(ledger) = inner.by_address.get(&address) {
            lock(ledger).note(received, hash);
            return;
        }
        if inner.early.len() == MAX_EARLY {
            inner.early.pop_front();
        }
        inner.early.push_back(Early { address, received, hash });
    }

    /// A connection's ledger from now on, with what was remembered of its address. It ends with the claim.
    pub(crate) fn claim(self: &Arc<Self>, address: SocketAddr) -> Claim {
        let ledger = Arc::new(Mutex::new(DatagramLedger::default()));
        lock(&self.inner).take_over(address, &ledger);
        Claim { socket: Arc::clone(self), ledger, address: Mutex::new(address) }
    }
}

impl Inner {
    fn take_over(&mut self, address: SocketAddr, ledger: &Arc<Mutex<DatagramLedger>>) {
        self.early.retain(|early| {
            if early.address == address {
                lock(ledger).note(early.received, early.hash);
            }
            early.address != address
        });
        self.by_address.insert(address, Arc::clone(ledger));
    }

    fn let_go(&mut self, address: SocketAddr, ledger: &Arc<Mutex<DatagramLedger>>) {
        // Another connection may have taken the address over.
        if self.by_address.get(&address).is_some_and(|held| Arc::ptr_eq(held, ledger)) {
            self.by_address.remove(&address);
        }
    }
}

impl Tap for SocketLedger {
    fn sent(&self, to: SocketAddr, datagram: &[u8], _: Timestamp) {
        self.note(to, false, datagram);
    }

    fn received(&self, arrival: &Arrival<'_>) {
        self.note(arrival.from, true, arrival.bytes);
    }

    fn turned_away(&self, arrival: &Arrival<'_>) {
        // It crossed the path and reached the listener: lost here, not there.
        self.note(arrival.from, true, arrival.bytes);
    }
}

/// A connection's part of the ledger.
#[derive(Debug)]
pub(crate) struct Claim {
    socket: Arc<SocketLedger>,
    ledger: Arc<Mutex<DatagramLedger>>,
    address: Mutex<SocketAddr>,
}

impl Claim {
    pub(crate) fn ledger(&self) -> Arc<Mutex<DatagramLedger>> {
        Arc::clone(&self.ledger)
    }

    /// The connection comes from another address now. True where that is new.
    pub(crate) fn follow(&self, address: SocketAddr) -> bool {
        let mut held = lock(&self.address);
        if *held == address {
            return false;
        }
        let mut inner = lock(&self.socket.inner);
        inner.let_go(*held, &self.ledger);
        inner.take_over(address, &self.ledger);
        *held = address;
        true
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let address = *lock(&self.address);
        lock(&self.socket.inner).let_go(address, &self.ledger);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn what_came_before_the_connection_and_after_it_moved_is_its_own() {
        let socket = Arc::new(SocketLedger::default());
        let hashes = |claim: &Claim, received| lock(&claim.ledger()).page(received, 0, 100).hashes;
        let hash = |text: &[u8]| datagram_hash(text);
        socket.note(address(1), true, b"initial");
        socket.note(address(2), true, b"somebody else's");
        socket.sent(address(1), b"retry", Timestamp::ZERO);
        let claim = socket.claim(address(1));
        socket.note(address(1), true, b"next");
        socket.note(address(3), true, b"moved");
        assert!(claim.follow(address(3)) && !claim.follow(address(3)));
        socket.note(address(3), true, b"last");
        socket.note(address(1), true, b"a stranger's now");
        assert_eq!(hashes(&claim, true), [hash(b"initial"), hash(b"next"), hash(b"moved"), hash(b"last")]);
        assert_eq!(hashes(&claim, false), [hash(b"retry")]);
        drop(claim);
        assert!(lock(&socket.inner).by_address.is_empty());
    }

    #[test]
    fn what_belongs_to_no_connection_is_bounded() {
        let socket = SocketLedger::default();
        for n in 0..MAX_EARLY + 10 {
            socket.note(address(n as u16), true, b"x");
        }
        assert_eq!(lock(&socket.inner).early.len(), MAX_EARLY);
    }
}
