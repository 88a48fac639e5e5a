//! `udp-deprioritized`: when the line is full, UDP waits or dies before TCP does.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::steps::{self, Step};
use crate::causes::thresholds::FALSE_ALARM;
use crate::causes::{Case, Claim};
use crate::observation::LoadExperiment;
use crate::stats::hypothesis::fisher_at_least;

/// Loss of UDP beside TCP from which it is harmed.
const HARMED: f64 = 0.05;
/// Loss of UDP alone at the same rate up to which that rate is no trouble by itself.
const FINE_ALONE: f64 = 0.01;
/// Share of UDP's loss that TCP may have.
const SPARED: f64 = 0.3;
/// Pairs that must agree.
const PAIRS: usize = 2;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    if case.evidence.loads.is_empty() {
        return Vec::new();
    }
    [Direction::Up, Direction::Down].into_iter().filter_map(|direction| of(case, direction)).collect()
}

fn of(case: &Case<'_>, direction: Direction) -> Option<Claim> {
    let all = steps::steps(case, direction);
    let interleaved = |carriers: &[Carrier]| -> Vec<&Step> {
        all.iter()
            .filter(|s| s.experiment == LoadExperiment::Interleaved && carriers.contains(&s.carrier))
            .collect()
    };
    let udp = interleaved(&[Carrier::Udp]);
    let tcp = interleaved(&[Carrier::Tcp, Carrier::Tls]);
    let (mut bad, mut counted) = (Vec::new(), [0u64; 4]);
    for step in &udp {
        let beside: Vec<&&Step> = tcp.iter().filter(|t| t.number == step.number).collect();
        // One flow of each: two of one kind would be given two shares by a fair queue.
        let [other] = beside.as_slice() else { continue };
        let rivals = udp.iter().filter(|u| u.number == step.number).count();
        let is_alone_fine = all.iter().any(|s| {
            s.carrier == Carrier::Udp && s.alone && s.sent_bps >= 0.95 * step.sent_bps && s.loss <= FINE_ALONE
        });
        // UDP that asks for more than half of the line loses to a fair queue, and that is fair.
        let asks_little = step.sent_bps <= 0.5 * (step.arrived_bps + other.arrived_bps);
        if rivals == 1
            && is_alone_fine
            && asks_little
            && step.loss >= HARMED
            && other.loss < SPARED * step.loss
        {
            counted[0] += step.lost;
            counted[1] += step.packets;
            counted[2] += other.lost;
            counted[3] += other.packets;
            bad.push(*step);
        }
    }
    if bad.len() < PAIRS || bad.len() * 3 < udp.len() * 2 {
        return None;
    }
    let p = fisher_at_least(counted[0], counted[1], counted[2], counted[3]);
    let ratio = counted[0] as f64 / counted[1].max(1) as f64;
    (p < FALSE_ALARM).then(|| {
        let says = format!(
            "beside TCP, UDP lost {} of {} packets and TCP {} of {}, while the same UDP alone lost next to nothing and \
             asked for less than half of what got through",
            counted[0], counted[1], counted[2], counted[3]
        );
        Claim::new(Cause::UdpDeprioritized, Side::Path)
            .direction(direction)
            .probability(0.97)
            .parameters(Parameters { loss_ratio: Some((ratio * 1e4).round() / 1e4), ..Parameters::default() })
            .because(Evidence {
                flows: bad.iter().map(|s| case.evidence.name(s.flow)).take(4).collect(),
                from_s: bad.iter().map(|s| s.from_s).reduce(f64::min),
                to_s: bad.iter().map(|s| s.to_s).reduce(f64::max),
                says,
                test: Some("Fisher's exact test".to_owned()),
                p: Some(p),
            })
            .rather_than(Cause::Congestion, "TCP in the same queue at the same time was spared")
    })
}
