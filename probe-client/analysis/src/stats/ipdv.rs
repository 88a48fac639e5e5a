//! Delay variation between neighbours, RFC 3393: the one-way delay of a packet minus that of the packet sent before it
//! (the selection of RFC 5481 section 4.1). Both delays contain the same clock offset, so the clocks need not agree.
//!
//! Reported are quantiles of the magnitude.

use super::histogram::Histogram;

/// How far apart in the order of settling two neighbours may be.
const MEMORY: usize = 64;

type Recent = [Option<(u64, i64)>; MEMORY];

/// Collects the delay variation of one direction.
#[derive(Clone, Debug, Default)]
pub struct Ipdv {
    /// Sequence number and delay, at the number modulo the length. A flow without answers has none.
    recent: Option<Box<Recent>>,
    magnitudes: Histogram,
}

impl Ipdv {
    /// Takes the delay of a packet: reading of the receiver's clock minus reading of the sender's, nanoseconds. Packets
    /// may come in any order; each number once.
    pub fn push(&mut self, seq: u64, delay: i64) {
        let recent = self.recent.get_or_insert_with(|| Box::new([None; MEMORY]));
        let at = |seq: u64| (seq % MEMORY as u64) as usize;
        let neighbours = [seq.checked_sub(1), seq.checked_add(1)];
        for neighbour in neighbours.into_iter().flatten() {
            if let Some((found, other)) = recent[at(neighbour)]
                && found == neighbour
            {
                self.magnitudes.add(delay.abs_diff(other));
            }
        }
        recent[at(seq)] = Some((seq, delay));
    }

    /// Forgets the neighbours: a clock is another one from here on.
    pub fn reset(&mut self) {
        self.recent = None;
    }

    /// Gives back room that is not used.
    pub fn shrink(&mut self) {
        self.magnitudes.shrink();
    }

    /// Magnitudes of the variation, nanoseconds.
    pub fn magnitudes(&self) -> &Histogram {
        &self.magnitudes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_naive_recomputation(
            delays in proptest::collection::vec(proptest::option::weighted(0.8, -5_000i64..5_000), 0..100),
            offset in any::<i32>(), swap in proptest::collection::vec(any::<bool>(), 100),
        ) {
            let mut expected = Histogram::default();
            for pair in delays.windows(2) {
                if let [Some(a), Some(b)] = pair { expected.add(b.abs_diff(*a)) }
            }
            let mut order: Vec<usize> = (0..delays.len()).collect();
            for at in (1..order.len()).step_by(2) {
                if swap[at] { order.swap(at - 1, at) }
            }
            let mut ipdv = Ipdv::default();
            for seq in order {
                if let Some(delay) = delays[seq] { ipdv.push(seq as u64, delay + i64::from(offset)) }
            }
            prop_assert_eq!(ipdv.magnitudes(), &expected);
        }
    }

    #[test]
    fn a_changed_clock_makes_no_sample() {
        let mut ipdv = Ipdv::default();
        ipdv.push(0, 10);
        ipdv.reset();
        ipdv.push(1, 1_000_000);
        assert_eq!(ipdv.magnitudes().count(), 0);
    }
}
