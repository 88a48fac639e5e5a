//! QUIC and its inverse, beside raw probes on the same port.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use common::{
    Answer, PATIENCE, hello, hello_bytes, open_echo, open_udp, probe_record, read_answer, socket_to,
};
use probe_net::quic::{Arrival, Own, QuicOptions, QuicSocket, Tap};
use probe_net::udp::{UdpOptions, UdpSocket};
use probe_protocol::control::{DatagramsRequest, Reply, Request, datagram_hash};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, HelloKeys};
use probe_protocol::wire::seal::FlowKeys;
use probe_server::{Config, Listener, Running};
use quinn::crypto::rustls::QuicClientConfig;

#[derive(Debug, Default)]
struct Seen {
    sent: Mutex<Vec<u32>>,
    received: Mutex<Vec<u32>>,
}

impl Tap for Seen {
    fn sent(&self, _: SocketAddr, datagram: &[u8], _: Timestamp) {
        self.sent.lock().unwrap().push(datagram_hash(datagram));
    }
    fn received(&self, arrival: &Arrival<'_>) {
        self.received.lock().unwrap().push(datagram_hash(arrival.bytes));
    }
}

async fn connect(running: &Running, inverse: bool) -> (quinn::Endpoint, quinn::Connection, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let socket = UdpSocket::bind(&UdpOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let tap = Arc::clone(&seen) as Arc<dyn Tap>;
    let socket = QuicSocket::new(Own::new(socket).unwrap(), QuicOptions { inverse, dscp: 0, tap });
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint =
        quinn::Endpoint::new_with_abstract_socket(quinn::EndpointConfig::default(), None, socket, runtime)
            .unwrap();
    let mut tls = common::tls_config();
    tls.alpn_protocols = vec![b"probe".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(probe_net::quic::transport(PATIENCE)));
    let connection = endpoint.connect_with(config, running.udp()[0], "localhost").unwrap().await.unwrap();
    (endpoint, connection, seen)
}

async fn flow_over(inverse: bool) {
    let running = Listener::start(Config::local()).unwrap();
    let (_endpoint, connection, seen) = connect(&running, inverse).await;
    let mut exported = [0; 32];
    connection.export_keying_material(&mut exported, b"EXPORTER-Channel-Binding", b"").unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut hello_keys = HelloKeys::of_invite(&running.invite().key);
    let carrier = if inverse { Carrier::QuicInverse } else { Carrier::Quic };
    let wire = hello_bytes(&mut hello_keys, &hello(1, 1, carrier, Dress::Random), true);
    send.write_all(&wire).await.unwrap();
    let mut answer = vec![0; wire.len()];
    recv.read_exact(&mut answer).await.unwrap();
    let Answer::Accept(accept) = read_answer(&mut hello_keys, Dress::Random, &mut answer) else {
        panic!("not accepted")
    };
    assert_eq!(accept.binding, exported);
    let mut keys = FlowKeys::new(accept.secret);
    for seq in 0..50 {
        let record = probe_record(&mut keys, &accept, seq, 1000, 0);
        connection.send_datagram(record.into()).unwrap();
        let mut echo = connection.read_datagram().await.unwrap().to_vec();
        let (echoed, body) = open_echo(&mut keys, &mut echo);
        assert_eq!((echoed, body.received), (seq, seq as u32 + 1));
    }
    // Raw probes on the very same port, at the same time, and the ledger of the socket over them.
    let keys = HelloKeys::of_invite(&running.invite().key);
    let mut raw = open_udp(running.udp()[0], keys, hello(1, 2, Carrier::Udp, Dress::QuicShaped)).unwrap();
    raw.probe(0, 500);
    let ask = |received| Request::Datagrams(DatagramsRequest { flow: accept.id, received, from: 0 });
    let Reply::Datagrams(up) = raw.ask(0, &ask(true)) else { panic!("no ledger") };
    let Reply::Datagrams(down) = raw.ask(1, &ask(false)) else { panic!("no ledger") };
    let (sent, received) = (seen.sent.lock().unwrap().clone(), seen.received.lock().unwrap().clone());
    assert!(up.total >= 50 && down.total >= 50);
    // On loopback nothing is lost: the two ledgers agree from the first datagram on, Retry included.
    let common = up.hashes.len().min(sent.len());
    assert_eq!(up.hashes[..common], sent[..common]);
    let common = down.hashes.len().min(received.len());
    assert_eq!(down.hashes[..common], received[..common]);
    running.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quic_flow_carries_probes_beside_raw_ones() {
    flow_over(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inverted_twin_does_the_same() {
    flow_over(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unvalidated_initial_gets_no_more_bytes_than_it_sent() {
    let running = Listener::start(Config::local()).unwrap();
    let udp = running.udp()[0];
    // A whole ClientHello, taken from a real client by sending it to a socket that only listens.
    let catcher = UdpSocket::bind(&UdpOptions::new("127.0.0.1:0".parse().unwrap())).unwrap();
    let catcher_addr = catcher.local_addr().unwrap();
    let mut tls = common::tls_config();
    tls.alpn_protocols = vec![b"probe".to_vec()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let _connecting = endpoint.connect_with(config, catcher_addr, "localhost").unwrap();
    let mut batch = probe_net::udp::RecvBatch::new(4, 2000);
    let initial = loop {
        if catcher.recv(&mut batch).is_ok() {
            break batch.bytes(0).to_vec();
        }
        tokio::task::yield_now().await;
    };
    assert!(initial.len() >= 1200);
    for inverse in [false, true] {
        let bytes: Vec<u8> = initial.iter().map(|b| if inverse { !b } else { *b }).collect();
        let spoofed = socket_to(udp);
        spoofed.send(&bytes).unwrap();
        let mut buffer = [0; 2000];
        let n = spoofed.recv(&mut buffer).unwrap();
        let first = if inverse { !buffer[0] } else { buffer[0] };
        // RFC 9000 section 17.2.5: a Retry is a long header of type 3.
        assert_eq!(first & 0xf0, 0xf0, "not a Retry");
        assert!(n < bytes.len(), "{n} bytes to {}", bytes.len());
        spoofed.set_read_timeout(Some(std::time::Duration::from_millis(1500))).unwrap();
        // Longer than QUIC's first retransmission would take, if there were any state to retransmit from.
        let more = spoofed.recv(&mut buffer);
        assert!(more.is_err(), "more than the Retry came");
        // The same in fewer bytes than RFC 9000 section 14.1 allows is not answered at all.
        spoofed.send(&bytes[..1199]).unwrap();
        assert!(spoofed.recv(&mut buffer).is_err());
    }
    let counted = |name: &str| running.counters().all().find(|c| c.0 == name).unwrap().2;
    assert_eq!((counted("quic"), counted("quic_inverse"), counted("dropped_short_initial")), (1, 1, 2));
}
