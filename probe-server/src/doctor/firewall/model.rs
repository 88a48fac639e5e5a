//! One model for the rules of nftables, iptables and their kin: tables, chains, rules, tests and actions.
//!
//! The parsers ([`super::nft`], [`super::iptables`]) fill it, the evaluator ([`super::eval`]) walks it. What a
//! parser does not know becomes [`Test::Maybe`] or [`Action::Unmodelled`], never a guess.

use std::collections::BTreeMap;

/// Bits of a connection-tracking state, as in `ct state` and `--ctstate`.
pub(super) mod state {
    pub(in crate::doctor) const INVALID: u8 = 1;
    pub(in crate::doctor) const NEW: u8 = 2;
    pub(in crate::doctor) const ESTABLISHED: u8 = 4;
    pub(in crate::doctor) const RELATED: u8 = 8;
    pub(in crate::doctor) const UNTRACKED: u8 = 16;
}

/// Bits of a TCP header's flag byte (RFC 9293 section 3.1).
pub(super) mod tcp_flag {
    pub(in crate::doctor) const SYN: u8 = 0x02;
    pub(in crate::doctor) const ACK: u8 = 0x10;

    /// The bit of a flag by the name that nft and iptables give it.
    pub(in crate::doctor) fn by_name(name: &str) -> Option<u8> {
        Some(match name.to_ascii_lowercase().as_str() {
            "fin" => 0x01,
            "syn" => SYN,
            "rst" => 0x04,
            "psh" => 0x08,
            "ack" => ACK,
            "urg" => 0x20,
            "ecn" | "ece" => 0x40,
            "cwr" => 0x80,
            "none" => 0,
            "all" => 0x3f,
            _ => return None,
        })
    }
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::doctor) enum Family {
    V4,
    V6,
}

/// The two protocols of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Tcp, Self::Udp];

    pub(in crate::doctor) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// As it stands after a port: `8886/tcp`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A set of numbers as sorted, disjoint, inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::doctor) struct Ranges(Vec<(u128, u128)>);

impl Ranges {
    /// The union of `ranges`, in any order; a range whose ends are swapped is taken as empty.
    pub(in crate::doctor) fn new(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.retain(|(low, high)| low <= high);
        ranges.sort_unstable();
        let mut out: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match out.last_mut() {
                Some(last) if low <= last.1 || low == last.1.saturating_add(1) => last.1 = last.1.max(high),
                _ => out.push((low, high)),
            }
        }
        Self(out)
    }

    pub(in crate::doctor) fn contains(&self, value: u128) -> bool {
        let after = self.0.partition_point(|(low, _)| *low <= value);
        after > 0 && self.0[after - 1].1 >= value
    }

    pub(in crate::doctor) fn as_slice(&self) -> &[(u128, u128)] {
        &self.0
    }
}

/// A name of an interface, as a rule writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Exact(String),
    Prefix(String),
}

impl Name {
    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Prefix(prefix) => name.starts_with(prefix.as_str()),
        }
    }
}

/// What `fib … type` and `addrtype` tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressKind {
    Local,
    Unicast,
    /// Broadcast, multicast, blackhole and the rest: never an address of a probe's packet.
    Other,
}

/// A construct of a rule set by the words it stands there in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::doctor) struct Construct {
    pub(in crate::doctor) text: String,
    /// It passes up to a rate or a number (of packets, of connections) and not beyond.
    pub(in crate::doctor) limit: bool,
}

impl Construct {
    pub(super) fn unmodelled(text: impl Into<String>) -> Self {
        Self { text: text.into(), limit: false }
    }

    pub(super) fn limit(text: impl Into<String>) -> Self {
        Self { text: text.into(), limit: true }
    }
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Test {
    Always,
    Never,
    Family(Family),
    Protocol(Ranges),
    Source(Family, Ranges),
    Destination(Family, Ranges),
    /// Ports of TCP and UDP alike; a rule for one of them says so with [`Test::Protocol`] too.
    SourcePort(Ranges),
    DestinationPort(Ranges),
    In(Name),
    Out(Name),
    /// Any of these bits of [`state`].
    State(u8),
    /// The packet goes the way of the connection's first packet (or, if false, the other).
    Original(bool),
    /// Destination was translated.
    Translated,
    Flags {
        mask: u8,
        want: u8,
    },
    Mark {
        mask: u32,
        ranges: Ranges,
    },
    SourceKind(AddressKind),
    DestinationKind(AddressKind),
    Not(Box<Test>),
    Any(Vec<Test>),
    All(Vec<Test>),
    /// Depends on what the model does not hold.
    Maybe(Construct),
}

impl Test {
    pub(super) fn not(self) -> Self {
        Self::Not(Box::new(self))
    }

    pub(super) fn negated_if(self, negate: bool) -> Self {
        if negate { self.not() } else { self }
    }
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Accept,
    Drop,
    Reject,
    Return,
    Jump(String),
    Goto(String),
    /// `vmap`: the first test that holds decides; none, and the rule ends without a verdict.
    Dispatch(Vec<(Test, Action)>),
    /// New mark = (old & !mask) ^ value.
    SetMark {
        mask: u32,
        value: u32,
    },
    /// A mark computed from what the model does not hold.
    SetMarkUnknown(Construct),
    NoTrack,
    /// Destination translated: to this host's own `port`.
    Redirect {
        port: Option<u16>,
    },
    /// Destination translated to another address.
    Translate {
        to: String,
    },
    /// Counts, logs, marks what no modelled test reads.
    Nothing,
    Unmodelled(Construct),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Test(Test),
    Do(Action),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule {
    pub(super) steps: Vec<Step>,
    /// As the admin knows it.
    pub(super) text: String,
}

/// Where the kernel hands packets to chains, in a packet's order (in: ingress, prerouting, input).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Hook {
    Ingress,
    Prerouting,
    Input,
    Output,
    Postrouting,
    Egress,
}

impl Hook {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "ingress" => Self::Ingress,
            "prerouting" => Self::Prerouting,
            "input" => Self::Input,
            "output" => Self::Output,
            "postrouting" => Self::Postrouting,
            "egress" => Self::Egress,
            _ => return None,
        })
    }
}

/// A chain's place at a hook.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Base {
    pub(super) hook: Hook,
    pub(super) priority: i64,
    /// False: what no rule decided is dropped.
    pub(super) accept: bool,
    /// Only the first packet of a connection is seen.
    pub(super) nat: bool,
    /// Devices an ingress or egress chain is bound to; empty: all.
    pub(super) devices: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Chain {
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// What wrote a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// nftables.
    Nftables,
    /// iptables over nftables, as `iptables-save` shows it.
    Iptables,
    /// iptables over the kernel's old tables.
    IptablesLegacy,
}

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TableFamily {
    Ip,
    Ip6,
    Inet,
    Netdev,
    Bridge,
}

impl TableFamily {
    pub(super) fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "ip" => Self::Ip,
            "ip6" => Self::Ip6,
            "inet" => Self::Inet,
            "netdev" => Self::Netdev,
            "bridge" => Self::Bridge,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
        }
    }

    pub(super) fn sees(self, family: Family) -> bool {
        match self {
            Self::Ip => family == Family::V4,
            Self::Ip6 => family == Family::V6,
            Self::Inet | Self::Netdev | Self::Bridge => true,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Table {
    pub(super) origin: Origin,
    pub(super) family: TableFamily,
    pub(super) name: String,
    /// iptables wrote it, with matches that nft cannot show; `iptables-save` can.
    pub(super) foreign: bool,
    pub(super) chains: BTreeMap<String, Chain>,
}

/// Every rule that a host holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::doctor) struct Ruleset {
    pub(super) tables: Vec<Table>,
}

impl Ruleset {
    /// Some chain can drop something.
    pub(in crate::doctor) fn filters(&self) -> bool {
        self.tables
            .iter()
            .flat_map(|table| table.chains.values())
            .any(|chain| chain.base.as_ref().is_some_and(|base| !base.accept) || !chain.rules.is_empty())
    }

    /// A table of this name is there.
    pub(in crate::doctor) fn has_table(&self, name: &str) -> bool {
        self.tables.iter().any(|table| table.name == name)
    }

    /// A chain whose name begins so is there.
    pub(in crate::doctor) fn has_chain_with_prefix(&self, prefix: &str) -> bool {
        self.tables.iter().flat_map(|table| table.chains.keys()).any(|name| name.starts_with(prefix))
    }

    /// Takes the tables of `other` in, too.
    pub(in crate::doctor) fn extend(&mut self, other: Self) {
        self.tables.extend(other.tables);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_merged_and_searched() {
        let ranges = Ranges::new(vec![(10, 20), (1, 3), (4, 5), (30, 25), (18, 22)]);
        assert_eq!(ranges.as_slice(), [(1, 5), (10, 22)]);
        for (value, inside) in
            [(0, false), (1, true), (5, true), (6, false), (10, true), (22, true), (23, false)]
        {
            assert_eq!(ranges.contains(value), inside, "{value}");
        }
        assert!(!Ranges::new(vec![]).contains(0));
        assert!(Ranges::new(vec![(0, u128::MAX)]).contains(u128::MAX));
    }
}
