//! QUIC and its inverse, on the packet thread's sockets.
//!
//! Each UDP socket has two endpoints: what is QUIC goes to one, what is QUIC with every bit inverted to the other. A
//! client whose address is not validated gets a Retry and nothing else. The first stream of a connection carries
//! the same records as a TCP connection, its datagrams (RFC 9221) carry the flow's probes.

mod ledger;

use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use probe_net::quic::{Fed, QuicOptions, QuicSocket, Tap, transport};
use probe_net::udp::UdpSocket;
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::stream::FirstBytes;
use quinn::{ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming, ServerConfig, VarInt};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::ledger::SocketLedger;
use crate::core::counters::Counters;
use crate::core::quic::{CID_LEN, ConnectionIds, QuicDemux};
use crate::listener::random;
use crate::shared::Shared;
use crate::stream::open::{Under, open};
use crate::stream::{SPEAK_WITHIN, first};
use crate::tls::{Certificate, EXPORTER_LABEL};
use crate::udp::Side;

/// Datagrams that wait for quinn, per endpoint, and the longest of them.
const RING: usize = 512;
const LONGEST: usize = 2048;
/// Connections whose address is being validated, per endpoint, and bytes kept of each.
const MAX_INCOMING: usize = 256;
const INCOMING_BYTES: u64 = 8 << 10;
/// A client decides how long its flow lives; this is for one that went without a word.
const IDLE: Duration = Duration::from_secs(600);
/// What one connection may have sent without our having read it.
const STREAM_WINDOW: u32 = 64 << 10;
const DATAGRAM_BUFFER: usize = 256 << 10;

/// The endpoints, and the sockets that they keep open.
#[derive(Debug)]
pub(crate) struct Endpoints {
    endpoints: Vec<Endpoint>,
    sockets: Vec<Weak<UdpSocket>>,
}

/// Makes the ids that the packet thread recognises.
struct Generator {
    ids: ConnectionIds,
    rng: StdRng,
}

impl ConnectionIdGenerator for Generator {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.ids.make(self.rng.next_u32()))
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

impl Endpoints {
    /// Starts the endpoints of all sockets, inside a tokio runtime; answers with where the packet thread finds them.
    pub(crate) fn start(
        shared: &Arc<Shared>,
        sockets: Vec<Arc<UdpSocket>>,
        certificate: &Certificate,
        demux: &QuicDemux,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Self, Vec<Side>), crate::StartError> {
        let config = server_config(certificate)?;
        let (mut endpoints, mut sides) = (Vec::new(), Vec::new());
        let weak = sockets.iter().map(Arc::downgrade).collect();
        for socket in sockets {
            let mut start = |inverse, ids: &ConnectionIds| -> io::Result<_> {
                let ledger = Arc::new(SocketLedger::default());
                let tap = Arc::clone(&ledger) as Arc<dyn Tap>;
                let (feed, fed) = Fed::new(Arc::clone(&socket), RING, LONGEST, Arc::clone(&tap));
                let quic = QuicSocket::new(fed, QuicOptions { inverse, dscp: 0, tap });
                let endpoint = Endpoint::new_with_abstract_socket(
                    endpoint_config(ids)?,
                    Some(config.clone()),
                    quic,
                    Arc::new(quinn::TokioRuntime),
                )?;
                let carrier = if inverse { Carrier::QuicInverse } else { Carrier::Quic };
                tasks.spawn(accept_all(Arc::clone(shared), endpoint.clone(), ledger, carrier));
                endpoints.push(endpoint);
                Ok(feed)
            };
            let feeds = (start(false, &demux.straight)?, start(true, &demux.inverse)?);
            sides.push(Side { socket, feeds });
        }
        Ok((Self { endpoints, sockets: weak }, sides))
    }

    /// Tells the clients that the listener ends, and waits until that has left.
    pub(crate) async fn close(&self) {
        for endpoint in &self.endpoints {
            endpoint.close(VarInt::from_u32(0), b"the listener ends");
        }
        for endpoint in &self.endpoints {
            endpoint.wait_idle().await;
        }
    }

    /// Lets go of the sockets, once the packet thread has. quinn's tasks end in their own time.
    pub(crate) async fn let_go(&mut self) {
        self.endpoints.clear();
        while self.sockets.iter().any(|socket| socket.strong_count() > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn endpoint_config(ids: &ConnectionIds) -> io::Result<EndpointConfig> {
    let mut config = EndpointConfig::default();
    let (ids, seed) = (ids.clone(), random()?);
    config
        .supported_versions(vec![1])
        // RFC 9287 would have clients clear the bit by which the packet thread knows QUIC.
        .grease_quic_bit(false)
        .cid_generator(move || Box::new(Generator { ids: ids.clone(), rng: StdRng::from_seed(seed) }));
    Ok(config)
}

fn server_config(certificate: &Certificate) -> Result<ServerConfig, crate::StartError> {
    let mut transport = transport(IDLE);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(STREAM_WINDOW))
        .send_window(u64::from(STREAM_WINDOW))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER);
    let mut config = ServerConfig::with_crypto(certificate.quic()?);
    config
        .transport_config(Arc::new(transport))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_BYTES * MAX_INCOMING as u64 / 4);
    Ok(config)
}

async fn accept_all(shared: Arc<Shared>, endpoint: Endpoint, ledger: Arc<SocketLedger>, carrier: Carrier) {
    while let Some(incoming) = endpoint.accept().await {
        if !incoming.remote_address_validated() {
            // Whoever sent this may have lied about its address: a Retry is shorter than what it answers.
            if let Err(error) = incoming.retry() {
                error.into_incoming().ignore();
            }
            continue;
        }
        let Some(entered) = shared.enter() else {
            incoming.refuse();
            continue;
        };
        let (shared, ledger) = (Arc::clone(&shared), Arc::clone(&ledger));
        tokio::spawn(async move {
            let _entered = entered;
            let from = incoming.remote_address();
            if let Err(error) = connection(&shared, incoming, &ledger, carrier).await {
                tracing::debug!(%from, %error, "QUIC connection");
            }
        });
    }
}

async fn connection(
    shared: &Arc<Shared>,
    incoming: Incoming,
    ledger: &Arc<SocketLedger>,
    carrier: Carrier,
) -> io::Result<()> {
    let from = incoming.remote_address();
    let claim = ledger.claim(from);
    let begins = async {
        let connection = incoming.accept().map_err(io::Error::other)?.await.map_err(io::Error::other)?;
        let (send, recv) = connection.accept_bi().await.map_err(io::Error::other)?;
        let mut stream = tokio::io::join(recv, send);
        let said = first(shared, &mut stream).await?;
        Ok::<_, io::Error>((connection, stream, said))
    };
    let Ok(begun) = timeout(SPEAK_WITHIN, begins).await else {
        Counters::bump(&shared.counters.tcp_silent);
        return Ok(());
    };
    let (connection, mut stream, said) = begun?;
    let Some((FirstBytes::Hello(dress, id), bytes)) = said else {
        Counters::bump(&shared.counters.tcp_unknown);
        connection.close(VarInt::from_u32(1), b"not a probe-client");
        return Ok(());
    };
    let mut binding = [0; 32];
    if connection.export_keying_material(&mut binding, EXPORTER_LABEL, b"").is_err() {
        binding = [0; 32];
    }
    let under =
        Under { carrier, from, local: connection.local_ip(), binding, datagrams: Some(claim.ledger()) };
    let Ok(opened) = timeout(SPEAK_WITHIN, open(shared, &mut stream, bytes, dress, id, &under)).await else {
        Counters::bump(&shared.counters.tcp_silent);
        return Ok(());
    };
    if let Some((flow, early)) = opened? {
        let end = flow.run(&mut stream, &early, |_| None, Some((&connection, &claim))).await;
        tracing::debug!(%from, ?end, "QUIC flow");
    }
    connection.close(VarInt::from_u32(0), b"");
    Ok(())
}

pub(crate) use self::ledger::Claim;
