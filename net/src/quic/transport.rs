//! QUIC without what would disturb a measurement, the same at both ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn::{IdleTimeout, TransportConfig};

/// Bytes that may be under way: far beyond what probes need, so that none is ever held back.
const WINDOW: u64 = 4 * 1024 * 1024;

/// A transport whose datagrams leave when they are handed in: a fixed window instead of congestion control, since
/// quinn's queue drops its oldest datagrams when the window is closed, which would look like loss; and no search for a
/// larger MTU, so that QUIC and its inverse send equal sizes. `idle`: when QUIC itself gives a silent connection up.
pub fn transport(idle: Duration) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .mtu_discovery_config(None)
        .max_idle_timeout(IdleTimeout::try_from(idle).ok())
        .congestion_controller_factory(Arc::new(FixedWindow))
        .datagram_send_buffer_size(256 * 1024)
        .datagram_receive_buffer_size(Some(1024 * 1024));
    transport
}

/// A congestion controller that controls nothing. It suits slow probing and paced load with an end of its own, never
/// a transfer.
#[derive(Clone, Copy, Debug, Default)]
pub struct FixedWindow;

impl ControllerFactory for FixedWindow {
    fn build(self: Arc<Self>, _now: Instant, _current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Self)
    }
}

impl Controller for FixedWindow {
    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, _persistent: bool, _lost_bytes: u64) {}

    fn on_mtu_update(&mut self, _new_mtu: u16) {}

    fn window(&self) -> u64 {
        WINDOW
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(*self)
    }

    fn initial_window(&self) -> u64 {
        WINDOW
    }

    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}
