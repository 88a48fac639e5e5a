//! `tls-blocked`: TLS dies at its first message while plain TCP to the same port lives.
//!
//! An inspector that refuses our self-signed certificate looks much the same from here. But it has to ask the listener
//! for that certificate: where the listener, asked over another transport, has seen none of the ClientHellos, nobody
//! knows the certificate, and it is the ClientHello itself that was not let through.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, thresholds};
use crate::observation::{Outcome, ServerNameKind};
use crate::stats::hypothesis::fisher_at_least;
use crate::summarise::reach::Place;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places().filter_map(|place| judge(case, place)).collect()
}

fn judge(case: &Case<'_>, place: &Place) -> Option<Claim> {
    let (tls, tcp) = (place.of(Carrier::Tls), place.of(Carrier::Tcp));
    let after_connecting = tls.silent_connected + tls.cut + tls.handshake_errors.len() as u64;
    // Attempts with the target's own name, and with others.
    let own = tally(case, place, |kind| matches!(kind, None | Some(ServerNameKind::Target)));
    let other = tally(case, place, |kind| matches!(kind, Some(ServerNameKind::Other)));
    let absent = tally(case, place, |kind| matches!(kind, Some(ServerNameKind::Absent)));
    let (opened, failed) = own;
    if opened > 0 || failed == 0 || !tls.intercepted.is_empty() || after_connecting == 0 || tcp.opened == 0 {
        return None;
    }
    let by_name = other.0 + absent.0 > 0;
    let beside = tcp.opened + other.0 + absent.0;
    let dead = if by_name { failed } else { failed + other.1 + absent.1 };
    let p = fisher_at_least(dead, dead, 0, beside);
    let arrived = case.evidence.client_hellos_during();
    let unseen = arrived.is_some_and(|(attempts, arrived)| attempts >= 2 && arrived == 0);
    let says = format!(
        "{after_connecting} of {} TLS attempts connected and then got no further ({} cut with a reset), while plain TCP to \
         the same port opened {} of {} times",
        tls.failures(),
        tls.cut_by_reset,
        tcp.opened,
        tcp.opened + tcp.failures()
    );
    let names = format!(
        "with another server name {} of {} opened, without one {} of {}",
        other.0,
        other.0 + other.1,
        absent.0,
        absent.0 + absent.1
    );
    let mut claim = Claim::new(Cause::TlsBlocked, Side::PathOrEndpoint)
        .at(place.address, &[Carrier::Tls])
        .probability(if (by_name || unseen) && p < 1.0 - thresholds::CERTAIN { 1.0 - p } else { 0.8 })
        .parameters(Parameters {
            kind: Some(if by_name { "name" } else { "tls" }.to_owned()),
            ..Parameters::default()
        })
        .because(Evidence {
            flows: tls.flows.iter().chain(&tcp.opened_flows).cloned().collect(),
            says,
            test: Some("Fisher's exact test".to_owned()),
            p: Some(p),
            ..Evidence::default()
        })
        .or(
            [Cause::TlsIntercepted],
            "whether the listener saw any ClientHello, and TLS with other server names and without one",
        );
    if other.0 + other.1 + absent.0 + absent.1 > 0 {
        claim = claim.because(Evidence { says: names, ..Evidence::default() });
    }
    if let Some((attempts, arrived)) = arrived {
        let says = format!(
            "of {attempts} ClientHellos sent meanwhile {arrived} reached the listener, by its own count"
        );
        claim = claim.because(Evidence { says, ..Evidence::default() });
    }
    if by_name || unseen {
        claim = claim.rather_than(
            Cause::TlsIntercepted,
            if by_name {
                "an inspector would refuse the certificate whatever the name"
            } else {
                "nobody asked the listener for its certificate, so it is not that which was refused"
            },
        );
    }
    Some(claim)
}

/// Flows that opened, and attempts that got no further than TCP's own handshake.
fn tally(case: &Case<'_>, place: &Place, with: impl Fn(Option<ServerNameKind>) -> bool) -> (u64, u64) {
    case.flows
        .iter()
        .map(|(flow, _)| *flow)
        .filter(|flow| flow.plan.to == place.address && flow.plan.carrier == Carrier::Tls)
        .filter(|flow| with(flow.plan.server_name))
        .fold((0, 0), |(opened, failed), flow| {
            let stuck = |outcome: &Outcome| match outcome {
                Outcome::Silent { connected } => *connected,
                Outcome::Cut { .. } | Outcome::HandshakeFailed { .. } => true,
                Outcome::Opened
                | Outcome::Refused { .. }
                | Outcome::NetworkError { .. }
                | Outcome::LocalError { .. }
                | Outcome::Foreign { .. }
                | Outcome::Refusal { .. } => false,
            };
            let stuck = flow.attempts.iter().filter(|a| stuck(&a.outcome)).count() as u64;
            (opened + u64::from(flow.opened.is_some()), failed + stuck)
        })
}
