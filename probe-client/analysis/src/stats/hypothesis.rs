//! Exact tests of hypotheses. Exact, since the counts are small: a check sends hundreds of probes and loses a few.

/// `ln(n!)`, by Stirling's series (error below 1e-9 from n = 10 on) and by multiplication before that.
fn ln_factorial(n: u64) -> f64 {
    if n < 10 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    let x = n as f64;
    x * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
        + 1.0 / (1260.0 * x.powi(5))
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Probability of `k` or more successes in `n` trials of probability `p`: the p-value of "the rate is at most `p`".
pub fn binomial_at_least(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 || p >= 1.0 {
        return 1.0;
    }
    if k > n || p <= 0.0 {
        return 0.0;
    }
    let term = |k: u64| (ln_choose(n, k) + k as f64 * p.ln() + (n - k) as f64 * (-p).ln_1p()).exp();
    let odds = p / (1.0 - p);
    // Summed away from the mean, where terms fall fast; the smaller tail is the one that is summed.
    if k as f64 > n as f64 * p {
        let mut t = term(k);
        let mut sum = t;
        for k in k..n {
            t *= (n - k) as f64 / (k + 1) as f64 * odds;
            sum += t;
            if t < sum * 1e-17 {
                break;
            }
        }
        sum.min(1.0)
    } else {
        let mut t = term(k - 1);
        let mut sum = t;
        for k in (1..k).rev() {
            t *= k as f64 / (n - k + 1) as f64 / odds;
            sum += t;
            if t < sum * 1e-17 {
                break;
            }
        }
        (1.0 - sum).clamp(0.0, 1.0)
    }
}

/// Fisher's exact test, one-sided: the probability that chance puts at least `a` of all failures into the first group,
/// when `a` of `n` and `b` of `m` failed.
pub fn fisher_at_least(a: u64, n: u64, b: u64, m: u64) -> f64 {
    let failures = a + b;
    let all = ln_choose(n + m, failures);
    let most = failures.min(n);
    (a..=most)
        .filter(|k| failures - k <= m)
        .map(|k| (ln_choose(n, k) + ln_choose(m, failures - k) - all).exp())
        .sum::<f64>()
        .min(1.0)
}

/// Differences beyond this are halved until they fit, so that the exact distribution stays small.
const MAX_SUM: i64 = 4_000;

/// Sign-flip test over blocks, two-sided and exact: where two classes are alike, each block's difference is as likely
/// of either sign. Answers the probability of a sum at least as far from zero.
///
/// A burst lies within one block, so a single burst, however long, proves nothing: with `n` blocks that differ the
/// smallest possible answer is `2^(1-n)`.
pub fn sign_flip(differences: &[i64]) -> f64 {
    let mut differences: Vec<i64> = differences.iter().copied().filter(|d| *d != 0).collect();
    while differences.iter().map(|d| d.abs()).sum::<i64>() > MAX_SUM {
        differences.iter_mut().for_each(|d| *d = if *d > 0 { (*d + 1) / 2 } else { (*d - 1) / 2 });
    }
    let reach: i64 = differences.iter().map(|d| d.abs()).sum();
    let observed: i64 = differences.iter().sum();
    // chance[s + reach] is the probability of the sum s.
    let mut chance = vec![0.0f64; 2 * reach as usize + 1];
    chance[reach as usize] = 1.0;
    let mut within = 0usize;
    for d in differences.iter().map(|d| d.unsigned_abs() as usize) {
        let mut next = vec![0.0f64; chance.len()];
        let middle = reach as usize;
        for at in middle - within..=middle + within {
            let half = chance[at] / 2.0;
            if half > 0.0 {
                next[at - d] += half;
                next[at + d] += half;
            }
        }
        within += d;
        chance = next;
    }
    let far = |s: i64| s.abs() >= observed.abs();
    chance.iter().enumerate().filter(|(at, _)| far(*at as i64 - reach)).map(|(_, p)| p).sum::<f64>().min(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn binomial_agrees_with_the_plain_sum(n in 1u64..60, k in 0u64..62, p in 0.001f64..0.999) {
            let choose = |n: u64, k: u64| (0..k).fold(1.0f64, |c, i| c * (n - i) as f64 / (i + 1) as f64);
            let naive: f64 =
                (k..=n).map(|k| choose(n, k) * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)).sum();
            let got = binomial_at_least(k, n, p);
            prop_assert!((got - naive).abs() < 1e-7 * naive.max(1e-3), "{} for {}", got, naive);
        }

        #[test]
        fn fisher_agrees_with_counting(n in 1u64..7, m in 1u64..7, a in 0u64..7, b in 0u64..7) {
            prop_assume!(a <= n && b <= m);
            // Every way to put a + b failures on n + m trials.
            let (mut ways, mut extreme) = (0u32, 0u32);
            for mask in 0u32..1 << (n + m) {
                if u64::from(mask.count_ones()) == a + b {
                    ways += 1;
                    extreme += u32::from(u64::from((mask & ((1 << n) - 1)).count_ones()) >= a);
                }
            }
            let naive = f64::from(extreme) / f64::from(ways);
            prop_assert!((fisher_at_least(a, n, b, m) - naive).abs() < 1e-9);
        }

        #[test]
        fn sign_flips_agree_with_trying_all(differences in proptest::collection::vec(-9i64..10, 0..11)) {
            let observed: i64 = differences.iter().sum();
            let all = 1u32 << differences.len();
            let far = (0..all).filter(|mask| {
                let sum: i64 = differences.iter().enumerate().map(|(i, d)| if mask >> i & 1 == 1 { -d } else { *d }).sum();
                sum.abs() >= observed.abs()
            }).count();
            prop_assert!((sign_flip(&differences) - far as f64 / f64::from(all)).abs() < 1e-9);
        }
    }

    #[test]
    fn large_counts_keep_their_precision() {
        // Normal approximation: 1,000,000 trials at 1 %, four standard deviations above: 3.17e-5, skewness added.
        let p = binomial_at_least(10_398, 1_000_000, 0.01);
        assert!((2.5e-5..4.5e-5).contains(&p), "{p}");
        assert!(binomial_at_least(9_000, 1_000_000, 0.01) > 0.999_999);
    }

    #[test]
    fn one_long_burst_proves_nothing() {
        assert_eq!(sign_flip(&[500, 0, 0, 0]), 1.0);
        assert!(sign_flip(&[2; 20]) < 2e-6);
        assert!(sign_flip(&[3_000; 20]) < 2e-6);
    }
}
