//! A light listener that stands in for the product on its one port.
//!
//! | module | owns |
//! | --- | --- |
//! | [`core`] | everything that is decided: sessions, flows, ledgers, bounds; no sockets, no clocks |
//! | [`udp`](self) | the packet thread: batches of datagrams in, echoes out |
//! | [`stream`](self) | the TCP port: TLS, plain flows, the page for browsers |
//! | [`quic`](self) | QUIC and its inverse |
//! | [`state`] | the state directory |
//! | [`listener`] | starting and stopping all of it |
//! | [`doctor`] | what is wrong with this host before any client connects |
//! | [`cli`] | the program |
#![forbid(unsafe_code)]

mod bulk;
pub mod cli;
pub mod config;
pub mod core;
pub mod doctor;
pub mod listener;
mod metrics;
mod outbox;
pub mod port;
mod quic;
mod shared;
pub mod state;
mod stream;
pub mod tls;
mod udp;

pub use config::{Config, StatePlace};
pub use listener::{Listener, Running, StartError};
