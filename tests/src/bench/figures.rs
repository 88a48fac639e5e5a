//! Figures and what they are held against.

use serde::Serialize;

use super::Machine;

/// Values of several rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The one in the middle; of an even number, the lower one of the two.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of these values; none where there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let median = *values.get(values.len().checked_sub(1)? / 2)?;
        Some(Self { min: *values.first()?, median, max: *values.last()? })
    }
}

/// The quantile `q` (0 to 1) of values, by nearest rank.
pub(super) fn quantile(values: &mut [f64], q: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (q * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// At least.
    AtLeast(f64),
    /// At most.
    AtMost(f64),
}

impl Bound {
    /// Whether a value keeps to it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// The unit of `ours` and `theirs`.
    pub unit: &'static str,
    /// What the pair showed.
    pub ours: Spread,
    /// Whom it is compared with.
    pub against: Option<&'static str>,
    /// What that one showed.
    pub theirs: Option<Spread>,
    /// Ours divided by theirs, round by round.
    pub ratio: Option<Spread>,
    /// What DESIGN.md asks for: of the ratio where there is one, else of `ours`; none for what is told beside.
    pub target: Option<Bound>,
}

impl Row {
    /// A figure that stands for itself.
    pub fn alone(what: impl Into<String>, unit: &'static str, ours: Spread, target: Option<Bound>) -> Self {
        Self { what: what.into(), unit, ours, against: None, theirs: None, ratio: None, target }
    }

    /// A comparison; `pairs` are ours and theirs of each round.
    pub fn pairs(
        what: impl Into<String>,
        unit: &'static str,
        against: &'static str,
        pairs: &[(f64, f64)],
        target: Option<Bound>,
    ) -> Option<Self> {
        Some(Self {
            what: what.into(),
            unit,
            ours: Spread::of(pairs.iter().map(|p| p.0))?,
            against: Some(against),
            theirs: Spread::of(pairs.iter().map(|p| p.1)),
            ratio: Spread::of(pairs.iter().map(|p| p.0 / p.1)),
            target,
        })
    }

    /// Whether the target is met by the median; none where there is no target.
    pub fn met(&self) -> Option<bool> {
        Some(self.target?.holds(self.ratio.unwrap_or(self.ours).median))
    }
}

/// A whole run.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Where and under which conditions.
    pub machine: Machine,
    /// The lines.
    pub rows: Vec<Row>,
    /// What was left out and why, and what else should be known.
    pub notes: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_and_quantiles_are_by_rank() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { min: 1.0, median: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
        let mut values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 0.99), Some(99.0));
        assert_eq!(quantile(&mut values, 0.5), Some(50.0));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn a_target_is_held_against_the_ratio_where_there_is_one() {
        let pairs = [(30.0, 10.0), (20.0, 10.0), (40.0, 10.0)];
        let row = Row::pairs("echoes", "1/s", "other", &pairs, Some(Bound::AtLeast(3.0))).unwrap();
        assert_eq!(row.met(), Some(true));
        let row = Row { target: Some(Bound::AtLeast(3.01)), ..row };
        assert_eq!(row.met(), Some(false));
        let alone = Row::alone("memory", "MB", row.ours, Some(Bound::AtMost(29.0)));
        assert_eq!(alone.met(), Some(false));
    }
}
