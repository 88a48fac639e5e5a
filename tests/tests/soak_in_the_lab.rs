//! Two minutes of `soak` with the real programs through the real-kernel lab, and all that a night can bring within them.
//! Each thing is told as what it was, and what was lost is what the middlebox's log says it dropped, packet for packet.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    reason = "this is all test code"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe_analysis::observation::{Fate, FlowNo, Observation};
use probe_client::record::Recording;
use probe_net::clock;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use serde_json::Value;
use tests::kernel::{Stage, binaries, in_namespaces};
use tests::packet::Protocol;
use tests::rules::Direction;
use tests::rules::truth::{Deed, Line};
use tests::scenario::Scenario;

/// Flows of one image die at an age, once every source port changes, and for a while nothing gets through.
const RULES: &str = r#"
[[rule]]
name = "kill by age"
match = { protocol = ["udp"], printable = true, age_over = "15s" }
do = { act = "drop" }

[[rule]]
name = "rebind"
match = { protocol = ["udp"], after = "32s" }
do = { act = "rebind" }

[[rule]]
name = "outage"
match = { after = "48s", before = "68s" }
do = { act = "drop" }
"#;
const REBIND: f64 = 32.0;
const OUTAGE: (f64, f64) = (48.0, 68.0);
/// When the listener is ended, and when it is started again.
const RESTART: (u64, u64) = (78, 80);
/// When the client is stopped, and when it goes on.
const STOPPED: (u64, u64) = (94, 109);
/// IPv4's and UDP's headers, bytes.
const HEADERS: usize = 28;

#[derive(serde::Deserialize)]
struct File {
    rule: Vec<tests::rules::Rule>,
}

/// Ends the client with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

fn sleep_until(start: Timestamp, seconds: u64) {
    std::thread::sleep((start + Duration::from_secs(seconds)).since(clock::now()));
}

/// Events of a kind, by when they began.
fn events<'r>(report: &'r Value, kind: &str) -> Vec<&'r Value> {
    report["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind).collect()
}

fn seconds(event: &Value, name: &str) -> f64 {
    event[name].as_f64().unwrap()
}

/// Place of a direction's count: up, then down.
fn way(direction: Direction) -> usize {
    usize::from(direction == Direction::Down)
}

/// A UDP flow as the recording has it.
#[derive(Debug, Default)]
struct Told {
    /// Of its probes' datagrams, bytes.
    size: usize,
    port: Option<u16>,
    sent: u64,
    lost: [u64; 2],
    open: u64,
}

fn told(file: &Path) -> BTreeMap<FlowNo, Told> {
    let mut flows: BTreeMap<FlowNo, Told> = BTreeMap::new();
    for observation in Recording::open(file).unwrap().observations() {
        match observation.unwrap() {
            Observation::FlowPlanned(o) if o.carrier == Carrier::Udp => {
                flows.insert(o.flow, Told::default());
            }
            Observation::FlowOpened(o) => {
                if let Some(flow) = flows.get_mut(&o.flow) {
                    flow.port.get_or_insert(o.source.port());
                }
            }
            Observation::Probe(o) => {
                let Some(flow) = flows.get_mut(&o.flow) else { continue };
                flow.size = usize::from(o.size);
                flow.sent += 1;
                match o.fate {
                    Fate::Received => {}
                    Fate::LostUp => flow.lost[way(Direction::Up)] += 1,
                    Fate::LostDown => flow.lost[way(Direction::Down)] += 1,
                    Fate::LostUnknown | Fate::Excluded(_) => flow.open += 1,
                }
            }
            _ => {}
        }
    }
    flows
}

/// What the log has dropped of each source port's packets of one length.
fn dropped(lines: &[Line], port: u16, size: usize) -> [u64; 2] {
    let mut counts = [0; 2];
    let of_flow = |line: &&Line| {
        line.deed == Deed::Dropped
            && line.flow.protocol == Protocol::Udp
            && line.flow.client.port() == port
            && line.size == size + HEADERS
    };
    lines.iter().filter(of_flow).for_each(|line| counts[way(line.direction)] += 1);
    counts
}

#[test]
fn two_minutes_of_everything_are_told_as_what_they_were() {
    in_namespaces("two_minutes_of_everything_are_told_as_what_they_were", || {
        let programs = binaries().unwrap();
        let mut scenario = Scenario::load("clean", 0).unwrap();
        scenario.rule = toml::from_str::<File>(RULES).unwrap().rule;
        let mut stage = Stage::set(&scenario, 0, programs).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("night.probe");
        let mut command = stage.command(&programs.client);
        command
            .args(["soak", &stage.invite(), "--for", "120s", "--json", "--no-tui", "--allow-sleep"])
            .args(["--per-class", "2", "--fresh-every", "5s", "--no-experiments", "--out"])
            .arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // The rules' clock begins with the run.
        stage.lab.set_rules(&scenario.rule).unwrap();
        let start = clock::now();
        let mut client = Running(command.spawn().unwrap());
        let out = client.0.stdout.take().unwrap();
        let out = std::thread::spawn(move || std::io::read_to_string(out).unwrap());
        sleep_until(start, RESTART.0);
        stage.stop_server();
        sleep_until(start, RESTART.1);
        stage.start_server().unwrap();
        sleep_until(start, STOPPED.0);
        client.signal(Signal::SIGSTOP);
        sleep_until(start, STOPPED.1);
        client.signal(Signal::SIGCONT);
        let status = client.0.wait().unwrap();
        let report: Value = serde_json::from_str(&out.join().unwrap()).unwrap();
        println!("{}", serde_json::to_string_pretty(&report["events"]).unwrap());
        println!("{}", serde_json::to_string_pretty(&report["findings"]).unwrap());
        assert_eq!(status.code(), Some(1));
        judge(&report);
        let lines = stage.lab.truth().0;
        assert_eq!(stage.lab.with_truth(|truth| truth.forgotten), Some(0));
        counts(&told(&file), &lines);
    });
}

/// Each thing is there, once, as what it was, and nothing else is.
fn judge(report: &Value) {
    // Every source port changed once, together.
    let moved = events(report, "moved");
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert_eq!(moved[0]["cause"], "nat-rebinding");
    assert!((REBIND - 1.0..REBIND + 3.0).contains(&seconds(moved[0], "from_s")), "{moved:?}");
    assert!(moved[0]["flows"].as_array().unwrap().len() >= 8, "{moved:?}");

    let outages = events(report, "outage");
    let outage = outages.iter().find(|event| event["cause"] == "outage").unwrap();
    assert!((OUTAGE.0 - 1.0..OUTAGE.0 + 2.0).contains(&seconds(outage, "from_s")), "{outage}");
    assert!((OUTAGE.1 - 1.0..OUTAGE.1 + 3.0).contains(&seconds(outage, "to_s")), "{outage}");
    assert_eq!(outage["direction"], "up");

    let restarts = events(report, "listener-restarted");
    assert_eq!(restarts.len(), 1, "{restarts:?}");
    let (from, to) = (RESTART.0 as f64, RESTART.1 as f64);
    assert!((from - 2.0..from + 1.0).contains(&seconds(restarts[0], "from_s")), "{restarts:?}");
    assert!((to - 0.5..to + 6.0).contains(&seconds(restarts[0], "to_s")), "{restarts:?}");

    let stalls = events(report, "stalled");
    let long = |event: &&&Value| seconds(event, "to_s") - seconds(event, "from_s") > 10.0;
    let stopped: Vec<_> = stalls.iter().filter(long).collect();
    assert_eq!(stopped.len(), 1, "{stalls:?}");
    let (from, to) = (STOPPED.0 as f64, STOPPED.1 as f64);
    assert!((from - 1.0..from + 1.0).contains(&seconds(stopped[0], "from_s")), "{stopped:?}");
    assert!((to - 1.0..to + 1.0).contains(&seconds(stopped[0], "to_s")), "{stopped:?}");

    let findings = report["findings"].as_array().unwrap();
    let cause = |name: &str| findings.iter().find(|finding| finding["cause"] == name);
    let killed = cause("flow-killed-by-age").unwrap_or_else(|| panic!("{findings:?}"));
    let age = killed["parameters"]["age_s"].as_f64().unwrap();
    assert!((14.0..=16.0).contains(&age), "{killed}");
    for expected in ["nat-rebinding", "outage", "listener-restarted", "host-stalled"] {
        assert!(cause(expected).is_some(), "{expected} in {findings:?}");
    }
    let known = ["flow-killed-by-age", "nat-rebinding", "outage", "listener-restarted", "host-stalled"];
    let other: Vec<&Value> = findings
        .iter()
        .filter(|finding| !known.contains(&finding["cause"].as_str().unwrap()))
        .filter(|finding| finding["severity"] != "note")
        .collect();
    assert!(other.is_empty(), "{other:?}");
}

/// Of each flow as many probes were lost each way as the log has dropped.
fn counts(flows: &BTreeMap<FlowNo, Told>, lines: &[Line]) {
    let mut compared = 0;
    for (flow, told) in flows {
        let Some(port) = told.port else { continue };
        let dropped = dropped(lines, port, told.size);
        for (place, said) in told.lost.iter().enumerate() {
            // What the listener's restart left open may have been dropped, or not.
            assert!(
                *said <= dropped[place] && *said + told.open >= dropped[place],
                "{flow:?}: {told:?}, and the log has {dropped:?}"
            );
        }
        compared += told.lost.iter().sum::<u64>();
    }
    assert!(compared > 300, "{compared}");
}
