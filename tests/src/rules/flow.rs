//! The flows that a box on the way has seen: ages, counts, and what a classifier made of them.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::time::Timestamp;
use serde::Serialize;

use super::data::Direction;
use super::recognise::{Classifier, Needs};
use crate::hash::Map;
use crate::packet::{Packet, Part, Protocol};

/// At most so many flows are known at one place; what comes beyond is carried, but has neither age nor count.
pub const MAX_FLOWS: usize = 65_536;

/// A flow that was silent for so long may be forgotten where there is no room for a new one.
const STALE: Duration = Duration::from_secs(600);

/// What makes packets one flow, seen from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct FlowKey {
    /// What it carries.
    pub protocol: Protocol,
    /// The end nearer to the client.
    pub client: SocketAddr,
    /// The end farther from the client.
    pub server: SocketAddr,
}

impl FlowKey {
    /// The flow of a packet that goes this way.
    pub fn of(packet: &Packet, direction: Direction) -> Self {
        let (client, server) = match direction {
            Direction::Up => (packet.from(), packet.to()),
            Direction::Down => (packet.to(), packet.from()),
        };
        Self { protocol: packet.protocol(), client, server }
    }

    /// A hash that depends on the flow and `seed` alone, the same on every machine (SplitMix64 over the fields).
    pub fn hash(&self, seed: u64) -> u64 {
        let mut state = mix(seed ^ 0x9e37_79b9_7f4a_7c15);
        for address in [self.client, self.server] {
            let ip = match address.ip() {
                std::net::IpAddr::V4(ip) => u128::from(u32::from(ip)),
                std::net::IpAddr::V6(ip) => u128::from(ip),
            };
            state = mix(state ^ (ip as u64));
            state = mix(state ^ ((ip >> 64) as u64) ^ u64::from(address.port()));
        }
        mix(state ^ self.protocol as u64)
    }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// What is known of one flow. The counts include the packet in hand.
#[derive(Debug)]
pub struct Flow {
    /// When its first packet came.
    pub first: Timestamp,
    /// When the packet before the one in hand came, up and down; `None` where there was none.
    pub previous: [Option<Timestamp>; 2],
    last: [Option<Timestamp>; 2],
    /// Packets up and down.
    pub packets: [u64; 2],
    /// Bytes of IP packets up and down.
    pub bytes: [u64; 2],
    /// How many flows of its protocol were live when it began, itself included.
    pub ordinal: usize,
    /// Bit N: it has matched rule N, which is sticky.
    pub stuck: u64,
    /// What it looks like.
    pub classifier: Classifier,
}

impl Flow {
    fn new(now: Timestamp) -> Self {
        Self {
            first: now,
            previous: [None; 2],
            last: [None; 2],
            packets: [0; 2],
            bytes: [0; 2],
            ordinal: 1,
            stuck: 0,
            classifier: Classifier::default(),
        }
    }

    fn count(&mut self, now: Timestamp, direction: Direction, size: usize) {
        self.previous = self.last;
        self.last[direction.index()] = Some(now);
        self.packets[direction.index()] += 1;
        self.bytes[direction.index()] += size as u64;
    }

    /// When the last packet came, either way.
    pub fn last_seen(&self) -> Timestamp {
        self.last.iter().flatten().copied().max().unwrap_or(self.first)
    }
}

/// The flows known at one place.
#[derive(Debug)]
pub struct FlowTable {
    flows: Map<FlowKey, Flow>,
    spare: Flow,
    swept: Timestamp,
    /// Packets whose flow found no room.
    pub untracked: u64,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self {
            flows: Map::default(),
            spare: Flow::new(Timestamp::ZERO),
            swept: Timestamp::ZERO,
            untracked: 0,
        }
    }
}

impl FlowTable {
    /// Counts a packet of the flow `key` and gives the flow. `concurrent` is how long a silent flow still counts as live
    /// for [`Flow::ordinal`], where any rule asks for it.
    pub fn see(
        &mut self,
        now: Timestamp,
        key: FlowKey,
        direction: Direction,
        packet: &Packet,
        needs: Needs,
        concurrent: Option<Duration>,
    ) -> &mut Flow {
        if !self.flows.contains_key(&key) {
            self.begin(now, key, packet, concurrent);
        }
        let flow = self.flows.get_mut(&key).unwrap_or(&mut self.spare);
        flow.count(now, direction, packet.size());
        flow.classifier.see(direction, packet, needs);
        flow
    }

    /// Keeps a flow that was not seen before, or makes the spare one stand for it.
    fn begin(&mut self, now: Timestamp, key: FlowKey, packet: &Packet, concurrent: Option<Duration>) {
        let mut ordinal = 1;
        if packet.part() != Part::Later {
            if let Some(live_for) = concurrent {
                ordinal += self
                    .flows
                    .iter()
                    .filter(|(k, flow)| k.protocol == key.protocol && now.since(flow.last_seen()) < live_for)
                    .count();
            }
            self.make_room(now);
        }
        let flow = Flow { ordinal, ..Flow::new(now) };
        if self.flows.len() < MAX_FLOWS {
            self.flows.insert(key, flow);
        } else {
            self.untracked += 1;
            self.spare = flow;
        }
    }

    /// A flow that is known.
    pub fn get_mut(&mut self, key: &FlowKey) -> Option<&mut Flow> {
        self.flows.get_mut(key)
    }

    fn make_room(&mut self, now: Timestamp) {
        if self.flows.len() >= MAX_FLOWS && now.since(self.swept) >= Duration::from_secs(1) {
            self.swept = now;
            self.flows.retain(|_, flow| now.since(flow.last_seen()) < STALE);
        }
    }

    /// How many flows are known.
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }
}
