//! TCP listeners and what the kernel knows of a connection.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use probe_net::tcp;

#[test]
fn a_listener_of_each_family_can_have_the_same_port() {
    let v4 = tcp::listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    let port = v4.local_addr().unwrap().port();
    match tcp::listen(SocketAddr::new("::".parse().unwrap(), port), 16) {
        Ok(v6) => assert_eq!(v6.local_addr().unwrap().port(), port),
        // The host has no IPv6: said so, and no reason to fail the other family.
        Err(error) => assert!(std::net::TcpListener::bind("[::1]:0").is_err(), "{error:?}"),
    }
    let taken = tcp::listen(v4.local_addr().unwrap(), 16).unwrap_err();
    assert!(matches!(taken.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::PermissionDenied));
}

#[test]
fn the_kernel_tells_what_it_knows_of_a_connection() {
    let listener = tcp::listen("127.0.0.1:0".parse().unwrap(), 16).unwrap();
    listener.set_nonblocking(false).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_nonblocking(false).unwrap();
    tcp::prepare(&client).unwrap();
    assert!(client.nodelay().unwrap());
    client.write_all(&[7; 1_000]).unwrap();
    server.read_exact(&mut [0; 1_000]).unwrap();
    server.write_all(&[8; 10]).unwrap();
    client.read_exact(&mut [0; 10]).unwrap();
    let info = tcp::info(&client);
    assert_eq!(info.is_some(), cfg!(target_os = "linux"));
    let Some(info) = info else { return };
    assert!(info.rtt.is_some_and(|rtt| !rtt.is_zero()), "{info:?}");
    assert!(info.mss_send.is_some_and(|mss| mss >= 536) && info.mss_advertised.is_some());
    assert_eq!(info.retransmissions, Some(0));
    assert_eq!((info.bytes_acked, info.bytes_received), (Some(1_001), Some(10)), "the SYN counts as one");
}
