//! `dscp-rewritten`: a DSCP that was sent always arrives as another one.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Parameters, Side};

use super::{changed, direction, evidence, seen};
use crate::causes::{Case, Claim};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let way = |up| changed(&seen(case, up, |tos| tos >> 2), |sent, got| sent != got);
    let (up, down) = (way(true), way(false));
    let Some(direction) = direction(!up.is_empty(), !down.is_empty()) else { return Vec::new() };
    let map = up.iter().chain(&down).map(|(sent, (got, _))| (sent.to_string(), got.to_string())).collect();
    let mut claim = Claim::new(Cause::DscpRewritten, Side::Path)
        .direction(direction)
        .parameters(Parameters { map: Some(map), ..Parameters::default() });
    claim.evidence.extend(evidence(case, "up", &up, "DSCP"));
    claim.evidence.extend(evidence(case, "down", &down, "DSCP"));
    vec![claim]
}
