//! Open connections that were cut before their time.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim};
use crate::observation::{End, FlowNo};

pub(super) fn detect(case: &Case<'_>, explained: &dyn Fn(FlowNo) -> bool) -> Vec<Claim> {
    case.flows
        .iter()
        .filter_map(|(flow, traffic)| {
            let (opened, ended) = (flow.opened.as_ref()?, flow.ended.as_ref()?);
            let at = case.evidence.seconds(ended.at);
            if explained(flow.plan.flow) || case.host_acted(at - 5.0, at) {
                return None;
            }
            let (how, candidates) = match (&ended.end, flow.plan.carrier) {
                (End::Reset, _) => ("was reset", vec![Cause::RstInjected]),
                (End::Closed, Carrier::Tcp | Carrier::Tls) => {
                    ("was closed by the other end", vec![Cause::TcpProxied])
                }
                (End::TimedOut, Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse) => (
                    "timed out",
                    vec![Cause::FlowKilledByAge, Cause::FlowKilledByBytes, Cause::FlowKilledByPackets],
                ),
                // A silent UDP flow is told by its silence.
                (End::TimedOut, Carrier::Udp)
                | (End::Closed, Carrier::Udp | Carrier::Quic | Carrier::QuicInverse)
                | (End::Finished | End::NeverOpened | End::ListenerRestarted | End::Error(_), _) => {
                    return None;
                }
            };
            let age = ended.at.since(opened.at).as_secs_f64();
            let says = format!(
                "{} {how} after {age:.1} s, {} packets and {} bytes",
                flow.plan.name, traffic.sent, traffic.bytes
            );
            Some(
                Claim::new(Cause::Unexplained, Side::PathOrEndpoint)
                    .probability(0.9)
                    .because(Evidence {
                        flows: vec![flow.plan.name.clone()],
                        from_s: Some(case.evidence.seconds(opened.at)),
                        to_s: Some(case.evidence.seconds(ended.at)),
                        says,
                        ..Evidence::default()
                    })
                    .parameters(Parameters {
                        age_s: Some((age * 1000.0).round() / 1000.0),
                        packets: Some(traffic.sent),
                        bytes: Some(traffic.bytes),
                        ..Parameters::default()
                    })
                    .or(candidates, "several flows of each kind, of different ages and rates"),
            )
        })
        .collect()
}
