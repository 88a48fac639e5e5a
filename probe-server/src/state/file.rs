//! Reading files with a bound, and replacing them whole.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use super::StateError;

/// The file's content; none where it does not exist. One byte more than `max` is read, so that a longer file shows.
pub(super) fn read(path: &Path, max: u64) -> Result<Option<Vec<u8>>, StateError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StateError::io("read", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(StateError::io("read", path))?;
    Ok(Some(bytes))
}

/// Replaces the file: whoever reads it sees the old content or the new, never a part.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = Path::new(&beside);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let written = options.open(beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| std::fs::rename(beside, path));
    renamed.map_err(|error| {
        // Best effort: the error that is told is the one that matters.
        let _ = std::fs::remove_file(beside);
        StateError::io("write", path)(error)
    })
}
