//! Which local address, interface and gateway lead to a target.
//!
//! Everything is read from what the host tells any user; what it does not tell is `None`. Read again later and
//! compare, [`Route`] shows a changed route, VPN or network.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

mod table;

/// How packets leave this host towards a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The local address they leave from.
    pub local: IpAddr,
    /// The interface that has it, by its name.
    pub interface: Option<String>,
    /// The MTU of that interface, in bytes (Linux).
    pub mtu: Option<u32>,
    /// The next hop, where the target is not on the link itself (Linux, main routing table).
    pub gateway: Option<IpAddr>,
    /// Whether the interface is a radio one (Linux).
    pub wireless: Option<bool>,
}

/// Finds how packets leave towards `target`. Nothing is sent.
///
/// # Errors
/// Those of the system: there is no route (`NetworkUnreachable`, `HostUnreachable`), or the family is switched off.
pub fn route_towards(target: IpAddr) -> io::Result<Route> {
    let local = local_towards(target)?;
    let interface = interface_of(local);
    let of = |name: &str| facts(name);
    let (mtu, wireless) = interface.as_deref().map_or((None, None), of);
    let gateway = table::gateway_towards(target, interface.as_deref());
    Ok(Route { local, interface, mtu, gateway, wireless })
}

/// The local address from which packets leave towards `target`: connecting a UDP socket sends nothing, but makes
/// the system choose.
///
/// # Errors
/// As [`route_towards`].
pub fn local_towards(target: IpAddr) -> io::Result<IpAddr> {
    let any = match target {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // The discard port, RFC 863; any will do.
    socket.connect(SocketAddr::new(target, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// The name of the interface that has the address `local`.
pub fn interface_of(local: IpAddr) -> Option<String> {
    let all = if_addrs::get_if_addrs().ok()?;
    let has = |interface: &&if_addrs::Interface| {
        let ip = interface.ip();
        // All of 127.0.0.0/8 is local, not only the address the interface shows.
        ip == local || (ip.is_loopback() && local.is_loopback() && ip.is_ipv4() == local.is_ipv4())
    };
    all.iter().find(has).map(|interface| interface.name.clone())
}

/// What an interface has counted since it came up (Linux).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub received: u64,
    /// Packets sent.
    pub sent: u64,
    /// Received packets it dropped for want of room.
    pub receive_dropped: u64,
    /// Packets to be sent that it dropped for want of room.
    pub send_dropped: u64,
    /// Received packets that were damaged.
    pub receive_errors: u64,
    /// Packets it could not send.
    pub send_errors: u64,
    /// How often the link came or went, where the interface counts that.
    pub carrier_changes: Option<u64>,
}

/// Reads what the interface `name` has counted; `None` where the platform does not tell or there is no such one.
pub fn counters(name: &str) -> Option<Counters> {
    let read = |file: &str| sys_class_net(name, &format!("statistics/{file}"))?.parse().ok();
    Some(Counters {
        received: read("rx_packets")?,
        sent: read("tx_packets")?,
        receive_dropped: read("rx_dropped")?,
        send_dropped: read("tx_dropped")?,
        receive_errors: read("rx_errors")?,
        send_errors: read("tx_errors")?,
        carrier_changes: sys_class_net(name, "carrier_changes").and_then(|text| text.parse().ok()),
    })
}

/// MTU and whether it is a radio interface.
fn facts(name: &str) -> (Option<u32>, Option<bool>) {
    let mtu = sys_class_net(name, "mtu").and_then(|text| text.parse().ok());
    let wireless = mtu.map(|_| path(name, "wireless").is_some_and(|path| path.exists()));
    (mtu, wireless)
}

fn sys_class_net(name: &str, file: &str) -> Option<String> {
    let text = std::fs::read_to_string(path(name, file)?).ok()?;
    Some(text.trim().to_owned())
}

fn path(name: &str, file: &str) -> Option<std::path::PathBuf> {
    // Names come from the system itself or from a caller's flag: a flag must not lead out of the folder.
    let plain = !name.is_empty() && name != "." && name != ".." && !name.contains('/');
    (cfg!(target_os = "linux") && plain).then(|| std::path::Path::new("/sys/class/net").join(name).join(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_leads_to_itself() {
        let route = route_towards("127.0.0.1".parse().unwrap()).unwrap();
        assert_eq!((route.local, route.gateway), ("127.0.0.1".parse().unwrap(), None));
        assert!(route.interface.is_some(), "{route:?}");
        assert_eq!(interface_of("127.1.2.3".parse().unwrap()), route.interface);
        if cfg!(target_os = "linux") {
            assert!(route.mtu.is_some_and(|mtu| mtu > 1_000) && route.wireless == Some(false), "{route:?}");
        }
    }

    #[test]
    fn an_address_no_interface_has_belongs_to_none() {
        // TEST-NET-1, RFC 5737: may be used by a test network, so only one that is certainly nobody's is asked for.
        assert_eq!(interface_of("0.0.0.0".parse().unwrap()), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn loopback_counts_what_passes() {
        let before = counters("lo").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        socket.recv_from(&mut [0; 4]).unwrap();
        let after = counters("lo").unwrap();
        assert!(after.received > before.received && after.sent > before.sent);
    }

    #[test]
    fn a_name_cannot_lead_elsewhere() {
        for name in ["", ".", "..", "../../../etc", "a/b", "no-such-interface"] {
            assert_eq!(counters(name), None, "{name}");
        }
    }
}
