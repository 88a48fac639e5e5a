//! probe-server: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    probe_server::cli::main(std::env::args_os())
}
