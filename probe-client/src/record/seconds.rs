//! Figures of each second and flow, as columns: what a chart or a quick look needs without reading every probe.
//!
//! ```text
//! version 1 · number of rows · zero second
//! columns: flow, second, sent, lost up, lost down, lost unknown, excluded, shortest, mean, longest
//! CRC-32 of all that precedes, 4 bytes, little-endian
//! ```
//!
//! A row is of the probes of one flow that were sent within one second. Flows ascend, and within a flow seconds; both
//! columns hold differences. Round trips stand as steps of a 32nd of their size. Rows of one flow and second may stand in
//! two places of a file (the chunks' edges): they add up.

use std::collections::BTreeMap;

use probe_analysis::observation::{Fate, FlowNo, Probe};

use super::chunk::ChunkError;
use super::column::{read, take_length, take_unsigned, unsigned, write};

const VERSION: u64 = 1;
const SECOND: u64 = 1_000_000_000;
/// Rows at most, and so the memory that reading takes.
const MAX_ROWS: usize = 1 << 20;
/// Steps per doubling of a round trip, as a power of two.
const SUB_BITS: u32 = 5;

/// One flow's second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// The flow's number.
    pub flow: u32,
    /// Whole seconds of the client's clock.
    pub second: u64,
    /// Probes sent, and not excluded.
    pub sent: u32,
    /// Lost on the way up.
    pub lost_up: u32,
    /// Lost on the way down.
    pub lost_down: u32,
    /// Lost, the direction unknown.
    pub lost_unknown: u32,
    /// Not counted: a host's doing.
    pub excluded: u32,
    /// Round trips as the wire saw them where kernels stamped them, else as the program did: shortest, mean and longest,
    /// nanoseconds, to a 32nd; none without an answer.
    pub rtt: Option<[u64; 3]>,
}

#[derive(Default)]
struct Sum {
    row: Second,
    answered: u64,
    total: u64,
    least: u64,
    most: u64,
}

/// Sums probes up by flow and second.
pub(super) fn sum(probes: &[Probe]) -> Vec<Second> {
    let mut sums: BTreeMap<(FlowNo, u64), Sum> = BTreeMap::new();
    for probe in probes {
        let second = probe.sent.0 / SECOND;
        let sum = sums.entry((probe.flow, second)).or_default();
        sum.row.flow = probe.flow.0;
        sum.row.second = second;
        let column = match probe.fate {
            Fate::Excluded(_) => {
                sum.row.excluded += 1;
                continue;
            }
            Fate::Received => None,
            Fate::LostUp => Some(&mut sum.row.lost_up),
            Fate::LostDown => Some(&mut sum.row.lost_down),
            Fate::LostUnknown => Some(&mut sum.row.lost_unknown),
        };
        if let Some(lost) = column {
            *lost += 1;
        }
        sum.row.sent += 1;
        if let Some(reply) = &probe.reply {
            let back = reply.kernel.unwrap_or(reply.at);
            let rtt = back.signed_since(probe.sent) - i64::try_from(reply.dwell.as_nanos()).unwrap_or(0);
            let rtt = u64::try_from(rtt).unwrap_or(0);
            sum.least = if sum.answered == 0 { rtt } else { sum.least.min(rtt) };
            sum.most = sum.most.max(rtt);
            sum.total = sum.total.saturating_add(rtt);
            sum.answered += 1;
        }
    }
    let close = |sum: Sum| {
        let mean = sum.total.checked_div(sum.answered);
        Second { rtt: mean.map(|mean| [sum.least, mean, sum.most].map(|ns| of_step(step_of(ns)))), ..sum.row }
    };
    sums.into_values().map(close).collect()
}

/// The step of a value: exact below 64, then 32 to a doubling.
fn step_of(value: u64) -> u32 {
    const EXACT: u64 = 2 << SUB_BITS;
    if value < EXACT {
        return value as u32;
    }
    let exponent = 63 - value.leading_zeros();
    let sub = (value >> (exponent - SUB_BITS)) & ((1 << SUB_BITS) - 1);
    (EXACT + u64::from(exponent - SUB_BITS - 1) * (1 << SUB_BITS) + sub) as u32
}

/// The middle of a step.
fn of_step(step: u32) -> u64 {
    const EXACT: u64 = 2 << SUB_BITS;
    let step = u64::from(step);
    if step < EXACT {
        return step;
    }
    let exponent = ((step - EXACT) / (1 << SUB_BITS) + u64::from(SUB_BITS) + 1).min(63);
    let sub = (step - EXACT) % (1 << SUB_BITS);
    let width = 1u64 << (exponent - u64::from(SUB_BITS));
    (1u64 << exponent) + sub * width + width / 2
}

/// Puts rows into columns. They are sorted by flow, then by second.
pub(super) fn encode(rows: &[Second]) -> Result<Vec<u8>, ChunkError> {
    let zero = rows.iter().map(|row| row.second).min().unwrap_or(0);
    let mut out = Vec::new();
    for number in [VERSION, rows.len() as u64, zero] {
        unsigned(number, &mut out);
    }
    let (mut flow, mut second) = (0, zero);
    let mut flows = Vec::with_capacity(rows.len());
    let mut seconds = Vec::with_capacity(rows.len());
    for row in rows {
        if row.flow != flow {
            second = zero;
        }
        flows.push(row.flow.wrapping_sub(flow));
        seconds.push(row.second.wrapping_sub(second));
        (flow, second) = (row.flow, row.second);
    }
    write(&flows, &mut out)?;
    write(&seconds, &mut out)?;
    for column in COUNTS {
        write(&rows.iter().map(|row| column.get(row)).collect::<Vec<u32>>(), &mut out)?;
    }
    for at in 0..3 {
        // Zero says that there is none.
        let steps = rows.iter().map(|row| row.rtt.map_or(0, |rtt| step_of(rtt[at]) + 1));
        write(&steps.collect::<Vec<u32>>(), &mut out)?;
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    Ok(out)
}

#[derive(Clone, Copy)]
enum Count {
    Sent,
    Up,
    Down,
    Unknown,
    Excluded,
}

const COUNTS: [Count; 5] = [Count::Sent, Count::Up, Count::Down, Count::Unknown, Count::Excluded];

impl Count {
    const fn get(self, row: &Second) -> u32 {
        match self {
            Self::Sent => row.sent,
            Self::Up => row.lost_up,
            Self::Down => row.lost_down,
            Self::Unknown => row.lost_unknown,
            Self::Excluded => row.excluded,
        }
    }

    const fn place(self, row: &mut Second) -> &mut u32 {
        match self {
            Self::Sent => &mut row.sent,
            Self::Up => &mut row.lost_up,
            Self::Down => &mut row.lost_down,
            Self::Unknown => &mut row.lost_unknown,
            Self::Excluded => &mut row.excluded,
        }
    }
}

/// Takes rows out of columns.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Second>, ChunkError> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(ChunkError::Short)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(ChunkError::Checksum);
    }
    let rest = &mut &*body;
    let version = take_unsigned(rest)?;
    if version != VERSION {
        return Err(ChunkError::Version(version));
    }
    let count = take_length(rest)?;
    if count > MAX_ROWS {
        return Err(ChunkError::Count);
    }
    let zero = take_unsigned(rest)?;
    let flows: Vec<u32> = read(rest, count)?;
    let seconds: Vec<u64> = read(rest, count)?;
    let mut rows = vec![Second::default(); count];
    let (mut flow, mut second) = (0u32, zero);
    for (row, (by, after)) in rows.iter_mut().zip(flows.into_iter().zip(seconds)) {
        if by != 0 {
            second = zero;
        }
        flow = flow.wrapping_add(by);
        second = second.wrapping_add(after);
        (row.flow, row.second) = (flow, second);
    }
    for column in COUNTS {
        let values: Vec<u32> = read(rest, count)?;
        rows.iter_mut().zip(values).for_each(|(row, value)| *column.place(row) = value);
    }
    let mut rtts = [const { Vec::new() }; 3];
    for column in &mut rtts {
        *column = read::<u32>(rest, count)?;
    }
    for (at, row) in rows.iter_mut().enumerate() {
        let steps = [rtts[0][at], rtts[1][at], rtts[2][at]];
        row.rtt = (steps[0] > 0).then(|| steps.map(|step| of_step(step.saturating_sub(1))));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn steps_are_within_a_32nd_and_stand_for_themselves(value in any::<u64>()) {
            let got = of_step(step_of(value));
            prop_assert!(got.abs_diff(value) <= value / 32, "{} for {}", got, value);
            prop_assert_eq!(step_of(got), step_of(value));
        }

        #[test]
        fn rows_come_back(rows in proptest::collection::btree_map((0u32..5, 1000u64..2000), (any::<[u32; 5]>(), any::<Option<[u64; 3]>>()), 0..60)) {
            let rows: Vec<Second> = rows.into_iter().map(|((flow, second), (n, rtt))| Second {
                flow, second, sent: n[0], lost_up: n[1], lost_down: n[2], lost_unknown: n[3], excluded: n[4],
                rtt: rtt.map(|rtt| rtt.map(|ns| of_step(step_of(ns)))),
            }).collect();
            prop_assert_eq!(decode(&encode(&rows).unwrap()).unwrap(), rows);
        }
    }
}
