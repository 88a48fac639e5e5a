//! `not-forwarded`: one protocol reaches the listener, and the other one reaches somebody else.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::{DATAGRAMS, STREAMS, alive, any_reaches, evidence, together, total};
use crate::causes::{Case, Claim, thresholds};
use crate::summarise::reach::Place;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .flat_map(|place| {
            [
                claim(place, STREAMS, DATAGRAMS, "TCP"),
                claim(place, DATAGRAMS, STREAMS, "UDP"),
                closed(case, place),
            ]
            .into_iter()
            .flatten()
        })
        .collect()
}

/// The address that was aimed at says that its own port is closed for UDP, the listener behind it has another address, and
/// none of the datagrams reached it: it is the translator itself that answers. A listener's host that forbids answers
/// otherwise: with a prohibition, or with nothing.
fn closed(case: &Case<'_>, place: &Place) -> Option<Claim> {
    let udp = together(place, &[Carrier::Udp]);
    // Systems bound how often they say so (RFC 1812 section 4.3.2.8): what is not refused is met with silence.
    let (refused, silent) = (total(&udp, |o| o.refused), total(&udp, |o| o.silent));
    let failures = total(&udp, |o| o.failures());
    let by_target = udp.iter().all(|o| o.refused_by.iter().all(|by| *by == place.address.ip()));
    if any_reaches(&together(place, DATAGRAMS))
        || !any_reaches(&together(place, STREAMS))
        || case.is_translated(place.address.ip()) != Some(true)
        || refused < thresholds::REFUSALS
        || refused + silent < failures
        || !by_target
        || total(&udp, |o| o.hellos_arrived) > 0
    {
        return None;
    }
    let says = format!(
        "{refused} of {failures} attempts over UDP were answered with \"port unreachable\" from {} itself, and the \
         listener, which TCP reaches there, has another address of its own and received none",
        place.address.ip()
    );
    let mut claim = Claim::new(Cause::NotForwarded, Side::Listener)
        .at(place.address, DATAGRAMS)
        .direction(Direction::Up)
        .probability(0.96)
        .because(evidence(&udp, says))
        .parameters(Parameters { kind: Some("udp".to_owned()), ..Parameters::default() })
        .rather_than(
            Cause::UdpBlocked,
            "the router in front of the listener says that its own port is closed",
        );
    claim.evidence.extend(alive(place, STREAMS));
    Some(claim)
}

/// Says that `lost` goes elsewhere while `good` arrives.
fn claim(place: &Place, lost: &'static [Carrier], good: &'static [Carrier], protocol: &str) -> Option<Claim> {
    let astray = together(place, lost);
    let foreign: Vec<_> = astray.iter().flat_map(|o| o.foreign.clone()).collect();
    let (looks_like, _) = foreign.first()?;
    if any_reaches(&astray) || !any_reaches(&together(place, good)) {
        return None;
    }
    let says = format!(
        "{} of {} attempts over {protocol} were answered by something else: {looks_like}",
        foreign.len(),
        total(&astray, |o| o.failures())
    );
    let mut claim = Claim::new(Cause::NotForwarded, Side::Listener)
        .at(place.address, lost)
        .because(evidence(&astray, says))
        .parameters(Parameters { kind: Some(protocol.to_ascii_lowercase()), ..Parameters::default() })
        .rather_than(Cause::WrongHost, "the other protocol does reach our listener at the same address");
    claim.evidence.extend(alive(place, good));
    Some(claim)
}
