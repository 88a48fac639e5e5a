//! Blackouts, periods, idle gaps, fragments and marks.

use std::time::Duration;

use super::*;
use crate::observation::{
    Asked, Death, Fragment, IdleGap, Refresh, StreamEnd, StreamEndSeen, Watch, WatchAnswer,
};

/// A run of two flows of datagrams and plain TCP, all silent where `silent` says so; the gateway is watched where
/// `gateway` says how it answers.
fn silent_when(
    end_s: f64,
    silent: impl Fn(f64) -> bool + Copy,
    gateway: Option<&dyn Fn(f64) -> bool>,
) -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    for (n, dress) in [Dress::Random, Dress::Ascii].into_iter().enumerate() {
        run.scheduled(
            &format!("udp/{n}"),
            (dress, Purpose::Steady),
            (0.1 * n as f64, end_s),
            (0.05, 128),
            |_, _, at| if silent(at) { Fate::LostUp } else { Fate::Received },
        );
    }
    if let Some(gateway) = gateway {
        for second in 0..end_s as u32 {
            // Thrown about, so that no period hides from it.
            let at = f64::from(second) + (f64::from(second) * 0.618).fract();
            let answer = WatchAnswer {
                who: Some([10, 0, 0, 1].into()),
                asked: Asked::Echo,
                reachable: gateway(at),
                rtt: None,
            };
            run.push(Observation::Watch(Watch {
                at: run.at(at),
                gateway: Some(answer),
                loopback: None,
                interface_up: Some(true),
            }));
        }
    }
    run
}

#[test]
fn the_gateway_tells_an_outage_from_the_local_network() {
    let silent = |at: f64| (20.0..26.0).contains(&at);
    let analysis = judged(silent_when(60.0, silent, Some(&|_| true)));
    let finding = only(&analysis, Cause::Outage);
    assert!((finding.parameters.length_s.unwrap() - 6.0).abs() < 0.2, "{finding:#?}");
    let analysis = judged(silent_when(60.0, silent, Some(&|at| !silent(at))));
    only(&analysis, Cause::LocalNetwork);
    // Not watched, or a gateway that never answers: who knows.
    only(&judged(silent_when(60.0, silent, None)), Cause::Unexplained);
    only(&judged(silent_when(60.0, silent, Some(&|_| false))), Cause::Unexplained);
}

#[test]
fn a_roam_is_no_outage() {
    let silent = |at: f64| (20.0..22.0).contains(&at);
    let found = causes(&judged(silent_when(60.0, silent, Some(&|_| true))));
    assert!(!found.contains(&Cause::Outage), "{found:?}");
}

#[test]
fn what_recurs_has_a_period_and_what_does_not_has_none() {
    let every = |period: f64| move |at: f64| at > 2.0 && (at - 2.0) % period < 0.3;
    for period in [3.3, 7.0, 12.1] {
        let analysis = judged(silent_when(150.0, every(period), Some(&|_| true)));
        let finding = only(&analysis, Cause::PeriodicDrop);
        assert!((finding.parameters.period_s.unwrap() / period - 1.0).abs() < 0.01, "{finding:#?}");
        // The gateway fails in the same moments: a radio that scans.
        let gateway = |at: f64| !every(period)(at);
        let found = causes(&judged(silent_when(150.0, every(period), Some(&gateway))));
        assert!(!found.contains(&Cause::PeriodicDrop), "{found:?}");
    }
    // The same moments, thrown about.
    let scattered = |at: f64| {
        let turn = ((at - 2.0) / 7.0).floor().max(0.0);
        let shift =
            6.5 * ((turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / f64::from(1 << 24);
        at > 2.0 && ((at - 2.0) - 7.0 * turn - shift).abs() < 0.15
    };
    let found = causes(&judged(silent_when(150.0, scattered, Some(&|_| true))));
    assert!(!found.contains(&Cause::PeriodicDrop), "{found:?}");
}

fn rung(run: &mut MadeUp, carrier: Carrier, gap_s: f64, refreshed: Refresh, survived: bool) {
    let flow = run.plan(
        &format!("{}/idle-{gap_s}-{refreshed:?}", carrier.name()),
        carrier,
        Dress::Random,
        Purpose::Idle,
    );
    run.open(flow);
    run.push(Observation::IdleGap(IdleGap {
        flow,
        gap: Duration::from_secs_f64(gap_s),
        refreshed,
        survived: Some(survived),
        how: (!survived).then_some(Death::Silent),
        at: run.at(gap_s),
    }));
}

#[test]
fn ladders_give_the_timeout() {
    for (carrier, cause) in [(Carrier::Udp, Cause::UdpIdleTimeout), (Carrier::Tcp, Cause::TcpIdleTimeout)] {
        let mut run = MadeUp::new(TARGET, true);
        run.all_open();
        for gap in [10.0, 20.0, 30.0, 29.0, 40.0, 60.0] {
            rung(&mut run, carrier, gap, Refresh::None, gap < 29.5);
        }
        let analysis = judged(run);
        assert_eq!(only(&analysis, cause).parameters.timeout_s, Some(29.5));
    }
    // A longer gap that was survived contradicts, and one that failed once may be chance.
    for survivors in [[10.0, 60.0], [10.0, 20.0]] {
        let mut run = MadeUp::new(TARGET, true);
        run.all_open();
        survivors.iter().for_each(|gap| rung(&mut run, Carrier::Udp, *gap, Refresh::None, true));
        rung(&mut run, Carrier::Udp, 30.0, Refresh::None, false);
        only(&judged(run), Cause::Unexplained);
    }
}

#[test]
fn the_side_that_keeps_the_mapping_is_told() {
    let one_way = |kept_by: Refresh| {
        let mut run = MadeUp::new(TARGET, true);
        run.all_open();
        for gap in [10.0, 25.0, 40.0, 60.0] {
            rung(&mut run, Carrier::Udp, gap, Refresh::None, gap < 20.0);
            for refreshed in [Refresh::Up, Refresh::Down] {
                rung(
                    &mut run,
                    Carrier::Udp,
                    gap,
                    refreshed,
                    gap < 20.0 || kept_by == refreshed || kept_by == Refresh::Both,
                );
            }
        }
        judged(run)
    };
    let direction = |kept_by| {
        let analysis = one_way(kept_by);
        analysis.findings.iter().find(|f| f.cause == Cause::UdpOneWayRefresh).and_then(|f| f.direction)
    };
    assert_eq!(direction(Refresh::Up), Some(Direction::Up));
    assert_eq!(direction(Refresh::Down), Some(Direction::Down));
    assert_eq!(direction(Refresh::Both), None);
    assert_eq!(direction(Refresh::None), None);
}

#[test]
fn fragments_that_vanish_one_way() {
    let fragments = |arrived: u32, sent: u32| {
        let mut run = MadeUp::new(TARGET, true);
        let [_, _, udp, ..] = run.all_open();
        run.probes(udp, 500, |_| Fate::Received);
        let fragment = |up, arrived| Fragment { flow: udp, up, size: 2000, sent, arrived, at: run.at(5.0) };
        let (up, down) = (fragment(true, arrived), fragment(false, sent));
        run.push(Observation::Fragment(up)).push(Observation::Fragment(down));
        judged(run)
    };
    assert_eq!(only(&fragments(0, 8), Cause::FragmentsDropped).direction, Some(Direction::Up));
    assert_eq!(causes(&fragments(1, 8)), []);
    assert_eq!(causes(&fragments(0, 2)), []);
}

#[test]
fn a_mark_that_is_lost_while_others_pass() {
    let marked = |lost: &dyn Fn(u8, u64) -> bool| {
        let mut run = MadeUp::new(TARGET, true);
        let flow = run.scheduled(
            "udp/marks",
            (Dress::Random, Purpose::Marks),
            (0.0, 0.01),
            (0.05, 128),
            |_, _, _| Fate::Received,
        );
        let marks = vec![0x00, 0x02, 46 << 2, 10 << 2];
        for o in &mut run.observations {
            if let Observation::FlowPlanned(planned) = o {
                planned.marks.clone_from(&marks);
            }
        }
        for seq in 0..80 {
            let is_lost = lost(marks[(seq % 4) as usize], seq);
            let probe = run.probe(flow, seq, if is_lost { Fate::LostUp } else { Fate::Received });
            run.push(Observation::Probe(probe));
        }
        judged(run)
    };
    let analysis = marked(&|mark, _| mark == 46 << 2);
    let finding = only(&analysis, Cause::DscpDropped);
    assert!(finding.parameters.map.as_ref().unwrap().contains_key("46"));
    assert_eq!(finding.direction, Some(Direction::Up));
    only(&marked(&|mark, _| mark == 0x02), Cause::EcnDropped);
    assert_eq!(causes(&marked(&|mark, seq| mark == 46 << 2 && seq < 16)), []);
    assert_eq!(causes(&marked(&|_, seq| seq % 3 == 0)), []);
}

#[test]
fn a_reset_is_injected_only_where_the_listener_did_not_send_it() {
    let reset = |seen: Option<StreamEndSeen>| {
        let mut run = MadeUp::new(TARGET, true);
        let [tcp, ..] = run.all_open();
        run.probes(tcp, 300, |_| Fate::Received);
        run.over(tcp, End::Reset);
        if let Some(seen) = seen {
            run.push(Observation::StreamEnd(StreamEnd { flow: tcp, seen, at: run.at(9.0) }));
        }
        judged(run)
    };
    only(&reset(Some(StreamEndSeen::Reset)), Cause::RstInjected);
    only(&reset(Some(StreamEndSeen::Open)), Cause::RstInjected);
    only(&reset(Some(StreamEndSeen::Own)), Cause::Unexplained);
    only(&reset(None), Cause::Unexplained);
}

#[test]
fn a_handshake_far_quicker_than_the_echo_is_a_proxy_s() {
    let connecting = |ms: u64| {
        let mut run = MadeUp::new(TARGET, true);
        let flows = run.all_open();
        for flow in flows {
            run.probes(flow, 100, |_| Fate::Received);
        }
        for o in &mut run.observations {
            if let Observation::FlowOpened(o) = o
                && o.flow.0 < 2
            {
                o.connect = Some(Duration::from_millis(ms));
            }
        }
        judged(run)
    };
    // The echo takes 20 ms.
    only(&connecting(3), Cause::TcpProxied);
    assert_eq!(causes(&connecting(11)), []);
    assert_eq!(causes(&connecting(20)), []);
}

#[test]
fn flows_beyond_a_number_die_and_the_others_go_on() {
    let ladder = |limit: u32| {
        let mut run = MadeUp::new(TARGET, true);
        for n in 0..60 {
            let start = 0.2 * f64::from(n);
            if n < limit {
                run.scheduled(
                    &format!("udp/concurrent-{n}"),
                    (Dress::Random, Purpose::Concurrent),
                    (start, 20.0),
                    (0.5, 128),
                    |_, _, _| Fate::Received,
                );
            } else {
                let flow = run.plan(
                    &format!("udp/concurrent-{n}"),
                    Carrier::Udp,
                    Dress::Random,
                    Purpose::Concurrent,
                );
                let at = run.at(start);
                if let Some(Observation::FlowPlanned(planned)) = run.observations.last_mut() {
                    planned.at = at;
                }
                run.attempts(flow, 2, &silent());
            }
        }
        judged(run)
    };
    assert_eq!(only(&ladder(40), Cause::FlowLimit).parameters.number, Some(40));
    assert!(!causes(&ladder(57)).contains(&Cause::FlowLimit));
}
