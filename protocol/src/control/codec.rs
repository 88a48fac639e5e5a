//! The one place that knows bincode, which is no longer maintained (RUSTSEC-2025-0141). To replace it, replace
//! `pack` and `unpack`: any compact serde format with a size limit will do (postcard would).

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

use super::{MAX_MESSAGE, Reply, Request};

/// Why a control message could not be written or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ControlError {
    /// The message does not fit.
    #[error("a control message of more than {0} bytes")]
    TooLong(usize),
    /// The bytes are too few for what they announce.
    #[error("a control message that is cut off")]
    CutOff,
    /// No such code in this version.
    #[error("a control message with the unknown code {0}")]
    UnknownCode(u16),
    /// The message does not parse.
    #[error("a malformed control message")]
    Malformed,
}

const HEAD: usize = 4;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_big_endian().with_limit::<MAX_MESSAGE>()
}

/// Reading, bincode counts what a message takes in memory, which is more than what it takes on the wire: at most
/// this many bytes for one of [`MAX_MESSAGE`].
const MAX_IN_MEMORY: usize = 40 * MAX_MESSAGE;

fn reading() -> impl bincode::config::Config {
    bincode::config::standard().with_big_endian().with_limit::<MAX_IN_MEMORY>()
}

fn pack<T: Serialize>(code: u16, message: &T, body: &mut [u8]) -> Result<usize, ControlError> {
    let room = body.len().min(HEAD + MAX_MESSAGE);
    let (head, rest) = body[..room].split_at_mut_checked(HEAD).ok_or(ControlError::TooLong(0))?;
    let max = rest.len();
    let len =
        bincode::serde::encode_into_slice(message, rest, config()).map_err(|_| ControlError::TooLong(max))?;
    head[..2].copy_from_slice(&code.to_be_bytes());
    head[2..].copy_from_slice(&(len as u16).to_be_bytes());
    body[HEAD + len..].fill(0);
    Ok(HEAD + len)
}

fn split(body: &[u8]) -> Result<(u16, &[u8]), ControlError> {
    let (head, rest) = body.split_first_chunk::<HEAD>().ok_or(ControlError::CutOff)?;
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let message = rest.get(..len).ok_or(ControlError::CutOff)?;
    if len > MAX_MESSAGE {
        return Err(ControlError::TooLong(MAX_MESSAGE));
    }
    Ok((u16::from_be_bytes([head[0], head[1]]), message))
}

fn unpack<T: DeserializeOwned>(message: &[u8]) -> Result<T, ControlError> {
    match bincode::serde::decode_from_slice(message, reading()) {
        Ok((value, used)) if used == message.len() => Ok(value),
        Ok(_) | Err(_) => Err(ControlError::Malformed),
    }
}

macro_rules! table {
    ($enum:ident, $encode:ident, $decode:ident, $what:literal: $($code:literal = $variant:ident,)*) => {
        impl $enum {
            /// The code of this message on the wire.
            pub const fn code(&self) -> u16 {
                match self { $(Self::$variant(_) => $code,)* }
            }
        }

        #[doc = concat!("Writes a ", $what, " into a record's body, the rest of which becomes zeros; returns how many bytes it took.")]
        ///
        /// # Errors
        /// [`ControlError::TooLong`] where it does not fit.
        pub fn $encode(message: &$enum, body: &mut [u8]) -> Result<usize, ControlError> {
            match message { $($enum::$variant(m) => pack($code, m, body),)* }
        }

        #[doc = concat!("Reads a ", $what, " from a record's body.")]
        ///
        /// # Errors
        /// A [`ControlError`] for anything but exactly one well-formed message.
        pub fn $decode(body: &[u8]) -> Result<$enum, ControlError> {
            let (code, message) = split(body)?;
            match code {
                $($code => unpack(message).map($enum::$variant),)*
                code => Err(ControlError::UnknownCode(code)),
            }
        }
    };
}

table! { Request, encode_request, decode_request, "request":
    1 = Ledger,
    2 = Arrivals,
    3 = Flow,
    4 = Datagrams,
    5 = HandIn,
    6 = End,
    7 = Openings,
    8 = Bulk,
    9 = Bins,
}

table! { Reply, encode_reply, decode_reply, "reply":
    1 = Ledger,
    2 = Arrivals,
    3 = Flow,
    4 = Datagrams,
    5 = HandIn,
    6 = End,
    7 = Openings,
    8 = Bulk,
    9 = Bins,
    99 = Error,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::*;
    use super::*;

    fn flow() -> impl Strategy<Value = FlowId> {
        any::<[u8; 8]>().prop_map(FlowId)
    }

    fn requests() -> impl Strategy<Value = Request> {
        prop_oneof![
            (flow(), any::<u64>(), any::<u64>()).prop_map(|(flow, from, settled_below)| Request::Ledger(
                LedgerRequest { flow, from, settled_below }
            )),
            (flow(), any::<u64>()).prop_map(|(flow, from)| Request::Arrivals(ArrivalsRequest { flow, from })),
            flow().prop_map(|flow| Request::Flow(FlowRequest { flow })),
            (flow(), any::<bool>(), any::<u64>()).prop_map(|(flow, received, from)| Request::Datagrams(
                DatagramsRequest { flow, received, from }
            )),
            (any::<u32>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..MAX_HAND_IN_CHUNK))
                .prop_map(|(total, offset, chunk)| Request::HandIn(HandInRequest { total, offset, chunk })),
            Just(Request::End(EndRequest {})),
        ]
    }

    proptest! {
        #[test]
        fn requests_survive_the_wire(request in requests()) {
            let mut body = [0xff; HEAD + MAX_MESSAGE];
            encode_request(&request, &mut body).unwrap();
            prop_assert_eq!(decode_request(&body), Ok(request));
        }

        #[test]
        fn full_ledger_replies_survive_the_wire(
            ranges in proptest::collection::vec((0u64..200, 1u64..200), 0..500), highest: Option<u64>,
        ) {
            let reply = Reply::Ledger(LedgerReply { highest, ranges, ..LedgerReply::default() });
            let mut body = [0; HEAD + MAX_MESSAGE];
            encode_reply(&reply, &mut body).unwrap();
            prop_assert_eq!(decode_reply(&body), Ok(reply));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (decode_request(&bytes), decode_reply(&bytes));
        }

        #[test]
        fn any_message_of_a_known_code_is_read_or_refused(
            code in 0u16..10, message in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut body = Vec::new();
            body.extend_from_slice(&code.to_be_bytes());
            body.extend_from_slice(&(message.len() as u16).to_be_bytes());
            body.extend_from_slice(&message);
            let _ = (decode_request(&body), decode_reply(&body));
        }
    }

    #[test]
    fn an_announced_giant_is_refused() {
        // A hand-in whose chunk claims 2^32 bytes.
        let body = [0, 5, 0, 12, 1, 1, 252, 255, 255, 255, 255, 0, 0, 0, 0, 0];
        assert_eq!(decode_request(&body), Err(ControlError::Malformed));
        let chunk = vec![0; MAX_MESSAGE + 1];
        let giant = Request::HandIn(HandInRequest { total: 1, offset: 0, chunk });
        assert!(matches!(encode_request(&giant, &mut [0; 4000]), Err(ControlError::TooLong(_))));
    }
}
