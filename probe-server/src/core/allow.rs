//! Which sources may use the listener: `--allow CIDR`.

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// A network in CIDR notation (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    ip: IpAddr,
    bits: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is not a network: write 192.0.2.0/24, 2001:db8::/32 or a single address")]
pub struct CidrError(String);

impl Cidr {
    /// Whether an address lies in it. IPv4 mapped into IPv6 counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.ip, ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(u32::from(a)), u128::from(u32::from(b)), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let shift = width - u32::from(self.bits);
        ours.checked_shr(shift).unwrap_or(0) == theirs.checked_shr(shift).unwrap_or(0)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let wrong = || CidrError(text.to_owned());
        let (ip, bits) = match text.trim().split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text.trim(), None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let max = if ip.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(max), |b| b.parse::<u8>().map_err(|_| wrong()))?;
        if bits > max {
            return Err(wrong());
        }
        Ok(Self { ip, bits })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

/// The sources that may use the listener; an empty list lets everybody in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowList(pub Vec<Cidr>);

impl AllowList {
    /// Whether this address may.
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.0.is_empty() || self.0.iter().any(|cidr| cidr.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_edges_of_a_network_are_exact() {
        let cidr: Cidr = "192.0.2.64/26".parse().unwrap();
        assert!(cidr.contains(ip("192.0.2.64")) && cidr.contains(ip("192.0.2.127")));
        assert!(!cidr.contains(ip("192.0.2.63")) && !cidr.contains(ip("192.0.2.128")));
        assert!(cidr.contains(ip("::ffff:192.0.2.65")));
        assert!(!cidr.contains(ip("2001:db8::1")));
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains(ip("255.255.255.255")));
        assert!("::/0".parse::<Cidr>().unwrap().contains(ip("2001:db8::1")));
        let host: Cidr = "2001:db8::1".parse().unwrap();
        assert!(host.contains(ip("2001:db8::1")) && !host.contains(ip("2001:db8::2")));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "a", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/-1", "::/129", "192.0.2/24"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_list_lets_everybody_in() {
        assert!(AllowList::default().allows(ip("192.0.2.1")));
        let list = AllowList(vec!["192.0.2.0/24".parse().unwrap()]);
        assert!(list.allows(ip("192.0.2.1")) && !list.allows(ip("198.51.100.1")));
    }
}
