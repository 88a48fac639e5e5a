//! NAT-PMP (RFC 6886): the router's external address, asked for (section 3.2).

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use tokio::net::UdpSocket;

/// Where NAT-PMP and PCP listen on the gateway.
pub(super) const PORT: u16 = 5351;
/// RFC 6886 section 3.1 doubles from 250 ms; three of nine tries are what a check has time for.
const PATIENCE: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_millis(1000)];
const REQUEST: [u8; 2] = [0, 0];

/// The external address that the gateway tells.
pub(super) async fn external_address(own: Ipv4Addr, gateway: Ipv4Addr) -> Option<Ipv4Addr> {
    ask(own, gateway, &REQUEST, decode).await
}

/// Sends `request` to the gateway until an answer can be read.
pub(super) async fn ask<T>(
    own: Ipv4Addr,
    gateway: Ipv4Addr,
    request: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Option<T> {
    let socket = UdpSocket::bind(SocketAddrV4::new(own, 0)).await.ok()?;
    socket.connect(SocketAddrV4::new(gateway, PORT)).await.ok()?;
    let mut buffer = [0; 1100];
    for patience in PATIENCE {
        // An ICMP error of the last try may show here; the next try is made all the same.
        let _ = socket.send(request).await;
        let answer = tokio::time::timeout(patience, socket.recv(&mut buffer)).await;
        if let Ok(Ok(length)) = answer
            && let Some(answer) = decode(&buffer[..length])
        {
            return Some(answer);
        }
    }
    None
}

/// Version 0, opcode 128, result 0, seconds of epoch, address.
fn decode(answer: &[u8]) -> Option<Ipv4Addr> {
    match answer {
        [0, 128, 0, 0, _, _, _, _, a, b, c, d] => Some(Ipv4Addr::new(*a, *b, *c, *d)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_good_answer_counts() {
        let answer = [0, 128, 0, 0, 0, 0, 1, 2, 203, 0, 113, 9];
        assert_eq!(decode(&answer), Some(Ipv4Addr::new(203, 0, 113, 9)));
        assert_eq!(decode(&answer[..11]), None);
        assert_eq!(decode(&[0, 128, 0, 3, 0, 0, 1, 2, 203, 0, 113, 9]), None, "network failure");
        assert_eq!(decode(&[0, 0]), None, "our own request come back");
        assert_eq!(decode(&[]), None);
    }
}
