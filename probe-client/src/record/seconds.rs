//! Figures of each second and flow, summed up from its probes: what a chart or a quick look needs.

use std::collections::BTreeMap;

use probe_analysis::observation::{Fate, FlowNo, Probe};

const SECOND: u64 = 1_000_000_000;
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
    /// nanoseconds; none without an answer.
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
        Second { rtt: mean.map(|mean| [sum.least, mean, sum.most]), ..sum.row }
    };
    sums.into_values().map(close).collect()
}
