//! What a run shows while it goes on, on standard error: a line per flow as it opens or fails, then the time left.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use probe_analysis::observation::{End, FlowNo, Observation, Purpose};
use probe_protocol::time::Timestamp;

use super::output::say;
use crate::engine::Phase;

/// The display of one run.
pub(super) struct Progress {
    /// None where standard error is no terminal: then plain lines.
    bar: Option<ProgressBar>,
    names: BTreeMap<FlowNo, String>,
    start: Option<Timestamp>,
    /// What is said to be going on.
    doing: &'static str,
}

impl Progress {
    /// For a run that takes up to `length`.
    pub(super) fn new(length: Duration) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(length.as_millis() as u64);
            if let Ok(style) = ProgressStyle::with_template("  {wide_bar} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, names: BTreeMap::new(), start: None, doing: "" }
    }

    /// Takes one observation.
    pub(super) fn see(&mut self, observation: &Observation, phase: Phase) {
        self.enter(phase);
        match observation {
            Observation::RunStarted(o) => self.start = Some(o.at),
            Observation::Resolved(o) => {
                if let Some(error) = &o.error {
                    self.line(&format!("  {}: {error}", o.host));
                }
            }
            Observation::FlowPlanned(o) => {
                if matches!(o.purpose, Purpose::Steady | Purpose::Reach) {
                    self.names.insert(o.flow, o.name.clone());
                }
                self.advance(o.at);
            }
            Observation::FlowOpened(o) => {
                self.advance(o.at);
                self.outcome(o.flow, "open");
            }
            Observation::FlowEnded(o) => {
                self.advance(o.at);
                match &o.end {
                    End::NeverOpened => self.outcome(o.flow, "does not open"),
                    End::Reset => self.outcome(o.flow, "was reset"),
                    End::TimedOut => self.outcome(o.flow, "fell silent"),
                    End::Closed | End::ListenerRestarted | End::Error(_) => {
                        self.outcome(o.flow, "was closed");
                    }
                    End::Finished => {}
                }
            }
            Observation::Probe(o) => self.advance(o.sent),
            Observation::Host(o) => self.advance(o.to),
            Observation::ListenerRestarted(o) => {
                self.advance(o.at);
                self.line("  the listener was restarted");
            }
            Observation::Moved(o) => {
                self.advance(o.at);
                self.line("  the source address or port changed on the way");
            }
            Observation::Attempt(_)
            | Observation::Channel(_)
            | Observation::Missed(_)
            | Observation::Rewritten(_)
            | Observation::Datagrams(_)
            | Observation::Arrivals(_)
            | Observation::Proxy(_)
            | Observation::Tcp(_)
            | Observation::PathMtu(_)
            | Observation::Load(_)
            | Observation::Ceiling(_)
            | Observation::Silence(_)
            | Observation::IdleGap(_)
            | Observation::Fragment(_)
            | Observation::Watch(_)
            | Observation::StreamEnd(_)
            | Observation::NameChanged(_)
            | Observation::AnsweredLate(_)
            | Observation::RunEnded(_) => {}
        }
    }

    /// Takes the display away.
    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn enter(&mut self, phase: Phase) {
        let says = match phase {
            Phase::Reach => "opening",
            Phase::Measure => "measuring",
            Phase::Drain | Phase::Settle | Phase::Settled => "waiting for the last answers",
            Phase::HandIn => "handing in the verdict",
            Phase::Done => return,
        };
        if std::mem::replace(&mut self.doing, says) == says {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(says),
            None => say(&format!("  {says} ...")),
        }
    }

    fn outcome(&self, flow: FlowNo, says: &str) {
        if let Some(name) = self.names.get(&flow) {
            self.line(&format!("  {name:<20} {says}"));
        }
    }

    fn line(&self, says: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(says)),
            None => say(says),
        }
    }

    fn advance(&self, at: Timestamp) {
        if let (Some(bar), Some(start)) = (&self.bar, self.start) {
            let gone = at.since(start).as_millis() as u64;
            if gone > bar.position() + 100 {
                bar.set_position(gone.min(bar.length().unwrap_or(gone)));
            }
        }
    }
}
