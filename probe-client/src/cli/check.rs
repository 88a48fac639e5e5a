//! `check`: from the command line to the report on standard output.

use std::time::Duration;

use probe_analysis::{Evidence, analyse};
use probe_protocol::finding::Severity;
use probe_protocol::target::Target;

use super::args::CheckArgs;
use super::exit::Exit;
use super::output::{self, Failure, say};
use super::progress::Progress;
use super::{key, signals};
use crate::check::{Order, prepare};
use crate::driver::Stop;
use crate::plan::check_load::DEFAULT_RATE;
use crate::plan::{Depth, Plan};
use crate::report::{Origin, Report, build, json, redact, text};

/// Compression of what is handed in: the middle of zlib's scale.
const COMPRESSION: u8 = 6;

pub(super) fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    if args.out.is_some() {
        return Err(Failure::NotInThisVersion("check --out"));
    }
    if args.full {
        return Err(Failure::NotInThisVersion("check --full"));
    }
    let target =
        if args.local { None } else { Some(key::target(args.target.as_deref(), args.key_file.as_deref())?) };
    let depth = if args.quick { Depth::Quick } else { Depth::Normal };
    let stop = Stop::default();
    signals::watch(stop.clone());

    let load_bps = (!args.no_load).then(|| args.rate.unwrap_or(DEFAULT_RATE));
    let prepared = prepare(Order { target, depth, load_bps, stop: stop.clone() })?;
    let port = prepared.target().port;
    announce(prepared.target(), prepared.plan());
    let progress = &mut Progress::new(prepared.plan().duration());
    let evidence = &mut Evidence::default();
    let measured = prepared.run(&mut |observation, phase| {
        progress.see(&observation, phase);
        evidence.observe(&observation);
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
    let report = if args.redact { redact::redact(&report)? } else { report };

    show(&report, args.json)?;
    if report.run.authenticated == Some(true) && !args.no_hand_in && !args.local {
        let document =
            miniz_oxide::deflate::compress_to_vec_zlib(json::compact(&report)?.as_bytes(), COMPRESSION);
        if !measured.hand_in(&document, &mut |_, _| {}) {
            say("The verdict could not be handed to the listener; send this report to the admin instead.");
        }
    }
    measured.finish();
    Ok(Exit::of(&report, Severity::from(args.fail_on)))
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

fn show(report: &Report, as_json: bool) -> Result<(), Failure> {
    if as_json {
        output::data(&json::render(report)?)
    } else {
        output::data(&text::render(report, output::look()))
    }
}
