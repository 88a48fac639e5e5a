//! Where events go, and where verdicts are written down.

use std::sync::Arc;

use probe_net::clock;
use probe_protocol::wire::hello::SessionId;
use tokio::sync::mpsc;

use crate::core::event::{Event, HandedIn, Outbox, SessionLabel};
use crate::shared::Shared;
use crate::state::{StateDir, StoredMeta};

/// Events that wait for their reader.
const MAX_EVENTS: usize = 1024;
/// Verdicts that wait to be written.
const MAX_TO_KEEP: usize = 16;

/// The core's end.
pub(crate) struct Outgoing {
    events: mpsc::Sender<Event>,
    to_keep: mpsc::Sender<HandedIn>,
}

pub(crate) fn channel() -> (Outgoing, mpsc::Receiver<Event>, mpsc::Receiver<HandedIn>) {
    let (events, read) = mpsc::channel(MAX_EVENTS);
    let (to_keep, keep) = mpsc::channel(MAX_TO_KEEP);
    (Outgoing { events, to_keep }, read, keep)
}

impl Outbox for Outgoing {
    fn event(&mut self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    fn handed_in(&mut self, result: HandedIn) -> bool {
        self.to_keep.try_send(result).is_ok()
    }
}

/// Writes verdicts down, one after the other.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
    state: Option<StateDir>,
    to_keep: mpsc::Receiver<HandedIn>,
}

impl Keeper {
    pub(crate) fn new(
        shared: Arc<Shared>,
        state: Option<StateDir>,
        to_keep: mpsc::Receiver<HandedIn>,
    ) -> Self {
        Self { shared, state, to_keep }
    }

    pub(crate) async fn run(mut self) {
        while let Some(result) = self.to_keep.recv().await {
            let session = result.session;
            let kept = self.keep(result).await;
            self.shared.hub().kept(session, kept);
            self.shared.kept.notify_waiters();
        }
    }

    async fn keep(&self, result: HandedIn) -> Option<(String, usize)> {
        let meta = meta(&result);
        let named = Some((meta.id.clone(), meta.bytes));
        // A listener without a directory has nothing to write to, and its client is told that all is well.
        let Some(state) = self.state.clone() else { return named };
        let written = tokio::task::spawn_blocking(move || state.keep_result(&meta, &result.document)).await;
        match written {
            Ok(Ok(())) => named,
            Ok(Err(error)) => {
                tracing::error!(%error, "a client's result could not be kept");
                None
            }
            Err(error) => {
                tracing::error!(%error, "keeping a result failed");
                None
            }
        }
    }
}

fn meta(result: &HandedIn) -> StoredMeta {
    let received_s = clock::wall().as_secs();
    StoredMeta {
        id: name(received_s, result.session),
        received_s,
        source: result.source.to_string(),
        session: SessionLabel::from(result.session).to_string(),
        invite: result.invite.clone(),
        bytes: result.document.len(),
    }
}

/// `20260131-220000-ab12cd34-7f`: sorts by time; the last part keeps two of one second apart.
fn name(received_s: i64, session: SessionId) -> String {
    let time = jiff::Timestamp::from_second(received_s).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    // Without a random byte the name is still good: a session hands in one verdict.
    let [salt] = crate::listener::random().unwrap_or_default();
    format!("{}-{}-{salt:02x}", time.strftime("%Y%m%d-%H%M%S"), SessionLabel::from(session))
}
