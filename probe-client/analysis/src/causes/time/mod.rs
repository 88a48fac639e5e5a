//! What happened to everything at once, and what recurs.

pub(super) mod blackout;
pub(super) mod periodic_drop;
