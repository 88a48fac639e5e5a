//! The real programs, built for the tests that run them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `probe-server`.
    pub server: PathBuf,
    /// `probe-client`.
    pub client: PathBuf,
}

/// Why there are no programs to run.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BuildError {
    /// This program does not lie in a build folder.
    #[error("cannot tell where this program was built, and so not where to build the others")]
    Place,
    /// Cargo could not be started.
    #[error("cannot start cargo: {0}")]
    Start(String),
    /// Cargo failed.
    #[error("cargo cannot build probe-server and probe-client:\n{0}")]
    Build(String),
}

/// Builds `probe-server` and `probe-client` in the profile of the calling program, once per process, where they are not or
/// are older than what they are made of.
pub fn binaries() -> Result<&'static Binaries, BuildError> {
    static BUILT: OnceLock<Result<Binaries, BuildError>> = OnceLock::new();
    BUILT.get_or_init(build).as_ref().map_err(Clone::clone)
}

impl Binaries {
    /// Where the programs would be, whether or not they have been built.
    pub fn unbuilt() -> Result<Self, BuildError> {
        let folder = folder()?;
        Ok(Self { server: folder.join("probe-server"), client: folder.join("probe-client") })
    }
}

/// Where cargo puts programs of the calling program's profile.
fn folder() -> Result<PathBuf, BuildError> {
    let program = std::env::current_exe().map_err(|_| BuildError::Place)?;
    // Programs lie in target/PROFILE, tests and benches one folder deeper.
    let folder = program.parent().ok_or(BuildError::Place)?;
    let is_deeper = folder.ends_with("deps") || folder.ends_with("examples");
    let folder = if is_deeper { folder.parent() } else { Some(folder) };
    folder.map(Path::to_path_buf).ok_or(BuildError::Place)
}

/// Whether a program is there and no older than any source of its own that cargo wrote down beside it. Cargo itself, asked
/// for these two programs alone, would build what they need with other features than a whole workspace has.
fn is_current(program: &Path) -> bool {
    let changed = |path: &Path| std::fs::metadata(path).and_then(|found| found.modified()).ok();
    let (Some(built), Ok(made_of)) = (changed(program), std::fs::read_to_string(program.with_extension("d")))
    else {
        return false;
    };
    // As make has it: the program, a colon, and what it is made of; blanks in names stand behind a backslash.
    let Some((_, sources)) = made_of.lines().next().and_then(|line| line.split_once(": ")) else {
        return false;
    };
    let names = sources.replace("\\ ", "\0");
    let mut names =
        names.split(' ').filter(|name| !name.is_empty()).map(|name| name.replace('\0', " ")).peekable();
    names.peek().is_some() && names.all(|name| changed(Path::new(&name)).is_some_and(|at| at <= built))
}

fn build() -> Result<Binaries, BuildError> {
    let folder = folder()?;
    let there = Binaries::unbuilt()?;
    if is_current(&there.server) && is_current(&there.client) {
        return Ok(there);
    }
    let target = folder.parent().ok_or(BuildError::Place)?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or(BuildError::Place)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args([
        "build",
        "--quiet",
        "-p",
        "probe-server",
        "-p",
        "probe-client",
        "--bins",
    ]);
    cargo.arg("--target-dir").arg(target);
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output().map_err(|error| BuildError::Start(error.to_string()))?;
    if !output.status.success() {
        return Err(BuildError::Build(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Binaries::unbuilt()
}
