//! A flow on a stream: TCP, TLS, or QUIC with its datagrams.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_net::clock;
use probe_protocol::bulk::{Counted, Heard, LATE_ON_STREAMS};
use probe_protocol::control::{
    Arrival, BulkReply, BulkRequest, ControlRefusal, Reply, Request, StreamOver, TcpFacts,
};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::SessionId;
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::probe::{EchoBody, ProbeBody};
use probe_protocol::wire::seal::{FlowKeys, filler_sum};
use probe_protocol::wire::stream::{Deframer, Framer};
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, HEADER_LEN, Kind, MAX_LEN, MIN_LEN};
use probe_protocol::{PROTOCOL_VERSION, wire};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::core::book::FlowBook;
use crate::core::bulk;
use crate::core::control::{self, Answer, Asker};
use crate::core::counters::Counters;
use crate::core::limit::{Bucket, Rate};
use crate::quic::Claim;
use crate::shared::Shared;

/// What a connection reads at once, at first and at most: it grows where there is much to read.
const READ: std::ops::RangeInclusive<usize> = 2 << 10..=64 << 10;
/// Blocks of a load that are handed to the system at once.
const BLOCKS_AT_ONCE: usize = 32;
/// How often the hub learns that the flow lives, and TCP's own view is refreshed.
const TELL_EVERY: Duration = Duration::from_secs(5);
const FACTS_EVERY: Duration = Duration::from_secs(1);
/// How long a verdict may take to be written down before the client is told to ask again.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

/// A flow that has been accepted.
pub(crate) struct Flow {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: SessionId,
    pub(crate) id: FlowId,
    pub(crate) keys: FlowKeys,
    pub(crate) framer: Framer,
    pub(crate) deframer: Deframer,
    pub(crate) dress: Dress,
    pub(crate) full: bool,
    pub(crate) until: Timestamp,
    pub(crate) boot: u64,
    pub(crate) local: Option<IpAddr>,
    pub(crate) book: Arc<Mutex<FlowBook>>,
    /// How often another connection took the flow over before this one.
    pub(crate) attached: u32,
    /// Rung when the flow is to end.
    pub(crate) closed: Arc<Notify>,
    pub(crate) pps: (Bucket, Rate),
    pub(crate) controls: (Bucket, Rate),
    pub(crate) told: Timestamp,
    pub(crate) facts_at: Timestamp,
}

/// Why a flow on a stream is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client closed it, or the connection went.
    Closed,
    /// The listener ended it.
    Ended,
    /// What came was not a record of this flow.
    Broken,
}

/// What a record is answered with.
enum Step {
    Reply,
    Ask(Request, u64),
    Silent,
    Close,
    Broken,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.shared.hub().flow_over(self.session, self.id, self.attached, clock::now());
    }
}

impl Flow {
    /// Answers records until the flow is over. `early` is what came with the handshake; `facts` tells TCP's own view;
    /// `quic` is the connection under the stream.
    pub(crate) async fn run<S>(
        mut self,
        stream: &mut S,
        early: &[u8],
        facts: impl Fn(&S) -> Option<TcpFacts>,
        quic: Option<(&quinn::Connection, &Claim)>,
    ) -> End
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut buffer = vec![0; *READ.start()];
        let (mut record, mut out, mut block) = (Vec::new(), Vec::new(), Vec::new());
        let closed = Arc::clone(&self.closed);
        let mut pending = early.len();
        self.deframer.push(early);
        loop {
            if pending > 0 {
                let arrived = clock::now();
                self.signs_of_life(arrived, || facts(stream));
                match self.answer_all(arrived, &mut record, &mut out).await {
                    Ok(()) => {}
                    Err(end) => {
                        let over = if end == End::Closed { StreamOver::Closed } else { StreamOver::Own };
                        self.note_over(over);
                        return end;
                    }
                }
                if !out.is_empty() {
                    self.shared.may_send(out.len(), clock::now).await;
                    let written = match stream.write_all(&out).await {
                        Ok(()) => stream.flush().await,
                        Err(error) => Err(error),
                    };
                    if let Err(error) = written {
                        // After a reset the first write fails with it.
                        if error.kind() == std::io::ErrorKind::ConnectionReset {
                            self.note_over(StreamOver::Reset);
                        }
                        return End::Closed;
                    }
                    out.clear();
                }
                pending = 0;
            }
            if let Some((connection, claim)) = quic
                && claim.follow(connection.remote_address())
            {
                self.move_to(connection.remote_address());
            }
            let until = self.until;
            tokio::select! {
                read = stream.read(&mut buffer) => match read {
                    Ok(n @ 1..) => {
                        self.deframer.push(&buffer[..n]);
                        pending = n;
                        if n == buffer.len() && n < *READ.end() {
                            buffer = vec![0; n * 4];
                        }
                    }
                    Ok(0) => {
                        self.refresh(clock::now(), || facts(stream));
                        self.note_over(StreamOver::Closed);
                        return End::Closed;
                    }
                    Err(error) => {
                        self.refresh(clock::now(), || facts(stream));
                        if error.kind() == std::io::ErrorKind::ConnectionReset {
                            self.note_over(StreamOver::Reset);
                        }
                        return End::Closed;
                    }
                },
                datagram = next_datagram(quic) => match (datagram, quic) {
                    (Some(datagram), Some((connection, _))) => self.echo_datagram(datagram.as_ref(), connection, &mut record).await,
                    _ => return End::Closed,
                },
                () = sleep_until(self.load_due()) => {
                    if let Err(end) = self.load(&mut block, &mut out) {
                        return end;
                    }
                    self.shared.may_send(out.len(), clock::now).await;
                    if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
                        return End::Closed;
                    }
                    out.clear();
                },
                () = closed.notified() => {
                    self.note_over(StreamOver::Own);
                    return End::Ended;
                }
                () = sleep_until(until) => {
                    self.note_over(StreamOver::Own);
                    return End::Ended;
                }
            }
        }
    }

    /// Keeps for the client how its stream ended; the first word counts.
    fn note_over(&self, over: StreamOver) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.over.get_or_insert(over);
    }

    async fn answer_all(
        &mut self,
        arrived: Timestamp,
        record: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<(), End> {
        loop {
            match self.deframer.next_record() {
                Ok(Some(bytes)) => {
                    record.clear();
                    record.extend_from_slice(bytes);
                }
                Ok(None) => return Ok(()),
                Err(_) => {
                    Counters::bump(&self.shared.counters.stream_broken);
                    return Err(End::Broken);
                }
            }
            let step = self.step(arrived, record);
            match self.finish(step, record).await {
                Ok(true) => self.framer.frame(record, out).map_err(|_| End::Broken)?,
                Ok(false) => {}
                Err(end) => return Err(end),
            }
        }
    }

    /// Sees a step through; true where `record` is to be sent.
    async fn finish(&mut self, step: Step, record: &mut [u8]) -> Result<bool, End> {
        match step {
            Step::Reply => Ok(true),
            Step::Silent => Ok(false),
            Step::Close => Err(End::Closed),
            Step::Broken => Err(End::Broken),
            Step::Ask(request, seq) => {
                let reply = self.answer(request, record.len() - BODY_AT).await;
                control::write(&reply, &mut record[BODY_AT..]);
                Counters::bump(&self.shared.counters.controls);
                Ok(self.keys.seal(self.id, seq, Kind::ControlReply, record).is_ok())
            }
        }
    }

    async fn echo_datagram(&mut self, datagram: &[u8], connection: &quinn::Connection, record: &mut Vec<u8>) {
        record.clear();
        record.extend_from_slice(datagram);
        let now = clock::now();
        self.signs_of_life(now, || None);
        let step = self.step(now, record);
        // A forged or foreign datagram ends nothing here.
        if let Ok(true) = self.finish(step, record).await {
            self.shared.may_send(record.len(), clock::now).await;
            let _ = connection.send_datagram(record.clone().into());
        }
    }

    /// Opens a record and, where it is a probe, writes its echo over it.
    fn step(&mut self, arrived: Timestamp, record: &mut Vec<u8>) -> Step {
        if record.len() < HEADER_LEN || !record.starts_with(&self.id.0) {
            return self.forged(record);
        }
        let sample = self.book().wants_sample().then(|| record.clone());
        let header = match self.keys.open(record) {
            Ok(header) if header.version == PROTOCOL_VERSION => header,
            Ok(_) | Err(_) => return self.forged(sample.as_ref().unwrap_or(record)),
        };
        match header.kind {
            Kind::Probe => self.probe(header.seq, arrived, record),
            Kind::Control if !self.controls.0.take(arrived, self.controls.1) => Step::Silent,
            Kind::Control => {
                let asker = self.asker(arrived);
                match control::read(&record[BODY_AT..], asker) {
                    Ok(request) => Step::Ask(request, header.seq),
                    Err(reply) => {
                        control::write(&reply, &mut record[BODY_AT..]);
                        let sealed = self.keys.seal(self.id, header.seq, Kind::ControlReply, record);
                        if sealed.is_ok() { Step::Reply } else { Step::Silent }
                    }
                }
            }
            Kind::Block | Kind::Sack => {
                let Some(transfer) = self.book().bulk.clone() else { return Step::Silent };
                if let Ok(Heard::Block(Counted::Yes)) = bulk::lock(&transfer).note(header, record, arrived) {
                    Counters::bump(&self.shared.counters.blocks);
                }
                Step::Silent
            }
            Kind::Close => Step::Close,
            Kind::Hello
            | Kind::Challenge
            | Kind::Accept
            | Kind::Refuse
            | Kind::Echo
            | Kind::ControlReply
            | Kind::Stale
            | Kind::BlockDown
            | Kind::SackDown => Step::Broken,
        }
    }

    fn forged(&self, record: &[u8]) -> Step {
        self.book().note_forged(record);
        Counters::bump(&self.shared.counters.stream_broken);
        Step::Silent
    }

    fn probe(&mut self, seq: u64, arrived: Timestamp, record: &mut Vec<u8>) -> Step {
        let Some((head, filler)) = record.split_at_mut_checked(MIN_LEN) else { return Step::Silent };
        let Ok(probe) = ProbeBody::decode(&head[BODY_AT..]) else { return Step::Silent };
        let len = (MIN_LEN + filler.len()) as u16;
        let (receipt, received) = {
            let mut book = self.book();
            let receipt = book.receipts.note(Arrival { seq, at: arrived, ttl: None, tos: None, len });
            (receipt, book.receipts.received())
        };
        if !self.full && !self.pps.0.take(arrived, self.pps.1) {
            return Step::Silent;
        }
        let echo = EchoBody {
            arrived,
            dwell_ns: u32::try_from(clock::now().since(arrived).as_nanos()).unwrap_or(u32::MAX),
            received: received as u32,
            window: receipt.window,
            len,
            filler_sum: filler_sum(filler),
            duplicate: receipt.duplicate,
            ..EchoBody::default()
        };
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
        Counters::bump(&self.shared.counters.stream_echoes);
        match self.keys.seal(self.id, seq, Kind::Echo, record) {
            Ok(()) => Step::Reply,
            Err(wire::WireError::TooShort { .. } | wire::WireError::TooLong { .. }) => Step::Silent,
            Err(_) => Step::Broken,
        }
    }

    async fn answer(&self, request: Request, room: usize) -> Reply {
        let asker = self.asker(clock::now());
        if let Request::Bulk(request) = &request
            && request.flow == self.id
        {
            return self
                .begin_load(request, asker)
                .map_or_else(|why| control::error(asker, why), Reply::Bulk);
        }
        // Listening begins before the verdict is handed over, or its writer could be faster.
        let kept = self.shared.kept.notified();
        tokio::pin!(kept);
        kept.as_mut().enable();
        let answer = control::answer(&mut self.shared.hub(), asker, request.clone(), room);
        match answer {
            Answer::AtPackets(about) => self.shared.ask(about, asker, room).await,
            Answer::Now(Reply::HandIn(reply)) if !reply.kept && is_whole(&request, reply.have) => {
                let _ = tokio::time::timeout(KEPT_WITHIN, kept).await;
                match control::answer(&mut self.shared.hub(), asker, request, room) {
                    Answer::Now(reply) => reply,
                    Answer::AtPackets(_) => Reply::HandIn(reply),
                }
            }
            Answer::Now(reply) => reply,
        }
    }

    fn begin_load(&self, request: &BulkRequest, asker: Asker) -> Result<BulkReply, ControlRefusal> {
        if !self.full {
            return Err(ControlRefusal::NeedsInvite);
        }
        let (bounds, secret) = {
            let hub = self.shared.hub();
            (hub.limits().bulk.clone(), hub.identity().secret)
        };
        let mut book = self.book();
        let transfer = book.bulk.get_or_insert_with(|| {
            let transfer = bulk::transfer(&secret, self.id, self.dress);
            bulk::lock(&transfer).allow_lateness(LATE_ON_STREAMS);
            transfer
        });
        bulk::begin(&mut bulk::lock(transfer), request, &bounds, self.until, asker.now)
    }

    /// When a block or an acknowledgement is due; never where there is no load.
    fn load_due(&self) -> Timestamp {
        let transfer = self.book().bulk.clone();
        transfer.and_then(|t| bulk::lock(&t).next_deadline()).unwrap_or(Timestamp::NEVER)
    }

    /// Frames the blocks and the acknowledgement that are due.
    fn load(&mut self, record: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<(), End> {
        let Some(transfer) = self.book().bulk.clone() else { return Ok(()) };
        let mut transfer = bulk::lock(&transfer);
        let now = clock::now();
        if let Some((blocks, size, _)) = transfer.due(now, BLOCKS_AT_ONCE) {
            if record.len() != size {
                record.clear();
                record.resize(size, 0);
                transfer.fill(0, record);
            }
            let mut sent = 0;
            for _ in 0..blocks {
                if !transfer.write_block(now, record) {
                    break;
                }
                self.framer.frame(record, out).map_err(|_| End::Broken)?;
                sent += 1;
            }
            self.shared.counters.blocks_sent.fetch_add(sent, std::sync::atomic::Ordering::Relaxed);
        }
        let mut sack = [0; HANDSHAKE_LEN];
        if transfer.write_sack(now, &mut sack) {
            self.framer.frame(&sack, out).map_err(|_| End::Broken)?;
        }
        Ok(())
    }

    fn asker(&self, now: Timestamp) -> Asker {
        Asker { session: self.session, boot: self.boot, now, local: self.local }
    }

    fn book(&self) -> MutexGuard<'_, FlowBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signs_of_life(&mut self, now: Timestamp, facts: impl Fn() -> Option<TcpFacts>) {
        if now > self.told + TELL_EVERY {
            self.told = now;
            self.shared.hub().touch(self.session, self.id, now);
        }
        if now > self.facts_at + FACTS_EVERY {
            self.refresh(now, facts);
        }
    }

    fn refresh(&mut self, now: Timestamp, facts: impl Fn() -> Option<TcpFacts>) {
        self.facts_at = now;
        if let Some(facts) = facts() {
            self.book().tcp = Some(facts);
        }
    }

    /// The flow's address has changed under it, as QUIC connections may.
    fn move_to(&self, source: SocketAddr) {
        let mut book = self.book();
        if book.source != source {
            let old = book.source;
            book.move_to(source, clock::now());
            drop(book);
            self.shared.hub().moved(self.session, old, source);
        }
    }
}

fn is_whole(request: &Request, have: u32) -> bool {
    matches!(request, Request::HandIn(r) if r.total == have)
}

async fn next_datagram(quic: Option<(&quinn::Connection, &Claim)>) -> Option<impl AsRef<[u8]>> {
    match quic {
        Some((connection, _)) => connection.read_datagram().await.ok(),
        None => std::future::pending().await,
    }
}

async fn sleep_until(until: Timestamp) {
    if until == Timestamp::NEVER {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(until.since(clock::now())).await;
}
