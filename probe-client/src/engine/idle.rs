//! Single-use idle gaps, and ladders of them.
//!
//! A flow of a gap sends until it was answered, asks for what is to come during the gap, and falls silent. Whether its
//! mapping outlived the gap is told by the listener's packets: those that it was asked to send at the gap's end arrive, or
//! they do not. Only then does the client send again, since its own packets make a new mapping, often with the same port.
//! TCP needs no such care: its state is either there for the next segment or it is not.
//!
//! Each flow serves one gap: a flow that survived one is no measure of another.

use std::time::Duration;

use probe_analysis::observation::{Death, End, FlowNo, IdleGap, Observation, Refresh};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::probe::{EchoBody, ReplyAfter};

use super::flow::Outgoing;
use super::{Engine, Phase, Reason};
use crate::plan::{FlowSpec, Idle, Ladder, Script};

/// From one packet of the warm-up, or of the trial, to the next.
const STEP: Duration = Duration::from_millis(400);
/// Packets of the warm-up of a flow of datagrams: some that are answered more than two seconds after the first one, since
/// boxes keep such a flow far longer than one of a question and an answer, and a product's are such.
const WARM_UP: u32 = 8;
/// And before the flow is given up.
const MAX_WARM_UP: u32 = 20;
/// Packets that the listener sends at the gap's end, and the client after it: at 10 % loss all are lost once in 10,000.
const COPIES: u32 = 4;
/// How long the last of them is waited for.
const WAIT: Duration = Duration::from_secs(3);
/// TCP is waited for longer: its timer doubles from a second on.
const TCP_WAIT: Duration = Duration::from_secs(12);
/// Most refreshes that a listener is asked for; longer gaps are refreshed less often.
const MAX_REFRESHES: u32 = 48;
/// Rounds of bisection at most.
const MAX_ROUNDS: u32 = 12;
/// Gaps tried between two that are known.
const BETWEEN: u32 = 3;
/// What a rung needs beside its gap.
const AROUND: Duration = Duration::from_secs(20);

/// Where a flow of a gap is.
#[derive(Debug)]
pub(super) struct IdleState {
    idle: Idle,
    stage: Stage,
    /// The listener's count of moves when the gap began.
    moves: Option<u8>,
    /// Numbers of the probes that are answered at the gap's end.
    at_end: Vec<u64>,
    arrived: u32,
    /// Numbers of the probes of the trial.
    trial: Vec<u64>,
    answered: bool,
    moved: bool,
    /// The host did something that makes the gap say nothing.
    void: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    WarmUp { sent: u32 },
    Asking { sent: u32 },
    Gap { from: Timestamp, next_refresh: Option<Timestamp> },
    Listening { until: Timestamp },
    Trial { sent: u32, until: Timestamp },
    Over,
}

impl IdleState {
    fn new(idle: Idle) -> Self {
        Self {
            idle,
            stage: Stage::WarmUp { sent: 0 },
            moves: None,
            at_end: Vec::new(),
            arrived: 0,
            trial: Vec::new(),
            answered: false,
            moved: false,
            void: false,
        }
    }

    /// How often the gap is refreshed.
    fn every(&self) -> Duration {
        self.idle.every.max(self.idle.gap / MAX_REFRESHES).max(Duration::from_millis(500))
    }

    pub(super) fn sent(&mut self, _now: Timestamp, seq: u64, after: ReplyAfter) {
        match (after, self.stage) {
            (ReplyAfter::AtOnce, Stage::Trial { .. }) => self.trial.push(seq),
            (ReplyAfter::Tenths(_), _) if after == self.at_end() => self.at_end.push(seq),
            (ReplyAfter::AtOnce | ReplyAfter::Tenths(_) | ReplyAfter::Never, _) => {}
        }
    }

    /// What each copy of the question asks for: the first one's answer is due when the gap after the last one ends.
    fn at_end(&self) -> ReplyAfter {
        ReplyAfter::delay(self.idle.gap + STEP * (COPIES - 1))
    }

    pub(super) fn answered(&mut self, seq: u64, _at: Timestamp, echo: &EchoBody) {
        match self.stage {
            Stage::WarmUp { .. } => {
                self.answered = true;
                self.moves = Some(echo.moves);
            }
            Stage::Gap { .. } | Stage::Listening { .. } if self.at_end.contains(&seq) => self.arrived += 1,
            Stage::Trial { .. } if self.trial.contains(&seq) => {
                self.answered = true;
                self.moved |= self.moves.is_some_and(|moves| moves != echo.moves);
            }
            // A late answer at the gap's end comes while the trial is on.
            Stage::Trial { .. } if self.at_end.contains(&seq) => self.arrived += 1,
            Stage::Asking { .. }
            | Stage::Gap { .. }
            | Stage::Listening { .. }
            | Stage::Trial { .. }
            | Stage::Over => {}
        }
    }
}

/// A ladder as it is climbed.
#[derive(Debug, Default)]
pub(super) struct LadderState {
    open: Vec<FlowNo>,
    /// Gap, and whether it was survived.
    known: Vec<(Duration, bool)>,
    rounds: u32,
    begun: bool,
}

impl LadderState {
    pub(super) fn is_running(&self) -> bool {
        !self.open.is_empty() || !self.begun
    }

    /// The longest gap that most survived, and the shortest beyond it that most did not.
    fn bounds(&self) -> (Duration, Option<Duration>) {
        let mut gaps: Vec<Duration> = self.known.iter().map(|(gap, _)| *gap).collect();
        gaps.sort_unstable();
        gaps.dedup();
        let survived = |gap: Duration| {
            let of = self.known.iter().filter(|(g, _)| *g == gap);
            let (all, well) = (of.clone().count(), of.filter(|(_, survived)| *survived).count());
            2 * well > all
        };
        let low = gaps.iter().copied().filter(|gap| survived(*gap)).max().unwrap_or(Duration::ZERO);
        let high = gaps.iter().copied().find(|gap| *gap > low && !survived(*gap));
        (low, high)
    }

    /// The gaps of the next round; none where the ladder is climbed, or where what is left of the time is too short.
    fn next(&self, ladder: &Ladder, left: Duration) -> Vec<Duration> {
        let fits = |gap: &Duration| gap.saturating_add(AROUND) <= left;
        if !self.begun {
            return ladder.gaps.iter().copied().filter(fits).collect();
        }
        let (low, Some(high)) = self.bounds() else { return Vec::new() };
        let step = (high - low) / (BETWEEN + 1);
        if high - low <= ladder.resolution.max(low / 50) || self.rounds >= MAX_ROUNDS || step.is_zero() {
            return Vec::new();
        }
        (1..=BETWEEN).map(|n| low + step * n).filter(fits).collect()
    }
}

impl Engine {
    /// A flow of a gap is open.
    pub(super) fn idle_opened(&mut self, now: Timestamp, no: FlowNo, first: bool) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let Script::Idle(idle) = flow.spec.script else { return };
        if first {
            flow.idle = Some(IdleState::new(idle));
            self.at(now, Reason::Idle(no));
        } else if let Some(state) = flow.idle.as_mut() {
            // The listener forgot it: it is not the path that did.
            state.void = true;
        }
    }

    /// The next step of a flow of a gap.
    pub(super) fn idle_due(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| flow.is_open()) else { return };
        let tcp = flow.spec.carrier != Carrier::Udp;
        let Some(state) = flow.idle.as_mut() else { return };
        match state.stage {
            Stage::WarmUp { sent } if state.answered && (tcp || sent >= WARM_UP) => match tcp {
                true => self.begin_gap(now, no, tcp),
                false => self.ask_for_end(now, no, 0),
            },
            Stage::Asking { sent } => self.ask_for_end(now, no, sent),
            Stage::WarmUp { sent } if sent >= MAX_WARM_UP => self.decide_gap(now, no, None, None),
            Stage::WarmUp { sent } => {
                state.stage = Stage::WarmUp { sent: sent + 1 };
                self.outgoing.push_back((no, Outgoing::Idle(ReplyAfter::AtOnce)));
                self.at(now + STEP, Reason::Idle(no));
            }
            Stage::Gap { from, next_refresh } => {
                let end = from + state.idle.gap;
                if now >= end {
                    let until = now + if tcp { Duration::ZERO } else { STEP * COPIES + WAIT };
                    state.stage = Stage::Listening { until };
                    return self.at(until, Reason::Idle(no));
                }
                let every = state.every();
                if next_refresh.is_some_and(|at| at <= now) {
                    self.outgoing.push_back((no, Outgoing::Idle(ReplyAfter::Never)));
                    let next = now + self.jittered(every, 10);
                    if let Some(state) = self.flows.get_mut(&no).and_then(|flow| flow.idle.as_mut()) {
                        state.stage = Stage::Gap { from, next_refresh: Some(next) };
                    }
                    return self.at(next.min(end), Reason::Idle(no));
                }
                self.at(next_refresh.map_or(end, |at| at.min(end)), Reason::Idle(no));
            }
            Stage::Listening { until } if now >= until => {
                if state.arrived > 0 {
                    return self.decide_gap(now, no, Some(true), None);
                }
                state.answered = false;
                let until = now + if tcp { TCP_WAIT } else { STEP * COPIES + WAIT };
                state.stage = Stage::Trial { sent: 0, until };
                self.at(now, Reason::Idle(no));
            }
            Stage::Trial { sent, until } => {
                if state.answered || now >= until {
                    return self.judge_trial(now, no, tcp, until);
                }
                let copies = if tcp { 1 } else { COPIES };
                if sent < copies {
                    state.stage = Stage::Trial { sent: sent + 1, until };
                    self.outgoing.push_back((no, Outgoing::Idle(ReplyAfter::AtOnce)));
                }
                self.at((now + STEP).min(until), Reason::Idle(no));
            }
            Stage::Listening { .. } | Stage::Over => {}
        }
    }

    /// Asks for what is to come during the gap, and in several copies for what is to come at its end: one after another,
    /// as they come back, so that one burst of loss does not take them all. The gap begins with the last.
    fn ask_for_end(&mut self, now: Timestamp, no: FlowNo, sent: u32) {
        let Some(state) = self.flows.get_mut(&no).and_then(|flow| flow.idle.as_mut()) else { return };
        let (gap, every, at_end) = (state.idle.gap, state.every(), state.at_end());
        state.stage = Stage::Asking { sent: sent + 1 };
        self.outgoing.push_back((no, Outgoing::Idle(at_end)));
        if sent + 1 < COPIES {
            return self.at(now + STEP, Reason::Idle(no));
        }
        if matches!(state.idle.refreshed, Refresh::Down | Refresh::Both) {
            let mut at = every;
            while at + STEP < gap {
                self.outgoing.push_back((no, Outgoing::Idle(ReplyAfter::delay(at))));
                at += every;
            }
        }
        self.begin_gap(now, no, false);
    }

    /// Falls silent.
    fn begin_gap(&mut self, now: Timestamp, no: FlowNo, tcp: bool) {
        let Some(state) = self.flows.get_mut(&no).and_then(|flow| flow.idle.as_mut()) else { return };
        let (gap, every) = (state.idle.gap, state.every());
        let up = matches!(state.idle.refreshed, Refresh::Up | Refresh::Both) && !tcp;
        state.stage = Stage::Gap { from: now, next_refresh: up.then_some(now + every) };
        self.at(if up { (now + every).min(now + gap) } else { now + gap }, Reason::Idle(no));
    }

    fn judge_trial(&mut self, now: Timestamp, no: FlowNo, tcp: bool, until: Timestamp) {
        let Some(state) = self.flow(no).and_then(|flow| flow.idle.as_ref()) else { return };
        let (answered, moved, late) = (state.answered, state.moved, state.arrived > 0);
        let began = until - if tcp { TCP_WAIT } else { STEP * COPIES + WAIT };
        // Silence says something only where somebody was heard meanwhile.
        let heard = self.others_heard(no, began - Duration::from_secs(1));
        let (survived, how) = match (answered, moved) {
            _ if late => (Some(true), None),
            (true, _) if tcp => (Some(true), None),
            (true, true) => (Some(false), Some(Death::Moved)),
            // The listener's packets did not come through, and the client's opened the way again.
            (true, false) => (Some(false), Some(Death::Silent)),
            (false, _) if heard => (Some(false), Some(Death::Silent)),
            (false, _) => (None, None),
        };
        self.decide_gap(now, no, survived, how);
    }

    /// The connection of a flow of a gap was reset or closed.
    pub(super) fn idle_closed(&mut self, now: Timestamp, no: FlowNo) {
        let Some(state) = self.flow(no).and_then(|flow| flow.idle.as_ref()) else { return };
        let after_gap = !matches!(state.stage, Stage::WarmUp { .. } | Stage::Asking { .. } | Stage::Over);
        if after_gap {
            self.tell_gap(now, no, Some(false), Some(Death::Reset));
        }
    }

    fn decide_gap(&mut self, now: Timestamp, no: FlowNo, survived: Option<bool>, how: Option<Death>) {
        self.tell_gap(now, no, survived, how);
        self.end_flow(now, no, End::Finished);
    }

    fn tell_gap(&mut self, now: Timestamp, no: FlowNo, survived: Option<bool>, how: Option<Death>) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let ladder = flow.ladder;
        let Some(state) = flow.idle.as_mut().filter(|state| state.stage != Stage::Over) else { return };
        let Idle { gap, refreshed, .. } = state.idle;
        let void = state.void;
        state.stage = Stage::Over;
        flow.idle = None;
        let (survived, how) = if void { (None, None) } else { (survived, how) };
        if let (Some(ladder), Some(survived)) = (ladder, survived)
            && let Some(ladder) = self.ladders.get_mut(ladder as usize)
        {
            ladder.known.push((gap, survived));
        }
        self.observe(Observation::IdleGap(IdleGap { flow: no, gap, refreshed, survived, how, at: now }));
    }

    /// The host slept, or its network changed: gaps that were under way say nothing.
    pub(super) fn void_gaps(&mut self, from: Timestamp, to: Timestamp) {
        if from == to {
            return;
        }
        for state in self.flows.values_mut().filter_map(|flow| flow.idle.as_mut()) {
            state.void = true;
        }
    }

    /// A flow is over: was it the last rung of a round?
    pub(super) fn rung_is_over(&mut self, now: Timestamp, no: FlowNo) {
        let Some(place) = self.flow(no).and_then(|flow| flow.ladder) else { return };
        // One that was cut off before it was decided says that it is not known.
        self.tell_gap(now, no, None, None);
        let Some(ladder) = self.ladders.get_mut(place as usize) else { return };
        ladder.open.retain(|open| *open != no);
        if ladder.open.is_empty() && self.phase <= Phase::Measure {
            self.at(now, Reason::Ladder(place));
        }
    }

    /// A round of a ladder begins.
    pub(super) fn ladder_round_due(&mut self, now: Timestamp, place: u32) {
        if self.phase > Phase::Measure {
            return;
        }
        let Some(ladder) = self.plan.ladders.get(place as usize).cloned() else { return };
        let ends = ladder.until.map_or(Timestamp::NEVER, |until| self.started + until);
        let measured_until =
            if self.phase == Phase::Reach { self.phase_ends + self.plan.measure } else { self.phase_ends };
        let left = ends.min(measured_until).since(now);
        let Some(state) = self.ladders.get_mut(place as usize) else { return };
        let gaps = state.next(&ladder, left);
        state.begun = true;
        state.rounds += 1;
        // The longest gaps open first, so that a round is over soonest.
        for gap in gaps.into_iter().rev() {
            for copy in 0..ladder.copies.max(1) {
                self.rung(now, place, &ladder, gap, copy);
            }
        }
    }

    fn rung(&mut self, now: Timestamp, place: u32, ladder: &Ladder, gap: Duration, copy: u8) {
        let script = Script::Idle(Idle { gap, refreshed: ladder.refreshed, every: ladder.every });
        let seconds = (gap.as_secs_f64() * 10.0).round() / 10.0;
        let name = format!("{}/{seconds}s/{}", ladder.spec.name, copy + 1);
        let Some(no) = self.spawn(now, FlowSpec { name, script, ..ladder.spec.clone() }) else { return };
        if let (Some(flow), Some(state)) = (self.flows.get_mut(&no), self.ladders.get_mut(place as usize)) {
            flow.ladder = Some(place);
            state.open.push(no);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::experiments::idle_ladder;

    fn climb(timeout: Duration, gaps: &[u64], left: Duration) -> (LadderState, u32) {
        let gaps: Vec<Duration> = gaps.iter().map(|s| Duration::from_secs(*s)).collect();
        let to = "192.0.2.1:8886".parse().unwrap();
        let ladder = idle_ladder(to, Carrier::Udp, Refresh::None, &gaps, Duration::ZERO, None);
        let (mut state, mut tried) = (LadderState::default(), 0);
        loop {
            let gaps = state.next(&ladder, left);
            state.begun = true;
            state.rounds += 1;
            if gaps.is_empty() {
                return (state, tried);
            }
            tried += gaps.len() as u32;
            state.known.extend(gaps.iter().flat_map(|gap| [(*gap, *gap < timeout); 2]));
        }
    }

    proptest! {
        #[test]
        fn the_timeout_is_found_to_a_second_or_two_percent(timeout_ms in 1_000u64..900_000) {
            let timeout = Duration::from_millis(timeout_ms);
            let (state, tried) = climb(timeout, &[15, 30, 60, 120, 240, 480, 900], Duration::MAX);
            let (low, high) = state.bounds();
            let high = high.unwrap();
            prop_assert!(low < timeout && timeout <= high);
            prop_assert!(high - low <= Duration::from_secs(1).max(low / 50));
            prop_assert!(tried < 40);
        }
    }

    #[test]
    fn what_outlives_every_gap_is_left_at_that() {
        let (state, tried) = climb(Duration::from_secs(10_000), &[15, 60, 240], Duration::MAX);
        assert_eq!((state.bounds(), tried), ((Duration::from_secs(240), None), 3));
    }

    #[test]
    fn no_gap_is_begun_that_cannot_end() {
        let left = Duration::from_secs(100);
        let (state, _) = climb(Duration::from_secs(50), &[15, 60, 240], left);
        assert!(state.known.iter().all(|(gap, _)| *gap + AROUND <= left));
    }

    #[test]
    fn one_lost_trial_does_not_turn_a_majority() {
        let s = Duration::from_secs;
        let known = vec![(s(10), true), (s(10), true), (s(10), false), (s(20), false), (s(20), false)];
        let state = LadderState { known, ..LadderState::default() };
        assert_eq!(state.bounds(), (s(10), Some(s(20))));
    }
}
