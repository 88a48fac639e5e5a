//! Writing: observations become batches, batches become commits, and commits are folded into large chunks.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use probe_analysis::observation::{FlowNo, Observation, Probe};
use probe_protocol::time::Timestamp;
use rusqlite::{Connection, params};

use super::schema::{self, FileError};
use super::segment::{Clocks, Segment};
use super::{chunk, rows};
use crate::judge::JUDGEMENT;
use rows::Row;

/// Probes that are folded into one chunk: large enough for columns to be small, small enough to hold in memory.
const FOLD_PROBES: usize = 8_192;
/// Probes are folded after this time, however few they are.
const FOLD_AFTER: Duration = Duration::from_secs(300);
/// What is held back in memory while the disk takes nothing, at most: hours of a soak, since it is held compressed.
const MAX_PENDING: usize = 12 << 20;
/// Probes of one commit at most.
const MAX_BATCH: usize = 4096;
/// Batches that are committed before their time.
const AMPLE: usize = 4;
/// Packed rows at most, and their text.
const MAX_PACKED: (usize, usize) = (4096, 8 << 20);

/// What one commit writes.
#[derive(Debug, Default)]
struct Batch {
    chunk: Option<Chunk>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Chunk {
    first: u64,
    last: u64,
    count: u64,
    probes: Vec<Probe>,
    body: Vec<u8>,
}

/// An open file, being written.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    connection: Connection,
    step: u64,
    /// Position of the next observation.
    next: u64,
    /// Probes of the batch under way, each with its position.
    probes: Vec<(u64, Probe)>,
    rows: Vec<Row>,
    pending: VecDeque<Batch>,
    pending_bytes: usize,
    /// Committed, not folded yet.
    unfolded: Vec<Probe>,
    unfolded_from: Option<(u64, u64)>,
    folded_at: Option<Timestamp>,
    dropped: u64,
    open: Open,
}

/// The probes under way.
#[derive(Debug, Default)]
struct Open {
    probes: Vec<Probe>,
    /// Of each flow, the number after the last one that was told since.
    told: HashMap<FlowNo, u64>,
    is_written: bool,
}

impl Open {
    fn left(&self) -> Vec<Probe> {
        let is_told = |probe: &Probe| self.told.get(&probe.flow).is_some_and(|after| probe.seq < *after);
        self.probes.iter().filter(|probe| !is_told(probe)).copied().collect()
    }
}

impl Store {
    /// Goes on where the file ends.
    pub(super) fn new(path: &Path, connection: Connection, step: u64) -> Result<Self, FileError> {
        let failed = |error| FileError::database(path, error);
        connection.execute_batch(schema::OPEN_PROBES).map_err(failed)?;
        let next: Option<i64> = connection.query_row(schema::END, [], |row| row.get(0)).map_err(failed)?;
        let mut store = Self {
            path: path.to_owned(),
            connection,
            step,
            next: next.and_then(|next| u64::try_from(next).ok()).unwrap_or(0),
            probes: Vec::new(),
            rows: Vec::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            unfolded: Vec::new(),
            unfolded_from: None,
            folded_at: None,
            dropped: 0,
            open: Open { is_written: true, ..Open::default() },
        };
        store.adopt()?;
        Ok(store)
    }

    /// Takes over what a kill left unfolded.
    fn adopt(&mut self) -> Result<(), FileError> {
        let left = {
            let mut query = self
                .connection
                .prepare("SELECT first, last, body FROM chunks WHERE folded = 0 ORDER BY first")
                .map_err(|error| FileError::database(&self.path, error))?;
            let left = query.query_map([], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?))
            });
            left.and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| FileError::database(&self.path, error))?
        };
        for (first, last, body) in left {
            let probes = chunk::decode(&body).map_err(|error| FileError::damaged(&self.path, &error))?;
            self.committed(first.cast_unsigned(), last.cast_unsigned(), probes);
            if self.unfolded.len() >= FOLD_PROBES {
                self.fold().map_err(|error| FileError::database(&self.path, error))?;
            }
        }
        self.fold().map_err(|error| FileError::database(&self.path, error))
    }

    /// Whether so much waits for the next commit that it should not wait any longer.
    pub(super) fn is_ample(&self) -> bool {
        self.pending.len() >= AMPLE
    }

    /// Observations that were dropped, since the disk took nothing for too long.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Takes the probes under way, in place of those of before.
    pub(super) fn open(&mut self, probes: Vec<Probe>) {
        self.open = Open { probes, told: HashMap::new(), is_written: false };
    }

    /// Takes one observation for the next commit.
    pub(super) fn take(&mut self, observation: &Observation) {
        if self.pending_bytes > MAX_PENDING {
            self.dropped += 1;
            return;
        }
        if let Observation::Probe(probe) = observation {
            if !self.open.probes.is_empty() {
                self.open.told.insert(probe.flow, probe.seq + 1);
                self.open.is_written = false;
            }
            self.probes.push((self.next, *probe));
        } else {
            match Row::of(self.next, observation) {
                Ok(row) => self.rows.push(row),
                Err(_) => {
                    self.dropped += 1;
                    return;
                }
            }
        }
        self.next += 1;
        if self.probes.len() >= MAX_BATCH {
            self.seal();
        }
    }

    /// Ends the batch under way.
    fn seal(&mut self) {
        let chunk = match (self.probes.first(), self.probes.last()) {
            (Some((first, _)), Some((last, _))) => {
                let (first, last) = (*first, *last);
                let probes: Vec<Probe> = self.probes.drain(..).map(|(_, probe)| probe).collect();
                match chunk::encode(&probes, self.step) {
                    Ok(body) => Some(Chunk { first, last, count: probes.len() as u64, probes, body }),
                    Err(_) => {
                        self.dropped += probes.len() as u64;
                        None
                    }
                }
            }
            (_, _) => None,
        };
        let rows = std::mem::take(&mut self.rows);
        if chunk.is_none() && rows.is_empty() {
            return;
        }
        let size = |row: &Row| row.kind.len() + row.body.len() + 64;
        self.pending_bytes += rows.iter().map(size).sum::<usize>();
        self.pending_bytes += chunk.as_ref().map_or(0, |chunk| chunk.body.len() + 64);
        let mut batch = Batch { chunk, rows };
        // While the disk takes nothing, only the compressed form is kept; it is folded after the next start.
        if self.pending.len() > 8
            && let Some(chunk) = &mut batch.chunk
        {
            chunk.probes = Vec::new();
        }
        self.pending.push_back(batch);
    }

    /// Commits everything taken so far. Where that fails nothing is lost: it is tried again with the next commit.
    pub(super) fn commit(&mut self, now: Timestamp) -> rusqlite::Result<()> {
        self.seal();
        if !self.pending.is_empty() || !self.open.is_written {
            self.write()?;
            self.pending_bytes = 0;
            self.open.is_written = true;
            for batch in std::mem::take(&mut self.pending) {
                if let Some(chunk) = batch.chunk {
                    let probes = match chunk.probes.is_empty() {
                        true => chunk::decode(&chunk.body).unwrap_or_default(),
                        false => chunk.probes,
                    };
                    self.committed(chunk.first, chunk.last, probes);
                }
            }
        }
        let since = *self.folded_at.get_or_insert(now);
        if self.unfolded.len() >= FOLD_PROBES || now.since(since) >= FOLD_AFTER {
            self.folded_at = Some(now);
            self.fold()?;
            schema::checkpoint(&self.connection, false)?;
        }
        Ok(())
    }

    fn write(&mut self) -> rusqlite::Result<()> {
        // Dropped without a commit, it is rolled back.
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        {
            let mut chunk_in = transaction.prepare_cached(
                "INSERT INTO chunks (first, last, probes, folded, body) VALUES (?, ?, ?, 0, ?)",
            )?;
            let mut row_in = transaction.prepare_cached(
                "INSERT INTO observations (position, kind, flow, body) VALUES (?, ?, ?, ?)",
            )?;
            for batch in &self.pending {
                if let Some(Chunk { first, last, count, probes: _, body }) = &batch.chunk {
                    chunk_in.execute(params![
                        first.cast_signed(),
                        last.cast_signed(),
                        count.cast_signed(),
                        body
                    ])?;
                }
                for Row { position, kind, flow, body } in &batch.rows {
                    row_in.execute(params![position.cast_signed(), kind, flow, body])?;
                }
            }
            if !self.open.is_written {
                let left = self.open.left();
                transaction.prepare_cached("DELETE FROM open_probes")?.execute([])?;
                if let (false, Ok(body)) = (left.is_empty(), chunk::encode(&left, self.step)) {
                    transaction
                        .prepare_cached("INSERT INTO open_probes (number, probes, body) VALUES (0, ?, ?)")?
                        .execute(params![left.len() as i64, body])?;
                }
            }
        }
        transaction.commit()
    }

    fn committed(&mut self, first: u64, last: u64, probes: Vec<Probe>) {
        self.unfolded.extend(probes);
        let from = self.unfolded_from.map_or(first, |(from, _)| from);
        self.unfolded_from = Some((from, last));
    }

    /// Folds the small chunks of the last minutes into one, and what comes each second beside them into another, in one
    /// transaction: a crash leaves either the small ones or the large one.
    fn fold(&mut self) -> rusqlite::Result<()> {
        if let Some((first, last)) = self.unfolded_from {
            // What cannot be folded stays as it is, and is read as it is.
            if let Ok(body) = chunk::encode(&self.unfolded, self.step) {
                let (first, last) = (first.cast_signed(), last.cast_signed());
                let count = self.unfolded.len() as i64;
                let transaction =
                    self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
                transaction
                    .execute("DELETE FROM chunks WHERE first BETWEEN ? AND ?", params![first, last])?;
                transaction.execute(
                    "INSERT INTO chunks (first, last, probes, folded, body) VALUES (?, ?, ?, 1, ?)",
                    params![first, last, count, body],
                )?;
                transaction.commit()?;
            }
            self.unfolded.clear();
            self.unfolded_from = None;
        }
        while self.pack()? {}
        Ok(())
    }

    /// Packs rows that come often; whether there may be more.
    fn pack(&mut self) -> rusqlite::Result<bool> {
        let kinds = rows::OFTEN.map(|kind| format!("'{kind}'")).join(", ");
        let found = {
            let mut query = self.connection.prepare(&format!(
                "SELECT position, kind, flow, body FROM observations WHERE kind IN ({kinds}) ORDER BY position LIMIT {}",
                MAX_PACKED.0
            ))?;
            let mut found = Vec::new();
            let mut text = 0;
            let mut rows = query.query([])?;
            while let Some(row) = rows.next()? {
                let row = Row {
                    position: row.get::<_, i64>(0)?.cast_unsigned(),
                    kind: row.get(1)?,
                    flow: row.get(2)?,
                    body: row.get(3)?,
                };
                text += row.body.len();
                found.push(row);
                if text > MAX_PACKED.1 {
                    break;
                }
            }
            found
        };
        let (Some(first), Some(last)) = (found.first(), found.last()) else { return Ok(false) };
        let (from, to) = (first.position.cast_signed(), last.position.cast_signed());
        let transaction =
            self.connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        transaction.execute(
            &format!("DELETE FROM observations WHERE kind IN ({kinds}) AND position BETWEEN ? AND ?"),
            params![from, to],
        )?;
        transaction.execute(
            "INSERT INTO packed (first, last, body) VALUES (?, ?, ?)",
            params![from, to, rows::pack(&found)],
        )?;
        transaction.commit()?;
        Ok(found.len() >= MAX_PACKED.0)
    }

    /// Begins another segment where the file ends.
    pub(super) fn begin(
        &self,
        segment: &Segment,
        session: Option<&str>,
        now: Clocks,
    ) -> rusqlite::Result<()> {
        super::segment_row(&self.connection, segment, session, self.next, now)
    }

    /// Keeps the report of a segment. Where the file does not hold all that was judged, it is nobody's judgement of it.
    pub(super) fn keep_report(&self, segment: u32, body: &str, is_whole: bool) -> rusqlite::Result<()> {
        let judgement = if is_whole { JUDGEMENT } else { "" };
        self.connection
            .execute(
                "INSERT OR REPLACE INTO report (number, tool, judgement, upto, body) VALUES (?, ?, ?, ?, ?)",
                params![segment, env!("CARGO_PKG_VERSION"), judgement, self.next.cast_signed(), body],
            )
            .map(|_| ())
    }

    /// Folds everything and leaves one file.
    pub(super) fn finish(mut self, now: Timestamp) -> rusqlite::Result<()> {
        self.commit(now)?;
        self.fold()?;
        schema::shrink(&self.connection)?;
        schema::checkpoint(&self.connection, true)?;
        // A reader that is there at this moment keeps the log; whoever opens the file last takes it away.
        match self.connection.pragma_update(None, "journal_mode", "DELETE") {
            Ok(()) => {}
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {}
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseLocked) => {}
            Err(error) => return Err(error),
        }
        self.connection.close().map_err(|(_, error)| error)
    }

    /// Lets the file grow to so many pages.
    #[cfg(test)]
    pub(super) fn make_room(&self, pages: u32) {
        self.connection.pragma_update(None, "max_page_count", pages).unwrap();
    }

    /// Bytes on disk, the log included.
    pub(super) fn bytes(&self) -> u64 {
        let size = |path: &Path| fs::metadata(path).map_or(0, |about| about.len());
        size(&self.path) + size(&schema::with_suffix(&self.path, "-wal"))
    }
}
