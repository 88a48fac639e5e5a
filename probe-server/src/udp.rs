//! The packet thread: it owns the UDP sockets, and the core that judges what arrives.
//!
//! Datagrams are read in batches; each is answered in its own buffer, and the answers of a batch leave together. What
//! is QUIC goes into a bounded ring for quinn. The thread sleeps until a socket or the waker wakes it: an idle
//! listener does nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::JoinHandle;
use std::time::Duration;

use probe_net::clock::{self, WallMap};
use probe_net::quic::{Arrival, Feed};
use probe_net::udp::{Fragmentation, MAX_BATCH, Outgoing, RecvBatch, RxMeta, UdpSocket};
use probe_net::wait::{Interest, Poller, Ready, Waker};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::MAX_LEN;

use crate::bulk::Stray;
use crate::core::Shard;
use crate::core::shard::{Meta, Outcome};
use crate::shared::Ask;

/// How often the core may look after its flows while datagrams come.
const TICK: Duration = Duration::from_millis(100);
/// Datagrams judged by one reading of the clock: a batch's last answer says its dwell to within a few microseconds.
const PER_READING: usize = 16;
/// How often a full send buffer is tried again before the rest of a batch is given up and counted.
const SEND_AGAIN: usize = 50;

/// One socket, and where its QUIC goes.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) socket: Arc<UdpSocket>,
    /// To the straight endpoint and to the inverted one.
    pub(crate) feeds: (Feed, Feed),
}

#[derive(Debug)]
pub(crate) struct PacketThread {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl PacketThread {
    /// Starts the thread. `poller` is the one that `asks`' senders wake.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn start(
        poller: Poller,
        sides: Vec<Side>,
        shard: Shard,
        asks: Receiver<Ask>,
        strays: Receiver<Stray>,
    ) -> io::Result<Self> {
        for (token, side) in (0..).zip(&sides) {
            poller.add(&*side.socket, token, Interest::READ)?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let waker = poller.waker();
        let mut packets = Packets {
            poller,
            sides,
            shard,
            asks,
            strays,
            stop: Arc::clone(&stop),
            batch: RecvBatch::new(MAX_BATCH, MAX_LEN),
            map: WallMap::new(&clock::sample()),
            next_tick: Timestamp::ZERO,
        };
        let thread = std::thread::Builder::new().name("packets".to_owned()).spawn(move || packets.run())?;
        Ok(Self { thread: Some(thread), stop, waker })
    }
}

impl Drop for PacketThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the packet thread panicked");
        }
    }
}

struct Packets {
    poller: Poller,
    sides: Vec<Side>,
    shard: Shard,
    asks: Receiver<Ask>,
    strays: Receiver<Stray>,
    stop: Arc<AtomicBool>,
    batch: RecvBatch,
    map: WallMap,
    next_tick: Timestamp,
}

impl Packets {
    fn run(&mut self) {
        let mut ready = Ready::new();
        while !self.stop.load(Ordering::Acquire) {
            if let Err(error) = self.poller.wait(&mut ready, self.shard.next_later()) {
                tracing::error!(%error, "waiting for datagrams failed");
                return;
            }
            if ready.woken() {
                self.answer_asks();
                self.judge_strays();
                self.shard.tick();
            }
            for event in ready.events() {
                self.read(event.token as usize);
            }
            self.send_later();
        }
    }

    /// Sends the replies that were asked to wait and are due.
    fn send_later(&mut self) {
        let now = clock::now();
        if self.shard.next_later() > now {
            return;
        }
        while let Some(reply) = self.shard.take_later(now) {
            let of_family =
                |side: &&Side| side.socket.local_addr().is_ok_and(|a| a.is_ipv4() == reply.to.is_ipv4());
            let Some(side) = self.sides.iter().find(of_family) else { continue };
            let datagram = Outgoing {
                local: reply.local,
                tos: (reply.tos != 0).then_some(reply.tos),
                ..Outgoing::new(&reply.bytes, reply.to)
            };
            // DF is the socket's, not the datagram's: off for this one alone.
            let whole = !reply.fragments || side.socket.set_fragmentation(Fragmentation::Allowed).is_err();
            let sent = side.socket.send(&datagram);
            if !whole && let Err(error) = side.socket.set_fragmentation(Fragmentation::Never) {
                tracing::warn!(%error, "datagrams may be fragmented from now on");
            }
            self.shard.note_failures(u64::from(sent.is_err()), 0);
        }
        self.shard.after_batch();
    }

    fn answer_asks(&mut self) {
        while let Ok(ask) = self.asks.try_recv() {
            // Who asked may be gone.
            let _ = ask.answer.send(self.shard.about(&ask.about, ask.asker, ask.room));
        }
    }

    /// Judges what a load's socket received and is no load's. Only a reply goes back: QUIC finds its way by itself.
    fn judge_strays(&mut self) {
        let mut buffer = Vec::new();
        while let Ok(stray) = self.strays.try_recv() {
            let now = clock::now();
            buffer.clear();
            buffer.extend_from_slice(&stray.bytes);
            buffer.resize(MAX_LEN, 0);
            let outcome = self.shard.datagram(now, clock::wall(), &stray.meta, &mut buffer);
            if let Outcome::Reply { len, tos } = outcome {
                let of_family = |side: &&Side| {
                    side.socket.local_addr().is_ok_and(|a| a.is_ipv4() == stray.meta.from.is_ipv4())
                };
                let Some(side) = self.sides.iter().find(of_family) else { continue };
                let datagram = Outgoing {
                    local: stray.meta.local,
                    tos: (tos != 0).then_some(tos),
                    ..Outgoing::new(buffer.get(..len).unwrap_or(&[]), stray.meta.from)
                };
                self.shard.note_failures(u64::from(side.socket.send(&datagram).is_err()), 0);
            }
        }
        self.shard.after_batch();
    }

    fn read(&mut self, side: usize) {
        let Some(side) = self.sides.get(side) else { return };
        let count = match side.socket.recv(&mut self.batch) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // What came back for an earlier reply (an unreachable client) is nobody's concern here.
                while side.socket.take_error().is_some() {}
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "receiving");
                return;
            }
        };
        // A full batch: datagrams wait longer for us than any of them takes, and no reply's timing is worth care.
        let saturated = self.batch.is_full();
        let sample = clock::sample();
        self.map.update(&sample);
        let (mut now, mut quic_full) = (sample.boot, 0);
        for i in 0..count {
            if i > 0 && i % PER_READING == 0 {
                now = clock::now();
            }
            let Some(rx) = self.batch.meta(i).copied() else { break };
            let meta = meta(&rx, &self.map, now);
            match self.shard.datagram(now, sample.wall, &meta, self.batch.buffer_mut(i)) {
                Outcome::Reply { len, tos } => self.batch.reply(i, len, tos),
                Outcome::Silent(_) => {}
                Outcome::Quic { inverse } => {
                    let (straight, inverted) = &side.feeds;
                    let feed = if inverse { inverted } else { straight };
                    let arrival = Arrival {
                        bytes: self.batch.bytes(i),
                        from: rx.from,
                        local: rx.local,
                        at: now,
                        kernel: rx.kernel,
                        ttl: rx.ttl,
                        tos: rx.tos,
                    };
                    quic_full += u64::from(feed.push(&arrival).is_err());
                }
            }
        }
        let not_sent = send(&side.socket, &mut self.batch, saturated);
        self.shard.note_failures(not_sent, quic_full);
        self.shard.after_batch();
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.shard.tick();
        }
    }
}

/// Sends the replies of a batch, runs of them together where it is `saturated`; answers with how many were given up.
fn send(socket: &UdpSocket, batch: &mut RecvBatch, saturated: bool) -> u64 {
    let (mut failed, mut pending) = (0, 0);
    for _ in 0..SEND_AGAIN {
        let outcome =
            if saturated { socket.send_replies_together(batch) } else { socket.send_replies(batch) };
        failed += outcome.failed as u64;
        pending = outcome.pending as u64;
        if pending == 0 {
            return failed;
        }
        // The send buffer is full: the network card is slower than we are for a moment.
        std::thread::sleep(Duration::from_micros(50));
    }
    failed + pending
}

fn meta(rx: &RxMeta, map: &WallMap, now: Timestamp) -> Meta {
    let kernel = rx.kernel.and_then(|wall| map.boot(wall));
    Meta {
        from: rx.from,
        len: rx.len,
        truncated: rx.truncated,
        arrived: kernel.unwrap_or(now).min(now),
        kernel: kernel.is_some(),
        ttl: rx.ttl,
        tos: rx.tos,
        local: rx.local,
        drops: rx.drops,
    }
}
