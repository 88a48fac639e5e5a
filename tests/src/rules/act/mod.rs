//! What rules do: one trait, and an implementation per action.

mod alter;
mod answer;
mod bucket;
mod divert;
mod hold;
mod police;
mod queue;
mod rebind;
mod schedule;

use probe_protocol::time::Timestamp;
use rand::Rng;

use super::data::{Action, Order};
use super::flow::FlowKey;
use super::matcher::Matcher;
use super::pipeline::{BadRule, Context, Parcel, hexadecimal, ratio};

/// What becomes of a packet after an action.
#[derive(Debug)]
pub enum Step {
    /// It goes on to the next rule.
    Next(Parcel),
    /// It leaves the place at once.
    Leave(Parcel),
    /// It was dropped, or is held and comes back later.
    Gone,
}

/// What becomes of a packet that an action has only watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It goes on.
    Keep,
    /// It is dropped, for this reason.
    Drop(&'static str),
}

/// What a rule does to a packet that matches.
pub trait Act: Send {
    /// Does it.
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step;

    /// Looks at a packet that did not match.
    fn watch(&mut self, _cx: &mut Context<'_>, _parcel: &mut Parcel) -> Watch {
        Watch::Keep
    }

    /// The flow that a packet from the far side belongs to, where this rule has given the flow another address on
    /// its way up: both ways of a flow are one.
    fn origin(&self, _seen: FlowKey) -> Option<FlowKey> {
        None
    }

    /// When [`Self::release`] is next needed.
    fn next(&self) -> Timestamp {
        Timestamp::NEVER
    }

    /// Lets go of one packet that is due. Where it gives none, [`Self::next`] must have moved on.
    fn release(&mut self, _cx: &mut Context<'_>) -> Option<Parcel> {
        None
    }

    /// Gives up everything it holds.
    fn flush(&mut self) -> Vec<Parcel> {
        Vec::new()
    }
}

/// Makes an action ready. `switch` gives the number of a switch by its name.
pub(super) fn compile(
    action: &Action,
    switch: &mut dyn FnMut(&str) -> usize,
) -> Result<Box<dyn Act>, BadRule> {
    Ok(match action {
        Action::Pass {} => Box::new(Pass),
        Action::Drop {} => Box::new(Drop),
        Action::Loss { good_to_bad, bad_to_good, good, bad } => Box::new(Loss {
            leave: [ratio("good_to_bad", *good_to_bad)?, ratio("bad_to_good", *bad_to_good)?],
            loss: [ratio("good", *good)?, ratio("bad", *bad)?],
            state: [0; 2],
        }),
        Action::Delay { by, jitter, shape, overtake } => {
            Box::new(hold::Delay::new(by.0, jitter.0, *shape, *overtake))
        }
        Action::Reorder { share, by } => Box::new(hold::Reorder { share: ratio("share", *share)?, by: by.0 }),
        Action::Duplicate { share, after } => {
            Box::new(hold::Duplicate { share: ratio("share", *share)?, after: after.0 })
        }
        Action::Gate { shut, limit } => Box::new(hold::Gate::new(*shut, limit.0)?),
        Action::Rewrite { at, hex, flip, length, keep_checksum } => {
            Box::new(alter::Rewrite::new(*at, hexadecimal("hex", hex)?, *flip, *length, *keep_checksum)?)
        }
        Action::Mark { dscp, ecn } => Box::new(alter::Mark::new(*dscp, *ecn)?),
        Action::Queue { rate, burst, limit, order: Order::Fifo, per, .. } => {
            Box::new(queue::Fifo::new(*rate, burst.0, limit.0, *per))
        }
        Action::Queue { rate, burst, limit, order, low, .. } => {
            let low = low.as_ref().map(|low| Matcher::new(low, switch)).transpose()?;
            Box::new(queue::Ordered::new(*rate, burst.0, limit.0, *order, low)?)
        }
        Action::Police { rate, burst, packets_per_second, packets_burst, hold, per } => {
            Box::new(police::Police::new(*rate, burst.0, *packets_per_second, *packets_burst, hold.0, *per)?)
        }
        Action::Reset { client, server, ttl, pass } => {
            Box::new(answer::Reset { client: *client, server: *server, ttl: *ttl, pass: *pass })
        }
        Action::Icmp { code, mtu, from } => Box::new(answer::Icmp { code: *code, mtu: *mtu, from: *from }),
        Action::Rebind { address, port_step } => Box::new(rebind::Rebind::new(*address, *port_step)?),
        Action::Divert { to, port } => Box::new(divert::Divert::new(to.clone(), *port)?),
        Action::Forget { all } => Box::new(Forget { all: *all }),
        Action::Switch { name, hold, renew } => {
            Box::new(Switch { number: switch(name), hold: hold.0, renew: *renew })
        }
    })
}

struct Pass;

impl Act for Pass {
    fn act(&mut self, _cx: &mut Context<'_>, parcel: Parcel) -> Step {
        Step::Leave(parcel)
    }
}

struct Drop;

impl Act for Drop {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        cx.drop(parcel, "rule");
        Step::Gone
    }
}

/// Gilbert and Elliott's model; each direction has a state of its own, 0 good and 1 bad.
struct Loss {
    leave: [f64; 2],
    loss: [f64; 2],
    state: [usize; 2],
}

impl Act for Loss {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let state = &mut self.state[parcel.direction.index()];
        if cx.rng.random_bool(self.leave[*state]) {
            *state = 1 - *state;
        }
        if cx.rng.random_bool(self.loss[*state]) {
            cx.drop(parcel, if *state == 1 { "bad state" } else { "good state" });
            return Step::Gone;
        }
        Step::Next(parcel)
    }
}

struct Forget {
    all: bool,
}

impl Act for Forget {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        cx.forget(parcel.facts.key, self.all);
        match parcel.direction {
            super::data::Direction::Up => Step::Next(parcel),
            super::data::Direction::Down => {
                cx.drop(parcel, "mapping forgotten");
                Step::Gone
            }
        }
    }
}

struct Switch {
    number: usize,
    hold: std::time::Duration,
    renew: bool,
}

impl Act for Switch {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let now = cx.moment.now;
        if let Some(until) = cx.switches.get_mut(self.number)
            && (self.renew || *until <= now)
        {
            *until = now + self.hold;
        }
        Step::Next(parcel)
    }
}
