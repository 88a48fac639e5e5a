//! What limits the rate of a stream of packets: a policer, a shaper, a limit of packets a second, a shared queue, or
//! nothing of that sort.
//!
//! Everything here is a pure function of a series of [`Packet`]s: when each was sent, how long it was, and how long it
//! took or that it was lost. Live loads ([`crate::observation::Load`]) and traces of others come through the same door.
//!
//! **Bytes** are those that the series gives, and every rate and burst is in them: a trace that counts IP packets gives
//! IP-level rates, one that counts payload gives payload rates. No header is added.
//!
//! # The method
//!
//! A token bucket is a queue that is never seen: what it lets through fills it, the rate drains it, and a packet that
//! would fill it beyond its depth is dropped ([`bucket`]). For a wrong rate, the fill at which packets are dropped wanders;
//! for the right one, a single level parts all drops from all passes. So a policer is told by how much of the pattern of
//! loss one rate and one level explain, not by loss that merely follows load.
//!
//! A real queue drops in the same pattern, and delays what it holds. The delay that the fill predicts is compared with
//! the delay that was measured: all of it means a queue ([`queue`]), none of it a policer, and where the clocks are too
//! coarse to tell, neither is said.
//!
//! | File | Tells |
//! | --- | --- |
//! | [`bucket`] | rate and depth of a token bucket that explains the losses |
//! | [`slope`] | the rate that a cumulative count holds to, from coarse to fine |
//! | [`queue`] | rate, burst and limit of a queue that explains the delays |
//! | [`delay`] | base delay without clock drift, noise, delay under load and before losses |
//! | [`judge`] | one stretch of one class of packets: which of all these it is |
//! | [`trace`] | a whole trace, row by row, in bounded memory |

pub mod bucket;
pub mod delay;
pub mod judge;
pub mod queue;
pub mod slope;
pub mod trace;

/// One packet of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packet {
    /// When it was sent, seconds; any zero.
    pub at: f64,
    /// Its length, bytes, as the source of the series counts them.
    pub bytes: f64,
    /// How long it took, seconds; any zero, the same for the whole series. None: it was lost.
    pub delay: Option<f64>,
}

impl Packet {
    /// Whether it was lost.
    pub fn is_lost(&self) -> bool {
        self.delay.is_none()
    }
}

/// A value with the interval that it lies in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The likeliest value.
    pub value: f64,
    /// It is not below this.
    pub low: f64,
    /// It is not above this.
    pub high: f64,
}

/// The value below which the share `q` (0 to 1) of all lies; reorders them. None of nothing.
pub fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    let at = ((values.len() - 1) as f64 * q.clamp(0.0, 1.0)).round() as usize;
    let (_, value, _) = values.select_nth_unstable_by(at, f64::total_cmp);
    Some(*value)
}
