//! What is kept of a flow's first packets and of its last ones: classifiers decide on the first, and a flow that is
//! killed shows in the last.

use std::time::Duration;

use probe_protocol::time::Timestamp;

/// How many packets are a flow's first ones: a class of their own, since classifiers decide there.
pub const HEAD: u64 = 64;

/// The fate of each of a flow's first [`HEAD`] probes, bit `n` for probe `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// A reply came.
    pub received: u64,
    /// Lost on the way up.
    pub lost_up: u64,
    /// Lost on the way down.
    pub lost_down: u64,
    /// Lost, the direction unknown.
    pub lost_unknown: u64,
}

impl Head {
    /// All that were lost.
    pub fn lost(&self) -> u64 {
        self.lost_up | self.lost_down | self.lost_unknown
    }

    /// How many probes were lost before the first one that was not; none where every one was.
    pub fn lost_at_first(&self) -> Option<u32> {
        let first = self.received.trailing_zeros();
        let before = if first >= 64 { return None } else { (1u64 << first) - 1 };
        // A probe that was not counted (the host's doing) leaves it open.
        (self.lost() & before == before).then_some(first)
    }
}

/// A moment in a flow's life: how much it had sent by then, the probe in hand included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Number of the probe.
    pub seq: u64,
    /// Probes sent up to and with it.
    pub packets: u64,
    /// Bytes of IP packets of these.
    pub bytes: u64,
    /// When it was sent.
    pub at: Timestamp,
}

/// What became of a probe, as [`Life`] takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passed {
    /// A reply came.
    Both,
    /// It reached the listener, and no reply came.
    UpOnly,
    /// It did not reach the listener.
    No,
    /// No reply came, and nobody knows where it was lost.
    Unknown,
}

/// A flow's life in the order of its probes: where it was last alive, and what came after.
#[derive(Clone, Copy, Debug, Default)]
pub struct Life {
    /// Probes so far, and their bytes as IP packets.
    pub packets: u64,
    /// Bytes of IP packets so far.
    pub bytes: u64,
    /// The last probe that was answered.
    pub answered: Option<Mark>,
    /// The last probe that reached the listener.
    pub arrived: Option<Mark>,
    /// The first probe that was lost after the last answer.
    pub first_lost: Option<Mark>,
    /// The last probe.
    pub last: Option<Mark>,
    /// Probes lost since the last answer.
    pub trailing: u64,
    /// Of those, how many never reached the listener.
    pub trailing_up: u64,
    /// Of those, how many reached it.
    pub trailing_down: u64,
    /// Probes lost before the last answer.
    pub lost_before: u64,
    /// Longest run of lost probes before the last answer.
    pub longest_before: u64,
    /// The longest stretch without an answer that ended with one: from the first probe lost to the next one answered.
    pub gap: Option<Gap>,
}

/// A stretch in which nothing was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The last probe answered before it.
    pub before: Option<Mark>,
    /// The first probe that was lost.
    pub from: Timestamp,
    /// The first probe that was answered after it.
    pub to: Timestamp,
    /// How many were lost.
    pub lost: u64,
}

impl Gap {
    /// How long it was.
    pub fn length(&self) -> Duration {
        self.to.since(self.from)
    }
}

impl Life {
    /// Takes in the next probe; `bytes` of its IP packet.
    pub fn push(&mut self, seq: u64, bytes: u64, at: Timestamp, passed: Passed) {
        self.packets += 1;
        self.bytes += bytes;
        let mark = Mark { seq, packets: self.packets, bytes: self.bytes, at };
        self.last = Some(mark);
        match passed {
            Passed::Both => self.alive(mark),
            Passed::UpOnly => {
                self.arrived = Some(mark);
                self.trailing_down += 1;
                self.lost(mark);
            }
            Passed::No => {
                self.trailing_up += 1;
                self.lost(mark);
            }
            Passed::Unknown => self.lost(mark),
        }
    }

    fn alive(&mut self, mark: Mark) {
        if let Some(first) = self.first_lost.take() {
            let gap = Gap { before: self.answered, from: first.at, to: mark.at, lost: self.trailing };
            if self.gap.is_none_or(|longest| gap.length() > longest.length()) {
                self.gap = Some(gap);
            }
        }
        self.lost_before += self.trailing;
        self.longest_before = self.longest_before.max(self.trailing);
        (self.trailing, self.trailing_up, self.trailing_down) = (0, 0, 0);
        self.answered = Some(mark);
        self.arrived = Some(mark);
    }

    fn lost(&mut self, mark: Mark) {
        self.trailing += 1;
        self.first_lost.get_or_insert(mark);
    }

    /// How long nothing has been answered, up to the last probe; zero where the last one was.
    pub fn silent_for(&self) -> Duration {
        match (self.first_lost, self.last) {
            (Some(first), Some(last)) => last.at.since(first.at),
            (_, _) => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(n: u64) -> Timestamp {
        Timestamp(1_000 * n)
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_the_whole(fates in proptest::collection::vec(0u8..4, 0..60)) {
            let passed = |f: u8| match f { 0 => Passed::Both, 1 => Passed::UpOnly, 2 => Passed::No, _ => Passed::Unknown };
            let mut life = Life::default();
            for (n, f) in fates.iter().enumerate() {
                life.push(n as u64, 10, at(n as u64), passed(*f));
            }
            let last = fates.iter().rposition(|f| *f == 0);
            prop_assert_eq!(life.answered.map(|m| m.seq), last.map(|n| n as u64));
            prop_assert_eq!(life.answered.map(|m| m.bytes), last.map(|n| 10 * (n as u64 + 1)));
            let tail = &fates[last.map_or(0, |n| n + 1)..];
            prop_assert_eq!(life.trailing, tail.len() as u64);
            prop_assert_eq!(life.trailing_up, tail.iter().filter(|f| **f == 2).count() as u64);
            let before = fates[..last.unwrap_or(0)].iter().filter(|f| **f != 0).count() as u64;
            prop_assert_eq!(life.lost_before, before);
            let runs = fates[..last.unwrap_or(0)].split(|f| *f == 0).map(<[u8]>::len).max().unwrap_or(0);
            prop_assert_eq!(life.longest_before, runs as u64);
            prop_assert_eq!(life.gap.map_or(0, |g| g.lost), runs as u64);
        }
    }

    #[test]
    fn what_was_lost_at_first_ends_at_the_first_answer() {
        let head = |received: u64, lost_up: u64| Head { received, lost_up, ..Head::default() };
        assert_eq!(head(0b1111, 0).lost_at_first(), Some(0));
        assert_eq!(head(0b1000, 0b0111).lost_at_first(), Some(3));
        // Probe 1 was not counted: nobody knows.
        assert_eq!(head(0b1000, 0b0101).lost_at_first(), None);
        assert_eq!(head(0, u64::MAX).lost_at_first(), None);
    }
}
