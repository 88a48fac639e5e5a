//! What a fresh flow gets at the moment at which a long transfer is slowed: the experiment that tells a throttled flow
//! from a slow path.
//!
//! Where a slice of a step that asks for it ([`LoadStep::fresh`]) arrives with a fifth of it missing, a flow with a new
//! source port sends the same for a few seconds, while the old one goes on, and then TCP does. Each is told as a load of its
//! own.

use std::time::Duration;

use probe_analysis::observation::{FlowNo, Load, LoadExperiment, Purpose};
use probe_protocol::bulk::Order;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::dress::Dress;
use probe_protocol::wire::hello::Carrier;

use super::{BEGIN_WITHIN, Counting, LoadRun, Part, SLICE_DRAIN, lock};
use crate::engine::{Action, Engine};
use crate::plan::load::{LoadPart, LoadStep};
use crate::plan::{AfterDeath, FlowSpec, Life, Start};

/// Share of a slice that must be missing.
const MISSING: f64 = 0.2;
/// How long the fresh flow may take to open.
const OPENS_WITHIN: Duration = Duration::from_secs(10);
/// From one fresh flow to the next: a path that is slow for hours is not loaded twice all the time.
const APART: Duration = Duration::from_secs(120);
/// Fresh flows of a run.
const MOST: u32 = 6;

/// The fresh flow under way, and what there was of them.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    now: Option<Trial>,
    made: u32,
    last: Option<Timestamp>,
}

#[derive(Debug)]
struct Trial {
    step: LoadStep,
    spec: LoadPart,
    /// What flow it was to be.
    like: FlowSpec,
    flow: FlowNo,
    /// None until it is asked for.
    part: Option<Part>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Opens(Timestamp),
    Asked(Timestamp),
    Running(Timestamp),
}

impl Fresh {
    /// No fresh flow is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.now.is_none()
    }

    /// The part that the listener is asked about.
    pub(super) fn part_mut(&mut self) -> Option<&mut Part> {
        self.now.as_mut()?.part.as_mut()
    }
}

/// A fifth of what was sent is missing.
fn is_slowed(load: &Load) -> bool {
    let (sent, lost) =
        load.bins.iter().fold((0, 0), |(s, l), bin| (s + u64::from(bin.packets), l + u64::from(bin.lost)));
    sent > 0 && lost as f64 > MISSING * sent as f64
}

impl Engine {
    /// A slice has been told: tries a fresh flow where it was slowed.
    pub(super) fn fresh_wanted(&mut self, now: Timestamp, load: &mut LoadRun, step: &LoadStep, told: &Load) {
        let Some(length) = step.fresh.filter(|_| is_slowed(told)) else { return };
        if !matches!(load.stage, super::Stage::Running(_)) {
            return;
        }
        let soon = load.fresh.last.is_some_and(|at| now.since(at) < APART);
        if load.fresh.now.is_some() || soon || load.fresh.made >= MOST {
            return;
        }
        let Some(old) = self.flow(told.flow) else { return };
        let Some(spec) = step.parts.iter().find(|p| p.flow == old.spec.name).cloned() else { return };
        load.fresh.made += 1;
        load.fresh.last = Some(now);
        let step = LoadStep {
            experiment: LoadExperiment::Fresh,
            parts: vec![spec.clone()],
            length,
            stops_early: false,
            slice: None,
            fresh: None,
            ..step.clone()
        };
        let flow = FlowSpec { name: format!("fresh/{}#{}", spec.flow, load.fresh.made), ..old.spec.clone() };
        load.fresh.now = self.trial(now, step, spec, flow);
    }

    fn trial(&mut self, now: Timestamp, step: LoadStep, spec: LoadPart, like: FlowSpec) -> Option<Trial> {
        let flow = FlowSpec {
            start: Start::Turn,
            life: Life::For(OPENS_WITHIN + step.length + Duration::from_secs(20)),
            death: AfterDeath::Nothing,
            ..like
        };
        let like = flow.clone();
        let flow = self.spawn(now, flow)?;
        Some(Trial { step, spec, like, flow, part: None, stage: Stage::Opens(now + OPENS_WITHIN) })
    }

    /// After the fresh flow the same over TCP: what is slow for UDP alone is told apart from a slow path.
    fn over_tcp(&mut self, now: Timestamp, trial: Trial) -> Option<Trial> {
        let udp = trial.like;
        if udp.carrier != Carrier::Udp {
            return None;
        }
        let flow = FlowSpec {
            name: format!("{}/tcp", udp.name),
            carrier: Carrier::Tcp,
            dress: Dress::Random,
            ..udp
        };
        self.trial(now, trial.step, trial.spec, flow)
    }

    /// Does what is due for the fresh flow.
    pub(super) fn fresh_due(&mut self, now: Timestamp, load: &mut LoadRun) {
        let Some(mut trial) = load.fresh.now.take() else { return };
        let goes_on = match trial.stage {
            Stage::Opens(until) => {
                if !self.ask_for_fresh(now, load, &mut trial) && now >= until {
                    // What lets no fresh flow of datagrams in may let TCP.
                    load.fresh.now = self.over_tcp(now, trial);
                    return;
                }
                true
            }
            Stage::Asked(until) => self.begin_fresh(now, load, &mut trial) || now < until,
            Stage::Running(until) if now < until => true,
            Stage::Running(_) => {
                self.end_fresh(now, load, &trial);
                load.fresh.now = self.over_tcp(now, trial);
                return;
            }
        };
        if goes_on {
            load.fresh.now = Some(trial);
        }
    }

    fn ask_for_fresh(&mut self, now: Timestamp, load: &mut LoadRun, trial: &mut Trial) -> bool {
        let is_open = self.flow(trial.flow).is_some_and(|f| f.is_open() && f.spec.purpose == Purpose::Bulk);
        let Some(transfer) = is_open.then(|| self.load_of(load, trial.flow)).flatten() else { return false };
        let order = Order {
            number: load.next_order,
            up: trial.spec.up,
            rate_bps: trial.spec.rate_bps,
            size: trial.spec.size,
            burst: 0,
            length_us: u64::try_from(trial.step.length.as_micros()).unwrap_or(u64::MAX),
            bin_us: u32::try_from(trial.step.bin.as_micros()).unwrap_or(u32::MAX),
            tos: trial.spec.tos,
        }
        .bounded();
        load.next_order += 1;
        if !order.up {
            lock(&transfer).expect(order, now);
        }
        trial.part = Some(Part {
            flow: trial.flow,
            carrier: trial.like.carrier,
            order,
            granted: None,
            refused: false,
            first_seq: 0,
            begun: now,
            told_to: 0,
            stopped_early: false,
        });
        trial.stage = Stage::Asked(now + BEGIN_WITHIN);
        self.ask_load(now, trial.flow, order, false);
        true
    }

    fn begin_fresh(&mut self, now: Timestamp, load: &mut LoadRun, trial: &mut Trial) -> bool {
        let Some(part) = trial.part.as_mut() else { return false };
        let Some(granted) = part.granted.as_ref() else { return false };
        (part.begun, part.order) = (now, granted.order);
        if part.order.up
            && let Some(transfer) = load.transfers.get(&part.flow)
        {
            lock(transfer).send(part.order, now);
            self.actions.push_back(Action::LoadChanged { flow: part.flow });
        }
        trial.stage = Stage::Running(now + part.order.length());
        true
    }

    /// Has its counts put together.
    fn end_fresh(&mut self, now: Timestamp, load: &mut LoadRun, trial: &Trial) {
        let Some(part) = trial.part.clone() else { return };
        if part.order.up
            && let Some(transfer) = load.transfers.get(&part.flow)
        {
            lock(transfer).stop_sending();
        }
        let beside = load.parts.iter().map(|p| p.flow).collect();
        let number = load.told;
        load.told += 1;
        load.counting.push_back(Counting::ended(trial.step.clone(), number, part, beside, now, SLICE_DRAIN));
    }
}
