//! `quic-blocked`: QUIC dies, while its bitwise inverse (same sizes, same times) and random datagrams live.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim};
use crate::stats::hypothesis::fisher_at_least;
use crate::stats::timeline::Counts;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    case.live_places()
        .filter_map(|place| {
            let (quic, twin, udp) = (place.of(Carrier::Quic), place.of(Carrier::QuicInverse), place.of(Carrier::Udp));
            let failed = quic.failures();
            if quic.reaches_listener() || failed == 0 || udp.opened == 0 || !quic.foreign.is_empty() {
                return None;
            }
            // Each attempt is one trial; an opening took one trial or more, of which one succeeded.
            let p = fisher_at_least(failed, failed, twin.failures(), twin.failures() + twin.opened);
            let twin_lives = twin.opened > 0;
            let mut claim = Claim::new(Cause::QuicBlocked, Side::Path)
                .at(place.address, &[Carrier::Quic])
                .because(Evidence {
                    flows: quic.flows.iter().chain(&twin.flows).cloned().collect(),
                    says: format!(
                        "{failed} of {failed} attempts over QUIC failed; its bitwise inverse opened {} of {} times",
                        twin.opened,
                        twin.opened + twin.failures()
                    ),
                    test: Some("Fisher's exact test".to_owned()),
                    p: Some(p),
                    ..Evidence::default()
                })
                .because(Evidence {
                    flows: udp.opened_flows.clone(),
                    says: "plain UDP on the same port gets through".to_owned(),
                    ..Evidence::default()
                })
                .or([Cause::UnknownProtocolBlocked, Cause::MtuBlackHole], "more attempts over QUIC and over its inverse")
                .probability(if twin_lives { 1.0 - p } else { 0.6 });
            if twin_lives {
                claim = claim.rather_than(Cause::LossyPath, loss_beside(case));
            }
            Some(claim)
        })
        .collect()
}

fn loss_beside(case: &Case<'_>) -> String {
    let mut sum = Counts::default();
    case.steady_udp().for_each(|(_, traffic)| sum.add(&traffic.counts));
    let percent = 100.0 * sum.lost() as f64 / sum.sent.max(1) as f64;
    format!("plain UDP lost {percent:.1} % beside it, and the inverse gets through")
}
