//! What single experiments and the watch beside the path saw.

use std::net::IpAddr;
use std::time::Duration;

use probe_protocol::time::Timestamp;
use serde::{Deserialize, Serialize};

use super::FlowNo;

/// Which name a TLS flow gives for server name indication (RFC 6066 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerNameKind {
    /// The target's own; none where the target is a bare address.
    Target,
    /// A well-known name that is not the target's.
    Other,
    /// None at all.
    Absent,
}

/// Whose packets keep a mapping alive while a gap is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// Nobody's: the flow is idle.
    None,
    /// The client's alone: nothing comes down.
    Up,
    /// The listener's alone: nothing goes up.
    Down,
    /// Both sides'.
    Both,
}

/// How a flow did not survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// Nothing came any more, although a fresh flow got through at that time.
    Silent,
    /// The connection was reset or closed.
    Reset,
    /// It goes on from another source address or port: the mapping was forgotten and made anew.
    Moved,
}

/// One rung of a ladder of idle gaps: a flow was left alone for a time, once, and then tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleGap {
    /// Which flow; it is used for this gap alone.
    pub flow: FlowNo,
    /// How long nothing was sent, but for the refreshes.
    pub gap: Duration,
    /// Who sent in the meantime.
    pub refreshed: Refresh,
    /// Whether it still worked after the gap; none where that cannot be said (the run or the path ended first, the host
    /// slept, the listener restarted, or no flow got through at all at that time).
    pub survived: Option<bool>,
    /// How it did not survive.
    pub how: Option<Death>,
    /// When this was decided.
    pub at: Timestamp,
}

/// Datagrams larger than the MTU, sent without DF so that they travel as fragments: said once of each size and way, and
/// only where both ends' counts are known.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fragment {
    /// Which flow sent them.
    pub flow: FlowNo,
    /// On the way up (true) or down.
    pub up: bool,
    /// IP packet before fragmentation, bytes.
    pub size: u32,
    /// How many were sent that way.
    pub sent: u32,
    /// How many of them arrived whole.
    pub arrived: u32,
    /// When this was decided.
    #[serde(default)]
    pub at: Timestamp,
}

/// What is watched beside the path, once a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    /// When the second's questions were asked.
    pub at: Timestamp,
    /// The default gateway's answer; none where this system gives no way to ask it.
    pub gateway: Option<WatchAnswer>,
    /// The answer of this host's own loopback, where a small datagram was sent to oneself; none where that cannot be
    /// done.
    pub loopback: Option<WatchAnswer>,
    /// Whether an interface that leads to the target is up and has an address; none where the system does not tell.
    pub interface_up: Option<bool>,
}

/// How something watched answered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchAnswer {
    /// Who was asked; none for the loopback.
    pub who: Option<IpAddr>,
    /// How.
    pub asked: Asked,
    /// Whether it answered within the second.
    pub reachable: bool,
    /// How long the answer took, where it was timed.
    pub rtt: Option<Duration>,
}

/// How something watched was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// ICMP echo (RFC 792, RFC 4443).
    Echo,
    /// A TCP connection that was accepted or refused: either is an answer.
    Connect,
    /// The system's neighbour table (ARP or neighbour discovery): whether the link answers.
    Neighbour,
    /// A datagram to oneself.
    Datagram,
}

/// The target's name leads elsewhere than before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NameChanged {
    /// When it was looked up.
    pub at: Timestamp,
    /// The name.
    pub host: String,
    /// What it led to before.
    pub old: Vec<IpAddr>,
    /// What it leads to now.
    pub new: Vec<IpAddr>,
}

/// The proxy that the client's computer is configured with was asked for a tunnel to the target, since no TCP connection
/// opened by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyTried {
    /// When its answer was in.
    pub at: Timestamp,
    /// Which one: `HOST:PORT`.
    pub proxy: String,
    /// The listener itself answered through it.
    pub through: bool,
    /// What came, in words.
    pub says: String,
}

/// A flow that answered before is judged silent, or a silent one answers again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// Which flow.
    pub flow: FlowNo,
    /// When its last answer came before the silence.
    pub since: Timestamp,
    /// When it was judged so; with `over`, when it answered again.
    pub at: Timestamp,
    /// The silence is over: the flow answers again.
    pub over: bool,
}

/// How the listener saw the end of a stream that the client saw cut, asked over another flow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// Which flow.
    pub flow: FlowNo,
    /// What it saw.
    pub seen: StreamEndSeen,
    /// When it was asked.
    pub at: Timestamp,
}

/// What the listener saw of a stream's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamEndSeen {
    /// To the listener it is still open: it has neither sent nor seen an end.
    Open,
    /// It was reset, and not by the listener.
    Reset,
    /// The client's side ended it in order, as the listener saw it.
    Closed,
    /// The listener itself ended it.
    Own,
}
