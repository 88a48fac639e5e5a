//! `tls-intercepted`: the two ends of a channel derive different secrets (RFC 9266), or the certificate is another one
//! than the invite's.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim};

const TLS: &[Carrier] = &[Carrier::Tls, Carrier::Quic];

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .filter_map(|place| {
            let seen: Vec<_> = place.openings.values().flat_map(|o| o.intercepted.clone()).collect();
            let first = seen.first()?;
            let proven = seen.iter().any(|i| i.exporter_differs);
            let issuer = first.issuer.clone();
            let says = match (proven, seen.iter().any(|i| i.certificate_differs)) {
                (true, true) => "the two ends hold different keys, and the certificate is not the listener's",
                (true, false) => "the two ends hold different keys (RFC 9266 exporters differ)",
                (false, _) => {
                    "the certificate is not the one in the invite, and plain TCP does reach the listener"
                }
            };
            let by = issuer.as_ref().map(|issuer| format!("; it was issued by {issuer}")).unwrap_or_default();
            Some(
                Claim::new(Cause::TlsIntercepted, Side::PathOrEndpoint)
                    .at(place.address, TLS)
                    .direction(Direction::Both)
                    .probability(if proven { 0.99 } else { 0.97 })
                    .because(Evidence {
                        flows: seen.iter().map(|i| i.flow.clone()).collect(),
                        says: format!("{says}{by}"),
                        ..Evidence::default()
                    })
                    .parameters(Parameters { issuer, ..Parameters::default() })
                    .rather_than(Cause::WrongHost, "the listener itself answers at the same address"),
            )
        })
        .collect()
}
