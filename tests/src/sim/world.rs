//! Both hosts, the network between them, and the clock that jumps to the next wake-up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use std::time::Duration;

use probe_analysis::observation::Observation;
use probe_client::engine::{Engine, Identity, Phase, Start};
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::hello::SessionId;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::certificate::{Certificate, CertificateError};
use super::client::ClientHost;
use super::listener::{Clock, ListenerHost, Told, lock};
use super::setup::{Fault, Setup};
use super::truth::Truth;
use crate::middlebox::topology::LINK_MTU;
use crate::middlebox::{Middlebox, Port};
use crate::packet::{Packet, Part, build};
use crate::rules::{BadRule, Direction, FlowKey, Moment};

/// When every run starts.
const START: Timestamp = Timestamp(1_000_000_000_000);
/// 2026-01-31T22:00:00Z.
const WALL: WallTime = WallTime(1_769_896_800_000_000_000);
/// Most packets on the hosts' links at once.
const MAX_ON_LINK: usize = 200_000;
/// A run that is not over by so much more than its plan says never will be.
const OVERTIME: Duration = Duration::from_secs(3600);

/// Why a run cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The rules make no sense.
    #[error(transparent)]
    Rules(#[from] BadRule),
    /// The listener has no certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The client has no TLS.
    #[error("the client cannot set up TLS: {0}")]
    Tls(std::io::Error),
    /// The run does not end.
    #[error("the run does not end: it is in phase {0:?}, an hour after its plan was over")]
    Endless(Phase),
}

/// Where hosts put what they send, and what is known of it.
pub(super) struct Io<'a> {
    pub(super) out: Vec<Packet>,
    pub(super) truth: &'a mut Truth,
    see: &'a mut dyn FnMut(Observation),
}

impl Io<'_> {
    pub(super) fn see(&mut self, observation: Observation) {
        (self.see)(observation);
    }
}

#[derive(Debug)]
enum Due {
    Deliver(Port, Packet),
    Happen(Happening),
}

#[derive(Clone, Copy, Debug)]
enum Happening {
    StopListener,
    StartListener,
    StallListener,
    ResumeListener,
    StallClient,
    SuspendClient,
    ResumeClient,
    SetClientClock(i64),
    SetWay(Option<&'static str>),
    ForgetMappings,
    Cross { gap: Duration, until: Timestamp, size: u16 },
}

struct Entry {
    at: Timestamp,
    order: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One host's link: so much delay, never overtaking.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    busy_until: Timestamp,
}

/// A simulated run. See the [module](super).
pub struct World {
    setup: Setup,
    now: Timestamp,
    middlebox: Middlebox,
    client: ClientHost,
    listener: ListenerHost,
    truth: Truth,
    links: [Link; 3],
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    rng: ChaCha8Rng,
    ready: Vec<(Port, Packet)>,
    overflowed: u64,
    steps: u64,
    held: Vec<Held>,
}

/// The most that the client's engine held at once within one hour of simulated time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Flows.
    pub flows: usize,
    /// Probes that were not settled.
    pub probes: usize,
    /// Timers, requests and the like.
    pub entries: usize,
}

/// What is left of a run beside its observations.
#[derive(Debug)]
pub struct Ran {
    /// What really became of each probe.
    pub truth: Truth,
    /// What the network did.
    pub network: crate::rules::Truth,
    /// Boots of the listener, in order.
    pub boots: Vec<u64>,
    /// Verdicts that the listener keeps.
    pub handed_in: Vec<probe_server::core::event::HandedIn>,
    /// What the listener told its admin.
    pub events: Vec<probe_server::core::event::Event>,
    /// Simulated time that the run took.
    pub took: Duration,
    /// Wake-ups.
    pub steps: u64,
    /// Packets for which a link had no room.
    pub overflowed: u64,
    /// What the client's engine held, hour by hour.
    pub held: Vec<Held>,
}

impl World {
    /// Makes everything ready.
    ///
    /// # Errors
    /// A [`SimError`].
    pub fn new(setup: Setup) -> Result<Self, SimError> {
        let mut rng = ChaCha8Rng::seed_from_u64(setup.seed);
        let topology = &setup.topology;
        let middlebox = Middlebox::new(topology, &setup.rules, rng.next_u64(), START)?;
        let certificate = Certificate::new()?;
        let clock = Clock {
            start: START,
            ahead: setup.hosts.listener_ahead,
            fast_ppm: setup.hosts.listener_fast_ppm,
            wall: WALL,
        };
        let buffer = setup.hosts.receive_buffer;
        let port = probe_protocol::DEFAULT_PORT;
        let listener = ListenerHost::new(
            setup.listening,
            topology.server(),
            port,
            clock,
            certificate,
            buffer,
            rng.next_u64(),
        );
        let mut session = [0; 16];
        rng.fill_bytes(&mut session);
        let identity = Identity {
            session: SessionId(session),
            invite: setup.invited.then(|| listener.invite()),
            software: probe_client::check::software(),
        };
        let start = Start {
            at: START,
            wall: WALL,
            target: super::setup::target(topology).to_string(),
            local: false,
            interface_mtu: Some(u32::from(LINK_MTU)),
            seed: rng.next_u64(),
            first_flow: 0,
        };
        let engine = Engine::new(setup.plan.clone(), identity, start);
        let tls = probe_client::driver::tls::config(None).map_err(SimError::Tls)?;
        let client = ClientHost::new(engine, topology.client(), tls, buffer, rng.next_u64(), START);
        let mut world = Self {
            now: START,
            middlebox,
            client,
            listener,
            truth: Truth::new(setup.keep_truth),
            links: [Link::default(); 3],
            queue: BinaryHeap::new(),
            order: 0,
            rng,
            ready: Vec::new(),
            overflowed: 0,
            steps: 0,
            held: Vec::new(),
            setup,
        };
        world.lay_faults();
        Ok(world)
    }

    fn lay_faults(&mut self) {
        use Happening as H;
        for fault in self.setup.faults.clone() {
            let (at, first, second) = match fault {
                Fault::RestartListener { at, gap } => (at, H::StopListener, Some((gap, H::StartListener))),
                Fault::StallListener { at, length } => {
                    (at, H::StallListener, Some((length, H::ResumeListener)))
                }
                Fault::StallClient { at, length } => (at, H::StallClient, Some((length, H::ResumeClient))),
                Fault::SuspendClient { at, length } => {
                    (at, H::SuspendClient, Some((length, H::ResumeClient)))
                }
                Fault::LoseWay { at, length, another } => {
                    let new = if another { "wlan0 10.0.0.9 via 10.0.0.1" } else { super::client::WAY };
                    (at, H::SetWay(None), Some((length, H::SetWay(Some(new)))))
                }
                Fault::SetClientClock { at, by_ns } => (at, H::SetClientClock(by_ns), None),
                Fault::ForgetMappings { at } => (at, H::ForgetMappings, None),
                Fault::FilterClient { protocol } => {
                    self.client.forbid(protocol);
                    continue;
                }
                Fault::CrossTraffic { at, length, rate_bps, size } => {
                    let gap = Duration::from_nanos(u64::from(size) * 8 * 1_000_000_000 / rate_bps.max(1));
                    (at, H::Cross { gap, until: START + at + length, size }, None)
                }
            };
            self.at(START + at, Due::Happen(first));
            if let Some((after, second)) = second {
                self.at(START + at + after, Due::Happen(second));
            }
        }
    }

    fn at(&mut self, at: Timestamp, due: Due) {
        self.order += 1;
        self.queue.push(Reverse(Entry { at, order: self.order, due }));
    }

    /// Runs the plan to its end, telling every observation; then hands in `verdict`, where there is one.
    ///
    /// # Errors
    /// [`SimError::Endless`].
    pub fn run(mut self, verdict: Option<&[u8]>, see: &mut dyn FnMut(Observation)) -> Result<Ran, SimError> {
        let limit = START + self.setup.plan.duration() + OVERTIME;
        self.wake_client(see);
        self.run_until(Phase::Settled, limit, see)?;
        let took = self.now.since(START);
        if let Some(verdict) = verdict {
            self.client.engine.hand_in(self.now, verdict);
            self.pump_client(see);
            self.run_until(Phase::Done, limit, see)?;
        } else {
            self.client.engine.finish(self.now);
            self.pump_client(see);
        }
        // The farewells arrive.
        let end = self.now + Duration::from_secs(2);
        while self.step(end, see) {}
        let told = self.listener.told();
        let told = std::mem::take::<Told>(&mut lock(&told));
        Ok(Ran {
            truth: self.truth,
            network: std::mem::replace(self.middlebox.sink(), crate::rules::Sink::new(START)).truth,
            boots: self.listener.boots,
            handed_in: told.handed_in,
            events: told.events,
            took,
            steps: self.steps,
            overflowed: self.overflowed,
            held: self.held,
        })
    }

    fn run_until(
        &mut self,
        phase: Phase,
        limit: Timestamp,
        see: &mut dyn FnMut(Observation),
    ) -> Result<(), SimError> {
        while self.client.engine.phase() < phase {
            if !self.step(limit, see) {
                return Err(SimError::Endless(self.client.engine.phase()));
            }
        }
        Ok(())
    }

    /// Jumps to the next wake-up and does what is due; false where none is due by `limit`.
    fn step(&mut self, limit: Timestamp, see: &mut dyn FnMut(Observation)) -> bool {
        let queued = self.queue.peek().map_or(Timestamp::NEVER, |Reverse(entry)| entry.at);
        let (client, listener) = (self.client.next(), self.listener.next());
        let network = self.middlebox.next();
        let at = queued.min(client).min(listener).min(network);
        if at > limit {
            return false;
        }
        self.steps += 1;
        self.now = self.now.max(at);
        while self.queue.peek().is_some_and(|Reverse(entry)| entry.at <= self.now) {
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            match entry.due {
                Due::Deliver(port, packet) => self.deliver(port, packet, see),
                Due::Happen(what) => self.happen(what, see),
            }
        }
        if self.middlebox.next() <= self.now {
            self.middlebox.poll(self.moment());
            self.carry();
        }
        if self.listener.next() <= self.now {
            let mut io = Io { out: Vec::new(), truth: &mut self.truth, see };
            self.listener.wake(self.now, &mut io);
            let out = io.out;
            self.put(Port::Server, out);
        }
        if self.client.next() <= self.now {
            self.wake_client(see);
        }
        // Now and then: looking costs as much as serving.
        if self.steps.is_multiple_of(512) {
            self.look_at_held();
        }
        true
    }

    fn look_at_held(&mut self) {
        let hour = (self.now.since(START).as_secs() / 3600) as usize;
        if self.held.len() <= hour {
            self.held.resize(hour + 1, Held::default());
        }
        let engine = &self.client.engine;
        if let Some(held) = self.held.last_mut() {
            held.flows = held.flows.max(engine.flows_held());
            held.probes = held.probes.max(engine.probes_held());
            held.entries = held.entries.max(engine.entries_held());
        }
    }

    fn moment(&self) -> Moment {
        let since = self.now.since(START).as_nanos() as i64;
        Moment { now: self.now, wall: WallTime(WALL.0 + since) }
    }

    fn wake_client(&mut self, see: &mut dyn FnMut(Observation)) {
        let mut io = Io { out: Vec::new(), truth: &mut self.truth, see };
        self.client.wake(self.now, &mut io);
        let out = io.out;
        self.put(Port::Client, out);
    }

    fn pump_client(&mut self, see: &mut dyn FnMut(Observation)) {
        let mut io = Io { out: Vec::new(), truth: &mut self.truth, see };
        self.client.pump(self.now, &mut io);
        let out = io.out;
        self.put(Port::Client, out);
    }

    fn deliver(&mut self, port: Port, packet: Packet, see: &mut dyn FnMut(Observation)) {
        let mut io = Io { out: Vec::new(), truth: &mut self.truth, see };
        match port {
            Port::Client => self.client.deliver(self.now, packet, &mut io),
            Port::Server => self.listener.deliver(self.now, packet, &mut io),
            Port::Side => {}
        }
        let out = io.out;
        self.put(port, out);
    }

    fn happen(&mut self, what: Happening, see: &mut dyn FnMut(Observation)) {
        let mut io = Io { out: Vec::new(), truth: &mut self.truth, see };
        let mut port = Port::Server;
        match what {
            Happening::StopListener => self.listener.stop(self.now, &mut io),
            Happening::StartListener => self.listener.start(self.now),
            Happening::StallListener => self.listener.stall(),
            Happening::ResumeListener => self.listener.resume(self.now, &mut io),
            Happening::StallClient => self.client.stall(),
            Happening::SuspendClient => self.client.suspend(self.now),
            Happening::ResumeClient => {
                port = Port::Client;
                self.client.resume(self.now, &mut io);
            }
            Happening::SetWay(way) => {
                port = Port::Client;
                self.client.set_way(self.now, way, &mut io);
            }
            Happening::SetClientClock(by_ns) => self.client.set_wall_clock(by_ns),
            Happening::ForgetMappings => self.middlebox.forget_mappings(),
            Happening::Cross { gap, until, size } => {
                port = Port::Side;
                let from = (self.setup.topology.side().v4, 9).into();
                let to = (self.setup.topology.target(), 9).into();
                let payload = vec![0; usize::from(size).saturating_sub(28)];
                io.out.extend(build::udp(from, to, &payload));
                if self.now + gap < until {
                    let next = Entry {
                        at: self.now + gap,
                        order: self.order + 1,
                        due: Due::Happen(Happening::Cross { gap, until, size }),
                    };
                    self.order += 1;
                    self.queue.push(Reverse(next));
                }
            }
        }
        let out = io.out;
        self.put(port, out);
    }

    /// What sockets send at one instant leaves in any order between them, as from threads of their own: always the
    /// same one would be the first at a full bucket.
    fn shuffled(&mut self, packets: Vec<Packet>) -> Vec<Packet> {
        let flow = |packet: &Packet| (packet.from(), packet.to());
        if packets.windows(2).all(|pair| flow(&pair[0]) == flow(&pair[1])) {
            return packets;
        }
        let salt = self.rng.next_u64();
        let mut place = 0;
        let mut placed: Vec<(u64, Packet)> = packets
            .into_iter()
            .map(|packet| {
                // A datagram's later fragments have no ports, and follow the first one at once.
                if packet.part() != Part::Later {
                    place = FlowKey::of(&packet, Direction::Up).hash(salt);
                }
                (place, packet)
            })
            .collect();
        // Stable: each socket's own packets keep their order.
        placed.sort_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, packet)| packet).collect()
    }

    /// A host's packets enter the network.
    fn put(&mut self, port: Port, packets: Vec<Packet>) {
        // What arrives once the run is settled, nobody waits for: the very step that settles it may send its last.
        if port == Port::Client && self.client.engine.phase() >= Phase::Settled {
            self.truth.close();
        }
        if packets.is_empty() {
            return;
        }
        let moment = self.moment();
        let packets = self.shuffled(packets);
        for packet in packets {
            self.middlebox.receive(moment, port, packet.into_bytes());
        }
        self.carry();
    }

    /// The network's packets go over the hosts' links.
    fn carry(&mut self) {
        let mut ready = std::mem::take(&mut self.ready);
        self.middlebox.take_ready(&mut ready);
        for (port, packet) in ready.drain(..) {
            if self.queue.len() >= MAX_ON_LINK {
                self.overflowed += 1;
                continue;
            }
            let jitter = self.setup.hosts.jitter.as_nanos() as u64;
            let jitter =
                Duration::from_nanos(if jitter == 0 { 0 } else { self.rng.random_range(0..=jitter) });
            let link = &mut self.links[port as usize];
            let at = (self.now + self.setup.hosts.link + jitter).max(link.busy_until);
            link.busy_until = at;
            self.at(at, Due::Deliver(port, packet));
        }
        self.ready = ready;
    }
}

/// Runs a setup and keeps every observation.
///
/// # Errors
/// A [`SimError`].
pub fn simulate(setup: Setup) -> Result<(Vec<Observation>, Ran), SimError> {
    let mut observations = Vec::new();
    let ran = World::new(setup)?.run(None, &mut |observation| observations.push(observation))?;
    Ok((observations, ran))
}
