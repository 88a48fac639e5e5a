//! Where probes were lost, against the lab's own record of every packet; and flows that change their port.

use std::collections::BTreeMap;

use probe_analysis::model::Lost;
use tests::kernel::{Lab, Stage};
use tests::middlebox::{NatKind, Topology};
use tests::rules::Direction;
use tests::rules::truth::Deed;
use tests::scenario::Scenario;

use crate::world::{Checked, Listener, PORT, check, in_lab, programs, rules};

/// IP and UDP headers.
const HEADERS: usize = 28;

fn port(flow: &serde_json::Value) -> u16 {
    flow["source"].as_str().unwrap().parse::<std::net::SocketAddr>().unwrap().port()
}

fn lost(flow: &serde_json::Value) -> Lost {
    serde_json::from_value(flow["lost"].clone()).unwrap()
}

/// A QUIC packet's first byte has this bit where its header is a long one (RFC 9000, section 17.2).
const LONG_HEADER: u8 = 0x80;

/// Packets of the size of a flow's probes that were dropped on one way, by the client's port. What opens a flow that is
/// shaped like QUIC is a long-header packet that may be as large as its probes, which have short ones.
fn dropped_probes(lab: &Lab, name: &str, size: usize, way: Direction) -> BTreeMap<u16, u64> {
    let (lines, _) = lab.truth();
    let mut dropped = BTreeMap::new();
    for line in lines.iter().filter(|l| l.deed == Deed::Dropped && l.direction == way && l.size == size) {
        if !name.contains("quic-shaped") || line.head[0] & LONG_HEADER == 0 {
            *dropped.entry(line.flow.client.port()).or_default() += 1;
        }
    }
    dropped
}

/// The flows whose probes are datagrams of a size, whole and at a steady pace, with that size as a packet.
fn steady(checked: &Checked) -> Vec<(&str, &serde_json::Value, usize)> {
    // Those of the fragments travel in pieces.
    let udp = checked.flows().filter(|(name, f)| {
        f["transport"] == "udp" && !f["interval_ms"].is_null() && *name != "udp/fragments"
    });
    udp.map(|(name, f)| (name, f, f["size_bytes"].as_u64().unwrap() as usize + HEADERS)).collect()
}

#[test]
fn three_percent_lost_upwards_is_placed_packet_for_packet() {
    in_lab("ledger::three_percent_lost_upwards_is_placed_packet_for_packet", || {
        let scenario = Scenario::load("loss-udp-up-3", 0).unwrap();
        let stage = Stage::set(&scenario, 0, programs()).unwrap();
        let checked = check(stage.lab.client(), &stage.invite(), &[]);
        assert_eq!(stage.lab.own_losses().unwrap(), 0, "the lab itself loses nothing");

        let mut all = 0;
        for (name, flow, size) in steady(&checked) {
            let dropped =
                dropped_probes(&stage.lab, name, size, Direction::Up).get(&port(flow)).copied().unwrap_or(0);
            let wanted = Lost { up: dropped, down: 0, unknown: 0 };
            assert_eq!(lost(flow), wanted, "{name}\n{}", checked.story());
            assert_eq!(flow["end"], "finished", "{name}\n{}", checked.story());
            all += dropped;
        }
        assert!(all >= 30, "{all} probes lost of some 2000");
        for (name, flow) in checked.flows() {
            assert_eq!((lost(flow).down, lost(flow).unknown), (0, 0), "{name}\n{}", checked.story());
        }
        for (name, flow) in checked.flows().filter(|(_, flow)| !flow["datagrams"].is_null()) {
            assert_eq!(flow["datagrams"]["lost_down"], 0, "{name}\n{}", checked.story());
        }
    });
}

fn ends(checked: &Checked) -> Vec<(&str, &str)> {
    checked.flows().map(|(name, flow)| (name, flow["end"].as_str().unwrap_or("null"))).collect()
}

#[test]
fn a_session_goes_on_when_every_source_port_is_rewritten() {
    in_lab("ledger::a_session_goes_on_when_every_source_port_is_rewritten", || {
        // In the middle of the steady flows' 13 seconds, however long it takes to build the programs.
        programs();
        let rebind = "[[rule]]\nname = 'rebind'\nmatch = { protocol = ['udp'], after = '8s' }\n\
            do = { act = 'rebind' }\n";
        let topology = Topology { client_nat: Some(NatKind::default()), ..Topology::default() };
        let lab = Lab::start(&topology, &rules(rebind), 1).unwrap();
        let listener = Listener::start(lab.server(), &[]);
        let checked = check(lab.client(), &listener.invite(lab.target(PORT)), &[]);
        let altered = lab.with_truth(|truth| truth.count("rebind", Deed::Altered, Direction::Up)).unwrap();
        assert!(altered > 100, "the rule was at work: {altered}\n{}", checked.story());

        assert!(ends(&checked).iter().all(|(_, end)| *end == "finished"), "{}", checked.story());
        let mut through = 0;
        for (name, flow, size) in steady(&checked) {
            // Only what was on its way back when the old port ceased to be.
            let down =
                dropped_probes(&lab, name, size, Direction::Down).get(&port(flow)).copied().unwrap_or(0);
            assert_eq!(lost(flow), Lost { up: 0, down, unknown: 0 }, "{name}\n{}", checked.story());
            // Those of the short check are there before the move and after it; trials come and go, and what measures delay
            // under load comes after it.
            if !name.contains('#') && !name.contains("/port/") && !name.starts_with("under-load/") {
                assert!(flow["sent"].as_u64() > Some(300), "{name}\n{}", checked.story());
                through += 1;
            }
        }
        assert!(through >= 4, "{through} flows lived through it\n{}", checked.story());
        let events = checked.document["events"].as_array().unwrap();
        assert!(events.iter().any(|event| event["kind"] == "moved"), "{}", checked.story());
        assert!(checked.causes().iter().all(|cause| cause == "nat-rebinding"), "{}", checked.story());
        let said = listener.said();
        let of = |event: &str| said.iter().filter(|line| line["event"] == event).count();
        assert_eq!(of("session-opened"), 1, "one session through it all: {said:#?}");
        assert!(of("session-moved") >= 1, "{said:#?}");
    });
}
