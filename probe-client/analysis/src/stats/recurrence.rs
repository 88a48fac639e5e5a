//! Recurrence with a period: the Rayleigh test over many candidate periods, and the tail of chi-square.

/// One period's test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Recurrence {
    /// Period, in the unit of the events.
    pub period: f64,
    /// Length of the mean of the events' unit vectors at that period, 0 to 1.
    pub resultant: f64,
    /// Probability that events at random times have so long a resultant at any of the periods tried.
    pub p: f64,
    /// Independent periods that were tried.
    pub tried: f64,
}

/// Looks for the period at which the events recur: periods from `shortest` to a third of the events' span, so close
/// together that no event turns by more than a twelfth of a circle from one to the next. Of a period and its whole parts,
/// which fit as well, the longest is taken. None with fewer than four events.
pub fn recurrence(events: &[f64], shortest: f64) -> Option<Recurrence> {
    let (first, last) = (events.first()?, events.last()?);
    let span = last - first;
    if events.len() < 4 || shortest <= 0.0 || span < 3.0 * shortest {
        return None;
    }
    let resultant = |frequency: f64| {
        let (sin, cos) = events.iter().fold((0.0, 0.0), |(s, c), at| {
            let angle = std::f64::consts::TAU * frequency * (at - first);
            (s + angle.sin(), c + angle.cos())
        });
        f64::hypot(sin, cos) / events.len() as f64
    };
    // Frequencies closer than one over the span are not independent.
    let (low, high) = (3.0 / span, 1.0 / shortest);
    let tried = ((high - low) * span).max(1.0);
    let steps = ((high - low) * span * 12.0).ceil().max(1.0) as u64;
    let step = (high - low) / steps as f64;
    let scan: Vec<(f64, f64)> = (0..=steps)
        .map(|n| low + step * n as f64)
        .map(|frequency| (frequency, resultant(frequency)))
        .collect();
    let best = scan.iter().map(|(_, r)| *r).max_by(f64::total_cmp)?;
    // The lowest frequency whose peak is as high: a comb answers at all multiples of its own.
    let peak = scan.iter().position(|(_, r)| *r >= 0.9 * best)?;
    let (mut at, mut height) = scan[peak];
    for (frequency, r) in scan[peak..].iter().take_while(|(f, _)| *f <= scan[peak].0 + 1.0 / span) {
        if *r > height {
            (at, height) = (*frequency, *r);
        }
    }
    for scale in [4.0, 16.0, 64.0] {
        for side in [-1.0, 1.0] {
            let near = at + side * step / scale;
            let r = resultant(near);
            if r > height {
                (at, height) = (near, r);
            }
        }
    }
    // Zar, Biostatistical Analysis, equation 27.4: good also near one, where exp(-n r^2) is far too large.
    let n = events.len() as f64;
    let one =
        ((1.0 + 4.0 * n + 4.0 * n * n * (1.0 - height * height).max(0.0)).sqrt() - (1.0 + 2.0 * n)).exp();
    let p = if one < 1e-9 { (one * tried).min(1.0) } else { 1.0 - (1.0 - one).powf(tried) };
    Some(Recurrence { period: 1.0 / at, resultant: height, p, tried })
}

/// Probability that chi-square with `freedom` degrees of freedom is at least `value`, by the cube root of Wilson and
/// Hilferty: within a sixth of the probability at the usual points, which is enough to compare with thresholds of 1e-6.
pub fn chi_square_at_least(value: f64, freedom: usize) -> f64 {
    let k = freedom.max(1) as f64;
    let spread = 2.0 / (9.0 * k);
    let z = ((value.max(0.0) / k).cbrt() - (1.0 - spread)) / spread.sqrt();
    normal_at_least(z)
}

/// Probability that a standard normal value is at least `z` (Abramowitz and Stegun 26.2.17 near the middle, the
/// continued fraction in the tail).
fn normal_at_least(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_at_least(-z);
    }
    let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    if z > 3.0 {
        let fraction = (1..=30).rev().fold(z, |inner, n| z + f64::from(n) / inner);
        return density / fraction;
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    density * series.iter().rev().fold(0.0, |sum, c| (sum + c) * t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_found_and_random_times_have_none() {
        // SplitMix64: a plain multiple is itself nearly regular.
        let wobble = |n: u64| {
            let mut x = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((x ^ (x >> 31)) >> 40) as f64 / f64::from(1 << 24) - 0.5
        };
        for period in [3.1, 7.0, 11.7] {
            let events: Vec<f64> = (0..14).map(|n| 2.0 + period * n as f64 + 0.2 * wobble(n)).collect();
            let found = recurrence(&events, 1.0).unwrap();
            assert!((found.period / period - 1.0).abs() < 0.02, "{found:?} for {period}");
            assert!(found.p < 1e-5, "{found:?}");
        }
        let mut worst = 1.0f64;
        for run in 0..50u64 {
            let mut events: Vec<f64> = (0..14).map(|n| 150.0 * (0.5 + wobble(run * 100 + n))).collect();
            events.sort_by(f64::total_cmp);
            worst = worst.min(recurrence(&events, 1.0).map_or(1.0, |r| r.p));
        }
        // The least of fifty p-values.
        assert!(worst > 1e-4, "{worst}");
        assert!(recurrence(&[1.0, 2.0, 3.0], 0.1).is_none());
    }

    #[test]
    fn chi_square_agrees_with_its_tables() {
        // Upper 5 %, 1 % and 0.1 % points.
        for (freedom, five, one, mille) in
            [(5, 11.070, 15.086, 20.515), (10, 18.307, 23.209, 29.588), (31, 44.985, 52.191, 61.098)]
        {
            for (value, p) in [(five, 0.05), (one, 0.01), (mille, 0.001)] {
                let got = chi_square_at_least(value, freedom);
                assert!((got / p - 1.0).abs() < 0.15, "{got} for {p} at {freedom}");
            }
        }
        assert!(chi_square_at_least(200.0, 31) < 1e-20);
    }
}
