//! `probe-client`: what the path to a probe-server does, and why. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(probe_client::cli::run(std::env::args_os()).status())
}
