//! The `.probe` file: everything that a run saw, in one file that outlives whatever happens to the program.
//!
//! It is a SQLite database. `application_id` is `0x70726f62` (`prob`), `user_version` the format's ([`FORMAT_VERSION`]).
//! While a run is recorded it is in WAL mode with `synchronous=FULL` and committed at least each second; a clean end folds
//! the log in and leaves one file. Other programs may read it meanwhile.
//!
//! | Table | holds |
//! | --- | --- |
//! | `meta` | the command, the target, the program's version, the resolution of times |
//! | `segments` | each start of the run: the first, and each resumption |
//! | `observations` | all observations but single probes, as JSON: flows, attempts, events, host health |
//! | `chunks` | single probes, as compressed columns (`chunk`): a second's at first, then folded into large ones |
//! | `packed` | observations that come each second, as compressed lines of JSON |
//! | `open_probes` | probes that were sent and whose fate was not told yet at the last commit; empty after a clean end |
//! | `report` | the report of each segment, as `--json` prints it |
//! | views `flows`, `events`, `findings`, `host_health` | for `sqlite3` |
//!
//! Every observation has a position; those of a chunk's probes are the ones from its `first` on that no row has. So the run
//! is read back in its order ([`Recording::observations`]), and judged again as it was. Figures per second and flow
//! ([`Second`]) are summed up from the probes when they are asked for.
//!
//! A probe's fate is told seconds after it was sent. So that a kill costs no more than the last second of what was sent,
//! each commit holds the probes under way too, in place of those of the commit before. They count as the last observations
//! of a file that nobody writes any more, and become ordinary ones when its run is resumed.
//!
//! | File | holds |
//! | --- | --- |
//! | `schema` | tables, opening, what is wrong with a file |
//! | `chunk`, `column`, `seconds`, `rows` | how things become bytes |
//! | `store` | commits and folding |
//! | `segment` | resumed runs |
//! | `read` | reading |
//! | `resolution` | rounding |

mod chunk;
mod column;
mod read;
mod resolution;
mod rows;
mod schema;
mod seconds;
mod segment;
mod store;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use probe_analysis::observation::{End, FlowEnded, FlowNo, HostEvent, HostFault, Observation, Probe};
use probe_net::clock;
use probe_protocol::time::Timestamp;
use rusqlite::{Connection, ErrorCode, params};

pub use self::read::{About, Batch, Observations, Recording};
pub use self::resolution::Resolution;
pub use self::schema::{APPLICATION_ID, FORMAT_VERSION, FileError};
pub use self::seconds::Second;
pub use self::segment::Clocks;
use self::segment::Segment;
use self::store::Store;
use crate::driver::Keep;

/// How often what was seen reaches the disk, at least.
const COMMIT_EVERY: Duration = Duration::from_millis(900);
/// Observations that wait for the writer at most: minutes of a soak.
const QUEUE: usize = 16_384;
/// A commit that takes longer is a slow disk, and worth telling.
const SLOW: Duration = Duration::from_secs(2);
/// Room that is left free on a disk beside what the run needs.
const SPARE: u64 = 16 << 20;

/// What to do with a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone: it is an error.
    Refuse,
    /// Write over it.
    Overwrite,
}

/// How recording goes, for whoever watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Bytes on disk.
    pub bytes: u64,
    /// What is wrong with writing at present.
    pub trouble: Option<String>,
    /// Observations that were not kept, since the disk took nothing for too long.
    pub dropped: u64,
}

enum Message {
    Saw(Box<Observation>),
    Open(Vec<Probe>),
    Finish(Option<String>),
}

/// Shared with the writer.
#[derive(Debug, Default)]
struct Shared {
    status: Mutex<Status>,
    /// Observations that found the queue full.
    refused: AtomicU64,
    has_events: AtomicBool,
    events: Mutex<Vec<Observation>>,
}

impl Shared {
    fn status<T>(&self, change: impl FnOnce(&mut Status) -> T) -> T {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, event: Observation) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        self.has_events.store(true, Ordering::Release);
    }
}

/// Records a run, on a thread of its own: nothing that the disk does delays measuring.
#[derive(Debug)]
pub struct Recorder {
    /// Of the first part of the run.
    run_id: Option<String>,
    segment: Segment,
    resolution: Resolution,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    writer: JoinHandle<Result<(), FileError>>,
}

impl Recorder {
    /// Creates the file, before anything is measured. `need` is how many bytes the run will take.
    ///
    /// # Errors
    /// [`FileError::Exists`], [`FileError::NoRoom`], [`FileError::Busy`], or what the system says; nothing is written then.
    pub fn create(
        path: &Path,
        about: &About,
        now: Clocks,
        need: u64,
        existing: Existing,
    ) -> Result<Self, FileError> {
        match (existing, fs::symlink_metadata(path)) {
            (Existing::Refuse, Ok(_)) => return Err(FileError::Exists(path.to_owned())),
            (Existing::Overwrite, Ok(found)) if found.is_file() => {
                room(path, need)?;
                let held = Held::take(path)?;
                for suffix in ["", "-wal", "-shm", "-journal"] {
                    let part = schema::with_suffix(path, suffix);
                    match fs::remove_file(&part) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(FileError::io(&part, error));
                        }
                        Ok(()) | Err(_) => {}
                    }
                }
                drop(held);
            }
            (Existing::Overwrite, Ok(_)) => return Err(FileError::Foreign(path.to_owned())),
            (_, Err(_)) => room(path, need)?,
        }
        // Made under another name, so that a kill at any moment leaves a whole file or none.
        let new = schema::with_suffix(path, ".new");
        let parts = || ["", "-wal", "-shm", "-journal"].map(|suffix| schema::with_suffix(&new, suffix));
        parts().iter().for_each(|part| drop(fs::remove_file(part)));
        let placed = Self::prepare(&new, about, now).and_then(|()| {
            // What is there by now is somebody else's. Not every file system has links.
            match fs::hard_link(&new, path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists && !path.exists() => {
                    fs::rename(&new, path)
                }
                done => done,
            }
            .map_err(|error| {
                if error.kind() == std::io::ErrorKind::AlreadyExists {
                    FileError::Exists(path.to_owned())
                } else {
                    FileError::Io { path: path.to_owned(), error }
                }
            })
        });
        parts().iter().for_each(|part| drop(fs::remove_file(part)));
        placed?;
        let held = Held::take(path)?;
        let store = Store::new(path, schema::open_to_write(path, false)?, about.resolution.nanos())?;
        let run_id = about.id.clone();
        Ok(Self { run_id, ..Self::start(path, store, held, Segment::first(), about.resolution) })
    }

    fn prepare(path: &Path, about: &About, now: Clocks) -> Result<(), FileError> {
        let failed = |error| FileError::database(path, error);
        let mut connection = schema::open_to_write(path, true)?;
        let transaction = connection.transaction().map_err(failed)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        transaction.pragma_update(None, "user_version", FORMAT_VERSION).map_err(failed)?;
        transaction.execute_batch(schema::TABLES).map_err(failed)?;
        let meta = [
            ("kind", about.kind.clone()),
            ("target", about.target.clone()),
            ("port", about.port.to_string()),
            ("quick", about.quick.to_string()),
            ("resolution_ns", about.resolution.nanos().to_string()),
            ("tool", format!("probe-client {}", env!("CARGO_PKG_VERSION"))),
        ];
        for (key, value) in meta {
            transaction
                .execute("INSERT INTO meta (key, value) VALUES (?, ?)", params![key, value])
                .map_err(failed)?;
        }
        segment_row(&transaction, &Segment::first(), about.id.as_deref(), 0, now).map_err(failed)?;
        transaction.commit().map_err(failed)?;
        // From here on the file alone is a file of ours, whatever becomes of its log.
        schema::checkpoint(&connection, true).map_err(failed)?;
        connection.close().map_err(|(_, error)| failed(error))
    }

    /// Goes on with the run of a file. All that it holds is told to `see` first, so that what is judged is the whole run.
    ///
    /// # Errors
    /// As [`Recording::open`]; [`FileError::OtherKind`], [`FileError::OtherTarget`], [`FileError::Busy`],
    /// [`FileError::NoRoom`].
    pub fn resume(
        path: &Path,
        wanted: &About,
        kind: &'static str,
        now: Clocks,
        need: u64,
        see: &mut dyn FnMut(&Observation),
    ) -> Result<Self, FileError> {
        schema::look(path)?;
        room(path, need)?;
        let held = Held::take(path)?;
        let failed = |error| FileError::database(path, error);
        let mut past = Past::default();
        let (resolution, run_id, number, began, open) = {
            let recording = Recording::open_held(path)?;
            let about = recording.about();
            if about.kind != kind {
                return Err(FileError::OtherKind {
                    path: path.to_owned(),
                    found: about.kind.clone(),
                    wanted: kind,
                });
            }
            if about.target != wanted.target {
                return Err(FileError::OtherTarget {
                    path: path.to_owned(),
                    found: about.target.clone(),
                    wanted: wanted.target.clone(),
                });
            }
            for observation in recording.observations() {
                let observation = observation?;
                // The end that the run had is none any more.
                if !matches!(observation, Observation::RunEnded(_)) {
                    past.see(&observation);
                    see(&observation);
                }
            }
            let started: String = recording
                .connection()
                .query_row("SELECT started FROM segments ORDER BY number LIMIT 1", [], |row| row.get(0))
                .map_err(failed)?;
            let began: Clocks =
                serde_json::from_str(&started).map_err(|error| FileError::damaged(path, &error))?;
            (
                about.resolution,
                about.id.clone(),
                recording.segments(),
                began,
                recording.open_probes().to_vec(),
            )
        };
        let last = past.last.unwrap_or(began.at);
        let segment = Segment::later(number, past.flows, began, last, now);
        let connection = schema::open_to_write(path, false)?;
        let mut store = Store::new(path, connection, resolution.nanos())?;
        // What a kill cut off has ended then, and what was under way is told as it was seen above.
        store.open(open.clone());
        open.into_iter().for_each(|probe| store.take(&Observation::Probe(probe)));
        for flow in past.open {
            let end = End::Error("the program was stopped".to_owned());
            let ended = Observation::FlowEnded(FlowEnded { flow, at: last, end });
            see(&ended);
            store.take(&ended);
        }
        store.commit(now.at).map_err(failed)?;
        store.begin(&segment, wanted.id.as_deref(), now).map_err(failed)?;
        Ok(Self { run_id, ..Self::start(path, store, held, segment, resolution) })
    }

    fn start(path: &Path, store: Store, held: Held, segment: Segment, resolution: Resolution) -> Self {
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared::default());
        shared.status(|status| status.bytes = store.bytes());
        let writer = Writer {
            path: path.to_owned(),
            segment: segment.number,
            shared: Arc::clone(&shared),
            trouble: None,
            _held: held,
        };
        let writer = std::thread::spawn(move || writer.run(store, &messages));
        Self { run_id: None, segment, resolution, queue, shared, writer }
    }

    /// Takes an observation as the engine made it, and gives it back as one of the whole recorded run, with its times
    /// rounded as the file keeps them: this is what is to be judged. Never blocks.
    pub fn record(&self, observation: Observation) -> Observation {
        let mut observation = self.segment.place(observation);
        self.resolution.round(&mut observation);
        self.send(observation.clone());
        observation
    }

    /// As [`record`](Self::record), but waits for room in the queue: for what is replayed rather than measured.
    pub fn replay(&self, observation: Observation) -> Observation {
        let mut observation = self.segment.place(observation);
        self.resolution.round(&mut observation);
        // A writer that has gone away is told of at the end.
        let _ = self.queue.send(Message::Saw(Box::new(observation.clone())));
        observation
    }

    fn send(&self, observation: Observation) {
        match self.queue.try_send(Message::Saw(Box::new(observation))) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.refused.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// What recording itself has to say since the last call: a disk that was full or slow. These are recorded already.
    pub fn events(&self) -> Vec<Observation> {
        if !self.shared.has_events.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        let events = std::mem::take(&mut *self.shared.events.lock().unwrap_or_else(PoisonError::into_inner));
        for event in &events {
            self.send(event.clone());
        }
        events
    }

    /// Takes the probes under way as the engine has them ([`crate::engine::Engine::open_probes`]), and commits them with all
    /// that was recorded before.
    pub fn keeper(&self) -> Keep {
        let (queue, segment, resolution) = (self.queue.clone(), self.segment.clone(), self.resolution);
        Box::new(move |open| {
            let placed = open.into_iter().filter_map(|probe| {
                let mut observation = segment.place(Observation::Probe(probe));
                resolution.round(&mut observation);
                if let Observation::Probe(probe) = observation { Some(probe) } else { None }
            });
            // Where the disk takes nothing, the next ones will do.
            let _ = queue.try_send(Message::Open(placed.collect()));
        })
    }

    /// The run's id: that of its first part.
    pub fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }

    /// How it goes.
    pub fn status(&self) -> Status {
        self.shared.status(|status| status.clone())
    }

    /// Where the status is kept, for a thread that watches.
    pub fn watch(&self) -> Watcher {
        Watcher(Arc::clone(&self.shared))
    }

    /// Writes everything, keeps the report, and leaves one file.
    ///
    /// # Errors
    /// What could not be written by the end; what was committed before stays.
    pub fn finish(self, report: Option<String>) -> Result<Status, FileError> {
        // Waits for room in the queue: nothing more will be measured.
        let _ = self.queue.send(Message::Finish(report));
        drop(self.queue);
        let done = self.writer.join();
        let status = self.shared.status(|status| status.clone());
        match done {
            Ok(done) => done.map(|()| status),
            Err(_) => Err(FileError::Io {
                path: PathBuf::new(),
                error: std::io::Error::other("the thread that writes the file failed"),
            }),
        }
    }
}

/// Tells a [`Recorder`]'s status elsewhere.
#[derive(Clone, Debug)]
pub struct Watcher(Arc<Shared>);

impl Watcher {
    /// How recording goes.
    pub fn status(&self) -> Status {
        self.0.status(|status| status.clone())
    }
}

/// What is learned of the past of a resumed run.
#[derive(Default)]
struct Past {
    last: Option<Timestamp>,
    flows: u32,
    open: std::collections::BTreeSet<FlowNo>,
}

impl Past {
    fn see(&mut self, observation: &Observation) {
        match observation {
            Observation::FlowPlanned(o) => {
                self.flows = self.flows.max(o.flow.0.saturating_add(1));
                self.open.insert(o.flow);
                self.last = self.last.max(Some(o.at));
            }
            Observation::FlowEnded(o) => {
                self.open.remove(&o.flow);
                self.last = self.last.max(Some(o.at));
            }
            Observation::Probe(o) => self.last = self.last.max(Some(o.reply.map_or(o.sent, |r| r.at))),
            Observation::RunStarted(o) => self.last = self.last.max(Some(o.at)),
            Observation::Attempt(o) => self.last = self.last.max(Some(o.to)),
            Observation::FlowOpened(o) => self.last = self.last.max(Some(o.at)),
            Observation::Watch(o) => self.last = self.last.max(Some(o.at)),
            Observation::Host(o) => self.last = self.last.max(Some(o.to)),
            Observation::Resolved(_)
            | Observation::Channel(_)
            | Observation::Missed(_)
            | Observation::Rewritten(_)
            | Observation::Datagrams(_)
            | Observation::Moved(_)
            | Observation::Arrivals(_)
            | Observation::Proxy(_)
            | Observation::Tcp(_)
            | Observation::PathMtu(_)
            | Observation::Silence(_)
            | Observation::IdleGap(_)
            | Observation::Fragment(_)
            | Observation::StreamEnd(_)
            | Observation::NameChanged(_)
            | Observation::AnsweredLate(_)
            | Observation::ListenerRestarted(_)
            | Observation::Load(_)
            | Observation::Ceiling(_)
            | Observation::RunEnded(_) => {}
        }
    }
}

/// The file is ours to write as long as this lives.
#[derive(Debug)]
struct Held {
    /// SQLite's own locks are of another kind, except where systems do not tell them apart.
    #[cfg(target_os = "linux")]
    _file: fs::File,
}

impl Held {
    fn take(path: &Path) -> Result<Self, FileError> {
        #[cfg(target_os = "linux")]
        {
            let file = fs::File::open(path).map_err(|error| FileError::io(path, error))?;
            match file.try_lock() {
                Ok(()) => Ok(Self { _file: file }),
                Err(fs::TryLockError::WouldBlock) => Err(FileError::Busy(path.to_owned())),
                Err(fs::TryLockError::Error(error)) => Err(FileError::io(path, error)),
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = path;
            Ok(Self {})
        }
    }
}

/// Whether the run has room where its file will be.
fn room(path: &Path, need: u64) -> Result<(), FileError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(FileError::NoFolder(folder.to_owned()));
    }
    let free = fs4::available_space(folder).map_err(|error| FileError::io(folder, error))?;
    let needed = need.saturating_add(SPARE);
    if free < needed {
        return Err(FileError::NoRoom {
            path: path.to_owned(),
            needed_mb: needed.div_ceil(1_000_000),
            free_mb: free / 1_000_000,
        });
    }
    Ok(())
}

fn segment_row(
    connection: &Connection,
    segment: &Segment,
    session: Option<&str>,
    first: u64,
    now: Clocks,
) -> rusqlite::Result<()> {
    let started = serde_json::to_string(&now).unwrap_or_default();
    connection
        .execute(
            "INSERT INTO segments (number, session, first, started, shift_ns, first_flow) VALUES (?, ?, ?, ?, ?, ?)",
            params![segment.number, session, first.cast_signed(), started, segment.shift_ns, segment.first_flow],
        )
        .map(|_| ())
}

/// The writer's thread.
struct Writer {
    path: PathBuf,
    segment: u32,
    shared: Arc<Shared>,
    /// Since when the disk takes nothing, and why.
    trouble: Option<(Timestamp, String, u64)>,
    _held: Held,
}

impl Writer {
    fn run(mut self, mut store: Store, messages: &Receiver<Message>) -> Result<(), FileError> {
        let mut due = clock::now() + COMMIT_EVERY;
        let report = loop {
            let now = clock::now();
            if now >= due {
                self.commit(&mut store);
                due = clock::now() + COMMIT_EVERY;
                continue;
            }
            match messages.recv_timeout(due.since(now)) {
                Ok(Message::Saw(observation)) => {
                    store.take(&observation);
                    // A replay is faster than any clock: what is held in memory stays small.
                    if store.is_ample() && self.trouble.is_none() {
                        due = now;
                    }
                }
                Ok(Message::Open(open)) => {
                    store.open(open);
                    due = now;
                }
                Ok(Message::Finish(report)) => break report,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break None,
            }
        };
        let failed = |error| FileError::database(&self.path, error);
        store.commit(clock::now()).map_err(failed)?;
        if let Some(report) = report {
            let lost = store.dropped() + self.shared.refused.load(Ordering::Relaxed);
            store.keep_report(self.segment, &report, lost == 0).map_err(failed)?;
        }
        store.finish(clock::now()).map_err(failed)?;
        self.shared.status(|status| {
            status.bytes = fs::metadata(&self.path).map_or(status.bytes, |about| about.len());
        });
        Ok(())
    }

    fn commit(&mut self, store: &mut Store) {
        let from = clock::now();
        let result = store.commit(from);
        let to = clock::now();
        let lost = store.dropped() + self.shared.refused.load(Ordering::Relaxed);
        match (result, &self.trouble) {
            (Ok(()), None) => {
                if to.since(from) >= SLOW {
                    let took = to.since(from).as_secs_f64();
                    self.tell(
                        from,
                        to,
                        format!("the disk was slow: it took {took:.1} s to write a second's data"),
                    );
                }
            }
            (Ok(()), Some((since, why, before))) => {
                let kept = match lost - before {
                    0 => "what was measured meanwhile was written afterwards".to_owned(),
                    lost => format!("{lost} observations could not be kept"),
                };
                let says = format!("{why}; {kept}");
                let since = *since;
                self.trouble = None;
                self.tell(since, to, says);
            }
            (Err(error), None) => self.trouble = Some((from, in_words(&error), lost)),
            (Err(_), Some(_)) => {}
        }
        let bytes = store.bytes();
        let trouble = self.trouble.as_ref().map(|(_, why, _)| why.clone());
        self.shared.status(|status| *status = Status { bytes, trouble, dropped: lost });
    }

    fn tell(&self, from: Timestamp, to: Timestamp, says: String) {
        self.shared.tell(Observation::Host(HostEvent { from, to, what: HostFault::NotRecorded(says) }));
    }
}

fn in_words(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "the disk was full".to_owned(),
        Some(ErrorCode::SystemIoFailure) => "the disk refused to write".to_owned(),
        Some(ErrorCode::ReadOnly) => "the file may not be written any more".to_owned(),
        _ => format!("the file could not be written ({error})"),
    }
}

#[cfg(test)]
mod tests;
