//! Which address must be forwarded to which: this host's own, its router's, and what kind of address that is.
//!
//! The router is asked by UPnP-IGD, NAT-PMP (RFC 6886) and PCP (RFC 6887). It is asked only: no mapping is made,
//! renewed or deleted. That is why of PCP only ANNOUNCE is used, which tells that PCP is there; its MAP would change
//! what it asks about.

mod http;
mod natpmp;
mod pcp;
mod upnp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use probe_protocol::cause::Cause;
use probe_protocol::finding::Severity;

use super::firewall::Protocol;
use super::network::{Interface, Network};
use super::report::{Check, Part, finding};
pub(super) use upnp::Mapping;

const NAME: &str = "addresses";
const ROUTER: &str = "router";

/// What kind of address it is, as far as reaching it from the internet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// RFC 1918.
    Private,
    /// RFC 6598: shared by a carrier's customers.
    CarrierGrade,
    /// Never the source or destination of a packet on the internet.
    Special,
    Public,
}

pub(super) fn kind(address: Ipv4Addr) -> Kind {
    let [a, b, ..] = address.octets();
    if address.is_private() {
        Kind::Private
    } else if a == 100 && (64..128).contains(&b) {
        Kind::CarrierGrade
    } else if a == 0
        || a >= 224
        || address.is_loopback()
        || address.is_link_local()
        || (a == 198 && b & 0xfe == 18)
    {
        Kind::Special
    } else {
        Kind::Public
    }
}

/// An address that the internet knows.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => kind(v4) == Kind::Public,
        IpAddr::V6(v6) => global(v6),
    }
}

fn global(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xe000 == 0x2000
}

/// What the router said, by each way of asking it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Router {
    upnp: Option<upnp::Igd>,
    natpmp: Option<Ipv4Addr>,
    pcp: bool,
}

impl Router {
    fn external(&self) -> Option<Ipv4Addr> {
        let known = |address: &Ipv4Addr| !address.is_unspecified();
        self.natpmp.filter(known).or_else(|| self.upnp.as_ref()?.external.filter(known))
    }

    fn spoken(&self) -> String {
        let ways = [("UPnP-IGD", self.upnp.is_some()), ("NAT-PMP", self.natpmp.is_some()), ("PCP", self.pcp)];
        ways.iter().filter(|(_, spoken)| *spoken).map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    }

    fn mapping(&self, protocol: Protocol) -> Option<&Mapping> {
        self.upnp.as_ref()?.mappings.iter().find(|(of, _)| *of == protocol).map(|(_, mapping)| mapping)
    }
}

/// The check of the addresses. `seen` is the address under which clients reached this host, where one has told.
/// Returns the public address where it is known.
pub(super) async fn check(port: u16, network: &Network, seen: Option<IpAddr>) -> (Part, Option<IpAddr>) {
    let route = network.default_v4.as_ref();
    let v4s = |interface: &Interface| {
        let v4 = |address: &IpAddr| match address {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        };
        interface.addresses.iter().filter_map(v4).collect::<Vec<_>>()
    };
    let of_route = route
        .and_then(|route| network.interfaces.iter().find(|interface| interface.name == route.interface))
        .and_then(|interface| v4s(interface).first().copied());
    // Clients may come over an interface that is not the way out.
    let public = || network.interfaces.iter().flat_map(v4s).find(|address| kind(*address) == Kind::Public);
    let own = of_route.or_else(public);
    let gateway = route.and_then(|route| match route.gateway {
        Some(IpAddr::V4(v4)) => Some(v4),
        Some(IpAddr::V6(_)) | None => None,
    });
    let mut router = Router::default();
    // A host with a public address of its own has no router to ask.
    if let (Some(own), Some(gateway)) = (own, gateway)
        && kind(own) != Kind::Public
    {
        (router.upnp, router.natpmp, router.pcp) = tokio::join!(
            upnp::ask(own, port),
            natpmp::external_address(own, gateway),
            pcp::is_there(own, gateway)
        );
    }
    verdict(port, network, own, gateway, &router, seen)
}

/// What follows from the addresses. Pure.
fn verdict(
    port: u16,
    network: &Network,
    own: Option<Ipv4Addr>,
    gateway: Option<Ipv4Addr>,
    router: &Router,
    seen: Option<IpAddr>,
) -> (Part, Option<IpAddr>) {
    let v6 =
        network.interfaces.iter().flat_map(|interface| &interface.addresses).find_map(
            |address| match address {
                IpAddr::V6(v6) if global(*v6) => Some(*v6),
                IpAddr::V4(_) | IpAddr::V6(_) => None,
            },
        );
    let mut part = Part::default();
    let listed = network
        .interfaces
        .iter()
        .flat_map(|interface| {
            interface.addresses.iter().map(|address| format!("{address} on {}", interface.name))
        })
        .collect::<Vec<_>>()
        .join(", ");
    if let Some(v6) = v6 {
        let says = format!(
            "{v6} is reachable without forwarding where the router's firewall lets TCP {port} and UDP {port} in to it"
        );
        part = part.check(Check::ok("ipv6", says));
    }
    let Some(own) = own else {
        let says = if listed.is_empty() {
            "this host has no address".to_owned()
        } else {
            format!("{listed}; no default route")
        };
        return (
            part.check(Check::unknown(NAME, says, "a default route over IPv4")),
            seen.or(v6.map(IpAddr::V6)),
        );
    };
    if kind(own) == Kind::Public {
        let says = format!("{own} is public: nothing has to be forwarded");
        return (part.check(Check::ok(NAME, says)), Some(IpAddr::V4(own)));
    }
    let router_name =
        gateway.map_or_else(|| "the router".to_owned(), |gateway| format!("the router {gateway}"));
    let external = router.external();
    let spoken = router.spoken();
    part = part.check(match (spoken.is_empty(), external) {
        (true, _) => {
            let needs = "the router's own pages, or a client's view";
            Check::unknown(ROUTER, format!("{router_name} answers neither UPnP-IGD, NAT-PMP nor PCP"), needs)
        }
        (false, None) => Check::unknown(
            ROUTER,
            format!("{router_name} answers ({spoken}), but does not tell its public address"),
            "the router's own pages, or a client's view",
        ),
        (false, Some(external)) => Check::ok(
            ROUTER,
            format!("{router_name} says ({spoken}) that its address to the outside is {external}"),
        ),
    });
    let carrier = match external.map(|external| (external, kind(external))) {
        _ if kind(own) == Kind::CarrierGrade => Some(format!(
            "this host's own address {own} is of the range that carriers share among customers (100.64.0.0/10)"
        )),
        Some((external, Kind::CarrierGrade)) => Some(format!(
            "the router's address {external} is of the range that carriers share among customers (100.64.0.0/10)"
        )),
        Some((external, Kind::Private)) => Some(format!(
            "the router's address {external} is private: another NAT stands before the internet"
        )),
        Some((_, Kind::Special | Kind::Public)) | None => None,
    };
    if let Some(says) = carrier {
        let mut found = finding(
            Cause::CarrierNat,
            Severity::Blocking,
            says.clone(),
            "Ask the provider for a public IPv4 address (or, of a second router of your own, forward on that one too); \
             otherwise let clients come over IPv6, or put the listener on a host with a public address.",
        );
        found.parameters.old = Some(own.to_string());
        found.parameters.new = external.map(|external| external.to_string());
        if let Some(v6) = v6 {
            // Reachable all the same, for clients that have IPv6.
            found.severity = Severity::Degraded;
            found.evidence.push(probe_protocol::finding::Evidence {
                says: format!("clients with IPv6 can reach {v6}"),
                ..Default::default()
            });
        }
        return (part.check(Check::problem(NAME, says)).finding(found), seen.or(v6.map(IpAddr::V6)));
    }
    let public = seen.or(external.filter(|external| kind(*external) == Kind::Public).map(IpAddr::V4));
    let of = public.map_or_else(|| "its public address".to_owned(), |public| public.to_string());
    let order = format!("forward TCP {port} and UDP {port} of {of} on {router_name} to {own}, port {port}");
    let mut good = Vec::new();
    for protocol in Protocol::BOTH {
        match router.mapping(protocol) {
            Some(mapping) if mapping.client == own && mapping.port == port && mapping.enabled => {
                good.push(protocol.name());
            }
            Some(mapping) => {
                let state = if mapping.enabled { "" } else { ", switched off" };
                let says = format!(
                    "{router_name} forwards {port}/{} to {}:{}{state}; {order}",
                    protocol.name(),
                    mapping.client,
                    mapping.port
                );
                return (part.check(Check::problem(NAME, says)), public);
            }
            None => {}
        }
    }
    let check = if good.len() == Protocol::BOTH.len() {
        let says = format!("{router_name} forwards TCP {port} and UDP {port} of {of} to {own} already");
        Check::ok(NAME, says)
    } else if seen.is_some() {
        Check::ok(NAME, format!("this host is behind NAT, and clients reach it at {of}"))
    } else {
        Check::unknown(
            NAME,
            format!("this host is behind NAT: {order}"),
            "a client outside, to see that it is forwarded",
        )
    };
    (part.check(check), public)
}

#[cfg(test)]
mod tests {
    use super::super::network::Route;
    use super::super::report::State;
    use super::*;

    fn network(own: &str) -> Network {
        Network {
            interfaces: vec![Interface {
                name: "eth0".to_owned(),
                addresses: vec![own.parse().unwrap()],
                bridged: false,
            }],
            default_v4: Some(Route {
                interface: "eth0".to_owned(),
                gateway: Some("192.168.1.1".parse().unwrap()),
            }),
            default_v6: None,
        }
    }

    fn judge(own: &str, router: &Router, seen: Option<&str>) -> (Part, Option<IpAddr>) {
        let gateway = Some("192.168.1.1".parse().unwrap());
        let seen = seen.map(|seen| seen.parse().unwrap());
        verdict(8886, &network(own), own.parse().ok(), gateway, router, seen)
    }

    fn says<'a>(part: &'a Part, name: &str) -> &'a Check {
        part.checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn kinds_have_their_borders() {
        for (address, expected) in [
            ("10.0.0.1", Kind::Private),
            ("172.31.255.255", Kind::Private),
            ("172.32.0.0", Kind::Public),
            ("100.63.255.255", Kind::Public),
            ("100.64.0.0", Kind::CarrierGrade),
            ("100.127.255.255", Kind::CarrierGrade),
            ("100.128.0.0", Kind::Public),
            ("169.254.1.1", Kind::Special),
            ("0.0.0.0", Kind::Special),
            ("198.19.0.1", Kind::Special),
            ("203.0.113.7", Kind::Public),
        ] {
            assert_eq!(kind(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_public_address_needs_nothing() {
        let (part, public) = judge("203.0.113.7", &Router::default(), None);
        assert_eq!(says(&part, NAME).state, State::Ok);
        assert_eq!(public, Some("203.0.113.7".parse().unwrap()));
    }

    #[test]
    fn a_private_address_is_told_what_to_forward() {
        let router = Router { natpmp: Some("203.0.113.9".parse().unwrap()), ..Router::default() };
        let (part, public) = judge("192.168.1.20", &router, None);
        let check = says(&part, NAME);
        assert_eq!(check.state, State::Unknown);
        assert!(
            check.says.contains(
                "forward TCP 8886 and UDP 8886 of 203.0.113.9 on the router 192.168.1.1 to 192.168.1.20, port 8886"
            ),
            "{}",
            check.says
        );
        assert_eq!(public, Some("203.0.113.9".parse().unwrap()));
        let (part, public) = judge("192.168.1.20", &Router::default(), Some("203.0.113.5"));
        assert_eq!(says(&part, NAME).state, State::Ok);
        assert_eq!(public, Some("203.0.113.5".parse().unwrap()));
    }

    #[test]
    fn carrier_nat_is_found_on_the_host_and_on_the_router() {
        for (own, external) in
            [("100.70.1.2", None), ("192.168.1.20", Some("100.64.3.4")), ("192.168.1.20", Some("10.9.8.7"))]
        {
            let router = Router { natpmp: external.map(|text| text.parse().unwrap()), ..Router::default() };
            let (part, public) = judge(own, &router, None);
            assert_eq!(part.findings.len(), 1, "{own} {external:?}");
            assert_eq!(part.findings[0].cause, Cause::CarrierNat);
            assert_eq!(public, None);
        }
        let router = Router { natpmp: Some("100.63.3.4".parse().unwrap()), ..Router::default() };
        assert!(judge("192.168.1.20", &router, None).0.findings.is_empty());
    }

    #[test]
    fn mappings_that_are_there_are_read() {
        let mapping = |client: &str| Mapping { client: client.parse().unwrap(), port: 8886, enabled: true };
        let router = |client: &str| Router {
            upnp: Some(upnp::Igd {
                external: Some("203.0.113.9".parse().unwrap()),
                mappings: Protocol::BOTH.map(|protocol| (protocol, mapping(client))).to_vec(),
            }),
            ..Router::default()
        };
        assert_eq!(says(&judge("192.168.1.20", &router("192.168.1.20"), None).0, NAME).state, State::Ok);
        let (part, _) = judge("192.168.1.20", &router("192.168.1.33"), None);
        assert_eq!(says(&part, NAME).state, State::Problem);
        assert!(says(&part, NAME).says.contains("192.168.1.33:8886"));
    }
}
