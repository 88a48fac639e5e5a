use super::judge::Report;
use super::*;

const POLICER: &str = r#"
about = "UDP above a rate is dropped on the way up"
[vary]
rate = { between = ["5M", "50M"], beyond = [["1M", "2M"], ["60M", "90M"]], log = true }
[[rule]]
name = "policer"
match = { direction = "up", protocol = ["udp"] }
do = { act = "police", rate = "$rate", burst = "$rate*0.01" }
[expect]
status = 1
losses = { up = "some", down = "none" }
may = ["lossy-path"]
[[expect.must]]
cause = "udp-policer"
direction = "up"
parameters = { rate_bps = { is = "$rate", within = 0.05 } }
"#;

#[test]
fn even_seeds_draw_inside_and_odd_ones_beyond() {
    for seed in 0..40 {
        let scenario = Scenario::parse("policer", POLICER, seed).unwrap();
        let rate = crate::rules::units::value(&scenario.drawn["rate"]).unwrap();
        let inside = (5e6..=50e6).contains(&rate);
        let beyond = (1e6..=2e6).contains(&rate) || (60e6..=90e6).contains(&rate);
        assert_eq!((inside, beyond), (seed % 2 == 0, seed % 2 == 1), "seed {seed} drew {rate}");
        assert_eq!(scenario, Scenario::parse("policer", POLICER, seed).unwrap(), "a seed repeats");
    }
}

#[test]
fn what_a_scenario_does_not_know_is_refused() {
    for (from, to) in [
        ("about =", "abuot ="),
        ("\"police\"", "\"polise\""),
        ("burst =", "bust ="),
        ("direction = \"up\", protocol", "protocoll"),
        ("\"udp-policer\"", "\"udp-polizer\""),
        ("$rate*0.01", "$rat"),
        ("within", "withn"),
    ] {
        let text = POLICER.replacen(from, to, 1);
        assert!(Scenario::parse("bad", &text, 0).is_err(), "{from} -> {to}");
    }
}

#[test]
fn a_report_is_judged() {
    let scenario = Scenario::parse("policer", POLICER, 0).unwrap();
    let rate = crate::rules::units::value(&scenario.drawn["rate"]).unwrap();
    let report = |cause: &str, rate: f64, down: u64| -> Report {
        serde_json::from_value(serde_json::json!({
            "findings": [{"cause": cause, "severity": "degraded", "side": "path", "direction": "up",
                          "parameters": {"rate_bps": rate}}],
            "flows": [{"lost": {"up": 5, "down": down, "unknown": 0}}],
        }))
        .unwrap()
    };
    let right = scenario.expect.judge(&report("udp-policer", rate * 1.049, 0), Some(1));
    assert!(right.is_right(), "{right:?}");
    assert_eq!(right.found, [Cause::UdpPolicer]);
    let off = scenario.expect.judge(&report("udp-policer", rate * 1.051, 0), Some(1));
    assert_eq!(off.wrong.len(), 1, "{off:?}");
    let down = scenario.expect.judge(&report("udp-policer", rate, 1), Some(1));
    assert_eq!(down.wrong.len(), 1, "{down:?}");
    let wrong = scenario.expect.judge(&report("quic-blocked", rate, 0), Some(1));
    assert_eq!((wrong.missed, wrong.accused), (vec![Cause::UdpPolicer], vec![Cause::QuicBlocked]));
    let silent = scenario.expect.judge(&report("unexplained", rate, 0), Some(1));
    assert!(silent.abstained && silent.accused.is_empty() && !silent.missed.is_empty());
}

#[test]
fn every_scenario_of_the_repository_is_one_whatever_the_seed() {
    let names = Scenario::names().unwrap();
    assert!(!names.is_empty());
    for name in names {
        for seed in 0..8 {
            let scenario = Scenario::load(&name, seed).unwrap();
            assert!(!scenario.networks.is_empty(), "{name} runs nowhere");
        }
    }
}

/// Causes that the catalogue leaves to somebody else than a network between two hosts.
const ELSEWHERE: &[Cause] = &[
    // The listener's own host: `doctor`, tested with the doctor.
    Cause::CarrierNat,
    Cause::OsFirewall,
    Cause::PortInUse,
    Cause::EgressBlocked,
    Cause::EgressNameNotFound,
    Cause::EgressIntercepted,
    // What is said where evidence does not decide.
    Cause::Unexplained,
];

#[test]
fn every_cause_that_a_network_can_produce_has_a_scenario() {
    let mut covered = std::collections::BTreeSet::new();
    for name in Scenario::names().unwrap() {
        let expect = Scenario::load(&name, 0).unwrap().expect;
        covered.extend(expect.must.iter().map(|must| must.cause));
        // What nobody can tell from one port must be said not to be examined.
        covered.extend(&expect.not_examined);
    }
    for cause in Cause::ALL {
        let elsewhere = ELSEWHERE.contains(cause);
        assert_ne!(covered.contains(cause), elsewhere, "{cause}");
    }
}

#[test]
fn what_nobody_can_tell_must_be_said_not_to_be_examined() {
    let text = POLICER
        .replace("status = 1", "not_examined = [\"symmetric-nat\"]")
        .replace("[[expect.must]]", "[[expect.never]]");
    let text = &text[..text.find("[[expect.never]]").unwrap()];
    let scenario = Scenario::parse("policer", text, 0).unwrap();
    let report = |items: serde_json::Value| -> Report {
        let flows = serde_json::json!([{"lost": {"up": 5, "down": 0}}]);
        serde_json::from_value(serde_json::json!({"flows": flows, "not_examined": items})).unwrap()
    };
    let says = |what: &str| serde_json::json!([{"what": what, "why": "one port"}]);
    assert!(
        scenario
            .expect
            .judge(&report(says("translation by destination (symmetric-nat)")), Some(0))
            .is_right()
    );
    assert!(
        !scenario.expect.judge(&report(says("the listener's own host (os-firewall)")), Some(0)).is_right()
    );
    assert!(!scenario.expect.judge(&report(serde_json::json!([])), Some(0)).is_right());
}
