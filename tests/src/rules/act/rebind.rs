//! A NAT that gives a running flow another source port or address.

use std::net::{IpAddr, SocketAddr};

use super::super::data::Direction;
use super::super::flow::{FlowKey, MAX_FLOWS};
use super::super::pipeline::{BadRule, Context, Parcel};
use super::{Act, Step, Watch};
use crate::hash::Map;
use crate::packet::Protocol;

/// The first port that is given out.
const FIRST_PORT: u16 = 32_768;

/// Rewrites the client's end of flows from their first match on.
pub(super) struct Rebind {
    address: Option<IpAddr>,
    port_step: u16,
    forward: Map<(Protocol, SocketAddr), SocketAddr>,
    back: Map<(Protocol, SocketAddr), SocketAddr>,
}

impl Rebind {
    pub(super) fn new(address: Option<IpAddr>, port_step: u16) -> Result<Self, BadRule> {
        if address.is_none() && port_step == 0 {
            return Err(BadRule::Field("rebind", "needs an `address` or a `port_step`".into()));
        }
        Ok(Self { address, port_step, forward: Map::default(), back: Map::default() })
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
            if !self.back.contains_key(&(protocol, new)) {
                break;
            }
        }
        if self.forward.len() < MAX_FLOWS {
            self.forward.insert((protocol, old), new);
            self.back.insert((protocol, new), old);
        }
        new
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
        let new = self.give(parcel.packet.protocol(), parcel.packet.from());
        Self::set_source(cx, &mut parcel, new);
        Step::Next(parcel)
    }

    fn origin(&self, seen: FlowKey) -> Option<FlowKey> {
        self.back.get(&(seen.protocol, seen.client)).map(|old| FlowKey { client: *old, ..seen })
    }

    fn watch(&mut self, cx: &mut Context<'_>, parcel: &mut Parcel) -> Watch {
        let protocol = parcel.packet.protocol();
        match parcel.direction {
            Direction::Up => {
                if let Some(new) = self.forward.get(&(protocol, parcel.packet.from())) {
                    Self::set_source(cx, parcel, *new);
                }
            }
            Direction::Down => {
                let to = parcel.packet.to();
                if let Some(old) = self.back.get(&(protocol, to)) {
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
