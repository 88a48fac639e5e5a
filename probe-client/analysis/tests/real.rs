//! Traces of real programs through the kernel's own policers and shapers, judged: what made each is known from the command
//! that set it up. `tests/traces/make.py` makes them, these and more.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests, too")]

use std::path::Path;

use probe_analysis::rate::trace::{Analyser, Judged, Row};
use probe_protocol::cause::Cause;
use probe_protocol::finding::Finding;

fn judged(name: &str) -> Judged {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/traces").join(name).with_extension("csv");
    let mut analyser = Analyser::default();
    for line in std::fs::read_to_string(path).unwrap().lines().skip(1) {
        let [sent, bytes, arrived] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        analyser.push(&Row {
            sent_us: sent.parse().unwrap(),
            bytes: bytes.parse().unwrap(),
            arrived_us: arrived.parse().ok(),
            flow: 0,
            direction: None,
            transport: None,
        });
    }
    analyser.finish()
}

fn only(name: &str) -> Finding {
    let found = judged(name).findings;
    let [one] = found.as_slice() else { panic!("{name}: {found:#?}") };
    one.clone()
}

fn near(value: Option<u64>, is: f64, within: f64) -> bool {
    value.is_some_and(|v| (v as f64 / is - 1.0).abs() <= within)
}

/// nftables' `limit rate over R kbytes/second burst B kbytes`: R and B count 1024 bytes, and the bucket holds a second of
/// the rate besides the burst.
fn nftables(kbytes: f64, burst: f64) -> (f64, f64) {
    (kbytes * 1024.0 * 8.0, (kbytes + burst) * 1024.0)
}

#[test]
fn nftables_policers_are_named_with_rate_and_depth_for_udp_and_for_retransmitting_senders() {
    for (name, (rate, depth)) in [
        ("policer-udp", nftables(300.0, 20.0)),
        ("policer-cubic", nftables(400.0, 20.0)),
        ("policer-bbr", nftables(400.0, 20.0)),
    ] {
        let found = only(name);
        assert_eq!(found.cause, Cause::RateLimit, "{name}: {found:?}");
        assert_eq!(found.parameters.kind.as_deref(), Some("policer"), "{name}: {found:?}");
        assert!(near(found.parameters.rate_bps, rate, 0.01), "{name}: {rate} {found:?}");
        assert!(near(found.parameters.burst_bytes, depth, 0.02), "{name}: {depth} {found:?}");
    }
}

#[test]
fn a_token_bucket_filter_is_a_shaper_of_its_rate_less_the_ethernet_headers_that_it_counts() {
    let found = only("tbf-cubic");
    assert_eq!(
        (found.cause, found.parameters.kind.as_deref()),
        (Cause::RateLimit, Some("shaper")),
        "{found:?}"
    );
    assert!(near(found.parameters.rate_bps, 4e6 * 1500.0 / 1514.0, 0.01), "{found:?}");
    assert!(near(found.parameters.burst_bytes, 10.0 * 1024.0, 0.1), "{found:?}");
}

#[test]
fn loss_by_chance_is_nobody_s_limit_though_the_sender_backs_off() {
    let found = only("loss-cubic");
    assert_eq!(found.cause, Cause::LossyPath, "{found:?}");
    // 15 of 1000 packets, drawn by the kernel.
    assert!(found.parameters.loss_ratio.is_some_and(|r| (0.010..0.021).contains(&r)), "{found:?}");
}

#[test]
fn a_queue_that_others_fill_is_not_called_a_limit_or_chance() {
    for name in ["congestion", "congestion-tcp"] {
        let found = judged(name).findings;
        let accuses =
            |f: &&Finding| !matches!(f.cause, Cause::Congestion | Cause::Unexplained | Cause::Bufferbloat);
        assert!(found.iter().find(accuses).is_none(), "{name}: {found:?}");
        assert!(
            found.iter().any(|f| matches!(f.cause, Cause::Congestion | Cause::Unexplained)),
            "{name}: {found:?}"
        );
    }
}

#[test]
fn an_application_that_sends_less_than_the_path_carries_has_nothing_to_complain_of() {
    let found = judged("clean-bbr").findings;
    assert!(found.is_empty(), "{found:?}");
}
