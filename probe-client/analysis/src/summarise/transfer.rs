//! A rehearsal's transfer: its rate over time, when it was slowed or cut, and what it did to everybody's delay.

use std::time::Duration;

use probe_protocol::finding::Direction;
use probe_protocol::time::Timestamp;

use crate::causes::Case;
use crate::model::{LoadedDelay, Quantiles, Slowed, TransferSlice, TransferSummary};
use crate::observation::{Load, LoadBin, LoadExperiment, Purpose};
use crate::stats::histogram::Histogram;

/// Slices that are told of one direction; more are joined.
const MAX_SLICES: usize = 360;
/// Below this share of what was offered, a transfer is slowed; below that one, cut.
const SLOWED: f64 = 0.9;
const CUT: f64 = 0.01;
/// A stretch is judged by windows of this length, and has at least so many.
const WINDOW: Duration = Duration::from_secs(1);
const WINDOWS: usize = 3;
/// Stretches that are told of one direction.
const MAX_STRETCHES: usize = 100;

/// What a transfer offered and delivered in some time.
#[derive(Clone, Copy, Debug)]
struct Window {
    from_s: f64,
    to_s: f64,
    offered: u64,
    delivered: u64,
}

pub(super) fn transfers(case: &Case<'_>) -> Vec<TransferSummary> {
    [true, false].into_iter().filter_map(|up| transfer(case, up)).collect()
}

fn transfer(case: &Case<'_>, up: bool) -> Option<TransferSummary> {
    let of_way = |l: &&Load| l.experiment == LoadExperiment::Rehearsal && l.up == up && !l.bins.is_empty();
    let steps: Vec<&Load> = case.evidence.loads.steps().iter().filter(of_way).collect();
    let first = steps.first()?;
    let last = steps.last()?;
    let sum = |of: &dyn Fn(&LoadBin) -> u64| -> u64 { steps.iter().flat_map(|l| &l.bins).map(of).sum() };
    let sent = sum(&|b| u64::from(b.packets));
    let lost = sum(&|b| u64::from(b.lost));
    let bytes = sum(&|b| b.bytes.saturating_sub(b.lost_bytes));
    let length = last.to.since(first.from).as_secs_f64();
    let per_slice = steps.len().div_ceil(MAX_SLICES).max(1);
    let slices = steps.chunks(per_slice).filter_map(|some| slice(case, some)).collect();
    Some(TransferSummary {
        direction: if up { Direction::Up } else { Direction::Down },
        target_bps: first.offered_bps,
        sent_bps: rate(sum(&|b| b.bytes), length),
        sustained_bps: rate(bytes, length),
        length_s: round(length),
        packets_sent: sent,
        packets_lost: lost,
        loss_ratio: if sent == 0 { None } else { Some(lost as f64 / sent as f64) },
        slowed: stretches(&windows(case, &steps), first.offered_bps),
        slices,
    })
}

fn slice(case: &Case<'_>, steps: &[&Load]) -> Option<TransferSlice> {
    let (first, last) = (steps.first()?, steps.last()?);
    let bins = || steps.iter().flat_map(|l| &l.bins);
    let sent: u64 = bins().map(|b| u64::from(b.packets)).sum();
    let lost: u64 = bins().map(|b| u64::from(b.lost)).sum();
    let offered: u64 = bins().map(|b| b.bytes).sum();
    let lost_bytes: u64 = bins().map(|b| b.lost_bytes).sum();
    let length = last.to.since(first.from).as_secs_f64();
    let least = bins().filter_map(|b| b.delay).map(|d| d.min).min();
    let most = bins().filter_map(|b| b.delay).map(|d| d.max).max();
    Some(TransferSlice {
        from_s: round(case.evidence.seconds(first.from)),
        to_s: round(case.evidence.seconds(last.to)),
        offered_bps: rate(offered, length),
        rate_bps: rate(offered.saturating_sub(lost_bytes), length),
        loss_ratio: if sent == 0 { None } else { Some(lost as f64 / sent as f64) },
        delay_range_ms: least.zip(most).map(|(least, most)| round((most - least) as f64 / 1e6)),
    })
}

/// The transfer in windows of at least [`WINDOW`].
fn windows(case: &Case<'_>, steps: &[&Load]) -> Vec<Window> {
    let mut windows: Vec<Window> = Vec::new();
    for bin in steps.iter().flat_map(|l| &l.bins) {
        let at = case.evidence.seconds(bin.at);
        let delivered = bin.bytes.saturating_sub(bin.lost_bytes);
        match windows.last_mut() {
            Some(window) if at - window.from_s < WINDOW.as_secs_f64() => {
                window.offered += bin.bytes;
                window.delivered += delivered;
            }
            last => {
                if let Some(last) = last {
                    last.to_s = at;
                }
                windows.push(Window { from_s: at, to_s: at, offered: bin.bytes, delivered });
            }
        }
    }
    if let (Some(last), Some(step)) = (windows.last_mut(), steps.last()) {
        last.to_s = case.evidence.seconds(step.to).max(last.from_s);
    }
    windows
}

/// The stretches in which less arrived than was sent.
fn stretches(windows: &[Window], target_bps: u64) -> Vec<Slowed> {
    let slowed = |w: &Window| (w.delivered as f64) < SLOWED * w.offered as f64;
    let mut found = Vec::new();
    let mut rest = windows;
    while let Some(at) = rest.iter().position(slowed) {
        rest = rest.get(at..).unwrap_or(&[]);
        // It is over when it goes well for as long as it must go badly to begin.
        let mut until = 0;
        while until < rest.len() && rest.get(until..).unwrap_or(&[]).iter().take(WINDOWS).any(slowed) {
            until += 1;
        }
        let (stretch, after) = rest.split_at(until);
        rest = after;
        let bad = stretch.iter().filter(|w| slowed(w)).count();
        let (Some(first), Some(last)) = (stretch.first(), stretch.iter().rev().find(|w| slowed(w))) else {
            continue;
        };
        if bad < WINDOWS || found.len() >= MAX_STRETCHES {
            continue;
        }
        let length = last.to_s - first.from_s;
        let delivered: u64 = stretch.iter().filter(|w| w.from_s <= last.from_s).map(|w| w.delivered).sum();
        let rate_bps = rate(delivered, length);
        found.push(Slowed {
            from_s: round(first.from_s),
            to_s: round(last.to_s),
            rate_bps,
            cut: rate_bps.is_some_and(|r| r < CUT * target_bps as f64),
        });
    }
    found
}

/// Steps that offer at least this share of the most that any of their direction did make a line work.
const BUSY: f64 = 0.5;
/// Quicker share of the round trips that responsiveness is told from.
const TRIMMED: f64 = 0.95;

/// When the load made the line work.
fn busy(case: &Case<'_>) -> Vec<(Timestamp, Timestamp)> {
    let steps = case.evidence.loads.steps();
    let most = |up: bool| steps.iter().filter(|l| l.up == up).map(|l| l.offered_bps).max().unwrap_or(0);
    let most = [most(false), most(true)];
    let works = |l: &&Load| l.offered_bps as f64 >= BUSY * most[usize::from(l.up)] as f64;
    steps.iter().filter(works).map(|l| (l.from, l.to)).collect()
}

/// Round trips of each class without load and with it.
pub(super) fn loaded_delays(case: &Case<'_>) -> Vec<LoadedDelay> {
    let mut found = Vec::new();
    let busy = busy(case);
    for (flow, loaded) in case.flows.iter().filter(|(f, _)| f.plan.purpose == Purpose::Loaded) {
        let plan = &flow.plan;
        let idle = case.flows.iter().find(|(f, _)| {
            f.plan.purpose == Purpose::Steady
                && (f.plan.carrier, f.plan.dress, f.plan.to) == (plan.carrier, plan.dress, plan.to)
        });
        let Some((_, idle)) = idle else { continue };
        let mut working = Histogram::default();
        for probe in case.evidence.loads.beside().iter().filter(|b| b.flow == plan.flow) {
            let is_busy = busy.iter().any(|(from, to)| (*from..=*to).contains(&probe.sent));
            if let Some(took) = probe.took.filter(|_| is_busy) {
                working.add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            }
        }
        // A flow that followed another of its kind adds nothing.
        let median = |h: &Histogram| h.quantile(0.5).map(|ns| ns as f64 / 1e6);
        let (Some(before), Some(during)) = (median(&idle.app), median(&working)) else { continue };
        let counts = &loaded.counts;
        found.push(LoadedDelay {
            flow: plan.name.clone(),
            idle_us: Quantiles::of(&idle.app),
            loaded_us: Quantiles::of(&working),
            added_delay_ms: round(during - before),
            loss_ratio: if counts.sent == 0 {
                None
            } else {
                Some(1.0 - counts.received as f64 / counts.sent as f64)
            },
            round_trips_per_minute: working.trimmed_mean(TRIMMED).map(|ns| (60e9 / ns.max(1.0)).round()),
        });
    }
    found
}

fn rate(bytes: u64, seconds: f64) -> Option<f64> {
    (seconds > 0.0).then(|| (bytes as f64 * 8.0 / seconds).round())
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(rates: &[u64]) -> Vec<Window> {
        (0..)
            .zip(rates)
            .map(|(n, rate)| Window {
                from_s: f64::from(n),
                to_s: f64::from(n + 1),
                offered: 1_000_000,
                delivered: *rate,
            })
            .collect()
    }

    #[test]
    fn a_stretch_has_its_time_and_rate_and_a_blip_is_none() {
        let mut rates = vec![1_000_000; 100];
        rates[10] = 0;
        rates[40..60].fill(250_000);
        rates[80..].fill(0);
        let found = stretches(&windows(&rates), 8_000_000);
        let slowed = |from_s, to_s, rate, cut| Slowed { from_s, to_s, rate_bps: Some(rate), cut };
        assert_eq!(found, [slowed(40.0, 60.0, 2_000_000.0, false), slowed(80.0, 100.0, 0.0, true)]);
    }

    #[test]
    fn losses_of_a_tenth_are_not_yet_a_slower_rate() {
        assert!(stretches(&windows(&[910_000; 50]), 8_000_000).is_empty());
        assert_eq!(stretches(&windows(&[890_000; 50]), 8_000_000).len(), 1);
    }
}
