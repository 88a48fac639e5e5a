//! Cutting IPv4 packets for a link that is too small for them, and putting them together again (RFC 791, section 3.2).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Packet, Part, checksum};
use crate::hash::Map;

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

/// What the fragments of one datagram have in common: source, destination, identification.
pub fn datagram(packet: &Packet) -> Option<(IpAddr, IpAddr, u32)> {
    packet.fragment_id().map(|id| (packet.source(), packet.destination(), id))
}

/// Datagrams that wait for their missing pieces, at most; beyond, all are given up.
const MAX_WAITING: usize = 1024;

/// Puts the fragments of IPv4 packets together again.
#[derive(Debug, Default)]
pub struct Reassembly {
    waiting: Map<(IpAddr, IpAddr, u32), BTreeMap<u16, Packet>>,
}

impl Reassembly {
    /// Takes a packet in; gives it back where it is whole, or where it was the last missing piece of one.
    pub fn take(&mut self, packet: Packet) -> Option<Packet> {
        if packet.part() == Part::Whole {
            return Some(packet);
        }
        if packet.is_v6() {
            return None;
        }
        if self.waiting.len() >= MAX_WAITING {
            self.waiting.clear();
        }
        let key = datagram(&packet)?;
        let pieces = self.waiting.entry(key).or_default();
        pieces.insert(super::u16_at(&packet.bytes, 6) & 0x1fff, packet);
        let whole = join(pieces)?;
        self.waiting.remove(&key);
        Some(whole)
    }
}

/// The packet that these fragments are of, by offset; none while one is missing.
fn join(pieces: &BTreeMap<u16, Packet>) -> Option<Packet> {
    let first = pieces.get(&0)?;
    let mut bytes = first.bytes[..first.header_length()].to_vec();
    let (mut next, mut more) = (0, true);
    for (offset, piece) in pieces {
        if usize::from(*offset) * 8 != next {
            return None;
        }
        let body = &piece.bytes[piece.header_length()..];
        bytes.extend_from_slice(body);
        next += body.len();
        more = super::u16_at(&piece.bytes, 6) & 0x2000 != 0;
    }
    if more {
        return None;
    }
    let length = u16::try_from(bytes.len()).ok()?;
    let header = first.header_length();
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes[6..8].fill(0);
    bytes[10..12].fill(0);
    let sum = !checksum::sum(&bytes[..header]);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    Packet::parse(bytes).ok()
}
