//! `one-way-loss`: one direction loses clearly more than the other (RFC 7680, placed by the ledger).

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use super::{percent, round};
use crate::causes::{Case, Claim};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let Some(losses) = case.losses() else { return Vec::new() };
    let Some(direction) = losses.one_sided() else { return Vec::new() };
    let (worse, better) =
        if direction == Direction::Up { (&losses.up, &losses.down) } else { (&losses.down, &losses.up) };
    let says = format!(
        "{} of {} packets were lost on this way ({}), {} of {} on the other ({})",
        worse.lost,
        worse.sent,
        percent(worse.ratio()),
        better.lost,
        better.sent,
        percent(better.ratio())
    );
    vec![
        Claim::new(Cause::OneWayLoss, Side::Path)
            .direction(direction)
            .probability(1.0 - losses.symmetric)
            .because(Evidence {
                flows: losses.flows.clone(),
                from_s: Some(losses.window_s.0),
                to_s: Some(losses.window_s.1),
                says,
                test: Some("exact sign-flip test over half-second blocks, both ways".to_owned()),
                p: Some(losses.symmetric),
            })
            .parameters(Parameters { loss_ratio: Some(round(worse.ratio())), ..Parameters::default() })
            .rather_than(Cause::LossyPath, format!("the other way loses {}", percent(better.ratio()))),
    ]
}
