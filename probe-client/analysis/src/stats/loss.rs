//! Loss periods, RFC 3357 section 5: a period is a run of lost packets without a received one between them.

/// Collects the loss periods of one direction; packets are handed in by sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossPeriods {
    periods: u64,
    lost: u64,
    longest: u64,
    current: u64,
}

impl LossPeriods {
    /// Takes the next packet.
    pub fn push(&mut self, lost: bool) {
        if !lost {
            self.current = 0;
            return;
        }
        self.periods += u64::from(self.current == 0);
        self.current += 1;
        self.lost += 1;
        self.longest = self.longest.max(self.current);
    }

    /// How many periods there were.
    pub fn periods(&self) -> u64 {
        self.periods
    }

    /// Packets of the longest one.
    pub fn longest(&self) -> u64 {
        self.longest
    }

    /// Packets per period, on average; none without loss.
    pub fn mean_length(&self) -> Option<f64> {
        (self.periods > 0).then(|| self.lost as f64 / self.periods as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_splitting(fates in proptest::collection::vec(any::<bool>(), 0..100)) {
            let mut loss = LossPeriods::default();
            fates.iter().for_each(|lost| loss.push(*lost));
            let runs: Vec<usize> = fates.split(|lost| !lost).map(<[bool]>::len).filter(|n| *n > 0).collect();
            prop_assert_eq!(loss.periods(), runs.len() as u64);
            prop_assert_eq!(loss.longest(), runs.iter().copied().max().unwrap_or(0) as u64);
            prop_assert_eq!(loss.mean_length().is_none(), runs.is_empty());
        }
    }
}
