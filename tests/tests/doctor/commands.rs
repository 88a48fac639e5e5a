//! The commands that the doctor prints: run, they open the port; taken back, the host is as it was.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Finding, Severity};
use probe_server::doctor::{Options, Report, State, run};

use crate::lab::{Netns, Site, can};

/// Options whose way out is a closed port of loopback.
pub(crate) fn nowhere() -> Options {
    let mut options = Options::default();
    let nowhere = vec![std::net::SocketAddr::from(([127, 0, 0, 1], 9))];
    for name in [options.egress.license.host.clone(), options.egress.control.host.clone()] {
        options.egress.resolve.push((name, nowhere.clone()));
    }
    options
}

pub(crate) fn examine(host: &Netns) -> Report {
    host.block_on(async { run(&nowhere()).await })
}

fn firewall(report: &Report) -> Option<&Finding> {
    report.findings.iter().find(|finding| finding.cause == Cause::OsFirewall)
}

fn commands(finding: &Finding, word: &str) -> Vec<String> {
    let wanted = format!("({word})");
    finding
        .commands
        .iter()
        .filter(|command| command.place.contains(&wanted))
        .map(|command| command.run.clone())
        .collect()
}

fn states(report: &Report) -> [State; 2] {
    ["firewall-tcp", "firewall-udp"].map(|name| report.check(name).expect("check").state)
}

/// Closed by `load`, opened by the printed command, closed again by the printed command.
fn there_and_back(name: &str, load: impl FnOnce(&Netns), open_before: &[bool; 10], severity: Severity) {
    let site = Site::new();
    load(&site.host);
    let before = site.host.sh(RULES);
    assert_eq!(site.exchanges(open_before), open_before, "{name}: before");
    let report = examine(&site.host);
    let found = firewall(&report).unwrap_or_else(|| panic!("{name}: {}", report.text()));
    assert_eq!(found.severity, severity, "{name}");
    assert_eq!(report.exit_status(), 1);
    assert_eq!(report.findings[0].severity, Severity::Blocking);
    for command in commands(found, "running") {
        site.host.sh(&command);
    }
    assert_eq!(site.exchanges(&[true; 10]), [true; 10], "{name}: opened");
    let opened = examine(&site.host);
    assert_eq!(states(&opened), [State::Ok, State::Ok], "{name}: {}", opened.text());
    assert!(firewall(&opened).is_none());
    for command in commands(found, "take back") {
        site.host.sh(&command);
    }
    assert_eq!(site.exchanges(open_before), open_before, "{name}: taken back");
    assert_eq!(site.host.sh(RULES), before, "{name}: as it was");
}

/// All rules, without counters. Old iptables is asked only where it is in use, since asking makes its tables.
const RULES: &str =
    "nft -s list ruleset; if grep -q . /proc/thread-self/net/ip_tables_names; then iptables-legacy -S
    ip6tables-legacy -S; fi";

const SHUT: [bool; 10] = [false; 10];

#[test]
fn what_the_doctor_prints_opens_the_port_and_takes_it_back() {
    if !can(
        "what_the_doctor_prints_opens_the_port_and_takes_it_back",
        &["nft", "iptables-nft", "iptables-legacy", "ip"],
    ) {
        return;
    }
    let nft = "table inet filter {
          chain more { th dport 80-9000 drop; }
          chain input { type filter hook input priority 0; policy drop
            ct state established,related accept; meta l4proto ipv6-icmp accept; jump more; } }";
    there_and_back("nftables", |host| host.nft(nft), &SHUT, Severity::Blocking);
    for tool in ["iptables", "iptables-legacy"] {
        let v6 = if tool == "iptables" { "ip6tables" } else { "ip6tables-legacy" };
        let rules = format!(
            "{tool} -P INPUT DROP; {tool} -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
             {v6} -P INPUT DROP; {v6} -A INPUT -p ipv6-icmp -j ACCEPT
             {v6} -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"
        );
        there_and_back(tool, |host| drop(host.sh(&rules)), &SHUT, Severity::Blocking);
    }
}

#[test]
fn answers_that_are_dropped_are_opened_on_the_way_out() {
    if !can("answers_that_are_dropped_are_opened_on_the_way_out", &["nft", "ip"]) {
        return;
    }
    let rules = "table inet t { chain o { type filter hook output priority 0; policy drop; meta l4proto ipv6-icmp accept; } }";
    there_and_back("output", |host| host.nft(rules), &SHUT, Severity::Blocking);
}

#[test]
fn the_report_says_it_in_words_and_in_json() {
    if !can("the_report_says_it_in_words_and_in_json", &["nft", "ip"]) {
        return;
    }
    let site = Site::new();
    site.host.nft("table inet filter { chain input { type filter hook input priority 0; policy accept; udp dport 8886 drop; } }");
    let report = examine(&site.host);
    let udp = report.check("firewall-udp").unwrap();
    assert_eq!(udp.state, State::Problem);
    assert!(udp.says.contains("`udp dport 8886 drop` in chain input"), "{}", udp.says);
    let tcp = report.check("firewall-tcp").unwrap();
    assert_eq!(tcp.state, State::Ok, "{}", tcp.says);
    let json = report.to_json().unwrap();
    assert!(json.trim_start().starts_with("{\n  \"schema_version\": 1"), "schema_version first");
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let finding = value["findings"].as_array().unwrap().iter().find(|f| f["cause"] == "os-firewall").unwrap();
    assert_eq!(finding["parameters"]["firewall"], "nftables");
    assert_eq!(finding["parameters"]["kind"], "udp");
    for check in value["checks"].as_array().unwrap() {
        let state = check["state"].as_str().unwrap();
        assert!(["ok", "problem", "unknown"].contains(&state));
        assert_eq!(state == "unknown", check["needs"].is_string(), "{check}");
    }
    let text = report.text();
    assert!(text.contains("os-firewall") && text.contains("nft \"insert rule inet filter input"), "{text}");
}
