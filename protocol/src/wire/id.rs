//! Flow ids: made by the listener, opaque to everybody else, and a direct way to the flow's slot.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::ID_LEN;

/// Eight bytes that stand at a known place in every datagram of a flow. To anybody but the listener that made it, it
/// looks random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct FlowId(pub [u8; ID_LEN]);

impl std::fmt::Display for FlowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// Largest slot number an id can carry.
pub const MAX_SLOT: u32 = (1 << 24) - 1;

/// Bits of a nonce that an id carries.
const NONCE_BITS: u32 = u32::MAX >> 1;

/// Makes ids and finds the slot in them: `nonce 4 · (slot 24 bits, check 8 bits) xor mask(nonce)`, with mask and
/// check from a keyed hash of the nonce. The check turns most strangers away before any table is touched; the slot's
/// owner then compares all eight bytes.
#[derive(Clone, Debug)]
pub struct IdMint {
    keyed: SipHasher13,
}

impl IdMint {
    /// A mint for one listener secret.
    pub fn new(listener_secret: &[u8; 32]) -> Self {
        let key: [u8; 16] = super::seal::derive(listener_secret, b"id mint", b"");
        Self { keyed: SipHasher13::new_with_key(&key) }
    }

    /// The id of `slot` (at most [`MAX_SLOT`]) with a fresh random `nonce`, of which 31 bits are used: the first bit of an
    /// id is clear, since a datagram that begins with it must not look like QUIC's long header (RFC 8999 section 5.1) to
    /// who looks no further, or what drops QUIC so would take half of the random flows with it.
    pub fn mint(&self, slot: u32, nonce: u32) -> FlowId {
        let nonce = nonce & NONCE_BITS;
        let (mask, check) = self.mask(nonce);
        let word = ((slot & MAX_SLOT) << 8 | u32::from(check)) ^ mask;
        let mut id = [0; ID_LEN];
        id[..4].copy_from_slice(&nonce.to_be_bytes());
        id[4..].copy_from_slice(&word.to_be_bytes());
        FlowId(id)
    }

    /// The slot in an id of this mint; none where the check says that it is not one.
    pub fn slot(&self, id: FlowId) -> Option<u32> {
        let [a, b, c, d, e, f, g, h] = id.0;
        let (mask, check) = self.mask(u32::from_be_bytes([a, b, c, d]));
        let word = u32::from_be_bytes([e, f, g, h]) ^ mask;
        (word as u8 == check).then_some(word >> 8)
    }

    fn mask(&self, nonce: u32) -> (u32, u8) {
        let mut hasher = self.keyed;
        hasher.write_u32(nonce);
        let hash = hasher.finish();
        (hash as u32, (hash >> 32) as u8)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_minted_id_leads_back_to_its_slot(slot in 0..=MAX_SLOT, nonce: u32, secret: [u8; 32]) {
            let mint = IdMint::new(&secret);
            prop_assert_eq!(mint.slot(mint.mint(slot, nonce)), Some(slot));
            prop_assert!(mint.mint(slot, nonce).0[0] < 0x80);
        }
    }

    #[test]
    fn strangers_are_mostly_turned_away() {
        let mint = IdMint::new(&[1; 32]);
        let other = IdMint::new(&[2; 32]);
        let passed = (0..10_000).filter(|n| mint.slot(other.mint(5, *n)).is_some()).count();
        // One in 256 by chance.
        assert!((10..90).contains(&passed), "{passed} of 10000 passed");
    }
}
