//! How late a paced send leaves at 1 ms intervals, and what the precision costs.
//!
//! `cargo run --release -p probe-net --example pace_error [seconds]`
//!
//! The error is the time at which the thread is ready to send minus the scheduled time. Deadlines are absolute: an
//! error never adds to the next one.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for people at a terminal")]

use std::time::Duration;

use probe_net::clock;
use probe_net::pace::{Precision, prepare_thread, sleep_until};
use probe_net::wait::{Poller, Ready};

fn main() {
    let seconds: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5);
    println!("{:>24} {:>8} {:>8} {:>8} {:>8} {:>8}", "error in us:", "p50", "p90", "p99", "max", "cpu");
    let poller = Poller::new().unwrap();
    let mut ready = Ready::new();
    measure("default slack, relaxed", seconds, |until| {
        sleep_until(until, Precision::Relaxed);
    });
    prepare_thread();
    measure("relaxed", seconds, |until| {
        sleep_until(until, Precision::Relaxed);
    });
    measure("poller", seconds, |until| poller.wait(&mut ready, until).unwrap());
    measure("precise", seconds, |until| {
        sleep_until(until, Precision::Precise);
    });
}

fn measure(name: &str, seconds: u64, mut sleep: impl FnMut(probe_protocol::time::Timestamp)) {
    let interval = Duration::from_millis(1);
    let slots = seconds * 1_000;
    let mut errors = Vec::with_capacity(slots as usize);
    let cpu = cpu_ns();
    let begun = clock::now();
    for slot in 1..=slots {
        let due = begun + interval * slot as u32;
        sleep(due);
        errors.push(clock::now().since(due));
    }
    let elapsed = clock::now().since(begun);
    let used = cpu_ns().zip(cpu).map(|(after, before)| (after - before) as f64 / elapsed.as_nanos() as f64);
    errors.sort_unstable();
    let at = |share: f64| errors[((errors.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1e3;
    println!(
        "{name:>24} {:>8.1} {:>8.1} {:>8.1} {:>8.1} {:>8}",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        used.map_or("-".to_owned(), |used| format!("{:.1} %", used * 100.0)),
    );
}

/// CPU time of this thread so far.
fn cpu_ns() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
}
