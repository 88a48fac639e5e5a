//! An IP packet that can be looked into and altered, with its checksums kept right. Pure: no sockets, no clocks.
//!
//! Both networks of the lab carry these: the real-kernel one as they come from a TUN device, the simulated one as
//! [`build`] makes them from a payload.

pub mod build;
pub mod checksum;
pub mod fragment;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// RFC 768.
    Udp,
    /// RFC 9293.
    Tcp,
    /// RFC 792, or RFC 4443 where the packet is IPv6.
    Icmp,
    /// Anything else.
    Other,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment, which has the ports.
    First,
    /// A later fragment, which has none.
    Later,
}

/// Why bytes are no packet that the lab can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its headers say.
    #[error("the packet is shorter than its headers say")]
    Short,
    /// Neither IPv4 nor IPv6.
    #[error("neither IPv4 nor IPv6")]
    Version,
}

/// TCP header flags (RFC 9293, section 3.1).
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 1;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 2;
    /// Reset the connection.
    pub const RST: u8 = 4;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

const UDP: u8 = 17;
const TCP: u8 = 6;
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;

/// Where things are in the packet's bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    v6: bool,
    protocol: Protocol,
    part: Part,
    transport: usize,
    payload: usize,
    /// Offset of the IPv6 fragment header; 0 where there is none.
    fragment_header: usize,
}

/// One IP packet.
#[derive(Clone, Debug)]
pub struct Packet {
    bytes: Vec<u8>,
    layout: Layout,
}

impl Packet {
    /// Takes bytes that begin with an IP header. What follows the length that header states is cut off.
    pub fn parse(mut bytes: Vec<u8>) -> Result<Self, Malformed> {
        let (layout, length) = layout(&bytes)?;
        bytes.truncate(length);
        Ok(Self { bytes, layout })
    }

    /// The packet as it goes on the wire.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Gives the buffer back, for use by another packet.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Length of the IP packet, header included, bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is IPv6.
    #[inline]
    pub fn is_v6(&self) -> bool {
        self.layout.v6
    }

    /// What it carries.
    #[inline]
    pub fn protocol(&self) -> Protocol {
        self.layout.protocol
    }

    /// Which part of a datagram it is.
    #[inline]
    pub fn part(&self) -> Part {
        self.layout.part
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        self.address(if self.layout.v6 { 8 } else { 12 })
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.address(if self.layout.v6 { 24 } else { 16 })
    }

    #[inline]
    fn address(&self, at: usize) -> IpAddr {
        if self.layout.v6 {
            IpAddr::V6(Ipv6Addr::from(array::<16>(&self.bytes, at)))
        } else {
            IpAddr::V4(Ipv4Addr::from(array::<4>(&self.bytes, at)))
        }
    }

    #[inline]
    fn has_ports(&self) -> bool {
        self.layout.part != Part::Later && matches!(self.layout.protocol, Protocol::Udp | Protocol::Tcp)
    }

    /// Source port; for an ICMP echo its identifier; 0 where there is neither.
    #[inline]
    pub fn source_port(&self) -> u16 {
        self.port(0)
    }

    /// Destination port; for an ICMP echo its identifier; 0 where there is neither.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        self.port(2)
    }

    #[inline]
    fn port(&self, at: usize) -> u16 {
        if self.has_ports() {
            u16_at(&self.bytes, self.layout.transport + at)
        } else if self.is_echo() {
            u16_at(&self.bytes, self.layout.transport + 4)
        } else {
            0
        }
    }

    /// Source address and port.
    #[inline]
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source(), self.source_port())
    }

    /// Destination address and port.
    #[inline]
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.destination(), self.destination_port())
    }

    /// Type and code of an ICMP message that is whole.
    #[inline]
    pub fn icmp(&self) -> Option<(u8, u8)> {
        (self.layout.protocol == Protocol::Icmp && self.layout.part != Part::Later)
            .then(|| (self.bytes[self.layout.transport], self.bytes[self.layout.transport + 1]))
    }

    /// Whether it is an ICMP echo request or reply.
    #[inline]
    pub fn is_echo(&self) -> bool {
        match self.icmp() {
            Some((kind, _)) if self.layout.v6 => kind == 128 || kind == 129,
            Some((kind, _)) => kind == 8 || kind == 0,
            None => false,
        }
    }

    /// Whether it is an ICMP echo request.
    pub fn is_echo_request(&self) -> bool {
        self.icmp().is_some_and(|(kind, _)| kind == if self.layout.v6 { 128 } else { 8 })
    }

    /// Whether it is an ICMP error, which quotes the packet it is about.
    #[inline]
    pub fn is_icmp_error(&self) -> bool {
        match self.icmp() {
            Some((kind, _)) if self.layout.v6 => kind < 128,
            Some((kind, _)) => matches!(kind, 3 | 4 | 5 | 11 | 12),
            None => false,
        }
    }

    /// TCP flags (see [`flag`]); 0 where it is not TCP.
    #[inline]
    pub fn tcp_flags(&self) -> u8 {
        if self.layout.protocol == Protocol::Tcp && self.layout.part != Part::Later {
            self.bytes[self.layout.transport + 13]
        } else {
            0
        }
    }

    /// TCP sequence and acknowledgement number; `None` where it is not TCP.
    pub fn tcp_numbers(&self) -> Option<(u32, u32)> {
        (self.layout.protocol == Protocol::Tcp && self.layout.part != Part::Later).then(|| {
            let at = self.layout.transport;
            (u32_at(&self.bytes, at + 4), u32_at(&self.bytes, at + 8))
        })
    }

    /// What follows the transport header (after the IP header where there is none).
    #[inline]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.layout.payload..]
    }

    /// The payload, to alter. Call [`Self::recompute_checksum`] afterwards, or leave the checksum wrong on purpose.
    pub fn payload_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.layout.payload..]
    }

    /// Time to live, or hop limit.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes[if self.layout.v6 { 7 } else { 8 }]
    }

    /// Sets the time to live, or hop limit.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        if self.layout.v6 {
            self.bytes[7] = ttl;
        } else {
            let old = [self.bytes[8], self.bytes[9]];
            self.bytes[8] = ttl;
            self.patch_ip_checksum(&old, &[ttl, old[1]]);
        }
    }

    /// The byte that holds DSCP and ECN (RFC 2474, RFC 3168).
    #[inline]
    pub fn tos(&self) -> u8 {
        if self.layout.v6 { (self.bytes[0] << 4) | (self.bytes[1] >> 4) } else { self.bytes[1] }
    }

    /// Sets the byte that holds DSCP and ECN.
    pub fn set_tos(&mut self, tos: u8) {
        if self.layout.v6 {
            self.bytes[0] = (self.bytes[0] & 0xf0) | (tos >> 4);
            self.bytes[1] = (self.bytes[1] & 0x0f) | (tos << 4);
        } else {
            let old = [self.bytes[0], self.bytes[1]];
            self.bytes[1] = tos;
            self.patch_ip_checksum(&old, &[old[0], tos]);
        }
    }

    /// Whether it must not be fragmented on the way: the DF flag, and always for IPv6.
    pub fn dont_fragment(&self) -> bool {
        self.layout.v6 || self.bytes[6] & 0x40 != 0
    }

    /// Lets it be fragmented on the way (IPv4): clears DF, and gives it the identification by which its pieces are
    /// put together again. Nothing happens to an IPv6 packet.
    pub fn allow_fragments(&mut self, id: u16) {
        if self.layout.v6 {
            return;
        }
        let old = array::<4>(&self.bytes, 4);
        let new = [(id >> 8) as u8, id as u8, old[2] & !0x40, old[3]];
        self.bytes[4..8].copy_from_slice(&new);
        self.patch_ip_checksum(&old, &new);
    }

    /// What tells the datagrams of one sender apart when they are put together again (IPv4 identification, or the
    /// one in the IPv6 fragment header); `None` for an IPv6 packet that is no fragment.
    pub fn fragment_id(&self) -> Option<u32> {
        if !self.layout.v6 {
            return Some(u32::from(u16_at(&self.bytes, 4)));
        }
        (self.layout.fragment_header != 0).then(|| u32_at(&self.bytes, self.layout.fragment_header + 4))
    }

    /// Sets the source address, which must be of the packet's own family (else nothing is done).
    #[inline]
    pub fn set_source(&mut self, address: IpAddr) {
        self.set_address(if self.layout.v6 { 8 } else { 12 }, address);
    }

    /// Sets the destination address, which must be of the packet's own family (else nothing is done).
    #[inline]
    pub fn set_destination(&mut self, address: IpAddr) {
        self.set_address(if self.layout.v6 { 24 } else { 16 }, address);
    }

    #[inline]
    fn set_address(&mut self, at: usize, address: IpAddr) {
        match (self.layout.v6, address) {
            (false, IpAddr::V4(new)) => {
                let old = array::<4>(&self.bytes, at);
                self.bytes[at..at + 4].copy_from_slice(&new.octets());
                self.patch_ip_checksum(&old, &new.octets());
                self.patch_transport_checksum(&old, &new.octets(), true);
            }
            (true, IpAddr::V6(new)) => {
                let old = array::<16>(&self.bytes, at);
                self.bytes[at..at + 16].copy_from_slice(&new.octets());
                self.patch_transport_checksum(&old, &new.octets(), true);
            }
            (false, IpAddr::V6(_)) | (true, IpAddr::V4(_)) => {}
        }
    }

    /// Sets the source port, or the identifier of an ICMP echo.
    #[inline]
    pub fn set_source_port(&mut self, port: u16) {
        self.set_port(0, port);
    }

    /// Sets the destination port, or the identifier of an ICMP echo.
    #[inline]
    pub fn set_destination_port(&mut self, port: u16) {
        self.set_port(2, port);
    }

    #[inline]
    fn set_port(&mut self, offset: usize, port: u16) {
        let at = self.layout.transport
            + if self.has_ports() {
                offset
            } else if self.is_echo() {
                4
            } else {
                return;
            };
        let old = array::<2>(&self.bytes, at);
        self.bytes[at..at + 2].copy_from_slice(&port.to_be_bytes());
        self.patch_transport_checksum(&old, &port.to_be_bytes(), false);
    }

    #[inline]
    fn patch_ip_checksum(&mut self, old: &[u8], new: &[u8]) {
        let sum = checksum::adjust(u16_at(&self.bytes, 10), old, new);
        self.bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    /// Where the transport's checksum stands, in the part that has it.
    #[inline]
    fn checksum_at(&self) -> Option<usize> {
        if self.layout.part == Part::Later {
            return None;
        }
        let at = self.layout.transport;
        match self.layout.protocol {
            // A UDP checksum of zero over IPv4 means "none" (RFC 768).
            Protocol::Udp if !self.layout.v6 && u16_at(&self.bytes, at + 6) == 0 => None,
            Protocol::Udp => Some(at + 6),
            Protocol::Tcp => Some(at + 16),
            Protocol::Icmp => Some(at + 2),
            Protocol::Other => None,
        }
    }

    #[inline]
    fn patch_transport_checksum(&mut self, old: &[u8], new: &[u8], in_pseudo_header: bool) {
        let Some(at) = self.checksum_at() else { return };
        // ICMP over IPv4 covers no pseudo-header.
        if in_pseudo_header && self.layout.protocol == Protocol::Icmp && !self.layout.v6 {
            return;
        }
        let sum = self.never_zero(checksum::adjust(u16_at(&self.bytes, at), old, new));
        self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    #[inline]
    fn never_zero(&self, sum: u16) -> u16 {
        if sum == 0 && self.layout.protocol == Protocol::Udp { 0xffff } else { sum }
    }

    /// Computes the transport's checksum anew. A fragment's stays as it is: it covers bytes that are elsewhere.
    pub fn recompute_checksum(&mut self) {
        if self.layout.part != Part::Whole {
            return;
        }
        let Some(at) = self.checksum_at() else { return };
        self.bytes[at..at + 2].fill(0);
        let sum = self.never_zero(!self.transport_sum());
        self.bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// Whether every checksum that can be checked is right.
    pub fn checksums_right(&self) -> bool {
        let header = self.layout.v6 || checksum::sum(&self.bytes[..self.header_length()]) == 0xffff;
        let transport =
            self.layout.part != Part::Whole || self.checksum_at().is_none() || self.transport_sum() == 0xffff;
        header && transport
    }

    #[inline]
    fn header_length(&self) -> usize {
        if self.layout.v6 { 40 } else { usize::from(self.bytes[0] & 0x0f) * 4 }
    }

    fn transport_sum(&self) -> u16 {
        let body = &self.bytes[self.layout.transport..];
        let mut total = u64::from(checksum::sum(body));
        if self.layout.protocol != Protocol::Icmp || self.layout.v6 {
            let addresses = if self.layout.v6 { &self.bytes[8..40] } else { &self.bytes[12..20] };
            let number = match self.layout.protocol {
                Protocol::Udp => UDP,
                Protocol::Tcp => TCP,
                Protocol::Icmp => ICMP6,
                Protocol::Other => 0,
            };
            total += u64::from(checksum::sum(addresses)) + u64::from(number) + body.len() as u64;
        }
        checksum::fold(total)
    }

    /// A copy made in another buffer, so that no allocation is needed where one is at hand.
    pub fn copy_into(&self, mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        bytes.extend_from_slice(&self.bytes);
        Self { bytes, layout: self.layout }
    }
}

fn layout(bytes: &[u8]) -> Result<(Layout, usize), Malformed> {
    match bytes.first().ok_or(Malformed::Short)? >> 4 {
        4 => layout_v4(bytes),
        6 => layout_v6(bytes),
        _ => Err(Malformed::Version),
    }
}

fn layout_v4(bytes: &[u8]) -> Result<(Layout, usize), Malformed> {
    if bytes.len() < 20 {
        return Err(Malformed::Short);
    }
    let header = usize::from(bytes[0] & 0x0f) * 4;
    let length = usize::from(u16_at(bytes, 2));
    if header < 20 || length < header || bytes.len() < length {
        return Err(Malformed::Short);
    }
    let word = u16_at(bytes, 6);
    let part = match (word & 0x1fff, word & 0x2000 != 0) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        (_, _) => Part::Later,
    };
    finish(bytes, length, Layout::new(false, part, header, 0), bytes[9])
}

fn layout_v6(bytes: &[u8]) -> Result<(Layout, usize), Malformed> {
    if bytes.len() < 40 {
        return Err(Malformed::Short);
    }
    let length = 40 + usize::from(u16_at(bytes, 4));
    if bytes.len() < length {
        return Err(Malformed::Short);
    }
    let (mut next, mut at, mut part, mut fragment_header) = (bytes[6], 40, Part::Whole, 0);
    // Hop-by-hop, routing, fragment and destination options (RFC 8200, section 4).
    while matches!(next, 0 | 43 | 44 | 60) && part != Part::Later {
        if at + 8 > length {
            return Err(Malformed::Short);
        }
        if next == 44 {
            let word = u16_at(bytes, at + 2);
            part = match (word & 0xfff8, word & 1) {
                (0, 0) => Part::Whole,
                (0, _) => Part::First,
                (_, _) => Part::Later,
            };
            fragment_header = at;
            next = bytes[at];
            at += 8;
        } else {
            next = bytes[at];
            at += 8 + usize::from(bytes[at + 1]) * 8;
        }
    }
    if at > length {
        return Err(Malformed::Short);
    }
    finish(bytes, length, Layout::new(true, part, at, fragment_header), next)
}

fn finish(bytes: &[u8], length: usize, mut layout: Layout, number: u8) -> Result<(Layout, usize), Malformed> {
    layout.protocol = match number {
        UDP => Protocol::Udp,
        TCP => Protocol::Tcp,
        ICMP4 if !layout.v6 => Protocol::Icmp,
        ICMP6 if layout.v6 => Protocol::Icmp,
        _ => Protocol::Other,
    };
    if layout.part == Part::Later {
        return Ok((layout, length));
    }
    let header = match layout.protocol {
        Protocol::Udp | Protocol::Icmp => 8,
        Protocol::Tcp => {
            let offset = bytes.get(layout.transport + 12).ok_or(Malformed::Short)? >> 4;
            usize::from(offset).max(5) * 4
        }
        Protocol::Other => 0,
    };
    layout.payload = layout.transport + header;
    if layout.payload > length {
        return Err(Malformed::Short);
    }
    Ok((layout, length))
}

impl Layout {
    fn new(v6: bool, part: Part, transport: usize, fragment_header: usize) -> Self {
        Self { v6, protocol: Protocol::Other, part, transport, payload: transport, fragment_header }
    }
}

#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests;
