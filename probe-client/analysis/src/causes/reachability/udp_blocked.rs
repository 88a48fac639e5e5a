//! `udp-blocked`: the listener, asked over TCP, received none of the datagrams.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Parameters};
use probe_protocol::wire::hello::Carrier;

use super::{DATAGRAMS, STREAMS, alive, any_reaches, evidence, ports, side_of, together, total};
use crate::causes::{Case, Claim, thresholds};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .filter_map(|place| {
            let all = together(place, DATAGRAMS);
            let own = together(place, &[Carrier::Udp]);
            let tried = total(&own, |o| o.failures());
            if any_reaches(&all) || tried == 0 || !any_reaches(&together(place, STREAMS)) {
                return None;
            }
            if total(&own, |o| o.hellos_arrived) > 0 || own.iter().any(|o| !o.foreign.is_empty()) {
                return None;
            }
            if own.iter().all(|o| !o.local_errors.is_empty() && o.silent == 0) {
                return None;
            }
            let refused_by = own.iter().flat_map(|o| o.refused_by.iter().copied());
            let said = own.iter().flat_map(|o| o.network_errors.clone()).collect::<Vec<_>>();
            let said_by = said.iter().filter_map(|(_, by)| *by).chain(refused_by);
            let side = side_of(said_by, place.address);
            let refused = total(&own, |o| o.refused) > 0;
            let reason = said
                .first()
                .map(|(says, _)| says.clone())
                .or_else(|| refused.then(|| "ICMP port unreachable".to_owned()));
            let counted: Option<u64> = own.iter().map(|o| o.hellos_sent).sum();
            let says = match counted {
                Some(sent) => {
                    format!("of {sent} datagrams{} none reached the listener, by its own ledger", ports(&own))
                }
                None => {
                    format!("{tried} attempts to open a UDP flow{} stayed without an answer", ports(&own))
                }
            };
            let p = thresholds::all_lost(counted.unwrap_or(0));
            let mut because = evidence(&own, says);
            because.test = counted.map(|_| "all lost by chance at 20 % loss".to_owned());
            because.p = counted.map(|_| p);
            let certain = counted.is_some() && p < thresholds::OPENING_CHANCE;
            let mut claim = Claim::new(Cause::UdpBlocked, side)
                .at(place.address, DATAGRAMS)
                .direction(Direction::Up)
                .probability(if certain { 1.0 - p } else { 0.8 })
                .because(because)
                .rather_than(Cause::UdpRepliesBlocked, "the listener's ledger shows no arrival at all")
                .or([], "the listener's own count of what arrived")
                .parameters(Parameters { reason, ..Parameters::default() });
            claim.evidence.extend(alive(place, STREAMS));
            Some(claim)
        })
        .collect()
}
