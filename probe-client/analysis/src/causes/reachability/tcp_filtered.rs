//! `tcp-filtered`: TCP is met with silence, or with an ICMP prohibition, while UDP reaches the listener.

use probe_protocol::cause::Cause;
use probe_protocol::finding::Parameters;

use super::{DATAGRAMS, STREAMS, alive, any_reaches, evidence, ports, side_of, together, total};
use crate::causes::{Case, Claim, thresholds};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .filter_map(|place| {
            let tcp = together(place, STREAMS);
            let silent = total(&tcp, |o| o.silent - o.silent_connected);
            let said: Vec<_> = tcp.iter().flat_map(|o| o.network_errors.clone()).collect();
            let failures = total(&tcp, |o| o.failures());
            let dropped = silent + said.len() as u64;
            if any_reaches(&tcp)
                || dropped == 0
                || dropped < failures
                || !any_reaches(&together(place, DATAGRAMS))
            {
                return None;
            }
            let p = if said.is_empty() { thresholds::all_lost(silent) } else { 0.0 };
            let accepted = case.evidence.tcp_accepted;
            // The listener did accept: then it is not the handshake that is dropped.
            let contradicted = accepted.is_some_and(|n| n > 0);
            let says = match said.first() {
                None => format!("{silent} TCP connections{} timed out without any answer", ports(&tcp)),
                Some((says, _)) => {
                    format!("{dropped} TCP connections{} failed; the network says: {says}", ports(&tcp))
                }
            };
            let mut because = evidence(&tcp, says);
            because.test = said.is_empty().then(|| "all lost by chance at 20 % loss".to_owned());
            because.p = said.is_empty().then_some(p);
            let certain = p < thresholds::OPENING_CHANCE && !contradicted;
            let side = side_of(said.iter().filter_map(|(_, by)| *by), place.address);
            let mut claim = Claim::new(Cause::TcpFiltered, side)
                .at(place.address, STREAMS)
                .probability(if certain { 1.0 - p } else { 0.8 })
                .because(because)
                .rather_than(Cause::TcpRefused, "no attempt was answered with a reset")
                .or([], "more attempts from other source ports, and whether the listener accepted any")
                .parameters(Parameters {
                    reason: said.first().map(|(says, _)| says.clone()),
                    ..Parameters::default()
                });
            if accepted == Some(0) {
                let says = "the listener accepted no TCP connection from this address".to_owned();
                claim.evidence.push(probe_protocol::finding::Evidence { says, ..Default::default() });
            }
            claim.evidence.extend(alive(place, DATAGRAMS));
            Some(claim)
        })
        .collect()
}
