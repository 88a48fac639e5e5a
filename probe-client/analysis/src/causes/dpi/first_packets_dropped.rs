//! `first-packets-dropped`: the same first packets of each flow are lost, over every image.
//!
//! A radio that wakes up or a neighbour that is looked for costs the first flow of a run its first packet; here every
//! flow must lose the same ones, on a path that others have warmed. Late is not lost: an answer names its question.

use std::collections::BTreeMap;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, thresholds};

/// Flows of datagrams alone have their packets counted.
const COVERS: &[Carrier] = &[Carrier::Udp, Carrier::Quic, Carrier::QuicInverse];
/// Share of the flows that must agree: a lossy path may take one packet more.
const AGREE: f64 = 0.8;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let mut opened: Vec<_> = case
        .flows
        .iter()
        .filter_map(|(flow, _)| {
            let opened = flow.opened.as_ref()?;
            Some((opened.at, flow, opened.handshake?.unanswered_first?))
        })
        .collect();
    opened.sort_by_key(|(at, ..)| *at);
    // The path is cold for the first.
    let warm = opened.get(1..).unwrap_or_default();
    let mut by_count: BTreeMap<u32, usize> = BTreeMap::new();
    warm.iter().for_each(|(.., count)| *by_count.entry(*count).or_default() += 1);
    let Some((count, agree)) = by_count.into_iter().max_by_key(|(_, n)| *n) else { return Vec::new() };
    if count == 0 || agree < thresholds::ALIKE_FLOWS || (agree as f64) < AGREE * warm.len() as f64 {
        return Vec::new();
    }
    // By chance, each is lost at the rate of all later ones; at least as often as a bad path loses.
    let (lost, sent) =
        case.steady_udp().fold((0, 0), |(lost, sent), (_, t)| (lost + t.counts.lost(), sent + t.counts.sent));
    let base = (lost as f64 / sent.max(1) as f64).max(0.05);
    let p = base.powi(i32::try_from(agree as u32 * count).unwrap_or(i32::MAX)).max(1e-12);
    let dresses: std::collections::BTreeSet<_> =
        warm.iter().map(|(_, flow, _)| flow.plan.dress.name()).collect();
    let says = format!(
        "the first {count} packets of {agree} of {} flows of datagrams stayed without an answer, and the next one had \
         its own; over these images alike: {}",
        warm.len(),
        dresses.into_iter().collect::<Vec<_>>().join(", ")
    );
    vec![
        Claim::new(Cause::FirstPacketsDropped, Side::Path)
            .covering(COVERS)
            .direction(Direction::Up)
            .probability(1.0 - p)
            .parameters(Parameters { packets: Some(u64::from(count)), ..Parameters::default() })
            .because(Evidence {
                flows: warm
                    .iter()
                    .filter(|(.., c)| *c == count)
                    .map(|(_, flow, _)| flow.plan.name.clone())
                    .take(16)
                    .collect(),
                says,
                test: Some(format!("all lost by chance at {:.0} % loss", base * 100.0)),
                p: Some(p),
                ..Evidence::default()
            })
            .rather_than(
                Cause::LossyPath,
                format!(
                    "later packets of the same flows are lost at {:.1} %",
                    100.0 * lost as f64 / sent.max(1) as f64
                ),
            )
            .or([], "more flows, opened at other times"),
    ]
}
