//! Moves the blocks of one flow's load between its [`Transfer`] and a socket, on a thread of its own, at either end.
//!
//! Of the probe protocol this module knows the [`Transfer`] alone, which seals, verifies and counts; what else arrives
//! on the socket is its owner's ([`Owner::got`]).

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use probe_protocol::bulk::{Counted, Heard, Transfer};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::{HANDSHAKE_LEN, MAX_LEN};

use crate::ceiling;
use crate::clock::{self, WallMap};
use crate::pace::{self, Precision};
use crate::udp::{Fault, MAX_BATCH, Outgoing, RecvBatch, RxMeta, SendBatch, UdpSocket};
use crate::wait::{Poller, Ready};

/// Longest sleep: how soon the end of a flow is seen.
const MAX_WAIT: Duration = Duration::from_millis(500);
/// A merged datagram can be as long as an IP packet.
pub(crate) const MERGED: usize = 65_535;
/// Merged datagrams read at once.
pub(crate) const READ: usize = 16;
/// Room for what arrives while the thread does not run.
pub const BUFFER: usize = 8 << 20;
/// Slots may be this late before the thread sends what is due together.
const GATHER: Duration = Duration::from_micros(20);
/// From this rate on, bits per second, blocks pass the stack in runs ([`crate::udp::UdpOptions::coalesce`]). Below it
/// each goes by itself: what meters packets on this host would take a run for one packet.
const TOGETHER_FROM: u64 = 250_000_000;

/// A load, shared between its thread and who orders it.
pub type SharedTransfer = Arc<Mutex<Transfer>>;

/// What arrived.
#[derive(Debug)]
pub enum Got<'b> {
    /// A block, and whether it counts.
    Block(Counted),
    /// An acknowledgement.
    Sack,
    /// It names the flow, and is not authentic.
    Forged,
    /// It is no load's, and as it came.
    Other {
        /// What is known of it.
        meta: &'b RxMeta,
        /// When it arrived; by the kernel's clock where `kernel`.
        arrived: Timestamp,
        /// Whether the kernel stamped it.
        kernel: bool,
        /// Its bytes.
        bytes: &'b [u8],
    },
}

/// What one turn has sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Blocks.
    pub blocks: usize,
    /// What the system did not take.
    pub failures: usize,
    /// Blocks that the owner did not allow.
    pub refused: usize,
}

/// Whose load is moved.
pub trait Owner {
    /// Nothing is to be moved any more.
    fn is_over(&self) -> bool;
    /// Whether so many bytes may leave now.
    fn may_send(&mut self, _now: Timestamp, _bytes: usize) -> bool {
        true
    }
    /// So many bytes arrived in one datagram.
    fn got(&mut self, len: usize, got: Got<'_>);
    /// Something was sent, or was not.
    fn sent(&mut self, sent: Sent);
    /// The socket has said that it dropped so many datagrams since it was opened.
    fn drops(&mut self, _so_far: u32) {}
    /// Errors may wait at the socket.
    fn failed(&mut self, socket: &UdpSocket);
    /// A turn is over.
    fn turn(&mut self) {}
}

/// Where a load's datagrams go, and where they arrive.
#[derive(Debug)]
pub struct Ends {
    /// Blocks and acknowledgements leave here.
    pub out: Arc<UdpSocket>,
    /// The same socket, where it is the load's alone: it is in the poller, and nobody else reads it.
    pub own: bool,
    /// Whom they are for, and who alone is heard.
    pub peer: SocketAddr,
    /// The local address.
    pub local: Option<IpAddr>,
}

fn lock(transfer: &Mutex<Transfer>) -> MutexGuard<'_, Transfer> {
    transfer.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Work<O> {
    owner: O,
    ends: Ends,
    transfer: SharedTransfer,
    batch: RecvBatch,
    out: SendBatch,
    map: WallMap,
    /// Length of the blocks whose filler stands in the buffers.
    filled: usize,
    sack: Box<[u8; HANDSHAKE_LEN]>,
}

/// Moves a load until its owner says that it is over.
///
/// # Errors
/// The system no longer lets us wait.
pub fn run(owner: impl Owner, transfer: SharedTransfer, poller: &Poller, ends: Ends) -> std::io::Result<()> {
    pace::prepare_thread();
    // Before anything is said of a path, what this end moves without one.
    let ceiling = ceiling::measured();
    lock(&transfer).set_ceiling(ceiling);
    let merges = ends.own && ends.out.features().merge;
    let (slots, room) = if merges { (READ, MERGED) } else { (MAX_BATCH, MAX_LEN) };
    let mut work = Work {
        owner,
        ends,
        transfer,
        batch: RecvBatch::new(slots, room),
        out: SendBatch::new(MAX_BATCH, MAX_LEN),
        map: WallMap::new(&clock::sample()),
        filled: 0,
        sack: Box::new([0; HANDSHAKE_LEN]),
    };
    let mut ready = Ready::new();
    while !work.owner.is_over() {
        let now = clock::now();
        let (due, precise) = {
            let transfer = lock(&work.transfer);
            // Of a transfer the rate counts, not the moment of each block: it gets no core to spin on.
            let precise = transfer.sends().is_some_and(|order| !order.is_transfer());
            (transfer.next_deadline().unwrap_or(Timestamp::NEVER), precise)
        };
        let early = if precise { pace::SPIN } else { Duration::ZERO };
        let coarse = (due - early).min(now + MAX_WAIT);
        if coarse > now {
            poller.wait(&mut ready, coarse)?;
            if !ready.events().is_empty() {
                work.receive();
            }
        } else {
            work.receive();
            if precise {
                pace::sleep_until((due + GATHER).min(now + pace::SPIN), Precision::Precise);
            }
        }
        work.send();
        work.owner.turn();
    }
    Ok(())
}

impl<O: Owner> Work<O> {
    fn receive(&mut self) {
        if !self.ends.own {
            return;
        }
        if self.ends.out.recv(&mut self.batch).is_err() {
            self.owner.failed(&self.ends.out);
            return;
        }
        let sample = clock::sample();
        self.map.update(&sample);
        let mut transfer = lock(&self.transfer);
        for i in 0..self.batch.len() {
            let Some(rx) = self.batch.meta(i).copied() else { break };
            if let Some(drops) = rx.drops {
                self.owner.drops(drops);
            }
            let stamped = rx.kernel.and_then(|wall| self.map.boot(wall));
            let arrived = stamped.unwrap_or(sample.boot).min(sample.boot);
            for bytes in self.batch.segments(i) {
                let ours = rx.from == self.ends.peer && !rx.truncated && bytes.starts_with(&transfer.id().0);
                let got = match ours.then(|| transfer.handle(bytes, arrived)) {
                    Some(Ok(Heard::Block(counted))) => Got::Block(counted),
                    Some(Ok(Heard::Sack(_))) => Got::Sack,
                    Some(Err(_)) => Got::Forged,
                    Some(Ok(Heard::Other(header))) if transfer.seal_again(header, bytes).is_err() => {
                        Got::Forged
                    }
                    Some(Ok(Heard::Other(_))) | None => {
                        Got::Other { meta: &rx, arrived, kernel: stamped.is_some(), bytes }
                    }
                };
                self.owner.got(bytes.len(), got);
            }
        }
    }

    fn send(&mut self) {
        let now = clock::now();
        let mut told = Sent::default();
        let mut transfer = lock(&self.transfer);
        if transfer.write_sack(now, &mut self.sack) {
            let datagram =
                Outgoing { local: self.ends.local, ..Outgoing::new(&self.sack[..], self.ends.peer) };
            if self.owner.may_send(now, HANDSHAKE_LEN) && self.ends.out.send(&datagram).is_err() {
                told.failures += 1;
            }
        }
        let Some((blocks, size, tos)) = transfer.due(now, MAX_BATCH) else {
            self.owner.sent(told);
            return;
        };
        if self.filled != size {
            self.filled = size;
            self.out.clear();
            let mut n = 0;
            while self.out.push(size, self.ends.peer, |record| transfer.fill(n, record)) {
                n += 1;
            }
        }
        if !self.owner.may_send(now, blocks * (size + IP_AND_UDP)) {
            transfer.pass_over(blocks);
            told.refused = blocks;
            self.owner.sent(told);
            return;
        }
        self.out.clear();
        let tos = (tos != 0).then_some(tos);
        let together =
            transfer.sends().is_some_and(|order| order.rate_bps >= TOGETHER_FROM && order.burst == 0);
        for _ in 0..blocks {
            self.out.push_with(size, self.ends.peer, self.ends.local, tos, None, |record| {
                transfer.write_block(now, record);
            });
        }
        // The lock is not held over the system call: who orders the load may want it.
        drop(transfer);
        let sent = if together {
            self.ends.out.send_batch(&mut self.out)
        } else {
            self.ends.out.send_batch_apart(&mut self.out)
        };
        told.blocks = sent.sent;
        if sent.failed + sent.pending > 0 {
            told.failures += sent.failed + sent.pending;
            let too_big = sent.failed > 0 && self.out.failures().iter().any(|(_, f)| *f == Fault::TooBig);
            let mut transfer = lock(&self.transfer);
            // Those that were not taken are the last ones: their numbers are used again.
            (0..sent.pending).for_each(|_| transfer.unsend(size, true));
            (0..sent.failed).for_each(|_| transfer.unsend(size, false));
            if too_big {
                // Nothing of this length leaves this host.
                transfer.stop_sending();
            }
        }
        self.owner.sent(told);
    }
}

/// An IPv4 and a UDP header.
const IP_AND_UDP: usize = 28;
