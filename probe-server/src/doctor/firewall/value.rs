//! Addresses, ports and names as rules write them.

use std::net::IpAddr;

use super::model::{Family, Name, Ranges};

/// An address as a number of its family's width.
pub(in crate::doctor) fn number(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(v4) => (Family::V4, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (Family::V6, u128::from(v6)),
    }
}

/// The address that a number stands for.
pub(in crate::doctor) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

/// First and last address of `address/length`.
pub(in crate::doctor) fn prefix(address: IpAddr, length: u32) -> Option<(Family, (u128, u128))> {
    let (family, value) = number(address);
    let width = if family == Family::V4 { 32 } else { 128 };
    let host_bits = width - Some(length).filter(|length| *length <= width)?;
    let host = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
    Some((family, (value & !host, value | host)))
}

/// `10.0.0.1`, `10.0.0.0/8`, `10.0.0.0/255.0.0.0`, `10.0.0.1-10.0.0.9`, and the same in IPv6.
pub(in crate::doctor) fn addresses(text: &str) -> Option<(Family, (u128, u128))> {
    if let Some((low, high)) = text.split_once('-') {
        let (family, low) = number(low.trim().parse().ok()?);
        let (same, high) = number(high.trim().parse().ok()?);
        return (family == same && low <= high).then_some((family, (low, high)));
    }
    let (address, length) = match text.split_once('/') {
        None => (text.parse::<IpAddr>().ok()?, None),
        Some((address, length)) => (address.parse::<IpAddr>().ok()?, Some(length)),
    };
    let width = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => width,
        Some(length) => match length.parse::<u32>() {
            Ok(length) => length,
            Err(_) => {
                let (family, mask) = number(length.parse().ok()?);
                let ones = mask << (128 - if family == Family::V4 { 32 } else { 128 });
                let length = ones.leading_ones();
                // A mask with holes is no prefix.
                (ones.checked_shl(length).unwrap_or(0) == 0 && (family == Family::V4) == address.is_ipv4())
                    .then_some(length)?
            }
        },
    };
    prefix(address, length)
}

/// `8886`, `8880:8890`, `8880-8890`, or a list of them with commas.
pub(in crate::doctor) fn ports(text: &str) -> Option<Ranges> {
    let mut out = Vec::new();
    for part in text.split(',') {
        let (low, high) = part.split_once([':', '-']).unwrap_or((part, part));
        let low = if low.is_empty() { 0 } else { low.trim().parse::<u16>().ok()? };
        let high = if high.is_empty() { u16::MAX } else { high.trim().parse::<u16>().ok()? };
        out.push((u128::from(low), u128::from(high)));
    }
    Some(Ranges::new(out))
}

/// An IP protocol's number, from its number or name.
pub(in crate::doctor) fn protocol(text: &str) -> Option<u128> {
    if let Ok(number) = text.parse::<u8>() {
        return Some(number.into());
    }
    Some(match text.to_ascii_lowercase().as_str() {
        "icmp" => 1,
        "igmp" => 2,
        "ipencap" | "ipip" => 4,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "icmpv6" | "ipv6-icmp" | "icmp6" => 58,
        "ospf" => 89,
        "pim" => 103,
        "vrrp" => 112,
        "sctp" => 132,
        "udplite" => 136,
        _ => return None,
    })
}

/// An interface's name where `wild` (`*` in nftables, `+` in iptables) at its end stands for anything.
pub(super) fn interface(text: &str, wild: char) -> Name {
    match text.strip_suffix(wild) {
        Some(stem) => Name::Prefix(stem.to_owned()),
        None => Name::Exact(text.to_owned()),
    }
}

/// A range of addresses in the shortest usual form.
pub(in crate::doctor) fn show(family: Family, (low, high): (u128, u128)) -> String {
    if low == high {
        return address(family, low).to_string();
    }
    let size = high - low;
    // All of a prefix: its size is a power of two, and it starts on its own boundary.
    if (size & size.wrapping_add(1)) == 0 && low & size == 0 {
        let width = if family == Family::V4 { 32 } else { 128 };
        return format!("{}/{}", address(family, low), width - (128 - size.leading_zeros()));
    }
    format!("{} to {}", address(family, low), address(family, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_forms_are_read_and_shown() {
        for (text, shown) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.0/255.255.0.0", "10.0.0.0/16"),
            ("10.0.0.1-10.0.0.9", "10.0.0.1 to 10.0.0.9"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("fe80::1", "fe80::1"),
        ] {
            let (family, range) = addresses(text).unwrap();
            assert_eq!(show(family, range), shown, "{text}");
        }
        for bad in
            ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/255.0.255.0", "::/129", "10.0.0.9-10.0.0.1", "1.2.3.4/x"]
        {
            assert_eq!(addresses(bad), None, "{bad}");
        }
    }

    #[test]
    fn port_forms_are_read() {
        assert_eq!(ports("22,8880:8890").unwrap().as_slice(), [(22, 22), (8880, 8890)]);
        assert_eq!(ports("8880-8890").unwrap().as_slice(), [(8880, 8890)]);
        assert_eq!(ports(":1023").unwrap().as_slice(), [(0, 1023)]);
        assert_eq!(ports("1024:").unwrap().as_slice(), [(1024, 65535)]);
        assert_eq!(ports("http"), None);
        assert_eq!(ports("70000"), None);
    }
}
