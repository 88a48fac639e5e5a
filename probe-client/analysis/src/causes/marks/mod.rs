//! Marks in the IP header: DSCP (RFC 2474) and ECN (RFC 3168).

pub(super) mod dropped;
pub(super) mod dscp_rewritten;
pub(super) mod ecn_bleached;

use std::collections::BTreeMap;

use probe_protocol::finding::{Direction, Evidence};

use super::{Case, thresholds};
use crate::evidence::Traffic;

/// What became of each value of a field: per value sent, how often each value arrived.
type Seen = BTreeMap<u8, BTreeMap<u8, u64>>;

fn seen(case: &Case<'_>, up: bool, field: fn(u8) -> u8) -> Seen {
    let mut all = Seen::new();
    for (_, traffic) in &case.flows {
        let marks = if up { &traffic.tos_up } else { &traffic.tos_down };
        for ((sent, got), n) in marks.seen.iter() {
            *all.entry(field(sent)).or_default().entry(field(got)).or_default() += n;
        }
    }
    all
}

/// The values of which every packet arrived changed, and into what mostly.
fn changed(seen: &Seen, counts: impl Fn(u8, u8) -> bool) -> BTreeMap<u8, (u8, u64)> {
    seen.iter()
        .filter_map(|(sent, got)| {
            let kept: u64 = got.iter().filter(|(got, _)| !counts(*sent, **got)).map(|(_, n)| *n).sum();
            let changed: u64 = got.iter().filter(|(got, _)| counts(*sent, **got)).map(|(_, n)| *n).sum();
            let (into, _) = got.iter().filter(|(got, _)| counts(*sent, **got)).max_by_key(|(_, n)| **n)?;
            (kept == 0 && changed >= thresholds::MARKED_PACKETS).then_some((*sent, (*into, changed)))
        })
        .collect()
}

fn direction(up: bool, down: bool) -> Option<Direction> {
    match (up, down) {
        (true, true) => Some(Direction::Both),
        (true, false) => Some(Direction::Up),
        (false, true) => Some(Direction::Down),
        (false, false) => None,
    }
}

fn flows(case: &Case<'_>) -> Vec<String> {
    let marked = |traffic: &Traffic| {
        [&traffic.tos_up, &traffic.tos_down].iter().any(|m| m.seen.iter().any(|((sent, _), _)| sent != 0))
    };
    case.flows.iter().filter(|(_, traffic)| marked(traffic)).map(|(flow, _)| flow.plan.name.clone()).collect()
}

fn evidence(case: &Case<'_>, way: &str, changed: &BTreeMap<u8, (u8, u64)>, name: &str) -> Option<Evidence> {
    let list: Vec<_> = changed
        .iter()
        .map(|(sent, (got, n))| format!("{name} {sent} arrived as {got} ({n} of {n} packets)"))
        .collect();
    (!list.is_empty()).then(|| Evidence {
        flows: flows(case),
        says: format!("on the way {way}: {}", list.join(", ")),
        ..Evidence::default()
    })
}
