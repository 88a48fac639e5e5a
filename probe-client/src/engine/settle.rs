//! What became of each probe: said once, and only when it is known.

use std::time::Duration;

use probe_analysis::observation::{End, Excluded, Fate, FlowEnded, FlowNo, Observation, Probe};
use probe_protocol::control::{LedgerReply, LedgerRequest, Request};
use probe_protocol::time::Timestamp;

use super::flow::{Flow, MAX_PENDING, Pending, State};
use super::{Engine, Phase};

/// A probe without a reply for so long is looked up in the listener's ledger. Late is not lost: the slowest satellite
/// with the fullest buffer answers within this.
pub(super) const LATE: Duration = Duration::from_secs(3);
/// Between two probes so close, a listener without room may have dropped any flow's datagrams.
const BRIEF: Duration = Duration::from_secs(1);

impl Flow {
    /// Whether the transport itself still tries to bring what is under way: on a connection that is open, a segment is
    /// late, however long its timer waits, and lost only with the connection.
    fn is_retransmitting(&self) -> bool {
        self.is_open() && !self.probes_are_datagrams()
    }

    /// Whether a probe is without a reply for long.
    pub(super) fn has_overdue(&self, now: Timestamp) -> bool {
        !self.is_retransmitting()
            && self
                .pending
                .iter()
                .any(|p| p.reply.is_none() && p.excluded.is_none() && now.since(p.sent) >= LATE)
    }
}

impl Engine {
    /// Settles the oldest probes as far as they have replies and no second ones are to be expected.
    pub(super) fn settle_replied(&mut self, now: Timestamp, no: FlowNo) {
        while let Some(flow) = self.flows.get_mut(&no) {
            let settled = flow
                .pending
                .front()
                .is_some_and(|p| (p.reply.is_some() || p.excluded.is_some()) && now.since(p.sent) >= LATE);
            if !settled {
                return;
            }
            self.settle_front(no, Fate::LostUnknown);
        }
    }

    /// Settles the oldest probe of a flow; `otherwise` where neither a reply nor the host decides.
    fn settle_front(&mut self, no: FlowNo, otherwise: Fate) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let seq = flow.base_seq;
        let Some(pending) = flow.pending.pop_front() else { return };
        flow.base_seq += 1;
        let fate = fate(&pending, otherwise);
        match fate {
            Fate::Received => flow.note_fate(false),
            Fate::LostUp | Fate::LostDown => flow.note_fate(true),
            Fate::LostUnknown | Fate::Excluded(_) => {}
        }
        if let Some(pieces) = &mut flow.pieces {
            pieces.settled(seq, fate);
        }
        // An excluded probe tells nothing of the path, its reply included.
        let reply = pending.reply.filter(|_| fate == Fate::Received).map(|reply| *reply);
        self.observe(Observation::Probe(Probe {
            flow: no,
            seq,
            scheduled: pending.scheduled,
            sent: pending.sent,
            size: pending.size,
            fate,
            reply,
            extra_replies: pending.extra_replies,
        }));
    }

    /// Takes in a page of the listener's ledger; asks for the next one, or settles by the whole.
    pub(super) fn ledger_page(
        &mut self,
        now: Timestamp,
        no: FlowNo,
        asked: &LedgerRequest,
        page: &LedgerReply,
    ) {
        // At the end, what is not there by now is waited for no longer.
        let late = if self.phase >= Phase::Settle { LATE.min(self.plan.drain) } else { LATE };
        let Some(flow) = self.flows.get_mut(&no) else { return };
        // A late answer about the flow's former life says nothing about this one.
        if flow.ledger_id != Some(asked.flow) {
            return;
        }
        let known_from = page.known_from.max(flow.ledger_from);
        for (first, count) in &page.ranges {
            let last = flow.next_seq();
            for seq in (*first).max(flow.base_seq)..first.saturating_add(*count).min(last) {
                if let Some(pending) = flow.pending_mut(seq) {
                    pending.arrived = true;
                }
            }
        }
        if let Some(next) = page.next.filter(|n| *n > asked.from) {
            self.ask(now, no, Request::Ledger(LedgerRequest { from: next, ..asked.clone() }));
            return;
        }
        let Some(look) = flow.look.take() else { return };
        if flow.is_retransmitting() && self.phase < Phase::Settle {
            return;
        }
        while let Some(flow) = self.flow(no) {
            let Some(front) = flow.pending.front() else { return };
            let seq = flow.base_seq;
            let old_enough = seq < look.upto && look.asked.since(front.sent) >= late;
            let replied = front.reply.is_some() || front.excluded.is_some();
            if !old_enough || (replied && now.since(front.sent) < late) {
                break;
            }
            let arrived = front.arrived;
            let fate = match (arrived, seq >= known_from) {
                (true, _) => Fate::LostDown,
                (false, true) => Fate::LostUp,
                (false, false) => Fate::LostUnknown,
            };
            self.settle_front(no, fate);
        }
        // A page that was asked for before the last probes were old enough says nothing of them: asked again at the end,
        // it does.
        let early = look.asked + self.plan.settle < self.phase_ends;
        if self.phase == Phase::Settle && early && self.flow(no).is_some_and(|f| !f.has_all_replies()) {
            self.ask_ledger(now, no);
        }
    }

    /// Settles everything: the run is over.
    pub(super) fn settle_all(&mut self, now: Timestamp) {
        for no in self.numbers() {
            self.settle_flow(no);
            self.compare_sockets(no);
            self.report_pieces(now, no);
            self.report_tcp(no);
            if self.flow(no).is_some_and(|f| f.state == State::Open) {
                self.observe(Observation::FlowEnded(FlowEnded { flow: no, at: now, end: End::Finished }));
            }
        }
    }

    /// Settles what is left of a flow by what is known of it.
    pub(super) fn settle_flow(&mut self, no: FlowNo) {
        while self.flow(no).is_some_and(|f| !f.pending.is_empty()) {
            let arrived = self.flow(no).and_then(|f| f.pending.front()).is_some_and(|p| p.arrived);
            self.settle_front(no, if arrived { Fate::LostDown } else { Fate::LostUnknown });
        }
    }

    /// The listener does not know a flow any more: what it was asked for will never be known.
    pub(super) fn ledger_gone(&mut self, now: Timestamp, no: FlowNo, asked: &LedgerRequest) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| flow.ledger_id == Some(asked.flow)) else {
            return;
        };
        let Some(look) = flow.look.take() else { return };
        while let Some((front, seq)) = self.flow(no).and_then(|f| Some((f.pending.front()?, f.base_seq))) {
            if seq >= look.upto || now.since(front.sent) < LATE {
                return;
            }
            let fate = if front.arrived { Fate::LostDown } else { Fate::LostUnknown };
            self.settle_front(no, fate);
        }
    }

    /// Makes room where too many probes of a flow are open: the oldest is given up as unknown.
    pub(super) fn make_room(&mut self, no: FlowNo) {
        if self.flow(no).is_some_and(|flow| flow.pending.len() >= MAX_PENDING) {
            self.settle_front(no, Fate::LostUnknown);
        }
    }

    /// The listener's socket had no room for something that arrived between this probe of a flow and the one answered before
    /// it. Whose datagrams those were is not known: what the flow itself lost meanwhile is not the path's, nor is what others
    /// did that share the socket, unless that was long.
    pub(super) fn no_room_there(&mut self, no: FlowNo, seq: u64) {
        let between = self.flows.get_mut(&no).and_then(|flow| {
            let (before, since) = flow.answered.filter(|(before, _)| *before < seq)?;
            flow.pending_mut(seq).map(|pending| (before + 1, since, pending.sent))
        });
        let Some((next, since, until)) = between else { return };
        let is_brief = until.since(since) <= BRIEF;
        for flow in self.flows.values_mut().filter(|flow| flow.probes_are_datagrams()) {
            let (is_own, first) = (flow.no == no, flow.base_seq);
            for (at, pending) in (first..).zip(&mut flow.pending) {
                let is_meant = if is_own {
                    (next..seq).contains(&at)
                } else {
                    is_brief && pending.sent >= since && pending.sent <= until
                };
                if is_meant && pending.reply.is_none() && !pending.arrived {
                    pending.excluded.get_or_insert(Excluded::ListenerOverflow);
                }
            }
        }
    }

    /// Probes without a reply whose time fell into a sleep of the client, or the like, are not the path's.
    pub(super) fn exclude_between(&mut self, from: Timestamp, to: Timestamp, why: Excluded) {
        for flow in self.flows.values_mut() {
            for pending in &mut flow.pending {
                if pending.reply.is_none() && pending.sent + LATE >= from && pending.sent <= to {
                    pending.excluded.get_or_insert(why);
                }
            }
        }
    }
}

/// What became of a probe; `otherwise` where neither a reply nor the host decides.
pub(super) fn fate(pending: &Pending, otherwise: Fate) -> Fate {
    match (pending.reply.is_some(), pending.excluded) {
        // Its answer comes when it was asked to, and says nothing about the path's delay or loss.
        (_, Some(Excluded::Experiment)) => Fate::Excluded(Excluded::Experiment),
        (true, _) => Fate::Received,
        // There was room for it: it was lost on the way back.
        (false, Some(Excluded::ListenerOverflow)) if pending.arrived => otherwise,
        (false, Some(why)) => Fate::Excluded(why),
        (false, None) => otherwise,
    }
}
