//! Keeps the machine from going to sleep while a long run goes on, where the system allows it.
//!
//! Linux: `systemd-inhibit`; macOS: `caffeinate`; Windows: `SetThreadExecutionState`. The helping program ends with us,
//! however we end: it waits on a pipe that the system closes.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long the system may take to agree.
const PATIENCE: Duration = Duration::from_secs(3);
/// What the helper prints once the machine is held.
const HELD: &str = "held";

/// The machine stays awake as long as this lives.
#[derive(Debug)]
pub struct Awake {
    helper: Option<(Child, Option<ChildStdin>)>,
}

impl Awake {
    /// Asks the system; none where it does not agree.
    pub fn hold() -> Option<Self> {
        if cfg!(windows) {
            return probe_net::power::stay_awake(true).then_some(Self { helper: None });
        }
        let mut command = if cfg!(target_os = "macos") {
            let mut command = Command::new("caffeinate");
            command.args(["-i", "-m"]);
            command
        } else {
            let mut command = Command::new("systemd-inhibit");
            command.args([
                "--what=sleep:idle",
                "--who=probe-client",
                "--why=A soak is being measured",
                "--mode=block",
            ]);
            command
        };
        // Says so once it runs, and ends when its input does.
        command.args(["sh", "-c", &format!("echo {HELD}; exec cat >/dev/null")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        #[cfg(unix)]
        {
            // Ctrl-C is for us: the machine is still held while the last answers come in.
            use std::os::unix::process::CommandExt;
            command.process_group(0);
        }
        let mut child = command.spawn().ok()?;
        let input = child.stdin.take();
        let output = child.stdout.take()?;
        let (said, says) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(output).read_line(&mut line);
            // Whoever asked may have given up.
            let _ = said.send(read.is_ok() && line.trim() == HELD);
        });
        let held = Self { helper: Some((child, input)) };
        says.recv_timeout(PATIENCE).unwrap_or(false).then_some(held)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        match &mut self.helper {
            Some((child, input)) => {
                drop(input.take());
                // It ends by itself with its input; where it does not, it is told to.
                let _ = child.kill();
                let _ = child.wait();
            }
            None => {
                probe_net::power::stay_awake(false);
            }
        }
    }
}
