//! Two causes at once: scenarios that are composed of two others.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::middlebox::{Forwarding, NatKind, Topology};
use crate::scenario::{Expect, Plan, Scenario, ScenarioError};

/// What a cause takes away, or alters. Two of one kind are told by one experiment, and are not composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A protocol.
    Reach,
    /// What is recognised.
    Payload,
    /// Bits of the header.
    Marks,
    /// The size that gets through.
    Size,
    /// Packets at random.
    Loss,
    /// The order.
    Order,
    /// The number.
    Copies,
    /// The rate.
    Rate,
    /// The source.
    Address,
}

/// Scenarios of one cause that are a plain check between two routers, and consist of rules alone.
const SINGLE: [(&str, Kind); 16] = [
    ("tcp-filtered", Kind::Reach),
    ("quic-blocked", Kind::Payload),
    ("tls-blocked", Kind::Payload),
    ("dscp-rewritten", Kind::Marks),
    ("dscp-dropped", Kind::Marks),
    ("ecn-bleached", Kind::Marks),
    ("mtu-black-hole", Kind::Size),
    ("loss-random", Kind::Loss),
    ("loss-bursts", Kind::Loss),
    ("loss-up", Kind::Loss),
    ("reordering", Kind::Order),
    ("duplication", Kind::Copies),
    ("udp-policer", Kind::Rate),
    ("bufferbloat", Kind::Rate),
    ("nat-rebinding", Kind::Address),
    ("address-changed", Kind::Address),
];

/// Which of two hides the other, and why: nobody could name both.
const HIDDEN: [(&str, &str); 8] = [
    // Without TCP there is no TLS, and no control beside UDP's rate.
    ("tcp-filtered", "tls-blocked"),
    ("tcp-filtered", "udp-policer"),
    ("tcp-filtered", "bufferbloat"),
    // TCP hangs in the black hole, and is no control beside UDP's rate either.
    ("mtu-black-hole", "udp-policer"),
    ("mtu-black-hole", "bufferbloat"),
    // TCP backs off before loss, so that it fills no line and outruns no policer.
    ("loss-random", "udp-policer"),
    ("loss-bursts", "udp-policer"),
    ("loss-up", "udp-policer"),
];

fn is_compatible(a: (&str, Kind), b: (&str, Kind)) -> bool {
    let loss_and_line = [(a.1, b.1), (b.1, a.1)].contains(&(Kind::Loss, Kind::Rate));
    a.1 != b.1 && !loss_and_line && !HIDDEN.contains(&(a.0, b.0)) && !HIDDEN.contains(&(b.0, a.0))
}

/// Every pair that is composed, in order.
pub fn pairs() -> Vec<(&'static str, &'static str)> {
    let mut pairs = Vec::new();
    for (index, first) in SINGLE.iter().enumerate() {
        let later = SINGLE.iter().skip(index + 1).filter(|second| is_compatible(*first, **second));
        pairs.extend(later.map(|second| (first.0, second.0)));
    }
    pairs
}

/// The pair that a seed draws; with the next even or odd seed the scenarios draw their values.
pub fn draw(seed: u64) -> Option<(&'static str, &'static str)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7061_6972);
    let pair = pairs().choose(&mut rng).copied();
    // Rules act in order; which cause comes first on the way is chance too.
    pair.map(|(first, second)| if rng.random() { (first, second) } else { (second, first) })
}

/// Both at once: the rules of the first, then those of the second. Both causes must be named; their parameters are the
/// business of the single scenarios.
///
/// # Errors
/// Where one of them cannot be read, or both ask for another network.
pub fn compose(first: &str, second: &str, seed: u64) -> Result<Scenario, ScenarioError> {
    let (first, second) = (Scenario::load(first, seed)?, Scenario::load(second, seed)?);
    let name = format!("{} + {}", first.name, second.name);
    let plain = Topology {
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    };
    let v4 = Topology { ipv6: false, ..plain.clone() };
    let topology = match (&first.topology, &second.topology) {
        (a, b) if *b == plain || a == b => a.clone(),
        (a, b) if *a == plain => b.clone(),
        (a, b) if *b == v4 => Topology { ipv6: false, ..a.clone() },
        (a, b) if *a == v4 => Topology { ipv6: false, ..b.clone() },
        _ => return Err(ScenarioError::Sense { name, what: "its halves ask for two networks".to_owned() }),
    };
    let mut must = [first.expect.must, second.expect.must].concat();
    must.iter_mut().for_each(|must| must.parameters.clear());
    let may = [first.expect.may, second.expect.may].concat();
    // A check whose load goes far enough for the one goes far enough for the other.
    let plan = if first.plan == Plan::default() { second.plan } else { first.plan };
    let scenario = Scenario {
        about: format!("{}; and {}", first.about, second.about),
        name,
        topology,
        rule: [first.rule, second.rule].concat(),
        drawn: first.drawn.into_iter().chain(second.drawn).collect(),
        expect: Expect { must, may, ..Expect::default() },
        plan,
        networks: first.networks,
        listener: first.listener,
        event: first.event,
    };
    scenario.check(seed)?;
    Ok(scenario)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::PlanKind;

    #[test]
    fn every_pair_can_be_composed_and_asks_for_both_causes() {
        let pairs = pairs();
        assert!(pairs.len() > 60, "{}", pairs.len());
        for (seed, (first, second)) in pairs.into_iter().enumerate() {
            let seed = seed as u64;
            let scenario = compose(first, second, seed).unwrap_or_else(|e| panic!("{first}, {second}: {e}"));
            let causes: Vec<_> = scenario.expect.must.iter().map(|must| must.cause).collect();
            assert_eq!(causes.len(), 2, "{first}, {second}");
            assert_ne!(causes[0], causes[1], "{first}, {second}");
        }
    }

    #[test]
    fn what_is_composed_is_a_plain_check_of_rules_alone() {
        for (name, _) in SINGLE {
            let scenario = Scenario::load(name, 0).unwrap();
            let Plan { kind, arguments, .. } = &scenario.plan;
            let is_plain =
                arguments.is_empty() || matches!(arguments.as_slice(), [rate, _] if rate == "--rate");
            assert!(*kind == PlanKind::Check && is_plain, "{name}: {:?}", scenario.plan);
            assert!(scenario.event.is_empty(), "{name}");
            assert_eq!(scenario.expect.must.len(), 1, "{name}");
        }
    }

    #[test]
    fn a_seed_draws_the_same_pair_again_and_seeds_draw_many() {
        let drawn: std::collections::BTreeSet<_> = (0..400).filter_map(draw).collect();
        assert!(drawn.len() > 60, "{}", drawn.len());
        assert_eq!(draw(7), draw(7));
    }
}
