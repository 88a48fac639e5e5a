//! The round trip's floor on loopback, idle and under a saturated CPU, and how exactly probes leave.
//!
//! Ours are taken by the client's own engine and driver, from its observations: "as the wire saw it" is from the
//! sending call to the kernel's stamp of the reply, without the time that the listener had the probe. irtt's are its
//! client's JSON: its `rtt`, from which it takes the server's processing time too. Client and server have a core each.
//!
//! The send-time error is how far from its slot a probe was handed to the system; both leave out slots that they miss,
//! and each of those counts as an error of one interval. irtt does not write its slots down: each of its sends is given
//! the nearest one of those that suit all of its sends best, so that an error of more than half an interval is not seen.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use probe_analysis::observation::{Observation, Purpose};
use probe_client::driver::{Driver, Stop, Surroundings};
use probe_client::engine::{Engine, Identity, Start};
use probe_client::plan::{FlowSpec, Plan};
use probe_net::clock;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::{Carrier, SessionId};
use rand::rngs::OsRng;
use rand::{RngCore, TryRngCore};
use serde_json::Value;

use super::figures::quantile;
use super::process::{Listener, pin, unpin};
use super::{BenchError, Bound, CLIENT_CORE, Effort, Row, SERVER_CORE, Spread, tools};

const SIZE: u16 = 64;
/// A hundred probes a second.
const CALM: Duration = Duration::from_millis(10);
/// A thousand.
const FAST: Duration = Duration::from_millis(1);
/// Programs that want each core beside client and server.
const BURNERS_PER_CORE: usize = 2;

/// What one turn showed; all in microseconds.
#[derive(Debug, Default)]
struct Turn {
    /// Round trips as the wire saw them.
    wire: Vec<f64>,
    /// Round trips as the program saw them.
    app: Vec<f64>,
    /// Distance of each send from its slot.
    send_error: Vec<f64>,
    /// Distance of the time between two sends from that between their slots.
    step_error: Vec<f64>,
    /// Slots without a send.
    missed: u64,
}

impl Turn {
    fn p(values: &[f64], q: f64) -> f64 {
        quantile(&mut values.to_vec(), q).unwrap_or(f64::NAN)
    }
}

/// Measures both sides, in turns.
pub fn measure(
    binary: &Path,
    effort: &Effort,
    notes: &mut Vec<String>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Row>, BenchError> {
    let listener = Listener::start(binary, Some(SERVER_CORE), &["--no-doctor"])?;
    let irtt = if tools::installed("irtt") { Some(tools::irtt_server()?) } else { None };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .map_err(BenchError::during("starting a runtime"))?;
    let mut rows = Vec::new();
    let turns = |interval: Duration, saturated: bool| -> Result<(Vec<Turn>, Vec<Turn>), BenchError> {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let burners = saturated.then(Burners::start);
            ours.push(our_turn(&listener, &runtime, interval, effort.delay)?);
            if let Some((_, addr)) = &irtt {
                theirs.push(irtt_turn(&addr.to_string(), interval, effort.delay)?);
            }
            drop(burners);
        }
        Ok((ours, theirs))
    };

    say("round trips at 100/s");
    let (ours, theirs) = turns(CALM, false)?;
    let wire = |turn: &Turn| Turn::p(&turn.wire, 0.5);
    let app = |turn: &Turn| Turn::p(&turn.app, 0.5);
    rows.extend(row("round trip p50 at 100/s, as the wire saw it", &ours, &theirs, wire, Bound::AtMost(0.5)));
    let seen = Spread::of(ours.iter().map(app));
    rows.extend(
        seen.map(|s| Row::alone("the same, as the program saw it, listener's time included", "us", s, None)),
    );

    say("round trips at 100/s under a saturated CPU");
    let (ours, theirs) = turns(CALM, true)?;
    let p99 = |turn: &Turn| Turn::p(&turn.wire, 0.99);
    let what = "round trip p99 at 100/s, every core wanted by 2 more programs";
    rows.extend(row(what, &ours, &theirs, p99, Bound::AtMost(0.05)));

    say("send times at 1 ms");
    let (ours, theirs) = turns(FAST, false)?;
    let p99 = |turn: &Turn| Turn::p(&turn.send_error, 0.99);
    let p50 = |turn: &Turn| Turn::p(&turn.send_error, 0.5);
    rows.extend(row("send-time error p99 at 1 ms", &ours, &theirs, p99, Bound::AtMost(0.2)));
    let steps = |turn: &Turn| Turn::p(&turn.step_error, 0.99);
    let what = "error of the time between two sends, p99 at 1 ms";
    let beside = row(what, &ours, &theirs, steps, Bound::AtMost(0.2));
    rows.extend(beside.map(|row| Row { target: None, ..row }));
    rows.extend(
        Spread::of(ours.iter().map(p50)).map(|s| Row::alone("send-time error p50 at 1 ms", "us", s, None)),
    );
    for (name, turns) in [("the pair", &ours), ("irtt", &theirs)] {
        let missed: u64 = turns.iter().map(|turn| turn.missed).sum();
        let slots: usize = turns.iter().map(|turn| turn.send_error.len()).sum();
        if slots > 0 {
            notes.push(format!("At 1 ms {name} missed {missed} of {slots} slots."));
        }
    }
    if irtt.is_none() {
        notes.push("irtt is not installed: delays and send times are told without a ratio.".to_owned());
    }
    Ok(rows)
}

fn row(
    what: &str,
    ours: &[Turn],
    theirs: &[Turn],
    value: impl Fn(&Turn) -> f64,
    target: Bound,
) -> Option<Row> {
    if theirs.is_empty() {
        return Some(Row::alone(what, "us", Spread::of(ours.iter().map(value))?, None));
    }
    let pairs: Vec<(f64, f64)> = ours.iter().zip(theirs).map(|(o, t)| (value(o), value(t))).collect();
    Row::pairs(what, "us", "irtt client", &pairs, Some(target))
}

/// Threads that do nothing but want a core.
struct Burners(Arc<AtomicBool>, Vec<std::thread::JoinHandle<()>>);

impl Burners {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..BURNERS_PER_CORE * 2).map(|n| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                pin(if n % 2 == 0 { SERVER_CORE } else { CLIENT_CORE });
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        });
        let threads = threads.collect();
        Self(stop, threads)
    }
}

impl Drop for Burners {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        for thread in self.1.drain(..) {
            // It does nothing that could fail.
            let _ = thread.join();
        }
    }
}

/// One flow through the client's engine and driver.
fn our_turn(
    listener: &Listener,
    runtime: &tokio::runtime::Runtime,
    interval: Duration,
    length: Duration,
) -> Result<Turn, BenchError> {
    let nowhere = || BenchError::Program("probe-server's invite names no address".to_owned());
    let to = (listener.target.ip().ok_or_else(nowhere)?, listener.target.port).into();
    let spec = FlowSpec {
        size: SIZE,
        interval,
        ..FlowSpec::new("udp/bench", Carrier::Udp, Dress::Random, Purpose::Steady, to)
    };
    let plan = Plan {
        flows: vec![spec],
        open_gap: Duration::from_millis(10),
        reach: Duration::from_millis(300),
        measure: length,
        drain: Duration::from_millis(300),
        settle: Duration::from_secs(2),
        ..Plan::default()
    };
    let mut session = [0; 16];
    OsRng.unwrap_err().fill_bytes(&mut session);
    let identity =
        Identity { session: SessionId(session), invite: listener.target.invite, software: [0, 1, 0] };
    let sample = clock::sample();
    let start = Start {
        at: sample.boot,
        wall: sample.wall,
        target: listener.target.to_string(),
        local: false,
        interface_mtu: None,
        seed: OsRng.unwrap_err().next_u64(),
        first_flow: 0,
    };
    let around = Surroundings { runtime: runtime.handle().clone(), server_name: None, stop: Stop::default() };
    let mut driver = Driver::new(Engine::new(plan, identity, start), around, interval)
        .map_err(BenchError::during("starting the client"))?;
    let mut turn = Turn::default();
    let us = |d: Duration| d.as_nanos() as f64 / 1e3;
    let mut sent = Vec::new();
    pin(CLIENT_CORE);
    let ran = driver.run(&mut |observation, _| {
        if let Observation::Probe(probe) = &observation {
            turn.send_error.push(us(probe.sent.since(probe.scheduled)));
            let slot = us(probe.scheduled.since(sample.boot)) / us(interval);
            sent.push((slot, us(probe.sent.since(sample.boot))));
            if let Some(reply) = &probe.reply {
                turn.app.push(us(reply.at.since(probe.sent)));
                if let Some(kernel) = reply.kernel {
                    turn.wire.push(us(kernel.since(probe.sent).saturating_sub(reply.dwell)));
                }
            }
        } else if let Observation::Missed(missed) = &observation {
            turn.missed += missed.count;
            let error = us(interval);
            turn.send_error.extend((0..missed.count).map(|_| error));
        }
    });
    unpin();
    ran.map_err(BenchError::during("running the client"))?;
    driver.finish();
    sent.sort_by(|a, b| a.0.total_cmp(&b.0));
    turn.step_error = steps(&sent, us(interval));
    if turn.wire.is_empty() {
        return Err(BenchError::Program(
            "no probe of the client came back with a kernel timestamp".to_owned(),
        ));
    }
    Ok(turn)
}

/// The same with irtt's client.
fn irtt_turn(to: &str, interval: Duration, length: Duration) -> Result<Turn, BenchError> {
    let folder = tempfile::tempdir().map_err(BenchError::during("making a folder"))?;
    let file = folder.path().join("irtt.json");
    let mut command = Command::new("irtt");
    command
        .args(["client", "-Q", "-l", &SIZE.to_string(), "--wait=300ms"])
        .args([
            "-i",
            &format!("{}us", interval.as_micros()),
            "-d",
            &format!("{}ms", length.as_millis()),
            "-o",
        ])
        .arg(&file)
        .arg(to)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    pin(CLIENT_CORE);
    let status = command.status();
    unpin();
    let status = status.map_err(BenchError::during("starting irtt's client"))?;
    if !status.success() {
        return Err(BenchError::Program(format!("irtt's client failed: {status}")));
    }
    let text = std::fs::read(&file).map_err(BenchError::during("reading what irtt's client wrote"))?;
    let document: Value = serde_json::from_slice(&text)
        .map_err(|error| BenchError::Program(format!("irtt's client wrote no JSON: {error}")))?;
    let trips = document["round_trips"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut turn = Turn::default();
    turn.wire.extend(trips.iter().filter_map(|trip| Some(trip["delay"]["rtt"].as_f64()? / 1e3)));
    let sent = trips
        .iter()
        .filter_map(|trip| Some(trip["timestamps"]["client"]["send"]["monotonic"].as_f64()? / 1e3));
    let interval = interval.as_nanos() as f64 / 1e3;
    let sent = slots(&sent.collect::<Vec<_>>(), interval);
    (turn.send_error, turn.missed) = distances(&sent, interval);
    turn.step_error = steps(&sent, interval);
    if turn.wire.is_empty() {
        return Err(BenchError::Program("irtt's client had no reply".to_owned()));
    }
    Ok(turn)
}

/// Sends with the slots that they are nearest to, in units of slots and microseconds; the slots lie where they suit the
/// sends best.
fn slots(sent: &[f64], interval: f64) -> Vec<(f64, f64)> {
    let Some(first) = sent.first().copied() else { return Vec::new() };
    let residual = |at: f64, start: f64| at - start - ((at - start) / interval).round() * interval;
    let mut start = first;
    for _ in 0..3 {
        let mut residuals: Vec<f64> = sent.iter().map(|at| residual(*at, start)).collect();
        start += quantile(&mut residuals, 0.5).unwrap_or(0.0);
    }
    sent.iter().map(|at| (((at - start) / interval).round(), at - start)).collect()
}

/// How far each send is from its slot; a slot without a send counts as an error of one interval. Also answers how many
/// of those there were.
fn distances(slots: &[(f64, f64)], interval: f64) -> (Vec<f64>, u64) {
    let mut errors: Vec<f64> = slots.iter().map(|(slot, at)| (at - slot * interval).abs()).collect();
    let missed: f64 = slots.windows(2).map(|w| (w[1].0 - w[0].0 - 1.0).max(0.0)).sum();
    errors.extend((0..missed as u64).map(|_| interval));
    (errors, missed as u64)
}

/// How far the time between two sends is from that between their slots.
fn steps(sent: &[(f64, f64)], interval: f64) -> Vec<f64> {
    sent.windows(2).map(|w| ((w[1].1 - w[0].1) - (w[1].0 - w[0].0) * interval).abs()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_laid_where_they_suit_the_sends_best_and_one_that_is_missed_counts() {
        // Every 1000 us, the fifth 200 us late, and the seventh slot left out.
        let sent: Vec<f64> = [0, 1, 2, 3, 4, 5, 7, 8, 9]
            .map(|n| f64::from(n) * 1000.0 + if n == 4 { 270.0 } else { 70.0 })
            .to_vec();
        let slots = slots(&sent, 1000.0);
        let (mut errors, missed) = distances(&slots, 1000.0);
        assert_eq!((errors.len(), missed), (10, 1));
        assert_eq!(quantile(&mut errors, 0.8), Some(0.0));
        assert_eq!(quantile(&mut errors, 0.9), Some(200.0));
        assert_eq!(quantile(&mut errors, 1.0), Some(1000.0));
        let steps = steps(&slots, 1000.0);
        assert_eq!(steps.iter().filter(|s| **s == 200.0).count(), 2, "{steps:?}");
        assert_eq!(steps.iter().filter(|s| **s == 0.0).count(), 6, "{steps:?}");
    }
}
