//! Sockets for quinn that keep a ledger and can invert every bit.
//!
//! [`QuicSocket`] is what quinn is given. It counts each UDP datagram at a [`Tap`], inverts it where asked to
//! (the twin of QUIC that no classifier knows: the same sizes, the same times), carries ECN both ways and never
//! merges datagrams. How datagrams move beneath is a [`Datagrams`]:
//!
//! * [`Fed`]: another thread owns the UDP socket and pushes what is QUIC into a bounded ring (the listener);
//! * [`Own`]: a socket of its own, on tokio (the client);
//! * anything else, a simulated network for one.

mod fed;
mod own;
mod transport;

use std::fmt::Debug;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use probe_protocol::time::{Timestamp, WallTime};
use quinn::udp::{EcnCodepoint, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use crate::clock;
use crate::udp::{Fault, Outgoing};

pub use fed::{Fed, FedCounts, Feed, Refused};
pub use own::Own;
pub use transport::{FixedWindow, transport};

/// A datagram that arrived, as it was on the wire.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Who sent it.
    pub from: SocketAddr,
    /// The local address it arrived at, where known.
    pub local: Option<IpAddr>,
    /// When this program read it.
    pub at: Timestamp,
    /// When the kernel took it from the interface, where known.
    pub kernel: Option<WallTime>,
    /// Received TTL or hop limit, where known.
    pub ttl: Option<u8>,
    /// Received TOS or traffic class byte, where known.
    pub tos: Option<u8>,
}

/// Sees every datagram of a [`QuicSocket`], as it is on the wire. Called on the threads that send and receive: it
/// must be quick and must not block.
pub trait Tap: Debug + Send + Sync + 'static {
    /// The system took a datagram. `at` was read just before the call.
    fn sent(&self, to: SocketAddr, datagram: &[u8], at: Timestamp);
    /// A datagram arrived and goes to quinn.
    fn received(&self, arrival: &Arrival<'_>);
    /// The system did not take a datagram; it never counts as lost on the path. quinn is not told: QUIC sends its
    /// content again.
    fn failed(&self, _to: SocketAddr, _datagram: &[u8], _at: Timestamp, _fault: Fault) {}
    /// A datagram arrived, but quinn's ring was full or the datagram too long for it: this end's fault.
    fn turned_away(&self, _arrival: &Arrival<'_>) {}
}

/// A tap that sees nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTap;

impl Tap for NoTap {
    fn sent(&self, _: SocketAddr, _: &[u8], _: Timestamp) {}
    fn received(&self, _: &Arrival<'_>) {}
}

/// How datagrams move beneath a [`QuicSocket`].
pub trait Datagrams: Debug + Send + Sync + 'static {
    /// Sends one datagram, or says why not. After [`Fault::WouldBlock`], [`Datagrams::writable`] tells when to try
    /// again.
    ///
    /// # Errors
    /// Why the datagram did not leave.
    fn send(&self, datagram: &Outgoing<'_>) -> Result<(), Fault>;

    /// Hands at most `room` arrived datagrams to `take`, oldest first; where there are none, has the task woken
    /// once there are. `Ready` means that at least one was handed over.
    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        take: &mut dyn FnMut(&Arrival<'_>),
    ) -> Poll<io::Result<()>>;

    /// Done once sending is worth another try.
    fn writable(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

    /// The local address.
    ///
    /// # Errors
    /// Those of the system.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Whether datagrams may be fragmented on their way: quinn then does not search for a larger MTU.
    fn may_fragment(&self) -> bool;

    /// The time, which is virtual in a simulation.
    fn now(&self) -> Timestamp {
        clock::now()
    }
}

/// How a [`QuicSocket`] dresses its datagrams, and who sees them.
#[derive(Clone, Debug)]
pub struct QuicOptions {
    /// Every bit of every datagram is inverted, both ways.
    pub inverse: bool,
    /// DSCP (0 to 63, RFC 2474) of what is sent; larger values are cut to six bits.
    pub dscp: u8,
    /// Who sees the datagrams.
    pub tap: Arc<dyn Tap>,
}

impl Default for QuicOptions {
    fn default() -> Self {
        Self { inverse: false, dscp: 0, tap: Arc::new(NoTap) }
    }
}

/// The socket that quinn is given, see [`quinn::Endpoint::new_with_abstract_socket`].
#[derive(Debug)]
pub struct QuicSocket<D> {
    inner: Arc<D>,
    options: QuicOptions,
    /// A datagram on its way out, inverted.
    scratch: Mutex<Vec<u8>>,
    /// How often the system had no room: pollers wait until one of them has waited out the latest.
    blocked: AtomicU64,
    /// Arrivals longer than the buffers quinn gave.
    too_long: AtomicU64,
}

impl<D: Datagrams> QuicSocket<D> {
    /// A socket over `inner`.
    pub fn new(inner: Arc<D>, options: QuicOptions) -> Arc<Self> {
        Arc::new(Self {
            inner,
            options,
            scratch: Mutex::default(),
            blocked: AtomicU64::new(0),
            too_long: AtomicU64::new(0),
        })
    }

    /// Arrivals that were dropped because they were longer than quinn's buffers (its `max_udp_payload_size`).
    pub fn too_long(&self) -> u64 {
        self.too_long.load(Ordering::Relaxed)
    }

    fn send_one(&self, transmit: &Transmit<'_>, contents: &[u8]) -> io::Result<()> {
        let mut scratch;
        let bytes = if self.options.inverse {
            scratch = self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
            scratch.clear();
            scratch.extend(contents.iter().map(|byte| !byte));
            &scratch[..]
        } else {
            contents
        };
        let tos = (self.options.dscp << 2) | transmit.ecn.map_or(0, |ecn| ecn as u8);
        let datagram = Outgoing {
            local: transmit.src_ip,
            tos: (tos != 0).then_some(tos),
            ..Outgoing::new(bytes, transmit.destination)
        };
        let at = self.inner.now();
        match self.inner.send(&datagram) {
            Ok(()) => self.options.tap.sent(transmit.destination, bytes, at),
            Err(Fault::WouldBlock) => {
                self.blocked.fetch_add(1, Ordering::Relaxed);
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // An error here would end the connection, or the endpoint with all its connections.
            Err(fault) => self.options.tap.failed(transmit.destination, bytes, at, fault),
        }
        Ok(())
    }
}

impl<D: Datagrams> AsyncUdpSocket for QuicSocket<D> {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let seen = self.blocked.load(Ordering::Relaxed);
        Box::pin(WritePoller { socket: self, seen, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // One datagram, since no more is allowed per transmission below.
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        transmit.contents.chunks(size).try_for_each(|contents| self.send_one(transmit, contents))
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let room = bufs.len().min(metas.len());
        loop {
            let mut count = 0;
            let mut take = |arrival: &Arrival<'_>| {
                let (Some(buffer), Some(meta)) = (bufs.get_mut(count), metas.get_mut(count)) else { return };
                let Some(buffer) = buffer.get_mut(..arrival.bytes.len()) else {
                    self.too_long.fetch_add(1, Ordering::Relaxed);
                    self.options.tap.turned_away(arrival);
                    return;
                };
                self.options.tap.received(arrival);
                buffer.copy_from_slice(arrival.bytes);
                if self.options.inverse {
                    buffer.iter_mut().for_each(|byte| *byte = !*byte);
                }
                *meta = RecvMeta {
                    addr: arrival.from,
                    len: buffer.len(),
                    stride: buffer.len(),
                    ecn: arrival.tos.and_then(EcnCodepoint::from_bits),
                    dst_ip: arrival.local,
                };
                count += 1;
            };
            ready!(self.inner.poll_recv(cx, room, &mut take))?;
            // Nothing but datagrams that are too long: look for more, so that the task is woken for them.
            if count > 0 || room == 0 {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        1
    }

    fn max_receive_segments(&self) -> usize {
        1
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}

/// Waits for room to send, for one connection.
struct WritePoller<D> {
    socket: Arc<QuicSocket<D>>,
    seen: u64,
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl<D: Debug> Debug for WritePoller<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WritePoller").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl<D: Datagrams> UdpPoller for WritePoller<D> {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            let blocked = self.socket.blocked.load(Ordering::Relaxed);
            if blocked == self.seen {
                return Poll::Ready(Ok(()));
            }
            self.seen = blocked;
            self.waiting = Some(Arc::clone(&self.socket.inner).writable());
        }
        if let Some(waiting) = &mut self.waiting {
            ready!(waiting.as_mut().poll(cx));
        }
        self.waiting = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Waker;

    use super::*;

    /// Refuses with whatever is set, else takes; never receives anything but one datagram of 100 bytes.
    #[derive(Debug, Default)]
    struct Fake {
        refuse: Mutex<Option<Fault>>,
        taken: Mutex<Vec<(Vec<u8>, Option<u8>)>>,
        open: AtomicBool,
        delivered: AtomicBool,
    }

    impl Datagrams for Fake {
        fn send(&self, datagram: &Outgoing<'_>) -> Result<(), Fault> {
            if let Some(fault) = *self.refuse.lock().unwrap() {
                return Err(fault);
            }
            self.taken.lock().unwrap().push((datagram.bytes.to_vec(), datagram.tos));
            Ok(())
        }

        fn poll_recv(
            &self,
            _: &mut Context<'_>,
            _: usize,
            take: &mut dyn FnMut(&Arrival<'_>),
        ) -> Poll<io::Result<()>> {
            if self.delivered.swap(true, Ordering::Relaxed) {
                return Poll::Pending;
            }
            let from = SocketAddr::from(([192, 0, 2, 1], 9));
            let bytes = &[0x0f; 100];
            let (at, tos) = (Timestamp::from_nanos(5), Some(0xb9));
            take(&Arrival { bytes, from, local: None, at, kernel: None, ttl: None, tos });
            Poll::Ready(Ok(()))
        }

        fn writable(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
            Box::pin(std::future::poll_fn(move |_| match self.open.load(Ordering::Relaxed) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }))
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn may_fragment(&self) -> bool {
            true
        }

        fn now(&self) -> Timestamp {
            Timestamp::from_nanos(77)
        }
    }

    #[derive(Debug, Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Tap for Seen {
        fn sent(&self, _: SocketAddr, datagram: &[u8], at: Timestamp) {
            self.0.lock().unwrap().push(format!("sent {datagram:?} at {}", at.as_nanos()));
        }
        fn received(&self, arrival: &Arrival<'_>) {
            self.0.lock().unwrap().push(format!("received {} of {}", arrival.bytes.len(), arrival.bytes[0]));
        }
        fn failed(&self, _: SocketAddr, datagram: &[u8], _: Timestamp, fault: Fault) {
            self.0.lock().unwrap().push(format!("failed {datagram:?}: {fault:?}"));
        }
        fn turned_away(&self, arrival: &Arrival<'_>) {
            self.0.lock().unwrap().push(format!("turned away {}", arrival.bytes.len()));
        }
    }

    fn transmit(contents: &[u8], ecn: Option<EcnCodepoint>) -> Transmit<'_> {
        let destination = SocketAddr::from(([192, 0, 2, 2], 7));
        Transmit { destination, ecn, contents, segment_size: None, src_ip: None }
    }

    fn socket(inverse: bool, dscp: u8) -> (Arc<Fake>, Arc<Seen>, Arc<QuicSocket<Fake>>) {
        let (fake, seen) = (Arc::new(Fake::default()), Arc::new(Seen::default()));
        let options = QuicOptions { inverse, dscp, tap: Arc::clone(&seen) as Arc<dyn Tap> };
        (Arc::clone(&fake), seen, QuicSocket::new(fake, options))
    }

    #[test]
    fn what_is_sent_is_inverted_marked_and_told_as_it_is_on_the_wire() {
        let (fake, seen, socket) = socket(true, 46);
        socket.try_send(&transmit(&[0, 1, 0xaa], Some(EcnCodepoint::Ect0))).unwrap();
        assert_eq!(*fake.taken.lock().unwrap(), [(vec![255, 254, 0x55], Some(0xba))]);
        assert_eq!(*seen.0.lock().unwrap(), ["sent [255, 254, 85] at 77"]);
    }

    #[test]
    fn a_full_buffer_makes_pollers_wait_until_there_is_room_and_loses_nothing() {
        let (fake, seen, socket) = socket(false, 0);
        let mut cx = Context::from_waker(Waker::noop());
        let mut poller = Arc::clone(&socket).create_io_poller();
        assert!(poller.as_mut().poll_writable(&mut cx).is_ready(), "nothing was refused yet");
        *fake.refuse.lock().unwrap() = Some(Fault::WouldBlock);
        let refused = socket.try_send(&transmit(&[1], None)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        assert!(poller.as_mut().poll_writable(&mut cx).is_pending());
        assert!(poller.as_mut().poll_writable(&mut cx).is_pending(), "still waiting");
        *fake.refuse.lock().unwrap() = None;
        fake.open.store(true, Ordering::Relaxed);
        assert!(poller.as_mut().poll_writable(&mut cx).is_ready());
        assert!(poller.as_mut().poll_writable(&mut cx).is_ready(), "and stays so");
        socket.try_send(&transmit(&[1], None)).unwrap();
        assert_eq!(*seen.0.lock().unwrap(), ["sent [1] at 77"]);
    }

    #[test]
    fn a_local_fault_is_told_to_the_tap_and_ends_no_connection() {
        let (fake, seen, socket) = socket(false, 0);
        *fake.refuse.lock().unwrap() = Some(Fault::TooBig);
        socket.try_send(&transmit(&[1, 2], None)).unwrap();
        assert_eq!(*seen.0.lock().unwrap(), ["failed [1, 2]: TooBig"]);
    }

    #[test]
    fn what_arrives_is_inverted_for_quinn_and_told_as_it_was_on_the_wire() {
        let (_, seen, socket) = socket(true, 0);
        let mut cx = Context::from_waker(Waker::noop());
        let mut buffer = [0; 200];
        let mut metas = [RecvMeta::default()];
        let mut bufs = [IoSliceMut::new(&mut buffer)];
        assert!(matches!(socket.poll_recv(&mut cx, &mut bufs, &mut metas), Poll::Ready(Ok(1))));
        assert_eq!((metas[0].len, metas[0].stride, metas[0].ecn), (100, 100, Some(EcnCodepoint::Ect1)));
        assert!(socket.poll_recv(&mut cx, &mut bufs, &mut metas).is_pending());
        assert_eq!(buffer[..101], [&[0xf0; 100][..], &[0]].concat());
        assert_eq!(*seen.0.lock().unwrap(), ["received 100 of 15"]);
    }

    #[test]
    fn what_is_too_long_for_quinn_is_turned_away() {
        let (_, seen, socket) = socket(false, 0);
        let mut cx = Context::from_waker(Waker::noop());
        let mut buffer = [0; 99];
        let mut bufs = [IoSliceMut::new(&mut buffer)];
        assert!(socket.poll_recv(&mut cx, &mut bufs, &mut [RecvMeta::default()]).is_pending());
        assert_eq!(socket.too_long(), 1);
        assert_eq!(*seen.0.lock().unwrap(), ["turned away 100"]);
    }
}
