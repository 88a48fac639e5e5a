//! What the listener tells its admin, one line each.

use std::net::SocketAddr;

use probe_protocol::wire::hello::{Carrier, Refusal, SessionId};
use serde::Serialize;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A client's run begins.
    SessionOpened {
        /// A short name of the session; the whole id is a secret between client and listener.
        session: SessionLabel,
        /// Where its first flow comes from.
        source: SocketAddr,
        /// Over what.
        carrier: Carrier,
        /// The invite's label; none for a client without one.
        invite: Option<String>,
    },
    /// A flow of the session comes from another address now.
    SessionMoved {
        /// The session.
        session: SessionLabel,
        /// Where it came from.
        old: SocketAddr,
        /// Where it comes from.
        new: SocketAddr,
    },
    /// A client's run is over.
    SessionClosed {
        /// The session.
        session: SessionLabel,
        /// Why.
        reason: CloseReason,
    },
    /// Somebody was turned away.
    Refused {
        /// Who.
        source: SocketAddr,
        /// Why.
        reason: Refusal,
        /// The same, for people.
        says: String,
    },
    /// A verdict was handed in and is kept.
    ResultReceived {
        /// The session.
        session: SessionLabel,
        /// What `probe-server results show` calls it.
        id: String,
        /// Bytes after compression.
        bytes: usize,
    },
}

/// Why a session is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// The client said so.
    Ended,
    /// Nothing was heard of it for too long.
    Idle,
    /// The time of a client without an invite is over.
    TimeUp,
    /// It made room for another.
    Evicted,
    /// Its invite was revoked.
    Revoked,
}

impl CloseReason {
    /// For people.
    pub const fn says(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Idle => "idle for too long",
            Self::TimeUp => "the short check's time is up",
            Self::Evicted => "made room for another",
            Self::Revoked => "its invite was revoked",
        }
    }
}

/// The first four bytes of a session's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionLabel([u8; 4]);

impl From<SessionId> for SessionLabel {
    fn from(id: SessionId) -> Self {
        let [a, b, c, d, ..] = id.0;
        Self([a, b, c, d])
    }
}

impl std::fmt::Display for SessionLabel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl Serialize for SessionLabel {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A verdict that a client handed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandedIn {
    /// The session.
    pub session: SessionId,
    /// Where it came from.
    pub source: SocketAddr,
    /// The invite's label.
    pub invite: Option<String>,
    /// The compressed document.
    pub document: Vec<u8>,
}

/// Where the core puts what the drivers must see to. Both are called on the packet thread, so they must neither
/// block nor wait; false says that the bound was reached.
pub trait Outbox: Send {
    /// Tells the admin.
    fn event(&mut self, event: Event) -> bool;
    /// Keeps a verdict; [`Hub::kept`](super::Hub::kept) says how that ended.
    fn handed_in(&mut self, result: HandedIn) -> bool;
}
