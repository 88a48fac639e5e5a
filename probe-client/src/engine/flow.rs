//! One flow: its state, its keys, its probes under way.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use probe_analysis::observation::{End, Excluded, FlowNo, ProbeReply, Purpose};
use probe_protocol::control::TcpFacts;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;
use probe_protocol::wire::id::FlowId;
use probe_protocol::wire::probe::ReplyAfter;
use probe_protocol::wire::seal::{FlowKeys, FlowSecret};
use probe_protocol::wire::stream::{Deframer, Framer};

use super::ChannelFacts;
use super::fragments::Pieces;
use super::idle::IdleState;
use super::mtu::Search;
use super::proof::Proof;
use super::sockets::Taps;
use crate::plan::{AfterDeath, FlowSpec, Script};

/// Most probes whose fate is open at once on one flow; beyond it the oldest are given up as unknown.
pub(super) const MAX_PENDING: usize = 1 << 16;
/// Most datagrams of one QUIC flow that the ledger of its socket keeps, each way.
pub(super) const MAX_TAPPED: usize = 1 << 15;
/// Most bytes looked at before a listener has shown itself.
pub(super) const MAX_OPENING_BYTES: usize = 2048;

/// What is to be written on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Hello,
    Http,
    Probe {
        scheduled: Timestamp,
    },
    Mtu {
        up: bool,
        record_len: usize,
    },
    /// A probe of an idle flow: counted for nothing but its gap.
    Idle(ReplyAfter),
    /// One of the datagrams of [`Script::Fragments`].
    Piece(super::fragments::Piece),
    Request(u64),
    Close,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Its turn has not come, or it waits between two attempts.
    Waiting,
    /// A connection is being made.
    Connecting,
    /// The connection is there; a Hello is out.
    Hello,
    /// The listener accepted it.
    Open,
    /// It is over.
    Ended(End),
}

/// What is known of the attempt under way.
#[derive(Debug)]
pub(super) struct Opening {
    /// Attempts so far, this one included.
    pub(super) attempt: u32,
    pub(super) from: Timestamp,
    pub(super) source: Option<SocketAddr>,
    pub(super) connect: Option<Duration>,
    pub(super) channel: Option<ChannelFacts>,
    pub(super) nonce: u64,
    pub(super) cookie: [u8; 16],
    /// Hellos sent in this attempt.
    pub(super) hellos: u32,
    /// The first of them that was answered.
    pub(super) first_answered: Option<u32>,
    /// What arrived on the stream and is not understood yet.
    pub(super) bytes: Vec<u8>,
    pub(super) received: u64,
    /// How this attempt asks.
    pub(super) way: Way,
}

/// How an attempt asks: later attempts find out what is there instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// With the invite's key, or as a stranger without one.
    Own,
    /// As a stranger, although there is an invite: is it another listener?
    Stranger,
    /// As a browser.
    Http,
}

/// An open flow's keys and framing.
pub(super) struct Link {
    pub(super) id: FlowId,
    pub(super) secret: FlowSecret,
    pub(super) keys: FlowKeys,
    pub(super) stream: Option<(Framer, Deframer)>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Link({})", self.id)
    }
}

/// A probe whose fate is not settled.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) scheduled: Timestamp,
    pub(super) sent: Timestamp,
    pub(super) size: u16,
    pub(super) tos: u8,
    /// Boxed: after an hour without a path, a million probes wait without one.
    pub(super) reply: Option<Box<ProbeReply>>,
    pub(super) extra_replies: u16,
    /// The listener said that it arrived.
    pub(super) arrived: bool,
    pub(super) excluded: Option<Excluded>,
}

/// A page-by-page look at the listener's ledger.
#[derive(Clone, Copy, Debug)]
pub(super) struct LedgerLook {
    /// When it was asked for first.
    pub(super) asked: Timestamp,
    /// Numbers below this had been sent by then.
    pub(super) upto: u64,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) no: FlowNo,
    pub(super) spec: FlowSpec,
    pub(super) state: State,
    pub(super) opening: Opening,
    pub(super) link: Option<Link>,
    /// The id that the ledger knows it by, also after its end.
    pub(super) ledger_id: Option<FlowId>,
    /// The listener's ledger begins here: what was sent before, an earlier boot had or had not.
    pub(super) ledger_from: u64,
    pub(super) look: Option<LedgerLook>,
    /// Part of an interval by which this flow's schedule is shifted.
    pub(super) shift: u64,
    pub(super) interval: Duration,
    pub(super) probing: bool,
    /// When the next probe is due; a timer for another time is of an earlier opening.
    pub(super) probe_at: Option<Timestamp>,
    pub(super) base_seq: u64,
    pub(super) pending: VecDeque<Pending>,
    pub(super) highest_reply: Option<u64>,
    pub(super) replies: u32,
    /// Bit `i` stands for `highest_reply - 1 - i`.
    pub(super) reply_window: u64,
    pub(super) last_reply: Option<Timestamp>,
    /// The latest probe that was answered, and when it was sent.
    pub(super) answered: Option<(u64, Timestamp)>,
    pub(super) srtt: Option<Duration>,
    pub(super) moves: u8,
    /// Its new address is being proven.
    pub(super) proof: Option<Proof>,
    pub(super) search: Option<Search>,
    pub(super) taps: Taps,
    pub(super) tcp: Option<TcpFacts>,
    pub(super) listener_tcp: Option<TcpFacts>,
    /// The plan's place that it fills, where it is one that is filled again.
    pub(super) line: Option<u32>,
    /// The ladder of which it is a rung.
    pub(super) ladder: Option<u32>,
    /// The flow that it follows.
    pub(super) replaces: Option<FlowNo>,
    /// The listener's boot that accepted it.
    pub(super) boot: Option<u64>,
    /// When it opened first.
    pub(super) opened_at: Option<Timestamp>,
    pub(super) ended_at: Option<Timestamp>,
    /// Probes sent in this life.
    pub(super) sent: u64,
    /// Its share of lost probes, of late, for telling death from loss.
    pub(super) loss: f64,
    /// Unanswered probes before this one say nothing about its being alive.
    pub(super) judged_from: u64,
    /// It is judged silent.
    pub(super) silent: Option<Silent>,
    /// When it answered again after it had been silent.
    pub(super) revived: Option<Timestamp>,
    pub(super) idle: Option<IdleState>,
    pub(super) pieces: Option<Pieces>,
}

/// A flow that does not answer any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silent {
    /// Its last answer.
    pub(super) since: Timestamp,
    /// When a fresh port was first tried in its place, others being heard.
    pub(super) followed: Option<Timestamp>,
}

impl Flow {
    pub(super) fn new(no: FlowNo, spec: FlowSpec, shift: u64) -> Self {
        Self {
            no,
            interval: spec.interval,
            probing: spec.script == Script::Purpose
                && !matches!(spec.purpose, Purpose::PathMtu | Purpose::Bulk),
            spec,
            state: State::Waiting,
            opening: Opening {
                attempt: 0,
                from: Timestamp::ZERO,
                source: None,
                connect: None,
                channel: None,
                nonce: 0,
                cookie: [0; 16],
                hellos: 0,
                first_answered: None,
                bytes: Vec::new(),
                received: 0,
                way: Way::Own,
            },
            link: None,
            ledger_id: None,
            ledger_from: 0,
            look: None,
            shift,
            probe_at: None,
            base_seq: 0,
            pending: VecDeque::new(),
            highest_reply: None,
            replies: 0,
            reply_window: 0,
            last_reply: None,
            answered: None,
            srtt: None,
            moves: 0,
            proof: None,
            search: None,
            taps: Taps::default(),
            tcp: None,
            listener_tcp: None,
            line: None,
            ladder: None,
            replaces: None,
            boot: None,
            opened_at: None,
            ended_at: None,
            sent: 0,
            loss: 0.0,
            judged_from: 0,
            silent: None,
            revived: None,
            idle: None,
            pieces: None,
        }
    }

    /// Whether its death is watched for.
    pub(super) fn is_watched(&self) -> bool {
        self.spec.death == AfterDeath::Reborn
    }

    /// Whether this probe was asked to be answered late.
    pub(super) fn answers_late(&self, seq: u64) -> bool {
        let late = |p: &Pending| p.excluded == Some(Excluded::Experiment);
        let at = seq.checked_sub(self.base_seq).and_then(|at| usize::try_from(at).ok());
        self.idle.is_some() || at.and_then(|at| self.pending.get(at)).is_some_and(late)
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether it has opened, or never will.
    pub(super) fn is_decided(&self) -> bool {
        matches!(self.state, State::Open | State::Ended(_))
    }

    /// Whether there is nothing left to measure on it.
    pub(super) fn is_finished(&self) -> bool {
        match self.state {
            State::Ended(_) => true,
            State::Open => {
                !self.probing
                    && self.search.as_ref().is_none_or(Search::is_done)
                    && self.idle.is_none()
                    && self.pieces.is_none()
            }
            State::Waiting | State::Connecting | State::Hello => false,
        }
    }

    pub(super) fn has_all_replies(&self) -> bool {
        self.pending.iter().all(|p| p.reply.is_some() || p.excluded.is_some())
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.base_seq + self.pending.len() as u64
    }

    pub(super) fn pending_mut(&mut self, seq: u64) -> Option<&mut Pending> {
        let at = seq.checked_sub(self.base_seq)?;
        self.pending.get_mut(usize::try_from(at).ok()?)
    }

    /// Whether it has a stream on which records are framed.
    pub(super) fn has_stream(&self) -> bool {
        match self.spec.carrier {
            Carrier::Tcp | Carrier::Tls | Carrier::Quic | Carrier::QuicInverse => true,
            Carrier::Udp => false,
        }
    }

    /// Whether its probes travel as datagrams.
    pub(super) fn probes_are_datagrams(&self) -> bool {
        match self.spec.carrier {
            Carrier::Udp | Carrier::Quic | Carrier::QuicInverse => true,
            Carrier::Tcp | Carrier::Tls => false,
        }
    }
}
