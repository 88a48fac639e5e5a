//! All that both ends of the probe pair do to the operating system: clocks, UDP sockets in batches, waiting,
//! pacing, the quinn socket adapters, and the few facts a host tells about its TCP connections and interfaces.
//!
//! The crate knows nothing of the probe protocol but its two kinds of time
//! ([`probe_protocol::time::Timestamp`] and [`probe_protocol::time::WallTime`]), and in [`bulk`] the load that it moves.
//! It owns sockets and clocks and decides nothing: what a platform cannot tell is absent (`None`), never a guess.
//!
//! | module | owns |
//! | --- | --- |
//! | [`clock`] | the three clocks, their pairing, and how a sleep or a set clock is seen |
//! | [`udp`] | UDP sockets that read and answer datagrams in batches, in place, with their headers |
//! | [`bulk`] | the thread that moves a load's blocks, the same at both ends |
//! | [`wait`] | waiting for many sockets, a waker and a deadline at once |
//! | [`pace`] | sleeping until an absolute time, precisely |
//! | [`quic`] | sockets for quinn that keep a ledger and can invert every bit |
//! | [`power`] | whether the machine may go to sleep |
//! | [`tcp`] | listeners, options, and what the kernel knows of a connection |
//! | [`memory`] | giving memory back |
//! | [`host`] | which local address, interface and gateway lead to a target |
//!
//! Every `unsafe` block of the workspace is in the private module `sys`.
#![deny(unsafe_code)]

pub mod bulk;
mod ceiling;
pub mod clock;
pub mod host;
pub mod memory;
pub mod pace;
pub mod power;
pub mod quic;
mod sys;
pub mod tcp;
pub mod udp;
pub mod wait;

#[cfg(unix)]
pub use std::os::fd::AsFd as AsRawSource;
#[cfg(windows)]
pub use std::os::windows::io::AsSocket as AsRawSource;
