//! One segment of one direction: which class of its packets is limited, and what the others lose.

use super::{Sample, Transport};
use crate::rate::judge::{self, Judgement, Limit, thresholds};
use crate::rate::{Estimate, Packet, bucket, quantile};
use crate::stats::hypothesis::fisher_at_least;

/// Flows that are judged by themselves: those with the most packets.
const OWN_FLOWS: usize = 6;
/// Fewest packets of a class that is judged.
const MIN_PACKETS: usize = 60;
/// A segment is halved so often to find a limit that holds in a part of it alone.
const HALVINGS: u32 = 3;
/// Blocks of a segment in which loss is counted, unless they would be longer than half a second.
const BLOCKS: f64 = 40.0;
/// Drops that are worth a look of their own: as many as two buckets are fitted from.
const MANY_DROPS: u64 = 2 * bucket::MIN_DROPS as u64;
/// Chance at which a transport that lost nothing is held to be spared: one in a million traces.
const SPARED_BY_CHANCE: f64 = 1e-6;
/// Width of the interval of a queue's rate, as a ratio.
const SHARP_QUEUE: f64 = 0.025;
/// Share of the differences of delay that no queue of others leaves to be explained.
const OWN_QUEUE: f64 = 0.97;
/// Width of the interval of the rate of such a one: a sender that waits for answers fills it in rounds.
const SHARP_OWN_QUEUE: f64 = 0.1;
/// A bucket whose rate differs by less from that of a limit known before is its.
pub(super) const SAME_LIMIT: f64 = 0.02;
/// Packets of TCP that a comparison takes at least.
const FEWEST_TCP: usize = 50;
/// Fewest packets of a part.
const MIN_PART: usize = 400;

/// Whose packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// All of the direction.
    All,
    /// Those of one transport.
    Of(Transport),
    /// Those of one flow.
    Flow(u32),
}

impl Class {
    fn holds(self, sample: &Sample) -> bool {
        match self {
            Self::All => true,
            Self::Of(transport) => sample.transport == Some(transport),
            Self::Flow(flow) => sample.flow == flow,
        }
    }
}

/// What is said of a part of a segment.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    /// Seconds after the trace's start.
    pub(super) from: f64,
    /// Seconds after the trace's start.
    pub(super) to: f64,
    /// It begins where the trace does: what fills and empties was idle before, as far as is known.
    pub(super) is_first: bool,
    /// What limits it, and whom.
    pub(super) limited: Option<Limited>,
    /// What all packets of the part show.
    pub(super) all: Judgement,
    /// Packets that no limit accounts for.
    pub(super) rest: Rest,
}

/// A limit and those it binds.
#[derive(Clone, Debug)]
pub(super) struct Limited {
    pub(super) class: Class,
    pub(super) limit: Limit,
    pub(super) judgement: Judgement,
    /// Flows that it binds, with the most packets first; at most eight.
    pub(super) flows: Vec<u32>,
    /// They are all UDP, or all TCP.
    pub(super) transport: Option<Transport>,
    /// TCP beside it, where there was some.
    pub(super) control: Option<Control>,
    /// When the first and the last packet met the limit.
    pub(super) active: (f64, f64),
    /// It was told in an earlier part, and is known here by its rate alone.
    pub(super) goes_on: bool,
}

impl Limited {
    /// It is known what it is, and not only that there is one.
    pub(super) fn is_decided(&self) -> bool {
        !matches!(self.limit, Limit::Shallow { .. })
    }
}

/// TCP beside a limited class, in the same time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// Highest rate over a second, bytes per second.
    pub(super) peak: f64,
    /// Probability of its being spared by chance.
    pub(super) p: f64,
    /// Median excess delay of it, seconds.
    pub(super) delay: f64,
    /// Median excess delay of the limited class, seconds.
    pub(super) limited_delay: f64,
}

/// Packets that no limit accounts for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rest {
    pub(super) sent: u64,
    pub(super) lost: u64,
    /// Blocks of at most half a second with loss.
    pub(super) blocks: usize,
    /// Judged by themselves: delay rises before their losses.
    pub(super) queue_before_loss: bool,
    /// Delay does not rise before them, and enough of them were seen to say so.
    pub(super) flat: bool,
    /// Stretches of loss, for the mean length of a burst.
    pub(super) periods: u64,
    /// Packets from one stretch of loss to the next.
    pub(super) gaps: Gaps,
}

/// How evenly losses are spaced.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gaps {
    n: f64,
    sum: f64,
    squares: f64,
}

impl Gaps {
    fn note(&mut self, packets: f64) {
        self.n += 1.0;
        self.sum += packets;
        self.squares += packets * packets;
    }

    /// Of both.
    pub(super) fn plus(self, other: Self) -> Self {
        Self { n: self.n + other.n, sum: self.sum + other.sum, squares: self.squares + other.squares }
    }

    /// Far too even for chance. Where each packet is lost by itself, the packets between two losses have a geometric
    /// distribution, whose variance is `m (m - 1)` for a mean of `m`; where losses come in bursts it is larger. The
    /// variance of so many gaps is off by a share of `sqrt(8 / n)`; five times that never happens by chance.
    pub(super) fn are_even(&self) -> bool {
        if self.n < 100.0 {
            return false;
        }
        let mean = self.sum / self.n;
        let variance = (self.squares / self.n - mean * mean).max(0.0);
        variance < mean * (mean - 1.0) * (1.0 - 5.0 * (8.0 / self.n).sqrt()).min(0.5)
    }
}

/// Judges a segment, in sending order; the first of a direction or a later one, with what limited those before it.
pub(super) fn judge(samples: &[Sample], is_first: bool, known: Option<&Limited>) -> Vec<Verdict> {
    let mut out = Vec::new();
    if !samples.is_empty() {
        part(samples, is_first, known, HALVINGS, &mut out);
    }
    out
}

fn part(samples: &[Sample], is_first: bool, known: Option<&Limited>, halvings: u32, out: &mut Vec<Verdict>) {
    let whole = verdict(samples, is_first, known);
    // A line of one's own may hold throughout, and what drops packets in a part of the time alone.
    let drops_elsewhere = |l: &Limited| {
        let Limit::Shaper { fit, .. } = &l.limit else { return false };
        let not_full = (1.0 - fit.drops_at_limit) * l.judgement.lost as f64;
        whole.rest.lost >= MANY_DROPS || not_full >= MANY_DROPS as f64
    };
    let is_settled = whole
        .limited
        .as_ref()
        .is_some_and(|l| !matches!(l.limit, Limit::Shallow { .. }) && !drops_elsewhere(l));
    let has_more = whole.rest.lost >= MANY_DROPS
        || whole.limited.as_ref().is_some_and(drops_elsewhere)
        || whole.all.queue.is_some_and(|q| q.explained > 0.3);
    if is_settled || halvings == 0 || samples.len() < 2 * MIN_PART || !has_more {
        out.push(whole);
        return;
    }
    let middle = (whole.from + whole.to) / 2.0;
    let at = samples.partition_point(|s| s.at < middle);
    if at < MIN_PART || samples.len() - at < MIN_PART {
        out.push(whole);
        return;
    }
    let mut parts = Vec::new();
    part(&samples[..at], is_first, known, halvings - 1, &mut parts);
    part(&samples[at..], false, known, halvings - 1, &mut parts);
    if parts.iter().any(|p| p.limited.as_ref().is_some_and(|l| !matches!(l.limit, Limit::Shallow { .. }))) {
        out.extend(parts);
    } else {
        out.push(whole);
    }
}

fn series(samples: &[Sample], class: Class) -> Vec<Packet> {
    samples
        .iter()
        .filter(|s| class.holds(s))
        .map(|s| Packet { at: s.at, bytes: s.bytes, delay: s.delay })
        .collect()
}

fn verdict(samples: &[Sample], is_first: bool, known: Option<&Limited>) -> Verdict {
    let all = judged(&series(samples, Class::All));
    let (limited, is_first) = match limited(samples, &all) {
        Some(found) if accounts_for_losses(&found) || all.lost == 0 => (Some(found), is_first),
        other => trimmed(samples).map_or((other, is_first), |found| (Some(found), false)),
    };
    let undecided = limited.as_ref().is_none_or(|l| !l.is_decided());
    let limited = known.filter(|_| undecided).and_then(|k| goes_on(samples, k, &all)).or(limited);
    let rest = rest(samples, limited.as_ref(), &all);
    Verdict {
        from: samples.first().map_or(0.0, |s| s.at),
        to: samples.last().map_or(0.0, |s| s.at),
        is_first,
        limited,
        all,
        rest,
    }
}

/// Judges a series. What others share has no rate of its own: a queue whose rate is not known sharply is nobody's limit.
fn judged(series: &[Packet]) -> Judgement {
    let mut found = judge::judge(series);
    if let Some(Limit::Shaper { fit, .. }) = &found.limit
        && (fit.rate.high - fit.rate.low) / fit.rate.value
            >= if fit.explained >= OWN_QUEUE { SHARP_OWN_QUEUE } else { SHARP_QUEUE }
    {
        found.limit = None;
    }
    found
}

/// The limit that was known before, where it goes on: a bucket or a queue that is met all the time is never seen idle, and
/// shows neither its depth nor that anything waited. Its rate tells it, and as much gets through.
fn goes_on(samples: &[Sample], known: &Limited, all: &Judgement) -> Option<Limited> {
    let judgement = if known.class == Class::All { *all } else { judged(&series(samples, known.class)) };
    let lost = || samples.iter().filter(|s| known.class.holds(s) && s.delay.is_none()).map(|s| s.at);
    let active = (lost().next()?, lost().next_back()?);
    let through: f64 = samples
        .iter()
        .filter(|s| known.class.holds(s) && s.delay.is_some() && s.at > active.0 && s.at < active.1)
        .map(|s| s.bytes)
        .sum();
    let own = judgement.bucket.filter(|b| b.explained >= thresholds::EXPLAINED);
    let is_met = |rate: &Estimate| {
        let near = |x: f64| (x / rate.value - 1.0).abs() < SAME_LIMIT;
        let by_amount = judgement.lost as u64 >= MANY_DROPS && near(through / (active.1 - active.0));
        own.is_some_and(|b| near(b.rate.value)) || by_amount
    };
    let limit = match known.limit {
        Limit::Policer { rate, burst, fit, coupling } if is_met(&rate) => {
            let fit = bucket::Fit { is_depth_known: false, drops: judgement.lost, ..own.unwrap_or(fit) };
            Limit::Policer { rate, burst, fit, coupling }
        }
        Limit::Shaper { rate, .. } if is_met(&rate) => known.limit,
        Limit::Policer { .. } | Limit::Shaper { .. } | Limit::Packets { .. } | Limit::Shallow { .. } => {
            return None;
        }
    };
    let is_udp = known.transport == Some(Transport::Udp);
    let control = is_udp.then(|| control(samples, known.class, active, all)).flatten();
    Some(Limited { limit, judgement, control, active, goes_on: true, ..known.clone() })
}

/// A limit that holds from the first loss to the last one alone.
fn trimmed(samples: &[Sample]) -> Option<Limited> {
    let from = samples.iter().position(|s| s.delay.is_none())?;
    let to = samples.iter().rposition(|s| s.delay.is_none())?;
    let inner = &samples[from..=to];
    if inner.len() < MIN_PACKETS || inner.len() * 10 > samples.len() * 9 {
        return None;
    }
    let all = judged(&series(inner, Class::All));
    limited(inner, &all).filter(|l| matches!(l.limit, Limit::Policer { .. } | Limit::Packets { .. }))
}

/// How well a limit explains what it should.
fn strength(limit: &Limit) -> f64 {
    match limit {
        Limit::Policer { fit, .. } | Limit::Packets { fit, .. } => fit.explained,
        Limit::Shaper { fit, .. } => fit.explained,
        Limit::Shallow { fit, .. } => fit.explained / 2.0,
    }
}

/// Whether `narrow` accounts for most losses where `wide` is but the line that all share: its queue explains delays, and
/// says nothing against a bucket of less than its rate.
fn drops_below_line(narrow: &Limit, lost: usize, wide: &Limit, of: usize) -> bool {
    let Limit::Shaper { rate: line, .. } = wide else { return false };
    // What a bucket explains so well is its own, however much others lose on the line.
    let (rate, drops) = match narrow {
        Limit::Policer { rate, fit, .. } => (rate, fit.explained >= thresholds::EXPLAINED_BESIDE),
        Limit::Shaper { rate, fit, .. } => (rate, fit.drops_at_limit >= 0.5 && lost * 2 >= of),
        Limit::Packets { .. } | Limit::Shallow { .. } => return false,
    };
    let are_many = (lost * 2 >= of && lost > 0) || lost as u64 >= MANY_DROPS;
    drops && rate.value < thresholds::BELOW_LINE * line.value && are_many
}

/// Whether one transport lost nothing where others lost so much that it would have had its part, had the same bucket been
/// asked for its packets. Only packets about as long as those that were lost count: a bucket that is nearly empty has room
/// for short ones.
fn spares_a_transport(samples: &[Sample]) -> bool {
    let mut lost: Vec<f64> = samples.iter().filter(|s| s.delay.is_none()).map(|s| s.bytes).collect();
    let Some(typical) = quantile(&mut lost, 0.5) else { return false };
    let alike = || samples.iter().filter(|s| s.bytes * 2.0 >= typical);
    let (sent, lost) = (alike().count(), alike().filter(|s| s.delay.is_none()).count());
    [Transport::Tcp, Transport::Udp].into_iter().any(|transport| {
        let own = || alike().filter(|s| s.transport == Some(transport));
        let share = own().count() as f64 / sent.max(1) as f64;
        let by_chance = (1.0 - share).powi(i32::try_from(lost).unwrap_or(i32::MAX));
        own().all(|s| s.delay.is_some()) && by_chance < SPARED_BY_CHANCE
    })
}

fn limited(samples: &[Sample], all: &Judgement) -> Option<Limited> {
    let mut flows: std::collections::BTreeMap<u32, (usize, Option<Transport>)> =
        std::collections::BTreeMap::new();
    for sample in samples {
        flows.entry(sample.flow).or_insert((0, sample.transport)).0 += 1;
    }
    let mut classes: Vec<Class> = Vec::new();
    let transports: std::collections::BTreeSet<_> = flows.values().filter_map(|f| f.1).collect();
    if transports.len() > 1 {
        classes.extend(transports.iter().map(|t| Class::Of(*t)));
    }
    let mut by_size: Vec<(u32, usize)> = flows.iter().map(|(f, (n, _))| (*f, *n)).collect();
    by_size.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    if flows.len() > 1 {
        classes.extend(
            by_size.iter().take(OWN_FLOWS).filter(|(_, n)| *n >= MIN_PACKETS).map(|(f, _)| Class::Flow(*f)),
        );
    }
    // A bucket of all would have dropped of all.
    let of_all =
        all.limit.filter(|limit| matches!(limit, Limit::Shaper { .. }) || !spares_a_transport(samples));
    let mut best: Option<(Class, Judgement, Limit)> = of_all.map(|limit| (Class::All, *all, limit));
    for class in classes {
        let series = series(samples, class);
        if series.len() < MIN_PACKETS {
            continue;
        }
        let found = judged(&series);
        let Some(limit) = found.limit else { continue };
        // A wider class is preferred where it explains about as much, and of the same.
        let is_better = |(_, _, b): &(Class, Judgement, Limit)| {
            strength(&limit) > strength(b) + 0.08 || drops_below_line(&limit, found.lost, b, all.lost)
        };
        if best.as_ref().is_none_or(is_better) {
            best = Some((class, found, limit));
        }
    }
    let (class, judgement, limit) = best?;
    let bound: Vec<u32> = by_size
        .iter()
        .filter(|(f, _)| match class {
            Class::All => true,
            Class::Of(t) => flows.get(f).is_some_and(|x| x.1 == Some(t)),
            Class::Flow(g) => g == *f,
        })
        .map(|(f, _)| *f)
        .take(8)
        .collect();
    let mut of: Vec<Option<Transport>> =
        samples.iter().filter(|s| class.holds(s)).map(|s| s.transport).collect();
    of.dedup();
    of.sort();
    of.dedup();
    let transport = if let [one] = of.as_slice() { *one } else { None };
    let lost_at = samples.iter().filter(|s| class.holds(s) && s.delay.is_none()).map(|s| s.at);
    let active = match limit {
        Limit::Policer { .. } | Limit::Packets { .. } | Limit::Shallow { .. } => {
            lost_at.fold((f64::INFINITY, 0.0), |(a, b), t| (f64::min(a, t), f64::max(b, t)))
        }
        Limit::Shaper { .. } => (samples.first()?.at, samples.last()?.at),
    };
    let control = (transport == Some(Transport::Udp)).then(|| control(samples, class, active, all)).flatten();
    Some(Limited { class, limit, judgement, flows: bound, transport, control, active, goes_on: false })
}

fn control(samples: &[Sample], class: Class, active: (f64, f64), all: &Judgement) -> Option<Control> {
    let of_tcp = |s: &&Sample| s.transport == Some(Transport::Tcp) && !class.holds(s);
    let within = |s: &&Sample| s.at >= active.0 && s.at <= active.1;
    // TCP that was sent at another time than UDP is compared as well: it had the same way, if not the same moment.
    let is_beside = samples.iter().filter(of_tcp).filter(within).count() >= FEWEST_TCP;
    let (mut sent, mut lost, mut limited_sent, mut limited_lost) = (0u64, 0u64, 0u64, 0u64);
    let (mut delays, mut limited_delays) = (Vec::new(), Vec::new());
    let mut seconds: std::collections::BTreeMap<i64, f64> = std::collections::BTreeMap::new();
    let base = all.delays?.base;
    for s in samples {
        let excess = s.delay.map(|d| base.excess(s.at, d));
        if class.holds(s) && within(&s) {
            limited_sent += 1;
            limited_lost += u64::from(s.delay.is_none());
            limited_delays.extend(excess);
        } else if of_tcp(&s) && (within(&s) || !is_beside) {
            sent += 1;
            lost += u64::from(s.delay.is_none());
            delays.extend(excess);
            if s.delay.is_some() {
                *seconds.entry(s.at.floor() as i64).or_default() += s.bytes;
            }
        }
    }
    if sent < FEWEST_TCP as u64 {
        return None;
    }
    let length = (active.1 - active.0).clamp(0.1, 1.0);
    Some(Control {
        sent,
        lost,
        peak: seconds.values().copied().fold(0.0, f64::max) / length,
        p: fisher_at_least(limited_lost, limited_sent, lost, sent),
        delay: quantile(&mut delays, 0.5)?,
        limited_delay: quantile(&mut limited_delays, 0.5)?,
    })
}

/// A queue accounts for losses that follow on its filling. Others are the path's.
fn accounts_for_losses(limited: &Limited) -> bool {
    !matches!(limited.limit, Limit::Shaper { .. })
        || limited.goes_on
        || limited.judgement.is_queue_before_loss()
        || !limited.judgement.is_flat_before_loss()
}

/// The samples that a limit does not account for.
fn left<'s>(samples: &'s [Sample], limited: Option<&Limited>) -> Vec<&'s Sample> {
    let limited = limited.filter(|l| accounts_for_losses(l));
    samples.iter().filter(|s| !limited.is_some_and(|l| l.class.holds(s))).collect()
}

fn rest(samples: &[Sample], limited: Option<&Limited>, all: &Judgement) -> Rest {
    let kept = left(samples, limited);
    let length = samples.last().map_or(0.0, |s| s.at) - samples.first().map_or(0.0, |s| s.at);
    let mut out = counted(&kept, (length / BLOCKS).clamp(0.005, 0.5));
    if kept.len() == samples.len() {
        out.queue_before_loss = all.is_queue_before_loss();
        out.flat = all.is_flat_before_loss();
    } else if out.lost > 0 {
        let packet = |s: &&Sample| Packet { at: s.at, bytes: s.bytes, delay: s.delay };
        let own = judged(&kept.iter().map(packet).collect::<Vec<_>>());
        out.queue_before_loss = own.is_queue_before_loss();
        // Those that the limit does not bind may fill a line of their own, and lose by it.
        out.flat = own.is_flat_before_loss() && !matches!(own.limit, Some(Limit::Shaper { .. }));
    }
    out
}

/// Counts of what is left, in blocks of so many seconds.
fn counted(kept: &[&Sample], width: f64) -> Rest {
    let mut out = Rest::default();
    let (mut block, mut was_lost) = (i64::MIN, false);
    let mut since: Option<u64> = None;
    for sample in kept {
        out.sent += 1;
        let is_lost = sample.delay.is_none();
        out.lost += u64::from(is_lost);
        out.periods += u64::from(is_lost && !was_lost);
        if is_lost && let Some(from) = since.replace(out.sent) {
            out.gaps.note((out.sent - from) as f64);
        }
        was_lost = is_lost;
        let this = (sample.at / width).floor() as i64;
        if is_lost && this != block {
            out.blocks += 1;
            block = this;
        }
    }
    out
}
