//! The experiments of plans over the simulated network: what each is there to find, it finds, to the promised precision.

mod sim_common;

use std::collections::BTreeSet;
use std::time::Duration;

use probe_analysis::observation::{Death, IdleGap, Observation, Purpose};
use probe_client::plan::experiments::{fan, fragments, idle_ladder, named, trials};
use probe_client::plan::{FlowSpec, Ladder, Life, Plan, Refresh, Start};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;
use sim_common::{assert_true, probes, rule, run, secs, topology};
use tests::middlebox::{NatKind, Topology};
use tests::rules::units::Span;
use tests::rules::{Action, Direction, Match};
use tests::sim::{Fault, Setup, setup};

/// A flow that shows that the path is there, and these ladders beside it.
fn ladders(seed: u64, topology: &Topology, ladders: Vec<Ladder>, measure: Duration) -> Setup {
    let to = setup::target(topology);
    let control = FlowSpec {
        interval: secs(1),
        ..FlowSpec::new("udp/control", Carrier::Udp, Dress::Random, Purpose::Steady, to)
    };
    let plan = Plan { flows: vec![control], ladders, reach: secs(4), measure, ..Plan::default() };
    Setup::of(seed, topology.clone(), plan)
}

fn gaps(observations: &[Observation]) -> Vec<IdleGap> {
    let gap = |o: &Observation| if let Observation::IdleGap(gap) = o { Some(*gap) } else { None };
    observations.iter().filter_map(gap).collect()
}

/// The longest gap that was survived, and the shortest that was not.
fn bounds(gaps: &[IdleGap], refreshed: Refresh) -> (Option<Duration>, Option<Duration>) {
    let of = |survived| {
        gaps.iter().filter(move |g| g.refreshed == refreshed && g.survived == Some(survived)).map(|g| g.gap)
    };
    (of(true).max(), of(false).min())
}

fn behind(nat: NatKind) -> Topology {
    Topology { client_nat: Some(nat), ..topology() }
}

fn some_gaps() -> Vec<Duration> {
    [10, 20, 40, 80, 160].map(secs).to_vec()
}

#[test]
fn a_forgotten_mapping_is_found_to_the_second_whatever_its_port_becomes() {
    for (seed, keeps_ports, idle_s) in [(1, true, 33), (2, false, 33), (3, true, 71)] {
        let topology = behind(NatKind { keeps_ports, udp_idle: Span::secs(idle_s), ..NatKind::default() });
        let to = setup::target(&topology);
        let ladder = idle_ladder(to, Carrier::Udp, Refresh::None, &some_gaps(), secs(4), None);
        let (observations, ran) = run(ladders(seed, &topology, vec![ladder], secs(700)));
        assert_true(&observations, &ran);
        let gaps = gaps(&observations);
        assert!(gaps.iter().all(|gap| gap.survived == Some(gap.gap <= secs(idle_s))), "{gaps:#?}");
        let (Some(low), Some(high)) = bounds(&gaps, Refresh::None) else { panic!("{gaps:#?}") };
        assert!(low < high && high - low <= secs(1).max(low / 50), "{low:?} {high:?}");
        let moved = gaps.iter().any(|gap| gap.how == Some(Death::Moved));
        assert_eq!(moved, !keeps_ports, "{gaps:#?}");
    }
}

#[test]
fn a_side_that_does_not_refresh_is_told_from_one_that_does() {
    let nat = NatKind { udp_idle: Span::secs(33), refreshed_by: Some(Direction::Up), ..NatKind::default() };
    let topology = behind(nat);
    let to = setup::target(&topology);
    let of = |refreshed| idle_ladder(to, Carrier::Udp, refreshed, &some_gaps(), secs(4), None);
    let all = [Refresh::None, Refresh::Up, Refresh::Down, Refresh::Both];
    let (observations, ran) = run(ladders(4, &topology, all.map(of).to_vec(), secs(600)));
    assert_true(&observations, &ran);
    let gaps = gaps(&observations);
    for refreshed in all {
        let (low, high) = bounds(&gaps, refreshed);
        match refreshed {
            // Eight seconds apart, the client's own packets keep it.
            Refresh::Up | Refresh::Both => assert_eq!((low, high), (Some(secs(160)), None), "{refreshed:?}"),
            Refresh::None | Refresh::Down => {
                assert!(low.unwrap() <= secs(33) && high.unwrap() > secs(33), "{low:?} {high:?}");
                assert!(high.unwrap() - low.unwrap() <= secs(1), "{low:?} {high:?}");
            }
        }
    }
}

#[test]
fn an_idle_connection_that_dies_is_found() {
    let nat = NatKind { tcp_idle: Span::secs(100), keeps_ports: false, ..NatKind::default() };
    let topology = behind(nat);
    let to = setup::target(&topology);
    let ladder = idle_ladder(to, Carrier::Tcp, Refresh::None, &some_gaps(), secs(4), None);
    let (observations, _) = run(ladders(5, &topology, vec![ladder], secs(1200)));
    let gaps = gaps(&observations);
    let (Some(low), Some(high)) = bounds(&gaps, Refresh::None) else { panic!("{gaps:#?}") };
    assert!(low <= secs(100) && high >= secs(100) && high - low <= secs(2), "{low:?} {high:?}");
}

#[test]
fn gaps_say_nothing_where_the_host_slept_or_nobody_was_heard() {
    let topology = topology();
    let to = setup::target(&topology);
    let ladder = idle_ladder(to, Carrier::Udp, Refresh::None, &[secs(30), secs(60)], secs(4), None);
    let setup = ladders(6, &topology, vec![ladder], secs(120));
    let sleep = Fault::SuspendClient { at: secs(20), length: secs(10) };
    let (observations, _) = run(Setup { faults: vec![sleep], ..setup.clone() });
    let known = gaps(&observations);
    assert_eq!(known.len(), 4);
    assert!(known.iter().all(|gap| gap.survived.is_none()), "{known:#?}");
    // The listener goes away before the gaps end and stays away.
    let away = Fault::RestartListener { at: secs(20), gap: secs(1000) };
    let (observations, _) = run(Setup { faults: vec![away], ..setup });
    let known = gaps(&observations);
    assert_eq!(known.len(), 4);
    assert!(known.iter().all(|gap| gap.survived.is_none()), "{known:#?}");
}

#[test]
fn trials_come_in_rounds_of_random_order_and_send_what_they_should() {
    let topology = topology();
    let to = setup::target(&topology);
    let image = |name: &str, dress| FlowSpec {
        interval: Duration::from_millis(50),
        ..FlowSpec::new(name, Carrier::Udp, dress, Purpose::Trial, to)
    };
    let specs = [image("r", Dress::Random), image("a", Dress::Ascii), image("z", Dress::Zero)];
    let repeats = vec![trials(&specs, 5, secs(4), Duration::from_millis(400), 64)];
    let plan = Plan {
        repeats,
        reach: secs(4),
        measure: secs(60),
        ..ladders(7, &topology, Vec::new(), secs(60)).plan
    };
    let (observations, ran) = run(Setup::of(7, topology, plan));
    assert_true(&observations, &ran);
    let mut order = Vec::new();
    for observation in &observations {
        let Observation::FlowPlanned(planned) = observation else { continue };
        if planned.purpose == Purpose::Trial {
            order.push((planned.flow, planned.dress));
        }
    }
    assert_eq!(order.len(), 15);
    let rounds: BTreeSet<Vec<&str>> =
        order.chunks(3).map(|round| round.iter().map(|(_, dress)| dress.name()).collect()).collect();
    assert!(rounds.len() > 1, "{rounds:?}");
    for round in order.chunks(3) {
        let dresses: BTreeSet<&str> = round.iter().map(|(_, dress)| dress.name()).collect();
        assert_eq!(dresses.len(), 3);
    }
    for (flow, _) in order {
        assert_eq!(probes(&observations).iter().filter(|p| p.flow == flow).count(), 64);
    }
}

#[test]
fn a_fan_has_a_port_for_each_flow_and_five_open_in_a_second_at_most() {
    let topology = topology();
    let to = setup::target(&topology);
    let spec = FlowSpec::new("udp/fan", Carrier::Udp, Dress::Random, Purpose::Fan, to);
    let mut plan = ladders(8, &topology, Vec::new(), secs(30)).plan;
    plan.flows.extend(fan(&spec, 32, secs(5), Duration::ZERO, Life::For(secs(10))));
    plan.repeats.push(trials(&named(to), 2, secs(5), secs(1), 5));
    let (observations, ran) = run(Setup::of(8, topology, plan));
    assert_true(&observations, &ran);
    let (mut sources, mut starts) = (BTreeSet::new(), Vec::new());
    for observation in &observations {
        if let Observation::FlowOpened(opened) = observation {
            assert!(sources.insert((opened.source, opened.flow)));
        } else if let Observation::FlowPlanned(planned) = observation {
            starts.push(planned.at);
        }
    }
    let ports: BTreeSet<_> = sources.iter().map(|(source, _)| source).collect();
    assert_eq!((sources.len(), ports.len()), (1 + 32 + 6, 1 + 32 + 6));
    assert!(starts.windows(2).all(|w| w[1].since(w[0]) >= Duration::from_millis(199)));
}

/// Every flow gets another port at 6 s.
fn rebound(flow: FlowSpec, topology: &Topology, seed: u64) -> Setup {
    let mut setup = ladders(seed, topology, Vec::new(), secs(30));
    setup.plan.flows.push(flow);
    let moved = Match { after: Some(Span::secs(6)), ..Match::default() };
    setup.rules.push(rule("rebind", moved, Action::Rebind { address: None, port_step: 7 }));
    setup
}

#[test]
fn a_moved_flow_proves_its_address_and_gets_its_longer_replies_again() {
    let to = setup::target(&topology());
    // Whole datagrams alone come back: a reply that was held short would count as one that arrived.
    for drops in [false, true] {
        let mut setup = rebound(fragments(to, 2000, 10, Start::At(secs(4))), &topology(), 10);
        if drops {
            let down = Match { direction: Some(Direction::Down), fragment: Some(true), ..Match::default() };
            setup.rules.push(rule("fragments", down, Action::Drop {}));
        }
        let (observations, ran) = run(setup);
        assert_true(&observations, &ran);
        let pieces: Vec<_> = observations
            .iter()
            .filter_map(|o| if let Observation::Fragment(f) = o { Some(*f) } else { None })
            .collect();
        let way = |up: bool| pieces.iter().find(|f| f.up == up).unwrap();
        // None was lost; a turn that a held reply left over may have sent one more.
        let (sent, arrived) = (way(true).sent, way(true).arrived);
        assert!((10..=12).contains(&sent) && arrived == sent, "{sent} {arrived}");
        // One may have been on its way to the old port.
        let (sent, arrived) = (way(false).sent, way(false).arrived);
        assert!(sent >= 9 && arrived + 1 >= if drops { 1 } else { sent }, "{sent} {arrived}");
        assert!(!drops || arrived == 0, "{arrived}");
        let moved = observations.iter().filter(|o| matches!(o, Observation::Moved(_))).count();
        assert_eq!(moved, 2, "the control and the flow itself");
    }
}

#[test]
fn a_search_for_the_path_mtu_goes_on_when_its_flow_is_moved() {
    for (seed, mtu) in [(11, 1330), (12, 1400)] {
        let topology = Topology { path_mtu: mtu, says_too_big: false, ..topology() };
        let spec = FlowSpec {
            start: Start::At(secs(5)),
            interval: Duration::ZERO,
            ..FlowSpec::new(
                "udp/path-mtu",
                Carrier::Udp,
                Dress::Random,
                Purpose::PathMtu,
                setup::target(&topology),
            )
        };
        let (observations, ran) = run(rebound(spec, &topology, seed));
        assert_true(&observations, &ran);
        let found: Vec<_> = observations
            .iter()
            .filter_map(|o| if let Observation::PathMtu(m) = o { Some(m.clone()) } else { None })
            .collect();
        assert_eq!(found.len(), 2);
        for way in found {
            let bounds = (way.largest, way.smallest_lost);
            assert_eq!(bounds, (Some(u32::from(mtu)), Some(u32::from(mtu) + 1)), "{way:?}");
        }
    }
}
