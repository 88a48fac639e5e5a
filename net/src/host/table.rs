//! The kernel's routing tables as text, `/proc/net/route` and `/proc/net/ipv6_route` (Linux).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The next hop towards `target`, of the routes over `interface` where that is known; `None` where the target is on
/// the link, or the platform has no such tables.
pub(super) fn gateway_towards(target: IpAddr, interface: Option<&str>) -> Option<IpAddr> {
    if !cfg!(target_os = "linux") || target.is_loopback() {
        return None;
    }
    match target {
        IpAddr::V4(target) => {
            let table = std::fs::read_to_string("/proc/net/route").ok()?;
            gateway_v4(&table, target, interface).map(IpAddr::V4)
        }
        IpAddr::V6(target) => {
            let table = std::fs::read_to_string("/proc/net/ipv6_route").ok()?;
            gateway_v6(&table, target, interface).map(IpAddr::V6)
        }
    }
}

/// Flags of a route that is up (`RTF_UP`) and that rejects (`RTF_REJECT`).
const UP: u32 = 1;
const REJECT: u32 = 0x200;

/// Of the routes that cover the target, the longest prefix wins, then the smallest metric.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    prefix: u32,
    closeness: u32,
}

fn gateway_v4(table: &str, target: Ipv4Addr, interface: Option<&str>) -> Option<Ipv4Addr> {
    let line = |line: &str| {
        let mut fields = line.split_whitespace();
        let name = fields.next()?;
        // Addresses stand as the hexadecimal of the word as it lies in memory.
        let address = |text: &str| Some(u32::from_str_radix(text, 16).ok()?.to_ne_bytes());
        let destination = u32::from_be_bytes(address(fields.next()?)?);
        let gateway = Ipv4Addr::from(address(fields.next()?)?);
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        let metric: u32 = fields.nth(2)?.parse().ok()?;
        let mask = u32::from_be_bytes(address(fields.next()?)?);
        let covers = u32::from(target) & mask == destination && flags & (UP | REJECT) == UP;
        let ours = interface.is_none_or(|wanted| wanted == name);
        let rank = Rank { prefix: mask.count_ones(), closeness: !metric };
        (covers && ours).then_some((rank, gateway))
    };
    let (_, gateway) = table.lines().skip(1).filter_map(line).max_by_key(|(rank, _)| *rank)?;
    (!gateway.is_unspecified()).then_some(gateway)
}

fn gateway_v6(table: &str, target: Ipv6Addr, interface: Option<&str>) -> Option<Ipv6Addr> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, prefix, _, _, gateway, metric, _, _, flags, name] = fields[..] else { return None };
        let address = |text: &str| u128::from_str_radix(text, 16).ok();
        let word = |text: &str| u32::from_str_radix(text, 16).ok();
        let prefix = word(prefix).filter(|&prefix| prefix <= 128)?;
        let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
        let flags = word(flags)?;
        let covers = u128::from(target) & mask == address(destination)? && flags & (UP | REJECT) == UP;
        let ours = interface.is_none_or(|wanted| wanted == name);
        let rank = Rank { prefix, closeness: !word(metric)? };
        (covers && ours).then_some((rank, Ipv6Addr::from(address(gateway)?)))
    };
    let (_, gateway) = table.lines().filter_map(line).max_by_key(|(rank, _)| *rank)?;
    (!gateway.is_unspecified()).then_some(gateway)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Written as a little-endian machine shows it.
    const V4: &str = "\
Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
wlan0\t00000000\t0102A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
tun0\t0000000A\t0100080A\t0003\t0\t0\t50\t000000FF\t0\t0\t0
eth0\t0000630A\t00000000\t0200\t0\t0\t0\t0000FFFF\t0\t0\t0
";
    const V6: &str = "\
20010db8000000000000000000000000 20 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[cfg(target_endian = "little")]
    #[test]
    fn the_longest_prefix_then_the_smallest_metric_wins() {
        let gateway = |target: &str, interface| {
            gateway_v4(V4, target.parse().unwrap(), interface).map(|gateway| gateway.to_string())
        };
        assert_eq!(gateway("8.8.8.8", None).as_deref(), Some("192.168.1.1"));
        assert_eq!(gateway("8.8.8.8", Some("wlan0")).as_deref(), Some("192.168.2.1"));
        assert_eq!(gateway("192.168.1.77", None), None, "on the link");
        assert_eq!(gateway("10.1.2.3", None).as_deref(), Some("10.8.0.1"));
        assert_eq!(gateway("10.99.2.3", None).as_deref(), Some("10.8.0.1"), "a rejecting route is none");
        assert_eq!(gateway("8.8.8.8", Some("eth7")), None);
    }

    #[test]
    fn ipv6_likewise() {
        let gateway =
            |target: &str| gateway_v6(V6, target.parse().unwrap(), None).map(|gateway| gateway.to_string());
        assert_eq!(gateway("2a00::1").as_deref(), Some("fe80::1"));
        assert_eq!(gateway("2001:db8::1"), None, "on the link");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "[0-9a-f \\t\\n]{0,400}", v4: Ipv4Addr, v6: Ipv6Addr) {
            let found = gateway_v4(&text, v4, None).map(|gateway| gateway.is_unspecified());
            prop_assert_ne!(found, Some(true));
            let found = gateway_v6(&text, v6, None).map(|gateway| gateway.is_unspecified());
            prop_assert_ne!(found, Some(true));
        }
    }
}
