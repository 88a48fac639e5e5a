//! What the tasks of all connections share.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_net::wait::Waker;
use probe_protocol::control::{ControlRefusal, Reply};
use probe_protocol::time::Timestamp;
use tokio::sync::{Notify, oneshot};

use crate::core::Hub;
use crate::core::control::{self, AboutFlow, Asker};
use crate::core::counters::Counters;
use crate::core::limit::BitRate;

/// A request about a UDP flow, on its way to the packet thread.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) about: AboutFlow,
    pub(crate) asker: Asker,
    pub(crate) room: usize,
    pub(crate) answer: oneshot::Sender<Reply>,
}

/// Requests under way to the packet thread.
pub(crate) const MAX_ASKS: usize = 256;
/// The packet thread answers within a batch; after this long something is wrong with it.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: Arc<Mutex<Hub>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) max_rate: Option<Arc<BitRate>>,
    pub(crate) asks: SyncSender<Ask>,
    pub(crate) waker: Waker,
    /// A verdict has been written down, or could not be.
    pub(crate) kept: Notify,
    pub(crate) connections: AtomicUsize,
    pub(crate) max_connections: usize,
    pub(crate) silent: Mutex<std::collections::HashMap<IpAddr, usize>>,
    pub(crate) port: u16,
}

impl Shared {
    pub(crate) fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the packet thread answer.
    pub(crate) async fn ask(&self, about: AboutFlow, asker: Asker, room: usize) -> Reply {
        let (answer, answered) = oneshot::channel();
        if self.asks.try_send(Ask { about, asker, room, answer }).is_err() {
            return control::error(asker, ControlRefusal::TooMuch);
        }
        self.waker.wake();
        match tokio::time::timeout(ANSWER_WITHIN, answered).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) | Err(_) => control::error(asker, ControlRefusal::UnknownFlow),
        }
    }

    /// Waits until `bytes` may be sent.
    pub(crate) async fn may_send(&self, bytes: usize, now: impl Fn() -> Timestamp) {
        if let Some(rate) = &self.max_rate {
            while !rate.take(now(), bytes) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Counts a connection in, where there is room for one.
    pub(crate) fn enter(self: &Arc<Self>) -> Option<Entered> {
        let entered = Entered(Arc::clone(self));
        // The guard counts down again, also where there was no room.
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        (before < self.max_connections).then_some(entered)
    }
}

/// One connection, counted.
#[derive(Debug)]
pub(crate) struct Entered(Arc<Shared>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connections of one source that have not said anything known yet.
#[derive(Debug)]
pub(crate) struct Silent {
    shared: Arc<Shared>,
    source: IpAddr,
}

impl Silent {
    /// Counts one in, where the source has not too many such.
    pub(crate) fn enter(shared: &Arc<Shared>, ip: IpAddr, max: usize) -> Option<Self> {
        let source = crate::core::limit::source_of(ip);
        let mut silent = shared.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let count = silent.entry(source).or_default();
        if *count >= max {
            return None;
        }
        *count += 1;
        drop(silent);
        Some(Self { shared: Arc::clone(shared), source })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        let mut silent = self.shared.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = silent.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                silent.remove(&self.source);
            }
        }
    }
}
