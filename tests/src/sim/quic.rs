//! QUIC at both ends: quinn's own state machine on virtual sockets and virtual time.
//!
//! What it omits is quinn's tokio shell (its task wake-ups and its queue between tasks), the farewell of a closed
//! connection, and path MTU discovery, which the product switches off.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use probe_client::driver::tls;
use probe_client::engine::{ChannelFacts, Closed, SendError};
use probe_net::quic::transport;
use probe_protocol::control::datagram_hash;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::hello::Carrier;
use probe_server::core::book::DatagramLedger;
use probe_server::core::quic::{CID_LEN, ConnectionIds};
use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, ConnectionId, ConnectionIdGenerator,
    DatagramEvent, Dir, EcnCodepoint, Endpoint, EndpointConfig, Event, InvalidCid, ServerConfig, StreamId,
    Transmit,
};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustls::pki_types::CertificateDer;

use super::certificate::Certificate;
use super::listener::{Process, lock};
use super::serve::{Dialogue, Under};
use super::world::Io;
use crate::packet::{Packet, build};

/// A connection that hears nothing for so long is given up, as both programs have it.
const IDLE: Duration = Duration::from_secs(150);
/// The application protocol that both ends name.
const ALPN: &[u8] = b"probe";
/// Most bytes of a stream that wait for QUIC to take them.
const MAX_WAITING: usize = 1 << 20;
/// Most connections at one listener.
const MAX_CONNECTIONS: usize = 1024;

/// quinn's clock: virtual time after an arbitrary moment.
fn instant(now: Timestamp) -> Instant {
    static BASE: OnceLock<Instant> = OnceLock::new();
    #[expect(
        clippy::disallowed_methods,
        reason = "any moment will do; it is read once, and only differences count"
    )]
    let base = *BASE.get_or_init(Instant::now);
    base + Duration::from_nanos(now.as_nanos())
}

/// The virtual time of one of quinn's.
fn timestamp(at: Instant) -> Timestamp {
    let nanos = at.saturating_duration_since(instant(Timestamp::ZERO)).as_nanos();
    Timestamp(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn invert(bytes: &mut [u8], inverse: bool) {
    if inverse {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
    }
}

/// Puts what quinn wants to send into a packet, as it is on the wire; answers with its name too.
fn packet(local: SocketAddr, transmit: &Transmit, bytes: &[u8], inverse: bool) -> Option<(Packet, u32)> {
    let mut wire = bytes.get(..transmit.size)?.to_vec();
    invert(&mut wire, inverse);
    let mut packet = build::udp(local, transmit.destination, &wire)?;
    packet.set_tos(transmit.ecn.map_or(0, |ecn| ecn as u8));
    Some((packet, datagram_hash(&wire)))
}

/// A connection with one stream and datagrams.
struct Wire {
    connection: Connection,
    stream: Option<StreamId>,
    waiting: VecDeque<u8>,
}

impl Wire {
    fn new(connection: Connection) -> Self {
        Self { connection, stream: None, waiting: VecDeque::new() }
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        if self.waiting.len() + bytes.len() > MAX_WAITING {
            return false;
        }
        self.waiting.extend(bytes);
        self.push();
        true
    }

    fn push(&mut self) {
        let Some(stream) = self.stream else { return };
        while !self.waiting.is_empty() {
            let piece = self.waiting.as_slices().0;
            match self.connection.send_stream(stream).write(piece) {
                Ok(count @ 1..) => drop(self.waiting.drain(..count)),
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn read(&mut self) -> Vec<u8> {
        let mut read = Vec::new();
        let Some(stream) = self.stream else { return read };
        let mut stream = self.connection.recv_stream(stream);
        let Ok(mut chunks) = stream.read(true) else { return read };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            read.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
        read
    }

    fn exporter(&self) -> Option<[u8; 32]> {
        let mut out = [0; 32];
        let session = self.connection.crypto_session();
        session.export_keying_material(&mut out, tls::EXPORTER_LABEL, &[]).ok().map(|()| out)
    }
}

/// Hands events from connection to endpoint and back.
fn exchange(endpoint: &mut Endpoint, handle: ConnectionHandle, connection: &mut Connection) {
    while let Some(event) = connection.poll_endpoint_events() {
        if let Some(event) = endpoint.handle_event(handle, event) {
            connection.handle_event(event);
        }
    }
}

/// What a connection has to say to the engine.
pub(super) enum QuicNews {
    Connected { source: SocketAddr, channel: ChannelFacts },
    Bytes(Vec<u8>),
    Datagram(Vec<u8>),
    Tapped { sent: bool, hash: u32 },
    Closed(Closed),
}

/// The client's end.
pub(super) struct QuicClient {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    inverse: bool,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    wire: Wire,
    news: VecDeque<QuicNews>,
    responses: Vec<(Transmit, Vec<u8>)>,
    due: Timestamp,
}

impl QuicClient {
    pub(super) fn open(
        local: SocketAddr,
        remote: SocketAddr,
        inverse: bool,
        name: Option<&str>,
        seed: [u8; 32],
        now: Timestamp,
    ) -> Result<Self, String> {
        let crypto = tls::config(Some(ALPN)).map_err(|error| error.to_string())?;
        let crypto = QuicClientConfig::try_from(crypto).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport(IDLE)));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, Some(seed));
        let name = tls::server_name(name, remote.ip()).to_str().into_owned();
        let (handle, connection) =
            endpoint.connect(instant(now), config, remote, &name).map_err(|error| error.to_string())?;
        let (news, responses, wire) = (VecDeque::new(), Vec::new(), Wire::new(connection));
        let due = Timestamp::NEVER;
        Ok(Self { local, remote, inverse, endpoint, handle, wire, news, responses, due })
    }

    pub(super) fn next(&self) -> Timestamp {
        self.due
    }

    /// Whether [`news`](Self::news) has something to tell.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub(super) fn send(&mut self, bytes: &[u8], datagram: bool) -> Result<(), SendError> {
        if datagram {
            let sent = self.wire.connection.datagrams().send(bytes.to_vec().into(), true);
            sent.map_err(|error| SendError::Other(error.to_string()))
        } else if self.wire.write(bytes) {
            Ok(())
        } else {
            Err(SendError::NoRoom)
        }
    }

    /// Takes a datagram that the process has read.
    pub(super) fn datagram(&mut self, now: Timestamp, bytes: &[u8], tos: u8) {
        self.news.push_back(QuicNews::Tapped { sent: false, hash: datagram_hash(bytes) });
        let mut data = BytesMut::from(bytes);
        invert(&mut data, self.inverse);
        let mut buffer = Vec::new();
        let ecn = EcnCodepoint::from_bits(tos);
        let local = Some(self.local.ip());
        match self.endpoint.handle(instant(now), self.remote, local, ecn, data, &mut buffer) {
            Some(DatagramEvent::ConnectionEvent(_, event)) => self.wire.connection.handle_event(event),
            Some(DatagramEvent::Response(transmit)) => self.responses.push((transmit, buffer)),
            Some(DatagramEvent::NewConnection(incoming)) => self.endpoint.ignore(incoming),
            None => {}
        }
        self.poll();
    }

    fn poll(&mut self) {
        exchange(&mut self.endpoint, self.handle, &mut self.wire.connection);
        while let Some(event) = self.wire.connection.poll() {
            match event {
                Event::Connected => self.connected(),
                Event::ConnectionLost { reason } => {
                    let established = self.wire.stream.is_some();
                    self.news.push_back(QuicNews::Closed(closed_by(&reason, established)));
                }
                Event::DatagramReceived => {
                    while let Some(bytes) = self.wire.connection.datagrams().recv() {
                        self.news.push_back(QuicNews::Datagram(bytes.to_vec()));
                    }
                }
                Event::Stream(_) => {
                    let bytes = self.wire.read();
                    if !bytes.is_empty() {
                        self.news.push_back(QuicNews::Bytes(bytes));
                    }
                    self.wire.push();
                }
                Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
            }
        }
    }

    fn connected(&mut self) {
        let Some(exporter) = self.wire.exporter() else {
            let says = "the channel has no exporter".to_owned();
            return self.news.push_back(QuicNews::Closed(Closed::Handshake { says }));
        };
        let identity = self.wire.connection.crypto_session().peer_identity();
        let identity = identity.and_then(|i| i.downcast::<Vec<CertificateDer<'static>>>().ok());
        let channel = tls::facts(identity.as_deref().map(Vec::as_slice).unwrap_or_default(), exporter);
        self.wire.stream = self.wire.connection.streams().open(Dir::Bi);
        self.news.push_back(QuicNews::Connected { source: self.local, channel });
    }

    pub(super) fn news(&mut self, now: Timestamp) -> Option<QuicNews> {
        if self.due <= now {
            self.wire.connection.handle_timeout(instant(now));
            self.poll();
            self.due = Timestamp::NEVER;
        }
        self.news.pop_front()
    }

    pub(super) fn flush(&mut self, now: Timestamp, io: &mut Io<'_>) {
        let mut buffer = Vec::new();
        for (transmit, bytes) in std::mem::take(&mut self.responses) {
            self.put(&transmit, &bytes, io);
        }
        while let Some(transmit) = self.wire.connection.poll_transmit(instant(now), 1, &mut buffer) {
            self.put(&transmit, &buffer, io);
            buffer.clear();
        }
        exchange(&mut self.endpoint, self.handle, &mut self.wire.connection);
        self.due = self.wire.connection.poll_timeout().map_or(Timestamp::NEVER, timestamp);
    }

    fn put(&mut self, transmit: &Transmit, bytes: &[u8], io: &mut Io<'_>) {
        if let Some((packet, hash)) = packet(self.local, transmit, bytes, self.inverse) {
            self.news.push_back(QuicNews::Tapped { sent: true, hash });
            io.truth.quic_up.0 += 1;
            io.out.push(packet);
        }
    }
}

fn closed_by(error: &ConnectionError, established: bool) -> Closed {
    match error {
        ConnectionError::TimedOut => Closed::TimedOut,
        ConnectionError::Reset => Closed::Reset,
        ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed => Closed::Ended,
        ConnectionError::ConnectionClosed(_) if established => Closed::Ended,
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::CidsExhausted => Closed::Handshake { says: error.to_string() },
    }
}

/// Issues connection ids that the listener recognises without state.
struct Ids {
    ids: ConnectionIds,
    rng: ChaCha8Rng,
}

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&self.ids.make(self.rng.next_u32()))
    }

    fn validate(&self, cid: &ConnectionId) -> Result<(), InvalidCid> {
        self.ids.is_one(cid).then_some(()).ok_or(InvalidCid)
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct Peer {
    handle: ConnectionHandle,
    from: SocketAddr,
    wire: Wire,
    dialogue: Dialogue,
    binding: [u8; 32],
    ledger: Arc<Mutex<DatagramLedger>>,
    lost: bool,
    due: Timestamp,
    /// Something has happened to it since it was last served.
    touched: bool,
}

/// The listener's straight or inverted endpoint.
pub(super) struct QuicServer {
    inverse: bool,
    endpoint: Endpoint,
    peers: BTreeMap<usize, Peer>,
    ledgers: BTreeMap<SocketAddr, Arc<Mutex<DatagramLedger>>>,
    responses: Vec<(SocketAddr, Transmit, Vec<u8>)>,
    local: Option<SocketAddr>,
}

impl QuicServer {
    pub(super) fn new(inverse: bool, ids: ConnectionIds, certificate: &Certificate, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut endpoint_seed = [0; 32];
        rng.fill_bytes(&mut endpoint_seed);
        let mut config = EndpointConfig::default();
        // Who knows QUIC by its first byte must not be given a greased one (RFC 9287).
        config.grease_quic_bit(false);
        let id_seed = rng.next_u64();
        config.cid_generator(move || {
            Box::new(Ids { ids: ids.clone(), rng: ChaCha8Rng::seed_from_u64(id_seed) })
        });
        let mut server = ServerConfig::with_crypto(certificate.quic());
        server.transport_config(Arc::new(transport(IDLE)));
        let endpoint = Endpoint::new(Arc::new(config), Some(Arc::new(server)), true, Some(endpoint_seed));
        Self {
            inverse,
            endpoint,
            peers: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            responses: Vec::new(),
            local: None,
        }
    }

    pub(super) fn next(&self) -> Timestamp {
        self.peers.values().map(|peer| peer.due).min().unwrap_or(Timestamp::NEVER)
    }

    /// Takes a datagram that the packet thread took for QUIC.
    pub(super) fn datagram(&mut self, now: Timestamp, packet: &Packet, io: &mut Io<'_>) {
        io.truth.quic_up.1 += 1;
        self.local = Some(packet.to());
        let from = packet.from();
        let hash = datagram_hash(packet.payload());
        let mut data = BytesMut::from(packet.payload());
        invert(&mut data, self.inverse);
        let mut buffer = Vec::new();
        let (ecn, local) = (EcnCodepoint::from_bits(packet.tos()), Some(packet.destination()));
        let ledger = Arc::clone(self.ledgers.entry(from).or_default());
        match self.endpoint.handle(instant(now), from, local, ecn, data, &mut buffer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(peer) = self.peers.get_mut(&handle.0) {
                    lock(&peer.ledger).note(true, hash);
                    peer.wire.connection.handle_event(event);
                    peer.touched = true;
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                lock(&ledger).note(true, hash);
                if self.peers.len() >= MAX_CONNECTIONS {
                    self.endpoint.ignore(incoming);
                } else if incoming.remote_address_validated() || !incoming.may_retry() {
                    self.accept(now, incoming, ledger);
                } else if let Ok(transmit) = self.endpoint.retry(incoming, &mut buffer) {
                    self.responses.push((from, transmit, buffer));
                }
            }
            Some(DatagramEvent::Response(transmit)) => {
                lock(&ledger).note(true, hash);
                self.responses.push((from, transmit, buffer));
            }
            None => {}
        }
    }

    fn accept(
        &mut self,
        now: Timestamp,
        incoming: quinn_proto::Incoming,
        ledger: Arc<Mutex<DatagramLedger>>,
    ) {
        let from = incoming.remote_address();
        let mut buffer = Vec::new();
        match self.endpoint.accept(incoming, instant(now), &mut buffer, None) {
            Ok((handle, connection)) => {
                let peer = Peer {
                    handle,
                    from,
                    wire: Wire::new(connection),
                    dialogue: Dialogue::new(),
                    binding: [0; 32],
                    ledger,
                    lost: false,
                    due: Timestamp::NEVER,
                    touched: true,
                };
                self.peers.insert(handle.0, peer);
            }
            Err(error) => {
                if let Some(transmit) = error.response {
                    self.responses.push((from, transmit, buffer));
                }
            }
        }
    }

    /// Lets the connections work, and puts on the link what they have to send.
    pub(super) fn serve(
        &mut self,
        now: Timestamp,
        here: Timestamp,
        wall: WallTime,
        process: &mut Process,
        io: &mut Io<'_>,
    ) {
        let carrier = if self.inverse { Carrier::QuicInverse } else { Carrier::Quic };
        let Some(local) = self.local else { return };
        for (to, transmit, bytes) in std::mem::take(&mut self.responses) {
            let ledger = self.ledgers.get(&to);
            put(local, &transmit, &bytes, self.inverse, ledger, io);
        }
        for peer in self.peers.values_mut().filter(|peer| peer.touched || peer.due <= now) {
            peer.touched = false;
            if peer.due <= now {
                peer.wire.connection.handle_timeout(instant(now));
            }
            exchange(&mut self.endpoint, peer.handle, &mut peer.wire.connection);
            peer.work(here, wall, carrier, process);
            let mut buffer = Vec::new();
            while let Some(transmit) = peer.wire.connection.poll_transmit(instant(now), 1, &mut buffer) {
                put(local, &transmit, &buffer, self.inverse, Some(&peer.ledger), io);
                buffer.clear();
            }
            exchange(&mut self.endpoint, peer.handle, &mut peer.wire.connection);
            peer.due = peer.wire.connection.poll_timeout().map_or(Timestamp::NEVER, timestamp);
        }
        self.peers.retain(|_, peer| !peer.wire.connection.is_drained());
    }
}

fn put(
    local: SocketAddr,
    transmit: &Transmit,
    bytes: &[u8],
    inverse: bool,
    ledger: Option<&Arc<Mutex<DatagramLedger>>>,
    io: &mut Io<'_>,
) {
    if let Some((packet, hash)) = packet(local, transmit, bytes, inverse) {
        if let Some(ledger) = ledger {
            lock(ledger).note(false, hash);
        }
        io.truth.quic_down.0 += 1;
        io.out.push(packet);
    }
}

impl Peer {
    fn work(&mut self, here: Timestamp, wall: WallTime, carrier: Carrier, process: &mut Process) {
        while let Some(event) = self.wire.connection.poll() {
            match event {
                Event::Connected => self.binding = self.wire.exporter().unwrap_or_default(),
                Event::ConnectionLost { .. } => {
                    self.lost = true;
                    self.dialogue.gone(here, process);
                }
                Event::DatagramReceived => {
                    while let Some(bytes) = self.wire.connection.datagrams().recv() {
                        let Dialogue::Flow(flow) = &mut self.dialogue else { continue };
                        let mut record = bytes.to_vec();
                        if flow.answer(here, process, &mut record) == Some(true) {
                            // What does not fit is lost, as in the program.
                            let _ = self.wire.connection.datagrams().send(record.into(), true);
                        }
                    }
                }
                Event::Stream(_) => {
                    if self.wire.stream.is_none() {
                        self.wire.stream = self.wire.connection.streams().accept(Dir::Bi);
                    }
                    let bytes = self.wire.read();
                    if !bytes.is_empty() && !self.lost {
                        let datagrams = Some(Arc::clone(&self.ledger));
                        let under =
                            Under { carrier, from: self.from, local: None, binding: self.binding, datagrams };
                        let answered = self.dialogue.take(&bytes, here, wall, process, &under);
                        // A stream that takes no more is told by its silence.
                        let _ = self.wire.write(&answered.bytes);
                    }
                    self.wire.push();
                }
                Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
            }
        }
    }
}
