//! The ground truth: one line per packet touched, with the rule and the reason, and a summary per flow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use probe_protocol::time::Timestamp;
use serde::Serialize;

use super::data::{Direction, Place};
use super::flow::FlowKey;
use crate::hash::Map;
use crate::packet::Packet;

/// At most so many lines are kept in memory; older ones make room, and are counted.
pub const MAX_LINES: usize = 200_000;

/// At most so many flows have a summary of their own.
pub const MAX_SUMMARIES: usize = 65_536;

/// What was done to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// It went no further.
    Dropped,
    /// Bytes of it were changed.
    Altered,
    /// It was held back beyond the path's own delay.
    Delayed,
    /// It was sent once more.
    Duplicated,
    /// It was made by the lab and sent by neither end.
    Forged,
}

/// One packet touched.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Seconds since the network started.
    #[serde(serialize_with = "seconds")]
    pub at: Duration,
    /// Where on the way.
    pub place: Place,
    /// The rule's name, or `nat`, `router`.
    #[serde(serialize_with = "text")]
    pub rule: Arc<str>,
    /// What was done.
    pub deed: Deed,
    /// Why.
    pub why: &'static str,
    /// How long it was held back, seconds; 0 where it was not.
    #[serde(serialize_with = "seconds")]
    pub delay: Duration,
    /// Which way it went.
    pub direction: Direction,
    /// Its flow, by the addresses with which its packets come to the place on their way up.
    pub flow: FlowKey,
    /// Length of the IP packet, bytes.
    pub size: usize,
    /// First bytes of the payload, as hexadecimal digits.
    #[serde(serialize_with = "hexadecimal")]
    pub head: [u8; 16],
}

fn seconds<S: serde::Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64())
}

fn text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn hexadecimal<S: serde::Serializer>(bytes: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
}

/// One way of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Packets that came to the place.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Packets dropped there.
    pub dropped: u64,
    /// Packets altered, delayed or duplicated there.
    pub touched: u64,
    /// Packets forged there in this flow's name.
    pub forged: u64,
}

/// A flow as one place saw it.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Where on the way.
    pub place: Place,
    /// The flow.
    pub flow: FlowKey,
    /// Client to listener.
    pub up: Tally,
    /// Listener to client.
    pub down: Tally,
}

/// Everything that was done, and to what.
#[derive(Debug)]
pub struct Truth {
    start: Timestamp,
    lines: VecDeque<Line>,
    unwritten: usize,
    /// Lines that had to make room.
    pub forgotten: u64,
    flows: Map<(Place, FlowKey), [Tally; 2]>,
    total: [Tally; 2],
    /// Packets whose flow has no summary, for lack of room.
    pub unsummarised: u64,
    counts: Map<(Arc<str>, Deed, Direction), u64>,
}

impl Truth {
    /// An empty one; times are counted from `start`.
    pub fn new(start: Timestamp) -> Self {
        Self {
            start,
            lines: VecDeque::new(),
            unwritten: 0,
            forgotten: 0,
            flows: Map::default(),
            total: [Tally::default(); 2],
            unsummarised: 0,
            counts: Map::default(),
        }
    }

    /// When the network started.
    pub fn start(&self) -> Timestamp {
        self.start
    }

    /// Counts a packet that came to a place.
    pub(crate) fn came(&mut self, place: Place, direction: Direction, flow: FlowKey, size: usize) {
        if place == Place::Path {
            let total = &mut self.total[direction.index()];
            total.packets += 1;
            total.bytes += size as u64;
        }
        if let Some(tally) = self.tally(place, direction, flow) {
            tally.packets += 1;
            tally.bytes += size as u64;
        }
    }

    fn tally(&mut self, place: Place, direction: Direction, flow: FlowKey) -> Option<&mut Tally> {
        let key = (place, flow);
        if self.flows.len() >= MAX_SUMMARIES && !self.flows.contains_key(&key) {
            self.unsummarised += 1;
            return None;
        }
        Some(&mut self.flows.entry(key).or_default()[direction.index()])
    }

    /// Writes down what was done to a packet.
    #[expect(clippy::too_many_arguments, reason = "one per column of the line")]
    pub fn write(
        &mut self,
        now: Timestamp,
        place: Place,
        rule: &Arc<str>,
        deed: Deed,
        why: &'static str,
        delay: Duration,
        direction: Direction,
        flow: FlowKey,
        packet: &Packet,
    ) {
        let count = |tally: &mut Tally| match deed {
            Deed::Dropped => tally.dropped += 1,
            Deed::Altered | Deed::Delayed | Deed::Duplicated => tally.touched += 1,
            Deed::Forged => tally.forged += 1,
        };
        count(&mut self.total[direction.index()]);
        if let Some(tally) = self.tally(place, direction, flow) {
            count(tally);
        }
        *self.counts.entry((rule.clone(), deed, direction)).or_default() += 1;
        if self.lines.len() >= MAX_LINES {
            self.lines.pop_front();
            self.forgotten += 1;
            self.unwritten = self.unwritten.min(self.lines.len());
        }
        let mut head = [0; 16];
        let payload = packet.payload();
        let length = payload.len().min(head.len());
        head[..length].copy_from_slice(&payload[..length]);
        let size = packet.size();
        let at = now.since(self.start);
        let rule = rule.clone();
        self.lines.push_back(Line { at, place, rule, deed, why, delay, direction, flow, size, head });
        self.unwritten += 1;
    }

    /// The lines in memory, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter()
    }

    /// The lines that came since this was last asked, for a log on disk.
    pub fn fresh(&mut self) -> impl Iterator<Item = &Line> {
        let from = self.lines.len() - std::mem::take(&mut self.unwritten);
        self.lines.range(from..)
    }

    /// How often a rule did this to packets going this way; exact whatever was forgotten.
    pub fn count(&self, rule: &str, deed: Deed, direction: Direction) -> u64 {
        self.counts
            .iter()
            .filter(|((name, d, way), _)| &**name == rule && *d == deed && *way == direction)
            .map(|(_, count)| count)
            .sum()
    }

    /// Each rule's deeds and how often, in order of names.
    pub fn counts(&self) -> Vec<(Arc<str>, Deed, Direction, u64)> {
        let mut all: Vec<_> = self.counts.iter().map(|((n, d, w), c)| (n.clone(), *d, *w, *c)).collect();
        all.sort_by(|a, b| (&a.0, a.2).cmp(&(&b.0, b.2)));
        all
    }

    /// All that went a way: packets and bytes on the path, and what was done anywhere.
    pub fn total(&self, direction: Direction) -> Tally {
        self.total[direction.index()]
    }

    /// The flows, in order.
    pub fn summaries(&self) -> Vec<Summary> {
        let mut all: Vec<Summary> = self
            .flows
            .iter()
            .map(|((place, flow), [up, down])| Summary { place: *place, flow: *flow, up: *up, down: *down })
            .collect();
        all.sort_by_key(|summary| (summary.place, summary.flow));
        all
    }
}
