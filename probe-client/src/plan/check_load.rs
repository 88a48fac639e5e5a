//! The load of `check`: at most the rate that was said, in steps, after the delay tests and never beside them.
//!
//! Up and down apart. A stair of rates in datagrams of 1200 bytes and one of packet rates in datagrams of 200 bytes,
//! which passes 1,000 and 2,000 packets a second; TCP and UDP beside one another at the same rate; a burst after a
//! pause; two marks beside one another. Latency flows of every class run all the while. [`LONGEST`] in all: the budget
//! that a check has for it within its minute.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::load::{LoadExperiment, LoadPart, LoadPlan, LoadStep};
use super::{FlowSpec, Life, Plan, Purpose, Start, image_name};

/// What a check's load may take of its minute.
pub const LONGEST: Duration = Duration::from_secs(20);
/// The rate where none is said, bits per second.
pub const DEFAULT_RATE: u64 = 20_000_000;

/// Datagrams of the two stairs. The large ones pass wherever QUIC does.
const LARGE: u16 = 1200;
const SMALL: u16 = 200;
/// Shares of the rate that the large ones go through, percent.
const STAIRS: [u64; 4] = [10, 25, 50, 100];
/// Packet rates that the small ones go through: below and above 1,000 and 2,000, where flood protection often sets in.
const PACKET_STAIRS: [u64; 4] = [700, 1_500, 2_500, 5_000];
const STAIR: Duration = Duration::from_millis(700);
const PACKET_STAIR: Duration = Duration::from_millis(600);
const BESIDE: Duration = Duration::from_millis(900);
const MARKS: Duration = Duration::from_millis(600);
const BIN: Duration = Duration::from_millis(5);
/// Between two steps: an ordinary queue drains.
const GAP: Duration = Duration::from_millis(100);
/// Blocks of a burst: deeper than the buckets of most policers that would hurt.
const BURST: u32 = 128;
/// Expedited forwarding (RFC 3246) in the TOS byte.
const EXPEDITED: u8 = 46 << 2;
/// The flows open so long before the load.
const OPEN_BEFORE: Duration = Duration::from_millis(2400);
/// How often the flows for latency under load probe.
const LATENCY_EVERY: Duration = Duration::from_millis(40);

/// The classes whose latency under load is measured.
const CLASSES: [(Carrier, Dress); 5] = [
    (Carrier::Udp, Dress::Random),
    (Carrier::Tcp, Dress::Random),
    (Carrier::Tls, Dress::Random),
    (Carrier::Quic, Dress::Random),
    (Carrier::QuicInverse, Dress::Random),
];

impl Plan {
    /// Adds the load of a check, of at most `rate_bps`, that begins so long after the start of the run. What measured
    /// until then ends before it.
    pub fn add_check_load(&mut self, to: SocketAddr, rate_bps: u64, first: Duration) {
        for flow in &mut self.flows {
            let open = flow.starts_at().unwrap_or(self.open_gap * 13);
            if flow.life == Life::Run && matches!(flow.purpose, Purpose::Steady | Purpose::Marks) {
                flow.life = Life::For(first.saturating_sub(open).saturating_sub(OPEN_BEFORE));
            }
        }
        let start = |n: u32| Start::At(first.saturating_sub(OPEN_BEFORE) + self.open_gap * n);
        let bulk =
            [("load/udp", Carrier::Udp), ("load/udp-marked", Carrier::Udp), ("load/tcp", Carrier::Tcp)];
        let mut flows: Vec<FlowSpec> = (0..)
            .zip(bulk)
            .map(|(n, (name, carrier))| FlowSpec {
                size: LARGE,
                interval: Duration::ZERO,
                start: start(n),
                ..FlowSpec::new(name, carrier, Dress::Random, Purpose::Bulk, to)
            })
            .collect();
        flows.extend((3..).zip(CLASSES).map(|(n, (carrier, dress))| FlowSpec {
            interval: LATENCY_EVERY,
            start: start(n),
            ..FlowSpec::new(
                format!("under-load/{}", image_name(carrier, dress)),
                carrier,
                dress,
                Purpose::Loaded,
                to,
            )
        }));
        self.flows.extend(flows);
        self.load = Some(LoadPlan {
            first,
            until: first + LONGEST,
            steps: steps(rate_bps),
            gap: GAP,
            tick: Duration::from_millis(10),
        });
    }
}

fn steps(rate_bps: u64) -> Vec<LoadStep> {
    let part = |flow: &str, up, rate_bps, size| LoadPart {
        flow: flow.to_owned(),
        up,
        rate_bps,
        size,
        burst: 0,
        tos: 0,
    };
    let step = |experiment, parts, length, stair| LoadStep {
        experiment,
        parts,
        length,
        bin: BIN,
        stops_early: true,
        slice: None,
        stair,
    };
    let mut steps = Vec::new();
    for (n, up) in (0u16..).zip([true, false]) {
        for percent in STAIRS {
            let parts = vec![part("load/udp", up, rate_bps * percent / 100, LARGE)];
            steps.push(step(LoadExperiment::Staircase, parts, STAIR, 2 * n));
        }
        for packets in PACKET_STAIRS {
            let rate = (packets * u64::from(SMALL) * 8).min(rate_bps);
            let parts = vec![part("load/udp", up, rate, SMALL)];
            steps.push(step(LoadExperiment::Staircase, parts, PACKET_STAIR, 2 * n + 1));
        }
        // One flow each, half the rate each: fair queueing has nothing to choose.
        let beside = ["load/udp", "load/tcp"].map(|flow| part(flow, up, rate_bps / 2, LARGE));
        let beside = step(LoadExperiment::Interleaved, beside.to_vec(), BESIDE, 100 + n);
        steps.push(LoadStep { stops_early: false, ..beside });
        let marks = [("load/udp", 0), ("load/udp-marked", EXPEDITED)]
            .map(|(flow, tos)| LoadPart { tos, ..part(flow, up, rate_bps / 2, LARGE) });
        let marks = step(LoadExperiment::Marks, marks.to_vec(), MARKS, 200 + n);
        steps.push(LoadStep { stops_early: false, ..marks });
        // After a pause that fills the bucket again: what is asked for of it takes no time.
        let burst = LoadPart { burst: BURST, ..part("load/udp", up, rate_bps / 20, LARGE) };
        let burst = step(LoadExperiment::Burst, vec![burst], Duration::from_millis(150), 300 + n);
        steps.push(LoadStep { bin: Duration::ZERO, stops_early: false, ..burst });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::super::Depth;
    use super::*;

    fn plan(rate: u64) -> Plan {
        let to = "192.0.2.1:8886".parse().unwrap();
        Plan::check_with_load(&[to], true, Depth::Normal, Some(rate))
    }

    #[test]
    fn the_load_keeps_its_budget_and_its_rate() {
        for rate in [1_000_000, DEFAULT_RATE, 1_000_000_000] {
            let plan = plan(rate);
            let load = plan.load.as_ref().unwrap();
            // Each step also takes a round trip or two.
            assert!(load.duration() + Duration::from_millis(100) * 22 <= LONGEST, "{:?}", load.duration());
            assert!(load.peak_bps() <= rate);
            assert!(plan.duration() <= Duration::from_secs(57), "{:?}", plan.duration());
            let both: Vec<usize> = [true, false]
                .map(|up| load.steps.iter().filter(|s| s.parts.iter().all(|p| p.up == up)).count())
                .into();
            assert_eq!(both[0], both[1]);
            assert_eq!(both[0] + both[1], load.steps.len(), "up and down apart");
        }
    }

    #[test]
    fn small_datagrams_pass_the_rates_of_flood_protection_within_the_default_rate() {
        let load = plan(DEFAULT_RATE).load.unwrap();
        let rates: Vec<u64> = load
            .steps
            .iter()
            .flat_map(|s| &s.parts)
            .filter(|p| p.size == SMALL)
            .map(|p| p.rate_bps / (u64::from(SMALL) * 8))
            .collect();
        for edge in [1_000, 2_000] {
            assert!(rates.iter().any(|r| *r < edge) && rates.iter().any(|r| *r > edge * 6 / 5));
        }
    }

    #[test]
    fn what_measures_delay_has_ended_when_the_load_begins() {
        let plan = plan(DEFAULT_RATE);
        let first = plan.load.as_ref().unwrap().first;
        for flow in plan.flows.iter().filter(|f| matches!(f.purpose, Purpose::Steady | Purpose::Marks)) {
            let opens = flow.starts_at().unwrap_or(plan.open_gap * 13);
            assert!(flow.lifetime().is_some_and(|life| opens + life <= first), "{}", flow.name);
            assert!(flow.lifetime().is_some_and(|life| life >= Duration::from_secs(15)), "{}", flow.name);
        }
    }
}
