//! The real-kernel lab carries what hosts send, unharmed, and drops what its rules say: seen with plain sockets.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use common::{PORT, echo, natted, rules, silent, udp_client, udp_server};
use tests::kernel::{Lab, in_namespaces};
use tests::middlebox::{Kind, Topology};
use tests::rules::Direction;
use tests::rules::truth::Deed;

#[test]
fn udp_and_tcp_pass_two_nats_and_ipv6_with_right_checksums() {
    in_namespaces("udp_and_tcp_pass_two_nats_and_ipv6_with_right_checksums", || {
        let lab = Lab::start(&natted(), &[], 1).unwrap();
        let server = udp_server(&lab);
        let listener = lab.server().run(|| TcpListener::bind(("::", PORT))).unwrap().unwrap();
        for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
            let client = udp_client(&lab, target);
            for size in [0, 1, 63, 1200, 1452] {
                let from = echo(&client, &server, &vec![size as u8; size]);
                if target.is_ipv4() {
                    assert_eq!(from.ip().to_canonical(), Topology::CLIENT_PUBLIC);
                    assert_eq!(from.port(), client.local_addr().unwrap().port(), "the NAT keeps ports");
                }
            }
            let mut tcp = lab.client().run(|| TcpStream::connect(target)).unwrap().unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            let sent: Vec<u8> = (0..1_000_000u32).map(|i| (i >> 7) as u8).collect();
            let copy = sent.clone();
            let writer = std::thread::spawn(move || {
                tcp.write_all(&copy).unwrap();
                tcp.shutdown(std::net::Shutdown::Write).unwrap();
                tcp
            });
            let mut got = Vec::new();
            accepted.read_to_end(&mut got).unwrap();
            assert!(got == sent, "the stream arrives as it was sent");
            drop(writer.join().unwrap());
        }
        for host in [lab.client(), lab.server()] {
            assert_eq!(host.counter("Udp", "InCsumErrors").unwrap(), 0);
            assert_eq!(host.counter("Tcp", "InCsumErrors").unwrap(), 0);
            assert_eq!(host.counter("Ip", "InHdrErrors").unwrap(), 0);
        }
        assert_eq!(lab.own_losses().unwrap(), 0);
        let (lines, summaries) = lab.truth();
        assert!(lines.is_empty(), "{lines:?}");
        assert!(summaries.iter().any(|s| s.up.packets == 5 && s.down.packets == 5));
    });
}

#[test]
fn a_veth_pair_joins_two_hosts() {
    in_namespaces("a_veth_pair_joins_two_hosts", || {
        let topology = Topology { kind: Kind::Veth, ..Topology::default() };
        let lab = Lab::start(&topology, &[], 1).unwrap();
        let server = udp_server(&lab);
        for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
            echo(&udp_client(&lab, target), &server, b"hello");
        }
    });
}

#[test]
fn loss_up_only_loses_up_only_and_the_truth_names_every_packet() {
    in_namespaces("loss_up_only_loses_up_only_and_the_truth_names_every_packet", || {
        let rules = rules(
            "[[rule]]\nname = 'three percent up'\nmatch = { direction = 'up', protocol = ['udp'], probability = 0.03 }\n\
             do = { act = 'drop' }",
        );
        let lab = Lab::start(&natted(), &rules, 7).unwrap();
        let server = udp_server(&lab);
        let client = udp_client(&lab, lab.target(PORT));
        let count = 2000u32;
        let echoing = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                if &buffer[..length] == b"end" {
                    return seen;
                }
                seen.insert(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        let mut back = BTreeSet::new();
        client.set_nonblocking(true).unwrap();
        let mut buffer = [0; 2048];
        for sequence in 0..count {
            let mut payload = [0; 64];
            payload[..4].copy_from_slice(&sequence.to_be_bytes());
            client.send(&payload).unwrap();
            std::thread::sleep(Duration::from_micros(200));
            while let Ok(64) = client.recv(&mut buffer) {
                back.insert(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
            }
        }
        lab.set_rules(&[]).unwrap();
        client.send(b"end").unwrap();
        let arrived = echoing.join().unwrap();
        client.set_nonblocking(false).unwrap();
        while back.len() < arrived.len() {
            let length = client.recv(&mut buffer).expect("everything that arrived comes back");
            assert_eq!(length, 64);
            back.insert(u32::from_be_bytes(buffer[..4].try_into().unwrap()));
        }
        assert_eq!(arrived, back, "nothing is lost on the way down");
        let lost: BTreeSet<u32> = (0..count).filter(|sequence| !arrived.contains(sequence)).collect();
        let (lines, _) = lab.truth();
        let named: BTreeSet<u32> =
            lines.iter().map(|line| u32::from_be_bytes(line.head[..4].try_into().unwrap())).collect();
        assert_eq!(named, lost, "the truth names what was lost, packet for packet");
        assert!(lines.iter().all(|line| line.direction == Direction::Up && line.deed == Deed::Dropped));
        assert!((30..=100).contains(&lost.len()), "about 3 % of {count}: {}", lost.len());
        assert_eq!(lab.own_losses().unwrap(), 0);
    });
}

#[test]
fn a_source_port_rewritten_midway_moves_the_flow() {
    in_namespaces("a_source_port_rewritten_midway_moves_the_flow", || {
        let lab = Lab::start(&natted(), &[], 3).unwrap();
        let server = udp_server(&lab);
        let client = udp_client(&lab, lab.target(PORT));
        let before = echo(&client, &server, b"before");
        lab.set_rules(&rules("[[rule]]\nname = 'rebind'\ndo = { act = 'rebind' }")).unwrap();
        let after = echo(&client, &server, b"after");
        assert_eq!(before.ip(), after.ip());
        assert_ne!(before.port(), after.port());
        server.send_to(b"to the old port", before).unwrap();
        assert!(silent(&client), "the old mapping is gone");
        assert_eq!(echo(&client, &server, b"still"), after);
    });
}

#[test]
fn what_the_lab_itself_loses_is_counted() {
    in_namespaces("what_the_lab_itself_loses_is_counted", || {
        let lab = Lab::start(&natted(), &[], 1).unwrap();
        let client = udp_client(&lab, lab.target(PORT));
        // The middlebox stands still while its truth is looked at, and the device's queue runs over.
        lab.with_truth(|_| {
            for _ in 0..40_000 {
                let _ = client.send(b"x");
            }
        });
        assert!(lab.own_losses().unwrap() > 0);
    });
}
