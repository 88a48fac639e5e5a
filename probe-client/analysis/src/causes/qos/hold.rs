//! A flow that is held for a time after it was too fast: flood protection with a penalty.
//!
//! Behind a hold no rate is seen, only when each one was triggered. A bucket of depth `B` that refills at `r` is full when
//! a hold ends, or when nothing was sent for long; what passes takes from it, and the packet that finds it empty triggers
//! the next hold. So for a given `r` the series tells how much was taken at each trigger, and the true `r` is the one for
//! which these are all the same.

use super::series::{self, Stretch};
use crate::causes::Case;
use crate::rate::{Packet, quantile};

/// A hold: everything is lost for so long, seconds, and so many packets.
const HELD: (f64, usize) = (0.1, 15);
/// Loss before it that is chance.
const BEFORE: f64 = 0.01;
/// Holds whose triggers are compared.
const TRIGGERS: usize = 2;
/// Between two packets of one step there is less time, seconds.
const PAUSE: f64 = 0.05;
/// Packets before a trigger: fewer tell nothing of a rate.
const PASSED: usize = 5;
/// At rates that are so much off two triggers must differ by so many packets more: each is known to one packet.
const TELLS: (f64, f64) = (0.1, 1.5);
/// Rates that are tried, and how often the best one's surroundings are tried anew.
const TRIED: (usize, usize) = (100, 4);
/// Packets that may pass beyond the level of the triggers, as a share of it, and a few: clocks are not exact.
const BEYOND: (f64, f64) = (0.05, 3.0);

/// What is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// Packets per second from which on it is held.
    pub(super) packets_per_second: f64,
    /// For how long, seconds; none where no hold was seen to its end.
    pub(super) hold_s: Option<f64>,
    /// Holds whose triggers tell that rate.
    pub(super) times: usize,
    pub(super) from_s: f64,
    pub(super) to_s: f64,
}

/// What passed from a full bucket on, until it was empty or until nothing more was sent.
#[derive(Default)]
struct Run<'s> {
    /// Each packet with its length on the wire, bytes.
    packets: Vec<(&'s Packet, f64)>,
    /// What ended it; none where nothing more was sent.
    trigger: Option<Trigger<'s>>,
}

/// The packet that found the bucket empty.
#[derive(Clone, Copy)]
struct Trigger<'s> {
    /// The step it belongs to.
    stretch: &'s Stretch,
    /// How long all was lost from it on, seconds; none where that was not seen to its end.
    held: Option<f64>,
}

/// Runs of passing packets, cut where everything is lost for a time.
fn runs(stretches: &[Stretch]) -> Vec<Run<'_>> {
    let every: Vec<(&Packet, &Stretch)> =
        stretches.iter().flat_map(|s| s.packets.iter().map(move |p| (p, s))).collect();
    let (mut found, mut run, mut at) = (Vec::new(), Run::default(), 0);
    while let Some((packet, stretch)) = every.get(at) {
        if !packet.is_lost() {
            run.packets.push((packet, stretch.wire));
            at += 1;
            continue;
        }
        let lost = every.iter().skip(at).take_while(|(p, _)| p.is_lost()).count();
        let end = every.get(at + lost).map(|(p, _)| p.at);
        let last = every.get(at + lost - 1).map_or(packet.at, |(p, _)| p.at);
        let until = end.or(every.last().map(|(p, _)| p.at)).unwrap_or(packet.at);
        if lost >= HELD.1 && until - packet.at >= HELD.0 {
            run.packets.push((packet, stretch.wire));
            // Where it ended in a pause, nobody knows when.
            let held = end.filter(|end| end - last <= PAUSE).map(|end| end - packet.at);
            run.trigger = Some(Trigger { stretch, held });
            found.push(std::mem::take(&mut run));
        }
        at += lost;
    }
    found.push(run);
    found
}

/// What counts in the bucket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Packets,
    Bytes,
}

impl Run<'_> {
    /// The most that the packets before the last one took from a bucket that is refilled at a rate, and what the last one
    /// found taken. `beside` is what others take per second.
    fn levels(&self, unit: Unit, rate: f64, beside: f64) -> Option<(f64, f64)> {
        let (mut level, mut most, mut before) = (0.0f64, 0.0f64, self.packets.first()?.0.at);
        let last = self.packets.len() - 1;
        for (index, (packet, wire)) in self.packets.iter().enumerate() {
            let of = if unit == Unit::Packets { 1.0 } else { *wire };
            level = (level + (beside * of - rate) * (packet.at - before)).max(0.0) + of;
            before = packet.at;
            if index < last {
                most = most.max(level);
            }
        }
        Some((most, level))
    }
}

/// Runs that ended in a trigger.
struct Triggers<'s, 'r> {
    runs: Vec<&'r Run<'s>>,
    /// Those that did not as well.
    all: &'r [Run<'s>],
    unit: Unit,
    /// What others take per second, packets.
    beside: f64,
}

impl Triggers<'_, '_> {
    /// The mean of what they found taken, had the bucket been refilled at a rate, and the root of the mean square that
    /// they differ by.
    fn at(&self, rate: f64) -> (f64, f64) {
        let levels =
            || self.runs.iter().filter_map(|run| run.levels(self.unit, rate, self.beside).map(|l| l.1));
        let n = levels().count().max(1) as f64;
        let mean = levels().sum::<f64>() / n;
        (mean, (levels().map(|level| (level - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    /// What speaks against a rate: how much they differ, and what passed beyond the level at which they were triggered, in
    /// what is counted.
    fn misfit(&self, rate: f64) -> f64 {
        let (level, differ) = self.at(rate);
        let grain = match self.unit {
            Unit::Packets => 1.0,
            Unit::Bytes => self.wire(),
        };
        let taken = self.all.iter().filter_map(|run| Some(run.levels(self.unit, rate, self.beside)?.0));
        let beyond = taken.fold(0.0, f64::max) - level * (1.0 + BEYOND.0) - BEYOND.1 * grain;
        differ + beyond.max(0.0)
    }

    /// The longest packet that found it empty, on the wire, bytes.
    fn wire(&self) -> f64 {
        self.runs.iter().filter_map(|run| Some(run.trigger?.stretch.wire)).fold(0.0, f64::max)
    }

    /// The rate against which least speaks.
    fn fit(&self) -> f64 {
        // Below that of every step in which the bucket was emptied.
        let steps = self.runs.iter().filter_map(|run| run.trigger?.stretch.through(true));
        let offered = steps.map(|t| if self.unit == Unit::Packets { t.sent_packets } else { t.sent });
        let (mut low, mut high) = (0.0, offered.fold(f64::INFINITY, f64::min));
        if !high.is_finite() {
            return 0.0;
        }
        let mut best = (0.0, f64::INFINITY);
        for _ in 0..TRIED.1 {
            let step = (high - low) / TRIED.0 as f64;
            for rate in (0..=TRIED.0).map(|n| low + step * n as f64) {
                let misfit = self.misfit(rate);
                if misfit < best.1 {
                    best = (rate, misfit);
                }
            }
            (low, high) = ((best.0 - step).max(0.0), best.0 + step);
        }
        best.0
    }
}

/// The hold that the steps show; none where they show none.
pub(super) fn of(case: &Case<'_>, stretches: &[Stretch]) -> Option<Hold> {
    let runs = runs(stretches);
    let is_clear = |run: &&Run<'_>| {
        let lost = run.packets.iter().filter(|(p, _)| p.is_lost()).count().saturating_sub(1);
        run.packets.len() > PASSED && lost as f64 <= BEFORE * run.packets.len() as f64
    };
    let triggers: Vec<&Run<'_>> = runs.iter().filter(|r| r.trigger.is_some()).filter(is_clear).collect();
    if triggers.len() < TRIGGERS {
        return None;
    }
    let beside = series::background(case)[0].1;
    let triggers = Triggers { runs: triggers, all: &runs, unit: Unit::Packets, beside };
    let rate = triggers.fit();
    let (level, differ) = triggers.at(rate);
    // The more there are, the better is known how much they differ.
    let least = TELLS.1 * (TRIGGERS as f64 / triggers.runs.len() as f64).sqrt();
    let tells = [1.0 - TELLS.0, 1.0 + TELLS.0].iter().all(|off| triggers.at(rate * off).1 >= differ + least);
    // Packets and bytes are told apart by the sizes: in bytes the triggers of small ones must be others than those of
    // large ones, or large packets of more bits must have passed.
    let steps: Vec<&Stretch> = triggers.runs.iter().filter_map(|run| Some(run.trigger?.stretch)).collect();
    let first = steps.first()?;
    let is_packets = if steps.iter().any(|s| s.size != first.size) {
        let in_bytes = Triggers { runs: triggers.runs.clone(), unit: Unit::Bytes, ..triggers };
        differ.max(1.0) * 2.0 < in_bytes.misfit(in_bytes.fit()) / in_bytes.wire()
    } else {
        let bytes = 1.1 * rate * first.wire;
        stretches
            .iter()
            .any(|s| s.size > first.size && s.through(true).is_some_and(|t| t.lost == 0 && t.sent > bytes))
    };
    // What passed takes nowhere more than a trigger did.
    let taken = runs.iter().filter_map(|run| Some(run.levels(Unit::Packets, rate, triggers.beside)?.0));
    let is_bound = taken.fold(0.0, f64::max) <= level * (1.0 + BEYOND.0) + BEYOND.1;
    let is_same = differ <= 0.03 * level + BEYOND.1;
    if !tells || !is_packets || !is_same || !is_bound {
        return None;
    }
    let mut holds: Vec<f64> = runs.iter().filter_map(|run| run.trigger?.held).collect();
    let ends = |of: fn(&[(&Packet, f64)]) -> Option<f64>| {
        triggers.runs.iter().filter_map(|run| of(&run.packets)).collect()
    };
    let (from, to): (Vec<f64>, Vec<f64>) = (ends(|p| Some(p.first()?.0.at)), ends(|p| Some(p.last()?.0.at)));
    Some(Hold {
        packets_per_second: rate,
        hold_s: quantile(&mut holds, 0.5),
        times: triggers.runs.len(),
        from_s: from.into_iter().fold(f64::INFINITY, f64::min),
        to_s: to.into_iter().fold(0.0, f64::max),
    })
}
