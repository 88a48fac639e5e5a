//! Up to which rates a load found no limit.

use std::collections::BTreeSet;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Finding};
use probe_protocol::wire::hello::Carrier;

use crate::causes::Case;
use crate::model::Unlimited;
use crate::observation::{Load, LoadExperiment};

/// A step that loses no more than this gets through.
const THROUGH: f64 = 0.01;
/// Fewest packets of a step that tells of its rate.
const PACKETS: u64 = 20;

/// What a direction got through in a check's load, where nothing was found to limit it.
pub(super) fn unlimited(case: &Case<'_>, findings: &[Finding]) -> Vec<Unlimited> {
    let limited: BTreeSet<Option<Direction>> =
        findings.iter().filter(|f| is_of_rate(f.cause)).map(|f| f.direction).collect();
    let is_limited =
        |d| limited.contains(&Some(d)) || limited.contains(&Some(Direction::Both)) || limited.contains(&None);
    [Direction::Up, Direction::Down]
        .into_iter()
        .filter(|direction| !is_limited(*direction))
        .filter_map(|direction| of(case, direction))
        .collect()
}

fn of(case: &Case<'_>, direction: Direction) -> Option<Unlimited> {
    let up = direction == Direction::Up;
    let is_alone = |l: &&Load| {
        l.up == up
            && l.carrier == Carrier::Udp
            && l.experiment == LoadExperiment::Staircase
            && l.beside.is_empty()
            && l.tos == 0
    };
    let (mut bps, mut packets_per_second) = (0.0f64, 0.0f64);
    for load in case.evidence.loads.steps().iter().filter(is_alone) {
        let sum = |of: &dyn Fn(&crate::observation::LoadBin) -> u64| load.bins.iter().map(of).sum::<u64>();
        let (sent, lost) = (sum(&|b| u64::from(b.packets)), sum(&|b| u64::from(b.lost)));
        let length = load.to.since(load.from).as_secs_f64();
        if sent < PACKETS || length <= 0.0 || lost as f64 > THROUGH * sent as f64 {
            continue;
        }
        bps = bps.max(sum(&|b| b.bytes) as f64 * 8.0 / length);
        packets_per_second = packets_per_second.max(sent as f64 / length);
    }
    (bps > 0.0).then(|| Unlimited {
        direction,
        udp_bps: bps.round() as u64,
        packets_per_second: packets_per_second.round(),
    })
}

/// Causes that limit what a direction gets through, and the doubt whether something does.
fn is_of_rate(cause: Cause) -> bool {
    [
        Cause::UdpPolicer,
        Cause::UdpShaper,
        Cause::RateLimit,
        Cause::UdpFloodProtection,
        Cause::FlowThrottled,
        Cause::UdpDeprioritized,
        Cause::Congestion,
        Cause::Unexplained,
    ]
    .contains(&cause)
}
