//! A small model of TCP: enough for connections to open, carry bytes through loss, stall, and be refused, reset, or
//! cut off. Its segments are real packets, so every rule of the lab applies to them.
//!
//! Its congestion control is NewReno (RFC 5681, RFC 6582), with an initial window of ten segments (RFC 6928).
//!
//! What it omits: flow control (at most [`WINDOW`] bytes are under way); selective acknowledgements, tail loss probes
//! and pacing; delayed acknowledgements; options (the segment size is
//! 1,460 bytes, less where ICMP says so); time-wait; keepalives; urgent data; sequence numbers of more than one
//! round. What TCP really does is shown by the real-kernel lab.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use probe_protocol::control::TcpFacts;
use probe_protocol::time::Timestamp;

use crate::packet::build::{self, Tcp as Header};
use crate::packet::{Packet, flag};

/// Most bytes under way.
const WINDOW: u64 = 256 * 1024;
/// What a system takes from a program before it lets it wait.
const SEND_BUFFER: usize = 128 * 1024;
/// Most bytes that wait to be sent; more are refused.
const MAX_WAITING: usize = 1 << 20;
/// Most segments that wait for one before them.
const MAX_OUT_OF_ORDER: usize = 512;
/// RFC 6298: the first time-out, and Linux's bounds.
const FIRST_RTO: Duration = Duration::from_secs(1);
const MIN_RTO: Duration = Duration::from_millis(200);
const MAX_RTO: Duration = Duration::from_secs(120);
/// A segment that was sent so often without an answer ends the connection: Linux's tcp_syn_retries and tcp_retries2.
const SYN_TRIES: u32 = 6;
const TRIES: u32 = 15;
/// How long a closed connection waits for its last acknowledgement.
const LINGER: Duration = Duration::from_secs(10);

/// Why a connection is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Refused by a reset.
    Refused,
    /// Reset.
    Reset,
    /// The other side has ended it.
    Ended,
    /// Nothing came back for too long.
    TimedOut,
    /// The network says no.
    Unreachable(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Established,
    Closed,
}

/// One end of a connection. Offsets count the SYN as byte 0.
#[derive(Debug)]
pub(super) struct Tcp {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    state: State,
    iss: u32,
    irs: u32,
    /// Bytes from `una` on that are not acknowledged, the unsent ones included.
    bytes: VecDeque<u8>,
    una: u64,
    nxt: u64,
    highest: u64,
    rcv: u64,
    held: BTreeMap<u64, Vec<u8>>,
    read: Vec<u8>,
    peer_fin: Option<u64>,
    closing: bool,
    fin_at: Option<u64>,
    over: Option<Over>,
    over_told: bool,
    srtt: Option<Duration>,
    min_rtt: Option<Duration>,
    rttvar: Duration,
    rto: Duration,
    timing: Option<(u64, Timestamp)>,
    deadline: Option<Timestamp>,
    tries: u32,
    duplicates: u32,
    cwnd: u64,
    ssthresh: u64,
    /// End of what was under way when loss was last found, while it is being repaired.
    recover: Option<u64>,
    /// The first segment is to be sent again.
    resend: bool,
    mss: usize,
    ack_due: bool,
    again: bool,
    reset_due: bool,
    began: Timestamp,
    connected_after: Option<Duration>,
    retransmits: u32,
}

impl Tcp {
    fn new(local: SocketAddr, remote: SocketAddr, state: State, iss: u32, now: Timestamp) -> Self {
        Self {
            local,
            remote,
            state,
            iss,
            irs: 0,
            bytes: VecDeque::new(),
            una: 0,
            nxt: 0,
            highest: 0,
            rcv: 0,
            held: BTreeMap::new(),
            read: Vec::new(),
            peer_fin: None,
            closing: false,
            fin_at: None,
            over: None,
            over_told: false,
            srtt: None,
            min_rtt: None,
            rttvar: Duration::ZERO,
            rto: FIRST_RTO,
            timing: None,
            deadline: None,
            tries: 0,
            duplicates: 0,
            cwnd: 10 * 1460,
            ssthresh: WINDOW,
            recover: None,
            resend: false,
            mss: 1460,
            ack_due: false,
            again: true,
            reset_due: false,
            began: now,
            connected_after: None,
            retransmits: 0,
        }
    }

    /// Starts to connect.
    pub(super) fn connect(local: SocketAddr, remote: SocketAddr, iss: u32, now: Timestamp) -> Self {
        Self::new(local, remote, State::SynSent, iss, now)
    }

    /// Answers a SYN.
    pub(super) fn accept(syn: &Packet, iss: u32, now: Timestamp) -> Self {
        let mut tcp = Self::new(syn.to(), syn.from(), State::SynReceived, iss, now);
        tcp.irs = syn.tcp_numbers().map_or(0, |(sequence, _)| sequence);
        tcp.rcv = 1;
        tcp
    }

    /// How long the handshake took, once it is done.
    pub(super) fn connected(&self) -> Option<Duration> {
        self.connected_after
    }

    /// Why it is over: told once, after everything that was read.
    pub(super) fn take_over(&mut self) -> Option<Over> {
        if self.over_told || !self.read.is_empty() {
            return None;
        }
        let over = self.over.clone()?;
        self.over_told = true;
        Some(over)
    }

    /// Whether nothing more will happen.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed && !self.reset_due
    }

    /// What has arrived, in order.
    pub(super) fn take_read(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.read)
    }

    /// Whether there is something to read, or to be told.
    pub(super) fn has_news(&self) -> bool {
        !self.read.is_empty() || (self.over.is_some() && !self.over_told)
    }

    /// Bytes that a system's send buffer would not have taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len().saturating_sub(SEND_BUFFER)
    }

    /// Takes bytes to send; false where there is no room, or the connection is over.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        if self.over.is_some() || self.closing || self.bytes.len() + bytes.len() > MAX_WAITING {
            return false;
        }
        self.bytes.extend(bytes);
        true
    }

    /// Ends it in order, after what is still to be sent.
    pub(super) fn close(&mut self, now: Timestamp) {
        match self.state {
            State::Established | State::SynReceived => {
                self.closing = true;
                self.deadline = Some(self.deadline.map_or(now + LINGER, |d| d.min(now + LINGER)));
            }
            State::SynSent => self.state = State::Closed,
            State::Closed => {}
        }
    }

    /// TCP_INFO.
    pub(super) fn facts(&self) -> TcpFacts {
        let us = |d: Option<Duration>| d.map_or(0, |d| u32::try_from(d.as_micros()).unwrap_or(u32::MAX));
        TcpFacts {
            rtt_us: us(self.srtt),
            min_rtt_us: us(self.min_rtt),
            retransmits: self.retransmits,
            snd_mss: self.mss as u32,
            rcv_mss: 1460,
            pmtu: self.mss as u32 + 40,
        }
    }

    /// When [`timeout`](Self::timeout) is due.
    pub(super) fn next(&self) -> Timestamp {
        if self.state == State::Closed { Timestamp::NEVER } else { self.deadline.unwrap_or(Timestamp::NEVER) }
    }

    /// Makes time pass.
    pub(super) fn timeout(&mut self, now: Timestamp) {
        if self.deadline.is_none_or(|at| at > now) || self.state == State::Closed {
            return;
        }
        self.deadline = None;
        self.tries += 1;
        let most = if self.state == State::Established { TRIES } else { SYN_TRIES };
        let idle = self.una == self.nxt && self.state == State::Established;
        if self.tries > most
            || (self.closing && idle)
            || (self.closing && self.fin_at.is_some() && self.tries > 6)
        {
            return self.end(Over::TimedOut);
        }
        if idle {
            return;
        }
        self.retransmits += 1;
        self.rto = (self.rto * 2).min(MAX_RTO);
        self.timing = None;
        if self.state == State::Established {
            self.halve();
            self.cwnd = self.mss as u64;
            self.recover = None;
            self.nxt = self.una;
        }
        self.again = true;
    }

    fn end(&mut self, over: Over) {
        self.state = State::Closed;
        self.over.get_or_insert(over);
        self.deadline = None;
    }

    /// The network says that a segment did not arrive.
    pub(super) fn icmp(&mut self, mtu: Option<u32>, refused: bool, says: &str) {
        if let Some(mtu) = mtu {
            let mss = mtu.saturating_sub(if self.local.is_ipv4() { 40 } else { 60 }).max(88) as usize;
            if mss < self.mss {
                self.mss = mss;
                self.nxt = self.una.max(u64::from(self.una > 0));
                self.again = self.state != State::Established;
            }
        } else if self.state == State::SynSent {
            self.end(if refused { Over::Refused } else { Over::Unreachable(says.to_owned()) });
        }
    }

    /// Takes in a segment.
    pub(super) fn segment(&mut self, now: Timestamp, packet: &Packet) {
        let Some((sequence, acknowledgement)) = packet.tcp_numbers() else { return };
        if self.state == State::Closed {
            return;
        }
        let flags = packet.tcp_flags();
        let acked = self.una as i64
            + i64::from(acknowledgement.wrapping_sub(self.iss.wrapping_add(self.una as u32)) as i32);
        if self.state == State::SynSent {
            if flags & flag::ACK != 0 && acked != 1 {
                return;
            }
            if flags & flag::RST != 0 {
                return self.end(Over::Refused);
            }
            if flags & (flag::SYN | flag::ACK) != flag::SYN | flag::ACK {
                return;
            }
            (self.irs, self.rcv) = (sequence, 1);
            self.establish(now);
            self.ack_due = true;
            return;
        }
        let at =
            self.rcv as i64 + i64::from(sequence.wrapping_sub(self.irs.wrapping_add(self.rcv as u32)) as i32);
        if flags & flag::RST != 0 {
            // RFC 5961: within the window.
            if at >= self.rcv as i64 && at < (self.rcv + WINDOW) as i64 {
                self.end(Over::Reset);
            }
            return;
        }
        if flags & flag::SYN != 0 {
            // Our answer to it was lost.
            self.again |= self.state == State::SynReceived;
            self.ack_due |= self.state == State::Established;
            return;
        }
        if flags & flag::ACK != 0 && acked >= 0 {
            self.acknowledged(now, acked as u64, packet.payload().is_empty());
        }
        if at < 0 || self.state != State::Established {
            return;
        }
        self.take_in(at as u64, packet.payload(), flags & flag::FIN != 0);
    }

    fn establish(&mut self, now: Timestamp) {
        self.state = State::Established;
        (self.una, self.nxt, self.highest) = (1, 1, 1);
        self.connected_after = Some(now.since(self.began));
        if self.tries == 0 {
            self.measured(now.since(self.began));
        }
        (self.tries, self.again, self.deadline) = (0, false, None);
    }

    /// RFC 6298.
    fn measured(&mut self, rtt: Duration) {
        self.min_rtt = Some(self.min_rtt.map_or(rtt, |m| m.min(rtt)));
        match self.srtt {
            None => (self.srtt, self.rttvar) = (Some(rtt), rtt / 2),
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                self.srtt = Some((srtt * 7 + rtt) / 8);
            }
        }
        self.rto = (self.srtt.unwrap_or(rtt) + self.rttvar * 4).clamp(MIN_RTO, MAX_RTO);
    }

    fn acknowledged(&mut self, now: Timestamp, acked: u64, bare: bool) {
        if self.state == State::SynReceived && acked >= 1 {
            self.establish(now);
        }
        if acked > self.highest {
            return;
        }
        if acked <= self.una {
            if acked == self.una && bare && self.nxt > self.una {
                self.duplicates += 1;
                if self.duplicates == 3 && self.recover.is_none() {
                    self.timing = None;
                    self.retransmits += 1;
                    self.halve();
                    self.recover = Some(self.highest);
                    self.resend = true;
                }
            }
            return;
        }
        let data_acked = acked.min(self.fin_at.unwrap_or(u64::MAX)).saturating_sub(self.una);
        self.bytes.drain(..(data_acked as usize).min(self.bytes.len()));
        self.una = acked;
        self.nxt = self.nxt.max(acked);
        self.grow(acked, data_acked);
        self.duplicates = 0;
        self.tries = 0;
        if let Some((_, sent)) = self.timing.filter(|(offset, _)| *offset <= acked) {
            self.timing = None;
            self.measured(now.since(sent));
        } else if let Some(srtt) = self.srtt {
            self.rto = (srtt + self.rttvar * 4).clamp(MIN_RTO, MAX_RTO);
        }
        self.deadline = (self.una < self.highest).then(|| now + self.rto);
        if self.fin_at.is_some_and(|fin| acked > fin) {
            self.end(Over::Ended);
        }
    }

    /// Loss was found: half as much may be under way.
    fn halve(&mut self) {
        self.ssthresh = ((self.highest - self.una) / 2).max(2 * self.mss as u64);
        self.cwnd = self.ssthresh;
    }

    /// What an acknowledgement of new bytes does to the congestion window.
    fn grow(&mut self, acked: u64, bytes: u64) {
        let mss = self.mss as u64;
        match self.recover {
            // More is missing of what was under way.
            Some(recover) if acked < recover => {
                self.retransmits += 1;
                self.resend = true;
            }
            Some(_) => (self.recover, self.cwnd) = (None, self.ssthresh),
            None if self.cwnd < self.ssthresh => self.cwnd = (self.cwnd + bytes.min(2 * mss)).min(WINDOW),
            None => self.cwnd = (self.cwnd + (mss * bytes / self.cwnd.max(1)).max(1)).min(WINDOW),
        }
    }

    fn take_in(&mut self, at: u64, payload: &[u8], fin: bool) {
        if !payload.is_empty() || fin {
            self.ack_due = true;
        }
        if fin {
            self.peer_fin = Some(at + payload.len() as u64);
        }
        if !payload.is_empty() {
            if self.closing {
                // Nobody reads any more.
                self.reset_due = true;
                return self.end(Over::Reset);
            }
            if at <= self.rcv {
                let skip = (self.rcv - at) as usize;
                if let Some(new) = payload.get(skip..) {
                    self.read.extend_from_slice(new);
                    self.rcv += new.len() as u64;
                }
            } else if at - self.rcv < WINDOW && self.held.len() < MAX_OUT_OF_ORDER {
                self.held.insert(at, payload.to_vec());
            }
        }
        while let Some((at, bytes)) = self.held.pop_first() {
            if at > self.rcv {
                self.held.insert(at, bytes);
                break;
            }
            if let Some(new) = bytes.get((self.rcv - at) as usize..) {
                self.read.extend_from_slice(new);
                self.rcv += new.len() as u64;
            }
        }
        if self.peer_fin == Some(self.rcv) {
            self.rcv += 1;
            self.over.get_or_insert(Over::Ended);
        }
    }

    fn packet(&self, offset: u64, flags: u8, payload: &[u8]) -> Option<Packet> {
        let acknowledges = flags & flag::ACK != 0;
        let header = Header {
            sequence: self.iss.wrapping_add(offset as u32),
            acknowledgement: if acknowledges { self.irs.wrapping_add(self.rcv as u32) } else { 0 },
            flags,
            window: u16::MAX,
        };
        build::tcp(self.local, self.remote, &header, payload)
    }

    /// Sends what is due.
    pub(super) fn poll(&mut self, now: Timestamp, out: &mut Vec<Packet>) {
        if self.reset_due {
            self.reset_due = false;
            out.extend(self.packet(self.nxt, flag::RST | flag::ACK, &[]));
        }
        match self.state {
            State::SynSent | State::SynReceived if self.again => {
                self.again = false;
                let ack = if self.state == State::SynReceived { flag::ACK } else { 0 };
                out.extend(self.packet(0, flag::SYN | ack, &[]));
                self.deadline = Some(now + self.rto);
            }
            State::Established => self.poll_established(now, out),
            State::SynSent | State::SynReceived | State::Closed => {}
        }
    }

    fn poll_established(&mut self, now: Timestamp, out: &mut Vec<Packet>) {
        let before = out.len();
        let end = self.una + self.bytes.len() as u64;
        if std::mem::take(&mut self.resend) && self.una < end.min(self.nxt) {
            let length = self.mss.min(self.bytes.len());
            let payload: Vec<u8> = self.bytes.range(..length).copied().collect();
            out.extend(self.packet(self.una, flag::ACK, &payload));
            self.deadline = Some(now + self.rto);
        }
        // Each duplicate acknowledgement says that a segment has left the network.
        let left = u64::from(self.duplicates) * self.mss as u64;
        let window = (self.cwnd + if self.recover.is_some() { left } else { 0 }).min(WINDOW);
        while self.nxt < end && self.nxt - self.una < window {
            let from = (self.nxt - self.una) as usize;
            let length = self.mss.min(self.bytes.len() - from);
            let payload: Vec<u8> = self.bytes.range(from..from + length).copied().collect();
            out.extend(self.packet(self.nxt, flag::ACK, &payload));
            self.nxt += length as u64;
            if self.nxt > self.highest {
                self.timing.get_or_insert((self.nxt, now));
            }
        }
        if self.closing && self.nxt == self.fin_at.unwrap_or(end) {
            self.fin_at = Some(self.nxt);
            out.extend(self.packet(self.nxt, flag::FIN | flag::ACK, &[]));
            self.nxt += 1;
        }
        self.highest = self.highest.max(self.nxt);
        if out.len() > before {
            if self.deadline.is_none() {
                self.deadline = Some(now + self.rto);
            }
        } else if self.ack_due {
            out.extend(self.packet(self.nxt, flag::ACK, &[]));
        }
        self.ack_due = false;
    }
}
