//! `soak` with the real programs over loopback: killed, stopped, on a full disk, read while it runs. Nothing that was
//! written is ever lost.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests, too")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe_analysis::observation::{HostFault, Observation};
use probe_client::record::Recording;
use probe_net::clock;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tests::{binaries, in_namespaces};

/// Generous: only what never happens takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running `probe-server`.
struct Listener {
    child: Child,
    target: String,
    _state: tempfile::TempDir,
}

impl Listener {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut command = Command::new(&binaries().unwrap().server);
        command
            .args(["--no-doctor", "--port", "0", "--bind", "127.0.0.1", "--json", "--state-dir"])
            .arg(state.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        std::thread::spawn(move || lines.for_each(drop));
        let address = first["tcp"][0].as_str().unwrap();
        let (_, secret) = first["invite"].as_str().unwrap().split_once("/#").unwrap();
        Self { child, target: format!("probe://{address}/#{secret}"), _state: state }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `probe-client` with nothing of the environment that the tests run in, but its path.
fn client() -> Command {
    let mut command = Command::new(&binaries().unwrap().client);
    command.env_clear().stdin(Stdio::null());
    command
}

/// A soak under way.
struct Soak {
    child: Child,
    told: Receiver<String>,
    heard: Vec<String>,
    stdout: Option<std::thread::JoinHandle<String>>,
}

impl Soak {
    fn start(listener: &Listener, file: &Path, arguments: &[&str]) -> Self {
        let mut command = client();
        command.args([
            "soak",
            &listener.target,
            "--allow-sleep",
            "--per-class",
            "1",
            "--probes-per-second",
            "200",
        ]);
        command.arg("--out").arg(file).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (tells, told) = channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tells.send(line)));
        let out = child.stdout.take().unwrap();
        let stdout = std::thread::spawn(move || std::io::read_to_string(out).unwrap());
        Self { child, told, heard: Vec::new(), stdout: Some(stdout) }
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Waits until it says something.
    fn hear(&mut self, wanted: &str) {
        while !self.heard.iter().any(|line| line.contains(wanted)) {
            match self.told.recv_timeout(PATIENCE) {
                Ok(line) => self.heard.push(line),
                Err(error) => panic!("it never said {wanted:?} ({error}) but\n{}", self.heard.join("\n")),
            }
        }
    }

    /// Its end: the status, standard output and standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let status = self.child.wait().unwrap();
        self.heard.extend(self.told.iter());
        (status.code(), self.stdout.take().unwrap().join().unwrap(), self.heard.join("\n"))
    }
}

impl Drop for Soak {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that a file holds.
fn read(file: &Path) -> Vec<Observation> {
    let recording = Recording::open(file).unwrap();
    recording.observations().collect::<Result<_, _>>().unwrap()
}

/// Waits until a file holds more than so many observations; answers them.
fn read_more(file: &Path, than: usize) -> Vec<Observation> {
    let start = clock::now();
    loop {
        if file.exists() {
            let seen = read(file);
            if seen.len() > than {
                return seen;
            }
        }
        assert!(clock::now().since(start) < PATIENCE, "nothing more was recorded");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn diagnose(file: &Path) -> Output {
    client().args(["diagnose", "--json"]).arg(file).output().unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn killed_at_any_moment_the_file_is_whole_and_resume_goes_on_with_it() {
    let kills = std::env::var("SOAK_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let listener = Listener::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("night.probe");
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut before: Vec<Observation> = Vec::new();
    let (mut parts, mut longest, mut missing) = (0, Duration::ZERO, Vec::new());
    for n in 0..kills {
        let soak = Soak::start(&listener, &file, &["--resume", "--for", "10m"]);
        // Some before the first commit, some in the midst of many.
        std::thread::sleep(Duration::from_millis(rng.random_range(20..3000)));
        let seen =
            if n % 3 == 0 && file.exists() { Recording::open(&file).map(|_| read(&file)).ok() } else { None };
        soak.signal(Signal::SIGKILL);
        let killed_at = clock::now();
        let (status, _, said) = soak.end();
        assert_eq!(status, None, "{said}");
        if !file.exists() {
            continue;
        }
        let after = read(&file);
        assert_eq!(after[..before.len()], before[..], "what was there is still there");
        if let Some(seen) = seen {
            assert_eq!(after[..seen.len()], seen[..], "what a reader saw is still there");
        }
        let recording = Recording::open(&file).unwrap();
        if recording.segments() > parts {
            parts = recording.segments();
            // The watch beside the path tells how far the file came.
            let last = after
                .iter()
                .rev()
                .find_map(|o| if let Observation::Watch(o) = o { Some(o.at) } else { None });
            let watched = after.len() > before.len()
                && after[before.len()..].iter().any(|o| matches!(o, Observation::Watch(_)));
            if let (Some(last), true) = (last, watched) {
                longest = longest.max(killed_at.since(last));
            }
            let sent = after[before.len()..]
                .iter()
                .filter_map(|o| if let Observation::Probe(probe) = o { Some(probe.sent) } else { None });
            missing.extend(sent.max().map(|last| killed_at.since(last)));
        }
        before = after;
    }
    // A probe's fate is told three seconds after it was sent; what was under way is there all the same.
    missing.sort_unstable();
    println!("{} kills; what was sent last was missing from {missing:?} on", missing.len());
    let median = missing.get(missing.len() / 2).copied().unwrap_or(Duration::MAX);
    assert!(median < Duration::from_secs(2), "{missing:?}");
    // A commit each second, a watch each second; the rest is for machines that are busy.
    assert!(longest < Duration::from_secs(6), "the last {longest:?} were missing");

    let soak = Soak::start(&listener, &file, &["--resume", "--for", "4s", "--json"]);
    let (status, report, said) = soak.end();
    assert_eq!(status, Some(0), "{said}\n{report}");
    let all = read(&file);
    assert_eq!(all[..before.len()], before[..]);
    let flows: Vec<u32> = all
        .iter()
        .filter_map(|o| if let Observation::FlowPlanned(o) = o { Some(o.flow.0) } else { None })
        .collect();
    assert_eq!(flows.iter().collect::<BTreeSet<_>>().len(), flows.len(), "each flow has a number of its own");
    let gaps = all
        .iter()
        .filter(|o| matches!(o, Observation::Host(event) if event.what == HostFault::NotRunning))
        .count();
    let recording = Recording::open(&file).unwrap();
    assert!(gaps > 0 && gaps as u32 <= recording.segments(), "{gaps} gaps, {} parts", recording.segments());
    drop(recording);
    let report: Value = serde_json::from_str(&report).unwrap();
    let events = report["events"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["kind"] == "not-running").count(), gaps);
    let kept = diagnose(&file).stdout;
    let afresh = client().args(["diagnose", "--json", "--afresh"]).arg(&file).output().unwrap().stdout;
    assert!(kept == afresh, "the report that is kept is the one that would be made");
    let again: Value = serde_json::from_slice(&afresh).unwrap();
    assert!(again == report, "judged again, it is judged alike");
    assert_eq!(files(folder.path()), [file], "a clean end leaves one file");
}

#[test]
fn the_first_signal_ends_it_in_order_and_the_second_at_once() {
    let listener = Listener::start();
    let folder = tempfile::tempdir().unwrap();
    for (name, signal) in [("ctrl-c.probe", Signal::SIGINT), ("term.probe", Signal::SIGTERM)] {
        let file = folder.path().join(name);
        let mut soak = Soak::start(&listener, &file, &["--json"]);
        soak.hear("until Ctrl-C");
        read_more(&file, 40);
        soak.signal(signal);
        let (status, report, said) = soak.end();
        assert_eq!(status, Some(0), "{said}");
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["run"]["kind"], "soak");
        assert_eq!(report["run"]["complete"], true, "a run without an end is complete when it is ended");
        assert!(diagnose(&file).status.success());
        assert!(matches!(read(&file).last(), Some(Observation::RunEnded(_))));
    }
    assert_eq!(files(folder.path()).len(), 2);

    let file = folder.path().join("twice.probe");
    let mut soak = Soak::start(&listener, &file, &["--json"]);
    soak.hear("until Ctrl-C");
    let seen = read_more(&file, 40);
    soak.signal(Signal::SIGINT);
    soak.signal(Signal::SIGTERM);
    let (status, report, said) = soak.end();
    assert_eq!((status, report.as_str()), (Some(130), ""), "{said}");
    assert_eq!(read(&file)[..seen.len()], seen[..]);
}

#[test]
fn a_running_soak_can_be_read_and_is_nobody_elses_to_write() {
    let listener = Listener::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("night.probe");
    let soak = Soak::start(&listener, &file, &["--json"]);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let more = read_more(&file, seen.len());
        assert_eq!(more[..seen.len()], seen[..]);
        seen = more;
        let judged = diagnose(&file);
        let report: Value = serde_json::from_slice(&judged.stdout).unwrap();
        assert_eq!(report["run"]["complete"], false);
        let export = client().args(["export", "--format", "csv"]).arg(&file).output().unwrap();
        assert!(export.status.success() && export.stdout.starts_with(b"flow,name,"));
    }
    for (arguments, says) in
        [(&["--resume"][..], "is being written by another probe-client"), (&[], "is there already")]
    {
        let other = Soak::start(&listener, &file, arguments);
        let (status, _, said) = other.end();
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
    soak.signal(Signal::SIGINT);
    let (status, _, said) = soak.end();
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(read(&file)[..seen.len()], seen[..]);
    assert_eq!(files(folder.path()), [file]);
}

#[test]
fn a_disk_that_fills_up_stops_nothing_and_costs_nothing_that_was_written() {
    in_namespaces("a_disk_that_fills_up_stops_nothing_and_costs_nothing_that_was_written", || {
        let folder = tempfile::tempdir().unwrap();
        // A disk of this thread's own, and of what it starts.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let flags = nix::mount::MsFlags::empty();
        nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, Some("size=40m")).unwrap();
        let listener = Listener::start();
        let file = folder.path().join("night.probe");
        let mut soak = Soak::start(&listener, &file, &["--json", "--for", "30m"]);
        let seen = read_more(&file, 40);

        let filler = folder.path().join("filler");
        let mut out = fs::File::create(&filler).unwrap();
        while out.write_all(&[0; 4096]).is_ok() {}
        soak.hear("measuring goes on");
        let full = read(&file);
        assert_eq!(full[..seen.len()], seen[..], "what was written can be read meanwhile");
        drop(out);
        fs::remove_file(&filler).unwrap();
        soak.hear("being written again");
        read_more(&file, full.len());
        soak.signal(Signal::SIGINT);
        let (status, report, said) = soak.end();
        assert_eq!(status, Some(0), "{said}");
        let report: Value = serde_json::from_str(&report).unwrap();
        let events = report["events"].as_array().unwrap();
        let told = events.iter().find(|event| event["kind"] == "not-recorded").unwrap();
        let says = told["says"].as_str().unwrap();
        assert!(says.contains("the disk was full") && says.contains("was written afterwards"), "{says}");
        assert_eq!(read(&file)[..full.len()], full[..]);
        assert_eq!(files(folder.path()), [file]);

        // A run that the disk has no room for does not begin.
        let other = folder.path().join("long.probe");
        let (status, _, said) = Soak::start(&listener, &other, &["--for", "300d"]).end();
        assert_eq!(status, Some(2), "{said}");
        assert!(said.contains("MB are free") && !other.exists(), "{said}");
        nix::mount::umount(folder.path()).unwrap();
    });
}
