//! What simulating costs: runs a second, and the wall time of a night.

use std::io::Write;
use std::time::{Duration, Instant};

use probe_analysis::observation::Observation;
use probe_analysis::{Evidence, analyse};
use probe_client::plan::{Depth, Plan, SoakOptions};
use tests::middlebox::{Forwarding, NatKind, Topology};
use tests::sim::{Setup, SimError, World, setup};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    let (runs, probes, took) = checks()?;
    let per_second = f64::from(runs) / took.as_secs_f64();
    writeln!(out, "a whole check: {per_second:.1} runs/s ({runs} runs, {probes} probes, {took:.2?})")?;
    let (probes, took) = night()?;
    writeln!(out, "a soak of 12 hours: {took:.2?} ({probes} probes)")?;
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn now() -> Instant {
    Instant::now()
}

fn run(setup: Setup) -> Result<u64, SimError> {
    let (mut probes, mut evidence) = (0, Evidence::default());
    World::new(setup)?.run(None, &mut |o| {
        probes += u64::from(matches!(o, Observation::Probe(_)));
        evidence.observe(&o);
    })?;
    std::hint::black_box(analyse(&evidence));
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

/// A night of the plan of `soak`, with its analysis.
fn night() -> Result<(u64, Duration), SimError> {
    let topology = Topology {
        ipv6: false,
        client_nat: Some(NatKind::default()),
        server_nat: Some(Forwarding::default()),
        ..Topology::default()
    };
    let options = SoakOptions { length: Some(Duration::from_secs(12 * 3600)), ..SoakOptions::default() };
    let plan = Plan::soak(&[setup::target(&topology)], &options);
    let began = now();
    let probes = run(Setup { keep_truth: false, ..Setup::of(1, topology, plan) })?;
    Ok((probes, began.elapsed()))
}
