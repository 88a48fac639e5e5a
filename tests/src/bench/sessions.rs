//! Ten thousand sessions on one listener, each with a probe a second, from a thousand addresses of 127.0.0.0/8.
//!
//! "Lost in the listener" is what the generator sent and the listener, by its own counters, did not answer: that holds
//! datagrams that its socket's buffer had no room for. What the generator's own sockets had no room for is told beside.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket as StdSocket};
use std::path::Path;
use std::time::Duration;

use probe_net::clock;
use probe_net::udp::{MAX_BATCH, RecvBatch, UdpOptions, UdpSocket};
use probe_net::wait::{Interest, Poller, Ready};
use probe_protocol::invite::Invite;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::{Hello, HelloKeys};
use rand::rngs::OsRng;
use rand::{RngCore, TryRngCore};

use super::load::Server;
use super::ours::{self, Answer, Flow};
use super::process::Listener;
use super::{BenchError, Bound, Effort, Row, Spread, echoes, tools};

const SOURCES: usize = 1000;
const SIZE: usize = 64;
const EVERY: Duration = Duration::from_secs(1);
/// Hellos sent at once, and how long an answer may take.
const OPEN_AT_ONCE: usize = 64;
const OPEN_AGAIN: Duration = Duration::from_millis(500);
const OPEN_WITHIN: Duration = Duration::from_secs(60);
/// What is due is sent this often.
const STEP: Duration = Duration::from_millis(1);
/// The last replies may take so long.
const DRAIN: Duration = Duration::from_secs(2);

struct Source {
    socket: UdpSocket,
    /// Which sessions it carries, by position: session `i` belongs to source `i % SOURCES`.
    to: SocketAddr,
}

/// Runs them.
pub fn measure(
    binary: &Path,
    effort: &Effort,
    notes: &mut Vec<String>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Row>, BenchError> {
    let count = effort.session_count;
    say(&format!("{count} sessions on one listener"));
    raise_descriptors();
    let metrics = SocketAddr::from(([127, 0, 0, 1], tools::free_port()?));
    let arguments = ["--no-doctor", "--max-sessions", &count.to_string(), "--metrics", &metrics.to_string()];
    let listener = Listener::start(binary, None, &arguments)?;
    let Server::Ours(to, invite) = echoes::own_server(&listener)? else { return Ok(Vec::new()) };
    let sources = (0..SOURCES).map(|n| source(n, to)).collect::<Result<Vec<_>, _>>()?;
    let poller = Poller::new().map_err(BenchError::during("waiting for sockets"))?;
    for (n, source) in (0..).zip(&sources) {
        poller.add(&source.socket, n, Interest::READ).map_err(BenchError::during("waiting for sockets"))?;
    }
    let mut flows = open_all(&sources, &poller, &invite, count)?;
    let before = counters(metrics)?;
    let ran = run(&sources, &poller, &mut flows, effort.sessions)?;
    let after = counters(metrics)?;
    let grown = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
    let lost = ran.sent.saturating_sub(grown("probe_server_udp_echoes_total"));
    let failures = grown("probe_server_send_failures_total");
    notes.push(format!(
        "{count} sessions: {} probes sent, {} answered by the listener's counters, {} verified echoes back, {failures} \
         replies that its system did not take, {} sessions held.",
        ran.sent,
        grown("probe_server_udp_echoes_total"),
        ran.echoes,
        after.get("probe_server_sessions").unwrap_or(&0),
    ));
    let one = |value: f64| Spread { min: value, median: value, max: value };
    let mut rows = vec![Row::alone(
        format!("{count} sessions at 1/s: probes lost in the listener"),
        "",
        one((lost + failures) as f64),
        Some(Bound::AtMost(0.0)),
    )];
    if let Some(peak) = listener.program.status("VmHWM") {
        let what = format!("{count} sessions at 1/s: resident at most");
        rows.push(Row::alone(what, "MB", one(peak as f64 / 1e6), Some(Bound::AtMost(100.0))));
    }
    Ok(rows)
}

fn raise_descriptors() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it is not granted, opening the sockets says so.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn source(n: usize, to: SocketAddr) -> Result<Source, BenchError> {
    let system = |error| BenchError::System { what: "opening a socket of the thousand sources", error };
    let address = Ipv4Addr::new(127, 1, (n / 250) as u8, (n % 250 + 1) as u8);
    let socket = StdSocket::bind((address, 0)).map_err(system)?;
    let mut options = UdpOptions::new(to);
    options.timestamps = false;
    Ok(Source { socket: UdpSocket::adopt(socket, &options).map_err(system)?, to })
}

impl Source {
    fn send(&self, bytes: &[u8]) -> bool {
        self.socket.send_to(bytes, self.to, None, None, None).is_ok()
    }
}

/// A session that is not open yet.
struct Opening {
    hello: Hello,
    again: Timestamp,
}

/// Opens all sessions, a bounded number at the same time.
fn open_all(
    sources: &[Source],
    poller: &Poller,
    invite: &Invite,
    count: usize,
) -> Result<Vec<Flow>, BenchError> {
    let mut keys = HelloKeys::of_invite(&invite.key);
    let mut waiting: Vec<usize> = (0..count).rev().collect();
    // One at a time per source, so that an answer needs no name.
    let mut busy: HashMap<usize, (usize, Opening)> = HashMap::new();
    let mut flows: Vec<Option<Flow>> = (0..count).map(|_| None).collect();
    let mut open = 0;
    let (mut ready, mut batch) = (Ready::new(), RecvBatch::new(MAX_BATCH, 2048));
    let give_up = clock::now() + OPEN_WITHIN;
    while open < count {
        let now = clock::now();
        if now > give_up {
            return Err(BenchError::Program(format!("only {open} of {count} sessions opened in time")));
        }
        while busy.len() < OPEN_AT_ONCE.min(sources.len()) {
            let Some(session) = waiting.pop_if(|next| !busy.contains_key(&(*next % sources.len()))) else {
                break;
            };
            let mut id = [0; 16];
            OsRng.unwrap_err().fill_bytes(&mut id);
            let hello = ours::hello(id, session as u64, SIZE);
            busy.insert(session % sources.len(), (session, Opening { hello, again: Timestamp::ZERO }));
        }
        for (source, (_, opening)) in &mut busy {
            if opening.again <= now {
                opening.again = now + OPEN_AGAIN;
                sources[*source].send(&ours::seal_hello(&mut keys, &opening.hello));
            }
        }
        poller
            .wait(&mut ready, now + Duration::from_millis(50))
            .map_err(BenchError::during("waiting for answers"))?;
        for event in ready.events() {
            let at = event.token as usize;
            if sources[at].socket.recv(&mut batch).is_err() {
                continue;
            }
            for datagram in batch.datagrams() {
                match ours::read_answer(&mut keys, datagram.bytes) {
                    Answer::Challenge(challenge) => {
                        if let Some((_, opening)) = busy.get_mut(&at) {
                            opening.hello.cookie = challenge.cookie;
                            opening.again = Timestamp::ZERO;
                        }
                    }
                    Answer::Accept(accept) => {
                        if let Some((session, _)) = busy.remove(&at) {
                            flows[session] = Some(Flow::new(&accept));
                            open += 1;
                        }
                    }
                    Answer::Other => {
                        return Err(BenchError::Program(format!(
                            "the listener refused session number {open}"
                        )));
                    }
                }
            }
        }
    }
    Ok(flows.into_iter().flatten().collect())
}

struct Ran {
    sent: u64,
    echoes: u64,
}

/// A probe a second on each, evenly spread.
fn run(sources: &[Source], poller: &Poller, flows: &mut [Flow], length: Duration) -> Result<Ran, BenchError> {
    let count = flows.len() as u64;
    let mut by_id: HashMap<[u8; 8], usize> = flows.iter().enumerate().map(|(n, f)| (f.id(), n)).collect();
    by_id.shrink_to_fit();
    let begun = clock::now();
    let total = count * length.as_secs() / EVERY.as_secs();
    let gap = EVERY / flows.len().max(1) as u32;
    let (mut sent, mut taken, mut echoes) = (0, 0, 0);
    let (mut ready, mut batch) = (Ready::new(), RecvBatch::new(MAX_BATCH, 2048));
    let mut wire = [0; SIZE];
    let end = begun + length + DRAIN;
    while clock::now() < end && (sent < total || echoes < taken) {
        let due = (clock::now().since(begun).as_nanos() / gap.as_nanos().max(1)) as u64;
        while sent < total.min(due) {
            let at = (sent % count) as usize;
            flows[at].write_probe(&mut wire);
            taken += u64::from(sources[at % sources.len()].send(&wire));
            sent += 1;
        }
        poller.wait(&mut ready, clock::now() + STEP).map_err(BenchError::during("waiting for echoes"))?;
        for event in ready.events() {
            if sources[event.token as usize].socket.recv(&mut batch).is_err() {
                continue;
            }
            for datagram in batch.datagrams() {
                let id: Option<[u8; 8]> = datagram.bytes.first_chunk().copied();
                let flow = id.and_then(|id| by_id.get(&id)).and_then(|&at| flows.get_mut(at));
                echoes += u64::from(flow.is_some_and(|flow| flow.read_echo(datagram.bytes).is_some()));
            }
        }
    }
    Ok(Ran { sent: taken, echoes })
}

/// The listener's counters.
fn counters(metrics: SocketAddr) -> Result<HashMap<String, u64>, BenchError> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(metrics)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(BenchError::during("asking for the listener's counters"))?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    Ok(lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}
