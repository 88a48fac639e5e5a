//! What a match of nftables looks at (libnftables-json(5), "EXPRESSIONS"), and the test that it comes to.

use serde_json::Value;

use super::model::*;
use super::nft::{flags, list};
use super::value;

/// What a match looks at.
pub(super) enum Field {
    Family,
    Protocol,
    Source(Family),
    Destination(Family),
    SourcePort,
    DestinationPort,
    In,
    Out,
    State,
    Status,
    Direction,
    Flags(u8),
    Mark(u32),
    PacketType,
    SourceKind,
    DestinationKind,
    /// `fib saddr . iif oif`: is there a way back through the interface it came in by?
    WayBack,
}

/// A field and what the packet must be for it to be there at all.
pub(super) struct Key {
    pub(super) field: Field,
    /// Tests that hold for every packet that has the field.
    pub(super) needs: Vec<Test>,
}

impl Key {
    fn plain(field: Field) -> Self {
        Self { field, needs: Vec::new() }
    }
}

/// The field on a match's left side; `Some(Err(_))` for what a probe's packet never has.
pub(super) fn key(left: &Value) -> Option<Result<Key, Test>> {
    let (kind, body) = left.as_object()?.iter().next()?;
    let name = body.get("key").and_then(Value::as_str).unwrap_or_default();
    Some(Ok(match kind.as_str() {
        "meta" => Key::plain(match name {
            "nfproto" | "protocol" => Field::Family,
            "l4proto" => Field::Protocol,
            "iifname" | "iif" => Field::In,
            "oifname" | "oif" => Field::Out,
            "mark" => Field::Mark(u32::MAX),
            "pkttype" => Field::PacketType,
            _ => return None,
        }),
        "ct" => match (name, body.get("dir")) {
            ("state", _) => Key::plain(Field::State),
            ("status", _) => Key::plain(Field::Status),
            ("direction", _) => Key::plain(Field::Direction),
            _ => return None,
        },
        "fib" => {
            let flags: Vec<&str> = flags(body).collect();
            match (body.get("result").and_then(Value::as_str)?, flags.as_slice()) {
                ("type", [first, ..]) if *first == "daddr" => Key::plain(Field::DestinationKind),
                ("type", [first, ..]) if *first == "saddr" => Key::plain(Field::SourceKind),
                ("oif" | "oifname", flags) if flags.contains(&"saddr") => Key::plain(Field::WayBack),
                _ => return None,
            }
        }
        "payload" => return payload(body),
        // `tcp flags & (fin|syn|rst|ack) == syn`, `meta mark & 0xff == 1`.
        "&" => {
            let [inner, mask] = list(body) else { return None };
            let mut key = match key(inner)? {
                Ok(key) => key,
                never => return Some(never),
            };
            if matches!(key.field, Field::Flags(_)) {
                key.field = Field::Flags(flag_bits(mask)?);
            } else if matches!(key.field, Field::Mark(_)) {
                key.field = Field::Mark(u32::try_from(mask.as_u64()?).ok()?);
            } else {
                return None;
            }
            key
        }
        _ => return None,
    }))
}

fn payload(body: &Value) -> Option<Result<Key, Test>> {
    let protocol = body.get("protocol")?.as_str()?;
    let field = body.get("field")?.as_str()?;
    let ip = |family, field| Key { field, needs: vec![Test::Family(family)] };
    let only = |number: u128| vec![Test::Protocol(Ranges::new(vec![(number, number)]))];
    let port = |needs| match field {
        "sport" => Some(Key { field: Field::SourcePort, needs }),
        "dport" => Some(Key { field: Field::DestinationPort, needs }),
        _ => None,
    };
    Some(Ok(match (protocol, field) {
        ("ip", "saddr") => ip(Family::V4, Field::Source(Family::V4)),
        ("ip", "daddr") => ip(Family::V4, Field::Destination(Family::V4)),
        ("ip6", "saddr") => ip(Family::V6, Field::Source(Family::V6)),
        ("ip6", "daddr") => ip(Family::V6, Field::Destination(Family::V6)),
        ("ip", "protocol") => ip(Family::V4, Field::Protocol),
        ("ip6", "nexthdr") => ip(Family::V6, Field::Protocol),
        ("ip", "version") => return None,
        ("tcp", "flags") => Key { field: Field::Flags(0xff), needs: only(6) },
        ("tcp", _) => port(only(6))?,
        ("udp", _) => port(only(17))?,
        ("th", _) => port(vec![])?,
        // Headers that a probe's packet does not have.
        (
            "icmp" | "icmpv6" | "igmp" | "sctp" | "dccp" | "udplite" | "ah" | "esp" | "comp" | "arp" | "vlan",
            _,
        ) => {
            return Some(Err(Test::Never));
        }
        _ => return None,
    }))
}

fn flag_bits(value: &Value) -> Option<u8> {
    match value {
        Value::Number(number) => u8::try_from(number.as_u64()?).ok(),
        Value::String(name) => tcp_flag::by_name(name),
        Value::Array(names) => names.iter().try_fold(0, |bits, name| Some(bits | flag_bits(name)?)),
        Value::Object(object) => flag_bits(object.get("|")?),
        Value::Null | Value::Bool(_) => None,
    }
}

/// The test of `field` against `rows`; `!=` is left to the caller. `None`: not modelled.
pub(super) fn values(field: &Field, op: &str, rows: &[Value]) -> Option<Test> {
    let ordered = |ranges: Ranges| -> Option<Ranges> {
        let (low, high) = *ranges.as_slice().first()?;
        Some(Ranges::new(vec![match op {
            "==" | "!=" | "in" => return Some(ranges),
            "<" => (0, low.checked_sub(1)?),
            "<=" => (0, high),
            ">" => (high.checked_add(1)?, u128::MAX),
            ">=" => (low, u128::MAX),
            _ => return None,
        }]))
    };
    if !matches!(op, "==" | "!=" | "in" | "<" | "<=" | ">" | ">=") {
        return None;
    }
    let equality = matches!(op, "==" | "!=" | "in");
    let any = |each: &dyn Fn(&Value) -> Option<Test>| -> Option<Test> {
        if !equality {
            return None;
        }
        Some(Test::Any(rows.iter().map(each).collect::<Option<_>>()?))
    };
    Some(match field {
        Field::Source(family) => Test::Source(*family, ordered(address_ranges(*family, rows)?)?),
        Field::Destination(family) => Test::Destination(*family, ordered(address_ranges(*family, rows)?)?),
        Field::SourcePort => Test::SourcePort(ordered(number_ranges(rows, &no_name)?)?),
        Field::DestinationPort => Test::DestinationPort(ordered(number_ranges(rows, &no_name)?)?),
        Field::Protocol => Test::Protocol(ordered(number_ranges(rows, &value::protocol)?)?),
        Field::Mark(mask) => Test::Mark { mask: *mask, ranges: ordered(number_ranges(rows, &no_name)?)? },
        Field::Family => any(&|row| {
            Some(match row.as_str()? {
                "ipv4" | "ip" => Test::Family(Family::V4),
                "ipv6" | "ip6" => Test::Family(Family::V6),
                _ => Test::Never,
            })
        })?,
        Field::In => any(&|row| Some(Test::In(value::interface(row.as_str()?, '*'))))?,
        Field::Out => any(&|row| Some(Test::Out(value::interface(row.as_str()?, '*'))))?,
        Field::State => any(&|row| Some(Test::State(state_bit(row.as_str()?)?)))?,
        Field::Status => any(&|row| {
            Some(match row.as_str()? {
                "dnat" => Test::Translated,
                "expected" | "dying" => Test::Never,
                _ => return None,
            })
        })?,
        Field::Direction => any(&|row| Some(Test::Original(row.as_str()? == "original")))?,
        Field::PacketType => any(&|row| {
            Some(match row.as_str()? {
                "host" | "unicast" => Test::Always,
                "broadcast" | "multicast" | "other" => Test::Never,
                _ => return None,
            })
        })?,
        Field::SourceKind => any(&|row| Some(Test::SourceKind(kind(row.as_str()?)?)))?,
        Field::DestinationKind => any(&|row| Some(Test::DestinationKind(kind(row.as_str()?)?)))?,
        Field::Flags(mask) => return flag_test(*mask, op, rows),
        // A client whose answers leave by another interface is not the case that is judged here.
        Field::WayBack => any(&|row| match row {
            Value::Bool(exists) => Some(if *exists { Test::Always } else { Test::Never }),
            Value::Null | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
        })?,
    })
}

fn no_name(_: &str) -> Option<u128> {
    None
}

fn flag_test(mask: u8, op: &str, rows: &[Value]) -> Option<Test> {
    match (op, mask) {
        // `tcp flags syn` holds if any of the bits is set.
        ("in", 0xff) => {
            let bits = rows.iter().try_fold(0, |bits, row| Some(bits | flag_bits(row)?))?;
            Some(Test::Flags { mask: bits, want: 0 }.not())
        }
        ("==" | "!=", _) => match rows {
            [row] => Some(Test::Flags { mask, want: flag_bits(row)? }),
            // A list is one combination of bits, a set holds alternatives: they look alike here.
            _ => None,
        },
        _ => None,
    }
}

fn state_bit(name: &str) -> Option<u8> {
    Some(match name {
        "invalid" => state::INVALID,
        "new" => state::NEW,
        "established" => state::ESTABLISHED,
        "related" => state::RELATED,
        "untracked" => state::UNTRACKED,
        _ => return None,
    })
}

fn kind(name: &str) -> Option<AddressKind> {
    Some(match name {
        "local" => AddressKind::Local,
        "unicast" => AddressKind::Unicast,
        "broadcast" | "multicast" | "anycast" | "blackhole" | "unreachable" | "prohibit" | "unspec" => {
            AddressKind::Other
        }
        _ => return None,
    })
}

fn address_ranges(family: Family, rows: &[Value]) -> Option<Ranges> {
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let (of, range) = match row {
            Value::String(text) => value::addresses(text)?,
            Value::Object(object) => {
                if let Some(prefix) = object.get("prefix") {
                    let address = prefix.get("addr")?.as_str()?.parse().ok()?;
                    value::prefix(address, u32::try_from(prefix.get("len")?.as_u64()?).ok()?)?
                } else {
                    let [low, high] = list(object.get("range")?) else { return None };
                    let (of, low) = value::number(low.as_str()?.parse().ok()?);
                    (of, (low, value::number(high.as_str()?.parse().ok()?).1))
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => return None,
        };
        if of != family {
            return None;
        }
        out.push(range);
    }
    Some(Ranges::new(out))
}

fn number_ranges(rows: &[Value], by_name: &dyn Fn(&str) -> Option<u128>) -> Option<Ranges> {
    let one = |value: &Value| match value {
        Value::Number(number) => number.as_u64().map(u128::from),
        Value::String(text) => text.parse().ok().or_else(|| by_name(text)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        out.push(match row.get("range") {
            Some(range) => {
                let [low, high] = list(range) else { return None };
                (one(low)?, one(high)?)
            }
            None => {
                let number = one(row)?;
                (number, number)
            }
        });
    }
    Some(Ranges::new(out))
}
