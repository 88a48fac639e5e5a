//! What the path does to packets, in few figures.

use probe_protocol::wire::hello::Carrier;

use super::flows::{one_way, rtt_of};
use super::groups::Delays;
use crate::causes::Case;
use crate::evidence::Traffic;
use crate::model::{Lost, PathSummary, Quantiles};
use crate::observation::Purpose;
use crate::stats::timeline::Counts;

/// Transports in the order in which they tell most of the path: where lost packets are sent again, loss shows as delay.
const ORDER: [Carrier; 5] = [Carrier::Udp, Carrier::Quic, Carrier::QuicInverse, Carrier::Tcp, Carrier::Tls];

pub(super) fn path(case: &Case<'_>) -> Option<PathSummary> {
    ORDER.into_iter().find_map(|carrier| {
        let flows: Vec<&Traffic> = case
            .flows
            .iter()
            .filter(|(flow, _)| {
                flow.plan.carrier == carrier && matches!(flow.plan.purpose, Purpose::Steady | Purpose::Old)
            })
            .map(|(_, traffic)| traffic.as_ref())
            .filter(|traffic| traffic.counts.sent > 0)
            .collect();
        (!flows.is_empty()).then(|| together(carrier, &flows))
    })
}

fn together(carrier: Carrier, flows: &[&Traffic]) -> PathSummary {
    let mut counts = Counts::default();
    flows.iter().for_each(|traffic| counts.add(&traffic.counts));
    let delays = Delays::of(flows.iter().copied());
    let ratio = |lost: u64, of: u64| lost as f64 / of.max(1) as f64;
    PathSummary {
        over: carrier.name().to_owned(),
        sent: counts.sent,
        received: counts.received,
        lost: Lost { up: counts.lost_up, down: counts.lost_down, unknown: counts.lost_unknown },
        loss_up_ratio: ratio(counts.lost_up, counts.sent),
        loss_down_ratio: ratio(counts.lost_down, counts.received + counts.lost_down),
        rtt_us: rtt_of(delays.best(), delays.kernel),
        rtt_application_us: Quantiles::of(&delays.app),
        one_way_us: flows.iter().filter_map(|t| one_way(t)).min_by(|a, b| a.error.total_cmp(&b.error)),
        reordered: flows.iter().map(|t| t.reordered).sum(),
        duplicates: flows.iter().map(|t| t.duplicates).sum(),
    }
}
