//! Counts per stretch of sending time.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// What was sent, or what arrived of it, in one stretch of the sender's time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bin {
    /// Its number: the time since the order's start in units of [`Order::bin`](super::Order::bin).
    pub index: u32,
    /// At the sender, when the first of them left, microseconds after the order's start; 0 at the receiver.
    pub at_us: u64,
    /// Packets, each counted once.
    pub packets: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Shortest one-way delay, nanoseconds over that of the order's first packet; 0 at the sender.
    pub delay_min: i64,
    /// Mean, likewise.
    pub delay_mean: i64,
    /// Longest, likewise.
    pub delay_max: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Open {
    bin: Bin,
    delay_sum: i128,
}

/// The latest bins of one order; the oldest are forgotten beyond a bound, and counted.
#[derive(Clone, Debug, Default)]
pub struct Bins {
    ring: VecDeque<Open>,
    max: usize,
    forgotten: u64,
    forgotten_below: u32,
}

impl Bins {
    /// Room for `max` bins (at least 1).
    pub fn new(max: usize) -> Self {
        Self { ring: VecDeque::new(), max: max.max(1), forgotten: 0, forgotten_below: 0 }
    }

    /// Counts a packet that leaves so long after the order's start.
    pub fn note_sent(&mut self, index: u32, len: usize, at_us: u64) {
        let Some(open) = self.at(index) else { return };
        if open.bin.packets == 0 {
            open.bin.at_us = at_us;
        }
        open.bin.packets = open.bin.packets.saturating_add(1);
        open.bin.bytes += len as u64;
    }

    /// Counts a packet that arrived.
    pub fn note(&mut self, index: u32, len: usize, delay: Option<i64>) {
        let Some(open) = self.at(index) else { return };
        let bin = &mut open.bin;
        if let Some(delay) = delay {
            let first = bin.packets == 0;
            bin.delay_min = if first { delay } else { bin.delay_min.min(delay) };
            bin.delay_max = if first { delay } else { bin.delay_max.max(delay) };
            open.delay_sum += i128::from(delay);
        }
        bin.packets = bin.packets.saturating_add(1);
        bin.bytes += len as u64;
        bin.delay_mean = i64::try_from(open.delay_sum / i128::from(bin.packets)).unwrap_or(i64::MAX);
    }

    /// The open bin of this number; none where it has been forgotten.
    fn at(&mut self, index: u32) -> Option<&mut Open> {
        if index < self.forgotten_below {
            return None;
        }
        let at = match self.ring.back() {
            Some(last) if last.bin.index == index => self.ring.len() - 1,
            Some(last) if last.bin.index > index => {
                let at = self.ring.partition_point(|o| o.bin.index < index);
                if self.ring.get(at).is_none_or(|o| o.bin.index != index) {
                    self.insert(at, index)?
                } else {
                    at
                }
            }
            Some(_) | None => self.insert(self.ring.len(), index)?,
        };
        self.ring.get_mut(at)
    }

    fn insert(&mut self, mut at: usize, index: u32) -> Option<usize> {
        if self.ring.len() == self.max {
            if at == 0 {
                return None;
            }
            if let Some(oldest) = self.ring.pop_front() {
                self.forgotten += 1;
                self.forgotten_below = oldest.bin.index + 1;
            }
            at -= 1;
        }
        self.ring.insert(at, Open { bin: Bin { index, ..Bin::default() }, delay_sum: 0 });
        Some(at)
    }

    /// Takes back a packet without delay that was the last to be counted.
    pub fn unnote(&mut self, len: usize) {
        if let Some(open) = self.ring.back_mut() {
            open.bin.packets = open.bin.packets.saturating_sub(1);
            open.bin.bytes = open.bin.bytes.saturating_sub(len as u64);
        }
    }

    /// Forgets bins below this number, which somebody has fetched.
    pub fn settle_below(&mut self, index: u32) {
        while self.ring.front().is_some_and(|o| o.bin.index < index) {
            self.ring.pop_front();
        }
        self.forgotten_below = self.forgotten_below.max(index);
    }

    /// Bins from this number on.
    pub fn from(&self, index: u32) -> impl Iterator<Item = Bin> + '_ {
        let at = self.ring.partition_point(|o| o.bin.index < index);
        self.ring.range(at..).map(|o| o.bin)
    }

    /// Bins that were forgotten although nobody had fetched them.
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bins_are_what_a_naive_count_says(
            packets in proptest::collection::vec((0u32..30, 1usize..2000, -1000i64..1000), 0..300),
        ) {
            let mut bins = Bins::new(1000);
            let mut naive: BTreeMap<u32, Vec<(usize, i64)>> = BTreeMap::new();
            for (index, len, delay) in packets {
                bins.note(index, len, Some(delay));
                naive.entry(index).or_default().push((len, delay));
            }
            let listed: Vec<Bin> = bins.from(0).collect();
            prop_assert_eq!(listed.len(), naive.len());
            for (bin, (index, all)) in listed.iter().zip(&naive) {
                prop_assert_eq!(bin.index, *index);
                prop_assert_eq!(bin.packets as usize, all.len());
                prop_assert_eq!(bin.bytes as usize, all.iter().map(|(l, _)| l).sum::<usize>());
                prop_assert_eq!(bin.delay_min, all.iter().map(|(_, d)| *d).min().unwrap());
                prop_assert_eq!(bin.delay_max, all.iter().map(|(_, d)| *d).max().unwrap());
                prop_assert_eq!(bin.delay_mean, all.iter().map(|(_, d)| d).sum::<i64>() / all.len() as i64);
            }
        }

        #[test]
        fn memory_is_bounded_and_what_is_forgotten_is_counted(
            indexes in proptest::collection::vec(0u32..500, 0..400), max in 1usize..20,
        ) {
            let mut bins = Bins::new(max);
            for index in indexes {
                bins.note(index, 1, None);
                prop_assert!(bins.ring.len() <= max);
                prop_assert!(bins.ring.iter().zip(bins.ring.iter().skip(1)).all(|(a, b)| a.bin.index < b.bin.index));
            }
            if bins.forgotten() > 0 {
                prop_assert_eq!(bins.ring.len(), max);
            }
        }
    }
}
