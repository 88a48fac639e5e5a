//! Sessions and their flows over all transports: what is shared between the packet thread and the streams.
//!
//! It stands behind a lock that is taken when a flow opens, moves or asks something, never for a probe. Its methods
//! are of three kinds: clients' requests ([`open`](Hub::open), [`hand_in`](Hub::hand_in), [`end`](Hub::end), ...),
//! reports of the drivers ([`touch`](Hub::touch), [`moved`](Hub::moved), [`kept`](Hub::kept), ...), and
//! [`expire`](Hub::expire), which makes time pass.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use probe_protocol::control::{ControlRefusal, HandInReply, HandInRequest, OpeningsReply};
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::hello::{Accept, Carrier, Hello, Refusal, SessionId, Software};
use probe_protocol::wire::id::{FlowId, IdMint};
use probe_protocol::wire::seal::FlowSecret;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::allow::AllowList;
use super::counters::Counters;
use super::event::{CloseReason, Event, HandedIn, Outbox, SessionLabel};
use super::invites::{Invites, Rights};
use super::limit::{Bucket, Rate, SourceCounts, SourceHash};
use super::limits::{HOLDER_PPS, Limits};
use super::session::{Before, Closer, FlowEntry, HandInStep, Place, Session, StreamFlow};

/// Who this listener is.
#[derive(Clone, Copy)]
pub struct Identity {
    /// Kept in the state directory: flow ids and keys derive from it.
    pub secret: [u8; 32],
    /// Random per start.
    pub boot: u64,
    /// How often the state directory has been started.
    pub epoch: u32,
    /// The program's version.
    pub software: Software,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity(boot {:016x}, epoch {})", self.boot, self.epoch)
    }
}

/// What a hub is made of.
pub struct HubConfig {
    /// Who the listener is.
    pub identity: Identity,
    /// Bounds.
    pub limits: Limits,
    /// Which sources may use it.
    pub allow: AllowList,
    /// Clients without an invite may do all.
    pub open_to_all: bool,
    /// The invites there are.
    pub invites: Arc<Invites>,
    /// Where randomness comes from.
    pub seed: [u8; 32],
    /// Where events and verdicts go.
    pub outbox: Box<dyn Outbox>,
    /// The listener's counters.
    pub counters: Arc<Counters>,
}

/// All sessions. See the module's text.
pub struct Hub {
    identity: Identity,
    limits: Limits,
    allow: AllowList,
    open_to_all: bool,
    invites: Arc<Invites>,
    generation: Arc<AtomicU64>,
    rng: StdRng,
    outbox: Box<dyn Outbox>,
    counters: Arc<Counters>,
    strange: Arc<SourceCounts>,
    tcp_accepted: Arc<SourceCounts>,
    client_hellos: Arc<SourceCounts>,
    mint: IdMint,
    sessions: HashMap<SessionId, Session>,
    sources: HashMap<IpAddr, SourceUse>,
    free_slots: Vec<u32>,
    next_slot: u32,
    flows: usize,
    closing: Vec<u32>,
    refusals: Bucket,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hub({} sessions, {} flows)", self.sessions.len(), self.flows)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct SourceUse {
    sessions: usize,
    flows: usize,
}

/// A request to open a flow, its address validated and its invite looked up.
#[derive(Debug)]
pub struct OpenRequest<'a> {
    /// What the client says.
    pub hello: &'a Hello,
    /// Where it comes from.
    pub from: SocketAddr,
    /// What it may do.
    pub rights: Rights,
    /// What the flow really runs over, which a third party may have changed from what the Hello says.
    pub carrier: Carrier,
    /// On TLS and QUIC, the exporter of the channel.
    pub binding: [u8; 32],
    /// The listener's clock.
    pub now: Timestamp,
    /// The listener's wall clock.
    pub wall: WallTime,
}

/// How the drivers hold a flow's state.
pub enum Holds {
    /// In the packet thread's slot.
    Udp,
    /// At a connection: its ledger, and what ends it.
    Stream(StreamFlow, Closer),
}

/// A flow that is open.
#[derive(Debug)]
pub struct Opened {
    /// What to answer.
    pub accept: Accept,
    /// Where its state belongs.
    pub slot: u32,
    /// It was not open before.
    pub new: bool,
    /// It may have all; else only the short, slow check.
    pub full: bool,
    /// When it is over at the latest.
    pub until: Timestamp,
    /// How many flows there are, this one included.
    pub flows: usize,
}

/// Where a flow's ledger is to be found.
#[derive(Debug)]
pub enum FlowRef {
    /// At the packet thread, in this slot.
    Udp(u32),
    /// Here.
    Stream(StreamFlow),
}

/// At most this many refusals are told to the admin; the others are counted alone.
const REFUSALS_TOLD: Rate = Rate::new(5, 10);

impl Hub {
    /// An empty hub.
    pub fn new(config: HubConfig) -> Self {
        let mut rng = StdRng::from_seed(config.seed);
        let mut key = || {
            let mut key = [0; 16];
            rng.fill_bytes(&mut key);
            SourceHash::new(key)
        };
        let (strange, tcp_accepted) = (SourceCounts::new(key()), SourceCounts::new(key()));
        let client_hellos = Arc::new(SourceCounts::new(key()));
        Self {
            mint: IdMint::new(&config.identity.secret),
            identity: config.identity,
            limits: config.limits,
            allow: config.allow,
            open_to_all: config.open_to_all,
            invites: config.invites,
            generation: Arc::new(AtomicU64::new(0)),
            rng,
            outbox: config.outbox,
            counters: config.counters,
            strange: Arc::new(strange),
            tcp_accepted: Arc::new(tcp_accepted),
            client_hellos,
            sessions: HashMap::new(),
            sources: HashMap::new(),
            free_slots: Vec::new(),
            next_slot: 0,
            flows: 0,
            closing: Vec::new(),
            refusals: Bucket::default(),
        }
    }

    /// Who the listener is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Which sources may use it.
    pub fn allow(&self) -> &AllowList {
        &self.allow
    }

    /// The listener's counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Datagrams per source that were none of ours.
    pub fn strange(&self) -> &Arc<SourceCounts> {
        &self.strange
    }

    /// TCP connections per source.
    pub fn tcp_accepted(&self) -> &Arc<SourceCounts> {
        &self.tcp_accepted
    }

    /// The invites as they are now.
    pub fn invites(&self) -> &Arc<Invites> {
        &self.invites
    }

    /// Grows with each change of the invites, so that who holds a copy sees without a lock that it is old.
    pub fn generation(&self) -> &Arc<AtomicU64> {
        &self.generation
    }

    /// Sessions and flows that are held.
    pub fn held(&self) -> (usize, usize) {
        (self.sessions.len(), self.flows)
    }

    /// The admin made or took back invites. Sessions whose invite was taken back are over.
    pub fn set_invites(&mut self, invites: Arc<Invites>) {
        self.invites = invites;
        self.generation.fetch_add(1, Ordering::Release);
        let revoked: Vec<_> = self.invites.revoked().map(str::to_owned).collect();
        let of_revoked = |s: &Session| s.rights.label().is_some_and(|l| revoked.iter().any(|r| r == l));
        let gone: Vec<_> = self.sessions.iter().filter(|(_, s)| of_revoked(s)).map(|(id, _)| *id).collect();
        for id in gone {
            self.close(id, CloseReason::Revoked);
        }
    }

    /// Takes note of a Hello, where its session exists.
    pub fn note_opening(&mut self, session: SessionId, flow_nonce: u64, from: SocketAddr, with_cookie: bool) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.note_opening(flow_nonce, from, with_cookie);
        }
    }

    /// Takes note of the Hello that made its session, which [`note_opening`](Self::note_opening) could not.
    pub fn note_first(&mut self, session: SessionId, flow_nonce: u64, from: SocketAddr) {
        if let Some(session) = self.sessions.get_mut(&session)
            && !session.has_opening(flow_nonce)
        {
            session.note_opening(flow_nonce, from, true);
        }
    }

    /// Opens a flow; the same one again where the same Hello comes again. For a new one, `holds` makes what holds its
    /// state, from how many flows there are then.
    ///
    /// # Errors
    /// A [`Refusal`].
    pub fn open(
        &mut self,
        request: &OpenRequest<'_>,
        holds: impl FnOnce(usize, bool) -> Holds,
    ) -> Result<Opened, Refusal> {
        if !self.allow.allows(request.from.ip()) {
            return Err(Refusal::NotAllowed);
        }
        let full = self.open_to_all || request.rights != Rights::Public;
        let id = request.hello.session;
        match self.sessions.get_mut(&id) {
            // A session's rights are those it began with.
            Some(session) if session.rights != request.rights => return Err(Refusal::NeedsInvite),
            Some(session) => {
                session.ended = None;
                session.last = request.now;
                let nonce = request.hello.flow_nonce;
                if let Some(flow) = session.flows.iter_mut().find(|f| f.nonce == nonce) {
                    flow.last = request.now;
                    flow.over = false;
                    let (flow_id, slot) = (flow.id, flow.slot);
                    return Ok(self.opened(request, flow_id, slot, full, false));
                }
            }
            None => self.begin(request, full)?,
        }
        self.make_room_for_flow(id, full, request.now)?;
        let slot = self.take_slot().ok_or(Refusal::Full)?;
        let flow_id = self.mint.mint(slot, self.rng.next_u32());
        let place = match holds(self.flows, full) {
            Holds::Udp => Place::Udp,
            Holds::Stream(flow, closer) => Place::Stream(flow, Some(closer)),
        };
        if let Some(session) = self.sessions.get_mut(&id) {
            let entry = FlowEntry {
                id: flow_id,
                slot,
                nonce: request.hello.flow_nonce,
                last: request.now,
                over: false,
                attached: 0,
                place,
            };
            session.flows.push(entry);
            self.flows += 1;
            self.sources.entry(session.source).or_default().flows += 1;
        }
        Counters::bump(&self.counters.flows_opened);
        Ok(self.opened(request, flow_id, slot, full, true))
    }

    fn opened(&self, request: &OpenRequest<'_>, id: FlowId, slot: u32, full: bool, new: bool) -> Opened {
        let public = &self.limits.public;
        let began = self.sessions.get(&request.hello.session).map_or(request.now, |s| s.opened);
        let until = if full { Timestamp::NEVER } else { began + public.life };
        let accept = Accept {
            id,
            secret: FlowSecret::of_flow(&self.identity.secret, id),
            boot: self.identity.boot,
            epoch: self.identity.epoch,
            observed: request.from,
            max_rate_pps: if full { HOLDER_PPS } else { public.pps },
            max_s: (if full { self.limits.idle } else { public.life }).as_secs() as u32,
            authenticated: full,
            wall: request.wall,
            clock: request.now,
            software: self.identity.software,
            binding: request.binding,
        };
        Opened { accept, slot, new, full, until, flows: self.flows }
    }

    /// Where the ledger of a flow of this session is.
    ///
    /// # Errors
    /// [`ControlRefusal::UnknownFlow`].
    pub fn find(&self, session: SessionId, flow: FlowId) -> Result<FlowRef, ControlRefusal> {
        let flows = self.sessions.get(&session).map_or(&[][..], |s| &s.flows);
        let found = flows.iter().find(|f| f.id == flow).ok_or(ControlRefusal::UnknownFlow)?;
        Ok(match &found.place {
            Place::Udp => FlowRef::Udp(found.slot),
            Place::Stream(flow, _) => FlowRef::Stream(flow.clone()),
        })
    }

    /// A flow goes on over another connection: the former one is closed, the ledger stays. Answers with it, and with
    /// the number that [`flow_over`](Self::flow_over) wants.
    pub fn reattach(
        &mut self,
        session: SessionId,
        flow: FlowId,
        closer: Closer,
    ) -> Option<(StreamFlow, u32)> {
        let flows = &mut self.sessions.get_mut(&session)?.flows;
        let entry = flows.iter_mut().find(|f| f.id == flow)?;
        let Place::Stream(flow, former) = &mut entry.place else { return None };
        if let Some(close) = former.replace(closer) {
            close();
        }
        entry.attached += 1;
        Some((flow.clone(), entry.attached))
    }

    /// Counts of TLS ClientHellos by source.
    pub fn client_hellos(&self) -> &Arc<SourceCounts> {
        &self.client_hellos
    }

    /// What a source has been counted with so far.
    fn counted(&self, ip: IpAddr) -> Before {
        Before {
            strange: self.strange.get(ip),
            tcp_accepted: self.tcp_accepted.get(ip),
            client_hellos: self.client_hellos.get(ip),
        }
    }

    /// Which attempts of this session arrived.
    pub fn openings(&self, session: SessionId) -> OpeningsReply {
        let Some(found) = self.sessions.get(&session) else { return OpeningsReply::default() };
        let ip = found.address.ip();
        // What an earlier run from the same address did says nothing about this one.
        let since = |now: u64, before: u64| u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX);
        OpeningsReply {
            openings: found.openings(),
            tcp_accepted: since(self.tcp_accepted.get(ip), found.before.tcp_accepted),
            client_hellos: since(self.client_hellos.get(ip), found.before.client_hellos),
            strange_datagrams: since(self.strange.get(ip), found.before.strange),
            local: None,
        }
    }

    /// Takes in a piece of the session's verdict.
    ///
    /// # Errors
    /// A [`ControlRefusal`].
    pub fn hand_in(
        &mut self,
        session: SessionId,
        request: &HandInRequest,
    ) -> Result<HandInReply, ControlRefusal> {
        let coming = self.sessions.values().filter(|s| s.hand_in.is_coming()).count();
        let found = self.sessions.get_mut(&session).ok_or(ControlRefusal::UnknownFlow)?;
        if !found.full {
            return Err(ControlRefusal::NeedsInvite);
        }
        if !found.hand_in.is_coming() && coming >= self.limits.hand_ins {
            return Err(ControlRefusal::TooMuch);
        }
        match found.hand_in.take(request)? {
            HandInStep::Reply(reply) => Ok(reply),
            HandInStep::Whole(document) => {
                let result = HandedIn {
                    session,
                    source: found.address,
                    invite: found.rights.label().map(str::to_owned),
                    document,
                };
                if !self.outbox.handed_in(result) {
                    found.hand_in.kept(false);
                    return Err(ControlRefusal::NotKept);
                }
                Ok(HandInReply { have: request.total, kept: false })
            }
        }
    }

    /// The drivers have written a verdict down under this name, or could not.
    pub fn kept(&mut self, session: SessionId, result: Option<(String, usize)>) {
        if let Some(found) = self.sessions.get_mut(&session) {
            found.hand_in.kept(result.is_some());
        }
        if let Some((id, bytes)) = result {
            Counters::bump(&self.counters.results);
            self.tell(Event::ResultReceived { session: session.into(), id, bytes });
        }
    }

    /// The client says that its run is over. What is known of it lingers for a while.
    pub fn end(&mut self, session: SessionId, now: Timestamp) {
        let Some(found) = self.sessions.get_mut(&session).filter(|s| s.ended.is_none()) else { return };
        found.ended = Some(now);
        self.tell(Event::SessionClosed { session: session.into(), reason: CloseReason::Ended });
    }

    /// A flow gave a sign of life.
    pub fn touch(&mut self, session: SessionId, flow: FlowId, now: Timestamp) {
        let Some(found) = self.sessions.get_mut(&session) else { return };
        found.last = found.last.max(now);
        if let Some(flow) = found.flows.iter_mut().find(|f| f.id == flow) {
            flow.last = flow.last.max(now);
        }
    }

    /// A flow is over; its ledger stays until the session's end or until its room is needed. `attached` is 0, or what
    /// [`reattach`](Self::reattach) said: a connection that was taken over ends nothing.
    pub fn flow_over(&mut self, session: SessionId, flow: FlowId, attached: u32, now: Timestamp) {
        let flows = self.sessions.get_mut(&session).map(|s| &mut s.flows);
        let mut found = flows.and_then(|f| f.iter_mut().find(|f| f.id == flow));
        let Some(found) = found.take_if(|f| f.attached == attached) else { return };
        found.over = true;
        found.last = found.last.max(now);
        if let Place::Stream(_, closer) = &mut found.place {
            *closer = None;
        }
    }

    /// A flow comes from another address.
    pub fn moved(&mut self, session: SessionId, old: SocketAddr, new: SocketAddr) {
        Counters::bump(&self.counters.moves);
        let before = self.counted(new.ip());
        if let Some(found) = self.sessions.get_mut(&session)
            && found.address.ip() != new.ip()
        {
            found.address = new;
            found.before = before;
        }
        self.tell(Event::SessionMoved { session: session.into(), old, new });
    }

    /// Somebody was turned away.
    pub fn refused(&mut self, source: SocketAddr, reason: Refusal, now: Timestamp) {
        Counters::bump(&self.counters.refused);
        if self.refusals.take(now, REFUSALS_TOLD) {
            self.tell(Event::Refused { source, reason, says: reason.to_string() });
        }
    }

    /// Lets time pass: closes what is over. True where the packet thread has slots to let go of
    /// ([`take_closing`](Self::take_closing)).
    pub fn expire(&mut self, now: Timestamp) -> bool {
        let limits = &self.limits;
        let why = |s: &Session| {
            if s.ended.is_some_and(|ended| now.since(ended) >= limits.linger) {
                Some(CloseReason::Ended)
            } else if !s.full && now.since(s.opened) >= limits.public.life {
                Some(CloseReason::TimeUp)
            } else {
                (now.since(s.last) >= limits.idle).then_some(CloseReason::Idle)
            }
        };
        let gone: Vec<_> = self.sessions.iter().filter_map(|(id, s)| Some((*id, why(s)?))).collect();
        for (id, reason) in gone {
            self.close(id, reason);
        }
        !self.closing.is_empty()
    }

    /// The slots that the packet thread must let go of, and then [`release`](Self::release).
    pub fn take_closing(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.closing)
    }

    /// These slots are free again.
    pub fn release(&mut self, slots: &[u32]) {
        self.free_slots.extend_from_slice(slots);
    }

    /// A short name of a session, for logs.
    pub fn label(session: SessionId) -> SessionLabel {
        session.into()
    }

    fn tell(&mut self, event: Event) {
        if !self.outbox.event(event) {
            Counters::bump(&self.counters.events_lost);
        }
    }
}

mod room;
