//! What a listener takes that has nothing to do.

use std::path::Path;
use std::time::Duration;

use super::process::Listener;
use super::{BenchError, Bound, Effort, Row, Spread};

/// Until what its start needed has settled.
const SETTLED: Duration = Duration::from_millis(700);
const MEGABYTE: f64 = 1e6;

/// Starts it several times, each time for the first time: it makes its key and its certificate.
pub fn measure(binary: &Path, effort: &Effort, say: &mut dyn FnMut(&str)) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for (how, arguments) in [("", &[][..]), (", without its doctor", &["--no-doctor"][..])] {
        say(&format!("the idle listener{how}"));
        let (mut resident, mut ready) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let listener = Listener::start(binary, None, arguments)?;
            ready.push(listener.ready_after.as_secs_f64() * 1e3);
            std::thread::sleep(SETTLED);
            resident.extend(listener.program.status("VmRSS").map(|bytes| bytes as f64 / MEGABYTE));
        }
        let mut push = |what: &str, unit, values: Vec<f64>, bound: f64| {
            let row = |s| Row::alone(format!("{what}{how}"), unit, s, Some(Bound::AtMost(bound)));
            rows.extend(Spread::of(values).map(row));
        };
        push("idle listener: resident", "MB", resident, 10.0);
        push("idle listener: from its first start to taking traffic", "ms", ready, 50.0);
    }
    let size = std::fs::metadata(binary).map_err(BenchError::during("looking at probe-server's file"))?;
    let size = size.len() as f64 / MEGABYTE;
    let spread = Spread { min: size, median: size, max: size };
    rows.push(Row::alone("probe-server: its file", "MB", spread, Some(Bound::AtMost(10.0))));
    Ok(rows)
}
