//! A small client of the wire, blocking and over loopback.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use probe_protocol::control::{self, Reply, Request};
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Carrier, Challenge, Hello, HelloKeys, Refuse, SessionId};
use probe_protocol::wire::probe::{EchoBody, ProbeBody};
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::stream::{Deframer, Framer};
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Header, Kind, MIN_LEN};

/// Generous: nothing here waits for time to pass.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn hello(session: u8, nonce: u64, carrier: Carrier, dress: Dress) -> Hello {
    Hello {
        min_version: 1,
        max_version: 1,
        session: SessionId([session; 16]),
        flow_nonce: nonce,
        cookie: [0; 16],
        carrier,
        dress,
        size: 200,
        software: [0, 1, 0],
        wall: WallTime(0),
        binding: [0; 32],
    }
}

/// A Hello, sealed and dressed.
pub fn hello_bytes(keys: &mut HelloKeys, hello: &Hello, on_stream: bool) -> Vec<u8> {
    let row = hello.dress.row();
    let mut record = vec![0; if on_stream { HANDSHAKE_LEN } else { row.handshake_len }];
    record[BODY_AT..HANDSHAKE_LEN].copy_from_slice(&hello.encode());
    if row.random_filler {
        keys.keys.fill(1, &mut record[HANDSHAKE_LEN..]);
    }
    keys.keys.seal(keys.id, 1, Kind::Hello, &mut record).unwrap();
    let mut wire = Vec::new();
    dress::put_on(hello.dress, Form::Opening, &record, &mut wire);
    wire
}

#[derive(Debug)]
pub enum Answer {
    Challenge(Challenge),
    Accept(Accept),
    Refuse(Refuse),
}

pub fn read_answer(keys: &mut HelloKeys, dress: Dress, wire: &mut [u8]) -> Answer {
    let record = dress::take_off(dress, Form::Opening, wire).unwrap();
    let header = keys.keys.open(record).unwrap();
    let body = &record[BODY_AT..HANDSHAKE_LEN];
    match header.kind {
        Kind::Challenge => Answer::Challenge(Challenge::decode(body).unwrap()),
        Kind::Accept => Answer::Accept(Accept::decode(body).unwrap()),
        Kind::Refuse => Answer::Refuse(Refuse::decode(body).unwrap()),
        other => panic!("{other:?} for a hello"),
    }
}

/// A probe's record.
pub fn probe_record(keys: &mut FlowKeys, accept: &Accept, seq: u64, len: usize, reply_len: u16) -> Vec<u8> {
    let mut record = vec![0; len];
    let body = ProbeBody { sent: Timestamp(seq), reply_len, ..ProbeBody::default() };
    record[BODY_AT..MIN_LEN].copy_from_slice(&body.encode());
    keys.fill(seq, &mut record[MIN_LEN..]);
    keys.seal(accept.id, seq, Kind::Probe, &mut record).unwrap();
    record
}

pub fn control_record(keys: &mut FlowKeys, accept: &Accept, seq: u64, request: &Request) -> Vec<u8> {
    let mut record = vec![0; 1136];
    control::encode_request(request, &mut record[BODY_AT..]).unwrap();
    keys.seal(accept.id, seq, Kind::Control, &mut record).unwrap();
    record
}

pub fn open_echo(keys: &mut FlowKeys, record: &mut [u8]) -> (u64, EchoBody) {
    let header = keys.open(record).unwrap();
    assert_eq!(header.kind, Kind::Echo);
    (header.seq, EchoBody::decode(&record[BODY_AT..]).unwrap())
}

pub fn open_reply(keys: &mut FlowKeys, record: &mut [u8]) -> Reply {
    let Header { kind, .. } = keys.open(record).unwrap();
    assert_eq!(kind, Kind::ControlReply);
    control::decode_reply(&record[BODY_AT..]).unwrap()
}

/// A flow over UDP.
pub struct UdpClient {
    pub socket: UdpSocket,
    pub accept: Accept,
    pub keys: FlowKeys,
    pub dress: Dress,
}

pub fn socket_to(server: SocketAddr) -> UdpSocket {
    let any = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(server).unwrap();
    socket
}

/// Opens a flow over UDP, through the challenge.
pub fn open_udp(server: SocketAddr, keys: HelloKeys, hello: Hello) -> Result<UdpClient, Refuse> {
    open_udp_on(socket_to(server), keys, hello)
}

/// The same, on a socket that is connected to the listener.
pub fn open_udp_on(socket: UdpSocket, mut keys: HelloKeys, mut hello: Hello) -> Result<UdpClient, Refuse> {
    loop {
        let wire = hello_bytes(&mut keys, &hello, false);
        socket.send(&wire).unwrap();
        let mut buffer = [0; 2000];
        let n = socket.recv(&mut buffer).unwrap();
        assert!(n <= wire.len(), "an answer of {n} bytes to {} bytes", wire.len());
        match read_answer(&mut keys, hello.dress, &mut buffer[..n]) {
            Answer::Challenge(challenge) => hello.cookie = challenge.cookie,
            Answer::Refuse(refuse) => return Err(refuse),
            Answer::Accept(accept) => {
                let keys = FlowKeys::new(accept.secret);
                return Ok(UdpClient { socket, accept, keys, dress: hello.dress });
            }
        }
    }
}

impl UdpClient {
    pub fn send(&self, record: &[u8]) {
        let mut wire = Vec::new();
        dress::put_on(self.dress, Form::Running, record, &mut wire);
        self.socket.send(&wire).unwrap();
    }

    pub fn recv(&self) -> Vec<u8> {
        let mut buffer = vec![0; 10_000];
        let n = self.socket.recv(&mut buffer).unwrap();
        dress::take_off(self.dress, Form::Running, &mut buffer[..n]).unwrap().to_vec()
    }

    pub fn probe(&mut self, seq: u64, len: usize) -> EchoBody {
        let record = probe_record(&mut self.keys, &self.accept, seq, len, 0);
        self.send(&record);
        let mut reply = self.recv();
        assert_eq!(reply.len(), len);
        let (echoed, body) = open_echo(&mut self.keys, &mut reply);
        assert_eq!(echoed, seq);
        body
    }

    pub fn ask(&mut self, seq: u64, request: &Request) -> Reply {
        let record = control_record(&mut self.keys, &self.accept, seq, request);
        self.send(&record);
        let mut reply = self.recv();
        open_reply(&mut self.keys, &mut reply)
    }
}

/// A flow over a stream.
pub struct StreamClient<S> {
    pub stream: S,
    pub accept: Accept,
    pub keys: FlowKeys,
    framer: Framer,
    deframer: Deframer,
}

pub fn open_stream<S: Read + Write>(
    mut stream: S,
    mut keys: HelloKeys,
    hello: &Hello,
) -> Result<StreamClient<S>, Refuse> {
    let wire = hello_bytes(&mut keys, hello, true);
    stream.write_all(&wire).unwrap();
    let mut answer = vec![0; wire.len()];
    stream.read_exact(&mut answer).unwrap();
    match read_answer(&mut keys, hello.dress, &mut answer) {
        Answer::Challenge(_) => panic!("challenged on a stream"),
        Answer::Refuse(refuse) => Err(refuse),
        Answer::Accept(accept) => Ok(StreamClient {
            stream,
            keys: FlowKeys::new(accept.secret),
            framer: Framer::new(accept.secret, hello.dress, false),
            deframer: Deframer::new(accept.secret, hello.dress, true),
            accept,
        }),
    }
}

impl<S: Read + Write> StreamClient<S> {
    pub fn send(&mut self, record: &[u8]) {
        let mut wire = Vec::new();
        self.framer.frame(record, &mut wire).unwrap();
        self.stream.write_all(&wire).unwrap();
    }

    pub fn recv(&mut self) -> Vec<u8> {
        loop {
            if let Some(record) = self.deframer.next_record().unwrap() {
                return record.to_vec();
            }
            let mut buffer = [0; 4096];
            let n = self.stream.read(&mut buffer).unwrap();
            assert!(n > 0, "the listener closed the stream");
            self.deframer.push(&buffer[..n]);
        }
    }

    pub fn probe(&mut self, seq: u64, len: usize) -> EchoBody {
        let record = probe_record(&mut self.keys, &self.accept, seq, len, 0);
        self.send(&record);
        let mut reply = self.recv();
        assert_eq!(reply.len(), len);
        let (echoed, body) = open_echo(&mut self.keys, &mut reply);
        assert_eq!(echoed, seq);
        body
    }

    pub fn ask(&mut self, seq: u64, request: &Request) -> Reply {
        let record = control_record(&mut self.keys, &self.accept, seq, request);
        self.send(&record);
        let mut reply = self.recv();
        open_reply(&mut self.keys, &mut reply)
    }
}

/// Trusts any certificate: what is proven here lies above TLS.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub fn tls_config() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth()
}
