//! Reads `ipset save` (ipset(8)), for rules of iptables that match a set.

use std::collections::BTreeMap;

use super::model::{Family, Protocol, Ranges, Test};
use super::value;

/// One dimension of a set's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Dimension {
    Address,
    Port,
}

#[derive(Debug)]
struct Set {
    /// `None`: of a type that is not modelled.
    dimensions: Option<Vec<Dimension>>,
    elements: Vec<String>,
    /// An element's own exception (`nomatch`) or a rule of its own is in it.
    special: bool,
    list: bool,
}

/// The host's sets by name.
#[derive(Debug, Default)]
pub(in crate::doctor) struct Sets(BTreeMap<String, Set>);

impl Sets {
    /// The sets in what `ipset save` printed.
    pub(in crate::doctor) fn parse(save: &str) -> Self {
        let mut sets = BTreeMap::new();
        for line in save.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next(), words.next()) {
                (Some("create"), Some(name), Some(kind)) => {
                    let dimensions = match kind {
                        "hash:ip" | "hash:net" | "bitmap:ip" => Some(vec![Dimension::Address]),
                        "bitmap:port" => Some(vec![Dimension::Port]),
                        "hash:ip,port" | "hash:net,port" => Some(vec![Dimension::Address, Dimension::Port]),
                        "hash:ip,port,ip" | "hash:ip,port,net" | "hash:net,port,net" => {
                            Some(vec![Dimension::Address, Dimension::Port, Dimension::Address])
                        }
                        "hash:net,net" => Some(vec![Dimension::Address, Dimension::Address]),
                        _ => None,
                    };
                    let list = kind == "list:set";
                    sets.insert(
                        name.to_owned(),
                        Set { dimensions, elements: Vec::new(), special: false, list },
                    );
                }
                (Some("add"), Some(name), Some(element)) => {
                    if let Some(set) = sets.get_mut(name) {
                        set.special |= words.any(|word| word == "nomatch");
                        set.elements.push(element.to_owned());
                    }
                }
                _ => {}
            }
        }
        Self(sets)
    }

    /// The test of `--match-set NAME SIDES`; `None` where the set is not there or not modelled.
    pub(super) fn test(&self, name: &str, sides: &str, family: Family) -> Option<Test> {
        self.test_at(name, sides, family, 0)
    }

    fn test_at(&self, name: &str, sides: &str, family: Family, depth: usize) -> Option<Test> {
        let set = self.0.get(name)?;
        if set.special || depth > 1 {
            return None;
        }
        if set.list {
            let tests = set.elements.iter().map(|member| self.test_at(member, sides, family, depth + 1));
            return Some(Test::Any(tests.collect::<Option<_>>()?));
        }
        let dimensions = set.dimensions.as_ref()?;
        let sides: Vec<bool> = sides.split(',').map(|side| side == "src").collect();
        if sides.len() < dimensions.len() {
            return None;
        }
        if let ([Dimension::Address], [source, ..]) = (dimensions.as_slice(), sides.as_slice()) {
            // The usual big set: one lookup instead of one test an element.
            let mut ranges = Vec::with_capacity(set.elements.len());
            for element in &set.elements {
                let (of, range) = value::addresses(element)?;
                if of == family {
                    ranges.push(range);
                }
            }
            return Some(address(*source, family, Ranges::new(ranges)));
        }
        let mut any = Vec::with_capacity(set.elements.len());
        for element in &set.elements {
            let parts: Vec<&str> = element.split(',').collect();
            if parts.len() != dimensions.len() {
                return None;
            }
            let mut all = Vec::new();
            for ((dimension, part), source) in dimensions.iter().zip(parts).zip(&sides) {
                match dimension {
                    Dimension::Address => {
                        let (of, range) = value::addresses(part)?;
                        all.push(if of == family {
                            address(*source, family, Ranges::new(vec![range]))
                        } else {
                            Test::Never
                        });
                    }
                    Dimension::Port => {
                        let (protocol, port) = match part.split_once(':') {
                            Some((name, port)) => (Some(value::protocol(name)?), port),
                            None => (None, part),
                        };
                        // A bitmap of ports holds those of TCP and UDP alike.
                        let protocols = match protocol {
                            Some(number) => vec![(number, number)],
                            None => Protocol::BOTH
                                .map(|known| (known.number().into(), known.number().into()))
                                .into(),
                        };
                        all.push(Test::Protocol(Ranges::new(protocols)));
                        let ports = value::ports(port)?;
                        all.push(if *source {
                            Test::SourcePort(ports)
                        } else {
                            Test::DestinationPort(ports)
                        });
                    }
                }
            }
            any.push(Test::All(all));
        }
        Some(Test::Any(any))
    }
}

fn address(source: bool, family: Family, ranges: Ranges) -> Test {
    if source { Test::Source(family, ranges) } else { Test::Destination(family, ranges) }
}
