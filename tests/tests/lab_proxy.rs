//! A proxy that nobody asked for, as a TLS client and a plain one see it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use common::{PORT, natted, rules};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use tests::kernel::{Lab, in_namespaces};
use tests::middlebox::{Proxy, ProxyKind, Topology};

const NAME: &str = "probe.example";
const ISSUER: &str = "Test Inspection CA";
const DIVERT: &str = "[[rule]]\nname='divert'\nmatch={protocol=['tcp']}\ndo={act='divert',to=['192.0.2.9','2001:db8:9::9'],port=8887}";

fn lab(kind: ProxyKind) -> Lab {
    let proxy = Some(Proxy { kind, port: 8887, issuer: ISSUER.into() });
    Lab::start(&Topology { proxy, ..natted() }, &rules(DIVERT), 1).unwrap()
}

/// Longest wait for the other end: a connection may have lost it on the way.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener that answers each connection with what it was sent, over TLS where it has a certificate. Each connection
/// has a thread of its own: one whose client is gone without a word holds up no other.
fn serve(
    lab: &Lab,
    tls: Option<Arc<ServerConfig>>,
    connections: usize,
) -> std::thread::JoinHandle<Vec<SocketAddr>> {
    let listener = lab.server().run(|| TcpListener::bind(("::", PORT))).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..connections {
            let (stream, from) = listener.accept().unwrap();
            seen.push(from);
            let tls = tls.clone();
            std::thread::spawn(move || echo(stream, tls));
        }
        seen
    })
}

fn echo(mut stream: TcpStream, tls: Option<Arc<ServerConfig>>) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut five = [0; 5];
    match tls {
        Some(config) => {
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
            // A client that does not like the certificate is gone.
            if stream.read_exact(&mut five).is_ok() {
                stream.write_all(&five).unwrap();
            }
        }
        None => {
            stream.read_exact(&mut five).unwrap();
            stream.write_all(&five).unwrap();
        }
    }
}

/// A connection of the client's host.
fn connect(lab: &Lab, target: SocketAddr) -> TcpStream {
    let stream = lab.client().run(|| TcpStream::connect_timeout(&target, PATIENCE)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate: CertificateDer<'static> = key.cert.der().clone();
    let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], secret)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// Whether an echo over TLS succeeds, with a certificate that is the listener's own.
fn echo_over_tls(lab: &Lab, target: SocketAddr, client: Arc<ClientConfig>) -> std::io::Result<()> {
    let name = ServerName::try_from(NAME).unwrap();
    let stream = connect(lab, target);
    let mut tls = StreamOwned::new(ClientConnection::new(client, name).unwrap(), stream);
    tls.write_all(b"hello")?;
    let mut five = [0; 5];
    tls.read_exact(&mut five)?;
    assert_eq!(&five, b"hello");
    Ok(())
}

#[test]
fn tls_is_ended_with_a_certificate_of_the_proxys_own() {
    in_namespaces("tls_is_ended_with_a_certificate_of_the_proxys_own", || {
        let lab = lab(ProxyKind::Inspect);
        let (server, client) = configs();
        let listener = serve(&lab, Some(server), 4);
        for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
            let error = echo_over_tls(&lab, target, client.clone()).unwrap_err();
            assert!(error.to_string().contains("certificate"), "{error}");
        }
        assert_eq!(lab.proxied(), 2);
        lab.set_rules(&[]).unwrap();
        for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
            echo_over_tls(&lab, target, client.clone()).unwrap();
        }
        assert_eq!(lab.proxied(), 2);
        listener.join().unwrap();
    });
}

#[test]
fn what_is_no_tls_passes_a_proxy_unchanged_from_another_address() {
    in_namespaces("what_is_no_tls_passes_a_proxy_unchanged_from_another_address", || {
        for kind in [ProxyKind::Inspect, ProxyKind::Relay] {
            let lab = lab(kind);
            let listener = serve(&lab, None, 1);
            let mut stream = connect(&lab, lab.target(PORT));
            stream.write_all(b"plain").unwrap();
            let mut five = [0; 5];
            stream.read_exact(&mut five).unwrap();
            assert_eq!(&five, b"plain");
            let seen = listener.join().unwrap();
            assert_eq!(seen[0].ip().to_canonical(), lab.side().unwrap().addresses().v4);
        }
    });
}

#[test]
fn a_portal_answers_everybody_and_a_proxy_goes_where_it_is_told() {
    in_namespaces("a_portal_answers_everybody_and_a_proxy_goes_where_it_is_told", || {
        let portal = lab(ProxyKind::Portal);
        let mut stream = connect(&portal, portal.target(PORT));
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 302 "), "{answer}");

        let proxy = lab(ProxyKind::Connect);
        proxy.set_rules(&rules("[[rule]]\nname='no way out'\nmatch={address=['203.0.113.7'],direction='up',client_address=['198.51.100.4']}\ndo={act='drop'}")).unwrap();
        let listener = serve(&proxy, None, 1);
        let way_out = SocketAddr::new(proxy.side().unwrap().addresses().v4.into(), 8887);
        let mut stream = connect(&proxy, way_out);
        write!(stream, "CONNECT {} HTTP/1.1\r\n\r\n", proxy.target(PORT)).unwrap();
        let mut answer = [0; 39];
        stream.read_exact(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        stream.write_all(b"plain").unwrap();
        let mut five = [0; 5];
        stream.read_exact(&mut five).unwrap();
        assert_eq!(&five, b"plain");
        listener.join().unwrap();
    });
}
