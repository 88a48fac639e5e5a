//! `udp-deprioritized`: when the line is full, UDP waits or dies before TCP does.
//!
//! UDP that asks for less than half of a full line, beside TCP that asks for the rest and more: a fair queue gives UDP all
//! it asks for at once, one queue for both delays both alike, and only a queue that lets TCP go first makes UDP wait while
//! TCP passes. So two things must come together: UDP gets too little where TCP gets more than its half, or it waits for far
//! longer than alone at the same rate; and the small probes of UDP wait or die beside those of TCP that do not.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::series;
use crate::causes::thresholds::FALSE_ALARM;
use crate::causes::{Case, Claim};
use crate::evidence::Beside;
use crate::observation::{Load, LoadExperiment};
use crate::rate::delay::normal_above;
use crate::rate::quantile;
use crate::stats::hypothesis::fisher_at_least;

/// UDP that gets less than this share of what it asks for is harmed.
const HARMED: f64 = 0.9;
/// UDP may ask for this share of what gets through, and a fair queue owes it that.
const OWED: f64 = 0.5;
/// TCP must have got this share of what got through.
const FAVOURED: f64 = 0.6;
/// Loss of UDP alone at the same rate up to which that rate is no trouble by itself.
const FINE_ALONE: f64 = 0.01;
/// A probe is late if it took so much longer than nine of ten of TCP's, seconds.
const LATE: f64 = 0.015;
/// Or it waits: so much longer, seconds, than at the most alone at its rate, and than the probes of TCP beside it.
const WAITS: f64 = 0.015;
/// Alone at a rate up to this many times its own.
const ALIKE: f64 = 1.6;
/// Probes of TCP that tell whose queue it is.
const PROBES: usize = 6;
/// Steps that must agree.
const STEPS: usize = 2;
/// Where UDP is plainly harmed in one step, another agrees in which its probes take so much longer than TCP's at the median,
/// seconds: a sender that lags behind its rate hardly overfills the line there.
const SLOWER: f64 = 0.004;
/// Chance of such an order of the probes of a step by accident.
const SLOWER_CHANCE: f64 = 0.01;
/// A step begins to tell after this part of it: TCP is as fast as it gets.
const EARLY: f64 = 0.3;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    if case.evidence.loads.is_empty() {
        return Vec::new();
    }
    [Direction::Up, Direction::Down].into_iter().filter_map(|direction| of(case, direction)).collect()
}

/// What arrived of a part by the end of its step, and what was sent, payload bytes after the early part.
fn in_time(load: &Load) -> (f64, f64) {
    let least = load.bins.iter().filter_map(|b| b.delay).map(|d| d.min).min().unwrap_or(0);
    let begins = load.from + load.to.since(load.from).mul_f64(EARLY);
    let (mut sent, mut got) = (0.0, 0.0);
    for bin in &load.bins {
        let Some(late) = bin.delay.map(|d| std::time::Duration::from_nanos((d.mean - least).max(0) as u64))
        else {
            sent += if bin.at >= begins { bin.bytes as f64 } else { 0.0 };
            continue;
        };
        let arrives = bin.at + late;
        sent += if bin.at >= begins { bin.bytes as f64 } else { 0.0 };
        if arrives >= begins && arrives <= load.to {
            got += bin.bytes.saturating_sub(bin.lost_bytes) as f64;
        }
    }
    (got, sent)
}

/// What the datagrams of a part waited for, seconds more than the quickest of them, after the early part.
fn delays(load: &Load) -> Vec<f64> {
    let least = load.bins.iter().filter_map(|b| b.delay).map(|d| d.min).min().unwrap_or(0);
    let begins = load.from + load.to.since(load.from).mul_f64(EARLY);
    let later = load.bins.iter().filter(|b| b.at >= begins);
    later.filter_map(|b| Some((b.delay?.mean - least) as f64 / 1e9)).collect()
}

/// What nineteen of twenty datagrams of a step alone waited for at the most, seconds.
fn longest_wait(stretch: &series::Stretch) -> Option<f64> {
    quantile(&mut stretch.packets.iter().filter_map(|p| p.delay).collect::<Vec<_>>(), 0.95)
}

/// The quickest round trip of TCP's probes in the whole load, seconds.
fn quickest(case: &Case<'_>) -> f64 {
    let is_tcp = |b: &&Beside| {
        let carrier = case.evidence.flows.get(&b.flow).map(|f| f.plan.carrier);
        matches!(carrier, Some(Carrier::Tcp | Carrier::Tls))
    };
    let took = case.evidence.loads.beside().iter().filter(is_tcp).filter_map(|b| b.took);
    took.min().map_or(0.0, |took| took.as_secs_f64())
}

/// Whether the small probes of TCP wait as long as datagrams do that fill the line alone: all share one queue. `waited` is what
/// the datagrams of those steps waited for at the median, seconds.
pub(super) fn one_queue(case: &Case<'_>, above: &[&series::Stretch], waited: f64) -> Option<f64> {
    let quiet = quickest(case);
    let within = |b: &&Beside| {
        let at = case.evidence.seconds(b.sent);
        above.iter().any(|s| at >= s.from_s + EARLY * (s.to_s - s.from_s) && at <= s.to_s)
    };
    let of_tcp = |b: &&Beside| {
        let carrier = case.evidence.flows.get(&b.flow).map(|f| f.plan.carrier);
        matches!(carrier, Some(Carrier::Tcp | Carrier::Tls))
    };
    let mut took: Vec<f64> = case
        .evidence
        .loads
        .beside()
        .iter()
        .filter(within)
        .filter(of_tcp)
        .filter_map(|b| b.took.map(|t| t.as_secs_f64() - quiet))
        .collect();
    let enough = took.len() >= PROBES;
    quantile(&mut took, 0.5).filter(|wait| enough && *wait >= 0.5 * waited && *wait >= LATE)
}

/// Round trips, seconds, of the probes of these carriers while both parts ran; a lost one took for ever.
fn probes(case: &Case<'_>, udp: &Load, is_tcp: bool) -> Vec<f64> {
    let begins = udp.from + udp.to.since(udp.from).mul_f64(EARLY);
    let fits = |b: &&Beside| {
        let carrier = case.evidence.flows.get(&b.flow).map(|f| f.plan.carrier);
        let fits = if is_tcp {
            matches!(carrier, Some(Carrier::Tcp | Carrier::Tls))
        } else {
            carrier == Some(Carrier::Udp)
        };
        fits && b.sent >= begins && b.sent <= udp.to
    };
    let took = |b: &Beside| b.took.map_or(f64::INFINITY, |t| t.as_secs_f64());
    case.evidence.loads.beside().iter().filter(fits).map(took).collect()
}

/// How often probes of UDP took longer than those of TCP of the same step (Mann and Whitney), step by step.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    /// Pairs in which UDP took longer, beyond half of all.
    above: f64,
    /// Variance of that where nobody is slower.
    variance: f64,
}

impl Order {
    fn of(udp: &[f64], tcp: &[f64]) -> Self {
        let longer = |u: &f64| {
            let of_one = |t: &f64| match u.total_cmp(t) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
            tcp.iter().map(of_one).sum::<f64>()
        };
        let (n, m) = (udp.len() as f64, tcp.len() as f64);
        Self {
            above: udp.iter().map(longer).sum::<f64>() - n * m / 2.0,
            variance: n * m * (n + m + 1.0) / 12.0,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self { above: self.above + other.above, variance: self.variance + other.variance }
    }

    /// Chance that UDP takes longer so often where neither is slower.
    fn p(self) -> f64 {
        if self.variance > 0.0 { normal_above(self.above / self.variance.sqrt()) } else { 1.0 }
    }
}

pub(super) fn of(case: &Case<'_>, direction: Direction) -> Option<Claim> {
    let up = direction == Direction::Up;
    let steps: Vec<&Load> = case
        .evidence
        .loads
        .steps()
        .iter()
        .filter(|l| l.up == up && l.experiment == LoadExperiment::Interleaved)
        .collect();
    let alone = series::stretches(case, direction);
    let of_udp: Vec<&Load> = steps.iter().copied().filter(|l| l.carrier == Carrier::Udp).collect();
    let (mut bad, mut asked, mut got) = (Vec::new(), 0.0, 0.0);
    let (mut late, mut tcp_late) = ((0u64, 0u64), (0u64, 0u64));
    let mut waits: Vec<f64> = Vec::new();
    let mut order = Order::default();
    let mut harmed = 0;
    // What TCP's probes take where nothing waits.
    let quiet = quickest(case);
    for udp in &of_udp {
        let beside: Vec<&&Load> = steps
            .iter()
            .filter(|l| l.step == udp.step && matches!(l.carrier, Carrier::Tcp | Carrier::Tls))
            .collect();
        // One flow of each: two of one kind would be given two shares by a fair queue.
        let [tcp] = beside.as_slice() else { continue };
        let (udp_got, udp_sent) = in_time(udp);
        let (tcp_got, _) = in_time(tcp);
        let whole = udp_got + tcp_got;
        let rate = udp.offered_bps as f64 / 8.0;
        // Another flow may go another way.
        let is_alone_fine = alone
            .iter()
            .filter(|s| s.flow == udp.flow)
            .filter_map(|s| s.through(true))
            .any(|t| t.sent >= 0.95 * rate && t.loss() <= FINE_ALONE);
        let mut of_tcp = probes(case, udp, true);
        let of_udp = probes(case, udp, false);
        let is_starved = udp_got < HARMED * udp_sent && tcp_got >= FAVOURED * whole;
        let is_waiting = || {
            let tcp = quantile(&mut of_tcp.clone(), 0.5).map_or(f64::INFINITY, |middle| middle - quiet);
            let alone = alone
                .iter()
                .filter(|s| s.through(true).is_some_and(|t| (0.95 * rate..=ALIKE * rate).contains(&t.sent)));
            let alone = alone.filter_map(longest_wait).reduce(f64::max);
            let beside = quantile(&mut delays(udp), 0.5);
            beside.zip(alone).is_some_and(|(beside, alone)| beside >= alone + tcp + WAITS)
        };
        // A flow that is dead is starved by nobody.
        let is_alive = || {
            case.evidence
                .loads
                .steps()
                .iter()
                .filter(|l| l.flow == udp.flow && l.up == up)
                .any(|l| l.to > udp.from && l.bins.iter().any(|b| b.at >= udp.from && b.lost < b.packets))
        };
        let is_harmed = is_starved || is_waiting();
        let of_step = Order::of(&of_udp, &of_tcp);
        let is_slower = || {
            let middle = |list: &[f64]| quantile(&mut list.to_vec(), 0.5);
            let is_far = middle(&of_udp).zip(middle(&of_tcp)).is_some_and(|(udp, tcp)| udp >= tcp + SLOWER);
            is_far && of_step.p() < SLOWER_CHANCE
        };
        if !is_alone_fine || udp_sent > OWED * whole || !is_alive() || !(is_harmed || is_slower()) {
            continue;
        }
        let Some(limit) = quantile(&mut of_tcp, 0.9).filter(|q| q.is_finite()).map(|q| q + LATE) else {
            continue;
        };
        let count = |list: &[f64]| (list.iter().filter(|t| **t > limit).count() as u64, list.len() as u64);
        let add = |sum: &mut (u64, u64), (a, b): (u64, u64)| *sum = (sum.0 + a, sum.1 + b);
        add(&mut late, count(&of_udp));
        add(&mut tcp_late, count(&of_tcp));
        let mut seen: Vec<f64> = of_udp.iter().copied().filter(|t| t.is_finite()).collect();
        if let (Some(slow), Some(quick)) = (quantile(&mut seen, 0.5), quantile(&mut of_tcp, 0.5)) {
            waits.push(slow - quick);
        }
        order = order.plus(of_step);
        harmed += usize::from(is_harmed);
        asked += udp_sent;
        got += udp_got;
        bad.push(*udp);
    }
    if bad.len() < STEPS || bad.len() < of_udp.len() || harmed == 0 {
        return None;
    }
    let (test, p) = if harmed == bad.len() {
        ("Fisher's exact test", fisher_at_least(late.0, late.1, tcp_late.0, tcp_late.1))
    } else {
        ("sum of ranks, by step", order.p())
    };
    let added = quantile(&mut waits, 0.5).filter(|w| *w > 0.0);
    let short = 1.0 - got / asked;
    let says = format!(
        "beside TCP, {:.0} % of what UDP sent did not arrive in its time, though it asked for less than half of the line; \
         {} of {} small UDP probes were lost or late, and {} of {} of TCP's",
        short * 100.0,
        late.0,
        late.1,
        tcp_late.0,
        tcp_late.1
    );
    (p < FALSE_ALARM).then(|| {
        Claim::new(Cause::UdpDeprioritized, Side::Path)
            .direction(direction)
            .probability(0.97)
            .parameters(Parameters {
                loss_ratio: Some((short * 1e4).round() / 1e4),
                added_delay_ms: added.map(|s| (s * 1e4).round() / 10.0),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: bad.iter().map(|s| case.evidence.name(s.flow)).take(4).collect(),
                from_s: bad.iter().map(|l| case.evidence.seconds(l.from)).reduce(f64::min),
                to_s: bad.iter().map(|l| case.evidence.seconds(l.to)).reduce(f64::max),
                says,
                test: Some(test.to_owned()),
                p: Some(p),
            })
            .rather_than(Cause::Congestion, "TCP on the same line at the same time was spared")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_probes_adds_up_over_steps() {
        let tcp: Vec<f64> = (1..=14).map(|n| f64::from(n) * 1e-3).collect();
        let slow = [0.010, 0.012, 0.0155, 0.016, 0.02, 0.03, f64::INFINITY];
        let one = Order::of(&slow, &tcp);
        assert!(one.p() < SLOWER_CHANCE && one.p() > 1e-4, "{}", one.p());
        assert!(one.plus(one).p() < FALSE_ALARM, "{}", one.plus(one).p());
        let alike = Order::of(&tcp[3..10], &tcp);
        assert!((alike.p() - 0.5).abs() < 0.2, "{}", alike.p());
        // A step that shows nothing takes from one that does, and none is no proof.
        assert!(one.plus(alike).p() > one.p());
        assert!((Order::default().p() - 1.0).abs() < 1e-9);
    }
}
