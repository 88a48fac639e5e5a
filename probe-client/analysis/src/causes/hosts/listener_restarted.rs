//! `listener-restarted`: the listener answers with another boot id than before.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::{Case, Claim};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let restarts = &case.evidence.restarts;
    let Some(first) = restarts.first() else { return Vec::new() };
    let gap = restarts.iter().map(|r| r.at.since(r.last_seen).as_secs_f64()).fold(0.0, f64::max);
    vec![
        Claim::new(Cause::ListenerRestarted, Side::Listener)
            .because(Evidence {
                from_s: Some(case.evidence.seconds(first.last_seen)),
                to_s: Some(case.evidence.seconds(first.at)),
                says: format!(
                    "the listener was started anew {} time(s); it was away for {gap:.1} s",
                    restarts.len()
                ),
                ..Evidence::default()
            })
            .parameters(Parameters {
                gap_s: Some((gap * 1000.0).round() / 1000.0),
                number: Some(restarts.len() as u64),
                ..Parameters::default()
            })
            .rather_than(Cause::Outage, "it came back as another boot of the listener"),
    ]
}
