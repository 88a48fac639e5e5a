//! Commands and flags.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use probe_protocol::finding::Severity;

use super::analyze::AnalyzeArgs;
use super::units;

/// Measures what the path to a probe-server does to TCP, TLS, UDP and QUIC, and names the cause.
#[derive(Debug, Parser)]
#[command(name = "probe-client", version, about, propagate_version = true, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Says within a minute what gets through to a listener, and what the path does to it.
    Check(CheckArgs),
    /// Prints the JSON Schema of what --json prints.
    Schema,
    /// Prints a completion script for a shell.
    Completions {
        /// For which shell.
        shell: Shell,
    },
    /// Prints the manual page.
    Man,
    /// Watches the path for hours, records everything, and names what happens only after a while.
    Soak(SoakArgs),
    /// Judges a recorded run again, without a network.
    Diagnose(DiagnoseArgs),
    /// Writes a recorded run as CSV, JSON lines or Parquet.
    Export(ExportArgs),
    /// Sends what the transfer product will send, for minutes or hours, and says what it gets.
    Rehearse(RehearseArgs),
    #[command(hide = true)]
    Report(Later),
    #[command(hide = true)]
    Compare(Later),
    /// Judges anybody's packet trace: what limits its rate, what it loses, and why.
    Analyze(AnalyzeArgs),
}

impl Command {
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Check(_) => "check",
            Self::Schema => "schema",
            Self::Completions { .. } => "completions",
            Self::Man => "man",
            Self::Soak(_) => "soak",
            Self::Rehearse(_) => "rehearse",
            Self::Diagnose(_) => "diagnose",
            Self::Report(_) => "report",
            Self::Export(_) => "export",
            Self::Compare(_) => "compare",
            Self::Analyze(_) => "analyze",
        }
    }
}

/// Whatever is said to a command that this version does not have.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    _any: Vec<OsString>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// HOST, HOST:PORT, [IPV6]:PORT, or the invite that the admin sent (probe://...). The port is 8886 where none is
    /// given. An invite may also come from PROBE_KEY or --key-file.
    #[arg(env = "PROBE_TARGET", hide_env_values = true, conflicts_with = "local")]
    pub(super) target: Option<String>,

    /// Starts a listener in this program and checks over loopback: needs nothing else, and shows what the instrument
    /// itself adds.
    #[arg(long, env = "PROBE_LOCAL", value_parser = BoolishValueParser::new())]
    pub(super) local: bool,

    /// Stops after reachability: within 10 seconds.
    #[arg(long, env = "PROBE_QUICK", value_parser = BoolishValueParser::new(), conflicts_with = "full")]
    pub(super) quick: bool,

    /// Longer experiments. Not in this version.
    #[arg(long, env = "PROBE_FULL", value_parser = BoolishValueParser::new(), hide = true)]
    pub(super) full: bool,

    /// Prints the report as one JSON document (its schema: `probe-client schema`).
    #[arg(long, env = "PROBE_JSON", value_parser = BoolishValueParser::new())]
    pub(super) json: bool,

    /// Records the run into a file, which `diagnose` and `export` read.
    #[arg(long, env = "PROBE_OUT", value_name = "FILE.probe")]
    pub(super) out: Option<PathBuf>,

    /// Writes over the file of --out where there is one.
    #[arg(long, env = "PROBE_FORCE", value_parser = BoolishValueParser::new())]
    pub(super) force: bool,

    /// Leaves out the load.
    #[arg(long, env = "PROBE_NO_LOAD", value_parser = BoolishValueParser::new())]
    pub(super) no_load: bool,

    /// Largest rate of load, in bits per second: 500k, 20M, 1G. 20M where nothing is said.
    #[arg(long, env = "PROBE_RATE", value_name = "BITS", value_parser = units::bits)]
    pub(super) rate: Option<u64>,

    /// Ends with status 1 where something of this severity or above is found.
    #[arg(long, env = "PROBE_FAIL_ON", value_name = "SEVERITY", default_value = "degraded")]
    pub(super) fail_on: FailOn,

    /// Keeps the verdict here instead of handing it to the listener.
    #[arg(long, env = "PROBE_NO_HAND_IN", value_parser = BoolishValueParser::new())]
    pub(super) no_hand_in: bool,

    /// Hides addresses and names in what is shown and handed in.
    #[arg(long, env = "PROBE_REDACT", value_parser = BoolishValueParser::new())]
    pub(super) redact: bool,

    /// A file with the invite, or with the part of it after #.
    #[arg(long, env = "PROBE_KEY_FILE", value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct SoakArgs {
    /// HOST, HOST:PORT, [IPV6]:PORT, or the invite that the admin sent (probe://...). The port is 8886 where none is
    /// given. An invite may also come from PROBE_KEY or --key-file.
    #[arg(env = "PROBE_TARGET", hide_env_values = true)]
    pub(super) target: Option<String>,

    /// How long to measure: 90s, 15m, 12h. Without it, until Ctrl-C. With --resume, how long from now on.
    #[arg(long = "for", env = "PROBE_FOR", value_name = "DURATION", value_parser = units::duration)]
    pub(super) length: Option<Duration>,

    /// Records the run into this file, which `diagnose` and `export` read.
    #[arg(long, env = "PROBE_OUT", value_name = "FILE.probe")]
    pub(super) out: PathBuf,

    /// Goes on with the run in the file of --out; begins one where there is none.
    #[arg(long, env = "PROBE_RESUME", value_parser = BoolishValueParser::new())]
    pub(super) resume: bool,

    /// Writes over the file of --out where there is one.
    #[arg(long, env = "PROBE_FORCE", value_parser = BoolishValueParser::new(), conflicts_with = "resume")]
    pub(super) force: bool,

    /// Time from one fresh flow, with a new source port, to the next: at least 1s. Left out, 60s, or less in a run of less
    /// than 40 minutes.
    #[arg(long, env = "PROBE_FRESH_EVERY", value_name = "DURATION", value_parser = units::duration)]
    pub(super) fresh_every: Option<Duration>,

    /// Long-lived flows of each class; six let a flow that is killed by its age be named in one night.
    #[arg(long, env = "PROBE_PER_CLASS", value_name = "N", default_value_t = 6,
          value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(super) per_class: u8,

    /// Probes a second of all long-lived flows together.
    #[arg(long, env = "PROBE_PROBES_PER_SECOND", value_name = "N", default_value_t = 90,
          value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub(super) probes_per_second: u32,

    /// Leaves out idle gaps, marks and packet sizes.
    #[arg(long, env = "PROBE_NO_EXPERIMENTS", value_parser = BoolishValueParser::new())]
    pub(super) no_experiments: bool,

    /// Prints the report as one JSON document (its schema: `probe-client schema`).
    #[arg(long, env = "PROBE_JSON", value_parser = BoolishValueParser::new())]
    pub(super) json: bool,

    /// Shows plain lines instead of the view, on a terminal too.
    #[arg(long, env = "PROBE_NO_TUI", value_parser = BoolishValueParser::new())]
    pub(super) no_tui: bool,

    /// Lets the computer go to sleep; a sleep is recorded, and not counted as loss.
    #[arg(long, env = "PROBE_ALLOW_SLEEP", value_parser = BoolishValueParser::new())]
    pub(super) allow_sleep: bool,

    /// Ends with status 1 where something of this severity or above is found.
    #[arg(long, env = "PROBE_FAIL_ON", value_name = "SEVERITY", default_value = "degraded")]
    pub(super) fail_on: FailOn,

    /// Keeps the verdict here instead of handing it to the listener.
    #[arg(long, env = "PROBE_NO_HAND_IN", value_parser = BoolishValueParser::new())]
    pub(super) no_hand_in: bool,

    /// Hides addresses and names in what is shown and handed in. The file holds them all the same.
    #[arg(long, env = "PROBE_REDACT", value_parser = BoolishValueParser::new())]
    pub(super) redact: bool,

    /// A file with the invite, or with the part of it after #.
    #[arg(long, env = "PROBE_KEY_FILE", value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct RehearseArgs {
    /// The invite that the admin sent (probe://...), or HOST, HOST:PORT, [IPV6]:PORT with the invite in PROBE_KEY or
    /// --key-file.
    #[arg(env = "PROBE_TARGET", hide_env_values = true, conflicts_with = "local")]
    pub(super) target: Option<String>,

    /// Starts a listener in this program and rehearses over loopback.
    #[arg(long, env = "PROBE_LOCAL", value_parser = BoolishValueParser::new())]
    pub(super) local: bool,

    /// The rate to aim at, each way, bits per second of UDP payload: 500k, 200M, 1G. It does not back off.
    #[arg(long, env = "PROBE_RATE", value_name = "BITS", value_parser = units::bits)]
    pub(super) rate: u64,

    /// For how long: 90s, 15m, 12h.
    #[arg(long = "for", env = "PROBE_FOR", value_name = "DURATION", value_parser = units::duration)]
    pub(super) length: Duration,

    /// Which way the transfer goes.
    #[arg(long, env = "PROBE_DIRECTION", default_value = "both")]
    pub(super) direction: WaysArg,

    /// Length of a block, bytes of UDP payload.
    #[arg(long, env = "PROBE_SIZE", value_name = "BYTES", default_value_t = 1200, value_parser = clap::value_parser!(u16).range(64..=8900))]
    pub(super) size: u16,

    /// Prints the report as one JSON document (its schema: `probe-client schema`).
    #[arg(long, env = "PROBE_JSON", value_parser = BoolishValueParser::new())]
    pub(super) json: bool,

    /// Records the run into a file, which `diagnose` and `export` read.
    #[arg(long, env = "PROBE_OUT", value_name = "FILE.probe")]
    pub(super) out: Option<PathBuf>,

    /// Writes over the file of --out where there is one.
    #[arg(long, env = "PROBE_FORCE", value_parser = BoolishValueParser::new())]
    pub(super) force: bool,

    /// Ends with status 1 where something of this severity or above is found.
    #[arg(long, env = "PROBE_FAIL_ON", value_name = "SEVERITY", default_value = "degraded")]
    pub(super) fail_on: FailOn,

    /// Hides addresses and names in what is shown.
    #[arg(long, env = "PROBE_REDACT", value_parser = BoolishValueParser::new())]
    pub(super) redact: bool,

    /// A file with the invite, or with the part of it after #.
    #[arg(long, env = "PROBE_KEY_FILE", value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
}

/// A direction on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum WaysArg {
    /// From here to the listener.
    Up,
    /// From the listener to here.
    Down,
    /// Both at once.
    Both,
}

#[derive(Debug, Args)]
pub(super) struct DiagnoseArgs {
    /// What `check --out` or `soak --out` recorded. It may still be being recorded.
    #[arg(env = "PROBE_FILE", value_name = "FILE.probe")]
    pub(super) file: PathBuf,

    /// Prints the report as one JSON document (its schema: `probe-client schema`).
    #[arg(long, env = "PROBE_JSON", value_parser = BoolishValueParser::new())]
    pub(super) json: bool,

    /// Ends with status 1 where something of this severity or above is found.
    #[arg(long, env = "PROBE_FAIL_ON", value_name = "SEVERITY", default_value = "degraded")]
    pub(super) fail_on: FailOn,

    /// Hides addresses and names in what is shown.
    #[arg(long, env = "PROBE_REDACT", value_parser = BoolishValueParser::new())]
    pub(super) redact: bool,

    /// Judges every observation anew, also where the file holds the report that this version made of it.
    #[arg(long, env = "PROBE_AFRESH", value_parser = BoolishValueParser::new())]
    pub(super) afresh: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// What `check --out` or `soak --out` recorded. It may still be being recorded.
    #[arg(env = "PROBE_FILE", value_name = "FILE.probe")]
    pub(super) file: PathBuf,

    /// The form of what is written.
    #[arg(long, env = "PROBE_FORMAT")]
    pub(super) format: Format,

    /// What is written: a row per probe, per flow and second, or per other observation.
    #[arg(long, env = "PROBE_TABLE", default_value = "probes")]
    pub(super) table: What,

    /// Where it goes; standard output without it.
    #[arg(long, env = "PROBE_OUT", value_name = "PATH")]
    pub(super) out: Option<PathBuf>,

    /// Writes over the file of --out where there is one.
    #[arg(long, env = "PROBE_FORCE", value_parser = BoolishValueParser::new())]
    pub(super) force: bool,
}

/// A form of export on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Comma-separated values with a header.
    Csv,
    /// A JSON object a line.
    Jsonl,
    /// Apache Parquet, for pandas and DuckDB.
    Parquet,
}

/// A table of an export on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum What {
    /// A row per probe.
    Probes,
    /// A row per flow and second.
    Seconds,
    /// A row per other observation.
    Observations,
}

/// A severity on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum FailOn {
    /// Anything at all.
    Info,
    /// The product will work badly or stop at times.
    Degraded,
    /// The product will not work.
    Blocking,
}

impl From<FailOn> for Severity {
    fn from(fail_on: FailOn) -> Self {
        match fail_on {
            FailOn::Info => Self::Info,
            FailOn::Degraded => Self::Degraded,
            FailOn::Blocking => Self::Blocking,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_flag_has_its_variable() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let hidden = ["help", "version"];
        for name in ["check", "soak", "diagnose", "export"] {
            let command = command.find_subcommand(name).unwrap();
            for arg in command.get_arguments().filter(|arg| !hidden.contains(&arg.get_id().as_str())) {
                let name = arg.get_long().unwrap_or(arg.get_id().as_str());
                let expected = format!("PROBE_{}", name.to_uppercase().replace('-', "_"));
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(expected.as_str()));
            }
        }
    }

    #[test]
    fn severities_are_those_of_findings() {
        for fail_on in FailOn::value_variants() {
            let name = serde_json::to_string(&Severity::from(*fail_on)).unwrap();
            assert_eq!(name.trim_matches('"'), fail_on.to_possible_value().unwrap().get_name());
        }
    }
}
