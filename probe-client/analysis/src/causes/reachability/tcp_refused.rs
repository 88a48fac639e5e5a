//! `tcp-refused`: every attempt is answered with a reset while UDP reaches the listener.

use probe_protocol::cause::Cause;
use probe_protocol::finding::Side;

use super::{DATAGRAMS, STREAMS, alive, any_reaches, evidence, ports, together, total};
use crate::causes::{Case, Claim, thresholds};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .filter_map(|place| {
            let tcp = together(place, STREAMS);
            let (refused, failures) = (total(&tcp, |o| o.refused), total(&tcp, |o| o.failures()));
            if any_reaches(&tcp)
                || refused == 0
                || refused < failures
                || !any_reaches(&together(place, DATAGRAMS))
            {
                return None;
            }
            let says =
                format!("{refused} of {failures} TCP connections{} were refused with a reset", ports(&tcp));
            let enough = refused >= thresholds::REFUSALS;
            let mut claim = Claim::new(Cause::TcpRefused, Side::PathOrEndpoint)
                .at(place.address, STREAMS)
                .probability(if enough { 0.99 } else { 0.9 })
                .because(evidence(&tcp, says))
                .rather_than(
                    Cause::TcpFiltered,
                    "each attempt was answered at once; none was met with silence",
                )
                .or([], "more attempts");
            claim.evidence.extend(alive(place, DATAGRAMS));
            Some(claim)
        })
        .collect()
}
