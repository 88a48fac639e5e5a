//! QUIC on a socket of its own, on tokio.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use probe_protocol::time::Timestamp;
use tokio::io::Interest;

use super::{Arrival, Datagrams};
use crate::clock;
use crate::udp::{Fault, NetError, Outgoing, RecvBatch, UdpSocket};

/// Datagrams read with one call, half of what quinn has room for: a client has a dozen such sockets, each with room of its
/// own.
const BATCH: usize = 16;
/// The longest datagram taken: quinn lets its peer send up to 1,472 bytes (`max_udp_payload_size` by default), and the path
/// MTU is not looked for.
const CAPACITY: usize = 2_048;

/// A [`Datagrams`] over a UDP socket that nobody else reads.
#[derive(Debug)]
pub struct Own {
    socket: UdpSocket,
    /// The same socket under a second descriptor, which tokio watches.
    watch: tokio::net::UdpSocket,
    inbox: Mutex<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    batch: RecvBatch,
    next: usize,
    at: Timestamp,
}

impl Own {
    /// Takes a socket over. Must be called within a tokio runtime that has I/O enabled.
    ///
    /// # Errors
    /// Those of the system: no descriptors left.
    pub fn new(socket: UdpSocket) -> io::Result<Arc<Self>> {
        let watch = tokio::net::UdpSocket::from_std(socket.try_clone_std()?)?;
        let inbox = Inbox { batch: RecvBatch::new(BATCH, CAPACITY), next: 0, at: Timestamp::ZERO };
        Ok(Arc::new(Self { socket, watch, inbox: Mutex::new(inbox) }))
    }

    /// The socket, for what it knows beside its datagrams.
    pub const fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// The next error that came back, see [`UdpSocket::take_error`].
    pub fn take_error(&self) -> Option<NetError> {
        self.socket.take_error()
    }
}

impl Datagrams for Own {
    fn send(&self, datagram: &Outgoing<'_>) -> Result<(), Fault> {
        let mut fault = None;
        // `try_io` forgets that the socket is writable when it is told so.
        let sent = self.watch.try_io(Interest::WRITABLE, || match self.socket.send(datagram) {
            Ok(()) => Ok(()),
            Err(Fault::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(other) => {
                fault = Some(other);
                Ok(())
            }
        });
        match (sent, fault) {
            (_, Some(fault)) => Err(fault),
            (Ok(()), None) => Ok(()),
            (Err(error), None) => Err(Fault::from(&error)),
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        room: usize,
        take: &mut dyn FnMut(&Arrival<'_>),
    ) -> Poll<io::Result<()>> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = &mut *inbox;
        while inbox.next >= inbox.batch.len() {
            ready!(self.watch.poll_recv_ready(cx))?;
            inbox.next = 0;
            match self.watch.try_io(Interest::READABLE, || self.socket.recv(&mut inbox.batch)) {
                Ok(_) => inbox.at = clock::now(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        for _ in 0..room {
            let Some(meta) = inbox.batch.meta(inbox.next) else { break };
            // What is cut off is longer than any QUIC packet that was asked for, and would not decrypt.
            if !meta.truncated {
                take(&Arrival {
                    bytes: inbox.batch.bytes(inbox.next),
                    from: meta.from,
                    local: meta.local,
                    at: inbox.at,
                    kernel: meta.kernel,
                    ttl: meta.ttl,
                    tos: meta.tos,
                });
            }
            inbox.next += 1;
        }
        Poll::Ready(Ok(()))
    }

    fn writable(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        Box::pin(async move {
            // An error is met by the next attempt to send.
            let _ = self.watch.writable().await;
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
