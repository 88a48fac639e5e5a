//! What a report says of lost probes, against the log of every packet that the network dropped.
//!
//! The simulated network knows what became of each probe ([`crate::sim::Truth::contradictions`]). The real-kernel one
//! knows packets, not probes: no flow can have lost more than the log says was dropped of it, and what was dropped of
//! it at the length of its probes must be accounted for.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::judge::{Flow, Report};
use super::{Event, Scenario};
use crate::middlebox::topology::LINK_MTU;
use crate::packet::Protocol;
use crate::rules::truth::{Deed, Line};
use crate::rules::{Action, Direction};

/// IPv4's and UDP's headers, bytes.
const HEADERS_V4: usize = 28;
/// IPv6's and UDP's.
const HEADERS_V6: usize = 48;

/// What was dropped of one flow, by way: all, and that of the length of its probes.
#[derive(Clone, Copy, Debug, Default)]
struct Dropped {
    all: [u64; 2],
    probes: [u64; 2],
}

/// Whether the log can be held against a report: ports must stay what they are, and nothing but the network may lose
/// packets.
fn is_comparable(scenario: &Scenario) -> bool {
    let nat = scenario.topology.client_nat.as_ref();
    let keeps_ports = nat.is_none_or(|nat| nat.keeps_ports && !nat.symmetric);
    let alters = |action: &Action| {
        matches!(
            action,
            Action::Rebind { .. } | Action::Forget { .. } | Action::Rewrite { .. } | Action::Duplicate { .. }
        )
    };
    keeps_ports
        && !scenario.rule.iter().any(|rule| alters(&rule.action))
        && scenario.event.iter().all(|event| matches!(event, Event::CrossTraffic { .. }))
}

/// Every contradiction between a report and the log, in words.
pub fn contradictions(scenario: &Scenario, report: &Report, lines: &[Line]) -> Vec<String> {
    if !is_comparable(scenario) {
        return Vec::new();
    }
    let mut ports: BTreeMap<u16, (&Flow, Dropped)> = BTreeMap::new();
    // A load's blocks are counted by themselves.
    // Of a datagram in pieces only the first has a port to be known by; the flow of fragments sends small ones beside them.
    let fits = |flow: &Flow| usize::from(flow.size_bytes) + HEADERS_V4 <= usize::from(LINK_MTU);
    let whole = |flow: &Flow| fits(flow) && flow.id != "udp/fragments";
    let probed = |flow: &&Flow| flow.transport == "udp" && !flow.id.starts_with("load/") && whole(flow);
    for flow in report.flows.iter().filter(probed) {
        if let Some(source) = flow.source.as_ref().and_then(|s| s.parse::<SocketAddr>().ok()) {
            ports.insert(source.port(), (flow, Dropped::default()));
        }
    }
    for line in lines.iter().filter(|l| l.deed == Deed::Dropped && l.flow.protocol == Protocol::Udp) {
        let Some((flow, dropped)) = ports.get_mut(&line.flow.client.port()) else { continue };
        let headers = if line.flow.client.is_ipv6() { HEADERS_V6 } else { HEADERS_V4 };
        let way = line.direction.index();
        dropped.all[way] += 1;
        dropped.probes[way] += u64::from(line.size == usize::from(flow.size_bytes) + headers);
    }
    let mut wrong = Vec::new();
    for (flow, dropped) in ports.values() {
        let unknown = flow.lost.unknown.unwrap_or(0) + flow.excluded;
        for (way, name, said) in
            [(Direction::Up, "up", flow.lost.up), (Direction::Down, "down", flow.lost.down)]
        {
            let (all, probes) = (dropped.all[way.index()], dropped.probes[way.index()]);
            let Some(said) = said else { continue };
            if said > all {
                wrong.push(format!("{}: {said} lost {name}, and the log has {all} dropped", flow.id));
            }
            // A flow that never opened sent no probes, and one of marks or of sizes has no one length.
            if flow.sent > 0 && said + unknown < probes {
                let id = &flow.id;
                wrong.push(format!("{id}: {said} lost {name}, and the log has {probes} probes dropped"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::rules::{FlowKey, Place};

    fn line(port: u16, direction: Direction, size: usize) -> Line {
        let client = SocketAddr::new([192, 168, 86, 2].into(), port);
        let server = SocketAddr::new([203, 0, 113, 7].into(), 8886);
        Line {
            at: Duration::ZERO,
            place: Place::Path,
            rule: Arc::from("loss"),
            deed: Deed::Dropped,
            why: "rule",
            delay: Duration::ZERO,
            direction,
            flow: FlowKey { protocol: Protocol::Udp, client, server },
            size,
            head: [0; 16],
        }
    }

    fn wrong(up: u64, unknown: u64, lines: &[Line]) -> usize {
        let scenario = Scenario::parse("plain", "about = \"plain\"", 0).unwrap();
        let report: Report = serde_json::from_value(serde_json::json!({"flows": [{
            "id": "udp/random", "transport": "udp", "source": "192.168.86.2:4000", "size_bytes": 128, "sent": 500,
            "excluded": 0, "lost": {"up": up, "down": 0, "unknown": unknown}}]}))
        .unwrap();
        contradictions(&scenario, &report, lines).len()
    }

    #[test]
    fn as_many_are_lost_as_the_log_has_dropped() {
        let two = [line(4000, Direction::Up, 156), line(4000, Direction::Up, 156)];
        assert_eq!([wrong(1, 0, &two), wrong(2, 0, &two), wrong(3, 0, &two)], [1, 0, 1]);
        assert_eq!(wrong(1, 1, &two), 0, "one of which nobody can tell");
        let requests = [line(4000, Direction::Up, 1228), line(4000, Direction::Up, 1228)];
        assert_eq!(wrong(0, 0, &requests), 0, "what is no probe need not be one");
        assert_eq!(wrong(0, 0, &[line(4001, Direction::Up, 156)]), 0, "of another flow");
        assert_eq!(wrong(1, 0, &[line(4000, Direction::Down, 156)]), 2);
    }
}
