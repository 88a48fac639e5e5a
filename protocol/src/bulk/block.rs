//! The bodies of a block and of an acknowledgement: fixed layouts, big-endian.

use crate::time::Timestamp;
use crate::wire::{HANDSHAKE_BODY_LEN, PROBE_BODY_LEN, Reader, WireError, Writer};

/// What a sender says in a block: `sent 8 · order 4 · bin 4 · reserved 16`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockBody {
    /// When it was handed to the system, on the sender's clock.
    pub sent: Timestamp,
    /// The order that it belongs to.
    pub order: u32,
    /// The bin that it counts in.
    pub bin: u32,
}

impl BlockBody {
    /// Lays it out.
    pub fn encode(&self) -> [u8; PROBE_BODY_LEN] {
        let mut out = [0; PROBE_BODY_LEN];
        Writer::new(&mut out)
            .put(&self.sent.as_nanos().to_be_bytes())
            .put(&self.order.to_be_bytes())
            .put(&self.bin.to_be_bytes());
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes, "block");
        Ok(Self { sent: Timestamp(r.u64()?), order: r.u32()?, bin: r.u32()? })
    }
}

/// Ranges that fit into one acknowledgement.
pub const MAX_SACK_RANGES: usize = 8;

/// What a receiver says of the blocks that arrived: `order 4 · received 8 · highest 6 · delay 8 · count 1 · ranges
/// count x (first 6, length 4)`, the latest ranges first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SackBody {
    /// The order of the block that arrived last.
    pub order: u32,
    /// Distinct blocks of that order that have arrived.
    pub received: u64,
    /// Highest sequence number that has arrived on the flow.
    pub highest: u64,
    /// One-way delay of the block that arrived last, nanoseconds over that of its order's first.
    pub delay: i64,
    /// The latest ranges of sequence numbers: first, and how many in a row. Those of length 0 are none.
    pub ranges: [(u64, u32); MAX_SACK_RANGES],
}

impl SackBody {
    /// Lays it out.
    pub fn encode(&self) -> [u8; HANDSHAKE_BODY_LEN] {
        let mut out = [0; HANDSHAKE_BODY_LEN];
        let mut w = Writer::new(&mut out);
        w.put(&self.order.to_be_bytes())
            .put(&self.received.to_be_bytes())
            .put_u48(self.highest)
            .put(&self.delay.to_be_bytes());
        let ranges = self.ranges.iter().take_while(|(_, length)| *length > 0);
        w.put(&[ranges.clone().count() as u8]);
        for (first, length) in ranges {
            w.put_u48(*first).put(&length.to_be_bytes());
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`WireError::Malformed`] where bytes are missing or announce too many ranges.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes, "acknowledgement");
        let mut sack = Self {
            order: r.u32()?,
            received: r.u64()?,
            highest: r.u48()?,
            delay: i64::from_be_bytes(r.array()?),
            ..Self::default()
        };
        let count = usize::from(r.u8()?);
        let ranges = sack.ranges.get_mut(..count).ok_or(WireError::Malformed("acknowledgement"))?;
        for range in ranges {
            *range = (r.u48()?, r.u32()?);
        }
        Ok(sack)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn blocks_survive_the_wire(sent: u64, order: u32, bin: u32) {
            let body = BlockBody { sent: Timestamp(sent), order, bin };
            prop_assert_eq!(BlockBody::decode(&body.encode()), Ok(body));
        }

        #[test]
        fn acknowledgements_survive_the_wire(
            order: u32, received: u64, highest in 0..=crate::wire::MAX_SEQ, delay: i64,
            list in proptest::collection::vec((0..=crate::wire::MAX_SEQ, 1u32..), 0..=MAX_SACK_RANGES),
        ) {
            let mut ranges = [(0, 0); MAX_SACK_RANGES];
            ranges[..list.len()].copy_from_slice(&list);
            let sack = SackBody { order, received, highest, delay, ranges };
            prop_assert_eq!(SackBody::decode(&sack.encode()), Ok(sack));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..140)) {
            let _ = (BlockBody::decode(&bytes), SackBody::decode(&bytes));
        }
    }
}
