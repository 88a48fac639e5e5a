//! What is kept of one flow's probes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use probe_protocol::time::Timestamp;

use super::life::{HEAD, Head, Life, Passed};
use crate::observation::{Excluded, Fate, Probe, ProbeReply};
use crate::stats::histogram::Histogram;
use crate::stats::ipdv::Ipdv;
use crate::stats::jitter::Jitter;
use crate::stats::loss::LossPeriods;
use crate::stats::offset::{ClockOffset, RoundTrip};
use crate::stats::reordering::Reordering;
use crate::stats::resequence::Resequencer;
use crate::stats::tally::Tally;
use crate::stats::timeline::{Counts, Timeline};

/// Arrivals held back to be put into order by time.
const HELD_ARRIVALS: usize = 256;
/// Probes held back to be put into order by number: a flow's fates are told in order, but for what others recorded.
const HELD_PROBES: usize = 256;
/// Blocks of a flow that is over and lost nothing: those of a check's are never so many.
const QUIET_BLOCKS: usize = 128;
/// Different pairs of marks kept.
const MAX_MARKS: usize = 256;

/// The probes of one flow, condensed. `sent = received + lost + excluded`.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Probes handed to the system, or meant to be.
    pub sent: u64,
    /// Counts of all that are not excluded.
    pub counts: Counts,
    /// The same over time, by when they were sent.
    pub timeline: Timeline,
    /// Replies beyond the first.
    pub duplicates: u64,
    /// Probes that reached the listener twice or more.
    pub duplicated_up: u64,
    /// Replies that came after the reply to a later probe.
    pub reordered: u64,
    /// Not counted, by reason.
    pub excluded: BTreeMap<&'static str, u64>,
    /// Due and not sent.
    pub missed: u64,
    /// Round trips as the wire saw them, nanoseconds: kernel timestamps at both ends, the listener's dwell taken out.
    pub wire: Histogram,
    /// Round trips as the application saw them, nanoseconds: from the send call to the read.
    pub app: Histogram,
    /// Delay variation on the way up.
    pub ipdv_up: Ipdv,
    /// Delay variation on the way down.
    pub ipdv_down: Ipdv,
    /// How late probes were sent, nanoseconds.
    pub send_error: Histogram,
    /// Order and jitter of arrivals at the listener.
    pub up: Arrivals,
    /// Order and jitter of arrivals here.
    pub down: Arrivals,
    /// Loss periods on the way up.
    pub loss_up: LossPeriods,
    /// Loss periods on the way down.
    pub loss_down: LossPeriods,
    /// Round trips of probes whose successor was lost, nanoseconds.
    pub before_loss: Histogram,
    /// The clocks of both ends.
    pub clock: ClockOffset,
    /// TTL of arrivals at the listener.
    pub ttl_up: Tally<u8>,
    /// TTL of arrivals here.
    pub ttl_down: Tally<u8>,
    /// TOS bytes on the way up.
    pub tos_up: Marks,
    /// TOS bytes on the way down.
    pub tos_down: Marks,
    /// What became of packets by the TOS byte they were sent with, where the flow goes through several.
    pub marked: BTreeMap<u8, MarkFate>,
    /// Bytes sent.
    pub bytes: u64,
    /// The fates of its first probes.
    pub head: Head,
    /// Where it was last alive, and what came after.
    pub life: Life,
    /// When the first probe was sent.
    pub first: Option<Timestamp>,
    /// When the last probe was sent.
    pub last: Option<Timestamp>,
    by_number: Resequencer<Settled>,
    before: Option<(u64, u64)>,
    /// Bytes of headers that a probe's IP packet has beside it.
    headers: u64,
}

/// A probe in the order of its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Settled {
    seq: u64,
    fate: u8,
    delay: u64,
    size: u16,
    sent: Timestamp,
}

/// How often a TOS byte was sent as one value and received as another.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// Sent and received value, and how often.
    pub seen: Tally<(u8, u8)>,
}

/// What became of the packets with one mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MarkFate {
    /// Sent and counted.
    pub sent: u64,
    /// Lost on the way up.
    pub lost_up: u64,
    /// Lost on the way down.
    pub lost_down: u64,
    /// Lost, the direction unknown.
    pub lost_unknown: u64,
}

impl MarkFate {
    /// All that were lost.
    pub fn lost(&self) -> u64 {
        self.lost_up + self.lost_down + self.lost_unknown
    }

    /// Adds others to these.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.lost_up += other.lost_up;
        self.lost_down += other.lost_down;
        self.lost_unknown += other.lost_unknown;
    }
}

impl Marks {
    fn note(&mut self, sent: u8, got: Option<u8>) {
        let Some(got) = got else { return };
        self.seen.add((sent, got), 1, MAX_MARKS);
    }
}

/// One direction's arrivals, in their order.
#[derive(Clone, Debug)]
pub struct Arrivals {
    held: Resequencer<(Timestamp, u64, i64)>,
    /// Who overtook whom.
    pub reordering: Reordering,
    /// The jitter.
    pub jitter: Jitter,
}

impl Arrivals {
    fn new() -> Self {
        Self {
            held: Resequencer::new(HELD_ARRIVALS),
            reordering: Reordering::default(),
            jitter: Jitter::default(),
        }
    }

    fn push(&mut self, at: Timestamp, seq: u64, transit: i64) {
        if let Some((_, seq, transit)) = self.held.push((at, seq, transit)) {
            self.settle(seq, transit);
        }
    }

    fn settle(&mut self, seq: u64, transit: i64) {
        self.reordering.push(seq);
        self.jitter.push(transit);
    }

    fn flush(&mut self) {
        let held: Vec<_> = self.held.drain().collect();
        for (_, seq, transit) in held {
            self.settle(seq, transit);
        }
    }
}

const RECEIVED: u8 = 0;
const LOST_UP: u8 = 1;
const LOST_DOWN: u8 = 2;
const LOST_UNKNOWN: u8 = 3;

impl Traffic {
    /// Of a flow that begins at a moment; `headers`: bytes of headers beside each probe in its IP packet.
    pub(super) fn new(start: Timestamp, headers: u64) -> Self {
        Self {
            sent: 0,
            counts: Counts::default(),
            timeline: Timeline::new(start),
            duplicates: 0,
            duplicated_up: 0,
            reordered: 0,
            excluded: BTreeMap::new(),
            missed: 0,
            wire: Histogram::default(),
            app: Histogram::default(),
            ipdv_up: Ipdv::default(),
            ipdv_down: Ipdv::default(),
            send_error: Histogram::default(),
            up: Arrivals::new(),
            down: Arrivals::new(),
            loss_up: LossPeriods::default(),
            loss_down: LossPeriods::default(),
            before_loss: Histogram::default(),
            clock: ClockOffset::default(),
            ttl_up: Tally::default(),
            ttl_down: Tally::default(),
            tos_up: Marks::default(),
            tos_down: Marks::default(),
            marked: BTreeMap::new(),
            bytes: 0,
            head: Head::default(),
            life: Life::default(),
            first: None,
            last: None,
            by_number: Resequencer::new(HELD_PROBES),
            before: None,
            headers,
        }
    }

    pub(super) fn probe(&mut self, probe: &Probe) {
        self.sent += 1;
        self.first = Some(self.first.map_or(probe.sent, |first| first.min(probe.sent)));
        self.last = self.last.max(Some(probe.sent));
        if let Fate::Excluded(why) = probe.fate {
            *self.excluded.entry(excluded_name(why)).or_default() += 1;
            return;
        }
        self.bytes += u64::from(probe.size);
        self.send_error.add(nanos(probe.sent.since(probe.scheduled)));
        let mut counts = Counts { sent: 1, ..Counts::default() };
        let fate = match probe.fate {
            Fate::Received => {
                counts.received = 1;
                RECEIVED
            }
            Fate::LostUp => {
                counts.lost_up = 1;
                LOST_UP
            }
            Fate::LostDown => {
                counts.lost_down = 1;
                LOST_DOWN
            }
            Fate::LostUnknown | Fate::Excluded(_) => {
                counts.lost_unknown = 1;
                LOST_UNKNOWN
            }
        };
        self.timeline.add(probe.sent, &counts);
        self.counts.add(&counts);
        self.duplicates += u64::from(probe.extra_replies);
        let delay = probe.reply.as_ref().map_or(0, |reply| self.reply(probe, reply));
        self.note_head(probe.seq, fate);
        let Probe { seq, size, sent, .. } = *probe;
        if let Some(settled) = self.by_number.push(Settled { seq, fate, delay, size, sent }) {
            self.settle(settled);
        }
    }

    /// Takes note of a reply; answers its round trip, nanoseconds.
    fn reply(&mut self, probe: &Probe, reply: &ProbeReply) -> u64 {
        self.reordered += u64::from(reply.reordered);
        self.duplicated_up += u64::from(reply.duplicated_up);
        let back = reply.kernel.unwrap_or(reply.at);
        let answered = reply.listener_arrived + reply.dwell;
        let trip = RoundTrip { t1: probe.sent, t2: reply.listener_arrived, t3: answered, t4: back };
        if reply.kernel.is_some() && reply.listener_kernel {
            self.wire.add(trip.path_nanos());
        }
        self.app.add(nanos(reply.at.since(probe.sent)));
        let (up, down) = (trip.t2.signed_since(trip.t1), trip.t4.signed_since(trip.t3));
        self.ipdv_up.push(probe.seq, up);
        self.ipdv_down.push(probe.seq, down);
        self.up.push(trip.t2, probe.seq, up);
        self.down.push(trip.t4, probe.seq, down);
        self.clock.push(trip);
        if let Some(ttl) = reply.ttl_up {
            self.ttl_up.add(ttl, 1, usize::MAX);
        }
        if let Some(ttl) = reply.ttl_down {
            self.ttl_down.add(ttl, 1, usize::MAX);
        }
        self.tos_up.note(reply.tos_sent, reply.tos_up);
        self.tos_down.note(reply.tos_asked, reply.tos_down);
        trip.path_nanos()
    }

    /// Notes the fate of a probe that was sent with a mark.
    pub(super) fn mark(&mut self, tos: u8, fate: Fate) {
        let one = MarkFate {
            sent: u64::from(!matches!(fate, Fate::Excluded(_))),
            lost_up: u64::from(fate == Fate::LostUp),
            lost_down: u64::from(fate == Fate::LostDown),
            lost_unknown: u64::from(fate == Fate::LostUnknown),
        };
        self.marked.entry(tos).or_default().add(&one);
    }

    fn note_head(&mut self, seq: u64, fate: u8) {
        if seq < HEAD {
            let bits = match fate {
                RECEIVED => &mut self.head.received,
                LOST_UP => &mut self.head.lost_up,
                LOST_DOWN => &mut self.head.lost_down,
                _ => &mut self.head.lost_unknown,
            };
            *bits |= 1 << seq;
        }
    }

    fn settle(&mut self, Settled { seq, fate, delay, size, sent }: Settled) {
        let passed = match fate {
            RECEIVED => Passed::Both,
            LOST_UP => Passed::No,
            LOST_DOWN => Passed::UpOnly,
            _ => Passed::Unknown,
        };
        self.life.push(seq, u64::from(size) + self.headers, sent, passed);
        self.loss_up.push(fate == LOST_UP);
        // What was lost on the way up says nothing of the way down.
        if fate != LOST_UP {
            self.loss_down.push(fate == LOST_DOWN);
        }
        if fate == RECEIVED {
            self.before = Some((seq, delay));
        } else if let Some((before, delay)) = self.before.take()
            && before + 1 == seq
        {
            self.before_loss.add(delay);
        }
    }

    pub(super) fn listener_clock_changed(&mut self) {
        self.up.flush();
        self.down.flush();
        self.up.jitter.reset();
        self.down.jitter.reset();
        self.ipdv_up.reset();
        self.ipdv_down.reset();
        self.clock.reset();
    }

    /// The flow is over: what was held back for order is counted, and its room given back. A night has thousands of flows.
    pub(super) fn ended(&mut self) {
        for arrivals in [&mut self.up, &mut self.down] {
            arrivals.flush();
            arrivals.held.shrink();
        }
        let held: Vec<_> = self.by_number.drain().collect();
        held.into_iter().for_each(|settled| self.settle(settled));
        self.by_number.shrink();
        self.clock.close();
        self.clock.shrink();
    }

    /// Gives back the room of a flow that is over. Where it lost nothing, it is known less finely when that was.
    pub(super) fn shrink(&mut self) {
        if self.counts.lost() == 0 && self.excluded.is_empty() {
            self.timeline.coarsen(QUIET_BLOCKS);
        }
        let histograms = [&mut self.wire, &mut self.app, &mut self.send_error, &mut self.before_loss];
        histograms.into_iter().for_each(Histogram::shrink);
        self.ipdv_up.shrink();
        self.ipdv_down.shrink();
    }

    /// Nothing comes any more of a flow that is over: the last room is given back.
    pub(super) fn settled(&mut self) {
        self.ended();
        self.shrink();
        self.ipdv_up.reset();
        self.ipdv_down.reset();
    }

    /// The same with everything counted that was still held back. Nothing is copied of a flow that is over: a night has
    /// hundreds of them.
    pub fn finished(&self) -> Cow<'_, Self> {
        if self.holds_nothing_back() {
            return Cow::Borrowed(self);
        }
        let mut done = self.clone();
        done.ended();
        Cow::Owned(done)
    }

    fn holds_nothing_back(&self) -> bool {
        self.by_number.is_empty()
            && self.up.held.is_empty()
            && self.down.held.is_empty()
            && self.clock.is_closed()
    }

    /// All that are not counted.
    pub fn excluded_total(&self) -> u64 {
        self.excluded.values().sum()
    }

    /// Round trips of the better clock: as the wire saw them where the kernels' stamps are there, else as the
    /// application did.
    pub fn round_trips(&self) -> &Histogram {
        if self.has_kernel_clock() { &self.wire } else { &self.app }
    }

    /// Whether nearly all round trips have the kernels' stamps at both ends.
    pub fn has_kernel_clock(&self) -> bool {
        self.wire.count() > 0 && self.wire.count() * 10 >= self.app.count() * 9
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn excluded_name(why: Excluded) -> &'static str {
    match why {
        Excluded::SendFailed => "send-failed",
        Excluded::Suspended => "suspended",
        Excluded::ReceiveOverflow => "receive-overflow",
        Excluded::ListenerOverflow => "listener-overflow",
        Excluded::RunEnded => "run-ended",
        Excluded::InterfaceChanged => "interface-changed",
        Excluded::Experiment => "experiment",
    }
}
