//! `fragments-dropped`: datagrams larger than the MTU vanish, while those that fit get through (RFC 8900).

use std::collections::BTreeMap;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::mtu_black_hole;
use crate::causes::{Case, Claim, thresholds};
use crate::observation::{Fragment, Purpose};

/// Datagrams of one length whose loss tells of it.
const WHOLE: u64 = 30;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let way = |up: bool| {
        let rows = || case.evidence.fragments.iter().filter(move |f| f.up == up);
        let sent: u32 = rows().map(|f| f.sent).sum();
        let arrived: u32 = rows().map(|f| f.arrived).sum();
        let first: Option<&Fragment> = rows().next();
        (sent, arrived, first.copied())
    };
    // Where large packets vanish, a fragment that fills the sender's own MTU does, too.
    let told = |up: bool| mtu_black_hole::holes(case).iter().all(|(search, ..)| search.up != up);
    let (up, down) = (way(true), way(false));
    // Whole datagrams of the same look at the same time, of the length that loses most: what has little room left drops long ones first.
    let mut lengths: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    for (flow, traffic) in case.flows.iter().filter(|(flow, traffic)| {
        // What a dead flow loses is its death's.
        flow.plan.carrier == Carrier::Udp
            && flow.plan.dress == Dress::Random
            && matches!(flow.plan.purpose, Purpose::Steady | Purpose::Old | Purpose::Crossed)
            && traffic.life.trailing < thresholds::DEATH_PACKETS
    }) {
        let (lost, all) = lengths.entry(flow.plan.size).or_default();
        (*lost, *all) = (*lost + traffic.counts.lost(), *all + traffic.counts.sent);
    }
    let whole: u64 = lengths.values().map(|(_, all)| all).sum();
    let base = lengths
        .values()
        .filter(|(_, all)| *all >= WHOLE)
        .map(|(lost, all)| (*lost as f64 + 1.0) / (*all as f64 + 2.0))
        .fold(0.02, f64::max);
    // Two fragments or more to each: either lost, and the datagram is.
    let chance = |sent: u32| (3.0 * base).min(0.9).powi(i32::try_from(sent).unwrap_or(i32::MAX));
    let dropped = |(sent, arrived, _): (u32, u32, Option<Fragment>)| {
        arrived == 0 && sent > 0 && chance(sent) < thresholds::FALSE_ALARM
    };
    let direction = match (told(true) && dropped(up), told(false) && dropped(down)) {
        (true, true) => Direction::Both,
        (true, false) => Direction::Up,
        (false, true) => Direction::Down,
        (false, false) => return Vec::new(),
    };
    if whole == 0 || base > 0.5 {
        return Vec::new();
    }
    let p = if direction == Direction::Down { chance(down.0) } else { chance(up.0) };
    let mut claim = Claim::new(Cause::FragmentsDropped, Side::Path)
        .direction(direction)
        .probability(1.0 - p)
        .rather_than(Cause::MtuBlackHole, "these packets were allowed to be cut into fragments that fit");
    for (name, (sent, arrived, first)) in [("up", up), ("down", down)] {
        if let Some(first) = first {
            claim = claim.because(Evidence {
                flows: vec![case.evidence.name(first.flow)],
                says: format!("on the way {name}, {arrived} of {sent} packets larger than the MTU arrived"),
                test: Some(format!("all lost by chance at {:.0} % loss of fragments", 300.0 * base)),
                p: Some(chance(sent).max(1e-12)),
                ..Evidence::default()
            });
            claim.parameters = Parameters { bytes: Some(u64::from(first.size)), ..Parameters::default() };
        }
    }
    vec![claim]
}
