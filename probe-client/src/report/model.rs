//! What is reported of a run, in the shape that other programs read. What was not measured is null.

use probe_analysis::model::{
    AddressReachability, ClockSummary, FlowGroup, FlowSummary, Instrument, LoadedDelay, Meanwhile,
    PathMtuSummary, PathSummary, Reachability, Recovery, Refused, TransferSummary, Unlimited, Verdict,
};
use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Finding};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The version of this shape. It grows when a field changes its meaning or goes; new fields do not change it.
pub const SCHEMA_VERSION: u32 = 1;

/// One run's report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The version of this shape: 1.
    pub schema_version: u32,
    /// What made it.
    pub tool: Tool,
    /// Which run it is of.
    pub run: Run,
    /// The outcome in one sentence.
    pub verdict: Verdict,
    /// The listener answered and refused; null where it did not.
    pub refused: Option<Refused>,
    /// What gets through, to the best of the target's addresses.
    pub reachability: Reachability,
    /// What gets through to each address.
    pub reachability_by_address: Vec<AddressReachability>,
    /// What is wrong, the most severe first.
    pub findings: Vec<Finding>,
    /// For each finding, in the same order: who can change it, and what to tell them.
    pub advice: Vec<Advice>,
    /// What the path does to packets, in few figures.
    pub path: Option<PathSummary>,
    /// The figures of each flow.
    pub flows: Vec<FlowSummary>,
    /// The same of flows that are alike, together; recorded by versions that told it.
    #[serde(default)]
    pub groups: Vec<FlowGroup>,
    /// What happened when.
    pub events: Vec<Event>,
    /// What a rehearsed transfer got, by direction.
    pub transfers: Vec<TransferSummary>,
    /// Delay of each class while load is on the line, beside that without.
    pub under_load: Vec<LoadedDelay>,
    /// Up to which rates a load found no limit, by direction; only where one was laid on the path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlimited: Vec<Unlimited>,
    /// Largest packets in each direction.
    pub path_mtu: Vec<PathMtuSummary>,
    /// The clocks of both ends.
    pub clock: Option<ClockSummary>,
    /// How good the measurement itself was.
    pub instrument: Instrument,
    /// What this run did not examine, and why.
    pub not_examined: Vec<NotExamined>,
}

/// What made a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tool {
    /// The program.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// Which run a report is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    /// The session's id, as the listener knows it too; null where none came about.
    pub id: Option<String>,
    /// The command: `check`.
    pub kind: String,
    /// When it began, RFC 3339.
    pub started: Option<String>,
    /// How long it took, seconds.
    pub duration_s: f64,
    /// The target as given, without secrets: `HOST:PORT`.
    pub target: String,
    /// The client's address and port as the listener saw them.
    pub client_observed_as: Option<String>,
    /// It did all it had planned, rather than being stopped.
    pub complete: bool,
    /// The client had an invite.
    pub invited: bool,
    /// The listener gave all rights; null where no flow opened.
    pub authenticated: Option<bool>,
    /// At least one flow opened, so something was measured.
    pub measured: bool,
    /// Both ends were in one process on loopback.
    pub local: bool,
    /// The listener's version.
    pub listener_version: Option<String>,
}

/// What to do about a finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Advice {
    /// The finding's cause.
    pub cause: Cause,
    /// What is wrong, in one sentence for people.
    pub says: String,
    /// Who is likely able to change it.
    pub who: String,
    /// A paragraph to send them; null where nobody else is needed.
    pub message: Option<String>,
}

/// Something that happened during the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// What: `outage` (all flows silent), `silence` (some flows silent), `loss`, `delay-shift`, `moved`,
    /// `listener-restarted`, `suspended`, `clock-stepped`, `stalled`, `receive-overflow`, `send-failed`,
    /// `interface-changed`, `listener-stalled`, `not-running`, `not-recorded`.
    pub kind: String,
    /// Start, RFC 3339.
    pub from: Option<String>,
    /// End, RFC 3339.
    pub to: Option<String>,
    /// Start, seconds after the run's.
    pub from_s: f64,
    /// End, seconds after the run's start.
    pub to_s: f64,
    /// Which flows.
    pub flows: Vec<String>,
    /// Which way.
    pub direction: Option<Direction>,
    /// Packets lost in it.
    pub lost: Option<u64>,
    /// Its cause, where known.
    pub cause: Option<Cause>,
    /// How long it took, seconds.
    pub length_s: f64,
    /// How it ended, of an outage or silence.
    pub recovery: Option<Recovery>,
    /// What else was seen at the time, of outages, silences and losses.
    pub meanwhile: Option<Meanwhile>,
    /// In words.
    pub says: String,
}

/// Something that a run did not examine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NotExamined {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}
