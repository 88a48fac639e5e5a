//! Flows that come later: single starts, repeats, and the successors of those that died. And those that leave: a flow
//! that is over and whose probes are settled is forgotten, so that a night holds as much as an hour.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use probe_analysis::observation::{End, FlowNo};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore};

use super::flow::Flow;
use super::settle::LATE;
use super::{Engine, Phase, Reason};
use crate::plan::{AfterDeath, FlowSpec, Plan, Start};

/// Most flows that are held at once, those that are over and not settled included.
const MAX_HELD: usize = 1024;
/// From a flow that did not open to the next try in its place; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Longest time between two tries.
const LAST_RETRY: Duration = Duration::from_secs(600);
/// While nothing at all is heard, one fresh port is tried this often, whoever's turn it is.
const CANARY_EVERY: Duration = Duration::from_secs(20);
/// What never opened is kept so long: the listener may be asked what arrived of it.
const UNOPENED_KEPT: Duration = Duration::from_secs(30);
/// A flow whose probes cannot be settled for so long, although others are heard, is given up as unknown.
const SETTLE_LIMIT: Duration = Duration::from_secs(600);

/// A place in the plan that is filled again when its flow dies.
#[derive(Debug, Default)]
struct Line {
    /// Its flow; the older one where two are open side by side.
    current: Option<FlowNo>,
    /// The flow that is to take its place.
    next: Option<FlowNo>,
    /// The last flow that was open in this place.
    last: Option<FlowNo>,
    /// Flows so far.
    lives: u32,
    /// Flows in a row that did not open.
    failures: u32,
    /// When the next one is tried.
    due: Option<Timestamp>,
}

/// Who comes when.
#[derive(Debug)]
pub(super) struct Spawner {
    next_no: u32,
    /// The next flow may open from here on.
    next_turn: Timestamp,
    lines: Vec<Option<Line>>,
    repeats: Vec<RepeatState>,
    last_canary: Option<Timestamp>,
    pub(super) turned_away: u64,
}

#[derive(Debug, Default)]
struct RepeatState {
    made: u32,
    /// What is left of the present round.
    round: Vec<usize>,
}

impl Spawner {
    pub(super) fn new(plan: &Plan, first: u32) -> Self {
        let line = |spec: &FlowSpec| (spec.death == AfterDeath::Reborn).then(Line::default);
        Self {
            next_no: first,
            next_turn: Timestamp::ZERO,
            lines: plan.flows.iter().map(line).collect(),
            repeats: plan.repeats.iter().map(|_| RepeatState::default()).collect(),
            last_canary: None,
            turned_away: 0,
        }
    }

    /// A number for a flow that opens in its turn after those that have one.
    pub(super) fn number(
        &mut self,
        now: Timestamp,
        open_gap: Duration,
        timers: &mut BinaryHeap<Reverse<(Timestamp, Reason)>>,
    ) -> FlowNo {
        let no = FlowNo(self.next_no);
        self.next_no += 1;
        let at = self.next_turn.max(now);
        self.next_turn = at + open_gap;
        timers.push(Reverse((at, Reason::Open(no))));
        no
    }

    /// Notes that a flow fills a place, where that is one that is filled again.
    pub(super) fn took(&mut self, place: u32, no: FlowNo) -> Option<u32> {
        let line = self.lines.get_mut(place as usize)?.as_mut()?;
        line.lives += 1;
        line.due = None;
        match line.current {
            None => line.current = Some(no),
            Some(_) => line.next = Some(no),
        }
        Some(place)
    }

    fn line(&mut self, place: u32) -> Option<&mut Line> {
        self.lines.get_mut(place as usize)?.as_mut()
    }
}

impl Engine {
    /// The next moment at which a flow may open, not before `at`; it is taken.
    pub(super) fn turn(&mut self, at: Timestamp) -> Timestamp {
        let at = at.max(self.spawner.next_turn);
        self.spawner.next_turn = at + self.plan.open_gap;
        at
    }

    /// A duration drawn from around `of`, by so many percent either way.
    pub(super) fn jittered(&mut self, of: Duration, percent: u8) -> Duration {
        let span = of.as_nanos() as u64 / 100 * u64::from(percent.min(90));
        if span == 0 {
            of
        } else {
            of - Duration::from_nanos(span) + Duration::from_nanos(self.rng.random_range(0..=2 * span))
        }
    }

    /// The same in 16 steps of whole microseconds: a period that these could hide is shorter than the interval itself, and a
    /// recorded night is a third smaller, since each probe's time is most of what it takes on disk.
    pub(super) fn jittered_in_steps(&mut self, of: Duration, percent: u8) -> Duration {
        const STEPS: u64 = 16;
        const MICROSECOND: u64 = 1000;
        let span = of.as_nanos() as u64 / 100 * u64::from(percent.min(90));
        let step = 2 * span / STEPS / MICROSECOND * MICROSECOND;
        if step == 0 {
            return self.jittered(of, percent);
        }
        let from = (of.as_nanos() as u64).saturating_sub(step * STEPS / 2) / MICROSECOND * MICROSECOND;
        Duration::from_nanos(from + step * self.rng.random_range(0..=STEPS))
    }

    /// Adds a flow that opens in its turn; none where too many are held.
    pub(super) fn spawn(&mut self, now: Timestamp, mut spec: FlowSpec) -> Option<FlowNo> {
        if self.flows.len() >= MAX_HELD || self.phase > Phase::Measure {
            self.spawner.turned_away += u64::from(self.phase <= Phase::Measure);
            return None;
        }
        if let Start::Turn = spec.start {
            spec.start = Start::At(Duration::ZERO);
        }
        spec.to = self.faults.address(spec.to);
        let no = self.spawner.number(now, self.plan.open_gap, &mut self.timers);
        let shift = u64::from(self.rng.next_u32());
        self.flows.insert(no, Flow::new(no, spec, shift));
        Some(no)
    }

    /// A single flow's start has come.
    pub(super) fn start_due(&mut self, now: Timestamp, place: u32) {
        let Some(spec) = self.plan.flows.get(place as usize).cloned() else { return };
        let Some(no) = self.spawn(now, spec) else { return };
        let line = self.spawner.took(place, no);
        if let Some(flow) = self.flows.get_mut(&no) {
            flow.line = line;
        }
    }

    /// The next of a repeat's flows.
    pub(super) fn repeat_due(&mut self, now: Timestamp, at: Timestamp, place: u32) {
        let Some(repeat) = self.plan.repeats.get(place as usize) else { return };
        let (number, shuffled) = (repeat.specs.len(), repeat.shuffled);
        let (every, percent, count) = (repeat.every, repeat.jitter_percent, repeat.count);
        // While nothing is heard, a fresh flow would say what the canaries say.
        let opens = !(self.plan.long && self.is_out(now));
        let Some(state) = self.spawner.repeats.get_mut(place as usize) else { return };
        if number == 0 || self.phase > Phase::Measure || count.is_some_and(|count| state.made >= count) {
            return;
        }
        if state.round.is_empty() {
            state.round = (0..number).rev().collect();
            if shuffled {
                state.round.shuffle(&mut self.rng);
            }
        }
        if opens {
            state.made += 1;
            let which = state.round.pop().unwrap_or(0);
            let made = state.made;
            if let Some(mut spec) = repeat.specs.get(which).cloned() {
                spec.name = format!("{}#{made}", spec.name);
                self.spawn(now, spec);
            }
        }
        let next = self.jittered(every, percent).max(Duration::from_millis(1));
        // What was slept through is not made up for.
        let next = (at + next).max(now);
        self.at(next, Reason::Repeat(place));
    }

    /// Whether no more flows come.
    pub(super) fn nothing_comes(&self) -> bool {
        let repeats = self.plan.repeats.iter().zip(&self.spawner.repeats);
        let starts = |reason: &Reason| matches!(reason, Reason::Start(_) | Reason::Ladder(_));
        repeats.clone().all(|(repeat, state)| repeat.count.is_some_and(|count| state.made >= count))
            && !self.timers.iter().any(|Reverse((_, reason))| starts(reason))
            && self.ladders.iter().all(|ladder| !ladder.is_running())
    }

    /// A flow ended or never opened: what follows it?
    pub(super) fn flow_is_over(&mut self, now: Timestamp, no: FlowNo, finished: bool) {
        self.rung_is_over(now, no);
        let Some(place) = self.flow(no).and_then(|flow| flow.line) else { return };
        let opened = self.flow(no).is_some_and(|flow| flow.opened_at.is_some());
        let Some(line) = self.spawner.line(place) else { return };
        if line.next == Some(no) {
            line.next = None;
        } else if line.current == Some(no) {
            line.current = line.next.take();
        }
        if opened {
            line.last = Some(no);
            line.failures = 0;
        } else {
            line.failures = line.failures.saturating_add(1);
        }
        if self.phase > Phase::Measure || finished {
            return;
        }
        let retry = match line.failures {
            0 => Duration::ZERO,
            n => FIRST_RETRY.saturating_mul(1 << (n - 1).min(10)).min(LAST_RETRY),
        };
        // Where another flow is open in this place and answers, there is nothing to follow.
        let Some(line) = self.spawner.line(place) else { return };
        let wanted = match line.current {
            None => true,
            Some(current) => self.flows.get(&current).is_some_and(|flow| flow.silent.is_some()),
        };
        if wanted {
            let after = if retry.is_zero() { retry } else { self.jittered(retry, 30) };
            self.lay_rebirth(now, place, now + after);
        }
    }

    fn lay_rebirth(&mut self, now: Timestamp, place: u32, at: Timestamp) {
        let Some(line) = self.spawner.line(place) else { return };
        line.due = Some(at.max(now));
        self.at(at.max(now), Reason::Rebirth(place));
    }

    /// Tries a fresh port in the place of a flow that does not answer; whether there is or will be one.
    pub(super) fn follow(&mut self, now: Timestamp, place: u32, no: FlowNo) -> bool {
        let Some(line) = self.spawner.line(place) else { return false };
        let older = line.current.filter(|current| line.next == Some(no) && *current != no);
        if line.next.is_none() && line.due.is_none() {
            self.lay_rebirth(now, place, now);
        }
        // It got through and died in its turn while the one before was still being watched: that one is dead for sure, and
        // the place is for the next of them. What kills flows at an age of seconds is told by many of them.
        if let Some(older) = older {
            self.end_flow(now, older, End::TimedOut);
        }
        true
    }

    /// The flow that is open beside this one, to take its place.
    pub(super) fn successor(&mut self, place: u32) -> Option<FlowNo> {
        self.spawner.line(place)?.next
    }

    /// A place is to be filled again.
    pub(super) fn rebirth_due(&mut self, now: Timestamp, place: u32) {
        let Some(line) = self.spawner.line(place) else { return };
        if line.due.is_none_or(|due| due > now) || line.next.is_some() || self.phase > Phase::Measure {
            return;
        }
        let replaces = line.current.or(line.last);
        let lives = line.lives;
        // While nothing is heard at all, one place tries for all of them.
        if self.is_out(now) {
            let ago = self.spawner.last_canary.map_or(Duration::MAX, |at| now.since(at));
            if ago < CANARY_EVERY {
                let wait = self.jittered(CANARY_EVERY * 2, 50);
                return self.lay_rebirth(now, place, now + wait);
            }
            self.spawner.last_canary = Some(now);
        }
        let Some(mut spec) = self.plan.flows.get(place as usize).cloned() else { return };
        if lives > 0 {
            spec.name = format!("{}#{}", spec.name, lives + 1);
        }
        match self.spawn(now, spec) {
            Some(no) => {
                let line = self.spawner.took(place, no);
                if let Some(flow) = self.flows.get_mut(&no) {
                    flow.line = line;
                    flow.replaces = replaces;
                }
            }
            None => self.lay_rebirth(now, place, now + FIRST_RETRY),
        }
    }

    /// Something is heard again after nothing was: the places that wait try at once, in turn.
    pub(super) fn fill_places(&mut self, now: Timestamp) {
        let waiting = |line: &Option<Line>| line.as_ref().is_some_and(|l| l.due.is_some_and(|due| due > now));
        let places: Vec<u32> =
            (0u32..).zip(&self.spawner.lines).filter(|(_, line)| waiting(line)).map(|(at, _)| at).collect();
        for place in places {
            self.lay_rebirth(now, place, now);
        }
    }

    /// A flow has lived as long as it was meant to: its last replies are waited for.
    pub(super) fn life_over(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if flow.is_over() {
            return;
        }
        flow.probing = false;
        self.report_mtu(no);
        self.mark_round(now, no);
        self.at(now + LATE, Reason::End(no));
    }

    /// The last replies of a flow whose life is over are in.
    pub(super) fn end_due(&mut self, now: Timestamp, no: FlowNo) {
        if self.flow(no).is_some_and(|flow| !flow.is_over()) {
            self.end_flow(now, no, End::Finished);
        }
    }

    /// Forgets the flows that are over and settled, where the run is long or they were meant to be short.
    pub(super) fn release(&mut self, now: Timestamp) {
        for no in self.numbers() {
            let Some(flow) = self.flow(no) else { continue };
            let Some(ended) = flow.ended_at else { continue };
            let short = flow.opened_at.is_some() && flow.spec.lifetime().is_some();
            let waits = if flow.opened_at.is_some() { LATE } else { UNOPENED_KEPT };
            let ago = now.since(ended);
            if !(self.plan.long || short) || ago < waits {
                continue;
            }
            let asked = now.since(ended.max(self.back_since()));
            let too_long = asked >= SETTLE_LIMIT && !self.is_out(now);
            let unsettled = !flow.pending.is_empty() || !flow.taps.is_accounted();
            if unsettled && !too_long {
                continue;
            }
            self.settle_flow(no);
            self.report_pieces(now, no);
            if self.flow(no).is_some_and(|flow| flow.spec.carrier == Carrier::Tcp) {
                self.report_tcp(no);
            }
            self.flows.remove(&no);
            self.nonces.retain(|_, (of, _)| *of != no);
        }
    }
}
