//! `analyze`: traces in, the contract's document and statuses out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests, too")]

use std::fmt::Write as _;
use std::process::{Command, Output};

use serde_json::Value;

fn analyze(trace: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.csv");
    std::fs::write(&path, trace).unwrap();
    Command::new(env!("CARGO_BIN_EXE_probe-client"))
        .arg("analyze")
        .arg(&path)
        .args(arguments)
        .output()
        .unwrap()
}

fn document(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)))
}

/// UDP at 16 Mbit/s, policed at 10 Mbit/s with 60,000 bytes at once; TCP of the same rate beside it, if asked for.
fn policed(beside: bool) -> String {
    let mut csv = "t_send_us,bytes,t_recv_us,flow,direction,transport\n".to_owned();
    let (mut tokens, mut before) = (60_000.0f64, 0.0f64);
    for n in 0..16_000u32 {
        let at = f64::from(n) * 500.0 + f64::from(n * 7919 % 97);
        tokens = (tokens + 1.25 * (at - before)).min(60_000.0);
        before = at;
        let passes = tokens >= 1000.0;
        tokens -= if passes { 1000.0 } else { 0.0 };
        let arrival =
            if passes { format!("{:.1}", at + 20_000.0 + f64::from(n * 31 % 200)) } else { String::new() };
        writeln!(csv, "{at},1000,{arrival},a,up,udp").unwrap();
        if beside {
            let at = at + 100.0;
            writeln!(csv, "{at},1000,{:.1},b,up,tcp", at + 20_000.0 + f64::from(n * 37 % 200)).unwrap();
        }
    }
    csv
}

#[test]
fn a_policer_is_named_with_its_rate_and_burst() {
    let out = analyze(&policed(false), &["--json"]);
    let document = document(&out);
    let finding = &document["findings"][0];
    assert_eq!(
        (&finding["cause"], &finding["parameters"]["kind"]),
        (&"rate-limit".into(), &"policer".into())
    );
    assert_eq!(finding["direction"], "up");
    let near = |value: &Value, is: f64, within: f64| (value.as_f64().unwrap() / is - 1.0).abs() < within;
    assert!(near(&finding["parameters"]["rate_bps"], 10e6, 0.01), "{finding}");
    assert!(near(&finding["parameters"]["burst_bytes"], 60e3, 0.05), "{finding}");
    assert_eq!(document["run"]["kind"], "analyze");
    assert_eq!(document["findings"].as_array().unwrap().len(), 1);
    // A line's rate is good to know, and no fault.
    assert_eq!((out.status.code(), &document["verdict"]["clean"]), (Some(0), &true.into()));
    assert_eq!(analyze(&policed(false), &["--fail-on", "info"]).status.code(), Some(1));
}

#[test]
fn only_beside_tcp_is_it_a_policer_of_udp() {
    let out = analyze(&policed(true), &["--json"]);
    let document = document(&out);
    assert_eq!(document["findings"][0]["cause"], "udp-policer", "{document:#}");
    assert_eq!(document["verdict"]["worst"], "degraded");
    assert_eq!(out.status.code(), Some(1));
}

#[test]
fn nothing_wrong_is_clean() {
    let mut csv = "t_send_us,bytes,t_recv_us\n".to_owned();
    for n in 0..5000u32 {
        let at = n * 1000;
        let arrival = if n % 997 == 3 { String::new() } else { (at + 8_000 + n * 13 % 90).to_string() };
        writeln!(csv, "{at},1200,{arrival}").unwrap();
    }
    let out = analyze(&csv, &["--json"]);
    let document = document(&out);
    assert_eq!((out.status.code(), &document["verdict"]["clean"]), (Some(0), &true.into()));
    assert_eq!(document["findings"], Value::Array(Vec::new()), "{document:#}");
    assert_eq!(document["flows"][0]["sent"], 5000);
    let text = String::from_utf8(analyze(&csv, &[]).stdout).unwrap();
    assert!(text.starts_with("OK  Nothing wrong was found in 5000 packets"), "{text}");
    assert!(!text.contains("invite") && !text.contains("get through"), "{text}");
}

#[test]
fn the_document_follows_the_schema() {
    let schema = Command::new(env!("CARGO_BIN_EXE_probe-client")).arg("schema").output().unwrap();
    let schema: Value = serde_json::from_slice(&schema.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for trace in [policed(false), policed(true)] {
        let document = document(&analyze(&trace, &["--json"]));
        let errors: Vec<String> = validator.iter_errors(&document).map(|e| e.to_string()).collect();
        assert_eq!(errors, Vec::<String>::new());
    }
}

#[test]
fn a_bad_trace_is_one_line_and_status_2() {
    for (trace, says) in [
        ("", "the file is empty"),
        ("t_send_us,bytes\n1,2\n", "no column t_recv_us"),
        ("t_send_us,bytes,t_recv_us\n", "no rows"),
        ("t_send_us,bytes,t_recv_us\n1,100,2\n2,many,3\n", "line 3, column bytes"),
        ("\u{1}\u{2}\u{3}", "no column t_send_us"),
    ] {
        let out = analyze(trace, &["--json"]);
        let error = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(2), "{error}");
        assert!(error.contains(says) && error.lines().count() == 1 && out.stdout.is_empty(), "{error}");
    }
    let out = Command::new(env!("CARGO_BIN_EXE_probe-client"))
        .args(["analyze", "/nonexistent.csv"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8(out.stderr).unwrap().contains("/nonexistent.csv"));
}
