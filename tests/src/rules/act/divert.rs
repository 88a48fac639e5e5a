//! Sending flows to another host than they are meant for, and bringing back what it answers.

use std::net::{IpAddr, SocketAddr};

use super::super::data::Direction;
use super::super::flow::{FlowKey, MAX_FLOWS};
use super::super::pipeline::{BadRule, Context, Parcel};
use super::{Act, Step, Watch};
use crate::hash::Map;
use crate::packet::Protocol;

/// Diverts what goes up.
pub(super) struct Divert {
    to: Vec<IpAddr>,
    port: u16,
    /// Whom each client's flow was meant for.
    meant: Map<(Protocol, SocketAddr), SocketAddr>,
}

impl Divert {
    pub(super) fn new(to: Vec<IpAddr>, port: u16) -> Result<Self, BadRule> {
        if to.is_empty() || port == 0 {
            return Err(BadRule::Field("divert", "needs an address in `to` and a `port`".into()));
        }
        Ok(Self { to, port, meant: Map::default() })
    }
}

impl Act for Divert {
    fn act(&mut self, cx: &mut Context<'_>, mut parcel: Parcel) -> Step {
        let packet = &mut parcel.packet;
        let Some(host) = self.to.iter().find(|host| host.is_ipv6() == packet.is_v6()).copied() else {
            return Step::Next(parcel);
        };
        if parcel.direction == Direction::Down {
            // Its own answers match too.
            let _ = self.watch(cx, &mut parcel);
            return Step::Next(parcel);
        }
        // What that host sends on to the first destination is not for itself again.
        if self.to.contains(&packet.source()) {
            return Step::Next(parcel);
        }
        if self.meant.len() >= MAX_FLOWS {
            cx.drop(parcel, "no room for another diverted flow");
            return Step::Gone;
        }
        self.meant.insert((packet.protocol(), packet.from()), packet.to());
        packet.set_destination(host);
        packet.set_destination_port(self.port);
        cx.altered(&parcel, "diverted");
        Step::Next(parcel)
    }

    fn origin(&self, seen: FlowKey) -> Option<FlowKey> {
        let is_answer = seen.server.port() == self.port && self.to.contains(&seen.server.ip());
        let meant = self.meant.get(&(seen.protocol, seen.client)).filter(|_| is_answer);
        meant.map(|meant| FlowKey { server: *meant, ..seen })
    }

    fn watch(&mut self, _cx: &mut Context<'_>, parcel: &mut Parcel) -> Watch {
        let packet = &mut parcel.packet;
        let is_answer = parcel.direction == Direction::Down
            && packet.source_port() == self.port
            && self.to.contains(&packet.source());
        if let Some(meant) = self.meant.get(&(packet.protocol(), packet.to())).filter(|_| is_answer) {
            packet.set_source(meant.ip());
            packet.set_source_port(meant.port());
        }
        Watch::Keep
    }
}
