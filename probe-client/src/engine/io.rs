//! What goes into the engine and comes out of it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use probe_analysis::observation::FlowNo;
use probe_protocol::control::TcpFacts;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::load::HandedLoad;
use crate::plan::ServerNameKind;

/// What happened, for [`Engine::handle`](super::Engine::handle).
#[derive(Debug)]
pub enum Event<'a> {
    /// TCP's own handshake is over, and TLS's begins: what fails from here on is not TCP.
    Reached {
        /// Time that TCP's handshake took.
        connect: Duration,
    },
    /// A connection that [`Action::Connect`] asked for is there; for UDP, the socket is.
    Connected {
        /// Its local address.
        source: SocketAddr,
        /// Time that TCP's own handshake took.
        connect: Option<Duration>,
        /// What TLS or QUIC agreed on.
        channel: Option<ChannelFacts>,
    },
    /// It could not be had, or is gone.
    Closed(Closed),
    /// A datagram arrived.
    Datagram(Arrived<'a>),
    /// Bytes of the stream arrived.
    Bytes {
        /// The bytes.
        bytes: &'a [u8],
        /// When they were read.
        at: Timestamp,
    },
    /// A datagram could not be sent.
    SendFailed {
        /// Of the probe it carried; none for other records.
        seq: Option<u64>,
        /// Why.
        why: SendError,
    },
    /// The network says something about what was sent earlier.
    NetworkError {
        /// It is a refusal: nothing listens on the port.
        refused: bool,
        /// Who said so.
        by: Option<IpAddr>,
        /// The MTU named in it.
        mtu: Option<u32>,
        /// In the system's words.
        says: String,
    },
    /// A UDP datagram of a QUIC connection left or reached the socket.
    Tapped {
        /// It left, rather than arrived.
        sent: bool,
        /// Its name ([`probe_protocol::control::datagram_hash`]).
        hash: u32,
    },
    /// TCP_INFO, as [`Action::ReadTcp`] asked.
    Tcp(TcpFacts),
}

/// A datagram that arrived.
#[derive(Debug)]
pub struct Arrived<'a> {
    /// Its bytes, to be opened in place.
    pub bytes: &'a mut [u8],
    /// When the program read it.
    pub at: Timestamp,
    /// When the kernel received it.
    pub kernel: Option<Timestamp>,
    /// Its TTL or hop limit.
    pub ttl: Option<u8>,
    /// Its TOS or traffic class.
    pub tos: Option<u8>,
}

/// Why a connection is not, or no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Refused by a reset at once.
    Refused,
    /// No answer in time.
    TimedOut,
    /// Reset after it was established.
    Reset,
    /// Ended in order by the other side.
    Ended,
    /// The network said no.
    Unreachable {
        /// In the system's words.
        says: String,
    },
    /// The local system said no.
    Local {
        /// In the system's words.
        says: String,
    },
    /// TLS or QUIC failed in its own handshake.
    Handshake {
        /// In the library's words.
        says: String,
    },
}

/// What a TLS or QUIC channel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelFacts {
    /// SHA-256 of the peer's certificate.
    pub fingerprint: [u8; 32],
    /// Its issuer.
    pub issuer: Option<String>,
    /// The exporter (RFC 9266).
    pub exporter: [u8; 32],
}

/// Why a datagram could not be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Longer than the interface or the path that the system knows of.
    TooLong,
    /// The system's buffers are full.
    NoRoom,
    /// There is no way there, in the system's words.
    Unreachable(String),
    /// Anything else, in the system's words.
    Other(String),
}

/// What is to be done beside sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection or socket for a flow; a former one of the flow is gone.
    Connect {
        /// Which.
        flow: FlowNo,
        /// What kind.
        carrier: Carrier,
        /// Where to.
        to: SocketAddr,
        /// Which name TLS or QUIC gives.
        server_name: ServerNameKind,
        /// What is larger than the interface's MTU is fragmented, rather than refused (UDP).
        fragments: bool,
    },
    /// Close it, without an event in return.
    Disconnect {
        /// Which.
        flow: FlowNo,
    },
    /// Move the load of this UDP flow from now on
    /// ([`Engine::move_loads_outside`](super::Engine::move_loads_outside)): its socket is the driver's to read.
    Load {
        /// Which.
        flow: FlowNo,
        /// Its load.
        transfer: HandedLoad,
    },
    /// An order of a load begins, or ends.
    LoadChanged {
        /// Of which flow.
        flow: FlowNo,
    },
    /// Read TCP_INFO of it.
    ReadTcp {
        /// Which.
        flow: FlowNo,
    },
}

/// Bytes to send, from [`Engine::poll_transmit`](super::Engine::poll_transmit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// On which flow.
    pub flow: FlowNo,
    /// As one datagram, rather than as a piece of the stream.
    pub datagram: bool,
    /// With this TOS byte.
    pub tos: u8,
    /// It carries the probe with this number.
    pub seq: Option<u64>,
}
