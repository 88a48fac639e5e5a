//! Judges a recorded run again: the same observations through the same analysis as live.
//!
//! A run that ended in order has its report in its file. Where that report was made by the very same judgement (its sources
//! have one fingerprint) and of all that the file holds, making it again would give it again, so it is taken as it is. Any
//! other version judges the observations anew.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use probe_analysis::observation::{FlowNo, Observation, Probe};
use probe_analysis::{Evidence, analyse};

use crate::record::{Batch, FileError, Recording};
use crate::report::{Origin, Report, build};

/// The fingerprint of everything that decides what is said of a run.
pub const JUDGEMENT: &str = env!("PROBE_JUDGEMENT");

/// A recorded run, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What is said of it.
    pub report: Report,
    /// Observations of kinds that this version does not know, which were left out.
    pub skipped: u64,
}

/// Judges a recorded run; `afresh` from its observations, whatever report its file holds.
///
/// # Errors
/// As reading the file: it is damaged, or the system says no.
pub fn recorded(recording: &Recording, afresh: bool) -> Result<Judged, FileError> {
    if !afresh
        && let Some(text) = recording.report_by(JUDGEMENT)?
        && let Ok(report) = serde_json::from_str(&text)
    {
        return Ok(Judged { report, skipped: 0 });
    }
    let (evidence, skipped) = read(recording)?;
    let about = recording.about();
    let origin =
        Origin { id: about.id.clone(), kind: kind(&about.kind), port: about.port, quick: about.quick };
    Ok(Judged { report: build(analyse(&evidence), origin), skipped })
}

/// Parts on their way from one thread to the next: what is read ahead stays small.
const AHEAD: usize = 4;
/// Probes of a part, about.
const PART: usize = 1 << 14;

/// What is read and not yet handed on. Probes are put together flow by flow: what is kept of one flow fits into a core's
/// cache, what is kept of all does not. Where it matters in which order something came, it stays in that order.
#[derive(Default)]
struct Gathered {
    pieces: Vec<Batch>,
    flows: BTreeMap<FlowNo, Vec<Probe>>,
    probes: usize,
}

impl Gathered {
    fn add(&mut self, batch: Batch) {
        match batch {
            Batch::Probes(probes) => {
                self.probes += probes.len();
                for probe in probes {
                    self.flows.entry(probe.flow).or_default().push(probe);
                }
            }
            Batch::Other(other) => {
                match concern(&other) {
                    Concern::Nothing => {}
                    Concern::Flow(flow) => {
                        if let Some(probes) = self.flows.get_mut(&flow).filter(|probes| !probes.is_empty()) {
                            self.pieces.push(Batch::Probes(std::mem::take(probes)));
                        }
                    }
                    Concern::All => self.flush(),
                }
                self.pieces.push(Batch::Other(other));
            }
        }
    }

    fn flush(&mut self) {
        let flows = std::mem::take(&mut self.flows).into_values();
        self.pieces.extend(flows.filter(|probes| !probes.is_empty()).map(Batch::Probes));
        self.probes = 0;
    }

    /// What is handed on now.
    fn take(&mut self) -> Vec<Batch> {
        self.flush();
        std::mem::take(&mut self.pieces)
    }

    fn is_full(&self) -> bool {
        self.probes >= PART || self.pieces.len() >= PART
    }
}

/// Which probes an observation must not overtake.
enum Concern {
    Nothing,
    Flow(FlowNo),
    All,
}

fn concern(observation: &Observation) -> Concern {
    match observation {
        Observation::Attempt(o) => Concern::Flow(o.flow),
        Observation::FlowPlanned(o) => Concern::Flow(o.flow),
        Observation::FlowOpened(o) => Concern::Flow(o.flow),
        Observation::Channel(o) => Concern::Flow(o.flow),
        Observation::Probe(o) => Concern::Flow(o.flow),
        Observation::Missed(o) => Concern::Flow(o.flow),
        Observation::Rewritten(o) => Concern::Flow(o.flow),
        Observation::Datagrams(o) => Concern::Flow(o.flow),
        Observation::Tcp(o) => Concern::Flow(o.flow),
        Observation::StreamEnd(o) => Concern::Flow(o.flow),
        // The listener's clock is another one, a flow's place is given to another, or a step of load is told.
        Observation::RunStarted(_)
        | Observation::ListenerRestarted(_)
        | Observation::FlowEnded(_)
        | Observation::Load(_)
        | Observation::RunEnded(_) => Concern::All,
        Observation::Resolved(_)
        | Observation::Moved(_)
        | Observation::Arrivals(_)
        | Observation::PathMtu(_)
        | Observation::Silence(_)
        | Observation::IdleGap(_)
        | Observation::Fragment(_)
        | Observation::Watch(_)
        | Observation::Proxy(_)
        | Observation::NameChanged(_)
        | Observation::AnsweredLate(_)
        | Observation::Host(_)
        | Observation::Ceiling(_) => Concern::Nothing,
    }
}

/// All that a file holds, condensed. A thread reads and decompresses it, one finds episodes, and this one does the rest.
fn read(recording: &Recording) -> Result<(Evidence, u64), FileError> {
    let mut evidence = Evidence::default();
    let mut ledger = std::mem::take(&mut evidence.ledger);
    let (read, found) = std::thread::scope(|scope| {
        let (here, parts) = sync_channel::<Arc<Vec<Batch>>>(AHEAD);
        let (beside, for_ledger) = sync_channel::<Arc<Vec<Batch>>>(AHEAD);
        let path = recording.path();
        let reader = scope.spawn(move || {
            // A connection of its own: SQLite's are not to be shared.
            let recording = Recording::open(path)?;
            let mut observations = recording.observations();
            let mut gathered = Gathered::default();
            loop {
                let batch = observations.next_batch()?;
                let over = batch.is_none();
                if let Some(batch) = batch {
                    gathered.add(batch);
                }
                if over || gathered.is_full() {
                    let part = Arc::new(gathered.take());
                    if here.send(Arc::clone(&part)).and(beside.send(part)).is_err() {
                        break;
                    }
                }
                if over {
                    break;
                }
            }
            Ok(observations.skipped())
        });
        let finder = scope.spawn(move || {
            for part in for_ledger {
                for batch in part.iter() {
                    match batch {
                        Batch::Probes(probes) => ledger.probes(probes),
                        Batch::Other(other) => ledger.observe(other),
                    }
                }
            }
            ledger
        });
        for part in parts {
            for batch in part.iter() {
                match batch {
                    Batch::Probes(probes) => evidence.probes_beside_ledger(probes),
                    Batch::Other(other) => evidence.observe_beside_ledger(other),
                }
            }
        }
        (
            reader.join().unwrap_or_else(|p| resume_unwind(p)),
            finder.join().unwrap_or_else(|p| resume_unwind(p)),
        )
    });
    evidence.ledger = found;
    Ok((evidence, read?))
}

/// The command that recorded it.
fn kind(recorded: &str) -> &'static str {
    ["check", "soak", "rehearse"].into_iter().find(|kind| *kind == recorded).unwrap_or("recorded")
}
