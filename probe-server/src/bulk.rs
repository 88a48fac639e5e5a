//! The threads that send and receive loads.
//!
//! One thread per flow, with a socket of its own where the system allows (Linux): connected to the flow's proven
//! address, beside the listener's, so that the kernel brings the flow's packets here and merges them, while the
//! listener's own socket, which carries everybody's timing probes, never merges any. Elsewhere blocks leave through the
//! listener's socket and arrive through the packet thread.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use probe_net::bulk::{self, BUFFER, Ends, Got, Owner, Sent, SharedTransfer};
use probe_net::udp::{UdpOptions, UdpSocket};
use probe_net::wait::{Interest, Poller, Waker};
use probe_protocol::bulk::{Counted, Transfer};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::id::FlowId;

use crate::core::bulk::{BulkJob, BulkRunner};
use crate::core::counters::{Counters, Counts};
use crate::core::limit::BitRate;
use crate::core::shard::Meta;

/// Datagrams that wait for the packet thread: what a load's socket received that is no load's.
pub(crate) const MAX_STRAYS: usize = 256;

/// A datagram for the packet thread.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) meta: Meta,
    pub(crate) bytes: Vec<u8>,
}

/// What every load's thread needs.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) sockets: Vec<Arc<UdpSocket>>,
    pub(crate) strays: SyncSender<Stray>,
    pub(crate) packets: Waker,
    pub(crate) max_rate: Option<Arc<BitRate>>,
    pub(crate) counters: Arc<Counters>,
}

struct Running {
    waker: Waker,
    transfer: Weak<std::sync::Mutex<Transfer>>,
    thread: JoinHandle<()>,
}

/// Starts a thread per load. Dropped, it ends them all.
pub(crate) struct Threads {
    around: Around,
    running: HashMap<FlowId, Running>,
    stop: Arc<AtomicBool>,
}

impl Threads {
    pub(crate) fn new(around: Around) -> Self {
        Self { around, running: HashMap::new(), stop: Arc::default() }
    }

    fn start(&self, job: BulkJob) -> io::Result<Running> {
        let main = self.main_for(&job).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let own = own_socket(&main, &job);
        let transfer = Arc::downgrade(&job.transfer);
        let poller = Poller::new()?;
        let waker = poller.waker();
        if let Some(socket) = &own {
            poller.add(socket, 0, Interest::READ)?;
        }
        let is_own = own.is_some();
        let out = own.map_or(main, Arc::new);
        let ends = Ends { out, own: is_own, peer: job.peer, local: job.local };
        let work = Work {
            transfer: Arc::clone(&job.transfer),
            around: self.around.clone(),
            stop: Arc::clone(&self.stop),
            counts: Counts::default(),
        };
        let moves = move || {
            if let Err(error) = bulk::run(work, job.transfer, &poller, ends) {
                tracing::error!(%error, "waiting for a load's datagrams failed");
            }
        };
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(moves)?;
        Ok(Running { waker, transfer, thread })
    }

    /// The listener's socket that the flow opened to.
    fn main_for(&self, job: &BulkJob) -> Option<Arc<UdpSocket>> {
        let fits = |socket: &&Arc<UdpSocket>| {
            let Ok(bound) = socket.local_addr() else { return false };
            let family = bound.is_ipv4() == job.peer.is_ipv4();
            family && (bound.ip().is_unspecified() || job.local.is_none_or(|l| l == bound.ip()))
        };
        self.around.sockets.iter().find(fits).map(Arc::clone)
    }
}

/// A socket for the flow alone; none where the system does not allow it.
fn own_socket(main: &UdpSocket, job: &BulkJob) -> Option<UdpSocket> {
    let bound = main.local_addr().ok()?;
    let ip = if bound.ip().is_unspecified() { job.local? } else { bound.ip() };
    let options = UdpOptions {
        recv_buffer: Some(BUFFER),
        send_buffer: Some(BUFFER),
        coalesce: true,
        merge: true,
        ..UdpOptions::new(SocketAddr::new(ip, bound.port()))
    };
    match main.beside(job.peer, &options) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::debug!(%error, "a load shares the listener's socket");
            None
        }
    }
}

impl BulkRunner for Threads {
    fn run(&mut self, job: BulkJob) -> bool {
        self.running.retain(|_, r| !r.thread.is_finished());
        let flow = job.flow;
        match self.start(job) {
            Ok(running) => {
                self.running.insert(flow, running);
                true
            }
            Err(error) => {
                tracing::error!(%error, "a load's thread does not start");
                false
            }
        }
    }

    fn wake(&mut self, flow: FlowId) {
        if let Some(running) = self.running.get(&flow) {
            running.waker.wake();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for (_, running) in self.running.drain() {
            running.waker.wake();
            if running.thread.join().is_err() && running.transfer.strong_count() > 0 {
                tracing::error!("a load's thread panicked");
            }
        }
    }
}

/// A load of one flow of this listener.
struct Work {
    transfer: SharedTransfer,
    around: Around,
    stop: Arc<AtomicBool>,
    counts: Counts,
}

impl Owner for Work {
    fn is_over(&self) -> bool {
        // Nobody else holds it once its flow is closed: the mover has one, and so has this.
        self.stop.load(Ordering::Acquire) || Arc::strong_count(&self.transfer) <= 2
    }

    fn may_send(&mut self, now: Timestamp, bytes: usize) -> bool {
        self.around.max_rate.as_ref().is_none_or(|rate| rate.take(now, bytes))
    }

    fn got(&mut self, len: usize, got: Got<'_>) {
        let mut count = || {
            self.counts.datagrams += 1;
            self.counts.datagram_bytes += len as u64;
        };
        match got {
            Got::Block(Counted::Yes) => {
                count();
                self.counts.blocks += 1;
            }
            Got::Block(Counted::Twice) | Got::Sack => count(),
            Got::Block(Counted::Unexpected) => {
                count();
                self.counts.dropped_rate += 1;
            }
            Got::Forged => {
                count();
                self.counts.dropped_forged += 1;
            }
            // The packet thread counts it when it judges it.
            Got::Other { meta, arrived, kernel, bytes } => {
                let meta = Meta {
                    from: meta.from,
                    len: bytes.len(),
                    truncated: meta.truncated,
                    arrived,
                    kernel,
                    ttl: meta.ttl,
                    tos: meta.tos,
                    local: meta.local,
                    drops: None,
                };
                if self.around.strays.try_send(Stray { meta, bytes: bytes.to_vec() }).is_ok() {
                    self.around.packets.wake();
                } else {
                    self.counts.dropped_strays += 1;
                }
            }
        }
    }

    fn sent(&mut self, sent: Sent) {
        self.counts.blocks_sent += sent.blocks as u64;
        self.counts.send_failures += sent.failures as u64;
        self.counts.dropped_max_rate += sent.refused as u64;
    }

    fn failed(&mut self, socket: &UdpSocket) {
        // What came back for an earlier block (an unreachable client) is told by the load's own silence.
        while socket.take_error().is_some() {}
    }

    fn turn(&mut self) {
        self.counts.publish(&self.around.counters);
    }
}
