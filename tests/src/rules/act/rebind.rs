//! A NAT that gives a running flow another source port or address.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use super::super::data::Direction;
use super::super::flow::{FlowKey, MAX_FLOWS};
use super::super::pipeline::{BadRule, Context, Parcel};
use super::{Act, Step, Watch};
use crate::hash::Map;
use crate::packet::{Packet, Part, Protocol};

/// The first port that is given out.
const FIRST_PORT: u16 = 32_768;
/// At most so many datagrams whose first fragment has passed are remembered.
const MAX_FRAGMENTED: usize = 4096;

/// Rewrites the client's end of flows from their first match on.
pub(super) struct Rebind {
    address: Option<IpAddr>,
    port_step: u16,
    forward: Map<(Protocol, SocketAddr), SocketAddr>,
    back: Map<(Protocol, SocketAddr), SocketAddr>,
    /// Ends that have been seen: a NAT gives out no port that a flow of its has.
    taken: HashSet<(Protocol, SocketAddr)>,
    /// The client's address that the first fragment of a datagram got: only it has ports, and the others go where it went.
    /// `None`: nowhere.
    fragmented: Map<(IpAddr, IpAddr, u32), Option<IpAddr>>,
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
            taken: HashSet::new(),
            fragmented: Map::default(),
        })
    }

    fn give(&mut self, protocol: Protocol, old: SocketAddr) {
        if self.forward.contains_key(&(protocol, old)) || self.forward.len() >= MAX_FLOWS {
            return;
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
        self.forward.insert((protocol, old), new);
        self.back.insert((protocol, new), old);
    }

    /// What a fragment belongs to, before anything in it is rewritten.
    fn datagram_of(packet: &Packet) -> Option<(IpAddr, IpAddr, u32)> {
        Some((packet.source(), packet.destination(), packet.fragment_id()?))
    }

    fn note_fragment(&mut self, datagram: Option<(IpAddr, IpAddr, u32)>, client: Option<IpAddr>) {
        let Some(datagram) = datagram else { return };
        if self.fragmented.len() >= MAX_FRAGMENTED {
            self.fragmented.clear();
        }
        self.fragmented.insert(datagram, client);
    }

    /// A fragment after the first: it has no ports. One whose first has not passed goes on as it is.
    fn later_fragment(&mut self, cx: &mut Context<'_>, parcel: &mut Parcel) -> Watch {
        let known = Self::datagram_of(&parcel.packet).and_then(|key| self.fragmented.get(&key));
        match (known, parcel.direction) {
            (None, _) => Watch::Keep,
            (Some(None), _) => Watch::Drop("the old mapping is gone"),
            (Some(Some(client)), Direction::Up) => {
                parcel.packet.set_source(*client);
                cx.altered(parcel, "source rebound");
                Watch::Keep
            }
            (Some(Some(client)), Direction::Down) => {
                parcel.packet.set_destination(*client);
                Watch::Keep
            }
        }
    }

    fn set_source(cx: &mut Context<'_>, parcel: &mut Parcel, new: SocketAddr) {
        parcel.packet.set_source(new.ip());
        parcel.packet.set_source_port(new.port());
        cx.altered(parcel, "source rebound");
    }
}

impl Act for Rebind {
    fn act(&mut self, cx: &mut Context<'_>, mut parcel: Parcel) -> Step {
        if parcel.direction == Direction::Down {
            return match self.watch(cx, &mut parcel) {
                Watch::Keep => Step::Next(parcel),
                Watch::Drop(why) => {
                    cx.drop(parcel, why);
                    Step::Gone
                }
            };
        }
        if parcel.packet.part() != Part::Later {
            self.give(parcel.packet.protocol(), parcel.packet.from());
        }
        self.watch(cx, &mut parcel);
        Step::Next(parcel)
    }

    fn origin(&self, seen: FlowKey) -> Option<FlowKey> {
        self.back.get(&(seen.protocol, seen.client)).map(|old| FlowKey { client: *old, ..seen })
    }

    fn watch(&mut self, cx: &mut Context<'_>, parcel: &mut Parcel) -> Watch {
        let (protocol, part) = (parcel.packet.protocol(), parcel.packet.part());
        if part == Part::Later {
            return self.later_fragment(cx, parcel);
        }
        let datagram = Self::datagram_of(&parcel.packet).filter(|_| part == Part::First);
        match parcel.direction {
            Direction::Up => {
                if self.taken.len() < MAX_FLOWS {
                    self.taken.insert((protocol, parcel.packet.from()));
                }
                if let Some(new) = self.forward.get(&(protocol, parcel.packet.from())).copied() {
                    Self::set_source(cx, parcel, new);
                    self.note_fragment(datagram, Some(new.ip()));
                }
            }
            Direction::Down => {
                let to = parcel.packet.to();
                if let Some(old) = self.back.get(&(protocol, to)).copied() {
                    parcel.packet.set_destination(old.ip());
                    parcel.packet.set_destination_port(old.port());
                    self.note_fragment(datagram, Some(old.ip()));
                } else if self.forward.contains_key(&(protocol, to)) {
                    self.note_fragment(datagram, None);
                    return Watch::Drop("the old mapping is gone");
                }
            }
        }
        Watch::Keep
    }
}
