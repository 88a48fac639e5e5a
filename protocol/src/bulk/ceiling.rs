//! What an end can move by itself.

use serde::{Deserialize, Serialize};

/// Blocks a second that an end sends, and that it receives, at the two [`SIZES`](Self::SIZES), without any network. A rate
/// near this is the end's own, and says nothing of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ceiling {
    /// It sends so many.
    pub sends: [u32; 2],
    /// It receives so many.
    pub receives: [u32; 2],
}

impl Ceiling {
    /// Lengths of the blocks that it was measured with, bytes.
    pub const SIZES: [u16; 2] = [200, 1400];

    /// Blocks of this length that it sends, or receives, in a second: the time that a block takes grows in a line with its
    /// length. None where nothing was measured.
    pub fn of(&self, sends: bool, size: u16) -> Option<f64> {
        let [short, long] = if sends { self.sends } else { self.receives };
        if short == 0 || long == 0 {
            return None;
        }
        let [a, b] = [short, long].map(|n| 1.0 / f64::from(n));
        let [from, to] = Self::SIZES.map(f64::from);
        let time = a + (b - a) * (f64::from(size) - from) / (to - from);
        Some(1.0 / time.max(a.min(b) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_both_lengths_the_time_of_a_block_grows_in_a_line() {
        let ceiling = Ceiling { sends: [500_000, 250_000], receives: [0, 0] };
        assert_eq!(ceiling.of(true, 200), Some(500_000.0));
        assert_eq!(ceiling.of(true, 1400), Some(250_000.0));
        assert!(ceiling.of(true, 800).is_some_and(|n| (n - 1e6 / 3.0).abs() < 1.0));
        assert_eq!(ceiling.of(false, 800), None);
        // Shorter than what was measured: never beyond twice of it.
        assert!(ceiling.of(true, 64).is_some_and(|n| n > 500_000.0 && n <= 1e6));
    }
}
