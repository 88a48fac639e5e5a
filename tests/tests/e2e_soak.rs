//! A soak of seconds through the real drivers and a real listener, over loopback.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

use std::net::SocketAddr;
use std::time::Duration;

use probe_analysis::observation::{Fate, Fragment, IdleGap, Observation, Purpose, ServerNameKind};
use probe_client::driver::{Driver, Stop, Surroundings};
use probe_client::engine::{Engine, Identity, Phase, Start};
use probe_client::plan::experiments::{fragments, idle_ladder, named, trials};
use probe_client::plan::{Plan, Refresh, SoakOptions, Start as FlowStart};
use probe_net::clock;
use probe_protocol::wire::hello::{Carrier, SessionId};
use probe_server::{Config, Listener};

fn run(lay: impl FnOnce(SocketAddr) -> Plan) -> Vec<Observation> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let running = {
        let _inside = runtime.enter();
        Listener::start(Config::local()).unwrap()
    };
    let to = running.udp()[0];
    let plan = lay(to);
    let sample = clock::sample();
    let identity =
        Identity { session: SessionId([7; 16]), invite: Some(running.invite()), software: [0, 1, 0] };
    let start = Start {
        at: sample.boot,
        wall: sample.wall,
        target: to.to_string(),
        local: true,
        interface_mtu: None,
        seed: 1,
        first_flow: 100,
    };
    let shortest = plan.shortest_interval().unwrap();
    let engine = Engine::new(plan, identity, start);
    let around = Surroundings { runtime: runtime.handle().clone(), server_name: None, stop: Stop::default() };
    let mut driver = Driver::new(engine, around, shortest).unwrap();
    let mut observations = Vec::new();
    driver.run(&mut |observation, _: Phase| observations.push(observation)).unwrap();
    driver.finish();
    runtime.block_on(running.shutdown());
    observations
}

#[test]
fn a_soak_over_loopback_opens_all_watches_beside_and_loses_nothing() {
    let options = SoakOptions {
        length: Some(Duration::from_secs(20)),
        fresh_every: Some(Duration::from_secs(1)),
        per_class: 2,
        ..SoakOptions::default()
    };
    let observations = run(|to| Plan::soak(&[to], &options));
    let (mut planned, mut opened, mut fresh, mut watched) = (0, 0, 0, 0);
    for observation in &observations {
        match observation {
            Observation::FlowPlanned(o) => {
                planned += 1;
                fresh += u32::from(o.purpose == Purpose::Fresh);
                assert!(o.flow.0 >= 100 && o.replaces.is_none(), "{o:?}");
            }
            Observation::FlowOpened(_) => opened += 1,
            Observation::Watch(o) => watched += u32::from(o.loopback.is_some_and(|answer| answer.reachable)),
            Observation::Probe(o) => {
                assert!(matches!(o.fate, Fate::Received | Fate::Excluded(_)), "{o:?}");
            }
            Observation::Silence(o) => panic!("{o:?}"),
            _ => {}
        }
    }
    assert_eq!(planned, opened);
    assert!(fresh >= 8 && watched >= 5, "{fresh} fresh flows, {watched} seconds watched");
    assert!(matches!(observations.last(), Some(Observation::RunEnded(o)) if o.complete));
}

#[test]
fn gaps_names_and_fragments_work_over_real_sockets() {
    let size = 4000;
    let observations = run(|to| {
        let second = Duration::from_secs(1);
        let ladder =
            |carrier, refreshed| idle_ladder(to, carrier, refreshed, &[second * 3, second * 5], second, None);
        Plan {
            flows: vec![fragments(to, size, 10, FlowStart::Turn)],
            repeats: vec![trials(&named(to), 1, second, second / 4, 5)],
            ladders: vec![
                ladder(Carrier::Udp, Refresh::None),
                ladder(Carrier::Udp, Refresh::Both),
                ladder(Carrier::Tcp, Refresh::None),
            ],
            reach: second * 4,
            measure: second * 32,
            ..Plan::default()
        }
    });
    let gaps: Vec<&IdleGap> = observations
        .iter()
        .filter_map(|o| if let Observation::IdleGap(gap) = o { Some(gap) } else { None })
        .collect();
    assert_eq!(gaps.len(), 12, "{gaps:?}");
    assert!(gaps.iter().all(|gap| gap.survived == Some(true)), "{gaps:?}");
    let pieces: Vec<&Fragment> = observations
        .iter()
        .filter_map(|o| if let Observation::Fragment(f) = o { Some(f) } else { None })
        .collect();
    assert_eq!(pieces.len(), 2, "{pieces:?}");
    assert!(pieces.iter().all(|f| f.size == size && f.sent == 10 && f.arrived == 10), "{pieces:?}");
    let names: Vec<Option<ServerNameKind>> = observations
        .iter()
        .filter_map(|o| if let Observation::FlowPlanned(p) = o { Some(p) } else { None })
        .filter(|p| p.carrier == Carrier::Tls)
        .map(|p| p.server_name)
        .collect();
    assert_eq!(names.len(), 3);
    let opened = observations.iter().filter(|o| matches!(o, Observation::FlowOpened(_))).count();
    assert_eq!(opened, 1 + 3 + 12);
}
