//! What a classifier on the way can tell of a flow from its first bytes: TLS, QUIC, the server's name, others.

use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic;
use rustls::{Side, SupportedCipherSuite};

use super::data::Direction;
use crate::packet::{Packet, Part, Protocol};

/// A stream that is longer than this without showing a whole ClientHello is given up.
const MAX_STREAM: usize = 16 * 1024;

/// Initials are looked for in a flow's first packets only, as real classifiers do.
const LOOK_AT: u32 = 64;

/// Which of the costly recognitions any rule asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// TLS over TCP.
    pub tls: bool,
    /// QUIC over UDP.
    pub quic: bool,
    /// Whether the protocol is one that is known at all.
    pub known: bool,
}

/// A ClientHello.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The server's name (RFC 6066, section 3), where it says one.
    pub name: Option<String>,
}

/// What has been made of one flow so far.
#[derive(Debug, Default)]
pub struct Classifier {
    /// It opened with a TLS ClientHello.
    pub tls: Option<Hello>,
    /// It showed a QUIC version 1 Initial whose protection came off.
    pub quic: Option<Hello>,
    /// Whether it is of a known protocol; `None` until its first payload came.
    pub known: Option<bool>,
    stream: Vec<u8>,
    next: Option<u32>,
    decided: bool,
    looked_at: u32,
}

impl Classifier {
    /// Looks at one more packet of the flow.
    pub fn see(&mut self, direction: Direction, packet: &Packet, needs: Needs) {
        if direction == Direction::Down || packet.part() == Part::Later || packet.payload().is_empty() {
            return;
        }
        match packet.protocol() {
            Protocol::Tcp if needs.tls || needs.known => self.see_tcp(packet),
            Protocol::Udp if needs.quic || needs.known => self.see_udp(packet),
            Protocol::Tcp | Protocol::Udp | Protocol::Icmp | Protocol::Other => {}
        }
    }

    fn see_tcp(&mut self, packet: &Packet) {
        if self.decided {
            return;
        }
        let Some((sequence, _)) = packet.tcp_numbers() else { return };
        let payload = packet.payload();
        // Only what continues the stream is taken: retransmissions and gaps are left out.
        if self.next.is_some_and(|next| next != sequence) {
            return;
        }
        self.next = Some(sequence.wrapping_add(u32::try_from(payload.len()).unwrap_or(0)));
        let room = MAX_STREAM.saturating_sub(self.stream.len());
        self.stream.extend_from_slice(&payload[..payload.len().min(room)]);
        if is_http(&self.stream) {
            self.decide(true);
        } else if self.stream.len() < 6 {
            // Too little to tell.
        } else if self.stream[..2] == [22, 3] && self.stream[5] == 1 {
            match client_hello_in_records(&self.stream) {
                Some(hello) => self.tls = Some(hello),
                None if self.stream.len() < MAX_STREAM => return,
                None => self.tls = Some(Hello::default()),
            }
            self.decide(true);
        } else {
            self.decide(false);
        }
    }

    fn decide(&mut self, known: bool) {
        self.known = Some(known);
        self.decided = true;
        self.stream = Vec::new();
    }

    fn see_udp(&mut self, packet: &Packet) {
        if self.quic.is_some() || self.looked_at >= LOOK_AT {
            return;
        }
        self.looked_at += 1;
        self.quic = quic_initial(packet.payload());
        let known = self.quic.is_some() || packet.destination_port() == 53;
        self.known = Some(known || self.known == Some(true));
    }
}

fn is_http(stream: &[u8]) -> bool {
    [&b"GET "[..], b"HEAD ", b"POST ", b"PUT ", b"OPTIONS ", b"CONNECT "]
        .iter()
        .any(|m| stream.starts_with(m))
}

/// A reader that stops at the end of what it was given.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// A big-endian number of `count` bytes, at most 8.
    fn number(&mut self, count: usize) -> Option<usize> {
        Some(self.take(count)?.iter().fold(0, |n, b| (n << 8) | usize::from(*b)))
    }

    /// A vector behind its length of `count` bytes.
    fn vector(&mut self, count: usize) -> Option<&'a [u8]> {
        let length = self.number(count)?;
        self.take(length)
    }

    /// A variable-length integer (RFC 9000, section 16).
    fn varint(&mut self) -> Option<usize> {
        let first = *self.0.first()?;
        let length = 1 << (first >> 6);
        let value = self.number(length)?;
        Some(value & ((1 << (8 * length - 2)) - 1))
    }
}

/// The ClientHello in a stream of TLS records, once it is whole (RFC 8446, section 5.1).
pub fn client_hello_in_records(stream: &[u8]) -> Option<Hello> {
    let mut records = Reader(stream);
    let mut handshake = Vec::new();
    loop {
        if let Some(hello) = client_hello(&handshake) {
            return Some(hello);
        }
        if records.number(1)? != 22 {
            return None;
        }
        records.take(2)?;
        handshake.extend_from_slice(records.vector(2)?);
    }
}

/// A whole ClientHello handshake message (RFC 8446, section 4.1.2).
pub fn client_hello(handshake: &[u8]) -> Option<Hello> {
    let mut message = Reader(handshake);
    if message.number(1)? != 1 {
        return None;
    }
    let mut body = Reader(message.vector(3)?);
    body.take(2 + 32)?;
    body.vector(1)?;
    body.vector(2)?;
    body.vector(1)?;
    let mut extensions = Reader(body.vector(2).unwrap_or_default());
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        if kind == 0 {
            let mut list = Reader(content);
            let mut entries = Reader(list.vector(2)?);
            if entries.number(1)? == 0 {
                let name = String::from_utf8_lossy(entries.vector(2)?).to_ascii_lowercase();
                return Some(Hello { name: Some(name) });
            }
        }
    }
    Some(Hello { name: None })
}

/// The QUIC version 1 Initial at the front of a datagram, its protection taken off with the keys that anybody on the
/// way can derive (RFC 9001, section 5.2). `None` where it is none; the ClientHello is empty where this one Initial
/// does not hold all of it.
pub fn quic_initial(datagram: &[u8]) -> Option<Hello> {
    // Long header, fixed bit, type Initial (RFC 9000, section 17.2.2), version 1.
    if datagram.len() < 7 || datagram[0] & 0xf0 != 0xc0 || datagram[1..5] != [0, 0, 0, 1] {
        return None;
    }
    let mut header = Reader(&datagram[5..]);
    let destination = header.vector(1).filter(|id| id.len() <= 20)?;
    header.vector(1).filter(|id| id.len() <= 20)?;
    let token = header.varint()?;
    header.take(token)?;
    let length = header.varint()?;
    let number_at = datagram.len() - header.0.len();
    let end = number_at.checked_add(length).filter(|end| *end <= datagram.len())?;
    let mut packet = datagram[..end].to_vec();

    let SupportedCipherSuite::Tls13(suite) = TLS13_AES_128_GCM_SHA256 else { return None };
    let keys = suite.quic_suite()?.keys(destination, Side::Server, quic::Version::V1);
    let key = keys.remote.header;
    let sample_at = number_at + 4;
    if sample_at + key.sample_len() > end {
        return None;
    }
    let (front, sample) = packet.split_at_mut(sample_at);
    let (first, rest) = front.split_at_mut(1);
    key.decrypt_in_place(&sample[..key.sample_len()], &mut first[0], &mut rest[number_at - 1..]).ok()?;
    let number_length = usize::from(packet[0] & 3) + 1;
    let (aad, body) = packet.split_at_mut(number_at + number_length);
    let number = aad[number_at..].iter().fold(0, |n, b| (n << 8) | u64::from(*b));
    let plain = keys.remote.packet.decrypt_in_place(number, aad, body).ok()?;
    Some(client_hello(&crypto_stream(plain)).unwrap_or_default())
}

/// The CRYPTO frames of an Initial, in order of their offsets up to the first gap (RFC 9000, section 19.6).
fn crypto_stream(frames: &[u8]) -> Vec<u8> {
    let mut reader = Reader(frames);
    let mut pieces = Vec::new();
    while let Some(kind) = reader.varint() {
        match kind {
            0 | 1 => {}
            6 => {
                let piece = reader
                    .varint()
                    .zip(reader.varint())
                    .and_then(|(offset, length)| Some((offset, reader.take(length)?)));
                match piece {
                    Some(piece) => pieces.push(piece),
                    None => break,
                }
            }
            _ => break,
        }
    }
    pieces.sort_unstable_by_key(|(offset, _)| *offset);
    let mut stream: Vec<u8> = Vec::new();
    for (offset, piece) in pieces {
        if offset > stream.len() {
            break;
        }
        let known = stream.len() - offset;
        stream.extend_from_slice(piece.get(known..).unwrap_or_default());
    }
    stream
}

/// Shannon entropy of the bytes as a share of the most that so many bytes can have, 0 to 1.
pub fn entropy(bytes: &[u8]) -> f64 {
    if bytes.len() < 2 {
        return 0.0;
    }
    let mut counts = [0u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    let bits: f64 = counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / total;
            -share * share.log2()
        })
        .sum();
    bits / total.min(256.0).log2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_that_arrives_panics(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let _ = (client_hello_in_records(&bytes), client_hello(&bytes), crypto_stream(&bytes), entropy(&bytes));
            let mut like_initial = vec![0xc3, 0, 0, 0, 1];
            like_initial.extend(bytes);
            prop_assert_eq!(quic_initial(&like_initial), None);
        }
    }

    /// The client's Initial of RFC 9001, appendix A.2, has this ClientHello; the packet itself is sealed anew here.
    #[test]
    fn entropy_tells_random_from_text() {
        let random: Vec<u8> = (0..1200u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert!(entropy(&random) > 0.95);
        assert!(entropy(b"the quick brown fox jumps over the lazy dog, and over and over again").abs() < 0.8);
        assert_eq!(entropy(&[0; 100]), 0.0);
    }

    #[test]
    fn rustls_client_hello_shows_its_name() {
        let roots = rustls::RootCertStore::empty();
        let config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        let mut tls =
            rustls::ClientConnection::new(std::sync::Arc::new(config), "Lab.Example".try_into().unwrap())
                .unwrap();
        let mut stream = Vec::new();
        tls.write_tls(&mut stream).unwrap();
        assert_eq!(client_hello_in_records(&stream).unwrap().name.as_deref(), Some("lab.example"));
        assert_eq!(client_hello_in_records(&stream[..stream.len() - 1]), None, "one byte short");
    }
}
