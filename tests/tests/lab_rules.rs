//! The rules that well-known tools do not look at, seen with plain sockets on a real kernel: what each does to the
//! packets that it matches, and that it leaves the others alone.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{PATIENCE, PORT, echo, natted, rules, silent, udp_client, udp_server, up};
use nix::sys::socket::{setsockopt, sockopt};
use tests::kernel::{Lab, in_namespaces};
use tests::middlebox::{NatKind, Topology};
use tests::rules::Direction;
use tests::rules::truth::Deed;
use tests::rules::units::Span;

/// A lab with these rules, and a socket at either end.
fn joined(text: &str) -> (Lab, UdpSocket, UdpSocket) {
    let lab = Lab::start(&natted(), &rules(text), 1).unwrap();
    let server = udp_server(&lab);
    let client = udp_client(&lab, lab.target(PORT));
    (lab, client, server)
}

/// Sends numbered datagrams up and gives the numbers that arrive, in the order in which they do.
fn numbers(client: &UdpSocket, server: &UdpSocket, count: u8, gap: Duration) -> Vec<u8> {
    for n in 0..count {
        client.send(&[n; 100]).unwrap();
        std::thread::sleep(gap);
    }
    let mut arrived = Vec::new();
    while !silent_after(server, &mut arrived) {}
    arrived
}

/// Reads one datagram's number; whether none came.
fn silent_after(server: &UdpSocket, arrived: &mut Vec<u8>) -> bool {
    server.set_read_timeout(Some(common::SILENCE)).unwrap();
    let mut buffer = [0; 2000];
    let came = server.recv(&mut buffer);
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    arrived.extend(came.as_ref().ok().map(|_| buffer[0]));
    came.is_err()
}

#[test]
fn copies_come_twice_and_what_is_held_back_is_overtaken() {
    in_namespaces("copies_come_twice_and_what_is_held_back_is_overtaken", || {
        let (_lab, client, server) = joined(
            "[[rule]]\nname='twice'\nmatch={direction='up'}\ndo={act='duplicate',share=1.0,after='1ms'}",
        );
        let mut arrived = numbers(&client, &server, 5, Duration::from_millis(5));
        arrived.sort_unstable();
        assert_eq!(arrived, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        let (lab, client, server) = joined(
            "[[rule]]\nname='late'\nmatch={direction='up',packets_over=2,packets_upto=3,count='up'}\ndo={act='reorder',share=1.0,by='150ms'}",
        );
        let arrived = numbers(&client, &server, 6, Duration::from_millis(5));
        assert_eq!(arrived, [0, 1, 3, 4, 5, 2]);
        assert_eq!(lab.with_truth(|t| t.count("late", Deed::Delayed, Direction::Up)), Some(1));
    });
}

#[test]
fn a_gate_holds_everything_and_loses_nothing() {
    in_namespaces("a_gate_holds_everything_and_loses_nothing", || {
        let (lab, client, server) =
            joined("[[rule]]\nname='scan'\ndo={act='gate',shut={period='1000h',length='700ms',first='0s'}}");
        for n in 0..20 {
            client.send(&[n; 100]).unwrap();
        }
        let mut buffer = [0; 200];
        for n in 0..20 {
            assert_eq!((server.recv(&mut buffer).unwrap(), buffer[0]), (100, n));
        }
        let held = lab.with_truth(|t| t.count("scan", Deed::Delayed, Direction::Up)).unwrap();
        assert!(held > 0, "some of them came while it was shut");
    });
}

#[test]
fn rewritten_bytes_arrive_and_damaged_ones_do_not() {
    in_namespaces("rewritten_bytes_arrive_and_damaged_ones_do_not", || {
        for kept in [false, true] {
            let (lab, client, server) = joined(&format!(
                "[[rule]]\nname='alter'\nmatch={{direction='up'}}\ndo={{act='rewrite',at=4,hex='aa bb',keep_checksum={kept}}}"
            ));
            if kept {
                client.send(&[1; 8]).unwrap();
                assert!(silent(&server));
                assert_eq!(lab.server().counter("Udp", "InCsumErrors").unwrap(), 1);
            } else {
                assert_eq!(up(&client, &server, &[1; 8]).0, [1, 1, 1, 1, 0xaa, 0xbb, 1, 1]);
            }
        }
    });
}

#[test]
fn marks_are_cleared_and_dropped_by_what_they_are() {
    in_namespaces("marks_are_cleared_and_dropped_by_what_they_are", || {
        let (lab, client, server) = joined(
            "[[rule]]\nname='drop EF'\nmatch={direction='up',dscp=[46]}\ndo={act='drop'}\n\
             [[rule]]\nname='clear'\nmatch={direction='up',dscp_marked=true}\ndo={act='mark',dscp=0}\n\
             [[rule]]\nname='bleach'\nmatch={direction='up',ecn=[1,2]}\ndo={act='mark',ecn=0}",
        );
        let altered = |rule: &str| lab.with_truth(|t| t.count(rule, Deed::Altered, Direction::Up)).unwrap();
        for (tos, arrives, cleared, bleached) in
            [(0, true, 0, 0), (46 << 2, false, 0, 0), (10 << 2, true, 1, 0), (2, true, 1, 1)]
        {
            setsockopt(&client, sockopt::Ipv4Tos, &tos).unwrap();
            client.send(&[7; 50]).unwrap();
            if arrives {
                assert_eq!(server.recv(&mut [0; 100]).unwrap(), 50, "TOS {tos}");
            } else {
                assert!(silent(&server), "TOS {tos}");
            }
            assert_eq!((altered("clear"), altered("bleach")), (cleared, bleached), "TOS {tos}");
        }
    });
}

#[test]
fn flows_die_by_packets_bytes_and_age_and_fresh_ones_live() {
    in_namespaces("flows_die_by_packets_bytes_and_age_and_fresh_ones_live", || {
        let (lab, client, server) = joined(
            "[[rule]]\nname='kill'\nmatch={protocol=['udp'],packets_over=5,count='up'}\ndo={act='drop'}",
        );
        assert_eq!(numbers(&client, &server, 9, Duration::ZERO), [0, 1, 2, 3, 4]);
        echo(&udp_client(&lab, lab.target(PORT)), &server, b"a fresh one");
        // 128 bytes of IP each: the fifth passes 600.
        lab.set_rules(&rules(
            "[[rule]]\nname='kill'\nmatch={protocol=['udp'],bytes_over='600',count='up'}\ndo={act='drop'}",
        ))
        .unwrap();
        let client = udp_client(&lab, lab.target(PORT));
        assert_eq!(numbers(&client, &server, 9, Duration::ZERO), [0, 1, 2, 3]);
        lab.set_rules(&rules(
            "[[rule]]\nname='kill'\nmatch={protocol=['udp'],age_over='600ms'}\ndo={act='drop'}",
        ))
        .unwrap();
        let client = udp_client(&lab, lab.target(PORT));
        echo(&client, &server, b"young");
        std::thread::sleep(Duration::from_millis(700));
        client.send(b"old").unwrap();
        assert!(silent(&server));
        echo(&udp_client(&lab, lab.target(PORT)), &server, b"a fresh one");
    });
}

#[test]
fn a_penalty_falls_on_fresh_flows_too_and_is_over_in_time() {
    in_namespaces("a_penalty_falls_on_fresh_flows_too_and_is_over_in_time", || {
        let (lab, client, server) = joined(
            "[[rule]]\nname='trigger'\nmatch={protocol=['udp'],content={text='attack'}}\ndo={act='switch',name='box',hold='2s'}\n\
             [[rule]]\nname='penalty'\nmatch={protocol=['udp'],switch='box'}\ndo={act='drop'}",
        );
        echo(&client, &server, b"hello");
        client.send(b"attack").unwrap();
        let fresh = udp_client(&lab, lab.target(PORT));
        fresh.send(b"hello").unwrap();
        assert!(silent(&server), "neither the trigger nor a fresh flow");
        std::thread::sleep(Duration::from_secs(2));
        echo(&fresh, &server, b"hello again");
    });
}

#[test]
fn what_looks_random_is_told_from_text_and_tls_from_other_bytes() {
    in_namespaces("what_looks_random_is_told_from_text_and_tls_from_other_bytes", || {
        let (lab, client, server) = joined(
            "[[rule]]\nname='random'\nmatch={protocol=['udp'],entropy_over=0.9,printable=false}\ndo={act='drop'}",
        );
        let text: Vec<u8> = b"The quick brown fox jumps over the lazy dog. ".repeat(5);
        echo(&client, &server, &text);
        // A permutation of all bytes: as even as can be.
        let even: Vec<u8> = (0..=255u8).map(|n| n.wrapping_mul(167).wrapping_add(13)).collect();
        client.send(&even).unwrap();
        assert!(silent(&server));
        lab.set_rules(&rules(
            "[[rule]]\nname='tls'\nmatch={protocol=['tcp'],tls={},sticky=true}\ndo={act='reset',server=true}",
        ))
        .unwrap();
        let listener = lab.server().run(|| TcpListener::bind(("::", PORT))).unwrap().unwrap();
        for (hello, lives) in [(&b"neither TLS nor HTTP"[..], true), (&client_hello()[..], false)] {
            let mut stream = lab.client().run(|| TcpStream::connect(lab.target(PORT))).unwrap().unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            accepted.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(hello).unwrap();
            let mut first = [0; 10];
            if lives {
                accepted.read_exact(&mut first).unwrap();
                assert_eq!(first, hello[..10]);
            } else {
                assert_eq!(stream.read(&mut first).unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
        }
    });
}

/// What rustls says first.
fn client_hello() -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "www.example.com".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_forgotten_mapping_gets_another_port_and_lets_nothing_in() {
    in_namespaces("a_forgotten_mapping_gets_another_port_and_lets_nothing_in", || {
        let nat = NatKind { keeps_ports: false, ..NatKind::default() };
        let lab = Lab::start(&Topology { client_nat: Some(nat), ..natted() }, &[], 1).unwrap();
        let server = udp_server(&lab);
        let client = udp_client(&lab, lab.target(PORT));
        let before = echo(&client, &server, b"hello");
        lab.forget_mappings();
        server.send_to(b"still there?", before).unwrap();
        assert!(silent(&client));
        assert_ne!(echo(&client, &server, b"here").port(), before.port());
    });
}

#[test]
fn a_filter_says_that_it_forbids() {
    in_namespaces("a_filter_says_that_it_forbids", || {
        let (_lab, client, server) = joined(
            "[[rule]]\nname='filter'\nmatch={direction='up',protocol=['udp'],size_over='500'}\ndo={act='icmp',code='admin-prohibited'}",
        );
        echo(&client, &server, &[1; 400]);
        client.send(&[1; 600]).unwrap();
        let error = client.recv(&mut [0; 10]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
    });
}

#[test]
fn a_hairpin_shows_the_router_or_the_client_itself() {
    in_namespaces("a_hairpin_shows_the_router_or_the_client_itself", || {
        for (hairpin, client_nat) in [
            (tests::middlebox::Hairpin::Public, Some(NatKind::default())),
            (tests::middlebox::Hairpin::Private, None),
        ] {
            let topology = Topology { ipv6: false, hairpin: Some(hairpin), client_nat, ..natted() };
            let lab = Lab::start(&topology, &[], 1).unwrap();
            let (server, client) = (udp_server(&lab), udp_client(&lab, lab.target(PORT)));
            let seen = echo(&client, &server, b"hello").ip().to_canonical();
            let expected = if hairpin == tests::middlebox::Hairpin::Public {
                Topology::SERVER_PUBLIC
            } else {
                topology.client().v4
            };
            assert_eq!(seen, expected);
        }
    });
}

#[test]
fn an_idle_timer_of_20_seconds_forgets_at_20_seconds() {
    in_namespaces("an_idle_timer_of_20_seconds_forgets_at_20_seconds", || {
        let nat = NatKind { udp_idle: Span::secs(20), ..NatKind::default() };
        let lab = Lab::start(&Topology { client_nat: Some(nat), ..natted() }, &[], 1).unwrap();
        let server = udp_server(&lab);
        let (short, long) = (udp_client(&lab, lab.target(PORT)), udp_client(&lab, lab.target(PORT)));
        let flows = [up(&short, &server, b"short").1, up(&long, &server, b"long").1];
        std::thread::sleep(Duration::from_secs(19));
        server.send_to(b"still there?", flows[0]).unwrap();
        assert_eq!(short.recv(&mut [0; 100]).unwrap(), 12, "after 19 s");
        std::thread::sleep(Duration::from_millis(1500));
        server.send_to(b"still there?", flows[1]).unwrap();
        assert!(silent(&long), "after 20.5 s");
    });
}
