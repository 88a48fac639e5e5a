//! Cutting IPv4 packets for a link that is too small for them (RFC 791, section 3.2).

use super::{Packet, checksum};

/// The fragments of an IPv4 packet for a link of `mtu` bytes. `None` where it must not be cut (IPv6, DF), needs no
/// cutting, or the link is too small for any.
pub fn cut(packet: &Packet, mtu: usize) -> Option<Vec<Packet>> {
    if packet.dont_fragment() || packet.size() <= mtu {
        return None;
    }
    let header = packet.header_length();
    let room = mtu.checked_sub(header)? / 8 * 8;
    if room == 0 {
        return None;
    }
    let word = super::u16_at(&packet.bytes, 6);
    let (first_offset, more_after) = (usize::from(word & 0x1fff), word & 0x2000);
    let body = &packet.bytes[header..];
    let count = body.len().div_ceil(room);
    let mut out = Vec::with_capacity(count);
    for (index, piece) in body.chunks(room).enumerate() {
        let mut bytes = Vec::with_capacity(header + piece.len());
        bytes.extend_from_slice(&packet.bytes[..header]);
        bytes.extend_from_slice(piece);
        let length = u16::try_from(bytes.len()).ok()?;
        let offset = u16::try_from(first_offset + index * room / 8).ok()?;
        let more = if index + 1 < count { 0x2000 } else { more_after };
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[6..8].copy_from_slice(&(offset | more).to_be_bytes());
        bytes[10..12].fill(0);
        let sum = !checksum::sum(&bytes[..header]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        out.push(Packet::parse(bytes).ok()?);
    }
    Some(out)
}
