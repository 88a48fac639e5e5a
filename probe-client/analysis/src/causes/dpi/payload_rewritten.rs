//! `payload-rewritten`: records fail the integrity check at a constant offset, though every checksum on the way agreed.
//!
//! Where the change falls into the filler, the echo tells its offset. In a record's head it leaves nothing that can be
//! read, and the record is as good as lost; that it came all the same is counted where it arrives. Chance alters a packet
//! now and then: only flows of which every packet came altered show that somebody does it.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, thresholds};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::FlowNo;
use crate::summarise::reach::Place;

/// Carriers whose packets are datagrams of their own.
const DATAGRAMS: &[Carrier] = &[Carrier::Udp, Carrier::Quic, Carrier::QuicInverse];
/// Of the packets that did not arrive as they were sent, how many must have come altered: the path loses some.
const CAME: f64 = 0.8;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let mut claims: Vec<Claim> = located(case).into_iter().collect();
    if claims.iter().all(|claim| claim.probability < thresholds::CERTAIN) {
        let unread = heads_up(case).or_else(|| heads_down(case));
        if let Some(unread) = unread {
            claims = vec![unread];
        }
    }
    claims.extend(case.live_places().filter_map(|place| openings(case, place)));
    claims
}

/// Changes whose place is known.
fn located(case: &Case<'_>) -> Option<Claim> {
    let altered: Vec<_> = case.flows.iter().filter(|(flow, _)| flow.rewrites.count > 0).collect();
    let count: u64 = altered.iter().map(|(flow, _)| flow.rewrites.count).sum();
    if count < thresholds::ALTERED_RECORDS {
        return None;
    }
    let constant = altered
        .iter()
        .flat_map(|(flow, _)| &flow.rewrites.offsets)
        .filter(|(_, n)| **n >= thresholds::ALTERED_RECORDS)
        .max_by_key(|(_, n)| **n);
    let (up, down): (u64, u64) = altered
        .iter()
        .fold((0, 0), |(up, down), (flow, _)| (up + flow.rewrites.up, down + flow.rewrites.down));
    let direction = match (up > 0, down > 0) {
        (true, false) => Some(Direction::Up),
        (false, true) => Some(Direction::Down),
        (true, true) => Some(Direction::Both),
        (false, false) => None,
    };
    let says = match constant {
        Some((offset, n)) => format!("{n} of {count} altered packets were changed first at byte {offset}"),
        None => format!("{count} packets came altered, each at another place"),
    };
    let claim = Claim::new(Cause::PayloadRewritten, Side::Path)
        .probability(if constant.is_some() { 0.99 } else { 0.7 })
        .because(Evidence {
            flows: altered.iter().map(|(flow, _)| flow.plan.name.clone()).collect(),
            says,
            ..Evidence::default()
        })
        .parameters(Parameters {
            packets: Some(count),
            bytes: constant.map(|(offset, _)| u64::from(*offset)),
            ..Parameters::default()
        })
        .or([], "whether the changed bytes are always the same ones");
    Some(Claim { direction, ..claim })
}

/// Flows of which nothing reached the listener that it could read, while it counted as many datagrams that it could not.
fn heads_up(case: &Case<'_>) -> Option<Claim> {
    let strange = u64::from(case.evidence.strange_datagrams?);
    let dead: Vec<_> = datagrams(case)
        .filter(|(_, t)| t.counts.received == 0 && t.counts.lost_down == 0 && t.counts.lost_up > 0)
        .collect();
    let lost: u64 = dead.iter().map(|(_, t)| t.counts.lost_up).sum();
    let enough = lost >= 2 * thresholds::DEATH_PACKETS && strange as f64 >= CAME * lost as f64;
    let alive = datagrams(case).any(|(_, t)| t.counts.received > 0);
    (enough && alive).then(|| {
        let says = format!(
            "of {} flows the listener could read none of {lost} packets, while it counted {strange} datagrams from this \
             address that it could not read",
            dead.len()
        );
        unread(Direction::Up, lost, says, dead.iter().map(|(flow, _)| *flow))
    })
}

/// Flows of which every reply came altered.
fn heads_down(case: &Case<'_>) -> Option<Claim> {
    let dead: Vec<_> = datagrams(case)
        .filter(|(flow, t)| {
            let altered =
                flow.rewrites.down - flow.rewrites.offsets.values().sum::<u64>().min(flow.rewrites.down);
            t.counts.received == 0 && altered > 0 && altered as f64 >= CAME * t.counts.lost_down as f64
        })
        .collect();
    let altered: u64 = dead.iter().map(|(flow, _)| flow.rewrites.down).sum();
    (altered >= 2 * thresholds::DEATH_PACKETS).then(|| {
        let says = format!("every one of {altered} replies on {} flows came altered", dead.len());
        unread(Direction::Down, altered, says, dead.iter().map(|(flow, _)| *flow))
    })
}

/// Nothing opens over UDP, and the listener counts as many datagrams that it cannot read as were sent.
fn openings(case: &Case<'_>, place: &Place) -> Option<Claim> {
    let own = place.of(Carrier::Udp);
    let sent = own.hellos_sent.unwrap_or(0);
    if own.reaches_listener() || own.hellos_arrived > 0 || !altered_openings(case, sent) {
        return None;
    }
    let strange = case.evidence.strange_datagrams.unwrap_or(0);
    let says = format!(
        "the listener could read none of {sent} datagrams, and counted {strange} from this address that it could not read"
    );
    let claim = unread(Direction::Up, sent, says, std::iter::empty()).at(place.address, DATAGRAMS);
    Some(claim.rather_than(Cause::UdpBlocked, "as many datagrams came, altered"))
}

/// Whether the datagrams of `sent` openings, of which the listener knows none, came to it altered.
fn altered_openings(case: &Case<'_>, sent: u64) -> bool {
    let strange = case.evidence.strange_datagrams.unwrap_or(0);
    sent >= thresholds::DEATH_PACKETS && f64::from(strange) >= CAME * sent as f64
}

fn unread<'f>(
    direction: Direction,
    packets: u64,
    says: String,
    flows: impl Iterator<Item = &'f FlowEvidence>,
) -> Claim {
    let (numbers, names): (Vec<FlowNo>, Vec<String>) =
        flows.map(|flow| (flow.plan.flow, flow.plan.name.clone())).unzip();
    Claim::new(Cause::PayloadRewritten, Side::Path)
        .direction(direction)
        .probability(0.97)
        .because(Evidence { flows: names, says, ..Evidence::default() })
        .parameters(Parameters { packets: Some(packets), ..Parameters::default() })
        .rather_than(Cause::MtuBlackHole, "the packets came, altered among their first bytes")
        .explaining(numbers)
}

fn datagrams<'c>(case: &'c Case<'_>) -> impl Iterator<Item = (&'c FlowEvidence, &'c Traffic)> {
    case.flows
        .iter()
        .filter(|(flow, _)| flow.plan.carrier == Carrier::Udp && flow.opened.is_some())
        .map(|(flow, traffic)| (*flow, traffic.as_ref()))
}
