//! The plan of `rehearse`: what the transfer product will send, with control flows beside it.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::wire::dress::{BLOCK_LEN, Dress};
use probe_protocol::wire::hello::Carrier;

use super::load::{LoadExperiment, LoadPart, LoadPlan, LoadStep};
use super::{AfterDeath, FlowSpec, Life, Plan, Purpose, image_name};

/// Which way the transfer goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ways {
    /// From the client to the listener.
    Up,
    /// From the listener to the client.
    Down,
    /// Both at once.
    #[default]
    Both,
}

impl Ways {
    /// Whether it goes up, and down.
    const fn each(self) -> [(bool, bool); 2] {
        [(true, !matches!(self, Self::Down)), (false, !matches!(self, Self::Up))]
    }
}

/// What is rehearsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RehearseOptions {
    /// Target rate of each way, bits per second of UDP payload.
    pub rate_bps: u64,
    /// For how long.
    pub length: Duration,
    /// Which way.
    pub ways: Ways,
    /// Length of a block, bytes of UDP payload.
    pub size: u16,
}

impl RehearseOptions {
    /// A transfer both ways in blocks of the usual length.
    pub const fn new(rate_bps: u64, length: Duration) -> Self {
        Self { rate_bps, length, ways: Ways::Both, size: BLOCK_LEN as u16 }
    }
}

/// The classes whose delay is watched beside the transfer; TCP and TLS stand for the product's API on the same port.
const BESIDE: [(Carrier, Dress); 4] = [
    (Carrier::Tcp, Dress::Random),
    (Carrier::Tls, Dress::Random),
    (Carrier::Udp, Dress::Random),
    (Carrier::Quic, Dress::Random),
];
/// How often each of them probes: often enough for delay, and nothing beside the transfer.
const BESIDE_EVERY: Duration = Duration::from_millis(200);
/// The path without load, before the transfer begins: what its delay is compared with.
const QUIET: Duration = Duration::from_secs(8);
/// The quiet part when the whole is short.
const SHORT_QUIET: Duration = Duration::from_secs(4);
/// A transfer is told in slices: six of them at least, unless they would be too short to tell a rate.
const SLICE: Duration = Duration::from_secs(10);
const SHORTEST_SLICE: Duration = Duration::from_secs(2);
const SLICES: u32 = 6;
/// When it is slowed, a fresh flow tries the same for so long.
const FRESH: Duration = Duration::from_secs(4);
const BIN: Duration = Duration::from_millis(100);
/// Time for the last counts.
const AFTER: Duration = Duration::from_secs(6);

impl Plan {
    /// The plan of `rehearse`.
    pub fn rehearse(to: SocketAddr, options: &RehearseOptions) -> Self {
        let quiet = if options.length < Duration::from_secs(60) { SHORT_QUIET } else { QUIET };
        let mut flows = Vec::new();
        // What opens tells of reachability; the same classes then go on beside the transfer.
        for (carrier, dress) in BESIDE {
            flows.push(FlowSpec {
                life: Life::For(quiet.saturating_sub(Duration::from_secs(1))),
                ..FlowSpec::new(image_name(carrier, dress), carrier, dress, Purpose::Steady, to)
            });
        }
        let mut parts = Vec::new();
        for (up, wanted) in options.ways.each() {
            if wanted {
                let name = if up { "transfer/up" } else { "transfer/down" };
                flows.push(FlowSpec {
                    size: options.size,
                    interval: Duration::ZERO,
                    ..FlowSpec::new(name, Carrier::Udp, Dress::Jetstream, Purpose::Bulk, to)
                });
                parts.push(LoadPart {
                    flow: name.to_owned(),
                    up,
                    rate_bps: options.rate_bps,
                    size: options.size,
                    burst: 0,
                    tos: 0,
                });
            }
        }
        for (carrier, dress) in BESIDE {
            let name = format!("beside/{}", image_name(carrier, dress));
            flows.push(FlowSpec {
                interval: BESIDE_EVERY,
                death: AfterDeath::Reborn,
                ..FlowSpec::new(name, carrier, dress, Purpose::Loaded, to)
            });
        }
        let step = LoadStep {
            experiment: LoadExperiment::Rehearsal,
            parts,
            length: options.length,
            bin: BIN,
            stops_early: false,
            slice: Some((options.length / SLICES).clamp(SHORTEST_SLICE, SLICE)),
            fresh: Some(FRESH),
            stair: 0,
            adapts: None,
        };
        Self {
            flows,
            measure: quiet + options.length + AFTER,
            drain: Duration::from_secs(3),
            load: Some(LoadPlan {
                first: quiet,
                until: quiet + options.length + AFTER,
                steps: vec![step],
                gap: Duration::ZERO,
                tick: Duration::from_millis(50),
            }),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transfer_has_its_whole_time_and_only_its_ways() {
        let to = "192.0.2.1:8886".parse().unwrap();
        for (ways, parts) in [(Ways::Up, 1), (Ways::Down, 1), (Ways::Both, 2)] {
            for seconds in [10, 600, 12 * 3600] {
                let options = RehearseOptions {
                    ways,
                    ..RehearseOptions::new(50_000_000, Duration::from_secs(seconds))
                };
                let plan = Plan::rehearse(to, &options);
                let load = plan.load.as_ref().unwrap();
                assert_eq!(load.steps[0].parts.len(), parts);
                assert!(load.first + load.steps[0].length <= load.until);
                assert!(load.until <= plan.reach + plan.measure);
                let moved = 50_000_000 / 8 * seconds * parts as u64;
                assert!(plan.bytes() > moved && plan.bytes() < moved + moved / 10 + 4_000_000);
            }
        }
    }
}
