//! Datagrams larger than the MTU, sent without DF, so that they travel as fragments: each way apart, interleaved with small
//! ones that show whether the path is there at all.

use std::collections::BTreeMap;
use std::time::Duration;

use probe_analysis::observation::{Fate, FlowNo, Fragment, Observation};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::{MAX_LEN, MIN_LEN};

use super::flow::{Flow, Outgoing};
use super::probing::Asked;
use super::{Engine, Phase, Reason};

/// Most datagrams each way.
const MAX_COUNT: u32 = 1000;

/// What one datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A small one with a small answer.
    Control,
    /// A large one with a small answer.
    Up,
    /// A small one with a large answer.
    Down,
}

impl Piece {
    /// The record's length, and what it asks for.
    pub(super) fn lengths(self, flow: &Flow) -> Option<(usize, Asked)> {
        let large = flow.pieces.as_ref()?.record_len;
        let reply_len = if self == Self::Down { large as u16 } else { MIN_LEN as u16 };
        let asked = Asked { reply_len, fragments: self == Self::Down, ..Asked::default() };
        Some((if self == Self::Up { large } else { MIN_LEN }, asked))
    }
}

/// One flow's datagrams.
#[derive(Debug)]
pub(super) struct Pieces {
    size: u32,
    record_len: usize,
    left: u32,
    /// So many more may be asked for again because their replies were held back.
    spare: u32,
    next: Piece,
    sent: BTreeMap<u64, Piece>,
    /// Sent and arrived, of those whose fate is known.
    up: (u32, u32),
    down: (u32, u32),
}

impl Pieces {
    pub(super) fn sent(&mut self, seq: u64, piece: Piece) {
        self.sent.insert(seq, piece);
    }

    /// Length of the record that probe `seq` asks for, where it asks for more than it is.
    pub(super) fn asked(&self, seq: u64) -> Option<usize> {
        (self.sent.get(&seq) == Some(&Piece::Down)).then_some(self.record_len)
    }

    /// The reply to this one came, and was short: it counts for nothing, and is asked for once more.
    pub(super) fn held_back(&mut self, seq: u64) {
        if self.sent.remove(&seq).is_some() && self.spare > 0 {
            self.spare -= 1;
            self.left += 1;
        }
    }

    pub(super) fn settled(&mut self, seq: u64, fate: Fate) {
        match (self.sent.remove(&seq), fate) {
            (Some(Piece::Up), Fate::Received | Fate::LostDown) => {
                self.up = (self.up.0 + 1, self.up.1 + 1);
            }
            (Some(Piece::Up), Fate::LostUp) => self.up.0 += 1,
            (Some(Piece::Down), Fate::Received) => self.down = (self.down.0 + 1, self.down.1 + 1),
            // Its answer was lost, not its request.
            (Some(Piece::Down), Fate::LostDown) => self.down.0 += 1,
            (Some(Piece::Up | Piece::Down | Piece::Control) | None, _) => {}
        }
    }
}

impl Engine {
    /// A flow of fragments is open.
    pub(super) fn pieces_opened(&mut self, now: Timestamp, no: FlowNo, size: u32, count: u32) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| flow.pieces.is_none()) else { return };
        // IP and UDP headers, without options.
        let header = if flow.spec.to.is_ipv6() { 48 } else { 28 };
        let datagram = (size.saturating_sub(header) as usize).clamp(MIN_LEN, MAX_LEN);
        let record_len = flow.spec.dress.record_len(datagram).max(MIN_LEN);
        flow.pieces = Some(Pieces {
            size: size.min(MAX_LEN as u32 + header),
            record_len,
            left: 2 * count.min(MAX_COUNT),
            spare: 2 * count.min(MAX_COUNT),
            next: Piece::Control,
            sent: BTreeMap::new(),
            up: (0, 0),
            down: (0, 0),
        });
        self.at(now, Reason::Piece(no));
    }

    /// The next datagram.
    pub(super) fn piece_due(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| flow.is_open()) else { return };
        let (interval, percent) = (flow.interval.max(Duration::from_millis(20)), flow.spec.jitter_percent);
        let Some(pieces) = flow.pieces.as_mut() else { return };
        if self.phase > Phase::Measure {
            return;
        }
        if pieces.left == 0 {
            return self.life_over(now, no);
        }
        let piece = pieces.next;
        pieces.next = match piece {
            Piece::Control => Piece::Up,
            Piece::Up => Piece::Down,
            Piece::Down => Piece::Control,
        };
        pieces.left -= u32::from(piece != Piece::Control);
        self.outgoing.push_back((no, Outgoing::Piece(piece)));
        let next = self.jittered(interval, percent.max(20));
        self.at(now + next, Reason::Piece(no));
    }

    /// Says what became of the fragments, once.
    pub(super) fn report_pieces(&mut self, now: Timestamp, no: FlowNo) {
        let Some(pieces) = self.flows.get_mut(&no).and_then(|flow| flow.pieces.take()) else { return };
        for (up, (sent, arrived)) in [(true, pieces.up), (false, pieces.down)] {
            if sent > 0 {
                let size = pieces.size;
                self.observe(Observation::Fragment(Fragment { flow: no, up, size, sent, arrived, at: now }));
            }
        }
    }
}
