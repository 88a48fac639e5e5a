//! How many datagrams one core can echo over loopback: the ceiling of any listener built on this crate.
//!
//! `cargo run --release -p probe-net --example echo_rate [seconds]`
//!
//! The echo thread has core 0 and the load core 1 (Linux; elsewhere wherever the system puts them). Four loops are
//! compared: batches answered in place with runs coalesced, without that, the same with one datagram per batch (what a server with one `recvfrom` and
//! one `sendto` per echo does), and `std` alone. "of busy time" leaves out the time the loop waited for datagrams:
//! where the load cannot saturate it, that is the ceiling.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people at a terminal")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use probe_net::clock;
use probe_net::udp::{MAX_BATCH, RecvBatch, SendBatch, SendOutcome, UdpOptions, UdpSocket};
use probe_net::wait::{Interest, Poller, Ready};
use probe_protocol::time::Timestamp;

/// Datagrams kept on their way.
const WINDOW: usize = 256;

fn main() {
    let seconds: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    println!(
        "{:>10} {:>6} {:>12} {:>12} {:>14} {:>8}",
        "loop", "bytes", "echoes/s", "cpu ns/echo", "of busy time/s", "busy"
    );
    for size in [64, 1_200] {
        for kind in [Kind::Coalesce, Kind::Batch, Kind::Single, Kind::Std] {
            run(kind, size, Duration::from_secs(seconds));
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Coalesce,
    Batch,
    Single,
    Std,
}

#[derive(Default)]
struct Echoed {
    count: u64,
    waited: Duration,
    cpu_ns: Option<u64>,
}

fn open(coalesce: bool) -> UdpSocket {
    let mut options = UdpOptions::new("127.0.0.1:0".parse().unwrap());
    options.coalesce = coalesce;
    options.recv_buffer = Some(4 << 20);
    options.send_buffer = Some(4 << 20);
    UdpSocket::bind(&options).unwrap()
}

fn run(kind: Kind, size: usize, length: Duration) {
    let server = open(matches!(kind, Kind::Coalesce));
    let to = server.local_addr().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let thread = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            pin(0);
            let before = cpu_ns();
            let mut echoed = match kind {
                Kind::Coalesce => echo(&server, MAX_BATCH, &stop, UdpSocket::send_replies_together),
                Kind::Batch => echo(&server, MAX_BATCH, &stop, UdpSocket::send_replies),
                Kind::Single => echo(&server, 1, &stop, UdpSocket::send_replies),
                Kind::Std => echo_std(&stop, size, server),
            };
            echoed.cpu_ns = cpu_ns().zip(before).map(|(after, before)| after - before);
            echoed
        })
    };
    let begun = clock::now();
    let load = std::thread::spawn(move || {
        pin(1);
        load(to, size, begun + length);
    });
    load.join().unwrap();
    let elapsed = clock::now().since(begun);
    stop.store(true, Ordering::Relaxed);
    let echoed = thread.join().unwrap();
    let busy = elapsed.saturating_sub(echoed.waited).as_secs_f64();
    println!(
        "{:>10} {size:>6} {:>12.0} {:>12} {:>14.0} {:>7.0}%",
        format!("{kind:?}").to_lowercase(),
        echoed.count as f64 / elapsed.as_secs_f64(),
        echoed.cpu_ns.map_or("-".to_owned(), |ns| (ns / echoed.count.max(1)).to_string()),
        echoed.count as f64 / busy,
        100.0 * busy / elapsed.as_secs_f64(),
    );
}

fn echo(
    server: &UdpSocket,
    slots: usize,
    stop: &AtomicBool,
    send: fn(&UdpSocket, &mut RecvBatch) -> SendOutcome,
) -> Echoed {
    let mut batch = RecvBatch::new(slots, 2_048);
    let mut idle = Idle::new(server);
    let mut echoed = Echoed::default();
    while !stop.load(Ordering::Relaxed) {
        if server.recv(&mut batch).is_err() {
            echoed.waited += idle.wait();
            continue;
        }
        for datagram in batch.datagrams() {
            let len = datagram.bytes.len();
            datagram.reply(len, 0);
        }
        echoed.count += send(server, &mut batch).sent as u64;
    }
    echoed
}

fn echo_std(stop: &AtomicBool, size: usize, server: UdpSocket) -> Echoed {
    let mut idle = Idle::new(&server);
    let socket = server.into_std();
    let mut bytes = vec![0; size + 1];
    let mut echoed = Echoed::default();
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut bytes) else {
            echoed.waited += idle.wait();
            continue;
        };
        echoed.count += u64::from(socket.send_to(&bytes[..len], from).is_ok());
    }
    echoed
}

struct Idle {
    poller: Poller,
    ready: Ready,
}

impl Idle {
    fn new(server: &UdpSocket) -> Self {
        let poller = Poller::new().unwrap();
        poller.add(server, 0, Interest::READ).unwrap();
        Self { poller, ready: Ready::new() }
    }

    fn wait(&mut self) -> Duration {
        let before = clock::now();
        self.poller.wait(&mut self.ready, before + Duration::from_millis(20)).unwrap();
        clock::now().since(before)
    }
}

fn load(to: SocketAddr, size: usize, until: Timestamp) {
    let client = open(true);
    let mut out = SendBatch::new(MAX_BATCH, size);
    let mut batch = RecvBatch::new(MAX_BATCH, size);
    let mut idle = Idle::new(&client);
    let mut under_way = 0;
    while clock::now() < until {
        while under_way + MAX_BATCH <= WINDOW {
            out.clear();
            while out.push(size, to, |_| ()) {}
            under_way += client.send_batch(&mut out).sent;
        }
        match client.recv(&mut batch) {
            Ok(count) => under_way = under_way.saturating_sub(count),
            // Nothing comes back: what is missing was dropped.
            Err(_) if idle.wait() >= Duration::from_millis(20) => under_way = 0,
            Err(_) => {}
        }
    }
}

#[cfg(target_os = "linux")]
fn pin(core: usize) {
    let mut set = nix::sched::CpuSet::new();
    // With fewer cores than asked for, the thread stays where it is.
    if set.set(core).is_ok() {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
    }
}

#[cfg(not(target_os = "linux"))]
fn pin(_: usize) {}

/// CPU time of this thread so far.
fn cpu_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}
