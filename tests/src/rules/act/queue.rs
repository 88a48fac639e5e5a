//! A link of a rate, with a queue before it.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use super::super::data::{Direction, Order, Per};
use super::super::flow::{FlowKey, MAX_FLOWS};
use super::super::matcher::{Matcher, View};
use super::super::pipeline::{BadRule, Context, Parcel};
use super::super::units::BitRate;
use super::bucket::Bucket;
use super::schedule::{Fair, Priority, Schedule};
use super::{Act, Step};
use crate::hash::Map;

const WAITED: &str = "queued";
const FULL: &str = "queue full";

/// First in, first out: when each packet leaves is known when it comes.
pub(super) struct Fifo {
    rate: BitRate,
    depth: Duration,
    limit: Duration,
    per: Per,
    all: [Bucket; 2],
    flows: Map<(FlowKey, Direction), Bucket>,
}

impl Fifo {
    pub(super) fn new(rate: BitRate, burst: u64, limit: u64, per: Per) -> Self {
        let (depth, limit) = (rate.time(burst as usize), rate.time(limit as usize));
        Self { rate, depth, limit, per, all: [Bucket::FULL; 2], flows: Map::default() }
    }
}

impl Act for Fifo {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let now = cx.moment.now;
        let bucket = match self.per {
            Per::All => &mut self.all[parcel.direction.index()],
            Per::Flow => {
                if self.flows.len() >= MAX_FLOWS {
                    self.flows.clear();
                }
                self.flows.entry((parcel.facts.key, parcel.direction)).or_insert(Bucket::FULL)
            }
        };
        let cost = self.rate.time(parcel.packet.size());
        let at = bucket.ready_at(now, cost, self.depth);
        // What waits is what the link needs until then.
        if at - now > self.limit {
            cx.drop(parcel, FULL);
            return Step::Gone;
        }
        bucket.take(now, cost);
        if at == now {
            return Step::Next(parcel);
        }
        cx.delayed(&parcel, WAITED, at - now);
        cx.later(at, parcel);
        Step::Gone
    }
}

/// One way of an ordered queue.
struct Lane {
    bucket: Bucket,
    schedule: Box<dyn Schedule>,
    due: Timestamp,
}

/// A queue whose order depends on what else waits.
pub(super) struct Ordered {
    rate: BitRate,
    depth: Duration,
    limit: u64,
    low: Option<Matcher>,
    lanes: [Lane; 2],
}

impl Ordered {
    pub(super) fn new(
        rate: BitRate,
        burst: u64,
        limit: u64,
        order: Order,
        low: Option<Matcher>,
    ) -> Result<Self, BadRule> {
        if (order == Order::Priority) != low.is_some() {
            return Err(BadRule::Field("low", "belongs to `order = \"priority\"`, which needs it".into()));
        }
        let lane = || Lane {
            bucket: Bucket::FULL,
            schedule: if order == Order::Fair {
                Box::new(Fair::default())
            } else {
                Box::new(Priority::default()) as Box<dyn Schedule>
            },
            due: Timestamp::NEVER,
        };
        Ok(Self { rate, depth: rate.time(burst as usize), limit, low, lanes: [lane(), lane()] })
    }
}

impl Lane {
    fn reckon(&mut self, now: Timestamp, rate: BitRate, depth: Duration) {
        self.due = self
            .schedule
            .next_size()
            .map_or(Timestamp::NEVER, |size| self.bucket.ready_at(now, rate.time(size), depth));
    }
}

impl Act for Ordered {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let now = cx.moment.now;
        let mut view =
            View { moment: cx.moment, start: cx.start, seed: 0, rng: cx.rng, switches: cx.switches };
        let low = self.low.as_ref().is_some_and(|low| low.matches(&parcel, &mut view, 0, || None));
        let lane = &mut self.lanes[parcel.direction.index()];
        let cost = self.rate.time(parcel.packet.size());
        if lane.schedule.next_size().is_none() && lane.bucket.ready_at(now, cost, self.depth) <= now {
            lane.bucket.take(now, cost);
            return Step::Next(parcel);
        }
        lane.schedule.push(now, parcel, low);
        while lane.schedule.bytes() > self.limit {
            let Some(victim) = lane.schedule.shed() else { break };
            cx.drop(victim, FULL);
        }
        lane.reckon(now, self.rate, self.depth);
        Step::Gone
    }

    fn next(&self) -> Timestamp {
        self.lanes[0].due.min(self.lanes[1].due)
    }

    fn release(&mut self, cx: &mut Context<'_>) -> Option<Parcel> {
        let now = cx.moment.now;
        let (rate, depth) = (self.rate, self.depth);
        let lane = self.lanes.iter_mut().filter(|lane| lane.due <= now).min_by_key(|lane| lane.due)?;
        let due = lane.due;
        let taken = lane.schedule.pop();
        if let Some((_, parcel)) = &taken {
            // The link counts from when it was due, not from when it was looked at.
            lane.bucket.take(due, rate.time(parcel.packet.size()));
        }
        lane.reckon(due, rate, depth);
        let (came, parcel) = taken?;
        cx.delayed(&parcel, WAITED, now - came);
        Some(parcel)
    }

    fn flush(&mut self) -> Vec<Parcel> {
        let mut all = Vec::new();
        for lane in &mut self.lanes {
            while let Some((_, parcel)) = lane.schedule.pop() {
                all.push(parcel);
            }
            lane.due = Timestamp::NEVER;
        }
        all
    }
}
