//! What a run saw: the only input of analysis, whether live, from a file, or imported.
//!
//! Times are [`Timestamp`]s of the client's clock unless a field says otherwise. What was not measured is `None`.

mod experiments;
mod load;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use probe_protocol::control::TcpFacts;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, Refusal};
use serde::{Deserialize, Serialize};

pub use self::experiments::{
    Asked, Death, Fragment, IdleGap, NameChanged, ProxyTried, Refresh, ServerNameKind, Silence, StreamEnd,
    StreamEndSeen, Watch, WatchAnswer,
};
pub use self::load::{Ceiling, DelayRange, Load, LoadBin, LoadEnd, LoadExperiment};

/// A flow's number within its run: one 5-tuple's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowNo(pub u32);

/// One thing that a run saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Observation {
    /// The run began.
    RunStarted(RunStarted),
    /// The target's name was looked up.
    Resolved(Resolved),
    /// A flow is about to open; the first thing said of it.
    FlowPlanned(FlowPlanned),
    /// An attempt to open a flow came to an end. A flow may take several.
    Attempt(Attempt),
    /// A flow is open.
    FlowOpened(FlowOpened),
    /// The channel of a TLS or QUIC flow, as both ends see it.
    Channel(Channel),
    /// The fate of one probe is settled: said exactly once of each probe that was sent.
    Probe(Probe),
    /// A probe was due and was not sent.
    Missed(Missed),
    /// A reply or a packet came that is evidence of tampering.
    Rewritten(Rewritten),
    /// Datagrams of a QUIC flow, counted at the sockets of both ends.
    Datagrams(DatagramCounts),
    /// The listener saw a flow's source change.
    Moved(Moved),
    /// What reached the listener of flows that never opened.
    Arrivals(OpeningArrivals),
    /// TCP_INFO of both ends.
    Tcp(TcpView),
    /// The result of a search for the largest packet.
    PathMtu(PathMtu),
    /// A flow that answered before is silent, or answers again.
    Silence(Silence),
    /// One rung of a ladder of idle gaps was decided.
    IdleGap(IdleGap),
    /// What became of fragments of one size and way.
    Fragment(Fragment),
    /// What the gateway, the loopback and the interface answered in one second.
    Watch(Watch),
    /// How the listener saw a stream end that was cut.
    StreamEnd(StreamEnd),
    /// The proxy that the client's computer is configured with was tried.
    Proxy(ProxyTried),
    /// The target's name leads elsewhere than before.
    NameChanged(NameChanged),
    /// A host did something that the path must not be blamed for.
    Host(HostEvent),
    /// The listener is another boot than before.
    ListenerRestarted(ListenerRestarted),
    /// One step of a load.
    Load(Load),
    /// What an end can do by itself.
    Ceiling(Ceiling),
    /// A flow is over.
    FlowEnded(FlowEnded),
    /// The run is over.
    RunEnded(RunEnded),
    /// A packet of a flow's opening had its answer after all.
    AnsweredLate(AnsweredLate),
}

/// The run began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunStarted {
    /// When.
    pub at: Timestamp,
    /// The same moment on the wall clock.
    pub wall: WallTime,
    /// The target as the user gave it, without secrets: `HOST:PORT`.
    pub target: String,
    /// Whether the client has an invite's key.
    pub invited: bool,
    /// Whether both ends are in one process on loopback (`--local`).
    pub local: bool,
    /// Largest rate of load the run may use, bits per second; zero without load.
    pub load_bps: u64,
}

/// The target's name was looked up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// The name or address.
    pub host: String,
    /// What it led to; empty with `error`.
    pub addresses: Vec<IpAddr>,
    /// The system's words where it failed.
    pub error: Option<String>,
}

/// What a flow is for: analysis compares flows by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// Measures at a steady, slow rate; the flow that stays.
    Steady,
    /// Only opens, to see whether it opens.
    Reach,
    /// Searches for the path MTU.
    PathMtu,
    /// Sends and asks for DSCP and ECN marks.
    Marks,
    /// A short flow of one image, repeated in random order beside its controls.
    Trial,
    /// A new port beside old flows of the same image.
    Fresh,
    /// A long-lived flow of a soak.
    Old,
    /// One of several with crossed rates, sizes and staggered starts.
    Crossed,
    /// One of many source ports with all else the same.
    Fan,
    /// One rung of a ladder of idle gaps.
    Idle,
    /// TLS with another server name, or none.
    Named,
    /// Datagrams larger than the MTU, without DF.
    Fragments,
    /// One of a ladder of flows that are open at the same time.
    Concurrent,
    /// Load.
    Bulk,
    /// Measures like a steady one while load is on the line: for latency under load.
    Loaded,
}

/// A flow is about to open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowPlanned {
    /// Its number.
    pub flow: FlowNo,
    /// Its name in reports, `udp/steady`.
    pub name: String,
    /// When its opening starts.
    pub at: Timestamp,
    /// What it runs over.
    pub carrier: Carrier,
    /// What its records wear.
    pub dress: Dress,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it goes.
    pub to: SocketAddr,
    /// Length of its datagrams (UDP) or records, bytes.
    pub size: u16,
    /// Time between its probes, on average; zero where it sends none by schedule.
    pub interval: Duration,
    /// The flow that it follows after that one's death, with the same properties.
    #[serde(default)]
    pub replaces: Option<FlowNo>,
    /// Which name a TLS or QUIC flow gives; none for other carriers.
    #[serde(default)]
    pub server_name: Option<ServerNameKind>,
    /// How long it is meant to live from its opening on; none for one that stays to the end of the run.
    #[serde(default)]
    pub life: Option<Duration>,
    /// The TOS bytes that its probes go through, probe `n` with the one at `n` modulo their number; empty where all have
    /// zero.
    #[serde(default)]
    pub marks: Vec<u8>,
}

/// An attempt to open a flow came to an end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Which flow.
    pub flow: FlowNo,
    /// When it began.
    pub from: Timestamp,
    /// When it ended.
    pub to: Timestamp,
    /// The local address it used, where known.
    pub source: Option<SocketAddr>,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt to open a flow ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// The listener accepted it.
    Opened,
    /// Nothing came back in time. `connected`: TCP's own handshake had succeeded.
    Silent {
        /// TCP's own handshake had succeeded.
        connected: bool,
    },
    /// TCP: refused by a reset. UDP: by an ICMP port unreachable.
    Refused {
        /// Who said so, where the system tells.
        by: Option<IpAddr>,
    },
    /// The network said that it cannot be reached (ICMP, or no route).
    NetworkError {
        /// In the system's words.
        says: String,
        /// Who said so, where the system tells.
        by: Option<IpAddr>,
    },
    /// Established, then cut before the listener's answer.
    Cut {
        /// With a reset, rather than an orderly end.
        reset: bool,
        /// Bytes received before that.
        received: u64,
    },
    /// The local system would not send or connect.
    LocalError {
        /// In the system's words.
        says: String,
    },
    /// Something answered that is not a listener of ours.
    Foreign {
        /// What it looks like: `HTTP 302 to http://portal/`, `SSH`, `TLS certificate of ...`, `unknown`.
        looks_like: String,
        /// It is an HTTP redirect or page.
        http: bool,
    },
    /// The listener refused, in the protocol.
    Refusal {
        /// Why; none where the code is newer than this version.
        reason: Option<Refusal>,
        /// The listener's version.
        software: [u8; 3],
    },
    /// TLS or QUIC failed in its own handshake.
    HandshakeFailed {
        /// In the library's words.
        says: String,
    },
}

/// A flow is open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowOpened {
    /// Which.
    pub flow: FlowNo,
    /// When.
    pub at: Timestamp,
    /// Its local address.
    pub source: SocketAddr,
    /// Its address as the listener sees it.
    pub observed: SocketAddr,
    /// Time that TCP's own handshake took, where there is one.
    pub connect: Option<Duration>,
    /// The listener's boot id.
    pub boot: u64,
    /// The listener's count of starts.
    pub epoch: u32,
    /// Whether the listener gave all rights.
    pub authenticated: bool,
    /// The listener's version.
    pub software: [u8; 3],
    /// The listener's wall clock when it accepted.
    pub listener_wall: WallTime,
    /// What the opening took on the wire, where the flow's packets are its own (UDP).
    #[serde(default)]
    pub handshake: Option<Handshake>,
}

/// The packets of a UDP flow's opening, before its first probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// Packets sent from the source port that opened.
    pub packets: u32,
    /// Their bytes as IP packets.
    pub bytes: u32,
    /// How many of the first packets stayed without an answer although a later one had its own; none where the answers do
    /// not tell to which packet they belong.
    pub unanswered_first: Option<u32>,
}

/// An earlier packet of a UDP flow's opening than any that was known to be answered had its answer after the flow was open:
/// it was late, and not lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredLate {
    /// Which flow.
    pub flow: FlowNo,
    /// When.
    pub at: Timestamp,
    /// What [`Handshake::unanswered_first`] is now.
    pub unanswered_first: u32,
}

/// The channel of a TLS or QUIC flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Which flow.
    pub flow: FlowNo,
    /// When.
    pub at: Timestamp,
    /// SHA-256 of the certificate that was presented.
    pub fingerprint: [u8; 32],
    /// The fingerprint in the invite, where there is one.
    pub expected: Option<[u8; 32]>,
    /// Issuer of the certificate that was presented.
    pub issuer: Option<String>,
    /// Whether both ends derive the same exporter (RFC 9266); none where the listener could not be asked.
    pub same_exporter: Option<bool>,
}

/// What became of one probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fate {
    /// A reply came.
    Received,
    /// The listener's ledger lacks it: lost on the way up.
    LostUp,
    /// The listener's ledger has it and no reply came: lost on the way down.
    LostDown,
    /// No reply came, and the ledger could not be had.
    LostUnknown,
    /// Not counted: the host's doing.
    Excluded(Excluded),
}

/// Why a probe is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Excluded {
    /// The system refused to send it.
    SendFailed,
    /// The client slept.
    Suspended,
    /// The client's socket buffer overflowed.
    ReceiveOverflow,
    /// The listener's socket buffer overflowed.
    ListenerOverflow,
    /// The run ended before its time was up.
    RunEnded,
    /// The client's interface, address or gateway changed under it.
    InterfaceChanged,
    /// It was part of an experiment that measures something else: an idle flow's packets, which are answered minutes later
    /// or never.
    Experiment,
}

/// One probe, settled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Which flow.
    pub flow: FlowNo,
    /// Sequence number.
    pub seq: u64,
    /// When it was due.
    pub scheduled: Timestamp,
    /// When it was handed to the system.
    pub sent: Timestamp,
    /// Length of the datagram or record, bytes.
    pub size: u16,
    /// What became of it.
    pub fate: Fate,
    /// The first reply to it.
    pub reply: Option<ProbeReply>,
    /// Replies beyond the first.
    pub extra_replies: u16,
}

/// The first reply to a probe.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReply {
    /// When the program read it.
    pub at: Timestamp,
    /// When the client's kernel received it.
    pub kernel: Option<Timestamp>,
    /// When the probe arrived at the listener, on the listener's clock.
    pub listener_arrived: Timestamp,
    /// `listener_arrived` is a kernel timestamp.
    pub listener_kernel: bool,
    /// Time from arrival at the listener to its reply.
    pub dwell: Duration,
    /// A reply to a later probe of the flow came first.
    pub reordered: bool,
    /// The listener saw this probe arrive twice or more.
    pub duplicated_up: bool,
    /// TTL with which the probe arrived at the listener.
    pub ttl_up: Option<u8>,
    /// TTL with which the reply arrived here.
    pub ttl_down: Option<u8>,
    /// TOS byte that the probe was sent with.
    pub tos_sent: u8,
    /// TOS byte with which it arrived at the listener.
    pub tos_up: Option<u8>,
    /// TOS byte that the reply was asked to be sent with.
    pub tos_asked: u8,
    /// TOS byte with which the reply arrived here.
    pub tos_down: Option<u8>,
}

/// A probe was due and was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    /// Which flow.
    pub flow: FlowNo,
    /// When the first of them was due.
    pub from: Timestamp,
    /// How many in a row.
    pub count: u64,
}

/// A packet came altered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rewritten {
    /// Which flow.
    pub flow: FlowNo,
    /// When.
    pub at: Timestamp,
    /// On the way up (true), down (false), or not known.
    pub up: Option<bool>,
    /// Offset of the first changed byte in the datagram, where known.
    pub offset: Option<u32>,
}

/// Datagrams of a QUIC flow at the sockets of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatagramCounts {
    /// Which flow.
    pub flow: FlowNo,
    /// Datagrams that left the client's socket.
    pub sent_up: u64,
    /// Of those, lost on the way.
    pub lost_up: u64,
    /// Datagrams that left the listener's socket.
    pub sent_down: u64,
    /// Of those, lost on the way.
    pub lost_down: u64,
}

/// A flow's source changed, as the listener saw it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Which flow.
    pub flow: FlowNo,
    /// When the client learned of it.
    pub at: Timestamp,
    /// Where its packets came from before.
    pub old: SocketAddr,
    /// Where they come from now.
    pub new: SocketAddr,
}

/// What reached the listener of flows that never opened, told over another transport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OpeningArrivals {
    /// When it was asked.
    pub at: Timestamp,
    /// UDP flows that have not opened: how many hellos arrived since the session exists, how many had been sent since.
    pub udp: Vec<(FlowNo, u32, u32)>,
    /// TCP connections accepted from the client's address, where it was asked over UDP.
    pub tcp_accepted: Option<u32>,
    /// Of those, how many showed a TLS ClientHello, where the listener says.
    #[serde(default)]
    pub client_hellos: Option<u32>,
    /// Datagrams from the client's address, since the session began, that the listener could not make anything of or that
    /// were altered.
    #[serde(default)]
    pub strange_datagrams: Option<u32>,
    /// The listener's own address at which the question arrived, where its system tells.
    #[serde(default)]
    pub listener: Option<IpAddr>,
}

/// TCP_INFO of both ends of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TcpView {
    /// Which flow.
    pub flow: FlowNo,
    /// At the client.
    pub client: Option<TcpFacts>,
    /// At the listener.
    pub listener: Option<TcpFacts>,
}

/// The result of a search for the largest packet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathMtu {
    /// Which flow searched.
    pub flow: FlowNo,
    /// On the way up (true) or down.
    pub up: bool,
    /// Largest IP packet that got through, bytes.
    pub largest: Option<u32>,
    /// Smallest IP packet tried that did not get through although tried several times.
    pub smallest_lost: Option<u32>,
    /// An ICMP or local message named this MTU.
    pub told: Option<u32>,
    /// MTU of the client's interface.
    pub interface: Option<u32>,
}

/// A host did something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostEvent {
    /// Start, or the moment.
    pub from: Timestamp,
    /// End.
    pub to: Timestamp,
    /// What.
    pub what: HostFault,
}

/// What a host did: the client's, where nothing else is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostFault {
    /// It slept.
    Suspended,
    /// Its wall clock was set by so many nanoseconds.
    ClockStepped(i64),
    /// It was too busy: the program woke up late.
    Stalled,
    /// Its socket buffers overflowed: so many datagrams.
    ReceiveOverflow(u32),
    /// The system refused to send: in its words.
    SendFailed(String),
    /// The interface, local address or gateway towards the target is another.
    InterfaceChanged {
        /// In words, `eth0 192.0.2.7 via 192.0.2.1`; `none` where there was no way.
        old: String,
        /// Likewise.
        new: String,
    },
    /// The listener was too busy to answer in time: its own clocks say so.
    ListenerStalled,
    /// The program was not running: it was stopped or killed, and went on later with the same run.
    NotRunning,
    /// What was measured could not be written to the run's file for a time, in words; what is missing was not kept.
    NotRecorded(String),
}

/// The listener is another boot than before.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerRestarted {
    /// When the last reply of the old boot came.
    pub last_seen: Timestamp,
    /// When the new boot answered.
    pub at: Timestamp,
    /// The old boot id.
    pub old: u64,
    /// The new boot id.
    pub new: u64,
}

/// A flow is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowEnded {
    /// Which.
    pub flow: FlowNo,
    /// When.
    pub at: Timestamp,
    /// Why.
    pub end: End,
}

/// Why a flow is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum End {
    /// It did what it was for.
    Finished,
    /// It never opened.
    NeverOpened,
    /// Its connection was reset.
    Reset,
    /// Its connection was closed by the other end.
    Closed,
    /// Its connection timed out, or it fell silent.
    TimedOut,
    /// The listener forgot it by restarting.
    ListenerRestarted,
    /// Something else, in words.
    Error(String),
}

/// The run is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunEnded {
    /// When.
    pub at: Timestamp,
    /// It did all it had planned, rather than being stopped.
    pub complete: bool,
    /// Largest receive buffer that the system granted a UDP socket, bytes.
    pub receive_buffer: Option<u64>,
}
