//! How a UDP socket is to be opened, and what the platform granted.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether datagrams may be fragmented on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fragmentation {
    /// Never: the DF bit is set, a path MTU learned by the kernel is ignored, and what is larger than the
    /// interface's MTU fails with [`super::Fault::TooBig`]. This is what path MTU discovery needs (RFC 8899).
    #[default]
    Never,
    /// Allowed: DF is clear, and this host fragments what is larger than its interface takes.
    Allowed,
}

/// How to open a UDP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// The local address; port 0 takes a free one.
    pub addr: SocketAddr,
    /// An IPv6 socket takes IPv6 alone (default). Off, `[::]` takes IPv4 too; addresses are reported as IPv4 then.
    pub v6_only: bool,
    /// Several sockets may share the address, each with a share of the flows (`SO_REUSEPORT`). Off by default,
    /// and where the platform has no such option it is an error to ask for it.
    pub reuse_port: bool,
    /// Bytes to ask for as receive buffer, beyond the system's limit where privileges allow; else the default.
    pub recv_buffer: Option<usize>,
    /// Bytes to ask for as send buffer, likewise.
    pub send_buffer: Option<usize>,
    /// Whether datagrams may be fragmented.
    pub fragmentation: Fragmentation,
    /// Queue the errors that come back (ICMP, and local ones), for [`super::UdpSocket::take_error`]. On Linux this
    /// also makes a full interface queue an error ([`super::Fault::NoBuffers`]) instead of a silent drop. Off by
    /// default: whoever turns it on must drain the queue.
    pub errors: bool,
    /// Runs of datagrams of one batch that go the same way with the same length may pass the network stack as one
    /// (generic segmentation offload, Linux 4.18), to be cut again before they leave: bulk and saturated echoes
    /// then cost a fraction. Replies do so only where they are sent with
    /// [`UdpSocket::send_replies_together`](super::UdpSocket::send_replies_together). Off by default, since they leave back to back, and since what drops packets on this
    /// host (a queue discipline, a firewall rule) drops a run as one.
    pub coalesce: bool,
    /// Datagrams of one peer that arrive together may be handed over as one (generic receive offload, Linux 5.0), to be
    /// cut at [`super::RxMeta::segment`]. They share one timestamp and one buffer, which must hold 64 KiB, so this is for
    /// bulk alone, never for a socket that carries timing probes. Off by default.
    pub merge: bool,
    /// Have the kernel stamp every datagram on arrival (default).
    pub timestamps: bool,
    /// Have the kernel stamp every datagram when it hands it to the interface; the stamps come through
    /// [`super::UdpSocket::take_report`]. Off by default: each costs a wake-up, and whoever turns it on must drain
    /// the queue. Excludes [`UdpOptions::coalesce`], which it turns off.
    pub sent_timestamps: bool,
}

impl UdpOptions {
    /// The defaults, on `addr`.
    pub const fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            v6_only: true,
            reuse_port: false,
            recv_buffer: None,
            send_buffer: None,
            fragmentation: Fragmentation::Never,
            errors: false,
            coalesce: false,
            merge: false,
            timestamps: true,
            sent_timestamps: false,
        }
    }

    /// The defaults for a client towards `target`: any port of the unspecified address of its family.
    pub const fn towards(target: SocketAddr) -> Self {
        match target {
            SocketAddr::V4(_) => Self::new(SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)),
            SocketAddr::V6(_) => Self::new(SocketAddr::new(std::net::IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)),
        }
    }
}

/// What the platform granted. What is `false` stays absent in [`super::RxMeta`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Receive buffer in the unit of [`UdpOptions::recv_buffer`], where it could be read.
    pub recv_buffer: Option<usize>,
    /// Send buffer, likewise.
    pub send_buffer: Option<usize>,
    /// Kernel receive timestamps.
    pub timestamps: bool,
    /// Kernel timestamps of what is sent.
    pub sent_timestamps: bool,
    /// Received TTL or hop limit.
    pub ttl: bool,
    /// Received TOS or traffic class byte.
    pub tos: bool,
    /// The local address a datagram arrived at, and answers from that address.
    pub local: bool,
    /// The count of datagrams dropped because the receive buffer was full.
    pub drops: bool,
    /// Runs of datagrams may pass the stack as one, see [`UdpOptions::coalesce`].
    pub coalesce: bool,
    /// Datagrams may arrive merged, see [`UdpOptions::merge`].
    pub merge: bool,
    /// Errors with their ICMP message.
    pub errors: bool,
    /// [`Fragmentation`] as asked for.
    pub fragmentation: bool,
}
