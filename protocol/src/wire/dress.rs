//! Dresses: the same record in different clothes, so that one trait at a time can be tested.
//!
//! A dress is a row of [`TABLE`] and a pair of pure functions, [`put_on`] and [`take_off`]. To add one, add a variant,
//! a row, and, where it is not a plain prefix, its mapping.

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::id::FlowId;
use super::{BODY_AT, HANDSHAKE_LEN, ID_LEN, MAX_LEN, MIN_LEN, TAG_LEN, WireError};

/// How a record looks on the wire, on UDP and on plain TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dress {
    /// High entropy throughout, header included.
    Random,
    /// Printable, low entropy: base64url.
    Ascii,
    /// A sealed head and a filler of zeros.
    Zero,
    /// Looks like QUIC version 1, Initial packets first and 1-RTT packets then (RFC 9000 section 17), and is not.
    QuicShaped,
    /// What a transfer product sends: encrypted blocks of one size from the first datagram on, at a rate that does not
    /// back off, with few small acknowledgements of block ranges ([`crate::bulk`]).
    Jetstream,
}

/// The form that a datagram of a flow takes: some dresses open with another one than they go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// Handshake records.
    Opening,
    /// All other records.
    Running,
}

/// Where a flow id can stand in a datagram. Few places serve all dresses, so that telling flows apart is cheap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// At this offset.
    At(usize),
    /// At offset 0, as base64url.
    Base64,
}

/// One dress's row.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The dress.
    pub dress: Dress,
    /// Its name in flags, plans and reports.
    pub name: &'static str,
    /// Where the id stands in an opening datagram.
    pub opening: Place,
    /// Where the id stands in every other datagram.
    pub running: Place,
    /// Length of the record of a handshake, so that an opening has the size its likeness has.
    pub handshake_len: usize,
    /// Whether the filler is [`fill`](super::seal::FlowKeys::fill)'s, or zeros.
    pub random_filler: bool,
}

/// All dresses. The codes on the wire are the positions here.
pub const TABLE: [Row; 5] = [
    Row {
        dress: Dress::Random,
        name: "random",
        opening: Place::At(0),
        running: Place::At(0),
        handshake_len: HANDSHAKE_LEN,
        random_filler: true,
    },
    Row {
        dress: Dress::Ascii,
        name: "ascii",
        opening: Place::Base64,
        running: Place::Base64,
        handshake_len: HANDSHAKE_LEN,
        random_filler: true,
    },
    Row {
        dress: Dress::Zero,
        name: "zero",
        opening: Place::At(0),
        running: Place::At(0),
        // A handshake's body is all cipher: the zeros must outweigh it, or the first datagram would be random.
        handshake_len: 4 * HANDSHAKE_LEN,
        random_filler: false,
    },
    Row {
        dress: Dress::QuicShaped,
        name: "quic-shaped",
        opening: Place::At(INITIAL_ID_AT),
        running: Place::At(SHORT_ID_AT),
        // RFC 9000 section 14.1: a datagram with an Initial packet has at least 1200 bytes.
        handshake_len: 1200 - INITIAL_ID_AT - INITIAL_INFIX.len(),
        random_filler: true,
    },
    Row {
        dress: Dress::Jetstream,
        name: "jetstream",
        opening: Place::At(0),
        running: Place::At(0),
        handshake_len: BLOCK_LEN,
        random_filler: true,
    },
];

/// Length of a block where nothing else is asked for: passes wherever QUIC does (RFC 9000 section 14.1).
pub const BLOCK_LEN: usize = 1200;

/// The first byte, version 1, and the length of a destination connection id.
const INITIAL_ID_AT: usize = 6;
/// After the id: no source connection id, no token, a two-byte length that is filled in.
const INITIAL_INFIX: [u8; 4] = [0, 0, 0x40, 0];
/// A short header has one byte before the destination connection id.
const SHORT_ID_AT: usize = 1;
/// Characters that carry a base64url id: eleven carry 66 bits.
const BASE64_ID_LEN: usize = 12;

impl Dress {
    /// All dresses.
    pub const ALL: [Self; 5] = [Self::Random, Self::Ascii, Self::Zero, Self::QuicShaped, Self::Jetstream];

    /// The row of this dress.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The name in flags, plans and reports.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The dress of a code on the wire.
    pub fn from_code(code: u8) -> Option<Self> {
        TABLE.get(usize::from(code)).map(|row| row.dress)
    }

    /// The code on the wire.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// Length on the wire of a record of `record_len` bytes.
    pub fn dressed_len(self, form: Form, record_len: usize) -> usize {
        match (self, form) {
            (Self::Random | Self::Zero | Self::Jetstream, _) => record_len,
            (Self::Ascii, _) => BASE64URL_NOPAD.encode_len(record_len),
            (Self::QuicShaped, Form::Opening) => record_len + INITIAL_ID_AT + INITIAL_INFIX.len(),
            (Self::QuicShaped, Form::Running) => record_len + SHORT_ID_AT,
        }
    }

    /// Largest record that fits into `wire_len` bytes on the wire, in running form.
    pub fn record_len(self, wire_len: usize) -> usize {
        match self {
            Self::Random | Self::Zero | Self::Jetstream => wire_len,
            Self::Ascii => wire_len / 4 * 3,
            Self::QuicShaped => wire_len.saturating_sub(SHORT_ID_AT),
        }
    }

    /// Smallest probe on the wire.
    pub fn min_len(self) -> usize {
        self.dressed_len(Form::Running, MIN_LEN).next_multiple_of(if self == Self::Ascii { 4 } else { 1 })
    }
}

/// The places where a flow id might stand in this datagram, with what stands there.
pub fn candidates(datagram: &[u8]) -> impl Iterator<Item = (Place, FlowId)> {
    let first = datagram.first().copied().unwrap_or(0);
    let id_at =
        |at: usize| datagram.get(at..)?.first_chunk::<ID_LEN>().map(|id| (Place::At(at), FlowId(*id)));
    // One after the other as they are asked for: most datagrams are known at the first place.
    (0..4).filter_map(move |n| match n {
        0 => id_at(0),
        1 if first & 0xc0 == 0x40 => id_at(SHORT_ID_AT),
        2 if first & 0xc0 == 0xc0 => id_at(INITIAL_ID_AT),
        3 => base64_id(datagram).map(|id| (Place::Base64, id)),
        _ => None,
    })
}

fn base64_id(datagram: &[u8]) -> Option<FlowId> {
    let text = datagram.get(..BASE64_ID_LEN)?;
    let mut nine = [0; BASE64_ID_LEN / 4 * 3];
    BASE64URL_NOPAD.decode_mut(text, &mut nine).ok()?;
    nine.first_chunk().map(|id| FlowId(*id))
}

/// Dresses `record` into `wire`, which is cleared first.
pub fn put_on(dress: Dress, form: Form, record: &[u8], wire: &mut Vec<u8>) {
    wire.clear();
    // The tag looks random, so it lends the bits that a real protocol would draw.
    let noise = record.get(BODY_AT - TAG_LEN).copied().unwrap_or(0);
    match (dress, form) {
        (Dress::Random | Dress::Zero | Dress::Jetstream, _) => wire.extend_from_slice(record),
        (Dress::Ascii, _) => {
            wire.resize(BASE64URL_NOPAD.encode_len(record.len()), 0);
            BASE64URL_NOPAD.encode_mut(record, wire);
        }
        (Dress::QuicShaped, Form::Running) => {
            wire.push(0x40 | (noise & 0x3f));
            wire.extend_from_slice(record);
        }
        (Dress::QuicShaped, Form::Opening) => {
            let (id, rest) = record.split_at(ID_LEN.min(record.len()));
            wire.extend_from_slice(&[0xc0 | (noise & 0x0f), 0, 0, 0, 1, 8]);
            wire.extend_from_slice(id);
            let length = (rest.len() as u16 & 0x3fff) | 0x4000;
            wire.extend_from_slice(&INITIAL_INFIX[..2]);
            wire.extend_from_slice(&length.to_be_bytes());
            wire.extend_from_slice(rest);
        }
    }
}

/// Puts a record into, or takes it out of, the buffer that holds its datagram, without allocating.
///
/// # Errors
/// [`WireError::Undressed`] where the datagram does not wear the dress in this form, [`WireError::TooLong`] beyond
/// [`MAX_LEN`].
pub fn take_off(dress: Dress, form: Form, datagram: &mut [u8]) -> Result<&mut [u8], WireError> {
    let len = datagram.len();
    if len > MAX_LEN {
        return Err(WireError::TooLong { len });
    }
    match (dress, form) {
        (Dress::Random | Dress::Zero | Dress::Jetstream, _) => Ok(datagram),
        (Dress::Ascii, _) => {
            let mut scratch = [0; MAX_LEN];
            let record_len = BASE64URL_NOPAD.decode_len(len).map_err(|_| WireError::Undressed)?;
            let scratch = scratch.get_mut(..record_len).ok_or(WireError::TooLong { len })?;
            BASE64URL_NOPAD.decode_mut(datagram, scratch).map_err(|_| WireError::Undressed)?;
            datagram[..record_len].copy_from_slice(scratch);
            Ok(&mut datagram[..record_len])
        }
        (Dress::QuicShaped, Form::Running) => match datagram.first() {
            Some(first) if first & 0xc0 == 0x40 => Ok(&mut datagram[SHORT_ID_AT..]),
            _ => Err(WireError::Undressed),
        },
        (Dress::QuicShaped, Form::Opening) => {
            let infix_at = INITIAL_ID_AT + ID_LEN;
            let rest_at = infix_at + INITIAL_INFIX.len();
            if len < rest_at || datagram[..INITIAL_ID_AT] != [datagram[0] | 0xc0, 0, 0, 0, 1, 8] {
                return Err(WireError::Undressed);
            }
            // The id moves up beside the rest, over the infix.
            datagram.copy_within(INITIAL_ID_AT..infix_at, rest_at - ID_LEN);
            Ok(&mut datagram[rest_at - ID_LEN..])
        }
    }
}

/// Dresses the reply that overwrote a record in place: the opposite of a [`take_off`] from the same buffer, which
/// must have had `wire_len` bytes. Only [`Form::Running`] records are answered in place.
///
/// # Errors
/// [`WireError::TooLong`] where the datagram is longer than its buffer.
pub fn put_back(dress: Dress, datagram: &mut [u8]) -> Result<(), WireError> {
    let len = datagram.len();
    match dress {
        Dress::Random | Dress::Zero | Dress::QuicShaped | Dress::Jetstream => Ok(()),
        Dress::Ascii => {
            let mut scratch = [0; MAX_LEN];
            let record_len = BASE64URL_NOPAD.decode_len(len).map_err(|_| WireError::Undressed)?;
            let scratch = scratch.get_mut(..record_len).ok_or(WireError::TooLong { len })?;
            scratch.copy_from_slice(&datagram[..record_len]);
            BASE64URL_NOPAD.encode_mut(scratch, datagram);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_is_in_order_and_names_are_what_serde_writes() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.dress as usize, at);
            assert_eq!(Dress::from_code(row.dress.code()), Some(row.dress));
            assert_eq!(serde_json::to_string(&row.dress).unwrap(), format!("\"{}\"", row.name));
        }
        assert_eq!(Dress::from_code(5), None);
    }

    proptest! {
        #[test]
        fn every_dress_comes_off_again_and_shows_its_id(
            dress in proptest::sample::select(&Dress::ALL[..]),
            opening: bool,
            record in proptest::collection::vec(any::<u8>(), MIN_LEN..1500),
        ) {
            let form = if opening { Form::Opening } else { Form::Running };
            let mut wire = Vec::new();
            put_on(dress, form, &record, &mut wire);
            prop_assert_eq!(wire.len(), dress.dressed_len(form, record.len()));
            let place = if opening { dress.row().opening } else { dress.row().running };
            let id = FlowId(*record.first_chunk().unwrap());
            prop_assert!(candidates(&wire).any(|c| c == (place, id)));
            let before = wire.clone();
            let taken = take_off(dress, form, &mut wire).unwrap();
            prop_assert_eq!(&*taken, &record[..]);
            if !opening {
                put_back(dress, &mut wire).unwrap();
                prop_assert_eq!(wire, before);
            }
        }

        #[test]
        fn any_bytes_come_off_or_are_refused(
            dress in proptest::sample::select(&Dress::ALL[..]),
            opening: bool,
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let form = if opening { Form::Opening } else { Form::Running };
            prop_assert!(candidates(&bytes).count() <= 4);
            let len = bytes.len();
            if let Ok(record) = take_off(dress, form, &mut bytes) {
                prop_assert!(record.len() <= len);
            }
        }
    }

    #[test]
    fn ascii_is_printable_and_an_opening_quic_shape_has_the_size_of_an_initial() {
        let mut wire = Vec::new();
        put_on(Dress::Ascii, Form::Running, &[0xff; MIN_LEN], &mut wire);
        assert!(wire.iter().all(u8::is_ascii_graphic));
        let row = Dress::QuicShaped.row();
        assert_eq!(Dress::QuicShaped.dressed_len(Form::Opening, row.handshake_len), 1200);
    }
}
