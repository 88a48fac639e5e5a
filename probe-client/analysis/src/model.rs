//! What comes out of analysis. Names and units are those of the JSON that programs read; what was not measured is null.

use probe_protocol::finding::{Direction, Finding, Severity};
use probe_protocol::time::WallTime;
use probe_protocol::wire::hello::Refusal;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything that is said of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// What kind of run it was, and how far it came.
    pub run: RunFacts,
    /// The listener refused in the protocol: an outcome, not a finding.
    pub refused: Option<Refused>,
    /// In one sentence.
    pub verdict: Verdict,
    /// What gets through to the best of the target's addresses.
    pub reachability: Reachability,
    /// The same for each address.
    pub reachability_by_address: Vec<AddressReachability>,
    /// What is wrong, the most severe first.
    pub findings: Vec<Finding>,
    /// What the path does to packets, over all flows of the best transport together.
    pub path: Option<PathSummary>,
    /// The figures of each flow.
    pub flows: Vec<FlowSummary>,
    /// The same of flows that are alike, together.
    pub groups: Vec<FlowGroup>,
    /// What happened when.
    pub events: Vec<Event>,
    /// What a rehearsed transfer got, by direction.
    pub transfers: Vec<TransferSummary>,
    /// Delay of each class while load is on the line, beside that without.
    pub under_load: Vec<LoadedDelay>,
    /// Up to which rates a load found no limit, by direction.
    pub unlimited: Vec<Unlimited>,
    /// Largest packets in each direction.
    pub path_mtu: Vec<PathMtuSummary>,
    /// The clocks of both ends.
    pub clock: Option<ClockSummary>,
    /// How good the measurement itself was.
    pub instrument: Instrument,
}

/// What kind of run it was, and how far it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunFacts {
    /// The target as given, without secrets.
    pub target: String,
    /// When it began, on the client's wall clock.
    pub started: Option<WallTime>,
    /// How long it took, seconds.
    pub duration_s: f64,
    /// It did all it had planned.
    pub complete: bool,
    /// Both ends were in one process on loopback.
    pub local: bool,
    /// The client had an invite.
    pub invited: bool,
    /// The listener gave all rights; none where no flow opened.
    pub authenticated: Option<bool>,
    /// At least one flow opened, so something was measured.
    pub measured: bool,
    /// The client's address and port as the listener saw them.
    pub client_observed_as: Option<String>,
    /// The listener's version.
    pub listener_version: Option<String>,
}

/// The listener answered, and refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Refused {
    /// A short name of the reason: `invite-expired`; `unknown` where this version does not know it.
    pub reason: String,
    /// What it means and what to do.
    pub says: String,
    /// The listener's version.
    pub listener_version: String,
    /// Trying again later may help.
    pub temporary: bool,
}

impl Refused {
    pub(crate) fn new(reason: Option<Refusal>, software: [u8; 3]) -> Self {
        let name = match reason {
            Some(Refusal::ClientTooOld) => "client-too-old",
            Some(Refusal::ListenerTooOld) => "listener-too-old",
            Some(Refusal::InviteExpired) => "invite-expired",
            Some(Refusal::InviteRevoked) => "invite-revoked",
            Some(Refusal::NotAllowed) => "not-allowed",
            Some(Refusal::Full) => "full",
            Some(Refusal::TooManyFromSource) => "too-many-from-source",
            Some(Refusal::NeedsInvite) => "needs-invite",
            None => "unknown",
        };
        let says = reason.map_or_else(
            || {
                "the listener refused for a reason that this version does not know: update probe-client"
                    .to_owned()
            },
            |reason| reason.to_string(),
        );
        Self {
            reason: name.to_owned(),
            says,
            listener_version: version(software),
            temporary: reason.is_some_and(Refusal::is_temporary),
        }
    }
}

pub(crate) fn version([major, minor, patch]: [u8; 3]) -> String {
    format!("{major}.{minor}.{patch}")
}

/// A rehearsed transfer, one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TransferSummary {
    /// Which way.
    pub direction: Direction,
    /// Rate that was aimed at, bits per second of UDP payload.
    pub target_bps: u64,
    /// Rate at which blocks really left: below the target where an end was too slow for it.
    pub sent_bps: Option<f64>,
    /// Rate that arrived, over the whole time.
    pub sustained_bps: Option<f64>,
    /// How long it lasted, seconds.
    pub length_s: f64,
    /// Blocks sent. Every one of them is accounted for at both ends.
    pub packets_sent: u64,
    /// Blocks of those that did not arrive.
    pub packets_lost: u64,
    /// Their share.
    pub loss_ratio: Option<f64>,
    /// When less than nine tenths of what was sent arrived for three seconds or more.
    pub slowed: Vec<Slowed>,
    /// The rate over time.
    pub slices: Vec<TransferSlice>,
}

/// Rates up to which nothing limited a direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Unlimited {
    /// Which way.
    pub direction: Direction,
    /// The highest rate of UDP that got through, bits per second of payload.
    pub udp_bps: u64,
    /// The most packets of UDP a second that got through.
    pub packets_per_second: f64,
}

/// A stretch of a transfer in which less arrived than was sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Slowed {
    /// Start, seconds after the run's.
    pub from_s: f64,
    /// End, likewise.
    pub to_s: f64,
    /// Rate that arrived.
    pub rate_bps: Option<f64>,
    /// As good as nothing arrived.
    pub cut: bool,
}

/// A part of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TransferSlice {
    /// Start, seconds after the run's.
    pub from_s: f64,
    /// End, likewise.
    pub to_s: f64,
    /// Rate at which blocks were sent.
    pub offered_bps: Option<f64>,
    /// Rate at which they arrived.
    pub rate_bps: Option<f64>,
    /// Share that did not arrive.
    pub loss_ratio: Option<f64>,
    /// From the shortest to the longest one-way delay.
    pub delay_range_ms: Option<f64>,
}

/// Round trips of one class, as the program saw them, without load and with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LoadedDelay {
    /// The flow that measured beside the load.
    pub flow: String,
    /// Without load.
    pub idle_us: Option<Quantiles>,
    /// While the load was at half of its highest rate or more.
    pub loaded_us: Option<Quantiles>,
    /// By how much the median grew.
    pub added_delay_ms: f64,
    /// Share of its probes that went unanswered under load.
    pub loss_ratio: Option<f64>,
    /// Responsiveness under load: round trips per minute, from the mean of the quicker 95 % of the loaded round trips, as
    /// draft-ietf-ippm-responsiveness trims it. They are made on connections that were open before, beside the load's own;
    /// the load fills the line only where a limit was found.
    pub round_trips_per_minute: Option<f64>,
}

/// The outcome in one sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// Something was measured, and nothing at or above `degraded` was found.
    pub clean: bool,
    /// One sentence for people.
    pub summary: String,
    /// The worst severity found; null without findings.
    pub worst: Option<Severity>,
}

/// Whether a transport gets through.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// It was not tried.
    #[default]
    NotTested,
    /// Datagrams or handshakes do not arrive.
    Blocked,
    /// Silence to TCP.
    Filtered,
    /// Answered with a reset, or UDP with an ICMP port unreachable.
    Refused,
    /// Something else answers.
    WrongHost,
    /// It arrives, and replies do not come back.
    OneWay,
    /// It gets through, with a third party in it.
    Intercepted,
    /// It gets through.
    Open,
}

impl Reach {
    /// The name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotTested => "not-tested",
            Self::Blocked => "blocked",
            Self::Filtered => "filtered",
            Self::Refused => "refused",
            Self::WrongHost => "wrong-host",
            Self::OneWay => "one-way",
            Self::Intercepted => "intercepted",
            Self::Open => "open",
        }
    }
}

/// What gets through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reachability {
    /// Plain TCP.
    pub tcp: Reach,
    /// TLS over TCP.
    pub tls: Reach,
    /// Plain UDP.
    pub udp: Reach,
    /// QUIC.
    pub quic: Reach,
}

impl Reachability {
    /// Each transport with its name.
    pub fn each(&self) -> [(&'static str, Reach); 4] {
        [("TCP", self.tcp), ("TLS", self.tls), ("UDP", self.udp), ("QUIC", self.quic)]
    }
}

/// What gets through to one address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AddressReachability {
    /// Address and port.
    pub address: String,
    /// What gets through to it.
    #[serde(flatten)]
    pub reachability: Reachability,
}

/// What the path does to packets, over all steady flows of one transport together: plain UDP where that is open, since
/// there each packet stands for itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PathSummary {
    /// Which transport: `udp`, `tcp`, `tls`, `quic`.
    pub over: String,
    /// Probes sent, and not excluded.
    pub sent: u64,
    /// Probes with a reply.
    pub received: u64,
    /// Lost probes, by direction.
    pub lost: Lost,
    /// Lost on the way up over sent, 0 to 1 (RFC 7680).
    pub loss_up_ratio: f64,
    /// Lost on the way down over answered, 0 to 1 (RFC 7680).
    pub loss_down_ratio: f64,
    /// Round-trip delay (RFC 2681).
    pub rtt_us: Option<RttSummary>,
    /// Round-trip delay as the application saw it.
    pub rtt_application_us: Option<Quantiles>,
    /// One-way delay, of the flow that tells it best.
    pub one_way_us: Option<OneWaySummary>,
    /// Replies that came after the reply to a later probe.
    pub reordered: u64,
    /// Replies beyond the first.
    pub duplicates: u64,
}

/// The figures of one flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowSummary {
    /// Its name.
    pub id: String,
    /// What it ran over: `udp`, `tcp`, `tls`, `quic`, `quic-inverse`.
    pub transport: String,
    /// What it looked like on the wire: a dress, or the protocol.
    pub image: String,
    /// Where it went.
    pub destination: String,
    /// Its local address and port.
    pub source: Option<String>,
    /// Its address and port as the listener saw them first.
    pub observed_as: Option<String>,
    /// Seconds after the run's start at which its opening began.
    pub started_s: f64,
    /// Seconds after the run's start at which it was over.
    pub ended_s: Option<f64>,
    /// Why it was over: `finished`, `never-opened`, `reset`, `closed`, `timed-out`, `listener-restarted`, or other words.
    pub end: Option<String>,
    /// Length of its datagrams or records, bytes.
    pub size_bytes: u16,
    /// Time between its probes, milliseconds; null where it has no schedule.
    pub interval_ms: Option<f64>,
    /// Probes sent. `sent = received + lost + excluded`.
    pub sent: u64,
    /// Probes with a reply.
    pub received: u64,
    /// Replies beyond the first (RFC 5560).
    pub duplicates: u64,
    /// Replies that came after the reply to a later probe (RFC 4737).
    pub reordered: u64,
    /// Lost probes, by direction.
    pub lost: Lost,
    /// Probes not counted, since a host and not the path was at fault.
    pub excluded: u64,
    /// Round-trip delay (RFC 2681): as the wire saw it where `clock` is `kernel`, else as the application did.
    pub rtt_us: Option<RttSummary>,
    /// Round-trip delay as the application saw it, from the send call to the read.
    pub rtt_application_us: Option<Quantiles>,
    /// Magnitude of the delay variation on the way up (RFC 3393).
    pub ipdv_up_us: Option<Quantiles>,
    /// Magnitude of the delay variation on the way down (RFC 3393).
    pub ipdv_down_us: Option<Quantiles>,
    /// Interarrival jitter here, of what the listener sent (RFC 3550).
    pub jitter_rfc3550_us: Option<f64>,
    /// Interarrival jitter at the listener (RFC 3550).
    pub jitter_up_rfc3550_us: Option<f64>,
    /// One-way delay (RFC 7679) up and down, and how far off both may be; only within that bound are they known.
    pub one_way_us: Option<OneWaySummary>,
    /// Reordering by direction (RFC 4737).
    pub reordering: Option<ReorderingSummary>,
    /// Loss periods by direction (RFC 3357).
    pub loss_periods: Option<LossPeriodsSummary>,
    /// TTL or hop limit with which packets arrived at the listener; the commonest.
    pub ttl_up: Option<u8>,
    /// TTL or hop limit with which packets arrived here; the commonest.
    pub ttl_down: Option<u8>,
    /// Marks (DSCP and ECN) as they were sent and arrived.
    pub marks: Vec<MarkSummary>,
    /// Datagrams of a QUIC flow, counted at the sockets of both ends.
    pub datagrams: Option<DatagramSummary>,
    /// TCP segments sent again: by the client, by the listener.
    pub tcp_retransmits: Option<TcpRetransmits>,
}

/// Flows of one name but for their numbers, together: short ones of one kind, or the lives of one that was opened anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FlowGroup {
    /// What their names have in common.
    pub name: String,
    /// How many flows.
    pub flows: u64,
    /// Probes sent. `sent = received + lost + excluded`.
    pub sent: u64,
    /// Probes with a reply.
    pub received: u64,
    /// Replies beyond the first (RFC 5560).
    pub duplicates: u64,
    /// Replies that came after the reply to a later probe of the same flow (RFC 4737).
    pub reordered: u64,
    /// Lost probes, by direction.
    pub lost: Lost,
    /// Probes not counted, since a host and not the path was at fault.
    pub excluded: u64,
    /// How many ended in which way; `open` are those that had not ended.
    pub ends: std::collections::BTreeMap<String, u64>,
    /// Round-trip delay (RFC 2681) over all of them: as the wire saw it where `clock` is `kernel`, else as the application
    /// did.
    pub rtt_us: Option<RttSummary>,
    /// Round-trip delay as the application saw it, from the send call to the read.
    pub rtt_application_us: Option<Quantiles>,
    /// Magnitude of the delay variation on the way up (RFC 3393).
    pub ipdv_up_us: Option<Quantiles>,
    /// Magnitude of the delay variation on the way down (RFC 3393).
    pub ipdv_down_us: Option<Quantiles>,
    /// Interarrival jitter here (RFC 3550), the median of the flows.
    pub jitter_rfc3550_p50_us: Option<f64>,
    /// TTL or hop limit with which packets arrived at the listener; the commonest.
    pub ttl_up: Option<u8>,
    /// TTL or hop limit with which packets arrived here; the commonest.
    pub ttl_down: Option<u8>,
}

/// Lost probes, by direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// On the way to the listener.
    pub up: u64,
    /// On the way back.
    pub down: u64,
    /// Where the listener's ledger could not be had.
    pub unknown: u64,
}

/// Which clock timed a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// Kernel timestamps at both ends: as the wire saw it.
    Kernel,
    /// The program's own clock.
    Application,
}

/// Round-trip delay, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RttSummary {
    /// The shortest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// Ninety-nine in a hundred are at most this.
    pub p99: f64,
    /// The longest.
    pub max: f64,
    /// Which clock.
    pub clock: Clock,
}

/// Median and 99th percentile.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Quantiles {
    /// Median.
    pub p50: f64,
    /// Ninety-nine in a hundred are at most this.
    pub p99: f64,
}

/// One-way delay, microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OneWaySummary {
    /// On the way up.
    pub up: Quantiles,
    /// On the way down.
    pub down: Quantiles,
    /// All of these are within this of the truth.
    pub error: f64,
}

/// Reordering by direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReorderingSummary {
    /// Reordered over arrived, on the way up.
    pub ratio_up: f64,
    /// Reordered over arrived, on the way down.
    pub ratio_down: f64,
    /// Largest extent on the way up, packets.
    pub extent_up: Option<u32>,
    /// Largest extent on the way down, packets.
    pub extent_down: Option<u32>,
}

/// Loss periods by direction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossPeriodsSummary {
    /// How many on the way up.
    pub up: u64,
    /// How many on the way down.
    pub down: u64,
    /// Packets of the longest one on the way up.
    pub longest_up: u64,
    /// Packets of the longest one on the way down.
    pub longest_down: u64,
    /// Median loss distance on the way up: packets from one lost packet to the next (RFC 3357 section 5); null with less
    /// than two losses.
    pub distance_p50_up: Option<u64>,
    /// The same on the way down.
    pub distance_p50_down: Option<u64>,
    /// Share of the losses on the way up that come at most 16 packets after the one before (the loss noticeable rate of
    /// RFC 3357 section 6.1, with a loss constraint of 16), 0 to 1; null without losses.
    pub noticeable_ratio_up: Option<f64>,
    /// The same on the way down.
    pub noticeable_ratio_down: Option<f64>,
}

/// What one mark became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MarkSummary {
    /// Which way.
    pub direction: Direction,
    /// DSCP sent.
    pub dscp_sent: u8,
    /// DSCP received.
    pub dscp_received: u8,
    /// ECN field sent, 0 to 3.
    pub ecn_sent: u8,
    /// ECN field received, 0 to 3.
    pub ecn_received: u8,
    /// How many packets.
    pub packets: u64,
}

/// Datagrams of a QUIC flow, counted at the sockets of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DatagramSummary {
    /// Left the client.
    pub sent_up: u64,
    /// Of those, lost.
    pub lost_up: u64,
    /// Left the listener.
    pub sent_down: u64,
    /// Of those, lost.
    pub lost_down: u64,
}

/// TCP segments sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TcpRetransmits {
    /// By the client.
    pub client: Option<u32>,
    /// By the listener.
    pub listener: Option<u32>,
}

/// How a silence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Recovery {
    /// The same flows were answered again.
    ByItself,
    /// The old flows stayed silent, and new ones from other ports were answered.
    NewPort,
    /// The listener was started anew.
    ListenerRestart,
    /// It did not end while the run went on.
    Not,
}

impl Recovery {
    /// In words.
    pub const fn says(self) -> &'static str {
        match self {
            Self::ByItself => "it recovered by itself",
            Self::NewPort => "a new port cured it",
            Self::ListenerRestart => "it was over when the listener had been started anew",
            Self::Not => "it did not recover",
        }
    }
}

/// What else was seen while something happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Meanwhile {
    /// How often the gateway was asked; null where it was not watched.
    pub gateway_asked: Option<u64>,
    /// How often it did not answer.
    pub gateway_silent: Option<u64>,
    /// What the hosts did, as kinds of events.
    pub host: Vec<String>,
    /// Other flows that were alive and not affected.
    pub other_flows_answered: u64,
}

/// Something that happened during the run.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What: `outage` (all flows silent), `silence` (some flows silent), `loss`, `delay-shift`, `moved`,
    /// `listener-restarted`, `suspended`, `clock-stepped`, `stalled`, `receive-overflow`, `send-failed`,
    /// `interface-changed`, `listener-stalled`, `not-running`, `not-recorded`.
    pub kind: &'static str,
    /// Seconds after the run's start.
    pub from_s: f64,
    /// Seconds after the run's start.
    pub to_s: f64,
    /// Start on the client's wall clock.
    pub from: Option<WallTime>,
    /// End on the client's wall clock.
    pub to: Option<WallTime>,
    /// Which flows.
    pub flows: Vec<String>,
    /// Which way.
    pub direction: Option<Direction>,
    /// Packets lost in it.
    pub lost: Option<u64>,
    /// Its cause, where known.
    pub cause: Option<probe_protocol::cause::Cause>,
    /// How it ended, of an outage or silence.
    pub recovery: Option<Recovery>,
    /// What else was seen at the time, of outages, silences and losses.
    pub meanwhile: Option<Meanwhile>,
    /// In words.
    pub says: String,
}

/// The largest packet in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PathMtuSummary {
    /// Which way.
    pub direction: Direction,
    /// Largest IP packet that got through, bytes.
    pub mtu_bytes: Option<u32>,
    /// Smallest IP packet that did not, bytes; null where the largest that was tried got through.
    pub smallest_lost_bytes: Option<u32>,
    /// The MTU that an ICMP or local message named, bytes.
    pub told_bytes: Option<u32>,
    /// MTU of the client's interface, bytes.
    pub interface_bytes: Option<u32>,
}

/// The clocks of both ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ClockSummary {
    /// The listener's wall clock minus the client's, seconds.
    pub offset_s: Option<f64>,
    /// The offset is within this of the truth, seconds.
    pub offset_error_s: Option<f64>,
    /// How fast the listener's clock gains on the client's, millionths.
    pub drift_ppm: Option<f64>,
    /// The drift is within this of the truth, millionths.
    pub drift_error_ppm: Option<f64>,
}

/// How good the measurement itself was.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Instrument {
    /// How late probes left, microseconds.
    pub send_error_us: Option<Quantiles>,
    /// Probes that were due and were not sent.
    pub missed_slots: u64,
    /// Time that the client's host slept, seconds.
    pub suspended_s: f64,
    /// Datagrams that the client's socket buffers had no room for.
    pub socket_drops: u64,
    /// Whether delays were taken from kernel timestamps at both ends.
    pub kernel_timestamps: bool,
    /// Time for which the client's host kept the program from running, seconds.
    pub stalled_s: f64,
    /// Largest receive buffer that the system granted, bytes.
    pub receive_buffer_bytes: Option<u64>,
    /// What the instrument itself adds, measured over loopback; null where another host was measured.
    pub noise_floor: Option<Vec<NoiseFloor>>,
}

/// What the instrument itself adds on one transport.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoiseFloor {
    /// Which flows: the name that they have in common.
    pub flow: String,
    /// Round trip as the wire saw it, microseconds; null without kernel timestamps.
    pub wire_us: Option<Quantiles>,
    /// Round trip as the application saw it, microseconds.
    pub application_us: Option<Quantiles>,
    /// Probes lost over sent, 0 to 1.
    pub loss_ratio: f64,
}

/// Nanoseconds as microseconds, to a tenth.
pub(crate) fn us(nanos: f64) -> f64 {
    (nanos / 100.0).round() / 10.0
}

impl Quantiles {
    pub(crate) fn of(histogram: &crate::stats::histogram::Histogram) -> Option<Self> {
        let at = |q| histogram.quantile(q).map(|ns| us(ns as f64));
        Some(Self { p50: at(0.5)?, p99: at(0.99)? })
    }
}
