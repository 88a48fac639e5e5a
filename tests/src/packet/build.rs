//! Packets made from nothing, or in answer to another.

use std::net::{IpAddr, SocketAddr};

use super::{Packet, Part, Protocol, flag, u32_at};

/// Time to live of what the lab itself sends.
pub const TTL: u8 = 64;

/// An ICMP error, the same for both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No route to the network.
    NetUnreachable,
    /// The host does not answer.
    HostUnreachable,
    /// Nobody listens there.
    PortUnreachable,
    /// A filter forbids it.
    AdminProhibited,
    /// Too big for the next link, whose MTU this is (bytes).
    TooBig(u16),
    /// The time to live ran out.
    TimeExceeded,
}

impl IcmpError {
    /// Type, code and the header's last 4 bytes (RFC 792, RFC 1191, RFC 4443).
    fn fields(self, v6: bool) -> (u8, u8, u32) {
        match (self, v6) {
            (Self::NetUnreachable, false) => (3, 0, 0),
            (Self::HostUnreachable, false) => (3, 1, 0),
            (Self::PortUnreachable, false) => (3, 3, 0),
            (Self::AdminProhibited, false) => (3, 13, 0),
            (Self::TooBig(mtu), false) => (3, 4, u32::from(mtu)),
            (Self::TimeExceeded, false) => (11, 0, 0),
            (Self::NetUnreachable, true) => (1, 0, 0),
            (Self::HostUnreachable, true) => (1, 3, 0),
            (Self::PortUnreachable, true) => (1, 4, 0),
            (Self::AdminProhibited, true) => (1, 1, 0),
            (Self::TooBig(mtu), true) => (2, 0, u32::from(mtu)),
            (Self::TimeExceeded, true) => (3, 0, 0),
        }
    }
}

/// A UDP datagram. `None` where the families differ or it is longer than IP can say.
pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Packet> {
    let mut segment = Vec::with_capacity(8 + payload.len());
    segment.extend_from_slice(&from.port().to_be_bytes());
    segment.extend_from_slice(&to.port().to_be_bytes());
    segment.extend_from_slice(&u16::try_from(8 + payload.len()).ok()?.to_be_bytes());
    // Not zero, which would mean that there is no checksum and leave it out.
    segment.extend_from_slice(&[0xff, 0xff]);
    segment.extend_from_slice(payload);
    ip(from.ip(), to.ip(), super::UDP, TTL, &segment)
}

/// What a TCP header says beside its ports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// See [`flag`].
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: u16,
}

/// A TCP segment without options. `None` where the families differ or it is longer than IP can say.
pub fn tcp(from: SocketAddr, to: SocketAddr, header: &Tcp, payload: &[u8]) -> Option<Packet> {
    let mut segment = Vec::with_capacity(20 + payload.len());
    segment.extend_from_slice(&from.port().to_be_bytes());
    segment.extend_from_slice(&to.port().to_be_bytes());
    segment.extend_from_slice(&header.sequence.to_be_bytes());
    segment.extend_from_slice(&header.acknowledgement.to_be_bytes());
    segment.extend_from_slice(&[5 << 4, header.flags]);
    segment.extend_from_slice(&header.window.to_be_bytes());
    segment.extend_from_slice(&[0; 4]);
    segment.extend_from_slice(payload);
    ip(from.ip(), to.ip(), super::TCP, TTL, &segment)
}

/// The reset that an end would send in answer to `packet`, as if from its destination (RFC 9293, 3.10.7.1).
pub fn reset_backward(packet: &Packet, ttl: u8) -> Option<Packet> {
    let (sequence, acknowledgement) = packet.tcp_numbers()?;
    let flags = packet.tcp_flags();
    if flags & flag::RST != 0 {
        return None;
    }
    let length = segment_length(packet);
    let header = if flags & flag::ACK != 0 {
        Tcp {
            sequence: acknowledgement,
            acknowledgement: sequence.wrapping_add(length),
            flags: flag::RST | flag::ACK,
            window: 0,
        }
    } else {
        Tcp {
            sequence: 0,
            acknowledgement: sequence.wrapping_add(length),
            flags: flag::RST | flag::ACK,
            window: 0,
        }
    };
    let mut reset = tcp(packet.to(), packet.from(), &header, &[])?;
    reset.set_ttl(ttl);
    Some(reset)
}

/// A reset in the sender's name, to the packet's own destination, in the place of `packet`.
pub fn reset_forward(packet: &Packet, ttl: u8) -> Option<Packet> {
    let (sequence, acknowledgement) = packet.tcp_numbers()?;
    if packet.tcp_flags() & flag::RST != 0 {
        return None;
    }
    let header =
        Tcp { sequence, acknowledgement, flags: flag::RST | (packet.tcp_flags() & flag::ACK), window: 0 };
    let mut reset = tcp(packet.from(), packet.to(), &header, &[])?;
    reset.set_ttl(ttl);
    Some(reset)
}

/// Sequence numbers that a segment takes: its bytes, and one each for SYN and FIN.
fn segment_length(packet: &Packet) -> u32 {
    let flags = packet.tcp_flags();
    let marks = u32::from(flags & flag::SYN != 0) + u32::from(flags & flag::FIN != 0);
    marks + u32::try_from(packet.payload().len()).unwrap_or(u32::MAX)
}

/// An ICMP error from `from` about `packet`, to the packet's source. `None` where RFC 1122 (3.2.2) forbids one:
/// about an ICMP error, and about a later fragment.
pub fn icmp_error(packet: &Packet, from: IpAddr, error: IcmpError) -> Option<Packet> {
    if packet.is_icmp_error() || packet.part() == Part::Later {
        return None;
    }
    let (kind, code, word) = error.fields(packet.is_v6());
    // RFC 1812 (4.3.2.3): as much as fits 576 bytes; RFC 4443 (2.4): as much as fits 1280.
    let room = if packet.is_v6() { 1280 - 48 } else { 576 - 28 };
    let quoted = &packet.bytes()[..packet.size().min(room)];
    let mut message = vec![kind, code, 0, 0];
    message.extend_from_slice(&word.to_be_bytes());
    message.extend_from_slice(quoted);
    ip(from, packet.source(), if packet.is_v6() { super::ICMP6 } else { super::ICMP4 }, TTL, &message)
}

/// An ICMP echo request over IPv4. `None` where an address is none of IPv4.
pub fn echo_request(from: IpAddr, to: IpAddr, identifier: u16, number: u16) -> Option<Packet> {
    if !from.is_ipv4() {
        return None;
    }
    let [a, b] = identifier.to_be_bytes();
    let [c, d] = number.to_be_bytes();
    ip(from, to, super::ICMP4, TTL, &[8, 0, 0, 0, a, b, c, d])
}

/// Turns an echo request into its reply, in place. `false` where it is none.
pub fn echo_reply(packet: &mut Packet) -> bool {
    if !packet.is_echo_request() || packet.part() != Part::Whole {
        return false;
    }
    let (source, destination) = (packet.source(), packet.destination());
    let at = packet.layout.transport;
    packet.bytes[at] = if packet.is_v6() { 129 } else { 0 };
    packet.set_source(destination);
    packet.set_destination(source);
    packet.set_ttl(TTL);
    packet.recompute_checksum();
    true
}

/// An IP packet around a transport's header and payload, its checksum computed.
pub(super) fn ip(from: IpAddr, to: IpAddr, number: u8, ttl: u8, segment: &[u8]) -> Option<Packet> {
    let mut bytes = Vec::with_capacity(40 + segment.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(20 + segment.len()).ok()?;
            bytes.extend_from_slice(&[0x45, 0]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[0, 0, 0x40, 0, ttl, number, 0, 0]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
            let sum = !super::checksum::sum(&bytes);
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(segment.len()).ok()?;
            bytes.extend_from_slice(&[0x60, 0, 0, 0]);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&[number, ttl]);
            bytes.extend_from_slice(&from.octets());
            bytes.extend_from_slice(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    bytes.extend_from_slice(segment);
    let mut packet = Packet::parse(bytes).ok()?;
    packet.recompute_checksum();
    Some(packet)
}

/// The packet that an ICMP error quotes: the same bytes, altered by `alter`, put back; the error's checksum is made
/// right afterwards. Nothing happens where what is quoted cannot be read.
///
/// A quote may be cut short, so only what lies within it is touched.
pub fn alter_quoted(packet: &mut Packet, alter: impl FnOnce(&mut Packet)) {
    if !packet.is_icmp_error() || packet.part() != Part::Whole {
        return;
    }
    let Some(mut quoted) = quoted(packet) else { return };
    alter(&mut quoted);
    let payload = packet.payload_mut();
    let length = payload.len().min(quoted.size());
    payload[..length].copy_from_slice(&quoted.bytes()[..length]);
    packet.recompute_checksum();
}

/// The packet that an ICMP error quotes, padded with zeros to the length that its header states.
pub fn quoted(packet: &Packet) -> Option<Packet> {
    let mut bytes = packet.payload().to_vec();
    let stated = match bytes.first()? >> 4 {
        4 if bytes.len() >= 28 => usize::from(super::u16_at(&bytes, 2)),
        6 if bytes.len() >= 48 => (u32_at(&bytes, 4) >> 16) as usize + 40,
        _ => return None,
    };
    if stated > bytes.len() {
        bytes.resize(stated, 0);
    }
    let quoted = Packet::parse(bytes).ok()?;
    matches!(quoted.protocol(), Protocol::Udp | Protocol::Tcp | Protocol::Icmp).then_some(quoted)
}

/// The largest packet that the next link takes, where an ICMP error says that one was too big.
pub fn next_mtu(packet: &Packet) -> Option<u32> {
    let told = packet.icmp()?;
    if told != if packet.is_v6() { (2, 0) } else { (3, 4) } {
        return None;
    }
    // RFC 1191: the last two bytes of the header's second word; RFC 4443: all four.
    let header = packet.bytes().len() - packet.payload().len() - 4;
    let word = packet.bytes().get(header..header + 4)?;
    let word = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
    Some(if packet.is_v6() { word } else { word & 0xffff }).filter(|mtu| *mtu > 0)
}
