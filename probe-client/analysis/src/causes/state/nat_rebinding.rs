//! `nat-rebinding`: the source port of a busy flow changes while its address stays.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use super::{broken, moves, names};
use crate::causes::{Case, Claim};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let moves = moves(case, |moved| moved.old.ip() == moved.new.ip());
    let Some(first) = moves.first() else { return Vec::new() };
    let at = case.evidence.seconds(first.at);
    let times = if moves.len() == 1 { "once".to_owned() } else { format!("{} times", moves.len()) };
    vec![
        Claim::new(Cause::NatRebinding, Side::Path)
            .direction(Direction::Up)
            .because(Evidence {
                flows: names(case, &moves),
                from_s: Some(at),
                says: format!(
                    "the listener saw the source port of a busy flow change {times}, first from {} to {}",
                    first.old, first.new
                ),
                ..Evidence::default()
            })
            .parameters(Parameters {
                old: Some(first.old.to_string()),
                new: Some(first.new.to_string()),
                number: Some(moves.len() as u64),
                ..Parameters::default()
            })
            .explaining(broken(case))
            .rather_than(Cause::AddressChanged, "the address itself stayed the same"),
    ]
}
