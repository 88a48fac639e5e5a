//! `bench`: the pair's speed beside that of the tools people use today.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "bench: cores are pinned and processes watched as only Linux allows");
    ExitCode::from(3)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::error::Error;
    use std::fs::File;
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::ExitCode;

    use clap::{Parser, ValueEnum};
    use tests::bench::{self, Effort, Figures, Machine};

    /// The pair's speed beside that of the tools people use today, in turns on this machine.
    ///
    /// Nothing leaves loopback and namespaces of its own. irtt, sockperf and iperf3 are compared with where they are
    /// installed.
    #[derive(Parser)]
    #[command(name = "bench", version)]
    struct Cli {
        /// Takes a minute instead of five.
        #[arg(long)]
        quick: bool,
        /// Measures these parts alone.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<Part>,
        /// Writes the figures as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Writes the table as Markdown.
        #[arg(long, value_name = "FILE")]
        markdown: Option<PathBuf>,
        /// Measures this listener instead of the one built from here.
        #[arg(long, value_name = "PROGRAM")]
        server: Option<PathBuf>,
    }

    #[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
    enum Part {
        /// Echoes per second of one core.
        Echoes,
        /// Round trips and send times.
        Delay,
        /// The idle listener.
        Idle,
        /// Ten thousand sessions.
        Sessions,
        /// Bulk throughput.
        Bulk,
    }

    pub(crate) fn main() -> ExitCode {
        match run(&Cli::parse()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "bench: {error}");
                ExitCode::from(3)
            }
        }
    }

    fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
        // Before the long work, so that a path that cannot be written is known at once.
        let json = cli.json.as_ref().map(File::create).transpose()?;
        let table = cli.markdown.as_ref().map(File::create).transpose()?;
        let mut say = |text: &str| {
            // Progress that nobody can read is no reason to stop.
            let _ = writeln!(std::io::stderr(), "bench: {text}");
        };
        let server = match &cli.server {
            Some(path) => path.clone(),
            None => {
                say("building probe-server and probe-client where they are not");
                tests::binaries()?.server.clone()
            }
        };
        if cfg!(debug_assertions) {
            say("this build is not optimised: its figures mean nothing (use --release)");
        }
        let effort = if cli.quick { Effort::QUICK } else { Effort::FULL };
        let wants = |part| cli.only.is_empty() || cli.only.contains(&part);
        let mut figures = Figures { machine: Machine::look(), rows: Vec::new(), notes: Vec::new() };
        if wants(Part::Echoes) {
            figures.rows.extend(bench::echoes::measure(&server, &effort, &mut figures.notes, &mut say)?);
        }
        if wants(Part::Delay) {
            figures.rows.extend(bench::delay::measure(&server, &effort, &mut figures.notes, &mut say)?);
        }
        if wants(Part::Idle) {
            figures.rows.extend(bench::idle::measure(&server, &effort, &mut say)?);
        }
        if wants(Part::Sessions) {
            figures.rows.extend(bench::sessions::measure(&server, &effort, &mut figures.notes, &mut say)?);
        }
        if wants(Part::Bulk) {
            figures.rows.extend(bench::bulk::measure(&server, &effort, &mut figures.notes, &mut say)?);
        }
        figures.machine.look_again();
        let text = bench::markdown(&figures, &command());
        std::io::stdout().lock().write_all(text.as_bytes())?;
        if let Some(mut file) = table {
            file.write_all(text.as_bytes())?;
        }
        if let Some(file) = json {
            serde_json::to_writer_pretty(file, &figures)?;
        }
        Ok(())
    }

    /// What reproduces the run.
    fn command() -> String {
        let mut words = vec!["cargo run --release -p tests --bin bench --".to_owned()];
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // Where the result went is nobody else's concern.
                "--json" | "--markdown" | "--server" => {
                    let _ = arguments.next();
                }
                _ => words.push(argument),
            }
        }
        words.join(" ").trim_end_matches(" --").to_owned()
    }
}
