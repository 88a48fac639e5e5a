//! From evidence to causes: one detector per cause, each in its own file, all in [`DETECTORS`].
//!
//! To add a cause: write its detector, add its row to [`DETECTORS`], and its words to [`crate::words::TABLE`].
//!
//! A detector answers [`Claim`]s. What is claimed with less than [`thresholds::CERTAIN`] becomes `unexplained`, with the
//! claim among its candidates; what a nearer cause explains is silenced by the table.

mod claim;
mod dpi;
mod hosts;
mod lives;
mod loss;
mod marks;
mod qos;
mod reachability;
mod state;
#[cfg(test)]
mod tests;
pub mod thresholds;
mod time;
mod unexplained;

use std::borrow::Cow;
use std::cell::OnceCell;

use probe_protocol::cause::Cause;
use probe_protocol::finding::Finding;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::{Carrier, Refusal};

pub use self::claim::Claim;
use self::lives::Lives;
use self::loss::Losses;
use crate::evidence::{Evidence, FlowEvidence, Pulse, Traffic};
use crate::observation::{Attempt, HostEvent, HostFault, Outcome, Purpose};
use crate::summarise::reach::{self, Place};

/// Around what a host did, seconds that are spoiled too: the packets under way.
const HOST_MARGIN: f64 = 1.0;

/// What forgets a flow that is left alone waits longer than this: state on the way is kept for at least some tens of
/// seconds (RFC 4787, REQ-5, has two minutes), seconds.
const LONG_STALL: f64 = 5.0;

/// Flows learn of one change of address within so much of one another: each by its own next answer, seconds.
const MOVE_MARGIN: f64 = 10.0;

/// Before the client learns that it was turned away, its flows are closed for so long at most: an unanswered probe of the
/// slowest flow and its question, seconds.
const TURNED_AWAY_MARGIN: f64 = 5.0;

/// The slow flows come to so many times their mean rate at times: those of different rates and sizes begin by turns.
const OWN_PEAKS: f64 = 3.0;

/// How the way to the network is called where there is none.
const NO_WAY: &str = "none";

/// A time without any way to the network.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LostWay {
    /// From when, seconds after the run's start.
    pub from_s: f64,
    /// Until when.
    pub to_s: f64,
    /// What came back was what had been lost.
    pub same: bool,
}

/// One cause's row.
pub struct Detector {
    /// What it tells.
    pub cause: Cause,
    /// How.
    pub detect: fn(&Case<'_>) -> Vec<Claim>,
    /// What need not be said where this is found: its symptoms, or what it makes doubtful.
    pub silences: &'static [Cause],
}

/// All detectors.
pub static DETECTORS: &[Detector] = &[
    // The hosts come first: what they did, the path is not blamed for.
    // What is lost while a host is busy counts as nobody's (`loss`), so its finding silences no loss: that of the rest of
    // the run is the path's.
    row(Cause::HostStalled, hosts::host_stalled::detect, &[Cause::Reordering, Cause::PeriodicDrop]),
    row(Cause::ClientSuspended, hosts::client_suspended::detect, &[]),
    row(Cause::ClockStepped, hosts::clock_stepped::detect, &[]),
    row(Cause::ListenerRestarted, hosts::listener_restarted::detect, &[]),
    row(
        Cause::InterfaceChanged,
        hosts::interface_changed::detect,
        &[Cause::NatRebinding, Cause::AddressChanged],
    ),
    // Reachability.
    row(
        Cause::CaptivePortal,
        reachability::captive_portal::detect,
        &[
            Cause::WrongHost,
            Cause::NotForwarded,
            Cause::Unreachable,
            Cause::UdpBlocked,
            Cause::TcpFiltered,
            Cause::TlsIntercepted,
        ],
    ),
    row(
        Cause::ProxyOnly,
        reachability::proxy_only::detect,
        &[Cause::Unreachable, Cause::UdpBlocked, Cause::TcpFiltered, Cause::TcpRefused],
    ),
    row(
        Cause::LocalFilter,
        reachability::local_filter::detect,
        &[Cause::Unreachable, Cause::UdpBlocked, Cause::TcpFiltered, Cause::TcpRefused],
    ),
    row(
        Cause::WrongHost,
        reachability::wrong_host::detect,
        &[Cause::Unreachable, Cause::UdpBlocked, Cause::TlsIntercepted],
    ),
    row(
        Cause::NotForwarded,
        reachability::not_forwarded::detect,
        &[Cause::UdpBlocked, Cause::TcpRefused, Cause::TcpFiltered],
    ),
    row(Cause::Unreachable, reachability::unreachable::detect, &[]),
    row(Cause::TcpRefused, reachability::tcp_refused::detect, &[]),
    row(Cause::TcpFiltered, reachability::tcp_filtered::detect, &[]),
    row(Cause::UdpRepliesBlocked, reachability::udp_replies_blocked::detect, &[Cause::QuicBlocked]),
    row(Cause::UdpBlocked, reachability::udp_blocked::detect, &[Cause::QuicBlocked]),
    row(Cause::Hairpin, reachability::hairpin::detect, &[]),
    // Deep packet inspection. The images detector says which of its three causes it is.
    row(Cause::TlsIntercepted, dpi::tls_intercepted::detect, &[Cause::TlsBlocked]),
    row(Cause::TlsBlocked, dpi::tls_blocked::detect, &[]),
    row(Cause::QuicBlocked, dpi::images::detect, &[]),
    row(Cause::FirstPacketsDropped, dpi::first_packets_dropped::detect, &[Cause::QuicBlocked]),
    row(Cause::FlowKilledByPackets, dpi::killed::detect, &[]),
    row(Cause::StaleFlowState, dpi::stale_flow_state::detect, &[Cause::LossyPath, Cause::OneWayLoss]),
    row(Cause::FlowLimit, dpi::flow_limit::detect, &[]),
    row(Cause::RstInjected, dpi::rst_injected::detect, &[]),
    row(Cause::TcpProxied, dpi::tcp_proxied::detect, &[]),
    row(
        Cause::PayloadRewritten,
        dpi::payload_rewritten::detect,
        &[Cause::MtuBlackHole, Cause::FragmentsDropped, Cause::UdpBlocked],
    ),
    // Loss, order and duplicates.
    // A load goes over few flows: where some ports lose and others do not, one that is slow beside one that is not is no
    // more than that.
    row(
        Cause::BadPathMember,
        loss::bad_path_member::detect,
        &[Cause::LossyPath, Cause::OneWayLoss, Cause::FlowThrottled, Cause::UdpDeprioritized],
    ),
    row(Cause::Congestion, loss::congestion::detect, &[Cause::LossyPath, Cause::OneWayLoss]),
    row(Cause::OneWayLoss, loss::one_way_loss::detect, &[Cause::LossyPath]),
    row(Cause::LossyPath, loss::lossy_path::detect, &[]),
    row(Cause::Reordering, loss::reordering::detect, &[]),
    row(Cause::Duplication, loss::duplication::detect, &[]),
    // Marks, state and addresses.
    row(Cause::DscpRewritten, marks::dscp_rewritten::detect, &[]),
    row(Cause::DscpDropped, marks::dropped::dscp, &[]),
    row(Cause::EcnBleached, marks::ecn_bleached::detect, &[]),
    row(Cause::EcnDropped, marks::dropped::ecn, &[]),
    row(Cause::UdpIdleTimeout, state::idle::udp, &[]),
    row(Cause::UdpOneWayRefresh, state::idle::one_way, &[]),
    row(Cause::TcpIdleTimeout, state::idle::tcp, &[]),
    row(Cause::MtuBlackHole, state::mtu_black_hole::detect, &[]),
    row(Cause::FragmentsDropped, state::fragments_dropped::detect, &[]),
    row(Cause::NatRebinding, state::nat_rebinding::detect, &[]),
    row(Cause::AddressChanged, state::address_changed::detect, &[Cause::NatRebinding]),
    // Time. A blackout is an outage, the local network's, or a penalty of datagrams.
    row(Cause::Outage, time::blackout::detect, &[]),
    row(Cause::PeriodicDrop, time::periodic_drop::detect, &[Cause::LossyPath, Cause::OneWayLoss]),
    // Load: what UDP alone suffers comes before what all do.
    row(Cause::UdpPolicer, qos::limits::detect, &[Cause::LossyPath, Cause::OneWayLoss]),
    row(Cause::UdpDeprioritized, qos::deprioritized::detect, &[Cause::LossyPath, Cause::OneWayLoss]),
    row(Cause::FlowThrottled, qos::throttled::detect, &[]),
];

const fn row(cause: Cause, detect: fn(&Case<'_>) -> Vec<Claim>, silences: &'static [Cause]) -> Detector {
    Detector { cause, detect, silences }
}

/// A flow and its finished statistics.
pub type CaseFlow<'e> = (&'e FlowEvidence, Cow<'e, Traffic>);

/// A run's evidence, prepared for the detectors.
pub struct Case<'e> {
    /// The evidence itself.
    pub evidence: &'e Evidence,
    /// What gets through to each address.
    pub places: Vec<Place>,
    /// The flows with their finished statistics, by number.
    pub flows: Vec<CaseFlow<'e>>,
    /// Which flows of datagrams died, and which lived.
    lives: Lives<'e>,
    /// When no datagram of anybody was answered for a while, seconds after the run's start.
    silent: Vec<(f64, f64)>,
    /// What the flows of datagrams lost together, once somebody asks.
    losses: OnceCell<Option<Losses>>,
}

impl<'e> Case<'e> {
    /// Prepares the evidence.
    pub fn new(evidence: &'e Evidence) -> Self {
        let mut case = Self {
            evidence,
            places: reach::places(evidence),
            flows: evidence.flows.values().map(|flow| (&**flow, flow.traffic.finished())).collect(),
            lives: Lives::default(),
            silent: silent(&evidence.datagrams),
            losses: OnceCell::new(),
        };
        case.lives = Lives::of(&case);
        case
    }

    fn losses(&self) -> Option<&Losses> {
        self.losses.get_or_init(|| Losses::of(self)).as_ref()
    }

    /// Whether any flow opened.
    pub fn opened_anywhere(&self) -> bool {
        self.flows.iter().any(|(flow, _)| flow.opened.is_some())
    }

    /// Whether anything reached a listener of ours, one that refuses included.
    pub fn reaches_listener(&self) -> bool {
        self.places.iter().any(Place::reaches_listener)
    }

    /// The places at which a single transport can be judged: something of ours answers there.
    pub fn live_places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.reaches_listener())
    }

    /// Flows of datagrams at a slow, steady rate: those whose loss tells of the path.
    pub fn steady_udp(&self) -> impl Iterator<Item = &CaseFlow<'e>> {
        self.flows.iter().filter(|(flow, traffic)| {
            flow.plan.carrier == Carrier::Udp
                && matches!(flow.plan.purpose, Purpose::Steady | Purpose::Old)
                && traffic.counts.sent > 0
        })
    }

    /// What the flows of datagrams that are no load send together, bits per second, in the time in which any of them does.
    fn slow_bps(&self) -> f64 {
        let is_slow = |flow: &FlowEvidence| {
            matches!(flow.plan.carrier, Carrier::Udp | Carrier::Quic | Carrier::QuicInverse)
                && !matches!(flow.plan.purpose, Purpose::Bulk | Purpose::Loaded)
        };
        let slow = self.flows.iter().filter(|(flow, _)| is_slow(flow)).map(|(_, traffic)| traffic);
        let (mut bytes, mut span) = (0, None::<(Timestamp, Timestamp)>);
        for (first, last, sent) in slow.filter_map(|t| Some((t.first?, t.last?, t.bytes))) {
            bytes += sent;
            span = Some(span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        }
        let seconds = span.map_or(0.0, |(first, last)| last.since(first).as_secs_f64());
        bytes as f64 * 8.0 / seconds.max(1.0)
    }

    /// When the listener turned the client away in the middle of the run, and with which words and version: its admin took
    /// the invite back, or the invite's time was over. What happens from then on is no doing of the path's.
    pub fn turned_away(&self) -> Option<(Timestamp, Refusal, [u8; 3])> {
        if !self.opened_anywhere() {
            return None;
        }
        let for_good = |refusal: Refusal| match refusal {
            Refusal::InviteExpired | Refusal::InviteRevoked => true,
            Refusal::ClientTooOld
            | Refusal::ListenerTooOld
            | Refusal::NotAllowed
            | Refusal::Full
            | Refusal::TooManyFromSource
            | Refusal::NeedsInvite => false,
        };
        let refusal = |attempt: &Attempt| match attempt.outcome {
            Outcome::Refusal { reason: Some(reason), software } if for_good(reason) => {
                Some((attempt.to, reason, software))
            }
            Outcome::Refusal { .. }
            | Outcome::Opened
            | Outcome::Refused { .. }
            | Outcome::Silent { .. }
            | Outcome::NetworkError { .. }
            | Outcome::LocalError { .. }
            | Outcome::Cut { .. }
            | Outcome::Foreign { .. }
            | Outcome::HandshakeFailed { .. } => None,
        };
        let attempts = self.flows.iter().flat_map(|(flow, _)| &flow.attempts);
        attempts.filter_map(refusal).min_by_key(|(at, ..)| *at)
    }

    /// When this computer had no way to the network, seconds after the run's start, and whether the way that came back was
    /// the one that had been lost. One that never came back lasts to the end.
    pub fn lost_ways(&self) -> Vec<LostWay> {
        let mut found: Vec<LostWay> = Vec::new();
        let mut lost: Option<(f64, &str)> = None;
        for event in &self.evidence.host {
            let HostFault::InterfaceChanged { old, new } = &event.what else { continue };
            if new == NO_WAY {
                lost.get_or_insert((self.evidence.seconds(event.from), old));
            } else if let Some((from_s, way)) = lost.take() {
                let to_s = self.evidence.seconds(event.to);
                found.push(LostWay { from_s, to_s, same: way == new });
            }
        }
        let end = self.evidence.last.map_or(0.0, |last| self.evidence.seconds(last));
        found.extend(lost.map(|(from_s, _)| LostWay { from_s, to_s: end, same: true }));
        found
    }

    /// Whether the listener saw a flow's source change between two moments, seconds after the run's start: connections that
    /// know their peer by its address break then, by nobody's will.
    pub fn moved(&self, from_s: f64, to_s: f64) -> bool {
        let within = |at: f64| (from_s - MOVE_MARGIN..=to_s + MOVE_MARGIN).contains(&at);
        self.evidence.moves.iter().any(|moved| within(self.evidence.seconds(moved.at)))
    }

    /// Whether no datagram of anybody was answered for a while at some moment between two, seconds after the run's start:
    /// an event, and no property of a flow or of the path.
    pub fn was_silent(&self, from_s: f64, to_s: f64) -> bool {
        self.silent.iter().any(|(begin, end)| *begin < to_s && *end > from_s)
    }

    /// Whether a host slept, stalled or was started anew between two moments, seconds after the run's start: it did not
    /// look.
    pub fn host_was_away(&self, from_s: f64, to_s: f64) -> bool {
        self.host_did(from_s - HOST_MARGIN, to_s + HOST_MARGIN, |what| match what {
            HostFault::Suspended
            | HostFault::NotRunning
            | HostFault::Stalled
            | HostFault::ListenerStalled => true,
            HostFault::ReceiveOverflow(_)
            | HostFault::SendFailed(_)
            | HostFault::InterfaceChanged { .. }
            | HostFault::ClockStepped(_)
            | HostFault::NotRecorded(_) => false,
        })
    }

    /// Whether what a host did explains that nothing was heard between two moments, seconds after the run's start: it
    /// slept or was started anew, or it was too busy for so much of that time that what is left is too short to be named.
    /// A busy host that did not look for a moment in a long silence explains nothing.
    pub fn host_explains_silence(&self, from_s: f64, to_s: f64) -> bool {
        let was_gone = self.host_did(from_s - HOST_MARGIN, to_s + HOST_MARGIN, |what| {
            matches!(what, HostFault::Suspended | HostFault::NotRunning)
        });
        let stalls = self
            .evidence
            .host
            .iter()
            .filter(|event| matches!(event.what, HostFault::Stalled | HostFault::ListenerStalled));
        let within = stalls.map(|event| {
            let (begin, end) = (self.evidence.seconds(event.from), self.evidence.seconds(event.to));
            (end.min(to_s) - begin.max(from_s)).max(0.0)
        });
        let stalled: f64 = within.sum();
        was_gone || (stalled > 0.0 && to_s - from_s - stalled < thresholds::BLACKOUT)
    }

    /// Whether a host did something else between two moments, seconds after the run's start, by which packets are lost.
    pub fn host_meddled(&self, from_s: f64, to_s: f64) -> bool {
        self.host_did(from_s - HOST_MARGIN, to_s + HOST_MARGIN, |what| match what {
            HostFault::ReceiveOverflow(_) | HostFault::SendFailed(_) | HostFault::InterfaceChanged { .. } => {
                true
            }
            HostFault::Suspended
            | HostFault::NotRunning
            | HostFault::Stalled
            | HostFault::ListenerStalled
            | HostFault::ClockStepped(_)
            | HostFault::NotRecorded(_) => false,
        })
    }

    /// Whether a host did something between two moments, seconds after the run's start, by which a flow may have died or
    /// have got another source: it slept, had another way to the network or none, or was busy for so long that the flow
    /// was left alone. One that woke up late for a moment, as any busy one does now and then, did neither.
    pub fn host_left_alone(&self, from_s: f64, to_s: f64) -> bool {
        let (from_s, to_s) = (from_s - HOST_MARGIN, to_s + HOST_MARGIN);
        let is_long = |event: &&HostEvent| {
            let (begin, end) = (self.evidence.seconds(event.from), self.evidence.seconds(event.to));
            matches!(event.what, HostFault::Stalled | HostFault::ListenerStalled)
                && begin < to_s
                && end > from_s
                && end - begin > LONG_STALL
        };
        self.evidence.host.iter().any(|event| is_long(&event))
            || self.host_did(from_s, to_s, |what| match what {
                HostFault::Suspended
                | HostFault::NotRunning
                | HostFault::SendFailed(_)
                | HostFault::InterfaceChanged { .. } => true,
                HostFault::Stalled
                | HostFault::ListenerStalled
                | HostFault::ReceiveOverflow(_)
                | HostFault::ClockStepped(_)
                | HostFault::NotRecorded(_) => false,
            })
    }

    /// Whether a host did something between two moments, seconds after the run's start, that spoils what was seen there.
    pub fn host_acted(&self, from_s: f64, to_s: f64) -> bool {
        self.host_spoiled(from_s - HOST_MARGIN, to_s + HOST_MARGIN)
    }

    /// The same without a margin: for counts of single packets, which are spoiled while it lasts and no longer.
    pub fn host_spoiled(&self, from_s: f64, to_s: f64) -> bool {
        self.host_did(from_s, to_s, |what| match what {
            HostFault::Suspended
            | HostFault::NotRunning
            | HostFault::Stalled
            | HostFault::ReceiveOverflow(_)
            | HostFault::SendFailed(_)
            | HostFault::InterfaceChanged { .. }
            | HostFault::ListenerStalled => true,
            HostFault::ClockStepped(_) | HostFault::NotRecorded(_) => false,
        })
    }

    fn host_did(&self, from_s: f64, to_s: f64, spoils: impl Fn(&HostFault) -> bool) -> bool {
        let overlaps =
            |start, end| self.evidence.seconds(start) < to_s && self.evidence.seconds(end) > from_s;
        self.evidence.restarts.iter().any(|r| overlaps(r.last_seen, r.at))
            || self.evidence.host.iter().any(|event| spoils(&event.what) && overlaps(event.from, event.to))
    }

    /// Whether the listener has another address than the one that was aimed at: somebody translates it. None where it
    /// did not tell its own.
    pub fn is_translated(&self, target: std::net::IpAddr) -> Option<bool> {
        let own = self.evidence.listener?;
        // Two families cannot be compared: the question went another way than this address is.
        (own.is_ipv4() == target.is_ipv4()).then_some(own != target)
    }

    /// The port that should be reached.
    pub fn port(&self) -> u16 {
        self.places.first().map_or(probe_protocol::DEFAULT_PORT, |place| place.address.port())
    }
}

/// Stretches in which probes were sent and none was answered, that are too long for loss.
fn silent(pulse: &Pulse) -> Vec<(f64, f64)> {
    let stretches = pulse.blackouts(2).into_iter().map(|b| (b.from_s, b.to_s));
    stretches.filter(|(from, to)| to - from >= thresholds::SILENCE).collect()
}

/// Names what is wrong, the most severe first.
pub fn judge(case: &Case<'_>) -> Vec<Finding> {
    let mut claims: Vec<(usize, Claim)> = DETECTORS
        .iter()
        .enumerate()
        .flat_map(|(row, detector)| (detector.detect)(case).into_iter().map(move |claim| (row, claim)))
        .collect();
    let silenced: Vec<(Option<std::net::SocketAddr>, &[Cause])> = claims
        .iter()
        // Loss with a period is no chance, whoever it is that drops.
        .filter(|(_, claim)| claim.probability >= thresholds::CERTAIN || claim.cause == Cause::PeriodicDrop)
        .map(|(row, claim)| (claim.address, DETECTORS[*row].silences))
        .collect();
    claims.retain(|(_, claim)| {
        !silenced.iter().any(|(address, causes)| {
            causes.contains(&claim.cause)
                && (address.is_none() || claim.address.is_none() || *address == claim.address)
        })
    });
    let mut claims: Vec<Claim> = claims.into_iter().map(|(_, claim)| claim).collect();
    // Where ports lose by themselves, a load on one of them tells no rate.
    let is_member =
        |claim: &Claim| claim.cause == Cause::BadPathMember && claim.probability >= thresholds::CERTAIN;
    if claims.iter().any(is_member) {
        let of_rate = [Cause::UdpPolicer, Cause::UdpShaper, Cause::RateLimit];
        claims.retain(|claim| claim.probability >= thresholds::CERTAIN || !of_rate.contains(&claim.cause));
    }
    // A limit that the slow flows reach together takes packets of whichever comes at the wrong moment: some ports, and some
    // ages, by chance or by their rhythm again and again, and large datagrams before small ones.
    let slow = OWN_PEAKS * case.slow_bps();
    let is_low = |claim: &Claim| {
        matches!(claim.cause, Cause::UdpPolicer | Cause::RateLimit)
            && claim.probability >= thresholds::CERTAIN
            && claim.parameters.rate_bps.is_some_and(|rate| (rate as f64) < slow)
    };
    if claims.iter().any(is_low) {
        let blamed = [Cause::BadPathMember, Cause::StaleFlowState, Cause::FragmentsDropped];
        claims.retain(|claim| !blamed.contains(&claim.cause));
    }
    // What does not open is no riddle where something certain says why.
    let certain: Vec<(Option<std::net::SocketAddr>, &[Carrier])> = claims
        .iter()
        .filter(|claim| claim.cause != Cause::Unexplained && claim.probability >= thresholds::CERTAIN)
        .map(|claim| (claim.address, claim.covers))
        .collect();
    claims.retain(|claim| {
        let told = |carrier: &Carrier| {
            certain.iter().any(|(address, covers)| {
                covers.contains(carrier) && (address.is_none() || *address == claim.address)
            })
        };
        claim.cause != Cause::Unexplained || claim.covers.is_empty() || !claim.covers.iter().all(told)
    });
    // What is left over, and cannot be told.
    let left = unexplained::left(case, &claims);
    claims.extend(left);
    let mut findings: Vec<Finding> = Vec::new();
    for finding in claims.into_iter().map(|claim| claim.into_finding(case)) {
        match findings.iter_mut().find(|earlier| is_same(earlier, &finding)) {
            Some(earlier) => merge(earlier, finding),
            None => findings.push(finding),
        }
    }
    if let Some((at, ..)) = case.turned_away() {
        let from = case.evidence.seconds(at) - TURNED_AWAY_MARGIN;
        // What began with the refusal is explained by it; a riddle that names no moment may be as well.
        findings.retain(|finding| {
            if finding.cause == Cause::Unexplained {
                finding.evidence.iter().any(|e| e.to_s.or(e.from_s).is_some_and(|s| s < from))
            } else {
                finding.evidence.iter().any(|e| e.from_s.is_none_or(|s| s < from))
            }
        });
    }
    // Stable: within a severity the table's order stays.
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The same cause at another address or on another protocol. Riddles are kept apart: they may have different answers.
fn is_same(a: &Finding, b: &Finding) -> bool {
    a.cause == b.cause && a.side == b.side && a.direction == b.direction && a.cause != Cause::Unexplained
}

fn merge(into: &mut Finding, other: Finding) {
    into.severity = into.severity.max(other.severity);
    into.probability = into.probability.max(other.probability);
    into.evidence.extend(other.evidence);
    match (&mut into.parameters.kind, other.parameters.kind) {
        (Some(kind), Some(more)) if !kind.contains(&more) => *kind = format!("{kind} and {more}"),
        (Some(_) | None, _) => {}
    }
}
