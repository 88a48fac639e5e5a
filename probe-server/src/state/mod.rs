//! The state directory: what a listener must still know after a restart.
//!
//! | file | holds |
//! | --- | --- |
//! | `secret` | 32 bytes that flow ids and keys derive from |
//! | `cert.der`, `key.der` | the listener's own certificate and key |
//! | `invites.json` | the invites, revoked ones included |
//! | `epoch` | how often the listener has been started |
//! | `lock` | held by the listener that runs; names it |
//! | `results/` | what clients handed in |
//!
//! Files are replaced whole (written beside, then renamed), so that a crash leaves the old or the new one. A damaged
//! file is never silently replaced: the error says what to do.

mod file;
mod invites;
mod lock;
mod results;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use invites::{InviteRecord, InviteStore, MAX_INVITES};
pub use lock::Lock;
pub use results::{MAX_RESULT_BYTES, MAX_RESULTS, Stored, StoredMeta};

use file::{read, write};

/// Why the state directory cannot be used.
#[derive(Debug, Error)]
pub enum StateError {
    /// It could not be made, read or written.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} is damaged ({why}): {cure}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// How.
        why: String,
        /// What to do about it.
        cure: &'static str,
    },
    /// Another listener uses it.
    #[error("another probe-server ({holder}) already uses {}: stop it, or give --state-dir another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Which one.
        holder: String,
    },
    /// The platform has no place for it.
    #[error("there is no home directory to keep state in: give --state-dir DIR")]
    NoPlace,
    /// No invite of this label.
    #[error("there is no invite {0:?}: `probe-server invite --list` shows them")]
    NoInvite(String),
    /// No more invites can be kept.
    #[error("there are {MAX_INVITES} invites already: revoke some (`probe-server invite --revoke LABEL`)")]
    TooManyInvites,
    /// No result of this name.
    #[error("there is no result {0:?}: `probe-server results list` shows them")]
    NoResult(String),
}

impl StateError {
    pub(crate) fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |error| Self::Io { what, path: path.to_owned(), error }
    }
}

/// A certificate and its key, both DER.
pub type KeptCertificate = (Vec<u8>, Vec<u8>);

/// A state directory that exists.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// The platform's place for it.
    ///
    /// # Errors
    /// [`StateError::NoPlace`].
    pub fn default_path() -> Result<PathBuf, StateError> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let place = if cfg!(windows) {
            var("LOCALAPPDATA").or_else(|| var("APPDATA"))
        } else if cfg!(target_os = "macos") {
            var("HOME").map(|home| home.join("Library/Application Support"))
        } else {
            // systemd's StateDirectory= comes first.
            if let Some(given) = var("STATE_DIRECTORY") {
                return Ok(given);
            }
            var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")))
        };
        place.map(|place| place.join("probe-server")).ok_or(StateError::NoPlace)
    }

    /// Opens it, and makes it where it is missing: for its owner alone.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::DirBuilderExt;
            builder.mode(0o700);
        }
        builder.create(path).map_err(StateError::io("make the state directory", path))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret that flow ids and keys derive from; `fresh` becomes it at the first start.
    ///
    /// # Errors
    /// A [`StateError`]; [`StateError::Damaged`] where it is not 32 bytes.
    pub fn secret(&self, fresh: [u8; 32]) -> Result<[u8; 32], StateError> {
        let path = self.path.join("secret");
        match read(&path, 32)? {
            None => write(&path, &fresh).map(|()| fresh),
            Some(bytes) => <[u8; 32]>::try_from(&bytes[..]).map_err(|_| StateError::Damaged {
                path,
                why: format!("{} bytes instead of 32", bytes.len()),
                cure: "restore it from a backup, or remove it (running clients will have to open anew)",
            }),
        }
    }

    /// Counts this start, and answers with its number, 1 for the first.
    ///
    /// # Errors
    /// A [`StateError`].
    pub fn next_epoch(&self) -> Result<u32, StateError> {
        let path = self.path.join("epoch");
        let before = match read(&path, 64)? {
            None => 0,
            Some(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                text.trim().parse::<u32>().map_err(|_| StateError::Damaged {
                    path: path.clone(),
                    why: "not a number".to_owned(),
                    cure: "remove it; the listener then counts its starts from 1 again",
                })?
            }
        };
        let epoch = before.saturating_add(1);
        write(&path, format!("{epoch}\n").as_bytes())?;
        Ok(epoch)
    }

    /// The listener's own certificate and key (DER), where it has made them.
    ///
    /// # Errors
    /// A [`StateError`].
    pub fn certificate(&self) -> Result<Option<KeptCertificate>, StateError> {
        let (cert, key) = (self.path.join("cert.der"), self.path.join("key.der"));
        match (read(&cert, 64 << 10)?, read(&key, 64 << 10)?) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            (cert_bytes, _) => Err(StateError::Damaged {
                path: if cert_bytes.is_none() { cert } else { key },
                why: "it is missing, the other half of the certificate is there".to_owned(),
                cure: "restore both cert.der and key.der from a backup, or remove both (invites must then be made anew)",
            }),
        }
    }

    /// What to say of a certificate that does not load.
    pub fn certificate_is_damaged(&self, why: String) -> StateError {
        StateError::Damaged {
            path: self.path.join("cert.der"),
            why,
            cure: "restore both cert.der and key.der from a backup, or remove both (invites must then be made anew)",
        }
    }

    /// Keeps the listener's own certificate and key (DER).
    ///
    /// # Errors
    /// A [`StateError`].
    pub fn keep_certificate(&self, cert: &[u8], key: &[u8]) -> Result<(), StateError> {
        write(&self.path.join("key.der"), key)?;
        write(&self.path.join("cert.der"), cert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let state = StateDir::open(&path).unwrap();
        assert_eq!(state.secret([7; 32]).unwrap(), [7; 32]);
        assert_eq!(state.next_epoch().unwrap(), 1);
        assert!(state.certificate().unwrap().is_none());
        state.keep_certificate(b"cert", b"key").unwrap();
        let again = StateDir::open(&path).unwrap();
        assert_eq!(again.secret([8; 32]).unwrap(), [7; 32]);
        assert_eq!(again.next_epoch().unwrap(), 2);
        assert_eq!(again.certificate().unwrap(), Some((b"cert".to_vec(), b"key".to_vec())));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode(&path), 0o700);
            assert_eq!(mode(&path.join("secret")), 0o600);
        }
    }

    #[test]
    fn damaged_files_are_named_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("secret"), b"short").unwrap();
        std::fs::write(dir.path().join("epoch"), b"many").unwrap();
        std::fs::write(dir.path().join("cert.der"), b"half").unwrap();
        assert!(matches!(state.secret([1; 32]), Err(StateError::Damaged { .. })));
        assert!(matches!(state.next_epoch(), Err(StateError::Damaged { .. })));
        let error = state.certificate().unwrap_err();
        assert!(error.to_string().contains("key.der"), "{error}");
        assert_eq!(std::fs::read(dir.path().join("secret")).unwrap(), b"short");
        assert_eq!(std::fs::read(dir.path().join("epoch")).unwrap(), b"many");
    }
}
