//! `lossy-path`: loss of all classes alike, with no queueing before it.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::{percent, round};
use crate::causes::{Case, Claim, thresholds};
use crate::stats::histogram::Histogram;
use crate::stats::hypothesis::{binomial_at_least, fisher_at_least};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let Some(losses) = case.losses() else { return Vec::new() };
    let direction = match (losses.up.is_lossy(), losses.down.is_lossy()) {
        (true, true) => Direction::Both,
        (true, false) => Direction::Up,
        (false, true) => Direction::Down,
        (false, false) => return Vec::new(),
    };
    // The direction is told by `one-way-loss`; without that, what both lose together is what is known.
    let direction = if losses.one_sided().is_none() && losses.up.lost > 0 && losses.down.lost > 0 {
        Direction::Both
    } else {
        direction
    };
    // One way's loss: what a packet risks, not what a round trip does.
    let ratio = match direction {
        Direction::Up => losses.up.ratio(),
        Direction::Down => losses.down.ratio(),
        Direction::Both => f64::midpoint(losses.up.ratio(), losses.down.ratio()),
    };
    let p = losses.up.p.min(losses.down.p);
    let says = format!(
        "{} of {} packets were lost ({}): {} on the way up, {} on the way down",
        losses.counts.lost(),
        losses.counts.sent,
        percent(losses.counts.lost() as f64 / losses.counts.sent.max(1) as f64),
        losses.up.lost,
        losses.down.lost
    );
    let burst = case.steady_udp().map(|(_, t)| t.loss_up.longest().max(t.loss_down.longest())).max();
    let mut claim = Claim::new(Cause::LossyPath, Side::Path)
        .direction(direction)
        .because(Evidence {
            flows: losses.flows.clone(),
            from_s: Some(losses.window_s.0),
            to_s: Some(losses.window_s.1),
            says,
            test: Some(format!("exact binomial test against {}", percent(thresholds::BENIGN_LOSS))),
            p: Some(p),
        })
        .parameters(Parameters { loss_ratio: Some(round(ratio)), packets: burst, ..Parameters::default() })
        .or([], "load and control traffic side by side (`udp-deprioritized`, `congestion`)");
    if let Some(because) = classes_differ(case, ratio) {
        claim = claim
            .probability(0.5)
            .because(because)
            .or([Cause::UdpDeprioritized, Cause::UdpPolicer], claim_decide());
    } else if let Some(because) = queues_before_loss(case) {
        claim = claim.probability(0.5).because(because).or([Cause::Congestion], claim_decide());
    } else {
        claim = claim.rather_than(Cause::Congestion, "delay does not rise before a loss");
    }
    vec![claim]
}

fn claim_decide() -> &'static str {
    "UDP and TCP side by side under load"
}

/// Evidence that not all classes lose alike.
fn classes_differ(case: &Case<'_>, ratio: f64) -> Option<Evidence> {
    quic_differs(case).or_else(|| tcp_differs(case, ratio))
}

/// QUIC's datagrams, counted at both sockets, against the plain ones. Loss periods count, not packets, since packets of
/// one burst are not independent.
fn quic_differs(case: &Case<'_>) -> Option<Evidence> {
    let (mut sent, mut lost) = (0, 0);
    let mut flows = Vec::new();
    for (flow, _) in case.flows.iter().filter(|(flow, _)| flow.plan.carrier == Carrier::Quic) {
        let counts = flow.datagrams.as_ref()?;
        sent += counts.sent_up + counts.sent_down;
        lost += counts.lost_up + counts.lost_down;
        flows.push(flow.plan.name.clone());
    }
    let (mut own_sent, mut own_lost) = (0, 0);
    for (_, traffic) in case.steady_udp() {
        own_sent += traffic.counts.sent + traffic.counts.received;
        own_lost += traffic.loss_up.periods() + traffic.loss_down.periods();
    }
    if sent == 0 || own_sent == 0 {
        return None;
    }
    let p = fisher_at_least(own_lost, own_sent, lost, sent);
    (p < thresholds::WRONG_CLASS / 2.0).then(|| Evidence {
        flows,
        says: format!("QUIC lost {lost} of {sent} datagrams, plain UDP {own_lost} of {own_sent}"),
        test: Some("Fisher's exact test".to_owned()),
        p: Some(p),
        ..Evidence::default()
    })
}

/// TCP that loses as much would have had to send again.
fn tcp_differs(case: &Case<'_>, ratio: f64) -> Option<Evidence> {
    let mut expected = 0.0;
    let mut flows = Vec::new();
    for (flow, traffic) in &case.flows {
        let Some(tcp) = &flow.tcp else { continue };
        let both = tcp.client.map_or(0, |f| f.retransmits) + tcp.listener.map_or(0, |f| f.retransmits);
        if both > 0 {
            return None;
        }
        if tcp.client.is_some() {
            // Some records travel together in one segment: half as many segments as records is a safe guess.
            expected += traffic.sent as f64 / 2.0 * ratio;
            flows.push(flow.plan.name.clone());
        }
    }
    (expected >= thresholds::EXPECTED_RETRANSMITS).then(|| Evidence {
        flows,
        says: format!(
            "TCP on the same path had to send nothing again, where about {expected:.0} times were expected"
        ),
        ..Evidence::default()
    })
}

/// Evidence that losses follow on high delay.
fn queues_before_loss(case: &Case<'_>) -> Option<Evidence> {
    let (mut before, mut all) = (Histogram::default(), Histogram::default());
    for (_, traffic) in case.steady_udp() {
        before.merge(&traffic.before_loss);
        all.merge(traffic.round_trips());
    }
    // Under flat delay a loss follows on the slowest quarter once in four times.
    let slow = all.quantile(0.75)?;
    let median = before.quantile(0.5)?;
    let at_least = if median > slow { before.count().div_ceil(2) } else { 0 };
    let p = binomial_at_least(at_least, before.count(), 0.25);
    (median > slow && p < thresholds::FALSE_ALARM).then(|| Evidence {
        says: format!(
            "packets just before a loss took {:.1} ms at the median, all together {:.1} ms",
            median as f64 / 1e6,
            all.quantile(0.5).unwrap_or(0) as f64 / 1e6
        ),
        test: Some("exact binomial test".to_owned()),
        p: Some(p),
        ..Evidence::default()
    })
}
