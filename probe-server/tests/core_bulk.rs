//! Loads at the core: who gets one, where it goes, and what it counts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking"
)]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Answer, control_record, hello, hello_bytes, open_reply, probe_record, read_answer};
use probe_protocol::bulk::{Order, SILENCE, Side, Transfer};
use probe_protocol::control::{BinsRequest, BulkRequest, ControlRefusal, LedgerRequest, Reply, Request};
use probe_protocol::invite::Invite;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Accept, Carrier, HelloKeys};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::{HANDSHAKE_LEN, MAX_LEN};
use probe_server::core::allow::AllowList;
use probe_server::core::bulk::{BulkJob, BulkRunner, lock};
use probe_server::core::counters::Counters;
use probe_server::core::event::{Event, HandedIn, Outbox};
use probe_server::core::hub::{HubConfig, Identity};
use probe_server::core::invites::{Invites, Known};
use probe_server::core::limits::Limits;
use probe_server::core::quic::{ConnectionIds, QuicDemux};
use probe_server::core::shard::{Meta, Outcome};
use probe_server::core::{Hub, Shard};

const KEY: [u8; 16] = [3; 16];

struct Deaf;

impl Outbox for Deaf {
    fn event(&mut self, _: Event) -> bool {
        true
    }
    fn handed_in(&mut self, _: HandedIn) -> bool {
        true
    }
}

#[derive(Clone, Default)]
struct Jobs(Arc<Mutex<Vec<BulkJob>>>);

impl BulkRunner for Jobs {
    fn run(&mut self, job: BulkJob) -> bool {
        self.0.lock().unwrap().push(job);
        true
    }
    fn wake(&mut self, _: FlowId) {}
}

struct Rig {
    shard: Shard,
    jobs: Jobs,
    now: Timestamp,
    /// Bytes that the listener sent to each address, and those it got from it.
    traffic: std::collections::BTreeMap<SocketAddr, (usize, usize)>,
}

struct Flow {
    accept: Accept,
    keys: FlowKeys,
    from: SocketAddr,
    transfer: Transfer,
    asked: u64,
}

fn at(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], port))
}

fn order(number: u32, up: bool) -> Order {
    Order {
        number,
        up,
        rate_bps: 9_600_000,
        size: 1200,
        burst: 0,
        length_us: 1_000_000,
        bin_us: 10_000,
        tos: 0,
    }
}

impl Rig {
    fn new(limits: Limits) -> Self {
        let invite = Invite { key: KEY, fingerprint: [0; 32], expires_minute: None };
        let hub = Hub::new(HubConfig {
            identity: Identity { secret: [9; 32], boot: 1, epoch: 1, software: [0, 1, 0] },
            limits,
            allow: AllowList::default(),
            open_to_all: false,
            invites: Arc::new(Invites::new([Known { label: invite.label(), invite, revoked: false }])),
            seed: [1; 32],
            outbox: Box::new(Deaf),
            counters: Arc::new(Counters::default()),
        });
        let quic = QuicDemux { straight: ConnectionIds::new([5; 16]), inverse: ConnectionIds::new([6; 16]) };
        let mut shard = Shard::new(&Arc::new(Mutex::new(hub)), quic, None, [7; 16]);
        let jobs = Jobs::default();
        shard.run_loads(Box::new(jobs.clone()));
        Self { shard, jobs, now: Timestamp(1 << 40), traffic: std::collections::BTreeMap::new() }
    }

    fn send(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; MAX_LEN];
        buffer[..datagram.len()].copy_from_slice(datagram);
        let meta = Meta {
            from,
            len: datagram.len(),
            truncated: false,
            arrived: self.now,
            kernel: true,
            ttl: None,
            tos: None,
            local: None,
            drops: None,
        };
        let outcome = self.shard.datagram(self.now, WallTime(0), &meta, &mut buffer);
        self.shard.after_batch();
        let counts = self.traffic.entry(from).or_default();
        counts.1 += datagram.len();
        match outcome {
            Outcome::Reply { len, .. } => {
                counts.0 += len;
                Some(buffer[..len].to_vec())
            }
            Outcome::Quic { .. } | Outcome::Silent(_) => None,
        }
    }

    fn open(&mut self, from: SocketAddr, mut keys: HelloKeys, dress: Dress) -> Flow {
        let mut hello = hello(from.port() as u8, u64::from(from.port()), Carrier::Udp, dress);
        loop {
            let wire = hello_bytes(&mut keys, &hello, false);
            let mut reply = self.send(from, &wire).unwrap();
            match read_answer(&mut keys, dress, &mut reply) {
                Answer::Challenge(challenge) => hello.cookie = challenge.cookie,
                Answer::Refuse(refuse) => panic!("{refuse:?}"),
                Answer::Accept(accept) => {
                    let transfer = Transfer::new(accept.id, accept.secret, Side::Client, false);
                    return Flow { keys: FlowKeys::new(accept.secret), accept, from, transfer, asked: 0 };
                }
            }
        }
    }

    fn holder(&mut self, host: u8) -> Flow {
        self.open(at(host, 1000 + u16::from(host)), HelloKeys::of_invite(&KEY), Dress::Jetstream)
    }

    fn ask(&mut self, flow: &mut Flow, request: &Request) -> Reply {
        flow.asked += 1;
        let record = control_record(&mut flow.keys, &flow.accept, flow.asked, request);
        let mut reply = self.send(flow.from, &record).unwrap();
        open_reply(&mut flow.keys, &mut reply)
    }

    fn begin(&mut self, flow: &mut Flow, order: Order) -> Reply {
        let request = Request::Bulk(BulkRequest { flow: flow.accept.id, order, stop: false });
        self.ask(flow, &request)
    }

    /// Sends what the loads want sent until `until`; the client hears all of it where `hears`.
    fn run(&mut self, flow: &mut Flow, until: Timestamp, hears: bool) {
        let jobs = self.jobs.0.lock().unwrap().clone();
        while self.now < until {
            for job in &jobs {
                let mut transfer = lock(&job.transfer);
                for _ in 0..transfer.due(self.now, 64).map_or(0, |d| d.0) {
                    let mut record = [0; 1200];
                    assert!(transfer.write_block(self.now, &mut record));
                    self.traffic.entry(job.peer).or_default().0 += record.len();
                    if hears {
                        assert!(flow.transfer.handle(&mut record, self.now).is_ok());
                    }
                }
            }
            let mut sack = [0; HANDSHAKE_LEN];
            if flow.transfer.write_sack(self.now, &mut sack) {
                assert!(self.send(flow.from, &sack).is_none());
            }
            self.now += Duration::from_millis(1);
        }
    }
}

#[test]
fn a_load_upwards_is_counted_packet_for_packet_and_gets_no_reply() {
    let mut rig = Rig::new(Limits::default());
    let mut flow = rig.holder(1);
    assert!(matches!(rig.begin(&mut flow, order(1, true)), Reply::Bulk(_)));
    flow.transfer.send(order(1, true), rig.now);
    let (mut sent, mut lost) = (0, Vec::new());
    while flow.transfer.is_sending() {
        rig.now += Duration::from_millis(1);
        for _ in 0..flow.transfer.due(rig.now, 64).map_or(0, |d| d.0) {
            let mut record = [0; 1200];
            assert!(flow.transfer.write_block(rig.now, &mut record));
            if sent % 7 == 3 {
                lost.push(sent);
            } else {
                assert!(rig.send(flow.from, &record).is_none());
            }
            sent += 1;
        }
    }
    let ledger = Request::Ledger(LedgerRequest { flow: flow.accept.id, from: 0, settled_below: 0 });
    let Reply::Ledger(ledger) = rig.ask(&mut flow, &ledger) else { panic!("no ledger") };
    assert_eq!(ledger.received, sent - lost.len() as u64);
    let holds = |n: u64| ledger.ranges.iter().any(|(first, len)| (*first..first + len).contains(&n));
    let told_from = ledger.next.unwrap_or(u64::MAX);
    assert!((0..sent.min(told_from)).all(|n| holds(n) != lost.contains(&n)));
    let (mut from, mut packets) = (0, 0);
    loop {
        let request = Request::Bins(BinsRequest { flow: flow.accept.id, order: 1, from });
        let Reply::Bins(page) = rig.ask(&mut flow, &request) else { panic!("no bins") };
        packets += page.bins.iter().map(|b| u64::from(b.packets)).sum::<u64>();
        match page.next {
            Some(next) => from = next,
            None => break,
        }
    }
    assert_eq!(packets, sent - lost.len() as u64);
}

#[test]
fn a_load_downwards_needs_the_key_and_a_dress_that_can_carry_it() {
    let mut rig = Rig::new(Limits::default());
    let mut stranger = rig.open(at(9, 1), HelloKeys::public(), Dress::Random);
    let Reply::Error(error) = rig.begin(&mut stranger, order(1, false)) else {
        panic!("a stranger got a load")
    };
    assert_eq!(error.why, ControlRefusal::NeedsInvite);
    let mut ascii = rig.open(at(1, 2), HelloKeys::of_invite(&KEY), Dress::Ascii);
    let record = control_record(
        &mut ascii.keys,
        &ascii.accept,
        1,
        &Request::Bulk(BulkRequest { flow: ascii.accept.id, order: order(1, false), stop: false }),
    );
    let mut wire = Vec::new();
    probe_protocol::wire::dress::put_on(
        Dress::Ascii,
        probe_protocol::wire::dress::Form::Running,
        &record,
        &mut wire,
    );
    assert!(rig.send(ascii.from, &wire).is_some());
    assert!(rig.jobs.0.lock().unwrap().is_empty());
}

#[test]
fn a_load_downwards_goes_to_the_proven_address_alone_and_stops_when_the_flow_moves() {
    let mut rig = Rig::new(Limits::default());
    let mut flow = rig.holder(1);
    let long = Order { length_us: 60_000_000, ..order(1, false) };
    flow.transfer.expect(long, rig.now);
    assert!(matches!(rig.begin(&mut flow, long), Reply::Bulk(_)));
    rig.run(&mut flow, rig.now + Duration::from_secs(1), true);
    let proven = flow.from;
    assert_eq!(rig.jobs.0.lock().unwrap()[0].peer, proven);
    assert!(flow.transfer.tally(1).unwrap().packets > 990);
    // The flow's packets come from elsewhere: its keys are known there, but nobody has proven that address.
    let victim = at(77, 7777);
    flow.from = victim;
    let probe = probe_record(&mut flow.keys, &flow.accept, 1, 100, 0);
    assert!(rig.send(victim, &probe).is_some());
    let before = rig.traffic[&proven];
    rig.run(&mut flow, rig.now + Duration::from_secs(2), true);
    assert_eq!(rig.traffic[&proven].0, before.0, "nothing further goes to the old address");
    let Reply::Error(error) = rig.begin(&mut flow, Order { number: 2, ..long }) else {
        panic!("not refused")
    };
    assert_eq!(error.why, ControlRefusal::NotProven);
    let (out, back) = rig.traffic[&victim];
    assert!(out <= back, "{out} bytes to an address that sent {back} and proved nothing");
}

#[test]
fn a_request_that_is_played_back_from_elsewhere_moves_nothing() {
    let mut rig = Rig::new(Limits::default());
    let mut flow = rig.holder(1);
    let long = Order { length_us: 60_000_000, ..order(1, false) };
    flow.asked += 1;
    let request = Request::Bulk(BulkRequest { flow: flow.accept.id, order: long, stop: false });
    let record = control_record(&mut flow.keys, &flow.accept, flow.asked, &request);
    assert!(rig.send(flow.from, &record).is_some());
    flow.transfer.expect(long, rig.now);
    rig.run(&mut flow, rig.now + Duration::from_millis(100), true);
    let victim = at(78, 1);
    for _ in 0..50 {
        rig.send(victim, &record);
    }
    rig.run(&mut flow, rig.now + Duration::from_secs(1), true);
    let (out, back) = rig.traffic[&victim];
    assert!(out <= back, "{out} bytes to an address that sent {back}");
    assert_eq!(rig.jobs.0.lock().unwrap().len(), 1);
}

#[test]
fn a_load_downwards_that_nobody_acknowledges_ends() {
    let mut rig = Rig::new(Limits::default());
    let mut flow = rig.holder(1);
    let begun = rig.now;
    assert!(matches!(
        rig.begin(&mut flow, Order { length_us: 3_600_000_000, ..order(1, false) }),
        Reply::Bulk(_)
    ));
    rig.run(&mut flow, begun + Duration::from_secs(20), false);
    let sent = rig.traffic[&flow.from].0 as u64;
    let most = 9_600_000 / 8 * (SILENCE.as_secs() + 1);
    assert!(sent < most, "{sent} bytes to a client that is not there");
}

#[test]
fn rates_lengths_and_numbers_of_loads_are_bounded() {
    let mut limits = Limits::default();
    limits.bulk.flows = 2;
    limits.bulk.rate_bps = 1_000_000;
    limits.bulk.length = Duration::from_secs(2);
    let mut rig = Rig::new(limits);
    let mut flows: Vec<Flow> = (1..=3).map(|host| rig.holder(host)).collect();
    let huge = Order { rate_bps: u64::MAX, length_us: u64::MAX, burst: u32::MAX, ..order(1, false) };
    let Reply::Bulk(granted) = rig.begin(&mut flows[0], huge) else { panic!("refused") };
    assert_eq!((granted.order.rate_bps, granted.order.length_us), (1_000_000, 2_000_000));
    assert!(granted.order.burst < 10_000);
    assert!(matches!(rig.begin(&mut flows[1], huge), Reply::Bulk(_)));
    let Reply::Error(error) = rig.begin(&mut flows[2], huge) else { panic!("a third load") };
    assert_eq!(error.why, ControlRefusal::TooMuch);
    // An order that came twice is the same one; an older one is refused.
    let Reply::Bulk(again) = rig.begin(&mut flows[0], huge) else { panic!("refused") };
    assert_eq!(again.order, granted.order);
    assert!(matches!(rig.begin(&mut flows[0], Order { number: 0, ..huge }), Reply::Error(_)));
}
