//! QUIC on a socket that another thread owns.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use probe_protocol::time::{Timestamp, WallTime};
use thiserror::Error;

use super::{Arrival, Datagrams, Tap};
use crate::udp::{Fault, Outgoing, UdpSocket};

/// How long to wait after the send buffer was full. The socket belongs to another thread's poller; registering it
/// with tokio too would wake tokio for every datagram of that thread.
const RETRY: Duration = Duration::from_millis(1);

/// Why a datagram was not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// The ring is full: QUIC is not read as fast as it arrives.
    #[error("the QUIC ring is full")]
    Full,
    /// Longer than a place in the ring.
    #[error("the datagram is longer than the QUIC ring takes")]
    TooLong,
}

/// What became of the datagrams pushed into a ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FedCounts {
    /// Taken over.
    pub taken: u64,
    /// Turned away because the ring was full.
    pub full: u64,
    /// Turned away because of their length.
    pub too_long: u64,
}

/// A [`Datagrams`] whose arrivals are pushed by the thread that owns the UDP socket, through a [`Feed`]; what is sent
/// goes straight to the socket.
#[derive(Debug)]
pub struct Fed {
    socket: Arc<UdpSocket>,
    ring: Mutex<Ring>,
    full: AtomicU64,
    too_long: AtomicU64,
    taken: AtomicU64,
}

/// The end of the ring into which datagrams are pushed. Nothing is allocated per datagram; the lock is held for one
/// copy at a time.
#[derive(Clone, Debug)]
pub struct Feed {
    fed: Arc<Fed>,
    tap: Arc<dyn Tap>,
}

#[derive(Debug)]
struct Ring {
    bytes: Box<[u8]>,
    slot_len: usize,
    slots: Box<[Slot]>,
    first: usize,
    len: usize,
    reader: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    len: usize,
    from: SocketAddr,
    local: Option<IpAddr>,
    at: Timestamp,
    kernel: Option<WallTime>,
    ttl: Option<u8>,
    tos: Option<u8>,
}

impl Fed {
    /// A ring of `slots` datagrams (at least one) of at most `slot_len` bytes each, on a socket shared with the
    /// thread that reads it. `tap` is told of what is turned away; it is the one the [`super::QuicSocket`] above has.
    pub fn new(
        socket: Arc<UdpSocket>,
        slots: usize,
        slot_len: usize,
        tap: Arc<dyn Tap>,
    ) -> (Feed, Arc<Self>) {
        let slots = slots.max(1);
        let empty = Slot {
            len: 0,
            from: SocketAddr::from(([0, 0, 0, 0], 0)),
            local: None,
            at: Timestamp::ZERO,
            kernel: None,
            ttl: None,
            tos: None,
        };
        let ring = Ring {
            bytes: vec![0; slots * slot_len].into_boxed_slice(),
            slot_len,
            slots: vec![empty; slots].into_boxed_slice(),
            first: 0,
            len: 0,
            reader: None,
        };
        let zero = || AtomicU64::new(0);
        let fed =
            Arc::new(Self { socket, ring: Mutex::new(ring), full: zero(), too_long: zero(), taken: zero() });
        (Feed { fed: Arc::clone(&fed), tap }, fed)
    }

    /// What became of the datagrams pushed so far.
    pub fn counts(&self) -> FedCounts {
        FedCounts {
            taken: self.taken.load(Ordering::Relaxed),
            full: self.full.load(Ordering::Relaxed),
            too_long: self.too_long.load(Ordering::Relaxed),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// Hands a datagram over to quinn.
    ///
    /// # Errors
    /// Why it was turned away. It is counted, and the tap is told.
    pub fn push(&self, arrival: &Arrival<'_>) -> Result<(), Refused> {
        let pushed = self.fed.ring().push(arrival);
        match pushed {
            Ok(reader) => {
                self.fed.taken.fetch_add(1, Ordering::Relaxed);
                if let Some(reader) = reader {
                    reader.wake();
                }
                Ok(())
            }
            Err(refused) => {
                let count = match refused {
                    Refused::Full => &self.fed.full,
                    Refused::TooLong => &self.fed.too_long,
                };
                count.fetch_add(1, Ordering::Relaxed);
                self.tap.turned_away(arrival);
                Err(refused)
            }
        }
    }
}

impl Ring {
    /// Answers the task to wake, where one waits.
    fn push(&mut self, arrival: &Arrival<'_>) -> Result<Option<Waker>, Refused> {
        if arrival.bytes.len() > self.slot_len {
            return Err(Refused::TooLong);
        }
        if self.len == self.slots.len() {
            return Err(Refused::Full);
        }
        let at = (self.first + self.len) % self.slots.len();
        let start = at * self.slot_len;
        self.bytes[start..start + arrival.bytes.len()].copy_from_slice(arrival.bytes);
        self.slots[at] = Slot {
            len: arrival.bytes.len(),
            from: arrival.from,
            local: arrival.local,
            at: arrival.at,
            kernel: arrival.kernel,
            ttl: arrival.ttl,
            tos: arrival.tos,
        };
        self.len += 1;
        Ok(self.reader.take())
    }

    fn oldest(&self) -> Option<Arrival<'_>> {
        if self.len == 0 {
            return None;
        }
        let slot = &self.slots[self.first];
        let start = self.first * self.slot_len;
        Some(Arrival {
            bytes: &self.bytes[start..start + slot.len],
            from: slot.from,
            local: slot.local,
            at: slot.at,
            kernel: slot.kernel,
            ttl: slot.ttl,
            tos: slot.tos,
        })
    }

    fn pop(&mut self) {
        self.first = (self.first + 1) % self.slots.len();
        self.len -= 1;
    }
}

impl Datagrams for Fed {
    fn send(&self, datagram: &Outgoing<'_>) -> Result<(), Fault> {
        self.socket.send(datagram)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        take: &mut dyn FnMut(&Arrival<'_>),
    ) -> Poll<io::Result<()>> {
        let mut ring = self.ring();
        if ring.len == 0 {
            ring.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        for _ in 0..room {
            let Some(arrival) = ring.oldest() else { break };
            take(&arrival);
            ring.pop();
        }
        Poll::Ready(Ok(()))
    }

    fn writable(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(tokio::time::sleep(RETRY))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use super::*;
    use crate::quic::NoTap;
    use crate::udp::UdpOptions;

    #[derive(Debug, Default)]
    struct Count(AtomicU64);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[derive(Debug, Default)]
    struct Refusals(AtomicU64);

    impl Tap for Refusals {
        fn sent(&self, _: SocketAddr, _: &[u8], _: Timestamp) {}
        fn received(&self, _: &Arrival<'_>) {}
        fn turned_away(&self, arrival: &Arrival<'_>) {
            self.0.fetch_add(arrival.bytes.len() as u64, Ordering::Relaxed);
        }
    }

    fn arrival(bytes: &[u8]) -> Arrival<'_> {
        let at = Timestamp::from_nanos(bytes.len() as u64);
        let from = SocketAddr::from(([192, 0, 2, 1], 9));
        Arrival { bytes, from, local: None, at, kernel: None, ttl: Some(3), tos: Some(2) }
    }

    fn fed(slots: usize, slot_len: usize, tap: Arc<dyn Tap>) -> (Feed, Arc<Fed>) {
        let socket = UdpSocket::bind(&UdpOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
        Fed::new(Arc::new(socket), slots, slot_len, tap)
    }

    fn drain(fed: &Fed, cx: &mut Context<'_>, room: usize) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        let _ = fed.poll_recv(cx, room, &mut |arrival| {
            assert_eq!((arrival.ttl, arrival.tos), (Some(3), Some(2)));
            assert_eq!(arrival.at.as_nanos(), arrival.bytes.len() as u64);
            got.push(arrival.bytes.to_vec());
        });
        got
    }

    #[test]
    fn the_ring_keeps_order_over_its_end_and_wakes_its_reader_once() {
        let (feed, fed) = fed(3, 4, Arc::new(NoTap));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        for round in 0..5_u8 {
            assert!(drain(&fed, &mut cx, 8).is_empty());
            feed.push(&arrival(&[round])).unwrap();
            feed.push(&arrival(&[round, 1])).unwrap();
            assert_eq!(count.0.load(Ordering::Relaxed), u64::from(round) + 1);
            assert_eq!(drain(&fed, &mut cx, 1), [vec![round]]);
            assert_eq!(drain(&fed, &mut cx, 8), [vec![round, 1]]);
        }
        assert_eq!(fed.counts(), FedCounts { taken: 10, full: 0, too_long: 0 });
    }

    #[test]
    fn what_does_not_fit_is_turned_away_counted_and_told() {
        let tap = Arc::new(Refusals::default());
        let (feed, fed) = fed(2, 4, Arc::clone(&tap) as Arc<dyn Tap>);
        feed.push(&arrival(&[1; 4])).unwrap();
        assert_eq!(feed.push(&arrival(&[2; 5])), Err(Refused::TooLong));
        feed.push(&arrival(&[])).unwrap();
        assert_eq!(feed.push(&arrival(&[3; 3])), Err(Refused::Full));
        assert_eq!(fed.counts(), FedCounts { taken: 2, full: 1, too_long: 1 });
        assert_eq!(tap.0.load(Ordering::Relaxed), 8);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(drain(&fed, &mut cx, 8), [vec![1; 4], vec![]]);
        feed.push(&arrival(&[3; 3])).unwrap();
        assert_eq!(drain(&fed, &mut cx, 8), [vec![3; 3]]);
    }
}
