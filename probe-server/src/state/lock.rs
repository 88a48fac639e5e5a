//! One listener per state directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::{StateDir, StateError};

/// Held while a listener runs; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The longest text that a lock file holds.
const MAX_HOLDER: u64 = 200;

fn open(path: &Path) -> Result<File, StateError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path).map_err(StateError::io("open", path))
}

impl StateDir {
    /// Takes the directory for the listener that `holder` describes.
    ///
    /// # Errors
    /// [`StateError::InUse`] with the description of the one that has it, or [`StateError::Io`].
    pub fn lock(&self, holder: &str) -> Result<Lock, StateError> {
        let path = self.path.join("lock");
        let mut file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Where locks are mandatory, the description cannot be read.
                let _ = (&mut file).take(MAX_HOLDER).read_to_string(&mut text);
                let holder = if text.trim().is_empty() { "unknown" } else { text.trim() }.to_owned();
                return Err(StateError::InUse { path: self.path.clone(), holder });
            }
            // Some file systems have no locks: better to run without one than not at all.
            Err(TryLockError::Error(_)) => return Ok(Lock { _file: file }),
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{holder}\n").as_bytes()));
        written.map_err(StateError::io("write", &path))?;
        Ok(Lock { _file: file })
    }

    /// Keeps others from changing a file of the directory while this one does.
    pub(super) fn lock_for_change(&self, name: &str) -> Result<Lock, StateError> {
        let path = self.path.join(name);
        let file = open(&path)?;
        // A file system without locks: changes made at the very same moment may then be lost, as without this.
        let _ = file.lock();
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_learns_who_the_first_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let first = state.lock("process 7, port 8886").unwrap();
        let error = state.lock("process 8").unwrap_err();
        assert!(error.to_string().contains("process 7, port 8886"), "{error}");
        drop(first);
        state.lock("process 9").unwrap();
    }
}
