//! The program `probe-server`: its command line, and what it prints.

mod args;
mod invite;
mod look;
mod results;
mod serve;
mod units;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

pub use args::{Args, Command, InviteArgs, ResultsArgs, ResultsCommand, ServeArgs};
pub use units::{Bits, Span, UnitError};

use crate::listener::StartError;
use crate::state::StateError;

/// How the program ends. Others script against the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Well.
    Ok = 0,
    /// Measured, with a finding (`doctor`).
    Finding = 1,
    /// The command line or a file is wrong.
    Usage = 2,
    /// It could not start.
    CouldNot = 3,
    /// Stopped at once.
    Stopped = 130,
}

/// Why a command failed: one line for people, and the number.
#[derive(Debug)]
pub struct Failure {
    says: String,
    exit: Exit,
}

impl Failure {
    /// A failure with this number.
    pub fn new(exit: Exit, says: impl Into<String>) -> Self {
        Self { says: says.into(), exit }
    }
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let exit = match error {
            StateError::Damaged { .. } | StateError::NoInvite(_) | StateError::NoResult(_) => Exit::Usage,
            StateError::Io { .. }
            | StateError::InUse { .. }
            | StateError::NoPlace
            | StateError::TooManyInvites => Exit::CouldNot,
        };
        Self::new(exit, error.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::State(error) => error.into(),
            StartError::Tls(crate::tls::TlsError::State(error)) => error.into(),
            StartError::Tls(error) => Self::new(Exit::Usage, error.to_string()),
            error @ (StartError::PortInUse { .. } | StartError::Bind { .. } | StartError::System(_)) => {
                Self::new(Exit::CouldNot, error.to_string())
            }
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::CouldNot, error.to_string())
    }
}

/// Runs the program with these arguments, the first of which is its name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let result = match Args::try_parse_from(args) {
        Ok(args) => run(args),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print(&error.render().to_string()).map(|()| Exit::Ok)
        }
        Err(error) => Err(Failure::new(Exit::Usage, usage(&error))),
    };
    let exit = result.unwrap_or_else(|failure| {
        say(&format!("probe-server: {}", failure.says));
        failure.exit
    });
    ExitCode::from(exit as u8)
}

fn run(args: Args) -> Result<Exit, Failure> {
    match args.command {
        None => serve::run(args.serve),
        Some(Command::Serve(serve)) => serve::run(serve),
        Some(Command::Doctor(doctor)) => {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let status = runtime.block_on(crate::doctor::main(&doctor));
            runtime.shutdown_background();
            Ok(if status == ExitCode::SUCCESS {
                Exit::Ok
            } else if status == ExitCode::from(Exit::Finding as u8) {
                Exit::Finding
            } else {
                Exit::CouldNot
            })
        }
        Some(Command::Invite(invite)) => invite::run(&invite),
        Some(Command::Results(results)) => results::run(&results),
    }
}

/// clap's message in one line: what is wrong, and where to learn more.
fn usage(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let what: Vec<_> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let what = what.join(" ");
    format!("{} (see probe-server --help)", what.strip_prefix("error: ").unwrap_or(&what))
}

/// Data for standard output. Whoever closed it wants no more: that is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A line for people, on standard error. Where that is closed there is nobody to tell.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A stranger's text for a terminal: control characters could make it say or do anything.
fn harmless(text: &str) -> String {
    let bidi =
        |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    text.chars()
        .map(|c| if (c.is_control() && c != '\n' && c != '\t') || bidi(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound_and_every_flag_has_a_variable() {
        let mut command = Args::command();
        command.build();
        command.clone().debug_assert();
        let mut stack = vec![command];
        while let Some(command) = stack.pop() {
            for arg in command.get_arguments().filter(|a| a.get_long().is_some()) {
                let id = arg.get_id().as_str();
                if matches!(id, "help" | "version") {
                    continue;
                }
                let name = arg.get_env().map(|n| n.to_string_lossy().into_owned());
                assert!(
                    name.as_ref().is_some_and(|n| n.starts_with("PROBE_")),
                    "--{id} of {}",
                    command.get_name()
                );
            }
            stack.extend(command.get_subcommands().filter(|c| c.get_name() != "help").cloned());
        }
    }

    #[test]
    fn wrong_flags_are_one_line() {
        for args in [
            &["probe-server", "--nonsense"][..],
            &["probe-server", "--port", "x"],
            &["probe-server", "results", "frob"],
        ] {
            let error = Args::try_parse_from(args).unwrap_err();
            let line = usage(&error);
            assert!(!line.contains('\n') && !line.starts_with("error"), "{line}");
            assert!(line.len() > 40, "{line}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(harmless("a\x1b[2Jb\u{202e}c\nd"), "a\u{fffd}[2Jb\u{fffd}c\nd");
    }
}
