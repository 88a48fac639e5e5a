//! Shifts of the level of delay of one flow: medians of blocks of probes, against the level so far.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use crate::observation::Probe;

/// Answered probes of a block.
const BLOCK: usize = 16;
/// Blocks that make a level, and blocks in a row that make a shift.
const LEVEL: usize = 8;
const IN_A_ROW: usize = 3;
/// A shift is at least this much, and this share of the level before.
const LEAST: Duration = Duration::from_millis(5);
const LEAST_SHARE: f64 = 0.3;
/// After so many blocks at a new level that one is the level.
const SETTLED: u32 = 120;

/// The level of delay of one flow changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shift {
    /// When the first probe of the new level was sent.
    pub from: Timestamp,
    /// When the last probe of it was sent.
    pub to: Timestamp,
    /// Round trip before, nanoseconds, median.
    pub before: u64,
    /// Round trip in it, nanoseconds, median.
    pub after: u64,
    /// It went back to where it was.
    pub is_over: bool,
}

/// One block.
#[derive(Clone, Copy, Debug)]
struct Block {
    from: Timestamp,
    to: Timestamp,
    median: u64,
}

/// Follows the level of one flow.
#[derive(Clone, Debug, Default)]
pub(super) struct Levels {
    /// Of the block under way: when each probe was sent and its round trip.
    block: Vec<(Timestamp, u64)>,
    /// Medians of the latest blocks at the present level.
    level: Vec<u64>,
    /// Blocks that are off the level, all to one side.
    off: Vec<Block>,
    shift: Option<Shift>,
    settled: u32,
}

impl Levels {
    /// Takes the next probe; answers the shift that it ends.
    pub(super) fn push(&mut self, probe: &Probe) -> Option<Shift> {
        let reply = probe.reply?;
        let back = reply.kernel.unwrap_or(reply.at);
        let whole = back.since(probe.sent).saturating_sub(reply.dwell);
        self.block.push((probe.sent, u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX)));
        if self.block.len() < BLOCK {
            return None;
        }
        let times = |pick: fn(Timestamp, Timestamp) -> Timestamp| {
            self.block.iter().map(|(at, _)| *at).reduce(pick).unwrap_or_default()
        };
        let (from, to) = (times(Timestamp::min), times(Timestamp::max));
        let mut trips: Vec<u64> = self.block.drain(..).map(|(_, trip)| trip).collect();
        self.block_done(Block { from, to, median: median(&mut trips) })
    }

    fn block_done(&mut self, block: Block) -> Option<Shift> {
        if self.level.len() < LEVEL && self.shift.is_none() {
            self.level.push(block.median);
            return None;
        }
        let level = median(&mut self.level.clone());
        let reference = self.shift.map_or(level, |shift| shift.after);
        let is_off = |at: u64, from: u64| {
            let by = at.abs_diff(from);
            u128::from(by) >= LEAST.as_nanos() && by as f64 >= LEAST_SHARE * from as f64
        };
        if is_off(block.median, reference) {
            let higher = |median: u64| median > reference;
            if self.off.first().is_some_and(|first| higher(first.median) != higher(block.median)) {
                self.off.clear();
            }
            self.off.push(block);
            return if self.off.len() >= IN_A_ROW { self.moved(level) } else { None };
        }
        self.off.clear();
        match &mut self.shift {
            None => {
                self.level.remove(0);
                self.level.push(block.median);
                None
            }
            Some(shift) => {
                shift.to = block.to;
                self.settled += 1;
                // It stays: from here on this is the level, and the shift is told.
                if self.settled >= SETTLED { self.adopt() } else { None }
            }
        }
    }

    /// Enough blocks are off where the delay was.
    fn moved(&mut self, level: u64) -> Option<Shift> {
        let off = std::mem::take(&mut self.off);
        let mut medians: Vec<u64> = off.iter().map(|block| block.median).collect();
        let after = median(&mut medians);
        let (from, to) = (off.first()?.from, off.last()?.to);
        let ended = self.shift.take();
        let is_back = ended.is_some() && {
            let by = after.abs_diff(level);
            u128::from(by) < LEAST.as_nanos() || (by as f64) < LEAST_SHARE * level as f64
        };
        self.settled = 0;
        if !is_back {
            let before = ended.map_or(level, |shift| shift.after);
            self.shift = Some(Shift { from, to, before, after, is_over: false });
        }
        ended.map(|shift| Shift { is_over: is_back, ..shift })
    }

    fn adopt(&mut self) -> Option<Shift> {
        let shift = self.shift.take()?;
        self.level = vec![shift.after; LEVEL];
        self.settled = 0;
        Some(shift)
    }

    /// The shift under way, at the flow's end.
    pub(super) fn close(self) -> Option<Shift> {
        self.shift
    }
}

/// The lower median; zero of nothing.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}
