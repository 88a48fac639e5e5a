//! The confusion matrix: every scenario over many seeds, what had to be said beside what was said.
//!
//! | To learn | read |
//! | --- | --- |
//! | how a scenario is played in the simulated network | [`play()`] |
//! | what is counted, and what a floor is | [`tally`] |
//! | how it is shown | [`table`] |

pub mod play;
pub mod table;
pub mod tally;

pub use play::{NotPlayed, Played, play};
pub use tally::{Failure, Floors, Row, Run, Tally};
