//! What both ends move by themselves, told beside the loads: a plateau there is an end's, and never the path's.

use std::collections::BTreeSet;
use std::time::Duration;

use probe_analysis::observation::{Ceiling as Told, LoadEnd, Observation};
use probe_protocol::bulk::Ceiling;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::{LoadRun, lock};
use crate::engine::Engine;

/// What is known of both ends, and what has been told.
#[derive(Debug, Default)]
pub(super) struct Ceilings {
    /// The listener's, as it says.
    pub(super) listener: Option<Ceiling>,
    told: BTreeSet<(LoadEnd, u16)>,
}

impl Engine {
    /// Tells the ceilings for blocks of this length, once each. Only UDP's are measured.
    pub(super) fn tell_ceilings(&mut self, now: Timestamp, load: &mut LoadRun, size: u16) {
        let own = load.transfers.values().find_map(|transfer| lock(transfer).ceiling());
        for (end, ceiling) in [(LoadEnd::Client, own), (LoadEnd::Listener, load.ceilings.listener)] {
            let Some(ceiling) = ceiling.filter(|_| load.ceilings.told.insert((end, size))) else { continue };
            for sends in [true, false] {
                let Some(packets_per_second) = ceiling.of(sends, size) else { continue };
                self.observe(Observation::Ceiling(Told {
                    end,
                    sends,
                    carrier: Carrier::Udp,
                    size,
                    bps: (packets_per_second * f64::from(size) * 8.0) as u64,
                    packets_per_second,
                    at: now,
                    length: Duration::from_millis(8),
                }));
            }
        }
    }
}
