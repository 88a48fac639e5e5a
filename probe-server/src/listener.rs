//! A listener that runs: sockets bound, threads and tasks started, and ended in order.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use probe_net::udp::{UdpOptions, UdpSocket};
use probe_net::wait::Poller;
use probe_net::{clock, host, tcp};
use probe_protocol::invite::Invite;
use probe_protocol::target::Target;
use rand::TryRngCore;
use rand::rngs::OsRng;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::bulk::{Around, MAX_STRAYS, Threads};
use crate::config::{Config, StatePlace};
use crate::core::counters::Counters;
use crate::core::event::Event;
use crate::core::hub::{HubConfig, Identity};
use crate::core::invites::{Invites, Known};
use crate::core::limit::BitRate;
use crate::core::quic::{ConnectionIds, QuicDemux};
use crate::core::{Hub, Shard};
use crate::outbox::{self, Keeper};
use crate::port::{self, Program, Protocol};
use crate::shared::{MAX_ASKS, Shared};
use crate::state::{InviteStore, Lock, StateDir, StateError};
use crate::stream;
use crate::tls::{Certificate, TlsError};
use crate::udp::PacketThread;

/// Why a listener did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Another program has the port.
    #[error("{protocol} port {} is taken{}: stop that program, or give --port another number", addr.port(), by(program))]
    PortInUse {
        /// TCP or UDP.
        protocol: Protocol,
        /// The address that was to be bound.
        addr: SocketAddr,
        /// Who has it, where the system tells.
        program: Option<Program>,
    },
    /// The address cannot be bound.
    #[error("cannot listen on {protocol} {addr}: {error}{}", hint(error))]
    Bind {
        /// TCP or UDP.
        protocol: Protocol,
        /// The address.
        addr: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system gives no thread, descriptor or randomness.
    #[error("the system does not give what a listener needs: {0}")]
    System(#[from] io::Error),
}

fn by(program: &Option<Program>) -> String {
    match program {
        Some(program) if program.name.starts_with("probe-server") => {
            format!(" by another listener, {program}")
        }
        Some(program) => format!(" by {program}"),
        None => String::new(),
    }
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (ports below 1024 need privileges: give --port another number)"
    } else if error.kind() == io::ErrorKind::AddrNotAvailable {
        " (it is not an address of this host)"
    } else {
        ""
    }
}

/// Starts listeners.
#[derive(Debug)]
pub struct Listener;

/// A listener that takes traffic. Dropped, it stops at once; [`shutdown`](Self::shutdown) lets connections end in
/// order.
#[derive(Debug)]
pub struct Running {
    tcp: Vec<SocketAddr>,
    udp: Vec<SocketAddr>,
    target: Target,
    invite: Invite,
    fingerprint: [u8; 32],
    events: Option<mpsc::Receiver<Event>>,
    counters: Arc<Counters>,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    // Fields are dropped in this order: nobody feeds quinn any more once the packet thread is gone.
    packets: Option<PacketThread>,
    quic: crate::quic::Endpoints,
    _lock: Option<Lock>,
}

/// How often the hub lets time pass, and the invites are looked at.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);
/// How long connections get to end in order.
const END_WITHIN: Duration = Duration::from_millis(500);
/// How long quinn gets to let go of the sockets.
const LET_GO_WITHIN: Duration = Duration::from_millis(200);
/// Free ports that are tried until one is free for all of TCP, UDP, IPv4 and IPv6.
const FREE_PORTS: usize = 32;
/// Pending connections of the TCP port.
const BACKLOG: u16 = 1024;

impl Listener {
    /// Starts one, inside a tokio runtime. When it returns, both ports take traffic.
    ///
    /// # Errors
    /// A [`StartError`], written for the admin.
    #[expect(clippy::needless_pass_by_value, reason = "a configuration is made for one listener")]
    pub fn start(config: Config) -> Result<Running, StartError> {
        let (state, lock) = match &config.state {
            StatePlace::Memory => (None, None),
            StatePlace::Dir(path) => {
                let state = StateDir::open(path)?;
                let lock = state.lock(&format!("process {}, port {}", std::process::id(), config.port))?;
                (Some(state), Some(lock))
            }
        };
        let certificate = match &config.certificate {
            Some((cert, key)) => Certificate::from_pem(cert, key)?,
            None => Certificate::own(state.as_ref())?,
        };
        let fingerprint = certificate.fingerprint();
        let tls = TlsAcceptor::from(certificate.tls()?);
        let sockets = bind(&config)?;
        let start = Start::new(state, fingerprint)?;
        start.run(&config, &certificate, &tls, sockets, lock)
    }
}

/// What is known before the threads start.
struct Start {
    identity: Identity,
    invite: Invite,
    invites: Arc<Invites>,
    state: Option<StateDir>,
    fingerprint: [u8; 32],
}

/// Bytes from the system's generator.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

impl Start {
    fn new(state: Option<StateDir>, fingerprint: [u8; 32]) -> Result<Self, StartError> {
        let (secret, epoch) = match &state {
            Some(state) => (state.secret(random()?)?, state.next_epoch()?),
            None => (random()?, 1),
        };
        let identity = Identity {
            secret,
            boot: u64::from_be_bytes(random()?),
            epoch,
            software: crate::core::software(),
        };
        let (invite, known) = match &state {
            None => {
                let invite = Invite { key: random()?, fingerprint, expires_minute: None };
                (invite, vec![Known { label: invite.label(), invite, revoked: false }])
            }
            Some(state) => {
                let store = InviteStore::of(state);
                let standing = store.standing(random()?, clock::wall())?;
                let all = store.all()?;
                let known = all.iter().filter_map(|r| r.known(fingerprint)).collect();
                let invite = standing.invite(fingerprint);
                (invite.ok_or_else(|| StateError::NoInvite(standing.label.clone()))?, known)
            }
        };
        Ok(Self { identity, invite, invites: Arc::new(Invites::new(known)), state, fingerprint })
    }

    fn run(
        self,
        config: &Config,
        certificate: &Certificate,
        tls: &TlsAcceptor,
        sockets: Sockets,
        lock: Option<Lock>,
    ) -> Result<Running, StartError> {
        let counters = Arc::new(Counters::default());
        let (outbox, events, to_keep) = outbox::channel();
        let hub = Arc::new(Mutex::new(Hub::new(HubConfig {
            identity: self.identity,
            limits: config.limits.clone(),
            allow: config.allow.clone(),
            open_to_all: config.open_to_all,
            invites: self.invites,
            seed: random()?,
            outbox: Box::new(outbox),
            counters: Arc::clone(&counters),
        })));
        let max_rate = config.max_rate.map(|rate| Arc::new(BitRate::new(rate)));
        let demux =
            QuicDemux { straight: ConnectionIds::new(random()?), inverse: ConnectionIds::new(random()?) };
        let poller = Poller::new()?;
        let (asks, asked) = sync_channel(MAX_ASKS);
        let shared = Arc::new(Shared {
            hub: Arc::clone(&hub),
            counters: Arc::clone(&counters),
            max_rate: max_rate.clone(),
            asks,
            waker: poller.waker(),
            kept: Notify::new(),
            connections: AtomicUsize::new(0),
            max_connections: config.max_connections,
            silent: Mutex::default(),
            port: sockets.port,
        });
        let udp_addrs = sockets.udp.iter().map(UdpSocket::local_addr).collect::<io::Result<Vec<_>>>()?;
        let tcp_addrs = sockets.tcp.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
        let mut tasks = JoinSet::new();
        let udp = sockets.udp.into_iter().map(Arc::new).collect();
        let (quic, sides) = crate::quic::Endpoints::start(&shared, udp, certificate, &demux, &mut tasks)?;
        let mut shard = Shard::new(&hub, demux, max_rate.clone(), random()?);
        let (strays, strayed) = sync_channel(MAX_STRAYS);
        shard.run_loads(Box::new(Threads::new(Around {
            sockets: sides.iter().map(|side| Arc::clone(&side.socket)).collect(),
            strays,
            packets: poller.waker(),
            max_rate,
            counters: Arc::clone(&counters),
        })));
        let packets = PacketThread::start(poller, sides, shard, asked, strayed)?;
        for listener in sockets.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tasks.spawn(stream::accept_all(Arc::clone(&shared), listener, tls.clone()));
        }
        let keeper = Keeper::new(Arc::clone(&shared), self.state.clone(), to_keep);
        tasks.spawn(keeper.run());
        tasks.spawn(pass_time(Arc::clone(&shared), self.state, self.fingerprint));
        let target = target(config, sockets.port, self.invite);
        Ok(Running {
            tcp: tcp_addrs,
            udp: udp_addrs,
            target,
            invite: self.invite,
            fingerprint: self.fingerprint,
            events: Some(events),
            counters,
            shared,
            tasks,
            packets: Some(packets),
            quic,
            _lock: lock,
        })
    }
}

impl Running {
    /// The TCP addresses.
    pub fn tcp(&self) -> &[SocketAddr] {
        &self.tcp
    }

    /// The UDP addresses.
    pub fn udp(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// What gives a client all rights.
    pub fn invite(&self) -> Invite {
        self.invite
    }

    /// The invite with a place in it: the one asked for, or the best guess at how others reach this host.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// SHA-256 of the certificate.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// What happens, from the start on; none where it was taken before. Events that nobody reads are lost and
    /// counted.
    pub fn events(&mut self) -> Option<mpsc::Receiver<Event>> {
        self.events.take()
    }

    /// The counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Sessions, flows and connections that are held now.
    pub fn held(&self) -> Held {
        crate::metrics::held(&self.shared)
    }

    /// Serves metrics on this address until the listener stops.
    ///
    /// # Errors
    /// [`StartError::PortInUse`], [`StartError::Bind`].
    pub fn serve_metrics(&mut self, addr: SocketAddr) -> Result<SocketAddr, StartError> {
        let listener = tcp::listen(addr, BACKLOG).map_err(|e| bind_error(Protocol::Tcp, addr, e))?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let bound = listener.local_addr()?;
        self.tasks.spawn(crate::metrics::serve(Arc::clone(&self.shared), listener));
        Ok(bound)
    }

    /// Ends in order, within a second: QUIC clients are told, the threads end.
    pub async fn shutdown(mut self) {
        self.tasks.abort_all();
        let _ = tokio::time::timeout(END_WITHIN, self.quic.close()).await;
        self.packets = None;
        while self.tasks.join_next().await.is_some() {}
        let _ = tokio::time::timeout(LET_GO_WITHIN, self.quic.let_go()).await;
    }
}

pub use crate::metrics::Held;

/// Lets time pass for the hub, and takes in what `probe-server invite` changed.
async fn pass_time(shared: Arc<Shared>, state: Option<StateDir>, fingerprint: [u8; 32]) {
    let store = state.as_ref().map(InviteStore::of);
    let mut changed = store.as_ref().and_then(InviteStore::changed);
    let mut every = tokio::time::interval(EXPIRE_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if shared.hub().expire(clock::now()) {
            shared.waker.wake();
        }
        let Some(store) = &store else { continue };
        let now = store.changed();
        if now == changed {
            continue;
        }
        changed = now;
        match store.all() {
            Ok(all) => {
                let known = all.iter().filter_map(|r| r.known(fingerprint));
                shared.hub().set_invites(Arc::new(Invites::new(known)));
                shared.waker.wake();
            }
            Err(error) => tracing::error!(%error, "the invites stay as they were"),
        }
    }
}

struct Sockets {
    port: u16,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// Binds all addresses on one port: the one asked for, or one that is free for all of them.
fn bind(config: &Config) -> Result<Sockets, StartError> {
    if config.port != 0 {
        return bind_on(config, config.port);
    }
    let mut last = None;
    for _ in 0..FREE_PORTS {
        let (addresses, _) = config.addresses();
        let first = SocketAddr::new(addresses.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])), 0);
        let trial =
            UdpSocket::bind(&UdpOptions::new(first)).map_err(|e| bind_error(Protocol::Udp, first, e))?;
        let port = trial.local_addr()?.port();
        drop(trial);
        match bind_on(config, port) {
            Err(error @ StartError::PortInUse { .. }) => last = Some(error),
            other => return other,
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrInUse).into()))
}

fn bind_on(config: &Config, port: u16) -> Result<Sockets, StartError> {
    let (addresses, family_may_be_off) = config.addresses();
    let mut sockets = Sockets { port, udp: Vec::new(), tcp: Vec::new() };
    let mut off = None;
    for ip in addresses {
        let addr = SocketAddr::new(ip, port);
        // Exclusive: with SO_REUSEPORT a second listener would silently take a share of the flows.
        // Runs of replies go together only out of a full batch.
        let options = UdpOptions { recv_buffer: Some(RECV_BUFFER), coalesce: true, ..UdpOptions::new(addr) };
        match UdpSocket::bind(&options) {
            Ok(socket) => sockets.udp.push(socket),
            Err(error) if family_may_be_off && is_family_off(&error) => {
                off = Some(bind_error(Protocol::Udp, addr, error));
                continue;
            }
            Err(error) => return Err(bind_error(Protocol::Udp, addr, error)),
        }
        match tcp::listen(addr, BACKLOG) {
            Ok(listener) => sockets.tcp.push(listener),
            Err(error) if family_may_be_off && is_family_off(&error) => {
                off = Some(bind_error(Protocol::Tcp, addr, error));
            }
            Err(error) => return Err(bind_error(Protocol::Tcp, addr, error)),
        }
    }
    match off {
        Some(error) if sockets.udp.is_empty() || sockets.tcp.is_empty() => Err(error),
        _ => Ok(sockets),
    }
}

/// Room for a burst while the packet thread is not scheduled.
const RECV_BUFFER: usize = 4 << 20;

fn is_family_off(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

fn bind_error(protocol: Protocol, addr: SocketAddr, error: io::Error) -> StartError {
    if error.kind() == io::ErrorKind::AddrInUse {
        StartError::PortInUse { protocol, addr, program: port::holder(protocol, addr.port()) }
    } else {
        StartError::Bind { protocol, addr, error }
    }
}

/// The place that the invite names.
fn target(config: &Config, port: u16, invite: Invite) -> Target {
    if let Some(public) = &config.public {
        return Target { invite: Some(invite), ..public.clone() };
    }
    let bound = config.bind.iter().find(|ip| !ip.is_unspecified()).copied();
    let host = bound.or_else(local_address).map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
    Target { host, port, invite: Some(invite) }
}

/// The address that this host uses towards the internet; nothing is sent.
pub(crate) fn local_address() -> Option<IpAddr> {
    // Documentation addresses, RFC 5737 and RFC 3849.
    let far = [IpAddr::from([192, 0, 2, 1]), IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])];
    far.into_iter().find_map(|far| host::local_towards(far).ok())
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}
