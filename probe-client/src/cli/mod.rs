//! The command line: what can be asked for, what comes out where, and with which exit status.
//!
//! Data goes to standard output, all else to standard error. Every failure is one line that says what is wrong and what
//! to do about it.

mod analyze;
mod args;
mod check;
mod diagnose;
mod exit;
mod export;
mod key;
mod output;
mod progress;
mod rehearse;
mod signals;
mod soak;
pub mod units;

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use self::args::{Cli, Command};
pub use self::exit::Exit;
use self::output::Failure;
use crate::report::json;

/// Runs the program with its arguments, the program's own name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    match command(cli.command) {
        Ok(exit) => exit,
        Err(failure) => {
            output::complain(&failure.to_string());
            failure.exit()
        }
    }
}

fn command(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Check(args) => check::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Schema => output::data(&json::schema()?).map(|()| Exit::Clean),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "probe-client", &mut script);
            output::bytes(&script).map(|()| Exit::Clean)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            output::bytes(&page).map(|()| Exit::Clean)
        }
        Command::Diagnose(args) => diagnose::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Rehearse(args) => rehearse::run(&args),
        Command::Report(_) | Command::Compare(_) => Err(Failure::NotInThisVersion(command.name())),
    }
}

/// What clap refuses, or is asked to show.
fn refused(error: &clap::Error) -> Exit {
    let kind = error.kind();
    if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe is no error.
        let _ = error.print();
        return Exit::Clean;
    }
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Exit::Usage;
    }
    let text = error.render().to_string();
    let first: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let says = first.join(" ");
    let says = says.strip_prefix("error: ").unwrap_or(&says);
    output::complain(&format!("{says} (`probe-client --help` shows what there is)"));
    Exit::Usage
}
