//! What a running step shows of a limit, told from what arrives meanwhile.
//!
//! Only the plan of the next steps hangs on it: what is said of the path is judged from the counts of both ends.

use std::time::Duration;

use probe_protocol::time::Timestamp;

/// What is missing when a step is in trouble, as time at the rate that is sent: lost or queued, no matter which.
const MISSING: f64 = 0.06;
/// And so many packets at least.
const MISSING_PACKETS: f64 = 4.0;
/// Of what is allowed to be missing, this share may still be when a trouble is over.
const RECOVERS: f64 = 0.5;
/// Nothing arrives for so long: the flow is held, and its rate meanwhile says nothing.
pub(super) const HELD: Duration = Duration::from_millis(150);
/// A flow of which nothing has arrived is given so long.
const FIRST_WITHIN: Duration = Duration::from_millis(700);
/// The rate behind a limit is measured for so long.
const MEASURED: Duration = Duration::from_millis(250);
/// Less than this tells no rate.
const SHORTEST: Duration = Duration::from_millis(100);
/// After a hold the step goes on so long, so that its end is seen.
const RECOVERED: Duration = Duration::from_millis(60);
/// What a whole step may lose before its rate is above a limit: a limit just below the highest rate shows no more.
const WHOLE: f64 = 0.015;
const WHOLE_PACKETS: f64 = 15.0;
/// Acknowledgements come more often than this.
const LATELY: Duration = Duration::from_millis(150);
/// Of a flow that was held, what is known is that the limit lies between the step's rate and the half of it.
const HELD_SHARE: f64 = 0.75;
/// Packets wait so much longer than the first: the queue has to drain before the next step.
const QUEUED: i64 = 30_000_000;

/// Progress of a step: packets sent and received so far, and the delay of the latest over the first, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    pub(super) sent: f64,
    pub(super) received: u64,
    pub(super) delay: i64,
}

/// The limit that a direction has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limit {
    /// Packets per second that get through.
    pub(super) packets: f64,
    /// Their length, bytes.
    pub(super) size: u16,
}

impl Limit {
    /// Bits per second, of blocks.
    pub(super) fn bps(&self) -> f64 {
        self.packets * f64::from(self.size) * 8.0
    }
}

/// What a step that is over has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shown {
    /// It got through.
    Free,
    /// Packets per second that got through.
    Limited(f64),
}

/// Watches one step.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    begun: Timestamp,
    /// Packets per second that are sent.
    rate: f64,
    /// What was under way when the first arrived.
    under_way: Option<f64>,
    /// The latest progress, and when more arrived the last time.
    latest: Option<(Timestamp, Progress)>,
    /// When more arrived the last time.
    grown: Timestamp,
    trouble: Option<Trouble>,
    was_held: bool,
    recovered: Option<Timestamp>,
    lowest: i64,
    /// When that was heard of, and what had arrived: the later part of the step.
    later: Option<(Timestamp, u64)>,
    missing: Lately,
}

/// More is missing than may be.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    since: Timestamp,
    /// What had arrived by then, and when that was heard of.
    received: u64,
    heard: Timestamp,
}

/// The least of a figure over the last tenths of a second: acknowledgements are sparse, and what was sent since the last
/// one is not missing.
#[derive(Clone, Copy, Debug)]
struct Lately {
    since: Timestamp,
    now: f64,
    before: f64,
}

impl Lately {
    const fn new(since: Timestamp) -> Self {
        Self { since, now: f64::INFINITY, before: f64::INFINITY }
    }

    fn note(&mut self, now: Timestamp, value: f64) {
        if now.since(self.since) >= LATELY {
            *self = Self { since: now, now: f64::INFINITY, before: self.now };
        }
        self.now = self.now.min(value);
    }

    fn least(&self) -> f64 {
        self.now.min(self.before)
    }
}

impl Watch {
    pub(super) fn new(begun: Timestamp, packets_per_second: f64) -> Self {
        Self {
            begun,
            rate: packets_per_second.max(1.0),
            under_way: None,
            latest: None,
            grown: begun,
            trouble: None,
            was_held: false,
            recovered: None,
            lowest: i64::MAX,
            later: None,
            missing: Lately::new(begun),
        }
    }

    /// Takes note of the progress; none where nothing has been heard.
    pub(super) fn note(&mut self, now: Timestamp, progress: Option<Progress>) {
        let Some(p) = progress.filter(|p| p.received > 0) else {
            if self.trouble.is_none() && now.since(self.begun) > FIRST_WITHIN {
                self.trouble = Some(Trouble { since: now, received: 0, heard: self.begun });
                self.was_held = true;
            }
            return;
        };
        let before = self.latest.map_or(0, |(_, l)| l.received);
        if p.received > before {
            if self.was_held && self.recovered.is_none() {
                self.recovered = Some(now);
            }
            self.grown = now;
        }
        self.lowest = self.lowest.min(p.delay);
        let missing = p.sent - p.received as f64;
        let under_way = *self.under_way.get_or_insert(missing);
        self.missing.note(now, missing);
        // By when it was heard of: acknowledgements are sparse, and a rate taken in between them would be off.
        self.latest = Some((self.grown, p));
        let allowed = (self.rate * MISSING).max(MISSING_PACKETS);
        if self.trouble.is_none() && missing - under_way > allowed {
            self.trouble = Some(Trouble { since: now, received: p.received, heard: self.grown });
        }
        // What was missing has come: it was late, not lost, and a stall of either end is no limit.
        let is_late = self.trouble.is_some_and(|trouble| trouble.received > 0);
        if is_late && missing - under_way <= allowed * RECOVERS {
            self.trouble = None;
            self.was_held = false;
            self.recovered = None;
        }
        if self.trouble.is_some() && now.since(self.grown) >= HELD {
            self.was_held = true;
            self.recovered = None;
        }
        if self.later.is_none() && now.since(self.begun) >= Duration::from_millis(400) {
            self.later = Some((self.grown, p.received));
        }
    }

    /// Whether the step tells no more. `quiet`: where nothing is wrong, after that time.
    pub(super) fn is_enough(&self, now: Timestamp, quiet: Option<Duration>) -> bool {
        let Some(quiet) = quiet else { return false };
        match self.trouble {
            None => now.since(self.begun) >= quiet,
            Some(_) if self.was_held => self.recovered.is_some_and(|at| now.since(at) >= RECOVERED),
            Some(trouble) => now.since(trouble.since) >= MEASURED,
        }
    }

    /// What it has shown.
    pub(super) fn shown(&self) -> Shown {
        let held = Shown::Limited(self.rate * HELD_SHARE);
        let Some((now, latest)) = self.latest else {
            return if self.trouble.is_some() { held } else { Shown::Free };
        };
        let Some(Trouble { received, heard: at, .. }) = self.trouble else {
            let lost = self.missing.least() - self.under_way.unwrap_or(0.0);
            return match self.later.filter(|(at, _)| now.since(*at) >= MEASURED) {
                Some((at, before)) if lost >= WHOLE_PACKETS && lost >= WHOLE * latest.sent => {
                    Shown::Limited((latest.received - before) as f64 / now.since(at).as_secs_f64())
                }
                Some(_) | None => Shown::Free,
            };
        };
        if self.was_held {
            return held;
        }
        // The later part of a long step is steadier than what followed the first trouble, or tells more than what followed
        // one just before the end.
        let steadier = |(later, _): &(Timestamp, u64)| {
            (*later > at || now.since(at) < SHORTEST) && now.since(*later) >= MEASURED
        };
        let (at, received) = self.later.filter(steadier).unwrap_or((at, received));
        let time = now.since(at).as_secs_f64();
        let got = latest.received.saturating_sub(received) as f64;
        if time < SHORTEST.as_secs_f64() || got < 3.0 {
            held
        } else {
            Shown::Limited((got / time).min(self.rate))
        }
    }

    /// Whether packets of the step still wait on the path.
    pub(super) fn is_queued(&self) -> bool {
        self.latest.is_some_and(|(_, l)| l.delay.saturating_sub(self.lowest) > QUEUED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A step at `rate` packets per second over a path that passes what `passes` says of each; looks every 10 ms.
    fn run(rate: f64, quiet_ms: u64, mut passes: impl FnMut(f64, u64) -> bool) -> (f64, Shown) {
        let start = Timestamp(1_000_000_000);
        let mut watch = Watch::new(start, rate);
        let (mut sent, mut received, mut ms) = (0u64, 0u64, 0u64);
        loop {
            ms += 10;
            let time = ms as f64 / 1e3;
            while (sent as f64) < time * rate {
                sent += 1;
                received += u64::from(passes(sent as f64 / rate, sent));
            }
            let now = start + Duration::from_millis(ms);
            watch.note(now, Some(Progress { sent: sent as f64, received, delay: 0 }));
            if watch.is_enough(now, Some(Duration::from_millis(quiet_ms))) || ms >= 3_000 {
                return (time, watch.shown());
            }
        }
    }

    fn bucket(rate: f64, depth: f64) -> impl FnMut(f64, u64) -> bool {
        let (mut tokens, mut before) = (depth, 0.0);
        move |at, _| {
            tokens = f64::min(depth, tokens + (at - before) * rate);
            before = at;
            let passes = tokens >= 1.0;
            tokens -= f64::from(passes);
            passes
        }
    }

    #[test]
    fn what_gets_through_ends_at_its_time() {
        assert_eq!(run(500.0, 250, |_, _| true), (0.25, Shown::Free));
        // One in fifty by chance is no limit.
        assert_eq!(run(500.0, 250, |_, n| n % 50 != 0).1, Shown::Free);
    }

    #[test]
    fn a_limit_is_measured_behind_the_bucket() {
        let (time, shown) = run(1000.0, 250, bucket(600.0, 20.0));
        let Shown::Limited(rate) = shown else { panic!("{shown:?}") };
        assert!((rate / 600.0 - 1.0).abs() < 0.1 && time > 0.4, "{rate} {time}");
        // Its twin: a bucket that the step does not empty.
        assert_eq!(run(1000.0, 250, bucket(600.0, 400.0)).1, Shown::Free);
    }

    #[test]
    fn a_limit_just_below_the_rate_shows_in_the_whole_step() {
        let shown = run(2000.0, 2200, bucket(1900.0, 20.0)).1;
        let Shown::Limited(rate) = shown else { panic!("{shown:?}") };
        assert!((rate / 1900.0 - 1.0).abs() < 0.02, "{rate}");
    }

    #[test]
    fn a_queue_that_only_just_shows_at_the_end_is_measured_by_the_whole_step() {
        let start = Timestamp(1_000_000_000);
        let mut watch = Watch::new(start, 2_000.0);
        for ms in (10..=700u64).step_by(10) {
            // At 680 ms what was on its way so far is more than is allowed to be missing.
            let (sent, behind) = (ms * 2, if ms >= 680 { 130 } else { ms / 10 });
            let received = sent.saturating_sub(behind);
            watch.note(
                start + Duration::from_millis(ms),
                Some(Progress { sent: sent as f64, received, delay: 0 }),
            );
        }
        let Shown::Limited(rate) = watch.shown() else { panic!("something is missing") };
        assert!((1_500.0..1_990.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_stall_of_which_everything_comes_in_the_end_is_no_limit() {
        let start = Timestamp(1_000_000_000);
        let mut watch = Watch::new(start, 1000.0);
        let mut at = |ms: u64, received: u64| {
            let now = start + Duration::from_millis(ms);
            watch.note(now, Some(Progress { sent: ms as f64, received, delay: 0 }));
            watch.is_enough(now, Some(Duration::from_millis(600)))
        };
        for ms in (10..=100).step_by(10) {
            assert!(!at(ms, ms));
        }
        // Acknowledgements stall for 200 ms, and then tell of all.
        for ms in (110..=300).step_by(10) {
            assert!(!at(ms, 100));
        }
        for ms in (310..=590).step_by(10) {
            assert!(!at(ms, ms));
        }
        assert!(at(600, 600));
        assert_eq!(watch.shown(), Shown::Free);
    }

    #[test]
    fn a_hold_is_waited_for() {
        let held = |at: f64, _| !(0.1..1.3).contains(&at);
        let (time, shown) = run(1000.0, 250, held);
        assert!((1.3..1.45).contains(&time), "{time}");
        assert_eq!(shown, Shown::Limited(750.0));
    }
}
