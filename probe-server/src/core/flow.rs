//! One open UDP flow, at the packet thread.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use probe_protocol::PROTOCOL_VERSION;
use probe_protocol::control::Arrival;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::SessionId;
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::probe::{EchoBody, ProbeBody, ReplyAfter};
use probe_protocol::wire::seal::{FlowKeys, filler_sum};
use probe_protocol::wire::{BODY_AT, Header, Kind, MAX_LEN, MIN_LEN, WireError};

use super::book::{FORGED_SAMPLE, FlowBook};
use super::bulk;
use super::limit::{Bucket, Rate};
use super::shard::Meta;

/// A UDP flow.
#[derive(Debug)]
pub(super) struct UdpFlow {
    pub(super) id: FlowId,
    pub(super) session: SessionId,
    pub(super) keys: FlowKeys,
    pub(super) dress: Dress,
    pub(super) book: FlowBook,
    /// The address that a cookie proved; only it gets replies that are longer than their requests.
    pub(super) validated: SocketAddr,
    pub(super) full: bool,
    pub(super) until: Timestamp,
    pub(super) pps: Bucket,
    pub(super) controls: Bucket,
    pub(super) told_moves: Bucket,
    pub(super) highest_control: Option<u64>,
    /// The listener's address that it opened to.
    pub(super) local: Option<IpAddr>,
    /// What the socket had dropped by this flow's last reply.
    pub(super) drops: Option<u32>,
    /// Replies that wait for their time.
    pub(super) waiting: u16,
}

/// Moves of one flow that the admin is told of; all are counted.
pub(super) const MOVES_TOLD: Rate = Rate::new(1, 3);

/// A record of a flow, opened.
pub(super) struct OpenRecord {
    pub(super) header: Header,
    /// Where it stands in its datagram.
    pub(super) at: usize,
    pub(super) len: usize,
}

/// What became of a probe.
pub(super) enum Probed {
    /// Answer with so many bytes of the buffer.
    Echo { len: usize, tos: u8 },
    /// Answer so much later with so many bytes of the buffer, which may be fragmented.
    Later { len: usize, tos: u8, after: Duration, fragments: bool },
    /// Noted, and not answered, as it asked.
    Noted,
    /// Noted, and not answered: the rate of a client without an invite.
    OverRate,
    /// Seen before, and from an address that is not the flow's: somebody plays it back.
    Replayed,
    /// Authentic, and not a probe.
    Malformed,
}

impl UdpFlow {
    /// Takes the record out of its dress and opens it, in place. What fails is counted, its beginning kept.
    pub(super) fn open(&mut self, datagram: &mut [u8]) -> Result<OpenRecord, WireError> {
        let at = usize::from(self.dress == Dress::QuicShaped);
        // Opening changes the bytes, so what may become evidence is copied first.
        let mut sample = [0; FORGED_SAMPLE];
        let mut kept = 0;
        let result = dress::take_off(self.dress, Form::Running, datagram).and_then(|record| {
            if self.book.wants_sample() {
                kept = record.len().min(FORGED_SAMPLE);
                sample[..kept].copy_from_slice(&record[..kept]);
            }
            let len = record.len();
            match self.keys.open(record)? {
                header if header.version == PROTOCOL_VERSION => Ok(OpenRecord { header, at, len }),
                _ => Err(WireError::Malformed("version")),
            }
        });
        if result.is_err() {
            self.book.note_forged(if kept == 0 { datagram } else { &sample[..kept] });
        }
        result
    }

    /// Whether a record with a new highest number came from another address, which becomes the flow's then. Answers
    /// with the former one.
    pub(super) fn follow(&mut self, header: &Header, meta: &Meta, now: Timestamp) -> Option<SocketAddr> {
        // Requests are numbered apart from probes.
        let highest = match (header.kind, &self.book.bulk) {
            (Kind::Control, _) => {
                let before = self.highest_control;
                self.highest_control = before.max(Some(header.seq));
                before
            }
            // Acknowledgements are numbered apart too, and say nothing of where to go.
            (Kind::Sack, _) => return None,
            (Kind::Block, Some(bulk)) => bulk::lock(bulk).receipts().highest(),
            (Kind::Block, None) => return None,
            _ => self.book.receipts.highest(),
        };
        if meta.from == self.book.source || highest.is_some_and(|h| header.seq <= h) {
            return None;
        }
        let old = self.book.source;
        if old.is_ipv4() != meta.from.is_ipv4() {
            // The other family has another socket, with a count of its own.
            self.drops = None;
        }
        self.book.move_to(meta.from, now);
        if let Some(bulk) = self.book.bulk.as_ref().filter(|_| meta.from != self.validated) {
            bulk::lock(bulk).stop_sending();
        }
        Some(old)
    }

    /// Notes a probe and writes its echo over it.
    pub(super) fn echo(
        &mut self,
        record: &OpenRecord,
        buffer: &mut [u8],
        meta: &Meta,
        now: Timestamp,
        public: Rate,
    ) -> Probed {
        let seq = record.header.seq;
        let (at, mut len) = (record.at, record.len);
        let Some(bytes) = buffer.get_mut(at..at + len) else { return Probed::Malformed };
        let Some((head, filler)) = bytes.split_at_mut_checked(MIN_LEN) else { return Probed::Malformed };
        let Ok(probe) = ProbeBody::decode(&head[BODY_AT..]) else { return Probed::Malformed };
        let wire_len = u16::try_from(meta.len).unwrap_or(u16::MAX);
        let arrival = Arrival { seq, at: meta.arrived, ttl: meta.ttl, tos: meta.tos, len: wire_len };
        let receipt = self.book.receipts.note(arrival);
        if receipt.duplicate && meta.from != self.book.source {
            return Probed::Replayed;
        }
        if !self.full && !self.pps.take(now, public) {
            return Probed::OverRate;
        }
        let overflowed = self.drops.is_some() && meta.drops.is_some() && self.drops != meta.drops;
        self.drops = meta.drops;
        let echo = EchoBody {
            arrived: meta.arrived,
            dwell_ns: u32::try_from(now.since(meta.arrived).as_nanos()).unwrap_or(u32::MAX),
            received: self.book.receipts.received() as u32,
            window: receipt.window,
            ttl: meta.ttl,
            tos: meta.tos,
            len: wire_len,
            filler_sum: filler_sum(filler),
            moves: self.book.moves as u8,
            duplicate: receipt.duplicate,
            kernel: meta.kernel,
            overflowed,
        };
        head[BODY_AT..].copy_from_slice(&echo.encode());
        let wanted = usize::from(probe.reply_len);
        if wanted != 0 && wanted != len {
            len = self.resize(wanted, at, len, seq, buffer, meta.from);
        }
        let Some(bytes) = buffer.get_mut(at..at + len) else { return Probed::Malformed };
        if self.keys.seal(self.id, seq, Kind::Echo, bytes).is_err() {
            return Probed::Malformed;
        }
        let tos = probe.reply_tos;
        let Some(len) = self.dressed(buffer, at, len) else { return Probed::Malformed };
        let may_wait = self.full && meta.from == self.validated;
        match probe.reply_after {
            ReplyAfter::Never if may_wait => Probed::Noted,
            ReplyAfter::Tenths(tenths) if may_wait => {
                let after = Duration::from_millis(100) * u32::from(tenths);
                Probed::Later { len, tos, after, fragments: probe.reply_fragments }
            }
            ReplyAfter::AtOnce if may_wait && probe.reply_fragments => {
                Probed::Later { len, tos, after: Duration::ZERO, fragments: true }
            }
            ReplyAfter::AtOnce | ReplyAfter::Tenths(_) | ReplyAfter::Never => Probed::Echo { len, tos },
        }
    }

    /// Brings a reply to the length asked for, as far as its asker may have it; answers with the length.
    fn resize(
        &self,
        wanted: usize,
        at: usize,
        len: usize,
        seq: u64,
        buffer: &mut [u8],
        to: SocketAddr,
    ) -> usize {
        let wanted = wanted.clamp(MIN_LEN, MAX_LEN);
        if wanted <= len {
            return wanted;
        }
        let longest = self.dress.record_len(buffer.len().min(MAX_LEN));
        if !self.full || to != self.validated || wanted > longest {
            return len;
        }
        if let Some(filler) = buffer.get_mut(at + MIN_LEN..at + wanted) {
            if self.dress.row().random_filler {
                self.keys.fill(seq, filler);
            } else {
                filler.fill(0);
            }
        }
        wanted
    }

    /// Dresses the record of `len` bytes that stands at `at`; answers with the datagram's length.
    pub(super) fn dressed(&self, buffer: &mut [u8], at: usize, len: usize) -> Option<usize> {
        debug_assert!(at == usize::from(self.dress == Dress::QuicShaped));
        let wire_len = self.dress.dressed_len(Form::Running, len);
        dress::put_back(self.dress, buffer.get_mut(..wire_len)?).ok()?;
        Some(wire_len)
    }

    /// Whether its time is over.
    pub(super) fn is_up(&self, now: Timestamp) -> bool {
        now >= self.until
    }
}
