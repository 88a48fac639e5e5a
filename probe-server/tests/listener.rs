//! The library on loopback, over every transport.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use common::{PATIENCE, hello, open_stream, open_udp};
use probe_protocol::control::{
    ArrivalsRequest, FlowRequest, HandInRequest, LedgerRequest, OpeningsRequest, Reply, Request,
};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, HelloKeys};
use probe_server::{Config, Listener, Running};
use tokio::runtime::Runtime;

struct Local {
    runtime: Runtime,
    running: Running,
}

fn local() -> Local {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let running = {
        let _inside = runtime.enter();
        Listener::start(Config::local()).unwrap()
    };
    Local { runtime, running }
}

impl Local {
    fn udp(&self) -> SocketAddr {
        self.running.udp()[0]
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.running.tcp()[0]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn keys(&self) -> HelloKeys {
        HelloKeys::of_invite(&self.running.invite().key)
    }
}

fn tls(stream: TcpStream) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let name = "localhost".try_into().unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(common::tls_config()), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).unwrap();
    }
    stream
}

#[test]
fn every_dress_opens_over_udp_and_is_echoed_at_its_length() {
    let local = local();
    for (n, dress) in Dress::ALL.into_iter().enumerate() {
        let hello = hello(1, n as u64, Carrier::Udp, dress);
        let mut flow = open_udp(local.udp(), local.keys(), hello).unwrap();
        assert!(flow.accept.authenticated);
        assert_eq!(flow.accept.observed, flow.socket.local_addr().unwrap());
        for (seq, len) in [(0, 64), (1, 1200), (2, 66), (3, 8000)] {
            let len = dress.record_len(len).max(64);
            let echo = flow.probe(seq, len);
            assert_eq!(echo.received, seq as u32 + 1);
            assert!(!echo.duplicate);
            assert_eq!(echo.kernel, cfg!(target_os = "linux"));
            assert_eq!(echo.window, (1 << seq) - 1);
        }
        assert!(flow.probe(3, 64).duplicate);
    }
}

#[test]
fn plain_tcp_and_tls_open_and_are_echoed_with_the_same_exporter_at_both_ends() {
    let local = local();
    for (n, dress) in [Dress::Random, Dress::Ascii].into_iter().enumerate() {
        let hello = hello(1, n as u64, Carrier::Tcp, dress);
        let mut flow = open_stream(local.tcp(), local.keys(), &hello).unwrap();
        assert_eq!(flow.accept.observed, flow.stream.local_addr().unwrap());
        assert_eq!(flow.accept.binding, [0; 32]);
        for seq in 0..20 {
            assert_eq!(flow.probe(seq, 64 + seq as usize * 100).received, seq as u32 + 1);
        }
    }
    let stream = tls(local.tcp());
    let mut exported = [0; 32];
    stream.conn.export_keying_material(&mut exported, b"EXPORTER-Channel-Binding", None).unwrap();
    let mut flow = open_stream(stream, local.keys(), &hello(1, 7, Carrier::Tls, Dress::Random)).unwrap();
    assert_eq!(flow.accept.binding, exported);
    for seq in 0..20 {
        assert_eq!(flow.probe(seq, 1000).received, seq as u32 + 1);
    }
}

#[test]
fn a_hello_that_dribbles_in_is_answered() {
    let local = local();
    let mut keys = local.keys();
    let wire = common::hello_bytes(&mut keys, &hello(1, 1, Carrier::Tcp, Dress::Ascii), true);
    let mut stream = local.tcp();
    stream.set_nodelay(true).unwrap();
    for byte in &wire {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut answer = vec![0; wire.len()];
    stream.read_exact(&mut answer).unwrap();
    assert!(matches!(common::read_answer(&mut keys, Dress::Ascii, &mut answer), common::Answer::Accept(_)));
}

#[test]
fn the_ledger_of_every_flow_is_had_over_every_transport() {
    let local = local();
    let mut udp = open_udp(local.udp(), local.keys(), hello(1, 1, Carrier::Udp, Dress::Random)).unwrap();
    let mut tcp = open_stream(local.tcp(), local.keys(), &hello(1, 2, Carrier::Tcp, Dress::Random)).unwrap();
    for seq in [0, 1, 2, 5, 6] {
        udp.probe(seq, 100);
        tcp.probe(seq, 100);
    }
    let (udp_id, tcp_id) = (udp.accept.id, tcp.accept.id);
    let ledger = |flow| Request::Ledger(LedgerRequest { flow, from: 0, settled_below: 0 });
    for (seq, flow) in (0..).zip([udp_id, tcp_id]) {
        for reply in [udp.ask(seq, &ledger(flow)), tcp.ask(seq, &ledger(flow))] {
            let Reply::Ledger(ledger) = reply else { panic!("{reply:?}") };
            assert_eq!(ledger.ranges, [(0, 3), (5, 2)]);
            assert_eq!((ledger.received, ledger.highest), (5, Some(6)));
        }
    }
    let arrivals = Request::Arrivals(ArrivalsRequest { flow: udp_id, from: 3 });
    let Reply::Arrivals(arrivals) = tcp.ask(9, &arrivals) else { panic!("no arrivals") };
    assert_eq!((arrivals.first, arrivals.total, arrivals.arrivals[0].seq), (3, 5, 5));
    let Reply::Flow(facts) = udp.ask(9, &Request::Flow(FlowRequest { flow: tcp_id })) else {
        panic!("no flow")
    };
    assert_eq!(facts.source, tcp.stream.local_addr().unwrap());
    if cfg!(target_os = "linux") {
        assert!(facts.tcp.unwrap().snd_mss > 0);
    }
    let Reply::Openings(openings) = tcp.ask(10, &Request::Openings(OpeningsRequest {})) else {
        panic!("none")
    };
    assert_eq!(openings.tcp_accepted, 1);
    assert_eq!(openings.openings.len(), 2);

    let mut stranger = open_udp(local.udp(), local.keys(), hello(2, 1, Carrier::Udp, Dress::Random)).unwrap();
    assert!(matches!(stranger.ask(0, &ledger(udp_id)), Reply::Error(_)));
    drop(tcp);
    assert!(matches!(udp.ask(50, &ledger(tcp_id)), Reply::Ledger(_)), "a dead flow's ledger is still had");
}

#[test]
fn a_verdict_is_taken_in_over_tcp_and_over_udp() {
    let local = local();
    let mut tcp = open_stream(local.tcp(), local.keys(), &hello(1, 1, Carrier::Tcp, Dress::Random)).unwrap();
    let piece =
        |offset, chunk: &[u8]| Request::HandIn(HandInRequest { total: 5, offset, chunk: chunk.to_vec() });
    let Reply::HandIn(first) = tcp.ask(0, &piece(0, b"abc")) else { panic!("not taken") };
    assert_eq!((first.have, first.kept), (3, false));
    let Reply::HandIn(last) = tcp.ask(1, &piece(3, b"de")) else { panic!("not taken") };
    assert_eq!((last.have, last.kept), (5, true));

    let mut udp = open_udp(local.udp(), local.keys(), hello(2, 1, Carrier::Udp, Dress::Random)).unwrap();
    for seq in 0.. {
        let Reply::HandIn(reply) = udp.ask(seq, &piece(0, b"abcde")) else { panic!("not taken") };
        assert_eq!(reply.have, 5);
        if reply.kept {
            break;
        }
        assert!(seq < 900, "never kept");
    }
    let public = HelloKeys::public();
    let mut udp = open_udp(local.udp(), public, hello(3, 1, Carrier::Udp, Dress::Random)).unwrap();
    assert!(!udp.accept.authenticated);
    assert!(matches!(udp.ask(0, &piece(0, b"abcde")), Reply::Error(_)));
}

#[test]
fn a_browser_gets_the_page_over_plain_tcp_and_over_tls() {
    let local = local();
    let request = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
    let read = |stream: &mut dyn Read| {
        let mut page = Vec::new();
        // A TLS client may see the close as an error.
        let _ = stream.read_to_end(&mut page);
        String::from_utf8(page).unwrap()
    };
    let mut plain = local.tcp();
    plain.write_all(request).unwrap();
    let page = read(&mut plain);
    assert!(page.starts_with("HTTP/1.1 200 OK") && page.contains("It works."), "{page}");
    let mut tls = tls(local.tcp());
    tls.write_all(request).unwrap();
    assert!(read(&mut tls).contains("It works."));
}

#[test]
fn it_ends_in_order() {
    let local = local();
    let mut tcp = open_stream(local.tcp(), local.keys(), &hello(1, 1, Carrier::Tcp, Dress::Random)).unwrap();
    tcp.probe(0, 64);
    let udp = local.udp();
    let Local { runtime, running } = local;
    runtime.block_on(running.shutdown());
    // The port is free again.
    std::net::UdpSocket::bind(udp).unwrap();
}

#[test]
fn silent_connections_are_bounded_and_harm_nobody_else() {
    let local = local();
    let mut flow = open_stream(local.tcp(), local.keys(), &hello(1, 1, Carrier::Tcp, Dress::Random)).unwrap();
    let silent: Vec<_> = (0..100).map(|_| local.tcp()).collect();
    let counted = |name: &str| local.running.counters().all().find(|c| c.0 == name).unwrap().2;
    while counted("tcp_accepted") < 101 {
        std::thread::yield_now();
    }
    // Those beyond the bound are closed at once, the others when their time is up.
    let mut closed = 0;
    for mut stream in silent.iter().skip(64) {
        closed += usize::from(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert_eq!((closed, counted("tcp_refused")), (36, 36));
    flow.probe(0, 64);
    let mut udp = open_udp(local.udp(), local.keys(), hello(1, 2, Carrier::Udp, Dress::Random)).unwrap();
    udp.probe(0, 64);
    drop(silent);
    // Their places are free again: a new flow opens once the listener has seen them go.
    let wire = common::hello_bytes(&mut local.keys(), &hello(1, 3, Carrier::Tcp, Dress::Random), true);
    let opens = || {
        let mut stream = local.tcp();
        let mut answer = [0; 160];
        stream.write_all(&wire).and_then(|()| stream.read_exact(&mut answer)).is_ok()
    };
    assert!((0..10_000).any(|_| opens()));
}

#[test]
fn a_flow_goes_on_over_another_connection_with_one_ledger() {
    let local = local();
    let hello = hello(1, 1, Carrier::Tcp, Dress::Random);
    let mut first = open_stream(local.tcp(), local.keys(), &hello).unwrap();
    first.probe(0, 64);
    let mut second = open_stream(local.tcp(), local.keys(), &hello).unwrap();
    assert_eq!(second.accept.id, first.accept.id);
    assert_eq!(first.stream.read(&mut [0; 1]).unwrap(), 0, "the former connection is closed");
    drop(first);
    assert_eq!(second.probe(1, 64).received, 2);
}
