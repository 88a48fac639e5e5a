//! What really became of each probe, known packet by packet: what the ends believe is checked against it.
//!
//! A datagram is known by a hash of its first 64 bytes, which hold its integrity tag: a copy made on the way is the
//! same datagram, and so is one that was altered further back, which a hash of the whole tells. One whose first bytes
//! were altered is lost.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use probe_analysis::observation::{Excluded, Fate, FlowNo, Probe};
use probe_protocol::time::Timestamp;

use crate::hash::{self, Map};

/// For so long after its sending a datagram is still recognised.
const RECOGNISED: Duration = Duration::from_secs(300);
/// Bytes that name a datagram.
const NAME: usize = 64;

/// What became of one probe over UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// How often it reached the listener, as it was sent.
    pub up: u8,
    /// How often it reached the listener altered.
    pub up_altered: u8,
    /// How often the listener replied to it.
    pub replied: u8,
    /// Of its replies, how many are echoes: the others say that the flow is not known.
    pub echoed: u8,
    /// How many replies, copies included, reached the client as they were sent.
    pub down: u8,
    /// How many of those were echoes.
    pub echoed_down: u8,
    /// How many replies reached the client altered.
    pub down_altered: u8,
    /// The listener was asked for a reply at another time, which is not followed.
    pub deferred: bool,
}

impl Way {
    /// Whether what is believed of the probe cannot be so.
    pub fn contradicts(&self, probe: &Probe) -> bool {
        if self.deferred {
            return probe.fate == Fate::LostUp && self.up > 0;
        }
        let wrong_fate = match probe.fate {
            Fate::Received => self.echoed_down + self.down_altered == 0,
            Fate::LostUp => self.up > 0,
            Fate::LostDown => self.up + self.up_altered == 0 || self.echoed_down > 0,
            Fate::LostUnknown => self.echoed_down > 0,
            Fate::Excluded(Excluded::SendFailed) => self.up > 0,
            Fate::Excluded(_) => false,
        };
        let received = probe.fate == Fate::Received;
        let replies = u32::from(probe.extra_replies) + 1;
        let (least, most) =
            (u32::from(self.echoed_down), u32::from(self.echoed_down) + u32::from(self.down_altered));
        wrong_fate || probe.reply.is_some() != received || (received && !(least..=most).contains(&replies))
    }
}

#[derive(Clone, Copy, Debug)]
struct Known {
    flow: FlowNo,
    seq: u64,
    echo: bool,
    whole: u64,
}

/// What became of every probe over UDP.
#[derive(Debug, Default)]
pub struct Truth {
    flows: BTreeMap<FlowNo, (u64, Vec<Way>)>,
    closed: bool,
    up: Names,
    down: Names,
    /// Packets that one of the hosts' own kernels threw away: a checksum was wrong, nobody listened, the host slept.
    pub refused_by_hosts: u64,
    /// Datagrams of QUIC connections that left the client, and that reached the listener.
    pub quic_up: (u64, u64),
    /// Datagrams of QUIC connections that left the listener, and that reached the client.
    pub quic_down: (u64, u64),
}

#[derive(Debug, Default)]
struct Names {
    known: Map<u64, Known>,
    order: VecDeque<(Timestamp, u64)>,
}

impl Names {
    fn keep(&mut self, now: Timestamp, datagram: &[u8], known: Known) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) > RECOGNISED) {
            if let Some((_, name)) = self.order.pop_front() {
                self.known.remove(&name);
            }
        }
        let name = name(datagram);
        self.known.insert(name, known);
        self.order.push_back((now, name));
    }

    /// The datagram, and whether it is as it was sent.
    fn find(&self, datagram: &[u8]) -> Option<(Known, bool)> {
        let known = self.known.get(&name(datagram)).copied()?;
        Some((known, known.whole == hash::bytes(datagram)))
    }
}

fn name(datagram: &[u8]) -> u64 {
    hash::bytes(&datagram[..datagram.len().min(NAME)])
}

impl Truth {
    /// Of no probe, where it is not to be kept.
    pub(super) fn new(kept: bool) -> Self {
        Self { closed: !kept, ..Self::default() }
    }

    /// The client sends a probe.
    pub(super) fn sent(&mut self, now: Timestamp, flow: FlowNo, seq: u64, datagram: &[u8]) {
        if self.closed {
            return;
        }
        let (first, ways) = self.flows.entry(flow).or_insert((seq, Vec::new()));
        let at = seq.saturating_sub(*first) as usize;
        if ways.len() <= at {
            ways.resize(at + 1, Way::default());
        }
        self.up.keep(now, datagram, Known { flow, seq, echo: false, whole: hash::bytes(datagram) });
    }

    /// The run is settled: what arrives from now on, nobody waits for.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    fn way(&mut self, known: Known) -> Option<&mut Way> {
        if self.closed {
            return None;
        }
        let (first, ways) = self.flows.get_mut(&known.flow)?;
        ways.get_mut(known.seq.checked_sub(*first)? as usize)
    }

    /// A datagram reached the listener; answers with what identifies the probe, where it is one.
    pub(super) fn reached_listener(&mut self, datagram: &[u8]) -> Option<(FlowNo, u64)> {
        let (known, intact) = self.up.find(datagram)?;
        if let Some(way) = self.way(known) {
            let count = if intact { &mut way.up } else { &mut way.up_altered };
            *count = count.saturating_add(1);
        }
        Some((known.flow, known.seq))
    }

    /// The listener replies to a probe.
    pub(super) fn replied(&mut self, now: Timestamp, probe: (FlowNo, u64), echo: bool, datagram: &[u8]) {
        let known = Known { flow: probe.0, seq: probe.1, echo, whole: hash::bytes(datagram) };
        if let Some(way) = self.way(known) {
            way.replied = way.replied.saturating_add(1);
            way.echoed = way.echoed.saturating_add(u8::from(echo));
        }
        self.down.keep(now, datagram, known);
    }

    /// The listener will reply to a probe later, or never.
    pub(super) fn deferred(&mut self, probe: (FlowNo, u64)) {
        let known = Known { flow: probe.0, seq: probe.1, echo: false, whole: 0 };
        if let Some(way) = self.way(known) {
            way.deferred = true;
        }
    }

    /// A datagram reached the client.
    pub(super) fn reached_client(&mut self, datagram: &[u8]) {
        let Some((known, intact)) = self.down.find(datagram) else { return };
        let Some(way) = self.way(known) else { return };
        if intact {
            way.down = way.down.saturating_add(1);
            way.echoed_down = way.echoed_down.saturating_add(u8::from(known.echo));
        } else {
            way.down_altered = way.down_altered.saturating_add(1);
        }
    }

    /// What became of a probe; none where it was never sent.
    pub fn of(&self, flow: FlowNo, seq: u64) -> Option<Way> {
        let (first, ways) = self.flows.get(&flow)?;
        ways.get(seq.checked_sub(*first)? as usize).copied()
    }

    /// What the ends believe of probes over UDP, against what really became of them: every contradiction, in words,
    /// at most `most` of them, and how many there are.
    pub fn contradictions<'a>(
        &self,
        believed: impl IntoIterator<Item = &'a Probe>,
        most: usize,
    ) -> (Vec<String>, usize) {
        let mut fates: Map<(FlowNo, u64), &Probe> = Map::default();
        let (mut said, mut count) = (Vec::new(), 0);
        let mut say = |what: String| {
            count += 1;
            if said.len() < most {
                said.push(what);
            }
        };
        for probe in believed {
            if let Some(other) = fates.insert((probe.flow, probe.seq), probe) {
                say(format!("settled twice: {other:?} and {probe:?}"));
            }
        }
        for (flow, seq, way) in self.probes() {
            match fates.get(&(flow, seq)) {
                None => say(format!("{flow:?} {seq} has no fate, and really {way:?}")),
                Some(probe) if way.contradicts(probe) => say(format!("{probe:?} but really {way:?}")),
                Some(_) => {}
            }
        }
        (said, count)
    }

    /// Every probe that left the client: flow and number.
    pub fn probes(&self) -> impl Iterator<Item = (FlowNo, u64, Way)> {
        self.flows
            .iter()
            .flat_map(|(flow, (first, ways))| (*first..).zip(ways).map(|(seq, way)| (*flow, seq, *way)))
    }
}
