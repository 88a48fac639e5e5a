//! Records on a stream: TCP, TLS and QUIC streams.
//!
//! A stream opens with one handshake record of known length, so that its very first bytes look like its dress. Each
//! record after that is preceded by its length, masked with a keystream of the flow, so that a random stream stays
//! random and an ASCII one stays ASCII.

use aes::cipher::{BlockEncrypt, KeyInit};

use super::dress::{self, Dress, Form};
use super::id::FlowId;
use super::seal::{FlowSecret, derive};
use super::{ID_LEN, MAX_LEN, WireError};

/// What the first bytes of a TCP connection, or of a TLS session, are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstBytes {
    /// Too few to tell.
    More,
    /// A TLS record that carries a handshake.
    Tls,
    /// An HTTP request with GET or HEAD.
    Http,
    /// A flow of ours opens, in this dress, under this permanent id.
    Hello(Dress, FlowId),
    /// None of these.
    Unknown,
}

/// Tells what opens, from as few bytes as arrived so far; `is_hello` says whether an id is a permanent one.
pub fn first_bytes(bytes: &[u8], is_hello: impl Fn(FlowId) -> bool) -> FirstBytes {
    let starts = |pattern: &[u8]| {
        let n = pattern.len().min(bytes.len());
        bytes[..n] == pattern[..n]
    };
    // RFC 8446 section 5.1: handshake (22), then a legacy version of 3.x.
    if bytes.len() >= 3 && bytes[0] == 22 && bytes[1] == 3 && bytes[2] <= 4 {
        return FirstBytes::Tls;
    }
    for method in [&b"GET "[..], b"HEAD "] {
        if starts(method) && bytes.len() >= method.len() {
            return FirstBytes::Http;
        }
    }
    let found = dress::candidates(bytes).find(|(_, id)| is_hello(*id));
    match found {
        Some((dress::Place::Base64, id)) => FirstBytes::Hello(Dress::Ascii, id),
        Some((dress::Place::At(0), id)) => FirstBytes::Hello(Dress::Random, id),
        Some(_) | None if bytes.len() < 12 => FirstBytes::More,
        Some(_) | None => FirstBytes::Unknown,
    }
}

/// Bytes of a masked length: two of length, one that only rounds it up for base64.
const LENGTH_LEN: usize = 3;

struct Mask {
    cipher: aes::Aes128Enc,
    count: u64,
}

impl Mask {
    fn new(secret: FlowSecret, from_listener: bool) -> Self {
        let purpose: &[u8] = if from_listener { b"stream down" } else { b"stream up" };
        let key: [u8; 16] = derive(&secret.0, purpose, b"");
        Self { cipher: aes::Aes128Enc::new(&key.into()), count: 0 }
    }

    fn next(&mut self) -> [u8; LENGTH_LEN] {
        let mut block = aes::Block::default();
        block[..8].copy_from_slice(&self.count.to_be_bytes());
        self.count += 1;
        self.cipher.encrypt_block(&mut block);
        [block[0], block[1], block[2]]
    }
}

/// Turns records into a stream's bytes, for one direction.
pub struct Framer {
    mask: Mask,
    dress: Dress,
    dressed: Vec<u8>,
}

impl std::fmt::Debug for Framer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Framer({})", self.dress.name())
    }
}

impl Framer {
    /// For what one end sends on one stream after the handshake.
    pub fn new(secret: FlowSecret, dress: Dress, from_listener: bool) -> Self {
        Self { mask: Mask::new(secret, from_listener), dress, dressed: Vec::new() }
    }

    /// Appends a sealed record to `out`.
    ///
    /// # Errors
    /// [`WireError::TooLong`] beyond [`MAX_LEN`].
    pub fn frame(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
        let len = record.len();
        if len > MAX_LEN {
            return Err(WireError::TooLong { len });
        }
        let mut head = self.mask.next();
        let [high, low] = (len as u16).to_be_bytes();
        head[0] ^= high;
        head[1] ^= low;
        for part in [&head[..], record] {
            dress::put_on(stream_dress(self.dress), Form::Running, part, &mut self.dressed);
            out.extend_from_slice(&self.dressed);
        }
        Ok(())
    }
}

/// On a stream there are no datagrams to look like: only whether it is printable matters.
fn stream_dress(dress: Dress) -> Dress {
    match dress {
        Dress::Ascii => Dress::Ascii,
        Dress::Random | Dress::Zero | Dress::QuicShaped | Dress::Jetstream => Dress::Random,
    }
}

/// Cuts a stream's bytes into records, for one direction. Holds at most one record and what was pushed last.
pub struct Deframer {
    mask: Mask,
    dress: Dress,
    bytes: Vec<u8>,
    at: usize,
    expected: Option<usize>,
}

impl std::fmt::Debug for Deframer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Deframer({}, {} bytes held)", self.dress.name(), self.bytes.len() - self.at)
    }
}

impl Deframer {
    /// For what one end receives on one stream after the handshake.
    pub fn new(secret: FlowSecret, dress: Dress, from_listener: bool) -> Self {
        let dress = stream_dress(dress);
        Self { mask: Mask::new(secret, from_listener), dress, bytes: Vec::new(), at: 0, expected: None }
    }

    /// Takes in what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole record, still sealed; none until more bytes come.
    ///
    /// # Errors
    /// [`WireError::TooLong`], [`WireError::TooShort`] or [`WireError::Undressed`]: the stream is not ours or was
    /// altered, and nothing after this can be understood.
    pub fn next_record(&mut self) -> Result<Option<&mut [u8]>, WireError> {
        let expected = match self.expected {
            Some(len) => len,
            None => {
                let head_len = self.dress.dressed_len(Form::Running, LENGTH_LEN);
                let Some(head) = self.bytes.get_mut(self.at..self.at + head_len) else { return Ok(None) };
                let head = dress::take_off(self.dress, Form::Running, head)?;
                let mask = self.mask.next();
                let len = usize::from(u16::from_be_bytes([head[0] ^ mask[0], head[1] ^ mask[1]]));
                if head[2] != mask[2] {
                    return Err(WireError::Undressed);
                }
                if len > MAX_LEN {
                    return Err(WireError::TooLong { len });
                }
                if len < ID_LEN {
                    return Err(WireError::TooShort { len });
                }
                self.at += head_len;
                self.expected = Some(len);
                len
            }
        };
        let wire_len = self.dress.dressed_len(Form::Running, expected);
        let from = self.at;
        if self.bytes.len() < from + wire_len {
            return Ok(None);
        }
        self.expected = None;
        self.at += wire_len;
        dress::take_off(self.dress, Form::Running, &mut self.bytes[from..from + wire_len]).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: FlowSecret = FlowSecret([9; 16]);

    proptest! {
        #[test]
        fn records_survive_any_segmentation(
            ascii: bool,
            records in proptest::collection::vec(proptest::collection::vec(any::<u8>(), ID_LEN..300), 1..20),
            cuts in proptest::collection::vec(1usize..50, 1..30),
        ) {
            let dress = if ascii { Dress::Ascii } else { Dress::Random };
            let mut framer = Framer::new(SECRET, dress, false);
            let mut wire = Vec::new();
            for record in &records {
                framer.frame(record, &mut wire).unwrap();
            }
            if ascii {
                prop_assert!(wire.iter().all(u8::is_ascii_graphic));
            }
            let mut deframer = Deframer::new(SECRET, dress, false);
            let mut got = Vec::new();
            let mut rest = &wire[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                rest = later;
                deframer.push(now);
                while let Some(record) = deframer.next_record().unwrap() {
                    got.push(record.to_vec());
                }
            }
            prop_assert_eq!(got, records);
        }

        #[test]
        fn any_stream_is_refused_or_waits_within_bounds(
            ascii: bool, bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        ) {
            let mut deframer = Deframer::new(SECRET, if ascii { Dress::Ascii } else { Dress::Random }, true);
            for piece in bytes.chunks(7) {
                deframer.push(piece);
                loop {
                    match deframer.next_record() {
                        Ok(Some(record)) => prop_assert!(record.len() <= MAX_LEN),
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
            }
        }

        #[test]
        fn first_bytes_never_change_their_mind(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let hello = FlowId([0x51; 8]);
            let mut said = FirstBytes::More;
            for n in 0..=bytes.len() {
                let now = first_bytes(&bytes[..n], |id| id == hello);
                if said != FirstBytes::More {
                    prop_assert_eq!(now, said);
                }
                said = now;
            }
        }
    }

    #[test]
    fn known_openings_are_told_apart() {
        let hello = FlowId([0x51; 8]);
        let is_hello = |id: FlowId| id == hello;
        assert_eq!(first_bytes(&[22, 3, 1, 2, 0], is_hello), FirstBytes::Tls);
        assert_eq!(first_bytes(b"GET / HTTP/1.1", is_hello), FirstBytes::Http);
        assert_eq!(first_bytes(b"HEAD / HTTP/1.1", is_hello), FirstBytes::Http);
        assert_eq!(first_bytes(b"GE", is_hello), FirstBytes::More);
        assert_eq!(first_bytes(b"SSH-2.0-OpenSSH_9", is_hello), FirstBytes::Unknown);
        assert_eq!(first_bytes(&[0x51; 12], is_hello), FirstBytes::Hello(Dress::Random, hello));
        let mut ascii = Vec::new();
        dress::put_on(Dress::Ascii, Form::Opening, &[0x51; 32], &mut ascii);
        assert_eq!(first_bytes(&ascii, is_hello), FirstBytes::Hello(Dress::Ascii, hello));
    }
}
