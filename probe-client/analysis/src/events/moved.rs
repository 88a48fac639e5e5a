//! Changed sources: what moved many flows at once is one event.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use probe_protocol::cause::Cause;

use super::gather::Happened;
use crate::observation::{FlowNo, Moved};

/// A new mapping shows with a flow's next packet: flows that follow each other this closely moved together. Twice the
/// longest time between two probes of a soak's slow flows.
const FOLLOWS: Duration = Duration::from_secs(12);

/// Puts changes together: those between the same addresses that follow each other closely.
pub(super) fn moves(moves: &[Moved]) -> Vec<Happened> {
    let mut sorted = moves.to_vec();
    sorted.sort_by_key(|moved| (moved.at, moved.flow));
    let mut groups: Vec<Vec<Moved>> = Vec::new();
    for moved in sorted {
        let addresses = |moved: &Moved| -> (IpAddr, IpAddr) { (moved.old.ip(), moved.new.ip()) };
        let home = groups.iter_mut().rev().take(64).find(|group| {
            group.last().is_some_and(|last| {
                addresses(last) == addresses(&moved) && moved.at.since(last.at) <= FOLLOWS
            })
        });
        match home {
            Some(group) => group.push(moved),
            None => groups.push(vec![moved]),
        }
    }
    groups.iter().filter_map(|group| event(group)).collect()
}

fn event(group: &[Moved]) -> Option<Happened> {
    let (first, last) = (group.first()?, group.last()?);
    let flows: BTreeSet<FlowNo> = group.iter().map(|moved| moved.flow).collect();
    let same_address = first.old.ip() == first.new.ip();
    let says = match (flows.len(), same_address) {
        (1, _) => format!("the source became {} (it was {})", last.new, first.old),
        (n, true) => format!(
            "{n} flows came from other ports of {} than before, {} instead of {} to name one",
            first.new.ip(),
            first.new.port(),
            first.old.port()
        ),
        (n, false) => format!("{n} flows came from {} (it was {})", first.new.ip(), first.old.ip()),
    };
    Some(Happened {
        kind: "moved",
        from: first.at,
        to: last.at,
        flows: flows.into_iter().collect(),
        direction: None,
        lost: None,
        cause: Some(if same_address { Cause::NatRebinding } else { Cause::AddressChanged }),
        recovery: None,
        meanwhile: None,
        says,
    })
}

#[cfg(test)]
mod tests {
    use probe_protocol::time::Timestamp;

    use super::*;

    fn moved(flow: u32, at_s: u64, old: &str, new: &str) -> Moved {
        let at = Timestamp(at_s * 1_000_000_000);
        Moved { flow: FlowNo(flow), at, old: old.parse().unwrap(), new: new.parse().unwrap() }
    }

    #[test]
    fn what_moves_many_flows_is_told_once_and_the_next_time_again() {
        let mut all = Vec::new();
        for flow in 0..9u32 {
            let port = |base: u32| format!("198.51.100.4:{}", base + flow);
            all.push(moved(flow, 100 + u64::from(flow), &port(4000), &port(5000)));
            all.push(moved(
                flow,
                900 + u64::from(flow),
                &port(5000),
                &format!("198.51.100.9:{}", 5000 + flow),
            ));
        }
        let told = moves(&all);
        assert_eq!(told.len(), 2);
        assert!(told.iter().all(|event| event.flows.len() == 9));
        assert_eq!(told[0].cause, Some(Cause::NatRebinding));
        assert!(told[0].says.contains("9 flows came from other ports of 198.51.100.4"), "{}", told[0].says);
        assert_eq!(told[1].cause, Some(Cause::AddressChanged));
        assert_eq!(told[1].says, "9 flows came from 198.51.100.9 (it was 198.51.100.4)");
        assert_eq!(told[1].to.since(told[1].from), Duration::from_secs(8));
    }

    #[test]
    fn one_flow_s_change_names_its_ports_and_changes_far_apart_stay_apart() {
        let told = moves(&[
            moved(1, 10, "198.51.100.4:4000", "198.51.100.4:4007"),
            moved(1, 500, "198.51.100.4:4007", "198.51.100.4:4014"),
        ]);
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].says, "the source became 198.51.100.4:4007 (it was 198.51.100.4:4000)");
    }
}
