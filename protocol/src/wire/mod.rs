//! One record, on every carrier: a UDP datagram, a QUIC datagram, or a length-prefixed piece of a stream.
//!
//! ```text
//!  0       8            14     15        16       32          32+B          len
//!  | id 8  | seq 6      | kind | version | tag 16 | body B    | filler      |
//!  |       | masked with the tag         |        | encrypted | f(flow, seq)|
//! ```
//!
//! - `id` is made by the listener ([`id`]); it is the only thing read before the keys are known.
//! - `seq`, `kind`, `version` are masked as QUIC masks its header (RFC 9001 section 5.4): with the cipher's output
//!   over a sample of the ciphertext, here the tag.
//! - `tag` and `body` are AES-SIV (RFC 5297) over the unmasked first 16 bytes. The same request answered twice must
//!   not leak, hence a cipher that survives a repeated nonce; AES-SIV needs no key schedule per record, which made
//!   it the faster of the two such ciphers at these sizes.
//! - `B` follows from the kind: [`PROBE_BODY_LEN`], [`HANDSHAKE_BODY_LEN`], or all the rest for control messages.
//! - `filler` is a function of flow and sequence number ([`seal::FlowKeys::fill`]), so that a byte changed on the way
//!   shows its offset. A reply overwrites its request in place and keeps the filler as it came.
//!
//! A record then wears a [`dress`].

pub mod dress;
pub mod hello;
pub mod id;
pub mod probe;
pub mod seal;
pub mod stream;

use thiserror::Error;

/// Bytes of a flow id.
pub const ID_LEN: usize = 8;
/// Bytes of id, sequence number, kind and version.
pub const HEADER_LEN: usize = 16;
/// Bytes of the integrity tag.
pub const TAG_LEN: usize = 16;
/// Where the body begins.
pub const BODY_AT: usize = HEADER_LEN + TAG_LEN;
/// Body of a probe and of its echo.
pub const PROBE_BODY_LEN: usize = 32;
/// Body of a handshake record.
pub const HANDSHAKE_BODY_LEN: usize = 128;
/// Smallest record: a probe without filler.
pub const MIN_LEN: usize = BODY_AT + PROBE_BODY_LEN;
/// Every handshake record is this long before it is dressed.
pub const HANDSHAKE_LEN: usize = BODY_AT + HANDSHAKE_BODY_LEN;
/// Largest record. Larger than any link's packet that is not a jumbo frame of the largest sort.
pub const MAX_LEN: usize = 9216;
/// Largest sequence number: six bytes.
pub const MAX_SEQ: u64 = (1 << 48) - 1;

/// What a record is. Kinds of the listener have the high bit set; an end drops kinds of its own direction, so a
/// reply is never itself a request and two listeners cannot be made to talk to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Client: opens a flow; with a cookie once it has one.
    Hello = 0x01,
    /// Client: a probe.
    Probe = 0x02,
    /// Client: a control request ([`crate::control`]).
    Control = 0x03,
    /// Client: the flow is over, nothing is answered.
    Close = 0x04,
    /// Client: a block of a load upwards ([`crate::bulk`]).
    Block = 0x05,
    /// Client: which blocks of a load downwards arrived.
    Sack = 0x06,
    /// Listener: prove that you receive at your address.
    Challenge = 0x81,
    /// Listener: the flow is open.
    Accept = 0x82,
    /// Listener: no, and why.
    Refuse = 0x83,
    /// Listener: the answer to a probe.
    Echo = 0x84,
    /// Listener: the answer to a control request.
    ControlReply = 0x85,
    /// Listener: it does not know this flow (any more); open it again.
    Stale = 0x86,
    /// Listener: a block of a load downwards.
    BlockDown = 0x87,
    /// Listener: which blocks of a load upwards arrived.
    SackDown = 0x88,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 14] = [
        Self::Hello,
        Self::Probe,
        Self::Control,
        Self::Close,
        Self::Block,
        Self::Sack,
        Self::Challenge,
        Self::Accept,
        Self::Refuse,
        Self::Echo,
        Self::ControlReply,
        Self::Stale,
        Self::BlockDown,
        Self::SackDown,
    ];

    /// The kind of a byte on the wire.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Hello,
            0x02 => Self::Probe,
            0x03 => Self::Control,
            0x04 => Self::Close,
            0x05 => Self::Block,
            0x06 => Self::Sack,
            0x81 => Self::Challenge,
            0x82 => Self::Accept,
            0x83 => Self::Refuse,
            0x84 => Self::Echo,
            0x85 => Self::ControlReply,
            0x86 => Self::Stale,
            0x87 => Self::BlockDown,
            0x88 => Self::SackDown,
            _ => return None,
        })
    }

    /// Whether the listener sends this kind.
    pub const fn from_listener(self) -> bool {
        self as u8 & 0x80 != 0
    }

    /// Length of the body in a record of `len` bytes; what follows is filler.
    pub const fn body_len(self, len: usize) -> usize {
        match self {
            Self::Probe | Self::Echo | Self::Close | Self::Stale | Self::Block | Self::BlockDown => {
                PROBE_BODY_LEN
            }
            Self::Hello | Self::Challenge | Self::Accept | Self::Refuse | Self::Sack | Self::SackDown => {
                HANDSHAKE_BODY_LEN
            }
            Self::Control | Self::ControlReply => len.saturating_sub(BODY_AT),
        }
    }
}

/// The clear part of a record's header, once unmasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Sequence number within the flow and kind, at most [`MAX_SEQ`].
    pub seq: u64,
    /// What the record is.
    pub kind: Kind,
    /// Protocol version of the sender.
    pub version: u8,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WireError {
    /// Fewer bytes than the smallest record of its kind.
    #[error("{len} bytes are too short for a record")]
    TooShort {
        /// How many there were.
        len: usize,
    },
    /// More bytes than [`MAX_LEN`].
    #[error("{len} bytes are too long for a record (at most {MAX_LEN})")]
    TooLong {
        /// How many there were.
        len: usize,
    },
    /// The bytes are not in the dress they should wear.
    #[error("not in the expected dress")]
    Undressed,
    /// The integrity check failed: forged, altered, or sealed with another key.
    #[error("the integrity check failed")]
    Forged,
    /// An authentic record whose body does not parse.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// Reads fixed-layout bodies; running out of bytes is [`WireError::Malformed`].
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, what }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.bytes.split_first_chunk::<N>().ok_or(WireError::Malformed(self.what))?;
        self.bytes = rest;
        Ok(*head)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn u48(&mut self) -> Result<u64, WireError> {
        let six = self.array::<6>()?;
        Ok(u48(&six))
    }
}

/// Writes fixed-layout bodies; the arrays are sized so that nothing is ever cut off, which the codecs' round-trip
/// properties prove.
pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(room) = self.bytes.get_mut(self.at..self.at + bytes.len()) {
            room.copy_from_slice(bytes);
            self.at += bytes.len();
        }
        self
    }

    pub(crate) fn put_u48(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_be_bytes()[2..])
    }
}

pub(crate) fn u48(six: &[u8; 6]) -> u64 {
    six.iter().fold(0, |acc, b| (acc << 8) | u64::from(*b))
}
