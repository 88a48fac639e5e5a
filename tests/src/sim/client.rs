//! The client's host: the engine, and a kernel with virtual sockets and clocks, which does what the real drivers and
//! a real kernel do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use probe_analysis::observation::{FlowNo, HostFault, ServerNameKind};
use probe_client::driver::OTHER_NAME;
use probe_client::engine::{Action, Arrived, Closed, Engine, Event, SendError, Transmit};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::quic::{QuicClient, QuicNews};
use super::stream::{ClientStream, StreamNews};
use super::truth::Truth;
use super::watch::Watcher;
use super::world::Io;
use crate::middlebox::HostAddresses;
use crate::middlebox::topology::LINK_MTU;
use crate::packet::build::{self, IcmpError};
use crate::packet::fragment::{self, Reassembly};
use crate::packet::{Packet, Protocol};

/// The drivers' own figures: how often clocks are compared, from when on a late wake-up is told, how long they wait at
/// most.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const STALL: Duration = Duration::from_millis(50);
const STOPPED: Duration = Duration::from_secs(1);
/// What Linux says where its own packet filter drops what a program sends.
const FORBIDDEN: &str = "Operation not permitted (os error 1)";

enum Socket {
    Udp { local: SocketAddr, to: SocketAddr, fragments: bool },
    Stream(Box<ClientStream>),
    Quic(Box<QuicClient>),
}

impl Socket {
    fn local(&self) -> (Protocol, SocketAddr) {
        match self {
            Self::Udp { local, .. } => (Protocol::Udp, *local),
            Self::Stream(stream) => (Protocol::Tcp, stream.tcp.local),
            Self::Quic(quic) => (Protocol::Udp, quic.local),
        }
    }
}

/// The way to the network, in the driver's words.
pub(super) const WAY: &str = "eth0 10.0.0.2 via 10.0.0.1";
/// What the system says where there is none.
const NO_WAY: &str = "Network is unreachable";

/// What the process is not doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asleep {
    No,
    Stalled,
    Suspended,
}

/// When a connection needs the time.
#[derive(Clone, Copy, Debug)]
struct Due {
    at: Timestamp,
    /// The kernel serves it, whatever the process does.
    in_kernel: bool,
}

pub(super) struct ClientHost {
    pub(super) engine: Engine,
    addresses: HostAddresses,
    tls: Arc<rustls::ClientConfig>,
    rng: ChaCha8Rng,
    sockets: BTreeMap<FlowNo, Socket>,
    ports: BTreeMap<(Protocol, SocketAddr), FlowNo>,
    /// Sockets that something has happened to since they were last served: most wake-ups concern one of many.
    touched: BTreeSet<FlowNo>,
    /// When [`wake`](Self::wake) is due, where that is still known.
    due: Option<Timestamp>,
    /// When each connection was last seen to need the time: most sockets are of UDP, and never do.
    dues: BTreeMap<FlowNo, Due>,
    /// Connections that are closed and still have something to say.
    lingering: Vec<ClientStream>,
    next_port: u16,
    asleep: Asleep,
    backlog: Vec<(Timestamp, Packet)>,
    backlog_bytes: usize,
    receive_buffer: usize,
    overflowed: u32,
    last_look: Timestamp,
    slept: bool,
    wall_step_ns: i64,
    /// What the host's own firewall lets nobody send.
    forbidden: Vec<Protocol>,
    /// The way to the network, in words; none while there is none.
    way: Option<&'static str>,
    watcher: Watcher,
    reassembly: Reassembly,
    fragment_id: u16,
    wire: Vec<u8>,
}

impl ClientHost {
    pub(super) fn new(
        engine: Engine,
        addresses: HostAddresses,
        tls: Arc<rustls::ClientConfig>,
        receive_buffer: usize,
        seed: u64,
        now: Timestamp,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let next_port = rng.random_range(32_768..60_000);
        let watcher = Watcher::new(&addresses, seed ^ 1, now);
        Self {
            engine,
            addresses,
            tls,
            rng,
            sockets: BTreeMap::new(),
            ports: BTreeMap::new(),
            touched: BTreeSet::new(),
            due: None,
            dues: BTreeMap::new(),
            lingering: Vec::new(),
            next_port,
            asleep: Asleep::No,
            backlog: Vec::new(),
            backlog_bytes: 0,
            receive_buffer,
            overflowed: 0,
            last_look: now,
            slept: false,
            wall_step_ns: 0,
            forbidden: Vec::new(),
            way: Some(WAY),
            watcher,
            reassembly: Reassembly::default(),
            fragment_id: 0,
            wire: Vec::new(),
        }
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
        let kernel = self.dues.values().filter(|due| due.in_kernel).map(|due| due.at);
        let kernel = kernel.chain(self.lingering.iter().map(|s| s.tcp.next())).min();
        let kernel = kernel.unwrap_or(Timestamp::NEVER);
        match self.asleep {
            Asleep::Suspended => Timestamp::NEVER,
            Asleep::Stalled => kernel,
            Asleep::No => {
                let engine = self.engine.next_deadline().map_or(Timestamp::NEVER, |(at, _)| at);
                let quic = self.dues.values().filter(|due| !due.in_kernel).map(|due| due.at);
                let watch = if self.engine.wants_watch() { self.watcher.due() } else { Timestamp::NEVER };
                quic.min().unwrap_or(Timestamp::NEVER).min(engine).min(kernel).min(watch)
            }
        }
    }

    /// Does what is due.
    pub(super) fn wake(&mut self, now: Timestamp, io: &mut Io<'_>) {
        self.due = None;
        if self.asleep == Asleep::Suspended {
            return;
        }
        for (no, _) in self.dues.iter().filter(|(_, due)| due.at <= now) {
            self.touched.insert(*no);
            if let Some(Socket::Stream(stream)) = self.sockets.get_mut(no) {
                stream.tcp.timeout(now);
            }
        }
        for stream in &mut self.lingering {
            stream.tcp.timeout(now);
        }
        if self.asleep == Asleep::No {
            self.look(now);
            self.watch(now, io);
            self.news(now);
            self.engine.handle_timeout(now);
            self.pump(now, io);
        }
        self.flush(now, io);
        self.forget_touched();
    }

    fn watch(&mut self, now: Timestamp, io: &mut Io<'_>) {
        if !self.engine.wants_watch() || self.watcher.due() > now {
            return;
        }
        if let Some(watch) = self.watcher.wake(now, self.way.is_some(), &mut io.out) {
            self.engine.handle_watch(watch);
        }
    }

    /// Takes a packet from the link.
    pub(super) fn deliver(&mut self, now: Timestamp, packet: Packet, io: &mut Io<'_>) {
        self.due = None;
        if self.asleep == Asleep::Suspended || self.way.is_none() {
            io.truth.refused_by_hosts += 1;
            return;
        }
        let Some(packet) = self.reassembly.take(packet) else { return };
        if !packet.checksums_right() {
            io.truth.refused_by_hosts += 1;
            return;
        }
        match packet.protocol() {
            Protocol::Udp => self.udp(now, packet, io),
            Protocol::Tcp => self.tcp(now, &packet, io),
            Protocol::Icmp if packet.is_icmp_error() => self.queue(now, packet, io.truth),
            Protocol::Icmp => self.watcher.arrived(now, &packet),
            Protocol::Other => {}
        }
        if self.asleep == Asleep::No {
            self.read_backlog(now, io.truth);
            self.news(now);
            self.tell_backlogs();
            self.engine.handle_timeout(now);
            self.pump(now, io);
        }
        self.flush(now, io);
        self.forget_touched();
    }

    /// What the streams that something came on have not handed on yet: no load is added before it has gone.
    fn tell_backlogs(&mut self) {
        if !self.engine.has_load() {
            return;
        }
        for no in &self.touched {
            if let Some(Socket::Stream(stream)) = self.sockets.get(no) {
                self.engine.stream_backlog(*no, stream.tcp.waiting());
            }
        }
    }

    fn udp(&mut self, now: Timestamp, packet: Packet, io: &mut Io<'_>) {
        let known = self.ports.get(&(Protocol::Udp, packet.to()));
        let peer = known.and_then(|no| self.sockets.get(no)).and_then(|socket| match socket {
            Socket::Udp { to, .. } => Some(*to),
            Socket::Quic(quic) => Some(quic.remote),
            Socket::Stream(_) => None,
        });
        match peer {
            Some(peer) if peer == packet.from() => {
                self.queue(now, packet, io.truth);
            }
            Some(_) | None => {
                io.truth.refused_by_hosts += 1;
                io.out.extend(build::icmp_error(&packet, packet.destination(), IcmpError::PortUnreachable));
            }
        }
    }

    fn queue(&mut self, now: Timestamp, packet: Packet, truth: &mut Truth) {
        if self.backlog_bytes + packet.size() > self.receive_buffer {
            self.overflowed += 1;
            truth.refused_by_hosts += 1;
            return;
        }
        self.backlog_bytes += packet.size();
        self.backlog.push((now, packet));
    }

    fn tcp(&mut self, now: Timestamp, packet: &Packet, io: &mut Io<'_>) {
        let (to, from) = (packet.to(), packet.from());
        let known = self.ports.get(&(Protocol::Tcp, to)).copied();
        let open = known.and_then(|no| match self.sockets.get_mut(&no) {
            Some(Socket::Stream(stream)) => Some(&mut **stream),
            Some(Socket::Udp { .. } | Socket::Quic(_)) | None => None,
        });
        let stream = match open.filter(|s| s.tcp.remote == from && s.tcp.local == to) {
            Some(stream) => Some(stream),
            None => self.lingering.iter_mut().find(|s| s.tcp.remote == from && s.tcp.local == to),
        };
        self.touched.extend(known);
        match stream.map(|s| &mut s.tcp).filter(|tcp| !tcp.is_closed()) {
            Some(tcp) => tcp.segment(now, packet),
            None => io.out.extend(build::reset_backward(packet, build::TTL)),
        }
    }

    /// Hands the engine what the kernel has kept.
    fn read_backlog(&mut self, now: Timestamp, truth: &mut Truth) {
        self.backlog_bytes = 0;
        if self.overflowed > 0 {
            let overflowed = std::mem::take(&mut self.overflowed);
            self.engine.handle_host(now, now, HostFault::ReceiveOverflow(overflowed));
        }
        for (kernel, packet) in std::mem::take(&mut self.backlog) {
            if packet.is_icmp_error() {
                self.icmp(now, &packet);
            } else {
                let flow = self.ports.get(&(Protocol::Udp, packet.to())).copied();
                truth.reached_client(flow, packet.payload());
                self.read_udp(now, kernel, packet);
            }
        }
    }

    fn read_udp(&mut self, now: Timestamp, kernel: Timestamp, mut packet: Packet) {
        let Some(no) = self.ports.get(&(Protocol::Udp, packet.to())).copied() else { return };
        let (ttl, tos) = (Some(packet.ttl()), Some(packet.tos()));
        match self.sockets.get_mut(&no) {
            Some(Socket::Udp { .. }) => {
                let bytes = packet.payload_mut();
                let arrived = Arrived { bytes, at: now, kernel: Some(kernel), ttl, tos };
                self.engine.handle(now, no, Event::Datagram(arrived));
            }
            Some(Socket::Quic(quic)) => {
                quic.datagram(now, packet.payload(), packet.tos());
                self.touched.insert(no);
            }
            Some(Socket::Stream(_)) | None => {}
        }
    }

    /// An ICMP error goes to the socket whose packet it quotes.
    fn icmp(&mut self, now: Timestamp, packet: &Packet) {
        let Some(quoted) = build::quoted(packet) else { return };
        let Some(no) = self.ports.get(&(quoted.protocol(), quoted.from())).copied() else { return };
        let Some((kind, code)) = packet.icmp() else { return };
        let too_big = if packet.is_v6() { kind == 2 } else { (kind, code) == (3, 4) };
        let refused = if packet.is_v6() { (kind, code) == (1, 4) } else { (kind, code) == (3, 3) };
        let mtu = build::next_mtu(packet);
        let says = match (too_big, refused) {
            (true, _) => "the datagram is too big",
            (_, true) => "nothing listens there",
            (false, false) => "there is no way there",
        };
        match self.sockets.get_mut(&no) {
            Some(Socket::Udp { .. }) => {
                let says = says.to_owned();
                let event = Event::NetworkError { refused, by: Some(packet.source()), mtu, says };
                self.engine.handle(now, no, event);
            }
            Some(Socket::Stream(stream)) => {
                stream.tcp.icmp(mtu, refused, says);
                self.touched.insert(no);
            }
            // quinn's socket turns errors into silence.
            Some(Socket::Quic(_)) | None => {}
        }
    }

    /// Hands the engine what the connections have to say.
    fn news(&mut self, now: Timestamp) {
        let mut last = None;
        // What one socket's news lead to may touch others.
        while let Some(no) = self.next_touched(last) {
            last = Some(no);
            loop {
                let event = match self.sockets.get_mut(&no) {
                    Some(Socket::Stream(stream)) => stream.news(now).map(News::Stream),
                    Some(Socket::Quic(quic)) => quic.news(now).map(News::Quic),
                    Some(Socket::Udp { .. }) | None => None,
                };
                match event {
                    Some(News::Stream(news)) => self.stream_news(now, no, news),
                    Some(News::Quic(news)) => self.quic_news(now, no, news),
                    None => break,
                }
            }
        }
    }

    fn next_touched(&self, after: Option<FlowNo>) -> Option<FlowNo> {
        use std::ops::Bound::{Excluded, Unbounded};
        self.touched.range((after.map_or(Unbounded, Excluded), Unbounded)).next().copied()
    }

    fn stream_news(&mut self, now: Timestamp, no: FlowNo, news: StreamNews) {
        match news {
            StreamNews::Reached(connect) => self.engine.handle(now, no, Event::Reached { connect }),
            StreamNews::Connected { source, connect, channel } => {
                self.engine.handle(now, no, Event::Connected { source, connect, channel });
            }
            StreamNews::Bytes(bytes) => {
                self.engine.handle(now, no, Event::Bytes { bytes: &bytes, at: now });
            }
            StreamNews::Closed(closed) => {
                self.disconnect(now, no);
                self.engine.handle(now, no, Event::Closed(closed));
            }
        }
    }

    fn quic_news(&mut self, now: Timestamp, no: FlowNo, news: QuicNews) {
        match news {
            QuicNews::Connected { source, channel } => {
                let event = Event::Connected { source, connect: None, channel: Some(channel) };
                self.engine.handle(now, no, event);
            }
            QuicNews::Bytes(bytes) => {
                self.engine.handle(now, no, Event::Bytes { bytes: &bytes, at: now });
            }
            QuicNews::Datagram(mut bytes) => {
                let arrived = Arrived { bytes: &mut bytes, at: now, kernel: None, ttl: None, tos: None };
                self.engine.handle(now, no, Event::Datagram(arrived));
            }
            QuicNews::Tapped { sent, hash } => self.engine.handle(now, no, Event::Tapped { sent, hash }),
            QuicNews::Closed(closed) => {
                self.disconnect(now, no);
                self.engine.handle(now, no, Event::Closed(closed));
            }
        }
    }

    /// Does what the engine wants until it wants nothing.
    pub(super) fn pump(&mut self, now: Timestamp, io: &mut Io<'_>) {
        self.due = None;
        loop {
            let mut any = false;
            let mut wire = std::mem::take(&mut self.wire);
            while let Some(transmit) = self.engine.poll_transmit(now, &mut wire) {
                any = true;
                if let Err(why) = self.transmit(now, transmit, &wire, io) {
                    self.engine.handle(now, transmit.flow, Event::SendFailed { seq: transmit.seq, why });
                }
            }
            self.wire = wire;
            while let Some(action) = self.engine.poll_action() {
                any = true;
                self.act(now, &action);
            }
            self.flush(now, io);
            self.news(now);
            if !any {
                break;
            }
        }
        while let Some(observation) = self.engine.poll_observation() {
            io.see(observation);
        }
    }

    fn act(&mut self, now: Timestamp, action: &Action) {
        match *action {
            Action::Connect { flow, carrier, to, server_name, fragments } => {
                let name = match server_name {
                    // The lab's targets are addresses.
                    ServerNameKind::Target | ServerNameKind::Absent => None,
                    ServerNameKind::Other => Some(OTHER_NAME),
                };
                self.connect(now, flow, carrier, to, name, fragments);
            }
            Action::Disconnect { flow } => self.disconnect(now, flow),
            // Nobody said that loads are moved outside.
            Action::Load { .. } | Action::LoadChanged { .. } => {}
            Action::ReadTcp { flow } => {
                if let Some(Socket::Stream(stream)) = self.sockets.get(&flow) {
                    let facts = stream.tcp.facts();
                    self.engine.handle(now, flow, Event::Tcp(facts));
                }
            }
        }
    }

    fn connect(
        &mut self,
        now: Timestamp,
        flow: FlowNo,
        carrier: Carrier,
        to: SocketAddr,
        name: Option<&str>,
        fragments: bool,
    ) {
        self.disconnect(now, flow);
        let protocol = match carrier {
            Carrier::Udp | Carrier::Quic | Carrier::QuicInverse => Protocol::Udp,
            Carrier::Tcp | Carrier::Tls => Protocol::Tcp,
        };
        let local = self.free(protocol, to);
        let made = match carrier {
            // connect(2) says so for TCP; for UDP only sending does.
            Carrier::Tcp | Carrier::Tls if self.forbidden.contains(&protocol) => Err(FORBIDDEN.to_owned()),
            Carrier::Tcp | Carrier::Tls if self.way.is_none() => Err(NO_WAY.to_owned()),
            Carrier::Udp => Ok(Socket::Udp { local, to, fragments }),
            Carrier::Tcp | Carrier::Tls => {
                let tls = (carrier == Carrier::Tls).then_some(&self.tls);
                ClientStream::open(local, to, tls, name, self.rng.next_u32(), now)
                    .map(|s| Socket::Stream(Box::new(s)))
            }
            Carrier::Quic | Carrier::QuicInverse => {
                let inverse = carrier == Carrier::QuicInverse;
                let mut seed = [0; 32];
                self.rng.fill_bytes(&mut seed);
                QuicClient::open(local, to, inverse, name, seed, now).map(|q| Socket::Quic(Box::new(q)))
            }
        };
        match made {
            Ok(socket) => {
                let is_udp = matches!(socket, Socket::Udp { .. });
                self.sockets.insert(flow, socket);
                self.touched.insert(flow);
                self.ports.insert((protocol, local), flow);
                if is_udp {
                    let event = Event::Connected { source: local, connect: None, channel: None };
                    self.engine.handle(now, flow, event);
                }
            }
            Err(says) => self.engine.handle(now, flow, Event::Closed(Closed::Local { says })),
        }
    }

    fn free(&mut self, protocol: Protocol, to: SocketAddr) -> SocketAddr {
        let ip: IpAddr = if to.is_ipv4() { self.addresses.v4.into() } else { self.addresses.v6.into() };
        loop {
            self.next_port = if self.next_port >= 60_999 { 32_768 } else { self.next_port + 1 };
            let local = SocketAddr::new(ip, self.next_port);
            let lingers = self.lingering.iter().any(|s| s.tcp.local == local);
            if !lingers && !self.ports.contains_key(&(protocol, local)) {
                return local;
            }
        }
    }

    fn disconnect(&mut self, now: Timestamp, flow: FlowNo) {
        let Some(socket) = self.sockets.remove(&flow) else { return };
        self.touched.remove(&flow);
        self.dues.remove(&flow);
        self.ports.remove(&socket.local());
        if let Socket::Stream(mut stream) = socket {
            stream.close(now);
            self.lingering.push(*stream);
        }
        // A QUIC connection's farewell is left out: its listener learns of the end by silence.
    }

    fn transmit(
        &mut self,
        now: Timestamp,
        transmit: Transmit,
        wire: &[u8],
        io: &mut Io<'_>,
    ) -> Result<(), SendError> {
        match self.sockets.get_mut(&transmit.flow) {
            Some(Socket::Udp { .. }) if self.forbidden.contains(&Protocol::Udp) => {
                Err(SendError::Other(FORBIDDEN.to_owned()))
            }
            Some(Socket::Udp { .. }) if self.way.is_none() => Err(SendError::Unreachable(NO_WAY.to_owned())),
            Some(Socket::Udp { local, to, fragments }) => {
                let packet = build::udp(*local, *to, wire);
                let fits = |p: &Packet| p.size() <= usize::from(LINK_MTU) || *fragments;
                let Some(mut packet) = packet.filter(fits) else {
                    return Err(SendError::TooLong);
                };
                packet.set_tos(transmit.tos);
                if let Some(seq) = transmit.seq {
                    io.truth.sent(now, transmit.flow, seq, wire);
                }
                if *fragments {
                    self.fragment_id = self.fragment_id.wrapping_add(1);
                    packet.allow_fragments(self.fragment_id);
                }
                match fragment::cut(&packet, usize::from(LINK_MTU)) {
                    Some(pieces) => io.out.extend(pieces),
                    None => io.out.push(packet),
                }
                Ok(())
            }
            Some(Socket::Stream(stream)) => {
                self.touched.insert(transmit.flow);
                let sent = stream.send(wire);
                self.engine.stream_backlog(transmit.flow, stream.tcp.waiting());
                if sent { Ok(()) } else { Err(SendError::NoRoom) }
            }
            Some(Socket::Quic(quic)) => {
                self.touched.insert(transmit.flow);
                quic.send(wire, transmit.datagram)
            }
            None => Err(SendError::Other("the connection is gone".to_owned())),
        }
    }

    /// Puts on the link what the connections have to send.
    fn flush(&mut self, now: Timestamp, io: &mut Io<'_>) {
        for no in &self.touched {
            let due = match self.sockets.get_mut(no) {
                Some(Socket::Stream(stream)) => {
                    stream.flush(now, &mut io.out);
                    Due { at: stream.tcp.next(), in_kernel: true }
                }
                Some(Socket::Quic(quic)) => {
                    quic.flush(now, io);
                    Due { at: quic.next(), in_kernel: false }
                }
                Some(Socket::Udp { .. }) | None => continue,
            };
            self.dues.insert(*no, due);
        }
        for stream in &mut self.lingering {
            stream.flush(now, &mut io.out);
        }
        self.lingering.retain(|stream| !stream.tcp.is_closed());
        if self.way.is_none() {
            io.out.clear();
        }
        if !self.forbidden.is_empty() {
            io.out.retain(|packet| !self.forbidden.contains(&packet.protocol()));
        }
    }

    /// Everything touched is served, but for those who still have something to say.
    fn forget_touched(&mut self) {
        let sockets = &self.sockets;
        let asleep = self.asleep != Asleep::No;
        self.touched.retain(|no| match sockets.get(no) {
            Some(Socket::Quic(quic)) => quic.has_news(),
            // Nobody has listened to what its kernel has.
            Some(Socket::Stream(_)) => asleep,
            Some(Socket::Udp { .. }) | None => false,
        });
    }

    /// Compares the clocks from time to time, as the driver does.
    fn look(&mut self, now: Timestamp) {
        if now.since(self.last_look) < LOOK_EVERY {
            return;
        }
        if std::mem::take(&mut self.slept) {
            self.engine.handle_host(self.last_look, now, HostFault::Suspended);
        }
        let step = std::mem::take(&mut self.wall_step_ns);
        if step != 0 {
            self.engine.handle_host(self.last_look, now, HostFault::ClockStepped(step));
        }
        self.last_look = now;
    }

    pub(super) fn stall(&mut self) {
        self.due = None;
        self.asleep = Asleep::Stalled;
    }

    /// The host goes to sleep.
    pub(super) fn suspend(&mut self, now: Timestamp) {
        self.due = None;
        // The last look was at most as long ago as the driver waits.
        self.last_look = self.last_look.max(now - LOOK_EVERY);
        self.asleep = Asleep::Suspended;
        self.slept = true;
    }

    /// The host's own firewall lets nobody send it.
    pub(super) fn forbid(&mut self, protocol: Protocol) {
        self.forbidden.push(protocol);
    }

    /// The way to the network goes, comes back, or is another; the driver tells the engine.
    pub(super) fn set_way(&mut self, now: Timestamp, new: Option<&'static str>, io: &mut Io<'_>) {
        let words = |way: Option<&'static str>| way.unwrap_or("none").to_owned();
        let old = std::mem::replace(&mut self.way, new);
        self.due = None;
        let what = HostFault::InterfaceChanged { old: words(old), new: words(new) };
        self.engine.handle_host(now, now, what);
        self.pump(now, io);
    }

    pub(super) fn set_wall_clock(&mut self, by_ns: i64) {
        self.wall_step_ns += by_ns;
    }

    /// The process goes on.
    pub(super) fn resume(&mut self, now: Timestamp, io: &mut Io<'_>) {
        self.due = None;
        self.asleep = Asleep::No;
        let due = self.engine.next_deadline().map_or(Timestamp::NEVER, |(at, _)| at);
        self.look(now);
        // As the driver has it: less lateness counts where nothing else woke it.
        let limit = if self.backlog.is_empty() { STALL } else { STOPPED };
        if due != Timestamp::NEVER && now.since(due) >= limit {
            self.engine.handle_host(due, now, HostFault::Stalled);
        }
        self.read_backlog(now, io.truth);
        self.wake(now, io);
    }
}

enum News {
    Stream(StreamNews),
    Quic(QuicNews),
}
