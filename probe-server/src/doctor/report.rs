//! What the doctor found, as a model; rendered as text and as JSON.

use std::fmt::Write as _;

use probe_protocol::finding::{Finding, Severity};
use serde::Serialize;

/// Version of the JSON document.
pub const SCHEMA_VERSION: u32 = 1;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Looked at, and good.
    Ok,
    /// Looked at, and not good.
    Problem,
    /// Could not be decided; [`Check::needs`] says what it would take.
    Unknown,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable id, such as `port` or `firewall-udp`.
    pub name: String,
    /// How it ended.
    pub state: State,
    /// What was seen, in a sentence.
    pub says: String,
    /// What it would take to decide it, where it is unknown: privileges, a tool, a platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// Commands that would change it, where some would.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<probe_protocol::finding::Command>,
}

impl Check {
    pub(super) fn new(name: &str, state: State, says: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state, says: says.into(), needs: None, commands: Vec::new() }
    }

    pub(super) fn ok(name: &str, says: impl Into<String>) -> Self {
        Self::new(name, State::Ok, says)
    }

    pub(super) fn problem(name: &str, says: impl Into<String>) -> Self {
        Self::new(name, State::Problem, says)
    }

    pub(super) fn unknown(name: &str, says: impl Into<String>, needs: impl Into<String>) -> Self {
        Self { needs: Some(needs.into()), ..Self::new(name, State::Unknown, says) }
    }

    pub(super) fn command(mut self, place: impl Into<String>, run: impl Into<String>) -> Self {
        self.commands.push(command(place, run));
        self
    }
}

pub(super) fn command(place: impl Into<String>, run: impl Into<String>) -> probe_protocol::finding::Command {
    probe_protocol::finding::Command { place: place.into(), run: run.into() }
}

/// Everything the doctor saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What was looked at, in a fixed order.
    pub checks: Vec<Check>,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        let mut report = Self { schema_version: SCHEMA_VERSION, checks: Vec::new(), findings: Vec::new() };
        for part in parts {
            report.checks.extend(part.checks);
            report.findings.extend(part.findings);
        }
        report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        report
    }

    /// The check of this name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// The findings as a running listener tells them with `--json`: one object a line.
    pub fn events(&self) -> impl Iterator<Item = FindingEvent<'_>> {
        self.findings.iter().map(|finding| FindingEvent { event: "finding", finding })
    }

    /// The findings for the person at a running listener, with what to do; empty where there are none.
    pub fn brief(&self) -> String {
        let mut out = String::new();
        self.write_findings(&mut out);
        harmless(out.trim_start())
    }

    /// 0, or 1 with a finding at or above `degraded`.
    pub fn exit_status(&self) -> u8 {
        u8::from(self.findings.iter().any(|finding| finding.severity >= Severity::Degraded))
    }

    /// The document of `probe-server doctor --json`.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// The report for a person: what is wrong and what to do first, then every check.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let unknown = self.checks.iter().filter(|check| check.state == State::Unknown).count();
        let problems = self.checks.iter().filter(|check| check.state == State::Problem).count();
        // Writing to a String cannot fail.
        let _ = match (self.findings.len(), problems) {
            (0, 0) if unknown == 0 => writeln!(out, "Nothing is wrong on this host."),
            (0, 0) => {
                writeln!(out, "Nothing wrong was found on this host; {unknown} checks could not be decided.")
            }
            (0, n) => writeln!(out, "This host can take the product; {n} things could be better."),
            (1, _) => writeln!(out, "One thing on this host stands in the way."),
            (n, _) => writeln!(out, "{n} things on this host stand in the way."),
        };
        self.write_findings(&mut out);
        let _ = writeln!(out, "\nLooked at:");
        let width = self.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
        for check in &self.checks {
            let state = match check.state {
                State::Ok => "ok     ",
                State::Problem => "PROBLEM",
                State::Unknown => "unknown",
            };
            let _ = writeln!(out, "  {state}  {:width$}  {}", check.name, check.says);
            if let Some(needs) = &check.needs {
                let _ = writeln!(out, "           {:width$}  needs: {needs}", "");
            }
            for command in &check.commands {
                let _ = writeln!(out, "           {:width$}  {}: {}", "", command.place, command.run);
            }
        }
        harmless(&out)
    }

    fn write_findings(&self, out: &mut String) {
        for finding in &self.findings {
            let _ =
                writeln!(out, "\n{} [{}] {}", word(finding.severity), finding.cause.id(), finding.cause.is());
            for evidence in &finding.evidence {
                let _ = writeln!(out, "  seen: {}", evidence.says);
            }
            let _ = writeln!(out, "  do:   {}", finding.fix);
            for command in &finding.commands {
                let _ = writeln!(out, "        {}:\n          {}", command.place, command.run);
            }
        }
    }
}

/// A finding as a line of a running listener's `--json`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FindingEvent<'a> {
    event: &'static str,
    #[serde(flatten)]
    finding: &'a Finding,
}

/// A certificate's issuer or a program's name is a stranger's text: in a terminal its control characters and
/// overrides of direction could make the report say anything.
fn harmless(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if (c.is_control() && c != '\n') || turns(c) { '\u{fffd}' } else { c }).collect()
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Blocking => "BLOCKING",
        Severity::Degraded => "DEGRADED",
        Severity::Info => "INFO",
    }
}

/// What one subject of the doctor adds to the report.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) checks: Vec<Check>,
    pub(super) findings: Vec<Finding>,
}

impl Part {
    pub(super) fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    pub(super) fn finding(mut self, finding: Finding) -> Self {
        self.findings.push(finding);
        self
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.checks.extend(other.checks);
        self.findings.extend(other.findings);
        self
    }
}

/// A finding on the listener's side with what every one of the doctor's has in common.
pub(super) fn finding(
    cause: probe_protocol::cause::Cause,
    severity: Severity,
    says: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    let evidence = probe_protocol::finding::Evidence { says: says.into(), ..Default::default() };
    Finding {
        cause,
        severity,
        side: probe_protocol::finding::Side::Listener,
        direction: None,
        probability: 1.0,
        parameters: probe_protocol::finding::Parameters::default(),
        evidence: vec![evidence],
        rival: None,
        fix: fix.into(),
        commands: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use probe_protocol::cause::Cause;

    use super::*;

    fn report(severity: Severity, says: &str) -> Report {
        let found = finding(Cause::EgressIntercepted, severity, says, "Exempt it.");
        Report::new([Part::default().check(Check::problem("licence-tls", says)).finding(found)])
    }

    #[test]
    fn the_status_follows_the_worst_finding() {
        assert_eq!(Report::new([]).exit_status(), 0);
        assert_eq!(report(Severity::Info, "x").exit_status(), 0);
        assert_eq!(report(Severity::Degraded, "x").exit_status(), 1);
        assert_eq!(report(Severity::Blocking, "x").exit_status(), 1);
    }

    #[test]
    fn a_strangers_text_does_nothing_to_the_terminal() {
        let report = report(Severity::Blocking, "issued by \u{1b}[2J\u{202e}evil\r");
        for text in [report.text(), report.brief()] {
            assert!(text.contains("evil") && !text.contains(['\u{1b}', '\u{202e}', '\r']), "{text}");
        }
    }

    #[test]
    fn a_running_listener_tells_findings_line_by_line() {
        let report = report(Severity::Blocking, "seen");
        let lines: Vec<String> =
            report.events().map(|event| serde_json::to_string(&event).unwrap()).collect();
        assert!(
            lines[0].starts_with(r#"{"event":"finding","cause":"egress-intercepted","severity":"blocking""#),
            "{lines:?}"
        );
        assert_eq!(Report::new([]).events().count(), 0);
        assert_eq!(Report::new([]).brief(), "");
        assert!(report.brief().starts_with("BLOCKING [egress-intercepted]"));
    }
}
