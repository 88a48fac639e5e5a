//! What stands between client and listener, without sockets and clocks: two routers, their NATs, and the rules of
//! the lan and of the path. The real-kernel lab feeds it from TUN devices; the simulated network can feed it too.
//!
//! ```text
//! client -- lan rules -- gateway, NAT -- path rules -- NAT, gateway -- listener
//!                                    |              |
//!                                        side host
//! ```

mod nat;
pub mod topology;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use probe_protocol::time::Timestamp;

pub use nat::{Nat, Refusal};
pub use topology::{Forwarding, Hairpin, HostAddresses, Kind, NatKind, Proxy, ProxyKind, Topology};

use crate::packet::build::{self, IcmpError};
use crate::packet::{Packet, Part, Protocol, fragment};
use crate::rules::truth::Deed;
use crate::rules::{BadRule, Direction, FlowKey, Moment, Output, Pipeline, Place, Rule, Sink};

/// A host that is joined to the middlebox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Port {
    /// The client's.
    Client,
    /// The listener's.
    Server,
    /// The one for cross traffic.
    Side,
}

/// A router: it decrements the time to live, says when a packet is too big, answers pings, and may have a NAT.
struct Router {
    host: HostAddresses,
    nat: Option<Nat>,
}

/// Both routers and all rules.
pub struct Middlebox {
    topology: Topology,
    seed: u64,
    lan: Pipeline,
    path: Pipeline,
    near: Router,
    far: Router,
    side: HostAddresses,
    sink: Sink,
    work: VecDeque<(Place, Output)>,
    ready: Vec<(Port, Packet)>,
    names: [Arc<str>; 2],
    /// Later fragments that have overtaken the first one of their datagram: a NAT keeps them until it has seen the ports
    /// (RFC 4787, REQ-14).
    early: VecDeque<(Timestamp, Direction, Packet)>,
    /// Packets that were no IP, or cut short.
    pub malformed: u64,
}

/// Fragments that have overtaken their first one: at most so many, and for so long (RFC 1122, section 3.3.2).
const MAX_EARLY: usize = 256;
const EARLY_FOR: Duration = Duration::from_secs(60);

const ROUTER: usize = 0;
const NAT: usize = 1;

impl Middlebox {
    /// Joins the hosts. Everything repeats from the seed, given the same packets at the same times.
    pub fn new(topology: &Topology, rules: &[Rule], seed: u64, start: Timestamp) -> Result<Self, BadRule> {
        let (client, server) = (topology.client(), topology.server());
        let near_nat =
            topology.client_nat.clone().map(|kind| Nat::new(kind, topology.client_public(), seed ^ 1));
        let far_nat = topology.server_nat.as_ref().map(|forwarding| {
            let mut nat = Nat::new(forwarding.nat.clone(), Topology::SERVER_PUBLIC, seed ^ 2);
            let inside = SocketAddr::new(IpAddr::V4(server.v4), forwarding.port);
            for (protocol, on) in [(Protocol::Udp, forwarding.udp), (Protocol::Tcp, forwarding.tcp)] {
                let ports = std::iter::once(forwarding.port).chain(forwarding.second_port);
                for port in ports.filter(|_| on) {
                    nat.forward(protocol, port, inside);
                }
            }
            nat
        });
        Ok(Self {
            topology: topology.clone(),
            seed,
            lan: Pipeline::new(rules, Place::Lan, seed, start, client.gateways())?,
            path: Pipeline::new(rules, Place::Path, seed, start, topology.side().gateways())?,
            near: Router { host: client, nat: near_nat },
            far: Router { host: server, nat: far_nat },
            side: topology.side(),
            sink: Sink::new(start),
            work: VecDeque::new(),
            ready: Vec::new(),
            names: [Arc::from("router"), Arc::from("nat")],
            early: VecDeque::new(),
            malformed: 0,
        })
    }

    /// Replaces all rules; what they held goes on at once. Their time starts anew, NAT mappings stay.
    pub fn set_rules(&mut self, moment: Moment, rules: &[Rule]) -> Result<(), BadRule> {
        let lan = Pipeline::new(rules, Place::Lan, self.seed, moment.now, self.near.host.gateways())?;
        let path = Pipeline::new(rules, Place::Path, self.seed, moment.now, self.side.gateways())?;
        for (place, mut old) in [
            (Place::Lan, std::mem::replace(&mut self.lan, lan)),
            (Place::Path, std::mem::replace(&mut self.path, path)),
        ] {
            old.flush(&mut self.sink);
            self.collect(place);
        }
        self.settle(moment);
        Ok(())
    }

    /// Makes the client's NAT forget everything, as when it restarts.
    pub fn forget_mappings(&mut self) {
        if let Some(nat) = &mut self.near.nat {
            nat.forget_all();
        }
    }

    /// What was done so far.
    pub fn sink(&mut self) -> &mut Sink {
        &mut self.sink
    }

    /// Takes the bytes of a packet that a host has sent.
    pub fn receive(&mut self, moment: Moment, port: Port, bytes: Vec<u8>) {
        let Ok(packet) = Packet::parse(bytes) else {
            self.malformed += 1;
            return;
        };
        // The hosts' own chatter on the link (router solicitations and the like) is nobody's traffic.
        if is_link_local(packet.destination()) || packet.destination().is_multicast() {
            return self.sink.recycle(packet.into_bytes());
        }
        match port {
            Port::Client => self.offer(moment, Place::Lan, Direction::Up, packet),
            Port::Server => self.leave_host(moment, Direction::Down, packet),
            Port::Side => {
                let direction = if self.is_beyond(Port::Server, packet.destination()) {
                    Direction::Up
                } else {
                    Direction::Down
                };
                self.offer(moment, Place::Path, direction, packet);
            }
        }
        self.settle(moment);
    }

    /// When [`Self::poll`] is next needed.
    pub fn next(&self) -> Timestamp {
        self.lan.next().min(self.path.next())
    }

    /// Lets go on what is due by now.
    pub fn poll(&mut self, moment: Moment) {
        self.path.poll(moment, &mut self.sink);
        self.collect(Place::Path);
        self.lan.poll(moment, &mut self.sink);
        self.collect(Place::Lan);
        self.settle(moment);
    }

    /// The packets that hosts are to receive, in order. Give their buffers back with [`Sink::recycle`].
    pub fn take_ready(&mut self, into: &mut Vec<(Port, Packet)>) {
        into.append(&mut self.ready);
    }

    fn offer(&mut self, moment: Moment, place: Place, direction: Direction, packet: Packet) {
        let pipeline = match place {
            Place::Lan => &mut self.lan,
            Place::Path => &mut self.path,
        };
        pipeline.offer(moment, direction, packet, &mut self.sink);
        self.collect(place);
    }

    fn collect(&mut self, place: Place) {
        self.work.extend(self.sink.out.drain(..).map(|output| (place, output)));
    }

    fn settle(&mut self, moment: Moment) {
        while let Some((place, output)) = self.work.pop_front() {
            match (place, output) {
                (Place::Lan, Output::Forward(Direction::Up, packet)) => {
                    self.leave_host(moment, Direction::Up, packet);
                }
                (Place::Lan, Output::Forward(Direction::Down, packet)) => {
                    self.ready.push((Port::Client, packet));
                }
                (Place::Path, Output::Forward(direction, packet)) => {
                    self.leave_path(moment, direction, packet);
                }
                (Place::Lan | Place::Path, Output::Forget(flow, all)) => {
                    let Some(nat) = &mut self.near.nat else { continue };
                    if all {
                        nat.forget_all();
                    } else {
                        nat.forget(flow.protocol, flow.client);
                    }
                }
            }
        }
    }

    /// Whether a packet to this address has to go to that host, by its public or its own address.
    fn is_beyond(&self, port: Port, address: IpAddr) -> bool {
        match port {
            Port::Client => self.near.owns(address),
            Port::Server => self.far.owns(address),
            Port::Side => self.has_side() && self.side.is(address),
        }
    }

    fn has_side(&self) -> bool {
        self.topology.side_host || self.topology.proxy.is_some()
    }

    /// A host's packet is at its router: up from the client, or down from the listener.
    fn leave_host(&mut self, moment: Moment, direction: Direction, mut packet: Packet) {
        let router = match direction {
            Direction::Up => &mut self.near,
            Direction::Down => &mut self.far,
        };
        let gateway = router.host.gateways()[usize::from(packet.is_v6())];
        if router.host.is_gateway(packet.destination()) {
            if build::echo_reply(&mut packet) {
                return self.hand_over(moment, direction.opposite(), packet);
            }
            let answer = build::icmp_error(&packet, gateway, IcmpError::PortUnreachable);
            return self.refuse(moment, direction, packet, "for the router itself", ROUTER, answer);
        }
        if packet.ttl() <= 1 {
            let answer = build::icmp_error(&packet, gateway, IcmpError::TimeExceeded);
            return self.refuse(moment, direction, packet, "time to live ran out", ROUTER, answer);
        }
        packet.set_ttl(packet.ttl() - 1);
        let mtu = self.topology.path_mtu;
        if packet.size() <= usize::from(mtu) {
            return self.enter_path(moment, direction, packet);
        }
        if let Some(pieces) = fragment::cut(&packet, usize::from(mtu)) {
            self.sink.recycle(packet.into_bytes());
            for piece in pieces {
                self.enter_path(moment, direction, piece);
            }
            return;
        }
        let answer =
            self.topology.says_too_big.then(|| build::icmp_error(&packet, gateway, IcmpError::TooBig(mtu)));
        self.refuse(moment, direction, packet, "too big for the path", ROUTER, answer.flatten());
    }

    /// Translates a packet and puts it on the path.
    fn enter_path(&mut self, moment: Moment, direction: Direction, mut packet: Packet) {
        let router = match direction {
            Direction::Up => &mut self.near,
            Direction::Down => &mut self.far,
        };
        if let Some(nat) = &mut router.nat
            && let Err(refusal) = nat.outgoing(moment.now, &mut packet)
        {
            return self.refuse(moment, direction, packet, refusal.why(), NAT, None);
        }
        self.offer(moment, Place::Path, direction, packet);
    }

    /// A packet has come through the path: it goes to the side host, or to the router at the end.
    fn leave_path(&mut self, moment: Moment, direction: Direction, mut packet: Packet) {
        let to = packet.destination();
        if self.is_beyond(Port::Side, to) {
            self.ready.push((Port::Side, packet));
            return;
        }
        let port = match direction {
            Direction::Up => Port::Server,
            Direction::Down => Port::Client,
        };
        if !self.is_beyond(port, to) {
            let from = self.side.gateways()[usize::from(packet.is_v6())];
            let answer = build::icmp_error(&packet, from, IcmpError::NetUnreachable);
            return self.refuse_on_path(moment, direction, packet, "no route", ROUTER, answer);
        }
        if packet.ttl() <= 1 {
            let router = if direction == Direction::Up { &self.far } else { &self.near };
            let from = router.outside(packet.is_v6());
            let answer = build::icmp_error(&packet, from, IcmpError::TimeExceeded);
            return self.refuse_on_path(moment, direction, packet, "time to live ran out", ROUTER, answer);
        }
        packet.set_ttl(packet.ttl() - 1);
        self.enter_site(moment, direction, packet);
    }

    /// A packet is at the router of the site that it is for.
    fn enter_site(&mut self, moment: Moment, direction: Direction, mut packet: Packet) {
        let router = match direction {
            Direction::Up => &mut self.far,
            Direction::Down => &mut self.near,
        };
        let (own, part, datagram) = (packet.destination(), packet.part(), fragment::datagram(&packet));
        let Some(nat) = &mut router.nat else { return self.hand_over_open(moment, direction, packet, own) };
        match nat.incoming(moment.now, &mut packet) {
            Ok(()) => self.hand_over_open(moment, direction, packet, own),
            Err(Refusal::Fragment) => return self.keep_early(moment, direction, packet),
            Err(refusal) => return self.knock(moment, direction, packet, refusal, own),
        }
        if part == Part::First && !self.early.is_empty() {
            let follows = |(_, way, packet): &(Timestamp, Direction, Packet)| {
                *way == direction && fragment::datagram(packet) == datagram
            };
            let (now, still): (VecDeque<_>, VecDeque<_>) =
                std::mem::take(&mut self.early).into_iter().partition(follows);
            self.early = still;
            now.into_iter().for_each(|(_, _, packet)| self.enter_site(moment, direction, packet));
        }
    }

    /// Keeps a fragment until the first one of its datagram comes.
    fn keep_early(&mut self, moment: Moment, direction: Direction, packet: Packet) {
        self.early.push_back((moment.now, direction, packet));
        let is_old = |at: Timestamp| moment.now.since(at) > EARLY_FOR;
        while self.early.len() > MAX_EARLY || self.early.front().is_some_and(|(at, ..)| is_old(*at)) {
            let Some((_, direction, packet)) = self.early.pop_front() else { return };
            self.refuse_on_path(moment, direction, packet, Refusal::Fragment.why(), NAT, None);
        }
    }

    fn hand_over_open(&mut self, moment: Moment, direction: Direction, packet: Packet, own: IpAddr) {
        if direction == Direction::Up && self.is_closed_v6(&packet) {
            return self.knock(moment, direction, packet, Refusal::NoMapping, own);
        }
        self.hand_over(moment, direction, packet);
    }

    /// IPv6 needs no translation, but the router lets in only what it forwards.
    fn is_closed_v6(&self, packet: &Packet) -> bool {
        let Some(forwarding) = &self.topology.server_nat else { return false };
        packet.is_v6()
            && packet.destination_port() == forwarding.port
            && match packet.protocol() {
                Protocol::Udp => !forwarding.udp,
                Protocol::Tcp => !forwarding.tcp,
                Protocol::Icmp | Protocol::Other => false,
            }
    }

    /// Somebody knocks at a router's own public address.
    fn knock(
        &mut self,
        moment: Moment,
        direction: Direction,
        mut packet: Packet,
        refusal: Refusal,
        own: IpAddr,
    ) {
        if build::echo_reply(&mut packet) {
            return self.offer(moment, Place::Path, direction.opposite(), packet);
        }
        let refuses = direction == Direction::Up
            && refusal == Refusal::NoMapping
            && self.topology.server_nat.as_ref().is_some_and(|forwarding| forwarding.refuses);
        let answer = if !refuses {
            None
        } else if packet.protocol() == Protocol::Tcp {
            build::reset_backward(&packet, build::TTL)
        } else {
            build::icmp_error(&packet, own, IcmpError::PortUnreachable)
        };
        self.refuse_on_path(moment, direction, packet, refusal.why(), NAT, answer);
    }

    /// Hands a packet to the host at the end of its way.
    fn hand_over(&mut self, moment: Moment, direction: Direction, packet: Packet) {
        match direction {
            Direction::Up => self.ready.push((Port::Server, packet)),
            Direction::Down => self.offer(moment, Place::Lan, Direction::Down, packet),
        }
    }

    /// Drops a packet at the router next to its sender, who gets the answer.
    fn refuse(
        &mut self,
        moment: Moment,
        direction: Direction,
        packet: Packet,
        why: &'static str,
        who: usize,
        answer: Option<Packet>,
    ) {
        self.dropped(moment, direction, packet, why, who);
        if let Some(answer) = answer {
            self.hand_over(moment, direction.opposite(), answer);
        }
    }

    /// Drops a packet that has come through the path; the answer goes back through it.
    fn refuse_on_path(
        &mut self,
        moment: Moment,
        direction: Direction,
        packet: Packet,
        why: &'static str,
        who: usize,
        answer: Option<Packet>,
    ) {
        self.dropped(moment, direction, packet, why, who);
        if let Some(answer) = answer {
            self.offer(moment, Place::Path, direction.opposite(), answer);
        }
    }

    fn dropped(
        &mut self,
        moment: Moment,
        direction: Direction,
        packet: Packet,
        why: &'static str,
        who: usize,
    ) {
        let name = &self.names[who];
        let none = Duration::ZERO;
        let (now, flow) = (moment.now, FlowKey::of(&packet, direction));
        self.sink.truth.write(now, Place::Path, name, Deed::Dropped, why, none, direction, flow, &packet);
        self.sink.recycle(packet.into_bytes());
    }
}

impl Router {
    /// Whether the path has to bring packets for this address to this router.
    fn owns(&self, address: IpAddr) -> bool {
        match (&self.nat, address) {
            (Some(nat), IpAddr::V4(_)) => nat.is_public(address),
            (None, IpAddr::V4(_)) | (_, IpAddr::V6(_)) => self.host.is(address),
        }
    }

    /// The address that the router shows to the path.
    fn outside(&self, v6: bool) -> IpAddr {
        match &self.nat {
            Some(nat) if !v6 => nat.public(),
            Some(_) | None => self.host.gateways()[usize::from(v6)],
        }
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests;
