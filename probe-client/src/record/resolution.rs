//! How finely a file keeps times.

use std::time::Duration;

use probe_analysis::observation::{Observation, Probe, ProbeReply};
use probe_protocol::time::Timestamp;

/// How finely the times of single probes are kept. All other observations are kept as they were.
///
/// Rounding happens once, before an observation goes to the file and to the analysis, so both judge the same figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// As they were measured: for runs of minutes.
    Nanosecond,
    /// To the nearest microsecond: for a night. The noise below that is most of what a probe would take on disk.
    Microsecond,
}

impl Resolution {
    /// Nanoseconds of one step.
    pub const fn nanos(self) -> u64 {
        match self {
            Self::Nanosecond => 1,
            Self::Microsecond => 1000,
        }
    }

    /// Rounds the times of a probe; leaves everything else as it is.
    pub fn round(self, observation: &mut Observation) {
        if self != Self::Nanosecond
            && let Observation::Probe(probe) = observation
        {
            self.round_probe(probe);
        }
    }

    fn round_probe(self, probe: &mut Probe) {
        let Probe { flow: _, seq: _, scheduled, sent, size: _, fate: _, reply, extra_replies: _ } = probe;
        self.stamp(scheduled);
        self.stamp(sent);
        if let Some(reply) = reply {
            let ProbeReply { at, kernel, listener_arrived, dwell, .. } = reply;
            self.stamp(at);
            self.stamp(listener_arrived);
            if let Some(kernel) = kernel {
                self.stamp(kernel);
            }
            let nanos = u64::try_from(dwell.as_nanos()).unwrap_or(u64::MAX);
            *dwell = Duration::from_nanos(self.nearest(nanos));
        }
    }

    fn stamp(self, at: &mut Timestamp) {
        at.0 = self.nearest(at.0);
    }

    fn nearest(self, nanos: u64) -> u64 {
        let step = self.nanos();
        nanos.saturating_add(step / 2) / step * step
    }
}
