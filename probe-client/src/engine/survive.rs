//! What the client's host, its network and the target's name do meanwhile: each is told, none ends the run, and none is
//! counted as the path's loss.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use probe_analysis::observation::{
    End, Excluded, FlowNo, HostEvent, HostFault, NameChanged, Observation, Watch,
};
use probe_protocol::time::Timestamp;

use super::{Engine, Phase};

/// Faults of one kind that are so close belong together.
const TOGETHER: Duration = Duration::from_secs(2);
/// A fault that goes on is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(30);

/// Faults that come many times a second are told as one, and where the target is found now.
#[derive(Debug, Default)]
pub(super) struct Faults {
    open: Vec<HostEvent>,
    /// Addresses that were replaced: where flows to the first go instead.
    moved: Vec<(IpAddr, IpAddr)>,
    /// The way that the sockets were opened on, while there is none, and since when there is none.
    lost_way: Option<(String, Timestamp)>,
    /// When the host woke last from a sleep.
    awake_since: Timestamp,
}

/// What is left of a late wake-up beside a sleep and is shorter is the waking itself.
const WAKING: Duration = Duration::from_secs(1);

/// How the way to the network is called where there is none.
const NO_WAY: &str = "none";

/// Kinds of faults that are put together at once: one that is none of them is told by itself.
const MAX_OPEN: usize = 16;

impl Faults {
    /// Where to go instead of an address of the plan.
    pub(super) fn address(&self, to: SocketAddr) -> SocketAddr {
        let ip = self.moved.iter().find(|(old, _)| *old == to.ip()).map_or(to.ip(), |(_, new)| *new);
        SocketAddr::new(ip, to.port())
    }
}

impl Engine {
    pub(super) fn host_fault(&mut self, from: Timestamp, to: Timestamp, what: HostFault) {
        let mut from = from;
        match &what {
            HostFault::Suspended => {
                self.faults.awake_since = to;
                self.exclude_between(from, to, Excluded::Suspended);
                self.forgive(to);
                self.void_gaps(from, to);
            }
            HostFault::ClockStepped(by) => {
                self.wall_offset = self.wall_offset.saturating_add(*by);
            }
            HostFault::Stalled => {
                self.forgive(to);
                // A host that slept is not told twice, as one that was too busy.
                if from < self.faults.awake_since {
                    from = self.faults.awake_since;
                    if to.since(from) < WAKING {
                        return;
                    }
                }
            }
            HostFault::ReceiveOverflow(_) | HostFault::NotRunning | HostFault::NotRecorded(_) => {}
            HostFault::SendFailed(_) | HostFault::ListenerStalled => return self.gather(from, to, what),
            HostFault::InterfaceChanged { old, new } => {
                self.exclude_between(from, to, Excluded::InterfaceChanged);
                self.forgive(to);
                self.void_gaps(from, to);
                // A way that comes back as it was still serves the sockets that were opened on it.
                let same = if new == NO_WAY {
                    self.faults.lost_way.get_or_insert_with(|| (old.clone(), from));
                    true
                } else if let Some((lost, since)) = self.faults.lost_way.take() {
                    // What streams were given meanwhile lay in this host.
                    self.exclude_between(since, to, Excluded::InterfaceChanged);
                    lost == *new
                } else {
                    false
                };
                self.observe(Observation::Host(HostEvent { from, to, what }));
                if !same {
                    self.leave_old_interface(to);
                }
                return;
            }
        }
        self.observe(Observation::Host(HostEvent { from, to, what }));
    }

    /// Puts a fault to one of its kind that is still going on.
    fn gather(&mut self, from: Timestamp, to: Timestamp, what: HostFault) {
        let open = &mut self.faults.open;
        if let Some(at) = open.iter().position(|event| event.what == what) {
            if from.since(open[at].to) <= TOGETHER && to.since(open[at].from) < TOLD_EVERY {
                open[at].to = open[at].to.max(to);
                return;
            }
            let over = open.swap_remove(at);
            self.observations.push_back(Observation::Host(over));
        }
        let event = HostEvent { from, to, what };
        if self.faults.open.len() < MAX_OPEN && super::vigil::is_needed(&self.plan) {
            self.faults.open.push(event);
        } else {
            self.observe(Observation::Host(event));
        }
    }

    /// Tells the faults that are over by now.
    pub(super) fn flush_old_faults(&mut self, now: Timestamp) {
        let (over, open) = std::mem::take(&mut self.faults.open)
            .into_iter()
            .partition(|event: &HostEvent| now.since(event.to) > TOGETHER);
        self.faults.open = open;
        self.observations.extend(over.into_iter().map(Observation::Host));
    }

    /// Tells all faults.
    pub(super) fn flush_faults(&mut self) {
        let all = std::mem::take(&mut self.faults.open);
        self.observations.extend(all.into_iter().map(Observation::Host));
    }

    /// Sockets are bound to the address they were opened on: flows that are filled again get new ones.
    fn leave_old_interface(&mut self, now: Timestamp) {
        if self.phase > Phase::Measure {
            return;
        }
        let left: Vec<FlowNo> =
            self.flows.values().filter(|flow| flow.is_watched() && flow.is_open()).map(|f| f.no).collect();
        for no in left {
            self.end_flow(now, no, End::Error("this computer's way to the network changed".to_owned()));
        }
        self.fill_places(now);
    }

    /// Takes in what the gateway, the loopback and the interface answered.
    pub fn handle_watch(&mut self, watch: Watch) {
        self.observe(Observation::Watch(watch));
    }

    /// Takes in that the target's name leads elsewhere: flows that open from now on go there, those that are open stay
    /// as long as they live.
    pub fn handle_name(&mut self, now: Timestamp, host: &str, old: &[IpAddr], new: &[IpAddr]) {
        let changed = NameChanged { at: now, host: host.to_owned(), old: old.to_vec(), new: new.to_vec() };
        self.observe(Observation::NameChanged(changed));
        for spec in &self.plan.flows {
            let ip = spec.to.ip();
            if new.contains(&ip) {
                self.faults.moved.retain(|(from, _)| *from != ip);
                continue;
            }
            let same_family = new.iter().find(|n| n.is_ipv4() == ip.is_ipv4());
            if let Some(to) = same_family.or(new.first()) {
                self.faults.moved.retain(|(from, _)| *from != ip);
                self.faults.moved.push((ip, *to));
            }
        }
    }

    /// The first address that the run goes to, where there is one.
    pub fn target(&self) -> Option<SocketAddr> {
        self.plan.flows.first().map(|spec| self.faults.address(spec.to))
    }

    /// Whether nothing has been heard for long enough that the target's name should be looked up again.
    pub fn wants_name(&self, now: Timestamp) -> bool {
        self.is_out(now)
    }

    /// Whether the gateway, the loopback, the interface and the target's name are to be watched beside the path.
    pub fn wants_watch(&self) -> bool {
        (self.plan.long || !self.plan.measure.is_zero()) && self.phase <= Phase::Measure
    }
}
