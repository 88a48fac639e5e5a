//! Where the listener is and what gives rights there: from the command line, a file or the environment.

use std::fs;
use std::path::Path;

use probe_protocol::invite::Invite;
use probe_protocol::target::Target;

use super::output::Failure;

/// The environment variable with an invite.
const KEY_VARIABLE: &str = "PROBE_KEY";
/// A key file longer than this is something else.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// An invite, whole or its secret part alone.
enum Given {
    Whole(Target),
    Secret(Invite),
}

/// The target, with its invite where there is one. An invite on the command line goes before one in a file, and that one
/// before one in the environment.
pub(super) fn target(text: Option<&str>, key_file: Option<&Path>) -> Result<Target, Failure> {
    let target = text.map(str::parse::<Target>).transpose()?;
    if let Some(target) = target.as_ref().filter(|target| target.invite.is_some()) {
        return Ok(target.clone());
    }
    let given = match (key_file, std::env::var(KEY_VARIABLE)) {
        (Some(path), _) => Some(read(&from_file(path)?, &format!("the key file {}", path.display()))?),
        (None, Ok(key)) if !key.trim().is_empty() => Some(read(&key, KEY_VARIABLE)?),
        (None, _) => None,
    };
    match (target, given) {
        (Some(target), Some(Given::Whole(other))) => Ok(Target { invite: other.invite, ..target }),
        (Some(target), Some(Given::Secret(invite))) => Ok(Target { invite: Some(invite), ..target }),
        (Some(target), None) | (None, Some(Given::Whole(target))) => Ok(target),
        (None, Some(Given::Secret(_)) | None) => Err(Failure::NoTarget),
    }
}

fn from_file(path: &Path) -> Result<String, Failure> {
    let failed = |error| Failure::KeyFile { path: path.to_owned(), error };
    // Looked at before it is read: a device or a disk image given by mistake is not swallowed whole.
    let about = fs::metadata(path).map_err(failed)?;
    if !about.is_file() || about.len() > MAX_KEY_FILE {
        return Err(Failure::NoKey(format!("the key file {}", path.display())));
    }
    let bytes = fs::read(path).map_err(failed)?;
    String::from_utf8(bytes).map_err(|_| Failure::NoKey(format!("the key file {}", path.display())))
}

fn read(text: &str, from: &str) -> Result<Given, Failure> {
    let text = text.trim();
    let from = from.to_owned();
    if text.is_empty() {
        return Err(Failure::NoKey(from));
    }
    if text.contains("://") {
        let target: Target = match text.parse() {
            Ok(target) => target,
            Err(error) => return Err(Failure::KeyTarget { from, error }),
        };
        return if target.invite.is_some() { Ok(Given::Whole(target)) } else { Err(Failure::NoKey(from)) };
    }
    let secret = text.strip_prefix('#').unwrap_or(text);
    Invite::decode(secret).map(Given::Secret).map_err(|error| Failure::Key { from, error })
}
