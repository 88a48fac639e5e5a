//! The rules of one place, carried out in order: upwards from the first to the last, downwards the other way round,
//! as boxes in a row would be met.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use probe_protocol::time::{Timestamp, WallTime};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::act::{self, Act, Step, Watch};
use super::data::{Direction, Place, Rule};
use super::flow::{FlowKey, FlowTable};
use super::matcher::{Matcher, View};
use super::recognise::Needs;
use super::truth::{Deed, Truth};
use crate::packet::Packet;

/// At most so many rules in one place.
pub const MAX_RULES: usize = 64;

/// At most so many packets are held back at one place; what comes beyond is dropped.
pub const MAX_HELD: usize = 100_000;

/// At most so many spare buffers are kept.
const MAX_POOL: usize = 4096;

/// Why a rule cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRule {
    /// A field's value makes no sense.
    #[error("`{0}` {1}")]
    Field(&'static str, String),
    /// There are more rules than a place can have.
    #[error("a place has room for {MAX_RULES} rules")]
    TooMany,
    /// One of the above, in a rule of this name.
    #[error("rule \"{0}\": {1}")]
    In(String, Box<BadRule>),
}

/// A moment, on the clock that never steps and on the wall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Drives everything.
    pub now: Timestamp,
    /// For rules that go by the time of day.
    pub wall: WallTime,
}

/// What a pipeline asks of whoever runs it.
#[derive(Debug)]
pub enum Output {
    /// The packet leaves the place, this way.
    Forward(Direction, Packet),
    /// The client's NAT is to forget the mapping of this flow (as this place sees it), or all.
    Forget(FlowKey, bool),
}

/// Where everything goes that comes out of a pipeline, and where spare buffers lie.
#[derive(Debug)]
pub struct Sink {
    /// What is to be done.
    pub out: Vec<Output>,
    /// What was done to packets.
    pub truth: Truth,
    /// Buffers of packets that went no further.
    pub pool: Vec<Vec<u8>>,
}

impl Sink {
    /// An empty one for a network that starts now.
    pub fn new(start: Timestamp) -> Self {
        Self { out: Vec::new(), truth: Truth::new(start), pool: Vec::new() }
    }

    /// Keeps a buffer for another packet.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.pool.len() < MAX_POOL {
            self.pool.push(buffer);
        }
    }
}

/// What was known of a packet's flow when it came to the place, itself included.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Its flow.
    pub key: FlowKey,
    /// When it came.
    pub arrived: Timestamp,
    /// When its flow's first packet came.
    pub first: Timestamp,
    /// When the one before came, up and down.
    pub previous: [Option<Timestamp>; 2],
    /// The flow's packets up and down.
    pub packets: [u64; 2],
    /// The flow's bytes up and down.
    pub bytes: [u64; 2],
    /// How many flows were live when it began.
    pub ordinal: usize,
}

/// A packet on its way through the rules.
#[derive(Debug)]
pub struct Parcel {
    /// The packet.
    pub packet: Packet,
    /// Which way it goes.
    pub direction: Direction,
    /// What was known when it came.
    pub facts: Facts,
}

impl Parcel {
    /// The end nearer to the client.
    pub fn near(&self) -> SocketAddr {
        match self.direction {
            Direction::Up => self.packet.from(),
            Direction::Down => self.packet.to(),
        }
    }

    /// The end farther from the client.
    pub fn far(&self) -> SocketAddr {
        match self.direction {
            Direction::Up => self.packet.to(),
            Direction::Down => self.packet.from(),
        }
    }
}

/// What an action works with.
pub struct Context<'a> {
    /// Now.
    pub moment: Moment,
    /// When the network started.
    pub start: Timestamp,
    /// Chance.
    pub rng: &'a mut ChaCha8Rng,
    /// Until when each switch is on.
    pub switches: &'a mut [Timestamp],
    /// The address that answers for the place, IPv4 and IPv6.
    pub router: [IpAddr; 2],
    place: Place,
    rule: &'a Arc<str>,
    sink: &'a mut Sink,
    later: &'a mut Vec<(Timestamp, Parcel)>,
}

impl Context<'_> {
    /// Time since the network started.
    pub fn elapsed(&self) -> Duration {
        self.moment.now.since(self.start)
    }

    /// Drops a packet.
    pub fn drop(&mut self, parcel: Parcel, why: &'static str) {
        self.write(Deed::Dropped, why, Duration::ZERO, &parcel);
        self.sink.recycle(parcel.packet.into_bytes());
    }

    /// Writes down that a packet was altered.
    pub fn altered(&mut self, parcel: &Parcel, why: &'static str) {
        self.write(Deed::Altered, why, Duration::ZERO, parcel);
    }

    /// Writes down that a packet is held back beyond the path's own delay.
    pub fn delayed(&mut self, parcel: &Parcel, why: &'static str, by: Duration) {
        self.write(Deed::Delayed, why, by, parcel);
    }

    /// Lets a packet go on to the next rule at a time.
    pub fn later(&mut self, at: Timestamp, parcel: Parcel) {
        self.later.push((at, parcel));
    }

    /// Sends a copy on to the next rule at a time.
    pub fn duplicate(&mut self, at: Timestamp, parcel: &Parcel, why: &'static str) {
        self.write(Deed::Duplicated, why, Duration::ZERO, parcel);
        let buffer = self.sink.pool.pop().unwrap_or_default();
        let packet = parcel.packet.copy_into(buffer);
        self.later.push((at, Parcel { packet, direction: parcel.direction, facts: parcel.facts }));
    }

    /// Sends a packet of the lab's own, past all rules.
    pub fn forge(&mut self, direction: Direction, packet: Packet, why: &'static str) {
        let now = self.moment.now;
        let none = Duration::ZERO;
        let flow = FlowKey::of(&packet, direction);
        self.sink.truth.write(now, self.place, self.rule, Deed::Forged, why, none, direction, flow, &packet);
        self.sink.out.push(Output::Forward(direction, packet));
    }

    /// Asks that the client's NAT forgets a flow, or all.
    pub fn forget(&mut self, flow: FlowKey, all: bool) {
        self.sink.out.push(Output::Forget(flow, all));
    }

    fn write(&mut self, deed: Deed, why: &'static str, delay: Duration, parcel: &Parcel) {
        let (now, place, way) = (self.moment.now, self.place, parcel.direction);
        let flow = parcel.facts.key;
        self.sink.truth.write(now, place, self.rule, deed, why, delay, way, flow, &parcel.packet);
    }
}

struct Compiled {
    name: Arc<str>,
    matcher: Matcher,
    action: Box<dyn Act>,
}

/// A packet that waits to go on after `done` rules.
struct Held {
    at: Timestamp,
    order: u64,
    done: usize,
    parcel: Parcel,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The rules of one place at work.
pub struct Pipeline {
    place: Place,
    start: Timestamp,
    seed: u64,
    router: [IpAddr; 2],
    rules: Vec<Compiled>,
    needs: Needs,
    concurrent: Option<Duration>,
    flows: FlowTable,
    switches: Vec<Timestamp>,
    rng: ChaCha8Rng,
    held: BinaryHeap<Reverse<Held>>,
    order: u64,
    later: Vec<(Timestamp, Parcel)>,
    overflow: Arc<str>,
}

impl Pipeline {
    /// Makes those rules ready that stand at `place`. `router` is who answers there, IPv4 and IPv6.
    pub fn new(
        rules: &[Rule],
        place: Place,
        seed: u64,
        start: Timestamp,
        router: [IpAddr; 2],
    ) -> Result<Self, BadRule> {
        let mut names: Vec<String> = Vec::new();
        let mut switch = |name: &str| {
            names.iter().position(|known| known == name).unwrap_or_else(|| {
                names.push(name.to_owned());
                names.len() - 1
            })
        };
        let mut concurrent: Option<Duration> = None;
        let mut compiled = Vec::new();
        for rule in rules.iter().filter(|rule| rule.at == place) {
            let inside = |error| BadRule::In(rule.name.clone(), Box::new(error));
            let matcher = Matcher::new(&rule.matches, &mut switch).map_err(inside)?;
            if matcher.counts_concurrent() {
                let live = rule.matches.concurrent_idle.map_or(Duration::from_secs(30), |span| span.0);
                concurrent = Some(concurrent.unwrap_or_default().max(live));
            }
            let action = act::compile(&rule.action, &mut switch).map_err(inside)?;
            compiled.push(Compiled { name: Arc::from(rule.name.as_str()), matcher, action });
        }
        if compiled.len() > MAX_RULES {
            return Err(BadRule::TooMany);
        }
        let needs = compiled.iter().map(|rule| rule.matcher.needs()).fold(Needs::default(), |a, b| Needs {
            tls: a.tls || b.tls,
            quic: a.quic || b.quic,
            known: a.known || b.known,
        });
        Ok(Self {
            place,
            start,
            seed,
            router,
            rules: compiled,
            needs,
            concurrent,
            flows: FlowTable::default(),
            switches: vec![Timestamp::ZERO; names.len()],
            rng: ChaCha8Rng::seed_from_u64(seed ^ ((place as u64) << 32)),
            held: BinaryHeap::new(),
            order: 0,
            later: Vec::new(),
            overflow: Arc::from("box"),
        })
    }

    /// Takes a packet that has come to the place. What becomes of it at once is in the sink afterwards.
    pub fn offer(&mut self, moment: Moment, direction: Direction, packet: Packet, sink: &mut Sink) {
        let mut key = FlowKey::of(&packet, direction);
        if direction == Direction::Down {
            for rule in self.rules.iter().rev() {
                key = rule.action.origin(key).unwrap_or(key);
            }
        }
        let flow = self.flows.see(moment.now, key, direction, &packet, self.needs, self.concurrent);
        let facts = Facts {
            key,
            arrived: moment.now,
            first: flow.first,
            previous: flow.previous,
            packets: flow.packets,
            bytes: flow.bytes,
            ordinal: flow.ordinal,
        };
        sink.truth.came(self.place, direction, key, packet.size());
        self.go_on(moment, 0, Parcel { packet, direction, facts }, sink);
    }

    /// When [`Self::poll`] is next needed; [`Timestamp::NEVER`] where nothing waits.
    pub fn next(&self) -> Timestamp {
        let held = self.held.peek().map_or(Timestamp::NEVER, |Reverse(held)| held.at);
        self.rules.iter().map(|rule| rule.action.next()).fold(held, Ord::min)
    }

    /// Lets go on what is due by now.
    pub fn poll(&mut self, moment: Moment, sink: &mut Sink) {
        loop {
            let held = self.held.peek().map_or(Timestamp::NEVER, |Reverse(held)| held.at);
            let waiting = self.rules.iter().enumerate().map(|(i, rule)| (rule.action.next(), i)).min();
            match waiting {
                Some((at, index)) if at < held && at <= moment.now => {
                    let rule = &mut self.rules[index];
                    let mut cx = Context {
                        moment,
                        start: self.start,
                        rng: &mut self.rng,
                        switches: &mut self.switches,
                        router: self.router,
                        place: self.place,
                        rule: &rule.name,
                        sink,
                        later: &mut self.later,
                    };
                    let Some(parcel) = rule.action.release(&mut cx) else { continue };
                    let done = match parcel.direction {
                        Direction::Up => index + 1,
                        Direction::Down => self.rules.len() - index,
                    };
                    self.go_on(moment, done, parcel, sink);
                }
                Some(_) | None if held <= moment.now => {
                    let Some(Reverse(Held { done, parcel, .. })) = self.held.pop() else { return };
                    self.go_on(moment, done, parcel, sink);
                }
                Some(_) | None => return,
            }
        }
    }

    /// Lets everything go that is held, for when the rules are taken away.
    pub fn flush(&mut self, sink: &mut Sink) {
        while let Some(Reverse(held)) = self.held.pop() {
            sink.out.push(Output::Forward(held.parcel.direction, held.parcel.packet));
        }
        for rule in &mut self.rules {
            for parcel in rule.action.flush() {
                sink.out.push(Output::Forward(parcel.direction, parcel.packet));
            }
        }
    }

    /// How many flows it knows, and how many packets found no room for theirs.
    pub fn flows(&self) -> (usize, u64) {
        (self.flows.len(), self.flows.untracked)
    }

    fn go_on(&mut self, moment: Moment, mut done: usize, mut parcel: Parcel, sink: &mut Sink) {
        while done < self.rules.len() {
            let index = match parcel.direction {
                Direction::Up => done,
                Direction::Down => self.rules.len() - 1 - done,
            };
            let rule = &mut self.rules[index];
            let key = parcel.facts.key;
            let mut view = View {
                moment,
                start: self.start,
                seed: self.seed,
                rng: &mut self.rng,
                switches: &self.switches,
            };
            let matched = rule.matcher.matches(&parcel, &mut view, 1 << index, || self.flows.get_mut(&key));
            let mut cx = Context {
                moment,
                start: self.start,
                rng: &mut self.rng,
                switches: &mut self.switches,
                router: self.router,
                place: self.place,
                rule: &rule.name,
                sink,
                later: &mut self.later,
            };
            done += 1;
            let step = if matched {
                rule.action.act(&mut cx, parcel)
            } else {
                match rule.action.watch(&mut cx, &mut parcel) {
                    Watch::Keep => Step::Next(parcel),
                    Watch::Drop(why) => {
                        cx.drop(parcel, why);
                        Step::Gone
                    }
                }
            };
            self.hold(moment, done, sink);
            match step {
                Step::Next(next) => parcel = next,
                Step::Leave(next) => {
                    parcel = next;
                    break;
                }
                Step::Gone => return,
            }
        }
        sink.out.push(Output::Forward(parcel.direction, parcel.packet));
    }

    fn hold(&mut self, moment: Moment, done: usize, sink: &mut Sink) {
        for (at, parcel) in self.later.drain(..) {
            if self.held.len() >= MAX_HELD {
                let (now, way, none) = (moment.now, parcel.direction, Duration::ZERO);
                let why = "too many packets held back";
                sink.truth.write(
                    now,
                    self.place,
                    &self.overflow,
                    Deed::Dropped,
                    why,
                    none,
                    way,
                    parcel.facts.key,
                    &parcel.packet,
                );
                sink.recycle(parcel.packet.into_bytes());
                continue;
            }
            self.order += 1;
            self.held.push(Reverse(Held { at, order: self.order, done, parcel }));
        }
    }
}

/// A share, 0 to 1.
pub(super) fn ratio(field: &'static str, share: f64) -> Result<f64, BadRule> {
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(BadRule::Field(field, format!("is {share}, which is not between 0 and 1")))
    }
}

/// Bytes written as hexadecimal digits; spaces are left out.
pub(super) fn hexadecimal(field: &'static str, text: &str) -> Result<Vec<u8>, BadRule> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    let bad = || BadRule::Field(field, format!("`{text}` is not a row of hexadecimal digit pairs"));
    let pairs = digits.chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        u8::from_str_radix(pair, 16).ok()
    });
    pairs.collect::<Option<Vec<u8>>>().ok_or_else(bad)
}
