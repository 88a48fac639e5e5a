//! The search for the largest packet that gets through, each way apart: as RFC 8899 does it, from the sender's side,
//! without trusting ICMP.

use std::time::Duration;

use probe_analysis::observation::{FlowNo, Observation, PathMtu};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::{MAX_LEN, MIN_LEN};

use super::flow::{Outgoing, State};
use super::{Engine, Reason};

/// What every path is taken to carry, IP packet, bytes: a QUIC Initial needs it.
const BASE: u32 = 1228;
/// Below this the search does not look, IP packet, bytes.
const FLOOR: u32 = 576;
/// What is tried first where the interface does not tell, IP packet, bytes.
const USUAL: u32 = 1500;
/// Packets of one size before it counts as too large: at 10 % loss all of them are lost once in 10,000.
const COPIES: u32 = 4;
/// Packets of the smallest size that did not get through, at the end, each by itself: a burst of loss takes all copies that
/// are sent at once, and must not be taken for a limit.
const CONFIRMS: u32 = 3;
/// The same where the search saw that smaller packets are lost at times, too: at half of them lost, all of these are once in
/// sixteen thousand times.
const LOSSY_CONFIRMS: u32 = 14;
/// Shortest wait for an answer.
const MIN_WAIT: Duration = Duration::from_millis(300);
/// Replies that the listener held back while the flow's new address was not proven, before the search is given up.
const MAX_HELD_BACK: u32 = 32;

/// One way's search: bisection between what passed and what did not.
#[derive(Clone, Debug)]
struct Side {
    largest: Option<u32>,
    /// Sizes that did not get through, the smallest last: where one does after all, the one before it counts.
    lost: Vec<u32>,
    trying: u32,
    sent: u32,
    /// The smallest size that did not get through is tried once more.
    confirms: bool,
    /// A packet of a size that gets through was lost.
    lossy: bool,
    /// Until then an answer may still come: nothing more is sent, and nothing taken for lost.
    due: Timestamp,
    done: bool,
}

impl Side {
    fn new(first: u32, enabled: bool) -> Self {
        Self {
            largest: None,
            lost: Vec::new(),
            trying: first,
            sent: 0,
            confirms: false,
            lossy: false,
            due: Timestamp::ZERO,
            done: !enabled,
        }
    }

    fn smallest_lost(&self) -> Option<u32> {
        self.lost.last().copied()
    }

    fn passed(&mut self, size: u32) {
        if self.largest.is_none_or(|l| size > l) {
            self.largest = Some(size);
        }
        // It was late, not lost.
        self.lost.retain(|lost| *lost > size);
        if !self.done && size >= self.trying {
            // The first one was not answered in time.
            self.lossy |= self.sent > 1;
            self.confirms = false;
            self.next();
        }
    }

    fn failed(&mut self) {
        if self.confirms {
            self.done = true;
            return;
        }
        if self.smallest_lost().is_none_or(|lost| self.trying < lost) {
            self.lost.push(self.trying);
        }
        self.next();
    }

    fn next(&mut self) {
        self.sent = 0;
        self.due = Timestamp::ZERO;
        self.trying = match (self.largest, self.smallest_lost()) {
            (Some(_), None) => {
                self.done = true;
                return;
            }
            (Some(largest), Some(lost)) if largest + 1 >= lost => {
                self.confirms = true;
                lost
            }
            (Some(largest), Some(lost)) => largest + (lost - largest) / 2,
            (None, Some(lost)) if lost > BASE => BASE,
            (None, Some(lost)) if lost > FLOOR => FLOOR,
            (None, _) => {
                self.done = true;
                return;
            }
        };
    }

    /// How many packets are sent of a size at most, and how many of these now.
    fn copies(&self) -> (u32, u32) {
        match (self.confirms, self.sent) {
            (true, _) => (if self.lossy { LOSSY_CONFIRMS } else { CONFIRMS }, 1),
            // One at first; the others only where it stays unanswered.
            (false, 0) => (COPIES, 1),
            (false, _) => (COPIES, COPIES - 1),
        }
    }
}

/// The search of one flow.
#[derive(Clone, Debug)]
pub(super) struct Search {
    header: u32,
    up: Side,
    down: Side,
    told: Option<u32>,
    interface: Option<u32>,
    /// Probes under way: number, way, size of the IP packet.
    sent: Vec<(u64, bool, u32)>,
    held_back: u32,
    reported: bool,
}

impl Search {
    /// A search on a flow over IPv6 or IPv4; `down`: the listener sends larger packets than it is sent.
    pub(super) fn new(v6: bool, interface: Option<u32>, down: bool, _now: Timestamp) -> Self {
        // IP and UDP headers, without options.
        let header = if v6 { 48 } else { 28 };
        let first = interface.unwrap_or(USUAL).clamp(BASE, MAX_LEN as u32 + header);
        Self {
            header,
            up: Side::new(first, true),
            down: Side::new(first, down),
            told: None,
            interface,
            sent: Vec::new(),
            held_back: 0,
            reported: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.up.done && self.down.done
    }

    pub(super) fn told(&mut self, mtu: u32) {
        self.told = Some(self.told.map_or(mtu, |t| t.min(mtu)));
    }

    /// The packets to send now: way and record length. Each way waits for its own answers.
    fn due(&mut self, now: Timestamp, wait: Duration) -> Vec<(bool, usize)> {
        let mut out = Vec::new();
        for (up, side) in [(true, &mut self.up), (false, &mut self.down)] {
            if side.done || now < side.due {
                continue;
            }
            if side.sent >= side.copies().0 {
                side.failed();
            }
            if !side.done {
                let (_, copies) = side.copies();
                side.sent += copies;
                side.due = now + wait;
                let record_len = (side.trying - self.header) as usize;
                out.extend((0..copies).map(|_| (up, record_len.max(MIN_LEN))));
            }
        }
        out
    }

    /// Notes that a packet of the search was sent as probe `seq`.
    pub(super) fn sent(&mut self, seq: u64, up: bool, record_len: usize) {
        self.sent.push((seq, up, record_len as u32 + self.header));
    }

    /// Takes in the answer to probe `seq`; true where the next size can be tried at once.
    pub(super) fn answered(&mut self, seq: u64) -> bool {
        let Some((_, up, size)) = self.sent.iter().find(|(s, ..)| *s == seq).copied() else { return false };
        let side = if up { &mut self.up } else { &mut self.down };
        let before = side.trying;
        side.passed(size);
        side.done || side.trying != before
    }

    /// Length of the record that probe `seq` asks for, where it asks for more than it is.
    pub(super) fn asked(&self, seq: u64) -> Option<usize> {
        let (_, up, size) = self.sent.iter().find(|(s, ..)| *s == seq)?;
        (!up).then_some(((size - self.header) as usize).max(MIN_LEN))
    }

    /// Takes in the answer to probe `seq` that is shorter than it asked for: nothing was tried. True where the search ends
    /// with it.
    pub(super) fn held_back(&mut self, seq: u64) -> bool {
        let Some(at) = self.sent.iter().position(|(s, ..)| *s == seq) else { return false };
        let (_, _, size) = self.sent.swap_remove(at);
        if !self.down.done && size == self.down.trying {
            self.down.sent = 0;
            self.held_back += 1;
            self.down.done = self.held_back > MAX_HELD_BACK;
        }
        self.down.done
    }

    /// The system would not send probe `seq`: too long.
    pub(super) fn refused(&mut self, seq: u64) {
        if let Some((_, up, size)) = self.sent.iter().find(|(s, ..)| *s == seq).copied() {
            let side = if up { &mut self.up } else { &mut self.down };
            if !side.done && side.trying == size {
                side.failed();
            }
        }
    }
}

impl Engine {
    pub(super) fn mtu_due(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        if flow.state != State::Open {
            return;
        }
        let wait = flow.srtt.map_or(MIN_WAIT * 2, |rtt| rtt * 5 / 2).max(MIN_WAIT);
        let Some(search) = flow.search.as_mut() else { return };
        let due = search.due(now, wait);
        if search.is_done() {
            self.report_mtu(no);
            return;
        }
        if due.is_empty() {
            return;
        }
        for (up, record_len) in due {
            self.outgoing.push_back((no, Outgoing::Mtu { up, record_len }));
        }
        self.at(now + wait, Reason::Mtu(no));
    }

    /// Says what the search found, once.
    pub(super) fn report_mtu(&mut self, no: FlowNo) {
        let Some(search) = self.flows.get_mut(&no).and_then(|f| f.search.as_mut()) else { return };
        if search.reported {
            return;
        }
        search.reported = true;
        let search = search.clone();
        for (up, side) in [(true, search.up), (false, search.down)] {
            if side.largest.is_some() || side.smallest_lost().is_some() {
                self.observe(Observation::PathMtu(PathMtu {
                    flow: no,
                    up,
                    largest: side.largest,
                    smallest_lost: side.smallest_lost(),
                    told: search.told,
                    interface: search.interface,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search over a path with these largest packets, losing every packet for which `lose` says so.
    fn search(up: u32, down: u32, lose: impl Fn(u64) -> bool) -> Search {
        let mut search = Search::new(false, Some(1500), true, Timestamp::ZERO);
        let (mut seq, mut now) = (0, Timestamp::ZERO);
        for _ in 0..200 {
            now += MIN_WAIT;
            let due = search.due(now, MIN_WAIT);
            if search.is_done() {
                return search;
            }
            for (way, len) in due {
                search.sent(seq, way, len);
                let fits = len as u32 + 28 <= if way { up } else { down };
                if fits && !lose(seq) {
                    search.answered(seq);
                }
                seq += 1;
            }
        }
        panic!("the search does not end: {search:?}");
    }

    #[test]
    fn finds_each_way_to_the_byte() {
        for mtu in [576, 577, 1227, 1228, 1229, 1280, 1420, 1492, 1499, 1500] {
            let found = search(mtu, 1500, |_| false);
            assert_eq!(found.up.largest, Some(mtu), "up {mtu}");
            assert_eq!(found.down.largest, Some(1500));
            assert_eq!(found.up.smallest_lost(), (mtu < 1500).then_some(mtu + 1));
            assert_eq!(search(1500, mtu, |_| false).down.largest, Some(mtu), "down {mtu}");
        }
    }

    #[test]
    fn one_way_s_answers_do_not_hurry_the_other() {
        let mut search = Search::new(false, Some(1500), true, Timestamp::ZERO);
        let now = Timestamp::ZERO + MIN_WAIT;
        for (seq, (up, len)) in (0..).zip(search.due(now, MIN_WAIT)) {
            search.sent(seq, up, len);
        }
        // The first answer is there; the other way's is still under way.
        search.answered(0);
        for _ in 0..10 {
            assert!(search.due(now + MIN_WAIT / 2, MIN_WAIT).is_empty());
        }
        search.answered(1);
        assert_eq!((search.up.largest, search.down.largest), (Some(1500), Some(1500)));
        assert!(search.is_done());
    }

    #[test]
    fn what_was_only_late_is_not_lost() {
        let mut search = Search::new(false, Some(1500), false, Timestamp::ZERO);
        let mut now = Timestamp::ZERO;
        for seq in 0..2 {
            now += MIN_WAIT;
            for (up, len) in search.due(now, MIN_WAIT) {
                search.sent(seq, up, len);
            }
        }
        search.due(now + MIN_WAIT, MIN_WAIT);
        assert_eq!(search.up.smallest_lost(), Some(1500));
        search.answered(0);
        assert_eq!((search.up.largest, search.up.smallest_lost()), (Some(1500), None));
    }

    #[test]
    fn a_burst_of_loss_is_no_limit() {
        // All copies of the first size are lost, and of one in the midst of the search.
        for burst in [0..8, 10..22, 14..30] {
            let found = search(1500, 1400, |seq| burst.contains(&seq));
            assert_eq!((found.up.largest, found.up.smallest_lost()), (Some(1500), None), "{burst:?}");
            assert_eq!(
                (found.down.largest, found.down.smallest_lost()),
                (Some(1400), Some(1401)),
                "{burst:?}"
            );
        }
    }

    #[test]
    fn single_losses_do_not_mislead_and_a_dead_path_ends_the_search() {
        assert_eq!(search(1400, 1500, |seq| seq % 3 == 0).up.largest, Some(1400));
        let dead = search(100, 100, |_| true);
        assert_eq!((dead.up.largest, dead.up.smallest_lost()), (None, Some(FLOOR)));
    }
}
