//! Who is joined to what, as data: the part of a scenario that is not a rule.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::rules::Direction;
use crate::rules::units::Span;

/// The networks between client and listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// How they are joined.
    pub kind: Kind,
    /// IPv6 beside IPv4.
    pub ipv6: bool,
    /// A NAT before the client.
    pub client_nat: Option<NatKind>,
    /// A NAT before the listener, with port forwarding.
    pub server_nat: Option<Forwarding>,
    /// The client is in the listener's own network, and its router brings back in what goes to the public address.
    pub hairpin: Option<Hairpin>,
    /// A third host, joined to the path between the two routers, for cross traffic.
    pub side_host: bool,
    /// A proxy on the side host, for flows that a rule diverts there. Only the real-kernel lab has it.
    pub proxy: Option<Proxy>,
    /// Largest IP packet on the path between the two routers, bytes.
    pub path_mtu: u16,
    /// Whether routers say so when a packet is too big for the path; where not, the path is a black hole.
    pub says_too_big: bool,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            kind: Kind::Middlebox,
            ipv6: true,
            client_nat: None,
            server_nat: None,
            hairpin: None,
            side_host: false,
            proxy: None,
            path_mtu: LINK_MTU,
            says_too_big: true,
        }
    }
}

/// How client and listener are joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// By two routers and a path that rules act on.
    #[default]
    Middlebox,
    /// By one virtual cable; no rules, no routers. Only the real-kernel lab has it.
    Veth,
}

/// How a router brings back in what its own network sends to its public address (RFC 4787, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hairpin {
    /// The listener sees the router's public address ("external source address and port").
    Public,
    /// The listener sees the client's private one ("internal").
    Private,
}

/// How a NAT behaves (terms of RFC 4787).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatKind {
    /// A mapping of its own for each destination ("address and port dependent mapping").
    pub symmetric: bool,
    /// Lets in only those whom the inside has written to ("address and port dependent filtering").
    pub filters: bool,
    /// Keeps the source port where it is free.
    pub keeps_ports: bool,
    /// A UDP mapping is forgotten when idle for longer than this.
    pub udp_idle: Span,
    /// A TCP mapping likewise.
    pub tcp_idle: Span,
    /// Which way's packets keep a mapping; left out, either way's.
    pub refreshed_by: Option<Direction>,
    /// At most so many mappings; what comes beyond gets none.
    pub limit: usize,
}

impl Default for NatKind {
    fn default() -> Self {
        Self {
            symmetric: false,
            filters: true,
            keeps_ports: true,
            udp_idle: Span::secs(300),
            tcp_idle: Span::secs(7440),
            refreshed_by: None,
            limit: 20_000,
        }
    }
}

/// What the listener's router forwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forwarding {
    /// The port, the same outside and inside.
    pub port: u16,
    /// A second port outside that leads to the same port inside.
    pub second_port: Option<u16>,
    /// Forwards UDP.
    pub udp: bool,
    /// Forwards TCP.
    pub tcp: bool,
    /// Answers for itself what is not forwarded (TCP reset, ICMP port unreachable); else it is dropped.
    pub refuses: bool,
    /// How it maps what goes out.
    pub nat: NatKind,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self {
            port: probe_protocol::DEFAULT_PORT,
            second_port: None,
            udp: true,
            tcp: true,
            refuses: false,
            nat: NatKind::default(),
        }
    }
}

/// A box that ends connections which a rule diverts to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    /// What it does with them.
    #[serde(default)]
    pub kind: ProxyKind,
    /// Where it listens.
    pub port: u16,
    /// For `inspect`: the name of its authority.
    #[serde(default = "authority")]
    pub issuer: String,
}

/// What a proxy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyKind {
    /// Makes a connection of its own to the listener and carries bytes between.
    #[default]
    Relay,
    /// Ends TLS too, with certificates of its own authority; what is not TLS is relayed.
    Inspect,
    /// Answers everybody with a redirection to its own page (RFC 8910's reason to be).
    Portal,
    /// Waits to be told where to go (HTTP CONNECT, RFC 9110, section 9.3.6), as a site's only way out.
    Connect,
}

fn authority() -> String {
    "Lab Inspection CA".into()
}

/// MTU of the hosts' own links, bytes.
pub const LINK_MTU: u16 = 1500;

/// One host's addresses and those of its gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostAddresses {
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its gateway's.
    pub gateway_v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its gateway's.
    pub gateway_v6: Ipv6Addr,
}

impl HostAddresses {
    const fn new(net: [u8; 3], host: u8, net6: u16) -> Self {
        Self {
            v4: Ipv4Addr::new(net[0], net[1], net[2], host),
            gateway_v4: Ipv4Addr::new(net[0], net[1], net[2], 1),
            v6: Ipv6Addr::new(0x2001, 0xdb8, net6, 0, 0, 0, 0, host as u16),
            gateway_v6: Ipv6Addr::new(0x2001, 0xdb8, net6, 0, 0, 0, 0, 1),
        }
    }

    /// Both gateways, IPv4 first.
    pub const fn gateways(&self) -> [IpAddr; 2] {
        [IpAddr::V4(self.gateway_v4), IpAddr::V6(self.gateway_v6)]
    }

    /// Whether it is one of the host's own addresses.
    pub fn is(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.v4) || address == IpAddr::V6(self.v6)
    }

    /// Whether it is one of its gateways'.
    pub fn is_gateway(&self, address: IpAddr) -> bool {
        self.gateways().contains(&address)
    }
}

impl Topology {
    /// The client's public IPv4 address.
    pub const CLIENT_PUBLIC: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);
    /// The listener's public IPv4 address.
    pub const SERVER_PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

    /// The address that the client's NAT shows: that of the listener's, where both are one network.
    pub fn client_public(&self) -> Ipv4Addr {
        if self.hairpin == Some(Hairpin::Public) { Self::SERVER_PUBLIC } else { Self::CLIENT_PUBLIC }
    }

    /// What makes no sense together; none where all does.
    pub fn contradiction(&self) -> Option<&'static str> {
        match self.hairpin {
            Some(_) if self.server_nat.is_none() => Some("`hairpin` needs a `server_nat`"),
            Some(Hairpin::Public) if self.client_nat.is_none() => {
                Some("`hairpin = \"public\"` needs a `client_nat`")
            }
            Some(Hairpin::Private) if self.client_nat.is_some() => {
                Some("`hairpin = \"private\"` goes without a `client_nat`")
            }
            Some(_) if self.ipv6 => Some("`hairpin` is about IPv4 alone: say `ipv6 = false`"),
            Some(_) | None => None,
        }
    }

    /// The client's addresses.
    pub fn client(&self) -> HostAddresses {
        let net = match (self.kind, &self.client_nat, self.hairpin) {
            (Kind::Veth, ..) => [203, 0, 113],
            (Kind::Middlebox, None, Some(_)) => [10, 8, 86],
            (Kind::Middlebox, Some(_), _) => return HostAddresses::new([192, 168, 86], 2, 0x86),
            (Kind::Middlebox, None, None) => [198, 51, 100],
        };
        HostAddresses::new(net, 4, if self.kind == Kind::Veth { 0x8886 } else { 0x86 })
    }

    /// The listener's addresses.
    pub fn server(&self) -> HostAddresses {
        if self.kind == Kind::Middlebox && self.server_nat.is_some() {
            HostAddresses::new([10, 8, 86], 7, 0x8886)
        } else {
            HostAddresses::new([203, 0, 113], 7, 0x8886)
        }
    }

    /// The side host's addresses.
    pub fn side(&self) -> HostAddresses {
        HostAddresses::new([192, 0, 2], 9, 0x9)
    }

    /// Where the client reaches the listener over IPv4: its public address.
    pub fn target(&self) -> Ipv4Addr {
        Self::SERVER_PUBLIC
    }

    /// Where the client reaches the listener over IPv6, where there is any.
    pub fn target_v6(&self) -> Option<Ipv6Addr> {
        self.ipv6.then(|| self.server().v6)
    }
}
