//! The real binary on loopback.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use common::{PATIENCE, hello, open_stream, open_udp};
use probe_net::clock;
use probe_protocol::control::{EndRequest, HandInRequest, Reply, Request};
use probe_protocol::target::Target;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, HelloKeys, Refusal};
use serde_json::Value;

fn command(args: &[&str], state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_probe-server"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PROBE_")) {
        command.env_remove(name);
    }
    command.args(args).env("PROBE_STATE_DIR", state).env("PROBE_NO_DOCTOR", "true");
    command
}

fn output(args: &[&str], state: &Path) -> Output {
    command(args, state).output().unwrap()
}

fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(text.lines().count(), 1, "{text:?} is not one line");
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// A listener; killed when dropped.
struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    listening: Value,
}

impl Server {
    fn start(args: &[&str], state: &Path) -> Self {
        let mut all = vec!["serve", "--bind", "127.0.0.1", "--json"];
        if !args.contains(&"--port") {
            all.extend_from_slice(&["--port", "0"]);
        }
        all.extend_from_slice(args);
        let mut child = command(&all, state).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        lines.read_line(&mut first).unwrap();
        let listening: Value = serde_json::from_str(&first).unwrap();
        assert_eq!(listening["event"], "listening");
        Self { child, lines, listening }
    }

    fn addr(&self, protocol: &str) -> SocketAddr {
        self.listening[protocol][0].as_str().unwrap().parse().unwrap()
    }

    fn keys(&self) -> HelloKeys {
        let target: Target = self.listening["invite"].as_str().unwrap().parse().unwrap();
        HelloKeys::of_invite(&target.invite.unwrap().key)
    }

    fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addr("tcp")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// The next event of this name.
    fn event(&mut self, name: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "ended before {name}");
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == name {
                return event;
            }
        }
    }

    #[cfg(unix)]
    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_is_announced_takes_traffic_and_events_follow() {
    let state = tempfile::tempdir().unwrap();
    let mut server = Server::start(&[], state.path());
    assert_eq!(server.listening["fingerprint"].as_str().unwrap().len(), 64);
    let mut udp =
        open_udp(server.addr("udp"), server.keys(), hello(1, 1, Carrier::Udp, Dress::Random)).unwrap();
    udp.probe(0, 64);
    let opened = server.event("session-opened");
    assert_eq!(opened["session"], "01010101");
    assert_eq!(opened["carrier"], "udp");
    let mut tcp =
        open_stream(server.tcp(), server.keys(), &hello(1, 2, Carrier::Tcp, Dress::Random)).unwrap();
    tcp.probe(0, 64);

    // The verdict is handed in, listed and shown; what a stranger wrote cannot steer the terminal.
    let document = br#"{"schema_version":1,"verdict":{"clean":false,"summary":"UDP is \u001b[2Jblocked"},
        "reachability":{"udp":"blocked"},"findings":[{"cause":"udp-blocked","severity":"blocking","direction":"up","fix":"open it"}]}"#;
    let packed = miniz_oxide::deflate::compress_to_vec_zlib(document, 6);
    let request = Request::HandIn(HandInRequest { total: packed.len() as u32, offset: 0, chunk: packed });
    let Reply::HandIn(reply) = tcp.ask(1, &request) else { panic!("not taken") };
    assert!(reply.kept);
    let result = server.event("result-received");
    let id = result["id"].as_str().unwrap();
    let list = output(&["results"], state.path());
    let text = String::from_utf8(list.stdout).unwrap();
    assert!(text.contains(id) && text.contains("UDP is \u{fffd}[2Jblocked"), "{text}");
    let shown = String::from_utf8(output(&["results", "show", id], state.path()).stdout).unwrap();
    assert!(shown.contains("udp-blocked (blocking, up)") && !shown.contains('\u{1b}'), "{shown}");
    let shown = output(&["results", "show", id, "--json"], state.path()).stdout;
    assert_eq!(serde_json::from_slice::<Value>(&shown).unwrap()["reachability"]["udp"], "blocked");
    assert!(matches!(tcp.ask(2, &Request::End(EndRequest {})), Reply::End(_)));
    assert_eq!(server.event("session-closed")["reason"], "ended");
}

#[cfg(unix)]
#[test]
fn a_signal_ends_it_in_order_and_its_state_goes_on() {
    let state = tempfile::tempdir().unwrap();
    let mut server = Server::start(&[], state.path());
    let mut flow =
        open_udp(server.addr("udp"), server.keys(), hello(1, 1, Carrier::Udp, Dress::Random)).unwrap();
    flow.probe(0, 64);
    assert_eq!(flow.accept.epoch, 1);
    let (invite, fingerprint) = (server.listening["invite"].clone(), server.listening["fingerprint"].clone());
    server.signal("-TERM");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let port = server.addr("udp").port();
    let again = Server::start(&["--port", &port.to_string()], state.path());
    let secret = |v: &Value| v.as_str().unwrap().split_once('#').unwrap().1.to_owned();
    assert_eq!(secret(&again.listening["invite"]), secret(&invite));
    assert_eq!(again.listening["fingerprint"], fingerprint);
    // The old flow is told that the listener restarted.
    let record = common::probe_record(&mut flow.keys, &flow.accept, 1, 64, 0);
    flow.send(&record);
    let mut reply = flow.recv();
    assert_eq!(flow.keys.open(&mut reply).unwrap().kind, probe_protocol::wire::Kind::Stale);
}

#[test]
fn a_second_listener_says_who_has_the_port_or_the_state() {
    let state = tempfile::tempdir().unwrap();
    let other_state = tempfile::tempdir().unwrap();
    let server = Server::start(&[], state.path());
    let port = server.addr("udp").port().to_string();
    let same_state = output(&["--bind", "127.0.0.1", "--port", "0"], state.path());
    assert_eq!(same_state.status.code(), Some(3));
    let line = one_line(&same_state.stderr);
    assert!(line.contains("another probe-server") && line.contains(&server.child.id().to_string()), "{line}");
    let same_port = output(&["--bind", "127.0.0.1", "--port", &port], other_state.path());
    assert_eq!(same_port.status.code(), Some(3));
    let line = one_line(&same_port.stderr);
    assert!(line.contains("is taken"), "{line}");
    if cfg!(target_os = "linux") {
        assert!(line.contains("another listener, probe-server"), "{line}");
    }
    assert!(same_port.stdout.is_empty());
}

#[test]
fn invites_are_made_listed_and_taken_back_while_the_listener_runs() {
    let state = tempfile::tempdir().unwrap();
    let mut server = Server::start(&[], state.path());
    let made = output(&["invite", "--for", "7d", "--public", "example.org:9000"], state.path());
    let url = one_line(&made.stdout);
    let target: Target = url.trim().parse().unwrap();
    assert_eq!((target.host.as_str(), target.port), ("example.org", 9000));
    let invite = target.invite.unwrap();
    assert!(invite.expires_minute.is_some());
    let listed = String::from_utf8(output(&["invite", "--list"], state.path()).stdout).unwrap();
    assert!(listed.contains(&invite.label()) && listed.lines().count() == 3, "{listed}");
    let keys = || HelloKeys::of_invite(&invite.key);
    // The listener looks at its invites about once a second; an unknown one is answered by nobody.
    let opens = |nonce: u64| {
        let mut stream = TcpStream::connect(server.addr("tcp")).unwrap();
        let wire = common::hello_bytes(&mut keys(), &hello(1, nonce, Carrier::Tcp, Dress::Random), true);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&wire).unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 160];
        while answer.len() < 160 {
            match stream.read(&mut buffer) {
                Ok(n @ 1..) => answer.extend_from_slice(&buffer[..n]),
                _ => return None,
            }
        }
        Some(common::read_answer(&mut keys(), Dress::Random, &mut answer))
    };
    let nonce = std::cell::Cell::new(0);
    let until = |wanted: &dyn Fn(&Option<common::Answer>) -> bool| {
        let pause = std::time::Duration::from_millis(50);
        for _ in 0..PATIENCE.as_millis() / pause.as_millis() {
            nonce.set(nonce.get() + 1);
            if wanted(&opens(nonce.get())) {
                return;
            }
            std::thread::sleep(pause);
        }
        panic!("the listener does not see the change");
    };
    until(&|answer| matches!(answer, Some(common::Answer::Accept(_))));
    assert_eq!(output(&["invite", "--revoke", &invite.label()], state.path()).status.code(), Some(0));
    until(
        &|answer| matches!(answer, Some(common::Answer::Refuse(refuse)) if refuse.reason == Some(Refusal::InviteRevoked)),
    );
    assert_eq!(server.event("refused")["reason"], "invite-revoked");
}

#[test]
fn wrong_flags_and_damaged_state_are_one_line_each() {
    let state = tempfile::tempdir().unwrap();
    for args in [
        &["--nonsense"][..],
        &["--port", "70000"],
        &["--allow", "nowhere"],
        &["--max-rate", "fast"],
        &["invite", "--for", "soon"],
        &["invite", "--revoke", "nobody"],
        &["results", "show", "nothing"],
        &["results", "show", "../secret"],
        &["--cert", "/nonexistent.pem", "--key-pem", "/nonexistent.pem"],
    ] {
        let output = output(args, state.path());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        one_line(&output.stderr);
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    std::fs::write(state.path().join("invites.json"), "{").unwrap();
    let damaged = output(&["--bind", "127.0.0.1", "--port", "0"], state.path());
    assert_eq!(damaged.status.code(), Some(2));
    assert!(one_line(&damaged.stderr).contains("invites.json is damaged"));
    assert_eq!(std::fs::read_to_string(state.path().join("invites.json")).unwrap(), "{");
    let foreign = output(&["--bind", "203.0.113.77", "--port", "0"], tempfile::tempdir().unwrap().path());
    assert_eq!(foreign.status.code(), Some(3));
    assert!(one_line(&foreign.stderr).contains("not an address of this host"));
}

#[test]
fn metrics_and_health_are_served() {
    let state = tempfile::tempdir().unwrap();
    let server = Server::start(&["--metrics", "127.0.0.1:0"], state.path());
    let addr: SocketAddr = server.listening["metrics"].as_str().unwrap().parse().unwrap();
    let get = |path: &str| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let mut flow =
        open_udp(server.addr("udp"), server.keys(), hello(1, 1, Carrier::Udp, Dress::Zero)).unwrap();
    flow.probe(0, 64);
    // The packet thread counts a batch once its replies have left, so the client may be a little ahead of the count.
    let given_up = clock::now() + PATIENCE;
    let wanted =
        ["probe_server_sessions 1", "probe_server_udp_echoes_total 1", "probe_server_challenges_total 1"];
    loop {
        let metrics = get("/metrics");
        let missing: Vec<_> = wanted.iter().filter(|line| !metrics.contains(**line)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(clock::now() < given_up, "{missing:?} not in {metrics}");
    }
    assert!(get("/healthz").ends_with("ok\n"));
    assert!(get("/else").starts_with("HTTP/1.1 404"));
}

#[test]
fn help_and_version_go_to_standard_output() {
    let state = tempfile::tempdir().unwrap();
    for args in [&["--help"][..], &["--version"], &["invite", "--help"]] {
        let output = output(args, state.path());
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stderr.is_empty() && !output.stdout.is_empty());
    }
}
