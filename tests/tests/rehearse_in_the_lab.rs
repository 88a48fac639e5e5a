//! A short rehearsal with the real programs through the real-kernel lab: what they say was lost is what the middlebox's
//! log says it dropped, packet for packet. A longer one is run by hand with `lab`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "this is all test code")]

use std::net::SocketAddr;

use serde_json::Value;

use tests::kernel::{Stage, binaries, in_namespaces};
use tests::rules::Direction;
use tests::rules::truth::Deed;
use tests::scenario::Scenario;

/// Blocks of 1100 bytes make IP packets of a length that nothing else beside the transfer has.
const RULES: &str = r#"
[[rule]]
name = "policer"
match = { direction = "up", protocol = ["udp"], size_over = 1127, size_under = 1129 }
do = { act = "police", rate = "2M", burst = 20000 }
"#;

#[test]
fn every_block_of_a_rehearsal_is_accounted_for() {
    in_namespaces("every_block_of_a_rehearsal_is_accounted_for", || {
        #[derive(serde::Deserialize)]
        struct File {
            rule: Vec<tests::rules::Rule>,
        }
        let programs = binaries().unwrap();
        let mut scenario = Scenario::load("clean", 0).unwrap();
        scenario.rule = toml::from_str::<File>(RULES).unwrap().rule;
        let stage = Stage::set(&scenario, 0, programs).unwrap();
        let mut command = stage.command(&programs.client);
        command.args([
            "rehearse",
            &stage.invite(),
            "--rate",
            "5M",
            "--for",
            "10s",
            "--size",
            "1100",
            "--json",
        ]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
        let of = |direction: &str| {
            let all = report["transfers"].as_array().unwrap();
            let way = all.iter().find(|t| t["direction"] == direction).unwrap();
            (way["packets_sent"].as_u64().unwrap(), way["packets_lost"].as_u64().unwrap())
        };
        let ((up, lost_up), (down, lost_down)) = (of("up"), of("down"));
        // Fresh flows that are tried beside a slowed transfer meet the policer too: their blocks are told apart by the port.
        let flows = report["flows"].as_array().unwrap();
        let source = flows.iter().find(|flow| flow["id"] == "transfer/up").unwrap()["source"].as_str();
        let port = source.unwrap().parse::<SocketAddr>().unwrap().port();
        let (lines, _) = stage.lab.truth();
        let dropped = lines
            .iter()
            .filter(|l| l.deed == Deed::Dropped && l.direction == Direction::Up && &*l.rule == "policer")
            .filter(|l| l.flow.client.port() == port)
            .count() as u64;
        // What the lab itself could not carry is written down too, though not by flow.
        let own = stage.lab.own_losses().unwrap();
        assert!(up > 0 && down > 0 && dropped > 0, "{up} {down} {dropped}: {said}");
        assert!(
            lost_up >= dropped && lost_up + lost_down - dropped <= own,
            "{lost_up} lost of {up}, {dropped} dropped; {lost_down} lost of {down} down; {own} lost by the lab"
        );
    });
}
