//! The ledger: which sequence numbers of a flow arrived, how often and in what order, in constant memory.
//!
//! Both ends keep one per flow and direction. Every lost probe is placed by it: what the listener's ledger lacks was
//! lost on the way up; what it has and no reply came for was lost on the way down.

use crate::control::{Arrival, ArrivalsReply, LedgerReply};

/// Ascending ranges of sequence numbers, bounded: when there are too many, the lowest are forgotten.
#[derive(Clone, Debug, Default)]
pub struct Ranges {
    /// First and one past the last; neither empty nor touching each other.
    ranges: Vec<(u64, u64)>,
    max: usize,
    known_from: u64,
}

impl Ranges {
    /// Keeps at most `max` ranges (at least 1), with room for `reserve` from the start.
    pub fn new(max: usize, reserve: usize) -> Self {
        Self { ranges: Vec::with_capacity(reserve.min(max)), max: max.max(1), known_from: 0 }
    }

    /// Adds a number; false where it was in already, or lies in what was forgotten.
    pub fn insert(&mut self, n: u64) -> bool {
        match self.ranges.last_mut() {
            Some((_, end)) if *end == n => {
                *end += 1;
                true
            }
            Some((_, end)) if n > *end => self.insert_at(self.ranges.len(), n),
            None => self.insert_at(0, n),
            Some(_) => self.insert_late(n),
        }
    }

    fn insert_late(&mut self, n: u64) -> bool {
        // The first range that ends at or after n: it contains n, touches it, or follows it.
        let at = self.ranges.partition_point(|(_, end)| *end < n);
        let touches_next = self.ranges.get(at + 1).is_some_and(|(start, _)| *start == n + 1);
        match self.ranges.get_mut(at) {
            Some((start, end)) if *start <= n && n < *end => false,
            Some((_, end)) if *end == n => {
                *end += 1;
                if touches_next {
                    let (_, next_end) = self.ranges.remove(at + 1);
                    self.ranges[at].1 = next_end;
                }
                true
            }
            Some((start, _)) if *start == n + 1 => {
                *start = n;
                true
            }
            Some(_) | None => self.insert_at(at, n),
        }
    }

    fn insert_at(&mut self, at: usize, n: u64) -> bool {
        if n < self.known_from {
            return false;
        }
        if self.ranges.len() < self.max {
            self.ranges.insert(at, (n, n + 1));
            return true;
        }
        // The lowest range makes room. A number below it would itself be the lowest: it is the one forgotten.
        let Some(at) = at.checked_sub(1) else {
            self.known_from = n + 1;
            return false;
        };
        self.known_from = self.ranges[0].1;
        self.ranges.remove(0);
        self.ranges.insert(at, (n, n + 1));
        true
    }

    /// Whether a number is in.
    pub fn contains(&self, n: u64) -> bool {
        let at = self.ranges.partition_point(|(_, end)| *end <= n);
        self.ranges.get(at).is_some_and(|(start, _)| *start <= n)
    }

    /// Forgets everything below `n`.
    pub fn forget_below(&mut self, n: u64) {
        if n <= self.known_from {
            return;
        }
        self.known_from = n;
        let gone = self.ranges.partition_point(|(_, end)| *end <= n);
        self.ranges.drain(..gone);
        if let Some((start, _)) = self.ranges.first_mut() {
            *start = (*start).max(n);
        }
    }

    /// Nothing is known below this.
    pub fn known_from(&self) -> u64 {
        self.known_from
    }

    /// How many numbers are in.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }

    /// The ranges from `n` on, as first and length; one that contains `n` is cut.
    pub fn from(&self, n: u64) -> impl Iterator<Item = (u64, u64)> {
        let at = self.ranges.partition_point(|(_, end)| *end <= n);
        self.ranges[at..].iter().map(move |(start, end)| {
            let start = (*start).max(n);
            (start, end - start)
        })
    }
}

/// What one arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The sequence number had arrived before.
    pub duplicate: bool,
    /// Which numbers before it had arrived: bit `i` stands for `seq - 1 - i`. A set bit is proof, a clear one is none
    /// for numbers that came 64 or more late.
    pub window: u64,
}

/// Everything one end remembers of what arrived on one flow.
#[derive(Clone, Debug)]
pub struct Receipts {
    ranges: Ranges,
    highest: Option<u64>,
    /// Bit `i` stands for `highest - 1 - i`.
    recent: u128,
    received: u64,
    duplicates: u64,
    reordered: u64,
    ring: Box<[Arrival]>,
    arrivals: u64,
}

/// How much a flow's receipts may remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptBounds {
    /// Ranges of sequence numbers.
    pub ranges: usize,
    /// Single arrivals.
    pub arrivals: usize,
}

impl Receipts {
    /// Empty receipts. All memory that an orderly flow needs is taken here; only loss makes it grow, up to the bound.
    pub fn new(bounds: ReceiptBounds) -> Self {
        Self {
            ranges: Ranges::new(bounds.ranges, 16),
            highest: None,
            recent: 0,
            received: 0,
            duplicates: 0,
            reordered: 0,
            ring: vec![Arrival::default(); bounds.arrivals].into_boxed_slice(),
            arrivals: 0,
        }
    }

    /// Takes note of an arrival.
    pub fn note(&mut self, arrival: Arrival) -> Receipt {
        let seq = arrival.seq;
        if let Some(len) = std::num::NonZeroU64::new(self.ring.len() as u64) {
            self.ring[(self.arrivals % len) as usize] = arrival;
        }
        self.arrivals += 1;
        let behind = match self.highest {
            Some(highest) if seq <= highest => Some(highest - seq),
            Some(highest) => {
                self.advance(seq - highest);
                None
            }
            None => None,
        };
        let new = match behind {
            None => {
                self.highest = Some(seq);
                self.ranges.insert(seq)
            }
            Some(_) => self.ranges.insert(seq),
        };
        if new {
            self.received += 1;
            if let Some(behind) = behind {
                self.reordered += 1;
                if (1..=128).contains(&behind) {
                    self.recent |= 1 << (behind - 1);
                }
            }
        } else {
            self.duplicates += 1;
        }
        let window = self.recent.checked_shr(behind.unwrap_or(0).min(128) as u32).unwrap_or(0) as u64;
        Receipt { duplicate: !new, window }
    }

    fn advance(&mut self, by: u64) {
        // The old highest itself becomes bit by-1.
        self.recent =
            if by > 128 { 0 } else { self.recent.checked_shl(by as u32).unwrap_or(0) | 1 << (by - 1) };
    }

    /// Distinct sequence numbers that arrived.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Arrivals of numbers that had arrived before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Arrivals below the highest number so far (RFC 4737 section 3).
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// The highest number that arrived.
    pub fn highest(&self) -> Option<u64> {
        self.highest
    }

    /// Whether a number arrived; none where that has been forgotten.
    pub fn contains(&self, seq: u64) -> Option<bool> {
        (seq >= self.ranges.known_from()).then(|| self.ranges.contains(seq))
    }

    /// The latest ranges, as first and length, the highest first, at most `most`.
    pub fn latest_ranges(&self, most: usize) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.ranges.iter().rev().take(most).map(|(start, end)| (*start, end - start))
    }

    /// Forgets what the other end has settled.
    pub fn settle_below(&mut self, seq: u64) {
        // Never beyond what can have arrived, or a later arrival would be taken for a duplicate.
        self.ranges.forget_below(seq.min(self.highest.map_or(0, |h| h + 1)));
    }

    /// One page of ranges from `from` on, at most `max_ranges`.
    pub fn page(&self, from: u64, max_ranges: usize) -> LedgerReply {
        let mut rest = self.ranges.from(from);
        let ranges: Vec<_> = rest.by_ref().take(max_ranges).collect();
        LedgerReply {
            received: self.received,
            duplicates: self.duplicates,
            reordered: self.reordered,
            highest: self.highest,
            known_from: self.ranges.known_from(),
            ranges,
            next: rest.next().map(|(start, _)| start),
        }
    }

    /// One page of single arrivals from number `from` on, at most `max`.
    pub fn arrivals(&self, from: u64, max: usize) -> ArrivalsReply {
        let len = self.ring.len() as u64;
        let first = from.max(self.arrivals.saturating_sub(len)).min(self.arrivals);
        let arrivals = (first..self.arrivals).take(max).map(|n| self.ring[(n % len) as usize]).collect();
        ArrivalsReply { first, total: self.arrivals, arrivals }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn arrival(seq: u64) -> Arrival {
        Arrival { seq, ..Arrival::default() }
    }

    proptest! {
        #[test]
        fn ranges_are_a_set(numbers in proptest::collection::vec(0u64..120, 0..200)) {
            let mut ranges = Ranges::new(1000, 0);
            let mut set = BTreeSet::new();
            for n in numbers {
                prop_assert_eq!(ranges.insert(n), set.insert(n));
            }
            let listed: Vec<u64> = ranges.from(0).flat_map(|(start, len)| start..start + len).collect();
            prop_assert_eq!(listed, set.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(ranges.count(), set.len() as u64);
            prop_assert!(ranges.ranges.windows(2).all(|w| w[0].1 < w[1].0), "ranges touch");
            for n in 0..130 {
                prop_assert_eq!(ranges.contains(n), set.contains(&n));
            }
        }

        #[test]
        fn bounded_ranges_forget_the_lowest_and_never_invent(
            numbers in proptest::collection::vec(0u64..400, 0..300), max in 1usize..8,
        ) {
            let mut ranges = Ranges::new(max, 0);
            let mut set = BTreeSet::new();
            for n in numbers {
                ranges.insert(n);
                set.insert(n);
                prop_assert!(ranges.ranges.len() <= max);
            }
            for n in 0..400 {
                if n >= ranges.known_from() {
                    prop_assert_eq!(ranges.contains(n), set.contains(&n), "{}", n);
                }
            }
        }

        #[test]
        fn receipts_agree_with_a_naive_account(seqs in proptest::collection::vec(0u64..300, 1..300)) {
            let mut receipts = Receipts::new(ReceiptBounds { ranges: 1000, arrivals: 16 });
            let mut seen: BTreeSet<u64> = BTreeSet::new();
            let (mut duplicates, mut reordered) = (0, 0);
            for seq in seqs.iter().copied() {
                let late = seen.last().is_some_and(|h| *h > seq);
                let receipt = receipts.note(arrival(seq));
                prop_assert_eq!(receipt.duplicate, seen.contains(&seq));
                if receipt.duplicate { duplicates += 1 } else if late { reordered += 1 }
                seen.insert(seq);
                for bit in 0..64 {
                    let said = receipt.window >> bit & 1 == 1;
                    let is = seq.checked_sub(1 + bit).is_some_and(|n| seen.contains(&n));
                    let within_memory = seen.last().is_some_and(|h| h - seq + bit < 128);
                    if within_memory { prop_assert_eq!(said, is) } else { prop_assert!(!said || is) }
                }
            }
            prop_assert_eq!(receipts.received(), seen.len() as u64);
            prop_assert_eq!(receipts.duplicates(), duplicates);
            prop_assert_eq!(receipts.reordered(), reordered);
            let page = receipts.arrivals(0, 100);
            let tail: Vec<u64> = page.arrivals.iter().map(|a| a.seq).collect();
            prop_assert_eq!(&tail[..], &seqs[page.first as usize..]);
            prop_assert!(tail.len() <= 16);
        }

        #[test]
        fn pages_join_to_the_whole(seqs in proptest::collection::btree_set(0u64..500, 0..200), size in 1usize..9) {
            let mut receipts = Receipts::new(ReceiptBounds { ranges: 1000, arrivals: 0 });
            for seq in &seqs {
                receipts.note(arrival(*seq));
            }
            let (mut from, mut got) = (0, Vec::new());
            loop {
                let page = receipts.page(from, size);
                got.extend(page.ranges.iter().flat_map(|(start, len)| *start..start + len));
                match page.next { Some(next) => from = next, None => break }
            }
            prop_assert_eq!(got, seqs.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_settled_is_forgotten_and_still_no_duplicate_goes_unseen() {
        let mut receipts = Receipts::new(ReceiptBounds { ranges: 8, arrivals: 0 });
        for seq in 0..10 {
            receipts.note(arrival(seq));
        }
        receipts.settle_below(1_000);
        assert_eq!(receipts.contains(9), None);
        assert!(!receipts.note(arrival(10)).duplicate);
        assert!(receipts.note(arrival(10)).duplicate);
        assert_eq!(receipts.contains(10), Some(true));
    }
}
