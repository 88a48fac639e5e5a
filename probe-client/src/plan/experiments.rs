//! Groups of flows that only mean something together. Each function gives data; whoever builds a plan puts it in.

use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::{
    AfterDeath, FlowSpec, Idle, Ladder, Life, Purpose, Refresh, Repeat, Script, ServerNameKind, Start,
};

/// Most flows that a ladder of concurrent flows may open.
pub const MAX_CONCURRENT: u16 = 128;
/// Source ports of a fan: enough to meet each member of the usual bundles of links.
pub const FAN: u16 = 32;

/// Short flows of several images, interleaved and in a new random order each round, so that what differs between them is
/// the image. Each sends `probes` probes: the first 64 are where classifiers decide.
pub fn trials(specs: &[FlowSpec], rounds: u32, first: Duration, every: Duration, probes: u64) -> Repeat {
    let specs: Vec<FlowSpec> = specs
        .iter()
        .map(|spec| FlowSpec {
            purpose: Purpose::Trial,
            life: Life::Probes(probes),
            death: AfterDeath::Nothing,
            ..spec.clone()
        })
        .collect();
    let count = u32::try_from(specs.len()).unwrap_or(u32::MAX).saturating_mul(rounds);
    Repeat { specs, shuffled: true, first, every, jitter_percent: 20, count: Some(count) }
}

/// Flows that are alike in all but the source port, opened one after the other from `first` on.
pub fn fan(spec: &FlowSpec, ports: u16, first: Duration, apart: Duration, life: Life) -> Vec<FlowSpec> {
    alike(spec, Purpose::Fan, ports, first, apart, life)
}

/// Ever more flows at the same time, until `number` (at most [`MAX_CONCURRENT`]) are open. For those who ask for it
/// alone: it is a load on the path's tables.
pub fn concurrent(
    spec: &FlowSpec,
    number: u16,
    first: Duration,
    apart: Duration,
    life: Life,
) -> Vec<FlowSpec> {
    alike(spec, Purpose::Concurrent, number.min(MAX_CONCURRENT), first, apart, life)
}

fn alike(
    spec: &FlowSpec,
    purpose: Purpose,
    number: u16,
    first: Duration,
    apart: Duration,
    life: Life,
) -> Vec<FlowSpec> {
    let each = |n: u16| FlowSpec {
        name: format!("{}/{}", spec.name, n + 1),
        purpose,
        start: Start::At(first + apart * u32::from(n)),
        life,
        death: AfterDeath::Nothing,
        ..spec.clone()
    };
    (0..number).map(each).collect()
}

/// Every size with every interval, each combination in as many flows as there are starts: tells packets, bytes, age and
/// clock time apart.
pub fn crossed(spec: &FlowSpec, intervals: &[Duration], sizes: &[u16], starts: &[Duration]) -> Vec<FlowSpec> {
    let mut flows = Vec::new();
    for interval in intervals {
        for size in sizes {
            for (n, start) in (1..).zip(starts) {
                flows.push(FlowSpec {
                    name: format!("{}/{}ms-{size}B/{n}", spec.name, interval.as_millis()),
                    purpose: Purpose::Crossed,
                    size: *size,
                    interval: *interval,
                    start: Start::At(*start),
                    ..spec.clone()
                });
            }
        }
    }
    flows
}

/// A TLS flow with the target's name, one with another name and one with none, for [`trials`].
pub fn named(to: SocketAddr) -> Vec<FlowSpec> {
    let each = |(name, server_name): (&str, ServerNameKind)| FlowSpec {
        server_name,
        ..FlowSpec::new(name, Carrier::Tls, Dress::Random, Purpose::Named, to)
    };
    let names = [
        ("tls/target", ServerNameKind::Target),
        ("tls/other", ServerNameKind::Other),
        ("tls/absent", ServerNameKind::Absent),
    ];
    names.into_iter().map(each).collect()
}

/// A flow that sends and asks for `count` datagrams of `size` bytes of IP packet, as fragments where that is above the
/// MTU.
pub fn fragments(to: SocketAddr, size: u32, count: u32, start: Start) -> FlowSpec {
    FlowSpec {
        interval: Duration::from_millis(150),
        start,
        life: Life::For(Duration::from_millis(150) * (2 * count + 20)),
        script: Script::Fragments { size, count },
        ..FlowSpec::new("udp/fragments", Carrier::Udp, Dress::Random, Purpose::Fragments, to)
    }
}

/// One flow that is left alone once.
pub fn idle(spec: &FlowSpec, idle: Idle, start: Start) -> FlowSpec {
    FlowSpec {
        name: format!("{}/{}s", spec.name, idle.gap.as_secs_f64()),
        purpose: Purpose::Idle,
        start,
        life: Life::Run,
        death: AfterDeath::Nothing,
        script: Script::Idle(idle),
        ..spec.clone()
    }
}

/// A ladder of idle gaps with bisection, that ends by `until`.
pub fn idle_ladder(
    to: SocketAddr,
    carrier: Carrier,
    refreshed: Refresh,
    gaps: &[Duration],
    first: Duration,
    until: Option<Duration>,
) -> Ladder {
    let how = match refreshed {
        Refresh::None => "idle",
        Refresh::Up => "idle-refreshed-up",
        Refresh::Down => "idle-refreshed-down",
        Refresh::Both => "idle-refreshed-both",
    };
    let name = format!("{}/{how}", carrier.name());
    Ladder {
        spec: FlowSpec {
            interval: Duration::ZERO,
            ..FlowSpec::new(name, carrier, Dress::Random, Purpose::Idle, to)
        },
        gaps: gaps.to_vec(),
        refreshed,
        // Below every timeout that a product could live with.
        every: Duration::from_secs(8),
        copies: 2,
        resolution: Duration::from_secs(1),
        first,
        until,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> FlowSpec {
        let to = "192.0.2.1:8886".parse().unwrap();
        FlowSpec::new("udp/fan", Carrier::Udp, Dress::Random, Purpose::Steady, to)
    }

    #[test]
    fn concurrent_flows_are_bounded() {
        let flows = |n| concurrent(&spec(), n, Duration::ZERO, Duration::from_millis(200), Life::Run).len();
        assert_eq!((flows(128), flows(129), flows(u16::MAX)), (128, 128, 128));
    }

    #[test]
    fn crossed_flows_have_every_combination_and_names_of_their_own() {
        let ms = Duration::from_millis;
        let flows = crossed(&spec(), &[ms(50), ms(100)], &[128, 512], &[ms(0), ms(500), ms(1100)]);
        let names: std::collections::BTreeSet<_> = flows.iter().map(|f| &f.name).collect();
        assert_eq!((flows.len(), names.len()), (12, 12));
    }
}
