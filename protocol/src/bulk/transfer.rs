//! The blocks of one flow, both ways, at either end.

use std::collections::VecDeque;
use std::time::Duration;

use super::{
    Bins, BlockBody, Ceiling, LATE, MAX_SACK_RANGES, Order, SACK_EVERY, SILENCE, SackBody, Schedule,
};
use crate::control::{Arrival, BinsReply};
use crate::ledger::{ReceiptBounds, Receipts};
use crate::time::Timestamp;
use crate::wire::id::FlowId;
use crate::wire::seal::{FlowKeys, FlowSecret};
use crate::wire::{BODY_AT, HANDSHAKE_LEN, Header, Kind, MIN_LEN, WireError};

/// Which end a [`Transfer`] stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The listener, which sends no further when it hears nothing.
    Listener,
}

/// Orders that are remembered.
const MAX_TALLIES: usize = 12;
/// Bins of each.
const MAX_BINS: usize = 2048;
/// Ranges of the ledger.
const BOUNDS: ReceiptBounds = ReceiptBounds { ranges: 8192, arrivals: 16 };

/// What was counted of one order.
#[derive(Clone, Debug)]
pub struct Tally {
    /// The order.
    pub order: Order,
    /// When it began, on this end's clock.
    pub from: Timestamp,
    /// Distinct packets sent or received.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Slots missed, where this end sends.
    pub missed: u64,
    /// When the last one was sent or received.
    pub last: Option<Timestamp>,
    /// Nothing more is sent.
    pub over: bool,
    /// The counts over time.
    pub bins: Bins,
    /// At the receiver, the arrival of the first block on its clock minus its sending on the sender's, nanoseconds: the
    /// delay that counts as zero.
    pub base: Option<i64>,
}

impl Tally {
    /// One page of it from bin `from` on, at most `most` bins.
    pub fn page(&self, from: u32, most: usize) -> BinsReply {
        let mut rest = self.bins.from(from);
        let bins = rest.by_ref().take(most).collect();
        BinsReply {
            order: self.order.number,
            packets: self.packets,
            bytes: self.bytes,
            missed: self.missed,
            ended: self.over,
            forgotten: self.bins.forgotten(),
            bins,
            next: rest.next().map(|bin| bin.index),
            ceiling: None,
        }
    }
}

/// What a record was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A block, and whether it counts: it is of an order that was announced, and came for the first time.
    Block(Counted),
    /// An acknowledgement.
    Sack(SackBody),
    /// An authentic record that is no load's.
    Other(Header),
}

/// Whether a block counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It does.
    Yes,
    /// It came before.
    Twice,
    /// Its order was not announced, or is forgotten.
    Unexpected,
}

struct Sending {
    order: Order,
    schedule: Schedule,
    start: Timestamp,
    written: u64,
}

/// The load of one flow. Its methods are of three kinds: [`send`](Self::send), [`expect`](Self::expect) and
/// [`stop`](Self::stop) begin and end orders; [`handle`](Self::handle) takes records in; [`due`](Self::due),
/// [`write_block`](Self::write_block) and [`write_sack`](Self::write_sack) take them out, when
/// [`next_deadline`](Self::next_deadline) says. Records are undressed: only dresses that leave the record as it is can
/// carry a load.
pub struct Transfer {
    id: FlowId,
    keys: FlowKeys,
    side: Side,
    zeros: bool,
    late: Duration,
    sending: Option<Sending>,
    next_seq: u64,
    tallies: VecDeque<Tally>,
    receipts: Receipts,
    /// When the next acknowledgement is due; none while no block waits for one.
    sack_at: Option<Timestamp>,
    next_sack: u64,
    current: u32,
    last_delay: i64,
    sack: Option<SackBody>,
    highest_sack: Option<u64>,
    heard: Timestamp,
    unexpected: u64,
    ceiling: Option<Ceiling>,
}

impl std::fmt::Debug for Transfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transfer({}, {} orders)", self.id, self.tallies.len())
    }
}

impl Transfer {
    /// The load of a flow that has just opened. `zeros`: blocks are filled with zeros, as the dress wants it.
    pub fn new(id: FlowId, secret: FlowSecret, side: Side, zeros: bool) -> Self {
        Self {
            id,
            keys: FlowKeys::new(secret),
            side,
            zeros,
            late: LATE,
            sending: None,
            next_seq: 0,
            tallies: VecDeque::new(),
            receipts: Receipts::new(BOUNDS),
            sack_at: None,
            next_sack: 0,
            current: 0,
            last_delay: 0,
            sack: None,
            highest_sack: None,
            heard: Timestamp::ZERO,
            unexpected: 0,
            ceiling: None,
        }
    }

    /// Lets slots be so late before they are missed ([`LATE`] where nothing is said).
    pub fn allow_lateness(&mut self, late: Duration) {
        self.late = late;
    }

    /// The flow's id.
    pub fn id(&self) -> FlowId {
        self.id
    }

    /// Sends this order from now on, in place of an earlier one.
    pub fn send(&mut self, order: Order, now: Timestamp) {
        let order = order.bounded();
        self.stop_sending();
        self.tally_of(order, now);
        self.sack = None;
        self.heard = now;
        self.sending =
            Some(Sending { order, schedule: Schedule::new(&order, now, self.late), start: now, written: 0 });
    }

    /// Expects the blocks of this order.
    pub fn expect(&mut self, order: Order, now: Timestamp) {
        self.tally_of(order.bounded(), now);
    }

    fn tally_of(&mut self, order: Order, now: Timestamp) {
        if self.tallies.len() == MAX_TALLIES {
            self.tallies.pop_front();
        }
        self.tallies.push_back(Tally {
            order,
            from: now,
            packets: 0,
            bytes: 0,
            missed: 0,
            last: None,
            over: false,
            bins: Bins::new(MAX_BINS),
            base: None,
        });
    }

    /// Ends the sending of this order.
    pub fn stop(&mut self, number: u32) {
        if self.sending.as_ref().is_some_and(|s| s.order.number == number) {
            self.stop_sending();
        }
    }

    /// Ends all sending.
    pub fn stop_sending(&mut self) {
        if let Some(sending) = self.sending.take()
            && let Some(tally) = self.tally_mut(sending.order.number)
        {
            tally.over = true;
        }
    }

    /// Whether it sends now.
    pub fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// The order that it sends.
    pub fn sends(&self) -> Option<&Order> {
        self.sending.as_ref().map(|s| &s.order)
    }

    /// The sequence number of the next block to be sent.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// One-way delay of the block that arrived last, nanoseconds over that of its order's first.
    pub fn last_delay(&self) -> i64 {
        self.last_delay
    }

    /// The highest number of an order so far.
    pub fn latest(&self) -> Option<&Order> {
        self.tallies.back().map(|t| &t.order)
    }

    /// What was counted of an order; none where it is forgotten.
    pub fn tally(&self, number: u32) -> Option<&Tally> {
        self.tallies.iter().find(|t| t.order.number == number)
    }

    /// The same, to settle its bins.
    pub fn tally_mut(&mut self, number: u32) -> Option<&mut Tally> {
        self.tallies.iter_mut().find(|t| t.order.number == number)
    }

    /// Which blocks arrived.
    pub fn receipts_mut(&mut self) -> &mut Receipts {
        &mut self.receipts
    }

    /// Which blocks arrived.
    pub fn receipts(&self) -> &Receipts {
        &self.receipts
    }

    /// Blocks of orders that were not announced.
    pub fn unexpected(&self) -> u64 {
        self.unexpected
    }

    /// What this end moves by itself, as whoever moves the load has measured it.
    pub const fn ceiling(&self) -> Option<Ceiling> {
        self.ceiling
    }

    /// Tells what this end moves by itself.
    pub const fn set_ceiling(&mut self, ceiling: Option<Ceiling>) {
        self.ceiling = ceiling;
    }

    /// The latest acknowledgement of the order that is being sent, or was last.
    pub fn acknowledged(&self) -> Option<&SackBody> {
        self.sack.as_ref()
    }

    /// Blocks that may leave now: how many, at most `most`, of what length, and with which TOS byte. Ends the order
    /// when its time is over, and at the listener when nothing was heard for [`SILENCE`].
    pub fn due(&mut self, now: Timestamp, most: usize) -> Option<(usize, usize, u8)> {
        let silent = self.side == Side::Listener && now.since(self.heard) > SILENCE;
        let sending = self.sending.as_mut()?;
        if silent || now.since(sending.start) > sending.order.length() + Duration::from_secs(1) {
            self.stop_sending();
            return None;
        }
        let due = sending.schedule.due(now, most);
        let (order, over) = (sending.order, sending.schedule.is_over());
        if due.missed > 0
            && let Some(tally) = self.tally_mut(order.number)
        {
            tally.missed += due.missed;
        }
        if over {
            self.stop_sending();
            return None;
        }
        (due.blocks > 0).then_some((due.blocks, usize::from(order.size), order.tos))
    }

    /// Gives up slots that are due, where something else forbids to send.
    pub fn pass_over(&mut self, blocks: usize) {
        let Some(sending) = self.sending.as_mut() else { return };
        sending.schedule.sent(blocks);
        let number = sending.order.number;
        if let Some(tally) = self.tally_mut(number) {
            tally.missed += blocks as u64;
        }
    }

    /// Writes the head of the next block into `record`, which is as long as the order's blocks; what stands behind
    /// byte [`MIN_LEN`] is its filler, and the caller's ([`fill`](Self::fill)). False where there is none to send.
    pub fn write_block(&mut self, now: Timestamp, record: &mut [u8]) -> bool {
        let Some(sending) = self.sending.as_mut() else { return false };
        let passed = now.signed_since(sending.start).max(0).unsigned_abs();
        let by_time = passed.checked_div(u64::from(sending.order.bin_us) * 1000);
        let bin = u32::try_from(by_time.unwrap_or(sending.written)).unwrap_or(u32::MAX);
        sending.written += 1;
        let number = sending.order.number;
        let kind = if self.side == Side::Client { Kind::Block } else { Kind::BlockDown };
        let seq = self.next_seq;
        let Some(body) = record.get_mut(BODY_AT..MIN_LEN) else { return false };
        body.copy_from_slice(&BlockBody { sent: now, order: number, bin }.encode());
        if self.keys.seal(self.id, seq, kind, record).is_err() {
            return false;
        }
        sending.schedule.sent(1);
        self.next_seq += 1;
        let len = record.len();
        if let Some(tally) = self.tallies.iter_mut().rev().find(|t| t.order.number == number) {
            tally.packets += 1;
            tally.bytes += len as u64;
            tally.last = Some(now);
            tally.bins.note_sent(bin, len, passed / 1000);
        }
        true
    }

    /// Takes back a block that the system did not take: as if its slot had been missed. `last`: it is the one that was
    /// written last, whose number is used again.
    pub fn unsend(&mut self, record_len: usize, last: bool) {
        let Some(number) = self.sending.as_ref().map(|s| s.order.number) else { return };
        self.next_seq = self.next_seq.saturating_sub(u64::from(last));
        if let Some(tally) = self.tally_mut(number) {
            tally.packets = tally.packets.saturating_sub(1);
            tally.bytes = tally.bytes.saturating_sub(record_len as u64);
            tally.missed += 1;
            tally.bins.unnote(record_len);
        }
    }

    /// Fills what stands behind a block's head. One filler serves any block: it repeats as often as the caller's
    /// buffers do.
    pub fn fill(&self, number: u64, record: &mut [u8]) {
        let Some(filler) = record.get_mut(MIN_LEN..) else { return };
        if self.zeros {
            filler.fill(0);
        } else {
            self.keys.fill(number, filler);
        }
    }

    /// Writes an acknowledgement, where one is due.
    pub fn write_sack(&mut self, now: Timestamp, record: &mut [u8; HANDSHAKE_LEN]) -> bool {
        if self.sack_at.is_none_or(|at| at > now) {
            return false;
        }
        self.sack_at = None;
        let highest = self.receipts.highest().unwrap_or(0);
        let received = self.tally(self.current).map_or(0, |t| t.packets);
        let mut ranges = [(0, 0); MAX_SACK_RANGES];
        let latest = self.receipts.latest_ranges(MAX_SACK_RANGES);
        for (room, (first, length)) in ranges.iter_mut().zip(latest) {
            *room = (first, u32::try_from(length).unwrap_or(u32::MAX));
        }
        let sack = SackBody { order: self.current, received, highest, delay: self.last_delay, ranges };
        let kind = if self.side == Side::Client { Kind::Sack } else { Kind::SackDown };
        record.fill(0);
        record[BODY_AT..].copy_from_slice(&sack.encode());
        let seq = self.next_sack;
        self.next_sack += 1;
        self.keys.seal(self.id, seq, kind, record).is_ok()
    }

    /// When to call [`due`](Self::due) and [`write_sack`](Self::write_sack) next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let block = self.sending.as_ref().and_then(|s| s.schedule.next_deadline());
        // An order whose last block has left is ended by the next call.
        let over = self.sending.as_ref().filter(|_| block.is_none()).map(|_| Timestamp::ZERO);
        [block, over, self.sack_at].into_iter().flatten().min()
    }

    /// Opens a record of this flow and takes note of it. An [`Other`](Heard::Other) is left open, its body readable;
    /// [`seal_again`](Self::seal_again) makes it what it was.
    ///
    /// # Errors
    /// [`WireError`] where it is forged, altered, or not as long as its kind.
    pub fn handle(&mut self, record: &mut [u8], arrived: Timestamp) -> Result<Heard, WireError> {
        let header = self.keys.open(record)?;
        self.note(header, record, arrived)
    }

    /// Seals a record as it came.
    ///
    /// # Errors
    /// As [`FlowKeys::seal_as`].
    pub fn seal_again(&mut self, header: Header, record: &mut [u8]) -> Result<(), WireError> {
        self.keys.seal_as(header.version, self.id, header.seq, header.kind, record)
    }

    /// Takes note of a record that somebody else has opened.
    ///
    /// # Errors
    /// [`WireError`] where it is shorter than its kind.
    pub fn note(&mut self, header: Header, record: &[u8], arrived: Timestamp) -> Result<Heard, WireError> {
        let len = record.len();
        let body = record.get(BODY_AT..).ok_or(WireError::TooShort { len })?;
        let (block, sack) = match self.side {
            Side::Client => (Kind::BlockDown, Kind::SackDown),
            Side::Listener => (Kind::Block, Kind::Sack),
        };
        if header.kind == block {
            let body = BlockBody::decode(body)?;
            Ok(Heard::Block(self.block(header.seq, &body, len, arrived)))
        } else if header.kind == sack {
            let sack = SackBody::decode(body)?;
            // One that is played back is no sign of life.
            if self.highest_sack.is_none_or(|h| header.seq > h) {
                self.highest_sack = Some(header.seq);
                self.heard = arrived;
                let newest = self.tallies.back().map_or(0, |t| t.order.number);
                if sack.order == newest {
                    self.sack = Some(sack);
                }
            }
            Ok(Heard::Sack(sack))
        } else {
            Ok(Heard::Other(header))
        }
    }

    fn block(&mut self, seq: u64, body: &BlockBody, len: usize, arrived: Timestamp) -> Counted {
        let up = self.side == Side::Listener;
        let tally = self.tallies.iter_mut().rev().find(|t| t.order.number == body.order && t.order.up == up);
        let Some(tally) = tally else {
            self.unexpected += 1;
            return Counted::Unexpected;
        };
        let wire_len = u16::try_from(len).unwrap_or(u16::MAX);
        let arrival = Arrival { seq, at: arrived, ttl: None, tos: None, len: wire_len };
        if self.receipts.note(arrival).duplicate {
            return Counted::Twice;
        }
        let delay = arrived.signed_since(body.sent);
        let delay = delay.wrapping_sub(*tally.base.get_or_insert(delay));
        tally.packets += 1;
        tally.bytes += len as u64;
        tally.last = Some(arrived);
        tally.bins.note(body.bin, len, Some(delay));
        self.current = body.order;
        self.last_delay = delay;
        self.sack_at.get_or_insert(arrived + SACK_EVERY);
        Counted::Yes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: FlowId = FlowId([7; 8]);
    const SECRET: FlowSecret = FlowSecret([9; 16]);

    fn order(number: u32, up: bool) -> Order {
        Order {
            number,
            up,
            rate_bps: 9_600_000,
            size: 1200,
            burst: 0,
            length_us: 1_000_000,
            bin_us: 10_000,
            tos: 0,
        }
    }

    fn pair() -> (Transfer, Transfer) {
        let new = |side| Transfer::new(ID, SECRET, side, false);
        (new(Side::Client), new(Side::Listener))
    }

    /// Runs one order over a path that loses what `loses` says; answers with how many were lost.
    fn run(up: bool, loses: impl Fn(u64) -> bool, offset: u64) -> (Transfer, Transfer, u64) {
        let (mut client, mut listener) = pair();
        let start = Timestamp(5_000_000);
        let (sender, receiver) = if up { (&mut client, &mut listener) } else { (&mut listener, &mut client) };
        receiver.expect(order(1, up), start);
        sender.send(order(1, up), start);
        let (mut lost, mut now, mut n) = (0, start, 0);
        let mut sack = [0; HANDSHAKE_LEN];
        while sender.is_sending() {
            now = now.max(sender.next_deadline().unwrap_or(now));
            for _ in 0..sender.due(now, 64).map_or(0, |d| d.0) {
                let mut record = [0; 1200];
                assert!(sender.write_block(now, &mut record));
                if loses(n) {
                    lost += 1;
                } else {
                    // The ends' clocks differ, and the path takes 20 ms.
                    let arrived = Timestamp(now.0 + offset + 20_000_000);
                    assert_eq!(receiver.handle(&mut record, arrived), Ok(Heard::Block(Counted::Yes)));
                    if receiver.write_sack(arrived + Duration::from_secs(1), &mut sack) {
                        assert!(matches!(sender.handle(&mut sack, now), Ok(Heard::Sack(_))));
                    }
                }
                n += 1;
            }
        }
        (client, listener, lost)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn every_block_is_accounted_for(up: bool, every in 2u64..20, offset in 0u64..1 << 50) {
            let (client, listener, lost) = run(up, |n| n % every == 1, offset);
            let (sender, receiver) = if up { (&client, &listener) } else { (&listener, &client) };
            let (sent, got) = (sender.tally(1).unwrap(), receiver.tally(1).unwrap());
            prop_assert_eq!(sent.packets, 1000);
            prop_assert_eq!(sent.packets - got.packets, lost);
            prop_assert_eq!(receiver.receipts().received(), got.packets);
            let in_bins = |t: &Tally| t.bins.from(0).map(|b| u64::from(b.packets)).sum::<u64>();
            prop_assert_eq!((in_bins(sent), in_bins(got)), (sent.packets, got.packets));
            prop_assert!(got.bins.from(0).all(|b| (b.delay_min, b.delay_max) == (0, 0)));
        }
    }

    #[test]
    fn a_block_counts_once_and_a_forged_one_never() {
        let (mut client, mut listener) = pair();
        let now = Timestamp(0);
        listener.expect(order(1, true), now);
        client.send(order(1, true), now);
        let mut record = [0; 1200];
        assert!(client.write_block(now, &mut record));
        let mut forged = record;
        forged[40] ^= 1;
        assert!(listener.handle(&mut forged, now).is_err());
        assert_eq!(listener.tally(1).unwrap().packets, 0);
        let mut again = record;
        assert_eq!(listener.handle(&mut record, now), Ok(Heard::Block(Counted::Yes)));
        assert_eq!(listener.handle(&mut again, now), Ok(Heard::Block(Counted::Twice)));
        assert_eq!(listener.tally(1).unwrap().packets, 1);
    }

    #[test]
    fn blocks_of_the_other_direction_and_of_unknown_orders_do_not_count() {
        let (mut client, mut listener) = pair();
        let now = Timestamp(0);
        client.send(order(1, true), now);
        let mut record = [0; 1200];
        assert!(client.write_block(now, &mut record));
        assert_eq!(listener.handle(&mut record, now), Ok(Heard::Block(Counted::Unexpected)));
        let mut reflected = [0; 1200];
        assert!(client.write_block(now, &mut reflected));
        // Sent back to its sender, it is none of its kinds.
        assert!(matches!(client.handle(&mut reflected, now), Ok(Heard::Other(_))));
    }

    #[test]
    fn a_listener_that_hears_nothing_stops_and_a_client_goes_on() {
        let long = Order { length_us: 60_000_000, ..order(1, false) };
        for (side, goes_on) in [(Side::Listener, false), (Side::Client, true)] {
            let mut transfer = Transfer::new(ID, SECRET, side, false);
            transfer.send(Order { up: side == Side::Client, ..long }, Timestamp(1));
            let just_before = Timestamp(1) + SILENCE;
            assert!(transfer.due(just_before, 1).is_some());
            assert_eq!(transfer.due(just_before + Duration::from_millis(1), 1).is_some(), goes_on);
            assert_eq!(transfer.is_sending(), goes_on);
        }
    }

    #[test]
    fn a_sack_that_is_played_back_is_no_sign_of_life() {
        let (mut client, mut listener) = pair();
        let start = Timestamp(1);
        client.expect(order(1, false), start);
        listener.send(Order { length_us: 60_000_000, ..order(1, false) }, start);
        let mut record = [0; 1200];
        assert!(listener.write_block(start, &mut record));
        assert!(client.handle(&mut record, start).is_ok());
        let mut sack = [0; HANDSHAKE_LEN];
        assert!(client.write_sack(start + SACK_EVERY, &mut sack));
        let mut replayed = sack;
        assert!(listener.handle(&mut sack, start + Duration::from_secs(3)).is_ok());
        assert!(listener.due(start + Duration::from_secs(7), 1).is_some());
        assert!(listener.handle(&mut replayed, start + Duration::from_secs(7)).is_ok());
        assert!(listener.due(start + Duration::from_secs(9), 1).is_none());
        assert!(!listener.is_sending());
    }

    #[test]
    fn what_is_no_load_is_given_back_as_it_came() {
        let (mut client, mut listener) = pair();
        let mut record = [3; 300];
        client.keys.seal(ID, 5, Kind::Control, &mut record).unwrap();
        let before = record;
        let Ok(Heard::Other(header)) = listener.handle(&mut record, Timestamp(0)) else { panic!("not read") };
        listener.seal_again(header, &mut record).unwrap();
        assert_eq!(record, before);
    }
}
