//! What one packet costs: sealing and opening, dressing and undressing, noting it in the ledger, the listener's core,
//! the client's engine.
//!
//! `cargo bench -p tests --bench packet`
#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a bench fails by panicking")]

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use probe_analysis::observation::{Observation, Purpose};
use probe_client::engine::{Action, Arrived, Engine, Event as PeerEvent, Identity as PeerIdentity, Start};
use probe_client::plan::{FlowSpec, Plan};
use probe_protocol::control::Arrival;
use probe_protocol::invite::Invite;
use probe_protocol::ledger::{ReceiptBounds, Receipts};
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Carrier, Challenge, Hello, HelloKeys, SessionId};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::probe::{EchoBody, ProbeBody};
use probe_protocol::wire::seal::{FlowKeys, FlowSecret, filler_sum};
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Kind, MIN_LEN};
use probe_server::core::counters::Counters;
use probe_server::core::event::{Event, HandedIn, Outbox};
use probe_server::core::hub::{HubConfig, Identity};
use probe_server::core::invites::{Invites, Known};
use probe_server::core::limits::Limits;
use probe_server::core::quic::{ConnectionIds, QuicDemux};
use probe_server::core::shard::{Meta, Outcome};
use probe_server::core::{Hub, Shard};

/// Lengths on the wire, bytes.
const SIZES: [usize; 2] = [64, 1200];

fn keys() -> FlowKeys {
    FlowKeys::new(FlowSecret([7; 16]))
}

fn codec(c: &mut Criterion) {
    let mut group = c.benchmark_group("codec");
    let id = FlowId([1; 8]);
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        let mut keys = keys();
        let mut record = vec![0; size];
        group.bench_function(format!("seal/{size}"), |b| {
            b.iter(|| keys.seal(id, black_box(9), Kind::Probe, &mut record).unwrap());
        });
        keys.seal(id, 9, Kind::Probe, &mut record).unwrap();
        let sealed = record.clone();
        group.bench_function(format!("open/{size}"), |b| {
            b.iter_batched_ref(|| sealed.clone(), |r| keys.open(r).unwrap(), BatchSize::SmallInput);
        });
        group.bench_function(format!("fill/{size}"), |b| {
            b.iter(|| keys.fill(black_box(9), &mut record[MIN_LEN..]));
        });
        group.bench_function(format!("filler sum/{size}"), |b| {
            b.iter(|| filler_sum(black_box(&record[MIN_LEN..])));
        });
    }
    let probe = ProbeBody { sent: Timestamp(5), ..ProbeBody::default() };
    let echo = EchoBody { arrived: Timestamp(5), ..EchoBody::default() };
    group.throughput(Throughput::Elements(1));
    group.bench_function("probe body", |b| {
        b.iter(|| ProbeBody::decode(&black_box(&probe).encode()));
    });
    group.bench_function("echo body", |b| {
        b.iter(|| EchoBody::decode(&black_box(&echo).encode()));
    });
    group.finish();
}

fn dresses(c: &mut Criterion) {
    let mut group = c.benchmark_group("dress");
    for dress in Dress::ALL {
        for size in SIZES {
            let mut record = vec![0; dress.record_len(size).max(MIN_LEN)];
            keys().seal(FlowId([1; 8]), 9, Kind::Probe, &mut record).unwrap();
            let mut wire = Vec::new();
            let name = dress.name();
            group.bench_function(format!("on/{name}/{size}"), |b| {
                b.iter(|| dress::put_on(dress, Form::Running, black_box(&record), &mut wire));
            });
            group.bench_function(format!("off/{name}/{size}"), |b| {
                b.iter_batched_ref(
                    || wire.clone(),
                    |w| dress::take_off(dress, Form::Running, w).map(|record| record.len()).unwrap(),
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

fn ledger(c: &mut Criterion) {
    let bounds = ReceiptBounds { ranges: 4096, arrivals: 2048 };
    let arrival = |seq| Arrival { seq, at: Timestamp(seq), ttl: Some(64), tos: Some(0), len: 64 };
    let mut group = c.benchmark_group("ledger");
    group.throughput(Throughput::Elements(1));
    let mut seq = 0;
    let mut receipts = Receipts::new(bounds);
    group.bench_function("note, in order", |b| {
        b.iter(|| {
            seq += 1;
            receipts.note(arrival(seq))
        });
    });
    let mut seq = 0;
    let mut receipts = Receipts::new(bounds);
    group.bench_function("note, every second one lost", |b| {
        b.iter(|| {
            seq += 2;
            receipts.note(arrival(seq))
        });
    });
    group.finish();
}

struct Nobody;

impl Outbox for Nobody {
    fn event(&mut self, _: Event) -> bool {
        true
    }

    fn handed_in(&mut self, _: HandedIn) -> bool {
        true
    }
}

/// A listener's core with one flow open in it.
struct Core {
    shard: Shard,
    keys: FlowKeys,
    id: FlowId,
    now: Timestamp,
}

const FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 4000);

impl Core {
    fn new(dress: Dress) -> Self {
        let invite = Invite { key: [3; 16], fingerprint: [0; 32], expires_minute: None };
        let known = Known { invite, label: "bench".to_owned(), revoked: false };
        let hub = Hub::new(HubConfig {
            identity: Identity { secret: [1; 32], boot: 1, epoch: 1, software: [0, 1, 0] },
            limits: Limits::default(),
            allow: Default::default(),
            open_to_all: false,
            invites: Arc::new(Invites::new([known])),
            seed: [2; 32],
            outbox: Box::new(Nobody),
            counters: Arc::new(Counters::default()),
        });
        let quic = QuicDemux { straight: ConnectionIds::new([4; 16]), inverse: ConnectionIds::new([5; 16]) };
        let mut shard = Shard::new(&Arc::new(Mutex::new(hub)), quic, None, [6; 16]);
        let mut hello = Hello {
            min_version: probe_protocol::PROTOCOL_VERSION,
            max_version: probe_protocol::PROTOCOL_VERSION,
            session: SessionId([8; 16]),
            flow_nonce: 1,
            cookie: [0; 16],
            carrier: Carrier::Udp,
            dress,
            size: 64,
            software: [0, 1, 0],
            wall: WallTime(0),
            binding: [0; 32],
        };
        let mut hello_keys = HelloKeys::of_invite(&invite.key);
        let now = Timestamp(1_000_000_000);
        loop {
            let mut record = vec![0; dress.row().handshake_len];
            record[BODY_AT..HANDSHAKE_LEN].copy_from_slice(&hello.encode());
            hello_keys.keys.seal(hello_keys.id, 1, Kind::Hello, &mut record).unwrap();
            let mut wire = Vec::new();
            dress::put_on(dress, Form::Opening, &record, &mut wire);
            let Outcome::Reply { len, .. } =
                shard.datagram(now, WallTime(0), &meta(now, wire.len()), &mut wire)
            else {
                panic!("the hello is not answered");
            };
            let record = dress::take_off(dress, Form::Opening, &mut wire[..len]).unwrap();
            let header = hello_keys.keys.open(record).unwrap();
            let body = &record[BODY_AT..HANDSHAKE_LEN];
            if header.kind == Kind::Challenge {
                hello.cookie = Challenge::decode(body).unwrap().cookie;
                continue;
            }
            let accept = Accept::decode(body).unwrap();
            return Self { shard, keys: FlowKeys::new(accept.secret), id: accept.id, now };
        }
    }
}

fn meta(now: Timestamp, len: usize) -> Meta {
    Meta {
        from: FROM,
        len,
        truncated: false,
        arrived: now,
        kernel: true,
        ttl: Some(64),
        tos: Some(0),
        local: None,
        drops: Some(0),
    }
}

fn core(c: &mut Criterion) {
    let mut group = c.benchmark_group("listener core, one probe");
    group.throughput(Throughput::Elements(1));
    for dress in Dress::ALL {
        for size in SIZES {
            let mut core = Core::new(dress);
            let mut record = vec![0; dress.record_len(size).max(MIN_LEN)];
            let mut seq = 0;
            let mut wire = Vec::new();
            group.bench_function(format!("{}/{size}", dress.name()), |b| {
                b.iter_batched_ref(
                    || {
                        seq += 1;
                        let body = ProbeBody { sent: Timestamp(seq), ..ProbeBody::default() };
                        record[BODY_AT..MIN_LEN].copy_from_slice(&body.encode());
                        core.keys.seal(core.id, seq, Kind::Probe, &mut record).unwrap();
                        dress::put_on(dress, Form::Running, &record, &mut wire);
                        wire.clone()
                    },
                    |wire| {
                        let meta = meta(core.now, wire.len());
                        let outcome = core.shard.datagram(core.now, WallTime(0), &meta, wire);
                        assert!(matches!(outcome, Outcome::Reply { .. }));
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

/// The client's engine and a listener's core, joined without a network: virtual time jumps from one deadline to the
/// next. One iteration ends when the engine says what became of a probe.
fn engine(c: &mut Criterion) {
    let mut group = c.benchmark_group("client engine and listener core, one probe");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let mut pair = Pair::new(size);
        group.bench_function(format!("random/{size}"), |b| b.iter(|| pair.until_a_probe_is_settled()));
    }
    group.finish();
}

struct Pair {
    engine: Engine,
    shard: Shard,
    now: Timestamp,
    wire: Vec<u8>,
}

impl Pair {
    fn new(size: usize) -> Self {
        let Core { shard, now, .. } = Core::new(Dress::Random);
        let spec = FlowSpec {
            size: size as u16,
            interval: Duration::from_millis(1),
            ..FlowSpec::new("udp/bench", Carrier::Udp, Dress::Random, Purpose::Steady, FROM)
        };
        let long = Duration::from_secs(1_000_000);
        let plan = Plan {
            flows: vec![spec],
            open_gap: Duration::ZERO,
            reach: Duration::from_secs(1),
            measure: long,
            drain: long,
            settle: long,
            ..Plan::default()
        };
        let invite = Invite { key: [3; 16], fingerprint: [0; 32], expires_minute: None };
        let identity =
            PeerIdentity { session: SessionId([9; 16]), invite: Some(invite), software: [0, 1, 0] };
        let start = Start {
            at: now,
            wall: WallTime(0),
            target: "bench".to_owned(),
            local: false,
            interface_mtu: None,
            seed: 1,
            first_flow: 0,
        };
        let engine = Engine::new(plan, identity, start);
        let mut pair = Self { engine, shard, now, wire: Vec::new() };
        pair.until_a_probe_is_settled();
        pair
    }

    fn until_a_probe_is_settled(&mut self) {
        loop {
            while let Some(action) = self.engine.poll_action() {
                if let Action::Connect { flow, .. } = action {
                    let connected = PeerEvent::Connected { source: FROM, connect: None, channel: None };
                    self.engine.handle(self.now, flow, connected);
                }
            }
            while let Some(transmit) = self.engine.poll_transmit(self.now, &mut self.wire) {
                let meta = meta(self.now, self.wire.len());
                let outcome = self.shard.datagram(self.now, WallTime(0), &meta, &mut self.wire);
                if let Outcome::Reply { len, .. } = outcome {
                    let bytes = &mut self.wire[..len];
                    let at = self.now;
                    let arrived = Arrived { bytes, at, kernel: Some(at), ttl: Some(64), tos: Some(0) };
                    self.engine.handle(self.now, transmit.flow, PeerEvent::Datagram(arrived));
                }
            }
            let mut settled = false;
            while let Some(observation) = self.engine.poll_observation() {
                settled |= matches!(observation, Observation::Probe(_));
            }
            if settled {
                return;
            }
            let (due, _) = self.engine.next_deadline().expect("the engine has something to do");
            self.now = self.now.max(due);
            self.engine.handle_timeout(self.now);
        }
    }
}

criterion_group!(benches, codec, dresses, ledger, core, engine);
criterion_main!(benches);
