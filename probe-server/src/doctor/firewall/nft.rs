//! Reads `nft -j list ruleset` (libnftables-json(5)) into the model.

use std::collections::BTreeMap;

use serde_json::Value;

use super::model::*;
use super::nft_match::{Field, key, values};
use super::nft_text;

/// What is wrong with the output of `nft -j list ruleset`.
#[derive(Debug, thiserror::Error)]
pub(in crate::doctor) enum NftError {
    #[error("nft did not print JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("nft printed JSON without the list `nftables`")]
    Shape,
}

/// The element of a set or map that stands for all that no other holds.
const CATCH_ALL: &str = "*";

/// Named sets and maps by (family, table, name), as the JSON holds their elements.
type Sets<'a> = BTreeMap<(String, String, String), &'a Value>;

/// The rules in `json`.
pub(in crate::doctor) fn parse(json: &str) -> Result<Ruleset, NftError> {
    let document: Value = serde_json::from_str(json)?;
    let objects = document.get("nftables").and_then(Value::as_array).ok_or(NftError::Shape)?;
    let mut sets = Sets::new();
    for object in objects {
        for kind in ["set", "map"] {
            if let Some(set) = object.get(kind) {
                sets.insert((text(set, "family"), text(set, "table"), text(set, "name")), set);
            }
        }
    }
    let mut ruleset = Ruleset::default();
    for object in objects {
        if let Some(table) = object.get("table") {
            // `arp` tables never see a probe.
            let Some(family) = TableFamily::by_name(&text(table, "family")) else { continue };
            // A dormant table is switched off.
            if flags(table).any(|flag| flag == "dormant") {
                continue;
            }
            ruleset.tables.push(Table {
                origin: Origin::Nftables,
                family,
                name: text(table, "name"),
                foreign: false,
                chains: BTreeMap::new(),
            });
        }
    }
    for object in objects {
        if let Some(chain) = object.get("chain")
            && let Some(table) = find(&mut ruleset, chain)
        {
            table.chains.insert(text(chain, "name"), Chain { base: base(chain), rules: Vec::new() });
        }
    }
    for object in objects {
        if let Some(rule) = object.get("rule") {
            let scope = Scope { sets: &sets, family: text(rule, "family"), table: text(rule, "table") };
            let read = scope.rule(rule);
            if let Some(table) = find(&mut ruleset, rule) {
                table.foreign |=
                    list(rule.get("expr").unwrap_or(&Value::Null)).iter().any(|e| e.get("xt").is_some());
                table.chains.entry(text(rule, "chain")).or_default().rules.push(read);
            }
        }
    }
    Ok(ruleset)
}

/// Whether the JSON left out which devices a chain is bound to, as that of nft 1.0 does.
pub(super) fn lacks_devices(ruleset: &Ruleset) -> bool {
    ruleset.tables.iter().flat_map(|table| table.chains.values()).any(|chain| {
        chain
            .base
            .as_ref()
            .is_some_and(|base| matches!(base.hook, Hook::Ingress | Hook::Egress) && base.devices.is_empty())
    })
}

/// Fills in the devices from what `nft list ruleset` prints as text.
pub(super) fn add_devices(ruleset: &mut Ruleset, text: &str) {
    let (mut family, mut table, mut chain) = (None, "", "");
    for line in text.lines().map(str::trim) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["table", of, name, "{"] => (family, table) = (TableFamily::by_name(of), name),
            ["chain", name, "{"] => chain = name,
            ["type", ..] if line.contains(" device") => {
                let named = line.split_once(" device").and_then(|(_, rest)| rest.split_once(" priority"));
                let Some((devices, _)) = named else { continue };
                let devices = devices
                    .trim_start_matches('s')
                    .split(|letter: char| letter.is_whitespace() || "={},".contains(letter))
                    .map(|name| name.trim_matches('"'))
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect();
                let found = ruleset
                    .tables
                    .iter_mut()
                    .find(|known| Some(known.family) == family && known.name == table)
                    .and_then(|known| known.chains.get_mut(chain)?.base.as_mut());
                if let Some(base) = found {
                    base.devices = devices;
                }
            }
            _ => {}
        }
    }
}

fn find<'a>(ruleset: &'a mut Ruleset, object: &Value) -> Option<&'a mut Table> {
    let family = TableFamily::by_name(&text(object, "family"))?;
    let name = object.get("table")?.as_str()?;
    ruleset.tables.iter_mut().find(|table| table.family == family && table.name == name)
}

fn text(object: &Value, key: &str) -> String {
    object.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(super) fn flags(object: &Value) -> impl Iterator<Item = &str> {
    list(object.get("flags").unwrap_or(&Value::Null)).iter().filter_map(Value::as_str)
}

/// A list, or a single value as a list of one.
pub(super) fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        Value::Null => &[],
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            std::slice::from_ref(value)
        }
    }
}

fn base(chain: &Value) -> Option<Base> {
    let hook = Hook::by_name(chain.get("hook")?.as_str()?)?;
    Some(Base {
        hook,
        priority: chain.get("prio").and_then(Value::as_i64).unwrap_or(0),
        accept: chain.get("policy").and_then(Value::as_str) != Some("drop"),
        nat: chain.get("type").and_then(Value::as_str) == Some("nat"),
        devices: list(chain.get("dev").unwrap_or(&Value::Null))
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    })
}

struct Scope<'a> {
    sets: &'a Sets<'a>,
    family: String,
    table: String,
}

impl Scope<'_> {
    fn rule(&self, rule: &Value) -> Rule {
        let statements = list(rule.get("expr").unwrap_or(&Value::Null));
        let steps = statements.iter().map(|statement| self.statement(statement)).collect();
        Rule { steps, text: nft_text::rule(statements) }
    }

    fn statement(&self, statement: &Value) -> Step {
        let unmodelled =
            || Step::Do(Action::Unmodelled(Construct::unmodelled(nft_text::statement(statement))));
        let Some((kind, body)) = statement.as_object().and_then(|object| object.iter().next()) else {
            // A bare word, such as "notrack" of some versions.
            return match statement.as_str() {
                Some("notrack") => Step::Do(Action::NoTrack),
                Some("accept" | "drop" | "return" | "continue") => Step::Do(verdict(statement)),
                _ => unmodelled(),
            };
        };
        match kind.as_str() {
            "match" => Step::Test(self.matches(body)),
            "accept" | "drop" | "return" | "continue" | "jump" | "goto" => Step::Do(verdict(statement)),
            // nft leaves out the match that the kind of answer implies.
            "reject" => Step::Do(match body.get("type").and_then(Value::as_str) {
                Some("icmp") => only_if(Test::Family(Family::V4), Action::Reject),
                Some("icmpv6") => only_if(Test::Family(Family::V6), Action::Reject),
                Some("tcp reset") => only_if(Test::Protocol(Ranges::new(vec![(6, 6)])), Action::Reject),
                _ => Action::Reject,
            }),
            "notrack" => Step::Do(Action::NoTrack),
            "vmap" => match self.dispatch(body) {
                Some(action) => Step::Do(action),
                None => unmodelled(),
            },
            "mangle" => Step::Do(mangle(body, statement)),
            "limit" | "quota" | "ct count" => {
                Step::Test(Test::Maybe(Construct::limit(nft_text::statement(statement))))
            }
            // An update of a set may carry a limit of its own; without one it holds while the set has room.
            "set" | "meter" | "map" => {
                let limited = body.get("stmt").is_some_and(|stmt| !list(stmt).is_empty());
                let construct = nft_text::statement(statement);
                Step::Test(if limited { Test::Maybe(Construct::limit(construct)) } else { Test::Always })
            }
            "redirect" => match body.get("port") {
                None => Step::Do(Action::Redirect { port: None }),
                Some(port) => match port.as_u64().and_then(|port| u16::try_from(port).ok()) {
                    Some(port) => Step::Do(Action::Redirect { port: Some(port) }),
                    None => unmodelled(),
                },
            },
            "dnat" => {
                let to = match (body.get("addr").and_then(Value::as_str), body.get("port")) {
                    (Some(addr), None) => addr.to_owned(),
                    (Some(addr), Some(port)) if port.is_u64() => format!("{addr}:{port}"),
                    _ => return unmodelled(),
                };
                let family = if to.parse::<std::net::Ipv6Addr>().is_ok()
                    || body.get("family") == Some(&"ip6".into())
                {
                    Family::V6
                } else {
                    Family::V4
                };
                Step::Do(only_if(Test::Family(family), Action::Translate { to }))
            }
            // A source is rewritten after every decision that counts here.
            "snat" | "masquerade" => Step::Do(Action::Accept),
            "counter" | "log" | "comment" | "ct helper" | "ct timeout" | "ct expectation" | "secmark"
            | "last" | "dup" | "flow" => Step::Do(Action::Nothing),
            "xt" => xt(body, statement),
            _ => unmodelled(),
        }
    }

    fn dispatch(&self, body: &Value) -> Option<Action> {
        let key = body.get("key")?;
        let rows = self.elements(body.get("data")?)?;
        let mut out = Vec::with_capacity(rows.len());
        let mut catch_all = None;
        for row in rows {
            let [value, action] = row.as_array()?.as_slice() else { return None };
            let row = (self.compare(key, "==", value), verdict(action));
            // It decides only where no other element does.
            if value == CATCH_ALL { catch_all = Some(row) } else { out.push(row) }
        }
        out.extend(catch_all);
        Some(Action::Dispatch(out))
    }

    /// The elements of `{"set": [...]}` or of a named set or map.
    fn elements<'v>(&'v self, value: &'v Value) -> Option<&'v [Value]> {
        match value {
            Value::String(name) => {
                let name = name.strip_prefix('@')?;
                let set = self.sets.get(&(self.family.clone(), self.table.clone(), name.to_owned()))?;
                Some(list(set.get("elem").unwrap_or(&Value::Null)))
            }
            Value::Object(object) => Some(list(object.get("set")?)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
        }
    }

    fn matches(&self, body: &Value) -> Test {
        let op = body.get("op").and_then(Value::as_str).unwrap_or("==");
        match (body.get("left"), body.get("right")) {
            (Some(left), Some(right)) => self.compare(left, op, right),
            _ => Test::Maybe(Construct::unmodelled(nft_text::matching(body))),
        }
    }

    fn compare(&self, left: &Value, op: &str, right: &Value) -> Test {
        let unmodelled = || {
            let body = serde_json::json!({"left": left, "op": op, "right": right});
            Test::Maybe(Construct::unmodelled(nft_text::matching(&body)))
        };
        if let Some(parts) = left.get("concat") {
            let parts = list(parts);
            let Some(rows) = self.rows(right) else { return unmodelled() };
            let any = rows
                .iter()
                .map(|row| {
                    if row == CATCH_ALL {
                        return Test::Always;
                    }
                    let values = row.get("concat").map(list).unwrap_or_default();
                    if values.len() != parts.len() {
                        return unmodelled();
                    }
                    Test::All(
                        parts
                            .iter()
                            .zip(values)
                            .map(|(part, value)| self.compare(part, "==", value))
                            .collect(),
                    )
                })
                .collect();
            return match op {
                "==" | "in" => Test::Any(any),
                // Each part must be there for the rule to say that it is another.
                "!=" => {
                    let mut all = Vec::new();
                    for part in parts {
                        match key(part) {
                            Some(Ok(key)) => all.extend(key.needs),
                            Some(Err(never)) => return never,
                            None => return unmodelled(),
                        }
                    }
                    all.push(Test::Any(any).not());
                    Test::All(all)
                }
                _ => unmodelled(),
            };
        }
        let key = match key(left) {
            Some(Ok(key)) => key,
            Some(Err(never)) => return never,
            None => return unmodelled(),
        };
        let Some(rows) = self.rows(right) else { return unmodelled() };
        // Without `in`, a list is one combination of bits, not a choice of them.
        if op != "in" && right.is_array() && rows.len() > 1 && !matches!(key.field, Field::Flags(_)) {
            return unmodelled();
        }
        let of_names = matches!(key.field, Field::In | Field::Out);
        let core = if !of_names && rows.iter().any(|row| row == CATCH_ALL) {
            Some(Test::Always)
        } else {
            values(&key.field, op, &rows)
        };
        let Some(core) = core else { return unmodelled() };
        let mut all = key.needs;
        all.push(core.negated_if(op == "!="));
        if all.len() == 1 { all.remove(0) } else { Test::All(all) }
    }

    /// The values on a match's right side, sets opened.
    fn rows(&self, right: &Value) -> Option<Vec<Value>> {
        let rows = match right {
            Value::String(name) if name.starts_with('@') => self.elements(right)?,
            Value::Object(object) if object.contains_key("set") => self.elements(right)?,
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_)
            | Value::Object(_) => list(right),
        };
        Some(
            rows.iter()
                .map(|row| row.get("elem").and_then(|elem| elem.get("val")).unwrap_or(row).clone())
                .collect(),
        )
    }
}

fn only_if(test: Test, action: Action) -> Action {
    Action::Dispatch(vec![(test, action)])
}

fn verdict(value: &Value) -> Action {
    if let Some(word) = value.as_str() {
        return match word {
            "accept" => Action::Accept,
            "drop" => Action::Drop,
            "return" => Action::Return,
            "continue" => Action::Nothing,
            other => Action::Unmodelled(Construct::unmodelled(other)),
        };
    }
    let Some((kind, body)) = value.as_object().and_then(|object| object.iter().next()) else {
        return Action::Unmodelled(Construct::unmodelled(value.to_string()));
    };
    let target = || body.get("target").and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind.as_str() {
        "accept" => Action::Accept,
        "drop" => Action::Drop,
        "return" => Action::Return,
        "continue" => Action::Nothing,
        "jump" => Action::Jump(target()),
        "goto" => Action::Goto(target()),
        other => Action::Unmodelled(Construct::unmodelled(other)),
    }
}

fn mangle(body: &Value, statement: &Value) -> Action {
    let key = body.get("key").unwrap_or(&Value::Null);
    let what = |group: &str| key.get(group).and_then(|inner| inner.get("key")).and_then(Value::as_str);
    let construct = || Construct::unmodelled(nft_text::statement(statement));
    if what("meta") == Some("mark") {
        return match body.get("value").and_then(Value::as_u64).and_then(|mark| u32::try_from(mark).ok()) {
            Some(value) => Action::SetMark { mask: u32::MAX, value },
            None => Action::SetMarkUnknown(construct()),
        };
    }
    if what("meta").is_some() || key.get("ct").is_some() || key.get("tcp option").is_some() {
        return Action::Nothing;
    }
    match key.get("payload").and_then(|payload| payload.get("field")).and_then(Value::as_str) {
        Some("dscp" | "ecn" | "ttl" | "hoplimit" | "flowlabel") => Action::Nothing,
        _ => Action::Unmodelled(construct()),
    }
}

/// What iptables-nft wrote and nft cannot say in its own words.
fn xt(body: &Value, statement: &Value) -> Step {
    let name = body.get("name").and_then(Value::as_str).unwrap_or_default();
    let construct = Construct::unmodelled(nft_text::statement(statement));
    match (body.get("type").and_then(Value::as_str), name) {
        (Some("target"), "LOG" | "NFLOG" | "CHECKSUM" | "TCPMSS") => Step::Do(Action::Nothing),
        (Some("target"), "REJECT") => Step::Do(Action::Reject),
        (Some("match"), "comment") => Step::Test(Test::Always),
        (Some("match"), _) => Step::Test(Test::Maybe(construct)),
        _ => Step::Do(Action::Unmodelled(construct)),
    }
}
