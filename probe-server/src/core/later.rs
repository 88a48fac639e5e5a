//! Replies that leave later, or as fragments: only those that the holder of an invite asked for, to the address that a
//! cookie proved, bounded per flow and in all. What is asked for beyond a bound is noted and not answered.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};

use probe_protocol::time::Timestamp;
use probe_protocol::wire::id::FlowId;

/// Replies of one flow that wait.
pub(super) const MAX_PER_FLOW: u16 = 64;
/// Replies that wait in all.
const MAX_WAITING: usize = 8192;
/// Bytes of them in all.
const MAX_BYTES: usize = 4 << 20;

/// A reply whose time has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaterReply {
    /// Where to.
    pub to: SocketAddr,
    /// From which of the listener's addresses, where that is known.
    pub local: Option<IpAddr>,
    /// The datagram.
    pub bytes: Vec<u8>,
    /// With this TOS or traffic class.
    pub tos: u8,
    /// It may be fragmented.
    pub fragments: bool,
}

/// A reply that waits.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Waiting {
    pub(super) due: Timestamp,
    pub(super) slot: u32,
    pub(super) id: FlowId,
    pub(super) tos: u8,
    pub(super) fragments: bool,
    pub(super) bytes: Vec<u8>,
}

/// The replies that wait.
#[derive(Debug, Default)]
pub(super) struct Later {
    waiting: BinaryHeap<Reverse<Waiting>>,
    bytes: usize,
}

impl Later {
    /// Keeps a reply; false where there is no room.
    pub(super) fn keep(&mut self, reply: Waiting) -> bool {
        let room = self.waiting.len() < MAX_WAITING && self.bytes + reply.bytes.len() <= MAX_BYTES;
        if room {
            self.bytes += reply.bytes.len();
            self.waiting.push(Reverse(reply));
        }
        room
    }

    /// When the first of them is due.
    pub(super) fn next(&self) -> Timestamp {
        self.waiting.peek().map_or(Timestamp::NEVER, |Reverse(reply)| reply.due)
    }

    /// One that is due by now.
    pub(super) fn take(&mut self, now: Timestamp) -> Option<Waiting> {
        if self.next() > now {
            return None;
        }
        let Reverse(reply) = self.waiting.pop()?;
        self.bytes -= reply.bytes.len();
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(due: u64, len: usize) -> Waiting {
        let due = Timestamp(due);
        Waiting { due, slot: 0, id: FlowId([0; 8]), tos: 0, fragments: false, bytes: vec![0; len] }
    }

    #[test]
    fn replies_come_when_they_are_due_and_in_order() {
        let mut later = Later::default();
        assert_eq!(later.next(), Timestamp::NEVER);
        for due in [30, 10, 20] {
            assert!(later.keep(reply(due, 64)));
        }
        assert_eq!((later.next(), later.take(Timestamp(9))), (Timestamp(10), None));
        let due: Vec<u64> = std::iter::from_fn(|| later.take(Timestamp(25))).map(|r| r.due.0).collect();
        assert_eq!(due, [10, 20]);
    }

    #[test]
    fn number_and_bytes_are_bounded_and_free_again() {
        let mut later = Later::default();
        let kept = (0..2 * MAX_WAITING as u64).filter(|n| later.keep(reply(*n, 64))).count();
        assert_eq!(kept, MAX_WAITING);
        assert!(later.take(Timestamp(0)).is_some() && later.keep(reply(5, 64)));
        let mut later = Later::default();
        let kept = (0..1000).filter(|n| later.keep(reply(*n, 9000))).count();
        assert_eq!(kept, MAX_BYTES / 9000);
    }
}
