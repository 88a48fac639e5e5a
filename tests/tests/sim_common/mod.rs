//! What the tests of the simulated network share.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use probe_analysis::observation::{Fate, FlowNo, Observation, Probe, Purpose};
use probe_client::plan::{FlowSpec, Plan};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;
use tests::middlebox::{Forwarding, NatKind, Topology};
use tests::rules::{Action, Direction, Match, Place, Rule};
use tests::sim::{Ran, Setup, setup, simulate};

pub fn secs(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A plan of UDP flows: how many, how often each probes, and for how long.
pub fn udp_plan(to: SocketAddr, flows: usize, interval: Duration, measure: Duration) -> Plan {
    let dresses = [Dress::Random, Dress::Ascii, Dress::QuicShaped, Dress::Zero];
    let flows = (0..flows).map(|n| FlowSpec {
        size: 128,
        interval,
        ..FlowSpec::new(format!("udp/{n}"), Carrier::Udp, dresses[n % dresses.len()], Purpose::Steady, to)
    });
    Plan {
        flows: flows.collect(),
        open_gap: Duration::from_millis(100),
        reach: secs(4),
        measure,
        drain: secs(2),
        settle: secs(4),
        ..Plan::default()
    }
}

pub fn topology() -> Topology {
    Topology {
        ipv6: false,
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    }
}

pub fn udp(seed: u64, flows: usize, measure: Duration) -> Setup {
    let topology = topology();
    let plan = udp_plan(setup::target(&topology), flows, Duration::from_millis(20), measure);
    Setup::of(seed, topology, plan)
}

pub fn rule(name: &str, matches: Match, action: Action) -> Rule {
    Rule { name: name.to_owned(), at: Place::Path, matches, action }
}

pub fn loses(direction: Direction, probability: f64) -> Rule {
    let matches = Match { direction: Some(direction), probability: Some(probability), ..Match::default() };
    rule("loss", matches, Action::Drop {})
}

pub fn run(setup: Setup) -> (Vec<Observation>, Ran) {
    simulate(setup).unwrap()
}

pub fn probes(observations: &[Observation]) -> Vec<Probe> {
    let probe = |o: &Observation| if let Observation::Probe(p) = o { Some(*p) } else { None };
    observations.iter().filter_map(probe).collect()
}

pub fn count(observations: &[Observation], fate: impl Fn(Fate) -> bool) -> usize {
    probes(observations).iter().filter(|p| fate(p.fate)).count()
}

/// Every probe over UDP that was sent has one fate, and no fate contradicts what happened.
pub fn assert_true(observations: &[Observation], ran: &Ran) {
    let mut fates: BTreeMap<(FlowNo, u64), Probe> = BTreeMap::new();
    for probe in probes(observations) {
        let twice = fates.insert((probe.flow, probe.seq), probe);
        assert!(twice.is_none(), "settled twice: {twice:?} and {probe:?}");
    }
    assert_paced(observations, &fates);
    let (said, count) = ran.truth.contradictions(fates.values(), 5);
    assert_eq!(count, 0, "{}", said.join("\n"));
}

/// No flow sends oftener than its plan says, whatever happened to it.
fn assert_paced(observations: &[Observation], fates: &BTreeMap<(FlowNo, u64), Probe>) {
    for observation in observations {
        let Observation::FlowPlanned(planned) = observation else { continue };
        let mut last: Option<Timestamp> = None;
        for (_, probe) in fates.range((planned.flow, 0)..=(planned.flow, u64::MAX)) {
            let apart = last.map_or(Duration::MAX, |last| probe.scheduled.since(last));
            assert!(apart >= planned.interval / 2, "{probe:?} is only {apart:?} after the one before");
            last = Some(probe.scheduled);
        }
    }
}
