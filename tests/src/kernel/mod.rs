//! The real-kernel network: hosts in network namespaces, TUN devices, and the middlebox between them.
//!
//! It needs root, or a system that lets anybody make a user namespace, and `/dev/net/tun`; no packet filter, no
//! other kernel module, no helper program. Nothing has a name outside the process, so nothing stays behind when it
//! ends, however it ends.

mod bench;
mod binaries;
mod driver;
mod host;
mod netlink;
mod play;
mod privilege;
mod proxy;
mod stage;
mod sys;

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};

pub use bench::{BenchError, Figures, Flood, bench};
pub use binaries::{Binaries, BuildError, binaries};
pub use host::Host;
pub use play::{Played, play};
pub use privilege::{Namespaces, in_namespaces, must_not_skip, namespaces, rerun_as_root_of_own_namespace};

pub use stage::{Listening, Server, Stage, StageError};

use crate::middlebox::{Kind, Middlebox, Port, Topology};
use crate::rules::truth::{Line, Summary};
use crate::rules::{BadRule, Rule, Truth};
use driver::Driver;
use proxy::RunningProxy;

const PORT: u16 = probe_protocol::DEFAULT_PORT;

/// Why a lab could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A namespace, device, address or route could not be made.
    #[error("cannot set up {what}: {error}")]
    System {
        /// What was being made.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A rule makes no sense.
    #[error(transparent)]
    Rule(#[from] BadRule),
    /// Rules were given to a cable.
    #[error("a veth pair has no middlebox that could carry out rules")]
    NoMiddlebox,
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> LabError {
    move |error| LabError::System { what, error }
}

/// Lets this process outlive Ctrl-C while the program that it started in a lab deals with it.
pub fn outlive_interrupts() -> io::Result<()> {
    sys::outlive_interrupts()
}

/// A running lab. Everything is gone when it is dropped.
pub struct Lab {
    topology: Topology,
    client: Host,
    server: Host,
    side: Option<Host>,
    driver: Option<Driver>,
    proxy: Option<RunningProxy>,
}

impl Lab {
    /// Sets up the hosts and starts the middlebox.
    pub fn start(topology: &Topology, rules: &[Rule], seed: u64) -> Result<Self, LabError> {
        Self::start_with_log(topology, rules, seed, None)
    }

    /// The same, with a file that gets one line of JSON per packet touched.
    pub fn start_with_log(
        topology: &Topology,
        rules: &[Rule],
        seed: u64,
        log: Option<File>,
    ) -> Result<Self, LabError> {
        let host = |addresses| Host::new(addresses).map_err(system("a network namespace"));
        let (client, server) = (host(topology.client())?, host(topology.server())?);
        if topology.kind == Kind::Veth {
            if !rules.is_empty() || topology.client_nat.is_some() || topology.server_nat.is_some() {
                return Err(LabError::NoMiddlebox);
            }
            client.join(&server, topology.ipv6).map_err(system("a veth pair"))?;
            return Ok(Self {
                topology: topology.clone(),
                client,
                server,
                side: None,
                driver: None,
                proxy: None,
            });
        }
        let now = driver::moment().map_err(system("a clock"))?.now;
        let middlebox = Middlebox::new(topology, rules, seed, now)?;
        let wants_side = topology.side_host || topology.proxy.is_some();
        let side = wants_side.then(|| host(topology.side())).transpose()?;
        let mut devices = Vec::new();
        let joined =
            [(Port::Client, Some(&client)), (Port::Server, Some(&server)), (Port::Side, side.as_ref())];
        for (port, host) in joined {
            let Some(host) = host else { continue };
            devices.push((port, host.add_tun(topology.ipv6).map_err(system("a TUN device"))?));
        }
        let driver = Driver::start(middlebox, devices, log).map_err(system("the middlebox's thread"))?;
        let mut lab =
            Self { topology: topology.clone(), client, server, side, driver: Some(driver), proxy: None };
        if let (Some(proxy), Some(side)) = (&topology.proxy, &lab.side) {
            let targets = [Some(lab.target(PORT)), lab.target_v6(PORT)];
            lab.proxy = Some(RunningProxy::start(side, proxy, targets).map_err(system("a proxy"))?);
        }
        Ok(lab)
    }

    /// The client's host.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The listener's host.
    pub fn server(&self) -> &Host {
        &self.server
    }

    /// The host for cross traffic, where the topology has one.
    pub fn side(&self) -> Option<&Host> {
        self.side.as_ref()
    }

    /// Who is joined to what.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where the client reaches a port of the listener's host over IPv4.
    pub fn target(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.topology.target()), port)
    }

    /// Where the client reaches a port of the listener's host over IPv6, where there is any.
    pub fn target_v6(&self, port: u16) -> Option<SocketAddr> {
        self.topology.target_v6().map(|address| SocketAddr::new(IpAddr::V6(address), port))
    }

    /// Replaces all rules. What they held goes on at once; their time starts anew.
    pub fn set_rules(&self, rules: &[Rule]) -> Result<(), LabError> {
        let driver = self.driver.as_ref().ok_or(LabError::NoMiddlebox)?;
        let moment = driver::moment().map_err(system("a clock"))?;
        driver.middlebox().set_rules(moment, rules)?;
        driver.wake();
        Ok(())
    }

    /// Makes the client's NAT forget every mapping.
    pub fn forget_mappings(&self) {
        if let Some(driver) = &self.driver {
            driver.middlebox().forget_mappings();
        }
    }

    /// Looks at the ground truth, while the middlebox stands still. `None` where there is no middlebox.
    pub fn with_truth<T>(&self, look: impl FnOnce(&Truth) -> T) -> Option<T> {
        self.driver.as_ref().map(|driver| look(&driver.middlebox().sink().truth))
    }

    /// Every packet touched so far, as far as memory holds them, and a summary per flow.
    pub fn truth(&self) -> (Vec<Line>, Vec<Summary>) {
        self.with_truth(|truth| (truth.lines().cloned().collect(), truth.summaries())).unwrap_or_default()
    }

    /// Processor time that the middlebox has used so far. `None` where there is no middlebox.
    pub fn middlebox_time(&self) -> Option<std::time::Duration> {
        self.driver.as_ref()?.processor_time().ok()
    }

    /// Connections that the proxy has ended, where there is one.
    pub fn proxied(&self) -> u64 {
        self.proxy.as_ref().map_or(0, RunningProxy::connections)
    }

    /// Packets that were lost without a rule: in the hosts' own queues, or because a host would not take them.
    pub fn own_losses(&self) -> io::Result<u64> {
        let mut lost = self.driver.as_ref().map_or(0, Driver::unwritable);
        for host in [Some(&self.client), Some(&self.server), self.side.as_ref()].into_iter().flatten() {
            lost += host.link_drops()?;
        }
        Ok(lost)
    }
}
