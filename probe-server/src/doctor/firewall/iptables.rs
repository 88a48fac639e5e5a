//! Reads `iptables-save` and `ip6tables-save` (iptables-save(8), iptables-extensions(8)) into the model.

use std::collections::BTreeMap;

use super::ipset::Sets;
use super::model::*;
use super::value;

/// The rules in `save`, which `iptables-save` (or, for IPv6, `ip6tables-save`) printed.
pub(in crate::doctor) fn parse(save: &str, family: Family, origin: Origin, sets: &Sets) -> Ruleset {
    let table_family = if family == Family::V4 { TableFamily::Ip } else { TableFamily::Ip6 };
    let mut ruleset = Ruleset::default();
    for line in save.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            ruleset.tables.push(Table {
                origin,
                family: table_family,
                name: name.to_owned(),
                foreign: false,
                chains: BTreeMap::new(),
            });
            continue;
        }
        let Some(table) = ruleset.tables.last_mut() else { continue };
        if let Some(chain) = line.strip_prefix(':') {
            let mut words = chain.split_whitespace();
            if let (Some(name), Some(policy)) = (words.next(), words.next()) {
                let base = base(&table.name, name, policy);
                table.chains.insert(name.to_owned(), Chain { base, rules: Vec::new() });
            }
        } else if line.starts_with('-') || line.starts_with('[') {
            let words = words(line);
            // `iptables-save -c` puts counters before the rule.
            let words: &[String] =
                if words.first().is_some_and(|word| word.starts_with('[')) { &words[1..] } else { &words };
            if let [append, chain, rest @ ..] = words
                && append == "-A"
            {
                let steps = Reader { family, sets, words: rest, at: 0 }.rule();
                let rule = Rule { steps, text: rest.join(" ") };
                table.chains.entry(chain.clone()).or_default().rules.push(rule);
            }
        }
    }
    ruleset
}

/// A built-in chain's hook, at the priority of its table.
fn base(table: &str, chain: &str, policy: &str) -> Option<Base> {
    if policy == "-" {
        return None;
    }
    let hook = Hook::by_name(chain)?;
    let priority = match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting | Hook::Output) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    };
    Some(Base { hook, priority, accept: policy != "DROP", nat: table == "nat", devices: Vec::new() })
}

/// Splits a line as a shell would: quotes and backslashes.
fn words(line: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' => word.get_or_insert_default().extend(letters.next()),
            space if space.is_whitespace() && !quoted => out.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    out.extend(word);
    out
}

struct Reader<'a> {
    family: Family,
    sets: &'a Sets,
    words: &'a [String],
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }

    fn rule(mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut module = "";
        while let Some(word) = self.next() {
            let start = self.at - 1;
            let (negate, option) =
                if word == "!" { (true, self.next().unwrap_or_default()) } else { (false, word) };
            match option {
                "-m" => {
                    module = self.next().unwrap_or_default();
                    if let Some(test) = module_alone(module) {
                        steps.push(Step::Test(test));
                    }
                }
                "-j" | "-g" => {
                    let target = self.next().unwrap_or_default();
                    steps.push(Step::Do(self.action(target, option == "-g")));
                    return steps;
                }
                _ => {
                    let test = self.test(module, option).map(|test| test.negated_if(negate));
                    steps.push(Step::Test(test.unwrap_or_else(|| self.maybe(module, start))));
                }
            }
        }
        steps
    }

    /// The words since `start`, up to the next module or target, as a construct that is not modelled.
    fn maybe(&mut self, module: &str, start: usize) -> Test {
        let limit = matches!(module, "limit" | "hashlimit" | "connlimit" | "recent" | "quota" | "connbytes");
        while self.words.get(self.at).is_some_and(|word| !matches!(word.as_str(), "-m" | "-j" | "-g")) {
            self.at += 1;
        }
        let text = format!("-m {module} {}", self.words.get(start..self.at).unwrap_or_default().join(" "));
        // `recent --set` only takes note.
        if module == "recent"
            && self.words.get(start..self.at).unwrap_or_default().iter().any(|word| word == "--set")
        {
            return Test::Always;
        }
        Test::Maybe(if limit { Construct::limit(text) } else { Construct::unmodelled(text) })
    }

    fn test(&mut self, module: &str, option: &str) -> Option<Test> {
        let family = self.family;
        let addresses = |text: &str| {
            let (of, range) = value::addresses(text)?;
            (of == family).then(|| Ranges::new(vec![range]))
        };
        Some(match option {
            "-p" => {
                let name = self.next()?;
                if name == "all" || name == "0" {
                    return Some(Test::Always);
                }
                let number = value::protocol(name)?;
                Test::Protocol(Ranges::new(vec![(number, number)]))
            }
            "-s" => Test::Source(family, addresses(self.next()?)?),
            "-d" => Test::Destination(family, addresses(self.next()?)?),
            "-i" => Test::In(value::interface(self.next()?, '+')),
            "-o" => Test::Out(value::interface(self.next()?, '+')),
            // A probe's packets are not fragments.
            "-f" => Test::Never,
            "--sport" | "--source-port" | "--sports" | "--source-ports" => {
                Test::SourcePort(value::ports(self.next()?)?)
            }
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                Test::DestinationPort(value::ports(self.next()?)?)
            }
            "--ports" => {
                let ports = value::ports(self.next()?)?;
                Test::Any(vec![Test::SourcePort(ports.clone()), Test::DestinationPort(ports)])
            }
            "--syn" => Test::Flags { mask: 0x17, want: tcp_flag::SYN },
            "--tcp-flags" => {
                let (mask, want) = (self.next()?, self.next()?);
                Test::Flags { mask: flags(mask)?, want: flags(want)? }
            }
            "--ctstate" | "--state" => {
                let states = self.next()?.split(',').map(ct_state).collect::<Option<Vec<_>>>()?;
                Test::Any(states)
            }
            "--ctdir" => Test::Original(self.next()? == "ORIGINAL"),
            "--ctproto" => {
                let number = value::protocol(self.next()?)?;
                Test::Protocol(Ranges::new(vec![(number, number)]))
            }
            "--src-range" => Test::Source(family, addresses(self.next()?)?),
            "--dst-range" => Test::Destination(family, addresses(self.next()?)?),
            "--src-type" => Test::SourceKind(kind(self.next()?)?),
            "--dst-type" => Test::DestinationKind(kind(self.next()?)?),
            "--match-set" => {
                let (name, sides) = (self.next()?, self.next()?);
                match self.sets.test(name, sides, family) {
                    Some(test) => test,
                    None => Test::Maybe(Construct::unmodelled(format!("-m set --match-set {name} {sides}"))),
                }
            }
            "--mark" if module == "mark" => {
                let (value, mask) = mark(self.next()?)?;
                Test::Mark { mask, ranges: Ranges::new(vec![(value.into(), value.into())]) }
            }
            "--pkt-type" => match self.next()? {
                "unicast" => Test::Always,
                _ => Test::Never,
            },
            "--comment" => {
                self.next()?;
                Test::Always
            }
            // What only a packet of another protocol has.
            "--icmp-type" | "--icmpv6-type" | "--ahspi" | "--espspi" => {
                self.next()?;
                Test::Never
            }
            _ => return None,
        })
    }

    fn action(&mut self, target: &str, goto: bool) -> Action {
        let rest = self.words.get(self.at..).unwrap_or_default();
        let after = |name: &str| rest.iter().position(|word| word == name).and_then(|at| rest.get(at + 1));
        let unmodelled =
            || Action::Unmodelled(Construct::unmodelled(format!("-j {target} {}", rest.join(" "))));
        if goto {
            return Action::Goto(target.to_owned());
        }
        match target {
            "ACCEPT" => Action::Accept,
            "DROP" => Action::Drop,
            "REJECT" => Action::Reject,
            "RETURN" => Action::Return,
            "LOG" | "NFLOG" | "ULOG" | "TRACE" | "AUDIT" | "CHECKSUM" | "TCPMSS" | "DSCP" | "TOS" | "TTL"
            | "HL" | "CLASSIFY" | "SECMARK" | "CONNSECMARK" | "ECN" | "LED" | "SET" | "TEE" | "IDLETIMER"
            | "RATEEST" | "TCPOPTSTRIP" => Action::Nothing,
            "MARK" => {
                match after("--set-xmark").or_else(|| after("--set-mark")).and_then(|text| mark(text)) {
                    Some((value, mask)) => Action::SetMark { mask, value },
                    None => {
                        Action::SetMarkUnknown(Construct::unmodelled(format!("-j MARK {}", rest.join(" "))))
                    }
                }
            }
            "CONNMARK" if rest.iter().any(|word| word == "--restore-mark") => {
                Action::SetMarkUnknown(Construct::unmodelled("-j CONNMARK --restore-mark"))
            }
            "CONNMARK" => Action::Nothing,
            "NOTRACK" => Action::NoTrack,
            "CT" if rest.iter().any(|word| word == "--notrack") => Action::NoTrack,
            "CT" => Action::Nothing,
            // A source is rewritten after every decision that counts here.
            "SNAT" | "MASQUERADE" => Action::Accept,
            "REDIRECT" => match after("--to-ports") {
                None => Action::Redirect { port: None },
                Some(port) => match port.parse() {
                    Ok(port) => Action::Redirect { port: Some(port) },
                    Err(_) => unmodelled(),
                },
            },
            "DNAT" => match after("--to-destination") {
                Some(to) => Action::Translate { to: to.clone() },
                None => unmodelled(),
            },
            "" => Action::Nothing,
            // iptables writes its own targets in capitals; everything else is a chain. A chain that is not there
            // is unknown to the evaluator.
            "QUEUE" | "NFQUEUE" | "TPROXY" | "SYNPROXY" | "CLUSTERIP" | "DNPT" | "SNPT" | "NETMAP"
            | "HMARK" => unmodelled(),
            chain => Action::Jump(chain.to_owned()),
        }
    }
}

/// A module that tests something by being named, without an option of its own.
fn module_alone(module: &str) -> Option<Test> {
    match module {
        "limit" | "quota" | "socket" | "rpfilter" | "bpf" => None,
        // Its header is never on a probe's packet.
        "frag" | "rt" | "hbh" | "dst" | "mh" | "srh" => Some(Test::Never),
        _ => None,
    }
}

fn flags(text: &str) -> Option<u8> {
    text.split(',').try_fold(0, |bits, name| Some(bits | tcp_flag::by_name(name)?))
}

fn ct_state(name: &str) -> Option<Test> {
    Some(match name {
        "INVALID" => Test::State(state::INVALID),
        "NEW" => Test::State(state::NEW),
        "ESTABLISHED" => Test::State(state::ESTABLISHED),
        "RELATED" => Test::State(state::RELATED),
        "UNTRACKED" => Test::State(state::UNTRACKED),
        "DNAT" => Test::Translated,
        _ => return None,
    })
}

fn kind(name: &str) -> Option<AddressKind> {
    Some(match name {
        "LOCAL" => AddressKind::Local,
        "UNICAST" => AddressKind::Unicast,
        "BROADCAST" | "MULTICAST" | "ANYCAST" | "BLACKHOLE" | "UNREACHABLE" | "PROHIBIT" | "UNSPEC" => {
            AddressKind::Other
        }
        _ => return None,
    })
}

/// `0x1/0xff` as value and mask.
fn mark(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}
