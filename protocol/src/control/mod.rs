//! What the ends ask each other beside probing: the ledger, arrivals, addresses, the verdict handed in.
//!
//! A message is the body of a [`Control`](crate::wire::Kind::Control) record: `code 2 · length 2 · message · zeros`.
//! Codes are in a table of their own ([`Request::code`]), so that the order of Rust's variants is no wire format. The
//! client sends a request as long as the largest reply it wants, since a reply over UDP never exceeds its request.
//! Every request may be sent twice without harm.

mod codec;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::codec::{ControlError, decode_reply, decode_request, encode_reply, encode_request};
use crate::bulk::{Bin, Ceiling, Order};
use crate::time::Timestamp;
use crate::wire::id::FlowId;

/// Largest message, bytes of a body: what fits a UDP datagram on nearly every path.
pub const MAX_MESSAGE: usize = 1100;
/// Largest document a client may hand in, bytes after compression.
pub const MAX_HAND_IN: u32 = 256 * 1024;
/// Largest piece of it in one message, bytes.
pub const MAX_HAND_IN_CHUNK: usize = 1000;

/// From client to listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Which sequence numbers of a flow arrived.
    Ledger(LedgerRequest),
    /// When and how single packets of a flow arrived.
    Arrivals(ArrivalsRequest),
    /// What the listener knows of a flow.
    Flow(FlowRequest),
    /// Which UDP datagrams of a QUIC flow left or reached the listener's socket.
    Datagrams(DatagramsRequest),
    /// A piece of the verdict.
    HandIn(HandInRequest),
    /// The run is over.
    End(EndRequest),
    /// What of this session's attempts to open flows reached the listener.
    Openings(OpeningsRequest),
    /// Begins or ends a load.
    Bulk(BulkRequest),
    /// What the listener counted of a load.
    Bins(BinsRequest),
}

/// From listener to client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Answers [`Request::Ledger`].
    Ledger(LedgerReply),
    /// Answers [`Request::Arrivals`].
    Arrivals(ArrivalsReply),
    /// Answers [`Request::Flow`].
    Flow(FlowReply),
    /// Answers [`Request::Datagrams`].
    Datagrams(DatagramsReply),
    /// Answers [`Request::HandIn`].
    HandIn(HandInReply),
    /// Answers [`Request::End`].
    End(EndReply),
    /// Answers [`Request::Openings`].
    Openings(OpeningsReply),
    /// Answers [`Request::Bulk`].
    Bulk(BulkReply),
    /// Answers [`Request::Bins`].
    Bins(BinsReply),
    /// The request could not be answered.
    Error(ErrorReply),
}

/// Asks for the ranges of sequence numbers that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRequest {
    /// Which flow; of the same session.
    pub flow: FlowId,
    /// From which sequence number on.
    pub from: u64,
    /// Everything below this has been settled by the client and may be forgotten.
    pub settled_below: u64,
}

/// Ranges of sequence numbers that arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerReply {
    /// Distinct sequence numbers that arrived since the flow opened.
    pub received: u64,
    /// Arrivals of sequence numbers that had arrived before.
    pub duplicates: u64,
    /// Arrivals below the highest sequence number so far (RFC 4737 section 3).
    pub reordered: u64,
    /// The highest sequence number that arrived.
    pub highest: Option<u64>,
    /// Nothing is known below this.
    pub known_from: u64,
    /// Ranges in ascending order: first, and how many in a row.
    pub ranges: Vec<(u64, u64)>,
    /// Ranges before this one are all in this reply; ask again from here. None where it is complete up to `highest`.
    pub next: Option<u64>,
}

/// Asks for single arrivals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalsRequest {
    /// Which flow; of the same session.
    pub flow: FlowId,
    /// Arrivals after this one, counted from 0 over all arrivals of the flow.
    pub from: u64,
}

/// Single arrivals, in the order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrivalsReply {
    /// The number of the first one here; later than asked for where older ones have been overwritten.
    pub first: u64,
    /// Number of all arrivals so far.
    pub total: u64,
    /// The arrivals.
    pub arrivals: Vec<Arrival>,
}

/// One packet's arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Sequence number.
    pub seq: u64,
    /// When, on the listener's clock.
    pub at: Timestamp,
    /// Received TTL or hop limit, where the system tells.
    pub ttl: Option<u8>,
    /// Received TOS or traffic class, where the system tells.
    pub tos: Option<u8>,
    /// Length of the datagram, bytes.
    pub len: u16,
}

/// Asks what the listener knows of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRequest {
    /// Which flow; of the same session.
    pub flow: FlowId,
}

/// What the listener knows of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowReply {
    /// Where its packets come from now.
    pub source: SocketAddr,
    /// Where they came from before, oldest first, with when that ended on the listener's clock; bounded.
    pub moved: Vec<(SocketAddr, Timestamp)>,
    /// How often the source changed in all.
    pub moves: u32,
    /// Records that failed the integrity check under this flow's id.
    pub forged: u64,
    /// The bytes of the first such record, for evidence; bounded.
    pub forged_sample: Option<Box<[u8]>>,
    /// TCP's own view, where the flow runs over TCP and the system tells.
    pub tcp: Option<TcpFacts>,
    /// How its stream ended; none while it is open, and for flows that are no streams.
    pub over: Option<StreamOver>,
}

/// How a stream ended, as the listener saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamOver {
    /// A reset came, and the listener had sent none.
    Reset,
    /// The other side ended it in order.
    Closed,
    /// The listener ended it.
    Own,
}

/// TCP_INFO, as far as both ends compare it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpFacts {
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Lowest round-trip time, microseconds; 0 where the system does not tell.
    pub min_rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Largest segment sent, bytes.
    pub snd_mss: u32,
    /// Largest segment received, bytes.
    pub rcv_mss: u32,
    /// Path MTU that TCP assumes, bytes.
    pub pmtu: u32,
}

/// Asks for the ledger of the UDP socket under QUIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramsRequest {
    /// Which QUIC flow; of the same session.
    pub flow: FlowId,
    /// Those that reached the listener (true), or left it (false).
    pub received: bool,
    /// From which on, counted from 0.
    pub from: u64,
}

/// A part of the ledger of the UDP socket under QUIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatagramsReply {
    /// The number of the first one here; later than asked for where older ones have been overwritten.
    pub first: u64,
    /// Number of all so far.
    pub total: u64,
    /// Hash of each datagram's last 16 bytes ([`datagram_hash`]).
    pub hashes: Vec<u32>,
}

/// The name of a datagram in ledgers of sockets: SipHash-2-4 with a fixed key of its last 16 bytes, which in QUIC are
/// ciphertext or tag, so no two are alike.
pub fn datagram_hash(datagram: &[u8]) -> u32 {
    use std::hash::Hasher;
    let tail = &datagram[datagram.len().saturating_sub(16)..];
    let mut hasher = siphasher::sip::SipHasher24::new_with_key(b"datagram's name ");
    hasher.write(tail);
    hasher.finish() as u32
}

/// A piece of the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandInRequest {
    /// Bytes in all, at most [`MAX_HAND_IN`].
    pub total: u32,
    /// Where this piece belongs.
    pub offset: u32,
    /// The piece, at most [`MAX_HAND_IN_CHUNK`] bytes.
    pub chunk: Vec<u8>,
}

/// How much of the verdict has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandInReply {
    /// Bytes without a gap from the start.
    pub have: u32,
    /// All of it is kept.
    pub kept: bool,
}

/// The run is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRequest {}

/// Acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndReply {}

/// What of this session's attempts to open flows reached the listener: tells "nothing arrives" from "no answer
/// returns". Counted once the session exists, so a client goes on opening what is still closed after its first
/// transport has opened the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningsRequest {}

/// Attempts that reached the listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpeningsReply {
    /// Per flow that this session tried to open; bounded, the latest first.
    pub openings: Vec<Opening>,
    /// TCP connections that the listener accepted from this session's address, TLS and strangers' included, since it
    /// started.
    pub tcp_accepted: u32,
    /// Of those, how many opened with a TLS ClientHello: what a box drops for its ClientHello is not among them.
    pub client_hellos: u32,
    /// Datagrams from this session's address that were none of ours, or were altered, since the session began.
    pub strange_datagrams: u32,
    /// The listener's own address at which this question arrived, where its system tells: another one than the client
    /// aimed at is translated on the way.
    pub local: Option<IpAddr>,
}

/// Attempts to open one flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The flow's nonce in its Hello.
    pub flow_nonce: u64,
    /// Hellos that arrived.
    pub arrived: u32,
    /// Hellos among them that carried a good cookie.
    pub with_cookie: u32,
    /// Where the last one came from.
    pub source: SocketAddr,
}

/// Begins a load on a flow, or ends it. Downwards it needs the invite's key and goes to the address alone that the
/// flow's cookie proved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkRequest {
    /// On which flow; of the same session. Streams want to be asked on themselves.
    pub flow: FlowId,
    /// What to send or to expect. An order of the same number again changes nothing; a lower one is refused.
    pub order: Order,
    /// End it instead.
    pub stop: bool,
}

/// The load has begun, or is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkReply {
    /// As it was granted: the listener's bounds may have lowered its rate and length.
    pub order: Order,
    /// The listener's clock.
    pub now: Timestamp,
}

/// Asks what the listener counted of a load. Bins below `from` may be forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinsRequest {
    /// Which flow; of the same session.
    pub flow: FlowId,
    /// Number of the order.
    pub order: u32,
    /// From which bin on.
    pub from: u32,
}

/// What the listener counted of a load.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BinsReply {
    /// Number of the order.
    pub order: u32,
    /// Distinct packets sent or received so far.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Slots that the listener missed, where it sends.
    pub missed: u64,
    /// It no longer sends.
    pub ended: bool,
    /// Bins that were forgotten before they were fetched.
    pub forgotten: u64,
    /// Bins in ascending order; those without a packet are left out.
    pub bins: Vec<Bin>,
    /// Bins before this one are all in this reply; ask again from here. None where there is none from here on.
    pub next: Option<u32>,
    /// What the listener moves by itself; none where it has not measured that.
    pub ceiling: Option<Ceiling>,
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("the listener does not answer this: {why}")]
pub struct ErrorReply {
    /// Why.
    pub why: ControlRefusal,
    /// The listener's boot id.
    pub boot: u64,
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum ControlRefusal {
    /// No such flow in this session: forgotten, or of another boot.
    #[error("it does not know the flow")]
    UnknownFlow,
    /// It needs the invite's key.
    #[error("it wants an invite for this")]
    NeedsInvite,
    /// A bound would be exceeded.
    #[error("that is too much")]
    TooMuch,
    /// The request's code or content is not of this version.
    #[error("it does not know the request")]
    NotUnderstood,
    /// The disk is full or not writable.
    #[error("it could not keep it")]
    NotKept,
    /// The flow's packets come from an address that has not been proven: it must be opened again.
    #[error("the flow's new address is not proven")]
    NotProven,
}
