//! `mtu-black-hole`: packets above a size vanish, small ones live, and nobody says so (RFC 2923 section 2.1).

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use crate::causes::{Case, Claim, lives};
use crate::observation::PathMtu;

/// Connections that hang for large packets of the listener's.
const HANG: usize = 2;

/// Searches in which packets above a size vanished without a word: the largest that got through, and the smallest that did
/// not, bytes.
pub(super) fn holes<'c>(case: &Case<'c>) -> Vec<(&'c PathMtu, u32, u32)> {
    // What this computer was told by ICMP is of its own packets. Whether the listener was told of its own shows in TCP, which
    // hangs where it was not.
    let hangs = case
        .flows
        .iter()
        .filter(|(flow, traffic)| {
            traffic.life.trailing_down * 2 > traffic.life.trailing && lives::hung(case, flow, traffic)
        })
        .count();
    let untold = |search: &PathMtu| search.told.is_none() || (!search.up && hangs >= HANG);
    let vanished = |search: &'c PathMtu| {
        let (largest, lost) = (search.largest?, search.smallest_lost?);
        // Beyond the interface's own MTU nothing was meant to fit.
        let fits = search.interface.is_none_or(|mtu| lost <= mtu);
        (untold(search) && fits && largest < lost).then_some((search, largest, lost))
    };
    case.evidence.path_mtu.iter().filter_map(vanished).collect()
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let holes = holes(case);
    let (up, down) = (holes.iter().any(|(s, _, _)| s.up), holes.iter().any(|(s, _, _)| !s.up));
    let direction = match (up, down) {
        (true, true) => Direction::Both,
        (true, false) => Direction::Up,
        (false, true) => Direction::Down,
        (false, false) => return Vec::new(),
    };
    let smallest = holes.iter().map(|(_, largest, _)| *largest).min();
    let mut claim = Claim::new(Cause::MtuBlackHole, Side::Path)
        .direction(direction)
        .probability(0.97)
        .parameters(Parameters { mtu_bytes: smallest, ..Parameters::default() })
        .rather_than(Cause::LossyPath, "smaller packets got through at the same time");
    for (search, largest, lost) in holes {
        let way = if search.up { "up" } else { "down" };
        claim.evidence.push(Evidence {
            flows: vec![case.evidence.name(search.flow)],
            says: format!(
                "on the way {way}, packets of {largest} bytes got through and packets of {lost} bytes never did, though \
                 sent several times; no ICMP message came"
            ),
            ..Evidence::default()
        });
    }
    // TCP puts what waits together into larger packets, and these are sent again and again.
    let hung = case.flows.iter().filter(|(flow, traffic)| lives::hung(case, flow, traffic));
    vec![claim.explaining(hung.map(|(flow, _)| flow.plan.flow))]
}
