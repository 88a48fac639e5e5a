//! Deep packet inspection: what looks into packets and acts on what it sees.

pub(super) mod payload_rewritten;
pub(super) mod quic_blocked;
pub(super) mod tls_blocked;
pub(super) mod tls_intercepted;
