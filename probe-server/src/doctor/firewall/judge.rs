//! From single packets to a judgement: who gets through to the port, over which interface, and who does not.
//!
//! A rule set cuts all client addresses and ports into classes that no rule tells apart. One packet of each class
//! is walked through the rules, so a judgement holds for every client, not for a lucky sample.

use super::eval::{Moment, Outcome, Packet, Place, evaluate};
use super::model::*;
use super::value;

/// Classes of clients, times rules, that are walked before the answer is "too many": a list of a hundred thousand
/// addresses on a usual host stays below.
const MAX_WORK: usize = 20_000_000;
/// Ranges of addresses and ports in all rules together.
const MAX_CUTS: usize = 1_000_000;
/// Ports a client's system takes its source port from; wider than any system's own range.
const CLIENT_PORTS: (u128, u128) = (1024, 65535);
/// At most this many exceptions are named.
pub(super) const NAMED: usize = 4;

/// An address of this host on an interface, and the port that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Its name.
    pub interface: String,
    /// It is a bridge, or a member of one.
    pub bridged: bool,
    /// This host's address on it.
    pub address: std::net::IpAddr,
    /// The listener's port.
    pub port: u16,
}

/// Who gets through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Everybody, but for some.
    Open {
        /// Addresses that do not get through.
        except: Vec<String>,
    },
    /// Nobody.
    Closed(Place),
    /// Only some.
    Only {
        /// Addresses that get through.
        from: Vec<String>,
        /// What stops the others.
        by: Place,
    },
    /// Everybody, up to a rate or number.
    Limited {
        /// The limit, in the rule's words.
        limit: String,
        /// What stops the rest.
        by: Place,
    },
    /// The destination is rewritten.
    Elsewhere {
        /// The new destination.
        to: String,
        /// What rewrites it.
        by: Place,
    },
    /// It hangs on what is not modelled.
    Unknown {
        /// The construct, in the rule's words.
        construct: String,
    },
}

/// Whether a client's whole exchange with the listener (its first packet, the answer, its later packets) gets
/// through `rules`.
pub(in crate::doctor) fn judge(rules: &Ruleset, arrival: &Arrival, protocol: Protocol) -> Judgement {
    let (family, host) = value::number(arrival.address);
    let mut cuts = Cuts::default();
    let mut rules_in_all = 1;
    for table in &rules.tables {
        for chain in table.chains.values() {
            rules_in_all += chain.rules.len();
            for rule in &chain.rules {
                for step in &rule.steps {
                    cuts.step(step, family);
                }
            }
        }
    }
    let cut = cuts.addresses.len() + cuts.ports.len();
    if cut > MAX_CUTS {
        return Judgement::Unknown { construct: format!("{cut} ranges of addresses and ports") };
    }
    let sources = cuts.address_classes(family, host);
    let ports = cuts.port_classes();
    let classes = sources.len().saturating_mul(ports.len());
    if classes.saturating_mul(rules_in_all) > MAX_WORK {
        let construct = format!("{classes} kinds of clients told apart by {rules_in_all} rules");
        return Judgement::Unknown { construct };
    }
    let mut open = Share::default();
    let mut shut = Share::default();
    // The reason that shuts out the widest class.
    let mut why: Option<(u128, Outcome)> = None;
    for range in sources {
        let mut class: Option<Outcome> = None;
        for client_port in &ports {
            let client = Client { family, address: range.0, port: *client_port };
            match exchange(rules, arrival, host, protocol, &client) {
                Outcome::Unknown(construct) => return Judgement::Unknown { construct },
                Outcome::Passes => {}
                stopped @ (Outcome::Dropped(_)
                | Outcome::Rejected(_)
                | Outcome::Elsewhere(..)
                | Outcome::Limited(..)) => {
                    class.get_or_insert(stopped);
                }
            }
        }
        match class {
            None => open.add(range),
            Some(outcome) => {
                shut.add(range);
                let width = range.1 - range.0;
                if why.as_ref().is_none_or(|(widest, _)| width > *widest) {
                    why = Some((width, outcome));
                }
            }
        }
    }
    let Some((_, why)) = why else { return Judgement::Open { except: Vec::new() } };
    // A few shut addresses are exceptions to an open port; a few open ones are all that is let in.
    if shut.size < open.size / 2.0 {
        return Judgement::Open { except: shut.names(family) };
    }
    match why {
        Outcome::Limited(limit, by) => Judgement::Limited { limit, by },
        Outcome::Elsewhere(to, by) => Judgement::Elsewhere { to, by },
        Outcome::Dropped(by) | Outcome::Rejected(by) if open.ranges.is_empty() => Judgement::Closed(by),
        Outcome::Dropped(by) | Outcome::Rejected(by) => Judgement::Only { from: open.names(family), by },
        Outcome::Passes => Judgement::Open { except: Vec::new() },
        Outcome::Unknown(construct) => Judgement::Unknown { construct },
    }
}

/// One client, as a representative of its class.
#[derive(Clone, Copy, Debug)]
pub(in crate::doctor) struct Client {
    pub(in crate::doctor) family: Family,
    pub(in crate::doctor) address: u128,
    pub(in crate::doctor) port: u16,
}

/// What becomes of one client's exchange: of the first of its packets that does not pass.
pub(in crate::doctor) fn exchange(
    rules: &Ruleset,
    arrival: &Arrival,
    host: u128,
    protocol: Protocol,
    client: &Client,
) -> Outcome {
    let mut state = state::NEW;
    let mut first_untracked = false;
    for moment in [Moment::First, Moment::Reply, Moment::Later] {
        let packet = Packet {
            family: client.family,
            protocol,
            client: client.address,
            client_port: client.port,
            host,
            host_port: arrival.port,
            interface: &arrival.interface,
            bridged: arrival.bridged,
            moment,
            state,
        };
        let (outcome, untracked) = evaluate(rules, &packet);
        if outcome != Outcome::Passes {
            return outcome;
        }
        state = match moment {
            Moment::First => {
                first_untracked = untracked;
                after_first(protocol, untracked)
            }
            Moment::Reply | Moment::Later => after_reply(protocol, first_untracked, untracked),
        };
    }
    Outcome::Passes
}

/// What connection tracking makes of the answer, by whether it saw the first packet: of UDP an answer alone is new to
/// it, of TCP an answer to nothing is invalid.
fn after_first(protocol: Protocol, untracked: bool) -> u8 {
    match (untracked, protocol) {
        (false, _) => state::ESTABLISHED,
        (true, Protocol::Tcp) => state::INVALID,
        (true, Protocol::Udp) => state::NEW,
    }
}

/// And of the client's later packets, by what it saw before: an acknowledgement of what it did not see is invalid, one
/// in the middle of what it knows nothing of is taken as new (`nf_conntrack_tcp_loose`).
fn after_reply(protocol: Protocol, first_untracked: bool, reply_untracked: bool) -> u8 {
    match (first_untracked, reply_untracked, protocol) {
        (false, false, _) | (true, false, Protocol::Udp) => state::ESTABLISHED,
        (false, true, Protocol::Tcp) => state::INVALID,
        (true, _, Protocol::Tcp) | (_, true, Protocol::Udp) => state::NEW,
    }
}

/// How much of the address space, and which.
#[derive(Default)]
struct Share {
    size: f64,
    ranges: Vec<(u128, u128)>,
}

impl Share {
    fn add(&mut self, range: (u128, u128)) {
        // A share of the space: precision does not matter.
        self.size += (range.1 - range.0) as f64 + 1.0;
        self.ranges.push(range);
    }

    fn names(self, family: Family) -> Vec<String> {
        Ranges::new(self.ranges).as_slice().iter().map(|range| value::show(family, *range)).collect()
    }
}

/// Where the rules cut the space of clients.
#[derive(Default)]
struct Cuts {
    addresses: Vec<(u128, u128)>,
    ports: Vec<(u128, u128)>,
}

impl Cuts {
    fn step(&mut self, step: &Step, family: Family) {
        match step {
            Step::Test(test) => self.test(test, family),
            Step::Do(Action::Dispatch(rows)) => rows.iter().for_each(|(test, _)| self.test(test, family)),
            Step::Do(_) => {}
        }
    }

    fn test(&mut self, test: &Test, family: Family) {
        match test {
            // Clients are sources on the way in and destinations on the way out.
            Test::Source(of, ranges) | Test::Destination(of, ranges) if *of == family => {
                self.addresses.extend_from_slice(ranges.as_slice());
            }
            Test::SourcePort(ranges) | Test::DestinationPort(ranges) => {
                self.ports.extend_from_slice(ranges.as_slice());
            }
            Test::Not(inner) => self.test(inner, family),
            Test::Any(tests) | Test::All(tests) => tests.iter().for_each(|inner| self.test(inner, family)),
            Test::Always
            | Test::Never
            | Test::Family(_)
            | Test::Protocol(_)
            | Test::Source(..)
            | Test::Destination(..)
            | Test::In(_)
            | Test::Out(_)
            | Test::State(_)
            | Test::Original(_)
            | Test::Translated
            | Test::Flags { .. }
            | Test::Mark { .. }
            | Test::SourceKind(_)
            | Test::DestinationKind(_)
            | Test::Maybe(_) => {}
        }
    }

    /// Ranges of client addresses that no rule tells apart, within the addresses clients can have.
    fn address_classes(&self, family: Family, host: u128) -> Vec<(u128, u128)> {
        let mut cuts = self.addresses.clone();
        cuts.push((host, host));
        let mut classes = Vec::new();
        for within in clients(family) {
            classes.extend(split(within, &cuts).into_iter().filter(|range| *range != (host, host)));
        }
        classes
    }

    fn port_classes(&self) -> Vec<u16> {
        split(CLIENT_PORTS, &self.ports)
            .into_iter()
            .map(|(low, _)| u16::try_from(low).unwrap_or(u16::MAX))
            .collect()
    }
}

/// Addresses that a client can send from: no loopback, no multicast, nothing unspecified.
fn clients(family: Family) -> Vec<(u128, u128)> {
    let texts: &[&str] = match family {
        Family::V4 => &["1.0.0.0-126.255.255.255", "128.0.0.0-223.255.255.255"],
        Family::V6 => &["2000::/3", "fc00::/7", "fe80::/10"],
    };
    texts.iter().filter_map(|text| value::addresses(text)).map(|(_, range)| range).collect()
}

/// Cuts `within` at the ends of each of `cuts`.
fn split(within: (u128, u128), cuts: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut starts = vec![within.0];
    for (low, high) in cuts {
        starts.push(*low);
        starts.extend(high.checked_add(1));
    }
    starts.retain(|start| (within.0..=within.1).contains(start));
    starts.sort_unstable();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([within.1]).collect::<Vec<_>>();
    starts.into_iter().zip(ends).collect()
}
