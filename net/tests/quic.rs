//! Real QUIC over the two adapters on loopback: straight and inverted, counted at both ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use probe_net::clock;
use probe_net::quic::{Arrival, Fed, Own, QuicOptions, QuicSocket, Tap};
use probe_net::udp::{RecvBatch, UdpOptions, UdpSocket};
use probe_net::wait::{Interest, Poller, Ready};
use probe_protocol::time::Timestamp;
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Counts each datagram by its bytes.
#[derive(Debug, Default)]
struct Ledger {
    sent: Mutex<BTreeMap<Vec<u8>, usize>>,
    received: Mutex<BTreeMap<Vec<u8>, usize>>,
    ecn_seen: AtomicBool,
}

impl Tap for Ledger {
    fn sent(&self, _: SocketAddr, datagram: &[u8], at: Timestamp) {
        assert!(at > Timestamp::ZERO && at <= clock::now());
        *self.sent.lock().unwrap().entry(datagram.to_vec()).or_default() += 1;
    }

    fn received(&self, arrival: &Arrival<'_>) {
        assert!(arrival.at > Timestamp::ZERO && arrival.at <= clock::now());
        *self.received.lock().unwrap().entry(arrival.bytes.to_vec()).or_default() += 1;
        if arrival.tos.is_some_and(|tos| tos & 3 == 2) {
            self.ecn_seen.store(true, Ordering::Relaxed);
        }
    }
}

impl Ledger {
    fn options(self: &Arc<Self>, inverse: bool) -> QuicOptions {
        QuicOptions { inverse, tap: Arc::clone(self) as Arc<dyn Tap>, ..QuicOptions::default() }
    }
}

fn configs() -> (ServerConfig, ClientConfig) {
    let made = rcgen::generate_simple_self_signed(vec!["probe".into()]).unwrap();
    let cert = CertificateDer::from(made.cert);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server).unwrap();
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client).unwrap();
    (ServerConfig::with_crypto(Arc::new(server)), ClientConfig::new(Arc::new(client)))
}

fn open() -> UdpSocket {
    UdpSocket::bind(&UdpOptions::new("127.0.0.1:0".parse().unwrap())).unwrap()
}

fn endpoint<D: probe_net::quic::Datagrams>(
    inner: Arc<D>,
    options: QuicOptions,
    server: Option<ServerConfig>,
) -> Endpoint {
    let socket = QuicSocket::new(inner, options);
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))
        .unwrap()
}

/// A listener's thread: it owns the socket and feeds every datagram to the ring until it is told to stop.
fn feed(socket: &UdpSocket, feed: &probe_net::quic::Feed, poller: &Poller) {
    let mut batch = RecvBatch::new(32, 2_048);
    let mut ready = Ready::new();
    loop {
        poller.wait(&mut ready, Timestamp::NEVER).unwrap();
        while socket.recv(&mut batch).is_ok() {
            let at = clock::now();
            for datagram in batch.datagrams() {
                let meta = datagram.meta;
                feed.push(&Arrival {
                    bytes: datagram.bytes,
                    from: meta.from,
                    local: meta.local,
                    at,
                    kernel: meta.kernel,
                    ttl: meta.ttl,
                    tos: meta.tos,
                })
                .unwrap();
            }
        }
        if ready.woken() {
            return;
        }
    }
}

async fn converse(inverse: bool) {
    let (server_config, client_config) = configs();
    let (server_ledger, client_ledger) = (Arc::new(Ledger::default()), Arc::new(Ledger::default()));
    let socket = Arc::new(open());
    let addr = socket.local_addr().unwrap();
    let (ring, fed) = Fed::new(Arc::clone(&socket), 256, 2_048, Arc::clone(&server_ledger) as Arc<dyn Tap>);
    let poller = Poller::new().unwrap();
    poller.add(&*socket, 0, Interest::READ).unwrap();
    let waker = poller.waker();
    let thread = std::thread::spawn(move || feed(&socket, &ring, &poller));

    let server = endpoint(Arc::clone(&fed), server_ledger.options(inverse), Some(server_config));
    let client = endpoint(Own::new(open()).unwrap(), client_ledger.options(inverse), None);
    let accepting = {
        let server = server.clone();
        tokio::spawn(async move {
            let connection = server.accept().await.unwrap().await.unwrap();
            let (mut send, mut recv) = connection.accept_bi().await.unwrap();
            let request = recv.read_to_end(100_000).await.unwrap();
            send.write_all(&request).await.unwrap();
            send.finish().unwrap();
            let datagram = connection.read_datagram().await.unwrap();
            connection.send_datagram(datagram).unwrap();
            connection.closed().await;
        })
    };
    let connection = client.connect_with(client_config, addr, "probe").unwrap().await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let request: Vec<u8> = (0..50_000_u32).map(|i| (i % 251) as u8).collect();
    send.write_all(&request).await.unwrap();
    send.finish().unwrap();
    assert_eq!(recv.read_to_end(100_000).await.unwrap(), request);
    connection.send_datagram(b"datagram".as_slice().into()).unwrap();
    assert_eq!(&connection.read_datagram().await.unwrap()[..], b"datagram");
    connection.close(0_u32.into(), b"done");
    client.wait_idle().await;
    accepting.await.unwrap();
    server.wait_idle().await;
    // The last datagrams may still be on their way; loopback loses none, so the ledgers come to agree.
    while !agree(&client_ledger, &server_ledger) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    waker.wake();
    thread.join().unwrap();

    assert!(client_ledger.ecn_seen.load(Ordering::Relaxed) || !cfg!(target_os = "linux"), "ECT(0) downwards");
    assert!(server_ledger.ecn_seen.load(Ordering::Relaxed) || !cfg!(target_os = "linux"), "ECT(0) upwards");
    let up = client_ledger.sent.lock().unwrap().clone();
    assert!(up.len() > 30, "50,000 bytes take more than 30 datagrams: {}", up.len());
    // The long header's form bit (RFC 9000, 17.2) of the first flight shows the inversion on the wire.
    let initial = up.keys().any(|datagram| datagram.len() >= 1_200 && datagram[1..5] == [0, 0, 0, 1]);
    let inverted =
        up.keys().any(|datagram| datagram.len() >= 1_200 && datagram[1..5] == [255, 255, 255, 254]);
    assert_eq!((initial, inverted), (!inverse, inverse));
    let counts = fed.counts();
    assert_eq!((counts.full, counts.too_long), (0, 0));
}

/// Both ends agree on every datagram, both ways.
fn agree(client: &Ledger, server: &Ledger) -> bool {
    *client.sent.lock().unwrap() == *server.received.lock().unwrap()
        && *server.sent.lock().unwrap() == *client.received.lock().unwrap()
}

fn run(inverse: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), converse(inverse))
            .await
            .expect("the conversation ends and the ledgers agree");
    });
}

#[test]
fn quic_is_carried_straight() {
    run(false);
}

#[test]
fn quic_is_carried_inverted() {
    run(true);
}
