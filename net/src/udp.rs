//! UDP sockets that read and answer datagrams in batches, in place, and know their headers.
//!
//! A [`UdpSocket`] never blocks and can be shared between threads by reference. Receive offload (GRO) is turned on
//! only where [`UdpOptions::merge`] asks for it, since merged datagrams have one timestamp; segmentation offload (GSO)
//! only where [`UdpOptions::coalesce`] does. Nothing is allocated per datagram.

mod batch;
mod fault;
mod options;
mod room;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

pub use batch::{Datagram, MAX_BATCH, Outgoing, RecvBatch, RxMeta, SendBatch, SendOutcome};
pub use fault::{Fault, NetError, Report};
pub use options::{Features, Fragmentation, UdpOptions};

use room::Room;

/// A non-blocking UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    socket: std::net::UdpSocket,
    features: Features,
    v6: bool,
    peer: Option<SocketAddr>,
    may_fragment: AtomicBool,
    coalesce: AtomicBool,
    number: AtomicU32,
    /// The latest error the system mentioned by the way, where it keeps no queue of them.
    mentioned: Mutex<Option<NetError>>,
    room: Room,
}

impl UdpSocket {
    /// Opens a socket as `options` say.
    ///
    /// # Errors
    /// Those of the system: the address is in use (`AddrInUse`), is not one of this host (`AddrNotAvailable`), or
    /// its family is switched off (`Unsupported` or `Uncategorized`). What the platform does not grant of the rest
    /// is no error, see [`UdpSocket::features`]; `reuse_port` is.
    pub fn bind(options: &UdpOptions) -> io::Result<Self> {
        let v6 = options.addr.is_ipv6();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if v6 {
            socket.set_only_v6(options.v6_only)?;
        }
        if options.reuse_port {
            set_reuse_port(&socket)?;
        }
        sys::udp::before_bind(&socket)?;
        socket.bind(&options.addr.into())?;
        Self::adopt(socket.into(), options)
    }

    /// Takes over a socket that is bound already and sets it up as `options` say; their address is ignored.
    ///
    /// # Errors
    /// Those of the system, where the socket is not usable at all.
    pub fn adopt(socket: std::net::UdpSocket, options: &UdpOptions) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let v6 = socket.local_addr()?.is_ipv6();
        let features = sys::udp::configure(&socket, v6, options);
        let peer = socket.peer_addr().ok();
        let may_fragment = options.fragmentation == Fragmentation::Allowed || !features.fragmentation;
        let may_fragment = AtomicBool::new(may_fragment);
        let coalesce = AtomicBool::new(features.coalesce);
        Ok(Self {
            socket,
            features,
            v6,
            peer,
            may_fragment,
            coalesce,
            number: AtomicU32::new(0),
            mentioned: Mutex::new(None),
            room: Room::new(),
        })
    }

    /// Fixes the peer: only its datagrams are received, and its ICMP errors reach the socket on every platform.
    ///
    /// # Errors
    /// Those of the system: no route, or an address of the other family.
    pub fn connect(&mut self, peer: SocketAddr) -> io::Result<()> {
        self.socket.connect(peer)?;
        self.peer = Some(peer);
        Ok(())
    }

    /// A socket of its own for one peer beside this one, at the local address `options` names, which is this one's or
    /// one of those it covers: what the peer sends arrives there from now on, and nothing else does. This socket stays
    /// exclusive: sharing is allowed for the moment of the bind alone, and to sockets of this user alone. What arrives
    /// from others in that moment may stand in the new socket's queue; its owner must hand it over.
    ///
    /// # Errors
    /// `Unsupported` where the platform cannot do it (it takes Linux); those of the system.
    pub fn beside(&self, peer: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        sys::udp::share_address(&self.socket, true)?;
        let made = Self::bind(&UdpOptions { reuse_port: true, ..options.clone() }).and_then(|mut socket| {
            socket.connect(peer)?;
            sys::udp::share_address(&socket.socket, false)?;
            Ok(socket)
        });
        let closed = sys::udp::share_address(&self.socket, false);
        made.and_then(|socket| closed.map(|()| socket))
    }

    /// What the platform granted.
    pub const fn features(&self) -> Features {
        self.features
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    /// Those of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The peer fixed by [`UdpSocket::connect`].
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Sets whether datagrams sent from now on may be fragmented.
    ///
    /// # Errors
    /// Those of the system, where the platform has no such option.
    pub fn set_fragmentation(&self, fragmentation: Fragmentation) -> io::Result<()> {
        sys::udp::set_fragmentation(&self.socket, self.v6, fragmentation)?;
        self.may_fragment.store(fragmentation == Fragmentation::Allowed, Ordering::Relaxed);
        Ok(())
    }

    /// Whether datagrams may be fragmented, as far as this socket knows.
    pub fn may_fragment(&self) -> bool {
        self.may_fragment.load(Ordering::Relaxed)
    }

    /// The plain socket, with everything still set on it.
    pub fn into_std(self) -> std::net::UdpSocket {
        self.socket
    }

    /// The same socket under a second handle, for a runtime to watch.
    pub(crate) fn try_clone_std(&self) -> io::Result<std::net::UdpSocket> {
        self.socket.try_clone()
    }

    /// How many datagrams were dropped because the receive buffer was full, since the socket was opened (wraps).
    pub fn drops(&self) -> Option<u32> {
        sys::udp::drops(&self.socket).map(|dropped| self.room.of(dropped))
    }

    /// Reads the datagrams that have arrived, as many as the batch holds, and answers their number. What the batch
    /// held before is forgotten, replies still marked included.
    ///
    /// # Errors
    /// `WouldBlock` where none has arrived. Errors that came back for datagrams sent earlier are not errors of
    /// receiving: they are kept for [`UdpSocket::take_error`].
    pub fn recv(&self, batch: &mut RecvBatch) -> io::Result<usize> {
        batch.clear();
        // Each returned error is reported once, in place of a datagram; a flood of them must not hold us here.
        for _ in 0..8 {
            let drops = self.features.drops;
            match sys::udp::recv(&self.socket, &mut batch.data, batch.capacity, &mut batch.metas, drops) {
                Ok(count) => {
                    batch.len = count;
                    for meta in batch.metas.iter_mut().take(count) {
                        meta.drops = meta.drops.map(|dropped| self.room.of(dropped));
                    }
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_returned(&error) => self.mention(Fault::from(&error)),
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Sends the replies marked in `batch`, each to where its datagram came from and from the address it arrived
    /// at. What was sent or failed for good is no longer marked; what is `pending` still is.
    ///
    /// Each passes the network stack by itself, whatever [`UdpOptions::coalesce`] says.
    pub fn send_replies(&self, batch: &mut RecvBatch) -> SendOutcome {
        self.send_marked(batch, &AtomicBool::new(false))
    }

    /// [`UdpSocket::send_replies`] where nobody's timing is measured with care: runs of replies that go the same way
    /// may pass the stack as one, where [`UdpOptions::coalesce`] was asked for and granted.
    pub fn send_replies_together(&self, batch: &mut RecvBatch) -> SendOutcome {
        self.send_marked(batch, &self.coalesce)
    }

    fn send_marked(&self, batch: &mut RecvBatch, coalesce: &AtomicBool) -> SendOutcome {
        batch.failures.clear();
        let mut outcome = SendOutcome::default();
        let mut retried = None;
        let mut next = batch.next_marked(0);
        while let Some(first) = next {
            match sys::udp::send_many(&self.socket, self.v6, self.peer, coalesce, batch.outgoing(first)) {
                Ok(count) => {
                    outcome.sent += count;
                    self.count_sent(count);
                    self.mention_if(first, &mut retried);
                    let mut at = Some(first);
                    for _ in 0..count {
                        let Some(i) = at else { break };
                        batch.unmark(i);
                        at = batch.next_marked(i + 1);
                    }
                    // No progress and no error: treated as a full buffer, so that this loop ends.
                    if count == 0 {
                        break;
                    }
                }
                Err(error) => match self.judge(&error, retried.is_some_and(|(at, _)| at == first)) {
                    Verdict::Again(fault) => retried = Some((first, fault)),
                    Verdict::Wait => break,
                    Verdict::Failed(fault) => {
                        batch.unmark(first);
                        batch.failures.push((first, fault));
                        outcome.failed += 1;
                    }
                },
            }
            next = batch.next_marked(first);
        }
        outcome.pending = batch.marked();
        outcome
    }

    /// Sends what `batch` holds and was not sent yet. Clear it once nothing is `pending`.
    pub fn send_batch(&self, batch: &mut SendBatch) -> SendOutcome {
        self.send_collected(batch, &self.coalesce)
    }

    /// The same, and each datagram passes the network stack by itself, whatever [`UdpOptions::coalesce`] says.
    pub fn send_batch_apart(&self, batch: &mut SendBatch) -> SendOutcome {
        self.send_collected(batch, &AtomicBool::new(false))
    }

    fn send_collected(&self, batch: &mut SendBatch, coalesce: &AtomicBool) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let mut retried = None;
        while batch.next < batch.len() {
            let first = batch.next;
            match sys::udp::send_many(&self.socket, self.v6, self.peer, coalesce, batch.outgoing(first)) {
                Ok(0) => break,
                Ok(count) => {
                    outcome.sent += count;
                    self.count_sent(count);
                    batch.next += count;
                    self.mention_if(first, &mut retried);
                }
                Err(error) => match self.judge(&error, retried.is_some_and(|(at, _)| at == first)) {
                    Verdict::Again(fault) => retried = Some((first, fault)),
                    Verdict::Wait => break,
                    Verdict::Failed(fault) => {
                        batch.failures.push((first, fault));
                        batch.next += 1;
                        outcome.failed += 1;
                    }
                },
            }
        }
        outcome.pending = batch.len() - batch.next;
        outcome
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// Why the system did not take it. An error left over from an earlier datagram is not this one's: it is kept
    /// for [`UdpSocket::take_error`], and the datagram is tried once more.
    pub fn send(&self, datagram: &Outgoing<'_>) -> Result<(), Fault> {
        let mut retried = None;
        loop {
            match sys::udp::send_one(&self.socket, self.v6, self.peer, datagram) {
                Ok(()) => {
                    self.count_sent(1);
                    self.mention_if(0, &mut retried);
                    return Ok(());
                }
                Err(error) => match self.judge(&error, retried.is_some()) {
                    Verdict::Again(fault) => retried = Some((0, fault)),
                    Verdict::Wait => return Err(Fault::WouldBlock),
                    Verdict::Failed(fault) => return Err(fault),
                },
            }
        }
    }

    /// [`UdpSocket::send`] with its parts as arguments.
    ///
    /// # Errors
    /// Those of [`UdpSocket::send`].
    pub fn send_to(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        local: Option<IpAddr>,
        tos: Option<u8>,
        ttl: Option<u8>,
    ) -> Result<(), Fault> {
        self.send(&Outgoing { bytes, to, local, interface: None, tos, ttl })
    }

    /// The next error that came back for a datagram sent earlier, oldest first; `None` once there is none. Where
    /// [`UdpOptions::errors`] is off or the platform keeps no queue, only the latest one is known. Stamps of
    /// datagrams sent are passed over. On Linux the queue also holds what this host itself raised, though the send
    /// returned it already (`local` is true: too large for the interface).
    pub fn take_error(&self) -> Option<NetError> {
        loop {
            match self.take_report()? {
                Report::Error(error) => return Some(error),
                Report::Sent { .. } => {}
            }
        }
    }

    /// The next thing the system reports about datagrams sent earlier: errors as [`UdpSocket::take_error`], and
    /// stamps where [`UdpOptions::sent_timestamps`] is on.
    pub fn take_report(&self) -> Option<Report> {
        if (self.features.errors || self.features.sent_timestamps)
            && let Some(report) = sys::udp::take_report(&self.socket)
        {
            return Some(report);
        }
        self.mentioned.lock().unwrap_or_else(PoisonError::into_inner).take().map(Report::Error)
    }

    /// The number that the stamp of the next datagram will carry, where [`UdpOptions::sent_timestamps`] was granted.
    /// It counts what the kernel took, from 0, wraps, and starts over after a datagram that it did not take. It
    /// means something only where one thread at a time sends; a stamp that lies before the send or long after it
    /// belongs to a datagram from before such a new start.
    pub fn next_number(&self) -> Option<u32> {
        self.features.sent_timestamps.then(|| self.number.load(Ordering::Relaxed))
    }

    fn count_sent(&self, count: usize) {
        if self.features.sent_timestamps {
            self.number.fetch_add(count as u32, Ordering::Relaxed);
        }
    }

    /// Kernels differ in whether a datagram that failed has used up a number: both counts start over.
    fn restart_numbers(&self) {
        if self.features.sent_timestamps {
            sys::udp::restart_numbers(&self.socket);
            self.number.store(0, Ordering::Relaxed);
        }
    }

    fn judge(&self, error: &io::Error, retried: bool) -> Verdict {
        self.restart_numbers();
        let fault = Fault::from(error);
        if fault == Fault::WouldBlock {
            Verdict::Wait
        } else if !retried && (is_returned(error) || error.kind() == io::ErrorKind::Interrupted) {
            Verdict::Again(fault)
        } else {
            Verdict::Failed(fault)
        }
    }

    /// Keeps an error that belongs to an earlier datagram, where the system has no queue for it.
    fn mention(&self, fault: Fault) {
        if !self.features.errors {
            *self.mentioned.lock().unwrap_or_else(PoisonError::into_inner) = Some(NetError::bare(fault));
        }
    }

    /// A datagram that went out at the second try shows that the first error was an earlier one's.
    fn mention_if(&self, sent: usize, retried: &mut Option<(usize, Fault)>) {
        if let Some((_, fault)) = retried.take_if(|(at, _)| *at == sent) {
            self.mention(fault);
        }
    }
}

enum Verdict {
    Again(Fault),
    Wait,
    Failed(Fault),
}

/// Whether the error may stem from an ICMP message for an earlier datagram, which the system reports at the next
/// call on the socket, whichever that is.
fn is_returned(error: &io::Error) -> bool {
    match error.raw_os_error().map(Fault::from_errno) {
        Some(Fault::Refused | Fault::Unreachable | Fault::TooBig | Fault::NetworkDown) => true,
        #[cfg(unix)]
        Some(Fault::Other(errno)) => [libc::EPROTO, libc::ENOPROTOOPT, libc::EOPNOTSUPP].contains(&errno),
        // ICMPv6 "administratively prohibited" comes as EACCES; the host's own refusal as EPERM.
        #[cfg(unix)]
        Some(Fault::NotPermitted) => error.raw_os_error() == Some(libc::EACCES),
        Some(_) | None => false,
    }
}

#[cfg(unix)]
fn set_reuse_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn set_reuse_port(_: &Socket) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this platform cannot share one UDP port between sockets"))
}

#[cfg(unix)]
impl std::os::fd::AsFd for UdpSocket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for UdpSocket {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.socket.as_socket()
    }
}
