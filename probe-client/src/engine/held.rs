//! Probes that are under way: sent, and their fate not told yet.

use probe_analysis::observation::{Excluded, Fate, Probe};

use super::Engine;
use super::settle::fate;

impl Engine {
    /// The probes whose fate is not told yet, as what they would be if the run ended now: answered ones as received, all
    /// others as not counted. Of more than `most`, each flow's latest.
    pub fn open_probes(&self, most: usize) -> Vec<Probe> {
        let all: usize = self.flows.values().map(|flow| flow.pending.len()).sum();
        let each = if all <= most { most } else { most / self.flows.len().max(1) };
        let mut open = Vec::with_capacity(all.min(most));
        for flow in self.flows.values() {
            let skipped = flow.pending.len().saturating_sub(each);
            let later = flow.pending.iter().enumerate().skip(skipped);
            open.extend(later.map(|(place, pending)| {
                let fate = fate(pending, Fate::Excluded(Excluded::RunEnded));
                Probe {
                    flow: flow.no,
                    seq: flow.base_seq + place as u64,
                    scheduled: pending.scheduled,
                    sent: pending.sent,
                    size: pending.size,
                    fate,
                    reply: pending.reply.as_deref().copied().filter(|_| fate == Fate::Received),
                    extra_replies: pending.extra_replies,
                }
            }));
        }
        open
    }
}
