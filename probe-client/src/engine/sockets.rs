//! The ledger of the sockets under QUIC: every UDP datagram of a connection, known at both ends by a hash, so that loss
//! under QUIC is counted exactly and not guessed from its statistics.
//!
//! It is compared in rounds: what had left by a mark is looked up once stragglers have had their time, and forgotten. The
//! last mark of a flow is set while it is still open: what is under way when its socket closes arrives nowhere, and is
//! nobody's loss.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::Duration;

use probe_analysis::observation::{DatagramCounts, FlowNo, Observation};
use probe_protocol::control::{DatagramsReply, DatagramsRequest, Request};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::flow::{Flow, MAX_TAPPED};
use super::settle::LATE;
use super::{Engine, Phase, Reason};

/// How often sockets are compared in a long run: far sooner than the listener forgets.
const EVERY: Duration = Duration::from_secs(300);

/// The ledger of a QUIC flow's own socket, and what the listener's socket says.
#[derive(Debug, Default)]
pub(super) struct Taps {
    sent: Vec<u32>,
    received: HashSet<u32>,
    listener_received: HashSet<u32>,
    listener_sent: Vec<u32>,
    /// How much of the listener's two lists has been fetched.
    fetched_received: u64,
    fetched_sent: u64,
    /// How many datagrams the listener had sent where `listener_sent` begins.
    settled_down: u64,
    stage: Stage,
    mark_sent: usize,
    mark_down: Option<u64>,
    marked_at: Timestamp,
    /// The mark was set when the socket was closed already: of what came last nobody knows whether it was lost.
    after_end: bool,
    /// At the run's end, stragglers have had their time.
    waited: bool,
    up_whole: bool,
    down_whole: bool,
    /// Something was overwritten or came too often: this round gives no counts.
    spoiled: bool,
    /// The flow is over: one last round.
    over: bool,
    done: bool,
    counts: Option<DatagramCounts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    /// It was marked how far the lists went then.
    Marked,
    /// The listener's lists are being fetched.
    Fetching,
}

impl Taps {
    /// Entries held.
    pub(super) fn held(&self) -> usize {
        self.sent.len() + self.received.len() + self.listener_received.len() + self.listener_sent.len()
    }

    /// Whether nothing more will be learned.
    pub(super) fn is_accounted(&self) -> bool {
        self.done || (self.sent.is_empty() && self.counts.is_none() && self.stage == Stage::Idle)
    }

    fn note(&mut self, sent: bool, hash: u32) {
        if self.done {
        } else if self.sent.len() >= MAX_TAPPED || self.received.len() >= MAX_TAPPED {
            self.spoiled = true;
        } else if sent {
            self.sent.push(hash);
        } else {
            self.received.insert(hash);
        }
    }

    fn mark(&mut self, now: Timestamp) {
        self.stage = Stage::Marked;
        self.mark_sent = self.sent.len();
        self.mark_down = None;
        self.marked_at = now;
        self.after_end = self.over;
    }

    /// How many of the listener's datagrams left before the mark, of those that were fetched.
    fn down_before_mark(&self) -> usize {
        let before = self.mark_down.unwrap_or(0).saturating_sub(self.settled_down);
        usize::try_from(before).unwrap_or(usize::MAX).min(self.listener_sent.len())
    }

    /// Whether everything was fetched, and something that left before the mark is missing at its other end.
    fn misses_something(&self) -> bool {
        let whole = self.stage == Stage::Fetching && self.up_whole && self.down_whole && !self.spoiled;
        whole
            && (self.sent.iter().take(self.mark_sent).any(|h| !self.listener_received.contains(h))
                || self
                    .listener_sent
                    .iter()
                    .take(self.down_before_mark())
                    .any(|h| !self.received.contains(h)))
    }

    /// Compares what was fetched; true where the counts have grown by a whole round.
    fn compare(&mut self, flow: FlowNo) -> bool {
        self.stage = Stage::Idle;
        let whole = !self.spoiled && self.up_whole && self.down_whole;
        let down_number = self.down_before_mark();
        if self.mark_down.take().is_none() || !whole {
            self.restart();
            return false;
        }
        let up: Vec<u32> = self.sent.drain(..self.mark_sent.min(self.sent.len())).collect();
        let mut down: Vec<u32> = self.listener_sent.drain(..down_number).collect();
        self.settled_down += down_number as u64;
        if self.after_end {
            let last = down.iter().rposition(|h| self.received.contains(h));
            down.truncate(last.map_or(0, |last| last + 1));
        }
        let lost_up = up.iter().filter(|h| !self.listener_received.remove(h)).count() as u64;
        let lost_down = down.iter().filter(|h| !self.received.remove(h)).count() as u64;
        let counts = self.counts.get_or_insert(DatagramCounts {
            flow,
            sent_up: 0,
            lost_up: 0,
            sent_down: 0,
            lost_down: 0,
        });
        counts.sent_up += up.len() as u64;
        counts.lost_up += lost_up;
        counts.sent_down += down.len() as u64;
        counts.lost_down += lost_down;
        true
    }

    /// Forgets this round: the next one begins with what comes from now on.
    fn restart(&mut self) {
        self.sent.clear();
        self.received.clear();
        self.listener_received.clear();
        self.listener_sent.clear();
        self.settled_down = self.fetched_sent;
        self.spoiled = false;
    }
}

impl Engine {
    pub(super) fn tapped(&mut self, no: FlowNo, sent: bool, hash: u32) {
        if let Some(flow) = self.flows.get_mut(&no) {
            flow.taps.note(sent, hash);
        }
    }

    /// Lays the rounds of a QUIC flow of a long run.
    pub(super) fn lay_sockets(&mut self, now: Timestamp, no: FlowNo) {
        if self.plan.long && self.flow(no).is_some_and(has_sockets) {
            let every = self.jittered(EVERY, 20);
            self.at(now + every, Reason::Sockets(no));
        }
    }

    /// The next step of a round: mark, wait for stragglers, fetch.
    pub(super) fn sockets_due(&mut self, now: Timestamp, no: FlowNo) {
        let out = self.is_out(now);
        let Some(flow) = self.flow(no) else { return };
        match flow.taps.stage {
            _ if flow.taps.done => {}
            // At the run's end: stragglers have had their time, and are looked for once more.
            Stage::Fetching if self.phase == Phase::Settle => {
                if let Some(flow) = self.flows.get_mut(&no) {
                    flow.taps.waited = true;
                }
                self.fetch_sockets(now, no);
            }
            // Nobody answers now; the lists wait.
            _ if out => self.at(now + Duration::from_secs(10), Reason::Sockets(no)),
            Stage::Idle | Stage::Fetching if flow.taps.over || flow.is_open() => {
                self.mark_round(now, no);
                self.at(now + LATE, Reason::Sockets(no));
            }
            Stage::Marked if flow.taps.mark_down.is_none() => {
                // The question was lost.
                self.mark_round(now, no);
                self.at(now + LATE, Reason::Sockets(no));
            }
            Stage::Marked => {
                self.fetch_sockets(now, no);
                let again = if self.flow(no).is_some_and(|f| f.taps.over) { LATE * 10 } else { EVERY };
                let again = self.jittered(again, 20);
                self.at(now + again, Reason::Sockets(no));
            }
            Stage::Idle | Stage::Fetching => {}
        }
    }

    /// A flow is over: what is left of it is compared once more.
    pub(super) fn mark_sockets(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| has_sockets(flow)) else { return };
        flow.taps.over = true;
        if self.plan.long || flow.spec.lifetime().is_some() {
            self.at(now, Reason::Sockets(no));
        }
    }

    /// Marks how far the lists go now.
    pub(super) fn mark_round(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| has_sockets(flow)) else { return };
        let Some(id) = flow.ledger_id.filter(|_| !flow.taps.done) else { return };
        flow.taps.mark(now);
        self.ask(now, no, Request::Datagrams(DatagramsRequest { flow: id, received: false, from: u64::MAX }));
    }

    /// Whether, at the run's end, something is missing that may only be late. It is looked for once more.
    pub(super) fn awaits_stragglers(&mut self, now: Timestamp) -> bool {
        let late = LATE.min(self.plan.drain);
        let waits = |flow: &&Flow| !flow.taps.done && !flow.taps.waited && flow.taps.misses_something();
        let waiting: Vec<(FlowNo, Timestamp)> =
            self.flows.values().filter(waits).map(|flow| (flow.no, flow.taps.marked_at + late)).collect();
        for (no, at) in &waiting {
            if *at <= now {
                self.sockets_due(now, *no);
            } else if !self.timers.iter().any(|Reverse((_, reason))| *reason == Reason::Sockets(*no)) {
                self.at(*at, Reason::Sockets(*no));
            }
        }
        !waiting.is_empty()
    }

    /// Asks for the listener's two lists from where they were left.
    pub(super) fn fetch_sockets(&mut self, now: Timestamp, no: FlowNo) {
        let fits = |flow: &&mut Flow| has_sockets(flow) && !flow.taps.done;
        let Some(flow) = self.flows.get_mut(&no).filter(fits) else { return };
        let Some(id) = flow.ledger_id else { return };
        let taps = &mut flow.taps;
        taps.stage = Stage::Fetching;
        (taps.up_whole, taps.down_whole) = (false, false);
        let from = [(true, taps.fetched_received), (false, taps.fetched_sent)];
        for (received, from) in from {
            self.ask(now, no, Request::Datagrams(DatagramsRequest { flow: id, received, from }));
        }
    }

    /// Takes in a page of one of the listener's lists.
    pub(super) fn datagrams_page(
        &mut self,
        now: Timestamp,
        no: FlowNo,
        asked: &DatagramsRequest,
        page: &DatagramsReply,
    ) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let taps = &mut flow.taps;
        if asked.from == u64::MAX {
            taps.mark_down = Some(page.total);
            return;
        }
        let fetched = if asked.received { &mut taps.fetched_received } else { &mut taps.fetched_sent };
        if *fetched != asked.from || taps.stage != Stage::Fetching {
            return;
        }
        let next = page.first + page.hashes.len() as u64;
        *fetched = next;
        if page.first != asked.from || taps.held() > 4 * MAX_TAPPED {
            taps.spoiled = true;
        }
        if asked.received {
            taps.listener_received.extend(&page.hashes);
        } else {
            taps.listener_sent.extend(&page.hashes);
        }
        if next < page.total && !page.hashes.is_empty() {
            return self.ask(now, no, Request::Datagrams(DatagramsRequest { from: next, ..asked.clone() }));
        }
        if asked.received {
            taps.up_whole = true;
        } else {
            taps.down_whole = true;
        }
        if taps.up_whole && taps.down_whole && (self.plan.long || taps.over) {
            self.compare_sockets(no);
        }
    }

    /// Says what the comparison of both sockets gave; of a flow that is over, once.
    pub(super) fn compare_sockets(&mut self, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| has_sockets(flow)) else { return };
        let taps = &mut flow.taps;
        if taps.done {
            return;
        }
        let grown = taps.stage == Stage::Fetching && taps.compare(no);
        taps.done = taps.over;
        if let Some(counts) = taps.counts.filter(|_| grown) {
            self.observe(Observation::Datagrams(counts));
        }
    }
}

fn has_sockets(flow: &Flow) -> bool {
    match flow.spec.carrier {
        Carrier::Quic | Carrier::QuicInverse => true,
        Carrier::Udp | Carrier::Tcp | Carrier::Tls => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_add_up_to_the_whole() {
        let mut taps = Taps::default();
        let no = FlowNo(0);
        let (mut sent, mut arrived) = (0u32, HashSet::new());
        for round in 0..5u32 {
            for n in 0..100 {
                taps.note(true, sent);
                if n % 10 != round % 10 {
                    arrived.insert(sent);
                }
                sent += 1;
            }
            taps.mark(Timestamp::ZERO);
            taps.mark_down = Some(u64::from(round + 1) * 50);
            // More leaves after the mark: it belongs to the next round.
            taps.note(true, sent);
            arrived.insert(sent);
            sent += 1;
            taps.listener_received.extend(arrived.drain());
            // Of fifty replies, each fifth is lost on its way.
            for n in 0..50u32 {
                let hash = 1_000_000 + round * 50 + n;
                taps.listener_sent.push(hash);
                if n % 5 != 0 {
                    taps.note(false, hash);
                }
            }
            (taps.up_whole, taps.down_whole, taps.stage) = (true, true, Stage::Fetching);
            assert!(taps.compare(no));
        }
        let counts = taps.counts.unwrap();
        assert_eq!((counts.sent_up, counts.lost_up), (504, 50));
        assert_eq!((counts.sent_down, counts.lost_down), (250, 50));
        assert!(taps.held() < 10, "{}", taps.held());
    }

    /// Three replies of which the second came, and a mark after all of them.
    fn three_replies(over: bool) -> Taps {
        let mut taps = Taps { over, ..Taps::default() };
        taps.note(false, 2);
        taps.mark(Timestamp::ZERO);
        taps.mark_down = Some(3);
        taps.listener_sent.extend([1, 2, 3]);
        (taps.up_whole, taps.down_whole, taps.stage) = (true, true, Stage::Fetching);
        taps
    }

    #[test]
    fn what_was_under_way_when_the_socket_closed_is_nobody_s_loss() {
        for (over, counted) in [(false, (3, 2)), (true, (2, 1))] {
            let mut taps = three_replies(over);
            assert!(taps.misses_something() && taps.compare(FlowNo(0)));
            let counts = taps.counts.unwrap();
            assert_eq!((counts.sent_down, counts.lost_down), counted, "{over}");
        }
    }

    #[test]
    fn what_is_only_late_is_missed_until_it_comes() {
        let mut taps = three_replies(false);
        taps.note(true, 9);
        assert!(taps.misses_something());
        taps.note(false, 1);
        taps.note(false, 3);
        assert!(!taps.misses_something(), "what left after the mark is not asked for");
    }
}
