//! What is kept of the watch beside the path: when the gateway, the loopback and the interface did not answer.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use crate::observation::{Asked, Watch, WatchAnswer};

/// Stretches without an answer kept of each thing watched; further ones are only counted.
const MAX_STRETCHES: usize = 1024;
/// Questions to the gateway whose moments are kept, so that it can be asked what it did in a short loss: a night of one a
/// second.
const MAX_MOMENTS: usize = 65_536;

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
    moments: Vec<(Timestamp, bool)>,
}

impl Watched {
    fn note(&mut self, at: Timestamp, answered: bool) {
        self.asked += 1;
        self.failed += u64::from(!answered);
        if self.moments.len() < MAX_MOMENTS {
            self.moments.push((at, answered));
        }
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

    /// Questions between two moments, both included: how many, and how many of them failed.
    pub fn between(&self, from: Timestamp, to: Timestamp) -> (u64, u64) {
        let first = self.moments.partition_point(|(at, _)| *at < from);
        let inside = self.moments[first..].iter().take_while(|(at, _)| *at <= to);
        inside.fold((0, 0), |(asked, failed), (_, ok)| (asked + 1, failed + u64::from(!ok)))
    }

    /// Whether it can be asked at all, and answers as a rule: one that never answers tells nothing.
    pub fn tells(&self) -> bool {
        self.asked > 0 && self.failed * 2 < self.asked
    }
}

/// Everything that is watched.
#[derive(Clone, Debug, Default)]
pub struct Watches {
    /// The default gateway.
    pub gateway: Watched,
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
            && self.gateway.down.iter().any(|(a, b)| *a <= to + margin && *b + margin >= from)
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
        let mut watched = Watched::default();
        for n in 0..20 {
            watched.note(Timestamp(n), !(5..8).contains(&n) && n < 18);
        }
        assert_eq!(watched.down, [(Timestamp(5), Timestamp(8)), (Timestamp(18), Timestamp(19))]);
        assert_eq!(watched.between(Timestamp(4), Timestamp(9)), (6, 3));
        assert_eq!(watched.between(Timestamp(9), Timestamp(17)), (9, 0));
        assert!(watched.tells());
        assert!(!Watched::default().tells());
    }
}
