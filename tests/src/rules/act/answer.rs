//! Answers in another's name: TCP resets and ICMP errors.

use std::net::IpAddr;

use super::super::data::{Direction, IcmpCode};
use super::super::pipeline::{Context, Parcel};
use super::{Act, Step};
use crate::packet::build::{self, IcmpError};

/// Sends TCP resets.
pub(super) struct Reset {
    pub(super) client: bool,
    pub(super) server: bool,
    pub(super) ttl: u8,
    pub(super) pass: bool,
}

impl Act for Reset {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let (back, on) = match parcel.direction {
            Direction::Up => (self.client, self.server),
            Direction::Down => (self.server, self.client),
        };
        if back && let Some(reset) = build::reset_backward(&parcel.packet, self.ttl) {
            cx.forge(parcel.direction.opposite(), reset, "reset forged");
        }
        if on && let Some(reset) = build::reset_forward(&parcel.packet, self.ttl) {
            cx.forge(parcel.direction, reset, "reset forged");
        }
        if self.pass {
            return Step::Next(parcel);
        }
        cx.drop(parcel, "reset in its place");
        Step::Gone
    }
}

/// Drops a packet and answers with an ICMP error.
pub(super) struct Icmp {
    pub(super) code: IcmpCode,
    pub(super) mtu: u16,
    pub(super) from: Option<IpAddr>,
}

impl Act for Icmp {
    fn act(&mut self, cx: &mut Context<'_>, parcel: Parcel) -> Step {
        let error = match self.code {
            IcmpCode::NetUnreachable => IcmpError::NetUnreachable,
            IcmpCode::HostUnreachable => IcmpError::HostUnreachable,
            IcmpCode::PortUnreachable => IcmpError::PortUnreachable,
            IcmpCode::AdminProhibited => IcmpError::AdminProhibited,
            IcmpCode::TooBig => IcmpError::TooBig(self.mtu),
        };
        let from = self
            .from
            .filter(|from| from.is_ipv6() == parcel.packet.is_v6())
            .unwrap_or(cx.router[usize::from(parcel.packet.is_v6())]);
        if let Some(answer) = build::icmp_error(&parcel.packet, from, error) {
            cx.forge(parcel.direction.opposite(), answer, "ICMP error in its place");
        }
        cx.drop(parcel, "ICMP error in its place");
        Step::Gone
    }
}
