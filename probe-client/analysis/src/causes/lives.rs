//! Which flows died, and at what: packets, bytes, age and moment of each death, from the last packet that passed and the
//! first that did not.
//!
//! A flow is dead where its silence is no chance at its own base rate, or lasts a minute, while the path was alive for
//! others: a later or younger flow of datagrams got through at that time. What a host did is no death.

use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::{Case, thresholds};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::{FlowNo, Purpose};

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
    /// Seconds since its first packet, at the last answer.
    pub(super) age: f64,
    /// Seconds since the run's start, at its birth and at the last answer.
    pub(super) from: f64,
    pub(super) to: f64,
}

/// All flows of datagrams that opened and sent probes.
#[derive(Clone, Debug, Default)]
pub(super) struct Lives<'c> {
    pub(super) dead: Vec<Death<'c>>,
    pub(super) alive: Vec<Alive<'c>>,
}

impl<'c> Lives<'c> {
    pub(super) fn of(case: &'c Case<'_>) -> Self {
        let mut lives = Self::default();
        let flows = || case.flows.iter().filter(|(flow, traffic)| counts(flow, traffic));
        for (flow, traffic) in flows() {
            match death(case, flow, traffic) {
                Some(death) if !case.host_acted(death.moment.low, death.moment.high) => {
                    lives.dead.push(death);
                }
                // Cut off by the host: neither.
                Some(_) => {}
                None => lives.alive.extend(alive(case, flow, traffic)),
            }
        }
        // Without anybody who got through after it, it is the path that was silent, not a flow that died.
        let witnesses: Vec<(FlowNo, f64)> = lives
            .alive
            .iter()
            .map(|alive| (alive.flow.plan.flow, alive.to))
            .chain(lives.dead.iter().map(|dead| (dead.flow.plan.flow, dead.moment.low)))
            .collect();
        let moments: Vec<f64> = lives.dead.iter().map(|dead| dead.moment.high).collect();
        let mut index = 0;
        lives.dead.retain(|dead| {
            let died = moments[index];
            index += 1;
            witnesses.iter().any(|(flow, seen)| {
                *flow != dead.flow.plan.flow && *seen > died + thresholds::WITNESS.as_secs_f64()
            })
        });
        lives
    }
}

/// Flows whose life can be judged: datagrams by schedule, without experiments that lose packets of their own.
fn counts(flow: &FlowEvidence, traffic: &Traffic) -> bool {
    let own = flow.plan.carrier == Carrier::Udp
        && matches!(
            flow.plan.purpose,
            Purpose::Steady
                | Purpose::Trial
                | Purpose::Fresh
                | Purpose::Old
                | Purpose::Crossed
                | Purpose::Fan
        );
    own && flow.opened.is_some() && traffic.counts.sent > 0
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

/// Whether a flow ended in a silence that is no chance, by what became of its probes; somebody else must be known to have
/// got through meanwhile.
pub(super) fn fell_silent(case: &Case<'_>, flow: &FlowEvidence, traffic: &Traffic) -> bool {
    death(case, flow, traffic).is_some_and(|death| !case.host_acted(death.moment.low, death.moment.high))
}

fn death<'c>(case: &Case<'_>, flow: &'c FlowEvidence, traffic: &Traffic) -> Option<Death<'c>> {
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

fn alive<'c>(case: &Case<'_>, flow: &'c FlowEvidence, traffic: &Traffic) -> Option<Alive<'c>> {
    let answered = traffic.life.answered?;
    let (packets, bytes) = opening(flow);
    let birth = born(flow);
    Some(Alive {
        flow,
        packets: packets + answered.packets as f64,
        bytes: bytes + answered.bytes as f64,
        age: answered.at.since(birth).as_secs_f64(),
        from: case.evidence.seconds(birth),
        to: case.evidence.seconds(answered.at),
    })
}

/// How one measure of several deaths agrees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement {
    /// The value at which all died, where one fits all.
    pub(super) value: f64,
    /// Coefficient of variation of the middles.
    pub(super) variation: f64,
    /// Largest value that passed in any flow, and smallest that did not.
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Agreement {
    /// Of one measure over all deaths.
    pub(super) fn of(values: &[Between]) -> Option<Self> {
        let n = values.len() as f64;
        if values.is_empty() {
            return None;
        }
        let mean = values.iter().map(Between::middle).sum::<f64>() / n;
        let variance = values.iter().map(|v| (v.middle() - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        let low = values.iter().map(|v| v.low).fold(f64::MIN, f64::max);
        let high = values.iter().map(|v| v.high).fold(f64::MAX, f64::min);
        // What passed in any flow is proof; what was lost may have been lost by chance.
        let value = if low <= high { f64::midpoint(low, high) } else { low };
        Some(Self { value, variation: variance.sqrt() / mean.max(1e-9), low, high })
    }

    /// Whether one value explains every death: it lies between what passed and what did not in each, but for the last
    /// packets of a flow that chance took before its time (`slack`, in the measure's unit).
    pub(super) fn fits(&self, slack: f64) -> bool {
        self.variation < thresholds::DEATH_VARIATION && self.low <= self.high + slack + 0.02 * self.value
    }
}

/// Rounded for output.
pub(super) fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
