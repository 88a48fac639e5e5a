//! What both ends of the probe pair must agree on: the wire format, sessions, the ledger, causes and findings.
//!
//! The crate is pure: it names no runtime, opens no socket and reads no clock. Time is an argument
//! ([`time::Timestamp`]), randomness is an argument ([`rand::RngCore`]), and every decoder takes bytes from
//! strangers and answers with a typed error.
//!
//! | To learn | read |
//! | --- | --- |
//! | what a datagram or a stream record looks like | [`wire`] |
//! | how a probe is dressed for a classifier | [`wire::dress`] |
//! | how a flow opens | [`wire::hello`] |
//! | what the ends ask each other | [`control`] |
//! | how arrivals are remembered | [`ledger`] |
//! | how loads are sent and counted | [`bulk`] |
//! | what an invite carries | [`invite`] |
//! | what can be wrong with a path | [`cause`], [`finding`] |
#![forbid(unsafe_code)]

pub mod bulk;
pub mod cause;
pub mod control;
pub mod cookie;
pub mod finding;
pub mod invite;
pub mod ledger;
pub mod target;
pub mod time;
pub mod wire;

/// The one port of the product, for TCP and UDP.
pub const DEFAULT_PORT: u16 = 8886;

/// The version of everything that crosses the network. Ends of different versions refuse each other in words
/// (see [`wire::hello::Refusal`]); they never guess.
pub const PROTOCOL_VERSION: u8 = 1;
