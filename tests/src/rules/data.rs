//! A rule as it stands in a scenario file: what it matches and what it does then.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::units::{BitRate, Size, Span};
use crate::packet::Protocol;

/// Which way a packet goes: up is client to listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Client to listener.
    Up,
    /// Listener to client.
    Down,
}

impl Direction {
    /// The other way.
    pub const fn opposite(self) -> Self {
        match self {
            Self::Up => Self::Down,
            Self::Down => Self::Up,
        }
    }

    /// Its place in a table of two.
    pub const fn index(self) -> usize {
        match self {
            Self::Up => 0,
            Self::Down => 1,
        }
    }
}

/// Where on the way a rule stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// In the client's own network: what it does, the gateway's answers suffer too.
    Lan,
    /// Between the client's gateway and the listener's router.
    #[default]
    Path,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Stands in the log of every packet it touches.
    pub name: String,
    /// Where on the way it stands.
    #[serde(default)]
    pub at: Place,
    /// Which packets it touches; left out, all.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// What it does to them.
    #[serde(rename = "do")]
    pub action: Action,
}

/// Which packets: every field that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// Which way it goes.
    pub direction: Option<Direction>,
    /// What it carries; one of.
    pub protocol: Vec<Protocol>,
    /// The listener's port; one of.
    pub port: Vec<u16>,
    /// The client's port; one of.
    pub client_port: Vec<u16>,
    /// The address farther from the client (the listener's, or the gateway's); one of.
    pub address: Vec<IpAddr>,
    /// The address nearer to the client; one of.
    pub client_address: Vec<IpAddr>,
    /// Bytes of the payload.
    pub content: Option<Content>,
    /// Shannon entropy of the payload's bytes, as a share of the most that so many bytes can have, 0 to 1.
    pub entropy_over: Option<f64>,
    /// The same, at most.
    pub entropy_under: Option<f64>,
    /// The payload is not empty and all of it is printable ASCII, or not so.
    pub printable: Option<bool>,
    /// The flow's TCP stream began with a TLS ClientHello.
    pub tls: Option<ServerName>,
    /// The flow has shown a QUIC version 1 Initial, decrypted as RFC 9001 (5.2) says.
    pub quic: Option<ServerName>,
    /// The flow is of a protocol that a classifier knows (TLS, QUIC, HTTP, DNS), or of none.
    pub known_protocol: Option<bool>,
    /// TCP flags of which all must be set: `S`, `A`, `F`, `R`.
    pub tcp_flags: Option<String>,
    /// TCP flags of which none may be set.
    pub tcp_flags_not: Option<String>,
    /// Length of the IP packet above this many bytes.
    pub size_over: Option<Size>,
    /// Length of the IP packet below this many bytes.
    pub size_under: Option<Size>,
    /// DSCP, 0 to 63; one of.
    pub dscp: Vec<u8>,
    /// DSCP is not zero, or is.
    pub dscp_marked: Option<bool>,
    /// ECN field, 0 to 3; one of.
    pub ecn: Vec<u8>,
    /// It is a fragment (the first or a later one), or is not.
    pub fragment: Option<bool>,
    /// The flow is older than this.
    pub age_over: Option<Span>,
    /// The flow is younger than this.
    pub age_under: Option<Span>,
    /// The flow's packets so far, counted as `count` says, this one included, are more than this.
    pub packets_over: Option<u64>,
    /// The same, at most this.
    pub packets_upto: Option<u64>,
    /// The flow's bytes so far (IP lengths), this packet included, are more than this.
    pub bytes_over: Option<Size>,
    /// The same, at most this.
    pub bytes_upto: Option<Size>,
    /// Which way's packets and bytes are counted; left out, both.
    pub count: Option<Direction>,
    /// Before this packet the flow was idle for longer than this.
    pub idle_over: Option<Span>,
    /// Which way's packets end the idleness; left out, either way's.
    pub idle_side: Option<Direction>,
    /// This long has gone by since the network started.
    pub after: Option<Span>,
    /// This long has not yet gone by since the network started.
    pub before: Option<Span>,
    /// Recurring windows of time.
    pub every: Option<Every>,
    /// Wall time of the day, UTC, from and to, as seconds since midnight.
    pub time_of_day: Option<(Span, Span)>,
    /// When the flow began, more flows of its protocol than this were live, itself included.
    pub concurrent_over: Option<usize>,
    /// Concurrent flows count for this long after their last packet; left out, 30 s.
    pub concurrent_idle: Option<Span>,
    /// The flow's first packet came before this much time since the network started.
    pub began_before: Option<Span>,
    /// This switch is on (see [`Action::Switch`]).
    pub switch: Option<String>,
    /// Each packet with this probability.
    pub probability: Option<f64>,
    /// This share of all flows, chosen by a hash of addresses and ports.
    pub flow_share: Option<f64>,
    /// Once a packet of a flow has matched, all its later packets do, both ways.
    pub sticky: bool,
    /// Turns the answer round (before `sticky` is looked at).
    pub not: bool,
}

/// Bytes at an offset of the payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Offset; left out, anywhere.
    pub at: Option<usize>,
    /// The bytes, as hexadecimal digits.
    #[serde(default)]
    pub hex: String,
    /// Or the bytes, as text.
    #[serde(default)]
    pub text: String,
}

/// A server's name in a TLS ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerName {
    /// The name ends with one of these; left out, any name and none.
    pub names: Vec<String>,
    /// Turns that round: the name is none of these.
    pub except: bool,
}

/// A window that recurs, from the network's start on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Every {
    /// From one window's start to the next one's.
    pub period: Span,
    /// How long each lasts.
    pub length: Span,
    /// When the first starts.
    #[serde(default)]
    pub first: Span,
}

/// Whose packets share one bucket, queue or switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// All that match, each way for itself.
    #[default]
    All,
    /// Each flow, each way for itself.
    Flow,
}

/// What happens to a packet that matches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Action {
    /// Skips all later rules of the same place.
    Pass {},
    /// Drops it.
    Drop {},
    /// Drops by the two-state model of Gilbert and Elliott; each packet that matches moves the state on.
    Loss {
        /// Probability to go from good to bad.
        good_to_bad: f64,
        /// Probability to go from bad to good.
        bad_to_good: f64,
        /// Loss in the good state.
        #[serde(default)]
        good: f64,
        /// Loss in the bad state.
        #[serde(default = "one")]
        bad: f64,
    },
    /// Delays it.
    Delay {
        /// By this.
        by: Span,
        /// And up to this much more.
        #[serde(default)]
        jitter: Span,
        /// How the jitter is spread.
        #[serde(default)]
        shape: Shape,
        /// Whether packets may overtake one another; else none leaves before the one ahead of it.
        #[serde(default)]
        overtake: bool,
    },
    /// Holds a share of the packets back, so that later ones overtake them.
    Reorder {
        /// Which share, 0 to 1.
        share: f64,
        /// For this long.
        by: Span,
    },
    /// Sends a share of the packets again.
    Duplicate {
        /// Which share, 0 to 1.
        share: f64,
        /// This long after the first.
        #[serde(default)]
        after: Span,
    },
    /// Overwrites bytes of the payload.
    Rewrite {
        /// From this offset on; what lies past the end is left out.
        at: usize,
        /// These bytes, as hexadecimal digits, or
        #[serde(default)]
        hex: String,
        /// each byte of `length` flipped by this mask (random where it is 0).
        #[serde(default)]
        flip: u8,
        /// How many bytes `flip` applies to.
        #[serde(default)]
        length: usize,
        /// Leaves the transport's checksum as it was, so that the receiver's kernel drops it.
        #[serde(default)]
        keep_checksum: bool,
    },
    /// Holds packets while a gate is shut, as a radio does while it scans.
    Gate {
        /// When it is shut.
        shut: Every,
        /// At most this many bytes wait.
        #[serde(default = "megabyte")]
        limit: Size,
    },
    /// A link of a rate with a queue before it.
    Queue {
        /// Rate of the link, IP bytes.
        rate: BitRate,
        /// Bytes that may pass at once after a quiet time.
        #[serde(default)]
        burst: Size,
        /// Bytes that may wait; what comes beyond is dropped.
        limit: Size,
        /// In which order they leave.
        #[serde(default)]
        order: Order,
        /// For `order = "priority"`: these packets leave last.
        #[serde(default)]
        low: Option<Box<Match>>,
        /// Whose packets share it.
        #[serde(default)]
        per: Per,
    },
    /// Drops what exceeds a rate, without delay.
    Police {
        /// Bits per second, IP bytes.
        #[serde(default)]
        rate: Option<BitRate>,
        /// Depth of the bucket, bytes.
        #[serde(default)]
        burst: Size,
        /// Or packets per second.
        #[serde(default)]
        packets_per_second: Option<f64>,
        /// Depth of the bucket, packets; left out, a tenth of a second's.
        #[serde(default)]
        packets_burst: Option<f64>,
        /// Once exceeded, everything that matches is dropped for so long.
        #[serde(default)]
        hold: Span,
        /// Whose packets share it.
        #[serde(default)]
        per: Per,
    },
    /// Sets marks.
    Mark {
        /// DSCP, 0 to 63.
        #[serde(default)]
        dscp: Option<u8>,
        /// ECN, 0 to 3.
        #[serde(default)]
        ecn: Option<u8>,
    },
    /// Sends TCP resets in the other end's name.
    Reset {
        /// To the client.
        #[serde(default = "yes")]
        client: bool,
        /// To the listener.
        #[serde(default)]
        server: bool,
        /// With this time to live.
        #[serde(default = "ttl")]
        ttl: u8,
        /// Lets the packet itself go on.
        #[serde(default)]
        pass: bool,
    },
    /// Drops it and answers with an ICMP error.
    Icmp {
        /// Which.
        code: IcmpCode,
        /// For `too-big`: the next link's MTU.
        #[serde(default)]
        mtu: u16,
        /// From this address; left out, the gateway's.
        #[serde(default)]
        from: Option<IpAddr>,
    },
    /// From the first match on, the flow gets another source port (and address), as from a NAT that forgot it.
    Rebind {
        /// Another public address; left out, the same.
        #[serde(default)]
        address: Option<IpAddr>,
        /// Added to the source port, modulo the upper half of the port range.
        #[serde(default = "seven")]
        port_step: u16,
    },
    /// Sends it to another host instead, as to a proxy that nobody asked for; what that host answers comes back in
    /// the first destination's name.
    Divert {
        /// That host: an address for each family that is diverted.
        to: Vec<IpAddr>,
        /// The port there.
        port: u16,
    },
    /// The client's NAT forgets the flow's mapping, and takes the packet as a new flow's (up) or drops it (down).
    Forget {
        /// Every mapping at once.
        #[serde(default)]
        all: bool,
    },
    /// Sets a switch for a time; see `match.switch`. The packet goes on.
    Switch {
        /// Its name.
        name: String,
        /// For so long.
        hold: Span,
        /// Each further match starts the time anew.
        #[serde(default)]
        renew: bool,
    },
}

/// How jitter is spread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// All of it equally likely.
    #[default]
    Uniform,
    /// Small delays likely, long ones rare: exponential, its mean a quarter, cut at the whole.
    Exponential,
}

/// In which order a queue is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// As they came.
    #[default]
    Fifo,
    /// The low class only when no other waits; it loses its place first when the queue is full.
    Priority,
    /// Each flow in turn, by bytes (deficit round robin, RFC 8290's ancestor); the longest queue loses first.
    Fair,
}

/// ICMP errors that a rule can answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IcmpCode {
    /// No route to the network.
    NetUnreachable,
    /// The host does not answer.
    HostUnreachable,
    /// Nobody listens there.
    PortUnreachable,
    /// A filter forbids it.
    AdminProhibited,
    /// Too big for the next link.
    TooBig,
}

const fn one() -> f64 {
    1.0
}
const fn megabyte() -> Size {
    Size(1_000_000)
}
const fn yes() -> bool {
    true
}
const fn ttl() -> u8 {
    crate::packet::build::TTL
}
const fn seven() -> u16 {
    7
}
