//! The Internet checksum (RFC 1071) and its change when bytes change (RFC 1624).

/// Folds a sum of 16-bit words to one word, carries added back in.
#[inline]
pub fn fold(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// One's-complement sum of the bytes as big-endian 16-bit words, an odd last byte padded with zero.
///
/// A correct header or segment, its checksum included, sums to `0xffff`.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(4);
    let mut total: u64 = 0;
    for word in &mut words {
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let rest = words.remainder();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    fold(total + u64::from(u32::from_be_bytes(last)))
}

/// The checksum after `old` was replaced by `new`, both of one even length at an even offset (RFC 1624, eqn. 3).
#[inline]
pub fn adjust(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    let total = u64::from(!checksum) + u64::from(!sum(old)) + u64::from(sum(new));
    !fold(total)
}
