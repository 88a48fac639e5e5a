//! `unreachable`: nothing of ours answers at an address, over any transport.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use super::{ALL, DATAGRAMS, STREAMS, evidence, together, total};
use crate::causes::{Case, Claim, thresholds};
use crate::summarise::reach::{Openings, Place};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    if let Some(resolved) = &case.evidence.resolved
        && resolved.addresses.is_empty()
        && case.places.is_empty()
    {
        let error = resolved.error.clone().unwrap_or_else(|| "no address".to_owned());
        let says = format!("the name {} was not found: {error}", resolved.host);
        let reason = Some(error);
        return vec![
            Claim::new(Cause::Unreachable, Side::PathOrEndpoint)
                .parameters(Parameters {
                    reason,
                    kind: Some("name-not-found".to_owned()),
                    ..Parameters::default()
                })
                .because(Evidence { says, ..Evidence::default() }),
        ];
    }
    let dead: Vec<_> = case.places.iter().filter(|place| !place.reaches_listener()).collect();
    if case.reaches_listener() {
        // An address that this host has no way to (no IPv6 here) is no news.
        return dead
            .into_iter()
            .filter(|place| !no_way_from_here(place))
            .filter_map(|place| claim(&[place], Some(place)))
            .collect();
    }
    claim(&dead, None).into_iter().collect()
}

/// The client's own system has no route to it.
fn no_way_from_here(place: &Place) -> bool {
    let all = together(place, ALL);
    let here = total(&all, |o| {
        o.network_errors.iter().filter(|(_, by)| by.is_none()).count() as u64 + o.local_errors.len() as u64
    });
    here > 0 && here == total(&all, |o| o.failures())
}

fn claim(places: &[&Place], one: Option<&Place>) -> Option<Claim> {
    let all: Vec<Openings> = places.iter().flat_map(|place| together(place, ALL)).collect();
    let failures = total(&all, |o| o.failures());
    // Somebody else's answers are told by other causes.
    if failures == 0 || total(&all, |o| o.foreign.len() as u64) > 0 {
        return None;
    }
    let tcp: Vec<Openings> = places.iter().flat_map(|place| together(place, STREAMS)).collect();
    let udp: Vec<Openings> = places.iter().flat_map(|place| together(place, DATAGRAMS)).collect();
    let (kind, reason) = reason(&all, &tcp);
    let says = format!("no listener answered: {}; {}", tally("TCP", &tcp), tally("UDP", &udp));
    let p = if kind == "silence" { thresholds::all_lost(failures) } else { 0.0 };
    let mut claim = Claim::new(Cause::Unreachable, Side::PathOrEndpoint)
        .probability(1.0 - p)
        .because(evidence(&all, says))
        .parameters(Parameters { reason: Some(reason), kind: Some(kind.to_owned()), ..Parameters::default() })
        .or([], "more attempts")
        .covering(ALL);
    claim.address = one.map(|place| place.address);
    Some(claim)
}

/// What the network said, the most telling first.
fn reason(all: &[Openings], tcp: &[Openings]) -> (&'static str, String) {
    let errors = || all.iter().flat_map(|o| &o.network_errors);
    if let Some((says, Some(by))) = errors().find(|(_, by)| by.is_some()) {
        return ("icmp", format!("the network says: {says} (by {by})"));
    }
    if let Some((says, _)) = errors().next() {
        return ("no-route", says.clone());
    }
    if total(tcp, |o| o.refused) > 0 {
        return ("refused", "the host answers, but nothing listens on the port".to_owned());
    }
    if total(all, |o| o.refused) > 0 {
        return ("refused", "the host answers that the port is closed (ICMP port unreachable)".to_owned());
    }
    if let Some(says) = all.iter().find_map(|o| o.local_errors.first()) {
        return ("local", says.clone());
    }
    if total(tcp, |o| o.silent_connected + o.cut + o.handshake_errors.len() as u64) > 0 {
        return ("no-answer", "TCP connects, and then nothing of ours answers".to_owned());
    }
    ("silence", "no answer at all".to_owned())
}

fn tally(protocol: &str, openings: &[Openings]) -> String {
    let rows = [
        (total(openings, |o| o.silent - o.silent_connected), "met with silence"),
        (total(openings, |o| o.silent_connected), "connected and then silent"),
        (total(openings, |o| o.refused), "refused"),
        (total(openings, |o| o.network_errors.len() as u64), "answered \"unreachable\" by the network"),
        (total(openings, |o| o.cut), "cut after connecting"),
        (total(openings, |o| o.local_errors.len() as u64), "refused by this computer"),
        (total(openings, |o| o.handshake_errors.len() as u64), "failed in the handshake"),
    ];
    let said: Vec<_> = rows.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    if said.is_empty() {
        format!("{protocol} was not tried")
    } else {
        format!("{protocol} attempts: {}", said.join(", "))
    }
}
