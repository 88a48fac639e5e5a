//! From two connections to a verdict on the way out. Pure.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Finding, Rival, Severity};

use super::chain::{Chain, Trust, Validity};
use super::{EgressOptions, Seen, Silence};
use crate::doctor::report::{Check, Part, finding};

const NAME: &str = "licence-name";
const TCP: &str = "licence-tcp";
const TLS: &str = "licence-tls";

/// This program's own TLS could not start.
pub(super) fn no_tls(said: &str) -> Part {
    Part::default().check(Check::unknown(
        TLS,
        format!("TLS could not be set up: {said}"),
        "a report of this as a bug",
    ))
}

/// What the two connections say, with the proxies that the environment names.
pub(super) fn verdict(options: &EgressOptions, license: &Seen, control: &Seen, proxies: &[String]) -> Part {
    let target = options.license.to_string();
    let beside = beside(options, control);
    let proxy = if proxies.is_empty() {
        String::new()
    } else {
        format!("; the environment names a proxy ({}), and the product connects directly", proxies.join(", "))
    };
    let mut part = Part::default();
    match license {
        Seen::NoName(said) => {
            let says = format!("{} does not resolve ({said}); {beside}{proxy}", options.license.host);
            let mut found = outbound(
                Cause::EgressNameNotFound,
                &says,
                if matches!(control, Seen::NoName(_)) {
                    "No name resolves on this host: set its DNS server right (resolv.conf, network settings)."
                } else {
                    "Let this host's DNS server resolve the licence server's name; a DNS filter may be hiding it."
                },
            );
            found.parameters.reason = Some(said.clone());
            part = part.check(Check::problem(NAME, says)).finding(found);
        }
        Seen::NoTcp { how, said } => {
            let (kind, words) = match how {
                Silence::Refused => ("refused", "is refused"),
                Silence::Silent => ("silent", "is not answered"),
                Silence::NoRoute => ("no-route", "finds no way"),
            };
            let says = format!("TCP to {target} {words} ({said}); {beside}{proxy}");
            let fix = format!(
                "Allow TCP to {target} outbound, on this host and on every firewall before the internet."
            );
            let mut found = blocked(&says, &fix, kind);
            found.parameters.reason = Some(said.clone());
            part = part.check(Check::ok(NAME, format!("{} resolves", options.license.host)));
            part = part.check(Check::problem(TCP, says)).finding(found);
        }
        Seen::NoTls { how, said } => {
            let says = format!("TCP to {target} opens, but TLS does not ({said}); {beside}{proxy}");
            let fix = format!(
                "Allow TLS to {target} outbound: something on the way takes the connection and lets no TLS through."
            );
            let mut found = blocked(&says, &fix, how);
            found.parameters.reason = Some(said.clone());
            part = part.check(Check::ok(NAME, format!("{} resolves", options.license.host)));
            part = part.check(Check::ok(TCP, format!("TCP to {target} opens")));
            part = part.check(Check::problem(TLS, says)).finding(found);
        }
        Seen::Chain(chain) => {
            part = part.check(Check::ok(NAME, format!("{} resolves", options.license.host)));
            part = part.check(Check::ok(TCP, format!("TCP to {target} opens")));
            part = part.and(certificate(options, chain, control, &beside));
        }
    }
    part.check(Check::ok(
        "proxy",
        if proxies.is_empty() {
            "the environment names no proxy".to_owned()
        } else {
            format!("the environment names a proxy ({}); the product connects directly", proxies.join(", "))
        },
    ))
}

/// What the control host showed, as half a sentence.
fn beside(options: &EgressOptions, control: &Seen) -> String {
    let name = &options.control;
    match control {
        Seen::NoName(_) => format!("the control host {} does not resolve either", name.host),
        Seen::NoTcp { .. } => format!("the control host {name} cannot be reached either"),
        Seen::NoTls { .. } => format!("the control host {name} opens TCP, and no TLS either"),
        Seen::Chain(chain) => match chain.public {
            Trust::Trusted => format!("the control host {name} shows its public certificate"),
            Trust::Untrusted(_) | Trust::WrongName | Trust::NoStore(_) => {
                format!("the control host {name} shows a certificate of \"{}\"", chain.issuer)
            }
        },
    }
}

fn certificate(options: &EgressOptions, chain: &Chain, control: &Seen, beside: &str) -> Part {
    let target = &options.license;
    let other = match control {
        Seen::Chain(other) => Some(other),
        Seen::NoName(_) | Seen::NoTcp { .. } | Seen::NoTls { .. } => None,
    };
    let part = Part::default();
    let problem =
        |part: Part, says: &str, found: Finding| part.check(Check::problem(TLS, says)).finding(found);
    match &chain.public {
        Trust::Untrusted(_) | Trust::NoStore(_) => return not_public(options, chain, other, beside),
        Trust::WrongName => {
            let says = format!(
                "{target} shows a public certificate for another name (\"{}\"); {beside}",
                chain.subject
            );
            let fix = "Ask who answers in place of the licence server: a captive portal, a wrong DNS entry, a proxy.";
            return problem(part, &says, blocked(&says, fix, "wrong-name-certificate"));
        }
        Trust::Trusted => {}
    }
    if chain.validity != Validity::Now {
        let (word, kind) = match chain.validity {
            Validity::Past => ("expired", "expired-certificate"),
            Validity::Future | Validity::Now => ("not yet valid", "not-yet-valid-certificate"),
        };
        if other.is_some_and(|other| other.validity == chain.validity) {
            let says = format!(
                "the certificates of {target} and of the control host both seem {word} ({}): this host's clock is wrong",
                chain.lifetime
            );
            let fix = "Set this host's clock, and keep it set (NTP).";
            let mut found = blocked(&says, fix, "wrong-clock");
            found.commands = crate::doctor::limits::clock_commands();
            return problem(part, &says, found);
        }
        let says = format!("the certificate of {target} is {word} ({}); {beside}", chain.lifetime);
        let fix = "Tell the operator of the licence server; if this host's clock is wrong, set it.";
        let mut found = blocked(&says, fix, kind);
        if other.is_none() {
            // Without a second opinion the clock may be what is wrong.
            found.cause = Cause::Unexplained;
            found.probability = 0.8;
            found.rival = Some(Rival {
                cause: Cause::ClockStepped,
                rejected_because: "not rejected: no control host could be asked what time it is".to_owned(),
            });
        }
        return problem(part, &says, found);
    }
    let inspected =
        other.is_some_and(|other| other.public != Trust::Trusted && other.public != Trust::WrongName);
    let mut says = format!("{target} shows its public certificate, issued by \"{}\"", chain.issuer);
    if inspected {
        says = format!("{says}; {beside}, so an inspector is on the way and leaves the licence server alone");
    } else if let Trust::Untrusted(_) | Trust::NoStore(_) = chain.host {
        says = format!(
            "{says}; this host's own store does not know the issuer, so programs that use it will refuse it"
        );
        return part.check(Check::problem(TLS, says).command("Linux", "update the package ca-certificates"));
    }
    part.check(Check::ok(TLS, says))
}

/// A chain that no public root signed: an inspector's, or a private one.
fn not_public(options: &EgressOptions, chain: &Chain, other: Option<&Chain>, beside: &str) -> Part {
    let target = &options.license;
    let trusted_here = chain.host == Trust::Trusted;
    let store = match &chain.host {
        Trust::Trusted => "this host's own store trusts it",
        Trust::WrongName => "this host's own store knows the issuer, but the name is another",
        Trust::Untrusted(_) => "this host's own store does not know it either",
        Trust::NoStore(_) => "this host's own store could not be read",
    };
    let says = format!(
        "{target} shows a certificate of \"{}\", which is not public; {store}; {beside}",
        chain.issuer
    );
    let both_replaced = other.is_some_and(|other| matches!(other.public, Trust::Untrusted(_)));
    let same = other.is_some_and(|other| other.issuer == chain.issuer);
    let default_host = *target == EgressOptions::default().license;
    let mut found = if both_replaced || (other.is_none() && trusted_here && default_host) {
        let fix = "Exempt the licence server from TLS inspection (also called SSL inspection, HTTPS decryption): by its \
                   name and port, on the firewall or proxy that issues this certificate.";
        let mut found = outbound(Cause::EgressIntercepted, &says, fix);
        // Programs that use the host's store go on working; those with roots of their own do not.
        found.severity = if trusted_here { Severity::Degraded } else { Severity::Blocking };
        found.probability = if same { 0.99 } else { 0.96 };
        found.rival = Some(Rival {
            cause: Cause::EgressBlocked,
            rejected_because: if same {
                "the control host's certificate comes from the same issuer".to_owned()
            } else {
                "a private certificate of the licence server would not be in this place".to_owned()
            },
        });
        found
    } else if other.is_some() && !trusted_here {
        let fix = "If this licence server is your own, give this host its certificate authority; if not, ask who answers \
                   in its place.";
        let mut found = blocked(&says, fix, "private-certificate");
        found.probability = 0.95;
        found.rival = Some(Rival {
            cause: Cause::EgressIntercepted,
            rejected_because: "the control host shows its own public certificate".to_owned(),
        });
        found
    } else {
        // Trusted by this host and the control host untouched, or no control host to ask: both readings stand.
        let fix = "Ask whether this licence server has a private certificate; if not, exempt it from TLS inspection.";
        let mut found = outbound(Cause::Unexplained, &says, fix);
        found.severity = if trusted_here { Severity::Info } else { Severity::Blocking };
        found.probability = 0.6;
        found.parameters.kind = Some("private-certificate".to_owned());
        let decides = "candidates: a private certificate of the licence server, or TLS inspection; a control host that \
                       shows the same issuer would decide";
        found.evidence.push(Evidence { says: decides.to_owned(), ..Evidence::default() });
        found.rival = Some(Rival {
            cause: Cause::EgressIntercepted,
            rejected_because: "not rejected: the evidence does not decide".to_owned(),
        });
        found
    };
    found.parameters.issuer = Some(chain.issuer.clone());
    Part::default().check(Check::problem(TLS, says)).finding(found)
}

fn outbound(cause: Cause, says: &str, fix: &str) -> Finding {
    finding(cause, Severity::Blocking, says, fix)
}

fn blocked(says: &str, fix: &str, kind: &str) -> Finding {
    let mut found = outbound(Cause::EgressBlocked, says, fix);
    found.parameters.kind = Some(kind.to_owned());
    found
}
