//! Observations in, statistics and findings out, as a pure function: the same for a live check, a recorded file and
//! a simulated night.
//!
//! ```text
//! Observation -> Evidence (constant memory per flow) -> analyse -> Analysis (reachability, figures, findings)
//! ```
//!
//! | To learn | read |
//! | --- | --- |
//! | what a run can have seen: the only input | [`observation`] |
//! | what is kept of it | [`evidence`] |
//! | what happened when: outages, losses, shifts of delay | [`events`] |
//! | which statistic follows which RFC | [`stats`] |
//! | what comes out | [`model`] |
//! | how a cause is told, and where to add one | [`causes`] |
//! | what limits the rate of a stream of packets | [`rate`] |
//! | severities, fixes and commands | [`words`] |
//!
//! The crate reads no clock, opens nothing and knows nothing of how a run is made.
#![forbid(unsafe_code)]

pub mod causes;
pub mod events;
pub mod evidence;
#[cfg(any(test, feature = "made-up"))]
pub mod made_up;
pub mod model;
pub mod observation;
pub mod rate;
pub mod stats;
mod summarise;
pub mod words;

pub use self::evidence::Evidence;
pub use self::model::Analysis;
pub use self::summarise::analyse;
