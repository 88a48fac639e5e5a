//! What clients handed in: one file each, bounded in number and size, the oldest dropped.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::file::{read, write};
use super::{StateDir, StateError};

/// Results that are kept.
pub const MAX_RESULTS: usize = 200;
/// Bytes of all results together.
pub const MAX_RESULT_BYTES: u64 = 20 << 20;
/// Bytes of one file: the document as handed in, and a line before it.
const MAX_FILE: u64 = 1 << 20;
/// Bytes of a document once unpacked.
const MAX_UNPACKED: usize = 16 << 20;
const ENDING: &str = "result";

/// What is known of a result beside its document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMeta {
    /// Its name.
    pub id: String,
    /// When it came, seconds since 1970.
    pub received_s: i64,
    /// Where its session came from.
    pub source: String,
    /// The session's short name.
    pub session: String,
    /// The invite's label.
    pub invite: Option<String>,
    /// Bytes of the document as handed in.
    pub bytes: usize,
}

/// A result, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// What is known of it.
    pub meta: StoredMeta,
    /// The document; none where what was handed in is not the compressed JSON it should be.
    pub document: Option<serde_json::Value>,
}

impl StateDir {
    fn results(&self) -> PathBuf {
        self.path.join("results")
    }

    /// Keeps a result; the oldest ones make room.
    ///
    /// # Errors
    /// A [`StateError`]: nothing was kept.
    pub fn keep_result(&self, meta: &StoredMeta, document: &[u8]) -> Result<(), StateError> {
        let dir = self.results();
        fs::create_dir_all(&dir).map_err(StateError::io("make", &dir))?;
        let mut bytes =
            serde_json::to_vec(meta).map_err(|e| StateError::io("write", &dir)(std::io::Error::other(e)))?;
        bytes.push(b'\n');
        bytes.extend_from_slice(document);
        let mut files = self.result_files()?;
        let mut total: u64 = files.iter().map(|(_, len)| len).sum::<u64>() + bytes.len() as u64;
        files.reverse();
        while files.len() >= MAX_RESULTS || total > MAX_RESULT_BYTES {
            let Some((oldest, len)) = files.pop() else { break };
            let path = dir.join(oldest);
            fs::remove_file(&path).map_err(StateError::io("remove", &path))?;
            total -= len;
        }
        write(&dir.join(format!("{}.{ENDING}", meta.id)), &bytes)
    }

    /// Names and sizes of the files, oldest first: names begin with the time.
    fn result_files(&self) -> Result<Vec<(String, u64)>, StateError> {
        let dir = self.results();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StateError::io("read", &dir)(error)),
        };
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().into_string().ok()?;
                let len = entry.metadata().ok()?.len();
                name.ends_with(&format!(".{ENDING}")).then_some((name, len))
            })
            .collect();
        files.sort();
        Ok(files)
    }

    /// All results, oldest first; files that are damaged are left out of the list and named in it.
    ///
    /// # Errors
    /// A [`StateError`] where the directory cannot be read.
    pub fn list_results(&self) -> Result<(Vec<StoredMeta>, Vec<String>), StateError> {
        let (mut good, mut damaged) = (Vec::new(), Vec::new());
        for (name, _) in self.result_files()? {
            let id = name.trim_end_matches(&format!(".{ENDING}")).to_owned();
            match self.read_result(&id) {
                Ok((meta, _)) => good.push(meta),
                Err(_) => damaged.push(name),
            }
        }
        Ok((good, damaged))
    }

    fn read_result(&self, id: &str) -> Result<(StoredMeta, Vec<u8>), StateError> {
        let none = || StateError::NoResult(id.to_owned());
        // The name becomes part of a path.
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(none());
        }
        let path = self.results().join(format!("{id}.{ENDING}"));
        let bytes = read(&path, MAX_FILE)?.ok_or_else(none)?;
        let damaged = |why: &str| StateError::Damaged {
            path: path.clone(),
            why: why.to_owned(),
            cure: "remove it, and ask for the client's own report",
        };
        let end = bytes.iter().position(|b| *b == b'\n').ok_or_else(|| damaged("cut off"))?;
        let meta = serde_json::from_slice(&bytes[..end]).map_err(|_| damaged("not a result's first line"))?;
        Ok((meta, bytes[end + 1..].to_vec()))
    }

    /// One result with its document.
    ///
    /// # Errors
    /// [`StateError::NoResult`], [`StateError::Damaged`], or another.
    pub fn show_result(&self, id: &str) -> Result<Stored, StateError> {
        let (meta, packed) = self.read_result(id)?;
        Ok(Stored { meta, document: unpack(&packed) })
    }
}

/// Unpacks what a stranger packed: zlib (RFC 1950), plain deflate (RFC 1951), or JSON as it is.
fn unpack(packed: &[u8]) -> Option<serde_json::Value> {
    use miniz_oxide::inflate::{decompress_to_vec_with_limit, decompress_to_vec_zlib_with_limit};
    let json = |bytes: Vec<u8>| serde_json::from_slice(&bytes).ok();
    if packed.first() == Some(&b'{') {
        return json(packed.to_vec());
    }
    decompress_to_vec_zlib_with_limit(packed, MAX_UNPACKED)
        .ok()
        .and_then(json)
        .or_else(|| decompress_to_vec_with_limit(packed, MAX_UNPACKED).ok().and_then(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(id: &str) -> StoredMeta {
        StoredMeta {
            id: id.to_owned(),
            received_s: 5,
            source: "192.0.2.1:9".to_owned(),
            session: "01020304".to_owned(),
            invite: None,
            bytes: 2,
        }
    }

    fn state() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        (dir, state)
    }

    #[test]
    fn documents_come_back_however_they_were_packed() {
        let (_dir, state) = state();
        let text = br#"{"verdict":{"clean":true}}"#;
        let zlib = miniz_oxide::deflate::compress_to_vec_zlib(text, 6);
        let plain = miniz_oxide::deflate::compress_to_vec(text, 6);
        for (id, packed) in [("a", &zlib[..]), ("b", &plain), ("c", text)] {
            state.keep_result(&meta(id), packed).unwrap();
            let shown = state.show_result(id).unwrap();
            assert_eq!(shown.document.unwrap()["verdict"]["clean"], true);
        }
        state.keep_result(&meta("d"), b"\xffnonsense").unwrap();
        assert_eq!(state.show_result("d").unwrap().document, None);
        assert!(matches!(state.show_result("../secret"), Err(StateError::NoResult(_))));
        assert!(matches!(state.show_result("e"), Err(StateError::NoResult(_))));
    }

    #[test]
    fn a_bomb_does_not_unpack() {
        let bomb = miniz_oxide::deflate::compress_to_vec_zlib(&vec![b' '; MAX_UNPACKED + 1], 9);
        assert!(bomb.len() < MAX_FILE as usize);
        assert_eq!(unpack(&bomb), None);
    }

    #[test]
    fn the_oldest_make_room_and_damaged_ones_are_named() {
        let (dir, state) = state();
        for n in 0..MAX_RESULTS + 3 {
            state.keep_result(&meta(&format!("{n:05}")), b"{}").unwrap();
        }
        fs::write(dir.path().join("results/99999.result"), b"no newline").unwrap();
        let (good, damaged) = state.list_results().unwrap();
        assert_eq!((good.len(), good[0].id.as_str()), (MAX_RESULTS, "00003"));
        assert_eq!(damaged, ["99999.result"]);
    }

    #[test]
    fn the_bound_on_bytes_holds() {
        let (_dir, state) = state();
        let big = vec![0; 256 << 10];
        for n in 0..85 {
            state.keep_result(&meta(&format!("{n:05}")), &big).unwrap();
        }
        let total: u64 = state.result_files().unwrap().iter().map(|(_, len)| len).sum();
        assert!(total <= MAX_RESULT_BYTES && total > MAX_RESULT_BYTES - (512 << 10), "{total}");
    }
}
