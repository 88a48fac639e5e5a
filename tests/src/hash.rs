//! The lab's hash: nobody sends it keys in order to slow it down, and it is the same in every run.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// A map whose keys are hashed so.
pub type Map<K, V> = rustc_hash::FxHashMap<K, V>;
/// A set whose members are hashed so.
pub type Set<T> = rustc_hash::FxHashSet<T>;

/// The hash of some bytes and of their number.
pub fn bytes(bytes: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The truth tells datagrams apart by this: every single flipped bit and every length has a hash of its own.
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
    }
}
