//! Firewalls that are asked by a tool of the system, rather than evaluated rule by rule from the kernel.

use probe_protocol::finding::Severity;

use super::firewalld::{self, ZoneSays};
use super::macos::{Answers, MacSays};
use super::model::Protocol;
use super::ufw::{self, UfwSays};
use super::windows::{self as defender, WindowsSays};
use super::{Check, Gap, Manager, Network, Part, State, both, check_name, commands, os_firewall};
use crate::doctor::exec::{ExecError, run};

/// Full path of this program: firewalls of Windows and macOS have rules for programs.
fn program() -> String {
    std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default()
}

/// The zone of the first interface that faces clients.
pub(super) async fn firewalld_zone(network: &Network) -> Option<String> {
    let zones = firewalld::zones(&run("firewall-cmd", &["--list-all-zones"]).await.ok()?);
    let default = run("firewall-cmd", &["--get-default-zone"]).await.unwrap_or_default();
    let interface = network.facing().first()?.name.clone();
    firewalld::zone_of(&zones, &interface, default.trim()).map(|zone| zone.name.clone())
}

/// What firewalld and ufw say where the kernel's rules may not be read. They can prove the port closed, not open.
pub(super) async fn without_privileges(port: u16, network: &Network, gaps: &[Gap]) -> Part {
    let needs = gaps.first().map_or_else(|| "root".to_owned(), |gap| gap.needs.clone());
    let what = gaps.first().map_or_else(String::new, |gap| gap.what.clone());
    let mut part = Part::default();
    let zones = match run("firewall-cmd", &["--list-all-zones"]).await {
        Ok(text) => firewalld::zones(&text),
        Err(_) => Vec::new(),
    };
    if !zones.is_empty() {
        let default = run("firewall-cmd", &["--get-default-zone"]).await.unwrap_or_default();
        let interface = network.facing().first().map(|interface| interface.name.clone()).unwrap_or_default();
        if let Some(zone) = firewalld::zone_of(&zones, &interface, default.trim()) {
            let mut services = std::collections::BTreeMap::new();
            // Bounded: a zone names a handful.
            for name in zone.services.iter().take(16) {
                if let Ok(text) = run("firewall-cmd", &[&format!("--info-service={name}")]).await {
                    services.insert(name.clone(), firewalld::service_ports(&text));
                }
            }
            let mut closed = Vec::new();
            for protocol in Protocol::BOTH {
                let name = check_name(protocol);
                let about = format!("{port}/{} on {interface}", protocol.name());
                part = part.check(match zone.says(port, protocol, &|name| services.get(name).cloned()) {
                    ZoneSays::Closed => {
                        closed.push(protocol);
                        Check::problem(
                            &name,
                            format!("firewalld's zone {} does not let {about} in", zone.name),
                        )
                    }
                    ZoneSays::Open => {
                        let says = format!("firewalld's zone {} lets {about} in, but {what}", zone.name);
                        Check::unknown(&name, says, needs.clone())
                    }
                    ZoneSays::Unknown(line) => {
                        let says = format!("firewalld's zone {}: {about} hangs on {line}", zone.name);
                        Check::unknown(&name, says, needs.clone())
                    }
                });
            }
            if !closed.is_empty() {
                let says = format!("zone {} holds no rule that lets the port in", zone.name);
                let mut found = os_firewall(port, &closed, Severity::Blocking, &says, "firewalld");
                let manager = Manager::Firewalld { zone: Some(zone.name.clone()) };
                found.commands = commands::open(&manager, port, &closed, &[]);
                part = part.finding(found);
            }
            return part;
        }
    }
    if let Ok(status) = run("ufw", &["status", "verbose"]).await {
        let mut closed = Vec::new();
        for protocol in Protocol::BOTH {
            let name = check_name(protocol);
            let about = format!("{port}/{}", protocol.name());
            part = part.check(match ufw::says(&status, port, protocol) {
                UfwSays::Closed(rule) => {
                    closed.push(protocol);
                    Check::problem(&name, format!("ufw does not let {about} in: `{rule}`"))
                }
                UfwSays::Open => {
                    Check::unknown(&name, format!("ufw lets {about} in, but {what}"), needs.clone())
                }
                UfwSays::Inactive => {
                    Check::unknown(&name, format!("ufw is inactive, but {what}"), needs.clone())
                }
                UfwSays::Unknown(line) => {
                    Check::unknown(&name, format!("ufw: {about} hangs on `{line}`"), needs.clone())
                }
            });
        }
        if !closed.is_empty() {
            let mut found =
                os_firewall(port, &closed, Severity::Blocking, "ufw's rules stop the port", "ufw");
            found.commands = commands::open(&Manager::Ufw, port, &closed, &[]);
            part = part.finding(found);
        }
        return part;
    }
    part.checks = both(port, State::Unknown, &|about| format!("{about}: {what}"), Some(&needs));
    part
}

const POLICY: &str = r"HKLM\SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy";
const GROUP_POLICY: &str = r"HKLM\SOFTWARE\Policies\Microsoft\WindowsFirewall";

/// Profile, its registry key, and the word of `Get-NetConnectionProfile` for it.
const PROFILES: [(&str, &str, &str); 3] = [
    ("Domain", "DomainProfile", "DomainAuthenticated"),
    ("Private", "StandardProfile", "Private"),
    ("Public", "PublicProfile", "Public"),
];

/// Windows Defender Firewall.
pub(super) async fn windows(port: u16) -> Part {
    let local = run("reg", &["query", &format!(r"{POLICY}\FirewallRules")]).await;
    let text = match local {
        Ok(text) => text,
        Err(error) => {
            let says = |about: &str| format!("{about}: the firewall's rules could not be read: {error}");
            let checks = both(port, State::Unknown, &says, Some("reading rights on the registry"));
            return Part { checks, ..Part::default() };
        }
    };
    let mut rules = defender::rules(&text);
    // Group Policy's own rules come on top, where there are any.
    if let Ok(text) = run("reg", &["query", &format!(r"{GROUP_POLICY}\FirewallRules")]).await {
        rules.extend(defender::rules(&text));
    }
    let category = run(
        "powershell",
        &["-NoProfile", "-NonInteractive", "-Command", "(Get-NetConnectionProfile).NetworkCategory"],
    )
    .await
    .unwrap_or_default();
    let known: Vec<(&str, &str)> = PROFILES
        .iter()
        .filter(|(_, _, word)| category.lines().any(|line| line.trim() == *word))
        .map(|(name, key, _)| (*name, *key))
        .collect();
    let all = PROFILES.iter().map(|(name, key, _)| (*name, *key)).collect();
    let sure = !known.is_empty();
    let mut profiles = Vec::new();
    for (name, key) in if sure { known } else { all } {
        let mut switches = run("reg", &["query", &format!(r"{POLICY}\{key}")]).await.unwrap_or_default();
        if let Ok(policy) = run("reg", &["query", &format!(r"{GROUP_POLICY}\{key}")]).await {
            // What Group Policy sets is found first.
            switches = policy + &switches;
        }
        profiles.push((name, defender::profile(&switches)));
    }
    windows_part(port, &rules, &profiles, sure, &program())
}

/// What the rules say in the profiles of the networks that this host is in; or, where those are not known (`sure` is
/// false), in all there are.
fn windows_part(
    port: u16,
    rules: &[defender::Rule],
    profiles: &[(&str, defender::Profile)],
    sure: bool,
    program: &str,
) -> Part {
    let mut part = Part::default();
    let mut closed = Vec::new();
    let mut blocking = Vec::new();
    for protocol in Protocol::BOTH {
        let name = check_name(protocol);
        let each: Vec<(&str, WindowsSays)> = profiles
            .iter()
            .map(|(name, profile)| (*name, defender::says(rules, *profile, name, program, port, protocol)))
            .collect();
        let open = |says: &WindowsSays| matches!(says, WindowsSays::Open | WindowsSays::Off);
        let agree = each.iter().all(|(_, says)| open(says)) || each.iter().all(|(_, says)| !open(says));
        // The network where it is worst decides.
        let worst = each.iter().find(|(_, says)| !open(says)).or_else(|| each.first());
        let Some((profile_name, says)) = worst else { continue };
        let about = format!("{port}/{} ({profile_name} network)", protocol.name());
        let check = match says {
            _ if !sure && !agree => {
                let says = format!(
                    "{about}: networks of other kinds are treated otherwise, and the kind is not known"
                );
                Check::unknown(&name, says, "PowerShell's Get-NetConnectionProfile")
            }
            WindowsSays::Off => {
                Check::ok(&name, format!("Windows Defender Firewall is off; nothing stops {about}"))
            }
            WindowsSays::Open => Check::ok(&name, format!("Windows Defender Firewall lets {about} in")),
            WindowsSays::ClosedByDefault => Check::problem(&name, format!("no rule lets {about} in")),
            WindowsSays::BlockAll => Check::problem(
                &name,
                format!("{about}: all incoming connections are blocked, whatever the rules say"),
            ),
            WindowsSays::Blocked(rule) => {
                let left =
                    if rule.left_by_a_prompt() { ", left by a prompt that was cancelled," } else { "" };
                Check::problem(&name, format!("{about}: rule \"{}\"{left} blocks this program", rule.name()))
            }
            WindowsSays::Unknown(construct) => {
                let needs = format!("somebody who knows what {construct} means here");
                Check::unknown(&name, format!("{about} hangs on {construct}"), needs)
            }
        };
        if check.state == State::Problem {
            closed.push((protocol, check.says.clone()));
        }
        if let WindowsSays::Blocked(rule) = says {
            blocking.push(rule.id.clone());
        }
        part = part.check(check);
    }
    if !closed.is_empty() {
        let protocols: Vec<Protocol> = closed.iter().map(|(protocol, _)| *protocol).collect();
        let says = closed.iter().map(|(_, says)| says.as_str()).collect::<Vec<_>>().join("; ");
        let mut found = os_firewall(port, &protocols, Severity::Blocking, &says, "Windows Defender Firewall");
        found.commands = commands::windows(port, &protocols, &blocking);
        part = part.finding(found);
    }
    part
}

/// macOS' application firewall.
pub(super) async fn macos(port: u16) -> Part {
    const TOOL: &str = "/usr/libexec/ApplicationFirewall/socketfilterfw";
    let ask = async |flag: &str| match run(TOOL, &[flag]).await {
        Ok(text) => text,
        Err(ExecError::Failed(_, said)) => said,
        Err(error) => error.to_string(),
    };
    let answers = Answers {
        global: ask("--getglobalstate").await,
        block_all: ask("--getblockall").await,
        apps: ask("--listapps").await,
    };
    let program = program();
    let says = super::macos::says(&answers, &program);
    let (state, words, needs) = match &says {
        MacSays::Off => (State::Ok, "macOS' application firewall is off".to_owned(), None),
        MacSays::Allowed => (State::Ok, "macOS' application firewall lets this program in".to_owned(), None),
        MacSays::Blocked(by) => {
            (State::Problem, format!("macOS' application firewall stops this program: {by}"), None)
        }
        MacSays::Asks => (
            State::Unknown,
            "macOS asks the person at the screen whether this program may be reached".to_owned(),
            Some("an answer to that question, or the command below"),
        ),
        MacSays::Unknown(said) => {
            (State::Unknown, said.clone(), Some("an answer that this program can read"))
        }
    };
    let checks = both(port, state, &|about| format!("{about}: {words}"), needs);
    let mut part = Part { checks, ..Part::default() };
    if says == MacSays::Asks {
        for check in &mut part.checks {
            check.commands = commands::macos(&program);
        }
    }
    // The packet filter beneath it is asked too; it is off unless somebody turned it on.
    if state == State::Ok {
        let (hidden, needs) = match run("pfctl", &["-s", "info"]).await {
            Ok(info) if info.contains("Status: Enabled") => match run("pfctl", &["-s", "rules"]).await {
                Ok(rules) if rules.lines().all(|line| line.contains("anchor \"com.apple/")) => return part,
                Ok(_) => (
                    "pf is on and holds rules of its own",
                    "somebody who knows the rules of `pfctl -s rules`",
                ),
                Err(_) => ("pf is on and its rules are not readable", "root"),
            },
            Ok(_) => return part,
            Err(_) => ("whether pf is on is not readable", "root"),
        };
        part.checks =
            both(port, State::Unknown, &|about| format!("{about}: {words}, but {hidden}"), Some(needs));
    }
    if let MacSays::Blocked(_) = says {
        let mut found =
            os_firewall(port, &Protocol::BOTH, Severity::Blocking, &words, "macOS application firewall");
        found.commands = commands::macos(&program);
        part = part.finding(found);
    }
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_networks_that_differ_are_decided_only_where_the_kind_is_known() {
        let rules = defender::rules(
            "    a    REG_SZ    v2.31|Action=Allow|Active=TRUE|Dir=In|Profile=Private|LPort=8886|Name=probe|\r\n",
        );
        let on = defender::profile("");
        let part = |profiles: &[(&str, defender::Profile)], sure| {
            let part = windows_part(8886, &rules, profiles, sure, "C:\\probe-server.exe");
            (part.checks[0].state, part.findings.len())
        };
        assert_eq!(part(&[("Private", on)], true), (State::Ok, 0));
        assert_eq!(part(&[("Public", on)], true), (State::Problem, 1));
        assert_eq!(part(&[("Private", on), ("Public", on)], true), (State::Problem, 1));
        assert_eq!(part(&[("Domain", on), ("Private", on), ("Public", on)], false), (State::Unknown, 0));
        assert_eq!(part(&[("Domain", on), ("Public", on)], false), (State::Problem, 1), "all agree");
    }
}
