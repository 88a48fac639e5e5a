//! Steps of load as series of packets, for the methods of [`crate::rate`].
//!
//! Bytes are those of IP packets. What else the run sends of the same kind meanwhile (the flows that measure latency
//! under load) shares the limit: each packet is counted with its part of that.

use probe_protocol::finding::Direction;
use probe_protocol::wire::hello::Carrier;

use crate::causes::Case;
use crate::observation::{FlowNo, Load, LoadExperiment, Purpose};
use crate::rate::Packet;

/// Headers of UDP over IPv4, and over IPv6, bytes.
pub(super) const HEADERS: (u64, u64) = (28, 48);
/// The same of TCP, with timestamps, for the bytes of a full segment: what a stream's bytes become on the way.
const TCP_OVERHEAD: f64 = 1.0 + 52.0 / 1448.0;
/// The first part of a step, which a bucket's burst may still carry, as a share of it.
const EARLY: f64 = 0.4;
/// A rate needs at least the rest of what comes after that part, once so much of it is over.
const LATE: f64 = 0.5;

/// Delays within one bin of a few milliseconds that differ by more, nanoseconds, are not those of one queue: what is offered
/// is at most some times what leaves it. Some of these packets went a longer way.
const LONGER_WAY: i64 = 25_000_000;

/// One step of UDP alone.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) flow: FlowNo,
    pub(super) experiment: LoadExperiment,
    pub(super) size: u16,
    /// Seconds after the run's start.
    pub(super) from_s: f64,
    pub(super) to_s: f64,
    /// Its packets in sending order, at seconds after the run's start; delays over the least of the step.
    pub(super) packets: Vec<Packet>,
    /// Bytes of a packet without the part of other flows.
    pub(super) wire: f64,
}

/// What the later part of a step was offered and got through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Through {
    /// Bytes per second.
    pub(super) sent: f64,
    pub(super) arrived: f64,
    /// Packets per second.
    pub(super) sent_packets: f64,
    pub(super) lost: u64,
    pub(super) packets: u64,
}

impl Through {
    pub(super) fn loss(&self) -> f64 {
        self.lost as f64 / self.packets.max(1) as f64
    }
}

impl Stretch {
    /// Over the whole step, or only what follows its early part.
    pub(super) fn through(&self, whole: bool) -> Option<Through> {
        let (first, last) = (self.packets.first()?.at, self.packets.last()?.at);
        let begins = if whole { first } else { first + (last - first) * EARLY };
        let later: Vec<&Packet> = self.packets.iter().filter(|p| p.at >= begins).collect();
        // From the first to the last packet there is one gap less than there are packets.
        let n = later.len();
        let time = (last - later.first()?.at) * n as f64 / (n.max(2) - 1) as f64;
        if n < 5 || time <= 0.0 {
            return None;
        }
        let lost = later.iter().filter(|p| p.is_lost()).count();
        let bytes = |keeps: fn(&&&Packet) -> bool| later.iter().filter(keeps).map(|p| p.bytes).sum::<f64>();
        Some(Through {
            sent: bytes(|_| true) / time,
            arrived: bytes(|p| !p.is_lost()) / time,
            sent_packets: n as f64 / time,
            lost: lost as u64,
            packets: n as u64,
        })
    }
}

/// Bytes (IP) and packets per second that the flows for latency under load send: of datagrams, and of all carriers.
pub(super) fn background(case: &Case<'_>) -> [(f64, f64); 2] {
    let mut found = [(0.0, 0.0); 2];
    for (flow, _) in
        case.flows.iter().filter(|(f, _)| f.plan.purpose == Purpose::Loaded && f.opened.is_some())
    {
        let every = flow.plan.interval.as_secs_f64();
        if every > 0.0 {
            let bytes = (u64::from(flow.plan.size) + header(case, flow.plan.flow)) as f64 / every;
            let is_datagram = !matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls);
            for (at, sum) in found.iter_mut().enumerate() {
                if at == 1 || is_datagram {
                    *sum = (sum.0 + bytes, sum.1 + 1.0 / every);
                }
            }
        }
    }
    found
}

fn header(case: &Case<'_>, flow: FlowNo) -> u64 {
    let is_v6 = case.evidence.flows.get(&flow).is_some_and(|f| f.plan.to.is_ipv6());
    if is_v6 { HEADERS.1 } else { HEADERS.0 }
}

/// The steps of UDP alone in one direction, without a mark, in time.
pub(super) fn stretches(case: &Case<'_>, direction: Direction) -> Vec<Stretch> {
    let up = direction == Direction::Up;
    let beside = background(case)[0].0;
    let is_alone = |l: &&Load| {
        let experiment = matches!(
            l.experiment,
            LoadExperiment::Staircase
                | LoadExperiment::Burst
                | LoadExperiment::Fresh
                | LoadExperiment::Latency
        );
        l.up == up && l.carrier == Carrier::Udp && l.beside.is_empty() && l.tos == 0 && experiment
    };
    let loads = case.evidence.loads.steps().iter().filter(is_alone);
    let mut list: Vec<Stretch> = loads.filter_map(|load| stretch(case, load, beside)).collect();
    list.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    list
}

fn stretch(case: &Case<'_>, load: &Load, beside: f64) -> Option<Stretch> {
    let header = header(case, load.flow);
    let wire = (u64::from(load.size) + header) as f64;
    let total: u64 = load.bins.iter().map(|b| u64::from(b.packets)).sum();
    let length = load.to.since(load.from).as_secs_f64();
    if total < 5 || length <= 0.0 {
        return None;
    }
    let sent_rate = total as f64 * wire / length;
    let bytes = wire * (1.0 + beside / sent_rate.max(1.0));
    let gap = wire_gap(load);
    let least = load.bins.iter().filter_map(|b| b.delay).map(|d| d.min).min().unwrap_or(0);
    let mut packets = Vec::with_capacity(usize::try_from(total).unwrap_or(0));
    let mut was_full = false;
    for (n, bin) in load.bins.iter().enumerate() {
        let at = case.evidence.seconds(bin.at);
        let (count, lost) = (u64::from(bin.packets), u64::from(bin.lost.min(bin.packets)));
        let next = load.bins.get(n + 1).map(|b| case.evidence.seconds(b.at));
        let room = next.map_or(f64::INFINITY, |next| (next - at) / count.max(1) as f64);
        let ends_here = load.bins.get(n + 1).is_some_and(|b| b.lost == 0);
        let delay = bin.delay.map(|d| {
            let went_round = d.max - d.min > LONGER_WAY;
            (if went_round { d.min } else { d.mean } - least) as f64 / 1e9
        });
        for i in 0..count {
            // The first loss after none empties a bucket at the end of its bin; the last before none ends at its start.
            let is_lost = if !was_full {
                i >= count - lost
            } else if ends_here {
                i < lost
            } else {
                (i + 1) * lost / count > i * lost / count
            };
            let at = at + gap.min(room) * i as f64;
            packets.push(Packet { at, bytes, delay: if is_lost { None } else { delay } });
        }
        was_full = lost > 0;
    }
    Some(Stretch {
        flow: load.flow,
        experiment: load.experiment,
        size: load.size,
        from_s: case.evidence.seconds(load.from),
        to_s: case.evidence.seconds(load.to),
        packets,
        wire,
    })
}

/// Time between two blocks as they were to be sent, seconds.
fn wire_gap(load: &Load) -> f64 {
    if load.offered_bps == 0 { 0.0 } else { f64::from(load.size) * 8.0 / load.offered_bps as f64 }
}

/// What TCP got.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) flow: FlowNo,
    pub(super) from_s: f64,
    pub(super) to_s: f64,
    /// IP bytes per second that were to be sent.
    pub(super) offered: f64,
    /// IP bytes per second that arrived after the early part of the step.
    pub(super) sustained: f64,
    /// The same without what had crossed the path before and was held up behind a segment that was sent again: from the
    /// moment on after which the least arrived.
    pub(super) unheld: f64,
    /// The most that arrived within a tenth of a second, as IP bytes per second.
    pub(super) peak: f64,
}

/// The steps of TCP alone, and beside UDP, in one direction. Rates are told by arrival: what a sender's own buffer takes
/// has not crossed the path yet.
pub(super) fn streams(case: &Case<'_>, direction: Direction, experiment: LoadExperiment) -> Vec<Stream> {
    let up = direction == Direction::Up;
    let fits = |l: &&Load| {
        l.up == up && matches!(l.carrier, Carrier::Tcp | Carrier::Tls) && l.experiment == experiment
    };
    case.evidence.loads.steps().iter().filter(fits).filter_map(|load| stream(case, load)).collect()
}

fn stream(case: &Case<'_>, load: &Load) -> Option<Stream> {
    let mut arrivals: Vec<(f64, f64)> = load
        .bins
        .iter()
        .filter_map(|bin| {
            let at = case.evidence.seconds(bin.at) + bin.delay?.mean as f64 / 1e9;
            Some((at, bin.bytes.saturating_sub(bin.lost_bytes) as f64 * TCP_OVERHEAD))
        })
        .collect();
    arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let first = arrivals.first()?.0;
    // As long as it was sent, at least: a stream that stalls at its end was slow.
    let last = arrivals.last()?.0.max(first + load.to.since(load.from).as_secs_f64());
    let begins = first + (last - first) * EARLY;
    if last - begins < 0.1 {
        return None;
    }
    let got: f64 = arrivals.iter().filter(|a| a.0 >= begins).map(|a| a.1).sum();
    let sustained = got / (last - begins);
    let mut unheld = sustained;
    let mut left = got;
    for (at, bytes) in arrivals.iter().filter(|a| a.0 >= begins) {
        if *at > begins + (last - begins) * LATE {
            break;
        }
        unheld = unheld.min(left / (last - at));
        left -= bytes;
    }
    let mut peak = 0.0f64;
    let (mut from, mut sum) = (0, 0.0);
    for (at, bytes) in &arrivals {
        sum += bytes;
        while arrivals.get(from).is_some_and(|a| a.0 < at - 0.1) {
            sum -= arrivals[from].1;
            from += 1;
        }
        peak = peak.max(sum / 0.1);
    }
    Some(Stream {
        flow: load.flow,
        from_s: case.evidence.seconds(load.from),
        to_s: case.evidence.seconds(load.to),
        offered: load.offered_bps as f64 / 8.0 * TCP_OVERHEAD,
        sustained,
        unheld,
        peak,
    })
}
