//! Runs kept in a file, one JSON document a line, so that a long matrix goes on where it was stopped.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::jobs::Job;
use super::tally::Run;
use crate::scenario::Network;

/// What tells one run from another.
type Key = (String, u64, Network);

/// A file of runs.
pub struct Kept {
    file: Mutex<File>,
    runs: BTreeMap<Key, Run>,
}

impl Kept {
    /// Opens or makes the file, and reads what it has. A last line without an end, of a program that was stopped while
    /// it wrote, is taken off.
    ///
    /// # Errors
    /// Where the file cannot be read or written, or what it holds is no run.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let text = io::read_to_string(&mut file)?;
        let (whole, cut) = text.split_at(text.rfind('\n').map_or(0, |end| end + 1));
        let mut runs = BTreeMap::new();
        for line in whole.lines() {
            let run: Run = serde_json::from_str(line)?;
            runs.insert((run.scenario.clone(), run.seed, run.network), run);
        }
        // Only now, and only what begins as a run does: the file may be another one.
        if !(cut.is_empty() || cut.starts_with('{')) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it holds something else than runs"));
        }
        file.set_len(whole.len() as u64)?;
        file.seek(io::SeekFrom::End(0))?;
        Ok(Self { file: Mutex::new(file), runs })
    }

    /// The run of a job, where the file had it when it was opened.
    pub fn run(&self, job: &Job) -> Option<&Run> {
        self.runs.get(&(job.name(), job.seed, job.network))
    }

    /// Adds a run to the file.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn keep(&self, run: &Run) -> io::Result<()> {
        let mut line = serde_json::to_vec(run)?;
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::What;

    fn run(seed: u64) -> Run {
        Run {
            scenario: "clean".into(),
            seed,
            network: Network::Simulated,
            expected: Vec::new(),
            said: Vec::new(),
            judgement: crate::scenario::judge::Judgement::default(),
            took_s: 1.5,
            cpu_s: None,
        }
    }

    #[test]
    fn what_was_kept_is_there_again_but_for_a_line_that_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs");
        let job = |seed| Job { what: What::Single("clean".into()), seed, network: Network::Simulated };
        let kept = Kept::open(&path).unwrap();
        kept.keep(&run(1)).unwrap();
        kept.keep(&run(2)).unwrap();
        assert!(kept.run(&job(1)).is_none(), "it tells what was there before");
        drop(kept);
        let whole = std::fs::metadata(&path).unwrap().len();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"scenario\": \"cl").unwrap();
        let kept = Kept::open(&path).unwrap();
        assert_eq!(kept.run(&job(2)).map(|run| run.took_s), Some(1.5));
        assert!(kept.run(&job(3)).is_none());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), whole);
        kept.keep(&run(3)).unwrap();
        assert!(Kept::open(&path).unwrap().run(&job(3)).is_some());
    }

    #[test]
    fn what_is_no_run_is_an_error_and_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs");
        for other in ["nothing\n", "a letter to somebody"] {
            std::fs::write(&path, other).unwrap();
            assert!(Kept::open(&path).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), other, "nothing is lost");
        }
    }
}
