//! A scenario of the lab, played in the simulated network.

use std::time::Duration;

use probe_analysis::observation::Observation;
use probe_analysis::{Evidence, analyse};
use probe_client::cli::Exit;
use probe_client::plan::{Depth, Plan};
use probe_client::report::{Origin, build, json};
use probe_protocol::finding::Severity;

use crate::scenario::judge::{Judgement, Report};
use crate::scenario::{Event, ListenerKind, Network, PlanKind, Scenario};
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
    /// The simulation failed.
    #[error(transparent)]
    Sim(#[from] SimError),
    /// The report could not be written or read.
    #[error("the report is not as the contract says: {0}")]
    Report(#[from] serde_json::Error),
    /// The real-kernel lab failed.
    #[error("the real-kernel lab failed: {0}")]
    Kernel(String),
}

/// How a scenario went.
#[derive(Debug)]
pub struct Played {
    /// Whether what was said is what had to be said.
    pub judgement: Judgement,
    /// What was said.
    pub report: Report,
    /// Simulated time that it took.
    pub took: Duration,
}

/// Plays a scenario.
///
/// # Errors
/// A [`NotPlayed`].
pub fn play(scenario: &Scenario, seed: u64) -> Result<Played, NotPlayed> {
    if !scenario.runs_in(Network::Simulated) {
        return Err(NotPlayed::OtherNetwork);
    }
    let setup = setup_of(scenario, seed)?;
    let port = setup::target(&setup.topology).port();
    let (mut evidence, mut probes) = (Evidence::default(), Vec::new());
    let judged = setup.keep_truth;
    let ran = World::new(setup)?.run(None, &mut |observation| {
        evidence.observe(&observation);
        if let Observation::Probe(probe) = observation
            && judged
        {
            probes.push(probe);
        }
    })?;
    let quick = scenario.plan.arguments.iter().any(|a| a == "--quick");
    let report = build(analyse(&evidence), Origin { id: None, kind: "check", port, quick });
    let status = i32::from(Exit::of(&report, Severity::Degraded).status());
    let report: Report = serde_json::from_str(&json::compact(&report)?)?;
    let mut judgement = scenario.expect.judge(&report, Some(status));
    let (said, count) = ran.truth.contradictions(&probes, 1);
    judgement.wrong.extend(said.first().map(|said| format!("{count} probes contradict the truth: {said}")));
    Ok(Played { judgement, report, took: ran.took })
}

/// The setup that a scenario describes.
///
/// # Errors
/// [`NotPlayed::NoPlan`].
pub fn setup_of(scenario: &Scenario, seed: u64) -> Result<Setup, NotPlayed> {
    let plan = &scenario.plan;
    let targets = [setup::target(&scenario.topology)];
    let quick = plan.arguments.iter().any(|a| a == "--quick");
    let depth = if quick { Depth::Quick } else { Depth::Normal };
    let mut laid = Plan::check(&targets, plan.invited, depth);
    match plan.kind {
        PlanKind::Check => {}
        // Until the plan of `soak` exists, the flows of `check` stand in for it, for so long.
        PlanKind::Soak => laid.measure = plan.length.map_or(Duration::from_secs(60), |length| length.0),
        PlanKind::Rehearse => return Err(NotPlayed::NoPlan("rehearse")),
        PlanKind::Doctor => return Err(NotPlayed::NoPlan("doctor")),
    }
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

fn fault(event: &Event) -> Fault {
    match event {
        Event::RestartListener { at, gap } => Fault::RestartListener { at: at.0, gap: gap.0 },
        Event::StallListener { at, length } => Fault::StallListener { at: at.0, length: length.0 },
        Event::StallClient { at, length } => Fault::StallClient { at: at.0, length: length.0 },
        Event::ForgetMappings { at } => Fault::ForgetMappings { at: at.0 },
        Event::SuspendClient { at, length } => Fault::SuspendClient { at: at.0, length: length.0 },
        Event::StepClock { at, by_s } => Fault::SetClientClock { at: at.0, by_ns: (by_s * 1e9) as i64 },
        Event::FilterClient { protocol } => Fault::FilterClient { protocol: *protocol },
        Event::CrossTraffic { at, length, rate, size } => {
            Fault::CrossTraffic { at: at.0, length: length.0, rate_bps: rate.0, size: *size }
        }
    }
}
