//! A scenario: a network that behaves in a known way, what is run in it, and what must be said about it.
//!
//! Scenarios are files in `tests/scenarios/`. Both networks of the lab run them; [`judge`] compares what a report
//! says with what had to be said.

pub mod judge;
pub mod log;
mod vary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction as Harm, Side};
use serde::{Deserialize, Serialize};

use crate::middlebox::Topology;
use crate::packet::Protocol;
use crate::rules::units::Span;
use crate::rules::{BadRule, Moment, Rule};

/// Why a file is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is not what a scenario looks like.
    #[error("{name}: {error}")]
    Form {
        /// Which scenario.
        name: String,
        /// Where and what.
        error: toml::de::Error,
    },
    /// A varied value makes no sense, or a network is asked for what it cannot do.
    #[error("{name}: {what}")]
    Sense {
        /// Which scenario.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A rule makes no sense.
    #[error("{name}: {error}")]
    Rule {
        /// Which scenario.
        name: String,
        /// Which rule, and what is wrong.
        error: BadRule,
    },
    /// There is none of this name.
    #[error("there is no scenario `{0}`; `lab list` shows them")]
    Unknown(String),
}

/// One scenario, its values drawn for one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// What goes on, in a sentence.
    pub about: String,
    /// Which networks can run it; left out, both.
    #[serde(default = "both")]
    pub networks: Vec<Network>,
    /// Who is joined to what.
    #[serde(default)]
    pub topology: Topology,
    /// What listens.
    #[serde(default)]
    pub listener: Listener,
    /// What the network does.
    #[serde(default)]
    pub rule: Vec<Rule>,
    /// What happens to the hosts meanwhile.
    #[serde(default)]
    pub event: Vec<Event>,
    /// What is run.
    #[serde(default)]
    pub plan: Plan,
    /// What must be said.
    #[serde(default)]
    pub expect: Expect,
    /// What the seed drew.
    #[serde(skip)]
    pub drawn: BTreeMap<String, String>,
}

/// A network of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// Virtual, with a virtual clock.
    Simulated,
    /// Namespaces and TUN devices.
    Kernel,
}

fn both() -> Vec<Network> {
    vec![Network::Simulated, Network::Kernel]
}

/// What listens on the port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listener {
    /// Which program.
    pub kind: ListenerKind,
    /// Its further arguments.
    pub arguments: Vec<String>,
}

/// Which program listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListenerKind {
    /// The real one.
    #[default]
    ProbeServer,
    /// None: the host is there and its kernel refuses.
    Nothing,
    /// An ordinary web server, on TCP.
    WebServer,
}

/// Something that happens to a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// The listener ends, and starts again.
    RestartListener {
        /// When, since the plan started.
        at: Span,
        /// How long it is away.
        gap: Span,
    },
    /// The listener's process stands still.
    StallListener {
        /// When, since the plan started.
        at: Span,
        /// For how long.
        length: Span,
    },
    /// The client's process stands still.
    StallClient {
        /// When, since the plan started.
        at: Span,
        /// For how long.
        length: Span,
    },
    /// The client's NAT forgets every mapping.
    ForgetMappings {
        /// When, since the plan started.
        at: Span,
    },
    /// The client's machine sleeps: its monotonic clock stands still, and nothing runs. Simulated alone.
    SuspendClient {
        /// When, since the plan started.
        at: Span,
        /// For how long.
        length: Span,
    },
    /// The client's wall clock is set. Simulated alone.
    StepClock {
        /// When, since the plan started.
        at: Span,
        /// How far, seconds; forward is positive.
        by_s: f64,
    },
    /// The client's way to the network is gone for a while. Simulated alone.
    LoseWay {
        /// When, since the plan started.
        at: Span,
        /// For how long.
        length: Span,
        /// It comes back by another interface, with another address and gateway; else it is the same again.
        #[serde(default)]
        another: bool,
    },
    /// The client's own firewall forbids a protocol out, from the start. Simulated alone.
    FilterClient {
        /// Which.
        protocol: Protocol,
    },
    /// The side host loads the path with UDP.
    CrossTraffic {
        /// When, since the plan started.
        at: Span,
        /// For how long.
        length: Span,
        /// How much.
        rate: crate::rules::units::BitRate,
        /// In datagrams of this size.
        #[serde(default = "full_packet")]
        size: u16,
    },
}

const fn full_packet() -> u16 {
    1200
}

/// What is run in the network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// Which command.
    pub kind: PlanKind,
    /// Its further arguments.
    pub arguments: Vec<String>,
    /// For `soak` and `rehearse`: how long.
    #[serde(rename = "for")]
    pub length: Option<Span>,
    /// Gives the client the invite; else only the address.
    pub invited: bool,
    /// The client's further environment.
    pub environment: BTreeMap<String, String>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            kind: PlanKind::Check,
            arguments: Vec::new(),
            length: None,
            invited: true,
            environment: BTreeMap::new(),
        }
    }
}

/// Which command a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanKind {
    /// `probe-client check`.
    Check,
    /// `probe-client soak`.
    Soak,
    /// `probe-client rehearse`.
    Rehearse,
    /// `probe-server doctor`, on the listener's host.
    Doctor,
}

/// What must be said. Every cause that is neither in `must` nor in `may` is a false accusation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// The exit status; left out, any.
    pub status: Option<i32>,
    /// Each transport's reachability, by its name in the report.
    pub reachability: BTreeMap<String, String>,
    /// What must be found.
    pub must: Vec<MustFind>,
    /// What may be said too.
    pub may: Vec<Cause>,
    /// Causes that the report must say were not examined: nobody could tell them from where it stood.
    pub not_examined: Vec<Cause>,
    /// What the ledger must say of probes lost, each way.
    pub losses: Losses,
}

/// A cause that must be found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MustFind {
    /// Which.
    pub cause: Cause,
    /// Any of these will do as well.
    #[serde(default)]
    pub or: Vec<Cause>,
    /// Which way it must say; left out, any.
    #[serde(default)]
    pub direction: Option<Harm>,
    /// On which side it must say; left out, any.
    #[serde(default)]
    pub side: Option<Side>,
    /// Parameters, by their names in the report.
    #[serde(default)]
    pub parameters: BTreeMap<String, Near>,
}

/// A value that a parameter must have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Near {
    /// This number, within a tolerance.
    Number {
        /// What it is, with a unit where it is a text.
        is: Quantity,
        /// How far off it may be, as a share of it.
        #[serde(default)]
        within: f64,
        /// Or how far off it may be, in the parameter's own unit; the larger counts.
        #[serde(default)]
        plus_minus: f64,
    },
    /// This text, exactly.
    Text(String),
}

/// A number, or a text that says one with a unit (`"12M"`, `"20s"`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Quantity {
    /// A plain number.
    Number(f64),
    /// With a unit.
    Text(String),
}

impl Quantity {
    /// The plain number: seconds, bits per second, bytes. `None` where the text is none.
    pub fn value(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => crate::rules::units::value(text),
        }
    }
}

/// What the ledger must say of lost probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Losses {
    /// Client to listener.
    pub up: Lost,
    /// Listener to client.
    pub down: Lost,
}

/// How many were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// Any number.
    #[default]
    Any,
    /// None.
    None,
    /// At least one.
    Some,
}

impl Scenario {
    /// Reads a scenario from its text and draws its values.
    pub fn parse(name: &str, text: &str, seed: u64) -> Result<Self, ScenarioError> {
        let form = |error| ScenarioError::Form { name: name.to_owned(), error };
        let mut table: toml::Table = text.parse().map_err(form)?;
        let drawn = vary::resolve(&mut table, seed)
            .map_err(|what| ScenarioError::Sense { name: name.to_owned(), what })?;
        let mut scenario: Self = toml::Value::Table(table).try_into().map_err(form)?;
        scenario.name = name.to_owned();
        scenario.drawn = drawn;
        let needs_virtual = |event: &Event| {
            matches!(
                event,
                Event::SuspendClient { .. }
                    | Event::StepClock { .. }
                    | Event::FilterClient { .. }
                    | Event::LoseWay { .. }
            )
        };
        if scenario.runs_in(Network::Kernel) && scenario.event.iter().any(needs_virtual) {
            let what = "a real machine is neither put to sleep, nor set to another time, nor given another firewall or another way to the network; say `networks = [\"simulated\"]`";
            return Err(ScenarioError::Sense { name: name.to_owned(), what: what.into() });
        }
        scenario.check(seed)?;
        Ok(scenario)
    }

    /// Whether its network can be built: a rule that cannot be carried out is found now, not when it is first run.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn check(&self, seed: u64) -> Result<(), ScenarioError> {
        let name = || self.name.clone();
        if let Some(what) = self.topology.contradiction() {
            return Err(ScenarioError::Sense { name: name(), what: what.into() });
        }
        let start = Moment::default().now;
        crate::middlebox::Middlebox::new(&self.topology, &self.rule, seed, start)
            .map_err(|error| ScenarioError::Rule { name: name(), error })?;
        Ok(())
    }

    /// Reads a scenario of the repository by its name, or any by the path of its file.
    pub fn load(name: &str, seed: u64) -> Result<Self, ScenarioError> {
        let path =
            if name.ends_with(".toml") { PathBuf::from(name) } else { folder().join(format!("{name}.toml")) };
        if !path.is_file() {
            return Err(ScenarioError::Unknown(name.to_owned()));
        }
        let read = |error| ScenarioError::Read { path: path.clone(), error };
        let text = std::fs::read_to_string(&path).map_err(read)?;
        let stem = path.file_stem().map_or_else(|| name.into(), |stem| stem.to_string_lossy().into_owned());
        Self::parse(&stem, &text, seed)
    }

    /// The names of the repository's scenarios, in order.
    pub fn names() -> Result<Vec<String>, ScenarioError> {
        let read = |error| ScenarioError::Read { path: folder(), error };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder()).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if let Some(stem) = path.file_stem().filter(|_| path.extension().is_some_and(|e| e == "toml")) {
                names.push(stem.to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether a network can run it.
    pub fn runs_in(&self, network: Network) -> bool {
        self.networks.contains(&network)
    }
}

/// Where the repository keeps its scenarios.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

#[cfg(test)]
mod tests;
