//! The real programs in network namespaces of the tests' own: what issue 2 says they must show.
#![cfg(target_os = "linux")]
#![allow(missing_docs, reason = "tests")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests, where a failure is a failed test"
)]

mod alone;
mod floods;
mod hosts;
mod ledger;
mod page;
mod reach;
mod refusals;
mod start;
#[path = "../../../probe-server/tests/common/mod.rs"]
mod wire;
mod world;
