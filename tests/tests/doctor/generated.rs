//! Rule sets made up by a seeded generator: what the evaluator says of each client must be what packets do.
//!
//! `DOCTOR_RULE_SETS` sets how many of each kind, `DOCTOR_SEED` where to start.

use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::firewall::judged;
use crate::lab::{Site, can};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn pick<'a>(rng: &mut ChaCha8Rng, from: &[&'a str]) -> &'a str {
    from.choose(rng).copied().unwrap_or_default()
}

/// Compares what is foreseen with what packets do, after each of the rule sets that `load` puts in place.
fn compare(kind: &str, load: impl Fn(&Site, &mut ChaCha8Rng) -> Option<String>) {
    let first = number("DOCTOR_SEED", 1);
    let (mut sets, mut unknown, mut open, mut shut) = (0, 0, 0, 0);
    let wanted = number("DOCTOR_RULE_SETS", 40);
    let site = Site::new();
    for seed in first..first + wanted {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // What the tool itself refuses (matches that contradict each other) is no rule set: take the next.
        let rules = (0..50).find_map(|_| load(&site, &mut rng)).expect("a rule set that can be loaded");
        let (_, admitted) = judged(&site);
        // What hangs on a construct is waited for as if it were shut, and not compared.
        let foreseen: Vec<bool> = admitted.iter().map(|admitted| *admitted == Ok(true)).collect();
        let seen = site.exchanges(&foreseen);
        for (way, (admitted, seen)) in admitted.iter().zip(&seen).enumerate() {
            match admitted {
                Ok(admitted) => assert_eq!(admitted, seen, "{kind}, seed {seed}, way {way}:\n{rules}"),
                Err(_) => unknown += 1,
            }
        }
        sets += 1;
        open += seen.iter().filter(|seen| **seen).count();
        shut += seen.iter().filter(|seen| !**seen).count();
    }
    println!("{kind}: {sets} rule sets, {open} exchanges through, {shut} not, {unknown} not decided");
    // The generator must tell something: neither answer may be rare, and the model must hold what it makes.
    assert!(open * 8 > shut && shut * 8 > open, "{open} through, {shut} not");
    assert_eq!(unknown, 0, "the generator makes only what is modelled");
}

fn nft_match(rng: &mut ChaCha8Rng, output: bool) -> String {
    let (client, port) = if output { ("daddr", "sport") } else { ("saddr", "dport") };
    let way = if output { "oifname" } else { "iifname" };
    let not = pick(rng, &["", "", "", "!= "]);
    let ports = pick(
        rng,
        &["8886", "8880-8890", "{ 80, 8886 }", "{ 1-100, 8000-9000 }", "8887", "@ports", "{ 80, 443 }"],
    );
    let clients = pick(
        rng,
        &[
            "198.51.100.0/24",
            "192.0.2.5",
            "{ 192.0.2.0/24, 10.7.0.2 }",
            "10.0.0.0-10.255.255.255",
            "@friends",
            "203.0.113.0/25",
        ],
    );
    match rng.random_range(0..15) {
        0..=2 => format!("tcp {port} {not}{ports}"),
        3..=5 => format!("udp {port} {not}{ports}"),
        6 => format!("th {port} {not}{ports}"),
        7 => format!("ip {client} {not}{clients}"),
        8 => format!("ip6 {client} {not}2001:db8:1::/64"),
        9 => format!("{way} {not}{}", pick(rng, &["eth0", "eth1", "\"eth*\"", "lo", "{ eth1, lo }"])),
        10 => format!("meta l4proto {not}{}", pick(rng, &["tcp", "udp", "{ tcp, udp }"])),
        11 => format!(
            "ct state {}",
            pick(rng, &["new", "established", "{ new, established }", "invalid", "related,new"])
        ),
        12 => format!("meta nfproto {not}{}", pick(rng, &["ipv4", "ipv6"])),
        13 => format!("meta mark {not}{}", pick(rng, &["0", "1", "0-3", "{ 1, 2 }"])),
        _ => format!(
            "ip {client} . tcp {port} {not}{{ 192.0.2.5 . 8886, 198.51.100.5 . 80, 10.7.0.0/24 . 8886 }}"
        ),
    }
}

fn nft_verdict(rng: &mut ChaCha8Rng, subs: bool) -> &'static str {
    if subs {
        pick(
            rng,
            &[
                "accept",
                "accept",
                "drop",
                "reject",
                "jump one",
                "goto two",
                "jump two",
                "counter",
                "meta mark set 1",
            ],
        )
    } else {
        pick(rng, &["accept", "accept", "drop", "return", "counter accept", "meta mark set 2", "jump three"])
    }
}

fn nft_rules(rng: &mut ChaCha8Rng, most: usize, subs: bool, output: bool) -> String {
    let mut out = String::new();
    for _ in 0..rng.random_range(0..=most) {
        let matches: Vec<String> = (0..rng.random_range(0..=2)).map(|_| nft_match(rng, output)).collect();
        out += &format!("    {} {}\n", matches.join(" "), nft_verdict(rng, subs));
    }
    if !output && rng.random_bool(0.2) {
        let map = pick(
            rng,
            &[
                "meta l4proto vmap { tcp : accept, udp : drop }",
                "ip saddr vmap { 192.0.2.0/24 : drop, 198.51.100.0/24 : accept }",
                "iifname vmap { \"eth1\" : accept }",
                "ip saddr vmap { 192.0.2.5 : accept, * : drop }",
                "ip saddr . udp dport vmap { 192.0.2.5 . 8886 : drop, 203.0.113.100 . 8886 : accept }",
            ],
        );
        out += &format!("    {map}\n");
    }
    out
}

#[test]
fn nftables_rule_sets() {
    if !can("nftables_rule_sets", &["nft", "ip"]) {
        return;
    }
    const ND: &str = "    meta l4proto ipv6-icmp accept\n";
    const OLD: &str = "    ct state established accept\n";
    compare("nftables", |site, rng| {
        let family = pick(rng, &["inet", "inet", "ip"]);
        let mut rules = format!(
            "table {family} t {{\n  set ports {{ type inet_service; flags interval; elements = {{ 53, 8886-8887 }}\n  }}\n  set \
             friends {{ type ipv4_addr; flags interval; elements = {{ 10.7.0.0/16, 198.51.100.5 }}\n  }}\n"
        );
        for (name, subs) in [("three", false), ("two", false), ("one", false)] {
            let body = if name == "three" {
                "    th dport 8886 return\n".to_owned()
            } else {
                nft_rules(rng, 3, subs, false)
            };
            rules += &format!("  chain {name} {{\n{body}  }}\n");
        }
        let hooks = [
            ("input", "filter", 1.0),
            ("prerouting", "raw", 0.2),
            ("prerouting", "mangle", 0.2),
            ("output", "filter", 0.2),
            ("output", "raw", 0.15),
        ];
        for (at, (hook, priority, share)) in hooks.into_iter().enumerate() {
            if !rng.random_bool(share) {
                continue;
            }
            if (hook, priority) == ("output", "raw") {
                let rule =
                    pick(rng, &["udp sport 8886 notrack", "tcp sport 8886 notrack", "oifname eth1 notrack"]);
                rules += &format!("  chain b{at} {{ type filter hook output priority raw; {rule}\n  }}\n");
                continue;
            }
            let policy = if hook == "input" { pick(rng, &["accept", "drop", "drop"]) } else { "accept" };
            let old = if rng.random_bool(0.85) { OLD } else { "" };
            let mut body = nft_rules(rng, 6, hook == "input", hook == "output");
            if priority == "raw" {
                body += "    ";
                body += pick(
                    rng,
                    &["", "udp dport 8886 notrack", "tcp dport 8886 notrack", "ip saddr 192.0.2.5 notrack"],
                );
                body += "\n";
            }
            rules += &format!(
                "  chain b{at} {{ type filter hook {hook} priority {priority}; policy {policy};\n{ND}{old}{body}  }}\n"
            );
        }
        rules += "}\n";
        let rules = if family == "ip" { rules.replace(ND, "") } else { rules };
        site.host.try_sh(&format!("nft flush ruleset; nft -f - <<'RULES'\n{rules}\nRULES")).ok()?;
        Some(rules)
    });
}

fn iptables_match(rng: &mut ChaCha8Rng) -> String {
    let not = pick(rng, &["", "", "! "]);
    match rng.random_range(0..10) {
        0 | 1 => format!("-p tcp -m tcp {not}--dport {}", pick(rng, &["8886", "8000:9000", "80"])),
        2 | 3 => format!("-p udp -m udp {not}--dport {}", pick(rng, &["8886", "8000:9000", "80"])),
        4 => format!(
            "{not}-s {}",
            pick(rng, &["198.51.100.0/24", "192.0.2.5/32", "10.0.0.0/8", "203.0.113.0/25"])
        ),
        5 => format!("{not}-i {}", pick(rng, &["eth0", "eth1", "eth+", "lo"])),
        6 => format!(
            "-p udp -m multiport {not}--dports {}",
            pick(rng, &["80,8886", "1:100,8000:9000", "22,53"])
        ),
        7 => format!(
            "-m iprange {not}--src-range {}",
            pick(rng, &["192.0.2.1-192.0.2.9", "10.7.0.2-10.7.0.2"])
        ),
        8 => format!(
            "-m conntrack {not}--ctstate {}",
            pick(rng, &["NEW", "ESTABLISHED", "INVALID", "NEW,RELATED"])
        ),
        _ => format!("-m mark {not}--mark {}", pick(rng, &["0x1", "0x0", "0x1/0x3"])),
    }
}

fn iptables_restore(rng: &mut ChaCha8Rng) -> String {
    let mut rules = String::from("*mangle\n:PREROUTING ACCEPT [0:0]\n");
    if rng.random_bool(0.4) {
        rules += &format!("-A PREROUTING {} -j MARK --set-xmark 0x1/0x1\n", iptables_match(rng));
    }
    let policy = pick(rng, &["ACCEPT", "DROP", "DROP"]);
    rules += &format!(
        "COMMIT\n*filter\n:INPUT {policy} [0:0]\n:OUTPUT ACCEPT [0:0]\n:one - [0:0]\n:two - [0:0]\n"
    );
    if rng.random_bool(0.85) {
        rules += "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n";
    }
    for (chain, most) in [("INPUT", 6), ("one", 3), ("two", 3)] {
        for _ in 0..rng.random_range(0..=most) {
            let what = if rng.random_bool(0.8) { iptables_match(rng) } else { String::new() };
            let target = match chain {
                "INPUT" => pick(rng, &["-j ACCEPT", "-j DROP", "-j REJECT", "-j one", "-g two", "-j two"]),
                _ => pick(rng, &["-j ACCEPT", "-j DROP", "-j RETURN", "-j LOG"]),
            };
            rules += &format!("-A {chain} {what} {target}\n");
        }
    }
    rules + "COMMIT\n"
}

#[test]
fn iptables_rule_sets() {
    if !can("iptables_rule_sets", &["iptables-nft-restore", "iptables-legacy-restore", "ip"]) {
        return;
    }
    for variant in ["nft", "legacy"] {
        compare(&format!("iptables-{variant}"), |site, rng| {
            let rules = iptables_restore(rng);
            site.host.try_sh(&format!("iptables-{variant}-restore <<'RULES'\n{rules}\nRULES")).ok()?;
            Some(rules)
        });
    }
}
