//! The pair's own protocol as a load generator speaks it: opening a flow, sealed probes, echoes that are verified.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use probe_net::clock;
use probe_protocol::PROTOCOL_VERSION;
use probe_protocol::invite::Invite;
use probe_protocol::time::WallTime;
use probe_protocol::wire::dress::{self, Dress, Form};
use probe_protocol::wire::hello::{Accept, Carrier, Challenge, Hello, HelloKeys, SessionId};
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::probe::{EchoBody, ProbeBody};
use probe_protocol::wire::seal::FlowKeys;
use probe_protocol::wire::{BODY_AT, HANDSHAKE_LEN, Kind, MIN_LEN};

use super::BenchError;

/// How long an answer may take, and how often it is asked again.
const PATIENCE: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

/// A Hello for a flow in the dress `random`.
pub(super) fn hello(session: [u8; 16], flow_nonce: u64, size: usize) -> Hello {
    Hello {
        min_version: PROTOCOL_VERSION,
        max_version: PROTOCOL_VERSION,
        session: SessionId(session),
        flow_nonce,
        cookie: [0; 16],
        carrier: Carrier::Udp,
        dress: Dress::Random,
        size: u16::try_from(size).unwrap_or(u16::MAX),
        software: [0, 1, 0],
        wall: WallTime(clock::wall().0),
        binding: [0; 32],
    }
}

/// A Hello as it travels.
pub(super) fn seal_hello(keys: &mut HelloKeys, hello: &Hello) -> Vec<u8> {
    let mut record = vec![0; HANDSHAKE_LEN];
    record[BODY_AT..].copy_from_slice(&hello.encode());
    // The length is right by construction; a record that is not sealed is not answered.
    let _ = keys.keys.seal(keys.id, 1, Kind::Hello, &mut record);
    let mut wire = Vec::new();
    dress::put_on(hello.dress, Form::Opening, &record, &mut wire);
    wire
}

/// What a Hello is answered with.
#[derive(Debug)]
pub(super) enum Answer {
    Challenge(Challenge),
    Accept(Accept),
    /// A refusal, or nothing of ours.
    Other,
}

/// Reads an answer to a Hello.
pub(super) fn read_answer(keys: &mut HelloKeys, wire: &mut [u8]) -> Answer {
    let Ok(header) = keys.keys.open(wire) else { return Answer::Other };
    let Some(body) = wire.get(BODY_AT..HANDSHAKE_LEN) else { return Answer::Other };
    if header.kind == Kind::Challenge {
        Challenge::decode(body).map_or(Answer::Other, Answer::Challenge)
    } else if header.kind == Kind::Accept {
        Accept::decode(body).map_or(Answer::Other, Answer::Accept)
    } else {
        Answer::Other
    }
}

/// An open flow.
#[derive(Debug)]
pub(super) struct Flow {
    id: FlowId,
    keys: FlowKeys,
    seq: u64,
}

impl Flow {
    pub(super) fn new(accept: &Accept) -> Self {
        Self { id: accept.id, keys: FlowKeys::new(accept.secret), seq: 0 }
    }

    /// What its datagrams begin with.
    pub(super) fn id(&self) -> [u8; 8] {
        self.id.0
    }

    /// Opens one, waiting for each answer. The socket's time-out is changed.
    pub(super) fn open(
        socket: &UdpSocket,
        to: SocketAddr,
        invite: &Invite,
        mut hello: Hello,
    ) -> Result<Self, BenchError> {
        let mut keys = HelloKeys::of_invite(&invite.key);
        let system = |error| BenchError::System { what: "opening a flow", error };
        socket.set_read_timeout(Some(PATIENCE)).map_err(system)?;
        let mut buffer = [0; 2048];
        for _ in 0..TRIES {
            socket.send_to(&seal_hello(&mut keys, &hello), to).map_err(system)?;
            let Ok((len, _)) = socket.recv_from(&mut buffer) else { continue };
            match read_answer(&mut keys, &mut buffer[..len]) {
                Answer::Challenge(challenge) => hello.cookie = challenge.cookie,
                Answer::Accept(accept) => return Ok(Self::new(&accept)),
                Answer::Other => break,
            }
        }
        Err(BenchError::Program("the listener did not open a flow for the load generator".to_owned()))
    }

    /// Writes the next probe; `wire` has its length, and keeps whatever filler it holds.
    pub(super) fn write_probe(&mut self, wire: &mut [u8]) {
        let body = ProbeBody { sent: clock::now(), ..ProbeBody::default() };
        if let Some(room) = wire.get_mut(BODY_AT..MIN_LEN) {
            room.copy_from_slice(&body.encode());
        }
        // Too short a wire is a mistake of the caller, and shows as probes without an echo.
        let _ = self.keys.seal(self.id, self.seq, Kind::Probe, wire);
        self.seq += 1;
    }

    /// Verifies an echo.
    pub(super) fn read_echo(&mut self, wire: &mut [u8]) -> Option<EchoBody> {
        let header = self.keys.open(wire).ok().filter(|header| header.kind == Kind::Echo)?;
        EchoBody::decode(wire.get(BODY_AT..)?).ok().filter(|_| header.seq < self.seq)
    }
}
