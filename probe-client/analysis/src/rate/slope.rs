//! The rate that a cumulative count holds to.
//!
//! The points are moments at which something was full (a drop, a packet that had waited) with what had passed until then.
//! Between two such moments exactly `rate * time` passes, unless there was a pause between them long enough to waste
//! some of it, which makes the slope smaller, never larger. So the slopes of short steps gather at the rate and scatter
//! below it; longer steps sharpen it, each within what the shorter ones allow.

use super::quantile;

/// Points used; more are thinned evenly.
const MAX_POINTS: usize = 4096;
/// Width of a class of slopes, as a ratio.
const CLASS: f64 = 1.03;

/// Candidates for the rate, units per second, the likeliest first; at most eight. `unit` is the granularity of the
/// count: no step is exact to less.
pub fn candidates(points: &[(f64, f64)], unit: f64) -> Vec<f64> {
    let thin = points.len().div_ceil(MAX_POINTS).max(1);
    let points: Vec<(f64, f64)> = points.iter().copied().step_by(thin).collect();
    let mut found: Vec<f64> = Vec::new();
    for steps in [12.0, 30.0, 120.0] {
        let slopes = slopes(&points, unit * steps);
        for start in modes(&slopes) {
            let rate = refined(&points, unit, steps, start);
            if found.iter().all(|f| (f / rate - 1.0).abs() > 1e-6) {
                found.push(rate);
            }
        }
    }
    found.truncate(8);
    found
}

/// Slopes of steps over which at least so much passed.
pub fn slopes(points: &[(f64, f64)], amount: f64) -> Vec<f64> {
    let mut to = 0;
    let mut out = Vec::with_capacity(points.len());
    for (from, (t, passed)) in points.iter().enumerate() {
        to = to.max(from);
        while to < points.len() && points[to].1 - passed < amount {
            to += 1;
        }
        let Some((t2, passed2)) = points.get(to) else { break };
        if t2 > t {
            out.push((passed2 - passed) / (t2 - t));
        }
    }
    out
}

/// Where the slopes gather, the densest first, and their upper end.
fn modes(slopes: &[f64]) -> Vec<f64> {
    let mut logs: Vec<f64> = slopes.iter().filter(|s| **s > 0.0).map(|s| s.ln()).collect();
    if logs.is_empty() {
        return Vec::new();
    }
    logs.sort_by(f64::total_cmp);
    let width = CLASS.ln();
    let mut out: Vec<f64> = Vec::new();
    for _ in 0..2 {
        // The window of one class with the most slopes, away from those already found.
        let (mut best, mut at, mut from) = (0usize, None, 0usize);
        for to in 0..logs.len() {
            while logs[to] - logs[from] > width {
                from += 1;
            }
            let middle = logs[from + (to - from) / 2];
            if to - from + 1 > best && out.iter().all(|o| (o.ln() - middle).abs() > 2.0 * width) {
                (best, at) = (to - from + 1, Some(middle));
            }
        }
        match at {
            Some(middle) => out.push(middle.exp()),
            None => break,
        }
    }
    if let Some(high) = logs.get(logs.len() * 9 / 10).map(|l| l.exp())
        && out.iter().all(|o| (o / high - 1.0).abs() > 0.02)
    {
        out.push(high);
    }
    out
}

/// Follows longer and longer steps, as long as enough of them agree.
fn refined(points: &[(f64, f64)], unit: f64, steps: f64, start: f64) -> f64 {
    let (mut rate, mut steps, mut tolerance) = (start, steps, 0.04);
    loop {
        steps *= 2.0;
        let mut near: Vec<f64> = slopes(points, unit * steps)
            .into_iter()
            .filter(|slope| (slope / rate - 1.0).abs() <= tolerance)
            .collect();
        if near.len() < 8 {
            return rate;
        }
        rate = quantile(&mut near, 0.5).unwrap_or(rate);
        tolerance = (3.0 / steps).clamp(2e-4, 0.03);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_with_pauses_between_them_do_not_hide_the_rate() {
        // 1,000 a second in bursts of 300, with a wasted pause after each.
        let (mut points, mut t, mut passed) = (Vec::new(), 0.0, 0.0);
        for n in 0..3000 {
            passed += 1.0;
            t += 0.001 + if n % 300 == 299 { 0.2 } else { 0.0 };
            points.push((t, passed));
        }
        let best = candidates(&points, 1.0)[0];
        assert!((best / 1000.0 - 1.0).abs() < 0.002, "{best}");
    }

    #[test]
    fn few_points_give_nothing_to_go_by() {
        assert!(candidates(&[], 1.0).is_empty());
        assert!(candidates(&[(0.0, 0.0), (1.0, 1.0)], 1.0).is_empty());
    }
}
