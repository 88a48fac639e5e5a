//! Lengths of time and rates as people write them: `90s`, `15m`, `12h`, `1h30m`; `500k`, `200M`, `1G`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is no length of time.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// It is empty, or has no number where one is needed.
    #[error("{0:?} is not a length of time: write 90s, 15m, 12h or 1h30m")]
    Form(String),
    /// A unit that is none.
    #[error("{0:?} is not a unit of time: there are s, m, h and d")]
    Unit(char),
    /// Too long to count.
    #[error("that is too long: a year is the most")]
    TooLong,
    /// Nothing.
    #[error("a length of time must be longer than zero")]
    Zero,
}

/// A year: longer runs are typing errors.
const MAX_SECONDS: u64 = 365 * 24 * 3600;

/// Reads a length of time. Units stand in any order, each with a number; a number alone is an error, since nobody knows
/// what it means.
///
/// # Errors
/// A [`DurationError`] that says what to write.
pub fn duration(text: &str) -> Result<Duration, DurationError> {
    let form = || DurationError::Form(text.to_owned());
    let mut rest = text.trim();
    let mut total: u64 = 0;
    if rest.is_empty() {
        return Err(form());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(form)?;
        let (number, unit) = rest.split_at(digits);
        let mut chars = unit.chars();
        let unit = chars.next().ok_or_else(form)?;
        if number.is_empty() {
            return Err(form());
        }
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 24 * 3600,
            other => return Err(DurationError::Unit(other)),
        };
        let number: u64 = number.parse().map_err(|_| DurationError::TooLong)?;
        let part = number.checked_mul(seconds).ok_or(DurationError::TooLong)?;
        total = total.checked_add(part).filter(|t| *t <= MAX_SECONDS).ok_or(DurationError::TooLong)?;
        rest = chars.as_str();
    }
    if total == 0 { Err(DurationError::Zero) } else { Ok(Duration::from_secs(total)) }
}

/// Why a text is no rate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BitsError {
    /// No number, or an unknown unit.
    #[error("{0:?} is not a rate in bits per second: write 500k, 20M, 1G, or a plain number")]
    Form(String),
    /// Faster than anything.
    #[error("that rate is too high: 1000G is the most")]
    TooHigh,
    /// Nothing.
    #[error("a rate must be more than zero (--no-load leaves the load out)")]
    Zero,
}

/// Faster rates are typing errors.
const MAX_BITS: f64 = 1e12;

/// Reads a rate in bits per second: a number, possibly with a fraction, and k, M or G (1,000 each, as network rates are).
///
/// # Errors
/// A [`BitsError`] that says what to write.
pub fn bits(text: &str) -> Result<u64, BitsError> {
    let text = text.trim();
    let form = || BitsError::Form(text.to_owned());
    let (number, factor) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M' | 'm')) => (&text[..at], 1e6),
        Some((at, 'G' | 'g')) => (&text[..at], 1e9),
        Some(_) | None => (text, 1.0),
    };
    let plain = number.chars().all(|c| c.is_ascii_digit() || c == '.')
        && number.starts_with(|c: char| c.is_ascii_digit());
    if !plain {
        return Err(form());
    }
    let value = number.parse::<f64>().map_err(|_| form())? * factor;
    match value.round() {
        v if v > MAX_BITS => Err(BitsError::TooHigh),
        v if v < 1.0 => Err(BitsError::Zero),
        v => Ok(v as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in [
            ("90s", 90),
            ("15m", 900),
            ("12h", 43_200),
            ("1h30m", 5_400),
            ("1d", 86_400),
            ("365d", MAX_SECONDS),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "90", "s", "1h30", "-5s", "1.5h", "h1", "1 h"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("5x"), Err(DurationError::Unit('x')));
        assert_eq!(duration("5µ"), Err(DurationError::Unit('µ')));
        assert_eq!(duration("0s"), Err(DurationError::Zero));
        for text in ["366d", "99999999999999999999s", "9223372036854775807h", "364d25h"] {
            assert_eq!(duration(text), Err(DurationError::TooLong), "{text}");
        }
    }

    #[test]
    fn rates() {
        for (text, rate) in [
            ("500k", 500_000),
            ("200M", 200_000_000),
            ("1G", 1_000_000_000),
            ("1.5M", 1_500_000),
            ("9600", 9_600),
        ] {
            assert_eq!(bits(text), Ok(rate), "{text}");
        }
        for text in ["", "k", "fast", "-1M", "1e9", "1..5M", ".5M", "inf", "NaN", "1T", "20 M"] {
            assert!(matches!(bits(text), Err(BitsError::Form(_))), "{text}");
        }
        assert_eq!(bits("0"), Err(BitsError::Zero));
        assert_eq!(bits("1001G"), Err(BitsError::TooHigh));
        assert_eq!(bits(&"9".repeat(400)), Err(BitsError::TooHigh));
    }
}
