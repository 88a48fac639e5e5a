//! How a listener starts, does not start, and ends.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use probe_net::clock;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, HelloKeys};
use tests::kernel::{Host, Lab};
use tests::middlebox::Topology;

use crate::refusals::{tcp_to, udp_to};
use crate::wire::{hello, open_stream, open_udp_on};
use crate::world::{Listener, PATIENCE, PORT, Ran, in_lab, run, serve, wait};

fn lab() -> Lab {
    Lab::start(&Topology::default(), &[], 1).unwrap()
}

/// A start that must fail with this status.
fn fails(host: &Host, state: &Path, status: i32) -> String {
    let ran: Ran = run(serve(host, state, &["--json"]), PATIENCE);
    assert_eq!(ran.status, Some(status), "{}\n{}", ran.stdout, ran.stderr());
    assert_eq!(ran.stdout, "", "it never said that it listens");
    ran.complaint("probe-server").to_owned()
}

#[test]
fn a_taken_port_names_the_program_that_has_it() {
    in_lab("start::a_taken_port_names_the_program_that_has_it", || {
        let lab = lab();
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        let state = tempfile::tempdir().unwrap();
        let by = format!("{} (process {})", own.trim(), std::process::id());
        {
            let _tcp = lab.server().run(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap().unwrap();
            let says = fails(lab.server(), state.path(), 3);
            assert!(says.contains("TCP port 8886 is taken") && says.contains(&by), "{says}");
        }
        let _udp = lab.server().run(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap().unwrap();
        let says = fails(lab.server(), state.path(), 3);
        assert!(says.contains("UDP port 8886 is taken") && says.contains(&by), "{says}");
    });
}

#[test]
fn a_socket_that_shares_its_port_does_not_get_a_listener_beside_it() {
    in_lab("start::a_socket_that_shares_its_port_does_not_get_a_listener_beside_it", || {
        let lab = lab();
        let _shared = lab
            .server()
            .run(|| {
                let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
                socket.set_reuse_port(true).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.bind(&std::net::SocketAddr::from(([0, 0, 0, 0], PORT)).into()).unwrap();
                socket
            })
            .unwrap();
        let state = tempfile::tempdir().unwrap();
        let says = fails(lab.server(), state.path(), 3);
        assert!(says.contains("UDP port 8886 is taken"), "{says}");
    });
}

#[test]
fn a_second_listener_learns_of_the_first() {
    in_lab("start::a_second_listener_learns_of_the_first", || {
        let lab = lab();
        let listener = Listener::start(lab.server(), &[]);
        let first = format!("process {}", listener.child.id());
        let other = tempfile::tempdir().unwrap();
        let says = fails(lab.server(), other.path(), 3);
        assert!(says.contains("another listener, probe-server") && says.contains(&first), "{says}");
        let says = fails(lab.server(), listener.state.path(), 3);
        assert!(says.contains("another probe-server") && says.contains(&first), "{says}");
        // The first one is none the worse for it.
        let hello = hello(1, 1, Carrier::Udp, Dress::Random);
        let keys = HelloKeys::of_invite(&listener.key().key);
        let mut flow = open_udp_on(udp_to(lab.client(), lab.target(PORT)), keys, hello).unwrap();
        flow.probe(0, 100);
    });
}

#[test]
fn a_damaged_file_is_named_and_left_as_it_is() {
    in_lab("start::a_damaged_file_is_named_and_left_as_it_is", || {
        let lab = lab();
        let state = Arc::new(tempfile::tempdir().unwrap());
        drop(Listener::start_in(lab.server(), Arc::clone(&state), &[]));
        for (file, damage) in [
            ("secret", &b"short"[..]),
            ("secret", b""),
            ("epoch", b"many"),
            ("cert.der", b"\x30\x03\x02\x01\x01"),
            ("key.der", b"no key"),
            ("invites.json", b"{\"version\":1,"),
            ("invites.json", b"{\"version\":77,\"invites\":[]}"),
            ("invites.json", &[0xff; 3000]),
        ] {
            let path = state.path().join(file);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, damage).unwrap();
            let says = fails(lab.server(), state.path(), 2);
            // Of a pair the certificate stands for both.
            let named = says.contains(file) || (file == "key.der" && says.contains("cert.der"));
            assert!(named && says.contains("damaged"), "{file}: {says}");
            assert_eq!(std::fs::read(&path).unwrap(), damage, "{file} is left as it is");
            std::fs::write(&path, whole).unwrap();
        }
        // With everything restored, the old invite is good again.
        let listener = Listener::start_in(lab.server(), state, &[]);
        let keys = HelloKeys::of_invite(&listener.key().key);
        let hello = hello(1, 1, Carrier::Udp, Dress::Random);
        assert!(
            open_udp_on(udp_to(lab.client(), lab.target(PORT)), keys, hello).unwrap().accept.authenticated
        );
    });
}

#[test]
fn a_signal_ends_it_in_order_within_a_second() {
    in_lab("start::a_signal_ends_it_in_order_within_a_second", || {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let lab = lab();
            let mut listener = Listener::start(lab.server(), &[]);
            let keys = || HelloKeys::of_invite(&listener.key().key);
            let mut udp = open_udp_on(
                udp_to(lab.client(), lab.target(PORT)),
                keys(),
                hello(1, 1, Carrier::Udp, Dress::Random),
            )
            .unwrap();
            udp.probe(0, 100);
            let stream = tcp_to(lab.client(), lab.target(PORT));
            let mut tcp = open_stream(stream, keys(), &hello(1, 2, Carrier::Tcp, Dress::Random)).unwrap();
            tcp.probe(0, 100);
            let mut silent = tcp_to(lab.client(), lab.target(PORT));

            let start = clock::now();
            listener.signal(signal);
            assert!(wait(&mut listener.child, PATIENCE), "it does not end");
            let took = clock::now().since(start);
            assert_eq!(listener.child.wait().unwrap().code(), Some(0));
            // The contract's bound; a busy machine may add to it, but not this much.
            assert!(took < Duration::from_secs(1), "{took:?}");
            // In order: an end, not a reset.
            assert_eq!(tcp.stream.read_to_end(&mut Vec::new()).unwrap(), 0);
            assert_eq!(silent.read_to_end(&mut Vec::new()).unwrap(), 0);
            // The port is free at once, for a listener that goes on where this one ended.
            let again = Listener::start_in(lab.server(), Arc::clone(&listener.state), &[]);
            assert_eq!(again.key(), listener.key());
        }
    });
}
