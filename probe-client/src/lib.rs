//! Measures what the path to a probe-server does to TCP, TLS, UDP and QUIC, and names the cause.
//!
//! Data runs one way: [`plan`] -> [`engine`] <-> drivers -> observations -> analysis -> report.

pub mod awake;
pub mod check;
pub mod cli;
pub mod driver;
pub mod engine;
pub mod export;
pub mod judge;
pub mod lines;
pub mod plan;
pub mod record;
pub mod report;
pub mod trace;
pub mod tui;
