//! The plan of `check`.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::{FlowSpec, Plan, Purpose, image_name, suffix};

/// How far a check goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Reachability alone.
    Quick,
    /// Reachability, then loss, delay, marks and path MTU.
    Normal,
}

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

/// When the load of a check begins, since its start: after twenty seconds of delay tests.
const LOAD_AFTER: Duration = Duration::from_secs(23);
/// Ends early when all is done; long enough for the load and its counts where every transport opened at once.
const MEASURE_WITH_LOAD: Duration = Duration::from_millis(41_500);

impl Plan {
    /// [`check`](Self::check) with a load of at most so many bits per second, on the first address: holders of an invite
    /// alone may have one, and a quick check has none.
    pub fn check_with_load(
        addresses: &[SocketAddr],
        invited: bool,
        depth: Depth,
        rate_bps: Option<u64>,
    ) -> Self {
        let mut plan = Self::check(addresses, invited, depth);
        let wanted = rate_bps.filter(|_| invited && depth == Depth::Normal);
        if let (Some(rate), Some(to)) = (wanted, addresses.first()) {
            plan.measure = MEASURE_WITH_LOAD;
            plan.add_check_load(*to, rate, LOAD_AFTER);
        }
        plan
    }

    /// The plan of `check` for the addresses of a target, at most one per address family. Without an invite it is
    /// short.
    pub fn check(addresses: &[SocketAddr], invited: bool, depth: Depth) -> Self {
        // A listener gives a stranger few flows.
        let images = &IMAGES[..if invited { IMAGES.len() } else { 6 }];
        let mut flows = Vec::new();
        for (carrier, dress) in images {
            flows.extend(addresses.iter().map(|to| {
                let name = format!("{}{}", image_name(*carrier, *dress), suffix(addresses, to));
                FlowSpec::new(name, *carrier, *dress, Purpose::Steady, *to)
            }));
        }
        if depth == Depth::Normal {
            for to in addresses {
                let extra = |name: &str, purpose| {
                    let name = format!("udp/{name}{}", suffix(addresses, to));
                    FlowSpec::new(name, Carrier::Udp, Dress::Random, purpose, *to)
                };
                flows.push(extra("marks", Purpose::Marks));
                flows.push(FlowSpec { interval: Duration::ZERO, ..extra("path-mtu", Purpose::PathMtu) });
            }
        }
        let measure = match (depth, invited) {
            (Depth::Quick, _) => Duration::ZERO,
            (Depth::Normal, true) => Duration::from_secs(20),
            (Depth::Normal, false) => Duration::from_secs(8),
        };
        Self { flows, measure, ..Self::default() }
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
