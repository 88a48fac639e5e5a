//! `check`: from the command line to the report on standard output.

use std::path::Path;
use std::time::Duration;

use probe_analysis::{Evidence, analyse};
use probe_net::clock;
use probe_protocol::finding::Severity;
use probe_protocol::target::Target;

use super::args::CheckArgs;
use super::exit::Exit;
use super::output::{self, Failure, say};
use super::progress::Progress;
use super::{key, signals};
use crate::check::{Measured, Order, Prepared, prepare};
use crate::driver::Stop;
use crate::plan::check_load::DEFAULT_RATE;
use crate::plan::{Depth, Plan};
use crate::record::{About, Clocks, Existing, Recorder, Resolution};
use crate::report::{Origin, Report, build, json, redact};

/// What a check takes on disk, at most: minutes of probes with every nanosecond.
const CHECK_ROOM: u64 = 4 << 20;
/// Compression of what is handed in: the middle of zlib's scale.
const COMPRESSION: u8 = 6;

pub(super) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let target =
        if args.local { None } else { Some(key::target(args.target.as_deref(), args.key_file.as_deref())?) };
    let depth = match (args.quick, args.full) {
        (true, _) => Depth::Quick,
        (false, true) => Depth::Full,
        (false, false) => Depth::Normal,
    };
    let stop = Stop::default();
    signals::watch(stop.clone());

    let load_bps = (!args.no_load).then(|| args.rate.unwrap_or(DEFAULT_RATE));
    let prepared = prepare(Order { target, depth, load_bps, stop: stop.clone() })?;
    let port = prepared.target().port;
    let recorder = args.out.as_deref().map(|path| record(path, args, &prepared)).transpose()?;
    announce(prepared.target(), prepared.plan());
    let progress = &mut Progress::new(prepared.plan().duration());
    let evidence = &mut Evidence::default();
    let measured = prepared.run(&mut |observation, phase| {
        let observation = match &recorder {
            Some(recorder) => recorder.record(observation),
            None => observation,
        };
        progress.see(&observation, phase);
        evidence.observe(&observation);
        for event in recorder.iter().flat_map(Recorder::events) {
            evidence.observe(&event);
        }
    });
    progress.finish();
    let mut measured = measured?;
    if stop.is_at_once() {
        measured.finish();
        return Err(Failure::Stopped);
    }
    let origin =
        Origin { id: measured.session().map(|id| id.to_string()), kind: "check", port, quick: args.quick };
    let report = build(analyse(evidence), origin);
    // The file holds addresses in any case.
    if let Some(recorder) = recorder
        && let Err(error) = recorder.finish(Some(json::compact(&report)?))
    {
        say(&format!("The end of the run could not be recorded: {error}"));
    }
    let report = if args.redact { redact::redact(&report)? } else { report };
    output::show(&report, args.json)?;
    if !args.no_hand_in && !args.local {
        hand_in(&mut measured, &report)?;
    }
    measured.finish();
    Ok(Exit::of(&report, Severity::from(args.fail_on)))
}

/// Gives the verdict of a key holder to the listener.
pub(super) fn hand_in(measured: &mut Measured, report: &Report) -> Result<(), Failure> {
    if report.run.authenticated != Some(true) {
        return Ok(());
    }
    let document = miniz_oxide::deflate::compress_to_vec_zlib(json::compact(report)?.as_bytes(), COMPRESSION);
    if !measured.hand_in(&document, &mut |_, _| {}) {
        say("The verdict could not be handed to the listener; send this report to the admin instead.");
    }
    Ok(())
}

/// What will happen, before it does.
fn announce(target: &Target, plan: &Plan) {
    let without = if target.invite.is_some() { "" } else { " Without an invite: the short check." };
    let load = plan.load.as_ref().map_or_else(String::new, |load| {
        format!(
            " It loads the path with at most {} (--rate; --no-load leaves it out).",
            rate(load.peak_bps())
        )
    });
    say(&format!(
        "Checking {target}: takes up to {}, and moves up to {} in all.{load}{without}",
        length(plan.duration()),
        megabytes(plan.bytes())
    ));
}

fn length(duration: Duration) -> String {
    match duration.as_secs_f64().ceil() as u64 {
        s if s < 120 => format!("{s} seconds"),
        s => format!("{} minutes", s.div_ceil(60)),
    }
}

fn rate(bps: u64) -> String {
    format!("{} Mbit/s", bps as f64 / 1e6)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Creates the file before anything is measured.
fn record(path: &Path, args: &CheckArgs, prepared: &Prepared) -> Result<Recorder, Failure> {
    let about = About {
        kind: "check".to_owned(),
        id: prepared.session().map(|id| id.to_string()),
        port: prepared.target().port,
        target: prepared.target().to_string(),
        quick: args.quick,
        resolution: Resolution::Nanosecond,
    };
    let sample = clock::sample();
    let now = Clocks { at: sample.boot, wall: sample.wall };
    let existing = if args.force { Existing::Overwrite } else { Existing::Refuse };
    Ok(Recorder::create(path, &about, now, CHECK_ROOM, existing)?)
}
