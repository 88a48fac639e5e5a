//! `matrix`: runs all scenarios over many seeds and says what was found and what was not.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::{Parser, ValueEnum};
use tests::matrix::{Floors, NotPlayed, Run, Tally, play, table};
use tests::scenario::judge::{Judgement, Report};
use tests::scenario::{Network, Scenario};

/// All scenarios over many seeds: what had to be found beside what was found.
#[derive(Parser)]
#[command(name = "matrix", version)]
struct Cli {
    /// Seeds per scenario in the simulated network.
    #[arg(long, default_value_t = 10)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Seeds per scenario in the real-kernel network.
    #[arg(long, default_value_t = 3)]
    kernel_seeds: u64,
    /// Which network.
    #[arg(long, value_enum, default_value_t = Where::Sim)]
    network: Where,
    /// Only scenarios whose name contains one of these.
    #[arg(long)]
    only: Vec<String>,
    /// Runs at once in the simulated network; left out, one per core.
    #[arg(long)]
    threads: Option<usize>,
    /// Writes the tally and every run as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
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

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "matrix: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let floors = match &cli.floors {
        Some(path) => std::fs::read_to_string(path)?,
        None => include_str!("../../matrix-floors.toml").to_owned(),
    };
    let floors: Floors = toml::from_str(&floors)?;
    // The file is there before the long work.
    let json = cli.json.as_ref().map(std::fs::File::create).transpose()?;
    let names = Scenario::names()?;
    let wanted = |name: &String| cli.only.is_empty() || cli.only.iter().any(|part| name.contains(part));
    let names: Vec<String> = names.into_iter().filter(wanted).collect();
    let mut all = Vec::new();
    if cli.network != Where::Kernel {
        all.extend(simulated(cli, &names)?);
    }
    if cli.network != Where::Sim {
        all.extend(kernel(cli, &names)?);
    }
    all.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    let (mut tally, mut runs) = (Tally::default(), Vec::new());
    for (name, _, result) in all {
        match result {
            Ok(run) => {
                tally.count(&run);
                runs.push(run);
            }
            Err(why) => drop(tally.not_played.insert(name, why.to_string())),
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

type Result_ = (String, u64, Result<Run, NotPlayed>);

fn simulated(cli: &Cli, names: &[String]) -> Result<Vec<Result_>, Box<dyn std::error::Error>> {
    let jobs: Vec<(&String, u64)> = names
        .iter()
        .flat_map(|name| (cli.from..cli.from + cli.seeds).map(move |seed| (name, seed)))
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..cli.threads.unwrap_or(cores).clamp(1, 256) {
            scope.spawn(|| {
                while let Some((name, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match Scenario::load(name, *seed) {
                        Ok(scenario) => {
                            let result = play(&scenario, *seed).map(|played| {
                                judged(&scenario, *seed, Network::Simulated, &played.report, played.judgement)
                            });
                            lock(&done).push(((*name).clone(), *seed, result));
                        }
                        Err(error) => *lock(&failed) = Some(error),
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error.into()),
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn judged(scenario: &Scenario, seed: u64, network: Network, report: &Report, judgement: Judgement) -> Run {
    Run {
        scenario: scenario.name.clone(),
        seed,
        network,
        expected: scenario.expect.must.iter().map(|must| must.cause).collect(),
        said: report.findings.iter().map(|found| found.cause).collect(),
        judgement,
    }
}

#[cfg(target_os = "linux")]
fn kernel(cli: &Cli, names: &[String]) -> Result<Vec<Result_>, Box<dyn std::error::Error>> {
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
    let mut results = Vec::new();
    for name in names {
        for seed in cli.from..cli.from + cli.kernel_seeds {
            let scenario = Scenario::load(name, seed)?;
            let result = if scenario.runs_in(Network::Kernel) {
                kernel::play(&scenario, seed, binaries, None)
                    .map_err(|e| NotPlayed::Kernel(e.to_string()))
                    .map(|played| {
                        let report =
                            played.report.and_then(|r| serde_json::from_value(r).ok()).unwrap_or_default();
                        judged(&scenario, seed, Network::Kernel, &report, played.judgement)
                    })
            } else {
                Err(NotPlayed::OtherNetwork)
            };
            results.push((name.clone(), seed, result));
        }
    }
    Ok(results)
}

#[cfg(not(target_os = "linux"))]
fn kernel(_: &Cli, _: &[String]) -> Result<Vec<Result_>, Box<dyn std::error::Error>> {
    Err("the real-kernel network needs network namespaces, which only Linux has".into())
}
