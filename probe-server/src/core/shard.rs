//! The packet thread's core: a datagram and the time go in, what to do with it comes out.
//!
//! For a probe of an open flow there is no lock, no allocation and no clock here: candidates for its id, one keyed
//! hash, eight bytes compared, one integrity check, the receipt noted, the echo written over it and sealed. Whatever
//! opens, moves or asks takes the [`Hub`]'s lock.
//!
//! A datagram is, in this order: of an open flow; an opening; QUIC or its inverse; of a flow of an earlier start;
//! nothing known. Only what arrives in a buffer is answered, in that buffer, to where it came from, at most as long
//! as it was, except for the longer replies that holders of an invite ask for at an address that a cookie proved.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use probe_protocol::bulk::{Counted, Heard, Transfer};
use probe_protocol::control::{BulkReply, BulkRequest, ControlRefusal, Reply, Request};
use probe_protocol::cookie::CookieJar;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::{self, Dress, Form, Place};
use probe_protocol::wire::hello::HelloKeys;
use probe_protocol::wire::id::{FlowId, IdMint};
use probe_protocol::wire::probe::StaleBody;
use probe_protocol::wire::seal::{FlowKeys, FlowSecret};
use probe_protocol::wire::{BODY_AT, Kind, MIN_LEN};

use super::allow::AllowList;
use super::bulk::{self, BulkJob, BulkRunner};
use super::control::{self, AboutFlow, Answer, Asker};
use super::counters::{Counters, Counts};
use super::flow::{MOVES_TOLD, Probed, UdpFlow};
use super::hub::{Hub, Identity};
use super::invites::{Invites, Opener};
use super::later::{self, Later, LaterReply, Waiting};
use super::limit::{BitRate, Bucket, Rate, SourceCounts, SourceHash, SourceLimiter};
use super::limits::Limits;
use super::quic::{QuicDemux, QuicKind};

/// What is known of a datagram beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Who sent it.
    pub from: SocketAddr,
    /// Its length as it arrived, bytes.
    pub len: usize,
    /// It did not fit its buffer.
    pub truncated: bool,
    /// When it arrived, on the listener's clock.
    pub arrived: Timestamp,
    /// The kernel said so, not the program.
    pub kernel: bool,
    /// Received TTL or hop limit.
    pub ttl: Option<u8>,
    /// Received TOS or traffic class.
    pub tos: Option<u8>,
    /// The local address it arrived at, where the system tells.
    pub local: Option<IpAddr>,
    /// What the socket had dropped by then.
    pub drops: Option<u32>,
}

/// What to do with a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Send the first `len` bytes of its buffer to where it came from.
    Reply {
        /// How many.
        len: usize,
        /// TOS or traffic class of the reply.
        tos: u8,
    },
    /// Hand it to a QUIC endpoint, as it is.
    Quic {
        /// To the inverted one.
        inverse: bool,
    },
    /// Nothing.
    Silent(Silence),
}

/// Why a datagram is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It needs no answer.
    Noted,
    /// Nothing known opens it.
    Unknown,
    /// Under a known id, but it fails the integrity check or is malformed.
    Forged,
    /// Too short, too long, or cut off.
    Length,
    /// A kind that only listeners send.
    Kind,
    /// A rate is exceeded.
    Rate,
    /// A QUIC Initial below 1200 bytes.
    ShortInitial,
    /// Outside --allow.
    NotAllowed,
    /// The rate of all replies is exceeded.
    MaxRate,
}

struct Slot {
    id: FlowId,
    last: Timestamp,
    told: Timestamp,
    flow: Option<Box<UdpFlow>>,
}

/// See the module's text.
pub struct Shard {
    hub: Arc<Mutex<Hub>>,
    identity: Identity,
    limits: Limits,
    allow: AllowList,
    counters: Arc<Counters>,
    counts: Counts,
    strange: Arc<SourceCounts>,
    mint: IdMint,
    jar: CookieJar,
    quic: QuicDemux,
    max_rate: Option<Arc<BitRate>>,
    public: Rate,
    slots: Vec<Slot>,
    live: usize,
    cursor: usize,
    invites: Arc<Invites>,
    generation: Arc<AtomicU64>,
    seen: u64,
    hello_keys: HashMap<FlowId, HelloKeys>,
    limiter: SourceLimiter,
    unvalidated: Bucket,
    stale: Bucket,
    later: Later,
    scratch: Vec<u8>,
    runner: Option<Box<dyn BulkRunner>>,
    loads: Vec<Weak<Mutex<Transfer>>>,
}

impl std::fmt::Debug for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shard({} flows)", self.live)
    }
}

/// How often the signs of life of one flow reach the hub.
const TELL_EVERY: Duration = Duration::from_secs(5);
/// Flows that one [`Shard::tick`] looks at.
const PER_TICK: usize = 256;

impl Shard {
    /// A shard without flows. `key` is random.
    pub fn new(
        hub: &Arc<Mutex<Hub>>,
        quic: QuicDemux,
        max_rate: Option<Arc<BitRate>>,
        key: [u8; 16],
    ) -> Self {
        let shared = hub.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = *shared.identity();
        let limits = shared.limits().clone();
        let shard = Self {
            hub: Arc::clone(hub),
            mint: IdMint::new(&identity.secret),
            jar: CookieJar::new(&identity.secret, identity.boot),
            identity,
            allow: shared.allow().clone(),
            counters: Arc::clone(shared.counters()),
            counts: Counts::default(),
            strange: Arc::clone(shared.strange()),
            quic,
            max_rate,
            public: Rate::new(limits.public.pps, limits.public.pps),
            limits,
            slots: Vec::new(),
            live: 0,
            cursor: 0,
            invites: Arc::clone(shared.invites()),
            generation: Arc::clone(shared.generation()),
            seen: shared.generation().load(Ordering::Acquire),
            hello_keys: HashMap::new(),
            limiter: SourceLimiter::new(SourceHash::new(key)),
            unvalidated: Bucket::default(),
            stale: Bucket::default(),
            later: Later::default(),
            scratch: Vec::new(),
            runner: None,
            loads: Vec::new(),
        };
        drop(shared);
        shard
    }

    /// Has loads of UDP flows sent by `runner`; without one they are refused.
    pub fn run_loads(&mut self, runner: Box<dyn BulkRunner>) {
        self.runner = Some(runner);
    }

    /// Open UDP flows.
    pub fn flows(&self) -> usize {
        self.live
    }

    /// Judges the datagram that stands at the start of `buffer`, the rest of which is room for a longer reply.
    pub fn datagram(&mut self, now: Timestamp, wall: WallTime, meta: &Meta, buffer: &mut [u8]) -> Outcome {
        self.counts.datagrams += 1;
        self.counts.datagram_bytes += meta.len as u64;
        let outcome = self.judge(now, wall, meta, buffer);
        match outcome {
            Outcome::Reply { len, .. } => {
                // 28: an IPv4 and a UDP header.
                if self.max_rate.as_ref().is_some_and(|rate| !rate.take(now, len + 28)) {
                    self.counts.dropped_max_rate += 1;
                    return Outcome::Silent(Silence::MaxRate);
                }
            }
            Outcome::Quic { inverse: false } => self.counts.quic += 1,
            Outcome::Quic { inverse: true } => self.counts.quic_inverse += 1,
            Outcome::Silent(silence) => {
                if matches!(silence, Silence::Unknown | Silence::Forged) {
                    self.strange.add(meta.from.ip());
                }
                let counts = &mut self.counts;
                match silence {
                    Silence::Noted | Silence::MaxRate => {}
                    Silence::Unknown => counts.dropped_unknown += 1,
                    Silence::Forged => counts.dropped_forged += 1,
                    Silence::Length => counts.dropped_length += 1,
                    Silence::Kind => counts.dropped_kind += 1,
                    Silence::Rate => counts.dropped_rate += 1,
                    Silence::ShortInitial => counts.dropped_short_initial += 1,
                    Silence::NotAllowed => counts.dropped_not_allowed += 1,
                }
            }
        }
        outcome
    }

    fn judge(&mut self, now: Timestamp, wall: WallTime, meta: &Meta, buffer: &mut [u8]) -> Outcome {
        if meta.truncated || meta.len > buffer.len() {
            return Outcome::Silent(Silence::Length);
        }
        let datagram = &buffer[..meta.len];
        let mut opening = None;
        let mut earlier = None;
        let mut found = None;
        for (place, id) in dress::candidates(datagram) {
            if let Some(slot) = self.mint.slot(id) {
                let held = self.slots.get(slot as usize).filter(|s| s.id == id && s.flow.is_some());
                if held.and_then(|s| s.flow.as_ref()).is_some_and(|f| f.dress.row().running == place) {
                    found = Some(slot as usize);
                    break;
                }
                earlier = earlier.or(Some((place, id)));
            }
            if opening.is_none() && place != Place::At(1) && self.invites.find(id).is_some() {
                opening = Some((place, id));
            }
        }
        if let Some(slot) = found {
            return self.of_flow(slot, now, meta, buffer);
        }
        if let Some((place, id)) = opening {
            return self.hello(place, id, now, wall, meta, buffer);
        }
        let (quic, inverse) = self.quic.judge(datagram);
        match quic {
            QuicKind::No => {}
            QuicKind::Known | QuicKind::Initial | QuicKind::ShortInitial
                if !self.allow.allows(meta.from.ip()) =>
            {
                return Outcome::Silent(Silence::NotAllowed);
            }
            QuicKind::Known => return Outcome::Quic { inverse },
            QuicKind::Initial => {
                if !self.may_answer_stranger(now, meta, self.limits.strangers) {
                    return Outcome::Silent(Silence::Rate);
                }
                return Outcome::Quic { inverse };
            }
            QuicKind::ShortInitial => return Outcome::Silent(Silence::ShortInitial),
        }
        match earlier {
            Some((place, id)) => self.of_earlier_start(place, id, now, meta, buffer),
            None if meta.len < MIN_LEN => Outcome::Silent(Silence::Length),
            None => Outcome::Silent(Silence::Unknown),
        }
    }

    fn may_answer_stranger(&mut self, now: Timestamp, meta: &Meta, rate: Rate) -> bool {
        self.limiter.take(now, meta.from.ip(), rate) && self.unvalidated.take(now, self.limits.unvalidated)
    }

    fn of_flow(&mut self, slot: usize, now: Timestamp, meta: &Meta, buffer: &mut [u8]) -> Outcome {
        let Some(held) = self.slots.get_mut(slot) else { return Outcome::Silent(Silence::Unknown) };
        let Some(flow) = held.flow.as_mut() else { return Outcome::Silent(Silence::Unknown) };
        let Ok(record) = flow.open(&mut buffer[..meta.len]) else { return Outcome::Silent(Silence::Forged) };
        if record.header.kind.from_listener() || record.header.kind == Kind::Hello {
            return Outcome::Silent(Silence::Kind);
        }
        if flow.is_up(now) {
            return Outcome::Silent(Silence::Rate);
        }
        held.last = now;
        if let Some(old) = flow.follow(&record.header, meta, now) {
            // The lock is taken at a bounded rate: a flow may jump between addresses with each packet.
            if flow.told_moves.take(now, MOVES_TOLD) {
                let session = flow.session;
                lock(&self.hub).moved(session, old, meta.from);
            }
        }
        match record.header.kind {
            Kind::Probe => match flow.echo(&record, buffer, meta, now, self.public) {
                Probed::Echo { len, tos } => {
                    self.counts.udp_echoes += 1;
                    Outcome::Reply { len, tos }
                }
                Probed::Later { len, tos, after, fragments } => {
                    let (id, bytes) = (flow.id, buffer.get(..len).unwrap_or_default().to_vec());
                    let slot = slot as u32;
                    let reply = Waiting { due: now + after, slot, id, tos, fragments, bytes };
                    if flow.waiting >= later::MAX_PER_FLOW || !self.later.keep(reply) {
                        return Outcome::Silent(Silence::Rate);
                    }
                    flow.waiting += 1;
                    Outcome::Silent(Silence::Noted)
                }
                Probed::Noted => Outcome::Silent(Silence::Noted),
                Probed::OverRate => Outcome::Silent(Silence::Rate),
                Probed::Replayed | Probed::Malformed => Outcome::Silent(Silence::Forged),
            },
            Kind::Control => {
                let rate = if flow.full { self.limits.controls } else { self.limits.public.controls };
                if !flow.controls.take(now, rate) {
                    return Outcome::Silent(Silence::Rate);
                }
                self.control(slot, record.header.seq, (record.at, record.len), now, meta.local, buffer)
            }
            Kind::Block | Kind::Sack => {
                let bytes = buffer.get(record.at..record.at + record.len).unwrap_or(&[]);
                let heard =
                    flow.book.bulk.as_ref().map(|b| bulk::lock(b).note(record.header, bytes, meta.arrived));
                Outcome::Silent(match heard {
                    Some(Ok(Heard::Block(Counted::Yes))) => {
                        self.counts.blocks += 1;
                        Silence::Noted
                    }
                    Some(Ok(Heard::Block(Counted::Twice) | Heard::Sack(_))) => Silence::Noted,
                    // Nobody was told to send a load.
                    Some(Ok(Heard::Block(Counted::Unexpected))) | None => Silence::Rate,
                    Some(Ok(Heard::Other(_)) | Err(_)) => Silence::Forged,
                })
            }
            Kind::Close => {
                let (session, id) = (flow.session, flow.id);
                lock(&self.hub).flow_over(session, id, 0, now);
                Outcome::Silent(Silence::Noted)
            }
            Kind::Hello
            | Kind::Challenge
            | Kind::Accept
            | Kind::Refuse
            | Kind::Echo
            | Kind::ControlReply
            | Kind::Stale
            | Kind::BlockDown
            | Kind::SackDown => Outcome::Silent(Silence::Kind),
        }
    }

    fn control(
        &mut self,
        slot: usize,
        seq: u64,
        (at, len): (usize, usize),
        now: Timestamp,
        local: Option<IpAddr>,
        buffer: &mut [u8],
    ) -> Outcome {
        let Some(flow) = self.slots.get(slot).and_then(|s| s.flow.as_ref()) else {
            return Outcome::Silent(Silence::Unknown);
        };
        let asker = Asker { session: flow.session, boot: self.identity.boot, now, local };
        let Some(body) = buffer.get(at + BODY_AT..at + len) else {
            return Outcome::Silent(Silence::Length);
        };
        let room = body.len();
        let reply = match control::read(body, asker) {
            Err(reply) => reply,
            Ok(request) => {
                // The lock must be free again before the flow's own ledger is asked.
                let answer = control::answer(&mut lock(&self.hub), asker, request, room);
                match answer {
                    Answer::Now(reply) => reply,
                    Answer::AtPackets(about) => self.about(&about, asker, room),
                }
            }
        };
        let Some(flow) = self.slots.get_mut(slot).and_then(|s| s.flow.as_mut()) else {
            return Outcome::Silent(Silence::Unknown);
        };
        let Some(record) = buffer.get_mut(at..at + len) else { return Outcome::Silent(Silence::Length) };
        control::write(&reply, &mut record[BODY_AT..]);
        if flow.keys.seal(flow.id, seq, Kind::ControlReply, record).is_err() {
            return Outcome::Silent(Silence::Length);
        }
        self.counts.controls += 1;
        match flow.dressed(buffer, at, len) {
            Some(len) => Outcome::Reply { len, tos: 0 },
            None => Outcome::Silent(Silence::Length),
        }
    }

    /// Answers a request about one of the flows here, whoever asks.
    pub fn about(&mut self, about: &AboutFlow, asker: Asker, room: usize) -> Reply {
        if let Request::Bulk(request) = &about.request {
            let begun = self.begin_load(about, request, asker);
            return begun.map_or_else(|why| control::error(asker, why), Reply::Bulk);
        }
        let flow = self.slots.get_mut(about.slot as usize).filter(|s| s.id == about.flow);
        match flow.and_then(|s| s.flow.as_mut()).filter(|f| f.session == asker.session) {
            Some(flow) => control::of_book(&mut flow.book, &about.request, asker, room),
            None => control::error(asker, ControlRefusal::UnknownFlow),
        }
    }

    fn begin_load(
        &mut self,
        about: &AboutFlow,
        request: &BulkRequest,
        asker: Asker,
    ) -> Result<BulkReply, ControlRefusal> {
        let flow = self.slots.get_mut(about.slot as usize).filter(|s| s.id == about.flow);
        let flow = flow.and_then(|s| s.flow.as_mut()).filter(|f| f.session == asker.session);
        let flow = flow.ok_or(ControlRefusal::UnknownFlow)?;
        if !flow.full {
            return Err(ControlRefusal::NeedsInvite);
        }
        if !bulk::carries_load(flow.dress) {
            return Err(ControlRefusal::NotUnderstood);
        }
        if !request.order.up && !request.stop && flow.book.source != flow.validated {
            return Err(ControlRefusal::NotProven);
        }
        let runner = self.runner.as_mut().ok_or(ControlRefusal::TooMuch)?;
        let id = flow.id;
        let transfer =
            flow.book.bulk.get_or_insert_with(|| bulk::transfer(&self.identity.secret, id, flow.dress));
        // Who runs it holds it too.
        if Arc::strong_count(transfer) == 1 {
            self.loads.retain(|load| load.strong_count() > 1);
            let job =
                BulkJob { flow: id, peer: flow.validated, local: flow.local, transfer: Arc::clone(transfer) };
            if self.loads.len() >= self.limits.bulk.flows || !runner.run(job) {
                flow.book.bulk = None;
                return Err(ControlRefusal::TooMuch);
            }
            self.loads.push(Arc::downgrade(transfer));
        }
        let begun = bulk::begin(&mut bulk::lock(transfer), request, &self.limits.bulk, flow.until, asker.now);
        runner.wake(id);
        begun
    }

    /// A record of a flow that an earlier start of this listener opened, or that was forgotten: says so to whoever
    /// proves to know the flow's key.
    fn of_earlier_start(
        &mut self,
        place: Place,
        id: FlowId,
        now: Timestamp,
        meta: &Meta,
        buffer: &mut [u8],
    ) -> Outcome {
        if meta.len < MIN_LEN {
            return Outcome::Silent(Silence::Length);
        }
        if !self.may_answer_stranger(now, meta, self.limits.strangers)
            || !self.stale.take(now, self.limits.stale)
        {
            return Outcome::Silent(Silence::Rate);
        }
        let dress = match place {
            Place::Base64 => Dress::Ascii,
            Place::At(1) => Dress::QuicShaped,
            Place::At(_) => Dress::Random,
        };
        let mut keys = FlowKeys::new(FlowSecret::of_flow(&self.identity.secret, id));
        let datagram = &mut buffer[..meta.len];
        let Ok(record) = dress::take_off(dress, Form::Running, datagram) else {
            return Outcome::Silent(Silence::Unknown);
        };
        let header = match keys.open(record) {
            // Most of these are strangers whose first bytes pass the id's check by chance.
            Err(_) => return Outcome::Silent(Silence::Unknown),
            Ok(header) if !matches!(header.kind, Kind::Probe | Kind::Control) => {
                return Outcome::Silent(Silence::Kind);
            }
            Ok(header) => header,
        };
        let body = StaleBody { boot: self.identity.boot, epoch: self.identity.epoch }.encode();
        let Some(room) = record.get_mut(BODY_AT..MIN_LEN) else { return Outcome::Silent(Silence::Length) };
        room.copy_from_slice(&body);
        if keys.seal(id, header.seq, Kind::Stale, record).is_err()
            || dress::put_back(dress, datagram).is_err()
        {
            return Outcome::Silent(Silence::Length);
        }
        self.counts.stale += 1;
        Outcome::Reply { len: meta.len, tos: 0 }
    }

    /// When [`take_later`](Self::take_later) has something to give.
    pub fn next_later(&self) -> Timestamp {
        self.later.next()
    }

    /// A reply that was asked to wait, and is due. One whose flow is gone, or has moved to an address that no cookie
    /// proved, is not sent.
    pub fn take_later(&mut self, now: Timestamp) -> Option<LaterReply> {
        loop {
            let Waiting { slot, id, tos, fragments, bytes, .. } = self.later.take(now)?;
            let held = self.slots.get_mut(slot as usize).filter(|held| held.id == id);
            let Some(flow) = held.and_then(|held| held.flow.as_mut()) else { continue };
            flow.waiting = flow.waiting.saturating_sub(1);
            if flow.book.source != flow.validated || flow.is_up(now) {
                continue;
            }
            // 28: an IPv4 and a UDP header.
            if self.max_rate.as_ref().is_some_and(|rate| !rate.take(now, bytes.len() + 28)) {
                self.counts.dropped_max_rate += 1;
                continue;
            }
            self.counts.udp_echoes += 1;
            return Some(LaterReply { to: flow.validated, local: flow.local, bytes, tos, fragments });
        }
    }

    /// Passes the counts on, and sees whether the invites have changed. Once per batch.
    pub fn after_batch(&mut self) {
        self.counts.publish(&self.counters);
        let generation = self.generation.load(Ordering::Acquire);
        if generation != self.seen {
            self.seen = generation;
            self.invites = Arc::clone(lock(&self.hub).invites());
            self.hello_keys.clear();
        }
    }

    /// Counts what the driver could not do.
    pub fn note_failures(&mut self, not_sent: u64, quic_full: u64) {
        self.counts.send_failures += not_sent;
        self.counts.dropped_quic_queue += quic_full;
    }

    /// Lets go of what the hub closed, and passes signs of life on to it. Some ten times a second while datagrams
    /// come, and when the hub has closed something.
    pub fn tick(&mut self) {
        let mut hub = lock(&self.hub);
        let closing = hub.take_closing();
        for slot in &closing {
            if let Some(held) = self.slots.get_mut(*slot as usize)
                && held.flow.take().is_some()
            {
                self.live -= 1;
            }
        }
        hub.release(&closing);
        let count = self.slots.len();
        for _ in 0..count.min(PER_TICK) {
            self.cursor = (self.cursor + 1) % count;
            let held = &mut self.slots[self.cursor];
            if let Some(flow) = &held.flow
                && held.last > held.told + TELL_EVERY
            {
                held.told = held.last;
                hub.touch(flow.session, flow.id, held.last);
            }
        }
    }
}

fn lock(hub: &Mutex<Hub>) -> MutexGuard<'_, Hub> {
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

mod opening;
