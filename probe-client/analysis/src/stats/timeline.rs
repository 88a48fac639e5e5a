//! Counts over time in constant memory: blocks of half a second, which double in length when there are too many. Blocks
//! before the first and after the last count take no memory: a night has thousands of short flows.

use std::collections::VecDeque;
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

/// Counts per block since a start.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Timestamp,
    length: Duration,
    /// Number of the first block that is kept, since the start.
    first: usize,
    blocks: VecDeque<Counts>,
}

impl Timeline {
    /// Begins at a moment.
    pub fn new(start: Timestamp) -> Self {
        Self { start, length: FIRST_LENGTH, first: 0, blocks: VecDeque::new() }
    }

    /// Adds counts at a moment; what is before the start counts as at the start.
    pub fn add(&mut self, at: Timestamp, counts: &Counts) {
        loop {
            // In 64 bits: a division of 128 takes longer than all the rest of this.
            let block = (at.0.saturating_sub(self.start.0) / nanos(self.length)) as usize;
            if block < MAX_BLOCKS {
                if self.blocks.is_empty() {
                    self.first = block;
                }
                while block < self.first {
                    self.blocks.push_front(Counts::default());
                    self.first -= 1;
                }
                let place = block - self.first;
                if self.blocks.len() <= place {
                    self.blocks.resize(place + 1, Counts::default());
                }
                self.blocks[place].add(counts);
                return;
            }
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.length *= 2;
        // Pairs are of blocks 0 and 1, 2 and 3, and so on.
        if !self.first.is_multiple_of(2) {
            self.blocks.push_front(Counts::default());
        }
        self.first /= 2;
        self.blocks = self
            .blocks
            .make_contiguous()
            .chunks(2)
            .map(|pair| {
                let mut sum = Counts::default();
                pair.iter().for_each(|counts| sum.add(counts));
                sum
            })
            .collect();
    }

    /// Gives back room: until `most` blocks are left, each pair becomes one.
    pub fn coarsen(&mut self, most: usize) {
        while self.blocks.len() > most.max(1) {
            self.halve();
        }
        self.blocks.shrink_to_fit();
    }

    /// Start and counts of each block from the first to the last that has any, in order.
    pub fn blocks(&self) -> impl Iterator<Item = (Timestamp, &Counts)> {
        (self.first..).zip(&self.blocks).map(|(n, counts)| (self.start + self.length * n as u32, counts))
    }

    /// Length of a block.
    pub fn block_length(&self) -> Duration {
        self.length
    }
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
            let one = Counts { sent: 1, ..Counts::default() };
            for s in &seconds {
                timeline.add(Timestamp(5) + Duration::from_secs(*s), &one);
            }
            prop_assert!(timeline.blocks.len() <= MAX_BLOCKS);
            let length = timeline.block_length();
            for (start, counts) in timeline.blocks() {
                let within = seconds.iter().filter(|s| {
                    let at = Timestamp(5) + Duration::from_secs(**s);
                    at >= start && at < start + length
                });
                prop_assert_eq!(counts.sent, within.count() as u64);
            }
            let all: u64 = timeline.blocks().map(|(_, counts)| counts.sent).sum();
            prop_assert_eq!(all, seconds.len() as u64);
        }
    }
}
