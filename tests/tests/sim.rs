//! The simulated network: what the ends believe, against what really happened, packet by packet.

mod sim_common;

use probe_analysis::observation::{Fate, Observation};
use probe_client::plan::Depth;
use sim_common::{assert_true, count, loses, probes, rule, run, secs, topology, udp, udp_plan};
use tests::rules::truth::Deed;
use tests::rules::units::Span;
use tests::rules::{Action, Direction, Every, Match};
use tests::sim::{Fault, Setup, World, setup};

#[test]
fn a_clean_check_loses_nothing_and_repeats_from_its_seed() {
    let (observations, ran) = run(Setup::check(7, Depth::Normal));
    assert_true(&observations, &ran);
    let opened = observations.iter().filter(|o| matches!(o, Observation::FlowOpened(_))).count();
    let planned = observations.iter().filter(|o| matches!(o, Observation::FlowPlanned(_))).count();
    assert!(planned > 40, "{planned}: transports, trials and ports");
    assert_eq!(
        opened,
        planned,
        "{:#?}",
        observations.iter().filter(|o| matches!(o, Observation::Attempt(_))).collect::<Vec<_>>()
    );
    assert_eq!(count(&observations, |f| f != Fate::Received), 0);
    assert!(probes(&observations).len() > 4000);
    let (again, _) = run(Setup::check(7, Depth::Normal));
    assert_eq!(observations.len(), again.len());
    for (one, other) in observations.iter().zip(&again) {
        assert_eq!(one, other);
    }
    let (other, _) = run(Setup::check(8, Depth::Normal));
    assert_ne!(observations, other);
}

#[test]
fn loss_upwards_is_placed_upwards_packet_for_packet() {
    let setup = Setup { rules: vec![loses(Direction::Up, 0.03)], ..udp(1, 4, secs(20)) };
    let (observations, ran) = run(setup);
    assert_true(&observations, &ran);
    let really = ran.truth.probes().filter(|(_, _, way)| way.up == 0).count();
    assert!(really > 60, "{really}");
    assert_eq!(count(&observations, |f| f == Fate::LostUp), really);
    assert_eq!(count(&observations, |f| f == Fate::LostDown || f == Fate::LostUnknown), 0);
    assert!(ran.network.count("loss", Deed::Dropped, Direction::Up) as usize >= really);
}

#[test]
fn loss_downwards_is_placed_downwards_packet_for_packet() {
    let setup = Setup { rules: vec![loses(Direction::Down, 0.03)], ..udp(2, 4, secs(20)) };
    let (observations, ran) = run(setup);
    assert_true(&observations, &ran);
    let really = ran.truth.probes().filter(|(_, _, way)| way.up > 0 && way.down == 0).count();
    assert!(really > 60, "{really}");
    assert_eq!(count(&observations, |f| f == Fate::LostDown), really);
    assert_eq!(count(&observations, |f| f == Fate::LostUp || f == Fate::LostUnknown), 0);
}

#[test]
fn a_port_that_changes_in_the_middle_costs_nothing_and_is_seen() {
    let matches = Match {
        after: Some(Span::secs(10)),
        protocol: vec![tests::packet::Protocol::Udp],
        ..Match::default()
    };
    let rebind = rule("rebind", matches, Action::Rebind { address: None, port_step: 7 });
    let (observations, ran) = run(Setup { rules: vec![rebind], ..udp(3, 3, secs(20)) });
    assert_true(&observations, &ran);
    assert_eq!(count(&observations, |f| f != Fate::Received), 0);
    let moved: Vec<_> = observations
        .iter()
        .filter_map(|o| if let Observation::Moved(m) = o { Some(m) } else { None })
        .collect();
    assert_eq!(moved.len(), 3, "{moved:?}");
    assert!(moved.iter().all(|m| m.old.ip() == m.new.ip() && m.old.port() != m.new.port()), "{moved:?}");
}

#[test]
fn a_restarted_listener_is_seen_and_the_flows_go_on() {
    let restart = Fault::RestartListener { at: secs(10), gap: secs(3) };
    let (observations, ran) = run(Setup { faults: vec![restart], ..udp(4, 4, secs(25)) });
    assert_true(&observations, &ran);
    let restarts: Vec<_> = observations
        .iter()
        .filter_map(|o| if let Observation::ListenerRestarted(r) = o { Some(r) } else { None })
        .collect();
    assert_eq!(restarts.len(), 1, "{restarts:?}");
    assert_eq!((restarts[0].old, restarts[0].new), (ran.boots[0], ran.boots[1]));
    let gap = restarts[0].at.since(restarts[0].last_seen);
    assert!(gap >= secs(3) && gap < secs(4), "{gap:?}");
    // All four went on on the new boot.
    let opened =
        observations.iter().filter_map(|o| if let Observation::FlowOpened(f) = o { Some(f) } else { None });
    assert_eq!(opened.filter(|f| f.boot == ran.boots[1]).count(), 4);
    let after = probes(&observations)
        .iter()
        .filter(|p| p.sent > restarts[0].at + secs(1))
        .map(|p| p.fate)
        .collect::<Vec<_>>();
    assert!(after.len() > 2000 && after.iter().all(|f| *f == Fate::Received));
}

#[test]
fn copies_and_overtaking_are_counted_as_they_were() {
    let copies = rule(
        "copies",
        Match { direction: Some(Direction::Up), ..Match::default() },
        Action::Duplicate { share: 0.1, after: Span::millis(1) },
    );
    let overtaking = rule(
        "overtaking",
        Match { direction: Some(Direction::Down), ..Match::default() },
        Action::Reorder { share: 0.1, by: Span::millis(50) },
    );
    let (observations, ran) = run(Setup { rules: vec![copies, overtaking], ..udp(5, 2, secs(20)) });
    assert_true(&observations, &ran);
    let probes = probes(&observations);
    let copied = ran.truth.probes().filter(|(_, _, way)| way.up > 1).count();
    assert!(copied > 100);
    assert_eq!(probes.iter().filter(|p| p.reply.is_some_and(|r| r.duplicated_up)).count(), copied);
    assert_eq!(probes.iter().map(|p| usize::from(p.extra_replies)).sum::<usize>(), copied);
    let held = ran.network.count("overtaking", Deed::Delayed, Direction::Down);
    let overtaken = probes.iter().filter(|p| p.reply.is_some_and(|r| r.reordered)).count();
    assert!(overtaken > 100 && overtaken as u64 <= held, "{overtaken} of {held}");
}

#[test]
fn ten_minutes_without_a_path_are_survived_within_bounds() {
    let dark = Every { period: Span::secs(1_000_000), length: Span::secs(600), first: Span::secs(30) };
    let blackout = rule("blackout", Match { every: Some(dark), ..Match::default() }, Action::Drop {});
    let (observations, ran) = run(Setup { rules: vec![blackout], ..udp(6, 2, secs(700)) });
    assert_true(&observations, &ran);
    let lost = ran.truth.probes().filter(|(_, _, way)| way.up == 0).count();
    assert!(lost >= 2 * 600 * 49, "{lost}");
    assert_eq!(count(&observations, |f| f == Fate::LostUp), lost);
    assert_eq!(count(&observations, |f| f == Fate::LostUnknown), 0);
}

#[test]
fn a_night_passes_in_seconds() {
    let topology = topology();
    let plan = udp_plan(setup::target(&topology), 3, secs(10), secs(12 * 3600));
    let setup = Setup { keep_truth: false, ..Setup::of(9, topology, plan) };
    let mut received = 0;
    let ran = World::new(setup).unwrap().run(None, &mut |o| {
        received += u64::from(matches!(o, Observation::Probe(p) if p.fate == Fate::Received));
    });
    assert!(ran.unwrap().took >= secs(12 * 3600));
    assert!(received > 3 * 12 * 359);
}

#[test]
fn the_largest_packet_is_found_to_the_byte_each_way() {
    for path_mtu in [1280, 1432, 1499, 1500] {
        let setup = Setup::check(10, Depth::Normal);
        let topology = tests::middlebox::Topology { path_mtu, says_too_big: false, ..setup.topology.clone() };
        let (observations, _) = run(Setup { topology, ..setup });
        let found: Vec<_> = observations
            .iter()
            .filter_map(|o| {
                if let Observation::PathMtu(m) = o { Some((m.up, m.largest, m.smallest_lost)) } else { None }
            })
            .collect();
        let (mtu, lost) = (u32::from(path_mtu), (path_mtu < 1500).then_some(u32::from(path_mtu) + 1));
        assert_eq!(found, [(true, Some(mtu), lost), (false, Some(mtu), lost)]);
    }
}
