//! What is counted over many runs, and the floors below which the matrix fails.

use std::collections::BTreeMap;
use std::time::Duration;

use probe_protocol::cause::Cause;
use serde::{Deserialize, Serialize};

use super::calibration::{self, Class, Said};
use crate::scenario::judge::{Judgement, Report};
use crate::scenario::{Network, Scenario};

/// One run of one scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Which scenario.
    pub scenario: String,
    /// Which seed.
    pub seed: u64,
    /// In which network.
    pub network: Network,
    /// Every cause that had to be found.
    pub expected: Vec<Cause>,
    /// Every cause that was said.
    pub said: Vec<Cause>,
    /// How it was judged.
    pub judgement: Judgement,
    /// How long it took in its own network, seconds.
    pub took_s: f64,
    /// Processor time that simulating it took, seconds; none for the real-kernel network, whose runs mostly wait.
    pub cpu_s: Option<f64>,
}

impl Run {
    /// A run of a scenario that said these causes.
    pub fn of(
        scenario: &Scenario,
        (seed, network): (u64, Network),
        report: &Report,
        judgement: Judgement,
        took: Duration,
    ) -> Self {
        Self {
            scenario: scenario.name.clone(),
            seed,
            network,
            expected: scenario.expect.must.iter().map(|must| must.cause).collect(),
            said: report.findings.iter().map(|found| found.cause).collect(),
            judgement,
            took_s: took.as_secs_f64(),
            cpu_s: None,
        }
    }
}

/// One cause over all runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// Runs in which it had to be found.
    pub expected: u64,
    /// Of those, runs in which it was, or another that does as well.
    pub found: u64,
    /// Of those in which it was missed, runs that said that they cannot tell.
    pub abstained: u64,
    /// Runs in which it was said and should not have been.
    pub accused: u64,
    /// What else was said where it was missed.
    pub said_instead: BTreeMap<Cause, u64>,
    /// By parameter: how far off it was, as a share of what it is.
    pub parameters: BTreeMap<String, Errors>,
}

/// How far off a parameter was over all runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Runs that gave it.
    pub runs: u64,
    /// Mean of the errors' sizes.
    pub mean: f64,
    /// The largest.
    pub largest: f64,
}

impl Row {
    /// Share of runs with the cause in which it was found; none where there were no such runs.
    pub fn recall(&self) -> Option<f64> {
        (self.expected > 0).then(|| self.found as f64 / self.expected as f64)
    }

    /// Share of the runs that said the cause in which that was right; none where it was never said.
    pub fn precision(&self) -> Option<f64> {
        let said = self.found + self.accused;
        (said > 0).then(|| self.found as f64 / said as f64)
    }
}

/// All runs, counted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// Runs that were judged.
    pub runs: u64,
    /// Of those, runs in which everything was as it had to be.
    pub right: u64,
    /// Runs of scenarios in which nothing had to be found.
    pub clean_runs: u64,
    /// Of those, runs in which something was said that should not have been.
    pub clean_accused: u64,
    /// Runs in which two causes or more had to be found.
    pub several_runs: u64,
    /// Of those, runs in which each of them was.
    pub several_found: u64,
    /// Each cause of the catalogue.
    pub causes: BTreeMap<Cause, Row>,
    /// Scenarios that could not be played, and why.
    pub not_played: BTreeMap<String, String>,
    /// By scenario: runs, and those that were right.
    pub scenarios: BTreeMap<String, (u64, u64)>,
    /// By scenario: what was wrong, and how often.
    pub wrong: BTreeMap<String, BTreeMap<String, Wrong>>,
    /// Every finding with its probability.
    #[serde(skip)]
    pub said: Vec<Said>,
    /// The same by classes of probabilities.
    pub calibration: Vec<Class>,
}

/// One thing that was wrong.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Wrong {
    /// In how many runs.
    pub runs: u64,
    /// The first seeds with which.
    pub seeds: Vec<u64>,
}

/// So many seeds are shown.
const MAX_SEEDS: usize = 6;

/// What was wrong, at most so many kinds per scenario.
const MAX_WRONG: usize = 12;

impl Tally {
    /// Counts a run.
    pub fn count(&mut self, run: &Run) {
        let judgement = &run.judgement;
        self.runs += 1;
        self.right += u64::from(judgement.is_right());
        if run.expected.is_empty() {
            self.clean_runs += 1;
            self.clean_accused += u64::from(!judgement.accused.is_empty());
        }
        if run.expected.len() > 1 {
            self.several_runs += 1;
            self.several_found += u64::from(judgement.missed.is_empty());
        }
        self.said.extend(&judgement.said);
        self.calibration = calibration::classes(&self.said);
        let scenario = self.scenarios.entry(run.scenario.clone()).or_default();
        scenario.0 += 1;
        scenario.1 += u64::from(judgement.is_right());
        if !judgement.wrong.is_empty() {
            let wrong = self.wrong.entry(run.scenario.clone()).or_default();
            for what in &judgement.wrong {
                if wrong.len() < MAX_WRONG || wrong.contains_key(what) {
                    let wrong = wrong.entry(what.clone()).or_default();
                    wrong.runs += 1;
                    if wrong.seeds.len() < MAX_SEEDS {
                        wrong.seeds.push(run.seed);
                    }
                }
            }
        }
        for cause in &run.expected {
            let row = self.causes.entry(*cause).or_default();
            row.expected += 1;
            if judgement.found.contains(cause) {
                row.found += 1;
            } else {
                row.abstained += u64::from(judgement.abstained);
                for said in &run.said {
                    *row.said_instead.entry(*said).or_default() += 1;
                }
            }
        }
        let mut accused = judgement.accused.clone();
        accused.dedup();
        for cause in accused {
            self.causes.entry(cause).or_default().accused += 1;
        }
        for error in &judgement.errors {
            let row = self.causes.entry(error.cause).or_default();
            let errors = row.parameters.entry(error.parameter.clone()).or_default();
            let size = error.relative.abs();
            errors.mean = (errors.mean * errors.runs as f64 + size) / (errors.runs + 1) as f64;
            errors.largest = errors.largest.max(size);
            errors.runs += 1;
        }
    }

    /// Share of all that was said which was right; none where nothing was said.
    pub fn precision(&self) -> Option<f64> {
        let found: u64 = self.causes.values().map(|row| row.found).sum();
        let accused: u64 = self.causes.values().map(|row| row.accused).sum();
        (found + accused > 0).then(|| found as f64 / (found + accused) as f64)
    }

    /// The causes that no run has named yet although one had to.
    pub fn not_yet_named(&self) -> Vec<Cause> {
        self.causes
            .iter()
            .filter(|(_, row)| row.expected > 0 && row.found == 0)
            .map(|(cause, _)| *cause)
            .collect()
    }

    /// The causes for which no scenario was played.
    pub fn not_played(&self) -> Vec<Cause> {
        let played = |cause: &Cause| self.causes.get(cause).is_some_and(|row| row.expected > 0);
        Cause::ALL.iter().copied().filter(|cause| !played(cause)).collect()
    }

    /// What is below its floor.
    pub fn failures(&self, floors: &Floors) -> Vec<Failure> {
        let mut failures = Vec::new();
        if let Some(precision) = self.precision().filter(|p| *p < floors.precision) {
            failures.push(Failure::Precision { is: precision, floor: floors.precision });
        }
        if self.clean_accused > floors.clean_accused {
            failures.push(Failure::Accused {
                is: self.clean_accused,
                of: self.clean_runs,
                most: floors.clean_accused,
            });
        }
        for (cause, floor) in &floors.recall {
            let recall = self.causes.get(cause).and_then(Row::recall);
            if let Some(is) = recall.filter(|r| r < floor) {
                failures.push(Failure::Recall { cause: *cause, is, floor: *floor });
            }
        }
        failures
    }
}

/// What must at least be reached. They only ever rise.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Floors {
    /// Precision over all causes.
    pub precision: f64,
    /// At most so many clean and benign runs with an accusation.
    pub clean_accused: u64,
    /// Recall of each cause that is named so far.
    pub recall: BTreeMap<Cause, f64>,
}

/// Something below its floor.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Failure {
    /// Too much was said that is not so.
    #[error("precision is {is:.3}, and must be at least {floor}")]
    Precision {
        /// What it is.
        is: f64,
        /// What it must be.
        floor: f64,
    },
    /// Too many clean runs were accused of something.
    #[error("{is} of {of} clean and benign runs were accused of something, and at most {most} may be")]
    Accused {
        /// How many were.
        is: u64,
        /// Of how many.
        of: u64,
        /// How many may be.
        most: u64,
    },
    /// A cause was missed too often.
    #[error("recall of {cause} is {is:.3}, and must be at least {floor}")]
    Recall {
        /// Which.
        cause: Cause,
        /// What it is.
        is: f64,
        /// What it must be.
        floor: f64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(expected: &[Cause], said: &[Cause]) -> Run {
        let found: Vec<Cause> = expected.iter().copied().filter(|c| said.contains(c)).collect();
        let missed: Vec<Cause> = expected.iter().copied().filter(|c| !said.contains(c)).collect();
        let accused: Vec<Cause> =
            said.iter().copied().filter(|c| !expected.contains(c) && *c != Cause::Unexplained).collect();
        let wrong = missed.iter().chain(&accused).map(Cause::to_string).collect();
        let abstained = said.contains(&Cause::Unexplained);
        let judgement = Judgement { found, missed, accused, abstained, wrong, ..Judgement::default() };
        let (scenario, network) = ("s".to_owned(), Network::Simulated);
        let (expected, said) = (expected.to_vec(), said.to_vec());
        Run { scenario, seed: 0, network, expected, said, judgement, took_s: 1.0, cpu_s: None }
    }

    #[test]
    fn recall_precision_and_abstentions_are_what_they_are() {
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.count(&run(&[Cause::LossyPath], &[Cause::LossyPath]));
        }
        tally.count(&run(&[Cause::LossyPath], &[Cause::Unexplained]));
        tally.count(&run(&[], &[]));
        tally.count(&run(&[], &[Cause::QuicBlocked]));
        let row = &tally.causes[&Cause::LossyPath];
        assert_eq!((row.recall(), row.precision(), row.abstained), (Some(0.75), Some(1.0), 1));
        assert_eq!(tally.precision(), Some(0.75));
        assert_eq!((tally.clean_runs, tally.clean_accused, tally.runs, tally.right), (2, 1, 6, 4));
        assert!(tally.not_yet_named().is_empty());
        assert!(tally.not_played().contains(&Cause::QuicBlocked));
    }

    #[test]
    fn two_causes_at_once_are_found_where_both_are() {
        let both = [Cause::LossyPath, Cause::QuicBlocked];
        let mut tally = Tally::default();
        tally.count(&run(&both, &both));
        tally.count(&run(&both, &[Cause::LossyPath]));
        tally.count(&run(&[Cause::LossyPath], &[Cause::LossyPath]));
        assert_eq!((tally.several_runs, tally.several_found), (2, 1));
        assert_eq!(tally.wrong["s"]["quic-blocked"], Wrong { runs: 1, seeds: vec![0] });
    }

    #[test]
    fn a_floor_fails_just_above_and_passes_just_at_what_is() {
        let mut tally = Tally::default();
        tally.count(&run(&[Cause::LossyPath], &[Cause::LossyPath]));
        tally.count(&run(&[Cause::LossyPath], &[Cause::Outage]));
        let floors = |precision, recall, clean_accused| Floors {
            precision,
            clean_accused,
            recall: BTreeMap::from([(Cause::LossyPath, recall)]),
        };
        assert_eq!(tally.failures(&floors(0.5, 0.5, 0)), []);
        assert_eq!(tally.failures(&floors(0.51, 0.51, 0)).len(), 2);
        tally.count(&run(&[], &[Cause::Outage]));
        assert!(matches!(
            tally.failures(&floors(0.1, 0.1, 0))[..],
            [Failure::Accused { is: 1, of: 1, most: 0 }]
        ));
        assert_eq!(tally.failures(&floors(0.1, 0.1, 1)), []);
    }
}
