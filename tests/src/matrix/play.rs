//! A scenario of the lab, played in the simulated network.

use std::time::Duration;

use probe_analysis::observation::Observation;
use probe_analysis::{Evidence, analyse};
use probe_client::cli::Exit;
use probe_client::plan::check_load::DEFAULT_RATE;
use probe_client::plan::rehearse::{RehearseOptions, Ways};
use probe_client::plan::{Depth, Plan, SoakOptions};
use probe_client::report::{self, Origin, build, json};
use probe_protocol::finding::Severity;

use crate::rules::units::{BitRate, Span};
use crate::scenario::judge::{Judgement, Report};
use crate::scenario::{self, Event, ListenerKind, Network, PlanKind, Scenario};
use crate::sim::{Fault, Listening, Setup, SimError, World, setup};

/// Of runs up to this length the truth of every probe is kept, and held against what is believed of it.
const JUDGED_UP_TO: Duration = Duration::from_secs(2 * 3600);

/// Why a scenario was not played.
#[derive(Debug, thiserror::Error)]
pub enum NotPlayed {
    /// It is for another network.
    #[error("it is not for this network")]
    OtherNetwork,
    /// Its plan does not exist yet, or has no network to run in.
    #[error("there is no plan for `{0}` to simulate yet")]
    NoPlan(&'static str),
    /// An argument of its plan is not as the command would have it.
    #[error("`{0}` is followed by what it does not take")]
    Argument(&'static str),
    /// The simulation failed.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// The report could not be written or read.
    #[error("the report is not as the contract says: {0}")]
    Report(#[from] serde_json::Error),
    /// What its report says could not be written down.
    #[error("its report cannot be written: {0}")]
    Written(std::io::Error),
    /// The real-kernel lab failed.
    #[error("the real-kernel lab failed: {0}")]
    Kernel(String),
}

/// How a scenario went.
#[derive(Debug)]
pub struct Played {
    /// Whether what was said is what had to be said.
    pub judgement: Judgement,
    /// What was said, as far as it is judged.
    pub report: Report,
    /// The whole report, as a user gets it.
    pub whole: report::Report,
    /// Simulated time that it took.
    pub took: Duration,
}

/// Plays a scenario.
///
/// # Errors
/// A [`NotPlayed`].
pub fn play(scenario: &Scenario, seed: u64) -> Result<Played, NotPlayed> {
    play_and_see(scenario, seed, &mut |_| {})
}

/// Plays a scenario, and tells every observation.
///
/// # Errors
/// A [`NotPlayed`].
pub fn play_and_see(
    scenario: &Scenario,
    seed: u64,
    see: &mut dyn FnMut(&Observation),
) -> Result<Played, NotPlayed> {
    if !scenario.runs_in(Network::Simulated) {
        return Err(NotPlayed::OtherNetwork);
    }
    let setup = setup_of(scenario, seed)?;
    let port = setup::target(&setup.topology).port();
    let (mut evidence, mut probes) = (Evidence::default(), Vec::new());
    let judged = setup.keep_truth;
    let ran = World::new(setup)?.run(None, &mut |observation| {
        evidence.observe(&observation);
        see(&observation);
        if let Observation::Probe(probe) = observation
            && judged
        {
            probes.push(probe);
        }
    })?;
    let quick = scenario.plan.arguments.iter().any(|a| a == "--quick");
    let kind = match scenario.plan.kind {
        PlanKind::Check => "check",
        PlanKind::Soak => "soak",
        PlanKind::Rehearse => "rehearse",
        PlanKind::Doctor => "doctor",
    };
    let whole = build(analyse(&evidence), Origin { id: None, kind, port, quick });
    let status = i32::from(Exit::of(&whole, Severity::Degraded).status());
    let report: Report = serde_json::from_str(&json::compact(&whole)?)?;
    let mut judgement = scenario.expect.judge(&report, Some(status));
    let (said, count) = ran.truth.contradictions(&probes, 1);
    judgement.wrong.extend(said.first().map(|said| format!("{count} probes contradict the truth: {said}")));
    Ok(Played { judgement, report, whole, took: ran.took })
}

/// The setup that a scenario describes.
///
/// # Errors
/// [`NotPlayed::NoPlan`].
pub fn setup_of(scenario: &Scenario, seed: u64) -> Result<Setup, NotPlayed> {
    let plan = &scenario.plan;
    let targets = [setup::target(&scenario.topology)];
    let has = |flag: &str| plan.arguments.iter().any(|a| a == flag);
    let depth = match (has("--quick"), has("--full")) {
        (true, _) => Depth::Quick,
        (false, true) => Depth::Full,
        (false, false) => Depth::Normal,
    };
    let laid = match plan.kind {
        PlanKind::Check => {
            let load = (!has("--no-load")).then_some(rate(plan)?.unwrap_or(DEFAULT_RATE));
            Plan::check_with_load(&targets, plan.invited, depth, load)
        }
        PlanKind::Soak => {
            let defaults = SoakOptions::default();
            let length = Some(plan.length.map_or(Duration::from_secs(60), |length| length.0));
            let fresh_every = span(plan, "--fresh-every")?;
            let options = SoakOptions { length, invited: plan.invited, fresh_every, ..defaults };
            Plan::soak(&targets, &options)
        }
        PlanKind::Rehearse => {
            let length = plan.length.map_or(Duration::from_secs(60), |length| length.0);
            let rate = rate(plan)?.ok_or(NotPlayed::Argument("--rate"))?;
            let ways = match argument(plan, "--direction") {
                Some("up") => Ways::Up,
                Some("down") => Ways::Down,
                Some("both") | None => Ways::Both,
                Some(_) => return Err(NotPlayed::Argument("--direction")),
            };
            let options = RehearseOptions { ways, ..RehearseOptions::new(rate, length) };
            let [to] = targets;
            Plan::rehearse(to, &options)
        }
        PlanKind::Doctor => return Err(NotPlayed::NoPlan("doctor")),
    };
    let listening = match scenario.listener.kind {
        ListenerKind::ProbeServer => Listening::ProbeServer,
        ListenerKind::Nothing => Listening::Nothing,
        ListenerKind::WebServer => Listening::WebServer,
    };
    Ok(Setup {
        rules: scenario.rule.clone(),
        invited: plan.invited,
        listening,
        faults: scenario.event.iter().map(fault).collect(),
        keep_truth: laid.duration() <= JUDGED_UP_TO,
        ..Setup::of(seed, scenario.topology.clone(), laid)
    })
}

/// What follows a flag.
fn argument<'a>(plan: &'a scenario::Plan, flag: &str) -> Option<&'a str> {
    let at = plan.arguments.iter().position(|a| a == flag)?;
    plan.arguments.get(at + 1).map(String::as_str)
}

fn span(plan: &scenario::Plan, flag: &'static str) -> Result<Option<Duration>, NotPlayed> {
    let Some(text) = argument(plan, flag) else { return Ok(None) };
    text.parse::<Span>().map(|span| Some(span.0)).map_err(|_| NotPlayed::Argument(flag))
}

fn rate(plan: &scenario::Plan) -> Result<Option<u64>, NotPlayed> {
    let Some(text) = argument(plan, "--rate") else { return Ok(None) };
    text.parse::<BitRate>().map(|rate| Some(rate.0)).map_err(|_| NotPlayed::Argument("--rate"))
}

fn fault(event: &Event) -> Fault {
    match event {
        Event::RestartListener { at, gap } => Fault::RestartListener { at: at.0, gap: gap.0 },
        Event::StallListener { at, length } => Fault::StallListener { at: at.0, length: length.0 },
        Event::StallClient { at, length } => Fault::StallClient { at: at.0, length: length.0 },
        Event::ForgetMappings { at } => Fault::ForgetMappings { at: at.0 },
        Event::SuspendClient { at, length } => Fault::SuspendClient { at: at.0, length: length.0 },
        Event::StepClock { at, by_s } => Fault::SetClientClock { at: at.0, by_ns: (by_s * 1e9) as i64 },
        Event::LoseWay { at, length, another } => {
            Fault::LoseWay { at: at.0, length: length.0, another: *another }
        }
        Event::FilterClient { protocol } => Fault::FilterClient { protocol: *protocol },
        Event::CrossTraffic { at, length, rate, size } => {
            Fault::CrossTraffic { at: at.0, length: length.0, rate_bps: rate.0, size: *size }
        }
    }
}
