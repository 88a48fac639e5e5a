//! The threads that send and receive loads.
//!
//! One thread per flow, with a socket of its own where the system allows (Linux): connected to the flow's proven
//! address, beside the listener's, so that the kernel brings the flow's packets here and merges them, while the
//! listener's own socket, which carries everybody's timing probes, never merges any. Elsewhere blocks leave through the
//! listener's socket and arrive through the packet thread.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use probe_net::clock::{self, WallMap};
use probe_net::pace::{self, Precision};
use probe_net::udp::{Fault, MAX_BATCH, Outgoing, RecvBatch, SendBatch, UdpOptions, UdpSocket};
use probe_net::wait::{Interest, Poller, Ready, Waker};
use probe_protocol::bulk::{Counted, Heard, Transfer};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::{HANDSHAKE_LEN, MAX_LEN};

use crate::core::bulk::{BulkJob, BulkRunner, SharedTransfer, lock};
use crate::core::counters::{Counters, Counts};
use crate::core::limit::BitRate;
use crate::core::shard::Meta;

/// Datagrams that wait for the packet thread: what a load's socket received that is no load's.
pub(crate) const MAX_STRAYS: usize = 256;
/// Longest sleep: how soon the end of a flow is seen.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// A merged datagram can be as long as an IP packet.
const MERGED: usize = 65_535;
/// Merged datagrams read at once.
const READ: usize = 16;
/// Room for what arrives while the thread does not run.
const BUFFER: usize = 8 << 20;
/// Slots may be this late before the thread sends what is due together.
const GATHER: Duration = Duration::from_micros(20);

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
        let work = Work {
            poller,
            merges: own.as_ref().is_some_and(|s| s.features().merge),
            own,
            main,
            peer: job.peer,
            local: job.local,
            transfer: job.transfer,
            around: self.around.clone(),
            stop: Arc::clone(&self.stop),
            counts: Counts::default(),
            filled: 0,
            sack: Box::new([0; HANDSHAKE_LEN]),
        };
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || work.run())?;
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

struct Work {
    poller: Poller,
    own: Option<UdpSocket>,
    merges: bool,
    main: Arc<UdpSocket>,
    peer: SocketAddr,
    local: Option<IpAddr>,
    transfer: SharedTransfer,
    around: Around,
    stop: Arc<AtomicBool>,
    counts: Counts,
    /// Length of the blocks whose filler stands in the buffers.
    filled: usize,
    sack: Box<[u8; HANDSHAKE_LEN]>,
}

impl Work {
    fn run(mut self) {
        pace::prepare_thread();
        let (slots, room) = if self.merges { (READ, MERGED) } else { (MAX_BATCH, MAX_LEN) };
        let mut batch = RecvBatch::new(slots, room);
        let mut out = SendBatch::new(MAX_BATCH, MAX_LEN);
        let mut map = WallMap::new(&clock::sample());
        let mut ready = Ready::new();
        // Nobody else holds it once its flow is closed.
        while !self.stop.load(Ordering::Acquire) && Arc::strong_count(&self.transfer) > 1 {
            let now = clock::now();
            let due = lock(&self.transfer).next_deadline().unwrap_or(Timestamp::NEVER);
            let coarse = (due - pace::SPIN).min(now + MAX_WAIT);
            if coarse > now {
                if let Err(error) = self.poller.wait(&mut ready, coarse) {
                    tracing::error!(%error, "waiting for a load's datagrams failed");
                    return;
                }
                if !ready.events().is_empty() {
                    self.receive(&mut batch, &mut map);
                }
            } else {
                self.receive(&mut batch, &mut map);
                pace::sleep_until((due + GATHER).min(now + pace::SPIN), Precision::Precise);
            }
            self.send(&mut out);
            self.counts.publish(&self.around.counters);
        }
    }

    fn receive(&mut self, batch: &mut RecvBatch, map: &mut WallMap) {
        let Some(socket) = &self.own else { return };
        if socket.recv(batch).is_err() {
            // What came back for an earlier block (an unreachable client) is told by the load's own silence.
            while socket.take_error().is_some() {}
            return;
        }
        let sample = clock::sample();
        map.update(&sample);
        let mut transfer = lock(&self.transfer);
        for i in 0..batch.len() {
            let Some(rx) = batch.meta(i).copied() else { break };
            let kernel = rx.kernel.and_then(|wall| map.boot(wall));
            let arrived = kernel.unwrap_or(sample.boot).min(sample.boot);
            for bytes in batch.segments(i) {
                self.counts.datagrams += 1;
                self.counts.datagram_bytes += bytes.len() as u64;
                let ours = rx.from == self.peer && !rx.truncated && bytes.starts_with(&transfer.id().0);
                let heard = if ours { Some(transfer.handle(bytes, arrived)) } else { None };
                match heard {
                    Some(Ok(Heard::Block(Counted::Yes))) => self.counts.blocks += 1,
                    Some(Ok(Heard::Block(Counted::Twice) | Heard::Sack(_))) => {}
                    Some(Ok(Heard::Block(Counted::Unexpected))) => self.counts.dropped_rate += 1,
                    Some(Err(_)) => self.counts.dropped_forged += 1,
                    Some(Ok(Heard::Other(header))) if transfer.seal_again(header, bytes).is_err() => {
                        self.counts.dropped_forged += 1;
                    }
                    // The packet thread counts it when it judges it.
                    Some(Ok(Heard::Other(_))) | None => {
                        self.counts.datagrams -= 1;
                        self.counts.datagram_bytes -= bytes.len() as u64;
                        let meta = Meta {
                            from: rx.from,
                            len: bytes.len(),
                            truncated: rx.truncated,
                            arrived,
                            kernel: kernel.is_some(),
                            ttl: rx.ttl,
                            tos: rx.tos,
                            local: rx.local,
                            drops: None,
                        };
                        let stray = Stray { meta, bytes: bytes.to_vec() };
                        if self.around.strays.try_send(stray).is_ok() {
                            self.around.packets.wake();
                        } else {
                            self.counts.dropped_strays += 1;
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, out: &mut SendBatch) {
        let now = clock::now();
        let mut transfer = lock(&self.transfer);
        if transfer.write_sack(now, &mut self.sack) {
            let datagram = Outgoing { local: self.local, ..Outgoing::new(&self.sack[..], self.peer) };
            if self.may_send(now, HANDSHAKE_LEN) && self.socket().send(&datagram).is_err() {
                self.counts.send_failures += 1;
            }
        }
        let Some((blocks, size, tos)) = transfer.due(now, MAX_BATCH) else { return };
        if self.filled != size {
            self.filled = size;
            out.clear();
            let mut n = 0;
            while out.push(size, self.peer, |record| transfer.fill(n, record)) {
                n += 1;
            }
        }
        if !self.may_send(now, blocks * (size + IP_AND_UDP)) {
            transfer.pass_over(blocks);
            self.counts.dropped_max_rate += blocks as u64;
            return;
        }
        out.clear();
        let tos = (tos != 0).then_some(tos);
        for _ in 0..blocks {
            out.push_with(size, self.peer, self.local, tos, None, |record| {
                transfer.write_block(now, record);
            });
        }
        // The lock is not held over the system call: the packet thread may want it.
        drop(transfer);
        let sent = self.socket().send_batch(out);
        self.counts.blocks_sent += sent.sent as u64;
        let given_up = sent.failed + sent.pending;
        if given_up > 0 {
            self.counts.send_failures += given_up as u64;
            let failed_first = sent.failed > 0 && out.failures().iter().any(|(_, f)| *f == Fault::TooBig);
            let mut transfer = lock(&self.transfer);
            // Those that were not taken are the last ones: their numbers are used again.
            (0..sent.pending).for_each(|_| transfer.unsend(size, true));
            (0..sent.failed).for_each(|_| transfer.unsend(size, false));
            if failed_first {
                // Nothing of this length leaves this host.
                transfer.stop_sending();
            }
        }
    }

    fn socket(&self) -> &UdpSocket {
        self.own.as_ref().unwrap_or(&self.main)
    }

    fn may_send(&self, now: Timestamp, bytes: usize) -> bool {
        self.around.max_rate.as_ref().is_none_or(|rate| rate.take(now, bytes))
    }
}

/// An IPv4 and a UDP header.
const IP_AND_UDP: usize = 28;
