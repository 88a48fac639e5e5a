//! The engine executes a plan. It is sans-IO: events and the time go in, things to do and the next deadline come out.
//!
//! It has four kinds of methods: `handle*` put in what happened; `poll_*` take out what is to be done, until they
//! return none; `next_deadline` says when to call [`Engine::handle_timeout`] again; the rest only look. It never reads
//! a clock: `now` may not go back from one call to the next.
//!
//! | File | holds |
//! | --- | --- |
//! | `flow` | one flow: its state, its keys, its probes under way |
//! | `opening` | from a connection to an open flow |
//! | `probing` | sending probes and taking in replies |
//! | `proof` | proving the address of a flow that was given another |
//! | `spawn` | flows that come later: starts, repeats, rebirths; and those that are over and settled leave |
//! | `vigil` | whether flows, and the path, are alive |
//! | `survive` | what the client's host, its network and the target's name do meanwhile |
//! | `control` | requests to the listener, over whichever flow is alive |
//! | `load` | loads |
//! | `settle` | what became of each probe |
//! | `sockets` | the ledger of the sockets under QUIC |
//! | `mtu` | the search for the largest packet |
//! | `idle` | single-use idle gaps, and ladders of them |
//! | `fragments` | datagrams larger than the MTU |
//! | `foreign` | what something that is not ours looks like |
//! | `io` | what goes in and comes out: events, actions, bytes to send |

mod control;
mod flow;
mod foreign;
mod fragments;
mod held;
mod idle;
mod io;
mod load;
mod mtu;
mod opening;
mod probing;
mod proof;
mod settle;
mod sockets;
mod spawn;
mod survive;
mod vigil;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use probe_analysis::observation::{FlowNo, HostFault, Observation, RunEnded, RunStarted};
use probe_protocol::invite::Invite;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::hello::{HelloKeys, SessionId};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use self::control::Requests;
use self::flow::Flow;
pub(crate) use self::foreign::is_our_page;
use self::idle::LadderState;
pub use self::io::{Action, Arrived, ChannelFacts, Closed, Event, SendError, Transmit};
use self::load::LoadRun;
pub use self::load::{HandedLoad, SharedTransfer};
use self::spawn::Spawner;
use self::survive::Faults;
use self::vigil::Vigil;
use crate::plan::load::LoadPlan;
use crate::plan::{Plan, Start as FlowStart};

/// Who the client is in this run.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The run's random id.
    pub session: SessionId,
    /// The invite, where there is one.
    pub invite: Option<Invite>,
    /// The client's version.
    pub software: [u8; 3],
}

/// Why the engine wants to be called at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A flow's turn to open has come.
    Open(FlowNo),
    /// A single flow of the plan is to start: its place in [`Plan::flows`].
    Start(u32),
    /// A flow that died is to be followed by another one: its place in [`Plan::flows`].
    Rebirth(u32),
    /// The next flow of a [`Repeat`](crate::plan::Repeat): its place in the plan.
    Repeat(u32),
    /// The next round of a [`Ladder`](crate::plan::Ladder): its place in the plan.
    Ladder(u32),
    /// A flow's life is over.
    LifeOver(FlowNo),
    /// The last replies of a flow whose life is over are in.
    End(FlowNo),
    /// The next step of an idle flow.
    Idle(FlowNo),
    /// The next datagram of a flow of fragments.
    Piece(FlowNo),
    /// It is time to see which flows are alive.
    Look,
    /// A handshake record may have been lost.
    Retransmit(FlowNo, u32),
    /// An attempt to open has taken too long.
    GiveUp(FlowNo, u32),
    /// A probe is due.
    Probe(FlowNo),
    /// A packet of the search for the path MTU may have been lost.
    Mtu(FlowNo),
    /// A Hello that proves a flow's new address may have been lost.
    Prove(FlowNo),
    /// A request to the listener may have been lost.
    Request(u64),
    /// It is time to look at the load, or a block of it is due.
    Load,
    /// It is time to ask for ledgers.
    Ledger,
    /// It is time to compare the ledgers of the sockets under QUIC.
    Sockets(FlowNo),
    /// The listener may have written the verdict to its disk by now.
    HandIn,
    /// The phase of the run ends.
    Phase(Phase),
}

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Flows open.
    Reach,
    /// Flows are measured.
    Measure,
    /// The last replies come in.
    Drain,
    /// The last ledgers come in.
    Settle,
    /// All is settled; [`Engine::hand_in`] may follow.
    Settled,
    /// The verdict is being handed in.
    HandIn,
    /// Nothing more will happen.
    Done,
}

/// What a run that only asks what gets through waits for, after the last opening.
const LAST_REPLIES: Duration = Duration::from_millis(500);
/// How long handing in the verdict may take.
const HAND_IN_LIMIT: Duration = Duration::from_secs(4);

/// Executes a plan. See the [module](self).
pub struct Engine {
    plan: Plan,
    identity: Identity,
    hello: HelloKeys,
    public: HelloKeys,
    rng: ChaCha8Rng,
    /// The wall clock at the clock's zero, for handshakes.
    wall_offset: i64,
    started: Timestamp,
    phase: Phase,
    phase_ends: Timestamp,
    complete: bool,
    /// Those that are not over, or not settled; in a long run the others are gone.
    flows: BTreeMap<FlowNo, Flow>,
    spawner: Spawner,
    vigil: Vigil,
    ladders: Vec<LadderState>,
    faults: Faults,
    load: Option<LoadRun>,
    timers: BinaryHeap<Reverse<(Timestamp, Reason)>>,
    outgoing: VecDeque<(FlowNo, flow::Outgoing)>,
    actions: VecDeque<Action>,
    observations: VecDeque<Observation>,
    requests: Requests,
    /// Nonces of all attempts, with the flow and how many hellos were sent since the session exists.
    nonces: BTreeMap<u64, (FlowNo, u32)>,
    session_since: Option<Timestamp>,
    boot: Option<(u64, Timestamp)>,
    /// Interface MTU towards the target, where known.
    interface_mtu: Option<u32>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("phase", &self.phase).field("flows", &self.flows.len()).finish()
    }
}

/// What the engine is told of its surroundings at the start.
#[derive(Clone, Debug)]
pub struct Start {
    /// Now, on the clock of all events.
    pub at: Timestamp,
    /// Now, on the wall clock.
    pub wall: WallTime,
    /// The target as shown in reports.
    pub target: String,
    /// Whether the listener is in this process.
    pub local: bool,
    /// Interface MTU towards the target, where known.
    pub interface_mtu: Option<u32>,
    /// Seed of everything random but the session id.
    pub seed: u64,
    /// The number of the first flow: one past the last of the part before, where a run is resumed.
    pub first_flow: u32,
}

impl Engine {
    /// Prepares a run; it starts with the first call of [`handle_timeout`](Self::handle_timeout).
    pub fn new(plan: Plan, identity: Identity, start: Start) -> Self {
        let public = HelloKeys::public();
        let hello = identity.invite.map_or_else(HelloKeys::public, |i| HelloKeys::of_invite(&i.key));
        let mut rng = ChaCha8Rng::seed_from_u64(start.seed);
        let mut flows = BTreeMap::new();
        let mut timers = BinaryHeap::new();
        let mut spawner = Spawner::new(&plan, start.first_flow);
        // In their turn, from the start on; those with a start of their own come when it is there.
        for (place, spec) in (0u32..).zip(&plan.flows) {
            match spec.start {
                FlowStart::Turn => {
                    let no = spawner.number(start.at, plan.open_gap, &mut timers);
                    let mut flow = Flow::new(no, spec.clone(), u64::from(rng.next_u32()));
                    flow.line = spawner.took(place, no);
                    flows.insert(no, flow);
                }
                FlowStart::At(at) => timers.push(Reverse((start.at + at, Reason::Start(place)))),
            }
        }
        for (place, repeat) in (0u32..).zip(&plan.repeats) {
            timers.push(Reverse((start.at + repeat.first, Reason::Repeat(place))));
        }
        for (place, ladder) in (0u32..).zip(&plan.ladders) {
            timers.push(Reverse((start.at + ladder.first, Reason::Ladder(place))));
        }
        let phase_ends = start.at + plan.reach;
        timers.push(Reverse((phase_ends, Reason::Phase(Phase::Reach))));
        timers.push(Reverse((start.at + plan.ledger_every, Reason::Ledger)));
        if vigil::is_needed(&plan) {
            timers.push(Reverse((start.at + vigil::LOOK_EVERY, Reason::Look)));
        }
        let started = RunStarted {
            at: start.at,
            wall: start.wall,
            target: start.target,
            invited: identity.invite.is_some(),
            local: start.local,
            load_bps: plan.load.as_ref().map_or(0, LoadPlan::peak_bps),
        };
        let load = plan.load.clone().map(|load| LoadRun::new(load, start.at));
        if let Some(load) = &plan.load {
            timers.push(Reverse((start.at + load.first, Reason::Load)));
        }
        Self {
            load,
            spawner,
            vigil: Vigil::new(&plan, start.at),
            ladders: plan.ladders.iter().map(|_| LadderState::default()).collect(),
            faults: Faults::default(),
            plan,
            identity,
            hello,
            public,
            rng,
            wall_offset: start.wall.0.saturating_sub(i64::try_from(start.at.as_nanos()).unwrap_or(i64::MAX)),
            started: start.at,
            phase: Phase::Reach,
            phase_ends,
            complete: true,
            flows,
            timers,
            outgoing: VecDeque::new(),
            actions: VecDeque::new(),
            observations: VecDeque::from([Observation::RunStarted(started)]),
            requests: Requests::default(),
            nonces: BTreeMap::new(),
            session_since: None,
            boot: None,
            interface_mtu: start.interface_mtu,
        }
    }

    /// Takes in what happened on a flow.
    pub fn handle(&mut self, now: Timestamp, flow: FlowNo, event: Event<'_>) {
        if self.flow(flow).is_none() {
            return;
        }
        match event {
            Event::Connected { source, connect, channel } => {
                self.connected(now, flow, source, connect, channel);
            }
            Event::Reached { connect } => self.reached(flow, connect),
            Event::Closed(closed) => self.closed(now, flow, closed),
            Event::Datagram(arrived) => self.datagram(now, flow, arrived),
            Event::Bytes { bytes, at } => self.stream_bytes(now, flow, bytes, at),
            Event::SendFailed { seq, why } => self.send_failed(now, flow, seq, why),
            Event::NetworkError { refused, by, mtu, says } => {
                self.network_error(now, flow, refused, by, mtu, says);
            }
            Event::Tapped { sent, hash } => self.tapped(flow, sent, hash),
            Event::Tcp(facts) => self.tcp_facts(flow, facts),
        }
        self.advance(now);
    }

    /// Takes in what the client's host did.
    pub fn handle_host(&mut self, from: Timestamp, to: Timestamp, what: HostFault) {
        self.host_fault(from, to, what);
    }

    /// Does what is due. To be called at [`next_deadline`](Self::next_deadline) at the latest.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(Reverse((at, reason))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            match reason {
                Reason::Open(flow) => self.open(now, flow),
                Reason::Start(place) => self.start_due(now, place),
                Reason::Rebirth(place) => self.rebirth_due(now, place),
                Reason::Repeat(place) => self.repeat_due(now, at, place),
                Reason::Ladder(place) => self.ladder_round_due(now, place),
                Reason::LifeOver(flow) => self.life_over(now, flow),
                Reason::End(flow) => self.end_due(now, flow),
                Reason::Idle(flow) => self.idle_due(now, flow),
                Reason::Piece(flow) => self.piece_due(now, flow),
                Reason::Look => self.look_due(now),
                Reason::Sockets(flow) => self.sockets_due(now, flow),
                Reason::Retransmit(flow, attempt) => self.retransmit(now, flow, attempt),
                Reason::GiveUp(flow, attempt) => self.give_up(now, flow, attempt),
                Reason::Probe(flow) => self.probe_due(now, flow, at),
                Reason::Mtu(flow) => self.mtu_due(now, flow),
                Reason::Prove(flow) => self.prove_due(now, flow),
                Reason::Request(number) => self.request_due(now, number),
                Reason::Load => self.load_due(now),
                Reason::Ledger => self.ledger_due(now),
                Reason::HandIn => self.hand_in_due(now),
                Reason::Phase(phase) if phase == self.phase && self.phase_ends <= now => self.end_phase(now),
                Reason::Phase(_) => {}
            }
        }
        self.advance(now);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why; none when nothing is waited for.
    pub fn next_deadline(&self) -> Option<(Timestamp, Reason)> {
        if self.phase == Phase::Done {
            return None;
        }
        let timer = self.timers.peek().map(|Reverse(next)| *next);
        let block = self.load_deadline().map(|at| (at, Reason::Load));
        [timer, block].into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The next bytes to send, written into `wire`. `now` goes into probes as their time of sending, so it should be
    /// read right before, and the bytes sent right after.
    pub fn poll_transmit(&mut self, now: Timestamp, wire: &mut Vec<u8>) -> Option<Transmit> {
        while let Some((flow, outgoing)) = self.outgoing.pop_front() {
            if let Some(transmit) = self.write(now, flow, outgoing, wire) {
                return Some(transmit);
            }
        }
        self.load_transmit(now, wire)
    }

    /// The next thing seen.
    pub fn poll_observation(&mut self) -> Option<Observation> {
        self.observations.pop_front()
    }

    /// Where the run is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When the phase ends at the latest.
    pub fn phase_ends(&self) -> Timestamp {
        self.phase_ends
    }

    /// Ends the measuring early, in order.
    pub fn stop(&mut self, now: Timestamp) {
        if self.phase < Phase::Drain {
            self.complete = self.plan.is_open_ended();
            self.stop_load(now);
            self.end_unopened(now, true);
            self.stop_probing(now);
            self.enter(now, Phase::Drain, self.plan.drain);
        }
    }

    /// Hands a document to the listener over any living flow, once the run is [`Phase::Settled`]. Whether it worked
    /// is said by [`handed_in`](Self::handed_in) at [`Phase::Done`].
    pub fn hand_in(&mut self, now: Timestamp, document: &[u8]) {
        if self.phase == Phase::Settled {
            self.requests.hand_in(document);
            self.enter(now, Phase::HandIn, HAND_IN_LIMIT);
            self.pump_requests(now);
            self.advance(now);
        }
    }

    /// Whether the listener keeps the document.
    pub fn handed_in(&self) -> bool {
        self.requests.is_handed_in()
    }

    /// Ends everything, telling the listener where it can be told.
    pub fn finish(&mut self, now: Timestamp) {
        self.close_all(now);
        self.phase = Phase::Done;
    }

    /// Flows that are not over, or whose last probes are not settled: bounded, however long the run.
    pub fn flows_held(&self) -> usize {
        self.flows.len()
    }

    /// Probes whose fate is not settled.
    pub fn probes_held(&self) -> usize {
        self.flows.values().map(|flow| flow.pending.len()).sum()
    }

    /// Everything else that grows and shrinks: timers, requests, nonces, ledgers of sockets.
    pub fn entries_held(&self) -> usize {
        let sockets: usize = self.flows.values().map(|flow| flow.taps.held()).sum();
        self.timers.len() + self.outgoing.len() + self.nonces.len() + self.requests.held() + sockets
    }

    /// Flows that could not be opened because too many were held.
    pub fn turned_away(&self) -> u64 {
        self.spawner.turned_away
    }

    fn numbers(&self) -> Vec<FlowNo> {
        self.flows.keys().copied().collect()
    }

    fn flow(&self, flow: FlowNo) -> Option<&Flow> {
        self.flows.get(&flow)
    }

    fn observe(&mut self, observation: Observation) {
        self.observations.push_back(observation);
    }

    fn at(&mut self, at: Timestamp, reason: Reason) {
        self.timers.push(Reverse((at, reason)));
    }

    fn wall(&self, now: Timestamp) -> WallTime {
        WallTime(self.wall_offset.saturating_add(i64::try_from(now.as_nanos()).unwrap_or(i64::MAX)))
    }

    fn enter(&mut self, now: Timestamp, phase: Phase, length: Duration) {
        self.phase = phase;
        self.phase_ends = now + length;
        self.at(self.phase_ends, Reason::Phase(phase));
    }

    /// Ends a phase before its time where there is nothing left to wait for.
    fn advance(&mut self, now: Timestamp) {
        let over = match self.phase {
            Phase::Reach => {
                let turn = |flow: &&Flow| flow.spec.start == FlowStart::Turn && flow.replaces.is_none();
                self.flows.values().filter(turn).all(Flow::is_decided)
            }
            Phase::Measure => {
                !self.plan.long
                    && self.nothing_comes()
                    && self.load_is_over()
                    && self.flows.values().all(Flow::is_finished)
            }
            Phase::Drain => {
                let replied = self.flows.values().all(Flow::has_all_replies);
                replied && self.requests.is_idle() && self.load_is_over()
            }
            Phase::Settle => self.requests.is_idle() && !self.awaits_stragglers(now),
            Phase::HandIn => self.requests.is_settled(),
            Phase::Settled | Phase::Done => false,
        };
        if over {
            self.end_phase(now);
        }
    }

    fn end_phase(&mut self, now: Timestamp) {
        match self.phase {
            Phase::Reach => {
                self.end_unopened(now, false);
                // A long run waits for its path to come back, where there was one.
                let there = self.flows.values().any(Flow::is_open)
                    || (self.plan.long && self.session_since.is_some());
                // And it is over when it said it would be, however soon everything was open: the plan's times count from
                // the start of the run.
                let whole = self.started + self.plan.reach + self.plan.measure;
                let next = match (there, self.plan.measure.is_zero()) {
                    (false, _) => Duration::ZERO,
                    // Where nothing is to be measured, a few replies of the last that opened are all that is waited for.
                    (true, true) => whole.since(now).min(LAST_REPLIES),
                    (true, false) => whole.since(now),
                };
                self.enter(now, Phase::Measure, next);
            }
            Phase::Measure => {
                self.stop_load(now);
                self.end_unopened(now, true);
                self.stop_probing(now);
                self.enter(now, Phase::Drain, self.plan.drain);
            }
            Phase::Drain => {
                self.ask_everything(now);
                self.enter(now, Phase::Settle, self.plan.settle);
            }
            Phase::Settle => {
                self.flush_faults();
                self.settle_all(now);
                let ended = RunEnded { at: now, complete: self.complete, receive_buffer: None };
                self.observe(Observation::RunEnded(ended));
                self.phase = Phase::Settled;
                return;
            }
            Phase::HandIn => {
                self.finish(now);
                return;
            }
            Phase::Settled | Phase::Done => return,
        }
        self.advance(now);
    }
}
