//! The judgement of traces, held against a second world that shares nothing with the first (`tests/rate`): other senders,
//! boxes that count as equipment does, and captures as they are made in practice.
//!
//! `FIELD_SEEDS=50 FIELD_NOTES=1 cargo test --release -p probe-analysis --test field -- --nocapture` prints all.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    unreachable_pub,
    missing_docs,
    reason = "helpers of tests are tests, too"
)]

mod boxes;
mod capture;
mod net;
mod tcp;
mod worlds;

use std::collections::BTreeMap;

use probe_analysis::rate::trace::Judged;
use probe_protocol::cause::Cause;
use probe_protocol::finding::Finding;

use capture::Capture;
use worlds::{FAMILIES, Truth, World, world};

#[derive(Default)]
struct Tally {
    cases: usize,
    due: usize,
    found: usize,
    wrong: usize,
    said: usize,
    rate: Vec<f64>,
    burst: Vec<f64>,
    bursts_due: usize,
    notes: Vec<String>,
}

fn matches(finding: &Finding, truth: &Truth) -> bool {
    truth.must.is_some_and(|(cause, kind)| {
        finding.cause == cause
            && (kind.is_none() || finding.parameters.kind.as_deref() == kind || cause != Cause::RateLimit)
            && truth.direction.is_none_or(|d| finding.direction == Some(d))
    })
}

fn score(tally: &mut Tally, judged: &Judged, world: &World, what: &str) {
    let mut truth = world.truth.clone();
    let lost = world.rows.iter().filter(|r| r.arrived.is_none()).count();
    if lost < truth.least_lost || (lost as f64) < truth.least_ratio * world.rows.len() as f64 {
        truth.may.extend(truth.must.take().map(|m| m.0));
    }
    tally.cases += 1;
    tally.due += usize::from(truth.must.is_some());
    let hit = judged.findings.iter().find(|f| matches(f, &truth));
    let off = |got: Option<f64>, is: Option<f64>| Some((got? / is? - 1.0).abs());
    let mut note = None;
    if let Some(finding) = hit {
        let p = &finding.parameters;
        let rate = off(p.rate_bps.map(|r| r as f64 / 8.0), truth.rate).or(off(p.period_s, truth.period));
        let burst = off(p.burst_bytes.map(|b| b as f64), truth.burst);
        tally.bursts_due += usize::from(truth.burst.is_some());
        if rate.is_some_and(|e| e > 0.05) || burst.is_some_and(|e| e > 0.1) {
            note = Some(format!("off: rate {rate:?} burst {burst:?}"));
        }
        tally.rate.extend(rate);
        tally.burst.extend(burst);
    }
    let is_said = |f: &&Finding| f.cause != Cause::Unexplained;
    let is_wrong = |f: &&Finding| is_said(f) && !matches(f, &truth) && !truth.may.contains(&f.cause);
    let wrong = judged.findings.iter().filter(is_wrong).count();
    tally.said += judged.findings.iter().filter(is_said).count();
    tally.found += usize::from(hit.is_some());
    tally.wrong += wrong;
    if wrong > 0 {
        note = Some("WRONG".to_owned());
    } else if hit.is_none() && truth.must.is_some() {
        note = Some("missed".to_owned());
    }
    if let Some(note) = note {
        let said: Vec<_> = judged
            .findings
            .iter()
            .map(|f| {
                (
                    f.cause.id(),
                    f.parameters.kind.clone(),
                    f.direction,
                    f.evidence.first().map(|e| e.says.clone()),
                )
            })
            .collect();
        tally.notes.push(format!(
            "{note}: {what} n={} lost={lost} {}: {said:?}",
            world.rows.len(),
            world.described
        ));
    }
}

fn high(values: &mut [f64], q: f64) -> String {
    values.sort_by(f64::total_cmp);
    match values {
        [] => "-".to_owned(),
        v => format!("{:.2}", 100.0 * v[((v.len() - 1) as f64 * q).round() as usize]),
    }
}

#[test]
fn confusion() {
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|s| s.parse().ok()).unwrap_or(or);
    let (seeds, first) = (number("FIELD_SEEDS", 3), number("FIELD_FIRST", 0));
    let progress = std::env::var_os("FIELD_PROGRESS").is_some();
    let only = std::env::var("FIELD_ONLY").unwrap_or_default();
    let mut table: BTreeMap<&str, Tally> = BTreeMap::new();
    for family in FAMILIES.iter().filter(|f| f.contains(&only)) {
        let tally = table.entry(family).or_default();
        for seed in first..first + seeds {
            if progress {
                println!("{family} {seed}");
            }
            let world = world(family, seed);
            let capture = Capture::of(seed);
            let judged = capture::judged(&world, &capture);
            if std::env::var_os("FIELD_DEBUG").is_some() {
                println!("{family} {seed}: {:#?}", capture::whole(&world, &capture));
            }
            score(tally, &judged, &world, &format!("{family} {seed} {capture:?}"));
        }
    }
    println!(
        "{:20} {:>5} {:>4} {:>5} {:>5} | rate off % p50, p95 | burst off % p50, p95",
        "family", "cases", "due", "found", "wrong"
    );
    let mut sum = Tally::default();
    for (family, tally) in &mut table {
        println!(
            "{family:20} {:>5} {:>4} {:>5} {:>5} | {:>6} {:>6} | {:>6} {:>6} ({} of {})",
            tally.cases,
            tally.due,
            tally.found,
            tally.wrong,
            high(&mut tally.rate, 0.5),
            high(&mut tally.rate, 0.95),
            high(&mut tally.burst, 0.5),
            high(&mut tally.burst, 0.95),
            tally.burst.len(),
            tally.bursts_due,
        );
        sum.cases += tally.cases;
        sum.due += tally.due;
        sum.found += tally.found;
        sum.wrong += tally.wrong;
        sum.said += tally.said;
        sum.rate.extend(&tally.rate);
        sum.burst.extend(&tally.burst);
    }
    if std::env::var_os("FIELD_NOTES").is_some() {
        table
            .values()
            .flat_map(|t| &t.notes)
            .for_each(|n| println!("{}", n.chars().take(1600).collect::<String>()));
    }
    let (recall, precision) =
        (sum.found as f64 / sum.due.max(1) as f64, 1.0 - sum.wrong as f64 / sum.said.max(1) as f64);
    let beyond = |list: &[f64], most: f64| list.iter().filter(|e| **e > most).count();
    println!(
        "recall {recall:.3} ({} of {}), precision {precision:.3} ({} wrong of {}); rates off by more than 5 %: {} of {}, \
         bursts by more than 10 %: {} of {}",
        sum.found,
        sum.due,
        sum.wrong,
        sum.said,
        beyond(&sum.rate, 0.05),
        sum.rate.len(),
        beyond(&sum.burst, 0.1),
        sum.burst.len()
    );
    if only.is_empty() {
        assert!(recall >= 0.9, "recall {recall}");
        assert!(precision >= 0.97, "precision {precision}");
        assert!(beyond(&sum.rate, 0.05) * 25 <= sum.rate.len());
        assert!(beyond(&sum.burst, 0.1) * 12 <= sum.burst.len());
    }
}
