//! A fast hash for the lab's own tables: nobody sends it keys in order to slow it down, and it is the same in every run.

use std::hash::{BuildHasherDefault, Hasher};

/// Odd, its bits without a pattern: 2^64 divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// A map whose keys are hashed so.
pub type Map<K, V> = std::collections::HashMap<K, V, BuildHasherDefault<Fast>>;
/// A set whose members are hashed so.
pub type Set<T> = std::collections::HashSet<T, BuildHasherDefault<Fast>>;

/// Takes in words; both halves of a product of 128 bits make the next state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fast(u64);

impl Fast {
    #[inline]
    fn take(&mut self, word: u64) {
        // Never zero, so that no word makes the state forget what came before it; the word is added turned, since the bit
        // that is always set hides its own.
        let product = u128::from(self.0 ^ word | 1 << 63) * u128::from(MULTIPLIER);
        self.0 = (product as u64 ^ (product >> 64) as u64).wrapping_add(word.rotate_left(32));
    }
}

impl Hasher for Fast {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.take(u64::from_le_bytes([
                word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7],
            ]));
        }
        let rest = words.remainder();
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.take(u64::from_le_bytes(last));
        }
    }

    #[inline]
    fn write_u8(&mut self, value: u8) {
        self.take(u64::from(value));
    }

    #[inline]
    fn write_u16(&mut self, value: u16) {
        self.take(u64::from(value));
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.take(u64::from(value));
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        self.take(value);
    }

    #[inline]
    fn write_usize(&mut self, value: usize) {
        self.take(value as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        // The tables look at the highest and at the lowest bits.
        let product = u128::from(self.0) * u128::from(MULTIPLIER);
        product as u64 ^ (product >> 64) as u64
    }
}

/// The hash of some bytes and of their number.
pub fn bytes(bytes: &[u8]) -> u64 {
    let mut hasher = Fast::default();
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every single flipped bit, every length, and every pair of small numbers has a hash of its own.
    #[test]
    fn what_differs_little_has_another_hash() {
        let zero = [0; 200];
        let mut seen = BTreeSet::new();
        for length in 0..zero.len() {
            assert!(seen.insert(bytes(&zero[..length])), "length {length}");
        }
        for bit in 0..zero.len() * 8 {
            let mut flipped = zero;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(bytes(&flipped)), "bit {bit}");
        }
        for pair in 0..10_000_u64 {
            let mut hasher = Fast::default();
            hasher.write_u64(pair / 100);
            hasher.write_u64(pair % 100);
            assert!(seen.insert(hasher.finish()), "pair {pair}");
        }
    }

    #[test]
    fn the_bits_that_a_table_looks_at_are_spread() {
        let mut low = [0_u32; 128];
        let mut high = [0_u32; 128];
        for port in 0..12_800_u16 {
            let mut hasher = Fast::default();
            hasher.write_u16(port);
            let hash = hasher.finish();
            low[(hash & 127) as usize] += 1;
            high[(hash >> 57) as usize] += 1;
        }
        // A hundred each, with a deviation of ten.
        assert!(low.iter().chain(&high).all(|n| (40..=180).contains(n)), "{low:?} {high:?}");
    }
}
