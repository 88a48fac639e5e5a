//! `lab`: networks that behave badly on purpose, on one machine, with the truth written down.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "lab: network namespaces are needed, which only Linux has");
    ExitCode::from(3)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::error::Error;
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::ExitCode;

    use clap::{Parser, Subcommand};
    use tests::kernel::{
        Binaries, Namespaces, Stage, binaries, namespaces, outlive_interrupts, play,
        rerun_as_root_of_own_namespace,
    };
    use tests::rules::Direction;
    use tests::scenario::{ListenerKind, Network, Scenario};

    /// Networks that behave badly on purpose, with the truth written down.
    #[derive(Parser)]
    #[command(name = "lab", version)]
    struct Cli {
        #[command(subcommand)]
        command: Command,
    }

    #[derive(Subcommand)]
    enum Command {
        /// Shows the scenarios.
        List,
        /// Runs a command, or a shell, on the client's host of a scenario.
        ///
        /// The listener is started where the scenario has one. `probe-client` and `probe-server` are on the PATH;
        /// LAB_INVITE, LAB_TARGET and LAB_TARGET_V6 say where to find the listener.
        Run {
            /// A scenario's name, or the path of its file.
            scenario: String,
            /// Chance repeats with it; even seeds draw the usual values, odd ones others.
            #[arg(long, default_value_t = 0)]
            seed: u64,
            /// Writes one line of JSON per packet touched.
            #[arg(long, value_name = "FILE")]
            truth: Option<PathBuf>,
            /// What to run; left out, a shell.
            #[arg(last = true)]
            program: Vec<String>,
        },
        /// Plays scenarios with the real programs and judges what they say; fails where anything is wrong.
        Play {
            /// Names of scenarios, or paths of their files; left out, all of them.
            scenarios: Vec<String>,
            /// Chance repeats with it; even seeds draw the usual values, odd ones others.
            #[arg(long, default_value_t = 0)]
            seed: u64,
            /// Shows the reports and what the programs said.
            #[arg(long)]
            verbose: bool,
        },
        /// Measures the middlebox: packets a second, and the delay it adds.
        Bench {
            /// How long each part measures, seconds.
            #[arg(long, default_value_t = 3)]
            seconds: u64,
        },
    }

    pub(crate) fn main() -> ExitCode {
        let cli = Cli::parse();
        match dispatch(cli.command) {
            Ok(code) => code,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "lab: {error}");
                ExitCode::from(3)
            }
        }
    }

    fn dispatch(command: Command) -> Result<ExitCode, Box<dyn Error>> {
        if let Command::List = command {
            return list();
        }
        match namespaces() {
            Namespaces::Here => {}
            Namespaces::InUserNamespace => {
                let status = rerun_as_root_of_own_namespace(std::env::args_os().skip(1))?;
                return Ok(exit_code(status));
            }
            Namespaces::No(reason) => return Err(format!("cannot make namespaces here: {reason}").into()),
        }
        match command {
            Command::List => list(),
            Command::Run { scenario, seed, truth, program } => run(&scenario, seed, truth, program),
            Command::Play { scenarios, seed, verbose } => play_all(scenarios, seed, verbose),
            Command::Bench { seconds } => {
                writeln!(std::io::stdout().lock(), "{}", tests::kernel::bench(seconds.clamp(1, 60))?)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    fn list() -> Result<ExitCode, Box<dyn Error>> {
        let mut out = std::io::stdout().lock();
        for name in Scenario::names()? {
            let scenario = Scenario::load(&name, 0)?;
            let causes: Vec<&str> = scenario.expect.must.iter().map(|must| must.cause.id()).collect();
            let causes = if causes.is_empty() { "(clean)".to_owned() } else { causes.join(", ") };
            writeln!(out, "{name:32} {causes:28} {}", scenario.about)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn play_all(names: Vec<String>, seed: u64, verbose: bool) -> Result<ExitCode, Box<dyn Error>> {
        let names = if names.is_empty() { Scenario::names()? } else { names };
        let binaries = binaries()?;
        let mut out = std::io::stdout().lock();
        let mut all_right = true;
        for name in names {
            let scenario = Scenario::load(&name, seed)?;
            if !scenario.runs_in(Network::Kernel) {
                writeln!(out, "{name:32} is for the simulated network alone")?;
                continue;
            }
            let played = match play(&scenario, seed, binaries, None) {
                Ok(played) => played,
                Err(error) => {
                    all_right = false;
                    writeln!(out, "{name:32} failed: {error}")?;
                    continue;
                }
            };
            let seconds = played.took.as_secs_f64();
            let right = played.judgement.is_right();
            all_right &= right;
            writeln!(out, "{name:32} {} in {seconds:.1} s", if right { "right" } else { "WRONG" })?;
            for wrong in &played.judgement.wrong {
                writeln!(out, "    {wrong}")?;
            }
            if played.own_losses > 0 {
                writeln!(out, "    {} packets were lost by the lab itself", played.own_losses)?;
            }
            if verbose {
                writeln!(out, "{}", played.said)?;
                if let Some(report) = &played.report {
                    writeln!(out, "{report:#}")?;
                }
            }
        }
        Ok(if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn run(
        name: &str,
        seed: u64,
        truth: Option<PathBuf>,
        program: Vec<String>,
    ) -> Result<ExitCode, Box<dyn Error>> {
        let scenario = Scenario::load(name, seed)?;
        if !scenario.runs_in(Network::Kernel) {
            return Err(format!("{name} is for the simulated network alone").into());
        }
        let wants_ours = scenario.listener.kind == ListenerKind::ProbeServer
            || program.first().is_none_or(|program| program.starts_with("probe-"));
        let binaries = if wants_ours {
            writeln!(std::io::stderr(), "lab: building probe-server and probe-client where they are not")?;
            binaries()?.clone()
        } else {
            Binaries::unbuilt()?
        };
        let log = truth.map(File::create).transpose()?;
        let stage = Stage::set_with_log(&scenario, seed, &binaries, log)?;
        let mut says = std::io::stderr().lock();
        writeln!(says, "lab: {} (seed {seed}): {}", scenario.name, scenario.about)?;
        for (name, value) in &scenario.drawn {
            writeln!(says, "lab:   {name} = {value}")?;
        }
        writeln!(says, "lab:   the listener's address is {}", stage.target())?;
        if scenario.listener.kind == ListenerKind::ProbeServer {
            writeln!(says, "lab:   try: probe-client check \"$LAB_INVITE\"")?;
        }
        outlive_interrupts()?;
        let mut program = program.into_iter();
        let shell = || std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into());
        let mut command = stage.contained_command(program.next().unwrap_or_else(shell));
        command.args(program).env("LAB_SCENARIO", &scenario.name);
        let folder = binaries.client.parent().map(PathBuf::from).unwrap_or_default();
        let old = std::env::var_os("PATH").unwrap_or_default();
        command
            .env("PATH", std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&old)))?);
        let status = command.status()?;
        tell(&mut says, &stage)?;
        Ok(exit_code(status))
    }

    /// What happened to the packets, in short.
    fn tell(says: &mut impl Write, stage: &Stage) -> Result<(), Box<dyn Error>> {
        let told = stage.lab.with_truth(|truth| {
            (truth.counts(), truth.total(Direction::Up), truth.total(Direction::Down), truth.forgotten)
        });
        let Some((counts, up, down, forgotten)) = told else { return Ok(()) };
        for (way, tally) in [("up", up), ("down", down)] {
            let (packets, bytes, dropped) = (tally.packets, tally.bytes, tally.dropped);
            writeln!(says, "lab: {way}: {packets} packets, {bytes} bytes; {dropped} dropped")?;
        }
        for (rule, deed, direction, count) in counts {
            writeln!(says, "lab:   {count:>8} {deed:?} {direction:?} by \"{rule}\"")?;
        }
        if forgotten > 0 {
            writeln!(says, "lab:   {forgotten} older lines are not in memory any more")?;
        }
        let own = stage.lab.own_losses()?;
        if own > 0 {
            writeln!(says, "lab: {own} packets were lost by the lab itself, not by a rule")?;
        }
        Ok(())
    }

    fn exit_code(status: std::process::ExitStatus) -> ExitCode {
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        ExitCode::from(code.unwrap_or(1))
    }
}
