//! From evidence to causes: one detector per cause, each in its own file, all in [`DETECTORS`].
//!
//! To add a cause: write its detector, add its row to [`DETECTORS`], and its words to [`crate::words::TABLE`].
//!
//! A detector answers [`Claim`]s. What is claimed with less than [`thresholds::CERTAIN`] becomes `unexplained`, with the
//! claim among its candidates; what a nearer cause explains is silenced by the table.

mod claim;
mod dpi;
mod hosts;
mod loss;
mod marks;
mod qos;
mod reachability;
mod state;
#[cfg(test)]
mod tests;
pub mod thresholds;
mod unexplained;

use probe_protocol::cause::Cause;
use probe_protocol::finding::Finding;
use probe_protocol::wire::hello::Carrier;

pub use self::claim::Claim;
use crate::evidence::{Evidence, FlowEvidence, Traffic};
use crate::observation::Purpose;
use crate::summarise::reach::{self, Place};

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
    Detector {
        cause: Cause::HostStalled,
        detect: hosts::host_stalled::detect,
        silences: &[Cause::LossyPath, Cause::OneWayLoss, Cause::Reordering],
    },
    Detector { cause: Cause::ClientSuspended, detect: hosts::client_suspended::detect, silences: &[] },
    Detector { cause: Cause::ClockStepped, detect: hosts::clock_stepped::detect, silences: &[] },
    Detector { cause: Cause::ListenerRestarted, detect: hosts::listener_restarted::detect, silences: &[] },
    Detector {
        cause: Cause::CaptivePortal,
        detect: reachability::captive_portal::detect,
        silences: &[
            Cause::WrongHost,
            Cause::NotForwarded,
            Cause::Unreachable,
            Cause::UdpBlocked,
            Cause::TcpFiltered,
            Cause::TlsIntercepted,
        ],
    },
    Detector {
        cause: Cause::LocalFilter,
        detect: reachability::local_filter::detect,
        silences: &[Cause::Unreachable, Cause::UdpBlocked, Cause::TcpFiltered, Cause::TcpRefused],
    },
    Detector {
        cause: Cause::WrongHost,
        detect: reachability::wrong_host::detect,
        silences: &[Cause::Unreachable, Cause::UdpBlocked, Cause::TlsIntercepted],
    },
    Detector {
        cause: Cause::NotForwarded,
        detect: reachability::not_forwarded::detect,
        silences: &[Cause::UdpBlocked, Cause::TcpRefused, Cause::TcpFiltered],
    },
    Detector { cause: Cause::Unreachable, detect: reachability::unreachable::detect, silences: &[] },
    Detector { cause: Cause::TcpRefused, detect: reachability::tcp_refused::detect, silences: &[] },
    Detector { cause: Cause::TcpFiltered, detect: reachability::tcp_filtered::detect, silences: &[] },
    Detector {
        cause: Cause::UdpRepliesBlocked,
        detect: reachability::udp_replies_blocked::detect,
        silences: &[Cause::QuicBlocked],
    },
    Detector {
        cause: Cause::UdpBlocked,
        detect: reachability::udp_blocked::detect,
        silences: &[Cause::QuicBlocked],
    },
    Detector { cause: Cause::Hairpin, detect: reachability::hairpin::detect, silences: &[] },
    Detector {
        cause: Cause::TlsIntercepted,
        detect: dpi::tls_intercepted::detect,
        silences: &[Cause::TlsBlocked],
    },
    Detector { cause: Cause::TlsBlocked, detect: dpi::tls_blocked::detect, silences: &[] },
    Detector { cause: Cause::QuicBlocked, detect: dpi::quic_blocked::detect, silences: &[] },
    Detector { cause: Cause::PayloadRewritten, detect: dpi::payload_rewritten::detect, silences: &[] },
    Detector { cause: Cause::OneWayLoss, detect: loss::one_way_loss::detect, silences: &[Cause::LossyPath] },
    Detector { cause: Cause::LossyPath, detect: loss::lossy_path::detect, silences: &[] },
    Detector { cause: Cause::Reordering, detect: loss::reordering::detect, silences: &[] },
    Detector { cause: Cause::Duplication, detect: loss::duplication::detect, silences: &[] },
    Detector { cause: Cause::DscpRewritten, detect: marks::dscp_rewritten::detect, silences: &[] },
    Detector { cause: Cause::EcnBleached, detect: marks::ecn_bleached::detect, silences: &[] },
    Detector { cause: Cause::MtuBlackHole, detect: state::mtu_black_hole::detect, silences: &[] },
    Detector { cause: Cause::NatRebinding, detect: state::nat_rebinding::detect, silences: &[] },
    Detector {
        cause: Cause::AddressChanged,
        detect: state::address_changed::detect,
        silences: &[Cause::NatRebinding],
    },
    // Load: what UDP alone suffers comes before what all do.
    Detector {
        cause: Cause::UdpPolicer,
        detect: qos::limits::detect,
        silences: &[Cause::LossyPath, Cause::OneWayLoss],
    },
    Detector {
        cause: Cause::UdpDeprioritized,
        detect: qos::deprioritized::detect,
        silences: &[Cause::LossyPath, Cause::OneWayLoss],
    },
    Detector { cause: Cause::FlowThrottled, detect: qos::throttled::detect, silences: &[] },
    // What is left over, and cannot be told yet.
    Detector { cause: Cause::Unexplained, detect: unexplained::silence::detect, silences: &[] },
    Detector { cause: Cause::Unexplained, detect: unexplained::died::detect, silences: &[] },
    Detector { cause: Cause::Unexplained, detect: unexplained::dress::detect, silences: &[] },
];

/// A run's evidence, prepared for the detectors.
pub struct Case<'e> {
    /// The evidence itself.
    pub evidence: &'e Evidence,
    /// What gets through to each address.
    pub places: Vec<Place>,
    /// The flows with their finished statistics, by number.
    pub flows: Vec<(&'e FlowEvidence, Traffic)>,
}

impl<'e> Case<'e> {
    /// Prepares the evidence.
    pub fn new(evidence: &'e Evidence) -> Self {
        Self {
            evidence,
            places: reach::places(evidence),
            flows: evidence.flows.values().map(|flow| (flow, flow.traffic.finished())).collect(),
        }
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
    pub fn steady_udp(&self) -> impl Iterator<Item = &(&'e FlowEvidence, Traffic)> {
        self.flows.iter().filter(|(flow, traffic)| {
            flow.plan.carrier == Carrier::Udp
                && flow.plan.purpose == Purpose::Steady
                && traffic.counts.sent > 0
        })
    }

    /// The port that should be reached.
    pub fn port(&self) -> u16 {
        self.places.first().map_or(probe_protocol::DEFAULT_PORT, |place| place.address.port())
    }
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
        .filter(|(_, claim)| claim.probability >= thresholds::CERTAIN)
        .map(|(row, claim)| (claim.address, DETECTORS[*row].silences))
        .collect();
    claims.retain(|(_, claim)| {
        !silenced.iter().any(|(address, causes)| {
            causes.contains(&claim.cause)
                && (address.is_none() || claim.address.is_none() || *address == claim.address)
        })
    });
    let mut claims: Vec<Claim> = claims.into_iter().map(|(_, claim)| claim).collect();
    if case.reaches_listener() {
        let left = unexplained::unopened(case, &claims);
        claims.extend(left);
    }
    let mut findings: Vec<Finding> = Vec::new();
    for finding in claims.into_iter().map(|claim| claim.into_finding(case)) {
        match findings.iter_mut().find(|earlier| is_same(earlier, &finding)) {
            Some(earlier) => merge(earlier, finding),
            None => findings.push(finding),
        }
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
