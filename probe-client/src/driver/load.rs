//! Loads over UDP, moved on a thread of their own: as fast as the product sends, without keeping the engine from its
//! timing probes. What is no load's goes back to the engine.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use probe_net::bulk::{self, Ends, Got, Owner, Sent, SharedTransfer};
use probe_net::udp::UdpSocket;
use probe_net::wait::{Interest, Poller, Waker};

use super::udp::UdpFlow;
use super::{Remote, Uplink};

/// Errors taken from the socket at once: their queue is fed by the network.
const MAX_ERRORS: usize = 64;

/// A load's thread. Dropped, it ends.
pub(super) struct LoadThread {
    waker: Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LoadThread {
    /// Takes the reading of the flow's socket over from the driver.
    pub(super) fn start(udp: &UdpFlow, transfer: SharedTransfer, uplink: Uplink) -> io::Result<Self> {
        let poller = Poller::new()?;
        let waker = poller.waker();
        let out = Arc::clone(udp.socket());
        poller.add(&*out, 0, Interest::READ)?;
        let stop = Arc::<AtomicBool>::default();
        let ends = Ends { out, own: true, peer: udp.peer(), local: None };
        let owner = Client { stop: Arc::clone(&stop), uplink, drops: udp.drops() };
        let moves = move || {
            // A system that lets nobody wait for sockets says so to the driver, too.
            let _ = bulk::run(owner, transfer, &poller, ends);
        };
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(moves)?;
        Ok(Self { waker, stop, thread: Some(thread) })
    }

    /// Something new is to be sent.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

impl Drop for LoadThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It may have panicked; the run goes on without it, and its load shows as never sent.
            let _ = thread.join();
        }
    }
}

struct Client {
    stop: Arc<AtomicBool>,
    uplink: Uplink,
    drops: u32,
}

impl Owner for Client {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn got(&mut self, _len: usize, got: Got<'_>) {
        match got {
            // The transfer has counted them.
            Got::Block(_) | Got::Sack => {}
            // The engine judges what is not authentic, and keeps some of it as evidence; it sees none of a load's
            // blocks, of which there may be too many.
            Got::Forged => {}
            Got::Other { arrived, bytes, .. } => {
                self.uplink.send(Remote::Datagram { bytes: bytes.to_vec(), at: arrived });
            }
        }
    }

    fn sent(&mut self, _sent: Sent) {}

    fn drops(&mut self, so_far: u32) {
        let more = so_far.wrapping_sub(self.drops);
        self.drops = so_far;
        if more > 0 {
            self.uplink.send(Remote::Overflow(more));
        }
    }

    fn failed(&mut self, socket: &UdpSocket) {
        for _ in 0..MAX_ERRORS {
            let Some(error) = socket.take_error() else { break };
            self.uplink.send(Remote::Failed(error));
        }
    }
}
