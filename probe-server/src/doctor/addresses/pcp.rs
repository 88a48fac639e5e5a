//! PCP (RFC 6887): is a server there? Asked with ANNOUNCE (section 14.1), which changes nothing.

use std::net::Ipv4Addr;

use super::natpmp;

const VERSION: u8 = 2;
const ANNOUNCE: u8 = 0;
const RESPONSE: u8 = 0x80;

/// Whether the gateway speaks PCP.
pub(super) async fn is_there(own: Ipv4Addr, gateway: Ipv4Addr) -> bool {
    natpmp::ask(own, gateway, &request(own), decode).await.is_some()
}

/// The common request header (section 7.1): version, opcode, reserved, lifetime, the client's address.
fn request(own: Ipv4Addr) -> [u8; 24] {
    let mut out = [0; 24];
    out[0] = VERSION;
    out[1] = ANNOUNCE;
    out[8..].copy_from_slice(&own.to_ipv6_mapped().octets());
    out
}

/// The common response header (section 7.2) of 24 bytes; any result code shows that a server is there.
fn decode(answer: &[u8]) -> Option<()> {
    (answer.len() >= 24 && answer[0] == VERSION && answer[1] == RESPONSE | ANNOUNCE).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_the_rfc_draws_it() {
        let request = request(Ipv4Addr::new(192, 168, 1, 20));
        assert_eq!(request[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(request[8..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 20]);
    }

    #[test]
    fn only_a_pcp_answer_counts() {
        let mut answer = [0; 24];
        answer[..2].copy_from_slice(&[2, 0x80]);
        assert_eq!(decode(&answer), Some(()));
        assert_eq!(decode(&answer[..23]), None);
        assert_eq!(decode(&[0, 0x80, 0, 1, 0, 0, 0, 0]), None, "NAT-PMP's \"unsupported version\"");
        assert_eq!(decode(&request(Ipv4Addr::LOCALHOST)), None, "our own request come back");
    }
}
