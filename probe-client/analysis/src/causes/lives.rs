//! Which flows died, and at what: packets, bytes, age and moment of each death, from the last packet that passed and the
//! first that did not.
//!
//! A flow is dead where its silence is no chance at its own base rate, or lasts a minute, while the path was alive for
//! others: a later or younger flow of datagrams got through at that time. What a host did is no death.

use std::time::Duration;

use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::{Case, thresholds};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::{End, FlowNo, Purpose};

/// A value that lies between what still passed and what no longer did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Between {
    /// What still passed.
    pub(super) low: f64,
    /// What did not.
    pub(super) high: f64,
}

impl Between {
    pub(super) fn middle(&self) -> f64 {
        f64::midpoint(self.low, self.high)
    }
}

/// The death of a flow of datagrams.
#[derive(Clone, Debug)]
pub(super) struct Death<'c> {
    pub(super) flow: &'c FlowEvidence,
    /// Packets up, those of the opening included.
    pub(super) packets: Between,
    /// Bytes of IP packets up, likewise.
    pub(super) bytes: Between,
    /// Seconds since the flow's first packet.
    pub(super) age: Between,
    /// Seconds since the run's start.
    pub(super) moment: Between,
    /// Nothing reached the listener any more; else the replies alone were lost.
    pub(super) up: bool,
}

/// A flow of datagrams that lived: how far it came.
#[derive(Clone, Debug)]
pub(super) struct Alive<'c> {
    pub(super) flow: &'c FlowEvidence,
    /// Packets up until the last answer.
    pub(super) packets: f64,
    pub(super) bytes: f64,
    /// Seconds since the run's start, at its birth and at the last answer.
    pub(super) from: f64,
    pub(super) to: f64,
}

/// All flows of datagrams that opened and sent probes.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives<'c> {
    pub(super) dead: Vec<Death<'c>>,
    pub(super) alive: Vec<Alive<'c>>,
    /// The same of QUIC connections, whose packets are their stack's datagrams, and whose bytes nobody counts.
    pub(super) connections: Connections<'c>,
}

/// QUIC connections that died, and those that lived.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections<'c> {
    pub(super) dead: Vec<Death<'c>>,
    pub(super) alive: Vec<Alive<'c>>,
}

impl<'c> Lives<'c> {
    pub(super) fn of(case: &Case<'c>) -> Self {
        let mut lives = Self::default();
        for (flow, traffic) in case.flows.iter().filter(|(flow, traffic)| counts(flow, traffic)) {
            match death(case, flow, traffic) {
                // Without anybody who got through meanwhile, it is the path that was silent, not a flow that died; and
                // what the host cut off is neither dead nor alive.
                Some(death) => {
                    let last =
                        traffic.life.last.map_or(death.moment.high, |mark| case.evidence.seconds(mark.at));
                    let acted = case.host_left_alone(death.moment.low, death.moment.high);
                    if !acted && is_witnessed(case, death.moment.high, last) {
                        lives.dead.push(death);
                    }
                }
                None => lives.alive.extend(alive(case, flow, traffic)),
            }
        }
        let is_quic = |flow: &FlowEvidence| matches!(flow.plan.carrier, Carrier::Quic | Carrier::QuicInverse);
        for (flow, traffic) in case.flows.iter().filter(|(f, t)| is_quic(f) && is_judged(f, t)) {
            match broken(case, flow, traffic) {
                Some(death) => {
                    let acted = case.host_left_alone(death.moment.low, death.moment.high);
                    let moved = case.moved(death.moment.low, death.moment.high);
                    let ended =
                        flow.ended.as_ref().map_or(death.moment.high, |end| case.evidence.seconds(end.at));
                    if !acted && !moved && is_witnessed(case, death.moment.high, ended) {
                        lives.connections.dead.push(death);
                    }
                }
                None => lives.connections.alive.extend(alive(case, flow, traffic)),
            }
        }
        lives
    }

    /// When a flow that died did so, seconds after the run's start.
    pub(super) fn died(&self, flow: FlowNo) -> Option<f64> {
        self.dead.iter().find(|death| death.flow.plan.flow == flow).map(|death| death.moment.high)
    }
}

/// Whether others got datagrams through while a flow was silent: not one by chance, and not before the silence only.
fn is_witnessed(case: &Case<'_>, died_s: f64, last_s: f64) -> bool {
    let from_s = died_s + WITNESS_AFTER_S;
    let meanwhile = u64::from(case.evidence.datagrams.within(from_s, last_s).received);
    meanwhile + answered_under_load(case, from_s, last_s) >= thresholds::WITNESSES
}

/// Datagrams that were answered beside a load: the pulse holds but what is sent at a steady rate.
fn answered_under_load(case: &Case<'_>, from_s: f64, to_s: f64) -> u64 {
    let loaded =
        |flow: &FlowEvidence| flow.plan.carrier == Carrier::Udp && flow.plan.purpose == Purpose::Loaded;
    let within = |traffic: &Traffic| -> u64 {
        let length = traffic.timeline.block_length();
        let inside =
            |at: Timestamp| case.evidence.seconds(at) >= from_s && case.evidence.seconds(at + length) <= to_s;
        traffic.timeline.blocks().filter(|(at, _)| inside(*at)).map(|(_, counts)| counts.received).sum()
    };
    case.flows.iter().filter(|(flow, _)| loaded(flow)).map(|(_, traffic)| within(traffic)).sum()
}

/// What was answered so shortly after a flow's last answer may have been sent by all before the path fell silent.
const WITNESS_AFTER_S: f64 = 1.0;

/// Flows whose life can be judged: datagrams by schedule, without experiments that lose packets of their own.
fn counts(flow: &FlowEvidence, traffic: &Traffic) -> bool {
    flow.plan.carrier == Carrier::Udp && is_judged(flow, traffic)
}

/// The same of any carrier.
fn is_judged(flow: &FlowEvidence, traffic: &Traffic) -> bool {
    let by_schedule = matches!(
        flow.plan.purpose,
        Purpose::Steady | Purpose::Trial | Purpose::Fresh | Purpose::Old | Purpose::Crossed | Purpose::Fan
    );
    by_schedule && flow.opened.is_some() && traffic.counts.sent > 0
}

/// When its first packet left, as far as that is known.
pub(super) fn born(flow: &FlowEvidence) -> Timestamp {
    let opening = flow.opening_attempt().map(|attempt| attempt.from);
    opening.or(flow.opened.as_ref().map(|opened| opened.at)).unwrap_or(flow.plan.at)
}

/// Packets and bytes of the opening.
fn opening(flow: &FlowEvidence) -> (f64, f64) {
    let handshake = flow.opened.as_ref().and_then(|opened| opened.handshake);
    handshake.map_or((2.0, 0.0), |h| (f64::from(h.packets), f64::from(h.bytes)))
}

/// Packets up until the last answer, those of the opening included.
pub(super) fn passed(flow: &FlowEvidence, traffic: &Traffic) -> f64 {
    opening(flow).0 + traffic.life.answered.map_or(0.0, |mark| mark.packets as f64)
}

/// Whether a flow ended in a silence that is no chance, by what became of its probes; somebody else must be known to have
/// got through meanwhile.
pub(super) fn fell_silent(case: &Case<'_>, flow: &FlowEvidence, traffic: &Traffic) -> bool {
    death(case, flow, traffic).is_some_and(|death| !case.host_left_alone(death.moment.low, death.moment.high))
}

/// Whether a connection was silent for good when the run let go of it, though nobody had given it up: longer than TCP's
/// repeats or a pause of the path explain, while others got datagrams through.
pub(super) fn hung(case: &Case<'_>, flow: &FlowEvidence, traffic: &Traffic) -> bool {
    let finished = flow.ended.as_ref().is_some_and(|ended| ended.end == End::Finished);
    let judged =
        flow.plan.carrier != Carrier::Udp && !matches!(flow.plan.purpose, Purpose::Loaded | Purpose::Idle);
    if !finished || !judged || traffic.life.silent_for() < HUNG_FOR {
        return false;
    }
    death(case, flow, traffic).is_some_and(|death| {
        let last = traffic.life.last.map_or(death.moment.high, |mark| case.evidence.seconds(mark.at));
        let others = case.evidence.datagrams.within(death.moment.high, last);
        let others_well = f64::from(others.lost()) <= HUNG_BESIDE * f64::from(others.sent);
        !case.host_left_alone(death.moment.low, death.moment.high)
            && is_witnessed(case, death.moment.high, last)
            && others_well
    })
}

/// Five repeats of TCP's, each after twice the time of the one before, beginning with the usual 200 ms (RFC 6298).
const HUNG_FOR: Duration = Duration::from_millis(6200);
/// Share of the others' datagrams that may be lost meanwhile, there and back: at this rate chance takes five repeats once in
/// a hundred thousand times.
const HUNG_BESIDE: f64 = 0.1;

fn death<'c>(case: &Case<'c>, flow: &'c FlowEvidence, traffic: &Traffic) -> Option<Death<'c>> {
    let life = &traffic.life;
    let first_lost = life.first_lost?;
    let before = life.packets - life.trailing;
    // Laplace's rule: a flow that never lost any may still lose some. Runs count as one loss: losses come in bursts.
    let base = (life.lost_before as f64 + 1.0) / (before as f64 + 2.0);
    let chance = base.min(0.9).powi(i32::try_from(life.trailing).unwrap_or(i32::MAX));
    let silent_long = life.silent_for() >= thresholds::SILENT_FOR_SURE;
    let by_chance = chance < thresholds::DEATH_CHANCE
        && life.trailing > 3 * life.longest_before
        && life.trailing >= thresholds::DEATH_PACKETS
        && life.silent_for() >= thresholds::SHORTEST_DEATH;
    if !silent_long && !by_chance {
        return None;
    }
    let up = life.trailing_up * 2 >= life.trailing;
    let passed = if up { life.arrived } else { life.answered };
    let (packets, bytes) = opening(flow);
    let birth = born(flow);
    let age = |at: Timestamp| at.since(birth).as_secs_f64();
    let opened_at = flow.opened.as_ref().map_or(birth, |opened| opened.at);
    let last = passed.map_or(opened_at, |mark| mark.at);
    let size = first_lost.bytes as f64 / first_lost.packets.max(1) as f64;
    Some(Death {
        flow,
        packets: Between {
            low: packets + passed.map_or(0.0, |mark| mark.packets as f64),
            high: packets + first_lost.packets as f64,
        },
        bytes: Between {
            low: bytes + passed.map_or(0.0, |mark| mark.bytes as f64),
            high: bytes + first_lost.bytes as f64,
        },
        age: Between { low: age(last), high: age(first_lost.at) },
        moment: Between { low: case.evidence.seconds(last), high: case.evidence.seconds(first_lost.at) },
        up,
    })
    .filter(|death| death.bytes.high >= death.bytes.low && size > 0.0)
}

/// The death of a QUIC connection: it fell silent as a flow of datagrams does, or its stack gave it up because nothing came
/// any more.
fn broken<'c>(case: &Case<'c>, flow: &'c FlowEvidence, traffic: &Traffic) -> Option<Death<'c>> {
    let ended = flow.ended.as_ref().filter(|ended| ended.end == End::TimedOut);
    let death = death(case, flow, traffic);
    if ended.is_none() && death.is_none() {
        return None;
    }
    let life = &traffic.life;
    let answered = life.answered?;
    let until = life.first_lost.map(|mark| mark.at).or(ended.map(|ended| ended.at))?;
    let birth = born(flow);
    // The stack's own counts, and where there are none, those of the probes.
    let passed =
        flow.datagrams.map_or(answered.packets, |counts| counts.sent_up.saturating_sub(counts.lost_up));
    let unknown = Between { low: 0.0, high: f64::MAX };
    Some(Death {
        flow,
        packets: Between { low: passed as f64, high: passed as f64 + 1.0 },
        bytes: unknown,
        age: Between { low: answered.at.since(birth).as_secs_f64(), high: until.since(birth).as_secs_f64() },
        moment: Between { low: case.evidence.seconds(answered.at), high: case.evidence.seconds(until) },
        up: life.trailing_down == 0,
    })
    .filter(|death| death.age.high >= death.age.low)
}

fn alive<'c>(case: &Case<'_>, flow: &'c FlowEvidence, traffic: &Traffic) -> Option<Alive<'c>> {
    let answered = traffic.life.answered?;
    let (packets, bytes) = opening(flow);
    let birth = born(flow);
    let of_stack = flow.datagrams.map(|counts| counts.sent_up.saturating_sub(counts.lost_up) as f64);
    Some(Alive {
        flow,
        packets: of_stack.unwrap_or(packets + answered.packets as f64),
        bytes: bytes + answered.bytes as f64,
        from: case.evidence.seconds(birth),
        to: case.evidence.seconds(answered.at),
    })
}

/// A value at which many flows died.
#[derive(Clone, Debug)]
pub(super) struct Agreement {
    /// The value that lies between what passed and what did not in most flows.
    pub(super) value: f64,
    /// Which of the deaths it explains, by their place.
    pub(super) of: Vec<usize>,
    /// Coefficient of variation of their middles.
    pub(super) variation: f64,
    /// How wide the window is, on average, in which a death agrees with the value.
    pub(super) width: f64,
}

impl Agreement {
    /// The value that explains the most deaths. `slack` is how far each may be off either way: a packet or two that
    /// chance took.
    pub(super) fn of(values: &[Between], slack: &[f64]) -> Option<Self> {
        let loose = || values.iter().zip(slack).map(|(v, s)| (v.low - s, v.high + s));
        let near = most_covered(loose())?;
        let of: Vec<usize> = loose()
            .enumerate()
            .filter(|(_, (low, high))| (*low..=*high).contains(&near))
            .map(|(n, _)| n)
            .collect();
        let n = of.len() as f64;
        // Among those it explains, the value that fits the most of them exactly.
        let value = most_covered(of.iter().map(|n| (values[*n].low, values[*n].high)))?;
        let mean = of.iter().map(|n| values[*n].middle()).sum::<f64>() / n;
        let variance =
            of.iter().map(|n| (values[*n].middle() - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let width = of.iter().map(|n| values[*n].high - values[*n].low + 2.0 * slack[*n]).sum::<f64>() / n;
        Some(Self { value, of, variation: variance.sqrt() / mean.abs().max(1e-9), width })
    }
}

/// The middle of the first stretch that lies in the most of these intervals.
fn most_covered(intervals: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    // Where two meet, one begins before the other ends.
    let mut edges: Vec<(f64, bool)> =
        intervals.flat_map(|(low, high)| [(low, true), (high.max(low), false)]).collect();
    edges.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
    let (mut depth, mut deepest, mut best) = (0u32, 0, None);
    for (n, (at, begins)) in edges.iter().enumerate() {
        if *begins {
            depth += 1;
            if depth > deepest {
                let end = edges.get(n + 1).map_or(*at, |edge| edge.0);
                (deepest, best) = (depth, Some(f64::midpoint(*at, end)));
            }
        } else {
            depth -= 1;
        }
    }
    best
}

/// Rounded for output.
pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
