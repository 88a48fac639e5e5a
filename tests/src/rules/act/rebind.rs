//! A NAT that gives a running flow another source port or address.

use std::net::{IpAddr, SocketAddr};

use super::super::data::Direction;
use super::super::flow::{FlowKey, MAX_FLOWS};
use super::super::pipeline::{BadRule, Context, Parcel};
use super::{Act, Step, Watch};
use crate::hash::{Map, Set};
use crate::packet::fragment::datagram;
use crate::packet::{Packet, Part, Protocol};

/// At most so many datagrams whose first fragment has passed are remembered.
const MAX_FRAGMENTED: usize = 4096;

/// The first port that is given out.
const FIRST_PORT: u16 = 32_768;

/// Rewrites the client's end of flows from their first match on.
pub(super) struct Rebind {
    address: Option<IpAddr>,
    port_step: u16,
    forward: Map<(Protocol, SocketAddr), SocketAddr>,
    back: Map<(Protocol, SocketAddr), SocketAddr>,
    /// Ends that have been seen: a NAT gives out no port that another of its flows has.
    taken: Set<(Protocol, SocketAddr)>,
    /// What became of the client's address in a datagram's first fragment: later ones have no port to be known by.
    fragmented: Map<(IpAddr, IpAddr, u32), IpAddr>,
}

impl Rebind {
    pub(super) fn new(address: Option<IpAddr>, port_step: u16) -> Result<Self, BadRule> {
        if address.is_none() && port_step == 0 {
            return Err(BadRule::Field("rebind", "needs an `address` or a `port_step`".into()));
        }
        Ok(Self {
            address,
            port_step,
            forward: Map::default(),
            back: Map::default(),
            taken: Set::default(),
            fragmented: Map::default(),
        })
    }

    fn give(&mut self, protocol: Protocol, old: SocketAddr) -> SocketAddr {
        if let Some(new) = self.forward.get(&(protocol, old)) {
            return *new;
        }
        let ip = self.address.filter(|ip| ip.is_ipv6() == old.is_ipv6()).unwrap_or(old.ip());
        let mut new = SocketAddr::new(ip, old.port());
        for _ in 0..u16::MAX {
            if self.port_step != 0 {
                new.set_port(FIRST_PORT + (new.port().wrapping_add(self.port_step) % FIRST_PORT));
            }
            if !self.back.contains_key(&(protocol, new)) && !self.taken.contains(&(protocol, new)) {
                break;
            }
        }
        if self.forward.len() < MAX_FLOWS {
            self.forward.insert((protocol, old), new);
            self.back.insert((protocol, new), old);
        }
        new
    }

    fn set_source(&mut self, cx: &mut Context<'_>, parcel: &mut Parcel, new: SocketAddr) {
        self.remember(&parcel.packet, new.ip());
        parcel.packet.set_source(new.ip());
        parcel.packet.set_source_port(new.port());
        cx.altered(parcel, "source rebound");
    }

    /// Keeps for the later fragments of a datagram what the client's address becomes.
    fn remember(&mut self, packet: &Packet, client: IpAddr) {
        if let Some(key) = datagram(packet).filter(|_| packet.part() == Part::First) {
            if self.fragmented.len() >= MAX_FRAGMENTED {
                self.fragmented.clear();
            }
            self.fragmented.insert(key, client);
        }
    }

    /// A later fragment goes the way of its first one.
    fn follow(&self, parcel: &mut Parcel) {
        let client = datagram(&parcel.packet).and_then(|key| self.fragmented.get(&key));
        match (client, parcel.direction) {
            (Some(client), Direction::Up) => parcel.packet.set_source(*client),
            (Some(client), Direction::Down) => parcel.packet.set_destination(*client),
            (None, _) => {}
        }
    }
}

impl Act for Rebind {
    fn act(&mut self, cx: &mut Context<'_>, mut parcel: Parcel) -> Step {
        if parcel.direction == Direction::Down || parcel.packet.part() == Part::Later {
            return match self.watch(cx, &mut parcel) {
                Watch::Keep => Step::Next(parcel),
                Watch::Drop(why) => {
                    cx.drop(parcel, why);
                    Step::Gone
                }
            };
        }
        let new = self.give(parcel.packet.protocol(), parcel.packet.from());
        self.set_source(cx, &mut parcel, new);
        Step::Next(parcel)
    }

    fn origin(&self, seen: FlowKey) -> Option<FlowKey> {
        self.back.get(&(seen.protocol, seen.client)).map(|old| FlowKey { client: *old, ..seen })
    }

    fn watch(&mut self, cx: &mut Context<'_>, parcel: &mut Parcel) -> Watch {
        let protocol = parcel.packet.protocol();
        if parcel.packet.part() == Part::Later {
            self.follow(parcel);
            return Watch::Keep;
        }
        match parcel.direction {
            Direction::Up => {
                if self.taken.len() < MAX_FLOWS {
                    self.taken.insert((protocol, parcel.packet.from()));
                }
                if let Some(new) = self.forward.get(&(protocol, parcel.packet.from())).copied() {
                    self.set_source(cx, parcel, new);
                }
            }
            Direction::Down => {
                let to = parcel.packet.to();
                if let Some(old) = self.back.get(&(protocol, to)).copied() {
                    self.remember(&parcel.packet, old.ip());
                    parcel.packet.set_destination(old.ip());
                    parcel.packet.set_destination_port(old.port());
                } else if self.forward.contains_key(&(protocol, to)) {
                    return Watch::Drop("the old mapping is gone");
                }
            }
        }
        Watch::Keep
    }
}
