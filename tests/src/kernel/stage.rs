//! A scenario set up in the real-kernel lab: the network, and what listens in it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Binaries, Host, Lab, LabError};
use crate::scenario::{ListenerKind, Scenario};

/// How long a listener may take to say that it listens.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Why a scenario could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The network could not.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The listener could not be started.
    #[error("cannot start the listener: {0}")]
    Listener(io::Error),
    /// It started and said something else than that it listens.
    #[error("the listener does not listen: {0}")]
    NotListening(String),
    /// The program under test could not be run.
    #[error("cannot run the plan: {0}")]
    Program(io::Error),
    /// The program under test did not end.
    #[error("the plan still ran after {0:?}")]
    Hangs(Duration),
}

/// What a listener says about itself in its first line (CONTRACT.md, "JSON").
#[derive(Clone, Debug, Default, serde::Deserialize)]
pub struct Listening {
    /// How clients reach it, with its key; its host's own name for itself.
    #[serde(default)]
    pub invite: String,
    /// Its certificate's fingerprint.
    #[serde(default)]
    pub fingerprint: String,
}

/// A running `probe-server`.
pub struct Server {
    child: Child,
    /// What it said about itself.
    pub listening: Listening,
}

impl Server {
    /// Starts one on a host, its state in `state`, and waits until it listens.
    pub fn start(
        host: &Host,
        program: &Path,
        state: &Path,
        arguments: &[String],
    ) -> Result<Self, StageError> {
        let mut command = host.command(program);
        command.arg("--json").arg("--state-dir").arg(state).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(StageError::Listener)?;
        match first_line(&mut child) {
            Ok(line) => {
                let told: Told =
                    serde_json::from_str(&line).map_err(|_| StageError::NotListening(line.clone()))?;
                if told.event != "listening" {
                    return Err(StageError::NotListening(line));
                }
                Ok(Self { child, listening: told.listening })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(StageError::NotListening(error))
            }
        }
    }

    /// The invite, with the address by which clients reach it.
    pub fn invite(&self, target: SocketAddr) -> String {
        match self.listening.invite.split_once("/#") {
            Some((_, secret)) => format!("probe://{target}/#{secret}"),
            None => target.to_string(),
        }
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(serde::Deserialize)]
struct Told {
    event: String,
    #[serde(flatten)]
    listening: Listening,
}

/// The first line that a child prints. A thread goes on reading the rest, so that the child never waits for it.
fn first_line(child: &mut Child) -> Result<String, String> {
    let output = child.stdout.take().ok_or("its output is not ours to read")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines();
        if let Some(Ok(line)) = lines.next() {
            let _ = sender.send(line);
        }
        lines.for_each(drop);
    });
    receiver.recv_timeout(START_WITHIN).map_err(|_| "it ended or said nothing".into())
}

/// A scenario's network with what listens in it.
pub struct Stage {
    /// The network.
    pub lab: Lab,
    /// The listener, where it is ours.
    pub server: Option<Server>,
    own: Option<OwnServer>,
}

/// What it takes to start our listener again.
struct OwnServer {
    program: PathBuf,
    arguments: Vec<String>,
    state: tempfile::TempDir,
}

impl Stage {
    /// Sets a scenario up.
    pub fn set(scenario: &Scenario, seed: u64, binaries: &Binaries) -> Result<Self, StageError> {
        Self::set_with_log(scenario, seed, binaries, None)
    }

    /// The same, with a file that gets one line of JSON per packet touched.
    pub fn set_with_log(
        scenario: &Scenario,
        seed: u64,
        binaries: &Binaries,
        log: Option<std::fs::File>,
    ) -> Result<Self, StageError> {
        let lab = Lab::start_with_log(&scenario.topology, &scenario.rule, seed, log)?;
        let mut stage = Self { lab, server: None, own: None };
        match scenario.listener.kind {
            ListenerKind::ProbeServer => {
                let (program, arguments) = (binaries.server.clone(), scenario.listener.arguments.clone());
                let state = tempfile::tempdir().map_err(StageError::Listener)?;
                stage.own = Some(OwnServer { program, arguments, state });
                stage.start_server()?;
            }
            ListenerKind::WebServer => serve_web(stage.lab.server()).map_err(StageError::Listener)?,
            ListenerKind::Nothing => {}
        }
        Ok(stage)
    }

    /// Ends our listener, where there is one.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// Starts our listener, with the state that an earlier one left.
    pub fn start_server(&mut self) -> Result<(), StageError> {
        self.server = None;
        if let Some(OwnServer { program, arguments, state }) = &self.own {
            self.server = Some(Server::start(self.lab.server(), program, state.path(), arguments)?);
        }
        Ok(())
    }

    /// Where the client finds the listener over IPv4.
    pub fn target(&self) -> SocketAddr {
        self.lab.target(probe_protocol::DEFAULT_PORT)
    }

    /// What a client is given: the invite, or the bare address where there is none.
    pub fn invite(&self) -> String {
        let target = self.target();
        self.server.as_ref().map_or_else(|| target.to_string(), |server| server.invite(target))
    }

    /// A command on the client's host, with `LAB_TARGET`, `LAB_TARGET_V6` and `LAB_INVITE` in its environment.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.equip(self.lab.client().command(program))
    }

    /// The same, in a process namespace of its own: whatever it starts dies with it.
    pub fn contained_command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.equip(self.lab.client().contained_command(program))
    }

    fn equip(&self, mut command: Command) -> Command {
        command.env("LAB_TARGET", self.target().to_string()).env("LAB_INVITE", self.invite());
        if let Some(target) = self.lab.target_v6(probe_protocol::DEFAULT_PORT) {
            command.env("LAB_TARGET_V6", target.to_string());
        }
        command
    }
}

/// An ordinary web server on the listener's port: it answers every request, knows nothing of us, and ends with the
/// last connection after its host is gone.
fn serve_web(host: &Host) -> io::Result<()> {
    let listener = host.run(|| TcpListener::bind(("::", probe_protocol::DEFAULT_PORT)))??;
    std::thread::Builder::new().name("web server".into()).spawn(move || {
        for connection in listener.incoming().flatten() {
            std::thread::spawn(move || answer_web(connection));
        }
    })?;
    Ok(())
}

fn answer_web(mut connection: TcpStream) {
    const PAGE: &str = "<!DOCTYPE html><title>Welcome</title><h1>It works!</h1>";
    let _ = connection.set_read_timeout(Some(Duration::from_secs(30)));
    let mut request = Vec::new();
    let mut byte = [0];
    while request.len() < 8192 && !request.ends_with(b"\r\n\r\n") {
        match connection.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            Ok(_) | Err(_) => return,
        }
        // What is no HTTP is answered as web servers do: with an error in HTTP.
        if request.len() == 4 && !request.iter().all(|b| b.is_ascii_uppercase() || *b == b' ' || *b == b'/') {
            let _ =
                connection.write_all(b"HTTP/1.1 400 Bad Request\r\nServer: web\r\nConnection: close\r\n\r\n");
            return;
        }
    }
    let length = PAGE.len();
    let _ = write!(
        connection,
        "HTTP/1.1 200 OK\r\nServer: web\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{PAGE}"
    );
}
