//! What is simulated, as data.

use std::net::SocketAddr;
use std::time::Duration;

use probe_client::plan::{Depth, Plan};
use probe_protocol::DEFAULT_PORT;

use crate::middlebox::Topology;
use crate::packet::Protocol;
use crate::rules::Rule;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Everything random follows from it.
    pub seed: u64,
    /// Who is joined to what.
    pub topology: Topology,
    /// What the network does.
    pub rules: Vec<Rule>,
    /// What is run.
    pub plan: Plan,
    /// The client has the listener's invite.
    pub invited: bool,
    /// What listens on the port.
    pub listening: Listening,
    /// What the hosts do meanwhile.
    pub faults: Vec<Fault>,
    /// The hosts and their own links.
    pub hosts: Hosts,
    /// Keeps the truth of every probe (some ten bytes each).
    pub keep_truth: bool,
}

/// What listens on the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listening {
    /// `probe-server`.
    #[default]
    ProbeServer,
    /// Nothing: the host is there and its kernel refuses.
    Nothing,
    /// An ordinary web server, on TCP.
    WebServer,
}

/// The hosts and their own links.
#[derive(Clone, Debug, PartialEq)]
pub struct Hosts {
    /// What each host's link adds to the delay, one way.
    pub link: Duration,
    /// And up to so much more, without overtaking.
    pub jitter: Duration,
    /// The listener's clock is ahead by so much.
    pub listener_ahead: Duration,
    /// The listener's clock is fast, parts per million.
    pub listener_fast_ppm: i32,
    /// Bytes of datagrams that a host's kernel keeps for a program that does not read.
    pub receive_buffer: usize,
}

impl Default for Hosts {
    fn default() -> Self {
        Self {
            link: Duration::from_micros(100),
            jitter: Duration::from_micros(20),
            listener_ahead: Duration::from_secs(86_400),
            listener_fast_ppm: 20,
            receive_buffer: 212_992,
        }
    }
}

/// Something that happens to a host, at a time since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The listener ends, and starts again as another boot.
    RestartListener {
        /// When.
        at: Duration,
        /// How long it is away.
        gap: Duration,
    },
    /// The listener's process stands still; its kernel does not.
    StallListener {
        /// When.
        at: Duration,
        /// For how long.
        length: Duration,
    },
    /// The client's process stands still; its kernel does not.
    StallClient {
        /// When.
        at: Duration,
        /// For how long.
        length: Duration,
    },
    /// The client's host sleeps: what arrives is lost.
    SuspendClient {
        /// When.
        at: Duration,
        /// For how long.
        length: Duration,
    },
    /// Somebody sets the client's wall clock.
    SetClientClock {
        /// When.
        at: Duration,
        /// Ahead by so many nanoseconds; behind where negative.
        by_ns: i64,
    },
    /// The client's NAT forgets every mapping.
    ForgetMappings {
        /// When.
        at: Duration,
    },
    /// The client's own firewall forbids a protocol out, from the start.
    FilterClient {
        /// Which.
        protocol: Protocol,
    },
    /// The client's host has no way to the network for a time.
    LoseWay {
        /// When.
        at: Duration,
        /// For how long.
        length: Duration,
        /// Afterwards it has another one.
        another: bool,
    },
    /// The side host loads the path with UDP towards the client.
    CrossTraffic {
        /// When.
        at: Duration,
        /// For how long.
        length: Duration,
        /// How much, bits per second (IP bytes).
        rate_bps: u64,
        /// In datagrams of this size, bytes.
        size: u16,
    },
}

impl Setup {
    /// A clean network and the plan of `check` with an invite.
    pub fn check(seed: u64, depth: Depth) -> Self {
        let topology = Topology { ipv6: false, ..Topology::default() };
        let plan = Plan::check(&[target(&topology)], true, depth);
        Self::of(seed, topology, plan)
    }

    /// A network without rules, and this plan.
    pub fn of(seed: u64, topology: Topology, plan: Plan) -> Self {
        Self {
            seed,
            topology,
            rules: Vec::new(),
            plan,
            invited: true,
            listening: Listening::default(),
            faults: Vec::new(),
            hosts: Hosts::default(),
            keep_truth: true,
        }
    }
}

/// Where the listener is found.
pub fn target(topology: &Topology) -> SocketAddr {
    SocketAddr::new(topology.target().into(), DEFAULT_PORT)
}
