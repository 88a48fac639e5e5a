//! Drivers own the client's sockets and clocks, and nothing else: they carry events into the engine and do what it
//! says, on one thread, with QUIC's stack beside it on tokio.
//!
//! A timestamp is taken next to the system call it belongs to.

mod gateway;
mod host;
mod load;
mod quic;
mod stream;
pub mod tls;
mod udp;
mod watch;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use probe_analysis::observation::{FlowNo, HostFault, Observation, Probe, ServerNameKind};
use probe_net::clock;
use probe_net::pace::{self, Precision};
use probe_net::udp::{NetError, RecvBatch};
use probe_net::wait::{Poller, Ready, Waker};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::MAX_LEN;
use probe_protocol::wire::hello::Carrier;

use self::host::HostWatch;
use self::load::LoadThread;
use self::quic::QuicFlow;
use self::stream::StreamFlow;
use self::udp::{UdpFlow, network_error};
use self::watch::{Watched, Watcher};
use crate::engine::{Action, ChannelFacts, Closed, Engine, Event, Phase, SendError, SharedTransfer};

/// Below this interval a probe's sending is worth spinning for.
const PRECISE_BELOW: Duration = Duration::from_millis(5);
/// Most events of QUIC flows that wait for the engine; beyond it they are dropped and the flow's counts are void.
const MAX_EVENTS: usize = 8192;
/// The name that a flow gives in place of the target's: reserved (RFC 2606 section 3), so nobody's policy means it.
pub const OTHER_NAME: &str = "www.example.com";
/// Longest wait: how soon a stop is seen.
const MAX_WAIT: Duration = Duration::from_millis(200);

/// Stops a run from outside.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU8>);

impl Stop {
    /// Ends the measuring in order at the first call, everything at once at the second.
    pub fn request(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn level(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether everything is to end at once.
    pub fn is_at_once(&self) -> bool {
        self.level() > 1
    }
}

/// What happened on a flow whose stack runs elsewhere, on its way to the engine.
#[derive(Debug)]
enum Remote {
    Connected {
        source: SocketAddr,
        channel: ChannelFacts,
    },
    Closed(Closed),
    Datagram {
        bytes: Vec<u8>,
        at: Timestamp,
    },
    Bytes {
        bytes: Vec<u8>,
        at: Timestamp,
    },
    SendFailed {
        seq: Option<u64>,
        why: SendError,
    },
    Tapped {
        sent: bool,
        hash: u32,
    },
    /// The socket dropped so many datagrams for want of room.
    Overflow(u32),
    /// An error came back.
    Failed(NetError),
}

/// Carries events of one attempt of one flow to the engine's thread. Never blocks.
#[derive(Clone, Debug)]
struct Uplink {
    flow: FlowNo,
    attempt: u64,
    events: SyncSender<(FlowNo, u64, Remote)>,
    waker: Waker,
}

impl Uplink {
    fn send(&self, event: Remote) {
        // A full queue means that the engine is far behind; what is lost here shows as lost replies at worst.
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.events.try_send((self.flow, self.attempt, event))
        {
            return;
        }
        self.waker.wake();
    }
}

enum Connection {
    Udp(Box<UdpFlow>),
    Stream(Box<StreamFlow>),
    Quic(QuicFlow),
}

/// Where a run gets what it needs from.
#[derive(Debug)]
pub struct Surroundings {
    /// Runs QUIC's stack.
    pub runtime: tokio::runtime::Handle,
    /// Name for TLS's server name indication; none for a bare address.
    pub server_name: Option<String>,
    /// Stops the run.
    pub stop: Stop,
}

/// Takes the probes that are under way, time and again.
pub type Keep = Box<dyn FnMut(Vec<Probe>) + Send>;

/// How often what is under way is handed to whoever keeps it, at most: with its commit that is less than a second.
const KEEP_EVERY: Duration = Duration::from_millis(750);
/// Probes handed over at once, at most.
const MAX_KEPT: usize = 16_384;
/// The more there are, the less often: handing over costs no more than a part of the time, however long the path is out.
const PER_KEPT: Duration = Duration::from_micros(400);

/// Drives one engine to its end.
pub struct Driver {
    engine: Engine,
    keep: Option<Keep>,
    keep_at: Timestamp,
    around: Surroundings,
    tls: Arc<rustls::ClientConfig>,
    poller: Poller,
    /// Threads that move loads; each ends before its flow's socket does.
    loads: HashMap<FlowNo, LoadThread>,
    connections: HashMap<FlowNo, Connection>,
    attempts: u64,
    attempt_of: HashMap<FlowNo, u64>,
    events: Receiver<(FlowNo, u64, Remote)>,
    uplink: SyncSender<(FlowNo, u64, Remote)>,
    batch: RecvBatch,
    wire: Vec<u8>,
    host: HostWatch,
    /// What is watched beside the path of a long run.
    watcher: Option<Watcher>,
    precise: bool,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("engine", &self.engine).finish_non_exhaustive()
    }
}

impl Driver {
    /// Prepares to drive `engine`; nothing is sent before [`run`](Self::run).
    ///
    /// # Errors
    /// The system has no descriptors left, or TLS cannot be set up.
    pub fn new(mut engine: Engine, around: Surroundings, shortest_interval: Duration) -> io::Result<Self> {
        engine.move_loads_outside();
        let (uplink, events) = sync_channel(MAX_EVENTS);
        Ok(Self {
            engine,
            keep: None,
            keep_at: Timestamp::ZERO,
            around,
            tls: tls::config(None)?,
            poller: Poller::new()?,
            loads: HashMap::new(),
            connections: HashMap::new(),
            attempts: 0,
            attempt_of: HashMap::new(),
            events,
            uplink,
            batch: RecvBatch::new(32, MAX_LEN * 2),
            wire: Vec::with_capacity(MAX_LEN * 2),
            host: HostWatch::new(),
            watcher: None,
            precise: shortest_interval < PRECISE_BELOW,
        })
    }

    /// Hands the probes under way to `keep` each second or so, so that a program that is killed loses none of them.
    pub fn keep_open_probes(&mut self, keep: Keep) {
        self.keep = Some(keep);
    }

    fn keep_open(&mut self) {
        let Some(keep) = &mut self.keep else { return };
        let now = clock::now();
        if now < self.keep_at {
            return;
        }
        let open = self.engine.open_probes(MAX_KEPT);
        let kept = u32::try_from(open.len()).unwrap_or(u32::MAX);
        self.keep_at = now + KEEP_EVERY.max(PER_KEPT.saturating_mul(kept));
        keep(open);
    }

    /// Runs to [`Phase::Settled`], telling every observation and the phase.
    ///
    /// # Errors
    /// The system's own, where it no longer lets us wait for sockets.
    pub fn run(&mut self, see: &mut dyn FnMut(Observation, Phase)) -> io::Result<()> {
        pace::prepare_thread();
        if self.engine.wants_watch()
            && let Some(target) = self.engine.target()
        {
            let watched = Watched { target, name: self.around.server_name.clone() };
            self.watcher = Some(Watcher::start(watched, self.poller.waker())?);
        }
        self.run_until(Phase::Settled, see)
    }

    /// Hands a document to the listener; whether it is kept is the answer.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn hand_in(&mut self, document: &[u8], see: &mut dyn FnMut(Observation, Phase)) -> io::Result<bool> {
        self.engine.hand_in(clock::now(), document);
        self.run_until(Phase::Done, see)?;
        Ok(self.engine.handed_in())
    }

    /// Tells the listener that the run is over and closes everything.
    pub fn finish(&mut self) {
        let now = clock::now();
        self.engine.finish(now);
        self.transmit();
        self.act();
    }

    fn run_until(&mut self, phase: Phase, see: &mut dyn FnMut(Observation, Phase)) -> io::Result<()> {
        let mut ready = Ready::new();
        self.engine.handle_timeout(clock::now());
        let mut stopped = false;
        loop {
            self.do_all();
            while let Some(observation) = self.engine.poll_observation() {
                see(observation, self.engine.phase());
            }
            self.keep_open();
            if self.engine.phase() >= phase || self.around.stop.is_at_once() {
                return Ok(());
            }
            if !stopped && self.around.stop.level() > 0 {
                stopped = true;
                self.engine.stop(clock::now());
                continue;
            }
            self.wait(&mut ready)?;
            self.take_in(&ready);
            let now = clock::now();
            self.engine.handle_timeout(now);
        }
    }

    fn wait(&mut self, ready: &mut Ready) -> io::Result<()> {
        let now = clock::now();
        let due = self.engine.next_deadline().map_or(Timestamp::NEVER, |(at, _)| at);
        let coarse = if self.precise { due - pace::SPIN } else { due };
        self.poller.wait(ready, coarse.min(now + MAX_WAIT))?;
        let idle = ready.events().is_empty() && !ready.woken();
        if self.precise && idle && due.since(clock::now()) <= pace::SPIN {
            pace::sleep_until(due, Precision::Precise);
        }
        // What was slept through is told first: it is no stall.
        self.host.look(&mut self.engine);
        self.host.woke(due, clock::now(), idle, &mut self.engine);
        Ok(())
    }

    /// Does what the engine wants until it wants nothing.
    fn do_all(&mut self) {
        loop {
            // Farewells leave before their connections are closed.
            let sent = self.transmit();
            let acted = self.act();
            if !acted && !sent {
                return;
            }
        }
    }

    fn act(&mut self) -> bool {
        let mut any = false;
        while let Some(action) = self.engine.poll_action() {
            any = true;
            match action {
                Action::Connect { flow, carrier, to, server_name, fragments } => {
                    self.connect(flow, carrier, to, server_name, fragments);
                }
                Action::Disconnect { flow } => self.disconnect(flow),
                Action::Load { flow, transfer } => self.start_load(flow, transfer.0),
                Action::LoadChanged { flow } => {
                    if let Some(load) = self.loads.get(&flow) {
                        load.wake();
                    }
                }
                Action::ReadTcp { flow } => {
                    if let Some(Connection::Stream(stream)) = self.connections.get(&flow)
                        && let Some(facts) = stream.facts()
                    {
                        self.engine.handle(clock::now(), flow, Event::Tcp(facts));
                    }
                }
            }
        }
        any
    }

    fn connect(
        &mut self,
        flow: FlowNo,
        carrier: Carrier,
        to: SocketAddr,
        server_name: ServerNameKind,
        fragments: bool,
    ) {
        self.disconnect(flow);
        self.attempts += 1;
        self.attempt_of.insert(flow, self.attempts);
        let now = clock::now();
        let name = match server_name {
            ServerNameKind::Target => self.around.server_name.as_deref(),
            ServerNameKind::Other => Some(OTHER_NAME),
            ServerNameKind::Absent => None,
        };
        let opened = match carrier {
            Carrier::Udp => UdpFlow::open(to, fragments, &self.poller, flow).map(|(udp, source)| {
                self.connections.insert(flow, Connection::Udp(Box::new(udp)));
                Some(source)
            }),
            Carrier::Tcp | Carrier::Tls => {
                let tls = (carrier == Carrier::Tls).then_some((&self.tls, name));
                StreamFlow::open(to, tls, &self.poller, flow).map(|stream| {
                    self.connections.insert(flow, Connection::Stream(Box::new(stream)));
                    None
                })
            }
            Carrier::Quic | Carrier::QuicInverse => {
                let uplink = self.uplink_of(flow, self.attempts);
                let inverse = carrier == Carrier::QuicInverse;
                QuicFlow::open(to, inverse, name, uplink, &self.around.runtime).map(|quic| {
                    self.connections.insert(flow, Connection::Quic(quic));
                    None
                })
            }
        };
        match opened {
            Ok(Some(source)) => {
                self.engine.handle(now, flow, Event::Connected { source, connect: None, channel: None });
            }
            Ok(None) => {}
            Err(error) => self.engine.handle(now, flow, Event::Closed(closed_by(&error, false))),
        }
    }

    fn uplink_of(&self, flow: FlowNo, attempt: u64) -> Uplink {
        Uplink { flow, attempt, events: self.uplink.clone(), waker: self.poller.waker() }
    }

    /// Gives the flow's load and its socket to a thread.
    fn start_load(&mut self, flow: FlowNo, transfer: SharedTransfer) {
        let Some(attempt) = self.attempt_of.get(&flow).copied() else { return };
        let Some(Connection::Udp(udp)) = self.connections.remove(&flow) else { return };
        let uplink = self.uplink_of(flow, attempt);
        let started = udp
            .for_load(&self.poller)
            .and_then(|udp| LoadThread::start(&udp, transfer, uplink).map(|load| (udp, load)));
        match started {
            Ok((udp, load)) => {
                self.connections.insert(flow, Connection::Udp(Box::new(udp)));
                self.loads.insert(flow, load);
            }
            Err(error) => {
                self.engine.handle(clock::now(), flow, Event::Closed(closed_by(&error, true)));
            }
        }
    }

    fn disconnect(&mut self, flow: FlowNo) {
        self.attempt_of.remove(&flow);
        self.loads.remove(&flow);
        match self.connections.remove(&flow) {
            Some(Connection::Udp(udp)) => udp.close(&self.poller),
            Some(Connection::Stream(stream)) => stream.close(&self.poller),
            Some(Connection::Quic(quic)) => quic.close(),
            None => {}
        }
    }

    fn transmit(&mut self) -> bool {
        let mut any = false;
        let mut wire = std::mem::take(&mut self.wire);
        while let Some(transmit) = self.engine.poll_transmit(clock::now(), &mut wire) {
            any = true;
            let result = match self.connections.get_mut(&transmit.flow) {
                Some(Connection::Udp(udp)) => udp.send(&wire, transmit.tos),
                Some(Connection::Stream(stream)) => {
                    let sent = stream.send(&wire, &self.poller);
                    self.engine.stream_backlog(transmit.flow, stream.waiting());
                    sent
                }
                Some(Connection::Quic(quic)) => quic.send(&wire, transmit.datagram, transmit.seq),
                None => Err(SendError::Other("the connection is gone".to_owned())),
            };
            if let Err(why) = result {
                let failed = Event::SendFailed { seq: transmit.seq, why };
                self.engine.handle(clock::now(), transmit.flow, failed);
            }
        }
        self.wire = wire;
        any
    }

    fn take_in(&mut self, ready: &Ready) {
        for event in ready.events() {
            let flow = FlowNo(event.token as u32);
            let mut closed = None;
            match self.connections.get_mut(&flow) {
                Some(Connection::Udp(udp)) => {
                    udp.take_in(flow, event.failed, &mut self.batch, &mut self.host, &mut self.engine);
                }
                Some(Connection::Stream(stream)) => {
                    closed = stream.take_in(flow, event, &self.poller, &mut self.engine);
                    self.engine.stream_backlog(flow, stream.waiting());
                }
                Some(Connection::Quic(_)) | None => {}
            }
            if let Some(closed) = closed {
                self.disconnect(flow);
                self.engine.handle(clock::now(), flow, Event::Closed(closed));
            }
        }
        if let Some(watcher) = &self.watcher {
            watcher.take_in(&mut self.engine);
        }
        while let Ok((flow, attempt, event)) = self.events.try_recv() {
            if self.attempt_of.get(&flow) == Some(&attempt) {
                self.remote(flow, event);
            }
        }
    }

    fn remote(&mut self, flow: FlowNo, event: Remote) {
        let now = clock::now();
        match event {
            Remote::Connected { source, channel } => {
                let connected = Event::Connected { source, connect: None, channel: Some(channel) };
                self.engine.handle(now, flow, connected);
            }
            Remote::Closed(closed) => self.engine.handle(now, flow, Event::Closed(closed)),
            Remote::Datagram { mut bytes, at } => {
                let arrived =
                    crate::engine::Arrived { bytes: &mut bytes, at, kernel: None, ttl: None, tos: None };
                self.engine.handle(now, flow, Event::Datagram(arrived));
            }
            Remote::Bytes { bytes, at } => self.engine.handle(now, flow, Event::Bytes { bytes: &bytes, at }),
            Remote::SendFailed { seq, why } => self.engine.handle(now, flow, Event::SendFailed { seq, why }),
            Remote::Overflow(more) => self.engine.handle_host(now, now, HostFault::ReceiveOverflow(more)),
            Remote::Failed(error) => self.engine.handle(now, flow, network_error(&error)),
            Remote::Tapped { sent, hash } => self.engine.handle(now, flow, Event::Tapped { sent, hash }),
        }
    }

    /// When the present phase ends at the latest.
    pub fn phase_ends(&self) -> Timestamp {
        self.engine.phase_ends()
    }
}

/// What an error of connecting or reading means.
fn closed_by(error: &io::Error, established: bool) -> Closed {
    let says = || error.to_string();
    #[expect(clippy::wildcard_enum_match_arm, reason = "the standard library may add kinds at any time")]
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Closed::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe if established => Closed::Reset,
        // Windows and some kernels report a refusal during connect as a reset.
        io::ErrorKind::ConnectionReset => Closed::Refused,
        io::ErrorKind::ConnectionAborted => Closed::Reset,
        io::ErrorKind::TimedOut => Closed::TimedOut,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
            Closed::Unreachable { says: says() }
        }
        io::ErrorKind::UnexpectedEof => Closed::Ended,
        _ => Closed::Local { says: says() },
    }
}
