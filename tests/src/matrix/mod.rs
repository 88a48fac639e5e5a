//! The confusion matrix: every scenario over many seeds, what had to be said beside what was said.
//!
//! | To learn | read |
//! | --- | --- |
//! | how a scenario is played in the simulated network | [`play()`] |
//! | what is counted, and what a floor is | [`tally`] |
//! | whether probabilities are what they say | [`calibration`] |
//! | how it is shown | [`table`] |
//! | how a long one goes on where it was stopped | [`kept`] |
//! | which runs there are: scenarios, two causes at once, benign ones | [`jobs`], [`pairs`] |

pub mod calibration;
pub mod jobs;
pub mod kept;
pub mod pairs;
pub mod play;
pub mod table;
pub mod tally;

pub use jobs::{Job, What};
pub use kept::Kept;
pub use play::{NotPlayed, Played, play, play_and_see};
pub use tally::{Failure, Floors, Row, Run, Tally, Wrong};
