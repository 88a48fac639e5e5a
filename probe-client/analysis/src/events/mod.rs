//! The ledger of what happened when: losses that belong together, outages of the whole path, and shifts of delay.
//!
//! [`Ledger`] takes observations as they come and keeps, in bounded memory, *episodes* of single flows: bursts of loss
//! (RFC 3611 section 4.7.2) and shifts of the level of delay. `gather` then puts the episodes of many flows together: what
//! hit all flows at once is an outage, what hit some of them at once is one event of those flows.
//!
//! | File | holds |
//! | --- | --- |
//! | `burst` | bursts of loss of one flow |
//! | `shift` | shifts of delay of one flow |
//! | `gather` | from episodes to events, and what else was seen at the time |
//! | `moved` | changed sources |
//! | `broken` | connections that broke |

mod broken;
mod burst;
mod gather;
mod moved;
mod shift;

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use probe_protocol::time::Timestamp;

pub use self::burst::Burst;
use self::burst::Bursts;
pub(crate) use self::gather::gather;
use self::shift::Levels;
pub use self::shift::Shift;
use crate::observation::{Fate, FlowNo, Observation, Probe};

/// Episodes of one kind at most; where there are more, the smallest ones go.
const MAX_EPISODES: usize = 1024;
/// Flows that are followed at the same time, at most.
const MAX_FOLLOWED: usize = 4096;

/// Flows that have ended and are still followed, at most.
const MAX_ENDED: usize = 128;

/// Something that a flow went through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Episode<T> {
    /// Which flow.
    pub flow: FlowNo,
    /// What.
    pub what: T,
}

/// Follows all flows of a run.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    followed: BTreeMap<FlowNo, Followed>,
    /// Of these, the ones that have ended, in that order: some of their probes may still be told.
    ended: VecDeque<FlowNo>,
    /// Of flows that have ended.
    spans: BTreeMap<FlowNo, (Timestamp, Timestamp)>,
    bursts: Vec<Episode<Burst>>,
    shifts: Vec<Episode<Shift>>,
    dropped: u64,
}

/// One flow under way.
#[derive(Clone, Debug)]
struct Followed {
    bursts: Bursts,
    levels: Levels,
    /// When its first and its last probe were sent.
    span: (Timestamp, Timestamp),
}

impl Ledger {
    /// Takes one observation; those that say nothing of probes are passed over.
    pub fn observe(&mut self, observation: &Observation) {
        if let Observation::Probe(probe) = observation {
            self.probe(probe);
        } else if let Observation::FlowEnded(ended) = observation {
            self.ended.push_back(ended.flow);
            while self.ended.len() > MAX_ENDED {
                if let Some(oldest) = self.ended.pop_front()
                    && let Some(flow) = self.followed.remove(&oldest)
                {
                    self.close(oldest, flow);
                }
            }
        }
    }

    /// Takes one probe, as [`observe`](Self::observe) does.
    pub fn probe(&mut self, probe: &Probe) {
        self.run(std::slice::from_ref(probe));
    }

    /// Takes probes, as [`observe`](Self::observe) does. Those of one flow that stand in a row are taken faster.
    pub fn probes(&mut self, probes: &[Probe]) {
        probes.chunk_by(|a, b| a.flow == b.flow).for_each(|run| self.run(run));
    }

    /// Takes probes of one flow.
    fn run(&mut self, probes: &[Probe]) {
        let counts = |probe: &&Probe| !matches!(probe.fate, Fate::Excluded(_));
        let Some(first) = probes.iter().find(counts) else { return };
        let room = self.followed.len() < MAX_FOLLOWED;
        let flow = match self.followed.entry(first.flow) {
            Entry::Occupied(flow) => flow.into_mut(),
            Entry::Vacant(place) if room => place.insert(Followed {
                bursts: Bursts::default(),
                levels: Levels::default(),
                span: (first.sent, first.sent),
            }),
            Entry::Vacant(_) => {
                self.dropped += probes.iter().filter(counts).count() as u64;
                return;
            }
        };
        for probe in probes.iter().filter(counts) {
            flow.span = (flow.span.0.min(probe.sent), flow.span.1.max(probe.sent));
            if let Some(burst) = flow.bursts.push(probe) {
                self.dropped += keep(&mut self.bursts, Episode { flow: probe.flow, what: burst });
            }
            if let Some(shift) = flow.levels.push(probe) {
                self.dropped += keep(&mut self.shifts, Episode { flow: probe.flow, what: shift });
            }
        }
    }

    fn close(&mut self, flow: FlowNo, followed: Followed) {
        let (first, last) = followed.span;
        let span = self.spans.entry(flow).or_insert((first, last));
        *span = (span.0.min(first), span.1.max(last));
        if let Some(burst) = followed.bursts.close() {
            self.dropped += keep(&mut self.bursts, Episode { flow, what: burst });
        }
        if let Some(shift) = followed.levels.close() {
            self.dropped += keep(&mut self.shifts, Episode { flow, what: shift });
        }
    }

    /// The same with everything closed that is still under way.
    pub fn finished(&self) -> Self {
        let mut done = self.clone();
        for (flow, followed) in std::mem::take(&mut done.followed) {
            done.close(flow, followed);
        }
        done
    }

    /// Bursts of loss so far, of single flows, as they ended.
    pub fn bursts(&self) -> &[Episode<Burst>] {
        &self.bursts
    }

    /// Shifts of delay so far, of single flows, as they ended.
    pub fn shifts(&self) -> &[Episode<Shift>] {
        &self.shifts
    }

    /// When a flow sent its first and its last probe.
    pub fn span(&self, flow: FlowNo) -> Option<(Timestamp, Timestamp)> {
        let of = |a: Option<&(Timestamp, Timestamp)>| a.copied();
        match (of(self.spans.get(&flow)), of(self.followed.get(&flow).map(|flow| &flow.span))) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (span, None) | (None, span) => span,
        }
    }

    /// Flows that sent something between two moments; of a [`finished`](Self::finished) ledger.
    fn alive(&self, from: Timestamp, to: Timestamp) -> impl Iterator<Item = FlowNo> {
        self.spans
            .iter()
            .filter(move |(_, (first, last))| *first <= to && *last >= from)
            .map(|(flow, _)| *flow)
    }

    /// Episodes that were too many to keep.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// What decides which episodes are kept where there are too many.
trait Ranked: Copy {
    /// How large it is, and when it began.
    fn size(&self) -> (u64, Timestamp);
}

impl Ranked for Burst {
    fn size(&self) -> (u64, Timestamp) {
        (self.lost(), self.from)
    }
}

impl Ranked for Shift {
    fn size(&self) -> (u64, Timestamp) {
        (self.after.abs_diff(self.before), self.from)
    }
}

/// Keeps an episode; where there are too many, the smallest one goes, so that the largest stay whatever the night brings.
/// Of equal ones the earlier stay: which are kept does not depend on the order in which flows are looked at. Answers how
/// many went.
fn keep<T: Ranked>(list: &mut Vec<Episode<T>>, episode: Episode<T>) -> u64 {
    if list.len() < MAX_EPISODES {
        list.push(episode);
        return 0;
    }
    let rank = |e: &Episode<T>| {
        let (size, from) = e.what.size();
        (size, Reverse(from), Reverse(e.flow))
    };
    let smallest =
        list.iter().enumerate().min_by_key(|(_, kept)| rank(kept)).map(|(at, kept)| (at, rank(kept)));
    if let Some((at, least)) = smallest
        && least < rank(&episode)
    {
        list.remove(at);
        list.push(episode);
    }
    1
}

#[cfg(test)]
mod tests;
