//! Words for people: how severe a cause is, what it means in one sentence, what to change, who can, the commands, and a
//! paragraph for the firewall team. All of it is data, in [`TABLE`] and [`SEVERITIES`].

mod commands;
mod paths;
mod rate;
mod severity;
mod table;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Finding, Parameters};

pub use self::commands::commands;
pub use self::rate::RATE;
pub use self::severity::{SEVERITIES, severity};
pub use self::table::{TABLE, Words};

/// The words of a cause and of its kind, where that has words of its own; those of `unexplained` where this version has
/// none.
pub fn of(cause: Cause, kind: Option<&str>) -> &'static Words {
    let row = |cause, kind| rows().find(|row| row.cause == cause && row.kind == kind);
    row(cause, kind).or_else(|| row(cause, None)).unwrap_or(&TABLE[0])
}

/// All words.
pub fn rows() -> impl Iterator<Item = &'static Words> {
    TABLE.iter().chain(RATE).chain(paths::PATHS)
}

/// What fills the places in a text.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    /// What was measured.
    pub parameters: &'a Parameters,
    /// Which way.
    pub direction: Option<Direction>,
    /// The port.
    pub port: u16,
}

impl Fill<'_> {
    fn kind(&self) -> Option<&str> {
        self.parameters.kind.as_deref()
    }
}

/// One sentence, without a full stop: what is wrong.
pub fn headline(finding: &Finding, port: u16) -> String {
    let fill = Fill { parameters: &finding.parameters, direction: finding.direction, port };
    filled(of(finding.cause, fill.kind()).headline, &fill)
}

/// What to change.
pub fn fix(cause: Cause, fill: &Fill<'_>) -> String {
    filled(of(cause, fill.kind()).fix, fill)
}

/// Who is likely able to change it.
pub fn who(finding: &Finding) -> &'static str {
    of(finding.cause, finding.parameters.kind.as_deref()).who
}

/// A paragraph that can be sent to whoever can change it; none where nobody else is needed.
pub fn message(finding: &Finding, target: &str, port: u16) -> Option<String> {
    let text = of(finding.cause, finding.parameters.kind.as_deref()).message?;
    let fill = Fill { parameters: &finding.parameters, direction: finding.direction, port };
    let seen: Vec<_> = finding.evidence.iter().map(|evidence| evidence.says.as_str()).collect();
    Some(filled(text, &fill).replace("{target}", target).replace("{evidence}", &seen.join("; ")))
}

fn filled(text: &str, fill: &Fill<'_>) -> String {
    let p = fill.parameters;
    let text_of = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let way = match fill.direction {
        Some(Direction::Up) => "on the way to the listener",
        Some(Direction::Down) => "on the way back from the listener",
        Some(Direction::Both) => "in both directions",
        None => "on the way",
    };
    let loss = p.loss_ratio.map_or_else(|| "some".to_owned(), |ratio| format!("{:.1} %", ratio * 100.0));
    let mtu = p.mtu_bytes.map_or_else(|| "that size".to_owned(), |mtu| format!("{mtu} bytes"));
    let count = |value: Option<u64>| value.map_or_else(|| "some".to_owned(), |n| n.to_string());
    let time = |value: Option<f64>| value.map_or_else(|| "some time".to_owned(), duration);
    let text = text
        .replace("{packets}", &count(p.packets))
        .replace("{bytes}", &count(p.bytes))
        .replace("{number}", &count(p.number))
        .replace("{age}", &time(p.age_s))
        .replace("{hold}", &time(p.hold_s))
        .replace("{timeout}", &time(p.timeout_s))
        .replace("{period}", &time(p.period_s))
        .replace("{length}", &time(p.length_s))
        .replace("{moment}", &p.moment.clone().unwrap_or_else(|| "that time".to_owned()));
    text.replace("{port}", &fill.port.to_string())
        .replace("{way}", way)
        .replace("{loss}", &loss)
        .replace("{mtu}", &mtu)
        .replace(
            "{rate}",
            &p.rate_bps
                .map_or_else(|| "some rate".to_owned(), |r| format!("{} Mbit/s", digits(r as f64 / 1e6))),
        )
        .replace("{burst}", &p.burst_bytes.map_or_else(|| "some".to_owned(), |b| format!("{b} bytes")))
        .replace(
            "{pps}",
            &p.packets_per_second.map_or_else(|| "some number of".to_owned(), |n| format!("{n:.0}")),
        )
        .replace("{delay}", &p.added_delay_ms.map_or_else(|| "much".to_owned(), |d| format!("{d:.0} ms")))
        .replace("{period}", &seconds(p.period_s))
        .replace("{length}", &seconds(p.length_s))
        .replace("{hold}", &seconds(p.hold_s))
        .replace("{reason}", &text_of(&p.reason))
        .replace("{issuer}", &text_of(&p.issuer))
        .replace("{kind}", &text_of(&p.kind))
        .replace("{KIND}", &text_of(&p.kind).to_uppercase())
        .replace("{old}", &text_of(&p.old))
        .replace("{new}", &text_of(&p.new))
}

/// Three digits.
fn digits(value: f64) -> String {
    match value {
        v if v < 1.0 => format!("{v:.3}"),
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(
        || "a while".to_owned(),
        |s| if s < 1.0 { format!("{:.0} ms", s * 1e3) } else { format!("{} s", digits(s)) },
    )
}

/// Seconds as people say them.
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// With a capital letter at its start.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}", chars.as_str())
}

/// With a capital letter and a full stop.
pub fn sentence(text: &str) -> String {
    capital(text) + "."
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(items: &[&str]) -> String {
    match items {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_that_is_detected_has_words_and_every_cause_a_severity() {
        for detector in crate::causes::DETECTORS {
            assert!(rows().any(|row| row.cause == detector.cause), "{} has no words", detector.cause);
        }
        for cause in Cause::ALL {
            assert_eq!(SEVERITIES.iter().filter(|(c, _)| c == cause).count(), 1, "{cause}");
        }
    }

    #[test]
    fn every_place_in_a_text_is_filled() {
        let parameters = Parameters::default();
        let fill = Fill { parameters: &parameters, direction: None, port: 8886 };
        for row in rows() {
            for text in [row.headline, row.fix, row.message.unwrap_or_default()] {
                let text = filled(text, &fill).replace("{target}", "").replace("{evidence}", "");
                assert!(!text.contains('{'), "{text}");
            }
            assert!(!row.headline.ends_with('.'), "{}", row.headline);
        }
    }

    #[test]
    fn lists_read_as_people_write() {
        assert_eq!(list(&["TCP"]), "TCP");
        assert_eq!(list(&["TCP", "TLS", "UDP"]), "TCP, TLS and UDP");
    }
}
