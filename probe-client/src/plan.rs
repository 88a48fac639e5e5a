//! Plans are data: which flows to open, with what image, size, schedule and purpose. `check` is one plan for the one
//! engine; other commands are others.

use std::net::SocketAddr;
use std::time::Duration;

pub use probe_analysis::observation::Purpose;
use probe_protocol::wire::dress::{Dress, Form};
use probe_protocol::wire::hello::Carrier;

/// One flow to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// Its name in reports, `udp/random`.
    pub name: String,
    /// What it runs over.
    pub carrier: Carrier,
    /// What its records wear.
    pub dress: Dress,
    /// What it is for.
    pub purpose: Purpose,
    /// Where it goes.
    pub to: SocketAddr,
    /// Length of its datagrams or records, bytes.
    pub size: u16,
    /// Time between its probes.
    pub interval: Duration,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The flows, in the order in which they open.
    pub flows: Vec<FlowSpec>,
    /// Time from one opening to the next.
    pub open_gap: Duration,
    /// When opening ends, since the start: what is not open by then never was.
    pub reach: Duration,
    /// How long to measure after that.
    pub measure: Duration,
    /// How long to wait for the last replies.
    pub drain: Duration,
    /// How long to ask for ledgers after that, at most.
    pub settle: Duration,
}

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Reachability alone.
    Quick,
    /// Reachability, then loss, delay, marks and path MTU.
    Normal,
}

/// At most five new flows a second: a burst of openings is itself an anomaly that firewalls punish.
const OPEN_GAP: Duration = Duration::from_millis(200);
/// Slow enough for the listener's bound on clients without an invite.
const INTERVAL: Duration = Duration::from_millis(50);
/// What compared datagrams share: the smallest size that every dress and a QUIC packet with a probe in it can have.
const SIZE: u16 = 128;

/// What a check opens on each address: the transports first, one of each, so that the first answers tell the most.
const IMAGES: [(Carrier, Dress); 9] = [
    (Carrier::Udp, Dress::Random),
    (Carrier::Tcp, Dress::Random),
    (Carrier::Tls, Dress::Random),
    (Carrier::Quic, Dress::Random),
    (Carrier::Udp, Dress::Ascii),
    (Carrier::Tcp, Dress::Ascii),
    (Carrier::QuicInverse, Dress::Random),
    (Carrier::Udp, Dress::QuicShaped),
    (Carrier::Udp, Dress::Zero),
];

impl Plan {
    /// The plan of `check` for the addresses of a target, at most one per address family. Without an invite it is
    /// short.
    pub fn check(addresses: &[SocketAddr], invited: bool, depth: Depth) -> Self {
        let several = addresses.len() > 1;
        let suffix = |to: &SocketAddr| match (several, to) {
            (false, _) => "",
            (true, SocketAddr::V4(_)) => "@ipv4",
            (true, SocketAddr::V6(_)) => "@ipv6",
        };
        // A listener gives a stranger few flows.
        let images = &IMAGES[..if invited { IMAGES.len() } else { 6 }];
        let mut flows = Vec::new();
        for (carrier, dress) in images {
            flows.extend(addresses.iter().map(|to| FlowSpec {
                name: format!("{}{}", image_name(*carrier, *dress), suffix(to)),
                carrier: *carrier,
                dress: *dress,
                purpose: Purpose::Steady,
                to: *to,
                size: SIZE,
                interval: INTERVAL,
            }));
        }
        if depth == Depth::Normal {
            for to in addresses {
                let extra = |name: &str, purpose, interval| FlowSpec {
                    name: format!("udp/{name}{}", suffix(to)),
                    carrier: Carrier::Udp,
                    dress: Dress::Random,
                    purpose,
                    to: *to,
                    size: SIZE,
                    interval,
                };
                flows.push(extra("marks", Purpose::Marks, INTERVAL));
                flows.push(extra("path-mtu", Purpose::PathMtu, Duration::ZERO));
            }
        }
        let measure = match (depth, invited) {
            (Depth::Quick, _) => Duration::ZERO,
            (Depth::Normal, true) => Duration::from_secs(20),
            (Depth::Normal, false) => Duration::from_secs(8),
        };
        Self {
            flows,
            open_gap: OPEN_GAP,
            reach: Duration::from_millis(8500),
            measure,
            drain: Duration::from_secs(2),
            settle: Duration::from_secs(4),
        }
    }

    /// How long the run takes at most.
    pub fn duration(&self) -> Duration {
        self.reach + self.measure + self.drain + self.settle
    }

    /// How many bytes the run moves at most, both ways together, with IP and UDP headers.
    pub fn bytes(&self) -> u64 {
        const HEADERS: u64 = 48;
        let each = |flow: &FlowSpec| {
            let handshakes =
                16 * flow.dress.dressed_len(Form::Opening, flow.dress.row().handshake_len) as u64;
            let probes = match flow.purpose {
                Purpose::PathMtu => 200 * 1500,
                Purpose::Steady
                | Purpose::Marks
                | Purpose::Reach
                | Purpose::Trial
                | Purpose::Fresh
                | Purpose::Old
                | Purpose::Crossed
                | Purpose::Fan
                | Purpose::Idle
                | Purpose::Named
                | Purpose::Fragments
                | Purpose::Concurrent
                | Purpose::Bulk => {
                    let count = (self.reach + self.measure).as_nanos().checked_div(flow.interval.as_nanos());
                    count.unwrap_or(0) as u64 * (u64::from(flow.size) + HEADERS)
                }
            };
            2 * (handshakes + probes)
        };
        self.flows.iter().map(each).sum()
    }
}

fn image_name(carrier: Carrier, dress: Dress) -> String {
    match carrier {
        Carrier::Udp | Carrier::Tcp => format!("{}/{}", carrier.name(), dress.name()),
        Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => carrier.name().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_ends_within_its_minute_and_names_its_flows_apart() {
        let addresses: Vec<SocketAddr> =
            vec!["192.0.2.1:8886".parse().unwrap(), "[2001:db8::1]:8886".parse().unwrap()];
        for (invited, depth) in [(true, Depth::Normal), (false, Depth::Normal), (true, Depth::Quick)] {
            let plan = Plan::check(&addresses, invited, depth);
            assert!(plan.duration() <= Duration::from_secs(55));
            let names: std::collections::BTreeSet<_> = plan.flows.iter().map(|f| &f.name).collect();
            assert_eq!(names.len(), plan.flows.len());
            // All of them are under way well before opening ends.
            assert!(plan.open_gap * plan.flows.len() as u32 <= plan.reach * 2 / 3);
        }
    }
}
