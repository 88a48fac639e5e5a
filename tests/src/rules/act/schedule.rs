//! In which order a queue is served: strict priority, and fair queueing by deficit round robin (Shreedhar and
//! Varghese, 1996).

use std::collections::VecDeque;

use probe_protocol::time::Timestamp;

use super::super::flow::FlowKey;
use super::super::pipeline::Parcel;
use crate::hash::Map;

/// What a flow may send in one turn, bytes.
const QUANTUM: usize = 1514;

/// A queue's order.
pub(super) trait Schedule: Send {
    /// Takes a packet that came at this time; `low` where it is of the low class.
    fn push(&mut self, came: Timestamp, parcel: Parcel, low: bool);
    /// Gives the next packet, with the time it came.
    fn pop(&mut self) -> Option<(Timestamp, Parcel)>;
    /// The size of what [`Self::pop`] would give, bytes.
    fn next_size(&mut self) -> Option<usize>;
    /// Gives up the packet that is the first to be lost when there is no room.
    fn shed(&mut self) -> Option<Parcel>;
    /// What waits, bytes.
    fn bytes(&self) -> u64;
}

type Waiting = VecDeque<(Timestamp, Parcel)>;

/// High before low.
#[derive(Default)]
pub(super) struct Priority {
    high: Waiting,
    low: Waiting,
    bytes: u64,
}

impl Schedule for Priority {
    fn push(&mut self, came: Timestamp, parcel: Parcel, low: bool) {
        self.bytes += parcel.packet.size() as u64;
        if low { &mut self.low } else { &mut self.high }.push_back((came, parcel));
    }

    fn pop(&mut self) -> Option<(Timestamp, Parcel)> {
        let next = self.high.pop_front().or_else(|| self.low.pop_front())?;
        self.bytes -= next.1.packet.size() as u64;
        Some(next)
    }

    fn next_size(&mut self) -> Option<usize> {
        self.high.front().or(self.low.front()).map(|(_, parcel)| parcel.packet.size())
    }

    fn shed(&mut self) -> Option<Parcel> {
        let (_, victim) = self.low.pop_back().or_else(|| self.high.pop_back())?;
        self.bytes -= victim.packet.size() as u64;
        Some(victim)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[derive(Default)]
struct Line {
    waiting: Waiting,
    bytes: u64,
    deficit: usize,
}

/// Each flow in turn.
#[derive(Default)]
pub(super) struct Fair {
    lines: Map<FlowKey, Line>,
    /// Whose turn it is stands in front.
    turns: VecDeque<FlowKey>,
    bytes: u64,
}

impl Schedule for Fair {
    fn push(&mut self, came: Timestamp, parcel: Parcel, _low: bool) {
        let (key, size) = (parcel.facts.key, parcel.packet.size() as u64);
        let line = self.lines.entry(key).or_default();
        if line.waiting.is_empty() {
            line.deficit = QUANTUM;
            self.turns.push_back(key);
        }
        line.waiting.push_back((came, parcel));
        line.bytes += size;
        self.bytes += size;
    }

    fn pop(&mut self) -> Option<(Timestamp, Parcel)> {
        let size = self.next_size()?;
        let key = *self.turns.front()?;
        let line = self.lines.get_mut(&key)?;
        let next = line.waiting.pop_front()?;
        line.deficit -= size;
        line.bytes -= size as u64;
        self.bytes -= size as u64;
        if line.waiting.is_empty() {
            self.lines.remove(&key);
            self.turns.pop_front();
        }
        Some(next)
    }

    fn next_size(&mut self) -> Option<usize> {
        loop {
            let key = *self.turns.front()?;
            let line = self.lines.get_mut(&key)?;
            let size = line.waiting.front()?.1.packet.size();
            if size <= line.deficit {
                return Some(size);
            }
            line.deficit += QUANTUM;
            self.turns.rotate_left(1);
        }
    }

    fn shed(&mut self) -> Option<Parcel> {
        // Ties go to the flow that comes first in order, so that a seed repeats exactly.
        let key = *self.lines.iter().max_by_key(|(key, line)| (line.bytes, **key))?.0;
        let line = self.lines.get_mut(&key)?;
        let (_, victim) = line.waiting.pop_back()?;
        let size = victim.packet.size() as u64;
        line.bytes -= size;
        self.bytes -= size;
        if line.waiting.is_empty() {
            self.lines.remove(&key);
            self.turns.retain(|turn| *turn != key);
        }
        Some(victim)
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
