//! `udp-replies-blocked`: the listener received the datagrams and answered, and nothing came back.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Side};
use probe_protocol::wire::hello::Carrier;

use super::{DATAGRAMS, STREAMS, alive, any_reaches, evidence, ports, together, total};
use crate::causes::{Case, Claim, thresholds};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .filter_map(|place| {
            let own = together(place, &[Carrier::Udp]);
            let arrived = total(&own, |o| o.hellos_arrived);
            if any_reaches(&together(place, DATAGRAMS)) || arrived == 0 {
                return None;
            }
            let sent = total(&own, |o| o.hellos_sent.unwrap_or(0));
            let p = thresholds::all_lost(arrived);
            let says = format!(
                "{arrived} of {sent} datagrams{} reached the listener, which answered each; no answer came back",
                ports(&own)
            );
            let mut because = evidence(&own, says);
            because.test = Some("all answers lost by chance at 20 % loss".to_owned());
            because.p = Some(p);
            let mut claim = Claim::new(Cause::UdpRepliesBlocked, Side::Path)
                .at(place.address, DATAGRAMS)
                .direction(Direction::Down)
                .probability(1.0 - p.max(1e-9) / thresholds::OPENING_CHANCE * (1.0 - thresholds::CERTAIN))
                .because(because)
                .rather_than(Cause::UdpBlocked, "the listener's ledger shows the datagrams")
                .or([], "more datagrams");
            claim.evidence.extend(alive(place, STREAMS));
            Some(claim)
        })
        .collect()
}
