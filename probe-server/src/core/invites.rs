//! Which invites there are, as every thread sees them.

use std::collections::HashMap;

use probe_protocol::invite::Invite;
use probe_protocol::time::WallTime;
use probe_protocol::wire::hello::{Refusal, hello_id};
use probe_protocol::wire::id::FlowId;

/// An invite as the listener knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The invite.
    pub invite: Invite,
    /// Its name in lists and logs.
    pub label: String,
    /// The admin took it back.
    pub revoked: bool,
}

/// What a client may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// It holds the invite of this label.
    Holder(String),
    /// It has none.
    Public,
}

impl Rights {
    /// The invite's label.
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Holder(label) => Some(label),
            Self::Public => None,
        }
    }
}

/// All invites, revoked and expired ones included, so that those are refused in words. Never changed: a new one
/// takes its place.
#[derive(Debug)]
pub struct Invites {
    by_id: HashMap<FlowId, Option<Known>>,
}

/// What the permanent id of an opening stands for.
#[derive(Debug)]
pub enum Opener<'a> {
    /// An invite.
    Invite(&'a Known),
    /// No invite.
    Public,
}

/// The key of a client without an invite is public, so this is no secret.
fn public_id() -> FlowId {
    probe_protocol::wire::hello::HelloKeys::public().id
}

impl Invites {
    /// These, and the way in for those who have none.
    pub fn new(known: impl IntoIterator<Item = Known>) -> Self {
        let mut by_id: HashMap<_, _> =
            known.into_iter().map(|k| (hello_id(&k.invite.key), Some(k))).collect();
        by_id.insert(public_id(), None);
        Self { by_id }
    }

    /// What this id opens.
    pub fn find(&self, id: FlowId) -> Option<Opener<'_>> {
        self.by_id.get(&id).map(|known| known.as_ref().map_or(Opener::Public, Opener::Invite))
    }

    /// The labels of invites that are good no more because the admin took them back.
    pub fn revoked(&self) -> impl Iterator<Item = &str> {
        self.by_id.values().flatten().filter(|k| k.revoked).map(|k| k.label.as_str())
    }
}

impl Opener<'_> {
    /// The rights this gives now.
    ///
    /// # Errors
    /// [`Refusal::InviteRevoked`], [`Refusal::InviteExpired`].
    pub fn rights(&self, wall: WallTime) -> Result<Rights, Refusal> {
        match self {
            Opener::Public => Ok(Rights::Public),
            Opener::Invite(known) if known.revoked => Err(Refusal::InviteRevoked),
            Opener::Invite(known) if known.invite.is_expired(wall) => Err(Refusal::InviteExpired),
            Opener::Invite(known) => Ok(Rights::Holder(known.label.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_invite_is_found_by_its_id_and_judged_by_its_state() {
        let known = |n: u8, expires_minute, revoked| {
            let invite = Invite { key: [n; 16], fingerprint: [0; 32], expires_minute };
            Known { label: invite.label(), invite, revoked }
        };
        let invites = Invites::new([known(1, None, false), known(2, Some(2), false), known(3, None, true)]);
        let rights = |n: u8, wall_s: i64| {
            invites.find(hello_id(&[n; 16])).map(|o| o.rights(WallTime(wall_s * 1_000_000_000)))
        };
        assert!(matches!(rights(1, 0), Some(Ok(Rights::Holder(_)))));
        assert!(matches!(rights(2, 119), Some(Ok(Rights::Holder(_)))));
        assert_eq!(rights(2, 120), Some(Err(Refusal::InviteExpired)));
        assert_eq!(rights(3, 0), Some(Err(Refusal::InviteRevoked)));
        assert_eq!(rights(4, 0), None);
        assert_eq!(invites.find(public_id()).unwrap().rights(WallTime(0)), Ok(Rights::Public));
        assert_eq!(invites.revoked().count(), 1);
    }
}
