//! Loss, order and duplicates without anybody's intent.

pub(super) mod bad_path_member;
pub(super) mod congestion;
pub(super) mod duplication;
pub(super) mod lossy_path;
pub(super) mod one_way_loss;
pub(super) mod reordering;

use probe_protocol::finding::Direction;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::{Case, thresholds};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::Purpose;
use crate::stats::hypothesis::{binomial_at_least, sign_flip};
use crate::stats::timeline::{Counts, Timeline};

/// What waited for a busy host comes at once when it goes on, and may find no room: for so long afterwards, seconds.
const AFTERMATH_S: f64 = 0.5;

/// What the flows of datagrams lost together, outside of silences and deaths. A silence is no loss of the path, and what
/// one flow alone loses is its own.
pub(super) struct Losses {
    flows: Vec<String>,
    counts: Counts,
    up: Side,
    down: Side,
    /// Probability that chance alone tells the directions apart as clearly.
    symmetric: f64,
    /// How many times more the way up loses than the way down, of what each flow sent in each half-second.
    up_over_down: f64,
    /// First and last second of the run in which a probe was sent.
    window_s: (f64, f64),
}

/// One direction.
struct Side {
    lost: u64,
    sent: u64,
    /// Blocks of half a second with loss.
    blocks: usize,
    /// Probability of so much loss on a benign path.
    p: f64,
    /// The same without the flow that lost the largest share, where there are others.
    shared: f64,
}

impl Side {
    /// From what each flow lost, of how many sent.
    fn new(flows: &[(u64, u64)], blocks: usize) -> Self {
        let sum = |skip: Option<usize>| {
            let counted = flows.iter().enumerate().filter(|(n, _)| Some(*n) != skip);
            counted.fold((0, 0), |(lost, sent), (_, flow)| (lost + flow.0, sent + flow.1))
        };
        let p = |(lost, sent): (u64, u64)| binomial_at_least(lost, sent, thresholds::BENIGN_LOSS);
        let share = |(lost, sent): (u64, u64)| lost as f64 / sent.max(1) as f64;
        let worst = (0..flows.len()).max_by(|a, b| share(flows[*a]).total_cmp(&share(flows[*b])));
        let (lost, sent) = sum(None);
        let shared = if flows.len() > 1 { p(sum(worst)) } else { p((lost, sent)) };
        Self { lost, sent, blocks, p: p((lost, sent)), shared }
    }

    fn ratio(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// More than a benign path loses, again and again, and not on one flow alone.
    fn is_lossy(&self) -> bool {
        self.p < thresholds::FALSE_ALARM
            && self.blocks >= thresholds::LOSSY_BLOCKS
            && self.shared < thresholds::SHARED_LOSS
    }
}

impl Losses {
    pub(super) fn of(case: &Case<'_>) -> Option<Self> {
        let mut timeline = Timeline::new(case.evidence.start());
        let mut flows = Vec::new();
        let (mut up, mut down) = (Vec::new(), Vec::new());
        let mut strata = Strata::default();
        for (flow, traffic) in case.flows.iter().filter(|(flow, traffic)| tells_of_the_path(flow, traffic)) {
            flows.push(flow.plan.name.clone());
            let mut own = Counts::default();
            let length = traffic.timeline.block_length();
            let died = case.lives.died(flow.plan.flow);
            for (at, counts) in while_it_lived(case, traffic) {
                let (from, to) = (case.evidence.seconds(at), case.evidence.seconds(at + length));
                // Everybody's silence is an event as well: flows of few packets do not show it by themselves. A host that
                // was busy may have lost its packets itself, those too that came at once when it went on.
                let spoiled = case.was_silent(from, to) || case.host_spoiled(from - AFTERMATH_S, to);
                if died.is_some_and(|died| to > died) || spoiled {
                    continue;
                }
                timeline.add(at, &counts);
                own.add(&counts);
                // Where nobody got through for a moment, nothing tells which way was dead.
                if !is_dead(case, from, to) {
                    strata.add(at, &counts);
                }
            }
            up.push((own.lost_up, own.sent));
            down.push((own.lost_down, own.received + own.lost_down));
        }
        let mut counts = Counts::default();
        let (mut up_blocks, mut down_blocks, mut differences) = (0, 0, Vec::new());
        let mut window: Option<(Timestamp, Timestamp)> = None;
        for (at, block) in timeline.blocks().filter(|(_, block)| block.sent > 0) {
            counts.add(&block);
            up_blocks += usize::from(block.lost_up > 0);
            down_blocks += usize::from(block.lost_down > 0);
            // Of what was sent down as many may be lost as of what was sent up: a packet that was lost on the way up has
            // no reply to lose.
            let answered = block.received + block.lost_down;
            differences.push((block.lost_up * answered) as i64 - (block.lost_down * block.sent) as i64);
            window = Some((window.map_or(at, |(from, _)| from), at + timeline.block_length()));
        }
        let (from, to) = window?;
        Some(Self {
            flows,
            up: Side::new(&up, up_blocks),
            down: Side::new(&down, down_blocks),
            counts,
            symmetric: sign_flip(&differences).max(sign_flip(&strata.differences())),
            up_over_down: strata.ratio(),
            window_s: (case.evidence.seconds(from), case.evidence.seconds(to)),
        })
    }

    /// The direction that loses clearly more, where one is lossy and chance is ruled out.
    fn one_sided(&self) -> Option<Direction> {
        let (direction, worse) = if self.up.ratio() > self.down.ratio() {
            (Direction::Up, &self.up)
        } else {
            (Direction::Down, &self.down)
        };
        // All together are misled where flows or moments differ, and strata where a burst takes one way at a time: both must
        // say so.
        let all = self.up.ratio() / self.down.ratio().max(f64::MIN_POSITIVE);
        let more = if direction == Direction::Up {
            self.up_over_down.min(all)
        } else {
            (1.0 / self.up_over_down).min(1.0 / all)
        };
        let clearly = more >= thresholds::CLEARLY_MORE;
        (worse.is_lossy() && clearly && self.symmetric < thresholds::WRONG_SIDE).then_some(direction)
    }
}

/// Both directions compared within each flow and each half-second, and only then put together (Mantel and Haenszel): where
/// some flows or moments lose much both ways, all together lose more on the way up, since a packet that was lost there has
/// no reply to lose.
#[derive(Default)]
struct Strata {
    /// By the moment at which a block begins, nanoseconds: what was lost up beyond what was lost down.
    differences: std::collections::BTreeMap<u64, f64>,
    /// Weighted losses, up and down.
    sums: (f64, f64),
}

impl Strata {
    fn add(&mut self, at: Timestamp, counts: &Counts) {
        let (sent, answered) = (counts.sent as f64, (counts.received + counts.lost_down) as f64);
        if answered <= 0.0 {
            return;
        }
        let up = counts.lost_up as f64 * answered / (sent + answered);
        let down = counts.lost_down as f64 * sent / (sent + answered);
        self.sums = (self.sums.0 + up, self.sums.1 + down);
        *self.differences.entry(at.as_nanos() / BLOCK_NS).or_default() += up - down;
    }

    /// In thousandths of a packet.
    fn differences(&self) -> Vec<i64> {
        self.differences.values().map(|d| (d * 1e3).round() as i64).collect()
    }

    fn ratio(&self) -> f64 {
        match self.sums {
            (up, down) if up > 0.0 || down > 0.0 => up / down,
            _ => 1.0,
        }
    }
}

/// Length of a block at first, nanoseconds.
const BLOCK_NS: u64 = 500_000_000;
/// Datagrams of a moment that were all lost: at half of them lost, chance does that once in five hundred times.
const DEAD: u32 = 9;

/// Whether nobody got a datagram through at some moment between two, seconds after the run's start.
fn is_dead(case: &Case<'_>, from_s: f64, to_s: f64) -> bool {
    let pulse = &case.evidence.datagrams;
    let bin = pulse.length().as_secs_f64();
    let bins = ((to_s - from_s) / bin).ceil() as u32;
    let (mut lost, mut worst) = (0u32, 0u32);
    for n in 0..=bins {
        let at = from_s + bin * f64::from(n);
        let of = pulse.within(at, at + bin);
        lost = if of.received == 0 { lost + u32::from(of.sent) } else { 0 };
        worst = worst.max(lost);
    }
    worst >= DEAD
}

/// Flows of plain datagrams at a steady rate, those of a fan too: where one port of it has a path of its own, that is
/// told before this. Trials are too short to be told from what classifiers do to them.
fn tells_of_the_path(flow: &FlowEvidence, traffic: &Traffic) -> bool {
    flow.plan.carrier == Carrier::Udp
        && matches!(flow.plan.purpose, Purpose::Steady | Purpose::Old | Purpose::Crossed | Purpose::Fan)
        && traffic.counts.sent > 0
}

/// A flow's blocks without its silences, and without what it lost after its last answer: those are its death's. The
/// blocks beside a silence go with it, since it begins and ends within them.
///
/// Where other flows died, one that ended shortly after it should have died as well lost too few to show it.
fn while_it_lived(case: &Case<'_>, traffic: &Traffic) -> Vec<(Timestamp, Counts)> {
    let fewest = if case.lives.dead.is_empty() { thresholds::TRAILING } else { 1 };
    let end = traffic.life.first_lost.filter(|_| traffic.life.trailing >= fewest);
    let length = traffic.timeline.block_length();
    let blocks: Vec<(Timestamp, Counts)> = traffic.timeline.blocks().collect();
    let silent = silences(&blocks);
    let beside = |range: &std::ops::Range<usize>, n: usize| {
        range.contains(&n) || range.contains(&(n + 1)) || range.end == n
    };
    let lived = |n: usize, at: Timestamp| {
        !silent.iter().any(|range| beside(range, n)) && end.is_none_or(|end| at + length <= end.at)
    };
    blocks.into_iter().enumerate().filter(|(n, (at, _))| lived(*n, *at)).map(|(_, block)| block).collect()
}

/// Stretches of blocks in which probes were sent and no reply came at all: a silence is not loss.
pub(super) fn silences(blocks: &[(Timestamp, Counts)]) -> Vec<std::ops::Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    for (n, (_, counts)) in blocks.iter().enumerate() {
        // A block without a probe neither breaks nor proves a silence.
        if counts.received == 0 && (counts.sent > 0 || start.is_some()) {
            start.get_or_insert(n);
        } else if let Some(from) = start.take() {
            found.push(from..n);
        }
    }
    if let Some(from) = start {
        found.push(from..blocks.len());
    }
    let proves = |range: &std::ops::Range<usize>| {
        blocks[range.clone()].iter().filter(|(_, counts)| counts.sent > 0).count()
            >= thresholds::SILENT_BLOCKS
    };
    found.into_iter().filter(proves).collect()
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

fn round(ratio: f64) -> f64 {
    (ratio * 1e5).round() / 1e5
}
