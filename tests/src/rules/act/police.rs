//! Dropping what exceeds a rate, by bytes or by packets, with a time of penance where wanted.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use super::super::data::{Direction, Per};
use super::super::flow::{FlowKey, MAX_FLOWS};
use super::super::pipeline::{BadRule, Context, Parcel};
use super::super::units::BitRate;
use super::bucket::Bucket;
use super::{Act, Step};
use crate::hash::Map;

/// A bucket shallower than this would never pass a full packet.
const LEAST_DEPTH: u64 = 1600;

#[derive(Clone, Copy)]
struct State {
    bytes: Bucket,
    packets: Bucket,
    held_until: Timestamp,
}

const IDLE: State = State { bytes: Bucket::FULL, packets: Bucket::FULL, held_until: Timestamp::ZERO };

/// A policer.
pub(super) struct Police {
    rate: Option<(BitRate, Duration)>,
    packets: Option<(Duration, Duration)>,
    hold: Duration,
    per: Per,
    all: [State; 2],
    flows: Map<(FlowKey, Direction), State>,
}

impl Police {
    pub(super) fn new(
        rate: Option<BitRate>,
        burst: u64,
        packets_per_second: Option<f64>,
        packets_burst: Option<f64>,
        hold: Duration,
        per: Per,
    ) -> Result<Self, BadRule> {
        let packets = packets_per_second
            .map(|rate| {
                let burst = packets_burst.unwrap_or(rate / 10.0).max(1.0);
                let spans =
                    (Duration::try_from_secs_f64(1.0 / rate), Duration::try_from_secs_f64(burst / rate));
                match spans {
                    (Ok(cost), Ok(depth)) => Ok((cost, depth)),
                    (Ok(_) | Err(_), Ok(_) | Err(_)) => {
                        Err(BadRule::Field("packets_per_second", format!("cannot be {rate}")))
                    }
                }
            })
            .transpose()?;
        if rate.is_none() && packets.is_none() {
            return Err(BadRule::Field("police", "needs `rate` or `packets_per_second`".into()));
        }
        let rate = rate.map(|rate| (rate, rate.time(burst.max(LEAST_DEPTH) as usize)));
        Ok(Self { rate, packets, hold, per, all: [IDLE; 2], flows: Map::default() })
    }
}

impl Act for Police {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let now = cx.moment.now;
        let state = match self.per {
            Per::All => &mut self.all[parcel.direction.index()],
            Per::Flow => {
                // Buckets that are full again are no different from new ones.
                if self.flows.len() >= MAX_FLOWS {
                    self.flows.clear();
                }
                self.flows.entry((parcel.facts.key, parcel.direction)).or_insert(IDLE)
            }
        };
        if now < state.held_until {
            cx.drop(parcel, "held after the rate was exceeded");
            return Step::Gone;
        }
        let bytes = self.rate.map(|(rate, depth)| (rate.time(parcel.packet.size()), depth));
        let ready = |bucket: &Bucket, (cost, depth)| bucket.ready_at(now, cost, depth) <= now;
        let why = if bytes.is_some_and(|limit| !ready(&state.bytes, limit)) {
            "byte rate exceeded"
        } else if self.packets.is_some_and(|limit| !ready(&state.packets, limit)) {
            "packet rate exceeded"
        } else {
            if let Some((cost, _)) = bytes {
                state.bytes.take(now, cost);
            }
            if let Some((cost, _)) = self.packets {
                state.packets.take(now, cost);
            }
            return Step::Next(parcel);
        };
        state.held_until = now + self.hold;
        cx.drop(parcel, why);
        Step::Gone
    }
}
