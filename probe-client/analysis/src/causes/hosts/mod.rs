//! The two hosts themselves. What they did, the path is not blamed for.

pub(super) mod client_suspended;
pub(super) mod clock_stepped;
pub(super) mod host_stalled;
pub(super) mod interface_changed;
pub(super) mod listener_restarted;
