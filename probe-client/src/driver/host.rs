//! Watches the client's own host: sleep, clock steps, late wake-ups, overflowing buffers.

use std::time::Duration;

use probe_analysis::observation::HostFault;
use probe_net::clock::{self, Sample, WallMap};
use probe_protocol::time::{Timestamp, WallTime};

use crate::engine::Engine;

/// How often the clocks are compared.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A wake-up this late is the host's doing and worth telling, where nothing was there to be read.
const STALL: Duration = Duration::from_millis(50);
/// And one this late where something was: the deadline would have woken the program whatever came. Who was stopped finds
/// what arrived meanwhile.
const STOPPED: Duration = Duration::from_secs(1);

pub(super) struct HostWatch {
    last: Sample,
    map: WallMap,
}

impl HostWatch {
    pub(super) fn new() -> Self {
        let last = clock::sample();
        Self { map: WallMap::new(&last), last }
    }

    /// Compares the clocks from time to time.
    pub(super) fn look(&mut self, engine: &mut Engine) {
        if clock::now().since(self.last.boot) < LOOK_EVERY {
            return;
        }
        let sample = clock::sample();
        let passed = clock::between(&self.last, &sample);
        if !passed.slept.is_zero() {
            engine.handle_host(self.last.boot, sample.boot, HostFault::Suspended);
        }
        if passed.wall_step_ns != 0 {
            engine.handle_host(self.last.boot, sample.boot, HostFault::ClockStepped(passed.wall_step_ns));
        }
        self.last = sample;
    }

    /// Judges how late a wake-up was; `idle`: nothing is there to be read.
    pub(super) fn woke(&mut self, due: Timestamp, now: Timestamp, idle: bool, engine: &mut Engine) {
        let limit = if idle { STALL } else { STOPPED };
        if due != Timestamp::NEVER && now.since(due) >= limit {
            engine.handle_host(due, now, HostFault::Stalled);
        }
    }

    /// Pairs the clocks, for the kernel's timestamps of the batch that was just read.
    pub(super) fn pair(&mut self) {
        self.map.update(&clock::sample());
    }

    /// A kernel's timestamp on our clock; none across a step of the wall clock.
    pub(super) fn kernel(&self, wall: Option<WallTime>) -> Option<Timestamp> {
        self.map.boot(wall?)
    }
}
