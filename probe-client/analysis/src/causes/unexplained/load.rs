//! Load that lost much, and nothing says why.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, qos};
use crate::observation::LoadExperiment;

/// A step that gets no more than this share through loses more than benign paths do.
const THROUGH: f64 = 0.9;
/// So many steps: one may have met a burst.
const STEPS: usize = 2;

/// Whether a cause says why load is lost, whichever flows it names.
const fn tells(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::UdpPolicer
            | Cause::UdpShaper
            | Cause::RateLimit
            | Cause::UdpFloodProtection
            | Cause::UdpDeprioritized
            | Cause::FlowThrottled
            | Cause::Congestion
            | Cause::Bufferbloat
            | Cause::LossyPath
            | Cause::OneWayLoss
            | Cause::Outage
            | Cause::LocalNetwork
            | Cause::PeriodicDrop
            | Cause::PenaltyBox
            | Cause::FlowKilledByPackets
            | Cause::FlowKilledByBytes
            | Cause::FlowKilledByAge
            | Cause::PolicyPush
            | Cause::StaleFlowState
            | Cause::UnknownProtocolBlocked
            | Cause::HighEntropyBlocked
            | Cause::BadPathMember
            | Cause::PayloadRewritten
            | Cause::MtuBlackHole
            | Cause::AddressChanged
            | Cause::NatRebinding
            | Cause::HostStalled
            | Cause::ClientSuspended
            | Cause::ListenerRestarted
            | Cause::InterfaceChanged
    )
}

pub(super) fn detect(case: &Case<'_>, claims: &[Claim]) -> Vec<Claim> {
    [Direction::Up, Direction::Down].into_iter().filter_map(|direction| of(case, claims, direction)).collect()
}

fn of(case: &Case<'_>, claims: &[Claim], direction: Direction) -> Option<Claim> {
    let is_told = |claim: &Claim| {
        tells(claim.cause) && claim.direction.is_none_or(|d| d == direction || d == Direction::Both)
    };
    if claims.iter().any(is_told) {
        return None;
    }
    let steps = qos::steps::steps(case, direction);
    let lossy: Vec<_> = steps
        .iter()
        .filter(|s| {
            s.carrier == Carrier::Udp
                && s.experiment == LoadExperiment::Staircase
                && s.arrived_bps < THROUGH * s.sent_bps
                && !case.host_acted(s.from_s, s.to_s)
                && !case.was_silent(s.from_s, s.to_s)
                && !s.is_near_an_end(case, direction)
        })
        .collect();
    let (first, last) = (lossy.first()?, lossy.last()?);
    if lossy.len() < STEPS {
        return None;
    }
    let most =
        lossy.iter().max_by(|a, b| (a.arrived_bps / a.sent_bps).total_cmp(&(b.arrived_bps / b.sent_bps)))?;
    let says = format!(
        "of UDP at rate, {} steps lost more than a tenth; at {:.2} Mbit/s {:.2} Mbit/s got through",
        lossy.len(),
        most.sent_bps / 1e6,
        most.arrived_bps / 1e6
    );
    Some(
        Claim::new(Cause::Unexplained, Side::Path)
            .direction(direction)
            .probability(0.9)
            .because(Evidence {
                flows: vec![case.evidence.name(first.flow)],
                from_s: Some(first.from_s),
                to_s: Some(last.to_s),
                says,
                ..Evidence::default()
            })
            .or(
                [Cause::UdpPolicer, Cause::RateLimit, Cause::FlowThrottled, Cause::Congestion],
                "a rehearsal at that rate, which lasts longer",
            ),
    )
}
