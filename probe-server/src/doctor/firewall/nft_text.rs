//! Rules of nftables in the words an admin knows them by, from their JSON.
//!
//! For telling which rule decided, not for loading again.

use serde_json::Value;

/// A whole rule.
pub(super) fn rule(statements: &[Value]) -> String {
    statements.iter().map(statement).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
}

/// One statement; counters are left out.
pub(super) fn statement(value: &Value) -> String {
    let Some((kind, body)) = value.as_object().and_then(|object| object.iter().next()) else {
        return operand(value);
    };
    let field = |key: &str| body.get(key).map(operand).unwrap_or_default();
    match kind.as_str() {
        "match" => matching(body),
        "counter" => String::new(),
        "accept" | "drop" | "return" | "continue" | "notrack" | "masquerade" if body.is_null() => {
            kind.clone()
        }
        "jump" | "goto" => format!("{kind} {}", field("target")),
        "limit" => {
            let over = if body.get("inv") == Some(&Value::Bool(true)) { "over " } else { "" };
            format!("limit rate {over}{}/{}", field("rate"), field("per"))
        }
        "vmap" => format!("{} vmap", field("key")),
        "mangle" => format!("{} set {}", field("key"), field("value")),
        "reject" => "reject".to_owned(),
        "log" => "log".to_owned(),
        "redirect" => format!("redirect to :{}", field("port")),
        "dnat" => format!("dnat to {}", field("addr")),
        "xt" => format!("xt {} {}", field("type"), field("name")),
        "ct count" => format!("ct count {}", field("val")),
        "set" | "map" => format!("{} {} {{ {} }}", field("op"), field(kind), field("elem")),
        _ if body.is_null() => kind.clone(),
        _ => format!("{kind} {}", operand(body)),
    }
}

/// A match: left, operator, right.
pub(super) fn matching(body: &Value) -> String {
    let side = |key: &str| body.get(key).map(operand).unwrap_or_default();
    match body.get("op").and_then(Value::as_str) {
        None | Some("==" | "in") => format!("{} {}", side("left"), side("right")),
        Some(op) => format!("{} {op} {}", side("left"), side("right")),
    }
}

fn operand(value: &Value) -> String {
    let join = |items: &[Value], between: &str| items.iter().map(operand).collect::<Vec<_>>().join(between);
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(truth) => if *truth { "exists" } else { "missing" }.to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => join(items, ","),
        Value::Object(object) => {
            let Some((kind, body)) = object.iter().next() else { return String::new() };
            let field = |key: &str| body.get(key).map(operand).unwrap_or_default();
            let pair = |between: &str| body.as_array().map(|items| join(items, between)).unwrap_or_default();
            match kind.as_str() {
                "payload" if body.get("field").is_some() => {
                    format!("{} {}", field("protocol"), field("field"))
                }
                "meta" | "ct" => format!("{kind} {}", field("key")),
                "fib" => format!("fib {} {}", field("flags").replace(',', " . "), field("result")),
                "prefix" => format!("{}/{}", field("addr"), field("len")),
                "range" => pair("-"),
                "concat" => pair(" . "),
                "&" | "|" | "^" => pair(&format!(" {kind} ")),
                "elem" => field("val"),
                "set" => {
                    const SHOWN: usize = 6;
                    let items = body.as_array().map_or(std::slice::from_ref(body), Vec::as_slice);
                    let more = if items.len() > SHOWN { ", …" } else { "" };
                    format!("{{ {}{more} }}", join(&items[..items.len().min(SHOWN)], ", "))
                }
                _ => format!("{kind} {}", operand(body)),
            }
        }
    }
}
