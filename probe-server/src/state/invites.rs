//! The invites that the listener knows.

use std::path::PathBuf;
use std::time::SystemTime;

use data_encoding::HEXLOWER;
use probe_protocol::invite::Invite;
use probe_protocol::time::WallTime;
use serde::{Deserialize, Serialize};

use super::file::{read, write};
use super::{StateDir, StateError};
use crate::core::invites::Known;

/// Invites that are kept; those that are revoked or expired for long make room.
pub const MAX_INVITES: usize = 1000;
const MAX_FILE: u64 = 1 << 20;
const CURE: &str = "restore it from a backup, or remove it (all invites must then be made anew)";

/// An invite as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteRecord {
    /// Its name in lists and logs, which gives nothing away.
    pub label: String,
    /// The key, in hexadecimal.
    key: String,
    /// When it was made, seconds since 1970.
    pub created_s: i64,
    /// Until when it is good, minutes since 1970; none for ever.
    pub expires_minute: Option<u32>,
    /// When it was taken back, seconds since 1970.
    pub revoked_s: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    invites: Vec<InviteRecord>,
}

impl InviteRecord {
    fn new(key: [u8; 16], expires_minute: Option<u32>, now: WallTime) -> Self {
        let label = Invite { key, fingerprint: [0; 32], expires_minute }.label();
        let created_s = now.as_secs();
        Self { label, key: HEXLOWER.encode(&key), created_s, expires_minute, revoked_s: None }
    }

    /// The invite, to a listener whose certificate has this fingerprint.
    pub fn invite(&self, fingerprint: [u8; 32]) -> Option<Invite> {
        let key = HEXLOWER.decode(self.key.as_bytes()).ok()?;
        Some(Invite { key: key.try_into().ok()?, fingerprint, expires_minute: self.expires_minute })
    }

    /// Whether it opens the listener now.
    pub fn is_good(&self, now: WallTime) -> bool {
        self.revoked_s.is_none() && self.expires_minute.is_none_or(|m| now.as_secs() < i64::from(m) * 60)
    }

    /// As the core knows it.
    pub fn known(&self, fingerprint: [u8; 32]) -> Option<Known> {
        let invite = self.invite(fingerprint)?;
        Some(Known { label: self.label.clone(), invite, revoked: self.revoked_s.is_some() })
    }
}

/// The file with the invites.
#[derive(Clone, Debug)]
pub struct InviteStore {
    state: StateDir,
    path: PathBuf,
}

impl InviteStore {
    /// That of a state directory.
    pub fn of(state: &StateDir) -> Self {
        Self { path: state.path().join("invites.json"), state: state.clone() }
    }

    /// All invites, in the order in which they were made.
    ///
    /// # Errors
    /// A [`StateError`]; [`StateError::Damaged`] where the file does not parse.
    pub fn all(&self) -> Result<Vec<InviteRecord>, StateError> {
        let Some(bytes) = read(&self.path, MAX_FILE)? else { return Ok(Vec::new()) };
        let damaged = |why: String| StateError::Damaged { path: self.path.clone(), why, cure: CURE };
        let document: Document = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        if document.version != 1 {
            return Err(damaged(format!("version {} of the file, this program reads 1", document.version)));
        }
        match document.invites.iter().find(|r| r.invite([0; 32]).is_none()) {
            Some(bad) => Err(damaged(format!("the key of invite {:?} is no key", bad.label))),
            None => Ok(document.invites),
        }
    }

    /// When the file was changed last; none where there is none.
    pub fn changed(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.path).and_then(|m| m.modified()).ok()
    }

    /// Makes a new invite of `key`, which must be random.
    ///
    /// # Errors
    /// A [`StateError`].
    pub fn add(
        &self,
        key: [u8; 16],
        expires_minute: Option<u32>,
        now: WallTime,
    ) -> Result<InviteRecord, StateError> {
        let record = InviteRecord::new(key, expires_minute, now);
        self.change(|all| {
            if all.len() >= MAX_INVITES {
                // What has long been good for nothing makes room, oldest first.
                let useless = all.iter().position(|r| !r.is_good(now)).ok_or(StateError::TooManyInvites)?;
                all.remove(useless);
            }
            all.push(record.clone());
            Ok(())
        })?;
        Ok(record)
    }

    /// The first good invite that never expires, made of `fresh` where there is none.
    ///
    /// # Errors
    /// A [`StateError`].
    pub fn standing(&self, fresh: [u8; 16], now: WallTime) -> Result<InviteRecord, StateError> {
        let good = |r: &InviteRecord| r.is_good(now) && r.expires_minute.is_none();
        match self.all()?.into_iter().find(good) {
            Some(record) => Ok(record),
            None => self.add(fresh, None, now),
        }
    }

    /// Takes an invite back, for good.
    ///
    /// # Errors
    /// [`StateError::NoInvite`], or another.
    pub fn revoke(&self, label: &str, now: WallTime) -> Result<InviteRecord, StateError> {
        let mut revoked = None;
        self.change(|all| {
            let found = all.iter_mut().find(|r| r.label == label);
            let record = found.ok_or_else(|| StateError::NoInvite(label.to_owned()))?;
            record.revoked_s.get_or_insert(now.as_secs());
            revoked = Some(record.clone());
            Ok(())
        })?;
        revoked.ok_or_else(|| StateError::NoInvite(label.to_owned()))
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Vec<InviteRecord>) -> Result<(), StateError>,
    ) -> Result<(), StateError> {
        let _lock = self.state.lock_for_change("invites.lock")?;
        let mut invites = self.all()?;
        change(&mut invites)?;
        let text = serde_json::to_vec_pretty(&Document { version: 1, invites })
            .map_err(|e| StateError::io("write", &self.path)(std::io::Error::other(e)))?;
        write(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(600_000_000_000);

    fn store() -> (tempfile::TempDir, InviteStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = InviteStore::of(&StateDir::open(dir.path()).unwrap());
        (dir, store)
    }

    #[test]
    fn the_standing_invite_stays_until_it_is_revoked() {
        let (_dir, store) = store();
        let first = store.standing([1; 16], NOW).unwrap();
        assert_eq!(store.standing([2; 16], NOW).unwrap(), first);
        store.add([3; 16], Some(11), NOW).unwrap();
        let revoked = store.revoke(&first.label, NOW).unwrap();
        assert!(!revoked.is_good(NOW) && revoked.known([0; 32]).unwrap().revoked);
        let next = store.standing([4; 16], NOW).unwrap();
        assert_ne!(next.label, first.label);
        assert_eq!(store.all().unwrap().len(), 3);
        assert!(matches!(store.revoke("nobody", NOW), Err(StateError::NoInvite(_))));
    }

    #[test]
    fn a_damaged_file_is_named_and_left_alone() {
        let (dir, store) = store();
        let path = dir.path().join("invites.json");
        for text in [
            "",
            "{",
            "{\"version\":2,\"invites\":[]}",
            "{\"version\":1,\"invites\":[{\"label\":\"a\",\"key\":\"zz\",\"created_s\":0,\"expires_minute\":null,\"revoked_s\":null}]}",
        ] {
            std::fs::write(&path, text).unwrap();
            assert!(matches!(store.all(), Err(StateError::Damaged { .. })), "{text}");
            assert!(store.add([1; 16], None, NOW).is_err());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn the_bound_is_reached_and_useless_ones_make_room() {
        let (_dir, store) = store();
        let invites =
            (0..MAX_INVITES).map(|n| InviteRecord::new((n as u128).to_be_bytes(), None, NOW)).collect();
        store
            .change(|all| {
                *all = invites;
                Ok(())
            })
            .unwrap();
        assert!(matches!(store.add([9; 16], None, NOW), Err(StateError::TooManyInvites)));
        let first = store.all().unwrap()[0].label.clone();
        store.revoke(&first, NOW).unwrap();
        store.add([9; 16], None, NOW).unwrap();
        let all = store.all().unwrap();
        assert_eq!(all.len(), MAX_INVITES);
        assert!(all.iter().all(|r| r.label != first));
    }
}
