//! What must hold for any bytes at every decoder. Each function is a fuzz target (`tests/fuzz`, see its README) and is
//! run over mutated valid input by `tests/tests/decoders.rs`, so that the invariants are held without a fuzzer too.
//!
//! An invariant that does not hold panics: here that is the point.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a broken invariant is a panic here, which the fuzzer reports"
)]

use probe_protocol::control::{self, MAX_MESSAGE};
use probe_protocol::invite::Invite;
use probe_protocol::target::Target;
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Challenge, Hello, HelloKeys, Refuse};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::probe::{EchoBody, ProbeBody, StaleBody};
use probe_protocol::wire::seal::{FlowKeys, FlowSecret, filler_sum};
use probe_protocol::wire::stream::{Deframer, FirstBytes, first_bytes};
use probe_protocol::wire::{BODY_AT, MAX_LEN};

/// A target's name and function.
pub type Check = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Check; 6] = [
    ("datagram", datagram),
    ("handshake", handshake),
    ("control", control_message),
    ("stream", stream),
    ("opening", opening),
    ("text", text),
];

/// The secret under which valid input for [`datagram`] and [`stream`] is made.
pub const SECRET: FlowSecret = FlowSecret([0x5e; 16]);

/// A datagram of unknown origin: the dresses come off or are refused, nothing is read as authentic that was not
/// sealed, and what was authentic is of a length its kind allows.
pub fn datagram(data: &[u8]) {
    let found = dress::candidates(data).count();
    assert!(found <= 4, "more candidates than places");
    for dress in Dress::ALL {
        for form in [Form::Opening, Form::Running] {
            let mut bytes = data.to_vec();
            let Ok(record) = dress::take_off(dress, form, &mut bytes) else { continue };
            assert!(record.len() <= data.len().min(MAX_LEN), "a record longer than its datagram");
            let len = record.len();
            if let Ok(header) = FlowKeys::new(SECRET).open(record) {
                let body = header.kind.body_len(len);
                assert!(body > 0 && BODY_AT + body <= len, "an authentic record without its body");
                let body = &record[BODY_AT..BODY_AT + body];
                let _ = (ProbeBody::decode(body), EchoBody::decode(body), StaleBody::decode(body));
                let _ = filler_sum(&record[BODY_AT + body.len()..]);
            }
        }
    }
}

/// The body of a handshake record: what is read is written back alike.
pub fn handshake(data: &[u8]) {
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
    if let Ok(accept) = Accept::decode(data) {
        // An address may have several forms on the wire, so only the second reading must agree.
        assert_eq!(Accept::decode(&accept.encode()), Ok(accept));
    }
    if let Ok(refuse) = Refuse::decode(data) {
        assert_eq!(Refuse::decode(&refuse.encode()), Ok(refuse));
    }
    let _ = Challenge::decode(data);
}

/// The body of a control record: what is read fits a message again, and is read alike.
pub fn control_message(data: &[u8]) {
    let mut body = vec![0; MAX_MESSAGE + 4];
    if let Ok(request) = control::decode_request(data) {
        control::encode_request(&request, &mut body).unwrap();
        assert_eq!(control::decode_request(&body), Ok(request));
    }
    if let Ok(reply) = control::decode_reply(data) {
        control::encode_reply(&reply, &mut body).unwrap();
        assert_eq!(control::decode_reply(&body), Ok(reply));
    }
}

/// A stream after its opening, cut into pieces as the first byte says: it is cut alike whatever the pieces, and
/// never holds more than a record and a piece.
pub fn stream(data: &[u8]) {
    let Some((cut, data)) = data.split_first() else { return };
    for dress in [Dress::Random, Dress::Ascii] {
        let whole = records(dress, data, data.len().max(1));
        let pieces = records(dress, data, usize::from(*cut).max(1));
        assert_eq!(whole, pieces, "segmentation changed what a stream says");
        assert!(whole.0.iter().all(|r| r.len() <= MAX_LEN));
    }
}

fn records(dress: Dress, data: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let mut deframer = Deframer::new(SECRET, dress, false);
    let mut out = Vec::new();
    for bytes in data.chunks(piece) {
        deframer.push(bytes);
        loop {
            match deframer.next_record() {
                Ok(Some(record)) => out.push(record.to_vec()),
                Ok(None) => break,
                Err(_) => return (out, true),
            }
        }
    }
    (out, false)
}

/// The first bytes of a connection: once told, it is never told otherwise, and enough bytes always tell.
pub fn opening(data: &[u8]) {
    let hello = HelloKeys::public().id;
    let is_hello = |id: FlowId| id == hello;
    let mut said = FirstBytes::More;
    for n in 0..=data.len().min(64) {
        let now = first_bytes(&data[..n], is_hello);
        assert!(said == FirstBytes::More || now == said, "{said:?} became {now:?} after {n} bytes");
        said = now;
    }
    assert!(data.len() < 12 || said != FirstBytes::More, "twelve bytes did not tell");
}

/// Text from people: targets and invites. What is read is shown and read again alike, without its secret.
pub fn text(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(target) = text.parse::<Target>() {
        assert_eq!(target.to_url().parse::<Target>().as_ref(), Ok(&target));
        assert!(!target.to_string().contains('#'));
    }
    if let Ok(invite) = Invite::decode(&text) {
        assert_eq!(Invite::decode(&invite.encode()), Ok(invite));
    }
}
