//! Reads the rules that Linux holds, with the tools that are there. Nothing is changed.

use super::ipset;
use super::model::{Family, Origin, Ruleset, TableFamily};
use super::{Gap, iptables, nft};
use crate::doctor::exec::{ExecError, run};

const ROOT: &str = "root (or CAP_NET_ADMIN)";

/// All rules, and what could not be seen of them.
pub(super) async fn read() -> (Ruleset, Vec<Gap>) {
    let mut ruleset = Ruleset::default();
    let mut gaps = Vec::new();
    let mut no_nft = false;
    match run("nft", &["-j", "list", "ruleset"]).await {
        Ok(json) => match nft::parse(&json) {
            Ok(rules) => {
                ruleset = rules;
                if nft::lacks_devices(&ruleset) {
                    // Without it the chain's device stays unknown, by its name.
                    if let Ok(text) = run("nft", &["list", "ruleset"]).await {
                        nft::add_devices(&mut ruleset, &text);
                    }
                }
            }
            Err(error) => gaps.push(Gap::new(error.to_string(), "a newer nft")),
        },
        Err(ExecError::Denied(_)) => {
            gaps.push(Gap::new("the kernel's packet filter rules are not readable", ROOT));
            return (ruleset, gaps);
        }
        Err(ExecError::Missing(_)) => {
            no_nft = true;
            if kernel_may_hold_nft() {
                gaps.push(Gap::new("nftables may hold rules", "the program nft (package nftables)"));
            }
        }
        Err(error) => gaps.push(Gap::new(error.to_string(), "nft to work")),
    }
    let mut saves = Vec::new();
    for (family, of) in [(Family::V4, TableFamily::Ip), (Family::V6, TableFamily::Ip6)] {
        let foreign = ruleset.tables.iter().any(|table| table.foreign && table.family == of);
        if foreign || no_nft {
            match save(family, false).await {
                Ok(text) => saves.push((text, family, Origin::Iptables)),
                // Without it the constructs that nft cannot show stay unknown, each by its name.
                Err(ExecError::Missing(_)) => {}
                Err(error) => gaps.push(Gap::new(error.to_string(), "iptables-save to work")),
            }
        }
        match legacy_tables(family) {
            Legacy::None => {}
            Legacy::Unreadable => gaps.push(Gap::new("rules of iptables are not readable", ROOT)),
            Legacy::Some => match save(family, true).await {
                Ok(text) => saves.push((text, family, Origin::IptablesLegacy)),
                Err(error) => {
                    gaps.push(Gap::new(
                        format!("old iptables rules: {error}"),
                        "the program iptables-legacy-save",
                    ));
                }
            },
        }
    }
    let mut sets = ipset::Sets::default();
    if saves.iter().any(|(text, ..)| text.contains("--match-set")) {
        // Without it the rules that match a set stay unknown, each by its name.
        if let Ok(text) = run("ipset", &["save"]).await {
            sets = ipset::Sets::parse(&text);
        }
    }
    for (text, family, origin) in saves {
        let rules = iptables::parse(&text, family, origin, &sets);
        if origin == Origin::Iptables {
            // The same tables, told in the words that lose nothing.
            ruleset.tables.retain(|table| {
                !rules.tables.iter().any(|same| same.name == table.name && same.family == table.family)
            });
        }
        ruleset.extend(rules);
    }
    (ruleset, gaps)
}

/// `iptables-save` of the variant that is asked for.
async fn save(family: Family, legacy: bool) -> Result<String, ExecError> {
    let stem = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let named = format!("{stem}-{}-save", if legacy { "legacy" } else { "nft" });
    match run(&named, &[]).await {
        Err(ExecError::Missing(_)) => {}
        answer => return answer,
    }
    let plain = format!("{stem}-save");
    let over_nft = run(&plain, &["-V"]).await?.contains("nf_tables");
    if over_nft == legacy {
        return Err(ExecError::Missing(named));
    }
    run(&plain, &[]).await
}

enum Legacy {
    None,
    Some,
    Unreadable,
}

/// Whether the kernel's old tables of this family are in use; asked of `/proc`, since asking the tool would load them.
fn legacy_tables(family: Family) -> Legacy {
    let name = if family == Family::V4 { "ip_tables_names" } else { "ip6_tables_names" };
    match std::fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
        Ok(names) if names.trim().is_empty() => Legacy::None,
        Ok(_) => Legacy::Some,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Legacy::None,
        Err(_) => Legacy::Unreadable,
    }
}

/// False only where it is sure that the kernel has no nftables.
fn kernel_may_hold_nft() -> bool {
    let Ok(loaded) = std::fs::read_to_string("/proc/modules") else { return true };
    let Ok(release) = std::fs::read_to_string("/proc/sys/kernel/osrelease") else { return true };
    let builtin = format!("/lib/modules/{}/modules.builtin", release.trim());
    let Ok(builtin) = std::fs::read_to_string(builtin) else { return true };
    loaded.lines().any(|line| line.starts_with("nf_tables ")) || builtin.contains("/nf_tables.ko")
}

/// What looks at packets before netfilter does: an XDP program, or filters of `tc` at the way in.
pub(super) async fn before_netfilter(interface: &str) -> Option<String> {
    if let Ok(json) = run("ip", &["-j", "link", "show", "dev", interface]).await
        && (json.contains("\"xdp\":{\"mode\"") || json.contains("\"prog\":{"))
    {
        return Some(format!("an XDP program on {interface}"));
    }
    if let Ok(text) = run("tc", &["qdisc", "show", "dev", interface]).await
        && text.lines().any(|line| line.contains("qdisc clsact") || line.contains("qdisc ingress"))
    {
        for parent in ["ingress", "egress"] {
            match run("tc", &["filter", "show", "dev", interface, parent]).await {
                Ok(filters) if filters.trim().is_empty() => {}
                Ok(_) => return Some(format!("tc filters at the {parent} of {interface}")),
                Err(_) => {}
            }
        }
    }
    None
}
