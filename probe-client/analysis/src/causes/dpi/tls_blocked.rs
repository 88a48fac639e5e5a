//! `tls-blocked`: TLS dies after its first message while plain TCP to the same port lives.
//!
//! An inspector that refuses our self-signed certificate looks the same; only other names and certificates, crossed,
//! tell them apart. Those experiments are not in this version, so it is never certain.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim};
use crate::stats::hypothesis::fisher_at_least;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .filter_map(|place| {
            let (tls, tcp) = (place.of(Carrier::Tls), place.of(Carrier::Tcp));
            let after_connecting = tls.silent_connected + tls.cut + tls.handshake_errors.len() as u64;
            if tls.reaches_listener() || !tls.intercepted.is_empty() || after_connecting == 0 || tcp.opened == 0 {
                return None;
            }
            let p = fisher_at_least(tls.failures(), tls.failures(), 0, tcp.opened);
            let says = format!(
                "{after_connecting} of {} TLS attempts connected and then got no further ({} cut with a reset), while \
                 plain TCP to the same port opened",
                tls.failures(),
                tls.cut_by_reset
            );
            Some(
                Claim::new(Cause::TlsBlocked, Side::Path)
                    .at(place.address, &[Carrier::Tls])
                    .probability(0.8)
                    .because(Evidence {
                        flows: tls.flows.iter().chain(&tcp.opened_flows).cloned().collect(),
                        says,
                        test: Some("Fisher's exact test".to_owned()),
                        p: Some(p),
                        ..Evidence::default()
                    })
                    .or(
                        [Cause::TlsIntercepted],
                        "TLS with other server names, without one, and with a publicly trusted certificate",
                    ),
            )
        })
        .collect()
}
