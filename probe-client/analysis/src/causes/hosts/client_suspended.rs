//! `client-suspended`: the client slept; the clock that counts sleep ran on while the other one stood still.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::{Case, Claim};
use crate::observation::HostFault;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let sleeps: Vec<_> =
        case.evidence.host.iter().filter(|event| event.what == HostFault::Suspended).collect();
    let Some(first) = sleeps.first() else { return Vec::new() };
    let gap: f64 = sleeps.iter().map(|event| event.to.since(event.from).as_secs_f64()).sum();
    vec![
        Claim::new(Cause::ClientSuspended, Side::Client)
            .because(Evidence {
                from_s: Some(case.evidence.seconds(first.from)),
                to_s: Some(case.evidence.seconds(first.to)),
                says: format!("this computer slept {} time(s), {gap:.1} s in all", sleeps.len()),
                ..Evidence::default()
            })
            .parameters(Parameters {
                gap_s: Some((gap * 1000.0).round() / 1000.0),
                number: Some(sleeps.len() as u64),
                ..Parameters::default()
            }),
    ]
}
