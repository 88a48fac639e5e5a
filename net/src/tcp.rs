//! TCP listeners without surprises, connections without delays of their own, and what the kernel knows of one.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::{AsRawSource, sys};

/// What the kernel knows of a connection (Linux `TCP_INFO`). What a kernel does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time (RFC 6298).
    pub rtt: Option<Duration>,
    /// Its variation (RFC 6298).
    pub rtt_variation: Option<Duration>,
    /// Smallest round-trip time of late.
    pub rtt_min: Option<Duration>,
    /// Largest segment sent, in bytes of payload.
    pub mss_send: Option<u32>,
    /// Largest segment received of late, an estimate.
    pub mss_receive: Option<u32>,
    /// Largest segment this end said it takes.
    pub mss_advertised: Option<u32>,
    /// Path MTU in bytes.
    pub path_mtu: Option<u32>,
    /// Congestion window, in segments.
    pub congestion_window: Option<u32>,
    /// Reordering the sender allows for, in segments.
    pub reordering: Option<u32>,
    /// Reordering events seen.
    pub reordering_seen: Option<u32>,
    /// Segments retransmitted since the connection opened.
    pub retransmissions: Option<u32>,
    /// Segments taken for lost at this moment.
    pub lost_now: Option<u32>,
    /// Duplicates the peer reported (D-SACK, RFC 2883).
    pub duplicates_reported: Option<u32>,
    /// Segments received out of order.
    pub out_of_order: Option<u32>,
    /// Segments sent.
    pub segments_out: Option<u32>,
    /// Segments received.
    pub segments_in: Option<u32>,
    /// Bytes the peer acknowledged; at the end that opened the connection the SYN counts as one.
    pub bytes_acked: Option<u64>,
    /// Bytes of payload received.
    pub bytes_received: Option<u64>,
    /// Bytes of payload sent, retransmissions included.
    pub bytes_sent: Option<u64>,
    /// Bytes of payload retransmitted.
    pub bytes_retransmitted: Option<u64>,
    /// Bytes that wait to be sent for the first time.
    pub bytes_not_sent: Option<u32>,
    /// Latest delivery rate, in bytes per second.
    pub delivery_rate: Option<u64>,
    /// Time there was something to send.
    pub busy: Option<Duration>,
    /// Of it, the time the peer's window was full.
    pub limited_by_receiver: Option<Duration>,
    /// Of it, the time the send buffer was full.
    pub limited_by_send_buffer: Option<Duration>,
}

/// Reads what the kernel knows of a connection; `None` where the platform does not tell.
pub fn info(connection: &impl AsRawSource) -> Option<TcpInfo> {
    sys::tcp::info(connection)
}

/// Opens a non-blocking listener. An IPv6 one takes IPv6 alone, so that both families can have a listener of their
/// own on one port, and a host without IPv6 needs none.
///
/// # Errors
/// Those of the system: the address is in use, is not one of this host, or its family is switched off.
pub fn listen(addr: SocketAddr, backlog: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // On Unix this takes a port whose old connections linger, never one that has a listener. On Windows it would
    // take that too, so there the opposite is asked for.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(not(unix))]
    sys::udp::before_bind(&socket)?;
    socket.bind(&addr.into())?;
    socket.listen(i32::from(backlog))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Makes a connection a plain instrument: nothing is held back to be sent with more (RFC 896 off), nothing is sent
/// of its own accord (keepalive off), and it is given up only as late as the system ever does.
///
/// # Errors
/// Those of the system: the connection is gone.
pub fn prepare<'a, S>(connection: &'a S) -> io::Result<()>
where
    SockRef<'a>: From<&'a S>,
{
    let socket = SockRef::from(connection);
    socket.set_tcp_nodelay(true)?;
    socket.set_keepalive(false)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(None)?;
    Ok(())
}
