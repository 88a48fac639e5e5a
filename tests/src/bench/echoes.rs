//! How many echoes one core answers.
//!
//! The server has one core, a generator the other. Two figures are told for each server: echoes per second as the
//! generator counted them (valid replies alone), and the server's CPU time per echo. Where the generator, rather than
//! the server, is what limits, or where other programs take part of the core, the second one is the truer. On
//! loopback the kernel delivers a datagram within the call that sends it, so the delivery of replies is in the
//! server's CPU time, and that of requests is in the generator's, for all servers alike.

use std::path::Path;
use std::time::Duration;

use super::load::{Load, Server, Shape, Tally};
use super::process::{Listener, Program, pin, unpin};
use super::{BenchError, Bound, CLIENT_CORE, Effort, Row, SERVER_CORE, tools};

/// Payloads, bytes.
const SIZES: [usize; 2] = [64, 1200];
const WARM_UP: Duration = Duration::from_millis(150);

/// How the flows take turns.
struct Mix {
    name: &'static str,
    flows: usize,
    window: usize,
    burst: usize,
    /// Whether DESIGN.md's target is held against it.
    counts: bool,
}

const MIXES: [Mix; 2] = [
    // Eight clients at full rate, each of which sends some datagrams back to back.
    Mix { name: "8 flows, bursts of 16", flows: 8, window: 64, burst: 16, counts: true },
    // The worst case for a server that handles runs together: no two neighbours belong together.
    Mix { name: "64 flows, one datagram in turn", flows: 64, window: 8, burst: 1, counts: false },
];

struct Candidate {
    name: &'static str,
    server: Server,
    program: Program,
    target: f64,
}

/// Measures all servers that there are.
pub fn measure(
    binary: &Path,
    effort: &Effort,
    notes: &mut Vec<String>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Row>, BenchError> {
    let listener = Listener::start(binary, Some(SERVER_CORE), &["--no-doctor"])?;
    let ours = own_server(&listener)?;
    let mut others = Vec::new();
    if tools::installed("irtt") {
        let (program, addr) = tools::irtt_server()?;
        others.push(Candidate { name: "irtt server", server: Server::Irtt(addr), program, target: 3.0 });
    } else {
        notes.push("irtt is not installed: not compared.".to_owned());
    }
    if tools::installed("sockperf") {
        let (program, addr) = tools::sockperf_server()?;
        let server = Server::Sockperf(addr);
        others.push(Candidate { name: "sockperf server", server, program, target: 1.5 });
    } else {
        notes.push("sockperf is not installed: not compared.".to_owned());
    }
    let mut rows = Vec::new();
    for size in SIZES {
        for mix in &MIXES {
            say(&format!("echoes of {size} B, {}", mix.name));
            let shape = Shape { size, flows: mix.flows, window: mix.window, burst: mix.burst };
            let mut turns: Vec<(Tally, Vec<Tally>)> = Vec::new();
            for _ in 0..effort.rounds {
                let mine = turn(ours, shape, &listener.program, effort)?;
                let theirs = others.iter().map(|o| turn(o.server, shape, &o.program, effort));
                turns.push((mine, theirs.collect::<Result<_, _>>()?));
            }
            rows.extend(rows_of(size, mix, &turns, &others));
            note_losses(size, mix, &turns, &others, notes);
        }
    }
    Ok(rows)
}

/// The listener as a load knows it.
pub(super) fn own_server(listener: &Listener) -> Result<Server, BenchError> {
    let addr = listener.target.ip().map(|ip| (ip, listener.target.port).into());
    addr.zip(listener.target.invite)
        .map(|(addr, invite)| Server::Ours(addr, invite))
        .ok_or_else(|| BenchError::Program("probe-server's invite names no address".to_owned()))
}

fn turn(server: Server, shape: Shape, program: &Program, effort: &Effort) -> Result<Tally, BenchError> {
    let mut load = Load::open(server, shape)?;
    pin(CLIENT_CORE);
    let tally = load.run(WARM_UP, effort.echo, || program.cpu());
    unpin();
    if tally.echoes == 0 {
        return Err(BenchError::Program(format!("{server:?} answered nothing")));
    }
    Ok(tally)
}

fn rows_of(size: usize, mix: &Mix, turns: &[(Tally, Vec<Tally>)], others: &[Candidate]) -> Vec<Row> {
    let mut rows = Vec::new();
    let each = |at: usize, value: fn(&Tally) -> f64| -> Vec<(f64, f64)> {
        turns.iter().filter_map(|(mine, theirs)| Some((value(mine), value(theirs.get(at)?)))).collect()
    };
    for (at, other) in others.iter().enumerate() {
        let target = mix.counts.then_some(Bound::AtLeast(other.target));
        let what = format!("echoes/s, one core, {size} B, {}", mix.name);
        rows.extend(Row::pairs(what, "1/s", other.name, &each(at, Tally::per_second), target));
        let what = format!("server CPU per echo, {size} B, {}", mix.name);
        rows.extend(Row::pairs(what, "us", other.name, &each(at, Tally::cpu_us), None));
    }
    if others.is_empty() {
        let alone = |value: fn(&Tally) -> f64| super::Spread::of(turns.iter().map(|(mine, _)| value(mine)));
        let what = format!("{size} B, {}", mix.name);
        rows.extend(
            alone(Tally::per_second)
                .map(|s| Row::alone(format!("echoes/s, one core, {what}"), "1/s", s, None)),
        );
        rows.extend(
            alone(Tally::cpu_us).map(|s| Row::alone(format!("server CPU per echo, {what}"), "us", s, None)),
        );
    }
    rows
}

fn note_losses(
    size: usize,
    mix: &Mix,
    turns: &[(Tally, Vec<Tally>)],
    others: &[Candidate],
    notes: &mut Vec<String>,
) {
    let mut note = |name: &str, tallies: &mut dyn Iterator<Item = &Tally>| {
        let (lost, strange) = tallies.fold((0, 0), |(l, s), t| (l + t.lost, s + t.strange));
        if lost + strange > 0 {
            let mix = mix.name;
            notes.push(format!(
                "{name}, {size} B, {mix}: {lost} requests without a reply, {strange} replies that were not valid."
            ));
        }
    };
    note("probe-server", &mut turns.iter().map(|(mine, _)| mine));
    for (at, other) in others.iter().enumerate() {
        note(other.name, &mut turns.iter().filter_map(|(_, theirs)| theirs.get(at)));
    }
}
