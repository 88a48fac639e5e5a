//! How good the measurement itself was.

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
    case.flows
        .iter()
        .filter(|(_, traffic)| traffic.counts.sent > 0)
        .map(|(flow, traffic)| NoiseFloor {
            flow: flow.plan.name.clone(),
            wire_us: traffic.has_kernel_clock().then(|| Quantiles::of(&traffic.wire)).flatten(),
            application_us: Quantiles::of(&traffic.app),
            loss_ratio: traffic.counts.lost() as f64 / traffic.counts.sent as f64,
        })
        .collect()
}
