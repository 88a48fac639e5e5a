//! What is kept of the observations: enough for every statistic and every cause, in constant memory per flow.

mod flow;
mod life;
mod load;
mod pulse;
mod traffic;
mod watched;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

pub use self::flow::{FlowEvidence, Rewrites};
pub use self::life::{Gap, HEAD, Head, Life, Mark};
pub use self::load::{Beside, Loads};
pub use self::pulse::{Bin, Blackout, Pulse};
pub use self::traffic::{MarkFate, Marks, Traffic};
pub use self::watched::{Watched, Watches};
use crate::events::Ledger;
use crate::observation::{
    Attempt, Ceiling, Fate, FlowNo, Fragment, HostEvent, IdleGap, ListenerRestarted, Missed, Moved,
    Observation, OpeningArrivals, Outcome, PathMtu, Probe, ProxyTried, Purpose, Resolved, RunEnded,
    RunStarted,
};

/// Flows at most; what is said of further ones is counted and dropped.
const MAX_FLOWS: usize = 4096;
/// For so long after a flow's end the fates of its last probes may come; later ones count too, by themselves.
const LATE_FATES: Duration = Duration::from_secs(120);
/// An answer over TCP within this time was not sent again after a loss in a blackout: the round trip of a satellite and
/// its jitter, twice.
pub const PROMPT: Duration = Duration::from_millis(1500);
/// Events of one kind at most.
const MAX_EVENTS: usize = 1024;

/// Everything a run saw, condensed.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The run's start.
    pub run: Option<RunStarted>,
    /// The run's end.
    pub ended: Option<RunEnded>,
    /// What the target's name led to.
    pub resolved: Option<Resolved>,
    /// The flows, by number. Each by itself: in a row, half of the room would be left empty.
    pub flows: BTreeMap<FlowNo, Box<FlowEvidence>>,
    /// The latest word on what reached the listener of flows that had not opened: hellos that arrived, of how many.
    pub hellos: BTreeMap<FlowNo, (u32, u32)>,
    /// TCP connections that the listener accepted from this client, where it was asked.
    pub tcp_accepted: Option<u32>,
    /// Datagrams that came to the listener from this client's address and were none of its flows', or were altered: the
    /// latest count.
    pub strange_datagrams: Option<u32>,
    /// The listener's own address, where it told one.
    pub listener: Option<IpAddr>,
    /// What came of the proxy that the client's computer is configured with, where it was tried.
    pub proxy: Option<ProxyTried>,
    /// Changed sources.
    pub moves: Vec<Moved>,
    /// Restarts of the listener.
    pub restarts: Vec<ListenerRestarted>,
    /// What all flows of datagrams together sent and got back, over time.
    pub datagrams: Pulse,
    /// The same of all flows over TCP. Answered means within [`PROMPT`]: what TCP sends again after a blackout is no sign
    /// of life during it.
    pub streams: Pulse,
    /// Rungs of idle ladders that were decided.
    pub idle_gaps: Vec<IdleGap>,
    /// What became of fragments.
    pub fragments: Vec<Fragment>,
    /// What was watched beside the path.
    pub watches: Watches,
    /// The listener's count of TLS ClientHellos from this client's address, at the first and at the last time it was
    /// asked.
    pub client_hellos: Option<[(Timestamp, u32); 2]>,
    /// What the client's host did.
    pub host: Vec<HostEvent>,
    /// Probes that were due and not sent: from when to when, and how many, those of all flows together where they are
    /// less than a second apart.
    pub missed: Vec<(Timestamp, Timestamp, u64)>,
    /// Searches for the largest packet.
    pub path_mtu: Vec<PathMtu>,
    /// Steps of load, condensed.
    pub loads: Loads,
    /// What the ends can do by themselves.
    pub ceilings: Vec<Ceiling>,
    /// What happened when.
    pub ledger: Ledger,
    /// Observations that were dropped: of flows that were not announced, or beyond a bound.
    pub dropped: u64,
    /// The latest moment that any observation spoke of.
    pub last: Option<Timestamp>,
    /// Flows that are over, of which fates may still come, and since when.
    over: VecDeque<(Timestamp, FlowNo)>,
}

impl Evidence {
    /// Takes one observation. Those of a flow come after its [`Observation::FlowPlanned`].
    pub fn observe(&mut self, observation: &Observation) {
        self.ledger.observe(observation);
        self.observe_beside_ledger(observation);
    }

    /// Takes all of one observation but what the [ledger](Self::ledger) takes: for whoever lets that be done by somebody
    /// else at the same time.
    pub fn observe_beside_ledger(&mut self, observation: &Observation) {
        match observation {
            Observation::RunStarted(o) => {
                self.saw(o.at);
                self.run = Some(o.clone());
            }
            Observation::Resolved(o) => self.resolved = Some(o.clone()),
            Observation::FlowPlanned(o) => {
                self.saw(o.at);
                if self.flows.len() < MAX_FLOWS {
                    self.flows.entry(o.flow).or_insert_with(|| Box::new(FlowEvidence::new(o.clone())));
                } else {
                    self.dropped += 1;
                }
            }
            Observation::Attempt(o) => {
                self.saw(o.to);
                self.of_flow(o.flow, |flow| flow.attempt(o));
            }
            Observation::FlowOpened(o) => {
                self.saw(o.at);
                self.of_flow(o.flow, |flow| flow.open(o));
            }
            Observation::AnsweredLate(o) => self.of_flow(o.flow, |flow| flow.answered_late(o)),
            Observation::Channel(o) => self.of_flow(o.flow, |flow| flow.channel = Some(o.clone())),
            Observation::Probe(o) => self.run_beside_ledger(std::slice::from_ref(o)),
            Observation::Missed(o) => {
                self.missed(o);
                self.of_flow(o.flow, |flow| flow.traffic.missed += o.count);
            }
            Observation::Rewritten(o) => self.of_flow(o.flow, |flow| flow.rewrites.note(o)),
            Observation::Datagrams(o) => self.of_flow(o.flow, |flow| flow.datagrams = Some(*o)),
            Observation::Moved(o) => keep(&mut self.moves, *o, &mut self.dropped),
            Observation::Arrivals(o) => self.arrivals(o),
            Observation::Tcp(o) => self.of_flow(o.flow, |flow| flow.tcp = Some(*o)),
            Observation::PathMtu(o) => keep(&mut self.path_mtu, o.clone(), &mut self.dropped),
            Observation::Silence(o) => self.saw(o.at),
            Observation::IdleGap(o) => {
                self.saw(o.at);
                keep(&mut self.idle_gaps, *o, &mut self.dropped);
            }
            Observation::Fragment(o) => {
                self.saw(o.at);
                keep(&mut self.fragments, *o, &mut self.dropped);
            }
            Observation::Watch(o) => {
                self.saw(o.at);
                self.watches.note(o);
            }
            Observation::StreamEnd(o) => {
                self.saw(o.at);
                self.of_flow(o.flow, |flow| flow.stream_end = Some(*o));
            }
            Observation::Proxy(o) => self.proxy = Some(o.clone()),
            Observation::NameChanged(o) => self.saw(o.at),
            Observation::Host(o) => {
                self.saw(o.to);
                keep(&mut self.host, o.clone(), &mut self.dropped);
            }
            Observation::ListenerRestarted(o) => {
                self.saw(o.at);
                keep(&mut self.restarts, *o, &mut self.dropped);
                self.flows.values_mut().for_each(|flow| flow.traffic.listener_clock_changed());
            }
            Observation::Load(o) => {
                self.saw(o.to);
                self.loads.note(o, &mut self.dropped);
            }
            Observation::Ceiling(o) => {
                self.saw(o.at);
                keep(&mut self.ceilings, *o, &mut self.dropped);
            }
            Observation::FlowEnded(o) => {
                self.saw(o.at);
                self.of_flow(o.flow, |flow| {
                    flow.traffic.ended();
                    flow.traffic.shrink();
                    flow.ended = Some(o.clone());
                });
                self.over.push_back((o.at, o.flow));
                self.settle(o.at);
            }
            Observation::RunEnded(o) => {
                self.saw(o.at);
                self.ended = Some(o.clone());
            }
        }
    }

    /// When the run began; zero before that is known.
    pub fn start(&self) -> Timestamp {
        self.run.as_ref().map_or(Timestamp::ZERO, |run| run.at)
    }

    /// Seconds from the run's start to a moment.
    pub fn seconds(&self, at: Timestamp) -> f64 {
        at.since(self.start()).as_secs_f64()
    }

    /// Between the first and the last time that the listener was asked: attempts at TLS that had connected, and how many
    /// ClientHellos the listener saw from this address. None where it was not asked, or not twice.
    pub fn client_hellos_during(&self) -> Option<(u64, u64)> {
        let [(from, first), (to, last)] = self.client_hellos?;
        let stuck = |attempt: &&Attempt| {
            attempt.from > from
                && attempt.to < to
                && !matches!(attempt.outcome, Outcome::Silent { connected: false })
        };
        let tls = self.flows.values().filter(|flow| flow.plan.carrier == Carrier::Tls);
        let attempts = tls.flat_map(|flow| flow.attempts.iter().filter(stuck)).count();
        // None ever came: then none of all attempts did, whenever they were made.
        let attempts = if last == 0 {
            let all = self.flows.values().filter(|flow| flow.plan.carrier == Carrier::Tls);
            all.map(|flow| flow.attempts.len()).sum()
        } else {
            attempts
        };
        Some((
            attempts as u64,
            u64::from(last.saturating_sub(first).max(if last == 0 { 0 } else { u32::from(from == to) })),
        ))
    }

    /// A flow's name.
    pub fn name(&self, flow: FlowNo) -> String {
        self.flows.get(&flow).map_or_else(|| format!("flow {}", flow.0), |f| f.plan.name.clone())
    }

    fn missed(&mut self, o: &Missed) {
        let near = |(from, to, _): &&mut (Timestamp, Timestamp, u64)| {
            o.from <= *to + Duration::from_secs(1) && o.from + Duration::from_secs(1) >= *from
        };
        if let Some((from, to, count)) = self.missed.iter_mut().rev().take(4).find(near) {
            (*from, *to, *count) = ((*from).min(o.from), (*to).max(o.from), *count + o.count);
        } else {
            keep(&mut self.missed, (o.from, o.from, o.count), &mut self.dropped);
        }
    }

    /// Probes, as [`observe_beside_ledger`](Self::observe_beside_ledger) takes them: a recorded night has four million. Those
    /// of one flow that stand in a row are taken faster.
    pub fn probes_beside_ledger(&mut self, probes: &[Probe]) {
        probes.chunk_by(|a, b| a.flow == b.flow).for_each(|run| self.run_beside_ledger(run));
    }

    /// Probes of one flow.
    fn run_beside_ledger(&mut self, probes: &[Probe]) {
        let Some(first) = probes.first() else { return };
        let last = probes.iter().map(|o| o.reply.map_or(o.sent, |reply| reply.at)).max();
        self.last = self.last.max(last);
        let start = self.start();
        let Some(flow) = self.flows.get_mut(&first.flow) else {
            self.dropped += probes.len() as u64;
            return;
        };
        let is_stream = matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls);
        let pulse = if is_stream { &mut self.streams } else { &mut self.datagrams };
        let is_counted =
            !matches!(flow.plan.purpose, Purpose::PathMtu | Purpose::Marks | Purpose::Bulk | Purpose::Loaded);
        for o in probes {
            if is_counted && !matches!(o.fate, Fate::Excluded(_)) {
                let prompt = o.reply.is_some_and(|reply| !is_stream || reply.at.since(o.sent) <= PROMPT);
                let bin = Bin {
                    sent: 1,
                    received: u16::from(prompt),
                    lost_up: u16::from(o.fate == Fate::LostUp),
                    lost_down: u16::from(o.fate == Fate::LostDown),
                };
                pulse.add(o.sent.since(start), &bin);
            }
            if flow.plan.purpose == Purpose::Loaded {
                self.loads.note_beside(o);
            }
            flow.traffic.probe(o);
            let marks = &flow.plan.marks;
            if !marks.is_empty()
                && let Some(tos) = marks.get((o.seq % marks.len() as u64) as usize)
            {
                flow.traffic.mark(*tos, o.fate);
            }
        }
    }

    /// Gives back the room of flows that were over a while ago.
    fn settle(&mut self, now: Timestamp) {
        while let Some((at, flow)) = self.over.front()
            && now.since(*at) > LATE_FATES
        {
            if let Some(flow) = self.flows.get_mut(flow) {
                flow.traffic.settled();
            }
            self.over.pop_front();
        }
    }

    fn saw(&mut self, at: Timestamp) {
        self.last = self.last.max(Some(at));
    }

    fn of_flow(&mut self, flow: FlowNo, note: impl FnOnce(&mut FlowEvidence)) {
        match self.flows.get_mut(&flow) {
            Some(flow) => note(flow),
            None => self.dropped += 1,
        }
    }

    fn arrivals(&mut self, o: &OpeningArrivals) {
        for (flow, arrived, sent) in &o.udp {
            if self.flows.contains_key(flow) {
                self.hellos.insert(*flow, (*arrived, *sent));
            }
        }
        self.tcp_accepted = o.tcp_accepted.or(self.tcp_accepted);
        self.strange_datagrams = o.strange_datagrams.or(self.strange_datagrams);
        self.listener = o.listener.or(self.listener);
        if let Some(count) = o.client_hellos {
            let first = self.client_hellos.map_or((o.at, count), |[first, _]| first);
            self.client_hellos = Some([first, (o.at, count)]);
        }
    }
}

fn keep<T>(list: &mut Vec<T>, item: T, dropped: &mut u64) {
    if list.len() < MAX_EVENTS {
        list.push(item);
    } else {
        *dropped += 1;
    }
}
