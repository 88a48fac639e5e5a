//! From the judgements of all segments to findings: [`super::limits`] and [`super::losses`] draft them, here they get their
//! words.

use std::collections::BTreeMap;

use probe_protocol::DEFAULT_PORT;
use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Finding, Parameters, Rival, Side};

use super::Way;
use super::limits::{bufferbloat, limits};
use super::losses::{events, losses, one_way, reordering};
use crate::words;

pub(super) type Names<'n> = &'n dyn Fn(u32) -> String;

/// A finding before its words.
pub(super) struct Draft {
    pub(super) cause: Cause,
    pub(super) direction: Option<Direction>,
    pub(super) probability: f64,
    pub(super) parameters: Parameters,
    pub(super) evidence: Vec<Evidence>,
    pub(super) rival: Option<Rival>,
}

impl Draft {
    fn finding(self) -> Finding {
        let fill =
            words::Fill { parameters: &self.parameters, direction: self.direction, port: DEFAULT_PORT };
        let fix = words::fix(self.cause, &fill);
        Finding {
            cause: self.cause,
            severity: words::severity(self.cause),
            side: Side::Path,
            direction: self.direction,
            probability: (self.probability.min(0.99) * 1000.0).round() / 1000.0,
            parameters: self.parameters,
            evidence: self.evidence,
            rival: self.rival,
            fix,
            commands: Vec::new(),
        }
    }
}

pub(super) fn findings(ways: &BTreeMap<Option<Direction>, Way>, names: Names<'_>) -> Vec<Finding> {
    let mut drafts: Vec<Draft> = Vec::new();
    for (direction, way) in ways {
        let (events, explained) = events(*direction, way);
        drafts.extend(limits(*direction, way, names));
        drafts.extend(bufferbloat(*direction, way));
        drafts.extend(reordering(*direction, way));
        drafts.extend(losses(*direction, way, explained));
        drafts.extend(events);
    }
    one_way(ways, &mut drafts);
    let mut findings: Vec<Finding> = drafts.into_iter().map(Draft::finding).collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    findings
}

pub(super) fn bits(rate: f64) -> u64 {
    (rate * 8.0).round() as u64
}

pub(super) fn round(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

pub(super) fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

pub(super) fn mbit(rate: f64) -> String {
    format!("{:.3} Mbit/s", rate * 8.0 / 1e6)
}
