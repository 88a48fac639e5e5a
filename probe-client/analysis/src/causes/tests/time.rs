//! Blackouts, periods, idle gaps, fragments and marks.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::observation::{
    Asked, Death, FlowNo, Fragment, IdleGap, Missed, Refresh, StreamEnd, StreamEndSeen, Watch, WatchAnswer,
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
fn an_outage_is_no_decay_of_old_flows() {
    let silent = |at: f64| (50.0..70.0).contains(&at);
    let mut run = silent_when(120.0, silent, Some(&|_| true));
    for n in 0..20 {
        let start = 4.0 + 5.0 * f64::from(n);
        run.scheduled(
            &format!("udp/fresh-{n}"),
            (Dress::Random, Purpose::Fresh),
            (start, start + 12.0),
            (0.1, 128),
            |_, _, at| if silent(at) { Fate::LostUp } else { Fate::Received },
        );
    }
    only(&judged(run), Cause::Outage);
}

#[test]
fn what_is_answered_under_load_is_no_outage() {
    // The last flows of a steady rate fall silent for good while those of the load's time are answered, or are not.
    let said = |answered: bool| {
        let mut run = silent_when(60.0, |at| at >= 50.0, Some(&|_| true));
        let fate = |_, _, _| if answered { Fate::Received } else { Fate::LostUp };
        let kind = (Dress::Random, Purpose::Loaded);
        run.scheduled("under-load/udp/random", kind, (48.0, 62.0), (0.1, 128), fate);
        causes(&judged(run))
    };
    assert!(!said(true).contains(&Cause::Outage), "{:?}", said(true));
    assert!(said(false).contains(&Cause::Outage), "{:?}", said(false));
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
        at: run.at(gap_s + 9.0),
    }));
}

/// A run whose flows are busy all the time, as long as ladders take here.
fn busy() -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    for flow in run.all_open() {
        run.probes(flow, 4000, |_| Fate::Received);
    }
    run
}

#[test]
fn ladders_give_the_timeout() {
    for (carrier, cause) in [(Carrier::Udp, Cause::UdpIdleTimeout), (Carrier::Tcp, Cause::TcpIdleTimeout)] {
        let mut run = busy();
        for gap in [10.0, 20.0, 30.0, 29.0, 40.0, 60.0] {
            rung(&mut run, carrier, gap, Refresh::None, gap < 29.5);
        }
        // Loss takes one that was short enough.
        rung(&mut run, carrier, 15.0, Refresh::None, false);
        let analysis = judged(run);
        assert_eq!(only(&analysis, cause).parameters.timeout_s, Some(29.5));
    }
    let told = |gaps: &[(f64, bool)]| {
        let mut run = busy();
        gaps.iter().for_each(|(gap, well)| rung(&mut run, Carrier::Udp, *gap, Refresh::None, *well));
        causes(&judged(run))
    };
    // One that failed beyond all others may be chance; below a longer one that was survived it is.
    assert_eq!(told(&[(10.0, true), (20.0, true), (30.0, false)]), [Cause::Unexplained]);
    assert_eq!(told(&[(10.0, true), (30.0, false), (60.0, true)]), []);
    // Several of them are no timeout, and no chance.
    let several = [(10.0, true), (30.0, false), (31.0, false), (32.0, false), (50.0, true), (60.0, false)];
    assert_eq!(told(&several), [Cause::Unexplained]);
}

#[test]
fn a_gap_is_judged_beside_a_busy_flow_alone() {
    let ladder = |mut run: MadeUp| {
        for gap in [10.0, 20.0, 30.0, 40.0, 50.0] {
            rung(&mut run, Carrier::Udp, gap, Refresh::None, gap < 25.0);
        }
        causes(&judged(run))
    };
    assert_eq!(ladder(busy()), [Cause::UdpIdleTimeout]);
    // Busy ones die of their age just then, and so do idle ones.
    let mut aged = MadeUp::new(TARGET, true);
    for n in 0..6 {
        let start = 3.0 * f64::from(n);
        aged.scheduled(
            &format!("udp/{n}"),
            (Dress::Random, Purpose::Old),
            (start, 90.0),
            (0.1 + 0.03 * f64::from(n), 100 + 60 * n as u16),
            |_, _, at| if at - start > 25.0 { Fate::LostUp } else { Fate::Received },
        );
    }
    for n in 0..9 {
        let start = 10.0 * f64::from(n);
        aged.scheduled(
            &format!("udp/fresh-{n}"),
            (Dress::Random, Purpose::Fresh),
            (start, start + 9.0),
            (0.1, 128),
            |_, _, _| Fate::Received,
        );
    }
    assert_eq!(ladder(aged), [Cause::FlowKilledByAge]);
    // Everybody was silent when the gaps ended.
    let mut silent = MadeUp::new(TARGET, true);
    for flow in silent.all_open() {
        let is_out = |seq: u64| (1500..4000).contains(&seq) && seq % 500 < 80;
        silent.probes(flow, 4000, |seq| if is_out(seq) { Fate::LostUp } else { Fate::Received });
    }
    assert!(!ladder(silent).contains(&Cause::UdpIdleTimeout));
    // The host slept.
    let mut slept = busy();
    let asleep = HostEvent { from: slept.at(15.0), to: slept.at(45.0), what: HostFault::Suspended };
    slept.push(Observation::Host(asleep));
    assert_eq!(ladder(slept), [Cause::ClientSuspended]);
}

#[test]
fn addresses_that_change_by_the_clock_have_a_period() {
    let changing = |moments: &[f64]| {
        let mut run = busy();
        for (n, at) in (1u8..).zip(moments) {
            for flow in 2..4 {
                run.push(Observation::Moved(Moved {
                    flow: FlowNo(flow),
                    at: run.at(at + 0.1 * f64::from(flow)),
                    old: SocketAddr::from(([198, 51, 100, n], 50_000)),
                    new: SocketAddr::from(([198, 51, 100, n + 1], 50_000)),
                }));
            }
        }
        judged(run)
    };
    let analysis = changing(&[15.0, 30.0, 45.0, 60.0]);
    let finding = only(&analysis, Cause::AddressChanged);
    assert_eq!((finding.parameters.number, finding.parameters.period_s), (Some(4), Some(15.0)));
    let analysis = changing(&[15.0, 33.0, 44.0, 60.0]);
    assert_eq!(only(&analysis, Cause::AddressChanged).parameters.period_s, None);
    assert_eq!(changing(&[15.0, 30.0]).findings[0].parameters.period_s, None);
}

#[test]
fn what_a_sleeping_host_missed_is_no_stall() {
    let missed = |slept: bool| {
        let mut run = busy();
        for second in 20..50 {
            run.push(Observation::Missed(Missed {
                flow: FlowNo(2),
                from: run.at(f64::from(second)),
                count: 50,
            }));
        }
        if slept {
            let asleep = HostEvent { from: run.at(19.8), to: run.at(50.3), what: HostFault::Suspended };
            run.push(Observation::Host(asleep));
        }
        causes(&judged(run))
    };
    assert_eq!(missed(true), [Cause::ClientSuspended]);
    assert_eq!(missed(false), [Cause::HostStalled]);
}

#[test]
fn the_side_that_keeps_the_mapping_is_told() {
    let one_way = |kept_by: Refresh| {
        let mut run = busy();
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
fn long_packets_that_are_lost_beside_short_ones_take_fragments_with_them() {
    let fragments = |of_256: u64| {
        let mut run = MadeUp::new(TARGET, true);
        let [_, _, udp, ..] = run.all_open();
        run.probes(udp, 500, |_| Fate::Received);
        run.scheduled("udp/long", (Dress::Random, Purpose::Crossed), (0.0, 10.0), (0.05, 800), |n, _, _| {
            let is_lost = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40 & 0xff < of_256;
            if is_lost { Fate::LostUp } else { Fate::Received }
        });
        for (up, arrived) in [(true, 0), (false, 8)] {
            let fragment = Fragment { flow: udp, up, size: 2000, sent: 8, arrived, at: run.at(5.0) };
            run.push(Observation::Fragment(fragment));
        }
        causes(&judged(run)).contains(&Cause::FragmentsDropped)
    };
    assert!(!fragments(110) && fragments(5));
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
    let ladder = |limit: u32, more: &[u32]| {
        let mut run = MadeUp::new(TARGET, true);
        for n in 0..60 {
            let start = 0.2 * f64::from(n);
            if n < limit || more.contains(&n) {
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
    assert_eq!(only(&ladder(40, &[]), Cause::FlowLimit).parameters.number, Some(40));
    assert!(!causes(&ladder(57, &[])).contains(&Cause::FlowLimit));
    // A flow of before may give up its place while the ladder goes on, and one more finds room.
    assert_eq!(only(&ladder(40, &[42]), Cause::FlowLimit).parameters.number, Some(40));
    assert!(!causes(&ladder(40, &[42, 44, 47, 50, 55])).contains(&Cause::FlowLimit));
}

#[test]
fn a_way_that_is_lost_and_comes_back_is_the_local_network_s() {
    let way = |back: &str| {
        let mut run = MadeUp::new(TARGET, true);
        for flow in run.all_open() {
            let unsent = |seq: u64| (1000..2000).contains(&seq);
            let fate = |seq| if unsent(seq) { Fate::Excluded(Excluded::SendFailed) } else { Fate::Received };
            run.probes(flow, 4000, fate);
        }
        let changed = |at_s: f64, old: &str, new: &str| {
            let what = HostFault::InterfaceChanged { old: old.to_owned(), new: new.to_owned() };
            Observation::Host(HostEvent { from: run.at(at_s), to: run.at(at_s), what })
        };
        let (gone, back) = (changed(20.0, "eth0 a", "none"), changed(40.0, "none", back));
        let says = "Network is unreachable".to_owned();
        let failed = HostEvent { from: run.at(20.1), to: run.at(39.9), what: HostFault::SendFailed(says) };
        run.push(gone).push(back).push(Observation::Host(failed));
        judged(run)
    };
    let analysis = way("eth0 a");
    let finding = only(&analysis, Cause::LocalNetwork);
    assert!((finding.parameters.length_s.unwrap() - 20.0).abs() < 1.5, "{finding:#?}");
    only(&way("wlan0 b"), Cause::InterfaceChanged);
}
