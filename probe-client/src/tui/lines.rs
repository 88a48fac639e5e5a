//! A line a minute, and events as they come.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use probe_net::clock;
use probe_protocol::time::Timestamp;

use super::News;
use super::state::State;
use crate::record::Watcher;

/// How often something is said.
const EVERY: Duration = Duration::from_secs(60);
/// How often the state is looked at.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn run(state: &mut State, file: &Watcher, news: &Receiver<News>) {
    let mut next = clock::now() + EVERY;
    loop {
        match news.recv_timeout(LOOK) {
            Ok(News::Seen(observation, phase)) => {
                let is_past = phase.is_none();
                state.see(&observation, phase);
                if is_past {
                    // What an earlier part of the run went through was told then.
                    state.news();
                }
                continue_unless_due(state, file, &mut next);
            }
            Err(RecvTimeoutError::Timeout) => continue_unless_due(state, file, &mut next),
            Ok(News::Finish) | Err(RecvTimeoutError::Disconnected) => {
                let now = clock::now();
                state.recording(now, file.status());
                state.tick(now + EVERY);
                tell(state);
                return;
            }
        }
    }
}

fn continue_unless_due(state: &mut State, file: &Watcher, next: &mut Timestamp) {
    let now = clock::now();
    state.recording(now, file.status());
    state.tick(now);
    tell(state);
    if now >= *next {
        say(&minute(state, now));
        *next = now + EVERY;
    }
}

fn tell(state: &mut State) {
    for told in state.news() {
        say(&format!("  {:>9}  {}", clock_time(state.elapsed(told.at)), told.says));
    }
}

/// How it goes, in one line.
pub(super) fn minute(state: &State, now: Timestamp) -> String {
    let mut parts = vec![state.open_flows()];
    if let Some(all) = &state.all {
        let unknown =
            if all.lost_unknown > 0 { format!(", {} unknown", all.lost_unknown) } else { String::new() };
        parts.push(format!("{} probes, lost {} up, {} down{unknown}", all.sent, all.lost_up, all.lost_down));
        let recent = all.series.bins(Some(Duration::from_secs(60)), state.elapsed(now));
        // The median: what TCP brings late after an outage is no delay of the path.
        let mut delays: Vec<f64> = recent.iter().filter_map(|(_, bin)| bin.mean_ms()).collect();
        delays.sort_by(f64::total_cmp);
        if let Some(delay) = delays.get(delays.len() / 2) {
            parts.push(format!("delay {delay:.1} ms"));
        }
    }
    parts.push(format!("file {}", size(state.file.bytes)));
    if let Some(left) = state.left(now) {
        parts.push(format!("{} left", clock_time(left)));
    }
    format!("  {:>9}  {}", clock_time(state.elapsed(now)), parts.join("; "))
}

/// `1:02:03`.
pub(super) fn clock_time(time: Duration) -> String {
    let s = time.as_secs();
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}

/// Bytes for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        b if b < 1_000_000 => format!("{:.0} kB", b as f64 / 1e3),
        b => format!("{:.1} MB", b as f64 / 1e6),
    }
}

fn say(line: &str) {
    // Where standard error is gone, nobody is there to be told.
    let _ = writeln!(io::stderr(), "{line}");
}
