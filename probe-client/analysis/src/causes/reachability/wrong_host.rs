//! `wrong-host`: something else answers on the port, and nothing there reaches a listener of ours.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Parameters, Side};

use super::{ALL, evidence, together};
use crate::causes::{Case, Claim};
use crate::summarise::reach::{Openings, Place};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.places.iter().filter(|place| !place.reaches_listener()).filter_map(claim).collect()
}

fn claim(place: &Place) -> Option<Claim> {
    let all = together(place, ALL);
    let foreign: Vec<&Openings> = all.iter().filter(|o| !o.foreign.is_empty()).collect();
    let certificate = all.iter().flat_map(|o| &o.intercepted).find(|i| i.certificate_differs && !i.opened);
    let looks_like = match (foreign.first().and_then(|o| o.foreign.first()), certificate) {
        (Some((looks_like, _)), _) => looks_like.clone(),
        (None, Some(other)) => {
            format!("TLS with a certificate of {}", other.issuer.as_deref().unwrap_or("an unknown issuer"))
        }
        (None, None) => return None,
    };
    let answers: u64 = foreign.iter().map(|o| o.foreign.len() as u64).sum();
    let says = match answers {
        0 => format!("{} answers with another identity than the invite's: {looks_like}", place.address),
        n => format!("{} answered {n} times, and not as a listener of ours: {looks_like}", place.address),
    };
    let with_answers: Vec<Openings> =
        all.iter().filter(|o| !o.foreign.is_empty() || !o.intercepted.is_empty()).cloned().collect();
    Some(
        Claim::new(Cause::WrongHost, Side::Listener)
            .at(place.address, ALL)
            .because(evidence(&with_answers, says))
            .parameters(Parameters { kind: Some(looks_like), ..Parameters::default() })
            .rather_than(Cause::NotForwarded, "no protocol reaches a listener of ours at this address"),
    )
}
