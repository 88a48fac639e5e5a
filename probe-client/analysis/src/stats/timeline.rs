//! Counts over time in constant memory: blocks of half a second, which double in length when there are too many. Blocks
//! before the first and after the last count take no memory, and losses only where there are any: a night has thousands
//! of short flows and hundreds of long ones, and nearly all blocks lose nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use probe_protocol::time::Timestamp;

/// Blocks at most.
const MAX_BLOCKS: usize = 1024;
/// Length of a block at first.
const FIRST_LENGTH: Duration = Duration::from_millis(500);

/// What happened to the probes that were sent within one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent, and not excluded.
    pub sent: u64,
    /// A reply came.
    pub received: u64,
    /// Lost on the way up.
    pub lost_up: u64,
    /// Lost on the way down.
    pub lost_down: u64,
    /// Lost, the direction unknown.
    pub lost_unknown: u64,
}

impl Counts {
    /// All that were lost.
    pub fn lost(&self) -> u64 {
        self.lost_up + self.lost_down + self.lost_unknown
    }

    /// Adds other counts to these.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost_up += other.lost_up;
        self.lost_down += other.lost_down;
        self.lost_unknown += other.lost_unknown;
    }
}

/// Counts per block since a start; those of one block stop at 4 thousand million. Whatever was sent is either received or
/// lost.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Timestamp,
    length: Duration,
    /// Number of the first block that is kept, since the start.
    first: usize,
    /// Sent in each block from the first one on.
    sent: VecDeque<u32>,
    /// What was lost, by number of the block since the start.
    lost: BTreeMap<u32, Lost>,
}

/// What a block lost.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    up: u32,
    down: u32,
    unknown: u32,
}

impl Lost {
    fn add(&mut self, other: &Self) {
        self.up = self.up.saturating_add(other.up);
        self.down = self.down.saturating_add(other.down);
        self.unknown = self.unknown.saturating_add(other.unknown);
    }
}

impl Timeline {
    /// Begins at a moment.
    pub fn new(start: Timestamp) -> Self {
        Self { start, length: FIRST_LENGTH, first: 0, sent: VecDeque::new(), lost: BTreeMap::new() }
    }

    /// Adds counts at a moment; what is before the start counts as at the start.
    pub fn add(&mut self, at: Timestamp, counts: &Counts) {
        loop {
            // In 64 bits: a division of 128 takes longer than all the rest of this.
            let block = (at.0.saturating_sub(self.start.0) / nanos(self.length)) as usize;
            if block < MAX_BLOCKS {
                self.note(block, counts);
                return;
            }
            self.halve();
        }
    }

    fn note(&mut self, block: usize, counts: &Counts) {
        if self.sent.is_empty() {
            self.first = block;
        }
        while block < self.first {
            self.sent.push_front(0);
            self.first -= 1;
        }
        let place = block - self.first;
        if self.sent.len() <= place {
            self.sent.resize(place + 1, 0);
        }
        self.sent[place] = self.sent[place].saturating_add(small(counts.sent));
        if counts.lost() > 0 {
            let lost = Lost {
                up: small(counts.lost_up),
                down: small(counts.lost_down),
                unknown: small(counts.lost_unknown),
            };
            self.lost.entry(block as u32).or_default().add(&lost);
        }
    }

    fn halve(&mut self) {
        self.length *= 2;
        // Pairs are of blocks 0 and 1, 2 and 3, and so on.
        if !self.first.is_multiple_of(2) {
            self.sent.push_front(0);
        }
        self.first /= 2;
        let pairs = self.sent.make_contiguous().chunks(2);
        self.sent = pairs.map(|pair| pair.iter().fold(0u32, |sum, sent| sum.saturating_add(*sent))).collect();
        for (block, lost) in std::mem::take(&mut self.lost) {
            self.lost.entry(block / 2).or_default().add(&lost);
        }
    }

    /// Gives back room: until `most` blocks are left, each pair becomes one.
    pub fn coarsen(&mut self, most: usize) {
        while self.sent.len() > most.max(1) {
            self.halve();
        }
        self.sent.shrink_to_fit();
    }

    /// Start and counts of each block from the first to the last that has any, in order.
    pub fn blocks(&self) -> impl Iterator<Item = (Timestamp, Counts)> {
        let mut lost = self.lost.iter().peekable();
        (self.first as u32..).zip(&self.sent).map(move |(n, sent)| {
            let lost = lost.next_if(|(block, _)| **block == n).map_or(Lost::default(), |(_, lost)| *lost);
            let mut counts = Counts {
                sent: u64::from(*sent),
                received: 0,
                lost_up: u64::from(lost.up),
                lost_down: u64::from(lost.down),
                lost_unknown: u64::from(lost.unknown),
            };
            counts.received = counts.sent.saturating_sub(counts.lost());
            (self.start + self.length * n, counts)
        })
    }

    /// Length of a block.
    pub fn block_length(&self) -> Duration {
        self.length
    }
}

fn small(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Never zero.
fn nanos(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_is_lost_and_all_stands_where_it_happened(seconds in proptest::collection::vec(0u64..10_000, 0..50)) {
            let mut timeline = Timeline::new(Timestamp(5));
            // Of two seconds one loses what it sent.
            let lost = |s: &&u64| *s % 2 == 1;
            for s in &seconds {
                let (received, lost_up) = (u64::from(!lost(&s)), u64::from(lost(&s)));
                let one = Counts { sent: 1, received, lost_up, ..Counts::default() };
                timeline.add(Timestamp(5) + Duration::from_secs(*s), &one);
            }
            prop_assert!(timeline.sent.len() <= MAX_BLOCKS);
            let length = timeline.block_length();
            for (start, counts) in timeline.blocks() {
                let within = seconds.iter().filter(|s| {
                    let at = Timestamp(5) + Duration::from_secs(**s);
                    at >= start && at < start + length
                });
                prop_assert_eq!(counts.lost_up, within.clone().filter(lost).count() as u64);
                prop_assert_eq!(counts.sent, within.count() as u64);
                prop_assert_eq!(counts.received + counts.lost_up, counts.sent);
            }
            let all: u64 = timeline.blocks().map(|(_, counts)| counts.sent).sum();
            prop_assert_eq!(all, seconds.len() as u64);
        }
    }
}
