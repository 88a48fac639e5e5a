//! Room for sessions and flows: bounds, and who makes way when one is reached.

use std::net::IpAddr;
use std::time::Duration;

use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::{Carrier, Refusal, SessionId};

use super::{Hub, OpenRequest};
use crate::core::counters::Counters;
use crate::core::event::{CloseReason, Event};
use crate::core::limit::source_of;
use crate::core::session::{FlowEntry, Place, Session};

impl Hub {
    /// Begins a session, where the bounds allow it.
    pub(super) fn begin(&mut self, request: &OpenRequest<'_>, full: bool) -> Result<(), Refusal> {
        let source = source_of(request.from.ip());
        let public = &self.limits.public;
        let (of_source, max) = if full {
            (self.sources.get(&source).map_or(0, |u| u.sessions), self.limits.sessions_per_source)
        } else {
            let here = self.sessions.values().filter(|s| !s.full && s.source == source).count();
            (here, public.sessions_per_source)
        };
        if of_source >= max {
            let quiet = if full { self.limits.evictable_after } else { public.replaceable_after };
            let own = |s: &Session| s.source == source && s.full == full;
            self.evict_session(request.now, quiet, own).ok_or(Refusal::TooManyFromSource)?;
        }
        if !full && self.sessions.values().filter(|s| !s.full).count() >= self.limits.public.sessions {
            let quiet = self.limits.public.replaceable_after;
            self.evict_session(request.now, quiet, |s| !s.full).ok_or(Refusal::Full)?;
        }
        if self.sessions.len() >= self.limits.sessions {
            // Those without an invite make room at once for those that hold one.
            let public =
                if full { self.evict_session(request.now, Duration::ZERO, |s| !s.full) } else { None };
            let quiet = self.limits.evictable_after;
            public.or_else(|| self.evict_session(request.now, quiet, |_| true)).ok_or(Refusal::Full)?;
        }
        let mut before = self.counted(request.from.ip());
        // The connection that begins it is its own.
        match request.carrier {
            Carrier::Tcp => before.tcp_accepted = before.tcp_accepted.saturating_sub(1),
            Carrier::Tls => {
                before.tcp_accepted = before.tcp_accepted.saturating_sub(1);
                before.client_hellos = before.client_hellos.saturating_sub(1);
            }
            Carrier::Udp | Carrier::Quic | Carrier::QuicInverse => {}
        }
        let session = Session::new(request.rights.clone(), full, request.from, request.now, before);
        self.sources.entry(session.source).or_default().sessions += 1;
        self.sessions.insert(request.hello.session, session);
        Counters::bump(&self.counters.sessions_opened);
        self.tell(Event::SessionOpened {
            session: request.hello.session.into(),
            source: request.from,
            carrier: request.carrier,
            invite: request.rights.label().map(str::to_owned),
        });
        Ok(())
    }

    /// Closes the session that was silent the longest, at least for `quiet`, among those that qualify; one that ended
    /// qualifies at once.
    fn evict_session(
        &mut self,
        now: Timestamp,
        quiet: Duration,
        qualifies: impl Fn(&Session) -> bool,
    ) -> Option<()> {
        let idle = |s: &Session| s.ended.is_some() || now.since(s.last) >= quiet;
        let candidates = self.sessions.iter().filter(|(_, s)| qualifies(s) && idle(s));
        let (id, _) = candidates.min_by_key(|(_, s)| (s.ended.is_none(), s.last))?;
        let id = *id;
        self.close(id, CloseReason::Evicted);
        Some(())
    }

    /// Sees to it that one more flow of this session is within all bounds: old ones that are over make room.
    pub(super) fn make_room_for_flow(
        &mut self,
        id: SessionId,
        full: bool,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let max = if full { self.limits.flows_per_session } else { self.limits.public.flows_per_session };
        let Some(session) = self.sessions.get(&id) else { return Err(Refusal::Full) };
        let of_source = self.sources.get(&session.source).map_or(0, |u| u.flows);
        if session.flows.len() >= max || of_source >= self.limits.flows_per_source {
            self.evict_flow(now, Some(id)).ok_or(Refusal::TooManyFromSource)?;
        }
        if self.flows >= self.limits.flows {
            self.evict_flow(now, None).ok_or(Refusal::Full)?;
        }
        Ok(())
    }

    /// Forgets the flow that is over, or was silent, the longest; of one session or of all.
    fn evict_flow(&mut self, now: Timestamp, of: Option<SessionId>) -> Option<()> {
        let quiet = self.limits.evictable_after;
        let sessions = self.sessions.iter().filter(|(id, _)| of.is_none_or(|of| of == **id));
        let flows = sessions.flat_map(|(id, s)| s.flows.iter().enumerate().map(move |(at, f)| (*id, at, f)));
        let candidates = flows.filter(|(_, _, f)| f.over || now.since(f.last) >= quiet);
        let (id, at, _) = candidates.min_by_key(|(_, _, f)| (!f.over, f.last))?;
        let session = self.sessions.get_mut(&id)?;
        let flow = session.flows.remove(at);
        let source = session.source;
        self.forget(flow, source);
        Some(())
    }

    fn forget(&mut self, flow: FlowEntry, source: IpAddr) {
        self.flows = self.flows.saturating_sub(1);
        if let Some(used) = self.sources.get_mut(&source) {
            used.flows = used.flows.saturating_sub(1);
        }
        match flow.place {
            // The packet thread lets go of it first.
            Place::Udp => self.closing.push(flow.slot),
            Place::Stream(_, closer) => {
                if let Some(close) = closer {
                    close();
                }
                self.free_slots.push(flow.slot);
            }
        }
    }

    pub(super) fn take_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.free_slots.pop() {
            return Some(slot);
        }
        let slot = self.next_slot;
        // Slots wait for the packet thread to let go of them, hence the margin.
        let max = u32::try_from(self.limits.flows.saturating_mul(2)).unwrap_or(u32::MAX);
        (slot < max.min(probe_protocol::wire::id::MAX_SLOT)).then(|| {
            self.next_slot += 1;
            slot
        })
    }

    pub(super) fn close(&mut self, id: SessionId, reason: CloseReason) {
        let Some(session) = self.sessions.remove(&id) else { return };
        for flow in session.flows {
            self.forget(flow, session.source);
        }
        if let Some(used) = self.sources.get_mut(&session.source) {
            used.sessions = used.sessions.saturating_sub(1);
            if used.sessions == 0 && used.flows == 0 {
                self.sources.remove(&session.source);
            }
        }
        if session.ended.is_none() {
            self.tell(Event::SessionClosed { session: id.into(), reason });
        }
    }
}
