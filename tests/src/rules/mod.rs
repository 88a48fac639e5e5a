//! What a network does to packets: rules as data, and the pipeline that carries them out.
//!
//! Everything here is pure. Time comes in with each packet, chance comes from a seed, and what happens comes out:
//! packets now or later, packets dropped, all of it written into the [`truth`]. The real-kernel lab and the simulated
//! network run the same code, the one with what a TUN device delivers, the other with packets from
//! [`crate::packet::build`].
//!
//! To add an action, add a variant to [`Action`], and what it does to `act/`; to add a criterion, a field to
//! [`Match`] and its test to `matcher.rs`.

pub mod act;
mod data;
pub mod flow;
mod matcher;
pub mod pipeline;
pub mod recognise;
pub mod truth;
pub mod units;

pub use data::{
    Action, Content, Direction, Every, IcmpCode, Match, Order, Per, Place, Rule, ServerName, Shape,
};
pub use flow::FlowKey;
pub use pipeline::{BadRule, Moment, Output, Pipeline, Sink};
pub use truth::Truth;

#[cfg(test)]
mod tests;
