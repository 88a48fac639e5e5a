//! Whether probabilities are what they say: of findings given a probability p, a share p is to be right.

use probe_analysis::stats::hypothesis::binomial_at_least;
use probe_protocol::cause::Cause;
use serde::{Deserialize, Serialize};

/// A finding as it was said. It is right where its cause had to be found, or may be said too; whether its parameters
/// are right is judged apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Which cause.
    pub cause: Cause,
    /// With which probability.
    pub probability: f64,
    /// Whether that is so.
    pub right: bool,
}

/// Where the classes of probabilities begin; each ends where the next one begins. Nothing is said below 0.95.
const CLASSES: [f64; 5] = [0.0, 0.95, 0.975, 0.99, 0.999];

/// Chance that the true share is outside of a class's bounds.
const OUTSIDE: f64 = 0.05;

/// Findings of one class of probabilities.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Class {
    /// Where it begins.
    pub from: f64,
    /// How many findings.
    pub said: u64,
    /// How many were right.
    pub right: u64,
    /// Mean of their probabilities.
    pub mean: f64,
}

impl Class {
    /// Share of them that was right.
    pub fn share(&self) -> Option<f64> {
        (self.said > 0).then(|| self.right as f64 / self.said as f64)
    }

    /// Between which shares the true one is, with a probability of 95 % (Clopper and Pearson).
    pub fn bounds(&self) -> (f64, f64) {
        let (k, n) = (self.right, self.said);
        // The first share that makes so many, or more, as likely as half of what may be outside.
        let low = if k == 0 { 0.0 } else { bisect(|p| binomial_at_least(k, n, p) < OUTSIDE / 2.0) };
        // The last one that makes so few.
        let high =
            if k == n { 1.0 } else { bisect(|p| 1.0 - binomial_at_least(k + 1, n, p) > OUTSIDE / 2.0) };
        (low, high)
    }

    /// Whether more was promised than kept, beyond chance.
    pub fn is_overconfident(&self) -> bool {
        self.said > 0 && self.mean > self.bounds().1
    }
}

/// Where `holds` stops to hold, between 0 and 1.
fn bisect(holds: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// Counts findings by class. Those that say they cannot tell promise nothing, and are left out.
pub fn classes<'a>(findings: impl IntoIterator<Item = &'a Said>) -> Vec<Class> {
    let mut classes: Vec<Class> = CLASSES.map(|from| Class { from, ..Class::default() }).into();
    for said in findings.into_iter().filter(|said| said.cause != Cause::Unexplained) {
        let Some(class) = classes.iter_mut().rev().find(|class| said.probability >= class.from) else {
            continue;
        };
        class.said += 1;
        class.right += u64::from(said.right);
        class.mean += (said.probability - class.mean) / class.said as f64;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(right: u64, said: u64, mean: f64) -> Class {
        Class { from: 0.95, said, right, mean }
    }

    #[test]
    fn bounds_are_those_of_the_books() {
        // Clopper and Pearson, 1934: 10 of 10 and 0 of 10 have 0.0250^(1/10) as their bound.
        let (low, high) = class(10, 10, 0.97).bounds();
        assert!((low - 0.025_f64.powf(0.1)).abs() < 1e-6 && high == 1.0, "{low} {high}");
        let (low, high) = class(0, 10, 0.97).bounds();
        assert!(low == 0.0 && (high - (1.0 - 0.025_f64.powf(0.1))).abs() < 1e-6, "{low} {high}");
        // R: binom.test(8, 10)$conf.int is 0.4439 to 0.9748.
        let (low, high) = class(8, 10, 0.97).bounds();
        assert!((low - 0.4439).abs() < 1e-4 && (high - 0.9748).abs() < 1e-4, "{low} {high}");
    }

    #[test]
    fn who_promises_more_than_he_keeps_is_seen_and_who_promises_less_is_not() {
        assert!(class(90, 100, 0.97).is_overconfident());
        assert!(!class(96, 100, 0.97).is_overconfident());
        assert!(!class(100, 100, 0.96).is_overconfident());
        assert!(!class(0, 0, 0.0).is_overconfident());
    }

    #[test]
    fn findings_fall_into_the_class_they_were_said_in() {
        let said = |probability, right| Said { cause: Cause::LossyPath, probability, right };
        let cannot_tell = Said { cause: Cause::Unexplained, probability: 0.99, right: true };
        let all = [said(0.95, true), said(0.96, false), said(0.9999, true), cannot_tell];
        let counts: Vec<_> = classes(&all).iter().map(|c| (c.said, c.right)).collect();
        assert_eq!(counts, [(0, 0), (2, 1), (0, 0), (0, 0), (1, 1)]);
    }
}
