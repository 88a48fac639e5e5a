//! Which runs a matrix consists of, and how they are run beside one another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use probe_protocol::cause::Cause;

use super::pairs;
use super::play::NotPlayed;
use super::tally::Run;
use crate::scenario::{Network, PlanKind, Scenario, ScenarioError};

/// The first seed of benign runs: beyond all that scenarios are looked at with while thresholds are chosen.
pub const FRESH: u64 = 1_000_000;

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The scenario's name, or two.
    pub what: What,
    /// What it draws its values and its chance from.
    pub seed: u64,
    /// In which network.
    pub network: Network,
}

/// What is played.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A scenario.
    Single(String),
    /// Two causes at once.
    Pair(&'static str, &'static str),
}

impl Job {
    /// The scenario, with its values.
    ///
    /// # Errors
    /// Where its file is none.
    pub fn scenario(&self) -> Result<Scenario, ScenarioError> {
        match &self.what {
            What::Single(name) => Scenario::load(name, self.seed),
            What::Pair(first, second) => pairs::compose(first, second, self.seed),
        }
    }

    /// What it is called in tables.
    pub fn name(&self) -> String {
        match &self.what {
            What::Single(name) => name.clone(),
            What::Pair(first, second) => format!("{first} + {second}"),
        }
    }
}

/// How many seeds each scenario gets.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The first.
    pub from: u64,
    /// So many of each scenario.
    pub each: u64,
    /// More of those that show a cause, where the scenarios that show it would not come to so many runs together.
    pub per_cause: u64,
}

/// Each scenario with its seeds. The longest plans come first, so that no long one is left to a single thread at the
/// end.
///
/// # Errors
/// Where a scenario's file is none.
pub fn of_scenarios(names: &[String], seeds: Seeds, network: Network) -> Result<Vec<Job>, ScenarioError> {
    let mut scenarios = Vec::new();
    let mut shown_by: BTreeMap<Cause, u64> = BTreeMap::new();
    for name in names {
        let scenario = Scenario::load(name, seeds.from)?;
        if scenario.runs_in(network) {
            for cause in causes(&scenario) {
                *shown_by.entry(cause).or_default() += 1;
            }
        }
        scenarios.push((length(&scenario), name, causes(&scenario)));
    }
    scenarios.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
    let wanted = |cause: &Cause| seeds.per_cause.div_ceil(shown_by.get(cause).copied().unwrap_or(1).max(1));
    let job = |name: &String, seed| Job { what: What::Single(name.clone()), seed, network };
    let mut jobs = Vec::new();
    for (_, name, causes) in &scenarios {
        let count = causes.iter().map(wanted).max().unwrap_or(0).max(seeds.each);
        jobs.extend((seeds.from..seeds.from.saturating_add(count)).map(|seed| job(name, seed)));
    }
    Ok(jobs)
}

/// The causes that must be found in a scenario.
fn causes(scenario: &Scenario) -> BTreeSet<Cause> {
    scenario.expect.must.iter().map(|must| must.cause).collect()
}

/// Roughly how long a plan is.
fn length(scenario: &Scenario) -> Duration {
    let full = scenario.plan.arguments.iter().any(|a| a == "--full");
    let usual = Duration::from_secs(if full { 900 } else { 60 });
    scenario.plan.length.map_or(usual, |length| length.0)
}

/// So many runs of two causes at once.
pub fn of_pairs(count: u64, from: u64) -> Vec<Job> {
    let job = |seed| {
        let (first, second) = pairs::draw(seed)?;
        Some(Job { what: What::Pair(first, second), seed, network: Network::Simulated })
    };
    (from..from + count).filter_map(job).collect()
}

/// So many runs of networks in which nobody is to be accused, with seeds that nobody has seen: each scenario in turn.
///
/// # Errors
/// Where a scenario's file is none.
pub fn benign(names: &[String], count: u64, from: u64) -> Result<Vec<Job>, ScenarioError> {
    let mut playable = Vec::new();
    for name in names.iter().filter(|name| name.starts_with("clean") || name.starts_with("benign")) {
        let scenario = Scenario::load(name, FRESH)?;
        let accuses_nobody = scenario.expect.must.is_empty() && scenario.plan.kind != PlanKind::Doctor;
        if accuses_nobody && scenario.runs_in(Network::Simulated) {
            playable.push(name);
        }
    }
    let job = |(index, name): (u64, &&String)| Job {
        what: What::Single((*name).clone()),
        seed: FRESH + from + index,
        network: Network::Simulated,
    };
    Ok((0..count).zip(playable.iter().cycle()).map(job).collect())
}

/// How one job went.
pub type Outcome = (Job, Result<Run, NotPlayed>);

/// Does all jobs, so many at once, and gives their outcomes in the order of the jobs. `told` hears of each as it ends,
/// and how many have ended.
///
/// # Errors
/// Where a scenario's file is none: the jobs that were not begun are left.
pub fn run(
    jobs: &[Job],
    threads: usize,
    play: impl Fn(&Job, &Scenario) -> Result<Run, NotPlayed> + Sync,
    told: impl Fn(usize, &Outcome) + Sync,
) -> Result<Vec<Outcome>, ScenarioError> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    let done = Mutex::new(Vec::with_capacity(jobs.len()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return };
            match job.scenario() {
                Ok(scenario) => {
                    let outcome = (job.clone(), play(job, &scenario));
                    let mut done = lock(&done);
                    told(done.len() + 1, &outcome);
                    done.push((index, outcome));
                }
                Err(error) => {
                    next.store(jobs.len(), Ordering::Relaxed);
                    lock(&failed).get_or_insert(error);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, 256) {
            scope.spawn(work);
        }
    });
    if let Some(error) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, outcome)| outcome).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_in_the_order_of_the_jobs_whoever_ends_first() {
        let names = ["clean".to_owned(), "clean-soak".to_owned()];
        let seeds = Seeds { from: 0, each: 3, per_cause: 0 };
        let jobs = of_scenarios(&names, seeds, Network::Simulated).unwrap();
        let wanted = jobs.clone();
        let told = AtomicUsize::new(0);
        let outcomes = run(
            &jobs,
            3,
            |_, _| Err(NotPlayed::OtherNetwork),
            |count, _| {
                told.fetch_max(count, Ordering::Relaxed);
            },
        );
        let got: Vec<Job> = outcomes.unwrap().into_iter().map(|(job, _)| job).collect();
        assert_eq!(got, wanted);
        assert_eq!(told.into_inner(), 6);
    }

    #[test]
    fn benign_runs_take_each_scenario_in_turn_and_no_seed_twice() {
        let names = Scenario::names().unwrap();
        let jobs = benign(&names, 200, 0).unwrap();
        assert_eq!(jobs.len(), 200);
        let seeds: BTreeSet<u64> = jobs.iter().map(|job| job.seed).collect();
        assert_eq!(seeds.len(), 200);
        assert!(seeds.iter().all(|seed| *seed >= FRESH));
        for job in jobs {
            assert!(job.scenario().unwrap().expect.must.is_empty(), "{job:?}");
        }
    }

    #[test]
    fn a_cause_gets_its_runs_from_all_that_show_it() {
        let names = ["tcp-refused", "loss-udp-up-3", "loss-random", "clean"].map(str::to_owned);
        let count = |names: &[String], per_cause| {
            let seeds = Seeds { from: 5, each: 2, per_cause };
            let jobs = of_scenarios(names, seeds, Network::Simulated).unwrap();
            let mut counts = BTreeMap::<String, u64>::new();
            for job in jobs {
                *counts.entry(job.name()).or_default() += 1;
            }
            counts
        };
        let some = count(&names, 10);
        assert_eq!((some["clean"], some["tcp-refused"]), (2, 10));
        let all = count(&Scenario::names().unwrap(), 100);
        assert!(all["tcp-filtered"] < 100, "others show it too");
        assert!(all.values().all(|runs| *runs >= 2));
    }

    #[test]
    fn a_scenario_that_is_none_is_said() {
        let job = Job { what: What::Single("no-such".into()), seed: 0, network: Network::Simulated };
        let ran = run(&[job.clone(), job], 2, |_, _| Err(NotPlayed::OtherNetwork), |_, _| {});
        assert!(matches!(ran, Err(ScenarioError::Unknown(name)) if name == "no-such"));
    }
}
