//! Proof of a new address. A flow that a NAT has given another port is echoed at once, but the listener answers with no
//! more than it is sent until a cookie has proven the new address (as QUIC validates a path: RFC 9000, section 9.3). A
//! flow that asks for longer replies proves it by the Hello that opened it, sent again from the new address; until then
//! what comes back short is no measure of the path.

use std::time::Duration;

use probe_analysis::observation::FlowNo;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::{Accept, Carrier, Challenge};
use probe_protocol::wire::{BODY_AT, Kind};

use super::flow::{Flow, Outgoing, State};
use super::mtu::Search;
use super::{Engine, Reason};

/// Hellos of one proof: at 10 % loss each way, all of them fail once in a million.
const MAX_HELLOS: u32 = 10;
/// Shortest wait for an answer to one.
const MIN_WAIT: Duration = Duration::from_millis(250);

/// A proof that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    hellos: u32,
}

impl Flow {
    /// Whether it asks for replies that are longer than what they answer.
    fn wants_longer_replies(&self) -> bool {
        let searching = self.search.as_ref().is_some_and(|search| !Search::is_done(search));
        self.spec.carrier == Carrier::Udp && self.is_open() && (searching || self.pieces.is_some())
    }

    /// Whether the reply to this probe is shorter than it was asked to be. It answers nothing then but that the probe
    /// arrived.
    pub(super) fn is_held_back(&self, seq: u64, record_len: usize) -> bool {
        let asked = [
            self.search.as_ref().and_then(|search| search.asked(seq)),
            self.pieces.as_ref().and_then(|pieces| pieces.asked(seq)),
        ];
        asked.into_iter().flatten().any(|asked| record_len < asked)
    }
}

impl Engine {
    /// Proves the flow's address anew, where it needs that and is not about it already.
    pub(super) fn prove(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no).filter(|flow| flow.wants_longer_replies()) else { return };
        if flow.proof.is_none() {
            flow.proof = Some(Proof { hellos: 0 });
            flow.opening.cookie = [0; 16];
            self.prove_due(now, no);
        }
    }

    /// A Hello of a proof is due.
    pub(super) fn prove_due(&mut self, now: Timestamp, no: FlowNo) {
        let Some(flow) = self.flows.get_mut(&no) else { return };
        let open = flow.state == State::Open;
        let Some(proof) = flow.proof.as_mut().filter(|proof| open && proof.hellos < MAX_HELLOS) else {
            flow.proof = None;
            return;
        };
        proof.hellos += 1;
        let wait = flow.srtt.map_or(MIN_WAIT, |rtt| rtt * 2).max(MIN_WAIT);
        self.outgoing.push_back((no, Outgoing::Hello));
        self.at(now + wait, Reason::Prove(no));
    }

    /// Takes in a handshake record of an open flow that proves its address; false where it is none.
    pub(super) fn proof_record(&mut self, no: FlowNo, kind: Kind, record: &[u8]) -> bool {
        let Some(flow) = self.flows.get_mut(&no) else { return false };
        let (Some(_), Some(body)) = (flow.proof, record.get(BODY_AT..)) else { return false };
        match kind {
            Kind::Challenge => {
                let Ok(challenge) = Challenge::decode(body) else { return false };
                if flow.opening.cookie != challenge.cookie {
                    flow.opening.cookie = challenge.cookie;
                    self.outgoing.push_back((no, Outgoing::Hello));
                }
                true
            }
            Kind::Accept => {
                let Ok(accept) = Accept::decode(body) else { return false };
                if flow.link.as_ref().is_some_and(|link| link.id == accept.id) {
                    flow.proof = None;
                }
                true
            }
            Kind::Refuse => {
                // It goes on as it is; what stays short is not counted.
                flow.proof = None;
                true
            }
            Kind::Hello
            | Kind::Probe
            | Kind::Control
            | Kind::Close
            | Kind::Echo
            | Kind::ControlReply
            | Kind::Stale
            | Kind::Block
            | Kind::Sack
            | Kind::BlockDown
            | Kind::SackDown => false,
        }
    }
}
