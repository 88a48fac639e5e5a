//! The estimators of rate, held against paths that behave so: simulated packet by packet, seeded, by code that shares
//! nothing with them.
//!
//! `RATE_SEEDS=200 cargo test --release -p probe-analysis --test rate -- --nocapture` prints the larger table.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    unreachable_pub,
    missing_docs,
    reason = "helpers of tests are tests, too"
)]

mod path;
mod sim;
mod worlds;

use std::collections::BTreeMap;

use probe_analysis::rate::trace::{Analyser, Judged, Row, Transport};
use probe_protocol::cause::Cause;
use probe_protocol::finding::Finding;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use worlds::{FAMILIES, Range, Truth, world};

/// A capture of a simulated trace: clocks of their own, rounded to microseconds.
fn judged(rows: &[sim::Row], seed: u64) -> Judged {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let offset = rng.random_range(-1e9..1e9);
    let drift = rng.random_range(-5e-5..5e-5);
    let noise = [0.0, 0.0, 10.0][rng.random_range(0..3)];
    let mut analyser = Analyser::default();
    let mut order: Vec<usize> = (0..rows.len()).filter(|n| rows[*n].arrived.is_some()).collect();
    order.sort_by(|a, b| rows[*a].arrived.unwrap().total_cmp(&rows[*b].arrived.unwrap()));
    // Stamps are late by some noise, and never out of order: one clock makes them.
    let (mut stamps, mut before) = (vec![None; rows.len()], f64::NEG_INFINITY);
    for n in order {
        let a = rows[n].arrived.unwrap() * 1e6 * (1.0 + drift) + offset + rng.random::<f64>() * noise;
        before = before.max(a);
        stamps[n] = Some(before.round() + 1.75e15);
    }
    for (row, arrived_us) in rows.iter().zip(stamps) {
        let sent_us = (row.at * 1e6).round() + 1.75e15;
        let transport = Some(if row.is_tcp { Transport::Tcp } else { Transport::Udp });
        analyser.push(&Row {
            sent_us,
            bytes: row.bytes,
            arrived_us,
            flow: row.flow,
            direction: None,
            transport,
        });
    }
    analyser.finish()
}

#[derive(Default)]
struct Tally {
    cases: usize,
    found: usize,
    wrong: usize,
    rate: Vec<f64>,
    burst: Vec<f64>,
    other: Vec<f64>,
    notes: Vec<String>,
}

fn matches(finding: &Finding, truth: &Truth) -> bool {
    truth.must.is_some_and(|(cause, kind)| {
        finding.cause == cause && (kind.is_none() || finding.parameters.kind.as_deref() == kind)
    })
}

fn score(tally: &mut Tally, judged: &Judged, truth: &Truth, what: &str) {
    tally.cases += 1;
    let hit = judged.findings.iter().find(|f| matches(f, truth));
    let off = |got: Option<f64>, is: Option<f64>| Some((got? / is? - 1.0).abs());
    if let Some(finding) = hit {
        let p = &finding.parameters;
        let rate = off(p.rate_bps.map(|r| r as f64 / 8.0), truth.rate);
        let burst = off(p.burst_bytes.map(|b| b as f64), truth.burst);
        if rate.is_some_and(|e| e > 0.05) || burst.is_some_and(|e| e > 0.1) {
            tally.notes.push(format!("off: rate {rate:?} burst {burst:?} {what} {:?}", finding.evidence));
        }
        tally.rate.extend(rate);
        tally.burst.extend(burst);
        tally.other.extend(off(p.packets_per_second, truth.packets_per_second));
        tally.other.extend(off(p.period_s, truth.period));
    }
    let is_wrong =
        |f: &&Finding| !matches(f, truth) && !truth.may.contains(&f.cause) && f.cause != Cause::Unexplained;
    let wrong: Vec<_> = judged.findings.iter().filter(is_wrong).collect();
    let found = hit.is_some() || truth.must.is_none();
    tally.found += usize::from(found);
    tally.wrong += wrong.len();
    if !found || !wrong.is_empty() {
        let said: Vec<_> = judged
            .findings
            .iter()
            .map(|f| (f.cause.id(), f.parameters.kind.clone(), f.evidence.first().map(|e| e.says.clone())))
            .collect();
        tally.notes.push(format!("{what}: said {said:?}"));
    }
}

fn high(values: &mut [f64], q: f64) -> String {
    values.sort_by(f64::total_cmp);
    match values {
        [] => "-".to_owned(),
        v => format!("{:.2}", 100.0 * v[((v.len() - 1) as f64 * q) as usize]),
    }
}

#[test]
fn confusion() {
    let seeds: u64 = std::env::var("RATE_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(3);
    let only = std::env::var("RATE_ONLY").unwrap_or_default();
    let mut table: BTreeMap<&str, Tally> = BTreeMap::new();
    for family in FAMILIES.iter().filter(|f| f.contains(&only)) {
        let tally = table.entry(family).or_default();
        for seed in 0..seeds {
            for range in [Range::Tuned, Range::Beyond] {
                let world = world(family, seed, range);
                let rows = sim::run(seed, world.path, &world.flows, world.most);
                let lost = rows.iter().filter(|r| r.dropped).count();
                let mut truth = world.truth;
                // What never came into play need not be found, and what is a handful of losses is nothing.
                if lost < truth.least_lost || (lost as f64) < truth.least_ratio * rows.len() as f64 {
                    truth.may.extend(truth.must.take().map(|m| m.0));
                }
                let what =
                    format!("{family} {seed} {range:?} n={} lost={} {}", rows.len(), lost, world.described);
                score(tally, &judged(&rows, seed), &truth, &what);
            }
        }
    }
    println!(
        "{:24} {:>5} {:>6} {:>6} | rate off % {:>6} {:>6} | burst {:>6} {:>6} | other {:>6}",
        "family", "cases", "found", "wrong", "p50", "p95", "p50", "p95", "p95"
    );
    let (mut found, mut cases, mut wrong) = (0, 0, 0);
    for (family, tally) in &mut table {
        println!(
            "{family:24} {:>5} {:>6} {:>6} |            {:>6} {:>6} |       {:>6} {:>6} |       {:>6}",
            tally.cases,
            tally.found,
            tally.wrong,
            high(&mut tally.rate, 0.5),
            high(&mut tally.rate, 0.95),
            high(&mut tally.burst, 0.5),
            high(&mut tally.burst, 0.95),
            high(&mut tally.other, 0.95)
        );
        found += tally.found;
        cases += tally.cases;
        wrong += tally.wrong;
    }
    if std::env::var_os("RATE_NOTES").is_some() {
        table
            .values()
            .flat_map(|t| &t.notes)
            .for_each(|n| println!("{}", n.chars().take(1800).collect::<String>()));
    }
    println!("in all: {found} of {cases} right, {wrong} wrong accusations");
    if only.is_empty() {
        assert!(found * 100 >= cases * 93, "{found} of {cases}");
        assert!(wrong * 100 <= cases * 5, "{wrong} wrong accusations in {cases} cases");
        let off = |pick: fn(&Tally) -> &Vec<f64>, most: f64| {
            let all: Vec<f64> = table.values().flat_map(|t| pick(t).iter().copied()).collect();
            (all.iter().filter(|e| **e > most).count(), all.len())
        };
        let (rate, burst) = (off(|t| &t.rate, 0.05), off(|t| &t.burst, 0.1));
        assert!(rate.0 * 20 <= rate.1, "{} of {} rates are off", rate.0, rate.1);
        assert!(burst.0 * 20 <= burst.1, "{} of {} bursts are off", burst.0, burst.1);
    }
}

#[test]
fn a_limit_goes_on_in_parts_that_show_its_bucket_only_full() {
    // Half a minute at twice the rate of a bucket: only the first of three parts shows its depth.
    let mut analyser = Analyser::default();
    let (rate, depth, bytes) = (1.0, 30_000.0, 200.0);
    let (mut tokens, mut before) = (depth, 0.0f64);
    for n in 0..300_000u32 {
        let sent_us = f64::from(n * 100 + n * 7919 % 13);
        tokens = f64::min(tokens + rate * (sent_us - before), depth);
        before = sent_us;
        let passes = tokens >= bytes;
        tokens -= if passes { bytes } else { 0.0 };
        let arrived_us = passes.then(|| sent_us + 20_000.0 + f64::from(n * 31 % 200));
        analyser.push(&Row { sent_us, bytes: 200, arrived_us, flow: 0, direction: None, transport: None });
    }
    let judged = analyser.finish();
    let [one] = judged.findings.as_slice() else { panic!("{:#?}", judged.findings) };
    assert_eq!((one.cause, one.parameters.kind.as_deref()), (Cause::RateLimit, Some("policer")));
    let off = |got: Option<u64>, is: f64| (got.unwrap() as f64 / is - 1.0).abs();
    assert!(off(one.parameters.rate_bps, 8e6) < 0.01, "{one:#?}");
    assert!(off(one.parameters.burst_bytes, depth) < 0.1, "{one:#?}");
}
