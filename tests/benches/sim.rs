//! What simulating costs: runs a second, and the wall time of a night.

use std::io::Write;
use std::time::{Duration, Instant};

use probe_analysis::observation::{Observation, Purpose};
use probe_client::plan::{Depth, FlowSpec, Plan};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;
use tests::middlebox::{Forwarding, NatKind, Topology};
use tests::sim::{Setup, SimError, World, setup};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    let (runs, probes, took) = checks()?;
    let per_second = f64::from(runs) / took.as_secs_f64();
    writeln!(out, "a whole check: {per_second:.1} runs/s ({runs} runs, {probes} probes, {took:.2?})")?;
    for (flows, interval) in [(6, Duration::from_secs(1)), (12, Duration::from_millis(500))] {
        let (probes, took) = night(flows, interval)?;
        writeln!(out, "12 hours, {flows} flows every {interval:?}: {took:.2?} ({probes} probes)")?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}

fn run(setup: Setup) -> Result<u64, SimError> {
    let mut probes = 0;
    World::new(setup)?.run(None, &mut |o| probes += u64::from(matches!(o, Observation::Probe(_))))?;
    Ok(probes)
}

fn checks() -> Result<(u32, u64, Duration), SimError> {
    let (began, mut probes, runs) = (now(), 0, 20);
    for seed in 0..runs {
        let setup = Setup { keep_truth: false, ..Setup::check(u64::from(seed), Depth::Normal) };
        probes += run(setup)?;
    }
    Ok((runs, probes, began.elapsed()))
}

/// A night of long-lived flows at a low rate.
fn night(flows: usize, interval: Duration) -> Result<(u64, Duration), SimError> {
    let topology = Topology {
        ipv6: false,
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    };
    let to = setup::target(&topology);
    let dresses = [Dress::Random, Dress::Ascii, Dress::QuicShaped, Dress::Zero];
    let flows = (0..flows).map(|n| FlowSpec {
        size: 128,
        interval,
        ..FlowSpec::new(format!("udp/{n}"), Carrier::Udp, dresses[n % dresses.len()], Purpose::Steady, to)
    });
    let plan = Plan {
        flows: flows.collect(),
        open_gap: Duration::from_millis(200),
        reach: Duration::from_secs(8),
        measure: Duration::from_secs(12 * 3600),
        drain: Duration::from_secs(2),
        settle: Duration::from_secs(4),
        ..Plan::default()
    };
    let began = now();
    let probes = run(Setup { keep_truth: false, ..Setup::of(1, topology, plan) })?;
    Ok((probes, began.elapsed()))
}
