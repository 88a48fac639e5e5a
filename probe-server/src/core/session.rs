//! One client's run, and the flows in it.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use probe_protocol::control::{ControlRefusal, HandInReply, HandInRequest, MAX_HAND_IN, Opening};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::id::FlowId;

use super::book::{DatagramLedger, FlowBook};
use super::invites::Rights;

/// Attempts to open flows that are remembered per session.
const MAX_OPENINGS: usize = 64;

/// A flow over TCP, TLS or QUIC, shared between its connection and whoever asks for its ledger.
#[derive(Clone, Debug)]
pub struct StreamFlow {
    /// Its ledger.
    pub book: Arc<Mutex<FlowBook>>,
    /// The ledger of the socket under it, on QUIC.
    pub datagrams: Option<Arc<Mutex<DatagramLedger>>>,
}

/// Ends a connection from outside; must neither block nor call back.
pub type Closer = Box<dyn FnOnce() + Send>;

/// Where a flow's state lives.
pub(super) enum Place {
    /// In the packet thread's slot.
    Udp,
    /// Here.
    Stream(StreamFlow, Option<Closer>),
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Udp => "Udp",
            Self::Stream(..) => "Stream",
        })
    }
}

#[derive(Debug)]
pub(super) struct FlowEntry {
    pub(super) id: FlowId,
    pub(super) slot: u32,
    pub(super) nonce: u64,
    pub(super) last: Timestamp,
    pub(super) over: bool,
    /// How often another connection took the flow over.
    pub(super) attached: u32,
    pub(super) place: Place,
}

/// What an address had been counted with before a session came from it: that is none of the session's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Before {
    /// Datagrams that were none of ours.
    pub(super) strange: u64,
    /// TCP connections.
    pub(super) tcp_accepted: u64,
    /// TLS ClientHellos.
    pub(super) client_hellos: u64,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) rights: Rights,
    /// May do all: holds an invite, or the admin opened the listener to everybody.
    pub(super) full: bool,
    pub(super) address: SocketAddr,
    pub(super) source: IpAddr,
    pub(super) opened: Timestamp,
    pub(super) last: Timestamp,
    pub(super) ended: Option<Timestamp>,
    pub(super) flows: Vec<FlowEntry>,
    /// What its address had been counted with before.
    pub(super) before: Before,
    pub(super) hand_in: HandIn,
    openings: VecDeque<Opening>,
}

impl Session {
    pub(super) fn new(
        rights: Rights,
        full: bool,
        address: SocketAddr,
        now: Timestamp,
        before: Before,
    ) -> Self {
        Self {
            rights,
            full,
            address,
            source: super::limit::source_of(address.ip()),
            opened: now,
            last: now,
            ended: None,
            flows: Vec::new(),
            before,
            hand_in: HandIn::default(),
            openings: VecDeque::new(),
        }
    }

    /// Takes note of a Hello.
    pub(super) fn note_opening(&mut self, flow_nonce: u64, source: SocketAddr, with_cookie: bool) {
        let known = self.openings.iter().position(|o| o.flow_nonce == flow_nonce);
        let mut opening = known.and_then(|at| self.openings.remove(at)).unwrap_or(Opening {
            flow_nonce,
            arrived: 0,
            with_cookie: 0,
            source,
        });
        opening.arrived = opening.arrived.saturating_add(1);
        opening.with_cookie = opening.with_cookie.saturating_add(u32::from(with_cookie));
        opening.source = source;
        self.openings.truncate(MAX_OPENINGS - 1);
        self.openings.push_front(opening);
    }

    /// Whether an attempt to open this flow was noted.
    pub(super) fn has_opening(&self, flow_nonce: u64) -> bool {
        self.openings.iter().any(|o| o.flow_nonce == flow_nonce)
    }

    /// The latest attempts, the latest first.
    pub(super) fn openings(&self) -> Vec<Opening> {
        self.openings.iter().cloned().collect()
    }
}

/// A verdict as its pieces come in, in any order.
#[derive(Debug, Default)]
pub(super) struct HandIn {
    state: HandInState,
}

#[derive(Debug, Default)]
enum HandInState {
    #[default]
    Nothing,
    Coming {
        bytes: Vec<u8>,
        /// Which bytes came: ascending, apart from each other, bounded.
        have: Vec<(u32, u32)>,
    },
    /// With the drivers, who write it down.
    Handed {
        total: u32,
    },
    Kept {
        total: u32,
    },
    Failed,
}

/// Gaps tolerated between the pieces of a verdict.
const MAX_PIECES: usize = 64;

/// What a piece of a verdict led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HandInStep {
    /// Say so.
    Reply(HandInReply),
    /// It is whole: keep this.
    Whole(Vec<u8>),
}

impl HandIn {
    pub(super) fn is_coming(&self) -> bool {
        matches!(self.state, HandInState::Coming { .. })
    }

    /// Takes in a piece. A run hands in one verdict; a later one with another length takes the place of a failed one
    /// or of one that is still coming, never of one that is kept.
    pub(super) fn take(&mut self, request: &HandInRequest) -> Result<HandInStep, ControlRefusal> {
        let end = u64::from(request.offset) + request.chunk.len() as u64;
        if request.total == 0 || request.total > MAX_HAND_IN || end > u64::from(request.total) {
            return Err(ControlRefusal::TooMuch);
        }
        let reply = |have, kept| Ok(HandInStep::Reply(HandInReply { have, kept }));
        match &self.state {
            HandInState::Handed { total } if *total == request.total => return reply(*total, false),
            HandInState::Kept { total } if *total == request.total => return reply(*total, true),
            HandInState::Handed { .. } | HandInState::Kept { .. } => return Err(ControlRefusal::TooMuch),
            HandInState::Coming { bytes, .. } if bytes.len() == request.total as usize => {}
            HandInState::Failed => {
                self.state = HandInState::Nothing;
                return Err(ControlRefusal::NotKept);
            }
            HandInState::Nothing | HandInState::Coming { .. } => {
                self.state = HandInState::Coming { bytes: vec![0; request.total as usize], have: Vec::new() };
            }
        }
        let HandInState::Coming { bytes, have } = &mut self.state else {
            return Err(ControlRefusal::NotUnderstood);
        };
        let (start, end) = (request.offset, end as u32);
        if let Some(room) = bytes.get_mut(start as usize..end as usize) {
            room.copy_from_slice(&request.chunk);
        }
        if start < end {
            let first = have.partition_point(|(_, e)| *e < start);
            let past = have.partition_point(|(s, _)| *s <= end);
            let joined = have[first..past].iter().fold((start, end), |a, b| (a.0.min(b.0), a.1.max(b.1)));
            have.splice(first..past, [joined]);
            // Too many gaps: the last pieces are forgotten and will be sent again.
            have.truncate(MAX_PIECES);
        }
        let without_gap = have.first().filter(|(s, _)| *s == 0).map_or(0, |(_, e)| *e);
        if without_gap < request.total {
            return reply(without_gap, false);
        }
        let whole = std::mem::take(bytes);
        self.state = HandInState::Handed { total: request.total };
        Ok(HandInStep::Whole(whole))
    }

    /// It has been written down, or could not be.
    pub(super) fn kept(&mut self, well: bool) {
        self.state = match (&self.state, well) {
            (HandInState::Handed { total }, true) => HandInState::Kept { total: *total },
            _ => HandInState::Failed,
        };
    }
}

#[cfg(test)]
mod tests {
    use probe_protocol::control::MAX_HAND_IN_CHUNK;
    use proptest::prelude::*;

    use super::*;

    fn piece(total: u32, offset: u32, chunk: &[u8]) -> HandInRequest {
        HandInRequest { total, offset, chunk: chunk.to_vec() }
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_make_the_whole(
            len in 1usize..5000, seed: u64, order in Just((0..64usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let document: Vec<u8> = (0..len).map(|i| (i as u64 ^ seed) as u8).collect();
            let pieces: Vec<_> = document.chunks(83).enumerate().collect();
            let mut hand_in = HandIn::default();
            let mut got = None;
            for at in order {
                let Some((n, chunk)) = pieces.get(at) else { continue };
                let request = piece(len as u32, *n as u32 * 83, chunk);
                match hand_in.take(&request).unwrap() {
                    HandInStep::Whole(bytes) => got = Some(bytes),
                    HandInStep::Reply(reply) => prop_assert!(!reply.kept),
                }
            }
            prop_assert_eq!(got, Some(document));
        }

        #[test]
        fn any_pieces_are_taken_or_refused_within_bounds(
            pieces in proptest::collection::vec((0u32..3000, 0u32..3000, 0usize..50), 0..300),
        ) {
            let mut hand_in = HandIn::default();
            for (total, offset, len) in pieces {
                let _ = hand_in.take(&piece(total, offset, &vec![1; len]));
                if let HandInState::Coming { bytes, have } = &hand_in.state {
                    prop_assert!(bytes.len() <= MAX_HAND_IN as usize && have.len() <= MAX_PIECES);
                    prop_assert!(have.windows(2).all(|w| w[0].1 < w[1].0));
                }
            }
        }
    }

    #[test]
    fn the_bound_is_exact_and_a_repeated_last_piece_says_how_it_ended() {
        let mut hand_in = HandIn::default();
        let last = MAX_HAND_IN - MAX_HAND_IN_CHUNK as u32;
        let over = piece(MAX_HAND_IN + 1, 0, &[1]);
        assert_eq!(hand_in.take(&over), Err(ControlRefusal::TooMuch));
        assert_eq!(hand_in.take(&piece(10, 5, &[0; 6])), Err(ControlRefusal::TooMuch));
        assert!(hand_in.take(&piece(MAX_HAND_IN, last, &[1; MAX_HAND_IN_CHUNK])).is_ok());

        let mut hand_in = HandIn::default();
        assert_eq!(hand_in.take(&piece(2, 0, &[7, 8])), Ok(HandInStep::Whole(vec![7, 8])));
        let again = |h: &mut HandIn| h.take(&piece(2, 0, &[7, 8]));
        assert_eq!(again(&mut hand_in), Ok(HandInStep::Reply(HandInReply { have: 2, kept: false })));
        hand_in.kept(true);
        assert_eq!(again(&mut hand_in), Ok(HandInStep::Reply(HandInReply { have: 2, kept: true })));
        assert_eq!(hand_in.take(&piece(3, 0, &[1])), Err(ControlRefusal::TooMuch));
    }

    #[test]
    fn what_could_not_be_kept_is_said_once_and_may_be_tried_again() {
        let mut hand_in = HandIn::default();
        assert_eq!(hand_in.take(&piece(1, 0, &[7])), Ok(HandInStep::Whole(vec![7])));
        hand_in.kept(false);
        assert_eq!(hand_in.take(&piece(1, 0, &[7])), Err(ControlRefusal::NotKept));
        assert_eq!(hand_in.take(&piece(1, 0, &[7])), Ok(HandInStep::Whole(vec![7])));
    }

    #[test]
    fn openings_are_counted_and_bounded_the_latest_first() {
        let from: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let mut session = Session::new(Rights::Public, false, from, Timestamp::ZERO, Before::default());
        for nonce in 0..MAX_OPENINGS as u64 + 5 {
            session.note_opening(nonce, from, false);
        }
        session.note_opening(7, from, true);
        let openings = session.openings();
        assert_eq!(openings.len(), MAX_OPENINGS);
        assert_eq!((openings[0].flow_nonce, openings[0].arrived, openings[0].with_cookie), (7, 2, 1));
        assert!(openings.iter().all(|o| o.flow_nonce != 0));
    }
}
