//! Flows that are alike, together: a run has hundreds of short ones, and nobody reads hundreds of rows.

use std::collections::BTreeMap;

use super::flows::{end_name, rtt_of};
use crate::causes::Case;
use crate::evidence::{FlowEvidence, Traffic};
use crate::model::{FlowGroup, Lost, Quantiles, us};
use crate::stats::histogram::Histogram;
use crate::stats::tally::Tally;
use crate::stats::timeline::Counts;

/// Flows of one name but for their numbers.
pub(super) struct Group<'c> {
    pub(super) name: String,
    pub(super) flows: Vec<(&'c FlowEvidence, &'c Traffic)>,
}

/// What flows that differ in their number alone have in common: `udp/port/7` is one of `udp/port`, and
/// `quic/2@ipv6#11` one of `quic@ipv6`.
fn name_of(flow: &str) -> String {
    let whole = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let name = flow.rsplit_once('#').filter(|(_, n)| whole(n)).map_or(flow, |(name, _)| name);
    let (name, family) = name.split_once('@').map_or((name, ""), |(name, family)| (name, family));
    let name = name.rsplit_once('/').filter(|(_, n)| whole(n)).map_or(name, |(name, _)| name);
    if family.is_empty() { name.to_owned() } else { format!("{name}@{family}") }
}

/// All flows, in the order in which the first of each group began.
pub(super) fn groups<'c>(case: &'c Case<'_>) -> Vec<Group<'c>> {
    let (mut groups, mut places) = (Vec::<Group<'c>>::new(), BTreeMap::new());
    for (flow, traffic) in &case.flows {
        let name = name_of(&flow.plan.name);
        let place = *places.entry(name.clone()).or_insert(groups.len());
        match groups.get_mut(place) {
            Some(group) => group.flows.push((*flow, traffic)),
            None => groups.push(Group { name, flows: vec![(*flow, traffic)] }),
        }
    }
    groups
}

/// The distributions of delay of several flows, as one.
pub(super) struct Delays {
    pub(super) wire: Histogram,
    pub(super) app: Histogram,
    /// All of them had kernel timestamps.
    pub(super) kernel: bool,
}

impl Delays {
    pub(super) fn of<'t>(flows: impl Iterator<Item = &'t Traffic> + Clone) -> Self {
        // Two clocks are not mixed: the kernels' where all flows have it.
        let kernel = flows.clone().filter(|t| t.app.count() > 0).all(Traffic::has_kernel_clock);
        let (mut wire, mut app) = (Histogram::default(), Histogram::default());
        for traffic in flows {
            wire.merge(&traffic.wire);
            app.merge(&traffic.app);
        }
        Self { kernel: kernel && wire.count() > 0, wire, app }
    }

    /// Those as the wire saw them where that is known, else the application's.
    pub(super) fn best(&self) -> &Histogram {
        if self.kernel { &self.wire } else { &self.app }
    }
}

pub(super) fn summaries(case: &Case<'_>) -> Vec<FlowGroup> {
    groups(case).iter().map(summary).collect()
}

fn summary(group: &Group<'_>) -> FlowGroup {
    let traffic = || group.flows.iter().map(|(_, traffic)| *traffic);
    let mut counts = Counts::default();
    let (mut up, mut down) = (Histogram::default(), Histogram::default());
    let (mut ttl_up, mut ttl_down) = (Tally::default(), Tally::default());
    for one in traffic() {
        counts.add(&one.counts);
        up.merge(one.ipdv_up.magnitudes());
        down.merge(one.ipdv_down.magnitudes());
        one.ttl_up.iter().for_each(|(ttl, n)| ttl_up.add(ttl, n, usize::MAX));
        one.ttl_down.iter().for_each(|(ttl, n)| ttl_down.add(ttl, n, usize::MAX));
    }
    let delays = Delays::of(traffic());
    let mut ends = BTreeMap::<String, u64>::new();
    for (flow, _) in &group.flows {
        let end = flow.ended.as_ref().map_or_else(|| "open".to_owned(), |ended| end_name(&ended.end));
        *ends.entry(end).or_default() += 1;
    }
    let mut jitters: Vec<f64> = traffic().filter_map(|t| t.down.jitter.nanos()).collect();
    FlowGroup {
        name: group.name.clone(),
        flows: group.flows.len() as u64,
        sent: traffic().map(|t| t.sent).sum(),
        received: counts.received,
        duplicates: traffic().map(|t| t.duplicates).sum(),
        reordered: traffic().map(|t| t.reordered).sum(),
        lost: Lost { up: counts.lost_up, down: counts.lost_down, unknown: counts.lost_unknown },
        excluded: traffic().map(Traffic::excluded_total).sum(),
        ends,
        rtt_us: rtt_of(delays.best(), delays.kernel),
        rtt_application_us: Quantiles::of(&delays.app),
        ipdv_up_us: Quantiles::of(&up),
        ipdv_down_us: Quantiles::of(&down),
        jitter_rfc3550_p50_us: crate::rate::quantile(&mut jitters, 0.5).map(us),
        ttl_up: ttl_up.commonest(),
        ttl_down: ttl_down.commonest(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_differ_in_their_number_alone_have_one_name() {
        for (flow, group) in [
            ("udp/random", "udp/random"),
            ("udp/port/7", "udp/port"),
            ("udp/random/trial#29", "udp/random/trial"),
            ("quic/2@ipv6#11", "quic@ipv6"),
            ("udp/random/3#2", "udp/random"),
            ("udp/idle/20s", "udp/idle/20s"),
            ("7", "7"),
            ("udp/", "udp/"),
            ("udp#", "udp#"),
        ] {
            assert_eq!(name_of(flow), group, "{flow}");
        }
    }
}
