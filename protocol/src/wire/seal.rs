//! Keys of a flow: sealing and opening records, masking headers, filling.

use aes::cipher::{BlockEncrypt, KeyInit, KeyIvInit, StreamCipher};
use aes_siv::siv::Aes128Siv;
use hkdf::Hkdf;
use sha2::Sha256;

use super::id::FlowId;
use super::{BODY_AT, HEADER_LEN, Header, ID_LEN, Kind, MAX_LEN, MAX_SEQ, TAG_LEN, WireError};

/// The 16 bytes that a flow's keys derive from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowSecret(pub [u8; 16]);

impl std::fmt::Debug for FlowSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowSecret(..)")
    }
}

impl FlowSecret {
    /// The secret of a flow id under the listener's own secret, so that a restarted listener still verifies an old
    /// flow without having kept anything.
    pub fn of_flow(listener_secret: &[u8; 32], id: FlowId) -> Self {
        Self(derive(listener_secret, b"flow secret", &id.0))
    }
}

/// Expands `key` for one purpose: HKDF-SHA256 (RFC 5869) with the purpose and context as info.
pub(crate) fn derive<const N: usize>(key: &[u8], purpose: &[u8], context: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    // Expanding fails only for more than 255 hashes of output; every N here is at most 64 bytes.
    let _ = Hkdf::<Sha256>::new(Some(b"probe pair v1"), key).expand_multi_info(&[purpose, context], &mut out);
    out
}

/// What a flow's records are sealed, masked and filled with.
pub struct FlowKeys {
    siv: Aes128Siv,
    mask: aes::Aes128Enc,
    filler: [u8; 16],
}

impl std::fmt::Debug for FlowKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FlowKeys(..)")
    }
}

impl FlowKeys {
    /// Derives the three keys.
    pub fn new(secret: FlowSecret) -> Self {
        let keys: [u8; 64] = derive(&secret.0, b"flow keys", b"");
        let (siv, rest) = keys.split_at(32);
        let (mask, filler) = rest.split_at(16);
        let mut filler_key = [0; 16];
        filler_key.copy_from_slice(filler);
        Self { siv: Aes128Siv::new(siv.into()), mask: aes::Aes128Enc::new(mask.into()), filler: filler_key }
    }

    /// Seals a record in place: `record` holds the body in clear at [`BODY_AT`]; id, header and tag are written.
    /// The filler is left as it is.
    ///
    /// # Errors
    /// [`WireError::TooShort`] or [`WireError::TooLong`] where the record cannot hold a body of this kind.
    pub fn seal(&mut self, id: FlowId, seq: u64, kind: Kind, record: &mut [u8]) -> Result<(), WireError> {
        self.seal_as(crate::PROTOCOL_VERSION, id, seq, kind, record)
    }

    /// [`seal`](Self::seal) with another version in the header.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    pub fn seal_as(
        &mut self,
        version: u8,
        id: FlowId,
        seq: u64,
        kind: Kind,
        record: &mut [u8],
    ) -> Result<(), WireError> {
        let len = record.len();
        let body_len = check_len(kind, len)?;
        let (header, rest) = record.split_at_mut(HEADER_LEN);
        let (tag_room, rest) = rest.split_at_mut(TAG_LEN);
        header[..ID_LEN].copy_from_slice(&id.0);
        header[ID_LEN..14].copy_from_slice(&(seq & MAX_SEQ).to_be_bytes()[2..]);
        header[14] = kind as u8;
        header[15] = version;
        let tag = self
            .siv
            .encrypt_in_place_detached([&*header], &mut rest[..body_len])
            .map_err(|_| WireError::TooLong { len })?;
        tag_room.copy_from_slice(&tag);
        self.apply_mask(header, tag_room);
        Ok(())
    }

    /// Opens a record in place: unmasks the header, checks the tag, decrypts the body. On an error the bytes are
    /// left in an unspecified state.
    ///
    /// # Errors
    /// [`WireError::TooShort`], [`WireError::TooLong`], [`WireError::Forged`]; never trusts a byte before the tag
    /// has been checked.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Header, WireError> {
        let len = record.len();
        if len < BODY_AT {
            return Err(WireError::TooShort { len });
        }
        let (header, rest) = record.split_at_mut(HEADER_LEN);
        let (tag, rest) = rest.split_at_mut(TAG_LEN);
        self.apply_mask(header, tag);
        // An unknown kind is noise: peers of other versions were told apart at the handshake.
        let kind = Kind::from_byte(header[14]).ok_or(WireError::Forged)?;
        let body_len = check_len(kind, len)?;
        let mut tag_copy = [0u8; TAG_LEN];
        tag_copy.copy_from_slice(tag);
        self.siv
            .decrypt_in_place_detached([&*header], &mut rest[..body_len], (&tag_copy).into())
            .map_err(|_| WireError::Forged)?;
        let mut six = [0; 6];
        six.copy_from_slice(&header[ID_LEN..14]);
        Ok(Header { seq: super::u48(&six), kind, version: header[15] })
    }

    /// Writes the filler of sequence number `seq` into `filler`, which starts at byte `BODY_AT + body_len` of its
    /// record: AES-CTR keyed per flow, so any part can be recomputed alone.
    pub fn fill(&self, seq: u64, filler: &mut [u8]) {
        filler.fill(0);
        let mut iv = [0u8; 16];
        iv[..8].copy_from_slice(&seq.to_be_bytes());
        ctr::Ctr64BE::<aes::Aes128>::new(&self.filler.into(), &iv.into()).apply_keystream(filler);
    }

    /// The offset within the filler of the first byte that is not as [`fill`](Self::fill) wrote it.
    pub fn first_changed(&self, seq: u64, filler: &[u8]) -> Option<usize> {
        let mut expected = [0u8; MAX_LEN];
        let expected = &mut expected[..filler.len().min(MAX_LEN)];
        self.fill(seq, expected);
        expected.iter().zip(filler).position(|(a, b)| a != b)
    }

    fn apply_mask(&self, header: &mut [u8], tag: &[u8]) {
        let mut block = aes::Block::default();
        block.copy_from_slice(tag);
        self.mask.encrypt_block(&mut block);
        header[ID_LEN..].iter_mut().zip(block).for_each(|(byte, mask)| *byte ^= mask);
    }
}

fn check_len(kind: Kind, len: usize) -> Result<usize, WireError> {
    if len > MAX_LEN {
        return Err(WireError::TooLong { len });
    }
    let body_len = kind.body_len(len);
    if body_len == 0 || len < BODY_AT + body_len { Err(WireError::TooShort { len }) } else { Ok(body_len) }
}

/// A sum over a record's filler, which the listener reports as it received it: 64-bit words added with carry folded
/// in, then folded to 16 bits. Cheap enough for the hot path, and a change within one word always shows.
pub fn filler_sum(filler: &[u8]) -> u16 {
    let (words, rest) = filler.as_chunks::<8>();
    let mut sum: u64 = 0;
    for word in words {
        let (next, carry) = sum.overflowing_add(u64::from_be_bytes(*word));
        sum = next.wrapping_add(u64::from(carry));
    }
    let mut last = [0u8; 8];
    last[..rest.len()].copy_from_slice(rest);
    let (next, carry) = sum.overflowing_add(u64::from_be_bytes(last));
    sum = next.wrapping_add(u64::from(carry));
    let folded = (sum >> 32) + (sum & 0xffff_ffff);
    let folded = (folded >> 16) + (folded & 0xffff);
    let folded = (folded >> 16) + (folded & 0xffff);
    let folded = (folded >> 16) + (folded & 0xffff);
    (folded & 0xffff) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> FlowKeys {
        FlowKeys::new(FlowSecret([7; 16]))
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_nothing_else(
            seq in 0..=MAX_SEQ,
            kind in proptest::sample::select(&Kind::ALL[..]),
            extra in 0usize..200,
            flip in 0usize..10_000,
            bit in 0u8..8,
        ) {
            let len = BODY_AT + kind.body_len(BODY_AT + 40).max(PROBE) + extra;
            let mut record = vec![0xa5; len];
            let body_len = kind.body_len(len);
            keys().seal(FlowId([1; 8]), seq, kind, &mut record).unwrap();
            let sealed = record.clone();
            let header = keys().open(&mut record).unwrap();
            prop_assert_eq!(header, Header { seq, kind, version: crate::PROTOCOL_VERSION });
            prop_assert!(record[BODY_AT..BODY_AT + body_len].iter().all(|b| *b == 0xa5));

            let mut altered = sealed;
            let at = flip % (BODY_AT + body_len);
            altered[at] ^= 1 << bit;
            prop_assert!(keys().open(&mut altered).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(keys().open(&mut bytes).is_err());
        }

        #[test]
        fn a_changed_filler_byte_shows_its_offset_and_changes_the_sum(
            len in 1usize..1500, at in 0usize..1500, seq in 0..=MAX_SEQ, change in 1u8..=255,
        ) {
            let mut filler = vec![0; len];
            keys().fill(seq, &mut filler);
            prop_assert_eq!(keys().first_changed(seq, &filler), None);
            let sum = filler_sum(&filler);
            let at = at % len;
            filler[at] ^= change;
            prop_assert_eq!(keys().first_changed(seq, &filler), Some(at));
            prop_assert_ne!(filler_sum(&filler), sum);
        }
    }

    const PROBE: usize = super::super::PROBE_BODY_LEN;

    #[test]
    fn length_bounds_are_exact() {
        let mut record = [0; super::super::MIN_LEN];
        assert!(keys().seal(FlowId([0; 8]), 1, Kind::Probe, &mut record).is_ok());
        assert_eq!(
            keys().seal(FlowId([0; 8]), 1, Kind::Probe, &mut record[..63]),
            Err(WireError::TooShort { len: 63 })
        );
        assert!(keys().seal(FlowId([0; 8]), 1, Kind::Probe, &mut vec![0; MAX_LEN]).is_ok());
        assert_eq!(
            keys().seal(FlowId([0; 8]), 1, Kind::Probe, &mut vec![0; MAX_LEN + 1]),
            Err(WireError::TooLong { len: MAX_LEN + 1 })
        );
    }
}
