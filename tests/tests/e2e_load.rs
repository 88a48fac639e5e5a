//! A load through the real drivers and a real listener, over loopback: both ends' counts agree packet for packet.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::time::Duration;

use probe_analysis::observation::{Load, LoadExperiment, Observation, Purpose};
use probe_client::driver::{Driver, Stop, Surroundings};
use probe_client::engine::{Engine, Identity, Start};
use probe_client::plan::load::{LoadPart, LoadPlan, LoadStep};
use probe_client::plan::{FlowSpec, Life, Plan};
use probe_net::clock;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, SessionId};
use probe_server::{Config, Listener};

fn flow(name: &str, carrier: Carrier, dress: Dress, to: SocketAddr) -> FlowSpec {
    let purpose = if name.starts_with("load") { Purpose::Bulk } else { Purpose::Steady };
    let spec = FlowSpec::new(name, carrier, dress, purpose, to);
    if purpose == Purpose::Bulk {
        FlowSpec { interval: Duration::ZERO, ..spec }
    } else {
        FlowSpec { life: Life::For(Duration::from_secs(1)), ..spec }
    }
}

fn step(flows: &[&str], up: bool, experiment: LoadExperiment) -> LoadStep {
    let part = |flow: &&str| LoadPart {
        flow: (*flow).to_owned(),
        up,
        rate_bps: 10_000_000,
        size: 1200,
        burst: if experiment == LoadExperiment::Burst { 40 } else { 0 },
        tos: 0,
    };
    LoadStep {
        experiment,
        parts: flows.iter().map(part).collect(),
        length: Duration::from_millis(200),
        bin: if experiment == LoadExperiment::Burst { Duration::ZERO } else { Duration::from_millis(5) },
        stops_early: false,
        slice: None,
        fresh: None,
        stair: 0,
        adapts: None,
    }
}

fn run(outside: bool) -> Vec<Load> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let running = {
        let _inside = runtime.enter();
        Listener::start(Config::local()).unwrap()
    };
    let to = running.udp()[0];
    let steps = vec![
        step(&["load/udp"], true, LoadExperiment::Staircase),
        step(&["load/udp"], false, LoadExperiment::Staircase),
        step(&["load/udp", "load/tcp"], true, LoadExperiment::Interleaved),
        step(&["load/udp", "load/tcp", "load/tls"], false, LoadExperiment::Interleaved),
        step(&["load/quic"], true, LoadExperiment::Interleaved),
        step(&["load/quic"], false, LoadExperiment::Interleaved),
        step(&["load/udp"], false, LoadExperiment::Burst),
    ];
    let plan = Plan {
        flows: vec![
            flow("udp/random", Carrier::Udp, Dress::Random, to),
            flow("load/udp", Carrier::Udp, Dress::Jetstream, to),
            flow("load/tcp", Carrier::Tcp, Dress::Random, to),
            flow("load/tls", Carrier::Tls, Dress::Random, to),
            flow("load/quic", Carrier::Quic, Dress::Random, to),
        ],
        measure: Duration::from_secs(20),
        load: Some(LoadPlan {
            first: Duration::from_millis(1500),
            until: Duration::from_secs(20),
            steps,
            gap: Duration::from_millis(20),
            tick: Duration::from_millis(5),
        }),
        ..Plan::default()
    };
    let sample = clock::sample();
    let identity =
        Identity { session: SessionId([5; 16]), invite: Some(running.invite()), software: [0, 1, 0] };
    let start = Start {
        at: sample.boot,
        wall: sample.wall,
        target: to.to_string(),
        local: true,
        interface_mtu: None,
        seed: 1,
        first_flow: 0,
    };
    let shortest = plan.shortest_interval().unwrap();
    let mut engine = Engine::new(plan, identity, start);
    if outside {
        engine.move_loads_outside();
    }
    let around = Surroundings { runtime: runtime.handle().clone(), server_name: None, stop: Stop::default() };
    let mut driver = Driver::new(engine, around, shortest).unwrap();
    let mut loads = Vec::new();
    driver
        .run(&mut |observation, _| {
            if let Observation::Load(load) = observation {
                loads.push(load);
            }
        })
        .unwrap();
    driver.finish();
    runtime.block_on(running.shutdown());
    loads
}

#[test]
fn every_step_is_told_once_with_the_counts_of_both_ends() {
    let loads = run(false);
    let told: Vec<(LoadExperiment, bool, Carrier)> =
        loads.iter().map(|l| (l.experiment, l.up, l.carrier)).collect();
    assert_eq!(loads.len(), 10, "{told:?}");
    for load in &loads {
        let packets: u32 = load.bins.iter().map(|b| b.packets).sum();
        let lost: u32 = load.bins.iter().map(|b| b.lost).sum();
        assert!(packets > 0, "{told:?}");
        assert_eq!(lost, 0, "loopback loses nothing: {load:?}");
        assert!(load.bins.iter().all(|b| b.bytes == u64::from(b.packets) * 1200 && b.delay.is_some()));
        assert!(load.bins.windows(2).all(|pair| pair[0].at <= pair[1].at));
        if load.experiment == LoadExperiment::Burst {
            assert!(load.bins.len() >= 40 && load.bins.iter().all(|b| b.packets == 1));
        }
    }
    let beside: Vec<usize> = loads.iter().map(|l| l.beside.len()).collect();
    assert_eq!(beside.iter().filter(|n| **n == 2).count(), 3, "{beside:?}");
}
