//! When each block of an order is due.

use std::time::Duration;

use super::Order;
use crate::time::Timestamp;

/// A slot that is later than this is missed. It covers what a sleep of the system overshoots; a longer stall is
/// counted, and not made up for with a burst.
pub const LATE: Duration = Duration::from_millis(1);
/// The same where a runtime's timer of whole milliseconds does the pacing: on streams, whose stack paces them anew.
pub const LATE_ON_STREAMS: Duration = Duration::from_millis(5);

/// A transfer may fall this far behind before its slots are missed. It makes up for that at twice its rate: a target rate
/// is kept over a stall of the scheduler's, and no burst leaves.
pub const BEHIND: Duration = Duration::from_millis(200);

/// What may leave now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// So many blocks.
    pub blocks: usize,
    /// So many slots have been missed since the last time.
    pub missed: u64,
}

/// The slots of one order: the burst at the start, then one block each `size * 8 / rate`. Slots are computed from the
/// start, so they do not drift.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Timestamp,
    bits: u128,
    rate: u128,
    burst: u64,
    /// Slots in all.
    total: u64,
    /// The next slot.
    next: u64,
    /// Slots that may be late and leave at once.
    late: u64,
    /// Slots that may be late at all.
    behind: u64,
    /// Before this nothing leaves that is made up for.
    hold: Timestamp,
}

impl Schedule {
    /// The slots of `order` from `start` on.
    ///
    /// A slot that is more than `late` past (at least one slot) is missed.
    pub fn new(order: &Order, start: Timestamp, late: Duration) -> Self {
        let (bits, rate) = (u128::from(order.size) * 8, u128::from(order.rate_bps.max(1)));
        let paced = u128::from(order.length_us) * rate / (bits * 1_000_000);
        let total = u64::try_from(paced).unwrap_or(u64::MAX).saturating_add(u64::from(order.burst));
        // A slow end's bursts must not grow beyond one slot.
        let slots = |time: Duration| {
            u64::try_from(time.as_nanos() * rate / (bits * 1_000_000_000)).unwrap_or(u64::MAX)
        };
        let behind = if order.is_transfer() { slots(late.max(BEHIND)) } else { slots(late) };
        Self {
            start,
            bits,
            rate,
            burst: u64::from(order.burst),
            total: total.max(1),
            next: 0,
            late: slots(late),
            behind,
            hold: Timestamp::ZERO,
        }
    }

    /// The blocks that may leave now, at most `most`. Slots that are too late are passed over.
    pub fn due(&mut self, now: Timestamp, most: usize) -> Due {
        let reached = self.reached(now);
        let mut missed = 0;
        if self.next >= self.burst {
            // When all slots are past, what was to be made up for is over, too.
            let behind = if reached < self.total { self.behind } else { self.late };
            let oldest = reached.saturating_sub(behind.saturating_add(1)).min(self.total);
            missed = oldest.saturating_sub(self.next);
            self.next += missed;
        }
        let mut blocks = reached.saturating_sub(self.next).min(most as u64);
        if self.next >= self.burst && reached - self.next > self.late.saturating_add(1) {
            blocks = if now < self.hold { 0 } else { blocks.min(self.late.saturating_add(1)) };
            if blocks > 0 {
                let nanos = u128::from(blocks) * self.bits * 500_000_000 / self.rate;
                self.hold = now + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            }
        }
        Due { blocks: blocks as usize, missed }
    }

    /// `n` blocks have left.
    pub fn sent(&mut self, n: usize) {
        self.next += n as u64;
    }

    /// When the next block is due; none where there is no further.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        (self.next < self.total).then(|| self.slot(self.next).max(self.hold))
    }

    /// All slots are past.
    pub fn is_over(&self) -> bool {
        self.next >= self.total
    }

    /// Slots up to and including now.
    fn reached(&self, now: Timestamp) -> u64 {
        let passed = now.since(self.start).as_nanos();
        if now < self.start {
            return 0;
        }
        let paced = passed * self.rate / (self.bits * 1_000_000_000) + 1;
        u64::try_from(paced).unwrap_or(u64::MAX).saturating_add(self.burst).min(self.total)
    }

    fn slot(&self, n: u64) -> Timestamp {
        let paced = u128::from(n.saturating_sub(self.burst));
        let nanos = (paced * self.bits * 1_000_000_000).div_ceil(self.rate);
        Timestamp(self.start.as_nanos().saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(rate_bps: u64, size: u16, burst: u32, length_us: u64) -> Order {
        Order { number: 1, up: true, rate_bps, size, burst, length_us, bin_us: 5000, tos: 0 }
    }

    /// Wakes at every deadline, so much late; answers with the times of the blocks and the missed slots.
    fn run(order: &Order, lateness: Duration) -> (Vec<Timestamp>, u64) {
        let mut schedule = Schedule::new(order, Timestamp(1_000), LATE);
        let (mut times, mut missed) = (Vec::new(), 0);
        while let Some(at) = schedule.next_deadline() {
            let now = at + lateness;
            let due = schedule.due(now, 64);
            missed += due.missed;
            times.extend((0..due.blocks).map(|_| now));
            schedule.sent(due.blocks);
        }
        (times, missed)
    }

    proptest! {
        #[test]
        fn every_slot_is_used_once_or_missed(
            rate in 1_000_000u64..2_000_000_000, size in 64u16..1500, burst in 0u32..50, late_us in 0u64..3_000,
        ) {
            let order = order(rate, size, burst, 20_000);
            let paced = u128::from(order.length_us) * u128::from(rate) / (u128::from(size) * 8_000_000);
            let (times, missed) = run(&order, Duration::from_micros(late_us));
            prop_assert_eq!(times.len() as u128 + u128::from(missed), (paced + u128::from(burst)).max(1));
            if late_us <= 900 {
                prop_assert_eq!(missed, 0);
            }
        }

        #[test]
        fn on_time_the_rate_holds_exactly(rate in 1_000_000u64..100_000_000, size in 200u16..1500) {
            let (times, missed) = run(&order(rate, size, 0, 500_000), Duration::ZERO);
            prop_assert_eq!(missed, 0);
            for (n, at) in times.iter().enumerate() {
                let exact = n as f64 * f64::from(size) * 8e9 / rate as f64;
                prop_assert!((at.since(Timestamp(1_000)).as_nanos() as f64 - exact).abs() <= 1.0);
            }
        }
    }

    #[test]
    fn a_stall_is_missed_and_not_made_up_for() {
        let mut schedule = Schedule::new(&order(9_600_000, 1200, 0, 1_000_000), Timestamp(0), LATE);
        assert_eq!(schedule.due(Timestamp(0), 64), Due { blocks: 1, missed: 0 });
        schedule.sent(1);
        // One block each millisecond; 100 ms pass.
        let due = schedule.due(Timestamp(100_000_000), 64);
        assert_eq!(due, Due { blocks: 2, missed: 98 });
    }

    #[test]
    fn a_transfer_makes_up_for_a_short_stall_at_twice_its_rate_and_misses_a_long_one() {
        // One block each millisecond for ten seconds.
        let order = order(9_600_000, 1200, 0, 10_000_000);
        let ms = |ms: u64| Timestamp(ms * 1_000_000);
        for (stall, missed) in [(150u64, 0), (1_000, 800)] {
            let mut schedule = Schedule::new(&order, Timestamp(0), LATE);
            let mut now = ms(stall);
            let (mut sent, mut passed) = (0u64, 0);
            while now < ms(stall + 400) {
                let due = schedule.due(now, 64);
                schedule.sent(due.blocks);
                assert!(due.blocks <= 2, "no burst");
                (sent, passed) = (sent + due.blocks as u64, passed + due.missed);
                now = schedule.next_deadline().unwrap().max(now);
            }
            // Twice the rate while it is behind, and then the rate.
            assert_eq!((sent, passed), (stall + 400 - missed, missed), "{stall}");
        }
    }

    #[test]
    fn what_a_transfer_is_behind_at_its_end_is_missed() {
        let order = order(9_600_000, 1200, 0, 10_000_000);
        let mut schedule = Schedule::new(&order, Timestamp(0), LATE);
        let due = schedule.due(Timestamp(10_100_000_000), 64);
        assert_eq!(due, Due { blocks: 2, missed: 9_998 });
        schedule.sent(2);
        assert!(schedule.is_over());
    }

    #[test]
    fn a_burst_leaves_at_once_and_is_never_missed() {
        let mut schedule = Schedule::new(&order(1_000_000, 1000, 100, 80_000), Timestamp(0), LATE);
        let due = schedule.due(Timestamp(50_000_000), 64);
        assert_eq!(due, Due { blocks: 64, missed: 0 });
        schedule.sent(64);
        assert_eq!(schedule.due(Timestamp(50_000_000), 36).blocks, 36);
    }
}
