//! The short page, and everything else on the same port at the same time.

use std::process::Command;
use std::sync::Arc;

use probe_net::quic::{Own, QuicOptions, QuicSocket};
use probe_net::udp::{UdpOptions, UdpSocket};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, HelloKeys};
use probe_protocol::wire::seal::FlowKeys;
use quinn::crypto::rustls::QuicClientConfig;
use tests::kernel::{Host, Lab};
use tests::middlebox::Topology;

use crate::refusals::udp_to;
use crate::wire::{
    Answer, hello, hello_bytes, open_echo, open_udp_on, probe_record, read_answer, tls_config,
};
use crate::world::{Listener, PATIENCE, PORT, get, in_lab};

#[test]
fn a_browser_and_curl_see_the_page() {
    in_lab("page::a_browser_and_curl_see_the_page", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let listener = Listener::start(lab.server(), &[]);
        for target in [lab.target(PORT), lab.target_v6(PORT).unwrap()] {
            let page = get(lab.client(), target, "/");
            assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
            assert!(page.contains("It works."), "{page}");
            let own = if target.is_ipv6() { "2001:db8:86::4" } else { "198.51.100.4" };
            assert!(page.contains(&format!("<b>{own}</b>")), "{page}");
            assert!(page.contains(&format!("probe-client check {target}")), "{page}");
            assert!(!page.contains(listener.invite(target).split_once('#').unwrap().1), "no key on the page");
        }
        // As the admin's guide has it, where curl is there.
        let url = format!("http://{}/", lab.target(PORT));
        let curl = lab.client().run(|| Command::new("curl").args(["-sS", "--max-time", "20", &url]).output());
        if let Ok(output) = curl.unwrap() {
            assert!(output.status.success(), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("It works."), "{output:?}");
        }
    });
}

async fn connect(socket: UdpSocket, lab: &Lab, inverse: bool) -> (quinn::Endpoint, quinn::Connection) {
    let options = QuicOptions { inverse, ..QuicOptions::default() };
    let socket = QuicSocket::new(Own::new(socket).unwrap(), options);
    let runtime = Arc::new(quinn::TokioRuntime);
    let endpoint =
        quinn::Endpoint::new_with_abstract_socket(quinn::EndpointConfig::default(), None, socket, runtime)
            .unwrap();
    let mut tls = tls_config();
    tls.alpn_protocols = vec![b"probe".to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    config.transport_config(Arc::new(probe_net::quic::transport(PATIENCE)));
    let connection = endpoint.connect_with(config, lab.target(PORT), "localhost").unwrap().await.unwrap();
    (endpoint, connection)
}

fn quic_socket(host: &Host) -> UdpSocket {
    host.run(|| UdpSocket::bind(&UdpOptions::new("0.0.0.0:0".parse().unwrap()))).unwrap().unwrap()
}

#[test]
fn quic_its_inverse_and_raw_probes_take_turns_on_one_port() {
    in_lab("page::quic_its_inverse_and_raw_probes_take_turns_on_one_port", || {
        let lab = Lab::start(&Topology::default(), &[], 1).unwrap();
        let listener = Listener::start(lab.server(), &[]);
        let key = listener.key().key;
        let mut raw: Vec<_> = (0u64..)
            .zip(Dress::ALL)
            .map(|(nonce, dress)| {
                let hello = hello(1, nonce, Carrier::Udp, dress);
                open_udp_on(udp_to(lab.client(), lab.target(PORT)), HelloKeys::of_invite(&key), hello)
                    .unwrap()
            })
            .collect();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sockets = [quic_socket(lab.client()), quic_socket(lab.client())];
        runtime.block_on(async {
            let mut flows = Vec::new();
            for (inverse, socket) in [false, true].into_iter().zip(sockets) {
                let (endpoint, connection) = connect(socket, &lab, inverse).await;
                let (mut send, mut recv) = connection.open_bi().await.unwrap();
                let mut keys = HelloKeys::of_invite(&key);
                let carrier = if inverse { Carrier::QuicInverse } else { Carrier::Quic };
                let wire =
                    hello_bytes(&mut keys, &hello(1, 10 + u64::from(inverse), carrier, Dress::Random), true);
                send.write_all(&wire).await.unwrap();
                let mut answer = vec![0; wire.len()];
                recv.read_exact(&mut answer).await.unwrap();
                let Answer::Accept(accept) = read_answer(&mut keys, Dress::Random, &mut answer) else {
                    panic!("not accepted")
                };
                flows.push((endpoint, connection, FlowKeys::new(accept.secret), accept, send, recv));
            }
            for seq in 0..50 {
                for (_, connection, keys, accept, ..) in &mut flows {
                    connection.send_datagram(probe_record(keys, accept, seq, 900, 0).into()).unwrap();
                }
                for flow in &mut raw {
                    let length = flow.dress.record_len(400);
                    assert_eq!(flow.probe(seq, length).received, seq as u32 + 1, "{:?}", flow.dress);
                }
                for (_, connection, keys, ..) in &mut flows {
                    let mut echo = connection.read_datagram().await.unwrap().to_vec();
                    assert_eq!(open_echo(keys, &mut echo).0, seq);
                }
            }
        });
    });
}
