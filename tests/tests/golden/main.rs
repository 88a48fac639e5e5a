//! Golden files at each stage of the analysis: what a handful of simulated networks are seen to do, the statistics of
//! that, the findings, and the report as a user reads it. A change in judgement shows in review as a change of these files.
//!
//! Everything follows from the seed. To renew them after a change that is meant:
//!
//! ```text
//! INSTA_UPDATE=always cargo test -p tests --test golden
//! git diff tests/tests/golden
//! ```
//!
//! | Stage | file | is |
//! | --- | --- | --- |
//! | observations | `SCENARIO.1-observations.snap` | what the engine told, in the order of flows |
//! | statistics | `SCENARIO.2-statistics.snap` | the JSON report without its findings and its single flows |
//! | findings | `SCENARIO.3-findings.snap` | what it judges |
//! | report | `SCENARIO.4-report.snap` | the text |

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod observations;

use probe_client::report::text::Look;
use probe_client::report::{json, text};
use serde_json::Value;
use tests::matrix::{Played, play_and_see};
use tests::scenario::Scenario;

/// Keys of the JSON report that hold what was judged, rather than what was counted.
const JUDGED: [&str; 3] = ["verdict", "findings", "not_examined"];
/// Seeds draw the values of a scenario; this one draws from the ranges that thresholds are chosen on.
const SEED: u64 = 2;

/// With six digits of each number: the last ones are a processor's own.
fn rounded(value: &Value) -> Value {
    match value {
        Value::Number(number) if number.is_f64() => {
            let digits = format!("{:.5e}", number.as_f64().unwrap());
            digits.parse::<f64>().unwrap().into()
        }
        Value::Array(list) => list.iter().map(rounded).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), rounded(value))).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

fn golden(name: &str) {
    let scenario = Scenario::load(name, SEED).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut seen = observations::Seen::default();
    let Played { whole, .. } = play_and_see(&scenario, SEED, &mut |observation| seen.take(observation))
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut statistics: Value = serde_json::from_str(&json::render(&whole).unwrap()).unwrap();
    let mut judged = serde_json::Map::new();
    let document = statistics.as_object_mut().unwrap();
    for key in JUDGED {
        judged.insert(key.to_owned(), document.remove(key).unwrap_or_else(|| panic!("{key}")));
    }
    // Single flows stand in the report; here they would be thousands of lines.
    document.remove("flows");
    let pretty = |value: &Value| serde_json::to_string_pretty(&rounded(value)).unwrap();
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(".");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::assert_snapshot!(format!("{name}.1-observations"), seen.render());
        insta::assert_snapshot!(format!("{name}.2-statistics"), pretty(&statistics));
        insta::assert_snapshot!(format!("{name}.3-findings"), pretty(&Value::Object(judged)));
        let look = Look { width: 100, colour: false };
        insta::assert_snapshot!(format!("{name}.4-report"), text::render(&whole, look));
    });
}

macro_rules! golden {
    ($($test:ident $name:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            golden($name);
        })+
    };
}

golden! {
    nothing_wrong "clean",
    nothing_to_blame "benign-wifi",
    a_port_that_is_blocked "udp-blocked",
    a_protocol_that_is_recognised "quic-blocked",
    flows_that_are_killed "flow-killed-by-packets",
    a_rate_that_is_policed "udp-policer",
}
