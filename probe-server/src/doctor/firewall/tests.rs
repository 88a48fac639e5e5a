//! Recorded rule sets, judged. That the same judgements hold for real packets is shown in the lab
//! (`tests/tests/doctor_firewall.rs`).

use super::*;
use crate::doctor::firewall::ipset::Sets;
use crate::doctor::firewall::model::Family;

fn at(interface: &str, address: &str) -> Arrival {
    Arrival { interface: interface.to_owned(), bridged: false, address: address.parse().unwrap(), port: 8886 }
}

fn nft(json: &str) -> Rules {
    Rules::from_nft_json(json).unwrap()
}

fn iptables(save: &str, sets: &str) -> Rules {
    let ruleset = iptables::parse(save, Family::V4, Origin::Iptables, &Sets::parse(sets));
    Rules { ruleset, gaps: Vec::new() }
}

fn judge(rules: &Rules, interface: &str, protocol: Protocol) -> Judgement {
    rules.judge(&at(interface, "203.0.113.7"), protocol)
}

const OPEN: Judgement = Judgement::Open { except: Vec::new() };

#[test]
fn recorded_firewalld_is_judged_zone_by_zone() {
    let rules = nft(include_str!("../samples/firewalld-nft.json"));
    assert_eq!(
        judge(&rules, "eth0", Protocol::Tcp),
        Judgement::Open { except: vec!["198.51.100.0/24".to_owned()] }
    );
    let Judgement::Only { from, by } = judge(&rules, "eth0", Protocol::Udp) else { panic!() };
    assert_eq!(from, ["192.0.2.0/24", "198.51.100.0/24"], "the rich rule's source, and the zone work's");
    assert_eq!(by.table, "firewalld");
    assert_eq!(judge(&rules, "eth1", Protocol::Udp), OPEN, "8880-8890/udp in zone internal");
    assert!(matches!(judge(&rules, "eth1", Protocol::Tcp), Judgement::Closed(_)));
    assert!(matches!(rules.judge(&at("eth0", "2001:db8::7"), Protocol::Udp), Judgement::Closed(_)));
    assert_eq!(rules.judge(&at("eth0", "2001:db8::7"), Protocol::Tcp), OPEN);
}

#[test]
fn recorded_ufw_is_judged_from_what_iptables_shows() {
    let rules = iptables(include_str!("../samples/ufw-iptables.txt"), "");
    assert_eq!(judge(&rules, "eth0", Protocol::Udp), OPEN, "its deny rule stands behind the one that allows");
    let Judgement::Limited { limit, .. } = judge(&rules, "eth0", Protocol::Tcp) else { panic!() };
    assert!(limit.contains("recent"), "{limit}");
    let other = Arrival { port: 9011, ..at("eth0", "203.0.113.7") };
    assert!(matches!(rules.judge(&other, Protocol::Udp), Judgement::Closed(_)));
    assert!(rules.ruleset.has_chain_with_prefix("ufw"));
}

#[test]
fn what_nft_cannot_show_of_iptables_is_named() {
    let rules = nft(include_str!("../samples/ufw-nft.json"));
    assert!(rules.ruleset.tables.iter().all(|table| table.foreign));
    let Judgement::Unknown { construct } = judge(&rules, "eth0", Protocol::Udp) else { panic!() };
    assert_eq!(construct, "xt match conntrack");
}

/// An nft rule set of one input chain with this policy and rules.
fn chain(policy: &str, rules: &str) -> Rules {
    let head = format!(
        r#"{{"nftables": [{{"table": {{"family": "inet", "name": "t"}}}},
        {{"chain": {{"family": "inet", "table": "t", "name": "i", "type": "filter", "hook": "input", "prio": 0,
        "policy": "{policy}"}}}}, {{"chain": {{"family": "inet", "table": "t", "name": "sub"}}}}"#
    );
    let rules = rules.split(";;").map(str::trim).filter(|rule| !rule.is_empty()).map(|rule| {
        let (chain, expr) = rule.split_once('>').unwrap();
        format!(
            r#",{{"rule": {{"family": "inet", "table": "t", "chain": "{}", "expr": [{expr}]}}}}"#,
            chain.trim()
        )
    });
    nft(&format!("{head}{}]}}", rules.collect::<String>()))
}

const PORT: &str =
    r#"{"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 8886}}"#;
const OLD: &str =
    r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}}"#;

#[test]
fn a_construct_that_is_not_modelled_is_named_only_where_it_matters() {
    let odd = r#"{"match": {"op": "==", "left": {"meta": {"key": "cgroup"}}, "right": 7}}"#;
    let closed = chain("drop", &format!("i > {odd}, {{\"drop\": null}}"));
    assert!(matches!(judge(&closed, "eth0", Protocol::Udp), Judgement::Closed(_)), "dropped either way");
    let hangs = chain("accept", &format!("i > {odd}, {{\"drop\": null}}"));
    assert_eq!(
        judge(&hangs, "eth0", Protocol::Udp),
        Judgement::Unknown { construct: "meta cgroup 7".to_owned() }
    );
    let counted = chain("accept", &format!("i > {odd}, {{\"counter\": null}}"));
    assert_eq!(judge(&counted, "eth0", Protocol::Udp), OPEN);
    let queued = chain("drop", r#"i > {"queue": {"num": 1}}"#);
    assert!(
        matches!(judge(&queued, "eth0", Protocol::Udp), Judgement::Unknown { construct } if construct.contains("queue"))
    );
}

#[test]
fn a_port_without_its_later_packets_is_not_open() {
    let first = r#"{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}}"#;
    let half = chain("drop", &format!("i > {first}, {PORT}, {{\"accept\": null}}"));
    assert!(matches!(judge(&half, "eth0", Protocol::Tcp), Judgement::Closed(_)));
    let whole = chain(
        "drop",
        &format!("i > {first}, {PORT}, {{\"accept\": null}} ;; i > {OLD}, {{\"accept\": null}}"),
    );
    assert_eq!(judge(&whole, "eth0", Protocol::Tcp), OPEN);
}

#[test]
fn a_limit_is_told_apart_from_a_block() {
    let limit = r#"{"limit": {"rate": 10, "per": "second"}}"#;
    let rules = chain("drop", &format!("i > {PORT}, {limit}, {{\"accept\": null}}"));
    assert!(
        matches!(judge(&rules, "eth0", Protocol::Udp), Judgement::Limited { limit, .. } if limit == "limit rate 10/second")
    );
}

#[test]
fn chains_that_jump_in_a_circle_end() {
    let rules = chain("drop", r#"i > {"jump": {"target": "sub"}} ;; sub > {"jump": {"target": "sub"}}"#);
    assert!(matches!(judge(&rules, "eth0", Protocol::Udp), Judgement::Unknown { .. }));
}

#[test]
fn an_address_list_of_many_is_an_exception_list() {
    let set: Vec<String> = (0..200).map(|i| format!("\"198.18.{i}.9\"")).collect();
    let source = format!(
        r#"{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "ip", "field": "saddr"}}}}, "right": {{"set": [{}]}}}}}}"#,
        set.join(",")
    );
    let rules = chain("accept", &format!("i > {source}, {{\"drop\": null}}"));
    let Judgement::Open { except } = judge(&rules, "eth0", Protocol::Udp) else { panic!() };
    assert_eq!(except.len(), 200);
}

#[test]
fn a_list_of_many_thousands_is_judged_and_far_too_much_is_refused() {
    let list = |count: u32| {
        let sets: String = (0..count)
            .map(|i| format!("add bad {}\n", std::net::Ipv4Addr::from(0x0b00_0000 + i * 512)))
            .collect();
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -m set --match-set bad src -j DROP\nCOMMIT\n";
        iptables(rules, &format!("create bad hash:net family inet\n{sets}"))
    };
    let Judgement::Open { except } = judge(&list(10_000), "eth0", Protocol::Udp) else { panic!() };
    assert_eq!(except.len(), 10_000);
    let mut much = list(20_000);
    let chains = &mut much.ruleset.tables[0].chains;
    let rule = chains["INPUT"].rules[0].clone();
    chains.entry("other".to_owned()).or_default().rules = vec![rule; 60];
    assert!(matches!(judge(&much, "eth0", Protocol::Udp), Judgement::Unknown { .. }));
}

#[test]
fn iptables_options_are_read() {
    let base = |rules: &str| {
        format!("*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:sub - [0:0]\n{rules}\nCOMMIT\n")
    };
    let old = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT";
    for (rules, sets, udp) in [
        ("-A INPUT -p udp -m udp --dport 8886 -m comment --comment \"the probe\" -j ACCEPT", "", true),
        ("-A INPUT -p udp -m udp ! --dport 8886 -j ACCEPT", "", false),
        ("-A INPUT -p udp -m multiport --dports 80,8880:8890 -j ACCEPT", "", true),
        ("-A INPUT -i lo -j ACCEPT", "", false),
        ("-A INPUT ! -i lo -j ACCEPT", "", true),
        ("-A INPUT -i eth+ -j ACCEPT", "", true),
        ("-A INPUT -j sub\n-A sub -p udp -j RETURN\n-A sub -j ACCEPT", "", false),
        ("-A INPUT -g sub\n-A INPUT -j ACCEPT\n-A sub -p tcp -j ACCEPT", "", false),
        ("-A INPUT -m mark --mark 0x1/0x1 -j ACCEPT", "", false),
        ("-A INPUT -j MARK --set-xmark 0x3/0xffffffff\n-A INPUT -m mark --mark 0x1/0x1 -j ACCEPT", "", true),
        ("-A INPUT -m addrtype --dst-type LOCAL -j ACCEPT", "", true),
        (
            "-A INPUT -m set --match-set ports dst -j ACCEPT",
            "create ports bitmap:port range 0-65535\nadd ports 8886",
            true,
        ),
        (
            "-A INPUT -m set --match-set ports dst -j ACCEPT",
            "create ports bitmap:port range 0-65535\nadd ports 80",
            false,
        ),
        (
            "-A INPUT -m set ! --match-set bad src -j ACCEPT",
            "create bad hash:net family inet\nadd bad 192.0.2.0/24",
            true,
        ),
        ("-A INPUT -p icmp -m icmp --icmp-type 8 -j ACCEPT", "", false),
    ] {
        let rules_ = iptables(&base(&format!("{old}\n{rules}")), sets);
        let open = matches!(judge(&rules_, "eth0", Protocol::Udp), Judgement::Open { .. });
        assert_eq!(open, udp, "{rules}");
    }
    let hidden = iptables(&base("-A INPUT -m set --match-set gone src -j ACCEPT"), "");
    assert_eq!(
        judge(&hidden, "eth0", Protocol::Udp),
        Judgement::Unknown { construct: "-m set --match-set gone src".to_owned() }
    );
}

#[test]
fn a_port_forwarded_elsewhere_is_seen() {
    let save = "*nat\n:PREROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
                -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8886 -j DNAT --to-destination 172.17.0.2:8886\nCOMMIT\n";
    let rules = iptables(save, "");
    assert!(
        matches!(judge(&rules, "eth0", Protocol::Tcp), Judgement::Elsewhere { to, .. } if to == "172.17.0.2:8886")
    );
    assert_eq!(judge(&rules, "eth0", Protocol::Udp), OPEN);
}

#[test]
fn nonsense_is_refused_or_empty_and_never_a_panic() {
    assert!(Rules::from_nft_json("").is_none());
    assert!(Rules::from_nft_json("{}").is_none());
    assert!(
        Rules::from_nft_json(r#"{"nftables": [{"rule": {}}, {"chain": 3}, {"table": []}, 7]}"#).is_some()
    );
    let json = include_str!("../samples/firewalld-nft.json");
    for cut in (0..json.len()).step_by(997) {
        assert!(Rules::from_nft_json(&json[..cut]).is_none());
    }
    for junk in ["*", ":", "-A", "*t\n:c\n-A c -s\n-A c -m\n-A c --dport\n-A c -j", "*t\n-A x \"unclosed"] {
        let _ = iptables(junk, "add x\ncreate\nadd a b c\ncreate a hash:ip\nadd a nonsense");
    }
}

#[test]
fn commands_name_the_chain_that_stops_it() {
    let rules = chain("drop", &format!("i > {OLD}, {{\"accept\": null}}"));
    let judged = Protocol::BOTH.map(|protocol| {
        let arrival = at("eth0", "203.0.113.7");
        let judgement = rules.judge(&arrival, protocol);
        (protocol, vec![(arrival, judgement)])
    });
    let part = linux_part(8886, &rules, &Manager::Nftables, &judged, None);
    assert_eq!(part.checks.len(), 2);
    let [finding] = part.findings.as_slice() else { panic!() };
    assert_eq!(finding.cause, Cause::OsFirewall);
    assert_eq!(finding.severity, Severity::Blocking);
    assert_eq!(
        finding.commands[0].run,
        "nft \"insert rule inet t i meta l4proto { tcp, udp } th dport 8886 accept comment \\\"probe-server\\\"\""
    );
}

/// What a tool prints may be cut, doubled or garbled; the judgement may be anything, and must come.
#[test]
fn garbled_rule_sets_are_judged_without_a_panic() {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    let texts = [
        include_str!("../samples/ufw-iptables.txt"),
        include_str!("../samples/firewalld-nft.json"),
        include_str!("../samples/firewalld-zones.txt"),
        include_str!("../samples/ufw-status.txt"),
    ];
    let words = [
        "-j",
        "!",
        "{",
        "\"",
        "0",
        "-1",
        "99999999999999999999",
        "::/0",
        "@x",
        "lo",
        "null",
        "[]",
        "accept",
        "=",
        "|",
    ];
    let mut read = 0;
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let text = texts[rng.random_range(0..texts.len())];
        let mut parts: Vec<&str> = text.split_inclusive([' ', '\n', ',', ':', '"']).collect();
        for _ in 0..rng.random_range(1..20) {
            let (at, other) = (rng.random_range(0..parts.len()), rng.random_range(0..parts.len()));
            match rng.random_range(0..3) {
                0 => parts.swap(at, other),
                1 => parts[at] = words[rng.random_range(0..words.len())],
                _ => drop(parts.remove(at)),
            }
        }
        let text = parts.concat();
        for rules in [Some(iptables(&text, &text)), Rules::from_nft_json(&text)].into_iter().flatten() {
            for protocol in Protocol::BOTH {
                let _ = judge(&rules, "eth0", protocol);
                read += 1;
            }
        }
        for zone in firewalld::zones(&text) {
            let _ = zone.says(8886, Protocol::Udp, &|_| None);
        }
        let _ = (ufw::says(&text, 8886, Protocol::Tcp), windows::rules(&text), windows::profile(&text));
        let mut ruleset = Ruleset::default();
        nft::add_devices(&mut ruleset, &text);
    }
    assert!(read >= 600);
}
