//! Steps of load in the figures that the detectors compare.

use probe_protocol::finding::Direction;
use probe_protocol::wire::hello::Carrier;

use super::series::HEADERS;
use crate::causes::Case;
use crate::observation::{FlowNo, Load, LoadEnd, LoadExperiment};

/// The part of a step at its start that a bucket's burst may still carry: it is left out of the rate.
const WARM_UP: f64 = 0.4;
/// An end's ceiling this near to a plateau is a plateau of the end.
pub(super) const NEAR_CEILING: f64 = 1.15;
/// Shortest time over which a rate is told, seconds.
const SHORTEST: f64 = 0.15;

/// One step.
#[derive(Clone, Debug)]
pub(in crate::causes) struct Step {
    pub(in crate::causes) flow: FlowNo,
    pub(in crate::causes) experiment: LoadExperiment,
    /// Seconds after the run's start.
    pub(in crate::causes) from_s: f64,
    pub(in crate::causes) to_s: f64,
    pub(in crate::causes) carrier: Carrier,
    /// Payload, bytes.
    size: u16,
    /// Sent and arrived after the warm-up, IP bits per second.
    pub(in crate::causes) sent_bps: f64,
    pub(in crate::causes) arrived_bps: f64,
    /// Least and mean delay over that of the order's first block, seconds; none where nothing arrived.
    pub(super) delay: Option<(f64, f64)>,
}

impl Step {
    /// Whether what arrived is about as much as one of the ends can do by itself.
    pub(in crate::causes) fn is_near_an_end(&self, case: &Case<'_>, direction: Direction) -> bool {
        ceiling(case, direction, self.carrier, self.size).is_some_and(|c| c < NEAR_CEILING * self.arrived_bps)
    }
}

/// The steps of one direction, in time.
pub(in crate::causes) fn steps(case: &Case<'_>, direction: Direction) -> Vec<Step> {
    let up = direction == Direction::Up;
    let mut list: Vec<Step> = case
        .evidence
        .loads
        .steps()
        .iter()
        .filter(|l| l.up == up)
        .filter_map(|load| step(case, load))
        .collect();
    list.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    list
}

/// Shortest slice of a rehearsal, seconds, and how many there are at most.
const SLICE: (f64, f64) = (2.0, 600.0);

/// A rehearsal's flow in slices of equal length, however it was told. The last one, which may be cut short, is left out.
pub(in crate::causes) fn slices(case: &Case<'_>, direction: Direction, flow: FlowNo) -> Vec<Step> {
    let up = direction == Direction::Up;
    let is_own = |l: &&Load| l.flow == flow && l.up == up && l.experiment == LoadExperiment::Rehearsal;
    let mut loads: Vec<&Load> = case.evidence.loads.steps().iter().filter(is_own).collect();
    loads.sort_by_key(|l| l.from);
    let (Some(first), Some(last)) = (loads.first(), loads.last()) else { return Vec::new() };
    let begins = case.evidence.seconds(first.from);
    let length = ((case.evidence.seconds(last.to) - begins) / SLICE.1).max(SLICE.0);
    let header = header(case, first);
    let mut found: Vec<(Step, f64, f64)> = Vec::new();
    for bin in loads.iter().flat_map(|l| &l.bins) {
        let at = case.evidence.seconds(bin.at);
        let number = ((at - begins) / length).floor().max(0.0);
        let from_s = begins + number * length;
        if found.last().is_none_or(|(step, ..)| step.from_s < from_s) {
            let step = Step {
                flow,
                experiment: LoadExperiment::Rehearsal,
                from_s,
                to_s: from_s + length,
                carrier: first.carrier,
                size: first.size,
                sent_bps: 0.0,
                arrived_bps: 0.0,
                delay: None,
            };
            found.push((step, 0.0, 0.0));
        }
        let Some((step, delays, seen)) = found.last_mut() else { continue };
        let bits = |bytes: u64, packets: u32| (bytes + u64::from(packets) * header) as f64 * 8.0 / length;
        step.sent_bps += bits(bin.bytes, bin.packets);
        step.arrived_bps +=
            bits(bin.bytes.saturating_sub(bin.lost_bytes), bin.packets.saturating_sub(bin.lost));
        if let Some(delay) = bin.delay {
            (*delays, *seen) = (*delays + delay.mean as f64 / 1e9, *seen + 1.0);
            let least = step.delay.map_or(f64::INFINITY, |d| d.0).min(delay.min as f64 / 1e9);
            step.delay = Some((least, *delays / *seen));
        }
    }
    found.pop();
    found.into_iter().map(|(step, ..)| step).collect()
}

fn header(case: &Case<'_>, load: &Load) -> u64 {
    let is_v6 = case.evidence.flows.get(&load.flow).is_some_and(|f| f.plan.to.is_ipv6());
    match load.carrier {
        Carrier::Udp if is_v6 => HEADERS.1,
        Carrier::Udp => HEADERS.0,
        Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => 0,
    }
}

fn step(case: &Case<'_>, load: &Load) -> Option<Step> {
    let header = header(case, load);
    let (first, last) = (load.bins.first()?, load.bins.last()?);
    let length = load.to.max(last.at).since(first.at).as_secs_f64();
    if length < SHORTEST {
        return None;
    }
    let begins = WARM_UP * length;
    let (mut sent, mut arrived, mut from) = (0, 0, None);
    for bin in &load.bins {
        let at = bin.at.since(first.at).as_secs_f64();
        if at >= begins {
            from.get_or_insert(at);
            sent += bin.bytes + u64::from(bin.packets) * header;
            arrived += bin.bytes.saturating_sub(bin.lost_bytes)
                + u64::from(bin.packets.saturating_sub(bin.lost)) * header;
        }
    }
    let time = length - from?;
    (time > 0.0).then(|| Step {
        flow: load.flow,
        experiment: load.experiment,
        from_s: case.evidence.seconds(load.from),
        to_s: case.evidence.seconds(load.to),
        carrier: load.carrier,
        size: load.size,
        sent_bps: sent as f64 * 8.0 / time,
        arrived_bps: arrived as f64 * 8.0 / time,
        delay: delay(load),
    })
}

fn delay(load: &Load) -> Option<(f64, f64)> {
    let seen = || load.bins.iter().filter_map(|bin| bin.delay);
    let least = seen().map(|d| d.min).min()?;
    let n = seen().count();
    let mean = seen().map(|d| d.mean as f64).sum::<f64>() / n.max(1) as f64;
    Some((least as f64 / 1e9, mean / 1e9))
}

/// The lowest ceiling of both ends for a carrier and direction, payload bits per second; none where none was measured.
pub(in crate::causes) fn ceiling(
    case: &Case<'_>,
    direction: Direction,
    carrier: Carrier,
    size: u16,
) -> Option<f64> {
    let sender = if direction == Direction::Up { LoadEnd::Client } else { LoadEnd::Listener };
    case.evidence
        .ceilings
        .iter()
        .filter(|c| c.carrier == carrier && c.size == size && c.sends == (c.end == sender))
        .map(|c| c.bps as f64)
        .reduce(f64::min)
}
