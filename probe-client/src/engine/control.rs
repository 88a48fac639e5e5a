//! Requests to the listener, over whichever flow is alive: each is sent again over another flow until it is answered.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use probe_analysis::observation::{
    End, FlowNo, Moved, Observation, OpeningArrivals, Purpose, StreamEnd, StreamEndSeen, TcpView,
};
use probe_protocol::control::{
    self, ControlRefusal, EndRequest, FlowRequest, HandInRequest, LedgerRequest, MAX_HAND_IN,
    MAX_HAND_IN_CHUNK, MAX_MESSAGE, OpeningsRequest, Reply, Request, StreamOver, TcpFacts,
};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::{BODY_AT, Kind};

use super::flow::{Flow, LedgerLook, Outgoing, State};
use super::probing::seal_and_dress;
use super::{Action, Engine, Phase, Reason, Transmit};

/// Requests on their way at once.
const MAX_OUTSTANDING: usize = 8;
/// Requests that wait their turn.
const MAX_QUEUED: usize = 1024;
/// How often one request is sent before it is given up.
const MAX_TRIES: u32 = 6;
/// Shortest wait for an answer.
const MIN_WAIT: Duration = Duration::from_millis(500);
/// Wait for an answer while nothing at all is heard.
const OUT_WAIT: Duration = Duration::from_secs(5);
/// From an answer that does not say that the verdict is kept to the next question.
const HAND_IN_GAP: Duration = Duration::from_millis(100);
/// Datagram that carries a request over UDP, bytes on the wire.
const UDP_REQUEST: usize = 1200;

#[derive(Debug)]
struct Outstanding {
    about: FlowNo,
    message: Request,
    tries: u32,
    /// How many hellos each unopened UDP flow had sent when an [`Request::Openings`] was asked.
    hellos: Vec<(FlowNo, u32)>,
}

#[derive(Debug)]
struct HandIn {
    document: Vec<u8>,
    have: u32,
    kept: bool,
}

/// The requests of a run.
#[derive(Debug, Default)]
pub(super) struct Requests {
    next: u64,
    queue: VecDeque<(FlowNo, Request)>,
    outstanding: BTreeMap<u64, Outstanding>,
    hand_in: Option<HandIn>,
}

impl Requests {
    pub(super) fn held(&self) -> usize {
        self.queue.len() + self.outstanding.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.outstanding.is_empty()
    }

    pub(super) fn hand_in(&mut self, document: &[u8]) {
        if document.len() > MAX_HAND_IN as usize {
            return;
        }
        self.hand_in = Some(HandIn { document: document.to_vec(), have: 0, kept: false });
        self.queue_chunks(0);
    }

    fn queue_chunks(&mut self, from: u32) {
        let Some(hand_in) = &self.hand_in else { return };
        let total = hand_in.document.len() as u32;
        let mut offset = from;
        for chunk in hand_in.document[from as usize..].chunks(MAX_HAND_IN_CHUNK) {
            let request = HandInRequest { total, offset, chunk: chunk.to_vec() };
            offset += chunk.len() as u32;
            self.queue.push_back((FlowNo(0), Request::HandIn(request)));
        }
    }

    /// Whether nothing is under way, and a verdict that was handed in is kept.
    pub(super) fn is_settled(&self) -> bool {
        self.is_idle() && self.hand_in.as_ref().is_none_or(|h| h.kept)
    }

    pub(super) fn is_handed_in(&self) -> bool {
        self.hand_in.as_ref().is_some_and(|h| h.kept)
    }

    /// Sends the last piece again: the listener's answer tells whether it keeps the whole by now.
    fn queue_last_chunk(&mut self) {
        let whole = self.hand_in.as_ref().map_or(0, |h| h.document.len());
        self.queue_chunks((whole.saturating_sub(1) / MAX_HAND_IN_CHUNK * MAX_HAND_IN_CHUNK) as u32);
    }

    fn is_asked(&self, message: &Request) -> bool {
        self.queue.iter().any(|(_, m)| m == message)
            || self.outstanding.values().any(|o| &o.message == message)
    }

    /// Whether a ledger of this flow is being asked for.
    pub(super) fn is_asking_ledger(&self, about: FlowNo) -> bool {
        let asks = |no: FlowNo, m: &Request| no == about && matches!(m, Request::Ledger(_));
        self.queue.iter().any(|(no, m)| asks(*no, m))
            || self.outstanding.values().any(|o| asks(o.about, &o.message))
    }
}

/// A stream that was cut after it had opened: the listener is asked how it saw that.
fn is_cut(flow: &Flow) -> bool {
    flow.has_stream()
        && matches!(flow.spec.carrier, Carrier::Tcp | Carrier::Tls)
        && matches!(flow.state, State::Ended(End::Reset | End::Closed | End::TimedOut))
}

impl Engine {
    /// Queues a request about a flow.
    pub(super) fn ask(&mut self, now: Timestamp, about: FlowNo, message: Request) {
        if self.requests.queue.len() < MAX_QUEUED && !self.requests.is_asked(&message) {
            self.requests.queue.push_back((about, message));
            self.pump_requests(now);
        }
    }

    /// Sends queued requests as far as the bound on those under way allows.
    pub(super) fn pump_requests(&mut self, now: Timestamp) {
        // While nothing is heard, one question is enough to find out that answers come again.
        let most = if self.is_out(now) { 1 } else { MAX_OUTSTANDING };
        while self.requests.outstanding.len() < most {
            let Some((about, message)) = self.requests.queue.pop_front() else { return };
            let number = self.requests.next;
            self.requests.next += 1;
            let hellos = self.hellos_sent();
            let request = Outstanding { about, message, tries: 0, hellos };
            self.requests.outstanding.insert(number, request);
            self.send_request(now, number);
        }
    }

    /// Asks whether the verdict is kept by now.
    pub(super) fn hand_in_due(&mut self, now: Timestamp) {
        if self.phase == Phase::HandIn && !self.requests.is_settled() {
            self.requests.queue_last_chunk();
            self.pump_requests(now);
        }
    }

    pub(super) fn request_due(&mut self, now: Timestamp, number: u64) {
        let Some(request) = self.requests.outstanding.get(&number) else { return };
        if request.tries >= MAX_TRIES {
            let given_up = self.requests.outstanding.remove(&number);
            if let Some(request) = given_up {
                self.load_unanswered(request.about, &request.message);
            }
            self.pump_requests(now);
        } else {
            self.send_request(now, number);
        }
    }

    fn send_request(&mut self, now: Timestamp, number: u64) {
        let own = self.requests.outstanding.get(&number).and_then(|r| self.own_way(r));
        let ways = own.map_or_else(|| self.ways(), |own| vec![own]);
        let Some(request) = self.requests.outstanding.get_mut(&number) else { return };
        let tries = request.tries;
        request.tries += 1;
        let way = ways.get(tries as usize % ways.len().max(1)).copied();
        let srtt = way.and_then(|no| self.flow(no)).and_then(|f| f.srtt);
        let wait = srtt.map_or(MIN_WAIT, |rtt| rtt * 3).max(MIN_WAIT);
        let wait = if self.is_out(now) && self.phase <= Phase::Measure { wait.max(OUT_WAIT) } else { wait };
        if let Some(no) = way {
            self.outgoing.push_back((no, Outgoing::Request(number)));
        }
        self.at(now + wait, Reason::Request(number));
    }

    /// Open flows, those that a request is most likely to get through on first: what answered last, streams before
    /// datagrams.
    /// A load on a stream is begun and counted on that stream.
    fn own_way(&self, request: &Outstanding) -> Option<FlowNo> {
        let load = matches!(request.message, Request::Bulk(_) | Request::Bins(_));
        let flow = self.flow(request.about).filter(|f| load && f.has_stream() && f.is_open())?;
        Some(flow.no)
    }

    fn ways(&self) -> Vec<FlowNo> {
        let rank = |flow: &Flow| {
            let kind = match flow.spec.carrier {
                Carrier::Tls => 0,
                Carrier::Tcp => 1,
                Carrier::Udp => 2,
                Carrier::Quic => 3,
                Carrier::QuicInverse => 4,
            };
            // Seconds without an answer come first, so that a dead flow is the last resort.
            let last = flow.last_reply.map_or(0, |t| t.as_nanos() / 2_000_000_000);
            // Flows whose packets are counted carry nothing else where another way is alive.
            let counted = !matches!(flow.spec.purpose, Purpose::Steady | Purpose::Reach | Purpose::PathMtu);
            // A load's own path may be full.
            let bulk = flow.spec.purpose == Purpose::Bulk;
            (bulk, std::cmp::Reverse(last), counted, kind, flow.no)
        };
        let mut open: Vec<&Flow> = self.flows.values().filter(|f| f.is_open()).collect();
        open.sort_by_key(|f| rank(f));
        open.into_iter().map(|f| f.no).collect()
    }

    pub(super) fn write_request(&mut self, no: FlowNo, number: u64, wire: &mut Vec<u8>) -> Option<Transmit> {
        let request = self.requests.outstanding.get(&number)?;
        let flow = self.flows.get_mut(&no)?;
        if !flow.is_open() {
            return None;
        }
        let whole = BODY_AT + 4 + MAX_MESSAGE;
        let len = if flow.has_stream() { whole } else { whole.min(flow.spec.dress.record_len(UDP_REQUEST)) };
        let mut record = vec![0; len];
        control::encode_request(&request.message, record.get_mut(BODY_AT..)?).ok()?;
        seal_and_dress(flow, number, Kind::Control, &mut record, wire)
    }

    pub(super) fn control_reply(&mut self, now: Timestamp, via: FlowNo, number: u64, body: &[u8]) {
        let Ok(reply) = control::decode_reply(body) else { return };
        if let Some(flow) = self.flows.get_mut(&via) {
            flow.last_reply = Some(now);
        }
        self.heard(now, via);
        let Some(request) = self.requests.outstanding.remove(&number) else { return };
        let about = request.about;
        match (request.message, reply) {
            (Request::Bulk(asked), Reply::Bulk(reply)) => self.load_answered(about, &asked, Some(reply)),
            (Request::Bulk(asked), _) => self.load_answered(about, &asked, None),
            (Request::Bins(asked), Reply::Bins(reply)) => self.bins_answered(about, &asked, Some(reply)),
            (Request::Bins(asked), _) => self.bins_answered(about, &asked, None),
            (Request::Ledger(asked), Reply::Ledger(ledger)) => self.ledger_page(now, about, &asked, &ledger),
            (Request::Flow(_), Reply::Flow(facts)) => {
                if let Some(flow) = self.flows.get_mut(&about) {
                    flow.listener_tcp = facts.tcp;
                }
                if self.flow(about).is_some_and(is_cut) {
                    let seen = match facts.over {
                        None => StreamEndSeen::Open,
                        Some(StreamOver::Reset) => StreamEndSeen::Reset,
                        Some(StreamOver::Closed) => StreamEndSeen::Closed,
                        Some(StreamOver::Own) => StreamEndSeen::Own,
                    };
                    self.observe(Observation::StreamEnd(StreamEnd { flow: about, seen, at: now }));
                }
                if let Some((old, _)) = facts.moved.last() {
                    self.observe(Observation::Moved(Moved {
                        flow: about,
                        at: now,
                        old: *old,
                        new: facts.source,
                    }));
                }
            }
            (Request::Datagrams(asked), Reply::Datagrams(page)) => {
                self.datagrams_page(now, about, &asked, &page);
            }
            (Request::HandIn(_), Reply::HandIn(reply)) => {
                if let Some(hand_in) = self.requests.hand_in.as_mut() {
                    hand_in.have = hand_in.have.max(reply.have);
                    hand_in.kept |= reply.kept;
                    // The listener writes it to its disk in its own time: the last piece is sent again to ask.
                    if !hand_in.kept && self.requests.is_idle() {
                        self.at(now + HAND_IN_GAP, Reason::HandIn);
                    }
                }
            }
            (Request::Openings(_), Reply::Openings(openings)) => {
                let arrived = |no: FlowNo| {
                    let ours = openings
                        .openings
                        .iter()
                        .filter(|o| self.nonces.get(&o.flow_nonce).is_some_and(|n| n.0 == no));
                    ours.map(|o| o.arrived).sum::<u32>()
                };
                // Flows that have opened since need no explanation any more.
                let closed = |no: FlowNo| self.flow(no).is_some_and(|f| f.link.is_none());
                let hellos = request.hellos.iter().filter(|(no, sent)| *sent > 0 && closed(*no));
                let udp: Vec<_> = hellos.map(|(no, sent)| (*no, arrived(*no).min(*sent), *sent)).collect();
                let over_udp = self.flow(via).is_some_and(|f| !f.has_stream());
                let tcp_accepted = over_udp.then_some(openings.tcp_accepted);
                // ClientHellos are counted apart from the stream that carries the question, so that any way will do.
                let client_hellos = Some(openings.client_hellos);
                self.observe(Observation::Arrivals(OpeningArrivals {
                    at: now,
                    udp,
                    tcp_accepted,
                    client_hellos,
                    strange_datagrams: Some(openings.strange_datagrams),
                    listener: openings.local,
                }));
            }
            (Request::Ledger(asked), Reply::Error(error)) if error.why == ControlRefusal::UnknownFlow => {
                self.ledger_gone(now, about, &asked);
            }
            // An error, or a reply to another question: what was asked stays unknown.
            _ => {}
        }
        self.pump_requests(now);
        self.advance(now);
    }

    /// UDP flows that are not open, with the hellos they sent since the session exists.
    fn hellos_sent(&self) -> Vec<(FlowNo, u32)> {
        let closed = |flow: &&Flow| !flow.has_stream() && flow.link.is_none();
        let sent = |no: FlowNo| self.nonces.values().filter(|(n, _)| *n == no).map(|(_, sent)| sent).sum();
        self.flows.values().filter(closed).map(|f| (f.no, sent(f.no))).collect()
    }

    /// Asks for the ledger of a flow from its first unsettled probe on.
    pub(super) fn ask_ledger(&mut self, now: Timestamp, no: FlowNo) {
        if self.requests.is_asking_ledger(no) {
            return;
        }
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let Some(id) = flow.ledger_id else { return };
        flow.look = Some(LedgerLook { asked: now, upto: flow.next_seq() });
        let from = flow.base_seq;
        self.ask(now, no, Request::Ledger(LedgerRequest { flow: id, from, settled_below: from }));
    }

    /// Asks for all that is still open when the last replies are in.
    pub(super) fn ask_everything(&mut self, now: Timestamp) {
        for no in self.numbers() {
            if self.flow(no).is_some_and(|f| !f.has_all_replies()) {
                self.ask_ledger(now, no);
            }
        }
        for no in self.numbers() {
            self.fetch_sockets(now, no);
        }
        let tcp = self.flows.values().filter(|f| f.is_open() && f.spec.carrier == Carrier::Tcp || is_cut(f));
        let tcp: Vec<_> = tcp.filter_map(|f| f.ledger_id.map(|id| (f.no, id))).collect();
        for (no, id) in tcp {
            self.actions.push_back(Action::ReadTcp { flow: no });
            self.ask(now, no, Request::Flow(FlowRequest { flow: id }));
        }
        // Once for all: what came strange, and which address of the listener's it came to.
        if self.session_since.is_some() {
            self.ask(now, FlowNo(0), Request::Openings(OpeningsRequest {}));
        }
    }

    /// Asks how a stream that was cut ended at the listener, where the run goes on without it.
    pub(super) fn ask_end(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flow(no).filter(|flow| is_cut(flow)) else { return };
        if let (true, Some(id)) = (self.plan.long || flow.spec.lifetime().is_some(), flow.ledger_id) {
            self.ask(now, no, Request::Flow(FlowRequest { flow: id }));
        }
    }

    /// Asks what arrived of the flows that are closed although they tried, where another one is open.
    fn ask_openings(&mut self, now: Timestamp) {
        let closed = |f: &Flow| f.link.is_none() && f.opening.attempt > 0;
        if self.session_since.is_some() && self.flows.values().any(closed) {
            self.ask(now, FlowNo(0), Request::Openings(OpeningsRequest {}));
        }
    }

    pub(super) fn tcp_facts(&mut self, no: FlowNo, facts: TcpFacts) {
        if let Some(flow) = self.flows.get_mut(&no) {
            flow.tcp = Some(facts);
        }
    }

    /// Says what both ends know of a TCP flow.
    pub(super) fn report_tcp(&mut self, no: FlowNo) {
        let Some(flow) = self.flow(no) else { return };
        if flow.tcp.is_some() || flow.listener_tcp.is_some() {
            let view = TcpView { flow: flow.no, client: flow.tcp, listener: flow.listener_tcp };
            self.observations.push_back(Observation::Tcp(view));
        }
    }

    /// Ends the session and every flow.
    pub(super) fn close_all(&mut self, now: Timestamp) {
        let _ = now;
        if let Some(no) = self.ways().first().copied() {
            let number = self.requests.next;
            self.requests.next += 1;
            let message = Request::End(EndRequest {});
            let hellos = Vec::new();
            let request = Outstanding { about: no, message, tries: MAX_TRIES, hellos };
            self.requests.outstanding.insert(number, request);
            self.outgoing.push_back((no, Outgoing::Request(number)));
        }
        for flow in self.flows.values() {
            if flow.state == State::Open {
                if !flow.has_stream() {
                    self.outgoing.push_back((flow.no, Outgoing::Close));
                }
                self.actions.push_back(Action::Disconnect { flow: flow.no });
            }
        }
    }

    /// Ledgers are asked for while measuring, so that little is left for the end and the listener can forget.
    pub(super) fn ledger_due(&mut self, now: Timestamp) {
        if self.phase > Phase::Drain {
            return;
        }
        // Nobody would answer while the path is out.
        let asks = !(self.plan.long && self.is_out(now));
        for no in self.numbers() {
            self.settle_replied(now, no);
            if asks && self.flow(no).is_some_and(|f| f.has_overdue(now)) {
                self.ask_ledger(now, no);
            }
        }
        if self.phase == Phase::Reach {
            self.ask_openings(now);
        }
        self.release(now);
        let every = self.plan.ledger_every;
        let every = if self.plan.long { self.jittered(every, 20) } else { every };
        self.at(now + every, Reason::Ledger);
    }
}
