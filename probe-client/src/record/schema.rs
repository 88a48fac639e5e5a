//! What a `.probe` file is: its marks, its tables, and what is wrong with one that is not.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use thiserror::Error;

/// `prob`, in the header of every file (SQLite's `application_id`).
pub const APPLICATION_ID: u32 = 0x7072_6f62;
/// Version of the tables (SQLite's `user_version`). It grows when an older program could no longer read a file.
pub const FORMAT_VERSION: u32 = 1;

/// Length of SQLite's header, which says what a file is (<https://sqlite.org/fileformat2.html>, section 1.3).
const HEADER: usize = 100;
/// How long another program's lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The tables. Meant to be read with `sqlite3` too; the module's comment explains them.
pub(super) const TABLES: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    number INTEGER PRIMARY KEY,  -- 0 for the first; one more for each time the run was resumed
    session TEXT,                -- id of the session, as the listener knows it
    first INTEGER NOT NULL,      -- position of its first observation
    started TEXT NOT NULL,       -- JSON: the clocks when it began
    shift_ns INTEGER NOT NULL,   -- what was added to its times
    first_flow INTEGER NOT NULL  -- what was added to its flows' numbers
);
CREATE TABLE observations (
    position INTEGER PRIMARY KEY, -- place among all observations, single probes included
    kind TEXT NOT NULL,           -- name of the observation
    flow INTEGER,                 -- number of its flow, where it is of one
    body TEXT NOT NULL            -- JSON
);
CREATE TABLE chunks (
    first INTEGER PRIMARY KEY,  -- position of its first probe
    last INTEGER NOT NULL,      -- position of its last probe
    probes INTEGER NOT NULL,    -- how many it holds
    folded INTEGER NOT NULL,    -- 0 for a second's probes, to be folded into a larger chunk
    body BLOB NOT NULL          -- columns
);
CREATE TABLE packed (
    first INTEGER PRIMARY KEY,  -- position of its first observation
    last INTEGER NOT NULL,      -- position of its last
    body BLOB NOT NULL          -- zlib: a line per observation, its position and its JSON
);
CREATE TABLE report (
    number INTEGER PRIMARY KEY, -- of its segment
    tool TEXT NOT NULL,         -- version that judged
    judgement TEXT NOT NULL,    -- fingerprint of the judgement's sources
    upto INTEGER NOT NULL,      -- position after the last observation that was judged
    body TEXT NOT NULL          -- JSON, as printed with --json
);
CREATE VIEW flows AS SELECT
    flow, body ->> '$.name' AS name, body ->> '$.carrier' AS carrier, body ->> '$.dress' AS dress,
    body ->> '$.purpose' AS purpose, body ->> '$.to' AS destination, body ->> '$.size' AS size_bytes,
    body -> '$.interval' AS interval, body ->> '$.at' AS at_ns
    FROM observations WHERE kind = 'FlowPlanned';
CREATE VIEW events AS SELECT
    e.value ->> '$.kind' AS kind, e.value ->> '$.from' AS \"from\", e.value ->> '$.to' AS \"to\",
    e.value ->> '$.cause' AS cause, e.value ->> '$.lost' AS lost, e.value ->> '$.direction' AS direction,
    e.value -> '$.flows' AS flows, e.value ->> '$.says' AS says
    FROM report, json_each(report.body, '$.events') AS e
    WHERE report.number = (SELECT max(number) FROM report);
CREATE VIEW findings AS SELECT
    f.value ->> '$.cause' AS cause, f.value ->> '$.severity' AS severity, f.value ->> '$.probability' AS probability,
    f.value -> '$.parameters' AS parameters, f.value -> '$.evidence' AS evidence, f.value ->> '$.fix' AS fix
    FROM report, json_each(report.body, '$.findings') AS f
    WHERE report.number = (SELECT max(number) FROM report);
CREATE VIEW host_health AS SELECT kind, position, body FROM observations
    WHERE kind IN ('Host', 'Watch', 'ListenerRestarted', 'NameChanged', 'Ceiling');
";

/// A table that files of an earlier version do not have.
pub(super) const OPEN_PROBES: &str = "
CREATE TABLE IF NOT EXISTS open_probes (
    number INTEGER PRIMARY KEY, -- always 0
    probes INTEGER NOT NULL,    -- how many were under way at the last commit
    body BLOB NOT NULL          -- columns
);
";

/// Position after the last observation.
pub(super) const END: &str = "SELECT max(n) FROM (SELECT max(position) + 1 AS n FROM observations \
     UNION ALL SELECT max(last) + 1 FROM chunks UNION ALL SELECT max(last) + 1 FROM packed)";

/// What is wrong with a file, for the person who named it.
#[derive(Debug, Error)]
pub enum FileError {
    /// There is none.
    #[error("there is no file {0}")]
    Missing(PathBuf),
    /// There is no place for it.
    #[error("there is no folder {0}: make it, or name another place")]
    NoFolder(PathBuf),
    /// It is something else.
    #[error("{0} is not a .probe file: it was not written by probe-client")]
    Foreign(PathBuf),
    /// It is shorter than it says.
    #[error("{0} is cut off: copy it again from where it was recorded")]
    Truncated(PathBuf),
    /// Its content contradicts itself.
    #[error("{path} is damaged ({says}): copy it again from where it was recorded")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What does not fit.
        says: String,
    },
    /// A later version wrote it.
    #[error(
        "{path} was written by a newer probe-client (format {found}, this one reads {FORMAT_VERSION}): update this one"
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It is there already.
    #[error("{0} is there already: --resume goes on with it, --force overwrites it, or name another one")]
    Exists(PathBuf),
    /// It is of another kind of run.
    #[error("{path} holds a run of `{found}`, which cannot be resumed by `{wanted}`: name another file")]
    OtherKind {
        /// Which file.
        path: PathBuf,
        /// The command that recorded it.
        found: String,
        /// The command that was to resume it.
        wanted: &'static str,
    },
    /// It is of a run to another target.
    #[error("{path} holds a run to {found}, not to {wanted}: name another file")]
    OtherTarget {
        /// Which file.
        path: PathBuf,
        /// Its target.
        found: String,
        /// The target that was asked for.
        wanted: String,
    },
    /// A run is being recorded into it.
    #[error("{0} is being written by another probe-client")]
    Busy(PathBuf),
    /// The disk is too full for the run.
    #[error(
        "{path}: the run needs about {needed_mb} MB there and {free_mb} MB are free: make room or name another place"
    )]
    NoRoom {
        /// Which file.
        path: PathBuf,
        /// What the run needs, megabytes.
        needed_mb: u64,
        /// What is free, megabytes.
        free_mb: u64,
    },
    /// The system refuses.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// SQLite refuses.
    #[error("{path}: {error}")]
    Database {
        /// Which file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
}

impl FileError {
    pub(super) fn io(path: &Path, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            Self::Missing(path.to_owned())
        } else {
            Self::Io { path: path.to_owned(), error }
        }
    }

    pub(super) fn damaged(path: &Path, says: &dyn std::fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), says: format!("{says}") }
    }

    /// What an error of SQLite means for a file.
    pub(super) fn database(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        // What was read is not of the kind that stood there.
        if matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..)
                | rusqlite::Error::QueryReturnedNoRows
        ) {
            return Self::Damaged { path, says: error.to_string() };
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::Foreign(path),
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, says: error.to_string() },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy(path),
            _ => Self::Database { path, error },
        }
    }
}

/// The marks of a file, read from its first bytes without opening it as a database: nothing is written, whatever it is.
pub(super) fn look(path: &Path) -> Result<(), FileError> {
    let about = fs::metadata(path).map_err(|error| FileError::io(path, error))?;
    if !about.is_file() {
        return Err(FileError::Foreign(path.to_owned()));
    }
    let mut header = [0; HEADER];
    let read = File::open(path).and_then(|file| {
        let mut start = Vec::new();
        file.take(HEADER as u64).read_to_end(&mut start)?;
        Ok(start)
    });
    let start = read.map_err(|error| FileError::io(path, error))?;
    let known = start.len().min(16);
    if start[..known] != b"SQLite format 3\0"[..known] || start.is_empty() {
        return Err(FileError::Foreign(path.to_owned()));
    }
    if start.len() < HEADER {
        return Err(FileError::Truncated(path.to_owned()));
    }
    header.copy_from_slice(&start);
    let word = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if word(68) != APPLICATION_ID {
        return Err(FileError::Foreign(path.to_owned()));
    }
    let found = word(60);
    if found > FORMAT_VERSION {
        return Err(FileError::Newer { path: path.to_owned(), found });
    }
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    // What a log beside it holds may be more than the file itself.
    if about.len() < page * u64::from(word(28)) && !with_suffix(path, "-wal").exists() {
        return Err(FileError::Truncated(path.to_owned()));
    }
    Ok(())
}

/// The file's name with something behind it: SQLite's names for its log and index.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Opens a file that is there for reading. A log that a kill left behind is folded in where the system allows it.
pub(super) fn open_to_read(path: &Path) -> Result<Connection, FileError> {
    look(path)?;
    let plain = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let attempt = |connection: rusqlite::Result<Connection>| -> rusqlite::Result<Connection> {
        let connection = connection?;
        connection.busy_timeout(PATIENCE)?;
        // The first read takes in the log, and fails where that may not be written.
        connection.query_row("SELECT count(*) FROM meta", [], |_| Ok(()))?;
        Ok(connection)
    };
    let writable = Connection::open_with_flags(path, plain | OpenFlags::SQLITE_OPEN_READ_WRITE);
    let error = match attempt(writable) {
        Ok(connection) => {
            connection.pragma_update(None, "query_only", true).map_err(|e| FileError::database(path, e))?;
            return Ok(connection);
        }
        Err(error) => error,
    };
    if FileError::is_about_content(&error) {
        return Err(FileError::database(path, error));
    }
    if let Ok(connection) =
        attempt(Connection::open_with_flags(path, plain | OpenFlags::SQLITE_OPEN_READ_ONLY))
    {
        return Ok(connection);
    }
    // On a medium that cannot be written, beside which SQLite cannot put its index.
    let absolute = fs::canonicalize(path).map_err(|error| FileError::io(path, error))?;
    let uri = format!("file:{}?immutable=1", escaped(&absolute.to_string_lossy()));
    let flags = plain | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    attempt(Connection::open_with_flags(uri, flags)).map_err(|error| FileError::database(path, error))
}

impl FileError {
    /// Opening it in another way would not help.
    fn is_about_content(error: &rusqlite::Error) -> bool {
        matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
    }
}

/// A path as part of a URI (RFC 3986 section 2.1).
fn escaped(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Opens a file to write: WAL, and every commit reaches the disk before it counts.
pub(super) fn open_to_write(path: &Path, create: bool) -> Result<Connection, FileError> {
    let failed = |error| FileError::database(path, error);
    let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_READ_WRITE;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(PATIENCE).map_err(failed)?;
    if create {
        // Small pages: what a chunk leaves free in its last one is most of what the file takes beside the chunks. And what
        // small chunks leave behind is given back at the end.
        connection.pragma_update(None, "page_size", 1024).map_err(failed)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(failed)?;
    }
    connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // SQLite's own memory: 1 MiB.
    connection.pragma_update(None, "cache_size", -1024).map_err(failed)?;
    // As pages of 1 KiB.
    connection.pragma_update(None, "wal_autocheckpoint", 1024).map_err(failed)?;
    // A log that a reader made long is cut again.
    connection.pragma_update(None, "journal_size_limit", 1 << 22).map_err(failed)?;
    Ok(connection)
}

/// Gives pages that nothing uses back to the system.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    let mut query = connection.prepare("PRAGMA incremental_vacuum")?;
    let mut rows = query.query([])?;
    // It frees a page with each step.
    while rows.next()?.is_some() {}
    Ok(())
}

/// Whether a run is being recorded into a file at this moment, as far as the system can tell.
pub(super) fn is_being_written(path: &Path) -> bool {
    // Shared, and let go of at once: it keeps nobody from writing for long.
    cfg!(target_os = "linux")
        && File::open(path)
            .is_ok_and(|file| matches!(file.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
}

/// Takes in the log, as far as readers allow, so that the file alone is (nearly) up to date.
pub(super) fn checkpoint(connection: &Connection, truncate: bool) -> rusqlite::Result<()> {
    let how = if truncate { "PRAGMA wal_checkpoint(TRUNCATE)" } else { "PRAGMA wal_checkpoint(PASSIVE)" };
    connection.query_row(how, [], |_| Ok(()))
}
