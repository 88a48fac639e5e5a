//! Stretches in which everything that was sent was lost.

/// Silences kept; further ones are counted and dropped.
const MAX_SILENCES: usize = 16_384;
/// Packets in a row that must be lost.
const MIN_PACKETS: u64 = 5;
/// And for so long, seconds.
const MIN_LENGTH: f64 = 0.04;
/// Fewer packets are enough in a longer silence: a sender that backs off sends few.
const FEW_PACKETS: u64 = 3;
/// How long that is, seconds.
const LONG: f64 = 0.5;
/// So many packets that get through in a row end a burst of loss.
const BURST_ENDS: u64 = 4;
/// Packets that a burst takes at least.
pub(super) const BURST_LOST: u64 = 2;

/// One stretch in which everything was lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Silence {
    /// When the first lost packet was sent, seconds.
    pub from: f64,
    /// When the first packet that arrived again was sent, seconds.
    pub to: f64,
    /// When the last lost packet was sent, seconds.
    pub last: f64,
    /// Packets lost in it.
    pub lost: u64,
    /// Packets sent since the silence before this one.
    pub sent_before: u64,
    /// Of those, arrived.
    pub passed_before: u64,
    /// When the first packet after the silence before this one was sent.
    pub since: f64,
}

/// A moment in which at least half of what was sent was lost: shorter than a silence, or with a few that got through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Burst {
    /// When the first lost packet was sent, seconds.
    pub(super) from: f64,
    /// When the last lost packet was sent, seconds.
    pub(super) last: f64,
    /// When the first packet after it was sent, seconds.
    pub(super) to: f64,
    /// Since when nothing had been sent before its first packet, seconds.
    pub(super) idle_before: f64,
    /// Packets lost in it.
    pub(super) lost: u64,
    /// Packets sent from the first lost to the last.
    sent: u64,
    /// Packets that got through since the burst before this one.
    pub(super) passed_before: u64,
}

/// Collects bursts.
#[derive(Clone, Debug, Default)]
struct Bursts {
    list: Vec<Burst>,
    open: Option<Burst>,
    /// Packets in a row that got through.
    passed: u64,
    before: Option<f64>,
}

impl Bursts {
    fn note(&mut self, at: f64, arrived: bool) {
        if arrived {
            self.passed += 1;
            if let Some(open) = &mut self.open
                && self.passed == 1
            {
                open.to = at;
            }
            if self.passed == BURST_ENDS {
                self.end();
            }
        } else {
            let (passed, before) = (self.passed, self.before.unwrap_or(at));
            let open = self.open.get_or_insert(Burst {
                from: at,
                last: at,
                to: at,
                idle_before: at - before,
                lost: 0,
                sent: 0,
                passed_before: passed,
            });
            open.sent += 1 + if open.lost > 0 { passed } else { 0 };
            open.lost += 1;
            (open.last, open.to) = (at, at);
            self.passed = 0;
        }
        self.before = Some(at);
    }

    fn end(&mut self) {
        let Some(burst) = self.open.take() else { return };
        if burst.lost >= BURST_LOST && burst.lost * 2 >= burst.sent && self.list.len() < MAX_SILENCES {
            self.list.push(burst);
        }
    }
}

/// Collects silences, and the bursts of loss that are too short for one.
#[derive(Clone, Debug, Default)]
pub struct Silences {
    list: Vec<Silence>,
    bursts: Bursts,
    open: Option<(f64, f64, u64)>,
    last: f64,
    sent: u64,
    passed: u64,
    since: Option<f64>,
    /// Losses, and losses whose predecessor was lost, too.
    losses: (u64, u64),
    was_lost: bool,
    /// Silences beyond the bound.
    pub dropped: u64,
}

impl Silences {
    /// Takes the next packet in sending order.
    pub fn note(&mut self, at: f64, arrived: bool) {
        self.since.get_or_insert(at);
        self.last = at;
        self.bursts.note(at, arrived);
        if arrived {
            self.end(at);
            self.sent += 1;
            self.passed += 1;
        } else {
            let (_, last, lost) = self.open.get_or_insert((at, at, 0));
            *last = at;
            *lost += 1;
            self.losses.0 += 1;
            self.losses.1 += u64::from(self.was_lost);
        }
        self.was_lost = !arrived;
    }

    fn end(&mut self, at: f64) {
        let Some((from, last, lost)) = self.open.take() else { return };
        // A sender that pauses between bursts says nothing of its pauses: what counts is the time over which packets
        // were lost, each with the gap behind it.
        let sent_for = (last - from) * lost as f64 / (lost.max(2) - 1) as f64;
        let is_silence =
            (lost >= MIN_PACKETS && sent_for >= MIN_LENGTH) || (lost >= FEW_PACKETS && at - from >= LONG);
        if !is_silence {
            self.sent += lost;
            return;
        }
        let silence = Silence {
            from,
            to: at,
            last,
            lost,
            sent_before: self.sent,
            passed_before: self.passed,
            since: self.since.unwrap_or(from),
        };
        (self.sent, self.passed, self.since) = (0, 0, Some(at));
        if self.list.len() < MAX_SILENCES {
            self.list.push(silence);
        } else {
            self.dropped += 1;
        }
    }

    /// The trace is over.
    pub fn close(&mut self) {
        let last = self.last;
        self.end(last);
        self.bursts.end();
    }

    /// Chance that a packet is lost whose predecessor was, outside of the given silences.
    pub fn chance_to_go_on(&self, outside: &[Silence]) -> f64 {
        let (lost, pairs) =
            outside.iter().fold((0, 0), |(l, p), s| (l + s.lost, p + s.lost.saturating_sub(1)));
        let (all, follow) = (self.losses.0.saturating_sub(lost), self.losses.1.saturating_sub(pairs));
        // Two losses that were seen to be followed, and two that were not: little is known of few.
        (follow as f64 + 0.2) / (all as f64 + 2.0)
    }

    /// All bursts of loss, in order, the silences among them.
    pub(super) fn bursts(&self) -> &[Burst] {
        &self.bursts.list
    }

    /// All silences, in order.
    pub fn list(&self) -> &[Silence] {
        &self.list
    }
}

/// A recurrence of moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Period {
    /// Seconds from one to the next.
    pub(super) period: f64,
    /// Length of the mean phase vector, 0 to 1.
    pub(super) concentration: f64,
    /// Probability of that by chance, corrected for the number of periods tried (Rayleigh).
    pub(super) p: f64,
}

/// The period with which moments recur, seconds; none with fewer than five, or where none fits.
pub(super) fn period(moments: &[f64]) -> Option<Period> {
    if moments.len() < 5 {
        return None;
    }
    let mut gaps: Vec<f64> = moments.windows(2).map(|w| w[1] - w[0]).filter(|g| *g > 0.0).collect();
    let middle = crate::rate::quantile(&mut gaps, 0.5)?;
    let least = gaps.iter().copied().reduce(f64::min)?;
    let total = moments.last()? - moments.first()?;
    let n = moments.len() as f64;
    let concentration = |period: f64| {
        let (mut x, mut y) = (0.0, 0.0);
        for t in moments {
            let angle = (t - moments[0]) / period * std::f64::consts::TAU;
            x += angle.cos() / n;
            y += angle.sin() / n;
        }
        f64::hypot(x, y)
    };
    // A gap may hold several periods with the recurrences between them unseen; which whole number fits is tried. Each
    // period is known to a fraction of the whole length, which sets the steps of the search.
    let mut best: Option<(f64, f64)> = None;
    let mut tried = 0.0;
    for guess in [middle, least, middle / 2.0] {
        let turns = (total / guess).round().max(1.0);
        let mut of_guess: Option<(f64, f64)> = None;
        for step in -20..=20 {
            let period = total / (turns + f64::from(step) * 0.1);
            if period <= 0.0 || (period / guess - 1.0).abs() > 0.25 {
                continue;
            }
            tried += 1.0;
            let c = concentration(period);
            if of_guess.is_none_or(|(b, _)| c > b) {
                of_guess = Some((c, period));
            }
        }
        // Half of a period fits as well as the whole: it has to fit better.
        if let Some(found) = of_guess
            && best.is_none_or(|(b, _)| found.0 > b + 0.02)
        {
            best = Some(found);
        }
    }
    let (concentration, period) = best?;
    let rayleigh = tried * (-n * concentration * concentration).exp();
    // Few moments on a fine lattice: each but the two that set it would have to hit it by chance.
    let off = moments
        .iter()
        .map(|t| ((t - moments[0]) / period + 0.5).rem_euclid(1.0) - 0.5)
        .map(f64::abs)
        .fold(0.0, f64::max)
        .max(0.005);
    let lattice = tried * (2.0 * off).min(1.0).powf(n - 2.0);
    let p = rayleigh.min(lattice).min(1.0);
    Some(Period { period, concentration, p })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_a_run_of_losses_with_a_length() {
        let mut silences = Silences::default();
        for n in 0..1000 {
            silences.note(f64::from(n) * 0.01, !(300..330).contains(&n) && n % 50 != 7);
        }
        silences.close();
        let [one] = silences.list() else { panic!("{silences:?}") };
        assert!((one.from - 3.0).abs() < 1e-9 && (one.to - 3.3).abs() < 1e-9 && one.lost == 30);
        assert_eq!((one.sent_before, one.passed_before), (300, 294));
    }

    #[test]
    fn the_end_of_each_burst_is_no_silence() {
        // Forty packets within two milliseconds, 24 times a second; the last ten of each are lost.
        let mut silences = Silences::default();
        for n in 0..4000 {
            let at = f64::from(n / 40) / 24.0 + f64::from(n % 40) * 5e-5;
            silences.note(at, n % 40 < 30);
        }
        silences.close();
        assert!(silences.list().is_empty(), "{:?}", silences.list());
    }

    #[test]
    fn recurrences_are_found_and_accidents_are_not() {
        let every = |period: f64, n: u32| -> Vec<f64> {
            (0..n).map(|k| 2.0 + f64::from(k) * period + f64::from(k * 7919 % 11) * 0.002).collect()
        };
        let found = period(&every(7.3, 12)).unwrap();
        assert!(
            (found.period - 7.3).abs() < 0.02 && found.p < 1e-3 && found.concentration > 0.99,
            "{found:?}"
        );
        let accidents: Vec<f64> = [0.3, 1.9, 2.2, 7.5, 8.1, 13.7, 14.9, 20.8].to_vec();
        let found = period(&accidents);
        assert!(found.is_none_or(|f| f.concentration < 0.93 || f.p > 0.01), "{found:?}");
    }
}
