//! Some wire images get through UDP and others do not.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Side};
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, thresholds};
use crate::observation::Outcome;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .flat_map(|place| [Carrier::Udp, Carrier::Tcp].map(|carrier| (place.address, carrier)))
        .filter_map(|(address, carrier)| {
            let flows = || {
                case.flows
                    .iter()
                    .map(|(f, _)| *f)
                    .filter(|f| f.plan.to == address && f.plan.carrier == carrier)
            };
            let open: Vec<_> = flows().filter(|flow| flow.opened.is_some()).collect();
            let closed: Vec<_> = flows()
                .filter(|flow| {
                    let failed = flow.attempts.iter().filter(|a| a.outcome != Outcome::Opened).count() as u64;
                    flow.opened.is_none() && thresholds::all_lost(failed) < thresholds::OPENING_CHANCE
                })
                .collect();
            // The same dress both ways is chance or a bad path member, not the dress.
            let alike = closed.iter().any(|c| open.iter().any(|o| o.plan.dress == c.plan.dress));
            if open.is_empty() || closed.is_empty() || alike {
                return None;
            }
            let names = |flows: &[&crate::evidence::FlowEvidence]| {
                flows.iter().map(|f| f.plan.name.clone()).collect::<Vec<_>>()
            };
            let ascii_lives = open.iter().any(|f| f.plan.dress == Dress::Ascii);
            let random_dies = closed.iter().any(|f| f.plan.dress == Dress::Random);
            let candidates = match (ascii_lives, random_dies) {
                (true, true) => vec![Cause::HighEntropyBlocked],
                (_, _) => vec![Cause::UnknownProtocolBlocked],
            };
            let says = format!(
                "{} opened, and {} never did though tried again and again",
                names(&open).join(", "),
                names(&closed).join(", ")
            );
            Some(
                Claim::new(Cause::Unexplained, Side::Path)
                    .at(address, &[])
                    .probability(0.9)
                    .because(Evidence { flows: names(&closed), says, ..Evidence::default() })
                    .or(candidates, "each wire image several times, interleaved in random order"),
            )
        })
        .collect()
}
