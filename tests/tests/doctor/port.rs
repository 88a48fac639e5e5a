//! A port that another program holds.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use probe_protocol::cause::Cause;
use probe_server::doctor::State;

use crate::commands::examine;
use crate::lab::{Netns, PORT, can};

/// Not a test: the program that holds the port, when this binary is started so by the test below.
#[test]
#[ignore = "the other program of a_port_held_by_another_program_is_named"]
fn holder() {
    let Ok(kind) = std::env::var("DOCTOR_HOLDER") else { return };
    let tcp = (kind != "udp").then(|| std::net::TcpListener::bind(("0.0.0.0", PORT)).unwrap());
    let udp = (kind != "tcp").then(|| std::net::UdpSocket::bind(("::", PORT)).unwrap());
    println!("\nholding");
    std::io::stdout().flush().unwrap();
    // Until the test closes its end.
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).unwrap();
    drop((tcp, udp));
}

/// Another program, under a name of its own, that holds the port.
struct Held {
    child: Child,
    /// What it goes on to print must find a reader.
    _out: std::io::Lines<BufReader<std::process::ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Held {
    fn new(host: &Netns, name: &str, kind: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(name);
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut child = host.run(|| {
            Command::new(&program)
                .args(["--exact", "port::holder", "--ignored", "--nocapture"])
                .env("DOCTOR_HOLDER", kind)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(out.by_ref().map_while(Result::ok).any(|line| line == "holding"), "the holder came up");
        Self { child, _out: out, _folder: folder }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}

#[test]
fn a_port_held_by_another_program_is_named() {
    if !can("a_port_held_by_another_program_is_named", &["ip"]) {
        return;
    }
    let host = Netns::new();
    let free = examine(&host);
    assert_eq!(free.check("port").unwrap().state, State::Ok, "{}", free.text());
    for (name, kind, protocols, word) in [
        ("squatter", "tcp", "tcp", None),
        ("jetstream", "udp", "udp", Some("the very product")),
        ("both", "both", "tcp+udp", None),
    ] {
        let held = Held::new(&host, name, kind);
        let report = examine(&host);
        let check = report.check("port").unwrap();
        assert_eq!(check.state, State::Problem, "{name}");
        assert_eq!(word.is_some_and(|word| check.says.contains(word)), word.is_some(), "{}", check.says);
        let found = report.findings.iter().find(|finding| finding.cause == Cause::PortInUse).unwrap();
        assert_eq!(found.parameters.program, Some(format!("{name} (pid {})", held.child.id())));
        assert_eq!(found.parameters.kind.as_deref(), Some(protocols));
        drop(held);
    }
    assert_eq!(examine(&host).check("port").unwrap().state, State::Ok, "free again");
}
