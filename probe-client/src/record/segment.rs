//! A run that is resumed goes on in the same file: its second part gets times, numbers and names that fit the first.

use probe_analysis::observation::{
    FlowNo, HostEvent, HostFault, LoadBin, Observation, OpeningArrivals, RunStarted,
};
use probe_protocol::time::{Timestamp, WallTime};
use serde::{Deserialize, Serialize};

/// Two clocks of this host, read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// The clock that never steps.
    pub at: Timestamp,
    /// The wall clock.
    pub wall: WallTime,
}

/// One part of a run: from a start of the program to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// 0 for the first.
    pub(super) number: u32,
    /// What is added to its times, nanoseconds.
    pub(super) shift_ns: i64,
    /// What is added to its flows' numbers.
    pub(super) first_flow: u32,
    /// The latest moment of the parts before it.
    pub(super) before: Option<Timestamp>,
}

/// A difference of the wall clock below this is a step or a drift, not another start of the host.
const SAME_BOOT: i64 = 300_000_000_000;

impl Segment {
    /// The first part of a run: everything stays as it is.
    pub(super) const fn first() -> Self {
        Self { number: 0, shift_ns: 0, first_flow: 0, before: None }
    }

    /// A later part, which begins at `now`; the run began at `began`, on its own clocks.
    pub(super) fn later(number: u32, first_flow: u32, began: Clocks, last: Timestamp, now: Clocks) -> Self {
        // As the wall clock tells it. Where the host was not started anew in between, that is about zero, and then the
        // clock that never steps is right and the wall clock may have been set.
        let offset = |clocks: Clocks| clocks.wall.0.wrapping_sub(clocks.at.0.cast_signed());
        let by_wall = offset(now).wrapping_sub(offset(began));
        let same = by_wall.abs() < SAME_BOOT && now.at >= last;
        let shift = if same { 0 } else { by_wall };
        // Time does not go back within a run, whatever the wall clock says.
        let least = last.signed_since(now.at).saturating_add(1_000_000);
        Self { number, shift_ns: if same { 0 } else { shift.max(least) }, first_flow, before: Some(last) }
    }

    /// An observation of this part as one of the whole run.
    pub(super) fn place(&self, observation: Observation) -> Observation {
        let Some(before) = self.before else { return observation };
        if let Observation::RunStarted(RunStarted { at, .. }) = observation {
            return Observation::Host(HostEvent {
                from: before,
                to: self.at(at),
                what: HostFault::NotRunning,
            });
        }
        let mut observation = observation;
        self.change(&mut observation);
        observation
    }

    fn at(&self, at: Timestamp) -> Timestamp {
        if at == Timestamp::NEVER { at } else { Timestamp(at.0.saturating_add_signed(self.shift_ns)) }
    }

    fn change(&self, observation: &mut Observation) {
        let no = |flow: &mut FlowNo| flow.0 = flow.0.saturating_add(self.first_flow);
        let at =
            |stamps: &mut [&mut Timestamp]| stamps.iter_mut().for_each(|stamp| **stamp = self.at(**stamp));
        match observation {
            Observation::RunStarted(o) => at(&mut [&mut o.at]),
            Observation::Resolved(_) => {}
            Observation::FlowPlanned(o) => {
                no(&mut o.flow);
                if let Some(replaced) = &mut o.replaces {
                    no(replaced);
                }
                o.name = format!("{}.{}", o.name, self.number + 1);
                at(&mut [&mut o.at]);
            }
            Observation::Attempt(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.from, &mut o.to]);
            }
            Observation::FlowOpened(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::Channel(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::Probe(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.scheduled, &mut o.sent]);
                if let Some(reply) = &mut o.reply {
                    at(&mut [&mut reply.at]);
                    if let Some(kernel) = &mut reply.kernel {
                        at(&mut [kernel]);
                    }
                }
            }
            Observation::Missed(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.from]);
            }
            Observation::Rewritten(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::AnsweredLate(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::Datagrams(o) => no(&mut o.flow),
            Observation::Moved(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::Arrivals(OpeningArrivals { at: moment, udp, .. }) => {
                at(&mut [moment]);
                udp.iter_mut().for_each(|(flow, _, _)| no(flow));
            }
            Observation::Proxy(o) => at(&mut [&mut o.at]),
            Observation::Tcp(o) => no(&mut o.flow),
            Observation::PathMtu(o) => no(&mut o.flow),
            Observation::Silence(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.since, &mut o.at]);
            }
            Observation::IdleGap(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::Fragment(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::StreamEnd(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::Watch(o) => at(&mut [&mut o.at]),
            Observation::NameChanged(o) => at(&mut [&mut o.at]),
            Observation::Host(o) => at(&mut [&mut o.from, &mut o.to]),
            Observation::ListenerRestarted(o) => at(&mut [&mut o.last_seen, &mut o.at]),
            Observation::Load(o) => {
                no(&mut o.flow);
                o.beside.iter_mut().for_each(no);
                at(&mut [&mut o.from, &mut o.to]);
                o.bins.iter_mut().for_each(|LoadBin { at: moment, .. }| at(&mut [moment]));
            }
            Observation::Ceiling(o) => at(&mut [&mut o.at]),
            Observation::FlowEnded(o) => {
                no(&mut o.flow);
                at(&mut [&mut o.at]);
            }
            Observation::RunEnded(o) => at(&mut [&mut o.at]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clocks(at_s: u64, wall_s: i64) -> Clocks {
        Clocks { at: Timestamp(at_s * 1_000_000_000), wall: WallTime(wall_s * 1_000_000_000) }
    }

    #[test]
    fn on_the_same_clock_nothing_is_shifted_though_the_wall_clock_was_set() {
        let last = Timestamp(160_000_000_000);
        let segment = Segment::later(1, 7, clocks(100, 5_000), last, clocks(200, 5_190));
        assert_eq!(segment.shift_ns, 0);
    }

    #[test]
    fn after_a_new_start_of_the_host_the_wall_clock_tells_how_long_it_was() {
        let last = Timestamp(160_000_000_000);
        // The clock began anew; the wall clock says that 400 s went by since the start of the run.
        let segment = Segment::later(1, 7, clocks(100, 5_000), last, clocks(30, 5_400));
        assert_eq!(segment.at(Timestamp(30_000_000_000)), Timestamp(500_000_000_000));
    }

    #[test]
    fn time_does_not_go_back_even_where_the_wall_clock_does() {
        let last = Timestamp(160_000_000_000);
        let segment = Segment::later(1, 7, clocks(100, 50_000), last, clocks(30, 1_000));
        assert!(segment.at(Timestamp(30_000_000_000)) > last);
    }
}
