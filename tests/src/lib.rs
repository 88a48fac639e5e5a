//! The lab: networks that behave badly on purpose, end-to-end tests, benches.
#![deny(unsafe_code)]

#[cfg(target_os = "linux")]
pub mod bench;
pub mod fuzz;
pub mod hash;
#[cfg(target_os = "linux")]
pub mod kernel;
pub mod matrix;
pub mod middlebox;
pub mod packet;
pub mod rules;
pub mod scenario;
pub mod sim;

#[cfg(target_os = "linux")]
pub use kernel::{Binaries, BuildError, Host, Lab, LabError, binaries, in_namespaces};
