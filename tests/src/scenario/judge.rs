//! Compares what a report says with what had to be said.

use std::collections::BTreeMap;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction as Harm, Severity, Side};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Expect, Lost, MustFind, Near};
use crate::matrix::calibration::Said;

/// The parts of a report (CONTRACT.md, "JSON") that are judged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Each transport's.
    pub reachability: BTreeMap<String, String>,
    /// What was found.
    pub findings: Vec<Found>,
    /// Per flow.
    pub flows: Vec<Flow>,
    /// What was not examined.
    pub not_examined: Vec<NotExamined>,
}

/// One thing that was not examined.
#[derive(Clone, Debug, Deserialize)]
pub struct NotExamined {
    /// What, with the causes that it would have told.
    pub what: String,
}

/// One finding.
#[derive(Clone, Debug, Deserialize)]
pub struct Found {
    /// Which cause.
    pub cause: Cause,
    /// With which probability.
    #[serde(default)]
    pub probability: Option<f64>,
    /// How much it matters.
    pub severity: Severity,
    /// On which side.
    pub side: Option<Side>,
    /// Which way.
    pub direction: Option<Harm>,
    /// Its parameters.
    #[serde(default)]
    pub parameters: BTreeMap<String, Value>,
}

/// One flow, as far as it is judged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Flow {
    /// Its name.
    pub id: String,
    /// What it runs over.
    pub transport: String,
    /// The client's own address.
    pub source: Option<String>,
    /// Length of its probes, bytes on the wire without IP's and UDP's headers.
    pub size_bytes: u16,
    /// Probes sent.
    pub sent: u64,
    /// Probes not counted as lost although no reply came: the host's own fault.
    pub excluded: u64,
    /// Probes lost.
    pub lost: LostCounts,
}

/// Probes lost, by where.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LostCounts {
    /// On the way up.
    pub up: Option<u64>,
    /// On the way down.
    pub down: Option<u64>,
    /// Nobody can tell where.
    pub unknown: Option<u64>,
}

/// How one run was judged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// What was expected and found.
    pub found: Vec<Cause>,
    /// What was expected and not found.
    pub missed: Vec<Cause>,
    /// What was said and should not have been.
    pub accused: Vec<Cause>,
    /// Whether it said that it cannot tell.
    pub abstained: bool,
    /// Parameters of what was found: how far off each was, as a share of what it is.
    pub errors: Vec<ParameterError>,
    /// Every finding that gives a probability, and whether it is so.
    pub said: Vec<Said>,
    /// Everything that is wrong, in words.
    pub wrong: Vec<String>,
}

/// How far off a parameter was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParameterError {
    /// Of which cause.
    pub cause: Cause,
    /// Which.
    pub parameter: String,
    /// (said - true) / true.
    pub relative: f64,
}

impl Judgement {
    /// Whether all is as it had to be.
    pub fn is_right(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl Expect {
    /// Judges a report and the exit status of the program that printed it.
    pub fn judge(&self, report: &Report, status: Option<i32>) -> Judgement {
        let mut judgement = Judgement::default();
        if self.status.is_some() && self.status != status {
            judgement.wrong.push(format!("exit status is {status:?}, not {:?}", self.status));
        }
        for (transport, wanted) in &self.reachability {
            let said = report.reachability.get(transport).map_or("nothing", String::as_str);
            if said != wanted {
                judgement.wrong.push(format!("{transport} is said to be {said}, and is {wanted}"));
            }
        }
        for must in &self.must {
            must.judge(report, &mut judgement);
        }
        for cause in &self.not_examined {
            if !report.not_examined.iter().any(|item| item.what.contains(cause.id())) {
                judgement.wrong.push(format!("{cause} is not among what was not examined"));
            }
        }
        for found in &report.findings {
            let cause = found.cause;
            if cause == Cause::Unexplained {
                judgement.abstained = true;
            }
            let expected = self.may.contains(&cause) || self.must.iter().any(|must| must.is(cause));
            judgement.said.extend(found.probability.map(|probability| Said {
                cause,
                probability,
                right: expected,
            }));
            if !expected && cause != Cause::Unexplained {
                judgement.accused.push(cause);
                judgement.wrong.push(format!("{cause} is said, and is not so"));
            }
        }
        let lost = |way: fn(&LostCounts) -> Option<u64>| -> u64 {
            report.flows.iter().filter_map(|flow| way(&flow.lost)).sum()
        };
        for (way, wanted, count) in
            [("up", self.losses.up, lost(|l| l.up)), ("down", self.losses.down, lost(|l| l.down))]
        {
            match wanted {
                Lost::None if count > 0 => judgement.wrong.push(format!("{count} lost {way}, and none was")),
                Lost::Some if count == 0 => judgement.wrong.push(format!("nothing lost {way}, and some was")),
                Lost::Any | Lost::None | Lost::Some => {}
            }
        }
        judgement
    }
}

impl MustFind {
    fn is(&self, cause: Cause) -> bool {
        self.cause == cause || self.or.contains(&cause)
    }

    fn judge(&self, report: &Report, judgement: &mut Judgement) {
        let Some(found) = report.findings.iter().find(|found| self.is(found.cause)) else {
            judgement.missed.push(self.cause);
            judgement.wrong.push(format!("{} is not found", self.cause));
            return;
        };
        judgement.found.push(self.cause);
        if self.direction.is_some() && self.direction != found.direction {
            judgement
                .wrong
                .push(format!("{} goes {:?}, not {:?}", self.cause, self.direction, found.direction));
        }
        if self.side.is_some() && self.side != found.side {
            judgement.wrong.push(format!("{} is at {:?}, not {:?}", self.cause, self.side, found.side));
        }
        // Another cause that will do as well need not have the same parameters.
        if found.cause != self.cause {
            return;
        }
        for (name, near) in &self.parameters {
            self.judge_parameter(name, near, found.parameters.get(name), judgement);
        }
    }

    fn judge_parameter(&self, name: &str, near: &Near, said: Option<&Value>, judgement: &mut Judgement) {
        let cause = self.cause;
        match near {
            Near::Text(wanted) => {
                if said.and_then(Value::as_str) != Some(wanted) {
                    judgement.wrong.push(format!("{cause}: {name} is {said:?}, not {wanted}"));
                }
            }
            Near::Number { is, within, plus_minus } => {
                let (Some(said), Some(is)) = (said.and_then(Value::as_f64), is.value()) else {
                    judgement.wrong.push(format!("{cause}: {name} is {said:?}, not a number"));
                    return;
                };
                let relative = if is == 0.0 { said } else { (said - is) / is };
                judgement.errors.push(ParameterError { cause, parameter: name.to_owned(), relative });
                if (said - is).abs() > plus_minus.max(within * is.abs()) + 1e-9 {
                    judgement.wrong.push(format!("{cause}: {name} is said to be {said}, and is {is}"));
                }
            }
        }
    }
}
