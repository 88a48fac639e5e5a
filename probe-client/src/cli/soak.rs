//! `soak`: hours of measuring, recorded as they go by, so that nothing is lost whatever happens.

use std::time::Duration;

use probe_analysis::observation::Observation;
use probe_analysis::{Evidence, analyse};
use probe_net::clock;
use probe_protocol::finding::Severity;
use probe_protocol::target::Target;

use super::args::SoakArgs;
use super::check::hand_in;
use super::exit::Exit;
use super::output::{self, Failure, say};
use super::{key, signals};
use crate::awake::Awake;
use crate::check::{Order, Prepared, prepare_with};
use crate::driver::Stop;
use crate::plan::{Depth, Plan, SoakOptions};
use crate::record::{About, Clocks, Existing, Recorder, Resolution};
use crate::report::{Origin, build, json, redact};
use crate::tui::{Subject, View};

/// What a probe takes on disk, at most, with all tables.
const BYTES_PER_PROBE: u64 = 6;
/// Room for a run without an end: so long.
const UNENDING: Duration = Duration::from_secs(24 * 3600);
/// Room for everything but probes.
const TABLES: u64 = 4 << 20;

pub(super) fn run(args: &SoakArgs) -> Result<Exit, Failure> {
    let target = key::target(args.target.as_deref(), args.key_file.as_deref())?;
    let stop = Stop::default();
    signals::watch(stop.clone());
    let mut prepared = prepare(args, target, &stop)?;

    let mut evidence = Evidence::default();
    let mut past: Vec<Observation> = Vec::new();
    let recorder = open(args, &prepared, &mut |observation| {
        evidence.observe(observation);
        // What a watcher needs of the past; the probes are in the figures.
        if !matches!(observation, Observation::Probe(_) | Observation::Watch(_)) {
            past.push(observation.clone());
        }
    })?;
    prepared.keep_open_probes(recorder.keeper());
    announce(args, &prepared);
    let awake = if args.allow_sleep { None } else { Awake::hold() };
    say(match (&awake, args.allow_sleep) {
        (Some(_), _) => "This computer is kept from going to sleep meanwhile.",
        (None, true) => "This computer may go to sleep: that is recorded, and not counted as loss.",
        (None, false) => {
            "This computer could not be kept from going to sleep; should it sleep, that is recorded, and not counted as loss."
        }
    });

    let port = prepared.target().port;
    let id = recorder.run_id().map(str::to_owned);
    let length = args.length;
    let subject =
        Subject { target: prepared.target().to_string(), length, file: recorder.watch(), stop: stop.clone() };
    let view = View::start(subject, args.no_tui);
    past.drain(..).for_each(|observation| view.replay(&observation));
    let measured = prepared.run(&mut |observation, phase| {
        let observation = recorder.record(observation);
        evidence.observe(&observation);
        view.see(&observation, phase);
        for event in recorder.events() {
            evidence.observe(&event);
            view.see(&event, phase);
        }
    });
    view.finish();
    let mut measured = measured?;
    if stop.is_at_once() {
        // What was committed is in the file, and whoever waits for a slow disk need not.
        measured.finish();
        return Err(Failure::Stopped);
    }
    let report = build(analyse(&evidence), Origin { id, kind: "soak", port, quick: false });
    match recorder.finish(Some(json::compact(&report)?)) {
        Ok(status) => say(&format!(
            "Recorded in {} ({:.1} MB). `probe-client diagnose` judges it again, `probe-client export` gives it to other programs.",
            args.out.display(),
            status.bytes as f64 / 1e6
        )),
        Err(error) => say(&format!(
            "The end of the run could not be recorded ({error}); what was written before is whole, and --resume goes on with it."
        )),
    }
    drop(awake);
    let report = if args.redact { redact::redact(&report)? } else { report };
    output::show(&report, args.json)?;
    if !args.no_hand_in {
        hand_in(&mut measured, &report)?;
    }
    measured.finish();
    Ok(Exit::of(&report, Severity::from(args.fail_on)))
}

fn prepare(args: &SoakArgs, target: Target, stop: &Stop) -> Result<Prepared, Failure> {
    let order = Order { target: Some(target), depth: Depth::Normal, load_bps: None, stop: stop.clone() };
    let plan = |addresses: &[std::net::SocketAddr], invited: bool| {
        Plan::soak(addresses, &SoakOptions { invited, ..options(args) })
    };
    Ok(prepare_with(order, &plan)?)
}

/// The file, before anything is measured; what it holds already is told to `see`.
fn open(
    args: &SoakArgs,
    prepared: &Prepared,
    see: &mut dyn FnMut(&Observation),
) -> Result<Recorder, Failure> {
    let about = About {
        kind: "soak".to_owned(),
        id: prepared.session().map(|id| id.to_string()),
        port: prepared.target().port,
        target: prepared.target().to_string(),
        quick: false,
        resolution: Resolution::Microsecond,
    };
    let sample = clock::sample();
    let now = Clocks { at: sample.boot, wall: sample.wall };
    let need = room(args);
    if args.resume && args.out.exists() {
        return Ok(Recorder::resume(&args.out, &about, "soak", now, need, see)?);
    }
    let existing = if args.force { Existing::Overwrite } else { Existing::Refuse };
    Ok(Recorder::create(&args.out, &about, now, need, existing)?)
}

fn options(args: &SoakArgs) -> SoakOptions {
    SoakOptions {
        length: args.length,
        invited: true,
        fresh_every: args.fresh_every,
        per_class: args.per_class,
        probes_per_second: args.probes_per_second,
        experiments: !args.no_experiments,
    }
}

/// Bytes that the file will take.
fn room(args: &SoakArgs) -> u64 {
    let seconds = args.length.unwrap_or(UNENDING).as_secs();
    // Fresh flows and their like come on top of the long-lived ones.
    let fresh = 25 * 5 / options(args).time_between_fresh().as_secs().max(1) / 2 + 10;
    seconds.saturating_mul(u64::from(args.probes_per_second) + fresh).saturating_mul(BYTES_PER_PROBE) + TABLES
}

/// What will happen, before it does.
fn announce(args: &SoakArgs, prepared: &Prepared) {
    let target = prepared.target();
    let plan = prepared.plan();
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let without =
        if target.invite.is_some() { "" } else { " Without an invite the listener allows few flows." };
    let file = args.out.display();
    match args.length {
        Some(length) => say(&format!(
            "Soaking {target} for {}: moves up to {} in all, and records up to {} in {file}.{without}",
            long(length),
            megabytes(plan.bytes()),
            megabytes(room(args))
        )),
        None => say(&format!(
            "Soaking {target} until Ctrl-C: moves up to {} an hour, and records up to {} a day in {file}.{without}",
            megabytes(plan.bytes()),
            megabytes(room(args))
        )),
    }
    say("The first Ctrl-C ends it in order and writes everything; the second stops at once.");
}

/// `12 h`, `90 s`, `1 h 30 min`.
fn long(length: Duration) -> String {
    let s = length.as_secs();
    let parts = [(s / 3600, "h"), (s / 60 % 60, "min"), (s % 60, "s")];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n} {unit}")).collect();
    parts.join(" ")
}
