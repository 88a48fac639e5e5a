//! `not-forwarded`: one protocol reaches the listener, and the other one reaches somebody else.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::{DATAGRAMS, STREAMS, alive, any_reaches, evidence, together, total};
use crate::causes::{Case, Claim};
use crate::summarise::reach::Place;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .flat_map(|place| {
            [claim(place, STREAMS, DATAGRAMS, "TCP"), claim(place, DATAGRAMS, STREAMS, "UDP")]
                .into_iter()
                .flatten()
        })
        .collect()
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
