//! Whether the default gateway answers, as far as an unprivileged process can ask: ICMP echo over a datagram socket where
//! the system allows that, else the system's own neighbour table, else a TCP connection that is accepted or refused.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use probe_analysis::observation::{Asked, WatchAnswer};
use probe_net::clock;
use socket2::{Domain, Protocol, Socket, Type};

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_millis(700);
/// A port that answers or refuses on nearly every router.
const TCP_PORT: u16 = 80;
/// RFC 863: what comes there is thrown away. It makes the system look for its neighbour.
const DISCARD: u16 = 9;

/// The gateway, and how it is asked.
#[derive(Debug)]
pub(super) struct Gateway {
    address: IpAddr,
    how: How,
}

#[derive(Debug)]
enum How {
    Echo { socket: Socket, seq: u16 },
    Neighbour { poke: UdpSocket },
    Connect,
}

impl Gateway {
    /// Finds out how it can be asked; none where it cannot.
    pub(super) fn new(address: IpAddr) -> Option<Self> {
        // A link-local gateway has no meaning without its interface, which the routing table does not hand out.
        if let IpAddr::V6(v6) = address
            && v6.is_unicast_link_local()
        {
            return None;
        }
        let how = match echo_socket(address) {
            Ok(socket) => How::Echo { socket, seq: 0 },
            Err(_) if neighbour(address).is_some() || cfg!(target_os = "linux") && address.is_ipv4() => {
                How::Neighbour { poke: poke_socket(address).ok()? }
            }
            Err(_) => How::Connect,
        };
        Some(Self { address, how })
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// Asks once.
    pub(super) fn ask(&mut self) -> WatchAnswer {
        let began = clock::now();
        let (asked, reachable, timed) = match &mut self.how {
            How::Echo { socket, seq } => {
                *seq = seq.wrapping_add(1);
                (Asked::Echo, echo(socket, *seq, self.address.is_ipv6()).unwrap_or(false), true)
            }
            How::Neighbour { poke } => {
                // A refusal of an earlier one may come back here; either way the link is used.
                let _ = poke.send(&[]);
                (Asked::Neighbour, neighbour(self.address).unwrap_or(false), false)
            }
            How::Connect => {
                let to = SocketAddr::new(self.address, TCP_PORT);
                let answered = match TcpStream::connect_timeout(&to, LIMIT) {
                    Ok(_) => true,
                    Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
                };
                (Asked::Connect, answered, true)
            }
        };
        let rtt = (reachable && timed).then(|| clock::now().since(began));
        WatchAnswer { who: Some(self.address), asked, reachable, rtt }
    }
}

fn echo_socket(address: IpAddr) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// An echo request and its reply (RFC 792, RFC 4443 section 4). The system fills in identifier and checksum; the
/// checksum is right without its help for IPv4.
fn echo(socket: &mut Socket, seq: u16, v6: bool) -> io::Result<bool> {
    let (request, reply) = if v6 { (128, 129) } else { (8, 0) };
    let mut packet = [0u8; 16];
    packet[0] = request;
    packet[6..8].copy_from_slice(&seq.to_be_bytes());
    packet[8..].copy_from_slice(b"probe\0\0\0");
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    socket.send(&packet)?;
    let began = clock::now();
    let mut buffer = [0; 128];
    while clock::now().since(began) < LIMIT {
        let count = io::Read::read(socket, &mut buffer)?;
        if is_reply(&buffer[..count.min(buffer.len())], reply, seq) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Some systems hand out the IPv4 header with the message.
fn is_reply(bytes: &[u8], kind: u8, seq: u16) -> bool {
    let message = match bytes.first() {
        Some(first) if first >> 4 == 4 && bytes.len() > 20 => bytes.get(usize::from(first & 15) * 4..),
        Some(_) | None => Some(bytes),
    };
    message.is_some_and(|m| m.first() == Some(&kind) && m.get(6..8) == Some(&seq.to_be_bytes()))
}

/// RFC 1071.
fn checksum(packet: &[u8]) -> u16 {
    let mut sum: u32 =
        packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn poke_socket(address: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, DISCARD))?;
    Ok(socket)
}

/// Whether the system's table holds a working link address of a neighbour (Linux, IPv4); none where there is no table.
fn neighbour(address: IpAddr) -> Option<bool> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    Some(in_table(&table, address))
}

/// `IP address · HW type · Flags · HW address · Mask · Device`; flag 2 is a complete entry (`ATF_COM`).
fn in_table(table: &str, address: IpAddr) -> bool {
    let complete = |line: &str| {
        let mut fields = line.split_whitespace();
        let is = fields.next().and_then(|ip| ip.parse::<IpAddr>().ok()) == Some(address);
        let flags = fields.nth(1).and_then(|f| u32::from_str_radix(f.trim_start_matches("0x"), 16).ok());
        is && flags.is_some_and(|flags| flags & 2 != 0)
    };
    table.lines().skip(1).any(complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_table_is_read() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     192.0.2.1        0x1         0x2         02:42:ac:11:00:02     *        eth0\n\
                     192.0.2.9        0x1         0x0         00:00:00:00:00:00     *        eth0\n";
        let complete = |address: &str| in_table(table, address.parse().unwrap());
        assert_eq!(
            (complete("192.0.2.1"), complete("192.0.2.9"), complete("192.0.2.2")),
            (true, false, false)
        );
    }

    #[test]
    fn replies_are_told_from_other_messages() {
        let mut reply = vec![0, 0, 0, 0, 0, 9, 1, 2, b'p'];
        assert!(
            is_reply(&reply, 0, 0x0102) && !is_reply(&reply, 0, 0x0103) && !is_reply(&reply, 129, 0x0102)
        );
        let mut with_header = vec![0x45; 20];
        with_header.append(&mut reply);
        assert!(is_reply(&with_header, 0, 0x0102));
        assert!(!is_reply(&[], 0, 1) && !is_reply(&[0x4f; 30], 0, 1));
    }

    #[test]
    fn checksums_are_those_of_rfc_1071() {
        // Its section 3 example.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn whatever_this_host_allows_the_loopback_answers_where_it_can_be_asked_by_echo() {
        let mut gateway = Gateway::new("127.0.0.1".parse().unwrap()).unwrap();
        let answer = gateway.ask();
        if answer.asked == Asked::Echo {
            assert!(answer.reachable && answer.rtt.is_some(), "{answer:?}");
        }
    }
}
