//! A finding: one cause, with everything an admin needs to believe it and act on it. Both programs say what they
//! found in this one shape.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cause::Cause;

/// How much a finding matters to the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Good to know.
    Info,
    /// The product will work badly or stop at times.
    Degraded,
    /// The product will not work.
    Blocking,
}

/// Where the cause sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// On the client's host.
    Client,
    /// In the client's own network, before its gateway.
    ClientNetwork,
    /// Between the client's gateway and the listener's host.
    Path,
    /// On the listener's host, or the router before it.
    Listener,
    /// On the path or at an end: what was seen does not tell them apart.
    PathOrEndpoint,
}

/// Which way traffic is harmed. "Up" is client to listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Client to listener.
    Up,
    /// Listener to client.
    Down,
    /// Both ways.
    Both,
}

/// What was measured of the cause. A parameter that was not measured is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Bits per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_bps: Option<u64>,
    /// Depth of a token bucket, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u64>,
    /// Packets per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<f64>,
    /// How long a penalty holds, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_s: Option<f64>,
    /// Idle time after which state is forgotten, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Age of a flow, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_s: Option<f64>,
    /// A count of packets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// A count of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds from one recurrence to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_s: Option<f64>,
    /// How long it lasts, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_s: Option<f64>,
    /// Largest IP packet that gets through, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu_bytes: Option<u32>,
    /// Lost over sent, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_ratio: Option<f64>,
    /// Share of source ports, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Delay added, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_delay_ms: Option<f64>,
    /// A plain number (of flows, of ports, of packets in a run), as the cause defines it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<u64>,
    /// Length of a gap, seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_s: Option<f64>,
    /// How far a clock was set, seconds; forward is positive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step_s: Option<f64>,
    /// What it was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// What it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// Issuer of a certificate that should not be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Why, in the system's or the network's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which firewall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firewall: Option<String>,
    /// Which program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Which of the kinds that the cause defines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Wall time of a moment, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moment: Option<String>,
    /// What each mark became, as `"46" -> "0"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<BTreeMap<String, String>>,
}

/// One piece of evidence: which flows, when, and what they showed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// Ids of the flows.
    pub flows: Vec<String>,
    /// Start of the window, seconds since the run began; null where it has none.
    pub from_s: Option<f64>,
    /// End of the window, seconds since the run began; null where it has none.
    pub to_s: Option<f64>,
    /// What was seen, in words, with the counts.
    pub says: String,
    /// The statistical test, where one decided.
    pub test: Option<String>,
    /// Its p-value, 0 to 1.
    pub p: Option<f64>,
}

/// The explanation that came nearest, and why it was not taken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rival {
    /// The other cause.
    pub cause: Cause,
    /// What speaks against it.
    pub rejected_because: String,
}

/// A command that mends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Command {
    /// The program or platform it is for: `firewalld`, `ufw`, `nftables`, `Windows Defender Firewall`, `macOS`.
    #[serde(rename = "where")]
    pub place: String,
    /// What to type.
    pub run: String,
}

/// One cause found, with its evidence and its fix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The cause.
    pub cause: Cause,
    /// How much it matters.
    pub severity: Severity,
    /// Where it sits.
    pub side: Side,
    /// Which way; null where it has no direction.
    pub direction: Option<Direction>,
    /// Probability that this is the cause, 0 to 1.
    pub probability: f64,
    /// What was measured of it.
    pub parameters: Parameters,
    /// What speaks for it.
    pub evidence: Vec<Evidence>,
    /// The nearest rival; null where there is none.
    pub rival: Option<Rival>,
    /// What to change, in words.
    pub fix: String,
    /// Commands that do it.
    pub commands: Vec<Command>,
}
