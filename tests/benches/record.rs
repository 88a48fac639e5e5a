//! What a night costs: bytes on disk per probe, memory, and the time to open and judge it again.
//!
//! `cargo bench -p tests --bench record` plays a made-up soak of twelve hours (4.3 million probes) into a file, as fast as it
//! is written, over a clean and over a lossy path; `-- HOURS` another length, `-- HOURS FOLDER` keeps the files there.
#![expect(clippy::print_stdout, reason = "a bench prints")]

use std::path::Path;
use std::time::Duration;

use probe_analysis::made_up::{Night, Weather};
use probe_analysis::{Evidence, analyse};
use probe_client::judge::recorded;
use probe_client::record::{About, Clocks, Existing, Recorder, Recording, Resolution};
use probe_client::report::{Origin, build, json};
use probe_net::clock;
use probe_protocol::time::WallTime;

/// Six old flows of each of seven classes.
const FLOWS: u32 = 42;

fn main() {
    let hours = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(12.0);
    let length = Duration::from_secs_f64(hours * 3600.0);
    let kept = std::env::args().skip(1).filter(|argument| argument != "--bench").nth(1);
    let folder = tempfile::tempdir().unwrap_or_else(|error| stop(&error));
    let folder = kept.as_deref().map_or(folder.path(), Path::new);
    println!("{hours} h at 100 probes/s, {FLOWS} flows; times to the microsecond");
    for (name, weather) in [("clean", Weather::Clean), ("lossy", Weather::Lossy)] {
        let path = folder.join(format!("{name}.probe"));
        let (bytes, probes) = write(&path, weather, length);
        println!(
            "{name:<6} {probes:>9} probes  {:>6.2} bytes per probe on disk, all tables  ({:.1} MB)",
            bytes as f64 / probes as f64,
            bytes as f64 / 1e6
        );
        judge(&path, name);
    }
}

fn stop(error: &dyn std::fmt::Display) -> ! {
    println!("the bench cannot run: {error}");
    std::process::exit(1)
}

/// Resident memory now and at its highest, MB.
fn memory() -> (f64, f64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let row = |name: &str| {
        let row = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        row.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1000.0
    };
    (row("VmRSS:"), row("VmHWM:"))
}

fn write(path: &Path, weather: Weather, length: Duration) -> (u64, u64) {
    let about = About {
        kind: "soak".to_owned(),
        id: None,
        port: 8886,
        target: "203.0.113.7:8886".to_owned(),
        quick: false,
        resolution: Resolution::Microsecond,
    };
    let now = Clocks { at: Night::start(), wall: WallTime(1_769_896_800_000_000_000) };
    let recorder = Recorder::create(path, &about, now, 0, Existing::Refuse).unwrap_or_else(|e| stop(&e));
    let start = clock::now();
    let (mut shown, mut evidence) = (0, Evidence::default());
    for (n, observation) in Night::new(weather, FLOWS, length, 1).enumerate() {
        evidence.observe(&recorder.replay(observation));
        if n >= shown {
            let (now, most) = memory();
            println!("       memory after {n:>8} observations: {now:.1} MB, at most {most:.1} MB");
            shown = if n == 0 { 100_000 } else { n * 3 };
        }
    }
    let origin = Origin { id: None, kind: "soak", port: 8886, quick: false };
    let report = json::compact(&build(analyse(&evidence), origin)).unwrap_or_else(|e| stop(&e));
    let status = recorder.finish(Some(report)).unwrap_or_else(|e| stop(&e));
    let took = clock::now().since(start);
    let probes = Recording::open(path).and_then(|r| r.probes()).unwrap_or_else(|e| stop(&e));
    println!(
        "       analysed and written in {:.1} s: {:.2} us per probe",
        took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / probes as f64
    );
    (status.bytes, probes)
}

fn judge(path: &Path, name: &str) {
    let start = clock::now();
    let recording = Recording::open(path).unwrap_or_else(|e| stop(&e));
    let opened = clock::now();
    let read = recording.observations().filter(Result::is_ok).count();
    let through = clock::now();
    let afresh = recorded(&recording, true).unwrap_or_else(|e| stop(&e));
    let done = clock::now();
    drop(recording);
    let kept =
        Recording::open(path).and_then(|recording| recorded(&recording, false)).unwrap_or_else(|e| stop(&e));
    let again = clock::now();
    let ms = |d: Duration| d.as_secs_f64() * 1e3;
    println!(
        "{name:<6} opened in {:.1} ms; {read} observations read in {:.0} ms; all judged afresh in {:.0} ms; opened and diagnosed \
         by the version that recorded it in {:.0} ms{}",
        ms(opened.since(start)),
        ms(through.since(opened)),
        ms(done.since(through)),
        ms(again.since(done)),
        if kept.report == afresh.report { ", the same" } else { ", ANOTHER" }
    );
}
