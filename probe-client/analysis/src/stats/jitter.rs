//! Interarrival jitter, RFC 3550 section 6.4.1: a running mean of the transit time's change from one arrival to the
//! next, with a gain of 1/16 (appendix A.8, in nanoseconds and without its integer rounding).

/// The estimator of one direction; arrivals are handed in by time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Jitter {
    last: Option<i64>,
    jitter: f64,
    samples: u64,
}

impl Jitter {
    /// Takes the transit time of the next arrival: reading of the receiver's clock minus reading of the sender's,
    /// nanoseconds.
    pub fn push(&mut self, transit: i64) {
        if let Some(last) = self.last.replace(transit) {
            self.jitter += (transit.abs_diff(last) as f64 - self.jitter) / 16.0;
            self.samples += 1;
        }
    }

    /// Forgets the last arrival: a clock is another one from here on.
    pub fn reset(&mut self) {
        self.last = None;
    }

    /// The jitter now, nanoseconds; none before the second arrival.
    pub fn nanos(&self) -> Option<f64> {
        (self.samples > 0).then_some(self.jitter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_closed_form(transits in proptest::collection::vec(-1_000_000i64..1_000_000, 0..60)) {
            let mut jitter = Jitter::default();
            transits.iter().for_each(|t| jitter.push(*t));
            // J = sum of |D_k| / 16 * (15/16)^(n - k)
            let changes: Vec<f64> = transits.windows(2).map(|w| w[1].abs_diff(w[0]) as f64).collect();
            let n = changes.len();
            let expected: f64 =
                changes.iter().enumerate().map(|(k, d)| d / 16.0 * (15.0f64 / 16.0).powi((n - 1 - k) as i32)).sum();
            match jitter.nanos() {
                None => prop_assert_eq!(n, 0),
                Some(got) => prop_assert!((got - expected).abs() <= 1e-6 * expected.max(1.0)),
            }
        }
    }
}
