//! What strangers send to a listener: too much, too slowly, in somebody else's name, or twice.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use probe_net::clock;
use probe_protocol::control::{LedgerRequest, Reply, Request};
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Carrier, Hello, HelloKeys};
use probe_protocol::wire::stream::Framer;
use quinn::crypto::rustls::QuicClientConfig;
use tests::kernel::{Host, Lab, must_not_skip};
use tests::middlebox::{Kind, Topology};
use tests::rules::Place;
use tests::rules::truth::Summary;

use crate::refusals::{tcp_to, udp_to};
use crate::wire::{
    Answer, control_record, hello, hello_bytes, open_stream, open_udp_on, probe_record, read_answer,
    tls_config,
};
use crate::world::{Listener, PATIENCE, PORT, counter, get, in_lab, programs, wait};

const METRICS: &str = "203.0.113.7:9100";

fn lab() -> Lab {
    Lab::start(&Topology::default(), &[], 1).unwrap()
}

/// Connections that say nothing.
const SILENT: usize = 10_000;
/// From so many addresses that no bound per address turns them away.
const SOURCES: usize = 190;
/// What the listener holds at most, by its defaults.
const HELD: u64 = 4096;

/// Makes all of the client's network its own, and gives this process room for the sockets.
fn can_flood(host: &Host, test: &str) -> bool {
    let needed = SILENT as u64 + 1000;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let room = soft >= needed || (hard >= needed && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok());
    let route = |net: &str| {
        let status = Command::new("ip").args(["route", "add", "local", net, "dev", "lo"]).status();
        status.is_ok_and(|status| status.success())
    };
    let routed = host.run(|| route("203.0.113.64/26") && route("203.0.113.128/25")).unwrap();
    if !(room && routed) {
        let _ = writeln!(std::io::stderr().lock(), "SKIPPED (too few descriptors, or no `ip`): {test}");
        assert!(!must_not_skip(), "{test} was skipped");
    }
    room && routed
}

fn connect_from(source: Ipv4Addr, target: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect_timeout(&target.into(), PATIENCE).unwrap();
    socket.into()
}

#[test]
fn ten_thousand_silent_connections_are_bounded_and_others_are_served() {
    let name = "floods::ten_thousand_silent_connections_are_bounded_and_others_are_served";
    in_lab(name, || {
        // A cable: its hosts may have as many addresses as they like.
        let cable = Topology { kind: Kind::Veth, ..Topology::default() };
        let lab = Lab::start(&cable, &[], 1).unwrap();
        if !can_flood(lab.client(), name) {
            return;
        }
        // As a shell gives it to programs: far fewer descriptors than there are connections.
        let state = Arc::new(tempfile::tempdir().unwrap());
        let mut command = lab.server().command("sh");
        command.args(["-c", "ulimit -Sn 1024 && exec \"$@\"", "sh"]).arg(&programs().server);
        command.args(["--json", "--no-doctor", "--metrics", METRICS, "--state-dir"]).arg(state.path());
        let listener = Listener::spawn(command, Arc::clone(&state));
        let metrics: SocketAddr = METRICS.parse().unwrap();
        let count = |name: &str| counter(lab.server(), metrics, name);
        let target = lab.target(PORT);
        let keys = || HelloKeys::of_invite(&listener.key().key);
        let mut before =
            open_stream(tcp_to(lab.client(), target), keys(), &hello(1, 1, Carrier::Tcp, Dress::Random))
                .unwrap();
        before.probe(0, 100);
        let memory = listener.resident_kib();

        let flood: Vec<TcpStream> = lab
            .client()
            .run(|| {
                let source = |n: usize| Ipv4Addr::new(203, 0, 113, 64 + (n % SOURCES) as u8);
                (0..SILENT).map(|n| connect_from(source(n), target)).collect()
            })
            .unwrap();
        let start = clock::now();
        while count("tcp_accepted") < SILENT as u64 {
            assert!(clock::now().since(start) < PATIENCE, "{} accepted", count("tcp_accepted"));
        }
        assert!(count("connections") <= HELD, "{}", count("connections"));
        let turned_away = count("tcp_refused") + count("tcp_silent");
        assert!(turned_away >= SILENT as u64 - HELD, "{turned_away} turned away");
        let grown = listener.resident_kib().saturating_sub(memory);
        assert!(grown < 100 * 1024, "{grown} KiB for {} connections", count("connections"));

        // Who was there before is served on, and UDP opens as ever.
        before.probe(1, 100);
        let udp = hello(1, 2, Carrier::Udp, Dress::Random);
        open_udp_on(udp_to(lab.client(), target), keys(), udp).unwrap().probe(0, 100);

        // The silent ones are sent away in time, while they are still there; then there is room for everybody.
        let start = clock::now();
        while count("connections") > 1 {
            assert!(clock::now().since(start) < PATIENCE, "{} connections are held", count("connections"));
        }
        assert!(get(lab.client(), target, "/").contains("It works."));
        let again = hello(1, 3, Carrier::Tcp, Dress::Ascii);
        open_stream(tcp_to(lab.client(), target), keys(), &again).unwrap().probe(0, 100);
        before.probe(2, 100);
        assert_eq!(flood.len(), SILENT);
    });
}

#[test]
fn streams_that_dribble_are_closed_and_hold_up_nobody() {
    in_lab("floods::streams_that_dribble_are_closed_and_hold_up_nobody", || {
        let lab = lab();
        let listener = Listener::start(lab.server(), &["--metrics", METRICS]);
        let target = lab.target(PORT);
        let mut keys = HelloKeys::of_invite(&listener.key().key);
        let known = hello_bytes(&mut keys, &hello(1, 1, Carrier::Tcp, Dress::Random), true);
        let tls = [&[22, 3, 1, 0, 250, 1, 0, 0, 246, 3, 3][..], &[7; 240]].concat();
        let openings = [known, tls, b"GET / HTTP/1.1\r\nHost: example.org\r\nX-Filler: 1\r\n".to_vec()];
        let dribbles: Vec<_> = openings
            .into_iter()
            .map(|bytes| {
                let mut stream = tcp_to(lab.client(), target);
                std::thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                    for byte in bytes {
                        // A byte, and a second's wait for the end.
                        if stream.write_all(&[byte]).is_err() {
                            return true;
                        }
                        match stream.read(&mut [0; 1]) {
                            Err(error)
                                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                            Ok(0) | Err(_) => return true,
                            Ok(_) => return false,
                        }
                    }
                    false
                })
            })
            .collect();
        let keys = HelloKeys::of_invite(&listener.key().key);
        let mut other =
            open_stream(tcp_to(lab.client(), target), keys, &hello(2, 1, Carrier::Tcp, Dress::Random))
                .unwrap();
        let mut seq = 0;
        while dribbles.iter().any(|dribble| !dribble.is_finished()) {
            other.probe(seq, 100);
            seq += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        for dribble in dribbles {
            assert!(dribble.join().unwrap(), "it is closed without an answer");
        }
        assert!(seq > 50, "somebody else was served all the while");
        let metrics = METRICS.parse().unwrap();
        assert!(counter(lab.server(), metrics, "tcp_silent") >= 2);
        assert_eq!(counter(lab.server(), metrics, "connections"), 1);
    });
}

/// A socket that sends in another host's name.
fn spoofed(host: &Host, n: u8, target: SocketAddr) -> UdpSocket {
    host.run(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
        socket
            .bind(&SocketAddr::from((Ipv4Addr::new(198, 51, 100, 100), 20_000 + u16::from(n))).into())
            .unwrap();
        socket.connect(&target.into()).unwrap();
        socket.into()
    })
    .unwrap()
}

/// A real client's first QUIC datagram.
fn initial() -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let catcher = UdpSocket::bind("127.0.0.1:0").unwrap();
    catcher.set_read_timeout(Some(PATIENCE)).unwrap();
    runtime.block_on(async {
        let mut tls = tls_config();
        tls.alpn_protocols = vec![b"probe".to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config, catcher.local_addr().unwrap(), "localhost").unwrap();
        let caught = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 2000];
            let length = catcher.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        });
        let caught = caught.await.unwrap();
        drop(connecting);
        caught
    })
}

#[test]
fn spoofed_datagrams_get_no_more_bytes_than_they_bring() {
    in_lab("floods::spoofed_datagrams_get_no_more_bytes_than_they_bring", || {
        let lab = lab();
        let mut listener = Listener::start(lab.server(), &["--metrics", METRICS]);
        let target = lab.target(PORT);
        let key = listener.key().key;

        // A real flow, of an earlier start of the listener, whose datagrams somebody has recorded.
        let wire = |dress, form, record: &[u8]| {
            let mut wire = Vec::new();
            dress::put_on(dress, form, record, &mut wire);
            wire
        };
        let open = |nonce| {
            let hello = hello(1, nonce, Carrier::Udp, Dress::Random);
            open_udp_on(udp_to(lab.client(), target), HelloKeys::of_invite(&key), hello).unwrap()
        };
        let mut old = open(1);
        old.probe(0, 64);
        let stale = probe_record(&mut old.keys, &old.accept, 1, 64, 0);
        listener.signal(Signal::SIGTERM);
        assert!(wait(&mut listener.child, PATIENCE));
        let listener = Listener::start_in(lab.server(), Arc::clone(&listener.state), &["--metrics", METRICS]);
        assert_eq!(listener.key().key, key);
        let mut flow = open(2);
        let asks_for_more = probe_record(&mut flow.keys, &flow.accept, 0, 64, 1400);
        flow.send(&asks_for_more);
        let mut reply = [0; 2000];
        assert_eq!(flow.socket.recv(&mut reply).unwrap(), 1400, "who has a validated address gets it");
        let replayed = wire(Dress::Random, Form::Running, &asks_for_more);
        let again = probe_record(&mut flow.keys, &flow.accept, 1, 64, 1400);
        let request = Request::Ledger(LedgerRequest { flow: flow.accept.id, from: 0, settled_below: 0 });
        let control = control_record(&mut flow.keys, &flow.accept, 0, &request);

        let initial = initial();
        let inverse: Vec<u8> = initial.iter().map(|byte| !byte).collect();
        let mut unknown_version = initial.clone();
        unknown_version[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
        let short_header: Vec<u8> =
            (0..64).map(|n: u8| if n == 0 { 0x42 } else { n.wrapping_mul(37) }).collect();
        let mut handshake = initial.clone();
        handshake[0] = (handshake[0] & 0xcf) | 0x20;
        let mut datagrams = vec![
            ("a probe of an earlier start", stale),
            ("a replayed probe that asks for more", replayed),
            ("a probe that asks for more", again),
            ("a control request", control),
            ("an Initial", initial.clone()),
            ("an inverted Initial", inverse),
            ("a short Initial", initial[..600].to_vec()),
            ("an unknown version", unknown_version.clone()),
            ("a short unknown version", unknown_version[..100].to_vec()),
            ("a handshake packet", handshake),
            ("a short header", short_header.clone()),
            ("the shortest header", short_header[..22].to_vec()),
            ("zeros", vec![0; 1200]),
            ("nothing", Vec::new()),
        ];
        for dress in Dress::ALL {
            for (who, keys) in [("a holder", HelloKeys::of_invite(&key)), ("a stranger", HelloKeys::public())]
            {
                let mut keys = keys;
                let hello = hello(9, 1, Carrier::Udp, dress);
                let newer = Hello { min_version: 2, max_version: 2, ..hello };
                datagrams.push((who, hello_bytes(&mut keys, &hello, false)));
                datagrams.push((who, hello_bytes(&mut keys, &newer, false)));
                let mut long = hello_bytes(&mut keys, &hello, false);
                long.extend([0; 300]);
                datagrams.push((who, long));
            }
        }
        let opened = counter(lab.server(), METRICS.parse().unwrap(), "flows");
        for (n, (_, datagram)) in (0u8..).zip(&datagrams) {
            let socket = spoofed(lab.client(), n, target);
            for _ in 0..3 {
                socket.send(datagram).unwrap();
            }
        }
        // All of them are judged, and time goes by in which a listener that held state would send again.
        flow.probe(7, 64);
        std::thread::sleep(Duration::from_secs(2));
        flow.probe(8, 64);

        let (_, summaries) = lab.truth();
        let (mut answered, mut quic) = (0, 0);
        for (n, (what, datagram)) in (0u16..).zip(&datagrams) {
            let of = |s: &&Summary| s.place == Place::Path && s.flow.client.port() == 20_000 + n;
            let summary = summaries.iter().find(of).unwrap_or_else(|| panic!("{what} was never sent"));
            assert_eq!(summary.flow.client.ip(), IpAddr::from([198, 51, 100, 100]));
            assert_eq!(summary.up.packets, 3);
            let (up, down) = (summary.up.bytes, summary.down.bytes);
            assert!(down <= up, "{what} ({} bytes): {up} bytes up, {down} down", datagram.len());
            answered += summary.down.packets;
            quic += if what.contains("Initial") { summary.down.packets } else { 0 };
        }
        assert!(
            answered >= 24 && quic >= 2,
            "it does answer strangers: {answered} datagrams, {quic} of QUIC"
        );
        assert_eq!(
            counter(lab.server(), METRICS.parse().unwrap(), "flows"),
            opened,
            "and holds nothing for them"
        );
    });
}

#[test]
fn what_is_replayed_counts_once_and_opens_nothing() {
    in_lab("floods::what_is_replayed_counts_once_and_opens_nothing", || {
        let lab = lab();
        let listener = Listener::start(lab.server(), &["--metrics", METRICS]);
        let (target, key) = (lab.target(PORT), listener.key().key);
        let flows = || counter(lab.server(), METRICS.parse().unwrap(), "flows_opened");
        let mut keys = HelloKeys::of_invite(&key);
        let ask = |socket: &UdpSocket, keys: &mut HelloKeys, wire: &[u8]| {
            socket.send(wire).unwrap();
            let mut buffer = [0; 2000];
            let length = socket.recv(&mut buffer).unwrap();
            read_answer(keys, Dress::Random, &mut buffer[..length])
        };
        // A whole opening, recorded.
        let mut hello = hello(1, 1, Carrier::Udp, Dress::Random);
        let socket = udp_to(lab.client(), target);
        let wire = hello_bytes(&mut keys, &hello, false);
        let Answer::Challenge(challenge) = ask(&socket, &mut keys, &wire) else { panic!("not challenged") };
        hello.cookie = challenge.cookie;
        let wire = hello_bytes(&mut keys, &hello, false);
        let Answer::Accept(first) = ask(&socket, &mut keys, &wire) else { panic!("not accepted") };
        let Answer::Accept(second) = ask(&socket, &mut keys, &wire) else { panic!("not accepted again") };
        assert_eq!((first.id, flows()), (second.id, 1), "the same flow");
        let elsewhere = udp_to(lab.client(), target);
        let answer = ask(&elsewhere, &mut keys, &wire);
        assert!(matches!(answer, Answer::Challenge(_)), "{answer:?}: a cookie is good for its address alone");
        assert_eq!(flows(), 1);

        // Probes count once, whoever sends them again.
        let mut flow = open_udp_on(
            udp_to(lab.client(), target),
            HelloKeys::of_invite(&key),
            crate::wire::hello(1, 2, Carrier::Udp, Dress::Random),
        )
        .unwrap();
        assert!(!flow.probe(0, 100).duplicate);
        assert!(flow.probe(0, 100).duplicate);
        let request = Request::Ledger(LedgerRequest { flow: flow.accept.id, from: 0, settled_below: 0 });
        let Reply::Ledger(ledger) = flow.ask(0, &request) else { panic!("no ledger") };
        assert_eq!(ledger.ranges, [(0, 1)]);

        // A stream's records in a second connection are noise there.
        let keys = HelloKeys::of_invite(&key);
        let stream = crate::wire::hello(1, 3, Carrier::Tcp, Dress::Random);
        let mut tcp = open_stream(tcp_to(lab.client(), target), keys, &stream).unwrap();
        tcp.probe(0, 100);
        let record = probe_record(&mut tcp.keys, &tcp.accept, 1, 100, 0);
        let mut replayed = Vec::new();
        Framer::new(tcp.accept.secret, Dress::Random, false).frame(&record, &mut replayed).unwrap();
        let mut other = tcp_to(lab.client(), target);
        other.write_all(&replayed).unwrap();
        let mut heard = Vec::new();
        // An end or a reset, and not a byte before.
        let _ = other.read_to_end(&mut heard);
        assert_eq!(heard, b"");
        assert_eq!(tcp.probe(1, 100).received, 2);
    });
}
