//! `proxy-only`: nothing leaves the site directly, and the proxy that this computer is configured with does reach the
//! listener.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use super::{ALL, STREAMS, any_reaches, evidence, together, total};
use crate::causes::{Case, Claim, thresholds};
use crate::summarise::reach::Openings;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let Some(tried) = case.evidence.proxy.as_ref().filter(|tried| tried.through) else { return Vec::new() };
    let tcp: Vec<Openings> = case.places.iter().flat_map(|place| together(place, STREAMS)).collect();
    let failures = total(&tcp, |o| o.failures());
    // UDP cannot go through it: where that gets through, TCP alone is filtered.
    if case.reaches_listener() || any_reaches(&tcp) || failures == 0 {
        return Vec::new();
    }
    let p = thresholds::all_lost(failures);
    let says = format!("none of {failures} TCP connections to the listener opened directly");
    vec![
        Claim::new(Cause::ProxyOnly, Side::ClientNetwork)
            .covering(ALL)
            .probability(if p < thresholds::OPENING_CHANCE { 1.0 - p } else { 0.8 })
            .because(evidence(&tcp, says))
            .because(Evidence {
                says: format!("through the proxy {} {}", tried.proxy, tried.says),
                ..Evidence::default()
            })
            .parameters(Parameters { reason: Some(tried.proxy.clone()), ..Parameters::default() })
            .rather_than(Cause::Unreachable, "the listener is there, and answers through the proxy")
            .or([], "more attempts"),
    ]
}
