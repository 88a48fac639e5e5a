//! `interface-changed`: the client's route, VPN or Wi-Fi network changed during the run.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::{Case, Claim};
use crate::observation::HostFault;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let mut changes = case.evidence.host.iter().filter_map(|event| match &event.what {
        HostFault::InterfaceChanged { old, new } => Some((event, old, new)),
        HostFault::Suspended
        | HostFault::ClockStepped(_)
        | HostFault::Stalled
        | HostFault::ReceiveOverflow(_)
        | HostFault::SendFailed(_)
        | HostFault::ListenerStalled
        | HostFault::NotRunning
        | HostFault::NotRecorded(_) => None,
    });
    let Some((first, old, new)) = changes.next() else { return Vec::new() };
    let times = 1 + changes.count() as u64;
    let says = format!("this computer's way to the network became {new} (it was {old})");
    vec![
        Claim::new(Cause::InterfaceChanged, Side::Client)
            .because(Evidence {
                from_s: Some(case.evidence.seconds(first.from)),
                to_s: Some(case.evidence.seconds(first.to)),
                says,
                ..Evidence::default()
            })
            .parameters(Parameters {
                old: Some(old.clone()),
                new: Some(new.clone()),
                number: Some(times),
                ..Parameters::default()
            })
            .rather_than(Cause::AddressChanged, "it was this computer's own way that changed first"),
    ]
}
