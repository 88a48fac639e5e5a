//! Deep packet inspection: what looks into packets and acts on what it sees.

pub(super) mod first_packets_dropped;
pub(super) mod flow_limit;
pub(super) mod images;
pub(super) mod killed;
pub(super) mod payload_rewritten;
pub(super) mod rst_injected;
pub(super) mod stale_flow_state;
pub(super) mod tcp_proxied;
pub(super) mod tls_blocked;
pub(super) mod tls_intercepted;
