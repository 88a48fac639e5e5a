//! The commands that open the port, permanently and in the running configuration, and that take it back after the
//! test. They are printed, never run.

use probe_protocol::finding::Command;

use super::eval::Place;
use super::model::{Origin, Protocol};
use super::{Judgement, Manager};
use crate::doctor::report::command;

/// The remark by which rules of ours are found again.
const MARK: &str = "probe-server";

/// What opens `port` for `protocols`, closed as `judgements` say, under `manager`.
pub(super) fn open(
    manager: &Manager,
    port: u16,
    protocols: &[Protocol],
    judgements: &[&Judgement],
) -> Vec<Command> {
    match manager {
        Manager::Firewalld { zone } => firewalld(zone.as_deref(), port, protocols),
        Manager::Ufw => ufw(port, protocols),
        Manager::Nftables | Manager::Iptables | Manager::None => {
            let mut places: Vec<&Place> =
                judgements.iter().filter_map(|judgement| judgement.place()).collect();
            places.sort_by_key(|place| (place.family, &place.table, &place.chain));
            places.dedup_by_key(|place| (place.family, &place.table, &place.chain));
            places.into_iter().flat_map(|place| chain(place, port, protocols)).collect()
        }
    }
}

fn firewalld(zone: Option<&str>, port: u16, protocols: &[Protocol]) -> Vec<Command> {
    let zone = zone.map(|zone| format!(" --zone={zone}")).unwrap_or_default();
    let ports = |verb: &str| {
        protocols
            .iter()
            .map(|protocol| format!(" --{verb}-port={port}/{}", protocol.name()))
            .collect::<String>()
    };
    vec![
        command("firewalld (running)", format!("firewall-cmd{zone}{}", ports("add"))),
        command("firewalld (permanent)", format!("firewall-cmd --permanent{zone}{}", ports("add"))),
        command(
            "firewalld (take back)",
            format!("firewall-cmd{zone}{0}; firewall-cmd --permanent{zone}{0}", ports("remove")),
        ),
    ]
}

fn ufw(port: u16, protocols: &[Protocol]) -> Vec<Command> {
    let each = |verb: &str| {
        protocols
            .iter()
            .map(|protocol| format!("ufw {verb} {port}/{}", protocol.name()))
            .collect::<Vec<_>>()
            .join(" && ")
    };
    // First in the list, since the first rule that matches decides.
    vec![
        command("ufw (running and permanent)", each("prepend allow")),
        command("ufw (take back)", each("delete allow")),
    ]
}

fn chain(place: &Place, port: u16, protocols: &[Protocol]) -> Vec<Command> {
    let side = if place.inbound { "dport" } else { "sport" };
    match place.origin {
        Origin::Nftables => {
            let Place { family, table, chain, .. } = place;
            let set = protocols.iter().map(|protocol| protocol.name()).collect::<Vec<_>>().join(", ");
            let rule = format!("meta l4proto {{ {set} }} th {side} {port} accept comment \\\"{MARK}\\\"");
            vec![
                command("nftables (running)", format!("nft \"insert rule {family} {table} {chain} {rule}\"")),
                command(
                    "nftables (permanent)",
                    format!(
                        "add the line `{}` at the head of chain {chain} of table {family} {table} in /etc/nftables.conf",
                        rule.replace('\\', "")
                    ),
                ),
                command(
                    "nftables (take back)",
                    format!(
                        "nft -a list chain {family} {table} {chain} | sed -n 's/.*\"{MARK}\".*# handle //p' | \
                         xargs -rn1 nft delete rule {family} {table} {chain} handle"
                    ),
                ),
            ]
        }
        Origin::Iptables | Origin::IptablesLegacy => {
            let stem = if place.family == "ip6" { "ip6tables" } else { "iptables" };
            let tool = if place.origin == Origin::IptablesLegacy {
                format!("{stem}-legacy")
            } else {
                stem.to_owned()
            };
            let Place { table, chain, .. } = place;
            let each = |verb: &str| {
                protocols
                    .iter()
                    .map(|protocol| {
                        let name = protocol.name();
                        format!(
                            "{tool} -t {table} {verb} {chain} -p {name} --{side} {port} -m comment --comment {MARK} -j \
                             ACCEPT"
                        )
                    })
                    .collect::<Vec<_>>()
                    .join(" && ")
            };
            let file = if place.family == "ip6" { "rules.v6" } else { "rules.v4" };
            vec![
                command(format!("{stem} (running)"), each("-I")),
                command(
                    format!("{stem} (permanent)"),
                    format!("after that: {tool}-save > /etc/iptables/{file} (package iptables-persistent)"),
                ),
                command(format!("{stem} (take back)"), each("-D")),
            ]
        }
    }
}

/// Windows Defender Firewall.
pub(super) fn windows(port: u16, protocols: &[Protocol], blocking: &[String]) -> Vec<Command> {
    const PLACE: &str = "Windows Defender Firewall";
    let mut out: Vec<Command> = blocking
        .iter()
        .map(|id| {
            command(PLACE, format!("powershell Remove-NetFirewallRule -Name '{}'", id.replace('\'', "''")))
        })
        .collect();
    let name = |protocol: &Protocol| format!("{MARK} {port}/{}", protocol.name());
    out.extend(protocols.iter().map(|protocol| {
        command(
            format!("{PLACE} (running and permanent)"),
            format!(
                "netsh advfirewall firewall add rule name=\"{}\" dir=in action=allow protocol={} localport={port}",
                name(protocol),
                protocol.name()
            ),
        )
    }));
    out.extend(protocols.iter().map(|protocol| {
        command(
            format!("{PLACE} (take back)"),
            format!("netsh advfirewall firewall delete rule name=\"{}\"", name(protocol)),
        )
    }));
    out
}

/// macOS' application firewall.
pub(super) fn macos(program: &str) -> Vec<Command> {
    const TOOL: &str = "sudo /usr/libexec/ApplicationFirewall/socketfilterfw";
    vec![
        command(
            "macOS (running and permanent)",
            format!("{TOOL} --add '{program}' && {TOOL} --unblockapp '{program}'"),
        ),
        command("macOS (take back)", format!("{TOOL} --remove '{program}'")),
    ]
}
