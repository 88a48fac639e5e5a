//! `congestion` without a load of one's own: packets are lost where others wait, and hardly where they do not. Delay is
//! compared with that of the same flows at quiet times: a queue that stands all the time tells nothing here.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::Losses;
use crate::causes::{Case, Claim, thresholds};
use crate::observation::Purpose;
use crate::stats::histogram::Histogram;
use crate::stats::hypothesis::binomial_at_least;

/// Delay over the quickest from which packets wait in a queue, nanoseconds: no line's queue overflows sooner.
const WAITS_NS: u64 = 5_000_000;
/// Share of the packets that must have waited for nothing, or there is nothing to compare with.
const QUIET: f64 = 0.02;
/// Nine of ten packets just before a loss must have waited.
const BEFORE: f64 = 0.1;
/// TCP must wait for at least this share of what datagrams wait for: all classes share the queue.
const ALIKE: f64 = 0.3;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let Some(losses) = case.losses() else { return Vec::new() };
    let direction = match (losses.up.is_lossy(), losses.down.is_lossy()) {
        (true, true) => losses.one_sided().unwrap_or(Direction::Both),
        (true, false) => Direction::Up,
        (false, true) => Direction::Down,
        (false, false) => return Vec::new(),
    };
    queue(case).map(|queue| claim(case, losses, direction, &queue)).into_iter().collect()
}

/// What packets waited for, nanoseconds.
struct Queue {
    /// The quickest round trip.
    least: u64,
    /// The median of those just before a loss.
    before: u64,
    quiet: u64,
    all: u64,
    quiet_before: u64,
    all_before: u64,
    p: f64,
}

fn queue(case: &Case<'_>) -> Option<Queue> {
    let (mut before, mut all) = (Histogram::default(), Histogram::default());
    for (_, traffic) in case.steady_udp() {
        before.merge(&traffic.before_loss);
        all.merge(traffic.round_trips());
    }
    let least = all.min()?;
    let limit = least + WAITS_NS;
    let (quiet, quiet_before) = (all.at_most(limit), before.at_most(limit));
    let share = quiet as f64 / all.count().max(1) as f64;
    // As few as these among those before a loss, if losses had nothing to do with delay.
    let waited = before.count() - quiet_before;
    let p = binomial_at_least(waited, before.count(), 1.0 - share);
    let is_queue = share >= QUIET
        && quiet_before as f64 <= BEFORE * before.count() as f64
        && p < thresholds::FALSE_ALARM
        && shares(case, all.quantile(0.9)? - least);
    let median = before.quantile(0.5)?;
    is_queue.then(|| Queue {
        least,
        before: median,
        quiet,
        all: all.count(),
        quiet_before,
        all_before: before.count(),
        p: p.max(1e-12),
    })
}

/// Whether TCP waits too, as far as it was asked.
fn shares(case: &Case<'_>, waited: u64) -> bool {
    let mut tcp = Histogram::default();
    let streams = case.flows.iter().filter(|(flow, _)| {
        matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls)
            && matches!(flow.plan.purpose, Purpose::Steady | Purpose::Old)
    });
    streams.for_each(|(_, traffic)| tcp.merge(traffic.round_trips()));
    match (tcp.min(), tcp.quantile(0.9)) {
        (Some(least), Some(late)) => (late - least) as f64 >= ALIKE * waited as f64,
        _ => true,
    }
}

fn claim(case: &Case<'_>, losses: &Losses, direction: Direction, queue: &Queue) -> Claim {
    let ms = |ns: u64| format!("{:.1} ms", ns as f64 / 1e6);
    let says = format!(
        "of {} packets {} waited for less than {} more than the quickest ({}), but only {} of the {} just before a loss did: \
         those took {} at the median",
        queue.all,
        queue.quiet,
        ms(WAITS_NS),
        ms(queue.least),
        queue.quiet_before,
        queue.all_before,
        ms(queue.before)
    );
    let worse = if direction == Direction::Down { &losses.down } else { &losses.up };
    Claim::new(Cause::Congestion, Side::Path)
        .direction(direction)
        .probability(0.97)
        .parameters(Parameters {
            loss_ratio: Some(super::round(worse.ratio())),
            added_delay_ms: Some((queue.before.saturating_sub(queue.least) as f64 / 1e5).round() / 10.0),
            ..Parameters::default()
        })
        .because(Evidence {
            flows: losses.flows.clone(),
            from_s: Some(losses.window_s.0),
            to_s: Some(losses.window_s.1),
            says,
            test: Some("exact binomial test".to_owned()),
            p: Some(queue.p),
        })
        .rather_than(Cause::LossyPath, format!("packets are lost where others wait; {}", witness(case)))
}

/// What rules out the run's own load.
fn witness(case: &Case<'_>) -> &'static str {
    if case.evidence.loads.is_empty() {
        "the run sends no load"
    } else {
        "these flows had ended before its load began"
    }
}
