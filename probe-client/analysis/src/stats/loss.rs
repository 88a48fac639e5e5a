//! Loss periods and distances, RFC 3357 section 5: a period is a run of lost packets without a received one between them;
//! a distance is how many packets after a lost one the next lost one is.

use super::histogram::Histogram;

/// A loss is noticeable where it comes at most so many packets after the one before (the loss constraint of RFC 3357
/// section 6.1); as long as the gap that ends a burst in RFC 3611 section 4.7.2.
const CONSTRAINT: u64 = 16;

/// Collects the loss periods and distances of one direction; packets are handed in by sequence number.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossPeriods {
    periods: u64,
    lost: u64,
    longest: u64,
    current: u64,
    /// Packets since the last lost one; none before the first.
    since: Option<u64>,
    noticeable: u64,
    distances: Histogram,
}

impl LossPeriods {
    /// Takes the next packet.
    pub fn push(&mut self, lost: bool) {
        let distance = self.since.map(|since| since + 1);
        if !lost {
            self.current = 0;
            self.since = distance;
            return;
        }
        self.periods += u64::from(self.current == 0);
        self.current += 1;
        self.lost += 1;
        self.longest = self.longest.max(self.current);
        if let Some(distance) = distance {
            self.distances.add(distance);
            self.noticeable += u64::from(distance <= CONSTRAINT);
        }
        self.since = Some(0);
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

    /// Distances from each lost packet to the next, packets.
    pub fn distances(&self) -> &Histogram {
        &self.distances
    }

    /// Noticeable losses over all losses (RFC 3357 section 6.1), 0 to 1; none without loss.
    pub fn noticeable_ratio(&self) -> Option<f64> {
        (self.lost > 0).then(|| self.noticeable as f64 / self.lost as f64)
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
            let lost: Vec<usize> = (0..fates.len()).filter(|n| fates[*n]).collect();
            let distances: Vec<usize> = lost.windows(2).map(|pair| pair[1] - pair[0]).collect();
            prop_assert_eq!(loss.distances().count(), distances.len() as u64);
            prop_assert_eq!(loss.distances().max(), distances.iter().copied().max().map(|d| d as u64));
            let noticeable = distances.iter().filter(|d| **d <= 16).count();
            prop_assert_eq!(loss.noticeable_ratio(), (!lost.is_empty()).then(|| noticeable as f64 / lost.len() as f64));
        }
    }
}
