//! Quantities on the command line: `200M` bits per second, `7d`.

use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text:?} is not {wanted}")]
pub struct UnitError {
    text: String,
    wanted: &'static str,
}

/// Bits per second: `500k`, `200M`, `1G`, powers of a thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub u64);

/// A time: `90s`, `15m`, `12h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl FromStr for Bits {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { text: text.to_owned(), wanted: "a bit rate such as 500k, 200M or 1G" };
        let (number, unit) = split(text);
        let factor = match unit {
            "" => 1,
            "k" | "K" => 1_000,
            "m" | "M" => 1_000_000,
            "g" | "G" => 1_000_000_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(factor).filter(|bits| *bits > 0).map(Self).ok_or_else(wrong)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { text: text.to_owned(), wanted: "a time such as 90s, 15m, 12h or 7d" };
        let (number, unit) = split(text);
        let factor = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86400,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        // A thousand years are enough for everybody, and fit all clocks.
        let seconds = number.checked_mul(factor).filter(|s| (1..=31_536_000_000).contains(s));
        seconds.map(|s| Self(Duration::from_secs(s))).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_or_refused() {
        assert_eq!("500k".parse(), Ok(Bits(500_000)));
        assert_eq!("1G".parse(), Ok(Bits(1_000_000_000)));
        assert_eq!("7".parse(), Ok(Bits(7)));
        assert_eq!("7d".parse(), Ok(Span(Duration::from_secs(604_800))));
        assert_eq!("90s".parse(), Ok(Span(Duration::from_secs(90))));
        for text in ["", "k", "0", "0M", "-1", "1.5M", "1T", "99999999999999999999", "9999999999999999999G"] {
            assert!(text.parse::<Bits>().is_err(), "{text}");
        }
        for text in ["", "7", "0s", "d", "7w", "1h30m", "99999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
