//! The lab's routers behave as routers do: fragments, ICMP, mappings, refusals. Seen with plain sockets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{PATIENCE, PORT, echo, natted, rules, silent, udp_client, udp_server, up};
use tests::kernel::{Lab, in_namespaces};
use tests::middlebox::{Forwarding, NatKind, Topology};
use tests::rules::units::Span;

#[test]
fn fragments_pass_both_nats_both_ways() {
    in_namespaces("fragments_pass_both_nats_both_ways", || {
        let lab = Lab::start(&natted(), &[], 1).unwrap();
        let server = udp_server(&lab);
        for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
            let client = udp_client(&lab, target);
            let payload: Vec<u8> = (0..9000u32).map(|i| (i / 3) as u8).collect();
            echo(&client, &server, &payload);
        }
        assert!(lab.server().counter("Ip", "ReasmOKs").unwrap() >= 1, "it did come in fragments");
    });
}

#[test]
fn fragments_are_dropped_by_a_rule_and_nothing_else_is() {
    in_namespaces("fragments_are_dropped_by_a_rule_and_nothing_else_is", || {
        let rules = rules("[[rule]]\nname='f'\nmatch={fragment=true}\ndo={act='drop'}");
        let lab = Lab::start(&natted(), &rules, 1).unwrap();
        let server = udp_server(&lab);
        let client = udp_client(&lab, lab.target(PORT));
        client.send(&[1; 3000]).unwrap();
        assert!(silent(&server));
        echo(&client, &server, &[1; 1400]);
        assert_eq!(lab.truth().0.len(), 3, "three fragments");
    });
}

#[test]
fn a_router_says_what_is_too_big_and_a_black_hole_does_not() {
    in_namespaces("a_router_says_what_is_too_big_and_a_black_hole_does_not", || {
        for says_too_big in [true, false] {
            let lab = Lab::start(&Topology { path_mtu: 1300, says_too_big, ..natted() }, &[], 1).unwrap();
            let server = udp_server(&lab);
            for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
                let client = udp_client(&lab, target);
                let largest = if target.is_ipv6() { 1252 } else { 1272 };
                echo(&client, &server, &vec![1; largest]);
                // The first shows the path's MTU, or nothing; with it the kernel cuts the second.
                client.send(&vec![2; largest + 1]).unwrap();
                assert!(silent(&server));
                let _ = client.send(&vec![3; largest + 1]);
                if says_too_big {
                    let _ = client.send(&vec![3; largest + 1]);
                    assert_eq!(server.recv(&mut [0; 2000]).unwrap(), largest + 1, "{target}");
                    while !silent(&server) {}
                } else {
                    assert!(silent(&server), "{target}");
                }
            }
        }
    });
}

#[test]
fn nothing_bound_is_said_through_both_nats() {
    in_namespaces("nothing_bound_is_said_through_both_nats", || {
        let lab = Lab::start(&natted(), &[], 1).unwrap();
        for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
            let client = udp_client(&lab, target);
            client.send(b"anybody?").unwrap();
            let error = client.recv(&mut [0; 10]).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionRefused,
                "the error's quote is translated back: {target}"
            );
            let error = lab.client().run(|| TcpStream::connect(target)).unwrap().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn each_protocol_is_forwarded_for_itself() {
    in_namespaces("each_protocol_is_forwarded_for_itself", || {
        for refuses in [true, false] {
            let forwarding = Forwarding { udp: false, refuses, ..Forwarding::default() };
            let lab = Lab::start(&Topology { server_nat: Some(forwarding), ..natted() }, &[], 1).unwrap();
            let server = udp_server(&lab);
            let listener = lab.server().run(|| TcpListener::bind(("::", PORT))).unwrap().unwrap();
            lab.client().run(|| TcpStream::connect(lab.target(PORT))).unwrap().unwrap();
            listener.accept().unwrap();
            let client = udp_client(&lab, lab.target(PORT));
            client.send(b"hello").unwrap();
            if refuses {
                assert_eq!(client.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            } else {
                assert!(silent(&client));
            }
            assert!(silent(&server));
        }
    });
}

#[test]
fn an_idle_mapping_is_forgotten_at_its_time_and_not_before() {
    in_namespaces("an_idle_mapping_is_forgotten_at_its_time_and_not_before", || {
        let nat = NatKind { udp_idle: Span::secs(2), ..NatKind::default() };
        let lab = Lab::start(&Topology { client_nat: Some(nat), ..natted() }, &[], 1).unwrap();
        let server = udp_server(&lab);
        // Each gap has a flow of its own; the answer comes after the gap.
        for (gap, lives) in [(1.6, true), (2.4, false)] {
            let client = udp_client(&lab, lab.target(PORT));
            let (_, from) = up(&client, &server, b"hello");
            std::thread::sleep(Duration::from_secs_f64(gap));
            server.send_to(b"still there?", from).unwrap();
            assert_eq!(silent(&client), !lives, "after {gap} s");
        }
    });
}

#[test]
fn a_symmetric_nat_maps_by_destination_and_a_plain_one_does_not() {
    in_namespaces("a_symmetric_nat_maps_by_destination_and_a_plain_one_does_not", || {
        for symmetric in [false, true] {
            let nat = NatKind { symmetric, ..NatKind::default() };
            let lab = Lab::start(
                &Topology { client_nat: Some(nat), server_nat: None, side_host: true, ..Topology::default() },
                &[],
                1,
            )
            .unwrap();
            let server = udp_server(&lab);
            let side = lab.side().unwrap();
            let other = side.run(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap().unwrap();
            other.set_read_timeout(Some(PATIENCE)).unwrap();
            let client = lab.client().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            let mut seen = Vec::new();
            for (address, socket) in
                [(lab.target(PORT).ip(), &server), (IpAddr::V4(side.addresses().v4), &other)]
            {
                client.send_to(b"who am I?", (address, PORT)).unwrap();
                seen.push(socket.recv_from(&mut [0; 100]).unwrap().1.port());
            }
            assert_eq!(seen[0] != seen[1], symmetric);
            // A stranger's packet is filtered, whatever the mapping.
            let stranger = side.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
            stranger.send_to(b"let me in", (Topology::CLIENT_PUBLIC, seen[1])).unwrap();
            assert!(silent_any(&client));
        }
    });
}

fn silent_any(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(common::SILENCE)).unwrap();
    socket.recv_from(&mut [0; 100]).is_err()
}

#[test]
fn gateways_answer_pings_and_a_lan_that_is_down_silences_them() {
    in_namespaces("gateways_answer_pings_and_a_lan_that_is_down_silences_them", || {
        let lab = Lab::start(&natted(), &[], 1).unwrap();
        let ping = |to: IpAddr| {
            lab.client().run(|| {
                let (domain, protocol, request) = match to {
                    IpAddr::V4(_) => (socket2::Domain::IPV4, socket2::Protocol::ICMPV4, 8),
                    IpAddr::V6(_) => (socket2::Domain::IPV6, socket2::Protocol::ICMPV6, 128),
                };
                let socket = socket2::Socket::new(domain, socket2::Type::DGRAM, Some(protocol)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                socket.connect(&SocketAddr::new(to, 0).into()).unwrap();
                socket.send(&[request, 0, 0, 0, 0, 0, 0, 1, b'h', b'i']).unwrap();
                let mut socket = socket;
                let mut answer = [0; 100];
                socket.read(&mut answer).is_ok_and(|length| answer[8..length] == *b"hi")
            })
        };
        let gateways = lab.client().addresses().gateways();
        let public = IpAddr::V4(Topology::SERVER_PUBLIC);
        for address in [gateways[0], gateways[1], public] {
            assert!(ping(address).unwrap(), "{address}");
        }
        lab.set_rules(&rules("[[rule]]\nname='lan down'\nat='lan'\ndo={act='drop'}")).unwrap();
        assert!(!ping(gateways[0]).unwrap());
        lab.set_rules(&rules("[[rule]]\nname='path down'\ndo={act='drop'}")).unwrap();
        assert!(ping(gateways[0]).unwrap(), "the gateway is before the path");
        assert!(!ping(public).unwrap());
    });
}

#[test]
fn a_forged_reset_kills_a_connection_at_both_ends() {
    in_namespaces("a_forged_reset_kills_a_connection_at_both_ends", || {
        let rules = rules(
            "[[rule]]\nname='rst'\nmatch={protocol=['tcp'],content={text='forbidden'}}\ndo={act='reset',server=true}",
        );
        let lab = Lab::start(&natted(), &rules, 1).unwrap();
        let listener = lab.server().run(|| TcpListener::bind(("::", PORT))).unwrap().unwrap();
        let mut client = lab.client().run(|| TcpStream::connect(lab.target(PORT))).unwrap().unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        for stream in [&client, &accepted] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        client.write_all(b"allowed  ").unwrap();
        let mut nine = [0; 9];
        accepted.read_exact(&mut nine).unwrap();
        client.write_all(b"forbidden").unwrap();
        for stream in [&mut client, &mut accepted] {
            assert_eq!(stream.read(&mut nine).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        let sent =
            lab.client().counter("Tcp", "OutRsts").unwrap() + lab.server().counter("Tcp", "OutRsts").unwrap();
        assert_eq!(sent, 0, "neither end sent one");
    });
}

#[test]
fn a_refused_connection_is_refused_at_once() {
    in_namespaces("a_refused_connection_is_refused_at_once", || {
        let rules = rules(
            "[[rule]]\nname='refuse'\nmatch={direction='up',protocol=['tcp'],tcp_flags='S',tcp_flags_not='A'}\ndo={act='reset'}",
        );
        let lab = Lab::start(&natted(), &rules, 1).unwrap();
        let listener = lab.server().run(|| TcpListener::bind(("::", PORT))).unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        let error = lab.client().run(|| TcpStream::connect(lab.target(PORT))).unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        assert!(listener.accept().is_err(), "the listener never saw it");
    });
}
