//! A slice of the confusion matrix in the simulated network; all of it is a command: `matrix`.

#![allow(clippy::panic, reason = "tests")]

use tests::matrix::{Run, Tally, play};
use tests::scenario::{Network, Scenario};

fn tally(names: &[&str], seeds: std::ops::Range<u64>) -> Tally {
    let mut tally = Tally::default();
    for name in names {
        for seed in seeds.clone() {
            let scenario = Scenario::load(name, seed).unwrap_or_else(|e| panic!("{name}: {e}"));
            let played = play(&scenario, seed).unwrap_or_else(|e| panic!("{name}, seed {seed}: {e}"));
            let at = (seed, Network::Simulated);
            tally.count(&Run::of(&scenario, at, &played.report, played.judgement, played.took));
        }
    }
    tally
}

#[test]
fn clean_and_benign_networks_are_accused_of_nothing() {
    let tally = tally(&["clean", "benign-wifi", "benign-satellite", "benign-mild-loss"], 0..1);
    assert_eq!((tally.clean_runs, tally.clean_accused), (4, 0), "{:?}", tally.wrong);
}

#[test]
fn what_is_named_so_far_is_named() {
    let tally =
        tally(&["tcp-refused", "udp-blocked", "mtu-black-hole", "nat-rebinding", "listener-restarted"], 0..2);
    assert!(tally.not_yet_named().is_empty(), "{:?}", tally.wrong);
    assert_eq!(tally.right, tally.runs, "{:?}", tally.wrong);
}
