//! The lab's rules as well-known tools see them: iperf3 and irtt, where they are installed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is all test code")]

mod common;

use std::process::Stdio;

use common::{PORT, Running, has_tool, rules, wait_until_taken};
use serde_json::Value;
use tests::kernel::{Lab, in_namespaces};
use tests::middlebox::Topology;
use tests::rules::Direction;
use tests::rules::truth::Deed;

/// What iperf3's client says after sending up for three seconds.
fn iperf3(lab: &Lab, arguments: &[&str]) -> Value {
    let port = PORT.to_string();
    let mut server = lab.server().command("iperf3");
    server.args(["-s", "-1", "-p", &port]).stdout(Stdio::null());
    let _server = Running(server.spawn().unwrap());
    wait_until_taken(lab.server(), true);
    let target = Topology::SERVER_PUBLIC.to_string();
    let mut client = lab.client().command("iperf3");
    client.args(["-c", &target, "-p", &port, "-J", "-t", "3"]).args(arguments);
    let output = client.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn plain() -> Topology {
    Topology { ipv6: false, ..Topology::default() }
}

#[test]
fn a_policer_at_10_megabit_passes_10_megabit_of_udp_and_all_of_tcp() {
    const NAME: &str = "a_policer_at_10_megabit_passes_10_megabit_of_udp_and_all_of_tcp";
    in_namespaces(NAME, || {
        if !has_tool("iperf3", NAME) {
            return;
        }
        let rules = rules(
            "[[rule]]\nname='policer'\nmatch={direction='up',protocol=['udp']}\ndo={act='police',rate='10M',burst='20k'}",
        );
        let lab = Lab::start(&plain(), &rules, 1).unwrap();
        let udp = iperf3(&lab, &["-u", "-b", "20M", "-l", "1200"]);
        let sum = &udp["end"]["sum"];
        let lost = sum["lost_packets"].as_f64().unwrap();
        let received = sum["packets"].as_f64().unwrap() - lost;
        let rate = received * 1228.0 * 8.0 / sum["seconds"].as_f64().unwrap();
        assert!((9.6e6..10.4e6).contains(&rate), "IP bytes at {rate} bit/s");
        let dropped = lab.with_truth(|truth| truth.count("policer", Deed::Dropped, Direction::Up)).unwrap();
        // iperf3 does not count what is lost after the last datagram that arrives.
        assert!((dropped as f64 - lost).abs() <= 50.0, "{dropped} by the truth, {lost} by iperf3");
        let tcp = iperf3(&lab, &["-b", "40M"]);
        let rate = tcp["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
        assert!(rate > 30e6, "TCP is not bound by it: {rate}");
    });
}

#[test]
fn a_shaper_at_10_megabit_gives_tcp_10_megabit() {
    const NAME: &str = "a_shaper_at_10_megabit_gives_tcp_10_megabit";
    in_namespaces(NAME, || {
        if !has_tool("iperf3", NAME) {
            return;
        }
        let rules = rules("[[rule]]\nname='line'\ndo={act='queue',rate='10M',limit='60k'}");
        let lab = Lab::start(&plain(), &rules, 1).unwrap();
        let tcp = iperf3(&lab, &[]);
        let rate = tcp["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
        // 1448 of 1500 bytes are iperf3's.
        assert!((8.5e6..9.8e6).contains(&rate), "{rate}");
        let waited = lab.with_truth(|truth| truth.count("line", Deed::Delayed, Direction::Up)).unwrap();
        assert!(waited > 1000, "packets waited: {waited}");
    });
}

#[test]
fn irtt_places_loss_and_delay_where_the_rules_put_them() {
    const NAME: &str = "irtt_places_loss_and_delay_where_the_rules_put_them";
    in_namespaces(NAME, || {
        if !has_tool("irtt", NAME) {
            return;
        }
        // The handshake is left alone, and so are the last replies: irtt's count of what went up comes with them.
        let rules = rules(
            "[[rule]]\nname='loss down'\nmatch={direction='down',protocol=['udp'],packets_over=8,packets_upto=300,count='down',probability=0.2}\ndo={act='drop'}\n\
             [[rule]]\nname='delay up'\nmatch={direction='up'}\ndo={act='delay',by='30ms'}",
        );
        let lab = Lab::start(&plain(), &rules, 5).unwrap();
        let mut server = lab.server().command("irtt");
        server
            .args(["server", "-i", "0", "-b", &format!("0.0.0.0:{PORT}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _server = Running(server.spawn().unwrap());
        wait_until_taken(lab.server(), false);
        let mut client = lab.client().command("irtt");
        let target = lab.target(PORT).to_string();
        client.args(["client", "-q", "-i", "4ms", "-d", "3s", "-l", "100", "-o", "-", &target]);
        let output = client.output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let stats = &report["stats"];
        let number = |name: &str| stats[name].as_f64().unwrap_or_else(|| panic!("no {name} in {stats}"));
        assert_eq!(number("upstream_loss_percent"), 0.0);
        let down = number("downstream_loss_percent");
        assert!(down > 2.0 && down < 40.0, "{down} % down");
        let (sent, received) = (number("packets_sent"), number("packets_received"));
        let dropped =
            lab.with_truth(|truth| truth.count("loss down", Deed::Dropped, Direction::Down)).unwrap();
        assert!((sent - received - dropped as f64).abs() <= 1.0, "{sent} {received} {dropped}");
        let least = stats["rtt"]["min"].as_f64().unwrap();
        assert!((30e6..60e6).contains(&least), "30 ms and little more: {least} ns");
    });
}
