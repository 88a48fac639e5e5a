//! Ten thousand sessions on one listener: a measurement, run by hand on an otherwise idle machine.
//! `cargo test --release -p probe-server --test load -- --ignored --nocapture`
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Answer, hello, hello_bytes, probe_record, read_answer, socket_to};
use probe_protocol::target::Target;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Accept, Carrier, HelloKeys, SessionId};
use probe_protocol::wire::seal::FlowKeys;

const SESSIONS: usize = 10_000;
const ROUNDS: u64 = 10;

fn open(socket: &UdpSocket, keys: &mut HelloKeys, session: u64) -> Accept {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&session.to_be_bytes());
    let mut hello = hello(0, session, Carrier::Udp, Dress::Random);
    hello.session = SessionId(id);
    loop {
        socket.send(&hello_bytes(keys, &hello, false)).unwrap();
        let mut buffer = [0; 500];
        // The listener bounds how many it answers at once, as it does for any client.
        let Ok(n) = socket.recv(&mut buffer) else { continue };
        match read_answer(keys, Dress::Random, &mut buffer[..n]) {
            Answer::Challenge(challenge) => hello.cookie = challenge.cookie,
            Answer::Accept(accept) => return accept,
            Answer::Refuse(refuse) => panic!("{refuse:?}"),
        }
    }
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Killed when dropped.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn counted(listening: &serde_json::Value, name: &str) -> u64 {
    let mut stream = TcpStream::connect(listening["metrics"].as_str().unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find(|l| l.starts_with(&format!("probe_server_{name} "))).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a measurement of half a minute"]
fn ten_thousand_sessions_at_one_probe_a_second_each() {
    let state = tempfile::tempdir().unwrap();
    let mut child = Child(
        Command::new(env!("CARGO_BIN_EXE_probe-server"))
            .args(["--bind", "127.0.0.1", "--port", "0", "--json", "--no-doctor", "--max-sessions", "12000"])
            .args(["--max-sessions-per-source", "12000", "--metrics", "127.0.0.1:0", "--state-dir"])
            .arg(state.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap());
    let mut first = String::new();
    lines.read_line(&mut first).unwrap();
    std::thread::spawn(move || lines.lines().count());
    println!("idle: {} kB resident", resident_kb(child.0.id()));
    let listening: serde_json::Value = serde_json::from_str(&first).unwrap();
    let server: SocketAddr = listening["udp"][0].as_str().unwrap().parse().unwrap();
    let target: Target = listening["invite"].as_str().unwrap().parse().unwrap();
    let key = target.invite.unwrap().key;
    let socket = socket_to(server);
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut keys = HelloKeys::of_invite(&key);
    let accepts: Vec<Accept> = (0..SESSIONS as u64).map(|n| open(&socket, &mut keys, n)).collect();
    println!("{SESSIONS} sessions: {} kB resident", resident_kb(child.0.id()));
    let reader = socket.try_clone().unwrap();
    reader.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let counting = std::thread::spawn(move || {
        let mut buffer = [0; 500];
        (0..).take_while(|_| reader.recv(&mut buffer).is_ok()).count()
    });
    for round in 0..ROUNDS {
        let wires: Vec<_> = accepts
            .iter()
            .map(|accept| probe_record(&mut FlowKeys::new(accept.secret), accept, round, 100, 0))
            .collect();
        for some in wires.chunks(100) {
            for wire in some {
                socket.send(wire).unwrap();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let echoed = counting.join().unwrap();
    let answered = counted(&listening, "udp_echoes_total");
    let sent = SESSIONS as u64 * ROUNDS;
    println!("{sent} sent, {answered} answered by the listener, {echoed} read by this client");
    println!("in the end: {} kB resident", resident_kb(child.0.id()));
    // What this client did not read in time is its own loss.
    assert_eq!(answered, sent);
}
