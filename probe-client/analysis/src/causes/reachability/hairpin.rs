//! `hairpin`: the client is inside the network that it should test from outside. The target has a public address, and
//! yet the listener sees the client from a private address or from the target's own. Untranslated, that alone may be a
//! network that uses public addresses inside, or one without NAT; it is a hairpin where the target is translated.

use std::net::IpAddr;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::{Case, Claim};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let seen = case.flows.iter().find_map(|(flow, _)| {
        let opened = flow.opened.as_ref()?;
        let (target, source, observed) = (flow.plan.to.ip(), opened.source.ip(), opened.observed.ip());
        let translated = observed != source || case.is_translated(target) == Some(true);
        let turned = translated && (is_private(observed) || observed == target);
        (is_public(target) && turned).then(|| (flow.plan.name.clone(), target, observed))
    });
    let Some((name, target, observed)) = seen else { return Vec::new() };
    let says =
        format!("the target {target} is a public address, and the listener sees this client as {observed}");
    vec![
        Claim::new(Cause::Hairpin, Side::ClientNetwork)
            .probability(0.97)
            .because(Evidence { flows: vec![name], says, ..Evidence::default() })
            .parameters(Parameters { new: Some(observed.to_string()), ..Parameters::default() }),
    ]
}

/// RFC 1918, RFC 4193.
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xfe00 == 0xfc00,
    }
}

fn is_public(ip: IpAddr) -> bool {
    let special = match ip {
        // RFC 6598: shared address space of carriers.
        IpAddr::V4(v4) => v4.is_link_local() || v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64,
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    !special && !is_private(ip) && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_is_what_the_world_can_reach() {
        for (ip, public) in [
            ("8.8.8.8", true),
            ("100.63.255.255", true),
            ("100.64.0.0", false),
            ("100.127.255.255", false),
            ("100.128.0.0", true),
            ("172.15.0.1", true),
            ("172.16.0.1", false),
            ("127.0.0.1", false),
            ("2001:db8::1", true),
            ("fd00::1", false),
            ("fe80::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_public(ip.parse().unwrap()), public, "{ip}");
        }
    }
}
