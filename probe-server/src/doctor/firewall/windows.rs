//! Reads the rules of Windows Defender Firewall from the registry, where they stand in one form whatever the
//! language (`netsh` prints them translated, `Get-NetFirewallRule` is slow with its filters), and evaluates them ([MS-FASP]
//! section 2.2.37, "v2.x" strings).

use super::model::Protocol;
use super::value;

/// A rule as `NAME REG_SZ v2.31|Action=Allow|Active=TRUE|Dir=In|…|`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// The registry value's name: what `Remove-NetFirewallRule -Name` takes.
    pub(super) id: String,
    pub(super) fields: Vec<(String, String)>,
}

impl Rule {
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// What the admin sees it called.
    pub(super) fn name(&self) -> &str {
        self.get("Name").unwrap_or(&self.id)
    }

    /// The question asked at a program's first start leaves rules so named; a cancelled one leaves them to block.
    pub(super) fn left_by_a_prompt(&self) -> bool {
        self.id.starts_with("TCP Query User{") || self.id.starts_with("UDP Query User{")
    }
}

/// A profile's switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) enabled: bool,
    /// What no rule names is let in.
    pub(super) allow_by_default: bool,
    /// Rules that allow are not looked at ("block all incoming connections").
    pub(super) block_all: bool,
}

/// What the firewall does with traffic to a program's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WindowsSays {
    Off,
    Open,
    ClosedByDefault,
    BlockAll,
    Blocked(Box<Rule>),
    Unknown(String),
}

/// The rules in the output of `reg query …\FirewallPolicy\FirewallRules`.
pub(super) fn rules(text: &str) -> Vec<Rule> {
    text.lines()
        .filter_map(|line| {
            let (id, value) = line.split_once("REG_SZ")?;
            let mut parts = value.trim().split('|');
            parts.next().filter(|version| version.starts_with('v'))?;
            let fields = parts
                .filter_map(|part| part.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            Some(Rule { id: id.trim().to_owned(), fields })
        })
        .collect()
}

/// A profile's switches from `reg query …\FirewallPolicy\StandardProfile`; Windows' own defaults where a value is
/// not set.
pub(super) fn profile(text: &str) -> Profile {
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == name && words.next()? == "REG_DWORD").then_some(())?;
            u32::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()
        })
    };
    Profile {
        enabled: value("EnableFirewall") != Some(0),
        allow_by_default: value("DefaultInboundAction") == Some(0),
        block_all: value("DoNotAllowExceptions") == Some(1),
    }
}

/// Whether rule names a program, or all.
fn program_matches(rule: &Rule, program: &str) -> bool {
    let Some(app) = rule.get("App") else { return true };
    // The registry writes `%SystemRoot%` and its like; a probe's path holds none.
    app.replace('/', "\\").eq_ignore_ascii_case(&program.replace('/', "\\"))
}

/// What the rules do with traffic from anywhere to `port` of `program` in the profile named `profile_name`
/// (`Domain`, `Private`, `Public`). A rule that blocks wins over all that allow.
pub(super) fn says(
    rules: &[Rule],
    profile: Profile,
    profile_name: &str,
    program: &str,
    port: u16,
    protocol: Protocol,
) -> WindowsSays {
    if !profile.enabled {
        return WindowsSays::Off;
    }
    if profile.block_all {
        return WindowsSays::BlockAll;
    }
    let mut open = false;
    let mut maybe_allows = None;
    let mut maybe_blocks = None;
    for rule in rules {
        if rule.get("Active") != Some("TRUE") || rule.get("Dir") != Some("In") {
            continue;
        }
        let mut profiles = rule.all("Profile").peekable();
        if profiles.peek().is_some() && !profiles.any(|name| name == profile_name) {
            continue;
        }
        let number = protocol.number().to_string();
        if rule.get("Protocol").is_some_and(|of| of != number) || !program_matches(rule, program) {
            continue;
        }
        // A store application's or a service's rule is not about this program.
        if ["AppPkgId", "PlatformValidity", "Svc"].iter().any(|key| rule.get(key).is_some()) {
            continue;
        }
        let ports = local_ports(rule, port);
        if ports == Some(false) {
            continue;
        }
        let narrowed = rule.fields.iter().find(|(key, _)| !KNOWN.contains(&key.as_str()));
        let allows = rule.get("Action") == Some("Allow");
        match (ports, narrowed) {
            (Some(_), None) if allows => open = true,
            (Some(_), None) => return WindowsSays::Blocked(Box::new(rule.clone())),
            _ => {
                let narrowed = narrowed.map(|(key, value)| format!(", {key}={value}")).unwrap_or_default();
                let construct = format!("rule \"{}\"{narrowed}", rule.name());
                if allows { &mut maybe_allows } else { &mut maybe_blocks }.get_or_insert(construct);
            }
        }
    }
    if let Some(construct) = maybe_blocks {
        return WindowsSays::Unknown(construct);
    }
    match maybe_allows {
        _ if open || profile.allow_by_default => WindowsSays::Open,
        Some(construct) => WindowsSays::Unknown(construct),
        None => WindowsSays::ClosedByDefault,
    }
}

/// The fields of a rule that are modelled, or that do not narrow whom it is for.
const KNOWN: [&str; 13] = [
    "Action",
    "Active",
    "Dir",
    "Profile",
    "Protocol",
    "App",
    "LPort",
    "LPort2_10",
    "Name",
    "Desc",
    "EmbedCtxt",
    "Edge",
    "Defer",
];

/// Whether the rule holds the local port; `None` for words such as `RPC`, which no probe is.
fn local_ports(rule: &Rule, port: u16) -> Option<bool> {
    let mut named = rule.all("LPort").chain(rule.all("LPort2_10")).peekable();
    if named.peek().is_none() {
        return Some(true);
    }
    for text in named {
        match value::ports(text) {
            Some(ranges) if ranges.contains(port.into()) => return Some(true),
            Some(_) => {}
            None if matches!(
                text,
                "RPC" | "RPC-EPMap" | "IPHTTPSIn" | "IPHTTPSOut" | "Ply2Disc" | "Teredo"
            ) => {}
            None if text.starts_with("mDNS") => {}
            None => return None,
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: Profile = Profile { enabled: true, allow_by_default: false, block_all: false };
    const PROGRAM: &str = r"C:\probe\probe-server.exe";

    /// In the form in which `reg query` prints it.
    fn recorded(more: &str) -> Vec<Rule> {
        let head = "\r\nHKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Services\\SharedAccess\\Parameters\\\
                    FirewallPolicy\\FirewallRules\r\n    CoreNet-DHCP-In    REG_SZ    v2.31|Action=Allow|Active=TRUE|\
                    Dir=In|Protocol=17|LPort=68|RPort=67|App=%SystemRoot%\\system32\\svchost.exe|Svc=dhcp|Name=@x|\r\n";
        rules(&format!("{head}{more}"))
    }

    fn both(rules: &[Rule], profile: Profile, name: &str) -> [WindowsSays; 2] {
        Protocol::BOTH.map(|protocol| says(rules, profile, name, PROGRAM, 8886, protocol))
    }

    #[test]
    fn default_and_switches() {
        let rules = recorded("");
        assert_eq!(rules.len(), 1);
        assert_eq!(both(&rules, ON, "Public"), [WindowsSays::ClosedByDefault, WindowsSays::ClosedByDefault]);
        let off = Profile { enabled: false, ..ON };
        assert_eq!(both(&rules, off, "Public"), [WindowsSays::Off, WindowsSays::Off]);
        let lax = Profile { allow_by_default: true, ..ON };
        assert_eq!(both(&rules, lax, "Public"), [WindowsSays::Open, WindowsSays::Open]);
        let strict = Profile { block_all: true, ..ON };
        assert_eq!(both(&rules, strict, "Public"), [WindowsSays::BlockAll, WindowsSays::BlockAll]);
        let text =
            "    EnableFirewall    REG_DWORD    0x1\r\n    DoNotAllowExceptions    REG_DWORD    0x0\r\n";
        assert_eq!(profile(text), ON);
        assert!(!profile("    EnableFirewall    REG_DWORD    0x0\r\n").enabled);
    }

    #[test]
    fn ports_ranges_profiles_and_programs() {
        let tcp = "    a    REG_SZ    v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=6|LPort=80|LPort=8886|Name=web|\r\n";
        assert_eq!(both(&recorded(tcp), ON, "Public"), [WindowsSays::Open, WindowsSays::ClosedByDefault]);
        let range = "    b    REG_SZ    v2.31|Action=Allow|Active=TRUE|Dir=In|Protocol=17|LPort2_10=8880-8890|Name=r|\r\n";
        assert_eq!(both(&recorded(range), ON, "Public"), [WindowsSays::ClosedByDefault, WindowsSays::Open]);
        let domain = "    c    REG_SZ    v2.31|Action=Allow|Active=TRUE|Dir=In|Profile=Domain|Name=d|\r\n";
        assert_eq!(both(&recorded(domain), ON, "Public")[0], WindowsSays::ClosedByDefault);
        assert_eq!(both(&recorded(domain), ON, "Domain")[0], WindowsSays::Open);
        let other = "    d    REG_SZ    v2.31|Action=Allow|Active=TRUE|Dir=In|App=C:\\other.exe|Name=o|\r\n";
        assert_eq!(both(&recorded(other), ON, "Public")[0], WindowsSays::ClosedByDefault);
        let inactive = "    e    REG_SZ    v2.31|Action=Allow|Active=FALSE|Dir=In|Name=i|\r\n";
        assert_eq!(both(&recorded(inactive), ON, "Public")[0], WindowsSays::ClosedByDefault);
    }

    #[test]
    fn a_cancelled_prompt_leaves_a_block_that_wins() {
        let text = "    UDP Query User{1C1F}C:\\probe\\probe-server.exe    REG_SZ    v2.31|Action=Block|Active=TRUE|\
                    Dir=In|Protocol=17|Profile=Public|App=C:\\probe\\probe-server.exe|Name=probe-server.exe|Defer=User|\
                    \r\n    x    REG_SZ    v2.31|Action=Allow|Active=TRUE|Dir=In|LPort=8886|Name=probe|\r\n";
        let rules = recorded(text);
        let [tcp, udp] = both(&rules, ON, "Public");
        assert_eq!(tcp, WindowsSays::Open);
        assert!(matches!(udp, WindowsSays::Blocked(rule) if rule.left_by_a_prompt()));
        assert_eq!(both(&rules, ON, "Private")[1], WindowsSays::Open);
    }

    #[test]
    fn what_narrows_a_rule_is_named() {
        let text = "    x    REG_SZ    v2.31|Action=Allow|Active=TRUE|Dir=In|LPort=8886|RA4=LocalSubnet|Name=lan|\r\n";
        assert_eq!(
            both(&recorded(text), ON, "Public")[1],
            WindowsSays::Unknown("rule \"lan\", RA4=LocalSubnet".to_owned())
        );
    }
}
