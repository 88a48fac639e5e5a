//! What one probe costs the packet thread's core: found, checked, noted, answered and sealed. No socket is involved.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "a bench fails by panicking")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use common::{Answer, hello, hello_bytes, probe_record, read_answer};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use probe_protocol::invite::Invite;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::MAX_LEN;
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Carrier, HelloKeys};
use probe_protocol::wire::seal::FlowKeys;
use probe_server::core::allow::AllowList;
use probe_server::core::counters::Counters;
use probe_server::core::event::{Event, HandedIn, Outbox};
use probe_server::core::hub::{HubConfig, Identity};
use probe_server::core::invites::{Invites, Known};
use probe_server::core::limits::Limits;
use probe_server::core::quic::{ConnectionIds, QuicDemux};
use probe_server::core::shard::{Meta, Outcome};
use probe_server::core::{Hub, Shard};

const KEY: [u8; 16] = [1; 16];
const NOW: Timestamp = Timestamp::from_nanos(1 << 40);

struct Nowhere;

impl Outbox for Nowhere {
    fn event(&mut self, _: Event) -> bool {
        true
    }
    fn handed_in(&mut self, _: HandedIn) -> bool {
        true
    }
}

fn shard() -> Shard {
    let invite = Invite { key: KEY, fingerprint: [0; 32], expires_minute: None };
    let hub = Arc::new(Mutex::new(Hub::new(HubConfig {
        identity: Identity { secret: [9; 32], boot: 1, epoch: 1, software: [0, 1, 0] },
        limits: Limits::default(),
        allow: AllowList::default(),
        open_to_all: false,
        invites: Arc::new(Invites::new([Known { label: invite.label(), invite, revoked: false }])),
        seed: [3; 32],
        outbox: Box::new(Nowhere),
        counters: Arc::new(Counters::default()),
    })));
    let quic = QuicDemux { straight: ConnectionIds::new([5; 16]), inverse: ConnectionIds::new([6; 16]) };
    Shard::new(&hub, quic, None, [7; 16])
}

fn judge(shard: &mut Shard, buffer: &mut [u8], len: usize) -> Outcome {
    let from: SocketAddr = SocketAddr::from(([192, 0, 2, 1], 1000));
    let meta = Meta {
        from,
        len,
        truncated: false,
        arrived: NOW,
        kernel: true,
        ttl: Some(64),
        tos: Some(0),
        local: None,
        drops: Some(0),
    };
    shard.datagram(NOW, WallTime(1 << 50), &meta, buffer)
}

fn open(shard: &mut Shard, dress: Dress) -> Accept {
    let mut keys = HelloKeys::of_invite(&KEY);
    let mut hello = hello(1, dress as u64, Carrier::Udp, dress);
    loop {
        let wire = hello_bytes(&mut keys, &hello, false);
        let mut buffer = vec![0; MAX_LEN];
        buffer[..wire.len()].copy_from_slice(&wire);
        let Outcome::Reply { len, .. } = judge(shard, &mut buffer, wire.len()) else { panic!("no answer") };
        match read_answer(&mut keys, dress, &mut buffer[..len]) {
            Answer::Challenge(challenge) => hello.cookie = challenge.cookie,
            Answer::Accept(accept) => return accept,
            Answer::Refuse(refuse) => panic!("{refuse:?}"),
        }
    }
}

fn echo(c: &mut Criterion) {
    let mut group = c.benchmark_group("echo");
    for dress in [Dress::Random, Dress::QuicShaped, Dress::Ascii] {
        for size in [64, 1200] {
            let mut shard = shard();
            let accept = open(&mut shard, dress);
            let mut keys = FlowKeys::new(accept.secret);
            let record_len = dress.record_len(size).max(64);
            let wires: Vec<_> = (0..4096)
                .map(|seq| {
                    let mut wire = Vec::new();
                    let record = probe_record(&mut keys, &accept, seq, record_len, 0);
                    dress::put_on(dress, Form::Running, &record, &mut wire);
                    wire
                })
                .collect();
            let mut buffer = vec![0; MAX_LEN];
            let mut next = 0;
            group.throughput(Throughput::Elements(1));
            group.bench_function(format!("{}/{size}", dress.name()), |b| {
                b.iter_batched(
                    || {
                        next = (next + 1) % wires.len();
                        next
                    },
                    |at| {
                        let wire = &wires[at];
                        buffer[..wire.len()].copy_from_slice(wire);
                        black_box(judge(&mut shard, &mut buffer, wire.len()))
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.bench_function("stranger", |b| {
        let mut shard = shard();
        let mut buffer = vec![0x3a; MAX_LEN];
        b.iter(|| black_box(judge(&mut shard, &mut buffer, 500)));
    });
    group.finish();
}

criterion_group!(benches, echo);
criterion_main!(benches);
