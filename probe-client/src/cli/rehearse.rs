//! `rehearse`: the transfer product's own traffic, for as long as asked for.

use probe_analysis::{Evidence, analyse};
use probe_net::clock;
use probe_protocol::finding::Severity;

use super::args::{RehearseArgs, WaysArg};
use super::exit::Exit;
use super::output::{self, Failure, say};
use super::progress::Progress;
use super::{key, signals};
use crate::check::{Order, Prepared, prepare_with};
use crate::driver::Stop;
use crate::plan::rehearse::{RehearseOptions, Ways};
use crate::plan::{Depth, Plan};
use crate::record::{About, Clocks, Existing, Recorder, Resolution};
use crate::report::{Origin, build, json, redact};

/// What a rehearsal takes on disk, at most, before the recorder must have asked for more.
const ROOM: u64 = 16 << 20;

pub(super) fn run(args: &RehearseArgs) -> Result<Exit, Failure> {
    let target =
        if args.local { None } else { Some(key::target(args.target.as_deref(), args.key_file.as_deref())?) };
    if target.as_ref().is_some_and(|t| t.invite.is_none()) {
        return Err(Failure::NeedsInvite);
    }
    let ways = match args.direction {
        WaysArg::Up => Ways::Up,
        WaysArg::Down => Ways::Down,
        WaysArg::Both => Ways::Both,
    };
    let options = RehearseOptions { rate_bps: args.rate, length: args.length, ways, size: args.size };
    let stop = Stop::default();
    signals::watch(stop.clone());
    let order = Order { target, depth: Depth::Normal, load_bps: Some(args.rate), stop: stop.clone() };
    let prepared = prepare_with(order, &|addresses, _| match addresses.first() {
        Some(to) => Plan::rehearse(*to, &options),
        None => Plan::default(),
    })?;
    let port = prepared.target().port;
    let recorder = args.out.as_deref().map(|path| record(path, args, &prepared)).transpose()?;
    say(&format!(
        "Rehearsing towards {}: {} Mbit/s of UDP {} for {} s, {:.1} MB in all.",
        prepared.target(),
        options.rate_bps as f64 / 1e6,
        match ways {
            Ways::Up => "up",
            Ways::Down => "down",
            Ways::Both => "each way",
        },
        options.length.as_secs(),
        prepared.plan().bytes() as f64 / 1e6
    ));
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
    let measured = measured?;
    if stop.is_at_once() {
        measured.finish();
        return Err(Failure::Stopped);
    }
    let id = measured.session().map(|id| id.to_string());
    let origin = Origin { id, kind: "rehearse", port, quick: false };
    let report = build(analyse(evidence), origin);
    let report = if args.redact { redact::redact(&report)? } else { report };
    output::show(&report, args.json)?;
    if let Some(recorder) = recorder
        && let Err(error) = recorder.finish(Some(json::compact(&report)?))
    {
        say(&format!("The end of the run could not be recorded: {error}"));
    }
    measured.finish();
    Ok(Exit::of(&report, Severity::from(args.fail_on)))
}

/// Creates the file before anything is measured.
fn record(path: &std::path::Path, args: &RehearseArgs, prepared: &Prepared) -> Result<Recorder, Failure> {
    let about = About {
        kind: "rehearse".to_owned(),
        id: prepared.session().map(|id| id.to_string()),
        port: prepared.target().port,
        target: prepared.target().to_string(),
        quick: false,
        resolution: Resolution::Nanosecond,
    };
    let sample = clock::sample();
    let now = Clocks { at: sample.boot, wall: sample.wall };
    let existing = if args.force { Existing::Overwrite } else { Existing::Refuse };
    Ok(Recorder::create(path, &about, now, ROOM, existing)?)
}
