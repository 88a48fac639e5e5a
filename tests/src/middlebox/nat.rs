//! Network address translation (RFC 4787, RFC 5382, RFC 5508): ports, ICMP echoes, quotes in ICMP errors, fragments.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use probe_protocol::time::Timestamp;

use super::topology::NatKind;
use crate::hash::{Map, Set};
use crate::packet::{Packet, Part, Protocol, build, flag, fragment};
use crate::rules::Direction;

/// At most so many correspondents are remembered per mapping, for filtering.
const MAX_PEERS: usize = 4096;
/// Connections that were forgotten and are still known as such.
const MAX_FORGOTTEN: usize = 4096;

/// At most so many datagrams whose first fragment has passed are remembered.
const MAX_FRAGMENTED: usize = 4096;

/// At most so many correspondents of forwarded ports are remembered.
const MAX_CAME_BY: usize = 65_536;

/// The first port that is given out where the packet's own cannot be kept.
const FIRST_PORT: u16 = 20_000;

/// Why a packet is not translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing inside belongs to it: the router itself is meant.
    NoMapping,
    /// The mapping lets in only those whom the inside has written to.
    Filtered,
    /// There is no room for another mapping.
    Full,
    /// A fragment of which the first part has not passed.
    Fragment,
    /// Neither TCP, UDP nor ICMP.
    Protocol,
}

impl Refusal {
    /// For the log.
    pub const fn why(self) -> &'static str {
        match self {
            Self::NoMapping => "no mapping",
            Self::Filtered => "mapping filters this sender",
            Self::Full => "no room for another mapping",
            Self::Fragment => "first fragment not seen",
            Self::Protocol => "not TCP, UDP or ICMP",
        }
    }
}

type InsideKey = (Protocol, SocketAddr, Option<SocketAddr>);

#[derive(Debug)]
struct Mapping {
    inside: SocketAddr,
    peer: Option<SocketAddr>,
    peers: Set<SocketAddr>,
    refreshed: Timestamp,
}

/// A NAT for IPv4; IPv6 passes through it as it is.
#[derive(Debug)]
pub struct Nat {
    kind: NatKind,
    public: Ipv4Addr,
    /// Outside port, protocol: who is meant inside, whatever happens.
    forwards: BTreeMap<(Protocol, u16), SocketAddr>,
    /// Which of several forwarded ports a correspondent has come in by.
    came_by: Map<(Protocol, SocketAddr, SocketAddr), u16>,
    by_inside: Map<InsideKey, u16>,
    by_port: Map<(Protocol, u16), Mapping>,
    fragmented: Map<(IpAddr, IpAddr, u32), IpAddr>,
    /// Inside ends of TCP connections that were forgotten because they were idle.
    forgotten: Set<SocketAddr>,
    next_port: u16,
}

impl Nat {
    /// A NAT behind one public address. `seed` says where it starts to give out ports.
    pub fn new(kind: NatKind, public: Ipv4Addr, seed: u64) -> Self {
        let next_port = FIRST_PORT + (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50) as u16;
        Self {
            kind,
            public,
            forwards: BTreeMap::new(),
            came_by: Map::default(),
            by_inside: Map::default(),
            by_port: Map::default(),
            fragmented: Map::default(),
            forgotten: Set::default(),
            next_port,
        }
    }

    /// Forwards a port of the public address to a host inside.
    pub fn forward(&mut self, protocol: Protocol, port: u16, inside: SocketAddr) {
        self.forwards.insert((protocol, port), inside);
    }

    /// Whether the address is its public one.
    pub fn is_public(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.public)
    }

    /// Its public address.
    pub fn public(&self) -> IpAddr {
        IpAddr::V4(self.public)
    }

    /// How many mappings there are.
    pub fn mappings(&self) -> usize {
        self.by_port.len()
    }

    /// Translates a packet that goes out.
    pub fn outgoing(&mut self, now: Timestamp, packet: &mut Packet) -> Result<(), Refusal> {
        if packet.is_v6() {
            return Ok(());
        }
        if packet.is_icmp_error() {
            return self.outgoing_error(packet);
        }
        if packet.part() != Part::Later {
            if packet.protocol() == Protocol::Other
                || (packet.protocol() == Protocol::Icmp && !packet.is_echo())
            {
                return Err(Refusal::Protocol);
            }
            let port = self.outside_port(now, packet)?;
            packet.set_source_port(port);
        }
        packet.set_source(IpAddr::V4(self.public));
        Ok(())
    }

    fn outside_port(&mut self, now: Timestamp, packet: &Packet) -> Result<u16, Refusal> {
        let (protocol, inside, to) = (packet.protocol(), packet.from(), packet.to());
        if let Some(port) = self.forwarded_port(protocol, inside, to) {
            return Ok(port);
        }
        let peer = self.kind.symmetric.then_some(to);
        let key = (protocol, inside, peer);
        if let Some(port) = self.by_inside.get(&key).copied()
            && let Some(mapping) = self.live(now, protocol, port)
        {
            if mapping.peers.len() < MAX_PEERS {
                mapping.peers.insert(to);
            }
            self.refresh(now, protocol, port, Direction::Up);
            return Ok(port);
        }
        if protocol == Protocol::Tcp && self.is_of_a_forgotten_one(inside, packet) {
            return Err(Refusal::NoMapping);
        }
        if self.by_port.len() >= self.kind.limit {
            self.sweep(now);
            if self.by_port.len() >= self.kind.limit {
                return Err(Refusal::Full);
            }
        }
        let port = self.choose_port(now, protocol, inside.port(), peer.is_some()).ok_or(Refusal::Full)?;
        let mapping = Mapping { inside, peer, peers: Set::from_iter([to]), refreshed: now };
        self.by_inside.insert(key, port);
        self.by_port.insert((protocol, port), mapping);
        Ok(port)
    }

    /// A segment of a connection that was forgotten: a stateful box drops it without a word, since only a handshake makes
    /// a mapping.
    fn is_of_a_forgotten_one(&mut self, inside: SocketAddr, packet: &Packet) -> bool {
        if packet.tcp_flags() & flag::SYN != 0 {
            self.forgotten.remove(&inside);
            return false;
        }
        self.forgotten.contains(&inside)
    }

    /// The outside port that leads to `inside`; of several, the one that `peer` has come in by.
    fn forwarded_port(&self, protocol: Protocol, inside: SocketAddr, peer: SocketAddr) -> Option<u16> {
        let leads = |((p, port), host): (&(Protocol, u16), &SocketAddr)| {
            (*p == protocol && *host == inside).then_some(*port)
        };
        let first = self.forwards.iter().find_map(leads)?;
        Some(self.came_by.get(&(protocol, inside, peer)).copied().unwrap_or(first))
    }

    fn choose_port(
        &mut self,
        now: Timestamp,
        protocol: Protocol,
        wanted: u16,
        symmetric: bool,
    ) -> Option<u16> {
        if self.kind.keeps_ports && !symmetric && self.is_free(now, protocol, wanted) {
            return Some(wanted);
        }
        for _ in 0..u16::MAX - FIRST_PORT {
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT).max(FIRST_PORT);
            let port = self.next_port;
            if self.is_free(now, protocol, port) {
                return Some(port);
            }
        }
        None
    }

    fn is_free(&mut self, now: Timestamp, protocol: Protocol, port: u16) -> bool {
        !self.forwards.contains_key(&(protocol, port)) && self.live(now, protocol, port).is_none()
    }

    /// The mapping, where it is there and has not run out.
    fn live(&mut self, now: Timestamp, protocol: Protocol, port: u16) -> Option<&mut Mapping> {
        let limit = if protocol == Protocol::Tcp { self.kind.tcp_idle.0 } else { self.kind.udp_idle.0 };
        let is_old = now.since(self.by_port.get(&(protocol, port))?.refreshed) > limit;
        if is_old {
            let inside = self.by_port.get(&(protocol, port)).map(|mapping| mapping.inside);
            if protocol == Protocol::Tcp && self.forgotten.len() < MAX_FORGOTTEN {
                self.forgotten.extend(inside);
            }
            self.remove(protocol, port);
            return None;
        }
        self.by_port.get_mut(&(protocol, port))
    }

    fn refresh(&mut self, now: Timestamp, protocol: Protocol, port: u16, way: Direction) {
        if self.kind.refreshed_by.is_none_or(|only| only == way)
            && let Some(mapping) = self.by_port.get_mut(&(protocol, port))
        {
            mapping.refreshed = now;
        }
    }

    fn remove(&mut self, protocol: Protocol, port: u16) {
        if let Some(old) = self.by_port.remove(&(protocol, port)) {
            self.by_inside.remove(&(protocol, old.inside, old.peer));
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        let ports: Vec<_> = self.by_port.keys().copied().collect();
        for (protocol, port) in ports {
            self.live(now, protocol, port);
        }
    }

    /// Forgets one flow's mapping, found by its end outside or inside.
    pub fn forget(&mut self, protocol: Protocol, end: SocketAddr) {
        if self.is_public(end.ip()) {
            self.remove(protocol, end.port());
            return;
        }
        let inside = |(key, port): (&InsideKey, &u16)| (key.0 == protocol && key.1 == end).then_some(*port);
        let ports: Vec<u16> = self.by_inside.iter().filter_map(inside).collect();
        for port in ports {
            self.remove(protocol, port);
            // A NAT that forgot gives out another port, else nobody could tell.
            if self.next_port == port {
                self.next_port = self.next_port.wrapping_add(1);
            }
        }
    }

    /// Forgets every mapping.
    pub fn forget_all(&mut self) {
        self.by_inside.clear();
        self.by_port.clear();
    }

    /// Translates a packet that comes in, addressed to the public address.
    pub fn incoming(&mut self, now: Timestamp, packet: &mut Packet) -> Result<(), Refusal> {
        if packet.is_v6() {
            return Ok(());
        }
        if packet.is_icmp_error() {
            return self.incoming_error(now, packet);
        }
        let fragment = fragment::datagram(packet);
        if packet.part() == Part::Later {
            let inside = fragment.and_then(|key| self.fragmented.get(&key)).ok_or(Refusal::Fragment)?;
            packet.set_destination(*inside);
            return Ok(());
        }
        let inside = self.inside(now, packet.protocol(), packet.destination_port(), packet.from())?;
        if let (Part::First, Some(key)) = (packet.part(), fragment) {
            if self.fragmented.len() >= MAX_FRAGMENTED {
                self.fragmented.clear();
            }
            self.fragmented.insert(key, inside.ip());
        }
        packet.set_destination(inside.ip());
        packet.set_destination_port(inside.port());
        Ok(())
    }

    fn inside(
        &mut self,
        now: Timestamp,
        protocol: Protocol,
        port: u16,
        from: SocketAddr,
    ) -> Result<SocketAddr, Refusal> {
        if let Some(inside) = self.forwards.get(&(protocol, port)).copied() {
            if self.came_by.len() >= MAX_CAME_BY {
                self.came_by.clear();
            }
            self.came_by.insert((protocol, inside, from), port);
            return Ok(inside);
        }
        let filters = self.kind.filters;
        let mapping = self.live(now, protocol, port).ok_or(Refusal::NoMapping)?;
        if (filters && !mapping.peers.contains(&from)) || mapping.peer.is_some_and(|peer| peer != from) {
            return Err(Refusal::Filtered);
        }
        let inside = mapping.inside;
        self.refresh(now, protocol, port, Direction::Down);
        Ok(inside)
    }

    /// An ICMP error from outside, about a packet that went out: it quotes the public address as its source.
    fn incoming_error(&mut self, now: Timestamp, packet: &mut Packet) -> Result<(), Refusal> {
        let quoted = build::quoted(packet).ok_or(Refusal::NoMapping)?;
        let (protocol, port) = (quoted.protocol(), quoted.source_port());
        let inside = match self.forwards.get(&(protocol, port)) {
            Some(inside) => *inside,
            None => self.live(now, protocol, port).ok_or(Refusal::NoMapping)?.inside,
        };
        build::alter_quoted(packet, |quoted| {
            quoted.set_source(inside.ip());
            quoted.set_source_port(inside.port());
        });
        packet.set_destination(inside.ip());
        Ok(())
    }

    /// An ICMP error from inside, about a packet that came in: it quotes the inside address as its destination.
    fn outgoing_error(&mut self, packet: &mut Packet) -> Result<(), Refusal> {
        let quoted = build::quoted(packet).ok_or(Refusal::NoMapping)?;
        let (protocol, inside, peer) = (quoted.protocol(), quoted.to(), quoted.from());
        let port = self
            .forwarded_port(protocol, inside, peer)
            .or_else(|| self.by_inside.get(&(protocol, inside, None)).copied())
            .or_else(|| self.by_inside.get(&(protocol, inside, Some(peer))).copied())
            .ok_or(Refusal::NoMapping)?;
        let public = self.public;
        build::alter_quoted(packet, |quoted| {
            quoted.set_destination(IpAddr::V4(public));
            quoted.set_destination_port(port);
        });
        packet.set_source(IpAddr::V4(public));
        Ok(())
    }
}
