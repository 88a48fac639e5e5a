//! Datagrams received together and answered in place, and datagrams collected to be sent together.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use probe_protocol::time::WallTime;

use super::Fault;

/// The most datagrams one batch holds: one system call's worth.
pub const MAX_BATCH: usize = 64;

/// What is known of a received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RxMeta {
    /// Who sent it. IPv4 is IPv4 here, on a dual-stack socket too.
    pub from: SocketAddr,
    /// The local address it arrived at.
    pub local: Option<IpAddr>,
    /// The index of the interface it arrived at.
    pub interface: Option<u32>,
    /// Its length in bytes as it arrived; more than the buffer's capacity where it was truncated and the platform
    /// tells the true length.
    pub len: usize,
    /// Whether bytes were cut off because the buffer was too small. Where the platform cannot tell, a datagram
    /// that fills its buffer counts as truncated; Windows gives up such a datagram altogether.
    pub truncated: bool,
    /// When the kernel took it from the interface.
    pub kernel: Option<WallTime>,
    /// Received TTL (IPv4) or hop limit (IPv6).
    pub ttl: Option<u8>,
    /// The whole TOS or traffic class byte: DSCP in the upper six bits (RFC 2474), ECN in the lower two (RFC 3168).
    pub tos: Option<u8>,
    /// Where several datagrams were merged ([`super::UdpOptions::merge`]): the length of each but the last, which may
    /// be shorter.
    pub segment: Option<u16>,
    /// How many datagrams this socket had dropped by then for want of buffer, since it was opened (wraps).
    pub drops: Option<u32>,
}

impl RxMeta {
    pub(crate) const EMPTY: Self = Self {
        from: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local: None,
        interface: None,
        len: 0,
        truncated: false,
        kernel: None,
        ttl: None,
        tos: None,
        segment: None,
        drops: None,
    };
}

/// A datagram to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// What to send.
    pub bytes: &'a [u8],
    /// Where to.
    pub to: SocketAddr,
    /// From which local address, where that matters (a socket bound to the unspecified address).
    pub local: Option<IpAddr>,
    /// Over which interface, for link-local addresses.
    pub interface: Option<u32>,
    /// The TOS or traffic class byte; the socket's default (0) where `None`.
    pub tos: Option<u8>,
    /// TTL or hop limit; the socket's default where `None`.
    pub ttl: Option<u8>,
}

impl<'a> Outgoing<'a> {
    /// `bytes` to `to`, everything else as the socket does by default.
    pub const fn new(bytes: &'a [u8], to: SocketAddr) -> Self {
        Self { bytes, to, local: None, interface: None, tos: None, ttl: None }
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    len: usize,
    tos: u8,
}

/// Buffers for datagrams that are received together. Everything is allocated here, once.
///
/// The life of a batch: [`super::UdpSocket::recv`] fills it; the owner looks at each datagram, edits those it
/// answers and marks them with [`Datagram::reply`] or [`RecvBatch::reply`]; [`super::UdpSocket::send_replies`]
/// sends the marked ones; the next `recv` starts over.
#[derive(Debug)]
pub struct RecvBatch {
    pub(super) data: Box<[u8]>,
    pub(super) capacity: usize,
    pub(super) metas: Box<[RxMeta]>,
    pub(super) len: usize,
    pub(super) replies: Box<[Option<Reply>]>,
    pub(super) failures: Vec<(usize, Fault)>,
}

/// One datagram of a [`RecvBatch`].
#[derive(Debug)]
pub struct Datagram<'a> {
    /// What is known of it.
    pub meta: &'a RxMeta,
    /// Its bytes; at most the batch's capacity of them.
    pub bytes: &'a mut [u8],
    capacity: usize,
    reply: &'a mut Option<Reply>,
}

impl Datagram<'_> {
    /// Marks it to be answered with the first `len` bytes of its buffer, as they are when
    /// [`super::UdpSocket::send_replies`] is called, with TOS or traffic class `tos`. A length beyond the buffer is
    /// cut to it.
    pub fn reply(self, len: usize, tos: u8) {
        *self.reply = Some(Reply { len: len.min(self.capacity), tos });
    }
}

impl RecvBatch {
    /// Room for `datagrams` (1 to [`MAX_BATCH`]; other numbers are brought into that range) of at most `capacity`
    /// bytes each (at least one).
    pub fn new(datagrams: usize, capacity: usize) -> Self {
        let datagrams = datagrams.clamp(1, MAX_BATCH);
        let capacity = capacity.max(1);
        Self {
            data: vec![0; datagrams * capacity].into_boxed_slice(),
            capacity,
            metas: vec![RxMeta::EMPTY; datagrams].into_boxed_slice(),
            len: 0,
            replies: vec![None; datagrams].into_boxed_slice(),
            failures: Vec::with_capacity(datagrams),
        }
    }

    /// How many datagrams it holds now.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it is full: more datagrams may be waiting.
    pub const fn is_full(&self) -> bool {
        self.len == self.metas.len()
    }

    /// How many datagrams it can hold.
    pub const fn slots(&self) -> usize {
        self.metas.len()
    }

    /// Bytes a datagram may have before it is truncated.
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// What is known of datagram `i`; `None` where there is none.
    pub fn meta(&self, i: usize) -> Option<&RxMeta> {
        self.metas[..self.len].get(i)
    }

    /// The bytes of datagram `i`; empty where there is none.
    pub fn bytes(&self, i: usize) -> &[u8] {
        let len = self.meta(i).map_or(0, |meta| meta.len.min(self.capacity));
        self.data.get(i * self.capacity..i * self.capacity + len).unwrap_or(&[])
    }

    /// The whole buffer of datagram `i`, to be edited; empty where there is none.
    pub fn buffer_mut(&mut self, i: usize) -> &mut [u8] {
        let len = if i < self.len { self.capacity } else { 0 };
        self.data.get_mut(i * self.capacity..i * self.capacity + len).unwrap_or(&mut [])
    }

    /// All datagrams, in the order of arrival.
    pub fn datagrams(&mut self) -> impl Iterator<Item = Datagram<'_>> {
        let capacity = self.capacity;
        let buffers = self.data.chunks_exact_mut(capacity);
        self.metas[..self.len].iter().zip(buffers).zip(self.replies.iter_mut()).map(
            move |((meta, buffer), reply)| Datagram {
                meta,
                bytes: &mut buffer[..meta.len.min(capacity)],
                capacity,
                reply,
            },
        )
    }

    /// The datagrams that were merged into number `i`, one where none were; none where there is no such number.
    pub fn segments(&mut self, i: usize) -> impl Iterator<Item = &mut [u8]> {
        let (len, segment) = self.meta(i).map_or((0, 1), |m| {
            let len = m.len.min(self.capacity);
            (len, m.segment.map_or(len, usize::from).max(1))
        });
        self.data.get_mut(i * self.capacity..i * self.capacity + len).unwrap_or(&mut []).chunks_mut(segment)
    }

    /// Marks datagram `i` as [`Datagram::reply`] does. Nothing happens where there is none.
    pub fn reply(&mut self, i: usize, len: usize, tos: u8) {
        if i < self.len {
            self.replies[i] = Some(Reply { len: len.min(self.capacity), tos });
        }
    }

    /// Takes back the mark of datagram `i`.
    pub fn unmark(&mut self, i: usize) {
        if let Some(reply) = self.replies.get_mut(i) {
            *reply = None;
        }
    }

    /// Which replies failed for good in the last [`super::UdpSocket::send_replies`], and why.
    pub fn failures(&self) -> &[(usize, Fault)] {
        &self.failures
    }

    /// Forgets all datagrams and marks.
    pub fn clear(&mut self) {
        self.len = 0;
        self.replies.fill(None);
        self.failures.clear();
    }

    pub(super) fn next_marked(&self, from: usize) -> Option<usize> {
        (from..self.len).find(|&i| self.replies[i].is_some())
    }

    pub(super) fn marked(&self) -> usize {
        self.replies[..self.len].iter().filter(|reply| reply.is_some()).count()
    }

    /// The marked replies from `from` on, as datagrams to send.
    pub(super) fn outgoing(&self, from: usize) -> impl Iterator<Item = Outgoing<'_>> + Clone {
        (from..self.len).filter_map(move |i| {
            let reply = self.replies[i]?;
            let meta = &self.metas[i];
            let start = i * self.capacity;
            Some(Outgoing {
                bytes: self.data.get(start..start + reply.len)?,
                to: meta.from,
                local: meta.local,
                interface: meta.interface,
                tos: (reply.tos != 0).then_some(reply.tos),
                ttl: None,
            })
        })
    }
}

/// What became of datagrams that were to be sent together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOutcome {
    /// Taken by the kernel.
    pub sent: usize,
    /// Refused for good; which ones and why is in the batch's `failures`.
    pub failed: usize,
    /// Not tried, or turned away because the send buffer is full: still marked. Send again once the socket is
    /// writable, or give them up.
    pub pending: usize,
}

/// Datagrams collected to be sent together. Everything is allocated here, once.
#[derive(Debug)]
pub struct SendBatch {
    data: Box<[u8]>,
    capacity: usize,
    pub(super) slots: Vec<Slot>,
    slots_max: usize,
    pub(super) failures: Vec<(usize, Fault)>,
    pub(super) next: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    len: usize,
    to: SocketAddr,
    local: Option<IpAddr>,
    tos: Option<u8>,
    ttl: Option<u8>,
}

impl SendBatch {
    /// Room for `datagrams` (1 to [`MAX_BATCH`]; other numbers are brought into that range) of at most `capacity`
    /// bytes each.
    pub fn new(datagrams: usize, capacity: usize) -> Self {
        let slots_max = datagrams.clamp(1, MAX_BATCH);
        Self {
            data: vec![0; slots_max * capacity].into_boxed_slice(),
            capacity,
            slots: Vec::with_capacity(slots_max),
            slots_max,
            failures: Vec::with_capacity(slots_max),
            next: 0,
        }
    }

    /// Appends a datagram of `len` bytes that `fill` writes (it gets exactly `len` bytes, with old content).
    /// `false`, and nothing is called, where the batch is full or `len` exceeds its capacity.
    pub fn push(&mut self, len: usize, to: SocketAddr, fill: impl FnOnce(&mut [u8])) -> bool {
        self.push_with(len, to, None, None, None, fill)
    }

    /// [`SendBatch::push`] with a local address, a TOS or traffic class byte and a TTL or hop limit.
    pub fn push_with(
        &mut self,
        len: usize,
        to: SocketAddr,
        local: Option<IpAddr>,
        tos: Option<u8>,
        ttl: Option<u8>,
        fill: impl FnOnce(&mut [u8]),
    ) -> bool {
        if self.is_full() || len > self.capacity {
            return false;
        }
        let start = self.slots.len() * self.capacity;
        fill(&mut self.data[start..start + len]);
        self.slots.push(Slot { len, to, local, tos, ttl });
        true
    }

    /// How many datagrams it holds.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether no more fit.
    pub fn is_full(&self) -> bool {
        self.slots.len() == self.slots_max
    }

    /// The bytes of datagram `i`; empty where there is none.
    pub fn bytes(&self, i: usize) -> &[u8] {
        let len = self.slots.get(i).map_or(0, |slot| slot.len);
        self.data.get(i * self.capacity..i * self.capacity + len).unwrap_or(&[])
    }

    /// Which datagrams failed for good, and why, since the batch was last cleared.
    pub fn failures(&self) -> &[(usize, Fault)] {
        &self.failures
    }

    /// Forgets all datagrams, those not sent included.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.failures.clear();
        self.next = 0;
    }

    pub(super) fn outgoing(&self, from: usize) -> impl Iterator<Item = Outgoing<'_>> + Clone {
        self.slots.iter().enumerate().skip(from).map(|(i, slot)| Outgoing {
            bytes: self.bytes(i),
            to: slot.to,
            local: slot.local,
            interface: None,
            tos: slot.tos,
            ttl: slot.ttl,
        })
    }
}
