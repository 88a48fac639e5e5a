//! What packets meet on their way: stages in a row, each of which drops a packet or says when it leaves.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Which packets a stage acts on.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Whose {
    #[default]
    All,
    Udp,
}

/// One packet on its way.
#[derive(Clone, Copy, Debug)]
pub struct Transit {
    pub bytes: f64,
    pub is_tcp: bool,
}

impl Whose {
    fn takes(self, packet: &Transit) -> bool {
        match self {
            Self::All => true,
            Self::Udp => !packet.is_tcp,
        }
    }
}

/// How a queue manages its length.
#[derive(Clone, Debug)]
pub enum Aqm {
    TailDrop,
    /// Random early detection between two lengths, bytes.
    Red {
        low: f64,
        high: f64,
        most: f64,
        average: f64,
    },
    /// Controlled delay: target 5 ms over 100 ms.
    CoDel {
        above_since: Option<f64>,
        dropping: bool,
        next: f64,
        count: f64,
    },
}

/// One stage.
#[derive(Clone, Debug)]
pub enum Stage {
    /// Propagation, with exponential jitter that never reorders.
    Wire { delay: f64, jitter: f64, last: f64 },
    /// Propagation, with normal jitter that reorders.
    Loose { delay: f64, jitter: f64 },
    /// A token bucket that drops; active from and to.
    Police { rate: f64, depth: f64, tokens: f64, at: f64, whose: Whose, active: (f64, f64) },
    /// The same, counted in packets.
    PolicePackets { rate: f64, depth: f64, tokens: f64, at: f64, whose: Whose },
    /// So many packets in each window of time, from its edge on.
    Window { packets: u32, length: f64, number: i64, seen: u32 },
    /// A bucket of packets; once exceeded, everything is dropped for a while.
    Hold { rate: f64, depth: f64, tokens: f64, at: f64, hold: f64, until: f64 },
    /// A line with a queue; `burst` bytes pass at once after a pause, at `peak`.
    Queue { rate: f64, burst: f64, limit: f64, aqm: Aqm, virtual_end: f64, tail: f64, whose: Whose },
    /// A queue whose service rate wanders: changes each `step` seconds within `low..high` by a random walk.
    Wandering { low: f64, high: f64, now: f64, step: f64, next: f64, limit: f64, tail: f64 },
    /// A radio: packets leave in aggregates, after a wait for the medium.
    Aggregating { wait: f64, gate: f64, tail: f64, rate: f64 },
    /// Independent loss.
    Loss { share: f64 },
    /// Gilbert and Elliott.
    Bursts { to_bad: f64, to_good: f64, bad: bool, in_bad: f64 },
    /// Everything is dropped for `length` in every `period`.
    Periodic { period: f64, length: f64, first: f64 },
    /// Everything is dropped from and to.
    Outage { from: f64, to: f64 },
}

impl Stage {
    pub fn wire(delay: f64, jitter: f64) -> Self {
        Self::Wire { delay, jitter, last: 0.0 }
    }

    pub fn police(rate: f64, depth: f64) -> Self {
        Self::Police { rate, depth, tokens: depth, at: 0.0, whose: Whose::All, active: (0.0, f64::INFINITY) }
    }

    pub fn queue(rate: f64, limit: f64) -> Self {
        Self::shape(rate, 0.0, limit)
    }

    pub fn shape(rate: f64, burst: f64, limit: f64) -> Self {
        let end = f64::NEG_INFINITY;
        Self::Queue { rate, burst, limit, aqm: Aqm::TailDrop, virtual_end: end, tail: end, whose: Whose::All }
    }

    pub fn with_aqm(self, with: Aqm) -> Self {
        match self {
            Self::Queue { rate, burst, limit, virtual_end, tail, whose, .. } => {
                Self::Queue { rate, burst, limit, aqm: with, virtual_end, tail, whose }
            }
            other => other,
        }
    }

    pub fn only(mut self, only: Whose) -> Self {
        match &mut self {
            Self::Police { whose, .. } | Self::PolicePackets { whose, .. } | Self::Queue { whose, .. } => {
                *whose = only;
            }
            _ => {}
        }
        self
    }

    pub fn codel() -> Aqm {
        Aqm::CoDel { above_since: None, dropping: false, next: 0.0, count: 0.0 }
    }

    /// When a packet that comes at `now` leaves; none where it is dropped.
    pub fn pass(&mut self, now: f64, packet: &Transit, rng: &mut ChaCha8Rng) -> Option<f64> {
        match self {
            Self::Wire { delay, jitter, last } => {
                let wait = if *jitter > 0.0 { -*jitter * (1.0 - rng.random::<f64>()).ln() } else { 0.0 };
                *last = last.max(now + *delay + wait);
                Some(*last)
            }
            Self::Loose { delay, jitter } => {
                let normal = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
                Some(now + (*delay + normal * *jitter).max(*delay / 2.0))
            }
            Self::Police { rate, depth, tokens, at, whose, active } => {
                if !whose.takes(packet) || now < active.0 || now > active.1 {
                    return Some(now);
                }
                *tokens = f64::min(*depth, *tokens + *rate * (now - *at));
                *at = now;
                (*tokens >= packet.bytes).then(|| {
                    *tokens -= packet.bytes;
                    now
                })
            }
            Self::PolicePackets { rate, depth, tokens, at, whose } => {
                if !whose.takes(packet) {
                    return Some(now);
                }
                *tokens = f64::min(*depth, *tokens + *rate * (now - *at));
                *at = now;
                (*tokens >= 1.0).then(|| {
                    *tokens -= 1.0;
                    now
                })
            }
            Self::Window { packets, length, number, seen } => {
                let current = (now / *length).floor() as i64;
                if current != *number {
                    (*number, *seen) = (current, 0);
                }
                *seen += 1;
                (*seen <= *packets).then_some(now)
            }
            Self::Hold { rate, depth, tokens, at, hold, until } => {
                *tokens = f64::min(*depth, *tokens + *rate * (now - *at));
                *at = now;
                if now < *until {
                    return None;
                }
                if *tokens >= 1.0 {
                    *tokens -= 1.0;
                    return Some(now);
                }
                *until = now + *hold;
                None
            }
            Self::Queue { rate, burst, limit, aqm, virtual_end, tail, whose } => {
                if !whose.takes(packet) {
                    return Some(now);
                }
                let end = virtual_end.max(now - *burst / *rate) + packet.bytes / *rate;
                let leaves = end.max(now).max(*tail);
                let waits = (leaves - now) * *rate;
                if waits > *limit + packet.bytes || aqm.drops(now, waits, leaves, *rate, rng) {
                    return None;
                }
                (*virtual_end, *tail) = (end, leaves);
                Some(leaves)
            }
            Self::Wandering { low, high, now: rate, step, next, limit, tail } => {
                while now > *next {
                    let factor = (rng.random::<f64>() - 0.5) * 0.8;
                    *rate = (*rate * factor.exp()).clamp(*low, *high);
                    *next += *step;
                }
                let leaves = tail.max(now) + packet.bytes / *rate;
                if (leaves - now) * *rate > *limit + packet.bytes {
                    return None;
                }
                *tail = leaves;
                Some(leaves)
            }
            Self::Aggregating { wait, gate, tail, rate } => {
                // The next turn on the medium comes after an exponential wait; what waits leaves together.
                while *gate < now {
                    *gate += 300e-6 - *wait * (1.0 - rng.random::<f64>()).ln();
                }
                *tail = tail.max(*gate) + packet.bytes / *rate;
                Some(*tail)
            }
            Self::Loss { share } => (rng.random::<f64>() >= *share).then_some(now),
            Self::Bursts { to_bad, to_good, bad, in_bad } => {
                let change = if *bad { *to_good } else { *to_bad };
                if rng.random::<f64>() < change {
                    *bad = !*bad;
                }
                (!*bad || rng.random::<f64>() >= *in_bad).then_some(now)
            }
            Self::Periodic { period, length, first } => {
                (now < *first || (now - *first) % *period >= *length).then_some(now)
            }
            Self::Outage { from, to } => (now < *from || now > *to).then_some(now),
        }
    }
}

impl Aqm {
    fn drops(&mut self, now: f64, waits: f64, leaves: f64, rate: f64, rng: &mut ChaCha8Rng) -> bool {
        match self {
            Self::TailDrop => false,
            Self::Red { low, high, most, average } => {
                *average += 0.01 * (waits - *average);
                let chance = (*average - *low) / (*high - *low) * *most;
                *average > *high || rng.random::<f64>() < chance
            }
            Self::CoDel { above_since, dropping, next, count } => {
                let sojourn = waits / rate;
                if sojourn < 0.005 || waits < 3_000.0 {
                    *above_since = None;
                    *dropping = false;
                    return false;
                }
                let since = *above_since.get_or_insert(leaves);
                if !*dropping && leaves - since > 0.1 {
                    *dropping = true;
                    *count = if now - *next < 1.6 && *count > 2.0 { *count - 2.0 } else { 1.0 };
                    *next = leaves + 0.1 / count.sqrt();
                    return true;
                }
                if *dropping && leaves >= *next {
                    *count += 1.0;
                    *next = next.max(leaves - 0.1) + 0.1 / count.sqrt();
                    return true;
                }
                false
            }
        }
    }
}
