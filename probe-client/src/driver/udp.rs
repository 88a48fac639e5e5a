//! UDP flows: one connected socket each, so that each has a source port of its own and hears its ICMP errors.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use probe_analysis::observation::{FlowNo, HostFault};
use probe_net::bulk::BUFFER;
use probe_net::clock;
use probe_net::udp::{Fault, Fragmentation, NetError, Outgoing, RecvBatch, UdpOptions, UdpSocket};
use probe_net::wait::{Interest, Poller};

use super::host::HostWatch;
use crate::engine::{Arrived, Engine, Event, SendError};

/// Most system calls spent on one socket before the others have their turn.
const MAX_READS: usize = 4;

pub(super) struct UdpFlow {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    drops: u32,
}

impl UdpFlow {
    pub(super) fn open(
        to: SocketAddr,
        fragments: bool,
        poller: &Poller,
        flow: FlowNo,
    ) -> io::Result<(Self, SocketAddr)> {
        let mut options = UdpOptions::towards(to);
        if fragments {
            options.fragmentation = Fragmentation::Allowed;
        }
        options.errors = true;
        let mut socket = UdpSocket::bind(&options)?;
        socket.connect(to)?;
        let source = socket.local_addr()?;
        poller.add(&socket, u64::from(flow.0), Interest::READ)?;
        Ok((Self { socket: Arc::new(socket), to, drops: 0 }, source))
    }

    /// The flow's socket made ready for a load, which another thread reads from now on: with room, and with runs of
    /// datagrams merged.
    pub(super) fn for_load(self, poller: &Poller) -> io::Result<Self> {
        self.close(poller);
        let socket = Arc::into_inner(self.socket).ok_or(io::ErrorKind::ResourceBusy)?;
        let options = UdpOptions {
            errors: true,
            recv_buffer: Some(BUFFER),
            send_buffer: Some(BUFFER),
            coalesce: true,
            merge: true,
            ..UdpOptions::towards(self.to)
        };
        let socket = UdpSocket::adopt(socket.into_std(), &options)?;
        Ok(Self { socket: Arc::new(socket), ..self })
    }

    pub(super) fn socket(&self) -> &Arc<UdpSocket> {
        &self.socket
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.to
    }

    /// Datagrams that the socket has dropped so far, as far as is known.
    pub(super) fn drops(&self) -> u32 {
        self.drops
    }

    pub(super) fn close(&self, poller: &Poller) {
        // The socket goes away with its owner; a poller that no longer knows it is as good.
        let _ = poller.remove(&*self.socket);
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "faults may be added at any time")]
    pub(super) fn send(&self, wire: &[u8], tos: u8) -> Result<(), SendError> {
        let datagram = Outgoing { tos: (tos != 0).then_some(tos), ..Outgoing::new(wire, self.to) };
        self.socket.send(&datagram).map_err(|fault| {
            let says = fault.to_string();
            match fault {
                Fault::TooBig => SendError::TooLong,
                Fault::WouldBlock | Fault::NoBuffers => SendError::NoRoom,
                Fault::Unreachable | Fault::Refused => SendError::Unreachable(says),
                _ => SendError::Other(says),
            }
        })
    }

    pub(super) fn take_in(
        &mut self,
        flow: FlowNo,
        failed: bool,
        batch: &mut RecvBatch,
        host: &mut HostWatch,
        engine: &mut Engine,
    ) {
        for _ in 0..MAX_READS {
            let count = match self.socket.recv(batch) {
                Ok(count) => count,
                Err(_) => break,
            };
            let at = clock::now();
            host.pair();
            for datagram in batch.datagrams() {
                let (kernel, ttl, tos) =
                    (host.kernel(datagram.meta.kernel), datagram.meta.ttl, datagram.meta.tos);
                if let Some(drops) = datagram.meta.drops {
                    let more = drops.wrapping_sub(self.drops);
                    self.drops = drops;
                    if more > 0 {
                        engine.handle_host(at, at, HostFault::ReceiveOverflow(more));
                    }
                }
                let arrived = Arrived { bytes: datagram.bytes, at, kernel, ttl, tos };
                engine.handle(at, flow, Event::Datagram(arrived));
            }
            if count == 0 {
                break;
            }
        }
        if failed {
            // Bounded: the queue of errors is fed by the network.
            for _ in 0..64 {
                let Some(error) = self.socket.take_error() else { break };
                engine.handle(clock::now(), flow, network_error(&error));
            }
        }
    }
}

/// What came back for an earlier datagram.
pub(super) fn network_error(error: &NetError) -> Event<'static> {
    Event::NetworkError {
        refused: error.fault == Fault::Refused,
        by: error.offender,
        mtu: error.mtu,
        says: error.fault.to_string(),
    }
}
