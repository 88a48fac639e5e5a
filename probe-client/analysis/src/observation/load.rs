//! What a load saw: the rates that were offered, and what became of the packets.

use std::time::Duration;

use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use serde::{Deserialize, Serialize};

use super::FlowNo;

/// One step of a load: one flow, one direction, one size and one offered rate. A long transfer is cut into several
/// steps that follow one another, so that it can be judged while it goes on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Which flow.
    pub flow: FlowNo,
    /// Number of the step within its run. Steps of flows that run at the same time on purpose have the same number.
    pub step: u32,
    /// What the step is for.
    pub experiment: LoadExperiment,
    /// On the way up (client to listener) or down.
    pub up: bool,
    /// What it runs over.
    pub carrier: Carrier,
    /// Length of its datagrams or records, bytes, as in [`super::FlowPlanned`]. All bytes here are of this layer: those
    /// of the UDP payload or of the TCP stream.
    pub size: u16,
    /// Rate at which the sender was to offer, bits per second at that layer; zero for a sender that takes what it gets
    /// (TCP and QUIC bulk).
    pub offered_bps: u64,
    /// TOS byte with which its packets were sent.
    pub tos: u8,
    /// When the step began.
    pub from: Timestamp,
    /// When its last packet was sent.
    pub to: Timestamp,
    /// It was stopped before its time, since loss or delay said enough.
    pub stopped_early: bool,
    /// Other flows that carried load in the same direction during the step; empty where it ran alone.
    pub beside: Vec<FlowNo>,
    /// What became of its packets, in sending order. Bins may be of any length; those of a staircase are at most 10 ms,
    /// those of a burst hold one packet each.
    pub bins: Vec<LoadBin>,
}

/// What a step of a load is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadExperiment {
    /// A stair of rates, at one of several sizes.
    Staircase,
    /// As fast as the sender can after a pause, for the depth of a bucket.
    Burst,
    /// UDP and TCP beside one another, with equal numbers of flows and equal offered rates.
    Interleaved,
    /// Two flows beside one another that differ in their marks alone.
    Marks,
    /// A full line, for what it does to everybody's delay.
    Latency,
    /// A rehearsal of the transfer.
    Rehearsal,
    /// A fresh flow beside a rehearsal, at its rate: what a new flow gets at that moment.
    Fresh,
    /// Somebody else's trace.
    Trace,
}

/// What became of the packets that were sent in one stretch of time. A single packet is a bin of one.
///
/// For TCP, TLS and QUIC streams a packet is a segment or datagram as the sender's stack counts them; `lost` are those
/// that had to be sent again, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadBin {
    /// When the first of them was sent.
    pub at: Timestamp,
    /// Packets sent.
    pub packets: u32,
    /// Bytes sent, those of lost packets too.
    pub bytes: u64,
    /// Packets lost, of those sent.
    pub lost: u32,
    /// Bytes lost, of those sent.
    pub lost_bytes: u64,
    /// One-way delays of those that arrived; none where none did. The zero is arbitrary, and the same for all bins of a
    /// flow in one direction.
    pub delay: Option<DelayRange>,
}

/// Delays of some packets, nanoseconds. Only differences mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayRange {
    /// The shortest.
    pub min: i64,
    /// The mean.
    pub mean: i64,
    /// The longest.
    pub max: i64,
}

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadEnd {
    /// The client.
    Client,
    /// The listener.
    Listener,
}

/// What an end can do by itself, measured before anything is said of the path: a plateau at or above this is the end's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceiling {
    /// Which end.
    pub end: LoadEnd,
    /// It sends (true) or receives.
    pub sends: bool,
    /// Over what.
    pub carrier: Carrier,
    /// Length of the datagrams or records, bytes.
    pub size: u16,
    /// Highest rate that it kept up, bits per second at the layer of [`Load::size`].
    pub bps: u64,
    /// Packets per second at that rate.
    pub packets_per_second: f64,
    /// When it was measured.
    pub at: Timestamp,
    /// For how long.
    pub length: Duration,
}
