//! The doctor against real hosts: network namespaces of the tests' own, real rules, real packets.
#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests, where a failure is a failed test"
)]

mod commands;
mod egress;
mod firewall;
mod generated;
mod lab;
mod port;
mod router;
