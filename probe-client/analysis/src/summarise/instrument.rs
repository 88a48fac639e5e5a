//! How good the measurement itself was.

use super::groups::{Delays, groups};
use crate::causes::Case;
use crate::model::{Instrument, NoiseFloor, Quantiles};
use crate::observation::HostFault;
use crate::stats::histogram::Histogram;

pub(super) fn instrument(case: &Case<'_>, local: bool) -> Instrument {
    let mut late = Histogram::default();
    case.flows.iter().for_each(|(_, traffic)| late.merge(&traffic.send_error));
    let mut out = Instrument {
        send_error_us: Quantiles::of(&late),
        missed_slots: case.flows.iter().map(|(_, traffic)| traffic.missed).sum(),
        kernel_timestamps: case.flows.iter().any(|(_, traffic)| traffic.has_kernel_clock()),
        receive_buffer_bytes: case.evidence.ended.as_ref().and_then(|ended| ended.receive_buffer),
        noise_floor: local.then(|| noise_floor(case)),
        ..Instrument::default()
    };
    for event in &case.evidence.host {
        let length = event.to.since(event.from).as_secs_f64();
        match &event.what {
            HostFault::Suspended => out.suspended_s += length,
            HostFault::Stalled => out.stalled_s += length,
            HostFault::ReceiveOverflow(n) => out.socket_drops += u64::from(*n),
            HostFault::ClockStepped(_)
            | HostFault::SendFailed(_)
            | HostFault::InterfaceChanged { .. }
            | HostFault::ListenerStalled
            | HostFault::NotRunning
            | HostFault::NotRecorded(_) => {}
        }
    }
    out.suspended_s = (out.suspended_s * 1000.0).round() / 1000.0;
    out.stalled_s = (out.stalled_s * 1000.0).round() / 1000.0;
    out
}

fn noise_floor(case: &Case<'_>) -> Vec<NoiseFloor> {
    let mut floor = Vec::new();
    for group in groups(case) {
        let traffic = || group.flows.iter().map(|(_, traffic)| *traffic);
        let sent: u64 = traffic().map(|t| t.counts.sent).sum();
        if sent == 0 {
            continue;
        }
        let delays = Delays::of(traffic());
        floor.push(NoiseFloor {
            flow: group.name,
            wire_us: delays.kernel.then(|| Quantiles::of(&delays.wire)).flatten(),
            application_us: Quantiles::of(&delays.app),
            loss_ratio: group.flows.iter().map(|(_, t)| t.counts.lost()).sum::<u64>() as f64 / sent as f64,
        });
    }
    floor
}
