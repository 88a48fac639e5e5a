//! Reordering, RFC 4737: a packet is reordered when a packet with a higher number arrived before it (section 3.3); its
//! extent is how many arrivals back the first of those was (section 4.2.2).

/// How many arrivals back an extent can be told; larger ones count as this.
const MEMORY: usize = 256;

/// Collects the reordering of one direction; arrivals are handed in by time, each number once.
#[derive(Clone, Debug, Default)]
pub struct Reordering {
    /// Numbers of the latest arrivals; the arrival `n` is at `n % MEMORY`.
    recent: Vec<u64>,
    arrivals: u64,
    highest: Option<u64>,
    reordered: u64,
    extent_max: u32,
}

impl Reordering {
    /// Takes the number of the next arrival.
    pub fn push(&mut self, seq: u64) {
        let at = (self.arrivals % MEMORY as u64) as usize;
        if self.highest.is_some_and(|highest| highest > seq) {
            let extent = self.extent(seq);
            self.reordered += 1;
            self.extent_max = self.extent_max.max(extent);
        }
        self.highest = self.highest.max(Some(seq));
        match self.recent.get_mut(at) {
            Some(place) => *place = seq,
            None => self.recent.push(seq),
        }
        self.arrivals += 1;
    }

    fn extent(&self, seq: u64) -> u32 {
        let held = self.recent.len() as u64;
        let oldest = self.arrivals - held;
        let first_higher = (oldest..self.arrivals)
            .find(|n| self.recent[(n % MEMORY as u64) as usize] > seq)
            .unwrap_or(oldest);
        (self.arrivals - first_higher) as u32
    }

    /// Arrivals so far.
    pub fn arrivals(&self) -> u64 {
        self.arrivals
    }

    /// Reordered ones among them.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// The largest extent, in arrivals; none without reordering.
    pub fn extent_max(&self) -> Option<u32> {
        (self.reordered > 0).then_some(self.extent_max)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(seqs in proptest::collection::vec(any::<u16>(), 0..200)) {
            let mut seen = std::collections::BTreeSet::new();
            let seqs: Vec<u64> = seqs.into_iter().filter(|s| seen.insert(*s)).map(u64::from).collect();
            let mut reordering = Reordering::default();
            seqs.iter().for_each(|s| reordering.push(*s));
            let extents: Vec<u32> = (0..seqs.len())
                .filter_map(|i| (0..i).find(|j| seqs[*j] > seqs[i]).map(|j| (i - j) as u32))
                .collect();
            prop_assert_eq!(reordering.reordered(), extents.len() as u64);
            prop_assert_eq!(reordering.extent_max(), extents.iter().copied().max());
        }
    }
}
