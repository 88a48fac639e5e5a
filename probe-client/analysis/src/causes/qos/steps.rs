//! Steps of load in the figures that the detectors compare.

use probe_protocol::finding::Direction;
use probe_protocol::wire::hello::Carrier;

use crate::causes::Case;
use crate::observation::{FlowNo, Load, LoadEnd, LoadExperiment};

/// Headers of UDP over IPv4, and over IPv6, bytes.
const HEADERS: (u64, u64) = (28, 48);
/// The part of a step at its start that a bucket's burst may still carry: it is left out of the rate.
const WARM_UP: f64 = 0.4;
/// Shortest time over which a rate is told, seconds.
const SHORTEST: f64 = 0.15;

/// One step.
#[derive(Clone, Debug)]
pub(in crate::causes) struct Step {
    pub(super) flow: FlowNo,
    pub(super) number: u32,
    pub(super) experiment: LoadExperiment,
    pub(super) carrier: Carrier,
    pub(super) alone: bool,
    pub(super) size: u16,
    /// Seconds after the run's start.
    pub(super) from_s: f64,
    pub(super) to_s: f64,
    /// Offered after the warm-up, IP bits per second, as it was in fact sent.
    pub(super) sent_bps: f64,
    /// Arrived after the warm-up, IP bits per second.
    pub(super) arrived_bps: f64,
    /// Arrived after the warm-up, packets per second.
    pub(super) arrived_pps: f64,
    /// Lost over sent after the warm-up.
    pub(super) loss: f64,
    pub(super) packets: u64,
    pub(super) lost: u64,
    /// Mean of the bins' mean delays after the warm-up, seconds; any zero, the same for a flow.
    pub(super) delay: Option<f64>,
    /// The least delay of the step, seconds; the same zero.
    pub(super) least_delay: Option<f64>,
    /// IP bytes that arrived before the first loss, and the time that took, seconds.
    pub(super) before_loss: Option<(f64, f64)>,
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

fn step(case: &Case<'_>, load: &Load) -> Option<Step> {
    let is_v6 = case.evidence.flows.get(&load.flow).is_some_and(|f| f.plan.to.is_ipv6());
    let header = match load.carrier {
        Carrier::Udp => {
            if is_v6 {
                HEADERS.1
            } else {
                HEADERS.0
            }
        }
        Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => 0,
    };
    let (first, last) = (load.bins.first()?, load.bins.last()?);
    let length = load.to.max(last.at).since(first.at).as_secs_f64();
    if length < SHORTEST {
        return None;
    }
    let begins = WARM_UP * length;
    let (mut sent, mut arrived, mut arrived_packets, mut packets, mut lost) = (0.0, 0.0, 0u64, 0u64, 0u64);
    let (mut delays, mut least) = ((0.0, 0u32), None::<f64>);
    let mut from = None;
    let (mut passed, mut before_loss) = (0.0, None);
    for bin in &load.bins {
        let at = bin.at.since(first.at).as_secs_f64();
        let ip = |bytes: u64, count: u64| (bytes + count * header) as f64;
        let got =
            ip(bin.bytes.saturating_sub(bin.lost_bytes), u64::from(bin.packets.saturating_sub(bin.lost)));
        if bin.lost > 0 && before_loss.is_none() {
            before_loss = Some((passed, at));
        }
        passed += got;
        if let Some(range) = bin.delay {
            let low = range.min as f64 / 1e9;
            least = Some(least.map_or(low, |l| l.min(low)));
        }
        if at < begins {
            continue;
        }
        from.get_or_insert(at);
        sent += ip(bin.bytes, u64::from(bin.packets));
        arrived += got;
        arrived_packets += u64::from(bin.packets.saturating_sub(bin.lost));
        packets += u64::from(bin.packets);
        lost += u64::from(bin.lost);
        if let Some(range) = bin.delay {
            delays = (delays.0 + range.mean as f64 / 1e9, delays.1 + 1);
        }
    }
    let time = length - from?;
    if time <= 0.0 || packets == 0 {
        return None;
    }
    Some(Step {
        flow: load.flow,
        number: load.step,
        experiment: load.experiment,
        carrier: load.carrier,
        alone: load.beside.is_empty(),
        size: load.size,
        from_s: case.evidence.seconds(load.from),
        to_s: case.evidence.seconds(load.to),
        sent_bps: sent * 8.0 / time,
        arrived_bps: arrived * 8.0 / time,
        arrived_pps: arrived_packets as f64 / time,
        loss: lost as f64 / packets as f64,
        packets,
        lost,
        delay: (delays.1 > 0).then(|| delays.0 / f64::from(delays.1)),
        least_delay: least,
        before_loss,
    })
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
