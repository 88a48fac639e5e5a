//! How often each of a few values occurred. Nearly always it is one value, or the one that occurred just before: that is
//! found without a search, and takes 16 bytes.

/// Counts by value, in the values' order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally<K> {
    counts: Vec<(K, u64)>,
    /// Where the value stands that was counted last.
    latest: usize,
}

impl<K: Copy + Ord> Tally<K> {
    /// Counts a value `n` times more. Where there are `most` different ones already, another one is left out.
    pub fn add(&mut self, value: K, n: u64, most: usize) {
        let is_latest = self.counts.get(self.latest).is_some_and(|(latest, _)| *latest == value);
        if !is_latest {
            match self.counts.binary_search_by_key(&value, |(value, _)| *value) {
                Ok(place) => self.latest = place,
                Err(_) if self.counts.len() >= most => return,
                Err(place) => {
                    self.counts.insert(place, (value, 0));
                    self.latest = place;
                }
            }
        }
        if let Some((_, count)) = self.counts.get_mut(self.latest) {
            *count = count.saturating_add(n);
        }
    }

    /// Values and counts, by value.
    pub fn iter(&self) -> impl Iterator<Item = (K, u64)> {
        self.counts.iter().copied()
    }

    /// The value that occurred most often.
    pub fn commonest(&self) -> Option<K> {
        self.iter().max_by_key(|(_, n)| *n).map(|(value, _)| value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn counts_as_a_map_does(values in proptest::collection::vec((0u8..20, 1u64..5), 0..200)) {
            let (mut tally, mut map) = (Tally::default(), BTreeMap::new());
            for (value, n) in values {
                tally.add(value, n, usize::MAX);
                *map.entry(value).or_insert(0) += n;
            }
            prop_assert_eq!(tally.iter().collect::<Vec<_>>(), map.iter().map(|(v, n)| (*v, *n)).collect::<Vec<_>>());
            prop_assert_eq!(tally.commonest(), map.iter().max_by_key(|(_, n)| **n).map(|(v, _)| *v));
        }
    }

    #[test]
    fn what_is_too_many_is_left_out() {
        let mut tally = Tally::default();
        for value in [3, 1, 2, 1] {
            tally.add(value, 1, 2);
        }
        assert_eq!(tally.iter().collect::<Vec<_>>(), [(1, 2), (3, 1)]);
    }
}
