//! Changing bytes and marks.

use rand::Rng;

use super::super::pipeline::{BadRule, Context, Parcel};
use super::{Act, Step};

/// Overwrites bytes of the payload.
pub(super) struct Rewrite {
    at: usize,
    bytes: Vec<u8>,
    flip: u8,
    length: usize,
    keep_checksum: bool,
}

impl Rewrite {
    pub(super) fn new(
        at: usize,
        bytes: Vec<u8>,
        flip: u8,
        length: usize,
        keep_checksum: bool,
    ) -> Result<Self, BadRule> {
        if bytes.is_empty() == (length == 0) {
            return Err(BadRule::Field("rewrite", "needs either `hex` or `length`".into()));
        }
        Ok(Self { at, bytes, flip, length, keep_checksum })
    }
}

impl Act for Rewrite {
    fn act(&mut self, cx: &mut Context<'_>, mut parcel: Parcel) -> Step {
        let mut changed = false;
        let payload = parcel.packet.payload_mut();
        let target = payload.get_mut(self.at..).unwrap_or_default();
        for (byte, new) in target.iter_mut().zip(&self.bytes) {
            changed |= *byte != *new;
            *byte = *new;
        }
        for byte in target.iter_mut().take(self.length) {
            let mask = if self.flip == 0 { cx.rng.random_range(1..=255) } else { self.flip };
            *byte ^= mask;
            changed = true;
        }
        if changed {
            if !self.keep_checksum {
                parcel.packet.recompute_checksum();
            }
            cx.altered(&parcel, "payload rewritten");
        }
        Step::Next(parcel)
    }
}

/// Sets DSCP and ECN.
pub(super) struct Mark {
    keep: u8,
    set: u8,
}

impl Mark {
    pub(super) fn new(dscp: Option<u8>, ecn: Option<u8>) -> Result<Self, BadRule> {
        if dscp.is_some_and(|dscp| dscp > 63) || ecn.is_some_and(|ecn| ecn > 3) {
            return Err(BadRule::Field("mark", "`dscp` is 0 to 63 and `ecn` 0 to 3".into()));
        }
        let keep = if dscp.is_some() { 0 } else { 0xfc } | if ecn.is_some() { 0 } else { 0x03 };
        Ok(Self { keep, set: (dscp.unwrap_or(0) << 2) | ecn.unwrap_or(0) })
    }
}

impl Act for Mark {
    fn act(&mut self, cx: &mut Context<'_>, mut parcel: Parcel) -> Step {
        let old = parcel.packet.tos();
        let new = (old & self.keep) | self.set;
        if new != old {
            parcel.packet.set_tos(new);
            cx.altered(&parcel, "marks rewritten");
        }
        Step::Next(parcel)
    }
}
