//! What is kept of the watch beside the path: when the gateway, the loopback and the interface did not answer.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use crate::observation::{Asked, Watch, WatchAnswer};

/// Stretches without an answer kept of each thing watched; further ones are only counted.
const MAX_STRETCHES: usize = 1024;
/// Questions to the gateway whose moments are kept, so that it can be asked what it did in a short loss: a night of two a
/// second.
const MAX_MOMENTS: usize = 131_072;

/// One thing that is watched.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// How often it was asked.
    pub asked: u64,
    /// How often it did not answer.
    pub failed: u64,
    /// Stretches without an answer: from the first question that failed to the next one that did not, or to the last.
    pub down: Vec<(Timestamp, Timestamp)>,
    is_down: bool,
}

/// One thing that is watched, every question to it by itself.
#[derive(Clone, Debug, Default)]
pub struct Questioned {
    /// The questions together.
    pub watched: Watched,
    /// When it was first asked.
    first: Option<Timestamp>,
    moments: Vec<Moment>,
}

/// A question: milliseconds since the first one, and in the lowest bit whether it was answered.
#[derive(Clone, Copy, Debug)]
struct Moment(u32);

impl Moment {
    fn new(since_first: Duration, answered: bool) -> Self {
        let millis = u32::try_from(since_first.as_millis()).unwrap_or(u32::MAX).min(u32::MAX >> 1);
        Self(millis << 1 | u32::from(answered))
    }

    fn millis(self) -> u64 {
        u64::from(self.0 >> 1)
    }

    fn is_answered(self) -> bool {
        self.0 & 1 == 1
    }
}

impl Watched {
    fn note(&mut self, at: Timestamp, answered: bool) {
        self.asked += 1;
        self.failed += u64::from(!answered);
        match (self.is_down, answered) {
            (false, false) if self.down.len() < MAX_STRETCHES => self.down.push((at, at)),
            (true, _) => {
                if let Some(last) = self.down.last_mut() {
                    last.1 = at;
                }
            }
            (false, _) => {}
        }
        self.is_down = !answered;
    }

    /// Whether it did not answer at some moment of a time.
    pub fn failed_within(&self, from: Timestamp, to: Timestamp) -> bool {
        // A stretch ends with the first question that was answered.
        self.down.iter().any(|(a, b)| *a <= to && (*b > from || *a >= from))
    }

    /// Whether it can be asked at all, and answers as a rule: one that never answers tells nothing.
    pub fn tells(&self) -> bool {
        self.asked > 0 && self.failed * 2 < self.asked
    }
}

impl Questioned {
    fn note(&mut self, at: Timestamp, answered: bool) {
        self.watched.note(at, answered);
        let since_first = at.since(*self.first.get_or_insert(at));
        if self.moments.len() < MAX_MOMENTS {
            self.moments.push(Moment::new(since_first, answered));
        }
    }

    /// Questions between two moments, both included, to the millisecond: how many, and how many of them failed.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> (u64, u64) {
        let Some(start) = self.first.filter(|start| *start <= to) else { return (0, 0) };
        let millis = |at: Timestamp| at.since(start).as_millis() as u64;
        let (from, to) = (millis(from), millis(to));
        let first = self.moments.partition_point(|moment| moment.millis() < from);
        let inside = self.moments[first..].iter().take_while(|moment| moment.millis() <= to);
        inside.fold((0, 0), |(asked, failed), moment| (asked + 1, failed + u64::from(!moment.is_answered())))
    }

    /// Whether it can be asked at all, and answers as a rule.
    pub fn tells(&self) -> bool {
        self.watched.tells()
    }
}

/// Everything that is watched.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    /// The default gateway.
    pub gateway: Questioned,
    /// This host's own loopback.
    pub loopback: Watched,
    /// The interface that leads to the target.
    pub interface: Watched,
    /// How the gateway was asked.
    pub gateway_asked: Option<Asked>,
}

impl Watches {
    /// Whether the gateway, which answers as a rule, did not at some moment of a time, or the one before it or after it.
    pub fn gateway_was_down(&self, from: Timestamp, to: Timestamp) -> bool {
        let margin = Duration::from_secs(2);
        self.gateway.tells()
            && self.gateway.watched.down.iter().any(|(a, b)| *a <= to + margin && *b + margin >= from)
    }

    pub(super) fn note(&mut self, o: &Watch) {
        let answered = |answer: &WatchAnswer| answer.reachable;
        if let Some(answer) = &o.gateway {
            self.gateway_asked = Some(answer.asked);
            self.gateway.note(o.at, answered(answer));
        }
        if let Some(answer) = &o.loopback {
            self.loopback.note(o.at, answered(answer));
        }
        if let Some(up) = o.interface_up {
            self.interface.note(o.at, up);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_begin_and_end_with_the_questions() {
        let at = |n: u64| Timestamp(7) + Duration::from_secs(100 + n);
        let mut asked = Questioned::default();
        assert_eq!(asked.between(at(0), at(9)), (0, 0));
        for n in 0..20 {
            asked.note(at(n), !(5..8).contains(&n) && n < 18);
        }
        assert_eq!(asked.watched.down, [(at(5), at(8)), (at(18), at(19))]);
        assert_eq!(asked.between(at(4), at(9)), (6, 3));
        assert_eq!(asked.between(at(9), at(17)), (9, 0));
        assert_eq!(asked.between(Timestamp(0), at(3)), (4, 0));
        assert_eq!(asked.between(Timestamp(0), Timestamp(50)), (0, 0));
        assert!(asked.tells());
        let is_down = |from, to| asked.watched.failed_within(at(from), at(to));
        assert!(is_down(7, 9) && is_down(0, 5) && is_down(18, 30));
        assert!(!is_down(8, 17) && !is_down(0, 4));
        assert!(!Watched::default().tells());
    }
}
