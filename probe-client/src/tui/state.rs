//! What a watcher of a running soak sees: observations in, rows and lines out. Time is an argument.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use probe_analysis::observation::{End, Fate, FlowNo, HostFault, Observation, Probe, Purpose};
use probe_protocol::time::Timestamp;

use super::series::{Series, since};
use crate::engine::Phase;
use crate::record::Status;

/// Flows that are over and still shown, at most: a night has thousands.
const MAX_ENDED: usize = 32;
/// Events that are kept, at most.
const MAX_EVENTS: usize = 500;
/// What happens to several flows within this is one event.
const TOGETHER: Duration = Duration::from_secs(2);

/// Whether a flow works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// Not open yet.
    Opening,
    /// Open.
    Open,
    /// Open, and nothing comes back.
    Silent,
    /// Over, and how.
    Over(&'static str),
}

/// One flow.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) health: Health,
    pub(crate) sent: u64,
    pub(crate) lost_up: u64,
    pub(crate) lost_down: u64,
    pub(crate) lost_unknown: u64,
    pub(crate) excluded: u64,
    /// The latest round trip.
    pub(crate) rtt: Option<Duration>,
    pub(crate) series: Series,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// When.
    pub(crate) at: Timestamp,
    /// In words.
    pub(crate) says: String,
}

/// What several flows did at about the same time, until it is told.
#[derive(Clone, Debug)]
struct Gathered {
    at: Timestamp,
    does: String,
    flows: Vec<String>,
    /// What is said of it where it is one flow alone.
    alone: Option<String>,
}

/// Everything that is shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) target: String,
    /// Single flows are drawn: lines tell of all together.
    pub(crate) charts: bool,
    /// How long is measured; none for until it is stopped.
    pub(crate) length: Option<Duration>,
    pub(crate) start: Option<Timestamp>,
    /// When the part under way began: a run that was resumed began before.
    pub(crate) began: Option<Timestamp>,
    pub(crate) phase: Option<Phase>,
    pub(crate) stopping: bool,
    pub(crate) rows: BTreeMap<FlowNo, Row>,
    ended: VecDeque<FlowNo>,
    pub(crate) all: Option<Row>,
    pub(crate) events: VecDeque<Told>,
    /// Of those, how many have been handed out by [`State::news`].
    told: usize,
    gathered: Vec<Gathered>,
    pub(crate) file: Status,
    /// Flows of every kind that are open, those without a row included.
    open: BTreeSet<FlowNo>,
    pub(crate) flows_opened: u64,
}

fn row(name: &str) -> Row {
    Row {
        name: name.to_owned(),
        health: Health::Opening,
        sent: 0,
        lost_up: 0,
        lost_down: 0,
        lost_unknown: 0,
        excluded: 0,
        rtt: None,
        series: Series::default(),
    }
}

impl Row {
    /// Counts a probe; `at`: since the run's start, where it is to be drawn.
    fn probe(&mut self, probe: &Probe, at: Option<Duration>) {
        match probe.fate {
            Fate::Excluded(_) => {
                self.excluded += 1;
                return;
            }
            Fate::Received => {}
            Fate::LostUp => self.lost_up += 1,
            Fate::LostDown => self.lost_down += 1,
            Fate::LostUnknown => self.lost_unknown += 1,
        }
        self.sent += 1;
        let rtt = probe
            .reply
            .map(|reply| reply.kernel.unwrap_or(reply.at).since(probe.sent).saturating_sub(reply.dwell));
        self.rtt = rtt.or(self.rtt);
        if let Some(at) = at {
            self.series.add(at, rtt);
        }
    }

    /// All that were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost_up + self.lost_down + self.lost_unknown
    }
}

impl State {
    pub(crate) fn new(target: String, length: Option<Duration>) -> Self {
        Self { target, charts: true, length, all: Some(row("all flows")), ..Self::default() }
    }

    /// Takes what was seen, and where the run is.
    pub(crate) fn see(&mut self, observation: &Observation, phase: Option<Phase>) {
        self.phase = phase.or(self.phase);
        match observation {
            Observation::RunStarted(o) => {
                self.start.get_or_insert(o.at);
                self.began = Some(o.at);
            }
            Observation::Resolved(o) => {
                if let Some(error) = &o.error {
                    let at = self.start.unwrap_or_default();
                    self.tell(at, format!("{}: {error}", o.host));
                }
            }
            Observation::FlowPlanned(o) => {
                // Those that measure: others open and close all the time.
                if !matches!(o.purpose, Purpose::Idle | Purpose::PathMtu | Purpose::Fragments) {
                    self.rows.insert(o.flow, row(&o.name));
                }
            }
            Observation::FlowOpened(o) => {
                self.flows_opened += u64::from(self.open.insert(o.flow));
                self.health(o.flow, Health::Open);
            }
            Observation::FlowEnded(o) => self.ended(o.flow, o.at, &o.end),
            Observation::Probe(o) => {
                let at = since(self.start, o.sent);
                if let Some(row) = self.rows.get_mut(&o.flow) {
                    row.probe(o, self.charts.then_some(at));
                }
                if let Some(all) = &mut self.all {
                    all.probe(o, Some(at));
                }
            }
            Observation::Silence(o) => {
                self.health(o.flow, if o.over { Health::Open } else { Health::Silent });
                self.gather(o.at, o.flow, if o.over { "answer again" } else { "fell silent" }, None);
            }
            Observation::Moved(o) => {
                let alone = format!("comes from {} now (it was {})", o.new, o.old);
                let does = if o.old.ip() == o.new.ip() {
                    format!("come from other ports of {} now", o.new.ip())
                } else {
                    format!("come from {} now (it was {})", o.new.ip(), o.old.ip())
                };
                self.gather(o.at, o.flow, &does, Some(alone));
            }
            Observation::ListenerRestarted(o) => {
                let gone = o.at.since(o.last_seen).as_secs_f64();
                self.tell(o.at, format!("the listener was started anew; it was gone for {gone:.1} s"));
            }
            Observation::NameChanged(o) => {
                let list = |ips: &[std::net::IpAddr]| {
                    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                };
                self.tell(o.at, format!("{} is {} now (it was {})", o.host, list(&o.new), list(&o.old)));
            }
            Observation::Host(o) => {
                if matches!(o.what, HostFault::NotRunning) {
                    self.began = Some(o.to);
                }
                if let Some(says) = host(&o.what, o.to.since(o.from)) {
                    self.tell(o.to, says);
                }
            }
            Observation::Attempt(_)
            | Observation::Channel(_)
            | Observation::AnsweredLate(_)
            | Observation::Missed(_)
            | Observation::Rewritten(_)
            | Observation::Datagrams(_)
            | Observation::Arrivals(_)
            | Observation::Proxy(_)
            | Observation::Tcp(_)
            | Observation::PathMtu(_)
            | Observation::IdleGap(_)
            | Observation::Fragment(_)
            | Observation::Watch(_)
            | Observation::StreamEnd(_)
            | Observation::Load(_)
            | Observation::Ceiling(_)
            | Observation::RunEnded(_) => {}
        }
    }

    /// Takes how recording goes; what changed is told.
    pub(crate) fn recording(&mut self, at: Timestamp, status: Status) {
        match (&self.file.trouble, &status.trouble) {
            (None, Some(why)) => {
                self.tell(at, format!("{why}: measuring goes on, and writing is tried again each second"));
            }
            (Some(_), None) => self.tell(at, "what was measured is being written again".to_owned()),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.file = status;
    }

    /// Tells what was gathered long enough ago.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.gathered).into_iter().partition(|g| now.since(g.at) >= TOGETHER);
        self.gathered = rest;
        for Gathered { at, does, flows, alone } in due {
            let does = alone.filter(|_| flows.len() == 1).unwrap_or(does);
            const NAMED: usize = 3;
            let more = flows.len().saturating_sub(NAMED);
            let named = flows.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.tell(at, format!("{named}{more} {does}"));
        }
    }

    /// Events that were not handed out yet.
    pub(crate) fn news(&mut self) -> Vec<Told> {
        let new = self.events.iter().skip(self.told).cloned().collect();
        self.told = self.events.len();
        new
    }

    /// `42 flows open, 5 of them silent`.
    pub(crate) fn open_flows(&self) -> String {
        let silent = self.rows.values().filter(|row| row.health == Health::Silent).count();
        let silent = if silent > 0 { format!(", {silent} of them silent") } else { String::new() };
        format!("{} flows open{silent}", self.open.len())
    }

    /// Time since the run's start.
    pub(crate) fn elapsed(&self, now: Timestamp) -> Duration {
        since(self.start, now)
    }

    /// Time that is left of the part under way; none where it has no end.
    pub(crate) fn left(&self, now: Timestamp) -> Option<Duration> {
        Some(self.length?.saturating_sub(since(self.began, now)))
    }

    fn health(&mut self, flow: FlowNo, health: Health) {
        if let Some(row) = self.rows.get_mut(&flow) {
            row.health = health;
        }
    }

    fn ended(&mut self, flow: FlowNo, at: Timestamp, end: &End) {
        let (word, does) = match end {
            End::Finished => ("finished", None),
            End::NeverOpened => ("not opened", Some("did not open")),
            End::Reset => ("reset", Some("was reset")),
            End::Closed => ("closed", Some("was closed")),
            End::TimedOut => ("timed out", Some("timed out")),
            End::ListenerRestarted => ("forgotten", None),
            End::Error(_) => ("failed", Some("failed")),
        };
        self.open.remove(&flow);
        self.health(flow, Health::Over(word));
        if let Some(does) = does {
            self.gather(at, flow, does, None);
        }
        if self.rows.contains_key(&flow) {
            self.ended.push_back(flow);
        }
        while self.ended.len() > MAX_ENDED {
            if let Some(oldest) = self.ended.pop_front() {
                self.rows.remove(&oldest);
            }
        }
    }

    fn gather(&mut self, at: Timestamp, flow: FlowNo, does: &str, alone: Option<String>) {
        let Some(row) = self.rows.get(&flow) else { return };
        let name = row.name.clone();
        match self.gathered.iter_mut().find(|g| g.does == does) {
            Some(gathered) => gathered.flows.push(name),
            None => {
                let does = does.to_owned();
                self.gathered.push(Gathered { at, does, flows: vec![name], alone });
            }
        }
    }

    fn tell(&mut self, at: Timestamp, says: String) {
        self.events.push_back(Told { at, says });
        while self.events.len() > MAX_EVENTS {
            self.events.pop_front();
            self.told = self.told.saturating_sub(1);
        }
    }
}

/// What a host did, in words; none for what is too small to interrupt anybody for.
fn host(fault: &HostFault, length: Duration) -> Option<String> {
    let s = length.as_secs_f64();
    match fault {
        HostFault::Suspended => Some(format!("this computer was asleep for {s:.1} s")),
        HostFault::ClockStepped(ns) => {
            Some(format!("this computer's clock was set by {:+.3} s", *ns as f64 / 1e9))
        }
        HostFault::Stalled if s < 1.0 => None,
        HostFault::Stalled => Some(format!("this computer was too busy to measure for {s:.1} s")),
        HostFault::ReceiveOverflow(n) => {
            Some(format!("this computer had no room for {n} packets that had arrived"))
        }
        HostFault::SendFailed(says) => Some(format!("this computer refused to send: {says}")),
        HostFault::InterfaceChanged { old, new } => Some(format!("the way out became {new} (it was {old})")),
        HostFault::ListenerStalled => Some(format!("the listener was too busy for {s:.1} s")),
        HostFault::NotRunning => Some(format!("the run goes on; it had stopped for {s:.0} s")),
        HostFault::NotRecorded(says) => Some(says.clone()),
    }
}
