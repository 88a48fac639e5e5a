//! Speed, measured against the tools that people use today: both sides in one run, on the same machine, in turns.
//!
//! | Module | measures |
//! | --- | --- |
//! | [`echoes`] | how many echoes a second one core answers, and what one echo costs |
//! | [`delay`] | the round trip's floor, on an idle and on a saturated machine; how exactly probes leave |
//! | [`idle`] | what a listener takes that has nothing to do |
//! | [`sessions`] | ten thousand sessions on one listener |
//! | [`bulk`] | how much one flow moves, and what that costs at either end |
//!
//! A ratio is taken within one round, whose two halves follow each other at once; over the rounds its median, minimum
//! and maximum are told. A tool that is not installed is left out with a word. Nothing here is a test.

pub mod bulk;
pub mod delay;
pub mod echoes;
mod figures;
pub mod idle;
mod load;
mod machine;
mod ours;
mod process;
mod render;
pub mod sessions;
mod tools;

use std::io;
use std::time::Duration;

pub use figures::{Bound, Figures, Row, Spread};
pub use machine::Machine;
pub use render::markdown;

use crate::kernel::BuildError;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The listener could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The system refused something.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        error: io::Error,
    },
    /// A program did not do what it should.
    #[error("{0}")]
    Program(String),
}

impl BenchError {
    /// Says what was tried when the system refused it.
    fn during(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Turns of each pair.
    pub rounds: usize,
    /// Length of one turn of an echo load.
    pub echo: Duration,
    /// Length of one turn of a delay measurement.
    pub delay: Duration,
    /// How long the sessions run.
    pub sessions: Duration,
    /// How many sessions.
    pub session_count: usize,
    /// Length of one turn of a bulk load.
    pub bulk: Duration,
}

impl Effort {
    /// Some five minutes.
    pub const FULL: Self = Self {
        rounds: 7,
        echo: Duration::from_millis(1500),
        delay: Duration::from_secs(4),
        sessions: Duration::from_secs(20),
        session_count: 10_000,
        bulk: Duration::from_secs(5),
    };
    /// About one minute.
    pub const QUICK: Self = Self {
        rounds: 3,
        echo: Duration::from_millis(500),
        delay: Duration::from_millis(1200),
        sessions: Duration::from_secs(5),
        session_count: 10_000,
        bulk: Duration::from_secs(2),
    };
}

/// The core that servers get.
const SERVER_CORE: usize = 0;
/// The core that generators and clients get; the servers' where there is only one.
const CLIENT_CORE: usize = 1;
