//! `local-filter`: the client's own host forbids the traffic: sending or connecting is refused before it leaves.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::{DATAGRAMS, STREAMS, any_reaches, evidence, together, total};
use crate::causes::{Case, Claim};
use crate::summarise::reach::Place;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.places
        .iter()
        .flat_map(|place| {
            [claim(place, STREAMS, STREAMS, "TCP"), claim(place, &[Carrier::Udp], DATAGRAMS, "UDP")]
                .into_iter()
                .flatten()
        })
        .collect()
}

/// Judges the attempts over `tried`, which explain those over `covers`.
fn claim(place: &Place, tried: &[Carrier], covers: &'static [Carrier], protocol: &str) -> Option<Claim> {
    let tried = together(place, tried);
    let errors: Vec<_> = tried.iter().flat_map(|o| o.local_errors.clone()).collect();
    let forbidden = errors.iter().filter(|says| is_forbidden(says)).count() as u64;
    let failures = total(&tried, |o| o.failures());
    if any_reaches(&tried) || forbidden == 0 || forbidden < failures {
        return None;
    }
    let says = format!(
        "this computer itself forbade {forbidden} of {failures} attempts over {protocol}: {}",
        errors[0]
    );
    Some(
        Claim::new(Cause::LocalFilter, Side::Client)
            .at(place.address, covers)
            .direction(Direction::Up)
            .probability(0.97)
            .because(evidence(&tried, says))
            .parameters(Parameters {
                kind: Some(protocol.to_ascii_lowercase()),
                reason: errors.first().cloned(),
                ..Parameters::default()
            })
            .rather_than(Cause::UdpBlocked, "nothing left this computer"),
    )
}

/// EPERM and EACCES of Unix, WSAEACCES of Windows, in the system's words, in those of our own sockets, or by number.
fn is_forbidden(says: &str) -> bool {
    let says = says.to_ascii_lowercase();
    [
        "not permitted",
        "not permit the packet",
        "permission denied",
        "os error 1)",
        "os error 13)",
        "os error 10013)",
    ]
    .iter()
    .any(|mark| says.contains(mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_prohibition_is_a_filter() {
        assert!(is_forbidden("Operation not permitted (os error 1)"));
        assert!(is_forbidden("this host does not permit the packet to leave"));
        assert!(is_forbidden("Zugriff verweigert (os error 10013)"));
        assert!(!is_forbidden("Too many open files (os error 24)"));
        assert!(!is_forbidden("Network is unreachable (os error 101)"));
        assert!(!is_forbidden("Connection refused (os error 111)"));
    }
}
