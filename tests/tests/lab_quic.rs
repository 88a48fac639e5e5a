//! A rule that recognises QUIC catches quinn and not its bitwise inverse.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{PORT, natted, rules};
use probe_net::quic::{Own, QuicOptions, QuicSocket};
use probe_net::udp::{UdpOptions, UdpSocket};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tests::kernel::{Host, Lab, in_namespaces};
use tests::rules::truth::Deed;
use tests::rules::{Direction, Rule};

const NAME: &str = "probe.example";

fn configs() -> (ServerConfig, ClientConfig) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate = key.cert.der().clone();
    let secret = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()).into();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], secret)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap()));
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(Duration::from_secs(3).try_into().unwrap()));
    client.transport_config(Arc::new(transport));
    (server, client)
}

fn socket(host: &Host, address: &str) -> UdpSocket {
    let options = UdpOptions::new(address.parse().unwrap());
    host.run(|| UdpSocket::bind(&options)).unwrap().unwrap()
}

fn endpoint(socket: UdpSocket, inverse: bool, server: Option<ServerConfig>) -> Endpoint {
    let options = QuicOptions { inverse, ..QuicOptions::default() };
    let socket = QuicSocket::new(Own::new(socket).unwrap(), options);
    Endpoint::new_with_abstract_socket(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))
        .unwrap()
}

/// Whether a connection of this kind comes about and carries a stream.
fn connects(lab: &Lab, inverse: bool) -> bool {
    let (server, client) =
        (socket(lab.server(), &format!("0.0.0.0:{PORT}")), socket(lab.client(), "0.0.0.0:0"));
    let target: SocketAddr = lab.target(PORT);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (server_config, client_config) = configs();
        let server = endpoint(server, inverse, Some(server_config));
        let client = endpoint(client, inverse, None);
        let accept = tokio::spawn(async move {
            let connection = server.accept().await?.await.ok()?;
            let mut stream = connection.accept_uni().await.ok()?;
            stream.read_to_end(100).await.ok()
        });
        let Ok(connection) = client.connect_with(client_config, target, NAME).unwrap().await else {
            return false;
        };
        let mut stream = connection.open_uni().await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.finish().unwrap();
        accept.await.unwrap().as_deref() == Some(b"hello")
    })
}

fn caught(lab: &Lab) -> u64 {
    lab.with_truth(|truth| truth.count("quic", Deed::Dropped, Direction::Up)).unwrap()
}

fn rule(criterion: &str) -> Vec<Rule> {
    rules(&format!(
        "[[rule]]\nname='quic'\nmatch={{protocol=['udp'],{criterion},sticky=true}}\ndo={{act='drop'}}"
    ))
}

#[test]
fn a_quic_rule_catches_quinn_and_not_its_inverse() {
    in_namespaces("a_quic_rule_catches_quinn_and_not_its_inverse", || {
        let lab = Lab::start(&natted(), &[], 1).unwrap();
        assert!(connects(&lab, false) && connects(&lab, true), "both pass where no rule is");
        lab.set_rules(&rule("quic={}")).unwrap();
        let before = caught(&lab);
        assert!(connects(&lab, true));
        assert_eq!(caught(&lab), before, "nothing of the inverse is caught");
        assert!(!connects(&lab, false));
        assert!(caught(&lab) > before);
    });
}

#[test]
fn the_servers_name_is_read_through_the_initials_protection() {
    in_namespaces("the_servers_name_is_read_through_the_initials_protection", || {
        let lab = Lab::start(&natted(), &rule("quic={names=['other.example']}"), 1).unwrap();
        assert!(connects(&lab, false));
        lab.set_rules(&rule("quic={names=['probe.example']}")).unwrap();
        assert!(!connects(&lab, false));
    });
}
