//! What the listener remembers of one flow, over whatever it runs.

use std::collections::VecDeque;
use std::net::SocketAddr;

use probe_protocol::control::{DatagramsReply, FlowReply, StreamOver, TcpFacts};
use probe_protocol::ledger::{ReceiptBounds, Receipts};
use probe_protocol::time::Timestamp;

use super::bulk::SharedTransfer;

/// Old addresses kept per flow.
const MAX_MOVED: usize = 16;
/// Bytes kept of the first record that failed its check.
pub const FORGED_SAMPLE: usize = 256;

/// A flow's ledger and address.
#[derive(Debug)]
pub struct FlowBook {
    /// What arrived.
    pub receipts: Receipts,
    /// Where its packets come from now.
    pub source: SocketAddr,
    /// How often that changed.
    pub moves: u32,
    /// Records under its id that failed their check.
    pub forged: u64,
    /// TCP's own view.
    pub tcp: Option<TcpFacts>,
    /// How its stream ended.
    pub over: Option<StreamOver>,
    /// Its load, where it carries one.
    pub bulk: Option<SharedTransfer>,
    moved: Vec<(SocketAddr, Timestamp)>,
    sample: Option<Box<[u8]>>,
}

impl FlowBook {
    /// An empty book.
    pub fn new(source: SocketAddr, bounds: ReceiptBounds) -> Self {
        Self {
            receipts: Receipts::new(bounds),
            source,
            moves: 0,
            forged: 0,
            tcp: None,
            over: None,
            bulk: None,
            moved: Vec::new(),
            sample: None,
        }
    }

    /// The flow comes from another address from now on; the oldest of the former ones is forgotten beyond a bound.
    pub fn move_to(&mut self, source: SocketAddr, now: Timestamp) {
        if self.moved.len() == MAX_MOVED {
            self.moved.remove(0);
        }
        self.moved.push((self.source, now));
        self.source = source;
        self.moves = self.moves.wrapping_add(1);
    }

    /// Whether the next forged record should be kept as evidence.
    pub fn wants_sample(&self) -> bool {
        self.sample.is_none()
    }

    /// Counts a record that failed its check; the first one's beginning is kept.
    pub fn note_forged(&mut self, record: &[u8]) {
        self.forged += 1;
        if self.sample.is_none() {
            self.sample = Some(record[..record.len().min(FORGED_SAMPLE)].into());
        }
    }

    /// What the client may know of it.
    pub fn describe(&self) -> FlowReply {
        FlowReply {
            source: self.source,
            moved: self.moved.clone(),
            moves: self.moves,
            forged: self.forged,
            forged_sample: self.sample.clone(),
            tcp: self.tcp,
            over: self.over,
        }
    }
}

/// How much a new flow may remember, by how many flows there are already: few flows have room for much, and ten
/// thousand still fit into the memory that was promised.
pub fn bounds_for(live_flows: usize, public: bool) -> ReceiptBounds {
    match (public, live_flows) {
        (true, _) => ReceiptBounds { ranges: 128, arrivals: 256 },
        (false, 0..512) => ReceiptBounds { ranges: 4096, arrivals: 2048 },
        (false, 512..2048) => ReceiptBounds { ranges: 512, arrivals: 256 },
        (false, _) => ReceiptBounds { ranges: 128, arrivals: 64 },
    }
}

/// The ledger of the UDP socket under one QUIC connection: hashes of the datagrams that arrived and left, each in a
/// bounded ring.
#[derive(Debug, Default)]
pub struct DatagramLedger {
    received: HashRing,
    sent: HashRing,
}

/// Datagrams remembered per direction.
const RING: usize = 8192;

#[derive(Debug, Default)]
struct HashRing {
    hashes: VecDeque<u32>,
    total: u64,
}

impl DatagramLedger {
    /// Takes note of a datagram that arrived (true) or left (false).
    pub fn note(&mut self, received: bool, hash: u32) {
        let ring = if received { &mut self.received } else { &mut self.sent };
        if ring.hashes.len() == RING {
            ring.hashes.pop_front();
        }
        ring.hashes.push_back(hash);
        ring.total += 1;
    }

    /// One page from number `from` on, at most `max`.
    pub fn page(&self, received: bool, from: u64, max: usize) -> DatagramsReply {
        let ring = if received { &self.received } else { &self.sent };
        let oldest = ring.total - ring.hashes.len() as u64;
        let first = from.clamp(oldest, ring.total);
        let hashes = ring.hashes.iter().skip((first - oldest) as usize).take(max).copied().collect();
        DatagramsReply { first, total: ring.total, hashes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_addresses_and_samples_are_bounded() {
        let source = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let mut book = FlowBook::new(source(0), ReceiptBounds { ranges: 4, arrivals: 4 });
        for port in 1..=40 {
            book.move_to(source(port), Timestamp::from_nanos(u64::from(port)));
            book.note_forged(&[port as u8; 2000]);
        }
        let reply = book.describe();
        assert_eq!(
            (reply.source, reply.moves, reply.moved.len(), reply.forged),
            (source(40), 40, MAX_MOVED, 40)
        );
        assert_eq!(reply.moved[MAX_MOVED - 1], (source(39), Timestamp::from_nanos(40)));
        assert_eq!(reply.forged_sample, Some(vec![1; FORGED_SAMPLE].into()));
    }

    #[test]
    fn the_datagram_ledger_forgets_the_oldest_and_says_so() {
        let mut ledger = DatagramLedger::default();
        for n in 0..RING as u32 + 10 {
            ledger.note(true, n);
        }
        ledger.note(false, 7);
        let page = ledger.page(true, 0, 3);
        assert_eq!((page.first, page.total, page.hashes), (10, RING as u64 + 10, vec![10, 11, 12]));
        let last = ledger.page(true, RING as u64 + 9, 100);
        assert_eq!(last.hashes, vec![RING as u32 + 9]);
        assert_eq!(ledger.page(true, u64::MAX, 5).hashes, Vec::<u32>::new());
        assert_eq!(ledger.page(false, 0, 5).hashes, vec![7]);
    }
}
