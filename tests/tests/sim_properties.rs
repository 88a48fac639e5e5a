//! Over random networks and random misfortunes of the hosts: every probe that was sent ends with exactly one fate,
//! and no fate contradicts what really happened.

mod sim_common;

use std::time::Duration;

use probe_analysis::observation::Observation;
use probe_client::plan::{Depth, Plan};
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sim_common::{assert_true, rule, run, secs, udp_plan};
use tests::middlebox::{Forwarding, NatKind, Topology};
use tests::packet::Protocol;
use tests::rules::units::{BitRate, Size, Span};
use tests::rules::{Action, Direction, Every, Match, Order, Per, Rule, Shape};
use tests::sim::{Fault, Setup, setup};

/// Random networks per run of this test; a longer look sets SIM_SEEDS, and another one SIM_FROM.
fn seeds() -> std::ops::Range<u64> {
    let number = |name, otherwise| {
        std::env::var(name).ok().and_then(|text: String| text.parse().ok()).unwrap_or(otherwise)
    };
    let from: u64 = number("SIM_FROM", 0);
    from..from + number("SIM_SEEDS", 150)
}

fn some_rule(rng: &mut ChaCha8Rng) -> Rule {
    let direction = [Some(Direction::Up), Some(Direction::Down), None].choose(rng).copied().flatten();
    let matches = Match { direction, ..Match::default() };
    let millis = |rng: &mut ChaCha8Rng, range| Span(Duration::from_millis(rng.random_range(range)));
    let after = |rng: &mut ChaCha8Rng| Some(Span::secs(rng.random_range(1..12)));
    let some = |action| (matches.clone(), action);
    let (matches, action) = match rng.random_range(0..13) {
        0 => (Match { probability: Some(rng.random_range(0.001..0.4)), ..matches }, Action::Drop {}),
        1 => some(Action::Loss {
            good_to_bad: rng.random_range(0.001..0.1),
            bad_to_good: rng.random_range(0.05..0.5),
            good: 0.0,
            bad: rng.random_range(0.3..1.0),
        }),
        2 => some(Action::Delay {
            by: millis(rng, 0..400),
            jitter: millis(rng, 0..200),
            shape: if rng.random() { Shape::Uniform } else { Shape::Exponential },
            overtake: rng.random(),
        }),
        3 => some(Action::Reorder { share: rng.random_range(0.01..0.3), by: millis(rng, 1..300) }),
        4 => some(Action::Duplicate { share: rng.random_range(0.01..0.5), after: millis(rng, 0..300) }),
        5 => {
            let matches = Match { after: after(rng), ..Match::default() };
            (matches, Action::Rebind { address: None, port_step: rng.random_range(1..5000) })
        }
        6 => {
            let every = Every {
                period: Span::secs(rng.random_range(4..30)),
                length: millis(rng, 100..4000),
                first: millis(rng, 0..9000),
            };
            (Match { every: Some(every), ..matches }, Action::Drop {})
        }
        7 => some(Action::Police {
            rate: Some(BitRate(rng.random_range(8_000..200_000))),
            burst: Size(rng.random_range(1_500..20_000)),
            packets_per_second: None,
            packets_burst: None,
            hold: millis(rng, 0..2000),
            per: Per::All,
        }),
        8 => some(Action::Queue {
            rate: BitRate(rng.random_range(60_000..1_000_000)),
            burst: Size(0),
            limit: Size(rng.random_range(2_000..8_000)),
            order: if rng.random() { Order::Fifo } else { Order::Fair },
            low: None,
            per: Per::All,
        }),
        9 => {
            let matches = Match { probability: Some(rng.random_range(0.01..0.5)), ..matches };
            let (at, flip) = (rng.random_range(0..128), rng.random_range(1..=255));
            let keep_checksum = rng.random();
            (
                matches,
                Action::Rewrite {
                    at,
                    hex: String::new(),
                    flip,
                    length: rng.random_range(1..8),
                    keep_checksum,
                },
            )
        }
        10 => (Match { packets_over: Some(rng.random_range(1..400)), ..matches }, Action::Drop {}),
        11 => (
            Match { after: after(rng), probability: Some(0.01), ..Match::default() },
            Action::Forget { all: rng.random() },
        ),
        _ => (
            Match {
                probability: Some(rng.random_range(0.01..0.3)),
                direction: Some(Direction::Up),
                protocol: vec![Protocol::Udp],
                ..Match::default()
            },
            Action::Icmp { code: tests::rules::IcmpCode::PortUnreachable, mtu: 0, from: None },
        ),
    };
    rule("some", matches, action)
}

fn some_fault(rng: &mut ChaCha8Rng) -> Fault {
    let at = Duration::from_millis(rng.random_range(500..14_000));
    let length = Duration::from_millis(rng.random_range(10..6_000));
    match rng.random_range(0..6) {
        0 | 1 => Fault::RestartListener { at, gap: length },
        2 => Fault::StallListener { at, length: length.min(secs(2)) },
        3 => Fault::StallClient { at, length: length.min(secs(2)) },
        4 => Fault::SuspendClient { at, length },
        _ => Fault::ForgetMappings { at },
    }
}

fn some_setup(seed: u64) -> Setup {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let nat = NatKind { symmetric: rng.random(), filters: rng.random(), ..NatKind::default() };
    let topology = Topology {
        ipv6: false,
        client_nat: rng.random_bool(0.7).then_some(nat),
        server_nat: rng.random_bool(0.7).then(Forwarding::default),
        ..Topology::default()
    };
    let interval = Duration::from_millis(rng.random_range(20..200));
    let target = setup::target(&topology);
    // Now and then a whole check: every transport, marks, and the search for the path's MTU.
    let plan = if rng.random_bool(0.1) {
        Plan { measure: secs(12), ..Plan::check(&[target], true, Depth::Normal) }
    } else {
        udp_plan(target, rng.random_range(1..4), interval, secs(12))
    };
    let rules = (0..rng.random_range(0..4)).map(|_| some_rule(&mut rng)).collect();
    // Misfortunes that do not overlap, so that each is whole.
    let faults = if rng.random_bool(0.6) { vec![some_fault(&mut rng)] } else { Vec::new() };
    Setup { rules, faults, ..Setup::of(seed, topology, plan) }
}

#[test]
fn every_probe_has_one_fate_and_it_is_true() {
    let (mut settled, mut began) = (0, 0);
    let mut wrong = Vec::new();
    for seed in seeds() {
        let setup = some_setup(seed);
        let shown = format!("seed {seed}: {:?} {:?} {:?}", setup.rules, setup.faults, setup.topology);
        let (observations, ran) = std::panic::catch_unwind(|| run(setup.clone()))
            .unwrap_or_else(|_| panic!("the run failed; {shown}"));
        let judged = std::panic::catch_unwind(|| assert_true(&observations, &ran));
        if judged.is_err() {
            wrong.push(shown.clone());
        }
        settled += observations.iter().filter(|o| matches!(o, Observation::Probe(_))).count();
        began += 1;
        assert!(ran.took <= setup.plan.duration() + secs(8), "took {:?}; {shown}", ran.took);
    }
    assert!(wrong.is_empty(), "{} of {began} runs:\n{}", wrong.len(), wrong.join("\n"));
    assert!(settled > began * 20, "{settled} probes in {began} runs show little");
}
