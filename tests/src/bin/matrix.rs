//! `matrix`: runs all scenarios over many seeds and says what was found and what was not.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use probe_client::report::text::{self, Look};
use tests::matrix::jobs::{self, Job, Outcome, Seeds};
use tests::matrix::{Floors, Kept, NotPlayed, Run, Tally, play, table};
use tests::scenario::{Network, Scenario};

/// All scenarios over many seeds: what had to be found beside what was found.
#[derive(Parser)]
#[command(name = "matrix", version)]
struct Cli {
    /// Seeds per scenario in the simulated network.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// More seeds of those scenarios in the simulated network that show a cause, until each cause has so many runs.
    #[arg(long, value_name = "RUNS", default_value_t = 0)]
    per_cause: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Seeds per scenario in the real-kernel network.
    #[arg(long, default_value_t = 3)]
    kernel_seeds: u64,
    /// Which network.
    #[arg(long, value_enum, default_value_t = Where::Sim)]
    network: Where,
    /// Instead of the scenarios: so many simulated runs of two causes at once, drawn from a table of single ones.
    #[arg(long, value_name = "RUNS")]
    pairs: Option<u64>,
    /// Instead of the scenarios: so many simulated runs of the clean and benign ones, with seeds of their own.
    #[arg(long, value_name = "RUNS")]
    benign: Option<u64>,
    /// Only scenarios whose name contains one of these.
    #[arg(long)]
    only: Vec<String>,
    /// No scenarios whose name contains one of these.
    #[arg(long)]
    without: Vec<String>,
    /// Runs at once in the simulated network; left out, one per core.
    #[arg(long)]
    threads: Option<usize>,
    /// Runs at once in the real-kernel network, each in namespaces of its own: they mostly wait, but a busy machine
    /// is seen as a stalled host.
    #[arg(long, default_value_t = 1)]
    kernel_threads: usize,
    /// Tells no progress.
    #[arg(long)]
    quiet: bool,
    /// Writes the tally and every run as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keeps every run in this file, one JSON document a line; what the file has already is not played again, and counts.
    #[arg(long, value_name = "FILE")]
    runs: Option<PathBuf>,
    /// Writes what each simulated run's report says into this directory, as text: `NAME-SEED.txt`.
    #[arg(long, value_name = "DIRECTORY")]
    reports: Option<PathBuf>,
    /// Floors, as TOML; left out, those of the repository.
    #[arg(long, value_name = "FILE")]
    floors: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Where {
    Sim,
    Kernel,
    Both,
}

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "matrix: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    let floors = match &cli.floors {
        Some(path) => std::fs::read_to_string(path)?,
        None => include_str!("../../matrix-floors.toml").to_owned(),
    };
    let floors: Floors = toml::from_str(&floors)?;
    // The file is there before the long work.
    let json = cli.json.as_ref().map(std::fs::File::create).transpose()?;
    let names = Scenario::names()?;
    let kept = cli.runs.as_deref().map(Kept::open).transpose()?;
    let kept = kept.as_ref();
    let named = |parts: &[String], name: &str| parts.iter().any(|part| name.contains(part));
    let wanted =
        |name: &String| (cli.only.is_empty() || named(&cli.only, name)) && !named(&cli.without, name);
    let names: Vec<String> = names.into_iter().filter(wanted).collect();
    let mut all = Vec::new();
    if cli.network != Where::Kernel {
        all.extend(simulated(cli, &names, kept)?);
    }
    if cli.network != Where::Sim {
        all.extend(kernel(cli, &names, kept)?);
    }
    all.sort_by_key(|(job, _)| (job.name(), job.seed));
    let (mut tally, mut runs) = (Tally::default(), Vec::new());
    for (job, result) in all {
        match result {
            Ok(run) => {
                tally.count(&run);
                runs.push(run);
            }
            Err(why) => drop(tally.not_played.insert(job.name(), why.to_string())),
        }
    }
    write!(std::io::stdout(), "{}", table::render(&tally))?;
    if let Some(file) = json {
        serde_json::to_writer_pretty(file, &serde_json::json!({"tally": tally, "runs": runs}))?;
    }
    let failures = tally.failures(&floors);
    for failure in &failures {
        writeln!(std::io::stderr(), "matrix: {failure}")?;
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn simulated(cli: &Cli, names: &[String], kept: Option<&Kept>) -> Result<Vec<Outcome>, Error> {
    let mut jobs = Vec::new();
    if let Some(count) = cli.pairs {
        jobs.extend(jobs::of_pairs(count, cli.from));
    }
    if let Some(count) = cli.benign {
        jobs.extend(jobs::benign(names, count, cli.from)?);
    }
    if cli.pairs.is_none() && cli.benign.is_none() {
        let seeds = Seeds { from: cli.from, each: cli.seeds, per_cause: cli.per_cause };
        jobs = jobs::of_scenarios(names, seeds, Network::Simulated)?;
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if let Some(directory) = &cli.reports {
        std::fs::create_dir_all(directory)?;
    }
    let play = |job: &Job, scenario: &Scenario| simulate(job, scenario, cli.reports.as_deref());
    through(cli, jobs, cli.threads.unwrap_or(cores), kept, play)
}

/// Does all jobs but those that were kept from another time, and tells and keeps each as it ends.
fn through(
    cli: &Cli,
    jobs: Vec<Job>,
    threads: usize,
    kept: Option<&Kept>,
    play: impl Fn(&Job, &Scenario) -> Result<Run, NotPlayed> + Sync,
) -> Result<Vec<Outcome>, Error> {
    let (mut outcomes, mut left) = (Vec::new(), Vec::new());
    for job in jobs {
        match kept.and_then(|kept| kept.run(&job)) {
            Some(run) => outcomes.push((job, Ok(run.clone()))),
            None => left.push(job),
        }
    }
    let count = left.len();
    let lost = std::sync::Mutex::new(None);
    let told = |done, outcome: &Outcome| {
        tell(cli, done, count, outcome);
        if let (Some(kept), Ok(run)) = (kept, &outcome.1)
            && let Err(error) = kept.keep(run)
        {
            lost.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
        }
    };
    outcomes.extend(jobs::run(&left, threads, play, told)?);
    match lost.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(outcomes),
    }
}

fn simulate(job: &Job, scenario: &Scenario, reports: Option<&Path>) -> Result<Run, NotPlayed> {
    let began = processor_time();
    let played = play(scenario, job.seed)?;
    if let Some(directory) = reports {
        let file = directory.join(format!("{}-{}.txt", job.name(), job.seed));
        std::fs::write(file, text::render(&played.whole, Look { width: 120, colour: false }))
            .map_err(NotPlayed::Written)?;
    }
    let at = (job.seed, job.network);
    let mut run = Run::of(scenario, at, &played.report, played.judgement, played.took);
    run.cpu_s = processor_time().zip(began).map(|(now, began)| now - began);
    Ok(run)
}

/// Processor time that this thread has used, seconds.
#[cfg(target_os = "linux")]
fn processor_time() -> Option<f64> {
    use nix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok()?;
    Some(std::time::Duration::from(time).as_secs_f64())
}

#[cfg(not(target_os = "linux"))]
fn processor_time() -> Option<f64> {
    None
}

/// One line per run that has ended.
fn tell(cli: &Cli, done: usize, of: usize, (job, result): &Outcome) {
    if cli.quiet {
        return;
    }
    let what = match result {
        Ok(run) => {
            let cost = run.cpu_s.map_or_else(String::new, |cpu| format!(", simulated in {cpu:.2} s"));
            let wrong = run.judgement.wrong.join("; ");
            let verdict = if wrong.is_empty() { "right".to_owned() } else { format!("WRONG: {wrong}") };
            format!("{:.0} s{cost}: {verdict}", run.took_s)
        }
        Err(why) => why.to_string(),
    };
    let _ = writeln!(std::io::stderr(), "{done:>5}/{of} {} {}: {what}", job.name(), job.seed);
}

#[cfg(target_os = "linux")]
fn kernel(cli: &Cli, names: &[String], kept: Option<&Kept>) -> Result<Vec<Outcome>, Error> {
    use tests::kernel;
    match kernel::namespaces() {
        kernel::Namespaces::Here => {}
        kernel::Namespaces::InUserNamespace => {
            let status = kernel::rerun_as_root_of_own_namespace(std::env::args_os().skip(1))?;
            std::process::exit(status.code().unwrap_or(3));
        }
        kernel::Namespaces::No(reason) => return Err(format!("cannot make namespaces here: {reason}").into()),
    }
    let binaries = kernel::binaries()?;
    let play = |job: &Job, scenario: &Scenario| {
        if !scenario.runs_in(Network::Kernel) {
            return Err(NotPlayed::OtherNetwork);
        }
        let played = kernel::play(scenario, job.seed, binaries, None)
            .map_err(|error| NotPlayed::Kernel(error.to_string()))?;
        let report = played.report.and_then(|report| serde_json::from_value(report).ok()).unwrap_or_default();
        Ok(Run::of(scenario, (job.seed, job.network), &report, played.judgement, played.took))
    };
    let seeds = Seeds { from: cli.from, each: cli.kernel_seeds, per_cause: 0 };
    let jobs = jobs::of_scenarios(names, seeds, Network::Kernel)?;
    through(cli, jobs, cli.kernel_threads, kept, play)
}

#[cfg(not(target_os = "linux"))]
fn kernel(_: &Cli, _: &[String], _: Option<&Kept>) -> Result<Vec<Outcome>, Error> {
    Err("the real-kernel network needs network namespaces, which only Linux has".into())
}
