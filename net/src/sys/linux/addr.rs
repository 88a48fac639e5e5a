//! Socket addresses in the kernel's layout (`sockaddr_in`, `sockaddr_in6`), without `unsafe`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Room for a `sockaddr_in6`, the longer of the two.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
pub(super) struct Name(pub(super) [u8; 28]);

const V4_LEN: usize = 16;

/// Writes `to` as a socket of the family `v6` wants it (v4-mapped where needed); answers its length.
pub(super) fn encode(to: &SocketAddr, v6: bool, name: &mut Name) -> usize {
    let bytes = &mut name.0;
    bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
    let (ip, flow, scope) = match to {
        SocketAddr::V4(v4) if !v6 => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            bytes[8..V4_LEN].fill(0);
            return V4_LEN;
        }
        SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0, 0),
        SocketAddr::V6(v6) => (*v6.ip(), v6.flowinfo(), v6.scope_id()),
    };
    bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    bytes[4..8].copy_from_slice(&flow.to_be_bytes());
    bytes[8..24].copy_from_slice(&ip.octets());
    bytes[24..28].copy_from_slice(&scope.to_ne_bytes());
    bytes.len()
}

/// Reads an address the kernel wrote; v4-mapped addresses come out as IPv4. `None` for any other family.
pub(super) fn decode(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(array(bytes, 0)?));
    let port = u16::from_be_bytes(array(bytes, 2)?);
    match family {
        libc::AF_INET => Some(SocketAddr::from((Ipv4Addr::from(array::<4>(bytes, 4)?), port))),
        libc::AF_INET6 => {
            let flow = u32::from_be_bytes(array(bytes, 4)?);
            let ip = Ipv6Addr::from(array::<16>(bytes, 8)?);
            let scope = u32::from_ne_bytes(array(bytes, 24)?);
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddr::from((v4, port)),
                None => SocketAddr::V6(SocketAddrV6::new(ip, port, flow, scope)),
            })
        }
        _ => None,
    }
}

/// The address as one of the two plain families.
pub(super) fn plain(ip: Ipv6Addr) -> IpAddr {
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
}

/// `N` bytes at `at`, where there are as many.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(ip: IpAddr, port: u16, mapped: bool) {
            let to = SocketAddr::new(ip, port);
            let v6 = mapped || ip.is_ipv6();
            let mut name = Name::default();
            let len = encode(&to, v6, &mut name);
            prop_assert_eq!(len, if v6 { 28 } else { 16 });
            prop_assert_eq!(decode(&name.0[..len]), Some(SocketAddr::new(ip.to_canonical(), port)));
        }

        #[test]
        fn any_bytes_decode_without_a_panic(bytes: Vec<u8>) {
            if let Some(addr) = decode(&bytes) {
                let least = if addr.is_ipv4() { 8 } else { 28 };
                prop_assert!(bytes.len() >= least);
            }
        }
    }

    #[test]
    fn a_link_local_scope_survives() {
        let to: SocketAddr = "[fe80::1%7]:99".parse().unwrap();
        let mut name = Name::default();
        let len = encode(&to, true, &mut name);
        assert_eq!(decode(&name.0[..len]), Some(to));
    }
}
