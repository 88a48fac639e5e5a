//! Holding packets back: delay, jitter, reordering, gates; and sending them twice.

use std::time::Duration;

use probe_protocol::time::Timestamp;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::super::data::{Every, Shape};
use super::super::pipeline::{BadRule, Context, Parcel};
use super::{Act, Step};

/// Delays by a constant and jitter.
pub(super) struct Delay {
    by: Duration,
    jitter: Duration,
    shape: Shape,
    overtake: bool,
    last: [Timestamp; 2],
}

impl Delay {
    pub(super) fn new(by: Duration, jitter: Duration, shape: Shape, overtake: bool) -> Self {
        Self { by, jitter, shape, overtake, last: [Timestamp::ZERO; 2] }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> Duration {
        if self.jitter.is_zero() {
            return Duration::ZERO;
        }
        let share: f64 = match self.shape {
            Shape::Uniform => rng.random(),
            Shape::Exponential => (-(1.0 - rng.random::<f64>()).ln() / 4.0).min(1.0),
        };
        self.jitter.mul_f64(share)
    }
}

impl Act for Delay {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let extra = self.draw(cx.rng);
        let mut at = cx.moment.now + self.by + extra;
        if !extra.is_zero() {
            cx.delayed(&parcel, "jitter", extra);
        }
        if !self.overtake {
            let last = &mut self.last[parcel.direction.index()];
            at = at.max(*last);
            *last = at;
        }
        cx.later(at, parcel);
        Step::Gone
    }
}

/// Holds a share of the packets back.
pub(super) struct Reorder {
    pub(super) share: f64,
    pub(super) by: Duration,
}

impl Act for Reorder {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        if !cx.rng.random_bool(self.share) {
            return Step::Next(parcel);
        }
        cx.delayed(&parcel, "held back to be overtaken", self.by);
        cx.later(cx.moment.now + self.by, parcel);
        Step::Gone
    }
}

/// Sends a share of the packets again.
pub(super) struct Duplicate {
    pub(super) share: f64,
    pub(super) after: Duration,
}

impl Act for Duplicate {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        if cx.rng.random_bool(self.share) {
            cx.duplicate(cx.moment.now + self.after, &parcel, "sent again");
        }
        Step::Next(parcel)
    }
}

/// Holds everything while it is shut.
pub(super) struct Gate {
    shut: Every,
    limit: u64,
    /// Until when the bytes in `waiting` wait, each way.
    until: [Timestamp; 2],
    waiting: [u64; 2],
}

impl Gate {
    pub(super) fn new(shut: Every, limit: u64) -> Result<Self, BadRule> {
        if shut.period.0.is_zero() {
            return Err(BadRule::Field("shut.period", "must not be zero".into()));
        }
        Ok(Self { shut, limit, until: [Timestamp::ZERO; 2], waiting: [0; 2] })
    }
}

impl Act for Gate {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let Some(end) = self.shut.end_of_window(cx.elapsed()) else { return Step::Next(parcel) };
        let at = cx.start + end;
        let way = parcel.direction.index();
        if self.until[way] != at {
            self.until[way] = at;
            self.waiting[way] = 0;
        }
        let size = parcel.packet.size() as u64;
        if self.waiting[way] + size > self.limit {
            cx.drop(parcel, "no room at the gate");
            return Step::Gone;
        }
        self.waiting[way] += size;
        cx.delayed(&parcel, "gate shut", at - cx.moment.now);
        cx.later(at, parcel);
        Step::Gone
    }
}
