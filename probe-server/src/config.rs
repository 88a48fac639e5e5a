//! How a listener is to run.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use probe_protocol::DEFAULT_PORT;

use crate::core::allow::AllowList;
use crate::core::limits::Limits;

/// Where a listener keeps what it must still know after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatePlace {
    /// In this directory.
    Dir(PathBuf),
    /// Nowhere: everything is forgotten with the process. For checks of a host by itself.
    Memory,
}

/// How a listener is to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to bind; empty for all of IPv4 and, where the host has it, of IPv6.
    pub bind: Vec<IpAddr>,
    /// The port, for TCP and UDP; 0 takes a free one.
    pub port: u16,
    /// What invites name as the listener's place, `HOST` or `HOST:PORT`; none to guess.
    pub public: Option<probe_protocol::target::Target>,
    /// Where state is kept.
    pub state: StatePlace,
    /// The admin's own certificate and key (PEM); none for one of our own making.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Clients without an invite may do all.
    pub open_to_all: bool,
    /// Which sources may use it.
    pub allow: AllowList,
    /// Bits per second of all replies together.
    pub max_rate: Option<u64>,
    /// TCP and QUIC connections in all.
    pub max_connections: usize,
    /// Bounds on what clients may have.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: Vec::new(),
            port: DEFAULT_PORT,
            public: None,
            state: StatePlace::Memory,
            certificate: None,
            open_to_all: false,
            allow: AllowList::default(),
            max_rate: None,
            max_connections: 4096,
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// A listener for the host itself: on loopback, on a free port, without a trace on the disk.
    pub fn local() -> Self {
        Self { bind: vec![Ipv4Addr::LOCALHOST.into()], port: 0, ..Self::default() }
    }

    /// The addresses to bind, and whether one that cannot be bound because its family is off is no error.
    pub(crate) fn addresses(&self) -> (Vec<IpAddr>, bool) {
        if self.bind.is_empty() {
            (vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()], true)
        } else {
            (self.bind.clone(), false)
        }
    }
}
