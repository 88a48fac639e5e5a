//! From a connection to an open flow.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use probe_analysis::observation::{
    AnsweredLate, Attempt, Channel, End, Excluded, FlowEnded, FlowNo, FlowOpened, FlowPlanned, Handshake,
    ListenerRestarted, Observation, Outcome, Purpose,
};
use probe_protocol::PROTOCOL_VERSION;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Carrier, Challenge, Hello, Refusal, Refuse};
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::stream::{Deframer, Framer};
use probe_protocol::wire::{BODY_AT, HANDSHAKE_BODY_LEN, Kind};
use rand::RngCore;

use super::flow::{Flow, Link, MAX_OPENING_BYTES, Outgoing, State, Way};
use super::mtu::Search;
use super::{Action, ChannelFacts, Closed, Engine, Phase, Reason, Transmit, foreign};
use crate::plan::{Life, Script, Start};

/// How long one attempt may take: several hellos, or TCP, TLS and a hello over a satellite.
const ATTEMPT: Duration = Duration::from_millis(2600);
/// Attempts per flow, each from a new source port.
const MAX_ATTEMPTS: u32 = 3;
/// From a refusal to the next attempt.
const RETRY: Duration = Duration::from_millis(300);
/// From one hello to the next within an attempt: a dozen of them, so that a flow whose first packets are dropped opens in
/// one attempt, from one port, and says how many they were.
const HELLO_GAPS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(200),
    Duration::from_millis(200),
    Duration::from_millis(200),
];

impl Engine {
    /// Starts the next attempt of a flow.
    pub(super) fn open(&mut self, now: Timestamp, no: FlowNo) {
        let nonce = self.rng.next_u64();
        // Once any flow is open, it is our listener that is there.
        let ask_as_stranger = self.identity.invite.is_some() && self.session_since.is_none();
        let Some(flow) = self.flows.get_mut(&no) else { return };
        // What is late for its turn has been given up by then; others may open as long as the run measures.
        if flow.state != State::Waiting || self.phase > Phase::Measure {
            return;
        }
        flow.state = State::Connecting;
        let first = flow.opening.attempt == 0;
        flow.opening.attempt += 1;
        flow.opening.from = now;
        flow.opening.nonce = nonce;
        flow.opening.cookie = [0; 16];
        flow.opening.hellos = 0;
        flow.opening.first_answered = None;
        flow.opening.bytes.clear();
        flow.opening.received = 0;
        flow.opening.source = None;
        flow.opening.connect = None;
        flow.opening.channel = None;
        flow.opening.way = match (flow.opening.attempt, flow.spec.carrier) {
            (2, Carrier::Tcp) => Way::Http,
            (3, Carrier::Tcp | Carrier::Udp | Carrier::Tls) if ask_as_stranger => Way::Stranger,
            _ => Way::Own,
        };
        let attempt = flow.opening.attempt;
        let (carrier, to) = (flow.spec.carrier, flow.spec.to);
        let server_name = flow.spec.server_name;
        let fragments = flow.spec.purpose == Purpose::Fragments;
        if first {
            let planned = FlowPlanned {
                flow: no,
                name: flow.spec.name.clone(),
                at: now,
                carrier,
                dress: flow.spec.dress,
                purpose: flow.spec.purpose,
                to,
                size: flow.spec.size,
                interval: flow.spec.interval,
                replaces: flow.replaces,
                server_name: names_itself(carrier).then_some(flow.spec.server_name),
                life: flow.spec.lifetime(),
                marks: if flow.spec.purpose == Purpose::Marks {
                    super::probing::MARKS.to_vec()
                } else {
                    Vec::new()
                },
            };
            self.observe(Observation::FlowPlanned(planned));
        }
        self.nonces.insert(nonce, (no, 0));
        self.actions.push_back(Action::Connect { flow: no, carrier, to, server_name, fragments });
        self.at(now + ATTEMPT, Reason::GiveUp(no, attempt));
    }

    pub(super) fn connected(
        &mut self,
        now: Timestamp,
        no: FlowNo,
        source: SocketAddr,
        connect: Option<Duration>,
        channel: Option<ChannelFacts>,
    ) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if flow.state != State::Connecting {
            return;
        }
        flow.state = State::Hello;
        flow.opening.source = Some(source);
        flow.opening.connect = connect;
        flow.opening.channel = channel;
        let attempt = flow.opening.attempt;
        let (what, is_udp) = (
            if flow.opening.way == Way::Http { Outgoing::Http } else { Outgoing::Hello },
            !flow.has_stream(),
        );
        self.outgoing.push_back((no, what));
        if is_udp {
            self.at(now + HELLO_GAPS[0], Reason::Retransmit(no, attempt));
        }
    }

    /// TCP's own handshake succeeded.
    pub(super) fn reached(&mut self, no: FlowNo, connect: Duration) {
        if let Some(flow) = self.flows.get_mut(&no).filter(|flow| flow.state == State::Connecting) {
            flow.opening.connect = Some(connect);
        }
    }

    pub(super) fn retransmit(&mut self, now: Timestamp, no: FlowNo, attempt: u32) {
        let Some(flow) = self.flow(no) else { return };
        if flow.state == State::Hello && flow.opening.attempt == attempt {
            let gap = HELLO_GAPS.get(flow.opening.hellos as usize).copied().unwrap_or(HELLO_GAPS[3]);
            self.outgoing.push_back((no, Outgoing::Hello));
            self.at(now + gap, Reason::Retransmit(no, attempt));
        }
    }

    pub(super) fn give_up(&mut self, now: Timestamp, no: FlowNo, attempt: u32) {
        let Some(flow) = self.flow(no) else { return };
        if flow.opening.attempt != attempt {
            return;
        }
        match flow.state {
            State::Connecting => {
                let connected = flow.opening.connect.is_some();
                self.attempt_failed(now, no, Outcome::Silent { connected }, true);
            }
            State::Hello => {
                let outcome = self.unanswered(no, Outcome::Silent { connected: true });
                self.attempt_failed(now, no, outcome, true);
            }
            State::Waiting | State::Open | State::Ended(_) => {}
        }
    }

    /// What an unanswered opening came to: something foreign where bytes came that are not ours.
    fn unanswered(&self, no: FlowNo, otherwise: Outcome) -> Outcome {
        let Some(flow) = self.flow(no) else { return otherwise };
        let connected = flow.has_stream();
        match (foreign::looks(&flow.opening.bytes), otherwise) {
            // Our own page: it is a listener of ours, so what failed is our flow, not the host.
            (Some(looks), otherwise) if looks.ours => otherwise,
            (Some(looks), _) => Outcome::Foreign { looks_like: looks.like, http: looks.http },
            (None, Outcome::Silent { .. }) => Outcome::Silent { connected },
            (None, Outcome::Cut { .. }) if flow.opening.received > 0 => {
                Outcome::Foreign { looks_like: "an unknown protocol".to_owned(), http: false }
            }
            (None, otherwise) => otherwise,
        }
    }

    /// Ends an attempt. `again`: another attempt may fare better.
    pub(super) fn attempt_failed(&mut self, now: Timestamp, no: FlowNo, outcome: Outcome, again: bool) {
        let (last, end) = {
            let Some(flow) = self.flows.get_mut(&no) else { return };
            let turn = flow.spec.start == Start::Turn && flow.replaces.is_none() && flow.line.is_none();
            let too_late = if turn { Phase::Reach } else { Phase::Measure };
            // One that was open does not open again under its name: what follows it is another flow.
            let last = !again
                || flow.opening.attempt >= MAX_ATTEMPTS
                || self.phase > too_late
                || flow.opened_at.is_some();
            let end = match flow.opened_at {
                None => End::NeverOpened,
                Some(_) => End::ListenerRestarted,
            };
            flow.state = if last { State::Ended(end.clone()) } else { State::Waiting };
            let source = flow.opening.source;
            let attempt = Attempt { flow: no, from: flow.opening.from, to: now, source, outcome };
            self.observations.push_back(Observation::Attempt(attempt));
            if let Some(facts) = flow.opening.channel.take() {
                let channel = channel(no, now, &facts, self.identity.invite.map(|i| i.fingerprint), None);
                self.observations.push_back(Observation::Channel(channel));
            }
            if last {
                flow.ended_at = Some(now);
            }
            (last, end)
        };
        self.actions.push_back(Action::Disconnect { flow: no });
        if last {
            self.observe(Observation::FlowEnded(FlowEnded { flow: no, at: now, end }));
            self.flow_is_over(now, no, false);
        } else {
            // While flows are measured, another source port is a new flow like any other.
            let at = if self.phase == Phase::Reach { now + RETRY } else { self.turn(now + RETRY) };
            self.at(at, Reason::Open(no));
        }
    }

    /// Ends what has not opened in its turn when opening is over; `all`: whatever has not opened.
    pub(super) fn end_unopened(&mut self, now: Timestamp, all: bool) {
        for no in self.numbers() {
            let Some(flow) = self.flow(no) else { continue };
            let turn = flow.spec.start == Start::Turn && flow.line.is_none();
            if !turn && !all {
                continue;
            }
            match flow.state {
                State::Connecting => {
                    self.attempt_failed(now, no, Outcome::Silent { connected: false }, false);
                }
                State::Hello => {
                    let outcome = self.unanswered(no, Outcome::Silent { connected: true });
                    self.attempt_failed(now, no, outcome, false);
                }
                State::Waiting => {
                    // What was never announced needs no end.
                    let announced = flow.opening.attempt > 0 || turn;
                    if let Some(flow) = self.flows.get_mut(&no) {
                        flow.state = State::Ended(End::NeverOpened);
                        flow.ended_at = Some(now);
                    }
                    if announced {
                        let end = End::NeverOpened;
                        self.observe(Observation::FlowEnded(FlowEnded { flow: no, at: now, end }));
                    }
                }
                State::Open | State::Ended(_) => {}
            }
        }
    }

    pub(super) fn closed(&mut self, now: Timestamp, no: FlowNo, closed: Closed) {
        let Some(flow) = self.flow(no) else { return };
        match flow.state {
            State::Connecting => {
                let outcome = match closed {
                    Closed::Refused => Outcome::Refused { by: None },
                    Closed::TimedOut => Outcome::Silent { connected: false },
                    Closed::Reset => Outcome::Cut { reset: true, received: 0 },
                    Closed::Ended => Outcome::Cut { reset: false, received: 0 },
                    Closed::Unreachable { says } => Outcome::NetworkError { says, by: None },
                    Closed::Local { says } => Outcome::LocalError { says },
                    Closed::Handshake { says } => Outcome::HandshakeFailed { says },
                };
                self.attempt_failed(now, no, outcome, true);
            }
            State::Hello => {
                let cut = Outcome::Cut { reset: closed == Closed::Reset, received: flow.opening.received };
                let outcome = self.unanswered(no, cut);
                self.attempt_failed(now, no, outcome, true);
            }
            State::Open => {
                let end = match closed {
                    Closed::Reset | Closed::Refused => End::Reset,
                    Closed::Ended => End::Closed,
                    Closed::TimedOut => End::TimedOut,
                    Closed::Unreachable { says } | Closed::Local { says } | Closed::Handshake { says } => {
                        End::Error(says)
                    }
                };
                self.idle_closed(now, no);
                self.end_flow(now, no, end);
            }
            State::Waiting | State::Ended(_) => {}
        }
    }

    /// Ends an open flow; what became of its last probes is settled later, over other flows.
    pub(super) fn end_flow(&mut self, now: Timestamp, no: FlowNo, end: End) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if flow.is_over() {
            return;
        }
        flow.state = State::Ended(end.clone());
        flow.ended_at = Some(now);
        flow.probing = false;
        if !flow.has_stream() {
            self.outgoing.push_back((no, Outgoing::Close));
        }
        if flow.spec.carrier == Carrier::Tcp {
            self.actions.push_back(Action::ReadTcp { flow: no });
        }
        self.actions.push_back(Action::Disconnect { flow: no });
        self.mark_sockets(now, no);
        self.ask_end(now, no);
        let finished = end == End::Finished;
        // The run has said how it ended once it is settled; what serves on to hand in the verdict ends unheard.
        if self.phase < Phase::Settled {
            self.observe(Observation::FlowEnded(FlowEnded { flow: no, at: now, end }));
        }
        self.flow_is_over(now, no, finished);
    }

    pub(super) fn network_error(
        &mut self,
        now: Timestamp,
        no: FlowNo,
        refused: bool,
        by: Option<IpAddr>,
        mtu: Option<u32>,
        says: String,
    ) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if let (Some(mtu), Some(search)) = (mtu, flow.search.as_mut()) {
            search.told(mtu);
        }
        if matches!(flow.state, State::Hello) && mtu.is_none() {
            let outcome = if refused { Outcome::Refused { by } } else { Outcome::NetworkError { says, by } };
            self.attempt_failed(now, no, outcome, true);
        }
    }

    pub(super) fn write_hello(&mut self, now: Timestamp, no: FlowNo, wire: &mut Vec<u8>) -> Option<Transmit> {
        let session_exists = self.session_since.is_some();
        let wall = self.wall(now);
        let flow = self.flows.get_mut(&no)?;
        if flow.state != State::Hello && flow.proof.is_none() {
            return None;
        }
        let opening = &mut flow.opening;
        let dress = flow.spec.dress;
        let hello = Hello {
            min_version: PROTOCOL_VERSION,
            max_version: PROTOCOL_VERSION,
            session: self.identity.session,
            flow_nonce: opening.nonce,
            cookie: opening.cookie,
            carrier: flow.spec.carrier,
            dress,
            size: flow.spec.size,
            software: self.identity.software,
            wall,
            binding: opening.channel.as_ref().map_or([0; 32], |c| c.exporter),
        };
        let seq = u64::from(opening.hellos);
        opening.hellos += 1;
        if let Some((_, sent)) = self.nonces.get_mut(&opening.nonce).filter(|_| session_exists) {
            *sent += 1;
        }
        let is_stream = !matches!(flow.spec.carrier, Carrier::Udp);
        let keys = if opening.way == Way::Stranger { &mut self.public } else { &mut self.hello };
        let mut record = vec![0; dress.row().handshake_len];
        let (head, filler) = record.split_at_mut(BODY_AT + HANDSHAKE_BODY_LEN);
        head[BODY_AT..].copy_from_slice(&hello.encode());
        if dress.row().random_filler {
            keys.keys.fill(seq, filler);
        }
        keys.keys.seal(keys.id, seq, Kind::Hello, &mut record).ok()?;
        dress::put_on(dress, Form::Opening, &record, wire);
        Some(Transmit { flow: no, datagram: !is_stream, tos: 0, seq: None })
    }

    pub(super) fn write_http(&mut self, no: FlowNo, wire: &mut Vec<u8>) -> Option<Transmit> {
        let flow = self.flow(no)?;
        wire.clear();
        wire.extend_from_slice(
            format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", flow.spec.to).as_bytes(),
        );
        Some(Transmit { flow: no, datagram: false, tos: 0, seq: None })
    }

    /// Takes in a datagram of a flow that is opening.
    pub(super) fn handshake_datagram(&mut self, now: Timestamp, no: FlowNo, bytes: &mut [u8]) {
        let Some(flow) = self.flow(no) else { return };
        if let Ok(record) = dress::take_off(flow.spec.dress, Form::Opening, bytes) {
            self.handshake_record(now, no, record);
        }
    }

    /// Takes in bytes of a stream that is opening; returns how many belong to the handshake once it is over.
    pub(super) fn handshake_bytes(&mut self, now: Timestamp, no: FlowNo, bytes: &[u8]) -> Option<Vec<u8>> {
        let flow = self.flows.get_mut(&no)?;
        flow.opening.received += bytes.len() as u64;
        let room = MAX_OPENING_BYTES.saturating_sub(flow.opening.bytes.len());
        flow.opening.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let dress = flow.spec.dress;
        let whole = dress.dressed_len(Form::Opening, dress.row().handshake_len);
        let looks = foreign::looks(&flow.opening.bytes);
        if let Some(looks) = &looks {
            let headers_whole = flow.opening.bytes.windows(4).any(|w| w == b"\r\n\r\n");
            if looks.http && !headers_whole && room > bytes.len() {
                return None;
            }
        } else if flow.opening.bytes.len() < whole {
            return None;
        }
        if looks.is_none() && flow.opening.way != Way::Http {
            let mut head = flow.opening.bytes[..whole].to_vec();
            let rest = flow.opening.bytes[whole..].to_vec();
            if let Ok(record) = dress::take_off(dress, Form::Opening, &mut head)
                && self.handshake_record(now, no, record)
            {
                return Some(rest);
            }
        }
        let outcome = self
            .unanswered(no, Outcome::Foreign { looks_like: "an unknown protocol".to_owned(), http: false });
        self.attempt_failed(now, no, outcome, true);
        None
    }

    /// Takes in a handshake record; false where it is not one of ours.
    fn handshake_record(&mut self, now: Timestamp, no: FlowNo, record: &mut [u8]) -> bool {
        let Some(flow) = self.flow(no) else { return false };
        if flow.state != State::Hello && flow.proof.is_none() {
            return false;
        }
        let opening = flow.state == State::Hello;
        let stranger = flow.opening.way == Way::Stranger;
        let keys = if stranger { &mut self.public } else { &mut self.hello };
        let Ok(header) = keys.keys.open(record) else { return false };
        if !opening {
            return self.proof_record(no, header.kind, record);
        }
        let Some(body) = record.get(BODY_AT..) else { return false };
        match header.kind {
            Kind::Challenge => {
                let Ok(challenge) = Challenge::decode(body) else { return false };
                // An answer has the number of its question.
                let answered = u32::try_from(header.seq).unwrap_or(u32::MAX);
                if let Some(flow) = self.flows.get_mut(&no) {
                    let first = flow.opening.first_answered.map_or(answered, |first| first.min(answered));
                    flow.opening.first_answered = Some(first);
                }
                if let Some(flow) = self.flows.get_mut(&no)
                    && flow.opening.cookie != challenge.cookie
                {
                    flow.opening.cookie = challenge.cookie;
                    self.outgoing.push_back((no, Outgoing::Hello));
                }
                true
            }
            Kind::Accept => {
                let Ok(accept) = Accept::decode(body) else { return false };
                if stranger {
                    let looks_like = "another probe-server, which does not know this invite".to_owned();
                    self.attempt_failed(now, no, Outcome::Foreign { looks_like, http: false }, false);
                } else {
                    self.accepted(now, no, accept);
                }
                true
            }
            Kind::Refuse => {
                let Ok(refuse) = Refuse::decode(body) else { return false };
                let outcome = Outcome::Refusal { reason: refuse.reason, software: refuse.software };
                let again = refuse.reason.is_some_and(|r| r.is_temporary());
                self.attempt_failed(now, no, outcome, again);
                if self.session_since.is_some() {
                    self.refused_for_good(now, refuse.reason);
                }
                true
            }
            Kind::Hello
            | Kind::Probe
            | Kind::Control
            | Kind::Close
            | Kind::Echo
            | Kind::ControlReply
            | Kind::Stale
            | Kind::Block
            | Kind::Sack
            | Kind::BlockDown
            | Kind::SackDown => false,
        }
    }

    /// Takes in a datagram of an open flow that may answer an earlier packet of its opening than any answer so far.
    pub(super) fn answered_late(&mut self, now: Timestamp, no: FlowNo, bytes: &mut [u8]) {
        let Some(flow) = self.flow(no) else { return };
        let (dress, stranger) = (flow.spec.dress, flow.opening.way == Way::Stranger);
        let keys = if stranger { &mut self.public } else { &mut self.hello };
        let Ok(record) = dress::take_off(dress, Form::Opening, bytes) else { return };
        let Ok(header) = keys.keys.open(record) else { return };
        let Some(flow) = self.flows.get_mut(&no).filter(|_| header.kind == Kind::Challenge) else { return };
        let answered = u32::try_from(header.seq).unwrap_or(u32::MAX);
        if flow.opening.first_answered.is_some_and(|first| answered < first) {
            flow.opening.first_answered = Some(answered);
            self.observe(Observation::AnsweredLate(AnsweredLate {
                flow: no,
                at: now,
                unanswered_first: answered,
            }));
        }
    }

    /// The listener accepts no more of what it accepted before. Where its admin took the invite back, or the invite's
    /// time is over, the run ends with what is known: all else would measure the refusal.
    fn refused_for_good(&mut self, now: Timestamp, reason: Option<Refusal>) {
        let Some(reason) = reason.filter(|_| self.phase <= Phase::Measure) else { return };
        let closes_flows = match reason {
            Refusal::InviteRevoked => true,
            Refusal::InviteExpired => false,
            Refusal::ClientTooOld
            | Refusal::ListenerTooOld
            | Refusal::NotAllowed
            | Refusal::Full
            | Refusal::TooManyFromSource
            | Refusal::NeedsInvite => return,
        };
        self.stop(now);
        self.complete = false;
        if !closes_flows {
            return;
        }
        for no in self.numbers() {
            let Some(flow) = self.flows.get_mut(&no) else { continue };
            for pending in flow.pending.iter_mut().filter(|pending| pending.reply.is_none()) {
                pending.excluded.get_or_insert(Excluded::RunEnded);
            }
            if flow.is_open() {
                self.end_flow(now, no, End::Error(reason.to_string()));
            }
        }
    }

    fn accepted(&mut self, now: Timestamp, no: FlowNo, accept: Accept) {
        let expected = self.identity.invite.map(|i| i.fingerprint);
        let interface_mtu = self.interface_mtu;
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let Some(source) = flow.opening.source else { return };
        let dress = stream_dress(flow.spec.carrier, flow.spec.dress);
        let stream = flow
            .has_stream()
            .then(|| (Framer::new(accept.secret, dress, false), Deframer::new(accept.secret, dress, true)));
        flow.link =
            Some(Link { id: accept.id, secret: accept.secret, keys: FlowKeys::new(accept.secret), stream });
        flow.ledger_id = Some(accept.id);
        flow.ledger_from = flow.next_seq();
        flow.look = None;
        flow.state = State::Open;
        flow.boot = Some(accept.boot);
        flow.moves = 0;
        flow.proof = None;
        let first = flow.opened_at.is_none();
        flow.opened_at.get_or_insert(now);
        flow.judged_from = flow.next_seq();
        flow.last_reply = flow.last_reply.max(Some(now));
        let pace = Duration::from_secs(1).checked_div(accept.max_rate_pps).unwrap_or_default();
        flow.interval = flow.spec.interval.max(pace);
        if flow.spec.purpose == Purpose::PathMtu {
            let v6 = flow.spec.to.is_ipv6();
            flow.search = Some(Search::new(v6, interface_mtu, accept.authenticated, now));
        }
        let attempt = Attempt {
            flow: no,
            from: flow.opening.from,
            to: now,
            source: Some(source),
            outcome: Outcome::Opened,
        };
        let opened = FlowOpened {
            flow: no,
            at: now,
            source,
            observed: accept.observed,
            connect: flow.opening.connect,
            boot: accept.boot,
            epoch: accept.epoch,
            authenticated: accept.authenticated,
            software: accept.software,
            listener_wall: accept.wall,
            handshake: handshake(flow),
        };
        let facts = flow.opening.channel.as_ref();
        let channel = facts.map(|c| channel(no, now, c, expected, Some(c.exporter == accept.binding)));
        let (interval, shift, purpose, laid) = (flow.interval, flow.shift, flow.spec.purpose, flow.probe_at);
        let life = match flow.spec.life {
            Life::For(life) if first => Some(life),
            Life::For(_) | Life::Run | Life::Probes(_) => None,
        };
        let script = flow.spec.script.clone();
        self.session_since.get_or_insert(now);
        self.heard(now, no);
        self.observe(Observation::Attempt(attempt));
        self.observe(Observation::FlowOpened(opened));
        if let Some(channel) = channel {
            self.observe(Observation::Channel(channel));
        }
        self.saw_boot(now, accept.boot);
        if let Some(life) = life {
            self.at(now + life, Reason::LifeOver(no));
        }
        self.lay_sockets(now, no);
        match script {
            Script::Idle(_) => return self.idle_opened(now, no, first),
            Script::Fragments { size, count } => return self.pieces_opened(now, no, size, count),
            Script::Purpose => {}
        }
        if purpose == Purpose::PathMtu {
            self.at(now, Reason::Mtu(no));
        } else if !interval.is_zero() {
            let interval = interval.as_nanos().max(1) as u64;
            // A flow that opens again keeps its schedule.
            let next = laid.map_or(now + Duration::from_nanos(shift % interval), |laid| {
                Timestamp(laid.0 + (now.since(laid).as_nanos() as u64).div_ceil(interval) * interval)
            });
            self.schedule_probe(no, next);
        }
    }

    /// Notes which boot of the listener answers.
    pub(super) fn saw_boot(&mut self, now: Timestamp, boot: u64) {
        if let Some((old, last_seen)) = self.boot
            && old != boot
        {
            self.boot_changed(now);
            self.observe(Observation::ListenerRestarted(ListenerRestarted {
                last_seen,
                at: now,
                old,
                new: boot,
            }));
        }
        self.boot = Some((boot, now));
    }
}

/// The packets of a UDP flow's opening.
fn handshake(flow: &Flow) -> Option<Handshake> {
    if flow.spec.carrier != Carrier::Udp {
        return None;
    }
    let row = flow.spec.dress.row();
    let headers = if flow.spec.to.is_ipv6() { 48 } else { 28 };
    let each = flow.spec.dress.dressed_len(Form::Opening, row.handshake_len) as u32 + headers;
    let hellos = flow.opening.hellos;
    Some(Handshake { packets: hellos, bytes: hellos * each, unanswered_first: flow.opening.first_answered })
}

/// What is said of a flow's channel; `same_exporter` where the listener told its own.
fn channel(
    flow: FlowNo,
    at: Timestamp,
    facts: &ChannelFacts,
    expected: Option<[u8; 32]>,
    same_exporter: Option<bool>,
) -> Channel {
    let (fingerprint, issuer) = (facts.fingerprint, facts.issuer.clone());
    Channel { flow, at, fingerprint, expected, issuer, same_exporter }
}

/// Whether a flow over it gives a server's name.
fn names_itself(carrier: Carrier) -> bool {
    match carrier {
        Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => true,
        Carrier::Tcp | Carrier::Udp => false,
    }
}

/// Inside TLS and QUIC there is nothing to dress.
fn stream_dress(carrier: Carrier, dress: Dress) -> Dress {
    match carrier {
        Carrier::Tcp | Carrier::Udp => dress,
        Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => Dress::Random,
    }
}
