//! Runs a tool of the system, bounded in time and output. Read-only by the caller's choice of tool.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A tool that takes longer is given up.
const TIME_OUT: Duration = Duration::from_secs(4);
/// A tool that prints more is given up.
const MAX_OUTPUT: u64 = 64 << 20;
/// As much of its complaints as is kept.
const MAX_ERRORS: u64 = 4096;

/// Why a tool gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExecError {
    #[error("{0} is not installed")]
    Missing(String),
    #[error("{0} needs privileges")]
    Denied(String),
    #[error("{0} failed: {1}")]
    Failed(String, String),
    #[error("{0} took longer than {n} s", n = TIME_OUT.as_secs())]
    TimedOut(String),
    #[error("{0} printed more than {n} MiB", n = MAX_OUTPUT >> 20)]
    TooLong(String),
}

/// What `program args` prints, if it ends well.
pub(super) async fn run(program: &str, args: &[&str]) -> Result<String, ExecError> {
    let name = || program.rsplit(['/', '\\']).next().unwrap_or(program).to_owned();
    let Some(path) = find(program) else { return Err(ExecError::Missing(name())) };
    let mut command = tokio::process::Command::new(path);
    // Output in the language that the parsers read.
    command.args(args).env("LC_ALL", "C").env("LANGUAGE", "C");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            ExecError::Missing(name())
        } else if error.kind() == std::io::ErrorKind::PermissionDenied {
            ExecError::Denied(name())
        } else {
            ExecError::Failed(name(), error.to_string())
        }
    })?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let all = async {
        let (out, errors, status) =
            tokio::join!(collect(stdout, MAX_OUTPUT), collect(stderr, MAX_ERRORS), child.wait());
        (out, errors, status)
    };
    let Ok((out, errors, status)) = tokio::time::timeout(TIME_OUT, all).await else {
        return Err(ExecError::TimedOut(name()));
    };
    let errors = String::from_utf8_lossy(&errors).trim().to_owned();
    match status {
        Ok(status) if status.success() => {
            if out.len() as u64 > MAX_OUTPUT {
                return Err(ExecError::TooLong(name()));
            }
            Ok(String::from_utf8_lossy(&out).into_owned())
        }
        Ok(status) => {
            let said =
                if errors.is_empty() { String::from_utf8_lossy(&out).trim().to_owned() } else { errors };
            let low = said.to_lowercase();
            let denied =
                ["permitted", "permission denied", "must be root", "need to be root", "not authorized"]
                    .iter()
                    .any(|words| low.contains(words));
            let line = said.lines().next().map_or_else(|| status.to_string(), str::to_owned);
            Err(if denied { ExecError::Denied(name()) } else { ExecError::Failed(name(), line) })
        }
        Err(error) => Err(ExecError::Failed(name(), error.to_string())),
    }
}

/// Reads to the end, keeping `limit` bytes and one more, so that the caller can tell; the rest is read and dropped,
/// so that the tool is not stopped by a full pipe.
async fn collect(from: Option<impl AsyncRead + Unpin>, limit: u64) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut from) = from
        && (&mut from).take(limit + 1).read_to_end(&mut kept).await.is_ok()
    {
        drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
    }
    kept
}

/// The program in the places where tools of the system live, whether or not they are in `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let direct = PathBuf::from(program);
    if direct.components().count() > 1 {
        return direct.is_file().then_some(direct);
    }
    if cfg!(windows) {
        // The system searches its own folders.
        return Some(direct);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}
