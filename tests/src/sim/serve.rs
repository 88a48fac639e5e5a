//! The listener's end of flows on streams: TCP, TLS, and QUIC's streams and datagrams.
//!
//! `probe-server` serves them in tokio tasks, so what those do is done here again, on its core: the same hub, books,
//! answers and bounds. It omits what a simulated client never meets: slow readers, `--max-rate`, and a flow that goes on
//! over another connection.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use probe_protocol::PROTOCOL_VERSION;
use probe_protocol::bulk::LATE_ON_STREAMS;
use probe_protocol::control::{Arrival, BulkReply, BulkRequest, ControlRefusal, Reply, Request, StreamOver};
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Carrier, Hello, HelloKeys, SessionId};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::probe::{EchoBody, ProbeBody};
use probe_protocol::wire::seal::{FlowKeys, filler_sum};
use probe_protocol::wire::stream::{Deframer, FirstBytes, Framer, first_bytes};
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Kind, MAX_LEN, MIN_LEN};
use probe_server::core::book::{DatagramLedger, FlowBook, bounds_for};
use probe_server::core::bulk;
use probe_server::core::control::{self, Answer, Asker};
use probe_server::core::hub::{Holds, OpenRequest};
use probe_server::core::invites::Opener;
use probe_server::core::{self as core, StreamFlow};
use rustls::ServerConnection;

use super::certificate::Certificate;
use super::listener::{Process, lock};
use super::tcp::{Over, Tcp};

/// How often the hub learns that a flow lives.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Blocks that are framed at once.
const BLOCKS_AT_ONCE: usize = 16;
/// How long a connection may take to say something known.
const SPEAK_WITHIN: Duration = Duration::from_secs(10);

/// What a browser is told; the real page says more.
const PAGE: &[u8] = b"HTTP/1.1 200 OK\r\nServer: probe-server\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis is a probe-server.\n";

/// The stream on which a flow opens.
pub(super) struct Under {
    pub(super) carrier: Carrier,
    pub(super) from: SocketAddr,
    /// The listener's own address, where it is told.
    pub(super) local: Option<IpAddr>,
    pub(super) binding: [u8; 32],
    pub(super) datagrams: Option<Arc<Mutex<DatagramLedger>>>,
}

/// A flow that has been accepted.
pub(super) struct Served {
    pub(super) session: SessionId,
    pub(super) id: FlowId,
    keys: FlowKeys,
    framer: Framer,
    deframer: Deframer,
    dress: Dress,
    full: bool,
    pub(super) book: Arc<Mutex<FlowBook>>,
    told: Timestamp,
    local: Option<IpAddr>,
}

/// A stream of bytes: it says what it is, opens, and is answered.
pub(super) enum Dialogue {
    First(Vec<u8>),
    Hello(Vec<u8>, Dress, FlowId),
    Flow(Box<Served>),
    Done,
}

/// What came of some bytes.
#[derive(Default)]
pub(super) struct Answered {
    pub(super) bytes: Vec<u8>,
    /// The stream is to end after them.
    pub(super) end: bool,
}

impl Dialogue {
    pub(super) fn new() -> Self {
        Self::First(Vec::new())
    }

    /// Takes in bytes of the stream.
    pub(super) fn take(
        &mut self,
        bytes: &[u8],
        here: Timestamp,
        wall: WallTime,
        process: &mut Process,
        under: &Under,
    ) -> Answered {
        let mut answered = Answered::default();
        if let Self::First(first) = self {
            first.extend_from_slice(bytes);
            let invites = Arc::clone(lock(&process.hub).invites());
            match first_bytes(first, |id| invites.find(id).is_some()) {
                FirstBytes::More => return answered,
                FirstBytes::Hello(dress, id) => *self = Self::Hello(std::mem::take(first), dress, id),
                FirstBytes::Http => {
                    *self = Self::Done;
                    return Answered { bytes: PAGE.to_vec(), end: true };
                }
                FirstBytes::Tls | FirstBytes::Unknown => {
                    *self = Self::Done;
                    return Answered { bytes: Vec::new(), end: true };
                }
            }
        } else if let Self::Hello(held, ..) = self {
            held.extend_from_slice(bytes);
        } else if let Self::Flow(flow) = self {
            flow.deframer.push(bytes);
        }
        if let Self::Hello(held, dress, id) = self {
            let length = dress.dressed_len(Form::Opening, HANDSHAKE_LEN);
            if held.len() < length {
                return answered;
            }
            let early = held.split_off(length);
            let (dress, id, mut held) = (*dress, *id, std::mem::take(held));
            match judge(process, &mut held, dress, id, under, here, wall) {
                Some((record, flow)) => {
                    let mut wire = Vec::new();
                    dress::put_on(dress, Form::Opening, &record, &mut wire);
                    answered.bytes.extend_from_slice(&wire);
                    match flow {
                        Some(mut flow) => {
                            flow.deframer.push(&early);
                            *self = Self::Flow(flow);
                        }
                        None => (*self, answered.end) = (Self::Done, true),
                    }
                }
                None => (*self, answered.end) = (Self::Done, true),
            }
        }
        if let Self::Flow(flow) = self {
            let alive = flow.answer_all(here, process, &mut answered.bytes);
            if !alive {
                lock(&process.hub).flow_over(flow.session, flow.id, 0, here);
                (*self, answered.end) = (Self::Done, true);
            }
        }
        answered
    }

    /// The connection is gone.
    pub(super) fn gone(&mut self, here: Timestamp, process: &Process) {
        if let Self::Flow(flow) = self {
            lock(&process.hub).flow_over(flow.session, flow.id, 0, here);
        }
        *self = Self::Done;
    }
}

/// The answer to a Hello, sealed, and the flow where it is accepted; none for what is not a Hello.
fn judge(
    process: &mut Process,
    bytes: &mut [u8],
    dress: Dress,
    id: FlowId,
    under: &Under,
    now: Timestamp,
    wall: WallTime,
) -> Option<(Vec<u8>, Option<Box<Served>>)> {
    let mut hub = lock(&process.hub);
    let invites = Arc::clone(hub.invites());
    let opener = invites.find(id)?;
    let mut keys = match &opener {
        Opener::Invite(known) => HelloKeys::of_invite(&known.invite.key),
        Opener::Public => HelloKeys::public(),
    };
    let record = dress::take_off(dress, Form::Opening, bytes).ok()?;
    let header = keys.keys.open(record).ok().filter(|h| h.kind == Kind::Hello)?;
    let body = &record[BODY_AT..HANDSHAKE_LEN];
    let hello = Hello::decode(body).ok()?;
    let mut held = None;
    let opened =
        core::judge_versions(header.version, body).and_then(|()| opener.rights(wall)).and_then(|rights| {
            let (carrier, binding, from) = (under.carrier, under.binding, under.from);
            let request = OpenRequest { hello: &hello, from, rights, carrier, binding, now, wall };
            hub.note_opening(hello.session, hello.flow_nonce, from, true);
            hub.open(&request, |flows, full| {
                let book = Arc::new(Mutex::new(FlowBook::new(from, bounds_for(flows, !full))));
                held = Some(Arc::clone(&book));
                Holds::Stream(StreamFlow { book, datagrams: under.datagrams.clone() }, Box::new(|| {}))
            })
        });
    let software = hub.identity().software;
    let (kind, body, flow) = match (opened, held) {
        (Ok(opened), Some(book)) if opened.new => {
            hub.note_first(hello.session, hello.flow_nonce, under.from);
            let accept = &opened.accept;
            let flow = Served {
                session: hello.session,
                id: accept.id,
                keys: FlowKeys::new(accept.secret),
                framer: Framer::new(accept.secret, hello.dress, true),
                deframer: Deframer::new(accept.secret, hello.dress, false),
                dress: hello.dress,
                full: opened.full,
                book,
                told: now,
                local: under.local,
            };
            (Kind::Accept, opened.accept.encode(), Some(Box::new(flow)))
        }
        (opened, _) => {
            let why = opened.err().unwrap_or(probe_protocol::wire::hello::Refusal::TooManyFromSource);
            hub.refused(under.from, why, now);
            (Kind::Refuse, core::refuse(why, software).encode(), None)
        }
    };
    drop(hub);
    record[BODY_AT..HANDSHAKE_LEN].copy_from_slice(&body);
    keys.keys.seal(keys.id, header.seq, kind, record).ok()?;
    Some((record.to_vec(), flow))
}

impl Served {
    /// Answers every whole record; false where the flow is over.
    fn answer_all(&mut self, here: Timestamp, process: &mut Process, out: &mut Vec<u8>) -> bool {
        loop {
            let mut record = match self.deframer.next_record() {
                Ok(Some(bytes)) => bytes.to_vec(),
                Ok(None) => return true,
                Err(_) => return false,
            };
            match self.answer(here, process, &mut record) {
                Some(true) => {
                    if self.framer.frame(&record, out).is_err() {
                        return false;
                    }
                }
                Some(false) => {}
                None => return false,
            }
        }
    }

    /// Answers one record in place: whether it is to be sent; none where the flow is over.
    pub(super) fn answer(
        &mut self,
        here: Timestamp,
        process: &mut Process,
        record: &mut Vec<u8>,
    ) -> Option<bool> {
        if here > self.told + TELL_EVERY {
            self.told = here;
            lock(&process.hub).touch(self.session, self.id, here);
        }
        if !record.starts_with(&self.id.0) {
            lock(&self.book).note_forged(record);
            return Some(false);
        }
        let header = match self.keys.open(record) {
            Ok(header) if header.version == PROTOCOL_VERSION => header,
            Ok(_) | Err(_) => {
                lock(&self.book).note_forged(record);
                return Some(false);
            }
        };
        match header.kind {
            Kind::Probe => Some(self.probe(header.seq, here, record)),
            Kind::Control => {
                let asker = Asker { session: self.session, boot: process.boot, now: here, local: self.local };
                let room = record.len() - BODY_AT;
                let reply = match control::read(&record[BODY_AT..], asker) {
                    Err(reply) => reply,
                    Ok(Request::Bulk(request)) if request.flow == self.id => self
                        .begin_load(&request, process, asker)
                        .map_or_else(|why| control::error(asker, why), Reply::Bulk),
                    Ok(request) => {
                        let answer = control::answer(&mut lock(&process.hub), asker, request, room);
                        match answer {
                            Answer::Now(reply) => reply,
                            Answer::AtPackets(about) => process.shard.about(&about, asker, room),
                        }
                    }
                };
                control::write(&reply, &mut record[BODY_AT..]);
                Some(self.keys.seal(self.id, header.seq, Kind::ControlReply, record).is_ok())
            }
            Kind::Block | Kind::Sack => {
                let transfer = lock(&self.book).bulk.clone();
                if let Some(transfer) = transfer {
                    // What is not understood counts nowhere: it shows as loss.
                    let _ = lock(&transfer).note(header, record, here);
                }
                Some(false)
            }
            Kind::Close
            | Kind::Hello
            | Kind::Challenge
            | Kind::Accept
            | Kind::Refuse
            | Kind::Echo
            | Kind::ControlReply
            | Kind::Stale
            | Kind::BlockDown
            | Kind::SackDown => None,
        }
    }

    fn begin_load(
        &self,
        request: &BulkRequest,
        process: &Process,
        asker: Asker,
    ) -> Result<BulkReply, ControlRefusal> {
        if !self.full {
            return Err(ControlRefusal::NeedsInvite);
        }
        let (bounds, secret) = {
            let hub = lock(&process.hub);
            (hub.limits().bulk.clone(), hub.identity().secret)
        };
        let mut book = lock(&self.book);
        let transfer = book.bulk.get_or_insert_with(|| {
            let transfer = bulk::transfer(&secret, self.id, self.dress);
            lock(&transfer).allow_lateness(LATE_ON_STREAMS);
            transfer
        });
        bulk::begin(&mut lock(transfer), request, &bounds, Timestamp::NEVER, asker.now)
    }

    /// When a block or an acknowledgement is due, on the listener's clock; never where there is no load.
    fn load_due(&self) -> Timestamp {
        let transfer = lock(&self.book).bulk.clone();
        transfer.and_then(|t| lock(&t).next_deadline()).unwrap_or(Timestamp::NEVER)
    }

    /// Frames the blocks and the acknowledgement that are due.
    fn load(&mut self, here: Timestamp, out: &mut Vec<u8>) {
        let Some(transfer) = lock(&self.book).bulk.clone() else { return };
        let mut transfer = lock(&transfer);
        let mut frame = |record: &[u8]| self.framer.frame(record, out).is_ok();
        if let Some((blocks, size, _)) = transfer.due(here, BLOCKS_AT_ONCE) {
            let mut record = vec![0; size];
            transfer.fill(0, &mut record);
            for _ in 0..blocks {
                if !transfer.write_block(here, &mut record) || !frame(&record) {
                    break;
                }
            }
        }
        let mut sack = [0; HANDSHAKE_LEN];
        if transfer.write_sack(here, &mut sack) {
            frame(&sack);
        }
    }

    fn probe(&mut self, seq: u64, here: Timestamp, record: &mut Vec<u8>) -> bool {
        let Some((head, filler)) = record.split_at_mut_checked(MIN_LEN) else { return false };
        let Ok(probe) = ProbeBody::decode(&head[BODY_AT..]) else { return false };
        let len = (MIN_LEN + filler.len()) as u16;
        let mut book = lock(&self.book);
        let receipt = book.receipts.note(Arrival { seq, at: here, ttl: None, tos: None, len });
        let echo = EchoBody {
            arrived: here,
            received: book.receipts.received() as u32,
            window: receipt.window,
            len,
            filler_sum: filler_sum(filler),
            duplicate: receipt.duplicate,
            ..EchoBody::default()
        };
        drop(book);
        head[BODY_AT..].copy_from_slice(&echo.encode());
        let wanted = usize::from(probe.reply_len);
        if wanted != 0 {
            let wanted = wanted.clamp(MIN_LEN, MAX_LEN);
            if wanted < record.len() {
                record.truncate(wanted);
            } else if wanted > record.len() && self.full {
                record.resize(wanted, 0);
                if self.dress.row().random_filler {
                    self.keys.fill(seq, &mut record[MIN_LEN..]);
                }
            }
        }
        self.keys.seal(self.id, seq, Kind::Echo, record).is_ok()
    }
}

/// One TCP connection at the listener.
pub(super) struct Connection {
    pub(super) tcp: Tcp,
    since: Timestamp,
    tls: Option<Box<ServerConnection>>,
    accepted: bool,
    first: Vec<u8>,
    told_apart: bool,
    binding: [u8; 32],
    dialogue: Dialogue,
}

impl Connection {
    pub(super) fn new(tcp: Tcp, now: Timestamp) -> Self {
        Self {
            tcp,
            since: now,
            tls: None,
            accepted: false,
            first: Vec::new(),
            told_apart: false,
            binding: [0; 32],
            dialogue: Dialogue::new(),
        }
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self.dialogue, Dialogue::Done)
    }

    /// When [`serve`](Self::serve) is due whatever arrives.
    pub(super) fn next(&self) -> Timestamp {
        match self.dialogue {
            Dialogue::First(_) | Dialogue::Hello(..) if !self.tcp.is_closed() => self.since + SPEAK_WITHIN,
            Dialogue::First(_) | Dialogue::Hello(..) | Dialogue::Flow(_) | Dialogue::Done => Timestamp::NEVER,
        }
    }

    /// When a block or an acknowledgement of its load is due, on the listener's clock. What has not gone yet goes first.
    pub(super) fn load_due(&self) -> Timestamp {
        match &self.dialogue {
            Dialogue::Flow(flow) if self.tcp.waiting() == 0 && !self.tcp.is_closed() => flow.load_due(),
            Dialogue::First(_) | Dialogue::Hello(..) | Dialogue::Flow(_) | Dialogue::Done => Timestamp::NEVER,
        }
    }

    pub(super) fn serve(
        &mut self,
        now: Timestamp,
        here: Timestamp,
        wall: WallTime,
        process: &mut Process,
        certificate: &Certificate,
    ) {
        if self.tcp.connected().is_some() && !self.accepted {
            self.accepted = true;
            lock(&process.hub).tcp_accepted().add(self.tcp.remote.ip());
        }
        if self.tcp.has_news() {
            let bytes = self.tcp.take_read();
            self.take(&bytes, here, wall, process, certificate, now);
            if let Some(over) = self.tcp.take_over() {
                if let Dialogue::Flow(flow) = &self.dialogue {
                    lock(&flow.book).over = match over {
                        Over::Reset | Over::Refused => Some(StreamOver::Reset),
                        Over::Ended => Some(StreamOver::Closed),
                        Over::TimedOut | Over::Unreachable(_) => None,
                    };
                }
                self.dialogue.gone(here, process);
                if over == Over::Ended {
                    self.tcp.close(now);
                }
            }
        }
        if here >= self.load_due()
            && let Dialogue::Flow(flow) = &mut self.dialogue
        {
            let mut bytes = Vec::new();
            flow.load(here, &mut bytes);
            self.encrypt(&bytes);
        }
        if now >= self.next() {
            self.dialogue = Dialogue::Done;
            self.tcp.close(now);
        }
        if self.tcp.is_closed() {
            self.dialogue.gone(here, process);
        }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        here: Timestamp,
        wall: WallTime,
        process: &mut Process,
        certificate: &Certificate,
        now: Timestamp,
    ) {
        let mut bytes = bytes.to_vec();
        if !self.told_apart {
            self.first.append(&mut bytes);
            match first_bytes(&self.first, |_| true) {
                FirstBytes::More => return,
                FirstBytes::Tls => {
                    lock(&process.hub).client_hellos().add(self.tcp.remote.ip());
                    self.tls = ServerConnection::new(certificate.tls()).ok().map(Box::new);
                }
                FirstBytes::Hello(..) | FirstBytes::Http | FirstBytes::Unknown => {}
            }
            self.told_apart = true;
            bytes = std::mem::take(&mut self.first);
        }
        let mut carrier = Carrier::Tcp;
        if let Some(tls) = &mut self.tls {
            carrier = Carrier::Tls;
            let mut rest = &bytes[..];
            let mut failed = false;
            while !rest.is_empty() && !failed {
                failed = tls.read_tls(&mut rest).is_err() || tls.process_new_packets().is_err();
            }
            let mut plain = Vec::new();
            // Would block, or the end: both leave nothing more to read now.
            let _ = tls.reader().read_to_end(&mut plain);
            if !tls.is_handshaking() && self.binding == [0; 32] {
                let label = probe_server::tls::EXPORTER_LABEL;
                self.binding = tls.export_keying_material([0; 32], label, None).unwrap_or_default();
            }
            bytes = plain;
            if failed {
                self.encrypt(&[]);
                self.dialogue.gone(here, process);
                self.tcp.close(now);
                return;
            }
        }
        let mut end = false;
        let mut answer = Vec::new();
        if !bytes.is_empty() {
            let under = Under {
                carrier,
                from: self.tcp.remote,
                local: Some(self.tcp.local.ip()),
                binding: self.binding,
                datagrams: None,
            };
            let answered = self.dialogue.take(&bytes, here, wall, process, &under);
            (answer, end) = (answered.bytes, answered.end);
        }
        self.encrypt(&answer);
        if let Dialogue::Flow(flow) = &self.dialogue {
            lock(&flow.book).tcp = Some(self.tcp.facts());
        }
        if end {
            self.tcp.close(now);
        }
    }

    fn encrypt(&mut self, bytes: &[u8]) {
        let Some(tls) = &mut self.tls else {
            // A connection that is over says so itself.
            let _ = self.tcp.write(bytes);
            return;
        };
        let _ = tls.writer().write_all(bytes);
        let mut wire = Vec::new();
        while tls.wants_write() {
            if !matches!(tls.write_tls(&mut wire), Ok(1..)) {
                break;
            }
        }
        let _ = self.tcp.write(&wire);
    }
}
