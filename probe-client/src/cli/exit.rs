//! The exit statuses, all in one place. Others script against them.

use probe_protocol::finding::Severity;

use crate::report::Report;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Measured, and nothing at or above the asked severity was found.
    Clean,
    /// Measured, and such a thing was found.
    Found,
    /// The command line, a file or the target's form is wrong.
    Usage,
    /// Nothing could be measured: the listener is not reachable or refuses, or this host prevents it.
    NotMeasured,
    /// Stopped at once.
    Stopped,
}

impl Exit {
    /// The status that other programs see.
    pub const fn status(self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Found => 1,
            Self::Usage => 2,
            Self::NotMeasured => 3,
            Self::Stopped => 130,
        }
    }

    /// The status of a run that has a report.
    pub fn of(report: &Report, fail_on: Severity) -> Self {
        if !report.run.measured || report.refused.is_some() {
            Self::NotMeasured
        } else if report.findings.iter().any(|finding| finding.severity >= fail_on) {
            Self::Found
        } else {
            Self::Clean
        }
    }
}
