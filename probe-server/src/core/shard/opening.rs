//! How a UDP flow opens: challenge, and then accept or refuse.

use probe_protocol::time::{Timestamp, WallTime};
use probe_protocol::wire::dress::{self, Dress, Form, Place};
use probe_protocol::wire::hello::{Accept, Carrier, Challenge, Hello, HelloKeys, Refusal, Refuse};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Kind};

use super::{Meta, Opener, Outcome, Shard, Silence, Slot, UdpFlow, lock};
use crate::core::book::{FlowBook, bounds_for};
use crate::core::hub::{Holds, OpenRequest};
use crate::core::judge_versions;
use crate::core::limit::Bucket;

/// What an opening is answered with.
enum Answer {
    Challenge(Challenge),
    Accept(Accept),
    Refuse(Refusal),
    Nothing(Silence),
}

impl Shard {
    pub(super) fn hello(
        &mut self,
        place: Place,
        id: FlowId,
        now: Timestamp,
        wall: WallTime,
        meta: &Meta,
        buffer: &mut [u8],
    ) -> Outcome {
        let worn = match place {
            Place::Base64 => Dress::Ascii,
            Place::At(0) => Dress::Random,
            Place::At(_) => Dress::QuicShaped,
        };
        let rate = match self.invites.find(id) {
            Some(Opener::Invite(_)) => self.limits.holders,
            Some(Opener::Public) | None => self.limits.strangers,
        };
        if !self.may_answer_stranger(now, meta, rate) {
            return Outcome::Silent(Silence::Rate);
        }
        let Some(mut hello_keys) = self.hello_keys.remove(&id).or_else(|| self.keys_of(id)) else {
            return Outcome::Silent(Silence::Unknown);
        };
        let outcome = self.hello_with(&mut hello_keys, place, worn, now, wall, meta, buffer);
        self.hello_keys.insert(id, hello_keys);
        outcome
    }

    fn keys_of(&self, id: FlowId) -> Option<HelloKeys> {
        Some(match self.invites.find(id)? {
            Opener::Invite(known) => HelloKeys::of_invite(&known.invite.key),
            Opener::Public => HelloKeys::public(),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "one datagram with all that is known of it")]
    fn hello_with(
        &mut self,
        hello_keys: &mut HelloKeys,
        place: Place,
        worn: Dress,
        now: Timestamp,
        wall: WallTime,
        meta: &Meta,
        buffer: &mut [u8],
    ) -> Outcome {
        let datagram = &mut buffer[..meta.len];
        let Ok(record) = dress::take_off(worn, Form::Opening, datagram) else {
            return Outcome::Silent(Silence::Forged);
        };
        if record.len() < HANDSHAKE_LEN {
            return Outcome::Silent(Silence::Length);
        }
        let Ok(header) = hello_keys.keys.open(record) else { return Outcome::Silent(Silence::Forged) };
        if header.kind != Kind::Hello {
            return Outcome::Silent(Silence::Kind);
        }
        let body = &record[BODY_AT..HANDSHAKE_LEN];
        let answer = match judge_versions(header.version, body) {
            Err(refusal) => Answer::Refuse(refusal),
            Ok(()) => match Hello::decode(body) {
                Ok(hello) if hello.dress.row().opening == place => {
                    self.answer_hello(hello_keys.id, &hello, now, wall, meta)
                }
                Ok(_) | Err(_) => Answer::Nothing(Silence::Forged),
            },
        };
        let (kind, body) = match answer {
            Answer::Nothing(silence) => return Outcome::Silent(silence),
            Answer::Challenge(challenge) => {
                self.counts.challenges += 1;
                (Kind::Challenge, challenge.encode())
            }
            Answer::Accept(accept) => (Kind::Accept, accept.encode()),
            Answer::Refuse(reason) => {
                lock(&self.hub).refused(meta.from, reason, now);
                (Kind::Refuse, self.refuse(reason).encode())
            }
        };
        record[BODY_AT..HANDSHAKE_LEN].copy_from_slice(&body);
        if hello_keys.keys.seal(hello_keys.id, header.seq, kind, record).is_err() {
            return Outcome::Silent(Silence::Length);
        }
        dress::put_on(worn, Form::Opening, record, &mut self.scratch);
        let len = self.scratch.len();
        match buffer.get_mut(..len) {
            // No answer is longer than its question, whatever a dress does.
            Some(room) if len <= meta.len => {
                room.copy_from_slice(&self.scratch);
                Outcome::Reply { len, tos: 0 }
            }
            Some(_) | None => Outcome::Silent(Silence::Length),
        }
    }

    fn refuse(&self, reason: Refusal) -> Refuse {
        crate::core::refuse(reason, self.identity.software)
    }

    fn answer_hello(
        &mut self,
        opener: FlowId,
        hello: &Hello,
        now: Timestamp,
        wall: WallTime,
        meta: &Meta,
    ) -> Answer {
        if !self.allow.allows(meta.from.ip()) {
            return Answer::Refuse(Refusal::NotAllowed);
        }
        let rights = match self.invites.find(opener).map(|o| o.rights(wall)) {
            Some(Ok(rights)) => rights,
            Some(Err(refusal)) => return Answer::Refuse(refusal),
            None => return Answer::Nothing(Silence::Unknown),
        };
        let proven = self.jar.accepts(meta.from, hello, now);
        let mut hub = lock(&self.hub);
        hub.note_opening(hello.session, hello.flow_nonce, meta.from, proven);
        if !proven {
            return Answer::Challenge(Challenge { cookie: self.jar.bake(meta.from, hello, now) });
        }
        let request = OpenRequest {
            hello,
            from: meta.from,
            rights,
            carrier: Carrier::Udp,
            binding: [0; 32],
            now,
            wall,
        };
        let opened = match hub.open(&request, |_, _| Holds::Udp) {
            Ok(opened) => opened,
            Err(refusal) => return Answer::Refuse(refusal),
        };
        if opened.new {
            // The very first Hello of a session was not counted above.
            hub.note_first(hello.session, hello.flow_nonce, meta.from);
        }
        drop(hub);
        let slot = opened.slot as usize;
        if opened.new {
            let flow = UdpFlow {
                id: opened.accept.id,
                session: hello.session,
                keys: FlowKeys::new(opened.accept.secret),
                dress: hello.dress,
                book: FlowBook::new(meta.from, bounds_for(opened.flows, !opened.full)),
                validated: meta.from,
                full: opened.full,
                until: opened.until,
                pps: Bucket::default(),
                controls: Bucket::default(),
                told_moves: Bucket::default(),
                highest_control: None,
                local: meta.local,
                drops: None,
                waiting: 0,
            };
            self.hold(slot, flow, now);
        } else if let Some(flow) = self.slots.get_mut(slot).and_then(|s| s.flow.as_mut())
            && flow.id == opened.accept.id
        {
            if flow.validated != meta.from {
                // A load goes to the address it was begun for, or nowhere.
                flow.book.bulk = None;
            }
            flow.validated = meta.from;
            flow.local = meta.local;
            if flow.book.source != meta.from {
                let old = flow.book.source;
                flow.book.move_to(meta.from, now);
                lock(&self.hub).moved(hello.session, old, meta.from);
            }
        }
        Answer::Accept(opened.accept)
    }

    fn hold(&mut self, slot: usize, flow: UdpFlow, now: Timestamp) {
        while self.slots.len() <= slot {
            self.slots.push(Slot {
                id: FlowId([0; 8]),
                last: Timestamp::ZERO,
                told: Timestamp::ZERO,
                flow: None,
            });
        }
        let held = &mut self.slots[slot];
        if held.flow.is_none() {
            self.live += 1;
        }
        *held = Slot { id: flow.id, last: now, told: now, flow: Some(Box::new(flow)) };
    }
}
