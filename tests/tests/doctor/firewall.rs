//! Rule sets of every kind, judged as real packets prove them.

use probe_server::doctor::firewall::{Arrival, Judgement, Protocol, Rules};

use crate::lab::{PORT, Site, WAYS, can};

/// The judgement of each protocol on each of [`WAYS`], and whether a client there is admitted.
pub(crate) fn judged(site: &Site) -> (Vec<Judgement>, Vec<Result<bool, String>>) {
    let rules = site.host.block_on(Rules::read());
    assert_eq!(rules.gaps(), []);
    let mut judgements = Vec::new();
    let mut admitted = Vec::new();
    for protocol in Protocol::BOTH {
        for (interface, host, client) in WAYS {
            let arrival = Arrival {
                interface: interface.to_owned(),
                bridged: false,
                address: host.parse().unwrap(),
                port: PORT,
            };
            judgements.push(rules.judge(&arrival, protocol));
            let client = std::net::SocketAddr::new(client.parse().unwrap(), 40_000);
            admitted.push(rules.admits(&arrival, protocol, client));
        }
    }
    (judgements, admitted)
}

fn letter(judgement: &Judgement) -> char {
    match judgement {
        Judgement::Open { .. } => 'o',
        Judgement::Closed(_) => 'c',
        Judgement::Only { .. } => 's',
        Judgement::Limited { .. } => 'l',
        Judgement::Elsewhere { .. } => 'e',
        Judgement::Unknown { .. } => '?',
    }
}

/// Loads `rules` into a fresh site, and compares the judgements (a letter each for TCP and then UDP on the ways of
/// [`WAYS`]) and the packets (`+` and `-`, likewise) with what is expected.
fn prove(name: &str, load: impl FnOnce(&Site), judgements: &str, packets: &str) {
    let site = Site::new();
    load(&site);
    let (judged, admitted) = judged(&site);
    let letters: String = judged.iter().map(letter).collect();
    assert_eq!(letters, judgements.replace(' ', ""), "{name}: {judged:#?}");
    let expected: Vec<bool> = packets.chars().filter(|sign| *sign != ' ').map(|sign| sign == '+').collect();
    assert_eq!(site.exchanges(&expected), expected, "{name}: real packets");
    let foreseen: Vec<Result<bool, String>> = expected.into_iter().map(Ok).collect();
    assert_eq!(admitted, foreseen, "{name}: each client by itself");
}

fn prove_nft(name: &str, rules: &str, judgements: &str, packets: &str) {
    prove(name, |site| site.host.nft(rules), judgements, packets);
}

const OLD: &str = "ct state established,related accept; iifname lo accept; meta l4proto ipv6-icmp accept;";

fn input(policy: &str, rules: &str) -> String {
    format!(
        "table inet t {{ chain i {{ type filter hook input priority 0; policy {policy}; {OLD} {rules} }} }}"
    )
}

#[test]
fn nftables_by_default_policy() {
    if !can("nftables_by_default_policy", &["nft", "ip"]) {
        return;
    }
    prove_nft("no rules", "", "ooooo ooooo", "+++++ +++++");
    prove_nft("accept", &input("accept", ""), "ooooo ooooo", "+++++ +++++");
    prove_nft("drop, neither", &input("drop", ""), "ccccc ccccc", "----- -----");
    prove_nft("drop, both", &input("drop", "th dport 8886 accept;"), "ooooo ooooo", "+++++ +++++");
    prove_nft("drop, TCP alone", &input("drop", "tcp dport 8886 accept;"), "ooooo ccccc", "+++++ -----");
    prove_nft("drop, UDP alone", &input("drop", "udp dport 8886 accept;"), "ccccc ooooo", "----- +++++");
    prove_nft("accept, but UDP", &input("accept", "udp dport 8886 drop;"), "ooooo ccccc", "+++++ -----");
    prove_nft("reject", &input("accept", "th dport 8886 reject;"), "ccccc ccccc", "----- -----");
}

#[test]
fn nftables_by_jump_set_and_zone() {
    if !can("nftables_by_jump_set_and_zone", &["nft", "ip"]) {
        return;
    }
    prove_nft(
        "jump and goto",
        "table ip t {
           chain deep { return; }
           chain allow { jump deep; udp dport 8886 accept; }
           chain last { tcp dport 8886 drop; }
           chain i { type filter hook input priority 0; policy drop; ct state vmap { established : accept, invalid : drop }
             jump allow; goto last; accept; }
         }",
        "cccoc ooooo",
        "---+- +++++",
    );
    prove_nft(
        "named set of ports, vmap, concatenation",
        "table inet t {
           set ports { type inet_service; flags interval; elements = { 80, 8880-8890 } }
           set pairs { type ipv4_addr . inet_service; elements = { 192.0.2.5 . 8886, 198.51.100.5 . 80 } }
           chain u { th dport @ports accept; }
           chain i { type filter hook input priority 0; policy drop; ct state established accept
             meta l4proto ipv6-icmp accept
             ip saddr . tcp dport @pairs accept; meta l4proto vmap { udp : jump u, icmp : accept }; }
         }",
        "ssscs ooooo",
        "--+-- +++++",
    );
    prove_nft(
        "zones by interface and by source",
        "table inet t {
           chain public { tcp dport 8886 accept; reject; }
           chain internal { udp dport 8886 accept; drop; }
           chain work { accept; }
           chain zones { ip saddr 192.0.2.0/24 goto work; iifname vmap { \"eth0\" : goto public, \"eth1\" : goto internal }; }
           chain i { type filter hook input priority 0; policy accept; ct state established accept
             meta l4proto ipv6-icmp accept; jump zones; drop; }
         }",
        "oooos sssco",
        "++++- --+-+",
    );
    prove_nft(
        "sources",
        &input("drop", "ip saddr { 198.51.100.0/24, 192.0.2.0-192.0.2.9 } th dport 8886 accept;"),
        "ssscs ssscs",
        "-++-- -++--",
    );
    prove_nft(
        "blocked sources",
        &input("drop", "ip saddr 198.51.100.0/24 drop; th dport 8886 accept;"),
        "ooooo ooooo",
        "+-+++ +-+++",
    );
}

#[test]
fn nftables_at_other_hooks() {
    if !can("nftables_at_other_hooks", &["nft", "ip"]) {
        return;
    }
    prove_nft(
        "answers are dropped",
        "table inet t { chain o { type filter hook output priority 0; policy drop; meta l4proto ipv6-icmp accept
           tcp sport 8886 accept; } }",
        "ooooo ccccc",
        "+++++ -----",
    );
    prove_nft(
        "prerouting, before and after connection tracking",
        "table inet t {
           chain raw { type filter hook prerouting priority raw; udp dport 8886 ct state new drop; }
           chain mangle { type filter hook prerouting priority mangle; tcp dport 8886 ct state new iifname eth0 drop; } }",
        "cccco ooooo",
        "----+ +++++",
    );
    prove_nft(
        "netdev ingress",
        "table netdev t { chain i { type filter hook ingress device eth1 priority 0; udp dport 8886 drop; } }",
        "ooooo ooooc",
        "+++++ ++++-",
    );
    prove_nft(
        "redirected",
        "table inet t { chain n { type nat hook prerouting priority dstnat; udp dport 8886 redirect to :9; } }",
        "ooooo eeeee",
        "+++++ -----",
    );
    prove_nft(
        "marks, untracked packets",
        "table inet t {
           chain raw { type filter hook prerouting priority raw; udp dport 8886 notrack; tcp dport 8886 meta mark set 7; }
           chain i { type filter hook input priority 0; policy drop; meta l4proto ipv6-icmp accept
             ct state untracked accept; meta mark & 0x3 == 0x3 accept; } }",
        "ooooo ooooo",
        "+++++ +++++",
    );
    prove_nft(
        "TCP flags",
        &input("accept", "tcp flags & (syn|ack) == syn drop;"),
        "ccccc ooooo",
        "----- +++++",
    );
    prove_nft(
        "two tables, each must accept",
        "table inet a { chain i { type filter hook input priority 0; policy accept; } }
         table ip b { chain i { type filter hook input priority 10; policy accept; tcp dport 8000-9000 drop; } }",
        "cccoc ooooo",
        "---+- +++++",
    );
}

fn ipt(site: &Site, tool: &str, rules: &str) {
    for rule in rules.split(';').map(str::trim).filter(|rule| !rule.is_empty()) {
        site.host.sh(&format!("{tool} {rule}"));
    }
}

const OLD_STATE: &str = "-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT;";

#[test]
fn iptables_over_nftables_and_of_old() {
    if !can("iptables_over_nftables_and_of_old", &["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip"])
    {
        return;
    }
    for tool in ["iptables-nft", "iptables-legacy"] {
        let prove_ipt = |name: &str, rules: &str, judgements: &str, packets: &str| {
            prove(&format!("{tool}: {name}"), |site| ipt(site, tool, rules), judgements, packets);
        };
        prove_ipt("neither", "-P INPUT DROP", "cccoc cccoc", "---+- ---+-");
        prove_ipt(
            "both",
            &format!(
                "-P INPUT DROP; {OLD_STATE} -A INPUT -p tcp --dport 8886 -j ACCEPT; -A INPUT -p udp -m multiport --dports 80,8886 -j ACCEPT"
            ),
            "ooooo ooooo",
            "+++++ +++++",
        );
        prove_ipt(
            "UDP alone, by jump",
            &format!(
                "-P INPUT DROP; -N ours; {OLD_STATE} -A INPUT -j ours; -A ours -p tcp -j RETURN; -A ours -p udp --dport 8000:9000 -j ACCEPT"
            ),
            "cccoc ooooo",
            "---+- +++++",
        );
        prove_ipt(
            "by interface, by source range, rejected",
            &format!(
                "{OLD_STATE} -A INPUT -i eth1 -j REJECT; -A INPUT -m iprange --src-range 192.0.2.1-192.0.2.9 -j DROP; -A INPUT -p tcp --syn -m addrtype --dst-type LOCAL -j DROP"
            ),
            "cccoc ooooc",
            "---+- ++-+-",
        );
        prove_ipt(
            "forwarded elsewhere",
            "-t nat -A PREROUTING -p udp --dport 8886 -j REDIRECT --to-ports 9",
            "ooooo eeeoe",
            "+++++ ---+-",
        );
    }
    prove(
        "ip6tables",
        |site| ipt(site, "ip6tables-nft", "-A INPUT -p udp --dport 8886 -j DROP"),
        "ooooo oooco",
        "+++++ +++-+",
    );
}

#[test]
fn iptables_by_set() {
    if !can("iptables_by_set", &["iptables-nft", "iptables-legacy", "ipset", "ip"]) {
        return;
    }
    for tool in ["iptables-nft", "iptables-legacy"] {
        prove(
            &format!("{tool}: sets"),
            |site| {
                site.host.sh(
                    "ipset create friends hash:net; ipset add friends 198.51.100.0/24; ipset add friends 10.7.0.2
                     ipset create ports bitmap:port range 8000-9000; ipset add ports 8886
                     ipset create pairs hash:ip,port; ipset add pairs 192.0.2.5,udp:8886",
                );
                ipt(
                    site,
                    tool,
                    &format!(
                        "-P INPUT DROP; {OLD_STATE} -A INPUT -p tcp -m set --match-set ports dst -m set --match-set friends src -j ACCEPT; -A INPUT -m set --match-set pairs src,dst -j ACCEPT"
                    ),
                );
            },
            "sssos sssos",
            "-+-++ --++-",
        );
    }
}

/// The rules that firewalld 1.3 really loads (`samples/firewalld.nft`, recorded).
#[test]
fn firewalld_zones() {
    if !can("firewalld_zones", &["nft", "ip"]) {
        return;
    }
    let recorded = include_str!("../../../probe-server/src/doctor/samples/firewalld.nft");
    prove_nft("firewalld", recorded, "ooooc sssco", "+-++- -++-+");
}

/// ufw's rules as `ufw enable` loads them (`samples/ufw-iptables.txt`, recorded).
#[test]
fn ufw_rules() {
    if !can("ufw_rules", &["iptables-nft-restore", "ip"]) {
        return;
    }
    let v4 = include_str!("../../../probe-server/src/doctor/samples/ufw-iptables.txt");
    let site = Site::new();
    site.host.sh(&format!("iptables-nft-restore <<'RULES'\n{v4}\nRULES"));
    let (judgements, _) = judged(&site);
    let letters: String = judgements.iter().map(letter).collect();
    assert_eq!(letters, "lllolooooo");
    let expected = [true; 10];
    assert_eq!(site.exchanges(&expected), expected, "a limit lets a few through");
}
