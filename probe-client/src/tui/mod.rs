//! Watching a running soak: a view on a terminal, or a line a minute where there is none.
//!
//! | File | holds |
//! | --- | --- |
//! | `state` | what is shown: observations in, rows and lines out |
//! | `series` | delay and loss over time, in constant memory |
//! | `draw` | the view, as a function of the state |
//! | `terminal` | the terminal itself: keys in, frames out, and restored whatever happens |
//! | `lines` | lines for pipes and simple terminals |
//!
//! The measuring thread hands observations over and never waits; all else is on a thread of its own.

mod draw;
mod lines;
mod series;
mod state;
mod terminal;

use std::io::IsTerminal;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use probe_analysis::observation::Observation;

use self::state::State;
use crate::driver::Stop;
use crate::engine::Phase;
use crate::record::Watcher;

/// Observations that wait to be shown, at most; what is more is not shown.
const QUEUE: usize = 8192;

/// What the measuring thread hands over.
enum News {
    Seen(Box<Observation>, Option<Phase>),
    Finish,
}

/// What is to be watched.
#[derive(Debug)]
pub struct Subject {
    /// The target, as shown.
    pub target: String,
    /// How long is measured; none for until it is stopped.
    pub length: Option<Duration>,
    /// How recording goes.
    pub file: Watcher,
    /// Ends the run.
    pub stop: Stop,
}

/// Shows a run while it goes on.
#[derive(Debug)]
pub struct View {
    news: SyncSender<News>,
    thread: JoinHandle<()>,
}

impl View {
    /// Begins to show, on the terminal where there is one that can and `plain` is not asked for.
    pub fn start(subject: Subject, plain: bool) -> Self {
        let (news, arrives) = sync_channel(QUEUE);
        let terminal = !plain && is_capable();
        let thread = std::thread::spawn(move || show(&subject, terminal, &arrives));
        Self { news, thread }
    }

    /// Takes what was seen. Never waits.
    pub fn see(&self, observation: &Observation, phase: Phase) {
        match self.news.try_send(News::Seen(Box::new(observation.clone()), Some(phase))) {
            // What is not shown is recorded all the same.
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }

    /// Takes what an earlier part of the run saw. Waits for room.
    pub fn replay(&self, observation: &Observation) {
        // A view that has gone away needs nothing.
        let _ = self.news.send(News::Seen(Box::new(observation.clone()), None));
    }

    /// Takes the view away; the terminal is as it was.
    pub fn finish(self) {
        let _ = self.news.send(News::Finish);
        // A view that failed has put the terminal back already.
        let _ = self.thread.join();
    }
}

/// A terminal that keys come from and that can be drawn on.
fn is_capable() -> bool {
    let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    std::io::stderr().is_terminal() && std::io::stdin().is_terminal() && !(dumb && cfg!(unix))
}

fn show(subject: &Subject, terminal: bool, news: &Receiver<News>) {
    let mut state = State::new(subject.target.clone(), subject.length);
    // A view that breaks leaves the lines.
    let drawn = AssertUnwindSafe(|| terminal::run(&mut state, subject, news));
    if terminal && matches!(std::panic::catch_unwind(drawn), Ok(Ok(()))) {
        return;
    }
    state.charts = false;
    lines::run(&mut state, &subject.file, news);
}

#[cfg(test)]
mod tests;
