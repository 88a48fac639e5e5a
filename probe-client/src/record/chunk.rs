//! Many probes in few bytes: one chunk of columns.
//!
//! ```text
//! version 2 · step (nanoseconds) · number of probes · number of flows
//! per flow: its number, its probes, of its first probe: sequence number, time due; of its schedule: least, unit
//! trend of the listener's clock: moment, offset there, gain (2^-32)
//! columns: order, seq, due, rest, late, size, fate, up, down, gap, stay, marks
//! CRC-32 (IEEE) of all that precedes, 4 bytes, little-endian
//! ```
//!
//! Numbers outside of columns are LEB128. Columns stand flow by flow, in each the probes in their order; the last five hold
//! answered probes alone. Times are in steps.
//!
//! | Column | holds |
//! | --- | --- |
//! | order | of the flows' next probes, sorted by when their fates are told as a rule: which one comes next |
//! | seq | sequence number minus the one before, minus one |
//! | due | when it was due, minus the same of the one before, minus the schedule's least, in its units |
//! | rest | what that division leaves: nothing, but for slots that were missed |
//! | late | when it was sent minus when it was due |
//! | size | bytes |
//! | fate | fate, and replies beyond the first times 16 |
//! | up | arrival at the listener minus sending, minus the trend |
//! | down | return minus departure from the listener, plus the trend; return is the kernel's time where there is one |
//! | gap | the program's time minus the kernel's, of those with the kernel's |
//! | stay | time at the listener |
//! | marks | flags, TTLs and TOS bytes, a byte each, minus those of the probe before |
//!
//! A schedule that is jittered in steps costs its steps alone, whatever the flow's interval. Version 1 had neither least nor
//! unit (0 and 1) nor the rest.
//!
//! So noise is stored once: the round trip is up plus down, and a clock that drifts costs nothing. A probe is given back
//! as it was, to the nanosecond where the step is one.

use std::collections::BTreeMap;
use std::time::Duration;

use probe_analysis::observation::{Excluded, Fate, FlowNo, Probe, ProbeReply};
use probe_protocol::time::Timestamp;
use thiserror::Error;

use super::column::{read, signed, take_length, take_signed, take_unsigned, unsigned, write};

/// Version of this layout.
const VERSION: u64 = 2;
/// Probes in a chunk at most, and so the memory that reading one takes.
pub(super) const MAX_PROBES: usize = 1 << 18;

/// Why a chunk cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ChunkError {
    /// It ends too early.
    #[error("it ends too early")]
    Short,
    /// Its checksum is another.
    #[error("its checksum does not fit")]
    Checksum,
    /// Its layout is of a later version.
    #[error("its layout is version {0}")]
    Version(u64),
    /// Its counts contradict each other.
    #[error("its counts contradict each other")]
    Count,
    /// The codec refuses it.
    #[error("{0}")]
    Codec(String),
}

/// The probes as columns.
#[derive(Default)]
struct Columns {
    order: Vec<u32>,
    seq: Vec<i64>,
    due: Vec<u64>,
    rest: Vec<u64>,
    late: Vec<i64>,
    size: Vec<u32>,
    fate: Vec<u32>,
    up: Vec<i64>,
    down: Vec<i64>,
    gap: Vec<i64>,
    stay: Vec<u64>,
    marks: Vec<u64>,
}

/// One flow's part of a chunk.
struct Head {
    flow: FlowNo,
    count: usize,
    seq: u64,
    due: u64,
    grid: Grid,
}

/// What the times between a flow's probes are made of: a least, and so many units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Grid {
    least: u64,
    unit: u64,
}

impl Grid {
    const NONE: Self = Self { least: 0, unit: 1 };

    /// Of a flow's probes. Times far from the median are of missed slots, and fit where they may.
    fn of(probes: &[&Probe], step: u64) -> Self {
        let between = |pair: &[&Probe]| (pair[1].scheduled.0 / step).wrapping_sub(pair[0].scheduled.0 / step);
        let mut times: Vec<u64> = probes.windows(2).map(between).collect();
        times.sort_unstable();
        let Some(median) = times.get(times.len() / 2).copied() else { return Self::NONE };
        let usual = || times.iter().copied().filter(|t| *t >= median / 2 && *t <= median.saturating_mul(2));
        let least = usual().min().unwrap_or(0);
        let unit = usual().fold(0, |unit, time| gcd(unit, time - least));
        Self { least, unit: unit.max(1) }
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// A line through the listener's clock as the client sees it, in steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Trend {
    at: u64,
    offset: i64,
    gain: i64,
}

impl Trend {
    /// Through the smallest differences at both ends of the chunk, which queueing disturbs least.
    fn of(probes: &[Probe], step: u64) -> Self {
        let mut readings: Vec<(u64, i64)> = probes
            .iter()
            .filter_map(|probe| Some((probe, probe.reply?)))
            .map(|(probe, reply)| {
                (probe.sent.0 / step, diff(reply.listener_arrived.0 / step, probe.sent.0 / step))
            })
            .collect();
        readings.sort_unstable();
        let eighth = readings.len().div_ceil(8);
        let smallest = |part: &[(u64, i64)]| part.iter().min_by_key(|(_, offset)| *offset).copied();
        let (Some(first), Some(last)) =
            (smallest(&readings[..eighth]), smallest(&readings[readings.len() - eighth..]))
        else {
            return Self::default();
        };
        let span = last.0.saturating_sub(first.0);
        let rise = i128::from(last.1.wrapping_sub(first.1)) << 32;
        let gain = if span == 0 { 0 } else { i64::try_from(rise / i128::from(span)).unwrap_or(0) };
        Self { at: first.0, offset: first.1, gain }
    }

    fn offset_at(self, sent: u64) -> i64 {
        let rise = (i128::from(diff(sent, self.at)) * i128::from(self.gain)) >> 32;
        self.offset.wrapping_add(rise as i64)
    }
}

/// Puts probes, in their order, into one chunk. Their times are multiples of `step` nanoseconds.
pub(super) fn encode(probes: &[Probe], step: u64) -> Result<Vec<u8>, ChunkError> {
    if probes.len() > MAX_PROBES || step == 0 {
        return Err(ChunkError::Count);
    }
    let mut by_flow: BTreeMap<FlowNo, Vec<&Probe>> = BTreeMap::new();
    probes.iter().for_each(|probe| by_flow.entry(probe.flow).or_default().push(probe));
    let trend = Trend::of(probes, step);
    let mut columns = Columns::default();
    let mut out = Vec::with_capacity(1024 + probes.len() * 4);
    for number in [VERSION, step, probes.len() as u64, by_flow.len() as u64] {
        unsigned(number, &mut out);
    }
    for (flow, probes) in &by_flow {
        let Some(first) = probes.first() else { continue };
        let (grid, due) = (Grid::of(probes, step), first.scheduled.0 / step);
        for number in [u64::from(flow.0), probes.len() as u64, first.seq, due, grid.least, grid.unit] {
            unsigned(number, &mut out);
        }
        let mut before = (first.seq.wrapping_sub(1), due.wrapping_sub(grid.least));
        for probe in probes {
            before = columns.push(probe, step, trend, grid, before);
        }
    }
    unsigned(trend.at, &mut out);
    signed(trend.offset, &mut out);
    signed(trend.gain, &mut out);
    columns.order = order(probes, &by_flow);
    columns.write(&mut out)?;
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    Ok(out)
}

/// Takes the probes out of a chunk, in their order.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Probe>, ChunkError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(ChunkError::Short)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(ChunkError::Checksum);
    }
    let rest = &mut &*body;
    let version = take_unsigned(rest)?;
    if !(1..=VERSION).contains(&version) {
        return Err(ChunkError::Version(version));
    }
    let has_grid = version > 1;
    let step = take_unsigned(rest)?.max(1);
    let (count, flows) = (take_length(rest)?, take_length(rest)?);
    if count > MAX_PROBES || flows > count {
        return Err(ChunkError::Count);
    }
    let mut heads = Vec::with_capacity(flows);
    for _ in 0..flows {
        heads.push(Head {
            flow: FlowNo(u32::try_from(take_unsigned(rest)?).map_err(|_| ChunkError::Count)?),
            count: take_length(rest)?,
            seq: take_unsigned(rest)?,
            due: take_unsigned(rest)?,
            grid: if has_grid {
                Grid { least: take_unsigned(rest)?, unit: take_unsigned(rest)?.max(1) }
            } else {
                Grid::NONE
            },
        });
    }
    if heads.iter().try_fold(0usize, |sum, head| sum.checked_add(head.count)) != Some(count) {
        return Err(ChunkError::Count);
    }
    let trend = Trend { at: take_unsigned(rest)?, offset: take_signed(rest)?, gain: take_signed(rest)? };
    let columns = Columns::read(rest, count, has_grid)?;
    let by_flow = columns.probes(&heads, step, trend)?;
    merge(&by_flow, &heads, &columns.order)
}

impl Columns {
    /// Appends one probe; answers what its successor is told from.
    fn push(&mut self, probe: &Probe, step: u64, trend: Trend, grid: Grid, before: (u64, u64)) -> (u64, u64) {
        let (due, sent) = (probe.scheduled.0 / step, probe.sent.0 / step);
        self.seq.push(diff(probe.seq, before.0).wrapping_sub(1));
        let over = due.wrapping_sub(before.1).wrapping_sub(grid.least);
        self.due.push(over / grid.unit);
        self.rest.push(over % grid.unit);
        self.late.push(diff(sent, due));
        self.size.push(u32::from(probe.size));
        let fate = u32::from(fate_code(probe.fate)) | u32::from(probe.extra_replies) << 5;
        self.fate.push(fate | u32::from(probe.reply.is_some()) << 4);
        if let Some(reply) = &probe.reply {
            self.reply(reply, step, sent, trend.offset_at(sent));
        }
        (probe.seq, due)
    }

    fn reply(&mut self, reply: &ProbeReply, step: u64, sent: u64, offset: i64) {
        let arrived = reply.listener_arrived.0 / step;
        let stay = u64::try_from(reply.dwell.as_nanos()).unwrap_or(u64::MAX) / step;
        let at = reply.at.0 / step;
        let back = reply.kernel.map_or(at, |kernel| kernel.0 / step);
        self.up.push(diff(arrived, sent).wrapping_sub(offset));
        self.down.push(diff(back, arrived.wrapping_add(stay)).wrapping_add(offset));
        if reply.kernel.is_some() {
            self.gap.push(diff(at, back));
        }
        self.stay.push(stay);
        self.marks.push(marks(reply));
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), ChunkError> {
        write(&self.order, out)?;
        write(&self.seq, out)?;
        write(&self.due, out)?;
        write(&self.rest, out)?;
        write(&self.late, out)?;
        write(&self.size, out)?;
        write(&self.fate, out)?;
        write(&self.up, out)?;
        write(&self.down, out)?;
        write(&self.gap, out)?;
        write(&self.stay, out)?;
        let before = std::iter::once(&0).chain(&self.marks);
        write(
            &self
                .marks
                .iter()
                .zip(before)
                .map(|(marks, before)| marks.wrapping_sub(*before))
                .collect::<Vec<_>>(),
            out,
        )
    }

    fn read(bytes: &mut &[u8], count: usize, has_grid: bool) -> Result<Self, ChunkError> {
        let mut columns = Self {
            order: read(bytes, count)?,
            seq: read(bytes, count)?,
            due: read(bytes, count)?,
            rest: if has_grid { read(bytes, count)? } else { vec![0; count] },
            late: read(bytes, count)?,
            size: read(bytes, count)?,
            fate: read(bytes, count)?,
            ..Self::default()
        };
        let answered = columns.fate.iter().filter(|fate| **fate & 0x10 != 0).count();
        columns.up = read(bytes, answered)?;
        columns.down = read(bytes, answered)?;
        // How many have the kernel's time is told by the marks, which follow.
        let gap = take_length(bytes)?;
        let (gap, rest) = bytes.split_at_checked(gap).ok_or(ChunkError::Short)?;
        *bytes = rest;
        columns.stay = read(bytes, answered)?;
        columns.marks = read(bytes, answered)?;
        columns.marks.iter_mut().fold(0u64, |before, marks| {
            *marks = marks.wrapping_add(before);
            *marks
        });
        let timed = columns.marks.iter().filter(|marks| *marks & KERNEL != 0).count();
        let mut framed = Vec::with_capacity(gap.len() + 9);
        unsigned(gap.len() as u64, &mut framed);
        framed.extend_from_slice(gap);
        columns.gap = read(&mut &*framed, timed)?;
        if bytes.is_empty() { Ok(columns) } else { Err(ChunkError::Count) }
    }

    /// The probes, flow by flow.
    fn probes(&self, heads: &[Head], step: u64, trend: Trend) -> Result<Vec<Probe>, ChunkError> {
        let mut out = Vec::with_capacity(self.seq.len());
        let mut replies = self.up.iter().zip(&self.down).zip(self.stay.iter().zip(&self.marks));
        let mut gaps = self.gap.iter();
        let stamp = |steps: u64| Timestamp(steps.wrapping_mul(step));
        for head in heads {
            let Grid { least, unit } = head.grid;
            let (mut seq, mut due) = (head.seq.wrapping_sub(1), head.due.wrapping_sub(least));
            for _ in 0..head.count {
                let at = out.len();
                seq = seq.wrapping_add(1).wrapping_add_signed(self.seq[at]);
                let over = self.due[at].wrapping_mul(unit).wrapping_add(self.rest[at]);
                due = due.wrapping_add(least).wrapping_add(over);
                let sent = due.wrapping_add_signed(self.late[at]);
                let fate = self.fate[at];
                let reply = if fate & 0x10 == 0 {
                    None
                } else {
                    let ((up, down), (stay, marks)) = replies.next().ok_or(ChunkError::Count)?;
                    let offset = trend.offset_at(sent);
                    let arrived = sent.wrapping_add_signed(offset.wrapping_add(*up));
                    let back = arrived.wrapping_add(*stay).wrapping_add_signed(down.wrapping_sub(offset));
                    let kernel = marks & KERNEL != 0;
                    let gap = if kernel { *gaps.next().ok_or(ChunkError::Count)? } else { 0 };
                    let times = ReplyTimes {
                        at: stamp(back.wrapping_add_signed(gap)),
                        kernel: kernel.then(|| stamp(back)),
                        arrived: stamp(arrived),
                        stay: Duration::from_nanos(stay.wrapping_mul(step)),
                    };
                    Some(reply(&times, *marks))
                };
                out.push(Probe {
                    flow: head.flow,
                    seq,
                    scheduled: stamp(due),
                    sent: stamp(sent),
                    size: u16::try_from(self.size[at]).map_err(|_| ChunkError::Count)?,
                    fate: fate_of(fate & 0x0f)?,
                    reply,
                    extra_replies: u16::try_from(fate >> 5).map_err(|_| ChunkError::Count)?,
                });
            }
        }
        Ok(out)
    }
}

/// `a - b` of two numbers that may be far apart.
fn diff(a: u64, b: u64) -> i64 {
    a.wrapping_sub(b).cast_signed()
}

/// The flows' next probes by when their fates are told as a rule, then by flow.
struct Next(Vec<(Timestamp, usize)>);

impl Next {
    fn insert(&mut self, told: Timestamp, flow: usize) {
        let place = self.0.partition_point(|other| *other < (told, flow));
        self.0.insert(place, (told, flow));
    }
}

/// When the fates of one flow's probes are told, as a rule: with the flow's next probe after three seconds. Any rule
/// would do; one that is mostly right makes the column of the order nearly empty.
fn told(sent: &[Timestamp]) -> Vec<Timestamp> {
    const SETTLED: Duration = Duration::from_secs(3);
    let mut next = 0;
    sent.iter()
        .enumerate()
        .map(|(at, own)| {
            let due = *own + SETTLED;
            next = next.max(at);
            while sent.get(next).is_some_and(|later| *later < due) {
                next += 1;
            }
            sent.get(next).copied().unwrap_or(due)
        })
        .collect()
}

/// For each probe, which of the flows' next ones it is.
fn order(probes: &[Probe], by_flow: &BTreeMap<FlowNo, Vec<&Probe>>) -> Vec<u32> {
    let places: BTreeMap<FlowNo, usize> = by_flow.keys().enumerate().map(|(at, flow)| (*flow, at)).collect();
    let of_flow = |probes: &Vec<&Probe>| told(&probes.iter().map(|probe| probe.sent).collect::<Vec<_>>());
    let flows: Vec<Vec<Timestamp>> = by_flow.values().map(of_flow).collect();
    let mut taken = vec![0usize; flows.len()];
    let mut next = Next(Vec::with_capacity(flows.len()));
    for (at, told) in flows.iter().enumerate() {
        if let Some(first) = told.first() {
            next.insert(*first, at);
        }
    }
    let mut order = Vec::with_capacity(probes.len());
    for probe in probes {
        let flow = places.get(&probe.flow).copied().unwrap_or_default();
        let rank = next.0.iter().position(|(_, at)| *at == flow).unwrap_or_default();
        order.push(rank as u32);
        next.0.remove(rank);
        taken[flow] += 1;
        if let Some(following) = flows[flow].get(taken[flow]) {
            next.insert(*following, flow);
        }
    }
    order
}

/// Brings probes that stand flow by flow into the order that `order` tells.
fn merge(by_flow: &[Probe], heads: &[Head], order: &[u32]) -> Result<Vec<Probe>, ChunkError> {
    let mut ranges = Vec::with_capacity(heads.len());
    let mut start = 0;
    for head in heads {
        ranges.push(start..start + head.count);
        start += head.count;
    }
    let sent: Vec<Timestamp> = by_flow.iter().map(|probe| probe.sent).collect();
    let told: Vec<Timestamp> = ranges.iter().flat_map(|range| told(&sent[range.clone()])).collect();
    let mut next = Next(Vec::with_capacity(heads.len()));
    for (at, range) in ranges.iter().enumerate() {
        if !range.is_empty() {
            next.insert(told[range.start], at);
        }
    }
    let mut out = Vec::with_capacity(order.len());
    for rank in order {
        let rank = *rank as usize;
        if rank >= next.0.len() {
            return Err(ChunkError::Count);
        }
        let (_, flow) = next.0.remove(rank);
        let Some(at) = ranges[flow].next() else { return Err(ChunkError::Count) };
        out.push(by_flow[at]);
        if !ranges[flow].is_empty() {
            next.insert(told[ranges[flow].start], flow);
        }
    }
    Ok(out)
}

const KERNEL: u64 = 1;
const LISTENER_KERNEL: u64 = 1 << 1;
const REORDERED: u64 = 1 << 2;
const DUPLICATED_UP: u64 = 1 << 3;
const HAS_TTL_UP: u64 = 1 << 4;
const HAS_TTL_DOWN: u64 = 1 << 5;
const HAS_TOS_UP: u64 = 1 << 6;
const HAS_TOS_DOWN: u64 = 1 << 7;

fn marks(reply: &ProbeReply) -> u64 {
    let flag = |is: bool, bit: u64| if is { bit } else { 0 };
    let byte = |value: u8, place: u32| u64::from(value) << (8 * place);
    flag(reply.kernel.is_some(), KERNEL)
        | flag(reply.listener_kernel, LISTENER_KERNEL)
        | flag(reply.reordered, REORDERED)
        | flag(reply.duplicated_up, DUPLICATED_UP)
        | flag(reply.ttl_up.is_some(), HAS_TTL_UP)
        | flag(reply.ttl_down.is_some(), HAS_TTL_DOWN)
        | flag(reply.tos_up.is_some(), HAS_TOS_UP)
        | flag(reply.tos_down.is_some(), HAS_TOS_DOWN)
        | byte(reply.ttl_up.unwrap_or(0), 1)
        | byte(reply.ttl_down.unwrap_or(0), 2)
        | byte(reply.tos_sent, 3)
        | byte(reply.tos_up.unwrap_or(0), 4)
        | byte(reply.tos_asked, 5)
        | byte(reply.tos_down.unwrap_or(0), 6)
}

/// The times of a reply, read back.
struct ReplyTimes {
    at: Timestamp,
    kernel: Option<Timestamp>,
    arrived: Timestamp,
    stay: Duration,
}

fn reply(times: &ReplyTimes, marks: u64) -> ProbeReply {
    let byte = |place: u32| (marks >> (8 * place)) as u8;
    let maybe = |bit: u64, place: u32| (marks & bit != 0).then(|| byte(place));
    ProbeReply {
        at: times.at,
        kernel: times.kernel,
        listener_arrived: times.arrived,
        listener_kernel: marks & LISTENER_KERNEL != 0,
        dwell: times.stay,
        reordered: marks & REORDERED != 0,
        duplicated_up: marks & DUPLICATED_UP != 0,
        ttl_up: maybe(HAS_TTL_UP, 1),
        ttl_down: maybe(HAS_TTL_DOWN, 2),
        tos_sent: byte(3),
        tos_up: maybe(HAS_TOS_UP, 4),
        tos_asked: byte(5),
        tos_down: maybe(HAS_TOS_DOWN, 6),
    }
}

/// The codes of fates, in files forever.
const FATES: [Fate; 11] = [
    Fate::Received,
    Fate::LostUp,
    Fate::LostDown,
    Fate::LostUnknown,
    Fate::Excluded(Excluded::SendFailed),
    Fate::Excluded(Excluded::Suspended),
    Fate::Excluded(Excluded::ReceiveOverflow),
    Fate::Excluded(Excluded::ListenerOverflow),
    Fate::Excluded(Excluded::RunEnded),
    Fate::Excluded(Excluded::InterfaceChanged),
    Fate::Excluded(Excluded::Experiment),
];

fn fate_code(fate: Fate) -> u8 {
    match fate {
        Fate::Received => 0,
        Fate::LostUp => 1,
        Fate::LostDown => 2,
        Fate::LostUnknown => 3,
        Fate::Excluded(Excluded::SendFailed) => 4,
        Fate::Excluded(Excluded::Suspended) => 5,
        Fate::Excluded(Excluded::ReceiveOverflow) => 6,
        Fate::Excluded(Excluded::ListenerOverflow) => 7,
        Fate::Excluded(Excluded::RunEnded) => 8,
        Fate::Excluded(Excluded::InterfaceChanged) => 9,
        Fate::Excluded(Excluded::Experiment) => 10,
    }
}

fn fate_of(code: u32) -> Result<Fate, ChunkError> {
    FATES.get(code as usize).copied().ok_or(ChunkError::Count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_reply() -> impl Strategy<Value = ProbeReply> {
        let times = (any::<u64>(), any::<Option<u64>>(), any::<u64>(), any::<u64>());
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        let marks = (any::<[Option<u8>; 4]>(), any::<[u8; 2]>());
        (times, flags, marks).prop_map(|(times, flags, (optional, sent))| ProbeReply {
            at: Timestamp(times.0),
            kernel: times.1.map(Timestamp),
            listener_arrived: Timestamp(times.2),
            dwell: Duration::from_nanos(times.3),
            listener_kernel: flags.0,
            reordered: flags.1,
            duplicated_up: flags.2,
            ttl_up: optional[0],
            ttl_down: optional[1],
            tos_sent: sent[0],
            tos_up: optional[2],
            tos_asked: sent[1],
            tos_down: optional[3],
        })
    }

    fn any_probe() -> impl Strategy<Value = Probe> {
        let rest = (any::<u16>(), any::<u16>(), 0usize..FATES.len(), proptest::option::of(any_reply()));
        (0u32..6, any::<u64>(), any::<u64>(), any::<u64>(), rest).prop_map(
            |(flow, seq, due, sent, (size, extra, fate, reply))| Probe {
                flow: FlowNo(flow * 700_000_000),
                seq,
                scheduled: Timestamp(due),
                sent: Timestamp(sent),
                size,
                fate: FATES[fate],
                reply,
                extra_replies: extra,
            },
        )
    }

    proptest! {
        #[test]
        fn any_probes_come_back_as_they_were_and_in_their_order(
            probes in proptest::collection::vec(any_probe(), 0..300),
        ) {
            let bytes = encode(&probes, 1).unwrap();
            prop_assert_eq!(decode(&bytes).unwrap(), probes);
        }

        #[test]
        fn a_damaged_chunk_is_an_error_and_never_wrong_probes(
            probes in proptest::collection::vec(any_probe(), 1..40),
            at in any::<proptest::sample::Index>(), flip in 1u8..,
            cut in any::<proptest::sample::Index>(),
        ) {
            let whole = encode(&probes, 1).unwrap();
            let mut damaged = whole.clone();
            let place = at.index(damaged.len());
            damaged[place] ^= flip;
            prop_assert!(decode(&damaged).is_err());
            prop_assert!(decode(&whole[..cut.index(whole.len())]).is_err());
        }

        #[test]
        fn bytes_with_a_fitting_checksum_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() { *first = VERSION as u8 }
            let crc = crc32fast::hash(&bytes);
            bytes.extend_from_slice(&crc.to_le_bytes());
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn a_schedule_in_steps_costs_its_steps_whatever_the_interval() {
        let probe = |flow: u32, seq: u64, at: u64| Probe {
            flow: FlowNo(flow),
            seq,
            scheduled: Timestamp(at),
            sent: Timestamp(at),
            size: 88,
            fate: Fate::LostUp,
            reply: None,
            extra_replies: 0,
        };
        let mut probes = Vec::new();
        for flow in 0..40u32 {
            let (least, unit) =
                (250_000_000 + u64::from(flow) * 1_234_567_000, 5_000_000 + u64::from(flow) * 77_000);
            let mut at = u64::from(flow) * 1_000_000;
            for seq in 0..200u64 {
                probes.push(probe(flow, seq, at));
                // Once a slot is missed.
                at += least
                    + unit * ((seq * 7919 + u64::from(flow)) % 16)
                    + if seq == 99 { least + 3_333_333_000 } else { 0 };
            }
        }
        probes.sort_by_key(|probe| (probe.sent, probe.flow));
        let bytes = encode(&probes, 1000).unwrap();
        assert_eq!(decode(&bytes).unwrap(), probes);
        // Four bits of jitter and what says who comes next; heads and missed slots beside.
        assert!(bytes.len() < probes.len() * 2, "{} bytes for {} probes", bytes.len(), probes.len());
    }

    #[test]
    fn codes_of_fates_stand_for_themselves() {
        for (code, fate) in FATES.into_iter().enumerate() {
            assert_eq!(usize::from(fate_code(fate)), code);
        }
    }
}
