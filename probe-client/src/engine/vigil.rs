//! Whether flows, and the path, are alive.
//!
//! A flow is judged silent when its unanswered probes in a row would be rarer than one in a million at its own rate of
//! loss. It is followed by a fresh port only where another flow was heard after its silence began: else it is the whole
//! path that is out, and fresh ports would say nothing that one canary does not say.

use std::time::Duration;

use probe_analysis::observation::{End, FlowNo, Observation, Silence};
use probe_protocol::time::Timestamp;

use super::flow::{Flow, Silent};
use super::{Engine, Phase, Reason};
use crate::plan::{AfterDeath, Plan};

/// How often flows are looked at, about.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A silent flow is kept and watched for so long beside its successor.
const WATCHED: Duration = Duration::from_secs(60);
/// A flow that answers again is believed after so long; until then its successor stays.
const BELIEVED: Duration = Duration::from_secs(30);
/// Unanswered probes in a row that are enough where the listener's boot that it was opened with is gone.
const ORPHAN: usize = 2;
/// Nothing heard from anybody for so long, and for several intervals: the path is out.
const OUT: Duration = Duration::from_secs(3);
/// From here on probes are thinned out.
const THIN: Duration = Duration::from_secs(120);
/// And further.
const THINNER: Duration = Duration::from_secs(600);
/// Thinned out or not, a flow that probes more often than this probes at least this often.
const THINNEST: Duration = Duration::from_secs(10);
/// What counts as one loss in the share of lost probes: about the last fifty.
const WEIGHT: f64 = 0.02;

/// What is known of the path as a whole.
#[derive(Debug)]
pub(super) struct Vigil {
    /// When anything was heard last.
    heard: Timestamp,
    /// Since when the path is there, as far as is known.
    back: Timestamp,
    /// When the boot of the listener that answers now was first heard of.
    boot_since: Timestamp,
    out_after: Duration,
}

impl Vigil {
    pub(super) fn new(plan: &Plan, now: Timestamp) -> Self {
        let interval = plan.shortest_interval().unwrap_or_default();
        Self { heard: now, back: now, boot_since: now, out_after: OUT.max(interval * 4) }
    }
}

/// Whether a plan has anything that is to be looked after.
pub(super) fn is_needed(plan: &Plan) -> bool {
    plan.long || plan.flows.iter().any(|flow| flow.death == AfterDeath::Reborn)
}

impl Flow {
    /// Notes what became of a probe.
    pub(super) fn note_fate(&mut self, lost: bool) {
        self.loss += WEIGHT * (f64::from(u8::from(lost)) - self.loss);
    }

    /// How many unanswered probes in a row say that it is dead: at its own rate of loss they would be rarer than 1e-6.
    fn unanswered_limit(&self) -> usize {
        let rate = self.loss.clamp(0.03, 0.5);
        (6.0 / -rate.log10()).ceil().clamp(5.0, 20.0) as usize
    }

    fn patience(&self) -> Duration {
        let base = Duration::from_millis(1500);
        // TCP is late after a loss, not dead: its timer doubles.
        let base = if self.probes_are_datagrams() { base } else { base * 4 };
        self.srtt.map_or(base, |rtt| (rtt * 4).max(base))
    }

    /// Unanswered probes since the last answer that are old enough to be missed, from number `from` on; and when the
    /// first of them was sent.
    fn unanswered(&self, now: Timestamp, from: u64) -> (usize, Option<Timestamp>) {
        let first = self.highest_reply.map_or(0, |h| h + 1).max(from).max(self.base_seq);
        let at = (first - self.base_seq) as usize;
        let upto = self.pending.partition_point(|p| p.sent + self.patience() <= now);
        let missed = self.pending.range(at.min(upto)..upto).filter(|p| p.excluded.is_none());
        let count = missed.clone().count();
        (count, missed.map(|p| p.sent).next())
    }
}

impl Engine {
    /// Whether nothing at all has been heard for too long.
    pub(super) fn is_out(&self, now: Timestamp) -> bool {
        self.session_since.is_some() && now.since(self.vigil.heard) >= self.vigil.out_after
    }

    /// Something authentic came on a flow.
    pub(super) fn heard(&mut self, now: Timestamp, no: FlowNo) {
        let silence = now.since(self.vigil.heard);
        let was_out = self.is_out(now);
        self.vigil.heard = now;
        if was_out {
            self.path_is_back(now, silence);
        }
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if let Some(silent) = flow.silent.take() {
            flow.revived = Some(now);
            let silence = Silence { flow: no, since: silent.since, at: now, over: true };
            self.observe(Observation::Silence(silence));
        }
    }

    /// Since when the path is there, as far as is known.
    pub(super) fn back_since(&self) -> Timestamp {
        self.vigil.back
    }

    fn path_is_back(&mut self, now: Timestamp, silence: Duration) {
        self.vigil.back = now;
        // Who stays silent from now on is judged from now on.
        for no in self.numbers() {
            let Some(flow) = self.flows.get_mut(&no) else { continue };
            flow.judged_from = flow.next_seq();
            let thinned = silence >= THIN && self.plan.long;
            if thinned && flow.is_open() && flow.probe_at.is_some() && !flow.interval.is_zero() {
                let interval = flow.interval.as_nanos().max(1) as u64;
                // Never sooner than the plan says after the last one.
                let last = flow.pending.back().map_or(now, |p| p.scheduled + flow.interval);
                let at = (now + Duration::from_nanos(flow.shift % interval)).max(last);
                self.schedule_probe(no, at);
            }
        }
        self.fill_places(now);
    }

    /// The interval to a flow's next probe: longer while nothing is heard for minutes, in a long run.
    pub(super) fn thinned(&self, now: Timestamp, interval: Duration) -> Duration {
        if !self.plan.long || self.session_since.is_none() {
            return interval;
        }
        let factor = match now.since(self.vigil.heard) {
            silence if silence >= THINNER => 16,
            silence if silence >= THIN => 4,
            _ => return interval,
        };
        (interval * factor).min(THINNEST.max(interval))
    }

    /// The host slept, or its network changed: what went unanswered until now says nothing about the flows.
    pub(super) fn forgive(&mut self, now: Timestamp) {
        self.vigil.heard = self.vigil.heard.max(now);
        for flow in self.flows.values_mut() {
            flow.judged_from = flow.next_seq();
        }
    }

    /// Looks at every flow that is to be followed when it dies.
    pub(super) fn look_due(&mut self, now: Timestamp) {
        if self.phase > Phase::Measure {
            return;
        }
        for no in self.numbers() {
            self.look_at(now, no);
        }
        self.flush_old_faults(now);
        let next = self.jittered(LOOK_EVERY, 20);
        self.at(now + next, Reason::Look);
    }

    /// Another boot of the listener answers.
    pub(super) fn boot_changed(&mut self, now: Timestamp) {
        self.vigil.boot_since = now;
    }

    /// Whether a flow is a connection to a boot of the listener that is gone: it and all others of that boot were last
    /// heard before another one answered. Where two listeners share a name, both boots are heard.
    fn is_orphan(&self, flow: &Flow) -> bool {
        let former =
            flow.has_stream() && self.boot.is_some_and(|(boot, _)| flow.boot.is_some_and(|b| b != boot));
        let of_it = |other: &&Flow| other.boot == flow.boot;
        let heard = |other: &Flow| other.last_reply.is_some_and(|at| at >= self.vigil.boot_since);
        former && !self.flows.values().filter(of_it).any(heard)
    }

    fn look_at(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flow(no) else { return };
        if !flow.is_watched() || !flow.is_open() {
            return;
        }
        if self.is_orphan(flow) && flow.unanswered(now, flow.judged_from).0 >= ORPHAN {
            // No answer is to be waited for beside its successor: who had its keys is no more.
            return self.end_flow(now, no, End::ListenerRestarted);
        }
        let limit = flow.unanswered_limit();
        let (line, last) = (flow.line, flow.last_reply.unwrap_or(now));
        if flow.silent.is_none() {
            let (count, _) = flow.unanswered(now, flow.judged_from);
            if count >= limit {
                if let Some(flow) = self.flows.get_mut(&no) {
                    flow.silent = Some(Silent { since: last, followed: None });
                    flow.revived = None;
                }
                self.observe(Observation::Silence(Silence { flow: no, since: last, at: now, over: false }));
            } else if flow.revived.is_some_and(|at| now.since(at) >= BELIEVED) {
                if let Some(flow) = self.flows.get_mut(&no) {
                    flow.revived = None;
                }
                // Its successor is not needed.
                if let Some(next) = line.and_then(|place| self.successor(place)) {
                    self.life_over(now, next);
                }
            }
            return;
        }
        let (count, first) = flow.unanswered(now, flow.judged_from);
        let followed = flow.silent.and_then(|silent| silent.followed);
        match followed {
            None if count >= limit && first.is_some_and(|first| self.others_heard(no, first)) => {
                let follows = line.is_some_and(|place| self.follow(now, place, no));
                if let Some(silent) = self.flows.get_mut(&no).and_then(|flow| flow.silent.as_mut()) {
                    silent.followed = follows.then_some(now);
                }
            }
            Some(since) if now.since(since) >= WATCHED && !self.is_out(now) => {
                self.end_flow(now, no, End::TimedOut);
            }
            Some(_) | None => {}
        }
    }

    /// Whether another flow was heard clearly after this moment.
    pub(super) fn others_heard(&self, than: FlowNo, after: Timestamp) -> bool {
        let after = after + Duration::from_secs(1);
        let heard = |flow: &Flow| flow.no != than && flow.last_reply.is_some_and(|at| at > after);
        self.flows.values().any(heard)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use probe_protocol::wire::dress::Dress;
    use probe_protocol::wire::hello::Carrier;

    use super::*;
    use crate::plan::{FlowSpec, Purpose};

    #[test]
    fn the_limit_keeps_chance_below_one_in_a_million() {
        let to: SocketAddr = "192.0.2.1:8886".parse().unwrap();
        let spec = FlowSpec::new("x", Carrier::Udp, Dress::Random, Purpose::Old, to);
        let mut flow = Flow::new(FlowNo(0), spec, 0);
        for loss in [0.0, 0.03, 0.1, 0.3, 0.5] {
            flow.loss = loss;
            let limit = flow.unanswered_limit() as i32;
            assert!(loss.powi(limit) <= 1.01e-6, "{loss} {limit}");
            assert!(limit == 5 || loss.powi(limit - 1) > 1e-6, "{loss} {limit}");
        }
        for _ in 0..500 {
            flow.note_fate(true);
        }
        assert_eq!(flow.unanswered_limit(), 20);
    }
}
