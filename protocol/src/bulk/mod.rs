//! Loads: blocks of one size at a target rate, and the accounting of every one of them.
//!
//! Both ends use the same three parts. They are sans-IO: time goes in, records and counts come out.
//!
//! | Part | does |
//! | --- | --- |
//! | [`Order`] | says what is to be sent: rate, size, burst, length |
//! | [`Schedule`] | when each block is due; slots that were missed are counted, and never made up for with a burst |
//! | [`Transfer`] | sends and receives the blocks of one flow, acknowledges them, counts them in [`Bin`]s |
//!
//! A block is a record like any other: the tag covers its head and its 32-byte body, so that a forged one does not
//! count. Its filler is not covered. Its sequence number is its flow's, per direction; the receiver keeps them in a
//! [ledger](crate::ledger), so that one that comes twice counts once.
//!
//! The sender does not back off when acknowledgements stop, as the product that it stands for does not. The listener
//! is the exception: it sends no further when the client has been silent for [`SILENCE`].

mod bins;
mod block;
mod ceiling;
mod schedule;
mod transfer;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::bins::{Bin, Bins};
pub use self::block::{BlockBody, MAX_SACK_RANGES, SackBody};
pub use self::ceiling::Ceiling;
pub use self::schedule::{BEHIND, Due, LATE, LATE_ON_STREAMS, Schedule};
pub use self::transfer::{Counted, Heard, Side, Tally, Transfer};
use crate::wire::{MAX_LEN, MIN_LEN};

/// Shortest bin.
pub const MIN_BIN: Duration = Duration::from_micros(100);
/// From one acknowledgement to the next, while blocks arrive.
pub const SACK_EVERY: Duration = Duration::from_millis(50);
/// An order this long is a transfer: its rate is what counts, not the moment of each block. It makes up for short stalls
/// of its sender ([`BEHIND`]), and is not worth a core that spins.
pub const TRANSFER_FROM: Duration = Duration::from_secs(5);
/// A listener that hears no acknowledgement for this long stops sending.
pub const SILENCE: Duration = Duration::from_secs(5);

/// What is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Number within the flow, from 1; a later order has a higher one and ends the earlier.
    pub number: u32,
    /// On the way up (client to listener) or down.
    pub up: bool,
    /// Bits per second, of blocks as they stand in datagrams or framed in streams.
    pub rate_bps: u64,
    /// Length of a block, bytes.
    pub size: u16,
    /// So many blocks leave at once at the start, as fast as the sender can; the rate begins after them.
    pub burst: u32,
    /// For how long, microseconds.
    pub length_us: u64,
    /// Length of a bin, microseconds; 0 for a bin of its own for each block.
    pub bin_us: u32,
    /// TOS or traffic class byte.
    pub tos: u8,
}

impl Order {
    /// The order with every value in its range.
    pub fn bounded(mut self) -> Self {
        self.size = self.size.clamp(MIN_LEN as u16, MAX_LEN as u16);
        self.rate_bps = self.rate_bps.max(1);
        if self.bin_us > 0 {
            self.bin_us = self.bin_us.max(MIN_BIN.as_micros() as u32);
        }
        self
    }

    /// How long it sends.
    pub const fn length(&self) -> Duration {
        Duration::from_micros(self.length_us)
    }

    /// Whether it is as long as a transfer ([`TRANSFER_FROM`]).
    pub const fn is_transfer(&self) -> bool {
        self.length_us >= TRANSFER_FROM.as_micros() as u64
    }

    /// Length of a bin.
    pub const fn bin(&self) -> Duration {
        Duration::from_micros(self.bin_us as u64)
    }
}
