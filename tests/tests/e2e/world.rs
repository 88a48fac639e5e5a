//! What the tests share: listeners, checks, and their reports.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe_net::clock;
use probe_protocol::invite::Invite;
use probe_protocol::target::Target;
use serde_json::Value;
use tests::kernel::{Host, in_namespaces};
use tests::rules::Rule;
use tests::{Binaries, binaries};

/// Generous: only what never happens takes so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The product's.
pub(crate) const PORT: u16 = probe_protocol::DEFAULT_PORT;

/// Runs a test in a lab, at most three of them at a time: each runs two programs and a middlebox.
pub(crate) fn in_lab(name: &str, test: impl FnOnce()) {
    const AT_ONCE: usize = 3;
    static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());
    struct Turn;
    impl Drop for Turn {
        fn drop(&mut self) {
            *RUNNING.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) -= 1;
            RUNNING.1.notify_one();
        }
    }
    let guard = RUNNING.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut running = RUNNING
        .1
        .wait_while(guard, |running| *running >= AT_ONCE)
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *running += 1;
    drop(running);
    let _turn = Turn;
    in_namespaces(name, test);
}

/// The real programs.
pub(crate) fn programs() -> &'static Binaries {
    binaries().unwrap()
}

/// Rules as a scenario has them.
pub(crate) fn rules(text: &str) -> Vec<Rule> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        rule: Vec<Rule>,
    }
    toml::from_str::<File>(text).unwrap().rule
}

/// What a program printed and how it ended.
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    /// Its lines on standard error, and how long after its start each came.
    pub(crate) told: Vec<(Duration, String)>,
    pub(crate) took: Duration,
}

impl Ran {
    pub(crate) fn stderr(&self) -> String {
        self.told.iter().fold(String::new(), |mut all, (at, line)| {
            let _ = writeln!(all, "{:7.2} {line}", at.as_secs_f64());
            all
        })
    }

    /// What was wrong, as the program says it: one line, after its name.
    pub(crate) fn complaint(&self, program: &str) -> &str {
        let lines: Vec<_> = self.told.iter().filter_map(|(_, line)| line.strip_prefix(program)).collect();
        assert!(lines.len() == 1, "one line says what is wrong:\n{}", self.stderr());
        assert!(!self.stderr().contains("panicked"), "{}", self.stderr());
        lines[0].trim_start_matches(": ")
    }
}

/// Runs a command to its end, which must come within `limit`.
pub(crate) fn run(mut command: Command, limit: Duration) -> Ran {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = clock::now();
    let mut child = command.spawn().unwrap();
    let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reads = std::thread::spawn(move || std::io::read_to_string(stdout).unwrap());
    let tells = std::thread::spawn(move || {
        let lines = BufReader::new(stderr).lines().map_while(Result::ok);
        lines.map(|line| (clock::now().since(start), line)).collect::<Vec<_>>()
    });
    let ended = wait(&mut child, limit);
    let _ = child.kill();
    let status = child.wait().unwrap();
    let (stdout, told) = (reads.join().unwrap(), tells.join().unwrap());
    let ran = Ran { status: status.code(), stdout, told, took: clock::now().since(start) };
    assert!(ended, "it goes on for more than {limit:?}:\n{}", ran.stderr());
    ran
}

/// Whether a child ends within a time.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> bool {
    let start = clock::now();
    while child.try_wait().unwrap().is_none() {
        if clock::now().since(start) > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// A report that `check --json` printed.
pub(crate) struct Checked {
    pub(crate) ran: Ran,
    pub(crate) document: Value,
}

/// Runs `probe-client check` on a host against a target, and reads its report.
pub(crate) fn check(host: &Host, target: &str, arguments: &[&str]) -> Checked {
    let mut command = host.command(&programs().client);
    command.args(["check", target, "--json"]).args(arguments);
    // The contract's bound, and what a busy machine adds.
    let ran = run(command, Duration::from_secs(60) + PATIENCE);
    let document = serde_json::from_str(&ran.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:?}\n{}\n{}", ran.status, ran.stdout, ran.stderr()));
    Checked { ran, document }
}

impl Checked {
    pub(crate) fn reach(&self, transport: &str) -> &str {
        self.document["reachability"][transport].as_str().unwrap_or("nothing")
    }

    /// The causes found, with their severities.
    pub(crate) fn found(&self) -> Vec<(String, String)> {
        let findings = self.document["findings"].as_array().unwrap();
        let text = |finding: &Value, field: &str| finding[field].as_str().unwrap().to_owned();
        findings.iter().map(|finding| (text(finding, "cause"), text(finding, "severity"))).collect()
    }

    /// The causes found, but for what a busy machine honestly says of itself.
    pub(crate) fn causes(&self) -> Vec<String> {
        let found = self.found().into_iter().filter(|found| *found != ("host-stalled".into(), "info".into()));
        found.map(|(cause, _)| cause).collect()
    }

    pub(crate) fn flows(&self) -> impl Iterator<Item = (&str, &Value)> {
        let flows = self.document["flows"].as_array().unwrap();
        flows.iter().map(|flow| (flow["id"].as_str().unwrap(), flow))
    }

    pub(crate) fn flow(&self, id: &str) -> &Value {
        self.flows()
            .find(|(name, _)| *name == id)
            .unwrap_or_else(|| panic!("no flow {id}\n{}", self.story()))
            .1
    }

    /// All that helps to see why a test failed.
    pub(crate) fn story(&self) -> String {
        let mut story =
            format!("status {:?} after {:.1?}\n{}", self.ran.status, self.ran.took, self.ran.stderr());
        for part in ["verdict", "refused", "reachability", "run"] {
            let _ = writeln!(story, "{part}: {}", self.document[part]);
        }
        for finding in self.document["findings"].as_array().into_iter().flatten() {
            let _ = writeln!(story, "finding: {finding}");
        }
        for flow in self.document["flows"].as_array().into_iter().flatten() {
            let _ = writeln!(
                story,
                "flow: {} {} end {} sent {} received {} lost {} excluded {}",
                flow["id"],
                flow["source"],
                flow["end"],
                flow["sent"],
                flow["received"],
                flow["lost"],
                flow["excluded"]
            );
        }
        for event in self.document["events"].as_array().into_iter().flatten().take(40) {
            let _ = writeln!(story, "event: {event}");
        }
        story
    }
}

/// A running `probe-server`, with everything that it says.
pub(crate) struct Listener {
    pub(crate) child: Child,
    pub(crate) state: Arc<tempfile::TempDir>,
    said: Arc<(Mutex<Vec<Value>>, Condvar)>,
    invite: String,
    pub(crate) first: Value,
}

impl Listener {
    /// Starts one on a host, with a new state directory.
    pub(crate) fn start(host: &Host, arguments: &[&str]) -> Self {
        Self::start_in(host, Arc::new(tempfile::tempdir().unwrap()), arguments)
    }

    /// The same, with a state directory that may hold something.
    pub(crate) fn start_in(host: &Host, state: Arc<tempfile::TempDir>, arguments: &[&str]) -> Self {
        let mut command = serve(host, state.path(), arguments);
        command.arg("--json");
        Self::spawn(command, state)
    }

    /// The same, with a command of the caller's.
    pub(crate) fn spawn(mut command: Command, state: Arc<tempfile::TempDir>) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        Self::of(command.spawn().unwrap(), state)
    }

    /// One that has been started.
    pub(crate) fn of(mut child: Child, state: Arc<tempfile::TempDir>) -> Self {
        let output = child.stdout.take().unwrap();
        let said = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let says = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                says.0.lock().unwrap().push(line);
                says.1.notify_all();
            }
        });
        let mut listener = Self { child, state, said, invite: String::new(), first: Value::Null };
        listener.first = listener.wait_for("listening", |_| true);
        listener.invite = listener.first["invite"].as_str().unwrap().to_owned();
        listener
    }

    /// The invite, with the address by which clients reach it.
    pub(crate) fn invite(&self, target: SocketAddr) -> String {
        at(&self.invite, target)
    }

    /// What the invite holds.
    pub(crate) fn key(&self) -> Invite {
        self.invite.parse::<Target>().unwrap().invite.unwrap()
    }

    /// Waits for an event that this is true of.
    pub(crate) fn wait_for(&self, event: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let fits = |line: &&Value| line["event"] == event && wanted(line);
        let (said, _) = self
            .said
            .1
            .wait_timeout_while(self.said.0.lock().unwrap(), PATIENCE, |said| !said.iter().any(|l| fits(&l)))
            .unwrap();
        said.iter().find(fits).cloned().unwrap_or_else(|| panic!("no such {event} in {said:#?}"))
    }

    /// Everything said so far.
    pub(crate) fn said(&self) -> Vec<Value> {
        self.said.0.lock().unwrap().clone()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Its resident memory, KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let row = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        row.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An invite with another address before its secret part.
pub(crate) fn at(invite: &str, target: SocketAddr) -> String {
    let (_, secret) = invite.split_once("/#").unwrap();
    format!("probe://{target}/#{secret}")
}

/// `probe-server` on a host, which looks at nothing but its port.
pub(crate) fn serve(host: &Host, state: &Path, arguments: &[&str]) -> Command {
    let mut command = host.command(&programs().server);
    command.arg("--no-doctor").arg("--state-dir").arg(state).args(arguments);
    command
}

/// Runs a command of `probe-server` other than to serve.
pub(crate) fn admin(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(&programs().server);
    command.args(arguments).arg("--state-dir").arg(state);
    command.output().unwrap()
}

/// A page as a browser or a script reads it: the head and the body until the connection ends.
pub(crate) fn get(host: &Host, target: SocketAddr, path: &str) -> String {
    use std::io::Write as _;
    let mut stream = host.run(|| std::net::TcpStream::connect_timeout(&target, PATIENCE)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// A counter of a listener's metrics, by the end of its name.
pub(crate) fn counter(host: &Host, metrics: SocketAddr, name: &str) -> u64 {
    let page = get(host, metrics, "/metrics");
    let row = page.lines().find(|line| {
        let (named, _) = line.split_once(' ').unwrap_or((line, ""));
        named
            .strip_prefix("probe_server_")
            .is_some_and(|n| n == name || n.strip_suffix("_total") == Some(name))
    });
    let row = row.unwrap_or_else(|| panic!("no {name} in\n{page}"));
    row.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
}
