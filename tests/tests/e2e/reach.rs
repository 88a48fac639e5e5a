//! What gets through, and what is said where it does not.

use std::time::Duration;

use probe_protocol::cause::Cause;
use tests::kernel::Stage;
use tests::scenario::Scenario;
use tests::scenario::judge::Report;

use crate::world::{Checked, check, in_lab, programs};

/// Runs a scenario's check and judges its report.
fn scenario(name: &str, arguments: &[&str]) -> Checked {
    let mut scenario = Scenario::load(name, 0).unwrap();
    // A busy machine says so, and is right.
    scenario.expect.may.push(Cause::HostStalled);
    let stage = Stage::set(&scenario, 0, programs()).unwrap();
    let checked = check(stage.lab.client(), &stage.invite(), arguments);
    let report: Report = serde_json::from_value(checked.document.clone()).unwrap();
    let judgement = scenario.expect.judge(&report, checked.ran.status);
    assert!(judgement.is_right(), "{:#?}\n{}", judgement.wrong, checked.story());
    checked
}

#[test]
fn a_cable_is_open_within_ten_seconds_and_clean_within_a_minute() {
    in_lab("reach::a_cable_is_open_within_ten_seconds_and_clean_within_a_minute", || {
        let checked = scenario("clean-veth", &[]);
        assert_eq!(checked.causes(), Vec::<String>::new(), "{}", checked.story());
        assert_eq!(checked.document["verdict"]["clean"], true);
        assert!(checked.ran.took < Duration::from_secs(60), "{}", checked.story());
        for name in ["udp/random", "tcp/random", "tls", "quic"] {
            // What the user sees while it runs.
            let said = checked.ran.told.iter().find(|(_, line)| {
                let mut words = line.split_whitespace();
                words.next() == Some(name) && words.next() == Some("open")
            });
            let (at, _) =
                said.unwrap_or_else(|| panic!("{name} is not said to be open\n{}", checked.story()));
            assert!(*at < Duration::from_secs(10), "{name}: {at:?}\n{}", checked.story());
        }
        for (name, flow) in checked.flows() {
            assert_eq!(flow["end"], "finished", "{name}\n{}", checked.story());
            assert_eq!(flow["sent"], flow["received"], "{name}\n{}", checked.story());
        }
    });
}

#[test]
fn dropped_udp_is_said_to_be_blocked() {
    in_lab("reach::dropped_udp_is_said_to_be_blocked", || {
        let checked = scenario("udp-blocked", &["--quick"]);
        assert_eq!(checked.document["verdict"]["worst"], "blocking");
    });
}

#[test]
fn refused_tcp_is_said_to_be_refused() {
    in_lab("reach::refused_tcp_is_said_to_be_refused", || {
        let checked = scenario("tcp-refused", &["--quick"]);
        assert_eq!(checked.reach("tls"), "refused", "{}", checked.story());
    });
}

#[test]
fn dropped_tcp_is_said_to_be_filtered() {
    in_lab("reach::dropped_tcp_is_said_to_be_filtered", || {
        let checked = scenario("tcp-filtered", &["--quick"]);
        assert_eq!(checked.reach("tls"), "filtered", "{}", checked.story());
    });
}

#[test]
fn where_nothing_is_it_is_unreachable_and_the_report_is_still_there() {
    in_lab("reach::where_nothing_is_it_is_unreachable_and_the_report_is_still_there", || {
        let checked = scenario("nothing-there", &["--quick"]);
        assert_eq!(checked.document["schema_version"], 1);
        assert_eq!(checked.document["verdict"]["clean"], false);
        let reason = checked.document["findings"][0]["parameters"]["reason"].as_str().unwrap();
        assert!(reason.contains("nothing listens"), "{}", checked.story());
    });
}

#[test]
fn silence_is_unreachable_too() {
    in_lab("reach::silence_is_unreachable_too", || {
        let checked = scenario("host-gone", &["--quick"]);
        assert_eq!(checked.ran.status, Some(3), "{}", checked.story());
        assert!(checked.causes().contains(&"unreachable".to_owned()), "{}", checked.story());
    });
}

#[test]
fn a_web_server_on_the_port_is_the_wrong_host() {
    in_lab("reach::a_web_server_on_the_port_is_the_wrong_host", || {
        let checked = scenario("web-server", &["--quick"]);
        assert_eq!(checked.document["run"]["measured"], false);
    });
}
