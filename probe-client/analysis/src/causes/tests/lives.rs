//! Deaths of flows, and what they have in common.

use super::*;
use crate::observation::FlowNo;

/// Six flows of crossed rates, sizes and starts, and four fresh ones after them; `fate` decides by packets, bytes and age
/// on the wire, and the moment.
fn crossed(end_s: f64, fate: impl Fn(u64, u64, f64, f64) -> Fate) -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, ..] = run.all_planned();
    run.open(tcp).open(tls);
    let shapes = [
        (0.5, 0.04, 128),
        (1.3, 0.02, 128),
        (2.9, 0.04, 1000),
        (4.1, 0.02, 1000),
        (5.7, 0.03, 500),
        (8.2, 0.03, 500),
    ];
    for (n, (start, interval, size)) in shapes.into_iter().enumerate() {
        run.scheduled(
            &format!("udp/crossed-{n}"),
            (Dress::Random, Purpose::Crossed),
            (start, end_s),
            (interval, size),
            |packets, bytes, at| fate(packets, bytes, at - start, at),
        );
    }
    for n in 0..4 {
        let start = end_s - 8.0 + f64::from(n);
        run.scheduled(
            &format!("udp/fresh-{n}"),
            (Dress::Random, Purpose::Fresh),
            (start, start + 3.0),
            (0.1, 128),
            |packets, bytes, at| fate(packets, bytes, at - start, at),
        );
    }
    run
}

fn up(lost: bool) -> Fate {
    if lost { Fate::LostUp } else { Fate::Received }
}

#[test]
fn a_count_of_packets_is_exact() {
    for limit in [60, 333, 700] {
        let analysis = judged(crossed(60.0, |packets, _, _, _| up(packets > limit)));
        let finding = only(&analysis, Cause::FlowKilledByPackets);
        assert_eq!(finding.parameters.packets, Some(limit));
        assert_eq!(finding.direction, Some(Direction::Up));
    }
}

#[test]
fn a_count_of_bytes_is_within_a_packet() {
    for limit in [30_000, 100_000, 250_000] {
        let analysis = judged(crossed(80.0, |_, bytes, _, _| up(bytes > limit)));
        let finding = only(&analysis, Cause::FlowKilledByBytes);
        assert!(finding.parameters.bytes.unwrap().abs_diff(limit) <= 1500, "{finding:#?}");
    }
}

#[test]
fn an_age_is_told_from_a_moment() {
    let analysis = judged(crossed(60.0, |_, _, age, _| up(age > 12.3)));
    let age = only(&analysis, Cause::FlowKilledByAge).parameters.age_s.unwrap();
    assert!((age - 12.3).abs() < 0.1, "{age}");
    let analysis = judged(crossed(60.0, |_, _, age, at| up(at > 20.0 && at - age < 20.0)));
    let finding = only(&analysis, Cause::PolicyPush);
    // The run began at 22:00:00.
    assert!(finding.parameters.moment.as_ref().unwrap().starts_with("2026-01-31T22:00:2"), "{finding:#?}");
}

#[test]
fn deaths_are_told_through_loss() {
    let random = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff < 8;
    let analysis =
        judged(crossed(60.0, |packets, bytes, _, _| up(packets > 333 || random(packets * 31 + bytes))));
    let finding = analysis.findings.iter().find(|f| f.cause == Cause::FlowKilledByPackets).unwrap();
    assert!(finding.parameters.packets.unwrap().abs_diff(333) <= 1);
}

#[test]
fn what_kills_the_replies_goes_down() {
    let analysis =
        judged(crossed(60.0, |packets, _, _, _| if packets > 100 { Fate::LostDown } else { Fate::Received }));
    assert_eq!(only(&analysis, Cause::FlowKilledByPackets).direction, Some(Direction::Down));
}

#[test]
fn flows_of_one_rate_size_and_start_tell_nothing() {
    let mut run = MadeUp::new(TARGET, true);
    for n in 0..6 {
        run.scheduled(
            &format!("udp/{n}"),
            (Dress::Random, Purpose::Crossed),
            (1.0 + 0.001 * f64::from(n), 40.0),
            (0.05, 128),
            |packets, _, _| up(packets > 200),
        );
    }
    run.scheduled("udp/fresh", (Dress::Random, Purpose::Fresh), (30.0, 40.0), (0.1, 128), |_, _, _| {
        Fate::Received
    });
    let analysis = judged(run);
    let finding = only(&analysis, Cause::Unexplained);
    for candidate in ["flow-killed-by-packets", "flow-killed-by-bytes", "flow-killed-by-age"] {
        assert!(finding.evidence.iter().any(|e| e.says.contains(candidate)), "{finding:#?}");
    }
}

#[test]
fn one_that_lived_beyond_it_contradicts() {
    let mut run = crossed(60.0, |packets, _, _, _| up(packets > 333));
    run.scheduled("udp/other", (Dress::Random, Purpose::Crossed), (1.0, 60.0), (0.02, 128), |_, _, _| {
        Fate::Received
    });
    assert!(!causes(&judged(run)).contains(&Cause::FlowKilledByPackets));
}

/// Flows that begin every two seconds, of rates and sizes of their own.
fn staggered(run: &mut MadeUp, dress: Dress, until_s: f64, fate: impl Fn(u64, f64, f64) -> Fate) {
    for n in 0..20u32 {
        let start = 0.7 + 2.0 * f64::from(n);
        let shape = (0.05 + 0.013 * f64::from(n * 7 % 5), 100 + 40 * (n * 3 % 7) as u16);
        run.scheduled(
            &format!("udp/{dress:?}-{n}"),
            (dress, Purpose::Old),
            (start, until_s),
            shape,
            |packets, _, at| fate(packets, at - start, at),
        );
    }
}

#[test]
fn a_kill_that_stops_mid_run_is_told_with_its_window() {
    let mut run = MadeUp::new(TARGET, true);
    staggered(&mut run, Dress::Random, 90.0, |_, age, at| up(age > 10.0 && at - age < 20.0));
    let analysis = judged(run);
    let finding = only(&analysis, Cause::FlowKilledByAge);
    assert!((finding.parameters.age_s.unwrap() - 10.0).abs() < 0.1, "{finding:#?}");
    let evidence = &finding.evidence[0];
    assert!((evidence.from_s.unwrap() - 10.7).abs() < 0.3, "{evidence:?}");
    assert!((evidence.to_s.unwrap() - 28.7).abs() < 0.3, "{evidence:?}");
}

#[test]
fn two_kills_are_named_as_two() {
    let mut run = MadeUp::new(TARGET, true);
    staggered(&mut run, Dress::Random, 90.0, |_, age, _| up(age > 10.0));
    staggered(&mut run, Dress::Ascii, 90.0, |packets, _, _| up(packets > 300));
    // Somebody is heard to the end.
    run.scheduled("udp/zero", (Dress::Zero, Purpose::Fresh), (1.0, 90.0), (0.2, 128), |_, _, _| {
        Fate::Received
    });
    let analysis = judged(run);
    let mut found = causes(&analysis);
    found.sort();
    let mut expected = [Cause::FlowKilledByAge, Cause::FlowKilledByPackets];
    expected.sort();
    assert_eq!(found, expected);
    assert!(analysis.findings.iter().all(|f| f.parameters.packets.is_none_or(|n| n == 300)));
}

#[test]
fn flows_that_died_one_by_one_are_one_riddle() {
    let mut run = MadeUp::new(TARGET, true);
    // Each at an age of its own.
    staggered(&mut run, Dress::Random, 120.0, |_, age, at| {
        let start = at - age;
        up(age > 5.0 + (start * 37.0) % 61.0)
    });
    run.scheduled("udp/fresh", (Dress::Random, Purpose::Fresh), (1.0, 119.0), (0.2, 128), |_, _, _| {
        Fate::Received
    });
    only(&judged(run), Cause::Unexplained);
}

#[test]
fn flows_that_end_in_an_outage_did_not_die() {
    let mut run = MadeUp::new(TARGET, true);
    staggered(&mut run, Dress::Random, 90.0, |_, _, at| up((30.0..45.0).contains(&at)));
    for n in 0..6 {
        run.scheduled(
            &format!("udp/short-{n}"),
            (Dress::Random, Purpose::Fresh),
            (10.0 + f64::from(n), 38.0 + f64::from(n)),
            (0.1, 128),
            |_, _, at| up((30.0..45.0).contains(&at)),
        );
    }
    let found = causes(&judged(run));
    assert!(!found.contains(&Cause::PolicyPush) && !found.contains(&Cause::OneWayLoss), "{found:?}");
}

#[test]
fn without_a_witness_it_is_the_path_that_was_silent() {
    let mut run = MadeUp::new(TARGET, true);
    for n in 0..6 {
        let start = f64::from(n);
        run.scheduled(
            &format!("udp/{n}"),
            (Dress::Random, Purpose::Crossed),
            (start, 40.0),
            (0.05, 128),
            |_, _, at| up(at > 20.0),
        );
    }
    let analysis = judged(run);
    let finding = only(&analysis, Cause::Unexplained);
    assert!(finding.evidence.iter().any(|e| e.says.contains("outage")), "{finding:#?}");
}

#[test]
fn what_a_host_did_kills_no_flow() {
    let mut run = crossed(60.0, |_, _, age, at| up(at > 20.0 && at - age < 20.0));
    run.push(Observation::ListenerRestarted(ListenerRestarted {
        last_seen: run.at(19.5),
        at: run.at(22.0),
        old: 7,
        new: 8,
    }));
    let found = causes(&judged(run));
    assert!(found.contains(&Cause::ListenerRestarted) && !found.contains(&Cause::PolicyPush), "{found:?}");
}

#[test]
fn a_decaying_flow_is_cured_by_a_new_port() {
    let decaying = |fresh: u32| {
        let random = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff < 100;
        let mut run = MadeUp::new(TARGET, true);
        for n in 0..2 {
            run.scheduled(
                &format!("udp/old-{n}"),
                (Dress::Random, Purpose::Old),
                (f64::from(n), 120.0),
                (0.05, 128),
                |packets, bytes, at| up(at > 40.0 && random(packets * 7 + bytes)),
            );
        }
        for n in 0..fresh {
            let start = 45.0 + f64::from(n) * 5.0;
            run.scheduled(
                &format!("udp/fresh-{n}"),
                (Dress::Random, Purpose::Fresh),
                (start, start + 4.0),
                (0.1, 128),
                |_, _, _| Fate::Received,
            );
        }
        judged(run)
    };
    let analysis = decaying(10);
    let finding = only(&analysis, Cause::StaleFlowState);
    assert!((finding.parameters.age_s.unwrap() - 40.0).abs() < 3.0, "{finding:#?}");
    // Seven ports may all have missed a bad member.
    assert!(!causes(&decaying(7)).contains(&Cause::StaleFlowState));
}

/// A fan of ports, of which every `nth` loses 30 %.
fn fan(ports: u32, nth: u32) -> Analysis {
    let mut run = MadeUp::new(TARGET, true);
    for port in 0..ports {
        let start = 0.2 * f64::from(port);
        let random =
            move |n: u64| (n + u64::from(port) * 977).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff < 77;
        run.scheduled(
            &format!("udp/port-{port}"),
            (Dress::Random, Purpose::Fan),
            (start, start + 8.0),
            (0.1, 128),
            |packets, _, _| up(port % nth == 0 && random(packets)),
        );
    }
    judged(run)
}

#[test]
fn ports_that_differ_are_a_bad_member() {
    let analysis = fan(32, 4);
    let finding = only(&analysis, Cause::BadPathMember);
    assert!((finding.parameters.share.unwrap() - 0.25).abs() < 0.05, "{finding:#?}");
    // All alike: it is the path.
    assert!(!causes(&fan(32, 1)).contains(&Cause::BadPathMember));
    assert!(!causes(&fan(8, 2)).contains(&Cause::BadPathMember));
    // One bad port of 32 may be any fault.
    assert!(!causes(&fan(32, 100)).contains(&Cause::BadPathMember));
}

#[test]
fn a_time_of_loss_that_half_of_the_ports_fall_into_is_no_bad_member() {
    // A fan in which one port after the other comes; whoever sends in the first nine seconds loses a third.
    let mut run = MadeUp::new(TARGET, true);
    for port in 0u32..32 {
        let start = 0.5 * f64::from(port);
        let random =
            move |n: u64| (n + u64::from(port) * 977).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff < 85;
        run.scheduled(
            &format!("udp/port-{port}"),
            (Dress::Random, Purpose::Fan),
            (start, start + 8.0),
            (0.1, 128),
            |packets, _, at| up(at < 9.0 && random(packets)),
        );
    }
    assert!(!causes(&judged(run)).contains(&Cause::BadPathMember));
}

#[test]
fn flows_of_longer_packets_that_lose_more_are_no_bad_member() {
    // A bucket that is nearly empty has room for short packets and none for long ones; `by_port`: a fan's ports differ.
    let run = |by_port: bool| {
        let mut run = MadeUp::new(TARGET, true);
        let random = |n: u64, of_256: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff < of_256;
        for (n, size) in (0u32..).zip([800u16, 250, 600, 330, 450, 420]) {
            let name = format!("udp/crossed/{n}");
            let class = (Dress::Random, Purpose::Crossed);
            run.scheduled(&name, class, (1.0, 25.0), (0.03, size), |packets, _, _| {
                up(random(packets + u64::from(n) * 977, 110))
            });
        }
        for port in 0..32u32 {
            let (name, start) = (format!("udp/port-{port}"), 0.2 * f64::from(port));
            let bad = by_port && port % 4 == 0;
            let class = (Dress::Random, Purpose::Fan);
            run.scheduled(&name, class, (start, start + 8.0), (0.1, 128), |packets, _, _| {
                up(random(packets + u64::from(port) * 977, if bad { 110 } else { 12 }))
            });
        }
        judged(run)
    };
    assert!(!causes(&run(false)).contains(&Cause::BadPathMember));
    only(&run(true), Cause::BadPathMember);
}

#[test]
fn the_first_packets_are_lost_in_every_flow_or_it_is_chance() {
    let opened = |first: [u32; 7]| {
        let mut run = MadeUp::new(TARGET, true);
        for (n, count) in first.into_iter().enumerate() {
            run.scheduled(
                &format!("udp/{n}"),
                (if n % 2 == 0 { Dress::Random } else { Dress::Ascii }, Purpose::Steady),
                (n as f64, 20.0),
                (0.05, 128),
                |_, _, _| Fate::Received,
            );
            let flow = FlowNo(n as u32);
            for o in &mut run.observations {
                if let Observation::FlowOpened(o) = o
                    && o.flow == flow
                    && let Some(handshake) = &mut o.handshake
                {
                    handshake.unanswered_first = Some(count);
                }
            }
        }
        judged(run)
    };
    assert_eq!(only(&opened([3; 7]), Cause::FirstPacketsDropped).parameters.packets, Some(3));
    only(&opened([1; 7]), Cause::FirstPacketsDropped);
    // The first flow wakes a radio up: it alone is no evidence, and four of six are not five of five.
    assert_eq!(causes(&opened([1, 0, 0, 0, 0, 0, 0])), []);
    assert_eq!(causes(&opened([1, 1, 1, 1, 1, 0, 0])), []);
}
