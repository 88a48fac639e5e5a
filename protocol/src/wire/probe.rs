//! The bodies of a probe and of its echo: fixed layouts, big-endian, 32 bytes each.

use super::{PROBE_BODY_LEN, Reader, WireError, Writer};
use crate::time::Timestamp;

/// When the listener is to answer a probe. What it answers later, or never, is for key holders over UDP; others are
/// answered at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyAfter {
    /// At once.
    #[default]
    AtOnce,
    /// After so many tenths of a second, 1 to 65,534: to the address that a cookie proved, and only while that is the
    /// flow's.
    Tenths(u16),
    /// Not at all: the probe is noted in the ledger, and that is all.
    Never,
}

impl ReplyAfter {
    /// So much later, rounded to a tenth of a second, at most 6,553.4 s.
    pub fn delay(delay: std::time::Duration) -> Self {
        let tenths = (delay.as_millis() + 50) / 100;
        u16::try_from(tenths).map_or(Self::Tenths(u16::MAX - 1), |n| match n {
            0 => Self::AtOnce,
            n => Self::Tenths(n.min(u16::MAX - 1)),
        })
    }

    fn code(self) -> u16 {
        match self {
            Self::AtOnce => 0,
            Self::Tenths(n) => n,
            Self::Never => u16::MAX,
        }
    }

    fn of_code(code: u16) -> Self {
        match code {
            0 => Self::AtOnce,
            u16::MAX => Self::Never,
            n => Self::Tenths(n),
        }
    }
}

/// The bit of `reply_len` that lets the reply be fragmented.
const MAY_FRAGMENT: u16 = 0x8000;

/// What a client says in a probe.
///
/// `sent 8 · replies 4 · reply_seq 6 · reply_window 8 · fragments 1 bit, reply_len 15 bits · reply_tos 1 · sent_tos 1 ·
/// reply_after 2`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeBody {
    /// When it was handed to the system, on the client's clock.
    pub sent: Timestamp,
    /// How many distinct replies of this flow the client has received.
    pub replies: u32,
    /// The highest sequence number whose reply the client has received.
    pub reply_seq: u64,
    /// Which replies before `reply_seq` arrived: bit `i` stands for `reply_seq - 1 - i`.
    pub reply_window: u64,
    /// Length of the reply wanted, bytes of the record, below 32,768; 0 for that of the request. Larger ones are for key
    /// holders.
    pub reply_len: u16,
    /// The reply may be fragmented on its way.
    pub reply_fragments: bool,
    /// TOS or traffic class wanted on the reply.
    pub reply_tos: u8,
    /// TOS or traffic class that the probe was sent with.
    pub sent_tos: u8,
    /// When to answer.
    pub reply_after: ReplyAfter,
}

impl ProbeBody {
    /// Lays it out.
    pub fn encode(&self) -> [u8; PROBE_BODY_LEN] {
        let mut out = [0; PROBE_BODY_LEN];
        Writer::new(&mut out)
            .put(&self.sent.as_nanos().to_be_bytes())
            .put(&self.replies.to_be_bytes())
            .put_u48(self.reply_seq)
            .put(&self.reply_window.to_be_bytes())
            .put(
                &(self.reply_len & !MAY_FRAGMENT | if self.reply_fragments { MAY_FRAGMENT } else { 0 })
                    .to_be_bytes(),
            )
            .put(&[self.reply_tos, self.sent_tos])
            .put(&self.reply_after.code().to_be_bytes());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes, "probe");
        let (sent, replies, reply_seq) = (Timestamp(r.u64()?), r.u32()?, r.u48()?);
        let (reply_window, reply_len) = (r.u64()?, r.u16()?);
        Ok(Self {
            sent,
            replies,
            reply_seq,
            reply_window,
            reply_len: reply_len & !MAY_FRAGMENT,
            reply_fragments: reply_len & MAY_FRAGMENT != 0,
            reply_tos: r.u8()?,
            sent_tos: r.u8()?,
            reply_after: ReplyAfter::of_code(r.u16()?),
        })
    }
}

/// What the listener says of a probe that arrived.
///
/// `arrived 8 · dwell 4 · received 4 · window 8 · ttl 1 · tos 1 · len 2 · filler_sum 2 · moves 1 · flags 1`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EchoBody {
    /// When the probe arrived, on the listener's clock: as its kernel saw it where that is known.
    pub arrived: Timestamp,
    /// Nanoseconds from arrival to the hand-over of the reply to the system; saturates at 4.29 s.
    pub dwell_ns: u32,
    /// How many distinct probes of this flow have arrived, this one included; wraps.
    pub received: u32,
    /// Which probes before this one arrived: bit `i` stands for `seq - 1 - i`.
    pub window: u64,
    /// TTL or hop limit that the probe arrived with, where the system tells.
    pub ttl: Option<u8>,
    /// TOS or traffic class that the probe arrived with, where the system tells.
    pub tos: Option<u8>,
    /// Length of the datagram as it arrived, dress included.
    pub len: u16,
    /// [`filler_sum`](super::seal::filler_sum) of the filler as it arrived.
    pub filler_sum: u16,
    /// How often this flow's source address has changed, modulo 256.
    pub moves: u8,
    /// This sequence number had arrived before.
    pub duplicate: bool,
    /// `arrived` is a kernel timestamp, not the moment the program read it.
    pub kernel: bool,
    /// The listener's socket buffer has overflowed since this flow's last reply.
    pub overflowed: bool,
}

const TTL: u8 = 1;
const TOS: u8 = 2;
const DUPLICATE: u8 = 4;
const KERNEL: u8 = 8;
const OVERFLOWED: u8 = 16;

impl EchoBody {
    /// Lays it out.
    pub fn encode(&self) -> [u8; PROBE_BODY_LEN] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = flag(self.ttl.is_some(), TTL)
            | flag(self.tos.is_some(), TOS)
            | flag(self.duplicate, DUPLICATE)
            | flag(self.kernel, KERNEL)
            | flag(self.overflowed, OVERFLOWED);
        let mut out = [0; PROBE_BODY_LEN];
        Writer::new(&mut out)
            .put(&self.arrived.as_nanos().to_be_bytes())
            .put(&self.dwell_ns.to_be_bytes())
            .put(&self.received.to_be_bytes())
            .put(&self.window.to_be_bytes())
            .put(&[self.ttl.unwrap_or(0), self.tos.unwrap_or(0)])
            .put(&self.len.to_be_bytes())
            .put(&self.filler_sum.to_be_bytes())
            .put(&[self.moves, flags]);
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes, "echo");
        let mut echo = Self {
            arrived: Timestamp(r.u64()?),
            dwell_ns: r.u32()?,
            received: r.u32()?,
            window: r.u64()?,
            ttl: Some(r.u8()?),
            tos: Some(r.u8()?),
            len: r.u16()?,
            filler_sum: r.u16()?,
            moves: r.u8()?,
            ..Self::default()
        };
        let flags = r.u8()?;
        echo.ttl = echo.ttl.filter(|_| flags & TTL != 0);
        echo.tos = echo.tos.filter(|_| flags & TOS != 0);
        echo.duplicate = flags & DUPLICATE != 0;
        echo.kernel = flags & KERNEL != 0;
        echo.overflowed = flags & OVERFLOWED != 0;
        Ok(echo)
    }
}

/// What the listener says of a flow it does not know, to somebody who proved to know the flow's key:
/// `boot 8 · epoch 4 · reserved 20`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StaleBody {
    /// The listener's boot id: another one than at the flow's opening means that it restarted.
    pub boot: u64,
    /// How often this state directory has been started.
    pub epoch: u32,
}

impl StaleBody {
    /// Lays it out.
    pub fn encode(&self) -> [u8; PROBE_BODY_LEN] {
        let mut out = [0; PROBE_BODY_LEN];
        Writer::new(&mut out).put(&self.boot.to_be_bytes()).put(&self.epoch.to_be_bytes());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes, "stale notice");
        Ok(Self { boot: r.u64()?, epoch: r.u32()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn probes_survive_the_wire(
            sent: u64, replies: u32, reply_seq in 0..=super::super::MAX_SEQ, reply_window: u64, reply_len in 0u16..0x8000,
            reply_fragments: bool, reply_tos: u8, sent_tos: u8, after: u16,
        ) {
            let body = ProbeBody {
                sent: Timestamp(sent), replies, reply_seq, reply_window, reply_len, reply_fragments, reply_tos,
                sent_tos, reply_after: ReplyAfter::of_code(after),
            };
            prop_assert_eq!(ProbeBody::decode(&body.encode()), Ok(body));
        }

        #[test]
        fn echoes_survive_the_wire(
            arrived: u64, dwell_ns: u32, received: u32, window: u64, ttl: Option<u8>, tos: Option<u8>, len: u16,
            filler_sum: u16, moves: u8, bits in 0u8..8,
        ) {
            let body = EchoBody {
                arrived: Timestamp(arrived), dwell_ns, received, window, ttl, tos, len, filler_sum, moves,
                duplicate: bits & 1 != 0, kernel: bits & 2 != 0, overflowed: bits & 4 != 0,
            };
            prop_assert_eq!(EchoBody::decode(&body.encode()), Ok(body));
        }

        #[test]
        fn short_bodies_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            prop_assert!(ProbeBody::decode(&bytes).is_err());
            prop_assert!(EchoBody::decode(&bytes).is_err());
            prop_assert!(StaleBody::decode(&bytes[..bytes.len().min(11)]).is_err());
        }
    }
}
