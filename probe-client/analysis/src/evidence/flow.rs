//! What is kept of one flow beside its probes.

use std::collections::BTreeMap;

use probe_protocol::wire::hello::Carrier;

use super::Traffic;
use crate::observation::{
    AnsweredLate, Attempt, Channel, DatagramCounts, FlowEnded, FlowOpened, FlowPlanned, Outcome, Rewritten,
    StreamEnd, TcpView,
};

/// Attempts kept of one flow; further ones are counted.
const MAX_ATTEMPTS: usize = 64;
/// Different offsets of alterations kept of one flow.
const MAX_OFFSETS: usize = 16;

/// One flow.
#[derive(Clone, Debug)]
pub struct FlowEvidence {
    /// What it was to be.
    pub plan: FlowPlanned,
    /// The first attempts to open it.
    pub attempts: Vec<Attempt>,
    /// Attempts beyond those.
    pub more_attempts: u64,
    /// Its first opening.
    pub opened: Option<FlowOpened>,
    /// Its channel, on TLS and QUIC.
    pub channel: Option<Channel>,
    /// Alterations seen.
    pub rewrites: Rewrites,
    /// Its datagrams, on QUIC.
    pub datagrams: Option<DatagramCounts>,
    /// TCP's own view.
    pub tcp: Option<TcpView>,
    /// Its end as the listener saw it.
    pub stream_end: Option<StreamEnd>,
    /// Its end.
    pub ended: Option<FlowEnded>,
    /// Its probes.
    pub traffic: Traffic,
}

/// Records that came altered.
#[derive(Clone, Debug, Default)]
pub struct Rewrites {
    /// How many.
    pub count: u64,
    /// How many at each offset of a first changed byte.
    pub offsets: BTreeMap<u32, u64>,
    /// How many on the way up.
    pub up: u64,
    /// How many on the way down.
    pub down: u64,
}

/// Bytes of IP and UDP headers, without options, beside each of a flow's datagrams; none of a stream's, where records
/// and packets are not the same.
fn headers(plan: &FlowPlanned) -> u64 {
    match (plan.carrier, plan.to.is_ipv6()) {
        (Carrier::Udp, false) => 28,
        (Carrier::Udp, true) => 48,
        (Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse, _) => 0,
    }
}

impl FlowEvidence {
    pub(super) fn new(plan: FlowPlanned) -> Self {
        let traffic = Traffic::new(plan.at, headers(&plan));
        Self {
            plan,
            attempts: Vec::new(),
            more_attempts: 0,
            opened: None,
            channel: None,
            rewrites: Rewrites::default(),
            datagrams: None,
            tcp: None,
            stream_end: None,
            ended: None,
            traffic,
        }
    }

    pub(super) fn attempt(&mut self, attempt: &Attempt) {
        if self.attempts.len() < MAX_ATTEMPTS {
            self.attempts.push(attempt.clone());
        } else {
            self.more_attempts += 1;
        }
    }

    pub(super) fn open(&mut self, opened: &FlowOpened) {
        self.opened.get_or_insert_with(|| opened.clone());
    }

    pub(super) fn answered_late(&mut self, late: &AnsweredLate) {
        if let Some(handshake) = self.opened.as_mut().and_then(|opened| opened.handshake.as_mut()) {
            handshake.unanswered_first =
                handshake.unanswered_first.map(|first| first.min(late.unanswered_first));
        }
    }

    /// The attempt that opened it.
    pub fn opening_attempt(&self) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.outcome == Outcome::Opened)
    }
}

impl Rewrites {
    pub(super) fn note(&mut self, o: &Rewritten) {
        self.count += 1;
        self.up += u64::from(o.up == Some(true));
        self.down += u64::from(o.up == Some(false));
        if let Some(offset) = o.offset
            && (self.offsets.len() < MAX_OFFSETS || self.offsets.contains_key(&offset))
        {
            *self.offsets.entry(offset).or_default() += 1;
        }
    }
}
