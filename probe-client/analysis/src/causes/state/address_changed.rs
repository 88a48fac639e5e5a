//! `address-changed`: the client's public address changes while flows are busy.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use super::{moves, names};
use crate::causes::{Case, Claim};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let moves = moves(case, |moved| moved.old.ip() != moved.new.ip());
    let Some(first) = moves.first() else { return Vec::new() };
    let at = case.evidence.seconds(first.at);
    vec![
        Claim::new(Cause::AddressChanged, Side::PathOrEndpoint)
            .direction(Direction::Up)
            .because(Evidence {
                flows: names(case, &moves),
                from_s: Some(at),
                says: format!(
                    "the listener saw this client's address change from {} to {}",
                    first.old, first.new
                ),
                ..Evidence::default()
            })
            .parameters(Parameters {
                old: Some(first.old.to_string()),
                new: Some(first.new.to_string()),
                ..Parameters::default()
            })
            .rather_than(Cause::NatRebinding, "the address changed, not the port alone"),
    ]
}
