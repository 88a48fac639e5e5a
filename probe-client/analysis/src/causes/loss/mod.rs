//! Loss, order and duplicates without anybody's intent.

pub(super) mod bad_path_member;
pub(super) mod duplication;
pub(super) mod lossy_path;
pub(super) mod one_way_loss;
pub(super) mod reordering;

use probe_protocol::finding::Direction;
use probe_protocol::time::Timestamp;

use super::{Case, thresholds};
use crate::stats::hypothesis::{binomial_at_least, sign_flip};
use crate::stats::timeline::{Counts, Timeline};

/// What all steady UDP flows lost together, outside of silences and of what they lost once they were dead.
struct Losses {
    flows: Vec<String>,
    counts: Counts,
    up: Side,
    down: Side,
    /// Probability that chance alone tells the directions apart as clearly.
    symmetric: f64,
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
}

impl Side {
    fn new(lost: u64, sent: u64, blocks: usize) -> Self {
        Self { lost, sent, blocks, p: binomial_at_least(lost, sent, thresholds::BENIGN_LOSS) }
    }

    fn ratio(&self) -> f64 {
        self.lost as f64 / self.sent.max(1) as f64
    }

    /// More than a benign path loses, and again and again.
    fn is_lossy(&self) -> bool {
        self.p < thresholds::FALSE_ALARM && self.blocks >= thresholds::LOSSY_BLOCKS
    }
}

impl Losses {
    fn of(case: &Case<'_>) -> Option<Self> {
        let mut timeline = Timeline::new(case.evidence.start());
        let mut flows = Vec::new();
        for (flow, traffic) in case.steady_udp() {
            flows.push(flow.plan.name.clone());
            let blocks: Vec<(Timestamp, Counts)> =
                traffic.timeline.blocks().map(|(at, c)| (at, *c)).collect();
            let length = traffic.timeline.block_length();
            let silent = silences(&blocks);
            let died = case.lives.died(flow.plan.flow);
            let is_out = |n: usize, at: Timestamp| {
                let edge = |range: &std::ops::Range<usize>| range.start <= n + 1 && n <= range.end;
                let (from, to) = (case.evidence.seconds(at), case.evidence.seconds(at + length));
                // A silence begins and ends within a block.
                silent.iter().any(edge)
                    || died.is_some_and(|died| to > died)
                    // Everybody's silence is an event as well: flows of few packets do not show it by themselves.
                    || case.was_silent(from, to)
            };
            for (n, (at, counts)) in blocks.iter().enumerate() {
                if !is_out(n, *at) {
                    timeline.add(*at, counts);
                }
            }
        }
        let mut counts = Counts::default();
        let (mut up_blocks, mut down_blocks, mut differences) = (0, 0, Vec::new());
        let mut window: Option<(Timestamp, Timestamp)> = None;
        for (at, block) in timeline.blocks().filter(|(_, block)| block.sent > 0) {
            counts.add(block);
            up_blocks += usize::from(block.lost_up > 0);
            down_blocks += usize::from(block.lost_down > 0);
            differences.push(block.lost_up as i64 - block.lost_down as i64);
            window = Some((window.map_or(at, |(from, _)| from), at + timeline.block_length()));
        }
        let (from, to) = window?;
        Some(Self {
            flows,
            up: Side::new(counts.lost_up, counts.sent, up_blocks),
            down: Side::new(counts.lost_down, counts.received + counts.lost_down, down_blocks),
            counts,
            symmetric: sign_flip(&differences),
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
        (worse.is_lossy() && self.symmetric < thresholds::WRONG_SIDE).then_some(direction)
    }
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
