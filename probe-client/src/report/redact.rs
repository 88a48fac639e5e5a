//! Hides addresses and the target's name, wherever they stand: a report can then be shown to anybody.
//!
//! Each address becomes `address-1`, `address-2` and so on, the same one everywhere, with its port kept: a changed port is
//! evidence. The target's name becomes `listener`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::Report;

/// The same report without addresses.
///
/// # Errors
/// None that a report can cause; the type is serde's.
pub fn redact(report: &Report) -> Result<Report, serde_json::Error> {
    let mut value = serde_json::to_value(report)?;
    let name = report.run.target.rsplit_once(':').map_or(report.run.target.as_str(), |(host, _)| host);
    let name = name.trim_matches(['[', ']']);
    let name = (name.parse::<IpAddr>().is_err() && !name.is_empty()).then(|| name.to_owned());
    let mut hidden = Hidden { name, known: BTreeMap::new() };
    hidden.walk(&mut value);
    serde_json::from_value(value)
}

struct Hidden {
    name: Option<String>,
    known: BTreeMap<IpAddr, usize>,
}

impl Hidden {
    fn walk(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.walk(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.walk(field)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, text: &str) -> String {
        let text = match &self.name {
            Some(name) => text.replace(name.as_str(), "listener"),
            None => text.to_owned(),
        };
        let of_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '[' | ']');
        let mut out = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(start) = rest.find(of_address) {
            let (before, from) = rest.split_at(start);
            let end = from.find(|c| !of_address(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            out.push_str(before);
            out.push_str(&self.word(word));
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// A run of characters that addresses are made of.
    fn word(&mut self, word: &str) -> String {
        let core = word.trim_end_matches(['.', ':']);
        let tail = &word[core.len()..];
        if let Ok(address) = core.parse::<SocketAddr>() {
            return format!("{}:{}{tail}", self.place(address.ip()), address.port());
        }
        match core.trim_matches(['[', ']']).parse::<IpAddr>() {
            // `::` alone is a word of code, not somebody's address.
            Ok(ip) if !ip.is_unspecified() => format!("{}{tail}", self.place(ip)),
            Ok(_) | Err(_) => word.to_owned(),
        }
    }

    fn place(&mut self, ip: IpAddr) -> String {
        let next = self.known.len() + 1;
        format!("address-{}", self.known.entry(ip).or_insert(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_wherever_they_stand_and_nothing_else_does() {
        let mut hidden = Hidden { name: Some("probe.example.org".into()), known: BTreeMap::new() };
        for (text, expected) in [
            ("203.0.113.7:8886", "address-1:8886"),
            ("from 10.0.0.2 to 203.0.113.7.", "from address-2 to address-1."),
            ("[2001:db8::1]:443 (by 2001:db8::1)", "address-3:443 (by address-3)"),
            ("probe.example.org:8886 is 203.0.113.7", "listener:8886 is address-1"),
            ("2026-01-31T22:00:00Z", "2026-01-31T22:00:00Z"),
            ("0.1.0", "0.1.0"),
            ("RFC 9266: 20.5 ms, p=0.01; deadbeef", "RFC 9266: 20.5 ms, p=0.01; deadbeef"),
        ] {
            assert_eq!(hidden.text(text), expected);
        }
    }
}
