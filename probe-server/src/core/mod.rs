//! The listener without sockets, clocks or threads: datagrams, requests and the time go in, what to do comes out.
//!
//! | module | owns |
//! | --- | --- |
//! | [`shard`] | what one packet thread does with each datagram |
//! | [`hub`] | sessions and flows over all transports, behind a lock |
//! | [`control`] | answers to what clients ask |
//! | [`book`] | what is remembered of one flow |
//! | [`bulk`] | loads |
//! | [`later`] | replies that leave later, or as fragments |
//! | [`limits`], [`limit`], [`allow`] | who may have how much |
//! | [`invites`] | what the invites give |
//! | [`quic`] | which datagrams are QUIC |
//! | [`event`], [`counters`] | what the admin is told |

pub mod allow;
pub mod book;
pub mod bulk;
pub mod control;
pub mod counters;
pub mod event;
mod flow;
pub mod hub;
pub mod invites;
pub mod later;
pub mod limit;
pub mod limits;
pub mod quic;
mod session;
pub mod shard;

pub use hub::Hub;
pub use session::{Closer, StreamFlow};
pub use shard::Shard;

use probe_protocol::PROTOCOL_VERSION;
use probe_protocol::wire::hello::{Hello, Refusal, Refuse, Software};

/// Whether a Hello of this version can be read here; its header and first two body bytes mean the same in all.
///
/// # Errors
/// Which end to update.
pub fn judge_versions(header_version: u8, body: &[u8]) -> Result<(), Refusal> {
    let (min, max) = Hello::versions(body).unwrap_or((header_version, header_version));
    if max < PROTOCOL_VERSION || header_version < PROTOCOL_VERSION {
        return Err(Refusal::ClientTooOld);
    }
    if min > PROTOCOL_VERSION || header_version > PROTOCOL_VERSION {
        return Err(Refusal::ListenerTooOld);
    }
    Ok(())
}

/// A refusal in this version's words.
pub fn refuse(reason: Refusal, software: Software) -> Refuse {
    Refuse { reason: Some(reason), min_version: PROTOCOL_VERSION, max_version: PROTOCOL_VERSION, software }
}

/// This program's version.
pub fn software() -> Software {
    let part = |text: &str| text.parse().unwrap_or(0);
    [
        part(env!("CARGO_PKG_VERSION_MAJOR")),
        part(env!("CARGO_PKG_VERSION_MINOR")),
        part(env!("CARGO_PKG_VERSION_PATCH")),
    ]
}
