//! Reads `ufw status verbose` (ufw(8)), for a judgement where the rules beneath it cannot be read.

use super::model::Protocol;
use super::value;

/// What ufw does with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UfwSays {
    Inactive,
    Open,
    /// The rule or policy that closes it.
    Closed(String),
    /// Hangs on this line.
    Unknown(String),
}

/// What the rules in `status` do with traffic from anywhere to `port`, over IPv4: the first that matches decides.
pub(super) fn says(status: &str, port: u16, protocol: Protocol) -> UfwSays {
    if status.lines().any(|line| line.trim() == "Status: inactive") {
        return UfwSays::Inactive;
    }
    let Some(policy) = status.lines().find_map(|line| line.strip_prefix("Default:")) else {
        return UfwSays::Unknown("no line `Default:`".to_owned());
    };
    let rules = status.lines().skip_while(|line| !line.starts_with("--")).skip(1);
    for rule in rules.map(str::trim).filter(|rule| !rule.is_empty()) {
        if rule.contains("(v6)") {
            continue;
        }
        // Columns are at least two blanks apart.
        let columns: Vec<&str> =
            rule.split("  ").map(str::trim).filter(|column| !column.is_empty()).collect();
        let [to, action, from, ..] = columns.as_slice() else { return UfwSays::Unknown(rule.to_owned()) };
        if action.ends_with("OUT") || action.ends_with("FWD") {
            continue;
        }
        match matches(to, port, protocol) {
            Some(false) => continue,
            Some(true) => {}
            None => return UfwSays::Unknown(rule.to_owned()),
        }
        let everybody = *from == "Anywhere";
        match action.split_whitespace().next() {
            Some("ALLOW") if everybody => return UfwSays::Open,
            Some("DENY" | "REJECT") if everybody => return UfwSays::Closed(rule.to_owned()),
            // A rule for some sources does not decide for the rest; for those it does.
            Some("DENY" | "REJECT") => {}
            _ => return UfwSays::Unknown(rule.to_owned()),
        }
    }
    match policy.split("(incoming)").next().map(str::trim) {
        Some("allow") => UfwSays::Open,
        Some("deny" | "reject") => UfwSays::Closed(format!("Default:{policy}")),
        _ => UfwSays::Unknown(format!("Default:{policy}")),
    }
}

/// Whether a rule's `To` holds the port; `None` where it is not modelled (an application profile, an interface).
fn matches(to: &str, port: u16, protocol: Protocol) -> Option<bool> {
    if to == "Anywhere" {
        return Some(true);
    }
    let (ports, of) = match to.split_once('/') {
        Some((ports, of)) => (ports, Some(of)),
        None => (to, None),
    };
    let ranges = value::ports(ports)?;
    let right_protocol = match of {
        None => true,
        Some("tcp" | "udp") => of == Some(protocol.name()),
        Some(_) => return None,
    };
    Some(right_protocol && ranges.contains(port.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_status_is_judged_rule_by_rule() {
        let status = include_str!("../samples/ufw-status.txt");
        assert_eq!(says(status, 8886, Protocol::Udp), UfwSays::Open);
        assert!(
            matches!(says(status, 8886, Protocol::Tcp), UfwSays::Unknown(rule) if rule.contains("LIMIT"))
        );
        assert_eq!(says(status, 9005, Protocol::Udp), UfwSays::Open, "9000:9010/udp");
        assert!(matches!(says(status, 9011, Protocol::Udp), UfwSays::Closed(rule) if rule.contains("deny")));
        assert!(
            matches!(says(status, 443, Protocol::Tcp), UfwSays::Unknown(rule) if rule.contains("10.1.0.0/16"))
        );
        assert_eq!(says("Status: inactive\n", 8886, Protocol::Udp), UfwSays::Inactive);
    }

    #[test]
    fn an_application_profile_is_named() {
        let status = "Status: active\nDefault: deny (incoming), allow (outgoing), disabled (routed)\n\nTo   Action  \
                      From\n--   ------  ----\nNginx Full                 ALLOW IN    Anywhere\n";
        assert!(
            matches!(says(status, 8886, Protocol::Tcp), UfwSays::Unknown(rule) if rule.contains("Nginx Full"))
        );
    }
}
