//! `check`: from a target to everything that was seen of the path to it.
//!
//! [`prepare`] finds the addresses and lays the plan, so that it can be said beforehand what the run will take;
//! [`Prepared::run`] measures; [`Measured::hand_in`] gives the verdict to the listener.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use probe_analysis::observation::{Observation, Resolved, RunEnded, RunStarted};
use probe_net::{clock, host};
use probe_protocol::invite::Invite;
use probe_protocol::target::Target;
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::hello::SessionId;
use probe_server::{Listener, Running, StartError};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use thiserror::Error;

use crate::driver::{Driver, Keep, Stop, Surroundings};
use crate::engine::{Engine, Identity, Phase, Start};
use crate::plan::{Depth, Plan};
use crate::proxy::Trial;

/// Longest time for looking up a name.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

/// What to check.
#[derive(Clone, Debug)]
pub struct Order {
    /// Where the listener is; none for one that is started in this process, on loopback.
    pub target: Option<Target>,
    /// How far to go.
    pub depth: Depth,
    /// Largest rate of load, bits per second; none to leave it out.
    pub load_bps: Option<u64>,
    /// Stops the run.
    pub stop: Stop,
}

/// Why nothing could be measured. An unreachable listener is no error: it is a result.
#[derive(Debug, Error)]
pub enum CheckError {
    /// The system refuses what every run needs.
    #[error("this host does not let probe-client run: {0}")]
    Host(#[from] io::Error),
    /// `--local`: the listener in this process did not start.
    #[error("the listener of --local did not start: {0}")]
    Listener(#[from] StartError),
}

/// A run that is ready to start.
pub struct Prepared {
    target: Target,
    depth: Depth,
    stop: Stop,
    listener: Option<Running>,
    addresses: Vec<SocketAddr>,
    resolved: Resolved,
    plan: Plan,
    session: SessionId,
    rng: StdRng,
    runtime: tokio::runtime::Runtime,
    keep: Option<Keep>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared")
            .field("target", &self.target)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Starts the listener of `--local`, looks up the target, and lays the plan.
///
/// # Errors
/// [`CheckError::Host`] where the system gives no threads, [`CheckError::Listener`]. A name that does not resolve is a
/// result, not an error.
pub fn prepare(order: Order) -> Result<Prepared, CheckError> {
    let (depth, load_bps) = (order.depth, order.load_bps);
    prepare_with(order, &|addresses, invited| Plan::check_with_load(addresses, invited, depth, load_bps))
}

/// The same with another plan, which is laid once the addresses are known and whether there is an invite.
///
/// # Errors
/// As [`prepare`].
pub fn prepare_with(order: Order, lay: &dyn Fn(&[SocketAddr], bool) -> Plan) -> Result<Prepared, CheckError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut rng = StdRng::try_from_os_rng().map_err(io::Error::other)?;
    let mut session = [0; 16];
    rng.fill_bytes(&mut session);
    let (target, listener) = match order.target {
        Some(target) => (target, None),
        None => {
            let _inside = runtime.enter();
            let running = Listener::start(probe_server::Config::local())?;
            (running.target().clone(), Some(running))
        }
    };
    let (addresses, resolved) = resolve(&target);
    let plan = lay(&addresses, target.invite.is_some());
    Ok(Prepared {
        target,
        depth: order.depth,
        stop: order.stop,
        listener,
        addresses,
        resolved,
        plan,
        session: SessionId(session),
        rng,
        runtime,
        keep: None,
    })
}

impl Prepared {
    /// What the run will do.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How far it goes.
    pub fn depth(&self) -> Depth {
        self.depth
    }

    /// Where the listener is.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The run's id, which the listener will know too; none where there is no address to go to.
    pub fn session(&self) -> Option<SessionId> {
        (!self.addresses.is_empty()).then_some(self.session)
    }

    /// Hands the probes under way to `keep` each second or so while it measures.
    pub fn keep_open_probes(&mut self, keep: Keep) {
        self.keep = Some(keep);
    }

    /// Measures, telling everything that is seen, and the phase in which it was.
    ///
    /// # Errors
    /// [`CheckError::Host`] where the system no longer lets us wait for sockets.
    pub fn run(mut self, see: &mut dyn FnMut(Observation, Phase)) -> Result<Measured, CheckError> {
        let seed = self.rng.next_u64();
        let sample = clock::sample();
        let invite = self.target.invite;
        if self.addresses.is_empty() {
            self.nowhere(invite.as_ref(), sample.boot, sample.wall, see);
            return Ok(Measured {
                driver: None,
                session: None,
                listener: self.listener,
                runtime: self.runtime,
            });
        }
        let interface_mtu = self.addresses.iter().filter_map(|a| host::route_towards(a.ip()).ok()?.mtu).min();
        let start = Start {
            at: sample.boot,
            wall: sample.wall,
            target: self.target.to_string(),
            local: self.listener.is_some(),
            interface_mtu,
            seed,
            first_flow: 0,
        };
        let shortest = self.plan.shortest_interval();
        let session = self.session;
        let identity = Identity { session, invite, software: software() };
        let engine = Engine::new(self.plan, identity, start);
        let server_name = self.target.ip().is_none().then(|| self.target.host.clone());
        let around = Surroundings { runtime: self.runtime.handle().clone(), server_name, stop: self.stop };
        let mut driver = Driver::new(engine, around, shortest.unwrap_or(Duration::MAX))?;
        if let Some(keep) = self.keep {
            driver.keep_open_probes(keep);
        }
        see(Observation::Resolved(self.resolved), Phase::Reach);
        let mut proxy = self.listener.is_none().then(|| Trial::start(&self.target));
        let mut streams = BTreeSet::new();
        driver.run(&mut |observation, phase| {
            if let Some(trial) = proxy.as_mut() {
                if let Observation::FlowPlanned(flow) = &observation
                    && matches!(flow.carrier, Carrier::Tcp | Carrier::Tls)
                {
                    streams.insert(flow.flow);
                }
                if let Observation::FlowOpened(flow) = &observation
                    && streams.contains(&flow.flow)
                {
                    trial.direct_works();
                }
                if matches!(observation, Observation::RunEnded(_))
                    && let Some(tried) = trial.result()
                {
                    see(Observation::Proxy(tried), phase);
                }
            }
            see(observation, phase);
        })?;
        Ok(Measured {
            driver: Some(driver),
            session: Some(session),
            listener: self.listener,
            runtime: self.runtime,
        })
    }

    /// The run of a name that leads nowhere.
    fn nowhere(
        &self,
        invite: Option<&Invite>,
        at: probe_protocol::time::Timestamp,
        wall: probe_protocol::time::WallTime,
        see: &mut dyn FnMut(Observation, Phase),
    ) {
        let started = RunStarted {
            at,
            wall,
            target: self.target.to_string(),
            invited: invite.is_some(),
            local: self.listener.is_some(),
            load_bps: 0,
        };
        see(Observation::RunStarted(started), Phase::Reach);
        see(Observation::Resolved(self.resolved.clone()), Phase::Reach);
        let ended = RunEnded { at: clock::now(), complete: true, receive_buffer: None };
        see(Observation::RunEnded(ended), Phase::Settled);
    }
}

/// A run that is measured.
#[derive(Debug)]
pub struct Measured {
    driver: Option<Driver>,
    session: Option<SessionId>,
    listener: Option<Running>,
    /// Outlives the driver: QUIC's farewells leave on it.
    runtime: tokio::runtime::Runtime,
}

impl Measured {
    /// The run's id, which the listener knows too; none where there was no address to go to.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// Hands a document to the listener over any living transport; whether it is kept is the answer.
    pub fn hand_in(&mut self, document: &[u8], see: &mut dyn FnMut(Observation, Phase)) -> bool {
        self.driver.as_mut().is_some_and(|driver| driver.hand_in(document, see).unwrap_or(false))
    }

    /// Tells the listener that the run is over, and closes everything.
    pub fn finish(mut self) {
        if let Some(mut driver) = self.driver.take() {
            driver.finish();
        }
        if let Some(listener) = self.listener.take() {
            self.runtime.block_on(listener.shutdown());
        }
        self.runtime.shutdown_timeout(Duration::from_millis(300));
    }
}

/// This program's version as it travels.
pub fn software() -> [u8; 3] {
    let mut parts = env!("CARGO_PKG_VERSION").split('.').map(|p| p.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

/// Looks up the target, in a thread of its own since the system's resolver cannot be told to hurry: the first address
/// of each family.
fn resolve(target: &Target) -> (Vec<SocketAddr>, Resolved) {
    let (host, port) = (target.host.clone(), target.port);
    let found = if let Some(ip) = target.ip() {
        Ok(vec![SocketAddr::new(ip, port)])
    } else {
        let (done, answer) = std::sync::mpsc::channel();
        let name = host.clone();
        std::thread::spawn(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            // The asker may have given up.
            let _ = done.send(found);
        });
        match answer.recv_timeout(RESOLVE_LIMIT) {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer from the name server within {} s", RESOLVE_LIMIT.as_secs())),
        }
    };
    match found {
        Ok(found) => {
            let first = |v4: bool| found.iter().find(|a| a.is_ipv4() == v4).copied();
            let mut addresses: Vec<SocketAddr> = [first(true), first(false)].into_iter().flatten().collect();
            // In the order in which the system prefers them.
            addresses.sort_by_key(|a| found.iter().position(|f| f == a));
            let all: Vec<IpAddr> = found.iter().map(SocketAddr::ip).collect();
            (addresses, Resolved { host, addresses: all, error: None })
        }
        Err(error) => (Vec::new(), Resolved { host, addresses: Vec::new(), error: Some(error) }),
    }
}
