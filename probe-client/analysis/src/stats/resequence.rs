//! Puts settled probes back into an order (of arrival, or of sequence numbers): they are settled as their fate becomes
//! known, and a lost one's fate is known late.

use std::collections::VecDeque;

/// Holds back the latest items so that they can be handed out by key. What comes more than the capacity late is handed
/// out late.
#[derive(Clone, Debug)]
pub struct Resequencer<T> {
    /// In order: most items come in order, so most go to the end.
    held: VecDeque<T>,
    capacity: usize,
}

impl<T: Ord> Resequencer<T> {
    /// Holds back at most `capacity` items.
    pub fn new(capacity: usize) -> Self {
        Self { held: VecDeque::new(), capacity }
    }

    /// Takes an item; hands out the smallest one where there are too many.
    pub fn push(&mut self, item: T) -> Option<T> {
        // Out first, then in: so the room never grows beyond the capacity.
        let mut out = None;
        if self.held.len() >= self.capacity {
            if self.held.front().is_none_or(|first| item < *first) {
                return Some(item);
            }
            out = self.held.pop_front();
        }
        if self.held.back().is_none_or(|last| *last <= item) {
            self.held.push_back(item);
        } else {
            let place = self.held.partition_point(|other| *other <= item);
            self.held.insert(place, item);
        }
        out
    }

    /// Whether nothing is held back.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Gives back room that is not used.
    pub fn shrink(&mut self) {
        self.held.shrink_to_fit();
    }

    /// Hands out the rest, by key.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        self.held.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_not_too_late_comes_out_in_order(late in proptest::collection::vec(0u64..8, 0..200)) {
            // Item n is handed in `late[n]` places after its turn.
            let mut order: Vec<(u64, u64)> = late.iter().enumerate().map(|(n, l)| (n as u64 + l, n as u64)).collect();
            order.sort_unstable();
            let mut resequencer = Resequencer::new(8);
            let mut out: Vec<u64> = order.iter().filter_map(|(_, n)| resequencer.push(*n)).collect();
            out.extend(resequencer.drain());
            prop_assert_eq!(out, (0..late.len() as u64).collect::<Vec<_>>());
        }
    }
}
