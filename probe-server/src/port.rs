//! Who has a port that is taken.

use std::net::{IpAddr, SocketAddr};

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A running program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The program that holds a port, where the system tells: on Linux, without privileges, only of the own user's
/// programs.
pub fn holder(protocol: Protocol, port: u16) -> Option<Program> {
    #[cfg(target_os = "linux")]
    return linux::holder(protocol, port);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (protocol, port);
        None
    }
}

/// A socket bound in this host's network namespace, as `/proc/net/{tcp,udp}{,6}` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its address.
    pub local: SocketAddr,
    /// By which its process can be found.
    pub inode: u64,
}

/// Reads one such table: TCP sockets that listen, UDP sockets that are bound and not connected.
pub fn parse_table(protocol: Protocol, text: &str) -> Vec<Bound> {
    // proc(5): `sl local_address rem_address st ... inode`; TCP state 0A listens, UDP state 07 is unconnected.
    let wanted = match protocol {
        Protocol::Tcp => "0A",
        Protocol::Udp => "07",
    };
    let bound = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = parse_address(fields.nth(1)?)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?.parse().ok()?;
        (state == wanted).then_some(Bound { local, inode })
    };
    text.lines().skip(1).filter_map(bound).collect()
}

/// `0100007F:22B6`: the address in 32-bit words of the host's byte order, the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = ip.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        u32::from_str_radix(word, 16).ok().map(u32::to_ne_bytes)
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;
    use std::fs;

    use super::{Program, Protocol, parse_table};

    pub(super) fn holder(protocol: Protocol, port: u16) -> Option<Program> {
        let name = protocol.to_string().to_lowercase();
        let tables = [format!("/proc/net/{name}"), format!("/proc/net/{name}6")];
        let texts = tables.iter().filter_map(|t| fs::read_to_string(t).ok());
        let inodes: HashSet<u64> = texts
            .flat_map(|text| parse_table(protocol, &text))
            .filter(|bound| bound.local.port() == port)
            .map(|bound| bound.inode)
            .collect();
        if inodes.is_empty() {
            return None;
        }
        let processes = fs::read_dir("/proc").ok()?;
        processes.filter_map(|p| p.ok()?.file_name().to_str()?.parse::<u32>().ok()).find_map(|pid| {
            let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
            let has = descriptors.filter_map(|d| fs::read_link(d.ok()?.path()).ok()).any(|link| {
                let inode =
                    link.to_str().and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
                inode.is_some_and(|inode| inodes.contains(&inode))
            });
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
            has.then_some(Program { name, pid })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        0: 0100007F:22B6 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 25311 1 0 100 0 0 10 0\n\
        1: 0100007F:22B6 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 25312 1 0 20 4 30 10 -1\n\
        nonsense\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn listening_sockets_are_found_and_connections_are_not() {
        let bound = Bound { local: "127.0.0.1:8886".parse().unwrap(), inode: 25311 };
        assert_eq!(parse_table(Protocol::Tcp, TCP), [bound]);
        let v6 = "h\n 5: 00000000000000000000000001000000:22B6 00000000000000000000000000000000:0000 07 0:0 00:0 0 0 0 77 2 0 0\n";
        let bound = Bound { local: "[::1]:8886".parse().unwrap(), inode: 77 };
        assert_eq!(parse_table(Protocol::Udp, v6), [bound]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_own_process_is_found_by_its_sockets() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = holder(Protocol::Tcp, tcp.local_addr().unwrap().port()).unwrap();
        assert_eq!(found.pid, std::process::id());
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = holder(Protocol::Udp, udp.local_addr().unwrap().port()).unwrap();
        assert_eq!(found.pid, std::process::id());
    }
}
