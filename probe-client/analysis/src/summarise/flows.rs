//! The figures of each flow.

use probe_protocol::finding::Direction;
use probe_protocol::wire::hello::Carrier;

use crate::causes::Case;
use crate::evidence::{Evidence, FlowEvidence, Marks, Traffic};
use crate::model::{
    Clock, DatagramSummary, FlowSummary, LossPeriodsSummary, Lost, MarkSummary, OneWaySummary, Quantiles,
    ReorderingSummary, RttSummary, TcpRetransmits, us,
};
use crate::observation::End;
use crate::stats::histogram::Histogram;

pub(super) fn flows(case: &Case<'_>) -> Vec<FlowSummary> {
    case.flows.iter().map(|(flow, traffic)| summary(case.evidence, flow, traffic)).collect()
}

fn summary(evidence: &Evidence, flow: &FlowEvidence, traffic: &Traffic) -> FlowSummary {
    let plan = &flow.plan;
    let counts = &traffic.counts;
    let probes = counts.received > 0;
    let image = match plan.carrier {
        Carrier::Udp | Carrier::Tcp => plan.dress.name(),
        Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => plan.carrier.name(),
    };
    let source = flow
        .opened
        .as_ref()
        .map(|opened| opened.source)
        .or_else(|| flow.attempts.iter().find_map(|attempt| attempt.source));
    FlowSummary {
        id: plan.name.clone(),
        transport: plan.carrier.name().to_owned(),
        image: image.to_owned(),
        destination: plan.to.to_string(),
        source: source.map(|source| source.to_string()),
        observed_as: flow.opened.as_ref().map(|opened| opened.observed.to_string()),
        started_s: seconds(evidence.seconds(plan.at)),
        ended_s: flow.ended.as_ref().map(|ended| seconds(evidence.seconds(ended.at))),
        end: flow.ended.as_ref().map(|ended| end_name(&ended.end)),
        size_bytes: plan.size,
        interval_ms: (!plan.interval.is_zero()).then_some(plan.interval.as_secs_f64() * 1000.0),
        sent: traffic.sent,
        received: counts.received,
        duplicates: traffic.duplicates,
        reordered: traffic.reordered,
        lost: Lost { up: counts.lost_up, down: counts.lost_down, unknown: counts.lost_unknown },
        excluded: traffic.excluded_total(),
        rtt_us: rtt(traffic),
        rtt_application_us: Quantiles::of(&traffic.app),
        ipdv_up_us: Quantiles::of(traffic.ipdv_up.magnitudes()),
        ipdv_down_us: Quantiles::of(traffic.ipdv_down.magnitudes()),
        jitter_rfc3550_us: traffic.down.jitter.nanos().map(us),
        jitter_up_rfc3550_us: traffic.up.jitter.nanos().map(us),
        one_way_us: one_way(traffic),
        reordering: probes.then(|| reordering(traffic)),
        loss_periods: (counts.sent > 0).then(|| LossPeriodsSummary {
            up: traffic.loss_up.periods(),
            down: traffic.loss_down.periods(),
            longest_up: traffic.loss_up.longest(),
            longest_down: traffic.loss_down.longest(),
            distance_p50_up: traffic.loss_up.distances().quantile(0.5),
            distance_p50_down: traffic.loss_down.distances().quantile(0.5),
            noticeable_ratio_up: traffic.loss_up.noticeable_ratio(),
            noticeable_ratio_down: traffic.loss_down.noticeable_ratio(),
        }),
        ttl_up: traffic.ttl_up.commonest(),
        ttl_down: traffic.ttl_down.commonest(),
        marks: marks(&traffic.tos_up, Direction::Up)
            .chain(marks(&traffic.tos_down, Direction::Down))
            .collect(),
        datagrams: flow.datagrams.map(|d| DatagramSummary {
            sent_up: d.sent_up,
            lost_up: d.lost_up,
            sent_down: d.sent_down,
            lost_down: d.lost_down,
        }),
        tcp_retransmits: flow.tcp.map(|tcp| TcpRetransmits {
            client: tcp.client.map(|facts| facts.retransmits),
            listener: tcp.listener.map(|facts| facts.retransmits),
        }),
    }
}

fn seconds(s: f64) -> f64 {
    (s * 1000.0).round() / 1000.0
}

fn rtt(traffic: &Traffic) -> Option<RttSummary> {
    rtt_of(traffic.round_trips(), traffic.has_kernel_clock())
}

pub(super) fn rtt_of(trips: &Histogram, kernel: bool) -> Option<RttSummary> {
    let clock = if kernel { Clock::Kernel } else { Clock::Application };
    let at = |q| trips.quantile(q).map(|ns| us(ns as f64));
    Some(RttSummary {
        min: us(trips.min()? as f64),
        p50: at(0.5)?,
        p90: at(0.9)?,
        p99: at(0.99)?,
        max: us(trips.max()? as f64),
        clock,
    })
}

pub(super) fn one_way(traffic: &Traffic) -> Option<OneWaySummary> {
    let one_way = traffic.clock.one_way()?;
    Some(OneWaySummary {
        up: Quantiles::of(&one_way.up)?,
        down: Quantiles::of(&one_way.down)?,
        error: us(one_way.bound as f64),
    })
}

fn reordering(traffic: &Traffic) -> ReorderingSummary {
    let ratio = |r: &crate::stats::reordering::Reordering| r.reordered() as f64 / r.arrivals().max(1) as f64;
    let (up, down) = (&traffic.up.reordering, &traffic.down.reordering);
    ReorderingSummary {
        ratio_up: ratio(up),
        ratio_down: ratio(down),
        extent_up: up.extent_max(),
        extent_down: down.extent_max(),
    }
}

fn marks(marks: &Marks, direction: Direction) -> impl Iterator<Item = MarkSummary> {
    marks.seen.iter().map(move |((sent, got), packets)| MarkSummary {
        direction,
        dscp_sent: sent >> 2,
        dscp_received: got >> 2,
        ecn_sent: sent & 3,
        ecn_received: got & 3,
        packets,
    })
}

pub(super) fn end_name(end: &End) -> String {
    match end {
        End::Finished => "finished".to_owned(),
        End::NeverOpened => "never-opened".to_owned(),
        End::Reset => "reset".to_owned(),
        End::Closed => "closed".to_owned(),
        End::TimedOut => "timed-out".to_owned(),
        End::ListenerRestarted => "listener-restarted".to_owned(),
        End::Error(says) => says.clone(),
    }
}
