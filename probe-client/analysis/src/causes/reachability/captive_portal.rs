//! `captive-portal`: a sign-in page answers in everybody's place.
//!
//! An ordinary web server on the port answers with a page too; only what no server at the target would say tells a
//! portal: "network authentication required" (RFC 6585 section 6), or a redirect to a different host.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Parameters, Side};

use super::{ALL, evidence, together};
use crate::causes::{Case, Claim};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let target = case.evidence.resolved.as_ref().map(|resolved| resolved.host.as_str());
    case.places
        .iter()
        .filter_map(|place| {
            let all = together(place, ALL);
            let own = [target.unwrap_or_default().to_owned(), place.address.ip().to_string()];
            let answer = all
                .iter()
                .flat_map(|o| &o.foreign)
                .find(|(looks_like, http)| *http && is_portal(looks_like, &own))?;
            let says = format!("{} was answered with {}", place.address, answer.0);
            Some(
                Claim::new(Cause::CaptivePortal, Side::ClientNetwork)
                    .at(place.address, ALL)
                    .probability(0.97)
                    .because(evidence(&all, says))
                    .parameters(Parameters { kind: Some(answer.0.clone()), ..Parameters::default() })
                    .rather_than(
                        Cause::WrongHost,
                        "a server at the target would not send people to another host",
                    ),
            )
        })
        .collect()
}

/// Reads what the client noted: `HTTP 302 to http://portal/sign-in`.
fn is_portal(looks_like: &str, own: &[String]) -> bool {
    let mut words = looks_like.split_whitespace();
    if words.next() != Some("HTTP") {
        return false;
    }
    match (words.next(), words.next(), words.next()) {
        (Some("511"), _, _) => true,
        (Some("301" | "302" | "303" | "307" | "308"), Some("to"), Some(location)) => {
            host_of(location).is_some_and(|host| !own.iter().any(|own| own.eq_ignore_ascii_case(host)))
        }
        (_, _, _) => false,
    }
}

/// The host of an absolute address; none of a relative one.
fn host_of(location: &str) -> Option<&str> {
    let (_, rest) = location.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next(),
        None => authority.split(':').next(),
    }
    .filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_server_would_not_say_is_a_portal() {
        let own = ["probe.example.org".to_owned(), "192.0.2.1".to_owned()];
        for yes in
            ["HTTP 511", "HTTP 302 to http://portal.hotel/sign-in", "HTTP 307 to https://10.0.0.1:8080/?u=x"]
        {
            assert!(is_portal(yes, &own), "{yes}");
        }
        for no in [
            "HTTP 400",
            "HTTP 200",
            "HTTP 301 to https://probe.example.org/",
            "HTTP 302 to /login",
            "HTTP 302 to https://192.0.2.1:8443/",
            "SSH",
            "",
        ] {
            assert!(!is_portal(no, &own), "{no}");
        }
    }
}
