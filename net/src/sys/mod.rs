//! Where the workspace talks to the operating system beyond what `std` and `socket2` offer. Each platform offers
//! the same modules: `time`, `udp`, `poll`, `tcp`.
//!
//! Of these files only those that make system calls allow `unsafe`; the layouts the kernel reads and writes
//! (control messages, socket addresses) are encoded and decoded in safe code.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) use linux::memory;
#[cfg(target_os = "linux")]
pub(crate) use linux::{poll, tcp, time, udp};

#[cfg(not(target_os = "linux"))]
mod portable;
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{poll, tcp, udp};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
use windows as platform;
#[cfg(windows)]
pub(crate) use windows::{power, time};

#[cfg(all(unix, not(target_os = "linux")))]
mod unix;
#[cfg(all(unix, not(target_os = "linux")))]
use unix as platform;
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) use unix::time;
