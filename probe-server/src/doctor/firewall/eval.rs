//! Walks one packet through a rule set, as the kernel's netfilter hooks would.
//!
//! Where a test depends on what the model does not hold, both answers are walked: if every walk ends alike, the
//! construct did not matter; if not, the answer is that construct.

use super::model::*;

/// Walks per packet before the answer is "too many unknowns".
const MAX_WALKS: usize = 256;
/// The kernel's own jump stack is 16 deep; deeper is a loop.
const MAX_DEPTH: usize = 32;
/// Rules looked at in one walk.
const MAX_RULES: usize = 200_000;
/// At this priority connection tracking looks at a packet; before it no packet has a state.
const CONNTRACK_PRIORITY: i64 = -200;

/// Which of an exchange's packets it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Moment {
    /// The client's first packet.
    First,
    /// The listener's answers.
    Reply,
    /// The client's later packets.
    Later,
}

/// One packet between a client and the listener. Addresses are numbers of their family's width.
#[derive(Clone, Debug)]
pub(in crate::doctor) struct Packet<'a> {
    pub(in crate::doctor) family: Family,
    pub(in crate::doctor) protocol: Protocol,
    pub(in crate::doctor) client: u128,
    pub(in crate::doctor) client_port: u16,
    pub(in crate::doctor) host: u128,
    pub(in crate::doctor) host_port: u16,
    pub(in crate::doctor) interface: &'a str,
    /// The interface is a bridge or a member of one.
    pub(in crate::doctor) bridged: bool,
    pub(in crate::doctor) moment: Moment,
    /// What connection tracking makes of it: a bit of [`state`].
    pub(in crate::doctor) state: u8,
}

/// Where a verdict was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What wrote the table.
    pub origin: Origin,
    /// The table's family: `ip`, `ip6`, `inet`, `netdev` or `bridge`.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain at the hook, where a rule that should come first must be put.
    pub chain: String,
    /// Filters what comes in (otherwise what goes out).
    pub inbound: bool,
    /// The rule or policy.
    pub rule: String,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (table {} {}, from chain {})", self.rule, self.family, self.table, self.chain)
    }
}

/// What becomes of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) enum Outcome {
    Passes,
    Dropped(Place),
    Rejected(Place),
    /// Its destination is rewritten away from the listener.
    Elsewhere(String, Place),
    /// Passes up to a limit.
    Limited(String, Place),
    /// Depends on a construct that is not modelled.
    Unknown(String),
}

impl Outcome {
    /// The same answer for the person who asks, whichever rule gave it.
    fn alike(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// What becomes of `packet` at `rules`, and whether it went untracked.
pub(in crate::doctor) fn evaluate(rules: &Ruleset, packet: &Packet<'_>) -> (Outcome, bool) {
    let mut choices: Vec<bool> = Vec::new();
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut decisive: Option<Construct> = None;
    let mut only_limits = true;
    let (mut tracked, mut untracked) = (false, false);
    for _ in 0..MAX_WALKS {
        let mut walk = Walk::new(packet, &choices);
        let outcome = walk.run(rules);
        if let Outcome::Unknown(_) = outcome {
            return (outcome, false);
        }
        *(if walk.state == state::UNTRACKED { &mut untracked } else { &mut tracked }) = true;
        let forks = walk.forks;
        choices = walk.taken;
        if let Some(first) = forks.first() {
            decisive.get_or_insert_with(|| first.clone());
        }
        only_limits &= forks.iter().all(|construct| construct.limit);
        outcomes.push(outcome);
        // The next walk takes the other turn at the last fork that has one left.
        while choices.last() == Some(&true) {
            choices.pop();
        }
        match choices.last_mut() {
            Some(last) => *last = true,
            // Whether it is tracked decides about the packets that follow.
            None if tracked && untracked => break,
            None => return (summary(outcomes, decisive, only_limits), untracked),
        }
    }
    let construct = decisive.map_or_else(|| "too many rules".to_owned(), |construct| construct.text);
    (Outcome::Unknown(construct), false)
}

fn summary(mut outcomes: Vec<Outcome>, decisive: Option<Construct>, only_limits: bool) -> Outcome {
    let Some(first) = outcomes.first() else { return Outcome::Passes };
    if outcomes.iter().all(|outcome| outcome.alike(first)) {
        return outcomes.swap_remove(0);
    }
    let text = decisive.map(|construct| construct.text).unwrap_or_default();
    let passes = outcomes.contains(&Outcome::Passes);
    let place = outcomes.into_iter().find_map(|outcome| match outcome {
        Outcome::Dropped(place) | Outcome::Rejected(place) | Outcome::Elsewhere(_, place) => Some(place),
        Outcome::Passes | Outcome::Limited(..) | Outcome::Unknown(_) => None,
    });
    match place {
        Some(place) if passes && only_limits => Outcome::Limited(text, place),
        // Dropped in one walk and rejected in another is closed either way.
        Some(place) if !passes => Outcome::Dropped(place),
        _ => Outcome::Unknown(text),
    }
}

/// The rule counts or logs, and decides nothing: what it tests need not be asked.
fn inert(table: &Table, rule: &Rule, depth: usize) -> bool {
    rule.steps.iter().all(|step| match step {
        Step::Test(_) | Step::Do(Action::Nothing) => true,
        Step::Do(Action::Jump(target)) => {
            depth < MAX_DEPTH
                && table
                    .chains
                    .get(target)
                    .is_some_and(|chain| chain.rules.iter().all(|inner| inert(table, inner, depth + 1)))
        }
        Step::Do(_) => false,
    })
}

/// The packet as one walk has changed it, and the turns the walk took.
struct Walk<'a> {
    packet: &'a Packet<'a>,
    host_port: u16,
    mark: u32,
    mark_unknown: Option<Construct>,
    state: u8,
    translated: bool,
    hook: Hook,
    taken: Vec<bool>,
    asked: usize,
    forks: Vec<Construct>,
    rules_seen: usize,
}

/// How a chain ended.
enum End {
    /// Fell off its end, or returned.
    Open,
    Verdict(Outcome),
}

enum Turn {
    Next,
    NextRule,
    Return,
    End(End),
}

impl<'a> Walk<'a> {
    fn new(packet: &'a Packet<'a>, choices: &[bool]) -> Self {
        Self {
            packet,
            host_port: packet.host_port,
            mark: 0,
            mark_unknown: None,
            state: packet.state,
            translated: false,
            hook: Hook::Ingress,
            taken: choices.to_vec(),
            asked: 0,
            forks: Vec::new(),
            rules_seen: 0,
        }
    }

    fn inbound(&self) -> bool {
        self.packet.moment != Moment::Reply
    }

    fn run(&mut self, rules: &Ruleset) -> Outcome {
        let hooks: &[Hook] = if self.inbound() {
            &[Hook::Ingress, Hook::Prerouting, Hook::Input]
        } else {
            &[Hook::Output, Hook::Postrouting, Hook::Egress]
        };
        for hook in hooks {
            self.hook = *hook;
            if let Some(outcome) = self.hook(rules) {
                return outcome;
            }
        }
        Outcome::Passes
    }

    /// Every chain at the current hook, by priority: each must let the packet pass.
    fn hook(&mut self, rules: &Ruleset) -> Option<Outcome> {
        let mut bases: Vec<(i64, &Table, &String, &Chain, &Base)> = Vec::new();
        for table in &rules.tables {
            for (name, chain) in &table.chains {
                let Some(base) = chain.base.as_ref().filter(|base| base.hook == self.hook) else { continue };
                if table.family.sees(self.packet.family) && self.bound(base, name) {
                    bases.push((base.priority, table, name, chain, base));
                }
            }
        }
        bases.sort_by_key(|(priority, ..)| *priority);
        for (priority, table, name, chain, base) in bases {
            if table.family == TableFamily::Bridge {
                if self.packet.bridged && (!chain.rules.is_empty() || !base.accept) {
                    return Some(Outcome::Unknown(format!("bridge table {}, chain {name}", table.name)));
                }
                continue;
            }
            if base.nat && (self.packet.moment != Moment::First || self.state == state::UNTRACKED) {
                continue;
            }
            let tracked = self.state;
            // Before connection tracking a packet has no state but "invalid" (or "untracked", once said).
            let early = matches!(self.hook, Hook::Ingress | Hook::Egress)
                || (priority < CONNTRACK_PRIORITY && matches!(self.hook, Hook::Prerouting | Hook::Output));
            if early && self.state != state::UNTRACKED {
                self.state = state::INVALID;
            }
            let ended = self.chain(table, name, chain, 0, name);
            if early && self.state == state::INVALID {
                self.state = tracked;
            }
            match ended {
                End::Verdict(Outcome::Passes) => {}
                End::Verdict(outcome) => return Some(outcome),
                End::Open if base.accept => {}
                End::Open => {
                    let rule = format!("policy drop of chain {name}");
                    return Some(Outcome::Dropped(self.place(table, name, rule)));
                }
            }
        }
        None
    }

    /// Whether a chain of a device is one of the packet's device.
    fn bound(&mut self, base: &Base, chain: &str) -> bool {
        if !matches!(base.hook, Hook::Ingress | Hook::Egress) {
            return true;
        }
        if base.devices.is_empty() {
            return self.decide(&Test::Maybe(Construct::unmodelled(format!("the device of chain {chain}"))));
        }
        base.devices.iter().any(|device| device == self.packet.interface)
    }

    fn place(&self, table: &Table, base: &str, rule: String) -> Place {
        Place {
            origin: table.origin,
            family: table.family.name(),
            table: table.name.clone(),
            chain: base.to_owned(),
            inbound: self.inbound(),
            rule,
        }
    }

    fn chain(&mut self, table: &Table, name: &str, chain: &Chain, depth: usize, base: &str) -> End {
        if depth > MAX_DEPTH {
            return End::Verdict(Outcome::Unknown(format!("chain {name} jumps to itself")));
        }
        'rules: for rule in &chain.rules {
            self.rules_seen += 1;
            if self.rules_seen > MAX_RULES {
                return End::Verdict(Outcome::Unknown("more rules than are looked at".to_owned()));
            }
            if inert(table, rule, 0) {
                continue;
            }
            for step in &rule.steps {
                match step {
                    Step::Test(test) => {
                        if !self.decide(test) {
                            continue 'rules;
                        }
                    }
                    Step::Do(action) => match self.act(table, action, rule, depth, base, name) {
                        Turn::Next => {}
                        Turn::NextRule => continue 'rules,
                        Turn::Return => return End::Open,
                        Turn::End(end) => return end,
                    },
                }
            }
        }
        End::Open
    }

    fn act(
        &mut self,
        table: &Table,
        action: &Action,
        rule: &Rule,
        depth: usize,
        base: &str,
        chain: &str,
    ) -> Turn {
        let here = |walk: &Self| walk.place(table, base, format!("`{}` in chain {chain}", rule.text));
        match action {
            Action::Accept => Turn::End(End::Verdict(Outcome::Passes)),
            Action::Drop => Turn::End(End::Verdict(Outcome::Dropped(here(self)))),
            Action::Reject => Turn::End(End::Verdict(Outcome::Rejected(here(self)))),
            Action::Return => Turn::Return,
            Action::Jump(target) | Action::Goto(target) => {
                let Some(next) = table.chains.get(target) else {
                    return Turn::End(End::Verdict(Outcome::Unknown(format!("chain {target}"))));
                };
                match (self.chain(table, target, next, depth + 1, base), action) {
                    (End::Open, Action::Goto(_)) => Turn::Return,
                    (End::Open, _) => Turn::NextRule,
                    (end, _) => Turn::End(end),
                }
            }
            Action::Dispatch(rows) => {
                for (test, action) in rows {
                    if self.decide(test) {
                        return self.act(table, action, rule, depth, base, chain);
                    }
                }
                Turn::NextRule
            }
            Action::SetMark { mask, value } => {
                self.mark = (self.mark & !mask) ^ value;
                Turn::Next
            }
            Action::SetMarkUnknown(construct) => {
                self.mark_unknown = Some(construct.clone());
                Turn::Next
            }
            Action::NoTrack => {
                self.state = state::UNTRACKED;
                Turn::Next
            }
            Action::Redirect { port } => {
                self.host_port = port.unwrap_or(self.host_port);
                self.translated = true;
                if self.host_port == self.packet.host_port {
                    return Turn::End(End::Verdict(Outcome::Passes));
                }
                let to = format!("port {} of this host", self.host_port);
                Turn::End(End::Verdict(Outcome::Elsewhere(to, here(self))))
            }
            Action::Translate { to } => Turn::End(End::Verdict(Outcome::Elsewhere(to.clone(), here(self)))),
            Action::Nothing => Turn::Next,
            Action::Unmodelled(construct) => {
                Turn::End(End::Verdict(Outcome::Unknown(construct.text.clone())))
            }
        }
    }

    /// The truth of `test`, by a fork where the model does not hold it.
    fn decide(&mut self, test: &Test) -> bool {
        match self.truth(test) {
            Ok(truth) => truth,
            Err(construct) => {
                let turn = match self.taken.get(self.asked) {
                    Some(turn) => *turn,
                    None => {
                        self.taken.push(false);
                        false
                    }
                };
                self.asked += 1;
                self.forks.push(construct);
                turn
            }
        }
    }

    /// Kleene's three-valued logic: `Err` is "not known", with the construct that is to blame.
    fn truth(&self, test: &Test) -> Result<bool, Construct> {
        let packet = self.packet;
        let inbound = self.inbound();
        let (source, destination) =
            if inbound { (packet.client, packet.host) } else { (packet.host, packet.client) };
        let (source_port, destination_port) =
            if inbound { (packet.client_port, self.host_port) } else { (self.host_port, packet.client_port) };
        // A packet that comes in has no way out yet, and the other way round; the kernel reads an empty name.
        let (way_in, way_out) = if inbound { (packet.interface, "") } else { ("", packet.interface) };
        Ok(match test {
            Test::Always => true,
            Test::Never => false,
            Test::Family(family) => packet.family == *family,
            Test::Protocol(ranges) => ranges.contains(u128::from(packet.protocol.number())),
            Test::Source(family, ranges) => packet.family == *family && ranges.contains(source),
            Test::Destination(family, ranges) => packet.family == *family && ranges.contains(destination),
            Test::SourcePort(ranges) => ranges.contains(u128::from(source_port)),
            Test::DestinationPort(ranges) => ranges.contains(u128::from(destination_port)),
            Test::In(name) => name.matches(way_in),
            Test::Out(name) => name.matches(way_out),
            Test::State(bits) => self.state & bits != 0,
            Test::Original(original) => inbound == *original,
            Test::Translated => self.translated,
            Test::Flags { mask, want } => {
                let flags = match packet.moment {
                    Moment::First => tcp_flag::SYN,
                    Moment::Reply => tcp_flag::SYN | tcp_flag::ACK,
                    Moment::Later => tcp_flag::ACK,
                };
                packet.protocol == Protocol::Tcp && flags & mask == *want
            }
            Test::Mark { mask, ranges } => {
                if let Some(construct) = &self.mark_unknown {
                    return Err(construct.clone());
                }
                ranges.contains(u128::from(self.mark & mask))
            }
            Test::SourceKind(kind) => {
                *kind == if inbound { AddressKind::Unicast } else { AddressKind::Local }
            }
            Test::DestinationKind(kind) => {
                *kind == if inbound { AddressKind::Local } else { AddressKind::Unicast }
            }
            Test::Not(inner) => !self.truth(inner)?,
            Test::Any(tests) => return self.any(tests, true),
            Test::All(tests) => return self.any(tests, false),
            Test::Maybe(construct) => return Err(construct.clone()),
        })
    }

    /// `Any` (`decides` true) and `All` (`decides` false) are each other's mirror.
    fn any(&self, tests: &[Test], decides: bool) -> Result<bool, Construct> {
        let mut unknown = None;
        for test in tests {
            match self.truth(test) {
                Ok(truth) if truth == decides => return Ok(decides),
                Ok(_) => {}
                Err(construct) => {
                    unknown.get_or_insert(construct);
                }
            }
        }
        unknown.map_or(Ok(!decides), Err)
    }
}
