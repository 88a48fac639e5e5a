//! Which of the datagrams that the kernel dropped at a socket had found no room there.
//!
//! Linux counts those together with others whose checksum was wrong (`SO_RXQ_OVFL` and `SK_MEMINFO_DROPS` are one count of
//! all that a socket dropped): the first are this host's doing, the others were damaged on the way. How many found no room,
//! on all sockets of this network namespace, is counted elsewhere; so many are this host's at most.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::clock;
use crate::sys;
use probe_protocol::time::Timestamp;

/// One socket's count of datagrams for which there was no room, made of its count of all that were dropped.
#[derive(Debug, Default)]
pub(super) struct Room {
    seen: AtomicU32,
    full: AtomicU32,
}

impl Room {
    /// For a socket that is new: what happened before it is none of its own.
    pub(super) fn new() -> Self {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.get_or_insert_with(|| Shared::new(sys::udp::without_room()));
        Self::default()
    }

    /// How many found no room when so many had been dropped; both wrap.
    pub(super) fn of(&self, dropped: u32) -> u32 {
        if dropped == self.seen.load(Ordering::Relaxed) {
            return self.full.load(Ordering::Relaxed);
        }
        self.changed(dropped)
    }

    #[cold]
    fn changed(&self, dropped: u32) -> u32 {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let more = dropped.wrapping_sub(self.seen.load(Ordering::Relaxed));
        // Another thread may have read a later datagram meanwhile: the count does not go back.
        if more == 0 || more > u32::MAX / 2 {
            return self.full.load(Ordering::Relaxed);
        }
        self.seen.store(dropped, Ordering::Relaxed);
        let shared = shared.get_or_insert_with(|| Shared::new(None));
        let found_none = shared.claim(more, clock::now(), sys::udp::without_room);
        self.full.fetch_add(found_none, Ordering::Relaxed).wrapping_add(found_none)
    }
}

static SHARED: Mutex<Option<Shared>> = Mutex::new(None);

/// The system's count is not read again within so much time: where much is dropped, every batch of datagrams asks.
const FRESH_NS: u64 = 1_000_000;

/// What the sockets of this process share: the system's count, and what of it they have taken as theirs.
#[derive(Debug)]
struct Shared {
    /// None where the system does not tell: then all that was dropped is taken as such.
    left: Option<u64>,
    total: u64,
    read: Timestamp,
    /// Whether what was dropped when the count was read had found no room.
    was_full: bool,
}

impl Shared {
    fn new(total: Option<u64>) -> Self {
        Self { left: total.map(|_| 0), total: total.unwrap_or(0), read: Timestamp(0), was_full: true }
    }

    /// How many of those that a socket dropped anew had found no room.
    fn claim(&mut self, more: u32, now: Timestamp, total: impl FnOnce() -> Option<u64>) -> u32 {
        let Some(left) = &mut self.left else { return more };
        if u64::from(more) > *left {
            if now.0 < self.read.0.saturating_add(FRESH_NS) {
                return if self.was_full { more } else { 0 };
            }
            let Some(total) = total() else { return more };
            *left += total.saturating_sub(self.total);
            self.total = total;
            self.read = now;
            self.was_full = *left > 0;
        }
        let claimed = u64::from(more).min(*left);
        *left -= claimed;
        claimed as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Timestamp {
        Timestamp(ms * 1_000_000)
    }

    #[test]
    fn what_was_damaged_on_the_way_is_not_this_host_s() {
        let mut shared = Shared::new(Some(100));
        assert_eq!(shared.claim(3, ms(10), || Some(100)), 0, "none found no room");
        assert_eq!(shared.claim(5, ms(20), || Some(104)), 4, "one of five was damaged");
        assert_eq!(shared.claim(2, ms(30), || Some(110)), 2);
        assert_eq!(shared.claim(4, ms(31), || panic!("four of six are left")), 4);
        assert_eq!(shared.claim(1, ms(40), || Some(110)), 0);
    }

    #[test]
    fn within_a_millisecond_it_is_as_it_was() {
        let mut shared = Shared::new(Some(0));
        assert_eq!(shared.claim(2, ms(10), || Some(2)), 2);
        assert_eq!(shared.claim(7, Timestamp(10_500_000), || panic!("read anew")), 7);
        assert_eq!(shared.claim(2, ms(12), || Some(2)), 0);
        assert_eq!(shared.claim(7, Timestamp(12_500_000), || panic!("read anew")), 0);
    }

    #[test]
    fn where_the_system_tells_nothing_all_count() {
        let mut shared = Shared::new(None);
        assert_eq!(shared.claim(3, ms(1), || None), 3);
        let mut shared = Shared::new(Some(5));
        assert_eq!(shared.claim(3, ms(1), || None), 3);
    }

    #[test]
    fn a_count_read_late_does_not_go_back() {
        let room = Room::new();
        let first = room.of(4);
        assert_eq!(room.of(4), first);
        assert_eq!(room.of(2), first);
        assert!(room.of(5) <= first + 1);
    }
}
