//! Sending probes and taking in replies.

use std::time::Duration;

use probe_analysis::observation::{
    Excluded, FlowNo, HostFault, Missed, Observation, Outcome, ProbeReply, Purpose, Rewritten,
};
use probe_protocol::control::{FlowRequest, Request};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::{self, Form};
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::probe::{EchoBody, ProbeBody, ReplyAfter, StaleBody};
use probe_protocol::wire::seal::filler_sum;
use probe_protocol::wire::{BODY_AT, Kind, MAX_LEN, MIN_LEN, PROBE_BODY_LEN};
use rand::RngCore;

use super::flow::{Flow, Link, MAX_PENDING, Outgoing, Pending, State};
use super::{Arrived, Engine, Phase, Reason, SendError, Transmit};
use crate::plan::Life;

/// How long a flow that the listener forgot may take to open again.
const REOPEN: Duration = Duration::from_secs(30);
/// A listener that takes so long to answer is busy with something else.
const LISTENER_STALL: Duration = Duration::from_millis(100);

/// The TOS bytes that a flow of [`Purpose::Marks`] goes through: every ECN code point (RFC 3168) on best effort, then
/// the DSCPs that products use: CS1, AF11, AF21, AF41, CS5, EF, CS6 (RFC 4594).
pub(super) const MARKS: [u8; 11] =
    [0x00, 0x01, 0x02, 0x03, 8 << 2, 10 << 2, 18 << 2, 34 << 2, 40 << 2, 46 << 2, 48 << 2];

impl Engine {
    /// A probe's slot has come. The next one is laid from this one's time, never from now, so that the schedule does
    /// not drift.
    pub(super) fn probe_due(&mut self, now: Timestamp, no: FlowNo, scheduled: Timestamp) {
        let measuring = self.phase <= Phase::Measure;
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let due = flow.probe_at == Some(scheduled);
        if !due || flow.state != State::Open || !flow.probing || !measuring || flow.interval.is_zero() {
            return;
        }
        let (interval, percent) = (flow.interval, flow.spec.jitter_percent);
        if matches!(flow.spec.life, Life::Probes(count) if flow.sent >= count) {
            return self.life_over(now, no);
        }
        let interval = self.thinned(now, interval).as_nanos().max(1) as u64;
        // Whole slots that have passed are missed: sent late as a burst they would measure the instrument.
        let missed = now.since(scheduled).as_nanos() as u64 / interval;
        if missed > 0 {
            self.observe(Observation::Missed(Missed { flow: no, from: scheduled, count: missed }));
        }
        let slot = Timestamp(scheduled.0 + missed * interval);
        self.outgoing.push_back((no, Outgoing::Probe { scheduled: slot }));
        let next = self.jittered_in_steps(Duration::from_nanos(interval), percent);
        self.schedule_probe(no, slot + next);
    }

    /// Lays the next probe; one that was laid before, for another time, is not sent.
    pub(super) fn schedule_probe(&mut self, no: FlowNo, at: Timestamp) {
        if let Some(flow) = self.flows.get_mut(&no) {
            flow.probe_at = Some(at);
            self.at(at, Reason::Probe(no));
        }
    }

    /// Stops sending on all flows, and marks where the ledgers of QUIC's sockets are to be compared up to.
    pub(super) fn stop_probing(&mut self, now: Timestamp) {
        // What is due but not sent yet would have nobody to wait for its reply.
        let is_probe = |o: &Outgoing| {
            matches!(
                o,
                Outgoing::Probe { .. } | Outgoing::Mtu { .. } | Outgoing::Idle(_) | Outgoing::Piece(_)
            )
        };
        self.outgoing.retain(|(_, o)| !is_probe(o));
        for no in self.numbers() {
            let Some(flow) = self.flows.get_mut(&no) else { continue };
            let over = flow.is_over();
            flow.probing = false;
            self.report_mtu(no);
            if !over {
                self.mark_round(now, no);
            }
        }
    }

    /// Writes what is to be sent; none where the flow can no longer send it.
    pub(super) fn write(
        &mut self,
        now: Timestamp,
        no: FlowNo,
        outgoing: Outgoing,
        wire: &mut Vec<u8>,
    ) -> Option<Transmit> {
        match outgoing {
            Outgoing::Hello => self.write_hello(now, no, wire),
            Outgoing::Http => self.write_http(no, wire),
            Outgoing::Probe { scheduled } => {
                self.make_room(no);
                if self.plan.long {
                    // In step with the flow's own probes: a recorded night tells this order in nearly no bytes.
                    self.settle_replied(now, no);
                }
                let flow = self.flows.get_mut(&no)?;
                let tos = mark_of(flow);
                let record_len = match flow.spec.carrier {
                    Carrier::Udp => flow.spec.dress.record_len(usize::from(flow.spec.size)),
                    Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => {
                        usize::from(flow.spec.size)
                    }
                };
                flow.sent += 1;
                write_probe(flow, now, scheduled, record_len, Asked { tos, ..Asked::default() }, wire)
            }
            Outgoing::Idle(after) => {
                let flow = self.flows.get_mut(&no)?;
                let record_len = match flow.spec.carrier {
                    Carrier::Udp => flow.spec.dress.record_len(usize::from(flow.spec.size)),
                    Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => {
                        usize::from(flow.spec.size)
                    }
                };
                let transmit =
                    write_probe(flow, now, now, record_len, Asked { after, ..Asked::default() }, wire)?;
                // What is answered late or never is no measure of loss or delay; what is answered at once is one.
                if let Some(pending) = flow.pending.back_mut().filter(|_| after != ReplyAfter::AtOnce) {
                    pending.excluded = Some(Excluded::Experiment);
                }
                if let (Some(idle), Some(seq)) = (flow.idle.as_mut(), transmit.seq) {
                    idle.sent(now, seq, after);
                }
                Some(transmit)
            }
            Outgoing::Piece(piece) => {
                let flow = self.flows.get_mut(&no)?;
                let seq = flow.next_seq();
                let (record_len, asked) = piece.lengths(flow)?;
                let transmit = write_probe(flow, now, now, record_len, asked, wire)?;
                flow.pieces.as_mut()?.sent(seq, piece);
                Some(transmit)
            }
            Outgoing::Mtu { up, record_len } => {
                let flow = self.flows.get_mut(&no)?;
                let seq = flow.next_seq();
                flow.search.as_mut()?.sent(seq, up, record_len);
                let (len, reply_len) = if up { (record_len, MIN_LEN) } else { (MIN_LEN, record_len) };
                let asked = Asked { reply_len: reply_len as u16, ..Asked::default() };
                write_probe(flow, now, now, len, asked, wire)
            }
            Outgoing::Request(number) => self.write_request(no, number, wire),
            Outgoing::Close => {
                let flow = self.flows.get_mut(&no)?;
                let mut record = [0; MIN_LEN];
                let seq = flow.next_seq();
                seal_and_dress(flow, seq, Kind::Close, &mut record, wire)
            }
        }
    }

    pub(super) fn datagram(&mut self, now: Timestamp, no: FlowNo, arrived: Arrived<'_>) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if flow.state == State::Hello && flow.spec.carrier == Carrier::Udp {
            self.handshake_datagram(now, no, arrived.bytes);
            return;
        }
        let dress = flow.spec.dress;
        let Some(link) = flow.link.as_mut() else { return };
        let record = if flow.spec.carrier == Carrier::Udp {
            let place = dress.row().running;
            if !dress::candidates(arrived.bytes).any(|c| c == (place, link.id)) {
                // Late copies of the handshake are none of the flow's, unless it proves its address again. What they answer
                // was late, and not lost.
                if flow.proof.is_some() {
                    self.handshake_datagram(now, no, arrived.bytes);
                } else if flow.opening.first_answered.is_some_and(|first| first > 0) {
                    self.answered_late(now, no, arrived.bytes);
                }
                return;
            }
            match dress::take_off(dress, Form::Running, arrived.bytes) {
                Ok(record) => record,
                Err(_) => return,
            }
        } else {
            arrived.bytes
        };
        let times = Times { at: arrived.at, kernel: arrived.kernel, ttl: arrived.ttl, tos: arrived.tos };
        self.record(now, no, record, times);
    }

    pub(super) fn stream_bytes(&mut self, now: Timestamp, no: FlowNo, bytes: &[u8], at: Timestamp) {
        let rest = match self.flow(no).map(|f| &f.state) {
            Some(State::Hello) => match self.handshake_bytes(now, no, bytes) {
                Some(rest) => rest,
                None => return,
            },
            Some(State::Open | State::Ended(_)) => bytes.to_vec(),
            Some(State::Waiting | State::Connecting) | None => return,
        };
        // The framing leaves the flow while its records are taken in.
        let Some(mut stream) = self.take_stream(no) else { return };
        stream.1.push(&rest);
        let broken = loop {
            match stream.1.next_record() {
                Ok(Some(record)) => {
                    self.record(now, no, record, Times { at, kernel: None, ttl: None, tos: None });
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if let Some(link) = self.flows.get_mut(&no).and_then(|f| f.link.as_mut()) {
            link.stream = Some(stream);
        }
        if broken {
            self.observe(Observation::Rewritten(Rewritten { flow: no, at, up: Some(false), offset: None }));
            self.actions.push_back(super::Action::Disconnect { flow: no });
            let says = "the stream's bytes were altered".to_owned();
            self.end_flow(now, no, probe_analysis::observation::End::Error(says));
        }
    }

    fn take_stream(
        &mut self,
        no: FlowNo,
    ) -> Option<(probe_protocol::wire::stream::Framer, probe_protocol::wire::stream::Deframer)> {
        self.flows.get_mut(&no)?.link.as_mut()?.stream.take()
    }

    /// Takes in a record of an open flow.
    fn record(&mut self, now: Timestamp, no: FlowNo, record: &mut [u8], times: Times) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let Some(link) = flow.link.as_mut() else { return };
        let Ok(header) = link.keys.open(record) else {
            self.observe(Observation::Rewritten(Rewritten {
                flow: no,
                at: times.at,
                up: Some(false),
                offset: None,
            }));
            return;
        };
        match header.kind {
            Kind::Echo => self.echo(now, no, header.seq, record, times),
            Kind::ControlReply => self.control_reply(now, no, header.seq, &record[BODY_AT..]),
            Kind::Stale => {
                if let Ok(stale) = StaleBody::decode(&record[BODY_AT..]) {
                    self.stale(now, no, stale);
                }
            }
            Kind::BlockDown | Kind::SackDown => {
                self.load_record(no, header, record, times.kernel.unwrap_or(times.at));
            }
            Kind::Hello
            | Kind::Probe
            | Kind::Control
            | Kind::Close
            | Kind::Block
            | Kind::Sack
            | Kind::Challenge
            | Kind::Accept
            | Kind::Refuse => {}
        }
    }

    fn echo(&mut self, now: Timestamp, no: FlowNo, seq: u64, record: &[u8], times: Times) {
        self.heard(now, no);
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let (body, filler) = record[BODY_AT..].split_at(PROBE_BODY_LEN);
        let Ok(echo) = EchoBody::decode(body) else { return };
        flow.last_reply = Some(times.at).max(flow.last_reply);
        if let Some(idle) = &mut flow.idle {
            idle.answered(seq, times.at, &echo);
        }
        if u64::from(echo.dwell_ns) >= LISTENER_STALL.as_nanos() as u64 && !flow.answers_late(seq) {
            let dwell = Duration::from_nanos(u64::from(echo.dwell_ns));
            self.host_fault(times.at - dwell, times.at, HostFault::ListenerStalled);
        }
        if echo.overflowed {
            self.no_room_there(no, seq);
        }
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let tampering = tampering(flow, seq, &echo, filler);
        let reordered = flow.highest_reply.is_some_and(|h| seq < h);
        let Some(pending) = flow.pending_mut(seq) else { return };
        pending.arrived = true;
        let mut first = false;
        if pending.reply.is_none() {
            first = true;
            pending.reply = Some(Box::new(ProbeReply {
                at: times.at,
                kernel: times.kernel,
                listener_arrived: echo.arrived,
                listener_kernel: echo.kernel,
                dwell: Duration::from_nanos(u64::from(echo.dwell_ns)),
                reordered,
                duplicated_up: echo.duplicate,
                ttl_up: echo.ttl,
                ttl_down: times.ttl,
                tos_sent: pending.tos,
                tos_up: echo.tos,
                tos_asked: pending.tos,
                tos_down: times.tos,
            }));
        } else {
            pending.extra_replies = pending.extra_replies.saturating_add(1);
            if let Some(reply) = pending.reply.as_mut() {
                reply.duplicated_up |= echo.duplicate;
            }
        }
        if first {
            let sent = pending.sent;
            let rtt = times.at.since(sent);
            flow.answered = flow.answered.max(Some((seq, sent)));
            flow.srtt = Some(flow.srtt.map_or(rtt, |s| (s * 7 + rtt) / 8));
            note_reply(flow, seq);
        }
        // The listener's window is proof that earlier probes arrived.
        for bit in 0..64 {
            if echo.window >> bit & 1 == 1
                && let Some(earlier) = seq.checked_sub(1 + bit).and_then(|s| flow.pending_mut(s))
            {
                earlier.arrived = true;
            }
        }
        let moved = echo.moves != flow.moves;
        flow.moves = echo.moves;
        let id = flow.ledger_id;
        let held_back = flow.is_held_back(seq, record.len());
        let go_on = match (held_back, flow.search.as_mut()) {
            (false, Some(search)) => search.answered(seq),
            (true, Some(search)) => search.held_back(seq),
            (_, None) => false,
        };
        if let Some(pieces) = flow.pieces.as_mut().filter(|_| held_back) {
            pieces.held_back(seq);
        }
        if let Some((up, offset)) = tampering {
            self.observe(Observation::Rewritten(Rewritten {
                flow: no,
                at: times.at,
                up,
                offset: Some(offset),
            }));
        }
        if let Some(id) = id.filter(|_| moved) {
            self.ask(now, no, Request::Flow(FlowRequest { flow: id }));
        }
        if moved || held_back {
            self.prove(now, no);
        }
        if go_on {
            self.at(now, Reason::Mtu(no));
        }
        if let Some((boot, _)) = self.boot {
            self.boot = Some((boot, now));
        }
    }

    /// The listener does not know the flow any more: it opens again, on the same socket.
    fn stale(&mut self, now: Timestamp, no: FlowNo, stale: StaleBody) {
        let nonce = self.rng.next_u64();
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if flow.state != State::Open {
            return;
        }
        flow.state = State::Hello;
        flow.opening.attempt += 1;
        flow.opening.nonce = nonce;
        flow.opening.cookie = [0; 16];
        flow.opening.hellos = 0;
        flow.opening.from = now;
        let attempt = flow.opening.attempt;
        self.nonces.insert(nonce, (no, 0));
        self.saw_boot(now, stale.boot);
        self.outgoing.push_back((no, Outgoing::Hello));
        self.at(now + Duration::from_millis(250), Reason::Retransmit(no, attempt));
        self.at(now + REOPEN, Reason::GiveUp(no, attempt));
        self.heard(now, no);
    }

    pub(super) fn send_failed(&mut self, now: Timestamp, no: FlowNo, seq: Option<u64>, why: SendError) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if let Some(pending) = seq.and_then(|seq| flow.pending_mut(seq)) {
            pending.excluded = Some(Excluded::SendFailed);
        }
        if let (SendError::TooLong, Some(seq), Some(search)) = (&why, seq, flow.search.as_mut()) {
            search.refused(seq);
            self.at(now, Reason::Mtu(no));
            return;
        }
        let opening = flow.state == State::Hello;
        let says = match why {
            SendError::TooLong => "the datagram is too long for the interface".to_owned(),
            SendError::NoRoom => "the system's send buffer is full".to_owned(),
            SendError::Unreachable(says) if opening => {
                self.attempt_failed(now, no, Outcome::NetworkError { says, by: None }, true);
                return;
            }
            SendError::Other(says) if opening => {
                self.attempt_failed(now, no, Outcome::LocalError { says }, true);
                return;
            }
            SendError::Unreachable(says) | SendError::Other(says) => says,
        };
        self.host_fault(now, now, HostFault::SendFailed(says));
    }
}

/// When and how a record arrived.
#[derive(Clone, Copy, Debug)]
struct Times {
    at: Timestamp,
    kernel: Option<Timestamp>,
    ttl: Option<u8>,
    tos: Option<u8>,
}

fn mark_of(flow: &Flow) -> u8 {
    match flow.spec.purpose {
        Purpose::Marks => MARKS[(flow.next_seq() % MARKS.len() as u64) as usize],
        Purpose::Steady
        | Purpose::Reach
        | Purpose::PathMtu
        | Purpose::Trial
        | Purpose::Fresh
        | Purpose::Old
        | Purpose::Crossed
        | Purpose::Fan
        | Purpose::Idle
        | Purpose::Named
        | Purpose::Fragments
        | Purpose::Concurrent
        | Purpose::Bulk
        | Purpose::Loaded => 0,
    }
}

/// What a probe asks of its reply.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    /// Length of its record, where it is another than the probe's.
    pub(super) reply_len: u16,
    /// It may be fragmented.
    pub(super) fragments: bool,
    /// When it is wanted.
    pub(super) after: ReplyAfter,
    /// With which TOS byte the probe is sent and the reply wanted.
    pub(super) tos: u8,
}

fn write_probe(
    flow: &mut Flow,
    now: Timestamp,
    scheduled: Timestamp,
    record_len: usize,
    asked: Asked,
    wire: &mut Vec<u8>,
) -> Option<Transmit> {
    if flow.state != State::Open || flow.pending.len() >= MAX_PENDING {
        return None;
    }
    let (seq, tos) = (flow.next_seq(), asked.tos);
    let body = ProbeBody {
        sent: now,
        replies: flow.replies,
        reply_seq: flow.highest_reply.unwrap_or(0),
        reply_window: flow.reply_window,
        reply_len: asked.reply_len,
        reply_fragments: asked.fragments,
        reply_tos: tos,
        sent_tos: tos,
        reply_after: asked.after,
    };
    let mut record = [0; MAX_LEN];
    let record = record.get_mut(..record_len.max(MIN_LEN))?;
    let (head, filler) = record.split_at_mut(BODY_AT + PROBE_BODY_LEN);
    head[BODY_AT..].copy_from_slice(&body.encode());
    if flow.spec.dress.row().random_filler
        && let Some(link) = &flow.link
    {
        link.keys.fill(seq, filler);
    }
    let transmit = seal_and_dress(flow, seq, Kind::Probe, record, wire)?;
    flow.pending.push_back(Pending {
        scheduled,
        sent: now,
        size: wire.len().min(usize::from(u16::MAX)) as u16,
        tos,
        reply: None,
        extra_replies: 0,
        arrived: false,
        excluded: None,
    });
    Some(Transmit { tos, seq: Some(seq), ..transmit })
}

/// Seals a record with the flow's keys and puts it into the flow's clothes: a datagram, or a piece of its stream.
pub(super) fn seal_and_dress(
    flow: &mut Flow,
    seq: u64,
    kind: Kind,
    record: &mut [u8],
    wire: &mut Vec<u8>,
) -> Option<Transmit> {
    let datagrams = flow.probes_are_datagrams();
    let on_stream = flow.has_stream() && !(datagrams && kind == Kind::Probe);
    let Link { id, keys, stream, .. } = flow.link.as_mut()?;
    keys.seal(*id, seq, kind, record).ok()?;
    if on_stream {
        wire.clear();
        stream.as_mut()?.0.frame(record, wire).ok()?;
    } else if flow.spec.carrier == Carrier::Udp {
        dress::put_on(flow.spec.dress, Form::Running, record, wire);
    } else {
        wire.clear();
        wire.extend_from_slice(record);
    }
    Some(Transmit { flow: flow.no, datagram: !on_stream, tos: 0, seq: None })
}

fn note_reply(flow: &mut Flow, seq: u64) {
    flow.replies += 1;
    match flow.highest_reply {
        Some(highest) if seq < highest => {
            let behind = highest - seq;
            if behind <= 64 {
                flow.reply_window |= 1 << (behind - 1);
            }
        }
        Some(highest) => {
            let by = seq - highest;
            flow.reply_window = if by > 64 {
                0
            } else {
                flow.reply_window.checked_shl(by as u32).unwrap_or(0) | 1 << (by - 1)
            };
            flow.highest_reply = Some(seq);
        }
        None => flow.highest_reply = Some(seq),
    }
}

/// Whether the filler came back altered: on which way, and at which offset of the record.
fn tampering(flow: &Flow, seq: u64, echo: &EchoBody, filler: &[u8]) -> Option<(Option<bool>, u32)> {
    let link = flow.link.as_ref()?;
    let changed = if flow.spec.dress.row().random_filler {
        link.keys.first_changed(seq, filler)
    } else {
        filler.iter().position(|b| *b != 0)
    }?;
    let mut expected = [0; MAX_LEN];
    let expected = &mut expected[..filler.len()];
    if flow.spec.dress.row().random_filler {
        link.keys.fill(seq, expected);
    }
    // The listener sums what it received: only a reply of the request's length can be compared with it.
    let whole = flow.spec.dress.dressed_len(Form::Running, BODY_AT + PROBE_BODY_LEN + filler.len());
    let up = (whole == usize::from(echo.len)).then(|| filler_sum(expected) != echo.filler_sum);
    Some((up, (BODY_AT + PROBE_BODY_LEN + changed) as u32))
}
