//! What packets meet: boxes with counters and timers as equipment has them, not formulas. Each box takes a packet and says
//! when it lets it go, or that it does not.

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A packet as a box sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub bytes: f64,
    pub udp: bool,
}

/// One box.
#[derive(Clone, Debug)]
pub enum Box_ {
    /// Propagation.
    Cable { delay: f64 },
    /// Propagation with a slowly changing extra delay and rare spikes, in order.
    Air { delay: f64, sway: f64, spike: f64, every: f64, out: f64 },
    /// Two buckets: one refilled in ticks at `rate`, an optional second one at a higher peak rate. Both must hold a packet.
    Meter {
        rate: f64,
        depth: f64,
        tick: f64,
        peak: Option<(f64, f64)>,
        udp_only: bool,
        after: f64,
        state: Tokens,
    },
    /// A FIFO that holds the departures of what waits, limited by bytes or packets, with tokens saved up while idle.
    Fifo { rate: f64, burst: f64, bytes: f64, packets: usize, udp_only: bool, state: Line },
    /// Loss in states of time, not of packets: good and bad spells with exponential lengths.
    Spells { good: f64, bad: f64, in_good: f64, in_bad: f64, until: f64, is_bad: bool },
    /// Everything is lost for a while at the beginning of each period.
    Clockwork { period: f64, length: f64, phase: f64 },
    /// Some packets take a longer way, each by itself.
    TwoWays { share: f64, longer: f64 },
}

/// Tokens of a meter.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    has: Option<(f64, f64)>,
    ticks: i64,
    at: f64,
}

/// A line and what waits for it.
#[derive(Clone, Debug, Default)]
pub struct Line {
    waiting: VecDeque<(f64, f64)>,
    held: f64,
    saved: Option<f64>,
    at: f64,
    free: f64,
}

impl Box_ {
    pub fn meter(rate: f64, depth: f64, tick: f64) -> Self {
        Self::Meter { rate, depth, tick, peak: None, udp_only: false, after: 0.0, state: Tokens::default() }
    }

    pub fn fifo(rate: f64, burst: f64, bytes: f64) -> Self {
        Self::Fifo { rate, burst, bytes, packets: usize::MAX, udp_only: false, state: Line::default() }
    }

    pub fn for_udp(mut self) -> Self {
        match &mut self {
            Self::Meter { udp_only, .. } | Self::Fifo { udp_only, .. } => *udp_only = true,
            _ => {}
        }
        self
    }

    /// When the packet leaves; none where it does not.
    pub fn take(&mut self, now: f64, packet: &Seen, rng: &mut ChaCha8Rng) -> Option<f64> {
        match self {
            Self::Cable { delay } => Some(now + *delay),
            Self::Air { delay, sway, spike, every, out } => {
                let slow = (now * 0.7).sin() * (now * 0.23).cos() * *sway * 0.5 + *sway * 0.5;
                let fast = -*sway * 0.2 * (1.0 - rng.random::<f64>()).ln();
                let cycle = now.rem_euclid(*every);
                let late = if cycle < *spike { *spike - cycle } else { 0.0 };
                *out = out.max(now + *delay + slow + fast + late);
                Some(*out)
            }
            Self::Meter { rate, depth, tick, peak, udp_only, after, state } => {
                if (*udp_only && !packet.udp) || now < *after {
                    return Some(now);
                }
                let number = (now / *tick).floor() as i64;
                let (mut tokens, mut fast) = state.has.unwrap_or((*depth, peak.map_or(0.0, |p| p.1)));
                if state.has.is_some() {
                    tokens = (tokens + (number - state.ticks) as f64 * *tick * *rate).min(*depth);
                    if let Some((rate, depth)) = peak {
                        fast = (fast + (now - state.at) * *rate).min(*depth);
                    }
                }
                let passes = tokens >= packet.bytes && (peak.is_none() || fast >= packet.bytes);
                if passes {
                    tokens -= packet.bytes;
                    fast -= packet.bytes;
                }
                (state.has, state.ticks, state.at) = (Some((tokens, fast)), number, now);
                passes.then_some(now)
            }
            Self::Fifo { rate, burst, bytes, packets, udp_only, state } => {
                if *udp_only && !packet.udp {
                    return Some(now);
                }
                while let Some((leaves, size)) = state.waiting.front().copied()
                    && leaves <= now
                {
                    state.held -= size;
                    state.waiting.pop_front();
                }
                if state.held + packet.bytes > *bytes || state.waiting.len() >= *packets {
                    return None;
                }
                // The line is free at `free`; what it could have sent since is saved, up to the burst.
                let begins = state.free.max(now);
                let saved = state.saved.get_or_insert(*burst);
                let idle = (begins - state.at).max(0.0);
                *saved = (*saved + idle * *rate).min(burst.max(packet.bytes));
                let leaves = if *saved >= packet.bytes {
                    *saved -= packet.bytes;
                    begins
                } else {
                    let wait = (packet.bytes - *saved) / *rate;
                    *saved = 0.0;
                    begins + wait
                };
                (state.at, state.free) = (leaves, leaves);
                state.waiting.push_back((leaves, packet.bytes));
                state.held += packet.bytes;
                Some(leaves)
            }
            Self::Spells { good, bad, in_good, in_bad, until, is_bad } => {
                while now >= *until {
                    *is_bad = !*is_bad;
                    let mean = if *is_bad { *bad } else { *good };
                    *until += -mean * (1.0 - rng.random::<f64>()).ln() + 1e-6;
                }
                let chance = if *is_bad { *in_bad } else { *in_good };
                (rng.random::<f64>() >= chance).then_some(now)
            }
            Self::Clockwork { period, length, phase } => {
                ((now - *phase).rem_euclid(*period) >= *length).then_some(now)
            }
            Self::TwoWays { share, longer } => {
                Some(if rng.random::<f64>() < *share { now + *longer * rng.random::<f64>() } else { now })
            }
        }
    }
}
