//! Reading: a recorded run as the stream of observations that it was.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use probe_analysis::observation::{Observation, Probe};
use rusqlite::{Connection, OptionalExtension, params};

use super::schema::{self, FileError};
use super::seconds::{self, Second};
use super::{Resolution, chunk, rows};
use rows::Row;

/// Rows fetched at once.
const PAGE: usize = 256;

/// What a file says of its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The command that recorded it.
    pub kind: String,
    /// The first session's id.
    pub id: Option<String>,
    /// The target's port.
    pub port: u16,
    /// The target, without secrets.
    pub target: String,
    /// Only reachability was asked for.
    pub quick: bool,
    /// How finely times are kept.
    pub resolution: Resolution,
}

/// A file, open for reading. What it shows is the run as of its opening; a run being recorded meanwhile goes on.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    connection: Connection,
    about: About,
    segments: u32,
    open: Vec<Probe>,
}

impl Recording {
    /// Opens a file. A log that a kill left beside it is taken in.
    ///
    /// # Errors
    /// A [`FileError`]: missing, of another kind, damaged, cut off, of a newer version; nothing is written then.
    pub fn open(path: &Path) -> Result<Self, FileError> {
        let mut recording = Self::open_held(path)?;
        // What is under way in a run that goes on is told when it is settled.
        if !recording.open.is_empty() && schema::is_being_written(path) {
            recording.open = Vec::new();
        }
        Ok(recording)
    }

    /// The same of a file that is held already.
    pub(super) fn open_held(path: &Path) -> Result<Self, FileError> {
        let connection = schema::open_to_read(path)?;
        let failed = |error| FileError::database(path, error);
        // One transaction: all that is read belongs together, whatever is written meanwhile.
        connection.execute_batch("BEGIN").map_err(failed)?;
        let about = about(path, &connection)?;
        let segments =
            connection.query_row("SELECT count(*) FROM segments", [], |row| row.get(0)).map_err(failed)?;
        // A file of an earlier version has no such table.
        let known = "SELECT count(*) FROM sqlite_master WHERE name = 'open_probes'";
        let open: Option<Vec<u8>> = match connection.query_row(known, [], |row| row.get::<_, i64>(0)) {
            Ok(0) => None,
            Ok(_) => connection
                .query_row("SELECT body FROM open_probes", [], |row| row.get(0))
                .optional()
                .map_err(failed)?,
            Err(error) => return Err(failed(error)),
        };
        let open = open.map_or_else(|| Ok(Vec::new()), |body| chunk::decode(&body));
        let open = open.map_err(|error| FileError::damaged(path, &error))?;
        Ok(Self { path: path.to_owned(), connection, about, segments, open })
    }

    /// Probes that were under way when the run was killed.
    pub(super) fn open_probes(&self) -> &[Probe] {
        &self.open
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What run it is of.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// How often the run was started, resumptions included.
    pub fn segments(&self) -> u32 {
        self.segments
    }

    /// How many single probes it holds.
    ///
    /// # Errors
    /// [`FileError::Damaged`], or what the system says.
    pub fn probes(&self) -> Result<u64, FileError> {
        self.connection
            .query_row("SELECT coalesce(sum(probes), 0) FROM chunks", [], |row| row.get::<_, i64>(0))
            .map(|told| told.cast_unsigned() + self.open.len() as u64)
            .map_err(|error| FileError::database(&self.path, error))
    }

    /// The report that was made when the run last ended in order, as JSON.
    ///
    /// # Errors
    /// As [`probes`](Self::probes).
    pub fn report(&self) -> Result<Option<String>, FileError> {
        self.connection
            .query_row("SELECT body FROM report ORDER BY number DESC LIMIT 1", [], |row| row.get(0))
            .optional()
            .map_err(|error| FileError::database(&self.path, error))
    }

    /// The same, where it was made by this judgement ([`crate::judge::JUDGEMENT`]) of all that the file holds.
    ///
    /// # Errors
    /// As [`probes`](Self::probes).
    pub fn report_by(&self, judgement: &str) -> Result<Option<String>, FileError> {
        let last = "SELECT body FROM report WHERE judgement = ? AND number + 1 = ? AND upto = ?";
        let failed = |error| FileError::database(&self.path, error);
        let end: Option<i64> =
            self.connection.query_row(schema::END, [], |row| row.get(0)).map_err(failed)?;
        self.connection
            .query_row(last, params![judgement, self.segments, end], |row| row.get(0))
            .optional()
            .map_err(failed)
    }

    /// The observations in their order, one after another: memory does not grow with the file. An end of the run that was
    /// followed by a resumption is left out.
    pub fn observations(&self) -> Observations<'_> {
        Observations {
            recording: self,
            cursor: 0,
            probes: Vec::new().into_iter(),
            chunk_after: -1,
            chunks_over: false,
            rows: VecDeque::new(),
            row_after: -1,
            packed: VecDeque::new(),
            packed_after: -1,
            open: self.open.iter(),
            skipped: 0,
            over: false,
        }
    }

    /// Calls `each` with the figures of every second and flow. Those of one flow and second may come in two parts: they add
    /// up.
    ///
    /// # Errors
    /// As [`probes`](Self::probes).
    pub fn seconds(&self, mut each: impl FnMut(&Second)) -> Result<(), FileError> {
        let failed = |error| FileError::database(&self.path, error);
        let mut query = self.connection.prepare("SELECT body FROM chunks ORDER BY first").map_err(failed)?;
        let mut found = query.query([]).map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            let body = row.get_ref(0).map_err(failed)?.as_blob().unwrap_or_default();
            let probes = chunk::decode(body).map_err(|error| FileError::damaged(&self.path, &error))?;
            seconds::sum(&probes).iter().for_each(&mut each);
        }
        seconds::sum(&self.open).iter().for_each(&mut each);
        Ok(())
    }

    /// Calls `see` with the observations of some kinds, in their order. Kinds that come each second are not among them.
    ///
    /// # Errors
    /// As [`probes`](Self::probes).
    pub fn rows_of(&self, kinds: &[&str], see: &mut dyn FnMut(&Observation)) -> Result<(), FileError> {
        let failed = |error| FileError::database(&self.path, error);
        let places = vec!["?"; kinds.len()].join(", ");
        let query = format!(
            "SELECT position, kind, flow, body FROM observations WHERE kind IN ({places}) ORDER BY position"
        );
        let mut query = self.connection.prepare(&query).map_err(failed)?;
        let mut found = query.query(rusqlite::params_from_iter(kinds)).map_err(failed)?;
        while let Some(row) = found.next().map_err(failed)? {
            let observation = row_of(row).map_err(failed)?.read();
            see(&observation.map_err(|error| FileError::damaged(&self.path, &error))?);
        }
        Ok(())
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn about(path: &Path, connection: &Connection) -> Result<About, FileError> {
    let get = |key: &str| -> Result<Option<String>, FileError> {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?", [key], |row| row.get(0))
            .optional()
            .map_err(|error| FileError::database(path, error))
    };
    let need =
        |key: &str| get(key)?.ok_or_else(|| FileError::damaged(path, &format!("it does not say its {key}")));
    let wrong = |key: &str| FileError::damaged(path, &format!("its {key} is none"));
    let id = connection
        .query_row("SELECT session FROM segments ORDER BY number LIMIT 1", [], |row| row.get(0))
        .optional()
        .map_err(|error| FileError::database(path, error))?;
    Ok(About {
        kind: need("kind")?,
        id: id.flatten(),
        port: need("port")?.parse().map_err(|_| wrong("port"))?,
        target: need("target")?,
        quick: get("quick")?.is_some_and(|quick| quick == "true"),
        resolution: match need("resolution_ns")?.as_str() {
            "1" => Resolution::Nanosecond,
            "1000" => Resolution::Microsecond,
            _ => return Err(wrong("resolution")),
        },
    })
}

fn row_of(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    Ok(Row {
        position: row.get::<_, i64>(0)?.cast_unsigned(),
        kind: row.get(1)?,
        flow: row.get(2)?,
        body: row.get(3)?,
    })
}

/// The observations of a recorded run. Ends after the first error.
#[derive(Debug)]
pub struct Observations<'a> {
    recording: &'a Recording,
    /// Position of the next probe of the chunk at hand.
    cursor: u64,
    probes: std::vec::IntoIter<Probe>,
    chunk_after: i64,
    chunks_over: bool,
    rows: VecDeque<Row>,
    row_after: i64,
    packed: VecDeque<Row>,
    packed_after: i64,
    open: std::slice::Iter<'a, Probe>,
    skipped: u64,
    over: bool,
}

impl Observations<'_> {
    /// Observations of kinds that this version does not know.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn advance(&mut self) -> Result<Option<Observation>, FileError> {
        loop {
            if self.probes.as_slice().is_empty() && !self.chunks_over {
                self.next_chunk()?;
            }
            self.fill_rows()?;
            self.fill_packed()?;
            let row = match (self.rows.front(), self.packed.front()) {
                (Some(row), Some(packed)) => Some(row.position.min(packed.position)),
                (Some(row), None) | (None, Some(row)) => Some(row.position),
                (None, None) => None,
            };
            match row {
                Some(position) if position <= self.cursor || self.probes.as_slice().is_empty() => {
                    if position >= self.cursor {
                        self.cursor = position + 1;
                    }
                    if let Some(observation) = self.take_row(position)? {
                        return Ok(Some(observation));
                    }
                }
                Some(_) | None => {
                    let Some(probe) = self.probes.next() else {
                        return Ok(self.open.next().map(|probe| Observation::Probe(*probe)));
                    };
                    self.cursor += 1;
                    return Ok(Some(Observation::Probe(probe)));
                }
            }
        }
    }

    fn take_row(&mut self, position: u64) -> Result<Option<Observation>, FileError> {
        let from = if self.rows.front().is_some_and(|row| row.position == position) {
            &mut self.rows
        } else {
            &mut self.packed
        };
        let Some(row) = from.pop_front() else { return Ok(None) };
        match row.read() {
            Ok(Observation::RunEnded(_)) if self.is_resumed_after(position)? => Ok(None),
            Ok(observation) => Ok(Some(observation)),
            Err(error) if error.to_string().starts_with("unknown variant") => {
                self.skipped += 1;
                Ok(None)
            }
            Err(error) => Err(FileError::damaged(&self.recording.path, &error)),
        }
    }

    fn is_resumed_after(&self, position: u64) -> Result<bool, FileError> {
        let later: u32 = self
            .recording
            .connection
            .query_row("SELECT count(*) FROM segments WHERE first > ?", [position.cast_signed()], |row| {
                row.get(0)
            })
            .map_err(|error| FileError::database(&self.recording.path, error))?;
        Ok(later > 0)
    }

    fn next_chunk(&mut self) -> Result<(), FileError> {
        let path = &self.recording.path;
        let mut query = self
            .recording
            .connection
            .prepare_cached("SELECT first, probes, body FROM chunks WHERE first > ? ORDER BY first LIMIT 1")
            .map_err(|error| FileError::database(path, error))?;
        let found = query
            .query_row([self.chunk_after], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
            })
            .optional()
            .map_err(|error| FileError::database(path, error))?;
        let Some((first, count, body)) = found else {
            self.chunks_over = true;
            return Ok(());
        };
        let probes = chunk::decode(&body).map_err(|error| FileError::damaged(path, &error))?;
        if probes.len() as i64 != count || probes.is_empty() {
            return Err(FileError::damaged(path, &"a chunk holds another number of probes than it says"));
        }
        self.probes = probes.into_iter();
        self.chunk_after = first;
        self.cursor = first.cast_unsigned();
        Ok(())
    }

    fn fill_rows(&mut self) -> Result<(), FileError> {
        if !self.rows.is_empty() || self.row_after == i64::MAX {
            return Ok(());
        }
        let failed = |error| FileError::database(&self.recording.path, error);
        let mut query = self
            .recording
            .connection
            .prepare_cached(
                "SELECT position, kind, flow, body FROM observations WHERE position > ? ORDER BY position LIMIT ?",
            )
            .map_err(failed)?;
        let found = query.query_map(params![self.row_after, PAGE as i64], row_of);
        self.rows = found.and_then(Iterator::collect::<Result<_, _>>).map_err(failed)?;
        self.row_after = self.rows.back().map_or(i64::MAX, |row| row.position.cast_signed());
        Ok(())
    }

    fn fill_packed(&mut self) -> Result<(), FileError> {
        if !self.packed.is_empty() || self.packed_after == i64::MAX {
            return Ok(());
        }
        let path = &self.recording.path;
        let found = self
            .recording
            .connection
            .query_row(
                "SELECT first, body FROM packed WHERE first > ? ORDER BY first LIMIT 1",
                [self.packed_after],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)),
            )
            .optional()
            .map_err(|error| FileError::database(path, error))?;
        match found {
            Some((first, body)) => {
                let rows = rows::unpack(&body).map_err(|error| FileError::damaged(path, &error))?;
                self.packed = rows.into();
                self.packed_after = first;
            }
            None => self.packed_after = i64::MAX,
        }
        Ok(())
    }
}

/// What is read at once: reading a night one by one takes longer than judging it.
#[derive(Clone, Debug)]
pub enum Batch {
    /// Probes in a row.
    Probes(Vec<Probe>),
    /// Anything else.
    Other(Box<Observation>),
}

impl Observations<'_> {
    /// The next observations; none at the end.
    ///
    /// # Errors
    /// As [`Recording::probes`].
    pub fn next_batch(&mut self) -> Result<Option<Batch>, FileError> {
        if self.over {
            return Ok(None);
        }
        if let Some(probes) = self.probes_in_a_row() {
            return Ok(Some(Batch::Probes(probes)));
        }
        match self.next().transpose()? {
            Some(Observation::Probe(probe)) => {
                let mut probes = vec![probe];
                probes.extend(self.probes_in_a_row().unwrap_or_default());
                Ok(Some(Batch::Probes(probes)))
            }
            other => Ok(other.map(|other| Batch::Other(Box::new(other)))),
        }
    }

    /// Probes of the chunk at hand before whose successor nothing else comes.
    fn probes_in_a_row(&mut self) -> Option<Vec<Probe>> {
        // Where either is used up it is read on first.
        let whole = |rows: &VecDeque<Row>, after: i64| {
            rows.front().map_or((after == i64::MAX).then_some(u64::MAX), |row| Some(row.position))
        };
        let next = whole(&self.rows, self.row_after)?.min(whole(&self.packed, self.packed_after)?);
        let count = usize::try_from(next.saturating_sub(self.cursor)).unwrap_or(usize::MAX);
        let probes: Vec<Probe> = self.probes.by_ref().take(count).collect();
        self.cursor += probes.len() as u64;
        (!probes.is_empty()).then_some(probes)
    }
}

impl Iterator for Observations<'_> {
    type Item = Result<Observation, FileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.advance().transpose();
        self.over = !matches!(next, Some(Ok(_)));
        next
    }
}
