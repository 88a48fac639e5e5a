//! Numbers as people read them.

/// Microseconds in the unit that suits them, three digits.
pub(super) fn delay(us: f64) -> String {
    let (value, unit) = match us.abs() {
        us if us < 1_000.0 => (us, "us"),
        us if us < 1_000_000.0 => (us / 1_000.0, "ms"),
        us => (us / 1_000_000.0, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

fn three_digits(value: f64) -> String {
    match value {
        v if v < 10.0 => format!("{v:.2}"),
        v if v < 100.0 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

/// Milliseconds with a fixed number of digits, for tables.
pub(super) fn ms(us: f64) -> String {
    format!("{:.3}", us / 1_000.0)
}

/// A length of time.
pub(super) fn seconds(s: f64) -> String {
    if s < 100.0 { format!("{s:.1} s") } else { format!("{:.0} min {:02.0} s", (s / 60.0).floor(), s % 60.0) }
}

/// With commas between the thousands.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A ratio in per cent.
pub(super) fn percent(ratio: f64) -> String {
    if ratio > 0.0 && ratio < 0.001 {
        format!("{:.3} %", ratio * 100.0)
    } else {
        format!("{:.1} %", ratio * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(delay(81.234), "81.2 us");
        assert_eq!(delay(9_999.0), "10.00 ms");
        assert_eq!(delay(20_345.0), "20.3 ms");
        assert_eq!(delay(3_600_000_000.0), "3600 s");
        assert_eq!(count(0), "0");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(seconds(31.24), "31.2 s");
        assert_eq!(seconds(125.0), "2 min 05 s");
        assert_eq!(percent(0.031), "3.1 %");
        assert_eq!(percent(0.000_4), "0.040 %");
    }
}
