//! The ledger of the sockets under QUIC: every UDP datagram of a connection, known at both ends by a hash, so that loss
//! under QUIC is counted exactly and not guessed from its statistics.
//!
//! It is compared in rounds: what had left by a mark is looked up once stragglers have had their time, and forgotten.

use std::collections::HashSet;

use std::time::Duration;

use probe_analysis::observation::{DatagramCounts, FlowNo, Observation};
use probe_protocol::control::{DatagramsReply, DatagramsRequest, Request};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::flow::{Flow, MAX_TAPPED};
use super::settle::LATE;
use super::{Engine, Reason};

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

    fn mark(&mut self) {
        self.stage = Stage::Marked;
        self.mark_sent = self.sent.len();
        self.mark_down = None;
    }

    /// Compares what was fetched; true where the counts have grown by a whole round.
    fn compare(&mut self, flow: FlowNo) -> bool {
        self.stage = Stage::Idle;
        let mark_down = self.mark_down.take();
        let whole = !self.spoiled && self.up_whole && self.down_whole;
        let (Some(mark_down), true) = (mark_down, whole) else {
            self.restart();
            return false;
        };
        let up: Vec<u32> = self.sent.drain(..self.mark_sent.min(self.sent.len())).collect();
        let down_number =
            (mark_down.saturating_sub(self.settled_down) as usize).min(self.listener_sent.len());
        let down: Vec<u32> = self.listener_sent.drain(..down_number).collect();
        self.settled_down += down_number as u64;
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
        let Some(id) = flow.ledger_id else { return };
        flow.taps.mark();
        self.ask(now, no, Request::Datagrams(DatagramsRequest { flow: id, received: false, from: u64::MAX }));
    }

    /// Asks for the listener's two lists from where they were left.
    pub(super) fn fetch_sockets(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| has_sockets(flow)) else { return };
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
            taps.mark();
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
}
