//! TCP senders: loss found by time (RFC 8985), tail probes, retransmission time-outs, window growth by RFC 9438 or RFC
//! 5681, or a model of the path's rate and delay with paced sending. Data comes all at once, or in chunks.

use std::collections::BTreeMap;

/// How the window is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Reno,
    /// With slow start left early when delay rises.
    Cubic,
    /// Bandwidth and round-trip time, with phases of probing.
    Model,
}

/// Where the data come from.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    Endless,
    /// So many segments each so many seconds.
    Chunks(f64, f64),
}

/// A sender. Transmissions are numbered; which bytes they carry does not matter to the path.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub segment: u32,
    kind: Kind,
    source: Source,
    paced: bool,
    line: f64,
    most: f64,
    window: f64,
    threshold: f64,
    flight: BTreeMap<u64, (f64, f64, f64)>,
    next: u64,
    resend: u64,
    fresh: f64,
    chunk_at: f64,
    smooth: Option<f64>,
    varies: f64,
    base: f64,
    base_at: f64,
    newest: f64,
    recover: u64,
    may_send: f64,
    timer: Option<f64>,
    backoff: u32,
    /// Of the cubic.
    peak: f64,
    /// When this epoch began, and how long until the window is back at its peak.
    epoch: Option<(f64, f64)>,
    friendly: f64,
    round_end: u64,
    round_least: f64,
    /// Of the model.
    delivered: f64,
    delivered_at: f64,
    rates: Vec<(u64, f64)>,
    rounds: u64,
    full: (f64, u32),
    startup: bool,
    drain: bool,
    phase: (usize, f64),
    slow_until: f64,
    slow_next: f64,
}

impl Tcp {
    /// `line` in bytes a second, `most` the receiver's window in segments.
    pub fn new(kind: Kind, source: Source, segment: u32, paced: bool, line: f64, most: f64) -> Self {
        Self {
            segment,
            kind,
            source,
            paced: paced || kind == Kind::Model,
            line,
            most,
            window: 10.0,
            threshold: f64::INFINITY,
            flight: BTreeMap::new(),
            next: 0,
            resend: 0,
            fresh: 0.0,
            chunk_at: 0.0,
            smooth: None,
            varies: 0.0,
            base: f64::INFINITY,
            base_at: 0.0,
            newest: 0.0,
            recover: 0,
            may_send: 0.0,
            timer: None,
            backoff: 0,
            peak: 0.0,
            epoch: None,
            friendly: 0.0,
            round_end: 0,
            round_least: f64::INFINITY,
            delivered: 0.0,
            delivered_at: 0.0,
            rates: Vec::new(),
            rounds: 0,
            full: (0.0, 0),
            startup: true,
            drain: false,
            phase: (0, 0.0),
            slow_until: 0.0,
            slow_next: 10.0,
        }
    }

    fn rto(&self) -> f64 {
        let plain = self.smooth.map_or(1.0, |s| (s + 4.0 * self.varies).max(0.2));
        plain * f64::from(1u32 << self.backoff.min(6))
    }

    fn bandwidth(&self) -> f64 {
        self.rates.iter().map(|r| r.1).fold(0.0, f64::max)
    }

    fn pace(&self) -> f64 {
        let segment = f64::from(self.segment);
        let line = self.line / segment;
        let Some(smooth) = self.smooth else { return line };
        match self.kind {
            Kind::Model => {
                let gain = if self.startup {
                    2.885
                } else if self.drain {
                    0.35
                } else {
                    [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0][self.phase.0]
                };
                (self.bandwidth() * gain).clamp(self.window.min(10.0) / smooth.max(0.01) / 4.0, line)
            }
            Kind::Reno | Kind::Cubic => {
                let gain = if self.window < self.threshold { 2.0 } else { 1.2 };
                if self.paced { (gain * self.window / smooth).min(line) } else { line }
            }
        }
    }

    /// Whether a segment leaves now; its number.
    pub fn transmit(&mut self, now: f64) -> Option<u64> {
        self.timers(now);
        while let Source::Chunks(segments, every) = self.source
            && now >= self.chunk_at
        {
            self.fresh += segments;
            self.chunk_at += every;
        }
        let has = self.resend > 0 || matches!(self.source, Source::Endless) || self.fresh >= 1.0;
        let window = if now < self.slow_until { 4.0 } else { self.window.min(self.most) };
        if !has || (self.flight.len() as f64) >= window.max(1.0).floor() || now + 1e-9 < self.may_send {
            return None;
        }
        if self.resend > 0 {
            self.resend -= 1;
        } else {
            self.fresh -= 1.0;
        }
        Some(self.send(now))
    }

    fn send(&mut self, now: f64) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.flight.is_empty() {
            self.delivered_at = now;
        }
        self.flight.insert(number, (now, self.delivered, self.delivered_at));
        // Paced senders release two segments at once.
        let gap = 1.0 / self.pace();
        self.may_send =
            if number.is_multiple_of(2) && self.paced { now } else { now.max(self.may_send) + gap };
        self.timer.get_or_insert(now + self.rto());
        number
    }

    /// When to be asked again without an acknowledgement.
    pub fn wake(&self, now: f64) -> Option<f64> {
        let open = (self.flight.len() as f64) < self.window.min(self.most).max(1.0).floor();
        let pacing = (open && self.may_send > now).then_some(self.may_send);
        let chunk = matches!(self.source, Source::Chunks(..)).then_some(self.chunk_at);
        [pacing, chunk, self.timer.filter(|_| !self.flight.is_empty())]
            .into_iter()
            .flatten()
            .filter(|t| *t > now)
            .reduce(f64::min)
    }

    fn timers(&mut self, now: f64) {
        if self.timer.is_none_or(|t| now < t) {
            return;
        }
        if self.flight.is_empty() {
            self.timer = None;
            return;
        }
        // All that is out is taken for lost.
        self.resend += self.flight.len() as u64;
        self.flight.clear();
        if self.kind != Kind::Model {
            self.threshold = (self.window * 0.5).max(2.0);
            self.window = 1.0;
            self.epoch = None;
        }
        self.recover = self.next;
        self.backoff += 1;
        self.timer = None;
    }

    /// Transmissions that have arrived.
    pub fn acknowledged(&mut self, now: f64, numbers: &[u64]) {
        for number in numbers {
            let Some((sent, delivered, delivered_at)) = self.flight.remove(number) else { continue };
            let sample = now - sent;
            self.newest = self.newest.max(sent);
            self.delivered += 1.0;
            self.delivered_at = now;
            match self.smooth {
                None => (self.smooth, self.varies) = (Some(sample), sample / 2.0),
                Some(s) => {
                    self.varies += ((sample - s).abs() - self.varies) / 4.0;
                    self.smooth = Some(s + (sample - s) / 8.0);
                }
            }
            if sample <= self.base || now - self.base_at > 30.0 {
                (self.base, self.base_at) = (sample, now);
            }
            self.round_least = self.round_least.min(sample);
            if now > delivered_at {
                let long = (now - delivered_at).max(self.base);
                self.rates.push((self.rounds, (self.delivered - delivered) / long));
            }
            if *number >= self.round_end {
                self.round();
            }
            self.grow(now);
        }
        self.backoff = 0;
        let late = self.newest - (self.base / 4.0).clamp(0.001, 0.05);
        let lost: Vec<u64> = self.flight.iter().filter(|(_, f)| f.0 < late).map(|(n, _)| *n).collect();
        for number in &lost {
            self.flight.remove(number);
            self.resend += 1;
        }
        if lost.iter().any(|n| *n >= self.recover) {
            self.recover = self.next;
            self.shrink();
        }
        self.timer = (!self.flight.is_empty()).then(|| now + self.rto());
    }

    fn round(&mut self) {
        self.round_end = self.next;
        self.rounds += 1;
        let oldest = self.rounds.saturating_sub(10);
        self.rates.retain(|r| r.0 >= oldest);
        let bandwidth = self.bandwidth();
        if bandwidth > self.full.0 * 1.25 {
            self.full = (bandwidth, 0);
        } else {
            self.full.1 += 1;
            if self.full.1 >= 3 && self.startup {
                (self.startup, self.drain) = (false, true);
            }
        }
        let rises = self.round_least > self.base + (self.base / 8.0).clamp(0.004, 0.016);
        if self.kind == Kind::Cubic && self.window < self.threshold && rises && self.window > 16.0 {
            self.threshold = self.window;
        }
        self.round_least = f64::INFINITY;
    }

    fn grow(&mut self, now: f64) {
        match self.kind {
            Kind::Model => {
                let pipe = self.bandwidth() * self.base;
                self.window = (pipe * if self.startup { 2.885 } else { 2.0 }).max(4.0);
                if self.drain && (self.flight.len() as f64) <= pipe {
                    self.drain = false;
                }
                if now - self.phase.1 > self.base {
                    self.phase = ((self.phase.0 + 1) % 8, now);
                }
                if now > self.slow_next {
                    (self.slow_until, self.slow_next) = (now + 0.2, now + 10.0);
                    self.base = f64::INFINITY;
                }
                if !self.base.is_finite() {
                    self.base = self.smooth.unwrap_or(0.1);
                }
            }
            _ if self.window < self.threshold => self.window += 1.0,
            Kind::Reno => self.window += 1.0 / self.window,
            Kind::Cubic => {
                let back = ((self.peak - self.window).max(0.0) / 0.4).cbrt();
                let (begun, k) = *self.epoch.get_or_insert((now, back));
                let t = now - begun + self.smooth.unwrap_or(0.1);
                let target = 0.4 * (t - k).powi(3) + self.peak.max(self.threshold.min(self.window));
                self.friendly += 0.53 / self.window;
                let target = target.max(self.friendly).min(1.5 * self.window);
                self.window += ((target - self.window) / self.window).max(0.01 / self.window);
            }
        }
    }

    fn shrink(&mut self) {
        let keep = match self.kind {
            Kind::Model => return,
            Kind::Reno => 0.5,
            Kind::Cubic => 0.7,
        };
        // Fast convergence.
        self.peak = if self.window < self.peak { self.window * (1.0 + keep) / 2.0 } else { self.window };
        self.window = (self.window * keep).max(2.0);
        self.threshold = self.window;
        self.friendly = self.window;
        self.epoch = None;
    }
}
