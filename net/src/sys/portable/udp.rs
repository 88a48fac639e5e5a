//! UDP through `std`, one datagram at a time. What would need control messages is absent.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::AtomicBool;

use socket2::SockRef;

use crate::sys::platform;
use crate::udp::{Features, Fragmentation, Outgoing, Report, RxMeta, UdpOptions};

pub(crate) fn before_bind(socket: &socket2::Socket) -> io::Result<()> {
    platform::claim_exclusively(socket)
}

pub(crate) fn configure(socket: &UdpSocket, v6: bool, options: &UdpOptions) -> Features {
    let sock = SockRef::from(socket);
    // What was granted is read back below.
    if let Some(bytes) = options.recv_buffer {
        let _ = sock.set_recv_buffer_size(bytes);
    }
    if let Some(bytes) = options.send_buffer {
        let _ = sock.set_send_buffer_size(bytes);
    }
    Features {
        recv_buffer: sock.recv_buffer_size().ok(),
        send_buffer: sock.send_buffer_size().ok(),
        fragmentation: set_fragmentation(socket, v6, options.fragmentation).is_ok(),
        ..Features::default()
    }
}

pub(crate) fn set_fragmentation(
    socket: &UdpSocket,
    v6: bool,
    fragmentation: Fragmentation,
) -> io::Result<()> {
    platform::set_dont_fragment(socket, v6, fragmentation == Fragmentation::Never)
}

/// Only where connected sockets take precedence over unconnected ones of the same address can one stand beside.
pub(crate) fn share_address(_: &UdpSocket, _: bool) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn drops(_: &UdpSocket) -> Option<u32> {
    None
}

pub(crate) fn without_room() -> Option<u64> {
    None
}

pub(crate) fn take_report(_: &UdpSocket) -> Option<Report> {
    None
}

pub(crate) fn restart_numbers(_: &UdpSocket) {}

pub(crate) fn recv(
    socket: &UdpSocket,
    data: &mut [u8],
    capacity: usize,
    metas: &mut [RxMeta],
    _: bool,
) -> io::Result<usize> {
    let mut count = 0;
    for (bytes, meta) in data.chunks_exact_mut(capacity.max(1)).zip(metas) {
        let (len, from, truncated) = match socket.recv_from(bytes) {
            Ok((len, from)) => (len, from, platform::CUTS_SILENTLY && len == capacity),
            // What was read stands; the error, if it lasts, is the next call's. One for a datagram that was too long
            // does not say whose it was: it is not reported at all.
            Err(_) if count > 0 => break,
            Err(error) if platform::was_too_long(&error) => return Err(io::ErrorKind::Interrupted.into()),
            Err(error) => return Err(error),
        };
        *meta = RxMeta { from: canonical(from), len, truncated, ..RxMeta::EMPTY };
        count += 1;
    }
    Ok(count)
}

/// Sends items until one is not taken; answers how many were. An error is that of the first item.
pub(crate) fn send_many<'a>(
    socket: &UdpSocket,
    v6: bool,
    peer: Option<SocketAddr>,
    _: &AtomicBool,
    items: impl Iterator<Item = Outgoing<'a>> + Clone,
) -> io::Result<usize> {
    let mut count = 0;
    for item in items {
        match send_one(socket, v6, peer, &item) {
            Ok(()) => count += 1,
            Err(_) if count > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

pub(crate) fn send_one(
    socket: &UdpSocket,
    v6: bool,
    peer: Option<SocketAddr>,
    item: &Outgoing<'_>,
) -> io::Result<()> {
    // A connected socket takes no address on some platforms.
    let sent = match (peer, item.to) {
        (Some(peer), to) if peer == to => socket.send(item.bytes),
        (_, SocketAddr::V4(to)) if v6 => socket.send_to(item.bytes, (to.ip().to_ipv6_mapped(), to.port())),
        (_, to) => socket.send_to(item.bytes, to),
    };
    sent.map(|_| ())
}

fn canonical(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map_or(from, |v4| SocketAddr::from((v4, v6.port()))),
        SocketAddr::V4(_) => from,
    }
}
