//! Bursts of loss, RFC 3611 section 4.7.2: a burst begins and ends with a lost packet, and within it fewer than `Gmin`
//! packets in a row are received.

use probe_protocol::time::Timestamp;

use crate::observation::{Fate, Probe};

/// Received packets in a row that end a burst: the RFC's recommendation.
const GMIN: u32 = 16;
/// Packets lost in a burst that is worth telling, at least.
const LEAST: u64 = 5;

/// A burst of loss of one flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Burst {
    /// When the first lost probe was sent.
    pub from: Timestamp,
    /// When the last lost probe was sent.
    pub to: Timestamp,
    /// When the last probe before it that was answered was sent, where there is one.
    pub last_ok: Option<Timestamp>,
    /// When the first probe after it that was answered was sent; none where the flow ended in it.
    pub first_ok: Option<Timestamp>,
    /// Probes sent in it, the first and the last one included.
    pub sent: u64,
    /// Lost on the way up.
    pub up: u64,
    /// Lost on the way down.
    pub down: u64,
    /// Lost, the direction unknown.
    pub unknown: u64,
}

impl Burst {
    /// All that were lost in it.
    pub fn lost(&self) -> u64 {
        self.up + self.down + self.unknown
    }

    /// Nothing at all was answered in it.
    pub fn is_silence(&self) -> bool {
        self.lost() == self.sent
    }
}

/// Finds the bursts of one flow; probes are handed in by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Bursts {
    open: Option<Burst>,
    /// Answered in a row since the last loss, and the first of them.
    answered: u32,
    since: Option<Timestamp>,
    last_ok: Option<Timestamp>,
}

impl Bursts {
    /// Takes the next probe that counts; answers the burst that it ends, where that is worth telling.
    pub(super) fn push(&mut self, probe: &Probe) -> Option<Burst> {
        let lost = match probe.fate {
            Fate::Received | Fate::Excluded(_) => {
                return self.answered(probe.sent);
            }
            Fate::LostUp => (1, 0, 0),
            Fate::LostDown => (0, 1, 0),
            Fate::LostUnknown => (0, 0, 1),
        };
        let before = std::mem::take(&mut self.answered);
        self.since = None;
        let last_ok = self.last_ok;
        let burst = self.open.get_or_insert(Burst { from: probe.sent, last_ok, ..Burst::default() });
        // What was answered in between belongs to it.
        burst.sent += 1 + if burst.sent > 0 { u64::from(before) } else { 0 };
        burst.to = burst.to.max(probe.sent);
        burst.up += lost.0;
        burst.down += lost.1;
        burst.unknown += lost.2;
        None
    }

    fn answered(&mut self, sent: Timestamp) -> Option<Burst> {
        self.last_ok = Some(sent);
        let burst = self.open?;
        self.since.get_or_insert(sent);
        self.answered += 1;
        // A silence is over with the first answer; a burst with some answers in it, with the sixteenth.
        if self.answered < GMIN && !(burst.is_silence() && burst.lost() >= LEAST) {
            return None;
        }
        self.end()
    }

    fn end(&mut self) -> Option<Burst> {
        let burst = Burst { first_ok: self.since, ..self.open.take()? };
        self.answered = 0;
        self.since = None;
        (burst.lost() >= LEAST).then_some(burst)
    }

    /// The burst that the flow ended in.
    pub(super) fn close(mut self) -> Option<Burst> {
        self.end()
    }
}
