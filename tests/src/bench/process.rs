//! Programs under measurement: started on one core, watched, ended.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use probe_net::clock;
use probe_protocol::target::Target;

use super::BenchError;

/// Keeps the calling thread, and what it starts from now on, on one core. A core that the machine does not have is
/// left alone.
pub(super) fn pin(core: usize) {
    let mut set = CpuSet::new();
    if core < cores() && set.set(core).is_ok() {
        // Where it is not allowed, the thread stays where the system puts it.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Lets the calling thread run anywhere again.
pub(super) fn unpin() {
    let mut set = CpuSet::new();
    for core in 0..cores() {
        let _ = set.set(core);
    }
    let _ = sched_setaffinity(Pid::from_raw(0), &set);
}

fn cores() -> usize {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    online.trim().rsplit(['-', ',']).next().and_then(|last| last.parse::<usize>().ok()).map_or(1, |n| n + 1)
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
}

impl Program {
    /// Starts it on `core`.
    pub(super) fn start(command: &mut Command, core: Option<usize>) -> Result<Self, BenchError> {
        // A child inherits the cores of the thread that starts it.
        if let Some(core) = core {
            pin(core);
        }
        let child = command.spawn();
        unpin();
        let child = child.map_err(BenchError::during("starting a program"))?;
        Ok(Self { child })
    }

    /// CPU time of all its threads so far.
    pub(super) fn cpu(&self) -> Option<Duration> {
        Self::cpu_of(self.child.id())
    }

    /// The same of any process.
    pub(super) fn cpu_of(process: u32) -> Option<Duration> {
        let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
        let nanos = threads.flatten().filter_map(|thread| schedstat(&thread.path()));
        Some(Duration::from_nanos(nanos.sum()))
    }

    /// A line of `/proc/PID/status` that is in kB, in bytes: `VmRSS`, `VmHWM`.
    pub(super) fn status(&self, name: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
    }

    /// What it prints, line by line, and nothing of it is left for later.
    fn first_line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        if let Some(out) = self.child.stdout.take() {
            let mut reader = BufReader::new(out);
            reader.read_line(&mut line).map_err(BenchError::during("reading a program's output"))?;
            // What it prints later has nobody to read it, and a full pipe would stop it.
            std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        }
        Ok(line)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Nanoseconds on a core: the first number of `schedstat`.
fn schedstat(thread: &Path) -> Option<u64> {
    fs::read_to_string(thread.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
}

/// A `probe-server` of ours on loopback.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) program: Program,
    pub(super) target: Target,
    /// From the start of the program to its listening line.
    pub(super) ready_after: Duration,
    /// Its state goes away with it.
    _state: tempfile::TempDir,
}

impl Listener {
    /// Starts it with a state directory of its own.
    pub(super) fn start(binary: &Path, core: Option<usize>, arguments: &[&str]) -> Result<Self, BenchError> {
        let state = tempfile::tempdir().map_err(BenchError::during("making a state directory"))?;
        let mut command = Command::new(binary);
        command.args(["serve", "--json", "--bind", "127.0.0.1", "--port", "0", "--state-dir"]);
        command.arg(state.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let begun = clock::now();
        let mut program = Program::start(&mut command, core)?;
        let line = program.first_line()?;
        let ready_after = clock::now().since(begun);
        let said: serde_json::Value = serde_json::from_str(&line)
            .map_err(|_| BenchError::Program(format!("probe-server said no listening line but {line:?}")))?;
        let invite = said["invite"].as_str().unwrap_or_default();
        let target = invite
            .parse()
            .map_err(|error| BenchError::Program(format!("probe-server's invite {invite:?}: {error}")))?;
        Ok(Self { program, target, ready_after, _state: state })
    }
}
