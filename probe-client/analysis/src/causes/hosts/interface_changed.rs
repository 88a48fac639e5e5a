//! `interface-changed`: the client's route, VPN or Wi-Fi network changed during the run.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::{Case, Claim};
use crate::observation::{HostEvent, HostFault};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    // A way that was lost and came back as it was is no other one: the site's network failed for a while.
    let lost = case.lost_ways();
    let came_back = |event: &HostEvent| {
        let at = case.evidence.seconds(event.from);
        lost.iter().any(|way| way.same && (way.from_s..=way.to_s).contains(&at))
    };
    let mut changes = case.evidence.host.iter().filter_map(|event| match &event.what {
        HostFault::InterfaceChanged { old, new } if !came_back(event) => Some((event, old, new)),
        HostFault::InterfaceChanged { .. }
        | HostFault::Suspended
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
