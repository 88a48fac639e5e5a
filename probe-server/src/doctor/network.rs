//! What this host's network looks like: interfaces, their addresses, and the way out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::addresses::is_public;
use super::exec::run;

/// An interface and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) bridged: bool,
}

/// Where packets to everywhere go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interface: String,
    /// `None`: straight into the link.
    pub(super) gateway: Option<IpAddr>,
}

/// The host's network as the other checks read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    /// Without loopback, and without addresses that only the link knows.
    pub(super) interfaces: Vec<Interface>,
    pub(super) default_v4: Option<Route>,
    pub(super) default_v6: Option<Route>,
}

impl Network {
    pub(super) async fn read() -> Self {
        let mut interfaces: Vec<Interface> = Vec::new();
        for found in if_addrs::get_if_addrs().unwrap_or_default() {
            let address = found.ip();
            if found.is_loopback() || link_local(address) {
                continue;
            }
            match interfaces.iter_mut().find(|known| known.name == found.name) {
                Some(known) => known.addresses.push(address),
                None => interfaces.push(Interface {
                    bridged: ["bridge", "brport"].iter().any(|mark| {
                        cfg!(target_os = "linux")
                            && std::path::Path::new(&format!("/sys/class/net/{}/{mark}", found.name)).exists()
                    }),
                    name: found.name,
                    addresses: vec![address],
                }),
            }
        }
        let (default_v4, default_v6) = routes(&interfaces).await;
        Self { interfaces, default_v4, default_v6 }
    }

    /// The interfaces a client's packets arrive on: those of the default routes and those with a public address, or
    /// all where there is none.
    pub(super) fn facing(&self) -> Vec<&Interface> {
        let on_the_way = |interface: &&Interface| {
            let routes = [&self.default_v4, &self.default_v6].into_iter().flatten();
            routes.into_iter().any(|route| route.interface == interface.name)
                || interface.addresses.iter().any(|address| is_public(*address))
        };
        let facing: Vec<&Interface> = self.interfaces.iter().filter(on_the_way).collect();
        if facing.is_empty() { self.interfaces.iter().collect() } else { facing }
    }
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

async fn routes(interfaces: &[Interface]) -> (Option<Route>, Option<Route>) {
    if cfg!(target_os = "linux") {
        // Of this thread: a process's threads may live in several network namespaces.
        let read =
            |name: &str| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        (linux_v4(&read("route")), linux_v6(&read("ipv6_route")))
    } else if cfg!(target_os = "macos") {
        let v4 = run("route", &["-n", "get", "default"]).await.unwrap_or_default();
        let v6 = run("route", &["-n", "get", "-inet6", "default"]).await.unwrap_or_default();
        (macos(&v4), macos(&v6))
    } else if cfg!(windows) {
        let v4 = run("route", &["print", "-4", "0.0.0.0"]).await.unwrap_or_default();
        let v6 = run("route", &["print", "-6", "::"]).await.unwrap_or_default();
        (windows_v4(&v4, interfaces), windows_v6(&v6))
    } else {
        (None, None)
    }
}

/// `/proc/net/route`: of the default routes the one with the lowest metric.
fn linux_v4(table: &str) -> Option<Route> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, destination, gateway, flags, _, _, metric, mask, ..] = words.as_slice() else {
            return None;
        };
        let hex = |text: &str| u32::from_str_radix(text, 16).ok();
        const REJECT: u32 = 0x0200;
        if hex(destination)? != 0 || hex(mask)? != 0 || hex(flags)? & REJECT != 0 {
            return None;
        }
        let gateway = Ipv4Addr::from(hex(gateway)?.to_le_bytes());
        let gateway = (!gateway.is_unspecified()).then_some(IpAddr::V4(gateway));
        Some((metric.parse::<u32>().ok()?, Route { interface: (*name).to_owned(), gateway }))
    });
    rows.min_by_key(|(metric, _)| *metric).map(|(_, route)| route)
}

/// `/proc/net/ipv6_route`, likewise.
fn linux_v6(table: &str) -> Option<Route> {
    let rows = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, gateway, metric, _, _, flags, name] = words.as_slice() else {
            return None;
        };
        const REJECT: u32 = 0x0200;
        let reject = u32::from_str_radix(flags, 16).ok()? & REJECT != 0;
        if u128::from_str_radix(destination, 16).ok()? != 0 || *length != "00" || reject || *name == "lo" {
            return None;
        }
        let gateway = Ipv6Addr::from(u128::from_str_radix(gateway, 16).ok()?);
        let gateway = (!gateway.is_unspecified()).then_some(IpAddr::V6(gateway));
        Some((u32::from_str_radix(metric, 16).ok()?, Route { interface: (*name).to_owned(), gateway }))
    });
    rows.min_by_key(|(metric, _)| *metric).map(|(_, route)| route)
}

/// `route -n get default`.
fn macos(text: &str) -> Option<Route> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let interface = field("interface")?.to_owned();
    let gateway = field("gateway").and_then(|text| text.split('%').next()?.parse().ok());
    Some(Route { interface, gateway })
}

/// `route print -4 0.0.0.0`: rows of network, mask, gateway, own address and metric, whatever the language.
fn windows_v4(text: &str, interfaces: &[Interface]) -> Option<Route> {
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["0.0.0.0", "0.0.0.0", gateway, own, metric] = words.as_slice() else { return None };
        let own: IpAddr = own.parse().ok()?;
        let interface = interfaces.iter().find(|interface| interface.addresses.contains(&own))?.name.clone();
        Some((metric.parse::<u32>().ok()?, Route { interface, gateway: gateway.parse().ok() }))
    });
    rows.min_by_key(|(metric, _)| *metric).map(|(_, route)| route)
}

/// `route print -6 ::`: rows of interface number, metric, prefix and gateway.
fn windows_v6(text: &str) -> Option<Route> {
    let rows = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [number, metric, "::/0", gateway] = words.as_slice() else { return None };
        let gateway = gateway.parse().ok();
        Some((metric.parse::<u32>().ok()?, Route { interface: (*number).to_owned(), gateway }))
    });
    rows.min_by_key(|(metric, _)| *metric).map(|(_, route)| route)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_tables_give_the_default_route_of_the_lowest_metric() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                  eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                  eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let route = linux_v4(v4).unwrap();
        assert_eq!((route.interface.as_str(), route.gateway), ("eth0", Some("192.168.1.1".parse().unwrap())));
        assert_eq!(linux_v4("Iface\tDestination\nnonsense"), None);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             {zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 00200200       lo\n"
        );
        let route = linux_v6(&v6).unwrap();
        assert_eq!((route.interface.as_str(), route.gateway), ("eth0", Some("fe80::1".parse().unwrap())));
    }

    #[test]
    fn macos_and_windows_say_theirs() {
        let mac = "   route to: default\ndestination: default\n       mask: default\n    gateway: 192.168.1.1\n  \
                   interface: en0\n      flags: <UP,GATEWAY,DONE,STATIC,PRCLONING,GLOBAL>\n";
        let route = macos(mac).unwrap();
        assert_eq!((route.interface.as_str(), route.gateway), ("en0", Some("192.168.1.1".parse().unwrap())));
        assert_eq!(macos("route: writing to routing socket: not in table\n"), None);
        let interfaces = [Interface {
            name: "Ethernet".to_owned(),
            addresses: vec!["192.168.1.20".parse().unwrap()],
            bridged: false,
        }];
        let windows = "IPv4-Routentabelle\nAktive Routen:\n     Netzwerkziel    Netzwerkmaske          Gateway\n          \
                       0.0.0.0          0.0.0.0      192.168.1.1     192.168.1.20     25\n";
        let route = windows_v4(windows, &interfaces).unwrap();
        assert_eq!(
            (route.interface.as_str(), route.gateway),
            ("Ethernet", Some("192.168.1.1".parse().unwrap()))
        );
        let route = windows_v6(" 12    281 ::/0                     fe80::1\n").unwrap();
        assert_eq!(route.gateway, Some("fe80::1".parse().unwrap()));
    }
}
