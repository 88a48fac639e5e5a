//! The load of `check`: at most the rate that was said, in steps, after the delay tests and never beside them.
//!
//! Up and down apart. A stair of rates in datagrams of 1200 bytes and one of packet rates in datagrams of 200 bytes,
//! which passes 1,000 and 2,000 packets a second, until something is lost or held up. What follows depends on that
//! limit: two rates above it, without a pause in which a bucket could fill; TCP alone above it; small datagrams at more
//! of its packets a second and less of its bits; and the same small ones at more of its bits. Then UDP and TCP beside
//! one another, and two marks. Latency flows of every class run all the while. [`LONGEST`] in all: the budget that a
//! check has for it within its minute.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::load::{Adapt, LoadExperiment, LoadPart, LoadPlan, LoadStep, Share, When};
use super::{FlowSpec, Life, Plan, Purpose, Start, image_name};

/// What a check's load may take of its minute.
pub const LONGEST: Duration = Duration::from_secs(20);
/// The rate where none is said, bits per second.
pub const DEFAULT_RATE: u64 = 20_000_000;

/// Datagrams of the two stairs. The large ones pass wherever QUIC does.
const LARGE: u16 = 1200;
const SMALL: u16 = 200;
/// The large ones go up to the rate in doublings: what a step offers beyond a limit is at most as much as that limit, so
/// a queue grows no faster than time. The lowest is the rate over this.
const LOWEST: u64 = 32;
/// Packet rates that the small ones go through: below and above 1,000 and 2,000, where flood protection often sets in.
const PACKET_STAIRS: [u64; 4] = [700, 1_500, 3_000, 6_000];
/// A stair of which nothing is lost.
const QUIET: Duration = Duration::from_millis(250);
/// The highest: a bucket that is refilled almost as fast as it is emptied takes long to show, and some hold the bytes of a
/// second of their rate and more.
const HIGHEST: Duration = Duration::from_millis(2200);
/// The same for small ones.
const HIGHEST_SMALL: Duration = Duration::from_millis(600);
/// A stair on which something is lost lasts until its limit is known, and so long at most: flood protection holds a flow
/// for a second or two.
const AT_MOST: Duration = Duration::from_millis(3000);
/// The steps above a limit, percent of it, and their lengths. Their rates are so far apart that no sender's own rhythm looks
/// like a limit, two of them even where the first sight of the limit was off.
const ABOVE: [(u64, Duration); 3] = [
    (120, Duration::from_millis(1000)),
    (160, Duration::from_millis(700)),
    (240, Duration::from_millis(700)),
];
/// A fresh flow right after them, far above: a limit of the old flow alone does not bind it. What a shared bucket lets
/// through meanwhile, and what filled it since the old flow emptied it, is less than half of this.
const FRESH: (u64, Duration) = (600, Duration::from_millis(500));
/// TCP alone, far above the limit.
const ALONE: (u64, Duration) = (180, Duration::from_millis(1500));
/// Small datagrams: at this percentage of the limit's packets a second they have little more than half of its bits.
const CROSS: (u64, Duration) = (300, Duration::from_millis(600));
/// And at this percentage of its bits, where a bucket shows its depth to the grain of a small datagram.
const FINE: (u64, Duration) = (130, Duration::from_millis(500));
/// UDP beside TCP, percent of the limit: together they fill the line, and UDP asks for less than half of it.
const SHARES: [u64; 2] = [45, 100];
/// And at most these shares of the rate, percent.
const SHARES_OF_RATE: [u64; 2] = [45, 55];
const BESIDE: Duration = Duration::from_millis(1000);
const MARKS: Duration = Duration::from_millis(500);
const BIN: Duration = Duration::from_millis(5);
/// Between two steps. What waits in a queue is waited for besides; a bucket should not fill again.
const GAP: Duration = Duration::from_millis(20);
/// Expedited forwarding (RFC 3246) in the TOS byte.
const EXPEDITED: u8 = 46 << 2;
/// The flows open so long before the load.
const OPEN_BEFORE: Duration = Duration::from_millis(2400);
/// How often the flows for latency under load probe: they share what a limit lets through.
const LATENCY_EVERY: Duration = Duration::from_millis(100);

/// Flows that have carried nothing before their step, up and down.
const FRESH_FLOWS: [&str; 2] = ["load/udp-fresh-up", "load/udp-fresh-down"];
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
        let [fresh_up, fresh_down] = FRESH_FLOWS;
        let bulk = [
            ("load/udp", Carrier::Udp),
            ("load/udp-marked", Carrier::Udp),
            (fresh_up, Carrier::Udp),
            (fresh_down, Carrier::Udp),
            ("load/tcp", Carrier::Tcp),
        ];
        let mut flows: Vec<FlowSpec> = (0..)
            .zip(bulk)
            .map(|(n, (name, carrier))| FlowSpec {
                size: LARGE,
                interval: Duration::ZERO,
                start: start(n),
                ..FlowSpec::new(name, carrier, Dress::Random, Purpose::Bulk, to)
            })
            .collect();
        flows.extend((5..).zip(CLASSES).map(|(n, (carrier, dress))| FlowSpec {
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
    (0u16..).zip([true, false]).flat_map(|(n, up)| steps_of(rate_bps, n, up)).collect()
}

fn steps_of(rate_bps: u64, stair: u16, up: bool) -> Vec<LoadStep> {
    let part = |flow: &str, rate_bps: u64, size| LoadPart {
        flow: flow.to_owned(),
        up,
        rate_bps,
        size,
        burst: 0,
        tos: 0,
    };
    let step = |parts, length, adapts| LoadStep {
        experiment: LoadExperiment::Staircase,
        parts,
        length,
        bin: BIN,
        stops_early: false,
        slice: None,
        fresh: None,
        stair,
        adapts: Some(adapts),
    };
    let adapt = |when, rates: &[Share]| Adapt { when, rates: rates.to_vec(), same_size: false, quiet: None };
    let finds = |quiet| Adapt { quiet: Some(quiet), ..adapt(When::Free, &[]) };
    let udp = |rate, size| vec![part("load/udp", rate, size)];
    let mut steps = Vec::new();
    let shares = std::iter::successors(Some(LOWEST), |share| Some(share / 2).filter(|s| *s > 0));
    for share in shares {
        let quiet = if share == 1 { HIGHEST } else { QUIET };
        steps.push(step(udp(rate_bps / share, LARGE), AT_MOST, finds(quiet)));
    }
    for packets in PACKET_STAIRS {
        let rate = (packets * u64::from(SMALL) * 8).min(rate_bps);
        let quiet = if packets == PACKET_STAIRS[3] { HIGHEST_SMALL } else { QUIET };
        steps.push(step(udp(rate, SMALL), AT_MOST, finds(quiet)));
    }
    for (percent, length) in ABOVE {
        let above = Adapt { same_size: true, ..adapt(When::Limited, &[Share::Bits(percent)]) };
        steps.push(step(udp(rate_bps, LARGE), length, above));
    }
    let limited = |share| adapt(When::Limited, &[share]);
    let fresh = vec![part(FRESH_FLOWS[usize::from(!up)], rate_bps, LARGE)];
    let fresh = step(fresh, FRESH.1, limited(Share::Bits(FRESH.0)));
    steps.push(LoadStep { experiment: LoadExperiment::Fresh, ..fresh });
    let tcp = vec![part("load/tcp", rate_bps, LARGE)];
    steps.push(step(tcp, ALONE.1, limited(Share::Bits(ALONE.0))));
    steps.push(step(udp(rate_bps, SMALL), CROSS.1, limited(Share::Packets(CROSS.0))));
    steps.push(step(udp(rate_bps, SMALL), FINE.1, limited(Share::Bits(FINE.0))));
    // One flow each: fair queueing has nothing to choose.
    let [to_udp, to_tcp] = SHARES_OF_RATE.map(|percent| rate_bps * percent / 100);
    for when in [When::Always, When::Limited] {
        let both = vec![part("load/udp", to_udp, LARGE), part("load/tcp", to_tcp, LARGE)];
        let both = step(both, BESIDE, adapt(when, &SHARES.map(Share::Bits)));
        steps.push(LoadStep { experiment: LoadExperiment::Interleaved, ..both });
    }
    let marks = [("load/udp", 0), ("load/udp-marked", EXPEDITED)]
        .map(|(flow, tos)| LoadPart { tos, ..part(flow, rate_bps / 2, LARGE) });
    let marks = step(marks.to_vec(), MARKS, adapt(When::Always, &[Share::Bits(50), Share::Bits(50)]));
    steps.push(LoadStep { experiment: LoadExperiment::Marks, ..marks });
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
            // Where there is no limit, nothing is left out for lack of time: each step also takes a round trip or two.
            let free =
                load.steps.iter().filter(|s| s.adapts.as_ref().is_some_and(|a| a.when != When::Limited));
            let free: Duration = free.map(|s| s.usual() + load.gap + Duration::from_millis(150)).sum();
            assert!(free <= LONGEST, "{free:?}");
            assert!(load.duration() <= LONGEST, "{:?}", load.duration());
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
