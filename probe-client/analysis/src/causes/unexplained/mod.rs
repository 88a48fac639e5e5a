//! What is plainly wrong and cannot be told yet: said as `unexplained`, with what would decide.

mod died;
mod load;
mod silence;

use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Side};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::{Case, Claim, thresholds};
use crate::evidence::FlowEvidence;
use crate::model::Reach;
use crate::observation::{Attempt, FlowNo, Outcome, Purpose};

/// Everything that is plainly wrong and that no claim explains.
pub(super) fn left(case: &Case<'_>, claims: &[Claim]) -> Vec<Claim> {
    let explained = |flow: FlowNo| claims.iter().any(|claim| claim.explains.contains(&flow));
    let mut out = silence::detect(case, &explained);
    out.extend(died::detect(case, &explained));
    out.extend(load::detect(case, claims));
    if case.reaches_listener() {
        out.extend(unopened(case, claims));
        out.extend(shut_out(case, claims));
    }
    out
}

/// Single flows of datagrams that never opened, though each tried several times, while others like them did.
fn shut_out(case: &Case<'_>, claims: &[Claim]) -> Option<Claim> {
    let told = |claim: &Claim| {
        matches!(claim.cause, Cause::FlowLimit | Cause::BadPathMember | Cause::PenaltyBox | Cause::Outage)
            || claim.covers.contains(&Carrier::Udp)
    };
    if claims.iter().any(told) {
        return None;
    }
    let alike = || {
        case.flows.iter().map(|(flow, _)| *flow).filter(|flow| {
            flow.plan.carrier == Carrier::Udp
                && flow.plan.dress == Dress::Random
                && flow.plan.purpose != Purpose::Idle
        })
    };
    let silent = |flow: &&FlowEvidence| {
        let tried = |a: &&Attempt| {
            matches!(a.outcome, Outcome::Silent { .. })
                && a.to.since(a.from) >= TRIED
                && !case.host_acted(case.evidence.seconds(a.from), case.evidence.seconds(a.to))
        };
        flow.opened.is_none() && flow.attempts.iter().any(|a| tried(&a))
    };
    let shut: Vec<&FlowEvidence> = alike().filter(silent).collect();
    let opened = alike().filter(|flow| flow.opened.is_some()).count();
    if shut.len() < thresholds::ALIKE_FLOWS || opened < thresholds::ALIKE_FLOWS {
        return None;
    }
    let says = format!("{} flows of datagrams never opened, while {opened} others like them did", shut.len());
    let from = shut.iter().map(|flow| case.evidence.seconds(flow.plan.at)).min_by(f64::total_cmp);
    Some(
        Claim::new(Cause::Unexplained, Side::PathOrEndpoint)
            .probability(0.9)
            .because(Evidence {
                flows: shut.iter().map(|flow| flow.plan.name.clone()).take(16).collect(),
                from_s: from,
                says,
                ..Evidence::default()
            })
            .or(
                [Cause::FlowLimit, Cause::PenaltyBox, Cause::BadPathMember],
                "`check --full`, which opens ever more flows at the same time",
            ),
    )
}

/// An attempt of this length has sent its opening several times.
const TRIED: Duration = Duration::from_secs(1);

/// Transports that do not open and that no claim explains.
fn unopened(case: &Case<'_>, claims: &[Claim]) -> Vec<Claim> {
    let mut out = Vec::new();
    for place in case.live_places() {
        for (carrier, covers) in ROWS {
            let explained = claims.iter().any(|claim| {
                claim.covers.contains(carrier) && claim.address.is_none_or(|address| address == place.address)
            });
            let reach = place.reach(*carrier);
            let o = place.of(*carrier);
            if explained
                || o.reaches_listener()
                || matches!(reach, Reach::NotTested | Reach::Open | Reach::Intercepted)
            {
                continue;
            }
            let words = [
                (o.silent, "met with silence"),
                (o.refused, "refused"),
                (o.cut, "cut"),
                (o.network_errors.len() as u64, "answered \"unreachable\" by the network"),
                (o.local_errors.len() as u64, "refused by this computer"),
                (o.handshake_errors.len() as u64, "failed in the handshake"),
            ];
            let tally: Vec<_> =
                words.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
            let says = format!(
                "{} to {} did not open while other transports did; attempts: {}",
                carrier.name().to_uppercase(),
                place.address,
                if tally.is_empty() { "none ended".to_owned() } else { tally.join(", ") }
            );
            out.push(
                Claim::new(Cause::Unexplained, Side::PathOrEndpoint)
                    .at(place.address, covers)
                    .probability(0.9)
                    .because(Evidence { flows: o.flows.clone(), says, ..Evidence::default() })
                    .or(
                        candidates(*carrier),
                        "more attempts, from several source ports, beside those that open",
                    ),
            );
        }
    }
    out
}

/// The transports that a user relies on.
const ROWS: &[(Carrier, &[Carrier])] = &[
    (Carrier::Tcp, &[Carrier::Tcp]),
    (Carrier::Tls, &[Carrier::Tls]),
    (Carrier::Udp, &[Carrier::Udp]),
    (Carrier::Quic, &[Carrier::Quic]),
];

fn candidates(carrier: Carrier) -> Vec<Cause> {
    match carrier {
        Carrier::Tcp => vec![Cause::TcpRefused, Cause::TcpFiltered, Cause::UnknownProtocolBlocked],
        Carrier::Tls => vec![Cause::TlsBlocked, Cause::TcpFiltered, Cause::RstInjected],
        Carrier::Udp => vec![Cause::UdpBlocked, Cause::UnknownProtocolBlocked, Cause::HighEntropyBlocked],
        Carrier::Quic | Carrier::QuicInverse => vec![Cause::QuicBlocked, Cause::MtuBlackHole],
    }
}
