//! Golden reports of made-up runs, as text and as JSON; every JSON is checked against the schema that `probe-client
//! schema` prints.

use probe_analysis::made_up::MadeUp;
use probe_analysis::observation::{Fate, Observation, Outcome, PathMtu};
use probe_analysis::{Evidence, analyse};
use probe_client::report::text::Look;
use probe_client::report::{Origin, Report, build, json, redact, text};
use probe_protocol::wire::hello::Refusal;

const TARGET: &str = "203.0.113.7:8886";
const PLAIN: Look = Look { width: 100, colour: false };

fn report(run: MadeUp) -> Report {
    let mut evidence = Evidence::default();
    run.end().iter().for_each(|o| evidence.observe(o));
    build(analyse(&evidence), Origin { id: Some("00ff".repeat(8)), kind: "check", port: 8886, quick: false })
}

fn silent() -> Outcome {
    Outcome::Silent { connected: false }
}

fn open_and_measured(to: &str, fate: impl Fn(u64) -> Fate) -> MadeUp {
    let mut run = MadeUp::new(to, true);
    let [tcp, tls, udp, ascii, quic] = run.all_open();
    for flow in [tcp, tls, quic] {
        run.probes(flow, 400, |_| Fate::Received);
    }
    run.probes(udp, 400, &fate).probes(ascii, 400, |n| fate(n + 11));
    for up in [true, false] {
        run.push(Observation::PathMtu(PathMtu {
            flow: udp,
            up,
            largest: Some(1500),
            smallest_lost: None,
            told: None,
            interface: Some(1500),
        }));
    }
    run
}

fn clean() -> MadeUp {
    open_and_measured(TARGET, |_| Fate::Received)
}

fn local() -> MadeUp {
    open_and_measured("127.0.0.1:8886", |_| Fate::Received)
}

fn lost_upwards() -> MadeUp {
    open_and_measured(TARGET, |n| if n % 33 == 5 { Fate::LostUp } else { Fate::Received })
}

fn udp_blocked() -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    run.open(tcp).open(tls).channel(tls, None);
    for flow in [udp, ascii, quic] {
        run.attempts(flow, 3, &silent());
    }
    run.hellos(&[(udp, 0, 12), (ascii, 0, 12)]);
    run.probes(tcp, 300, |_| Fate::Received).probes(tls, 300, |_| Fate::Received);
    run
}

fn tcp_closed(outcome: &Outcome) -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    run.open(udp).open(ascii).open(quic).channel(quic, None);
    run.attempts(tcp, 3, outcome).attempts(tls, 3, outcome);
    run.probes(udp, 300, |_| Fate::Received).probes(ascii, 300, |_| Fate::Received);
    run
}

fn nothing_opens(outcome: &Outcome) -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    for flow in run.all_planned() {
        run.attempts(flow, 3, outcome);
    }
    run
}

fn web_server() -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    let [tcp, tls, udp, ascii, quic] = run.all_planned();
    run.attempts(tcp, 2, &Outcome::Foreign { looks_like: "HTTP 400 (nginx/1.26.3)".into(), http: true });
    run.attempts(tls, 2, &Outcome::Foreign { looks_like: "HTTP 400 (nginx/1.26.3)".into(), http: true });
    for flow in [udp, ascii, quic] {
        run.attempts(flow, 3, &silent());
    }
    run
}

fn intercepted() -> MadeUp {
    let mut run = MadeUp::new(TARGET, true);
    let flows = run.all_planned();
    for flow in flows {
        run.open(flow);
    }
    run.channel(flows[1], Some("CN=Example Corp Inspection CA")).channel(flows[4], None);
    for flow in flows {
        run.probes(flow, 200, |_| Fate::Received);
    }
    run
}

fn not_invited() -> MadeUp {
    let mut run = MadeUp::new(TARGET, false);
    for flow in run.all_open() {
        run.probes(flow, 100, |_| Fate::Received);
    }
    run
}

fn runs() -> Vec<(&'static str, MadeUp)> {
    vec![
        ("clean", clean()),
        ("local", local()),
        ("not_invited", not_invited()),
        ("udp_blocked", udp_blocked()),
        ("tcp_refused", tcp_closed(&Outcome::Refused { by: None })),
        ("tcp_filtered", tcp_closed(&silent())),
        ("unreachable", nothing_opens(&silent())),
        ("name_not_found", MadeUp::unknown_name("listener.example")),
        ("wrong_host", web_server()),
        ("lost_upwards", lost_upwards()),
        (
            "expired",
            nothing_opens(&Outcome::Refusal { reason: Some(Refusal::InviteExpired), software: [0, 1, 0] }),
        ),
        ("intercepted", intercepted()),
    ]
}

#[test]
fn text_of_made_up_runs() {
    for (name, run) in runs() {
        insta::assert_snapshot!(format!("text_{name}"), text::render(&report(run), PLAIN));
    }
}

#[test]
fn json_of_made_up_runs() {
    for (name, run) in runs() {
        insta::assert_snapshot!(format!("json_{name}"), json::render(&report(run)).unwrap());
    }
}

#[test]
fn every_document_follows_the_schema_that_is_printed() {
    let schema = serde_json::from_str(&json::schema().unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (name, run) in runs() {
        let document: serde_json::Value = serde_json::from_str(&json::render(&report(run)).unwrap()).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&document).map(|e| format!("{} at {}", e, e.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        let first = document.as_object().unwrap().keys().next().cloned();
        assert!(
            json::render(&report(clean())).unwrap().starts_with("{\n  \"schema_version\": 1"),
            "{first:?}"
        );
    }
    // The validator can fail: a document without its verdict is refused.
    let mut broken = serde_json::to_value(report(clean())).unwrap();
    broken.as_object_mut().unwrap().remove("verdict");
    assert!(!validator.is_valid(&broken));
}

#[test]
fn the_contract_s_fields_are_there_and_unknown_is_null() {
    let document = serde_json::to_value(report(udp_blocked())).unwrap();
    let at = |pointer: &str| document.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing"));
    assert_eq!(at("/schema_version"), 1);
    assert_eq!(at("/tool/name"), "probe-client");
    assert_eq!(at("/run/kind"), "check");
    assert_eq!(at("/run/started"), "2026-01-31T22:00:00Z");
    assert_eq!(at("/run/target"), TARGET);
    assert_eq!(at("/reachability/udp"), "blocked");
    assert_eq!(at("/reachability_by_address/0/address"), TARGET);
    assert_eq!(at("/findings/0/cause"), "udp-blocked");
    assert_eq!(at("/findings/0/commands/0/where"), "firewalld");
    for pointer in [
        "/flows/2/rtt_us",
        "/flows/2/jitter_rfc3550_us",
        "/flows/2/ipdv_up_us",
        "/flows/2/ttl_up",
        "/refused",
    ] {
        assert!(at(pointer).is_null(), "{pointer}");
    }
    for field in [
        "sent",
        "received",
        "duplicates",
        "reordered",
        "lost",
        "excluded",
        "rtt_us",
        "source",
        "started_s",
        "ended_s",
        "end",
    ] {
        at(&format!("/flows/0/{field}"));
    }
    for field in ["send_error_us", "missed_slots", "suspended_s", "socket_drops", "kernel_timestamps"] {
        at(&format!("/instrument/{field}"));
    }
}

#[test]
fn a_redacted_report_names_no_address() {
    for (name, run) in runs() {
        let redacted = redact::redact(&report(run)).unwrap();
        for shown in [text::render(&redacted, PLAIN), json::render(&redacted).unwrap()] {
            for address in ["203.0.113.7", "198.51.100.4", "10.0.0.2", "listener.example"] {
                assert!(!shown.contains(address), "{name}: {address}");
            }
        }
    }
    let shown = text::render(&redact::redact(&report(clean())).unwrap(), PLAIN);
    assert!(shown.contains("address-1:8886"), "{shown}");
}

#[test]
fn text_fits_the_page_and_has_colours_only_where_they_are_wanted() {
    for (name, run) in runs() {
        let report = report(run);
        for width in [60, 80] {
            let text = text::render(&report, Look { width, colour: false });
            assert!(!text.contains('\x1b'));
            let wide = text.lines().find(|line| line.chars().count() > width && !is_command(line));
            assert_eq!(wide, None, "{name} at {width}");
        }
        assert!(text::render(&report, Look { width: 80, colour: true }).contains("\x1b["));
    }
}

/// Commands are never broken, and neither are the captions of tables.
fn is_command(line: &str) -> bool {
    ["sudo ", "New-NetFirewallRule", "milliseconds:"].iter().any(|mark| line.contains(mark))
}
