//! Whether namespaces can be made here, and what a test does where they cannot.

use std::io::Write;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::sys;
use super::{Lab, LabError};
use crate::middlebox::Topology;

/// No test that needs a lab takes longer, however busy the machine is.
const LONGEST: Duration = Duration::from_secs(300);

/// Set in processes that were started again as root of their own user namespace.
const INSIDE: &str = "LAB_INSIDE_NAMESPACE";

/// How far the system lets this process go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// It can make network namespaces as it is.
    Here,
    /// It can when started again in a user namespace.
    InUserNamespace,
    /// Neither, for this reason.
    No(String),
}

/// Whether this process can set up a lab. Tried once.
pub fn namespaces() -> &'static Namespaces {
    static ANSWER: OnceLock<Namespaces> = OnceLock::new();
    ANSWER.get_or_init(|| {
        let error = match Lab::start(&Topology::default(), &[], 0) {
            Ok(_) => return Namespaces::Here,
            Err(error) => error,
        };
        let inside = std::env::var_os(INSIDE).is_some();
        if !inside && matches!(error, LabError::System { .. }) && user_namespace_works() {
            return Namespaces::InUserNamespace;
        }
        let hint = if tun_is_ours() { "" } else { "; /dev/net/tun is there for root only, or not at all" };
        Namespaces::No(format!("{error}{hint}"))
    })
}

fn tun_is_ours() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_ok()
}

fn user_namespace_works() -> bool {
    // In a user namespace the device's own permissions still hold; where they are strict only root has a lab.
    if !tun_is_ours() {
        return false;
    }
    let mut command = Command::new("/proc/self/exe");
    // Every test binary and the lab itself know this flag, and do nothing else then.
    command.arg("--help").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    sys::start_as_root_of_own_namespace(&mut command);
    command.status().is_ok_and(|status| status.success())
}

/// Starts this program again with the same arguments as root of its own user namespace, and waits for it.
pub fn rerun_as_root_of_own_namespace(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> std::io::Result<ExitStatus> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).env(INSIDE, "1");
    sys::start_as_root_of_own_namespace(&mut command);
    command.status()
}

/// Runs a test that needs a lab: here, or in a user namespace by starting the test's program again for this test
/// alone. Where neither can be, it says loudly that it was skipped; with `CI=true` or `LAB_REQUIRED=1` that fails.
///
/// `name` is the test's own, with its modules, as the test's program lists it.
///
/// # Panics
/// Where the test fails, or may not be skipped.
#[expect(clippy::panic, reason = "this is how a test fails")]
pub fn in_namespaces(name: &str, test: impl FnOnce()) {
    match namespaces() {
        Namespaces::Here => bounded(name, LONGEST, test),
        Namespaces::InUserNamespace => {
            let arguments = ["--exact", name, "--nocapture"].map(Into::into);
            match rerun_as_root_of_own_namespace(arguments) {
                Ok(status) if status.success() => {}
                Ok(status) => panic!("{name} failed in a user namespace: {status}"),
                Err(error) => panic!("{name} could not be started in a user namespace: {error}"),
            }
        }
        Namespaces::No(reason) => {
            // Not through the test's captured output, which nobody sees when it passes.
            let line = format!("SKIPPED (no namespaces): {name}: {reason}\n");
            let _ = std::io::stderr().lock().write_all(line.as_bytes());
            assert!(!must_not_skip(), "{name} was skipped: {reason}");
        }
    }
}

/// Runs a test that must not wait for ever: when its time is up, its program says so and ends, with everything that it
/// started, since a thread that waits for a socket cannot be told to stop.
fn bounded(name: &str, limit: Duration, test: impl FnOnce()) {
    let (done, ended) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                let line = format!("{name} has not ended within {} s: given up\n", limit.as_secs());
                let _ = std::io::stderr().lock().write_all(line.as_bytes());
                std::process::exit(101);
            }
        });
        // Dropped when the test ends, by a panic too.
        let _done = done;
        test();
    });
}

/// Whether a test that cannot run here has to fail: with `CI=true` or `LAB_REQUIRED=1` in the environment.
pub fn must_not_skip() -> bool {
    let set = |name: &str, to: &str| std::env::var(name).is_ok_and(|value| value == to);
    set("CI", "true") || set("LAB_REQUIRED", "1")
}
