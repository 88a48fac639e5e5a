//! A whole trace, row by row, in bounded memory: what limits it, what it loses, and what of that has a cause.
//!
//! Rows are gathered into segments of [`SEGMENT`] rows. Each is judged by direction and class (all, by transport, by
//! flow) and forgotten; what stays are the judgements, counts over time in a fixed number of blocks, and a bounded list of
//! silences. A trace of any length takes less than 64 MB.

mod analysis;
mod findings;
mod limits;
mod losses;
mod segment;
mod silences;

use std::collections::BTreeMap;

use probe_protocol::finding::{Direction, Finding};

pub use self::silences::{Silence, Silences};
use crate::stats::reordering::Reordering;

/// Rows of a segment.
pub const SEGMENT: usize = 131_072;
/// Flows that are counted by name; those of further ones are counted together.
pub const MAX_FLOWS: usize = 1024;
/// Flows whose order is watched, in each direction.
const ORDERED_FLOWS: usize = 64;
/// Verdicts kept; further ones are counted and dropped.
const MAX_VERDICTS: usize = 4096;

/// What a row's packet belonged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP, QUIC included.
    Udp,
}

/// One row of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// When it was sent, microseconds; any zero.
    pub sent_us: f64,
    /// Its length, bytes.
    pub bytes: u32,
    /// When it arrived, microseconds on the receiver's clock; none: it was lost.
    pub arrived_us: Option<f64>,
    /// Number of its flow.
    pub flow: u32,
    /// Which way, where the trace says.
    pub direction: Option<Direction>,
    /// Its transport, where the trace says.
    pub transport: Option<Transport>,
}

/// One packet within a segment, times in seconds after the trace's first.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: f64,
    delay: Option<f64>,
    bytes: f64,
    flow: u32,
    transport: Option<Transport>,
}

/// Counts of one flow in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FlowCounts {
    /// Packets sent.
    pub sent: u64,
    /// Of those, lost.
    pub lost: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// The longest packet, bytes.
    pub longest: u32,
    /// Seconds after the trace's start at which the first was sent.
    pub from_s: f64,
    /// Seconds after the trace's start at which the last was sent.
    pub to_s: f64,
    /// Its transport, where the trace says.
    pub transport: Option<Transport>,
}

/// One direction of a trace.
struct Way {
    samples: Vec<Sample>,
    verdicts: Vec<segment::Verdict>,
    dropped: u64,
    silences: Silences,
    reordering: BTreeMap<u32, Reordering>,
    sent: u64,
    lost: u64,
    sequence: u64,
}

impl Way {
    fn new() -> Self {
        Self {
            samples: Vec::new(),
            verdicts: Vec::new(),
            dropped: 0,
            silences: Silences::default(),
            reordering: BTreeMap::new(),
            sent: 0,
            lost: 0,
            sequence: 0,
        }
    }

    fn judge(&mut self) {
        let mut samples = std::mem::take(&mut self.samples);
        samples.sort_by(|a, b| a.at.total_cmp(&b.at));
        let first = self.sequence;
        let mut arrivals: Vec<(f64, u64, u32)> =
            samples.iter().zip(first..).filter_map(|(s, n)| s.delay.map(|d| (s.at + d, n, s.flow))).collect();
        self.sequence += samples.len() as u64;
        // Stamps are good to a microsecond: what arrived together arrived in order.
        arrivals.sort_by(|a, b| (a.0 * 1e6).round().total_cmp(&(b.0 * 1e6).round()).then(a.1.cmp(&b.1)));
        // Order is a property of one flow: two that take different queues do not overtake one another.
        for (_, n, flow) in &arrivals {
            if self.reordering.len() < ORDERED_FLOWS || self.reordering.contains_key(flow) {
                self.reordering.entry(*flow).or_default().push(*n);
            }
        }
        for sample in &samples {
            self.silences.note(sample.at, sample.delay.is_some());
        }
        let known = self.verdicts.iter().rev().filter_map(|v| v.limited.as_ref()).find(|l| l.is_decided());
        for verdict in segment::judge(&samples, first == 0, known) {
            if self.verdicts.len() < MAX_VERDICTS {
                self.verdicts.push(verdict);
            } else {
                self.dropped += 1;
            }
        }
        samples.clear();
        self.samples = samples;
    }
}

/// Judges a trace as its rows come.
#[derive(Default)]
pub struct Analyser {
    start_us: Option<f64>,
    offset_us: Option<f64>,
    end_s: f64,
    ways: BTreeMap<Option<Direction>, Way>,
    flows: BTreeMap<(u32, Option<Direction>), FlowCounts>,
    rows: u64,
    names: Vec<String>,
}

/// What is said of a trace.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What is wrong, the most severe first.
    pub findings: Vec<Finding>,
    /// Counts by flow and direction.
    pub flows: Vec<(u32, Option<Direction>, FlowCounts)>,
    /// Silences by direction.
    pub silences: Vec<(Option<Direction>, Silence)>,
    /// Rows.
    pub rows: u64,
    /// Time from the first to the last packet sent, seconds.
    pub duration_s: f64,
    /// Packets that arrived after a later one, by direction.
    pub reordered: Vec<(Option<Direction>, u64)>,
}

impl Analyser {
    /// Gives a flow a name for the evidence; flows without one are called by number.
    pub fn name(&mut self, flow: u32, name: &str) {
        let at = flow as usize;
        if at < MAX_FLOWS {
            if self.names.len() <= at {
                self.names.resize(at + 1, String::new());
            }
            name.clone_into(&mut self.names[at]);
        }
    }

    /// Takes a row. Rows come in sending order, give or take a segment.
    pub fn push(&mut self, row: &Row) {
        let start = *self.start_us.get_or_insert(row.sent_us);
        let at = (row.sent_us - start) / 1e6;
        // Both clocks have their own zero: the first delay is the zero of delays, so that their digits stay.
        let delay = row.arrived_us.map(|arrived| {
            let whole = arrived - row.sent_us;
            (whole - *self.offset_us.get_or_insert(whole)) / 1e6
        });
        self.rows += 1;
        self.end_s = self.end_s.max(at);
        let key = (row.flow.min(MAX_FLOWS as u32), row.direction);
        let counts = self.flows.entry(key).or_insert_with(|| FlowCounts {
            from_s: at,
            transport: row.transport,
            ..FlowCounts::default()
        });
        counts.sent += 1;
        counts.lost += u64::from(delay.is_none());
        counts.bytes += u64::from(row.bytes);
        counts.longest = counts.longest.max(row.bytes);
        counts.to_s = at;
        let way = self.ways.entry(row.direction).or_insert_with(Way::new);
        way.sent += 1;
        way.lost += u64::from(delay.is_none());
        let bytes = f64::from(row.bytes);
        way.samples.push(Sample { at, delay, bytes, flow: row.flow, transport: row.transport });
        if way.samples.len() >= SEGMENT {
            way.judge();
        }
    }

    /// Judges what is left, and says everything.
    pub fn finish(mut self) -> Judged {
        for way in self.ways.values_mut() {
            way.judge();
            way.silences.close();
        }
        let findings = findings::findings(&self.ways, &|flow| self.name_of(flow));
        let silences =
            self.ways.iter().flat_map(|(d, w)| w.silences.list().iter().map(|s| (*d, *s))).collect();
        let reordered = self
            .ways
            .iter()
            .map(|(d, w)| (*d, w.reordering.values().map(Reordering::reordered).sum()))
            .collect();
        Judged {
            findings,
            flows: self.flows.iter().map(|((flow, d), counts)| (*flow, *d, *counts)).collect(),
            silences,
            rows: self.rows,
            duration_s: self.end_s,
            reordered,
        }
    }

    fn name_of(&self, flow: u32) -> String {
        match self.names.get(flow as usize) {
            Some(name) if !name.is_empty() => name.clone(),
            _ => format!("flow {flow}"),
        }
    }
}
