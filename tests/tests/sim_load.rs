//! Loads over the simulated network: what both ends counted, against the rate that the network really has.

mod sim_common;

use probe_analysis::observation::{Load, Observation};
use probe_client::plan::{Depth, Plan};
use probe_protocol::wire::hello::Carrier;
use sim_common::{assert_true, rule, run, topology};
use tests::packet::Protocol;
use tests::rules::units::{BitRate, Size, Span};
use tests::rules::{Action, Direction, Match, Order, Per, Rule};
use tests::sim::{Setup, setup};

const RATE: u64 = 16_000_000;

fn loads(rules: Vec<Rule>) -> Vec<Load> {
    let topology = topology();
    let plan = Plan::check_with_load(&[setup::target(&topology)], true, Depth::Normal, Some(RATE));
    let (observations, ran) = run(Setup { rules, ..Setup::of(1, topology, plan) });
    assert_true(&observations, &ran);
    let load = |o: Observation| if let Observation::Load(load) = o { Some(load) } else { None };
    observations.into_iter().filter_map(load).collect()
}

/// Packets sent and lost.
fn counts(load: &Load) -> (u64, u64) {
    load.bins
        .iter()
        .fold((0, 0), |(sent, lost), bin| (sent + u64::from(bin.packets), lost + u64::from(bin.lost)))
}

#[test]
fn a_clean_network_carries_every_step_both_ways() {
    let loads = loads(Vec::new());
    assert!(loads.len() > 10, "{}", loads.len());
    for load in &loads {
        let (sent, lost) = counts(load);
        assert!(sent >= 10 && lost == 0, "{sent} sent, {lost} lost of {:?}", load.offered_bps);
    }
    assert!(loads.iter().any(|l| l.up) && loads.iter().any(|l| !l.up));
}

#[test]
fn a_policer_passes_its_rate_of_udp_and_all_of_tcp() {
    let matches = Match {
        direction: Some(Direction::Up),
        protocol: vec![Protocol::Udp],
        size_over: Some(Size(1000)),
        ..Match::default()
    };
    let police = Action::Police {
        rate: Some(BitRate(5_000_000)),
        burst: Size(20_000),
        packets_per_second: None,
        packets_burst: None,
        hold: Span::default(),
        per: Per::All,
    };
    let loads = loads(vec![rule("policer", matches, police)]);
    let (mut policed, mut passed) = (0, 0);
    for load in loads.iter().filter(|l| l.up) {
        let (sent, lost) = counts(load);
        let udp = load.carrier == Carrier::Udp;
        if udp && load.offered_bps > 7_000_000 && load.size > 1000 && sent > 300 && load.beside.is_empty() {
            let share = 1.0 - lost as f64 / sent as f64;
            let rate = share * load.offered_bps as f64;
            assert!((4.2e6..6.5e6).contains(&rate), "{rate} bit/s of {} pass", load.offered_bps);
            policed += 1;
        } else if !udp {
            assert_eq!(lost, 0);
            passed += 1;
        }
    }
    assert!(policed > 0 && passed > 0, "{policed} {passed}");
    assert!(loads.iter().filter(|l| !l.up).all(|l| counts(l).1 == 0));
}

#[test]
fn a_full_queue_delays_udp_and_lets_tcp_take_what_is_left() {
    let line = Action::Queue {
        rate: BitRate(6_000_000),
        burst: Size(0),
        limit: Size(60_000),
        order: Order::Fifo,
        low: None,
        per: Per::All,
    };
    let loads = loads(vec![rule("line", Match::default(), line)]);
    let slowest = loads
        .iter()
        .filter(|l| l.carrier == Carrier::Udp && l.offered_bps > 8_000_000 && l.up)
        .map(|l| {
            let delays: Vec<_> = l.bins.iter().filter_map(|bin| bin.delay).collect();
            let (least, most) = (delays.iter().map(|d| d.min).min(), delays.iter().map(|d| d.max).max());
            most.zip(least).map_or(0, |(most, least)| most - least)
        })
        .max();
    // 60 kB at 6 Mbit/s are 80 ms.
    assert!(slowest.is_some_and(|ns| (60_000_000..100_000_000).contains(&ns)), "{slowest:?}");
    // TCP backs off: it loses nothing that it does not send again.
    assert!(loads.iter().filter(|l| l.carrier == Carrier::Tcp).all(|l| counts(l).1 == 0));
}
