//! `clock-stepped`: the client's wall clock was set.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::{Case, Claim};
use crate::observation::HostFault;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let steps = case.evidence.host.iter().filter_map(|event| match event.what {
        HostFault::ClockStepped(ns) => Some((event, ns)),
        HostFault::Suspended
        | HostFault::Stalled
        | HostFault::ReceiveOverflow(_)
        | HostFault::SendFailed(_)
        | HostFault::InterfaceChanged { .. }
        | HostFault::ListenerStalled
        | HostFault::NotRunning
        | HostFault::NotRecorded(_) => None,
    });
    let Some((event, ns)) = steps.max_by_key(|(_, ns)| ns.unsigned_abs()) else { return Vec::new() };
    let step = ns as f64 / 1e9;
    vec![
        Claim::new(Cause::ClockStepped, Side::Client)
            .because(Evidence {
                from_s: Some(case.evidence.seconds(event.from)),
                says: format!("this computer's clock was set by {step:+.3} s"),
                ..Evidence::default()
            })
            .parameters(Parameters { step_s: Some(step), ..Parameters::default() }),
    ]
}
