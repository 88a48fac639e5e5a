//! The fuzz targets' invariants over valid input that is cut, mutated and joined, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "a test helper outside a #[test] function")]

use probe_protocol::control::{
    HandInRequest, LedgerReply, LedgerRequest, Reply, Request, encode_reply, encode_request,
};
use probe_protocol::invite::Invite;
use probe_protocol::target::Target;
use probe_protocol::time::WallTime;
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Carrier, Hello, SessionId};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::stream::Framer;
use probe_protocol::wire::{BODY_AT, Kind, MIN_LEN};
use proptest::prelude::*;
use tests::fuzz::{SECRET, TARGETS};

/// Valid input of every kind, for mutation.
fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = Vec::new();
    let mut keys = FlowKeys::new(SECRET);
    for dress in Dress::ALL {
        for form in [Form::Opening, Form::Running] {
            let mut record = vec![7; MIN_LEN + 40];
            keys.seal(FlowId([3; 8]), 9, Kind::Probe, &mut record).unwrap();
            let mut wire = Vec::new();
            dress::put_on(dress, form, &record, &mut wire);
            corpus.push(wire);
        }
        let mut stream = vec![5];
        let mut framer = Framer::new(SECRET, dress, false);
        for len in [8, 64, 300] {
            framer.frame(&vec![1; len], &mut stream).unwrap();
        }
        corpus.push(stream);
    }
    let hello = Hello {
        min_version: 1,
        max_version: 1,
        session: SessionId([1; 16]),
        flow_nonce: 2,
        cookie: [3; 16],
        carrier: Carrier::Udp,
        dress: Dress::Random,
        size: 128,
        software: [0, 1, 0],
        wall: WallTime(5),
        binding: [6; 32],
    };
    corpus.push(hello.encode().to_vec());
    let mut body = vec![0; 400];
    for request in [
        Request::Ledger(LedgerRequest { flow: FlowId([1; 8]), from: 2, settled_below: 3 }),
        Request::HandIn(HandInRequest { total: 300, offset: 0, chunk: vec![9; 300] }),
    ] {
        encode_request(&request, &mut body).unwrap();
        corpus.push(body.clone());
    }
    let ledger = LedgerReply { ranges: vec![(0, 5), (9, 1)], ..LedgerReply::default() };
    encode_reply(&Reply::Ledger(ledger), &mut body).unwrap();
    corpus.push(body);
    let invite = Invite { key: [1; 16], fingerprint: [2; 32], expires_minute: Some(3) };
    let target = Target { host: "example.org".into(), port: 8886, invite: Some(invite) };
    corpus.push(target.to_url().into_bytes());
    corpus.push(invite.encode().into_bytes());
    corpus.push(b"GET / HTTP/1.1\r\n\r\n".to_vec());
    corpus.push(vec![22, 3, 1, 0, 200]);
    assert!(corpus.iter().all(|c| c.len() >= 4 && BODY_AT > 4));
    corpus
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_mutation_of_valid_input_breaks_an_invariant(
        seed in proptest::sample::select(corpus()),
        cut in any::<proptest::sample::Index>(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
        whole: bool,
    ) {
        let mut data = seed;
        if !whole {
            data.truncate(cut.index(data.len()) + 1);
        }
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        if !whole {
            data.extend(tail);
        }
        for (_, check) in TARGETS {
            check(&data);
        }
    }
}

#[test]
fn valid_input_is_understood_by_its_target() {
    // A check of the checks: without this, targets that refuse everything would pass.
    let mut record = vec![7; MIN_LEN];
    FlowKeys::new(SECRET).seal(FlowId([3; 8]), 9, Kind::Probe, &mut record).unwrap();
    assert!(FlowKeys::new(SECRET).open(&mut record).is_ok());
    let mut body = vec![0; 400];
    let request = Request::Ledger(LedgerRequest { flow: FlowId([1; 8]), from: 2, settled_below: 3 });
    encode_request(&request, &mut body).unwrap();
    assert_eq!(probe_protocol::control::decode_request(&body), Ok(request));
}
