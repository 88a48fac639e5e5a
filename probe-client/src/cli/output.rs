//! Standard output and standard error, and what goes wrong before a run.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;

use probe_protocol::invite::InviteError;
use probe_protocol::target::TargetError;
use thiserror::Error;

use super::exit::Exit;
use crate::check::CheckError;
use crate::record::FileError;
use crate::report::text::Look;
use crate::report::{Report, json, text};

/// Why a command did not do what it was asked for.
#[derive(Debug, Error)]
pub(super) enum Failure {
    /// The command is one of a later version.
    #[error("`{0}` is not in this version of probe-client")]
    NotInThisVersion(&'static str),
    /// No target was given.
    #[error(
        "give a target: HOST, HOST:PORT or the invite that the admin sent (or --local to try it without one)"
    )]
    NoTarget,
    /// A load needs an invite.
    #[error(
        "a rehearsal needs the admin's invite (`probe-server invite`): give it as the target, in PROBE_KEY or with --key-file"
    )]
    NeedsInvite,
    /// The target's form is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The key's form is wrong.
    #[error("{from}: {error}")]
    Key {
        /// Where it came from.
        from: String,
        /// What is wrong with it.
        error: InviteError,
    },
    /// The key's form is wrong, given as a whole invite.
    #[error("{from}: {error}")]
    KeyTarget {
        /// Where it came from.
        from: String,
        /// What is wrong with it.
        error: TargetError,
    },
    /// There is no key where one should be.
    #[error("{0} holds no invite: it should hold the invite as the admin sent it, or the part after #")]
    NoKey(String),
    /// The key's file cannot be read.
    #[error("the key file {path} cannot be read: {error}")]
    KeyFile {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A trace cannot be read.
    #[error("the trace {path}: {says}")]
    Trace {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        says: String,
    },
    /// The run could not be made.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// A recorded run cannot be read, or the file for one cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is a file already where one is to be written.
    #[error("{0} is there already: --force overwrites it, or name another one")]
    Exists(PathBuf),
    /// Parquet on a terminal is of no use.
    #[error("Parquet is not text: name a file with --out, or send it into a pipe")]
    Binary,
    /// A file cannot be written.
    #[error("{path} cannot be written: {error}")]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Standard output is full or broken.
    #[error("the report could not be written: {0}")]
    Output(#[from] io::Error),
    /// The report cannot be JSON.
    #[error("the report could not be written: {0}")]
    Json(#[from] serde_json::Error),
    /// It was stopped by a second Ctrl-C.
    #[error("stopped")]
    Stopped,
}

impl Failure {
    /// The status that it ends with.
    pub(super) const fn exit(&self) -> Exit {
        match self {
            Self::NotInThisVersion(_)
            | Self::NoTarget
            | Self::NeedsInvite
            | Self::Target(_)
            | Self::Key { .. }
            | Self::KeyTarget { .. }
            | Self::NoKey(_)
            | Self::KeyFile { .. }
            | Self::File(_)
            | Self::Exists(_)
            | Self::Binary
            | Self::Write { .. }
            | Self::Trace { .. } => Exit::Usage,
            Self::Check(_) | Self::Output(_) | Self::Json(_) => Exit::NotMeasured,
            Self::Stopped => Exit::Stopped,
        }
    }
}

/// Writes data to standard output.
pub(super) fn data(text: &str) -> Result<(), Failure> {
    bytes(text.as_bytes())
}

/// Writes data to standard output. A reader that has gone away is no error.
pub(super) fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// Prints a report.
pub(super) fn show(report: &Report, as_json: bool) -> Result<(), Failure> {
    if as_json { data(&json::render(report)?) } else { data(&text::render(report, look())) }
}

/// One line on standard error: what is wrong.
pub(super) fn complain(says: &str) {
    say(&format!("probe-client: {says}"));
}

/// One line on standard error.
pub(super) fn say(says: &str) {
    // Where standard error is gone, nobody is there to be told.
    let _ = writeln!(io::stderr(), "{says}");
}

/// How text on standard output may look: colours on a terminal alone, and none with NO_COLOR.
pub(super) fn look() -> Look {
    let is_terminal = io::stdout().is_terminal();
    let width = if is_terminal {
        terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
    } else {
        None
    };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Look { width: width.unwrap_or(80), colour: is_terminal && !no_color }
}
