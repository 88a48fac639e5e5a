//! The core in virtual time: openings, moves, bounds, and what a stranger gets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Answer, hello, hello_bytes, open_echo, open_reply, probe_record, read_answer};
use probe_protocol::control::{LedgerRequest, Reply, Request};
use probe_protocol::invite::Invite;
use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Carrier, Hello, HelloKeys, Refusal};
use probe_protocol::wire::probe::{EchoBody, StaleBody};
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Kind, MAX_LEN};
use probe_server::core::allow::AllowList;
use probe_server::core::counters::Counters;
use probe_server::core::event::{CloseReason, Event, HandedIn, Outbox};
use probe_server::core::hub::{HubConfig, Identity};
use probe_server::core::invites::{Invites, Known};
use probe_server::core::limit::BitRate;
use probe_server::core::limits::Limits;
use probe_server::core::quic::{ConnectionIds, QuicDemux};
use probe_server::core::shard::{Meta, Outcome, Silence};
use probe_server::core::{Hub, Shard};
use proptest::prelude::*;

const KEY: [u8; 16] = [1; 16];
const EXPIRED: [u8; 16] = [2; 16];
const REVOKED: [u8; 16] = [3; 16];

#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Event>>>);

impl Outbox for Told {
    fn event(&mut self, event: Event) -> bool {
        self.0.lock().unwrap().push(event);
        true
    }
    fn handed_in(&mut self, _: HandedIn) -> bool {
        true
    }
}

struct Rig {
    hub: Arc<Mutex<Hub>>,
    shard: Shard,
    now: Timestamp,
    told: Told,
    drops: u32,
}

struct Setup {
    limits: Limits,
    boot: u64,
    allow: AllowList,
    open_to_all: bool,
    max_rate: Option<u64>,
}

impl Default for Setup {
    fn default() -> Self {
        let allow = AllowList::default();
        Self { limits: Limits::default(), boot: 1, allow, open_to_all: false, max_rate: None }
    }
}

fn from(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, host], port))
}

/// A flow at its client.
struct Flow {
    accept: Accept,
    keys: FlowKeys,
    dress: Dress,
    hello: Hello,
}

impl Rig {
    fn new(setup: Setup) -> Self {
        let known = |key, expires_minute, revoked| {
            let invite = Invite { key, fingerprint: [0; 32], expires_minute };
            Known { label: invite.label(), invite, revoked }
        };
        let invites = Invites::new([
            known(KEY, None, false),
            known(EXPIRED, Some(1), false),
            known(REVOKED, None, true),
        ]);
        let told = Told::default();
        let hub = Arc::new(Mutex::new(Hub::new(HubConfig {
            identity: Identity { secret: [9; 32], boot: setup.boot, epoch: 4, software: [0, 1, 0] },
            limits: setup.limits,
            allow: setup.allow,
            open_to_all: setup.open_to_all,
            invites: Arc::new(invites),
            seed: [setup.boot as u8; 32],
            outbox: Box::new(told.clone()),
            counters: Arc::new(Counters::default()),
        })));
        let quic = QuicDemux { straight: ConnectionIds::new([5; 16]), inverse: ConnectionIds::new([6; 16]) };
        let max_rate = setup.max_rate.map(|rate| Arc::new(BitRate::new(rate)));
        let shard = Shard::new(&hub, quic, max_rate, [7; 16]);
        Self { hub, shard, now: Timestamp::from_nanos(1 << 40), told, drops: 0 }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.hub.lock().unwrap().expire(self.now);
        self.shard.tick();
    }

    /// What the listener does with a datagram: the reply, or why there is none.
    fn send(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<Vec<u8>, Outcome> {
        let mut buffer = vec![0; MAX_LEN];
        let meta = Meta {
            from,
            len: datagram.len(),
            truncated: datagram.len() > MAX_LEN,
            arrived: self.now,
            kernel: true,
            ttl: Some(61),
            tos: Some(0xb8),
            local: None,
            drops: Some(self.drops),
        };
        let len = datagram.len().min(MAX_LEN);
        buffer[..len].copy_from_slice(&datagram[..len]);
        let wall = WallTime(self.now.as_nanos() as i64);
        let outcome = self.shard.datagram(self.now, wall, &meta, &mut buffer);
        self.shard.after_batch();
        match outcome {
            Outcome::Reply { len, .. } => Ok(buffer[..len].to_vec()),
            other @ (Outcome::Quic { .. } | Outcome::Silent(_)) => Err(other),
        }
    }

    fn say(&mut self, from: SocketAddr, keys: &mut HelloKeys, hello: &Hello) -> Answer {
        let wire = hello_bytes(keys, hello, false);
        let mut reply = self.send(from, &wire).unwrap();
        assert_eq!(reply.len(), wire.len(), "an answer has its question's length");
        read_answer(keys, hello.dress, &mut reply)
    }

    fn open(&mut self, from: SocketAddr, mut keys: HelloKeys, mut hello: Hello) -> Result<Flow, Refusal> {
        for _ in 0..2 {
            match self.say(from, &mut keys, &hello) {
                Answer::Challenge(challenge) => hello.cookie = challenge.cookie,
                Answer::Refuse(refuse) => return Err(refuse.reason.unwrap()),
                Answer::Accept(accept) => {
                    let keys = FlowKeys::new(accept.secret);
                    return Ok(Flow { accept, keys, dress: hello.dress, hello });
                }
            }
        }
        panic!("challenged twice");
    }

    fn holder(&mut self, host: u8, session: u8, nonce: u64) -> Result<Flow, Refusal> {
        let hello = hello(session, nonce, Carrier::Udp, Dress::Random);
        self.open(from(host, 1000 + nonce as u16), HelloKeys::of_invite(&KEY), hello)
    }

    fn public(&mut self, host: u8, session: u8, nonce: u64) -> Result<Flow, Refusal> {
        let hello = hello(session, nonce, Carrier::Udp, Dress::Random);
        self.open(from(host, 1000 + nonce as u16), HelloKeys::public(), hello)
    }

    fn probe(&mut self, from: SocketAddr, flow: &mut Flow, seq: u64) -> Result<EchoBody, Outcome> {
        let record = probe_record(&mut flow.keys, &flow.accept, seq, 100, 0);
        self.send_record(from, flow, &record).map(|mut reply| open_echo(&mut flow.keys, &mut reply).1)
    }

    fn send_record(&mut self, from: SocketAddr, flow: &Flow, record: &[u8]) -> Result<Vec<u8>, Outcome> {
        let mut wire = Vec::new();
        dress::put_on(flow.dress, Form::Running, record, &mut wire);
        let mut reply = self.send(from, &wire)?;
        Ok(dress::take_off(flow.dress, Form::Running, &mut reply).unwrap().to_vec())
    }

    fn count(&self, name: &str) -> u64 {
        let hub = self.hub.lock().unwrap();
        hub.counters().all().find(|c| c.0 == name).unwrap().2
    }

    fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.told.0.lock().unwrap())
    }

    fn held(&self) -> (usize, usize) {
        self.hub.lock().unwrap().held()
    }
}

fn rig() -> Rig {
    Rig::new(Setup::default())
}

const SILENT_RATE: Outcome = Outcome::Silent(Silence::Rate);

#[test]
fn a_cookie_is_asked_for_before_anything_is_held_and_is_bound_to_address_and_time() {
    let mut rig = rig();
    let mut keys = HelloKeys::of_invite(&KEY);
    let mut hello = hello(1, 1, Carrier::Udp, Dress::Random);
    let Answer::Challenge(challenge) = rig.say(from(1, 1), &mut keys, &hello) else { panic!("no challenge") };
    assert_eq!(rig.held(), (0, 0));
    hello.cookie = challenge.cookie;
    assert!(matches!(rig.say(from(2, 1), &mut keys, &hello), Answer::Challenge(_)), "another address");
    let Answer::Accept(first) = rig.say(from(1, 1), &mut keys, &hello) else { panic!("not accepted") };
    let Answer::Accept(again) = rig.say(from(1, 1), &mut keys, &hello) else { panic!("not accepted") };
    assert_eq!((first.id, first.secret), (again.id, again.secret), "the same hello opens the same flow");
    assert_eq!(rig.held(), (1, 1));
    assert_eq!(first.observed, from(1, 1));
    rig.now += Duration::from_secs(41);
    assert!(matches!(rig.say(from(1, 1), &mut keys, &hello), Answer::Challenge(_)), "too late");
}

#[test]
fn the_wrong_version_learns_which_end_to_update() {
    let mut rig = rig();
    let mut keys = HelloKeys::of_invite(&KEY);
    for (min, max, header, expected) in [
        (2, 3, 3, Refusal::ListenerTooOld),
        (1, 3, 3, Refusal::ListenerTooOld),
        (0, 0, 0, Refusal::ClientTooOld),
        (0, 0, 1, Refusal::ClientTooOld),
    ] {
        let hello = Hello { min_version: min, max_version: max, ..hello(1, 1, Carrier::Udp, Dress::Random) };
        let mut record = vec![0; HANDSHAKE_LEN];
        // A later version's Hello has a body that this one cannot read beyond its first two bytes.
        record[BODY_AT..].copy_from_slice(&hello.encode());
        record[BODY_AT + 2..].fill(0xee);
        keys.keys.seal_as(header, keys.id, 1, Kind::Hello, &mut record).unwrap();
        let mut reply = rig.send(from(1, 1), &record).unwrap();
        let Answer::Refuse(refuse) = read_answer(&mut keys, Dress::Random, &mut reply) else {
            panic!("not refused")
        };
        assert_eq!(refuse.reason, Some(expected));
    }
    assert_eq!(rig.held(), (0, 0));
}

#[test]
fn expired_and_revoked_invites_and_strangers_addresses_are_refused_in_words() {
    let mut rig =
        Rig::new(Setup { allow: AllowList(vec!["192.0.2.0/29".parse().unwrap()]), ..Setup::default() });
    let hello = hello(1, 1, Carrier::Udp, Dress::Random);
    let refusal = |r: Result<Flow, Refusal>| r.err();
    assert_eq!(
        refusal(rig.open(from(1, 1), HelloKeys::of_invite(&EXPIRED), hello)),
        Some(Refusal::InviteExpired)
    );
    assert_eq!(
        refusal(rig.open(from(1, 1), HelloKeys::of_invite(&REVOKED), hello)),
        Some(Refusal::InviteRevoked)
    );
    assert_eq!(refusal(rig.open(from(9, 1), HelloKeys::of_invite(&KEY), hello)), Some(Refusal::NotAllowed));
    assert!(rig.open(from(7, 1), HelloKeys::of_invite(&KEY), hello).is_ok());
    assert_eq!(rig.events().iter().filter(|e| matches!(e, Event::Refused { .. })).count(), 3);
    // A key that no invite has opens nothing.
    let mut keys = HelloKeys::of_invite(&[77; 16]);
    let wire = hello_bytes(&mut keys, &hello, false);
    assert!(rig.send(from(7, 1), &wire).is_err());
}

#[test]
fn a_flow_follows_its_client_and_nobody_else() {
    let mut rig = rig();
    let (old, new, thief) = (from(1, 1001), from(1, 2000), from(9, 9));
    let mut flow = rig.holder(1, 1, 1).unwrap();
    for seq in 0..5 {
        assert_eq!(rig.probe(old, &mut flow, seq).unwrap().moves, 0);
    }
    assert_eq!(rig.probe(new, &mut flow, 5).unwrap().moves, 1, "echoed at once");
    assert_eq!(
        rig.probe(old, &mut flow, 4).err(),
        Some(Outcome::Silent(Silence::Forged)),
        "an old one again"
    );
    let late = probe_record(&mut flow.keys, &flow.accept, 6, 100, 0);
    rig.probe(new, &mut flow, 7).unwrap();
    let mut late = rig.send_record(old, &flow, &late).unwrap();
    let (_, late) = open_echo(&mut flow.keys, &mut late);
    assert_eq!((late.moves, late.duplicate), (1, false), "a late one is echoed and moves nothing");
    let replayed = probe_record(&mut flow.keys, &flow.accept, 7, 100, 0);
    assert!(rig.send_record(thief, &flow, &replayed).is_err(), "a replay from elsewhere is not answered");
    let moved = |e: &Event| matches!(e, Event::SessionMoved { old: o, new: n, .. } if *o == old && *n == new);
    assert_eq!(rig.events().iter().filter(|e| moved(e)).count(), 1);
}

#[test]
fn longer_replies_are_for_holders_at_an_address_that_a_cookie_proved() {
    let mut rig = rig();
    let (old, new) = (from(1, 1001), from(1, 2000));
    let mut flow = rig.holder(1, 1, 1).unwrap();
    let mut seq = 0;
    let mut ask = |rig: &mut Rig, flow: &mut Flow, from, reply_len| {
        seq += 1;
        let record = probe_record(&mut flow.keys, &flow.accept, seq, 100, reply_len);
        let reply = rig.send_record(from, flow, &record).unwrap();
        let len = reply.len();
        let mut opened = reply.clone();
        open_echo(&mut flow.keys, &mut opened);
        assert_eq!(flow.keys.first_changed(seq, &reply[64..]), None, "the filler goes on as it began");
        len
    };
    assert_eq!(ask(&mut rig, &mut flow, old, 1400), 1400);
    assert_eq!(ask(&mut rig, &mut flow, old, 64), 64);
    assert_eq!(ask(&mut rig, &mut flow, old, 1), 64);
    assert_eq!(ask(&mut rig, &mut flow, old, u16::MAX), MAX_LEN);
    assert_eq!(ask(&mut rig, &mut flow, new, 1400), 100, "the new address has proven nothing yet");
    let hello = Hello { cookie: [0; 16], ..flow.hello };
    let again = rig.open(new, HelloKeys::of_invite(&KEY), hello).unwrap();
    assert_eq!(again.accept.id, flow.accept.id);
    assert_eq!(ask(&mut rig, &mut flow, new, 1400), 1400);
    let mut public = rig.public(3, 3, 1).unwrap();
    assert_eq!(ask(&mut rig, &mut public, from(3, 1001), 1400), 100);
}

#[test]
fn every_dress_may_have_longer_replies() {
    for dress in Dress::ALL {
        let mut rig = rig();
        let hello = hello(1, 1, Carrier::Udp, dress);
        let mut flow = rig.open(from(1, 1), HelloKeys::of_invite(&KEY), hello).unwrap();
        for (seq, wanted) in [(1, 1000), (2, 67), (3, 6000)] {
            let record = probe_record(&mut flow.keys, &flow.accept, seq, 66, wanted);
            let mut reply = rig.send_record(from(1, 1), &flow, &record).unwrap();
            assert_eq!(reply.len(), usize::from(wanted), "{dress:?}");
            assert_eq!(open_echo(&mut flow.keys, &mut reply).0, seq);
        }
    }
}

#[test]
fn after_a_restart_an_old_flow_is_told_so_and_nobody_else_is() {
    let mut before = rig();
    let mut flow = before.holder(1, 1, 1).unwrap();
    let mut rig = Rig::new(Setup { boot: 2, ..Setup::default() });
    let record = probe_record(&mut flow.keys, &flow.accept, 7, 100, 0);
    let mut reply = rig.send(from(1, 1), &record).unwrap();
    assert_eq!(reply.len(), 100);
    let header = flow.keys.open(&mut reply).unwrap();
    assert_eq!((header.kind, header.seq), (Kind::Stale, 7));
    assert_eq!(StaleBody::decode(&reply[BODY_AT..]), Ok(StaleBody { boot: 2, epoch: 4 }));
    let mut forged = probe_record(&mut flow.keys, &flow.accept, 8, 100, 0);
    forged[40] ^= 1;
    assert!(rig.send(from(1, 1), &forged).is_err());
    // Many of them cost the listener a bounded amount of work.
    let answered = (0..2000).filter(|_| rig.send(from(1, 1), &record).is_ok()).count();
    assert!((1..=100).contains(&answered), "{answered}");
}

#[test]
fn no_reply_is_itself_a_request() {
    let mut one = rig();
    let mut keys = HelloKeys::of_invite(&KEY);
    let mut hello = hello(1, 1, Carrier::Udp, Dress::Random);
    let mut replies = Vec::new();
    let wire = hello_bytes(&mut keys, &hello, false);
    let challenge = one.send(from(1, 1), &wire).unwrap();
    replies.push(challenge.clone());
    let Answer::Challenge(c) = read_answer(&mut keys, Dress::Random, &mut challenge.clone()) else {
        panic!()
    };
    hello.cookie = c.cookie;
    let wire = hello_bytes(&mut keys, &hello, false);
    let accept = one.send(from(1, 1), &wire).unwrap();
    replies.push(accept.clone());
    let Answer::Accept(accept) = read_answer(&mut keys, Dress::Random, &mut accept.clone()) else { panic!() };
    let mut flow = FlowKeys::new(accept.secret);
    replies.push(one.send(from(1, 1), &probe_record(&mut flow, &accept, 1, 80, 0)).unwrap());
    let ask = Request::Ledger(LedgerRequest { flow: accept.id, from: 0, settled_below: 0 });
    replies.push(one.send(from(1, 1), &common::control_record(&mut flow, &accept, 1, &ask)).unwrap());
    let refused = hello_bytes(&mut HelloKeys::of_invite(&REVOKED), &hello, false);
    replies.push(one.send(from(1, 1), &refused).unwrap());
    // The second listener has the same secret, so that every reply is authentic to it.
    let mut two = Rig::new(Setup { boot: 2, ..Setup::default() });
    replies.push(two.send(from(1, 1), &probe_record(&mut flow, &accept, 2, 80, 0)).unwrap());
    for reply in &replies {
        for rig in [&mut one, &mut two] {
            assert_eq!(rig.send(from(1, 1), reply), Err(Outcome::Silent(Silence::Kind)));
        }
    }
}

#[test]
fn a_client_without_an_invite_gets_the_short_slow_check_alone() {
    let mut rig = rig();
    let mut flow = rig.public(1, 1, 0).unwrap();
    assert!(!flow.accept.authenticated);
    let echoed = (0..50).filter(|seq| rig.probe(from(1, 1000), &mut flow, *seq).is_ok()).count();
    assert_eq!(echoed, 20);
    // What was not echoed is in the ledger nevertheless: it arrived.
    let ask = Request::Ledger(LedgerRequest { flow: flow.accept.id, from: 0, settled_below: 0 });
    let record = common::control_record(&mut flow.keys, &flow.accept, 1, &ask);
    let mut reply = rig.send_record(from(1, 1000), &flow, &record).unwrap();
    let Reply::Ledger(ledger) = open_reply(&mut flow.keys, &mut reply) else { panic!("no ledger") };
    assert_eq!(ledger.received, 50);
    for nonce in 1..8 {
        rig.public(1, 1, nonce).unwrap();
    }
    assert_eq!(rig.public(1, 1, 8).err(), Some(Refusal::TooManyFromSource));
    assert_eq!(rig.public(1, 2, 0).err(), Some(Refusal::TooManyFromSource), "one session per source");
    assert!(rig.public(2, 2, 0).is_ok());
    assert!(rig.holder(1, 3, 0).is_ok(), "holders are not counted with them");
    assert_eq!(
        rig.holder(1, 1, 9).err(),
        Some(Refusal::NeedsInvite),
        "a session's rights are those it began with"
    );
    rig.pass(Duration::from_secs(59));
    assert!(rig.probe(from(1, 1000), &mut flow, 100).is_ok());
    rig.now += Duration::from_secs(1);
    assert_eq!(rig.probe(from(1, 1000), &mut flow, 101).err(), Some(SILENT_RATE), "its minute is over");
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.held(), (1, 1));
    let mut open = Rig::new(Setup { open_to_all: true, ..Setup::default() });
    let mut flow = open.public(1, 1, 0).unwrap();
    assert!(flow.accept.authenticated);
    assert_eq!((0..50).filter(|seq| open.probe(from(1, 1000), &mut flow, *seq).is_ok()).count(), 50);
}

#[test]
fn a_quiet_public_session_makes_room_for_the_next_of_its_source() {
    let mut rig = rig();
    rig.public(1, 1, 0).unwrap();
    rig.now += Duration::from_secs(4);
    assert!(rig.public(1, 2, 0).is_err());
    rig.now += Duration::from_secs(1);
    rig.public(1, 2, 0).unwrap();
    assert_eq!(rig.held(), (1, 1));
}

#[test]
fn each_bound_of_holders_is_reached_and_what_is_over_makes_room() {
    let limits = Limits {
        sessions: 6,
        sessions_per_source: 4,
        flows: 12,
        flows_per_source: 10,
        flows_per_session: 5,
        ..Limits::with_sessions(6)
    };
    let mut rig = Rig::new(Setup { limits, ..Setup::default() });
    for nonce in 0..5 {
        rig.holder(1, 1, nonce).unwrap();
    }
    assert_eq!(rig.holder(1, 1, 5).err(), Some(Refusal::TooManyFromSource), "flows of a session");
    for session in 2..5 {
        rig.holder(1, session, 0).unwrap();
    }
    assert_eq!(rig.holder(1, 5, 0).err(), Some(Refusal::TooManyFromSource), "sessions of a source");
    for nonce in 1..3 {
        rig.holder(1, 2, nonce).unwrap();
    }
    assert_eq!(rig.holder(1, 2, 3).err(), Some(Refusal::TooManyFromSource), "flows of a source");
    rig.holder(2, 6, 0).unwrap();
    rig.holder(3, 7, 0).unwrap();
    assert_eq!(rig.held(), (6, 12));
    assert_eq!(rig.holder(4, 8, 0).err(), Some(Refusal::Full), "sessions in all");
    assert_eq!(rig.holder(2, 6, 1).err(), Some(Refusal::Full), "flows in all");
    // A flow that says goodbye makes room for the next one of its session, in the same slots.
    let mut over = rig.holder(1, 1, 4).unwrap();
    let mut close = vec![0; 64];
    over.keys.seal(over.accept.id, 9, Kind::Close, &mut close).unwrap();
    assert!(rig.send(from(1, 1004), &close).is_err());
    rig.holder(1, 1, 6).unwrap();
    rig.shard.tick();
    assert_eq!(rig.held(), (6, 12));
    // After ten quiet minutes the oldest session makes room as well.
    rig.pass(Duration::from_secs(600));
    rig.holder(4, 8, 0).unwrap();
    assert!(
        rig.events().iter().any(|e| matches!(e, Event::SessionClosed { reason: CloseReason::Evicted, .. }))
    );
}

#[test]
fn thousands_of_openings_and_closings_leave_nothing_behind() {
    let mut rig = rig();
    for round in 0..60u64 {
        for nonce in 0..50 {
            rig.now += Duration::from_millis(1);
            rig.holder(1, 1, round * 50 + nonce).unwrap();
        }
        rig.hub.lock().unwrap().end(hello(1, 0, Carrier::Udp, Dress::Random).session, rig.now);
        rig.pass(Duration::from_secs(31));
        assert_eq!(rig.held(), (0, 0));
        assert_eq!(rig.shard.flows(), 0);
    }
}

#[test]
fn a_holders_session_survives_a_night_and_not_a_week() {
    let mut rig = rig();
    let mut flow = rig.holder(1, 1, 0).unwrap();
    for _ in 0..3 {
        rig.pass(Duration::from_secs(23 * 3600));
        assert!(rig.probe(from(1, 1000), &mut flow, rig.now.as_nanos() >> 20).is_ok());
        // Its sign of life reaches the hub with the next tick.
        rig.shard.tick();
    }
    rig.pass(Duration::from_secs(24 * 3600));
    assert_eq!(rig.held(), (0, 0));
    assert!(rig.events().iter().any(|e| matches!(e, Event::SessionClosed { reason: CloseReason::Idle, .. })));
}

#[test]
fn forged_records_are_counted_apart_and_never_taken_for_receipts() {
    let mut rig = rig();
    let mut flow = rig.holder(1, 1, 1).unwrap();
    for at in [8, 14, 20, 40, 63] {
        let mut record = probe_record(&mut flow.keys, &flow.accept, at as u64, 100, 0);
        record[at] ^= 0x10;
        assert_eq!(rig.send(from(1, 1001), &record), Err(Outcome::Silent(Silence::Forged)));
    }
    let changed_filler = {
        let mut record = probe_record(&mut flow.keys, &flow.accept, 50, 100, 0);
        record[80] ^= 1;
        record
    };
    assert!(rig.send(from(1, 1001), &changed_filler).is_ok(), "the filler is told by its sum");
    assert_eq!(rig.probe(from(1, 1001), &mut flow, 51).unwrap().received, 2);
    assert_eq!(rig.count("dropped_forged"), 5);
}

#[test]
fn an_overflow_of_the_socket_is_told_once_to_each_flow() {
    let mut rig = rig();
    let mut flow = rig.holder(1, 1, 1).unwrap();
    assert!(!rig.probe(from(1, 1001), &mut flow, 0).unwrap().overflowed);
    rig.drops = 9;
    assert!(rig.probe(from(1, 1001), &mut flow, 1).unwrap().overflowed);
    assert!(!rig.probe(from(1, 1001), &mut flow, 2).unwrap().overflowed);
}

#[test]
fn the_rate_of_all_replies_is_kept() {
    let mut rig = Rig::new(Setup { max_rate: Some(800_000), ..Setup::default() });
    let mut flow = rig.holder(1, 1, 1).unwrap();
    let mut bits = 0;
    for seq in 0..5000 {
        rig.now += Duration::from_millis(1);
        bits += if rig.probe(from(1, 1001), &mut flow, seq).is_ok() { 128 * 8 } else { 0 };
    }
    assert!((3_800_000..=4_100_000).contains(&bits), "{bits} bits in 5 s at 800 kbit/s");
    assert!(rig.count("dropped_max_rate") > 0);
}

#[test]
fn strangers_are_answered_at_a_bounded_rate_and_hold_nothing() {
    let mut rig = rig();
    let mut keys = HelloKeys::public();
    let answered = (0..10_000u64)
        .filter(|n| {
            let wire = hello_bytes(&mut keys, &hello(*n as u8, *n, Carrier::Udp, Dress::Random), false);
            rig.send(from(1, *n as u16), &wire).is_ok()
        })
        .count();
    assert_eq!(answered, 100);
    assert_eq!(rig.held(), (0, 0));
    let noise = vec![0x3a; 500];
    for n in 0..1000 {
        assert!(rig.send(from(2, n), &noise).is_err());
    }
    assert!(rig.count("dropped_unknown") >= 1000);
}

fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let hello_of = |key: u8, dress: Dress, session: u8, cookie: u8| {
        let mut keys = if key == 0 { HelloKeys::public() } else { HelloKeys::of_invite(&[key; 16]) };
        let hello = Hello { cookie: [cookie; 16], ..hello(session, 3, Carrier::Udp, dress) };
        hello_bytes(&mut keys, &hello, false)
    };
    let hellos = (0u8..4, proptest::sample::select(&Dress::ALL[..]), any::<u8>(), any::<u8>())
        .prop_map(move |(key, dress, session, cookie)| hello_of(key, dress, session, cookie));
    let initial = (1u16..1500, any::<u8>(), any::<bool>()).prop_map(|(len, fill, inverse)| {
        let mut bytes = vec![0xc3, 0, 0, 0, 1, 8];
        bytes.resize(usize::from(len).max(6), fill);
        if inverse { bytes.iter().map(|b| !b).collect() } else { bytes }
    });
    let noise = proptest::collection::vec(any::<u8>(), 0..300);
    (prop_oneof![4 => hellos, 1 => initial, 1 => noise], any::<bool>(), any::<u16>(), any::<u8>(), 0usize..40)
        .prop_map(|(mut bytes, change, at, by, cut)| {
            if change && !bytes.is_empty() {
                let at = usize::from(at) % bytes.len();
                bytes[at] ^= by;
                bytes.truncate(bytes.len().saturating_sub(cut));
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn before_validation_no_reply_is_longer_than_its_request(
        sequence in proptest::collection::vec((datagrams(), 0u8..20, 0u64..3000), 1..60),
    ) {
        let mut rig = rig();
        let (mut received, mut sent) = (0, 0);
        for (datagram, host, ms) in sequence {
            rig.now += Duration::from_millis(ms);
            received += datagram.len();
            if let Ok(reply) = rig.send(from(host, 1), &datagram) {
                prop_assert!(reply.len() <= datagram.len());
                sent += reply.len();
            }
        }
        prop_assert!(sent <= received);
        prop_assert_eq!(rig.held(), (0, 0));
    }

    #[test]
    fn whatever_comes_under_an_open_flows_id_harms_nothing(
        records in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), 0u8..3), 1..40),
    ) {
        let mut rig = rig();
        let mut flow = rig.holder(1, 1, 1).unwrap();
        for (mut record, sealed) in records {
            let len = record.len();
            if len >= 8 {
                record[..8].copy_from_slice(&flow.accept.id.0);
            }
            if sealed > 0 && len >= 64 {
                let kind = if sealed == 1 { Kind::Probe } else { Kind::Control };
                flow.keys.seal(flow.accept.id, 3, kind, &mut record).unwrap();
            }
            if let Ok(reply) = rig.send(from(1, 1001), &record) {
                // A probe of random content may ask for more, and this client may have it.
                prop_assert!(reply.len() <= MAX_LEN);
                if sealed == 2 { prop_assert_eq!(reply.len(), len); }
            }
        }
        let seq = (1 << 40) + 1;
        prop_assert!(rig.probe(from(1, 1001), &mut flow, seq).is_ok());
    }
}
