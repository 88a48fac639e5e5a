//! The listener's host: `probe-server`'s core, and a kernel with virtual sockets, which does what the real drivers
//! and a real kernel do.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_protocol::invite::Invite;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::{HANDSHAKE_LEN, MAX_LEN};
use probe_server::core::allow::AllowList;
use probe_server::core::bulk::{BulkJob, BulkRunner};
use probe_server::core::counters::Counters;
use probe_server::core::event::{Event, HandedIn, Outbox};
use probe_server::core::hub::{HubConfig, Identity};
use probe_server::core::invites::{Invites, Known};
use probe_server::core::limits::Limits;
use probe_server::core::quic::{ConnectionIds, QuicDemux};
use probe_server::core::shard::{Meta, Outcome};
use probe_server::core::{Hub, Shard};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::certificate::Certificate;
use super::quic::QuicServer;
use super::serve::Connection;
use super::setup::Listening;
use super::tcp::Tcp;
use super::world::Io;
use crate::middlebox::HostAddresses;
use crate::middlebox::topology::LINK_MTU;
use crate::packet::build::{self, IcmpError};
use crate::packet::fragment::{self, Reassembly};
use crate::packet::{Packet, Protocol, flag};

/// The drivers' own figures: how often the core may look after its flows, and close what is over.
const TICK: Duration = Duration::from_millis(100);
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// Blocks of a load that leave at once.
const BLOCKS_AT_ONCE: usize = 64;

/// The listener's clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) start: Timestamp,
    pub(super) ahead: Duration,
    pub(super) fast_ppm: i32,
    pub(super) wall: WallTime,
}

impl Clock {
    /// What the listener's clock shows.
    pub(super) fn at(&self, now: Timestamp) -> Timestamp {
        let passed = now.since(self.start).as_nanos() as i64;
        let drift = passed / 1_000_000 * i64::from(self.fast_ppm);
        self.start + self.ahead + Duration::from_nanos((passed + drift).max(0) as u64)
    }

    /// When the listener's clock shows `there`, or a moment later: never before.
    fn when(&self, there: Timestamp) -> Timestamp {
        if there == Timestamp::NEVER {
            return there;
        }
        let passed = there.since(self.start + self.ahead).as_nanos() as i64;
        let drift = passed / 1_000_000 * i64::from(self.fast_ppm);
        self.start + Duration::from_nanos((passed - drift).max(0) as u64) + Duration::from_millis(1)
    }

    fn wall_at(&self, now: Timestamp) -> WallTime {
        WallTime(self.wall.0 + now.since(self.start).as_nanos() as i64)
    }
}

/// What the process has told and been handed, across restarts.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) events: Vec<Event>,
    pub(super) handed_in: Vec<HandedIn>,
    pub(super) fresh: Vec<HandedIn>,
}

/// Events kept of one run.
const MAX_EVENTS: usize = 10_000;

struct ToldBox(Arc<Mutex<Told>>);

impl Outbox for ToldBox {
    fn event(&mut self, event: Event) -> bool {
        let mut told = lock(&self.0);
        let room = told.events.len() < MAX_EVENTS;
        if room {
            told.events.push(event);
        }
        room
    }

    fn handed_in(&mut self, result: HandedIn) -> bool {
        lock(&self.0).fresh.push(result);
        true
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the loads of UDP flows on; [`ListenerHost::send_loads`] sends them.
struct Loads(Arc<Mutex<Vec<BulkJob>>>);

impl BulkRunner for Loads {
    fn run(&mut self, job: BulkJob) -> bool {
        lock(&self.0).push(job);
        true
    }

    fn wake(&mut self, _: FlowId) {}
}

/// One start of the program.
pub(super) struct Process {
    pub(super) hub: Arc<Mutex<Hub>>,
    pub(super) shard: Shard,
    pub(super) counters: Arc<Counters>,
    pub(super) boot: u64,
    connections: BTreeMap<SocketAddr, Connection>,
    quic: Vec<QuicServer>,
    loads: Arc<Mutex<Vec<BulkJob>>>,
    next_tick: Timestamp,
    next_expiry: Timestamp,
}

pub(super) struct ListenerHost {
    listening: Listening,
    addresses: HostAddresses,
    port: u16,
    clock: Clock,
    secret: [u8; 32],
    epoch: u32,
    invite: Invite,
    certificate: Certificate,
    rng: ChaCha8Rng,
    process: Option<Process>,
    stalled: bool,
    backlog: Vec<(Timestamp, Packet)>,
    backlog_bytes: usize,
    receive_buffer: usize,
    drops: u32,
    /// An ordinary web server's connections.
    web: BTreeMap<SocketAddr, Tcp>,
    /// Kernel's own: they outlive the process.
    lingering: Vec<Tcp>,
    told: Arc<Mutex<Told>>,
    buffer: Vec<u8>,
    /// When [`wake`](Self::wake) is due, where that is still known.
    due: Option<Timestamp>,
    reassembly: Reassembly,
    fragment_id: u16,
    pub(super) boots: Vec<u64>,
}

impl ListenerHost {
    pub(super) fn new(
        listening: Listening,
        addresses: HostAddresses,
        port: u16,
        clock: Clock,
        certificate: Certificate,
        receive_buffer: usize,
        seed: u64,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut secret, mut key) = ([0; 32], [0; 16]);
        rng.fill_bytes(&mut secret);
        rng.fill_bytes(&mut key);
        let invite = Invite { key, fingerprint: certificate.fingerprint(), expires_minute: None };
        let mut host = Self {
            listening,
            addresses,
            port,
            clock,
            secret,
            epoch: 0,
            invite,
            certificate,
            rng,
            process: None,
            stalled: false,
            backlog: Vec::new(),
            backlog_bytes: 0,
            receive_buffer,
            drops: 0,
            web: BTreeMap::new(),
            lingering: Vec::new(),
            told: Arc::default(),
            buffer: vec![0; MAX_LEN * 2],
            due: None,
            reassembly: Reassembly::default(),
            fragment_id: 0,
            boots: Vec::new(),
        };
        host.start(clock.start);
        host
    }

    pub(super) fn invite(&self) -> Invite {
        self.invite
    }

    pub(super) fn told(&self) -> Arc<Mutex<Told>> {
        Arc::clone(&self.told)
    }

    /// Starts the program: the same state directory, another boot.
    pub(super) fn start(&mut self, now: Timestamp) {
        self.due = None;
        if self.listening != Listening::ProbeServer {
            return;
        }
        self.epoch += 1;
        let boot = self.rng.next_u64();
        self.boots.push(boot);
        let software = probe_server::core::software();
        let identity = Identity { secret: self.secret, boot, epoch: self.epoch, software };
        let known = Known { label: self.invite.label(), invite: self.invite, revoked: false };
        let counters = Arc::new(Counters::default());
        let (mut seed, mut straight, mut inverse, mut key) = ([0; 32], [0; 16], [0; 16], [0; 16]);
        self.rng.fill_bytes(&mut seed);
        self.rng.fill_bytes(&mut straight);
        self.rng.fill_bytes(&mut inverse);
        self.rng.fill_bytes(&mut key);
        let hub = Arc::new(Mutex::new(Hub::new(HubConfig {
            identity,
            limits: Limits::default(),
            allow: AllowList::default(),
            open_to_all: false,
            invites: Arc::new(Invites::new([known])),
            seed,
            outbox: Box::new(ToldBox(Arc::clone(&self.told))),
            counters: Arc::clone(&counters),
        })));
        let demux =
            QuicDemux { straight: ConnectionIds::new(straight), inverse: ConnectionIds::new(inverse) };
        let quic = vec![
            QuicServer::new(false, demux.straight.clone(), &self.certificate, self.rng.next_u64()),
            QuicServer::new(true, demux.inverse.clone(), &self.certificate, self.rng.next_u64()),
        ];
        let mut shard = Shard::new(&hub, demux, None, key);
        let loads = Arc::<Mutex<Vec<BulkJob>>>::default();
        shard.run_loads(Box::new(Loads(Arc::clone(&loads))));
        self.process = Some(Process {
            hub,
            shard,
            counters,
            boot,
            connections: BTreeMap::new(),
            quic,
            loads,
            next_tick: now,
            next_expiry: now,
        });
    }

    /// Ends the program. Its kernel ends the connections.
    pub(super) fn stop(&mut self, now: Timestamp, io: &mut Io<'_>) {
        self.due = None;
        self.backlog.clear();
        self.backlog_bytes = 0;
        if let Some(process) = self.process.take() {
            for mut connection in process.connections.into_values() {
                connection.tcp.close(now);
                connection.tcp.poll(now, &mut io.out);
                self.lingering.push(connection.tcp);
            }
        }
    }

    pub(super) fn stall(&mut self) {
        self.due = None;
        self.stalled = true;
    }

    /// The process goes on.
    pub(super) fn resume(&mut self, now: Timestamp, io: &mut Io<'_>) {
        self.due = None;
        self.stalled = false;
        self.backlog_bytes = 0;
        for (arrived, packet) in std::mem::take(&mut self.backlog) {
            self.datagram(now, arrived, &packet, io);
        }
        self.serve(now, io);
    }

    /// When [`wake`](Self::wake) is due.
    pub(super) fn next(&mut self) -> Timestamp {
        if let Some(due) = self.due {
            return due;
        }
        let due = self.earliest();
        self.due = Some(due);
        due
    }

    fn earliest(&self) -> Timestamp {
        let lingering = self.lingering.iter().map(Tcp::next);
        let lingering = lingering.chain(self.web.values().map(Tcp::next));
        let Some(process) = &self.process else { return lingering.min().unwrap_or(Timestamp::NEVER) };
        let tcp = process.connections.values().map(|c| c.tcp.next()).chain(lingering);
        let own = process.connections.values().map(Connection::next);
        let quic = process.quic.iter().map(QuicServer::next);
        let later = self.clock.when(process.shard.next_later());
        let datagrams =
            lock(&process.loads).iter().filter_map(|job| lock(&job.transfer).next_deadline()).min();
        let loads = process.connections.values().map(Connection::load_due).chain(datagrams).min();
        let loads = loads.map_or(Timestamp::NEVER, |at| self.clock.when(at));
        let own = own.chain(quic).chain([later, loads]).filter(|_| !self.stalled);
        tcp.chain(own).min().unwrap_or(Timestamp::NEVER)
    }

    /// Does what is due.
    pub(super) fn wake(&mut self, now: Timestamp, io: &mut Io<'_>) {
        self.due = None;
        for tcp in self.lingering.iter_mut().chain(self.web.values_mut()) {
            tcp.timeout(now);
        }
        if let Some(process) = &mut self.process {
            for connection in process.connections.values_mut() {
                connection.tcp.timeout(now);
            }
        }
        self.send_later(now, io);
        self.send_loads(now, io);
        self.serve(now, io);
    }

    /// Sends the replies that were asked to wait and are due.
    fn send_later(&mut self, now: Timestamp, io: &mut Io<'_>) {
        let here = self.clock.at(now);
        let Some(process) = self.process.as_mut().filter(|_| !self.stalled) else { return };
        while let Some(reply) = process.shard.take_later(here) {
            let from = match reply.to {
                SocketAddr::V4(_) => self.addresses.v4.into(),
                SocketAddr::V6(_) => self.addresses.v6.into(),
            };
            let from = SocketAddr::new(from, self.port);
            if let Some(mut packet) = build::udp(from, reply.to, &reply.bytes) {
                packet.set_tos(reply.tos);
                if reply.fragments {
                    self.fragment_id = self.fragment_id.wrapping_add(1);
                    packet.allow_fragments(self.fragment_id);
                }
                match fragment::cut(&packet, usize::from(LINK_MTU)) {
                    Some(pieces) => io.out.extend(pieces),
                    // As from the program: what the link does not take is a failure of sending.
                    None if packet.size() > usize::from(LINK_MTU) => {}
                    None => io.out.push(packet),
                }
            }
        }
    }

    /// Sends what is due of the loads of UDP flows, as the threads of the program do.
    fn send_loads(&mut self, now: Timestamp, io: &mut Io<'_>) {
        let here = self.clock.at(now);
        let Some(process) = self.process.as_mut().filter(|_| !self.stalled) else { return };
        let mut loads = lock(&process.loads);
        // Nobody else holds a load once its flow is closed.
        loads.retain(|job| Arc::strong_count(&job.transfer) > 1);
        for job in loads.iter() {
            let from = match job.peer {
                SocketAddr::V4(_) => self.addresses.v4.into(),
                SocketAddr::V6(_) => self.addresses.v6.into(),
            };
            let from = SocketAddr::new(from, self.port);
            let mut transfer = lock(&job.transfer);
            let mut sack = [0; HANDSHAKE_LEN];
            if transfer.write_sack(here, &mut sack) {
                io.out.extend(build::udp(from, job.peer, &sack));
            }
            let Some((blocks, size, tos)) = transfer.due(here, BLOCKS_AT_ONCE) else { continue };
            let mut record = vec![0; size];
            transfer.fill(0, &mut record);
            for _ in 0..blocks {
                if !transfer.write_block(here, &mut record) {
                    break;
                }
                if let Some(mut packet) = build::udp(from, job.peer, &record) {
                    packet.set_tos(tos);
                    io.out.push(packet);
                }
            }
        }
    }

    /// Takes a packet from the link.
    pub(super) fn deliver(&mut self, now: Timestamp, packet: Packet, io: &mut Io<'_>) {
        let Some(packet) = self.reassembly.take(packet) else { return };
        if !packet.checksums_right() || !self.addresses.is(packet.destination()) {
            io.truth.refused_by_hosts += 1;
            return;
        }
        match packet.protocol() {
            Protocol::Udp => self.udp(now, packet, io),
            Protocol::Tcp => {
                self.due = None;
                self.tcp(now, &packet, io);
                self.serve(now, io);
            }
            Protocol::Icmp => {
                let mut packet = packet;
                if build::echo_reply(&mut packet) {
                    io.out.push(packet);
                } else if let Some(mtu) = build::next_mtu(&packet) {
                    self.too_big(&packet, mtu);
                    self.serve(now, io);
                }
            }
            Protocol::Other => {}
        }
    }

    /// A segment did not fit: its connection sends smaller ones from now on.
    fn too_big(&mut self, packet: &Packet, mtu: u32) {
        let Some(quoted) = build::quoted(packet).filter(|quoted| quoted.protocol() == Protocol::Tcp) else {
            return;
        };
        let connection = self.process.as_mut().and_then(|p| p.connections.get_mut(&quoted.to()));
        if let Some(connection) = connection {
            connection.tcp.icmp(Some(mtu), false, "");
            self.due = None;
        }
    }

    fn udp(&mut self, now: Timestamp, packet: Packet, io: &mut Io<'_>) {
        if packet.destination_port() != self.port || self.process.is_none() {
            io.truth.refused_by_hosts += 1;
            io.out.extend(build::icmp_error(&packet, packet.destination(), IcmpError::PortUnreachable));
        } else if !self.stalled {
            self.datagram(now, now, &packet, io);
        } else if self.backlog_bytes + packet.size() > self.receive_buffer {
            self.drops += 1;
            io.truth.refused_by_hosts += 1;
        } else {
            self.backlog_bytes += packet.size();
            self.backlog.push((now, packet));
        }
    }

    /// What the packet thread does with one datagram.
    fn datagram(&mut self, now: Timestamp, arrived: Timestamp, packet: &Packet, io: &mut Io<'_>) {
        let Some(process) = &mut self.process else { return };
        let (here, wall) = (self.clock.at(now), self.clock.wall_at(now));
        let payload = packet.payload();
        let probe = io.truth.reached_listener(payload);
        let Some(room) = self.buffer.get_mut(..payload.len()) else { return };
        room.copy_from_slice(payload);
        let meta = Meta {
            from: packet.from(),
            len: payload.len(),
            truncated: false,
            arrived: self.clock.at(arrived),
            kernel: true,
            ttl: Some(packet.ttl()),
            tos: Some(packet.tos()),
            local: Some(packet.destination()),
            drops: Some(self.drops),
        };
        let echoes = process.counters.udp_echoes.load(Ordering::Relaxed);
        let outcome = process.shard.datagram(here, wall, &meta, &mut self.buffer);
        process.shard.after_batch();
        let echo = process.counters.udp_echoes.load(Ordering::Relaxed) != echoes;
        match outcome {
            Outcome::Reply { len, tos } => {
                let Some(bytes) = self.buffer.get(..len) else { return };
                if let Some(probe) = probe {
                    io.truth.replied(now, probe, echo, bytes);
                }
                if let Some(mut reply) = build::udp(packet.to(), packet.from(), bytes) {
                    reply.set_tos(tos);
                    io.out.push(reply);
                }
            }
            Outcome::Silent(_) => {
                if let Some(probe) = probe {
                    io.truth.deferred(probe);
                    self.due = None;
                }
            }
            Outcome::Quic { inverse } => {
                if let Some(quic) = process.quic.get_mut(usize::from(inverse)) {
                    quic.datagram(now, packet, io);
                }
            }
        }
        process.pass_time(now, here);
        if probe.is_none() {
            self.due = None;
            // What is not answered gives nobody else anything to do.
            if !matches!(outcome, Outcome::Silent(_)) {
                self.keep_verdicts();
                self.serve(now, io);
            }
        }
    }

    fn tcp(&mut self, now: Timestamp, packet: &Packet, io: &mut Io<'_>) {
        let from = packet.from();
        let lingers = self.lingering.iter_mut().find(|t| t.remote == from && t.local == packet.to());
        if let Some(tcp) = lingers.filter(|t| !t.is_closed()) {
            return tcp.segment(now, packet);
        }
        let syn = packet.tcp_flags() & (flag::SYN | flag::ACK | flag::RST) == flag::SYN;
        let iss = self.rng.next_u32();
        let port = packet.destination_port() == self.port;
        if self.listening == Listening::WebServer && port {
            match self.web.get_mut(&from).filter(|tcp| !tcp.is_closed()) {
                Some(tcp) => tcp.segment(now, packet),
                None if syn => drop(self.web.insert(from, Tcp::accept(packet, iss, now))),
                None => io.out.extend(build::reset_backward(packet, build::TTL)),
            }
            return;
        }
        let Some(process) = self.process.as_mut().filter(|_| port) else {
            io.out.extend(build::reset_backward(packet, build::TTL));
            return;
        };
        match process.connections.get_mut(&from).filter(|c| !c.tcp.is_closed()) {
            Some(connection) => connection.tcp.segment(now, packet),
            None if syn => {
                let tcp = Tcp::accept(packet, iss, now);
                process.connections.insert(from, Connection::new(tcp, now));
            }
            None => io.out.extend(build::reset_backward(packet, build::TTL)),
        }
    }

    /// Lets the connections work, and puts on the link what they have to send.
    fn serve(&mut self, now: Timestamp, io: &mut Io<'_>) {
        let here = self.clock.at(now);
        let wall = self.clock.wall_at(now);
        if let Some(process) = &mut self.process {
            if !self.stalled {
                let mut connections = std::mem::take(&mut process.connections);
                for connection in connections.values_mut() {
                    connection.serve(now, here, wall, process, &self.certificate);
                }
                process.connections = connections;
                let mut quic = std::mem::take(&mut process.quic);
                for quic in &mut quic {
                    quic.serve(now, here, wall, process, io);
                }
                process.quic = quic;
                process.pass_time(now, here);
            }
            for connection in process.connections.values_mut() {
                connection.tcp.poll(now, &mut io.out);
            }
            process.connections.retain(|_, c| !(c.tcp.is_closed() && c.is_done()));
        }
        for tcp in self.web.values_mut() {
            answer_web(tcp, now);
            tcp.poll(now, &mut io.out);
        }
        self.web.retain(|_, tcp| !tcp.is_closed());
        for tcp in &mut self.lingering {
            tcp.poll(now, &mut io.out);
        }
        self.lingering.retain(|tcp| !tcp.is_closed());
        self.keep_verdicts();
    }

    /// Writes down what was handed in, as the keeper does.
    fn keep_verdicts(&mut self) {
        let Some(process) = &self.process else { return };
        let fresh = std::mem::take(&mut lock(&self.told).fresh);
        for result in fresh {
            let kept = Some((format!("{:08x}", self.epoch), result.document.len()));
            lock(&process.hub).kept(result.session, kept);
            lock(&self.told).handed_in.push(result);
        }
    }
}

/// An ordinary web server answers whatever comes: a page, or an error in HTTP.
fn answer_web(tcp: &mut Tcp, now: Timestamp) {
    let said = tcp.take_read();
    if !said.is_empty() {
        let page = &b"HTTP/1.1 200 OK\r\nServer: web\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<p>Hello"[..];
        let error = &b"HTTP/1.1 400 Bad Request\r\nServer: web\r\nConnection: close\r\n\r\n"[..];
        let is_http = said.starts_with(b"GET ") || said.starts_with(b"HEAD ");
        // A connection that is over takes no more.
        let _ = tcp.write(if is_http { page } else { error });
        tcp.close(now);
    } else if tcp.take_over().is_some() {
        tcp.close(now);
    }
}

impl Process {
    fn pass_time(&mut self, now: Timestamp, here: Timestamp) {
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.shard.tick();
        }
        if now >= self.next_expiry {
            self.next_expiry = now + EXPIRE_EVERY;
            if lock(&self.hub).expire(here) {
                self.shard.tick();
            }
        }
    }
}
