//! Rehearsals in the simulated network: what the ends count is what the middlebox did, packet for packet.

mod sim_common;

use probe_analysis::observation::{Load, LoadExperiment, Observation};
use probe_analysis::{Evidence, analyse};
use probe_client::plan::Plan;
use probe_client::plan::rehearse::{RehearseOptions, Ways};
use probe_protocol::cause::Cause;
use sim_common::{rule, run, secs, topology};
use tests::packet::Protocol;
use tests::rules::truth::Deed;
use tests::rules::units::{BitRate, Size, Span};
use tests::rules::{Action, Direction, Match, Per, Rule};
use tests::sim::{Ran, Setup, setup};

/// A block, and the IP packet that it makes: a length that nothing else beside the transfer has.
const BLOCK: u16 = 1100;
const PACKET: u64 = BLOCK as u64 + 28;

fn throttle(direction: Direction, rate: u64, age: u64) -> Rule {
    let matches = Match {
        direction: Some(direction),
        protocol: vec![Protocol::Udp],
        size_over: Some(Size(PACKET - 1)),
        size_under: Some(Size(PACKET + 1)),
        age_over: Some(Span(secs(age))),
        ..Match::default()
    };
    let police = Action::Police {
        rate: Some(BitRate(rate)),
        burst: Size(10_000),
        packets_per_second: None,
        packets_burst: None,
        hold: Span::default(),
        per: Per::All,
    };
    rule("throttle", matches, police)
}

fn rehearse(options: RehearseOptions, throttle: Rule) -> (Vec<Load>, Evidence, Ran) {
    let topology = topology();
    let plan = Plan::rehearse(setup::target(&topology), &options);
    let setup = Setup { rules: vec![throttle], keep_truth: false, ..Setup::of(11, topology, plan) };
    let (observations, ran) = run(setup);
    let mut evidence = Evidence::default();
    let mut loads = Vec::new();
    for observation in &observations {
        evidence.observe(observation);
        if let Observation::Load(load) = observation {
            loads.push(load.clone());
        }
    }
    (loads, evidence, ran)
}

fn sum(loads: &[Load], up: bool) -> (u64, u64) {
    let bins = loads.iter().filter(|l| l.up == up).flat_map(|l| &l.bins);
    bins.fold((0, 0), |(sent, lost), bin| (sent + u64::from(bin.packets), lost + u64::from(bin.lost)))
}

#[test]
fn both_ways_every_block_is_accounted_for() {
    let options = RehearseOptions { size: BLOCK, ..RehearseOptions::new(4_400_000, secs(25)) };
    for direction in [Direction::Up, Direction::Down] {
        let (loads, _, ran) = rehearse(options, throttle(direction, 2_000_000, 15));
        let up = direction == Direction::Up;
        // What fresh flows tried beside it met the throttle too.
        let (fresh, loads): (Vec<Load>, Vec<Load>) =
            loads.into_iter().partition(|l| l.experiment == LoadExperiment::Fresh);
        let ((sent, lost), (back, lost_back)) = (sum(&loads, up), sum(&loads, !up));
        let (_, lost_fresh) = sum(&fresh, up);
        let expected = 4_400_000 * 25 / (u64::from(BLOCK) * 8);
        assert!(
            sent.abs_diff(expected) <= 2 && back.abs_diff(expected) <= 2,
            "{sent} and {back} of {expected}"
        );
        assert!(lost > 1000);
        let dropped = ran.network.count("throttle", Deed::Dropped, direction);
        assert_eq!((lost + lost_fresh, lost_back), (dropped, 0));
    }
}

#[test]
fn an_hour_is_rehearsed_and_its_throttle_after_twenty_minutes_is_told_with_time_and_rate() {
    let options =
        RehearseOptions { ways: Ways::Up, size: BLOCK, ..RehearseOptions::new(220_000, secs(3600)) };
    let (loads, evidence, ran) = rehearse(options, throttle(Direction::Up, 100_000, 1200));
    // What fresh flows tried beside it is told apart.
    let (fresh, loads): (Vec<Load>, Vec<Load>) =
        loads.into_iter().partition(|l| l.experiment == LoadExperiment::Fresh);
    let (sent, lost) = sum(&loads, true);
    let expected = 220_000 * 3600 / (u64::from(BLOCK) * 8);
    assert!(sent.abs_diff(expected) <= 2, "{sent} of {expected}");
    assert_eq!(lost, ran.network.count("throttle", Deed::Dropped, Direction::Up));
    let analysis = analyse(&evidence);
    let transfer = &analysis.transfers[0];
    assert_eq!((transfer.packets_sent, transfer.packets_lost), (sent, lost));
    let slowed = transfer.slowed[0];
    // The flow opens within two seconds of the run's start, and the bucket lasts for a moment.
    assert!((1199.0..1206.0).contains(&slowed.from_s), "{slowed:?}");
    assert!(slowed.to_s > 3600.0 && !slowed.cut && transfer.slowed.len() == 1, "{slowed:?}");
    let wire = slowed.rate_bps.map(|rate| rate * PACKET as f64 / f64::from(BLOCK));
    assert!(wire.is_some_and(|rate| (97_000.0..103_000.0).contains(&rate)), "{wire:?}");
    assert!((358..=364).contains(&loads.len()), "{} slices", loads.len());
    // A flow with a new port, whose age is none, gets through at that moment: so the cause has a name.
    let (tried, missing) = sum(&fresh, true);
    assert!(!fresh.is_empty() && tried > 80 && missing == 0, "{tried} {missing} {fresh:?}");
    let begun = loads[0].from;
    assert!(fresh.iter().all(|l| l.from > begun + secs(1190)), "{fresh:?}");
    let named: Vec<_> = analysis.findings.iter().filter(|f| f.cause == Cause::FlowThrottled).collect();
    let [finding] = named.as_slice() else { panic!("{:?}", analysis.findings) };
    let age = finding.parameters.age_s.unwrap();
    assert!((age / 1200.0 - 1.0).abs() < 0.02, "{finding:?}");
    let rate = finding.parameters.rate_bps.unwrap() as f64 * PACKET as f64 / f64::from(BLOCK);
    assert!((rate / 100_000.0 - 1.0).abs() < 0.05, "{finding:?}");
}
