//! Quality of service: what the path does to load. Judged on steps of load ([`crate::observation::Load`]) alone; where a
//! run sent none, nothing is said.
//!
//! Rates are those of IP packets: to the payload of each datagram its UDP and IP headers are added, since that is what
//! devices on the way count. Where an end's own ceiling is near, nothing is said of the path.

pub(super) mod deprioritized;
mod hold;
pub(super) mod limits;
mod measure;
mod series;
pub(super) mod steps;
pub(super) mod throttled;

#[cfg(test)]
mod tests;
