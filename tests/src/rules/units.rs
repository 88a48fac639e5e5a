//! Durations, rates and sizes as people write them in a scenario: `"250ms"`, `"12M"`, `"64k"`.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Why a text is no duration, rate or size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no {1}")]
pub struct BadUnit(String, &'static str);

/// A duration: `"20s"`, `"1.5ms"`, `"100us"`, `"15m"`, `"12h"`; a bare number is seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Bits per second: `"500k"`, `"12M"`, `"1G"`; a bare number is bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(pub u64);

/// Bytes: `"64k"`, `"1.5M"`; thousands, not 1024s; a bare number is bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Splits a number from the unit behind it.
pub fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end =
        text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

fn thousands(unit: &str) -> Option<f64> {
    Some(match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => return None,
    })
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "us" => 1e-6,
        "ns" => 1e-9,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    })
}

/// The plain number that a text with any of the units means: seconds, bits per second or bytes.
pub fn value(text: &str) -> Option<f64> {
    let (number, unit) = split(text)?;
    thousands(unit).or_else(|| seconds(unit)).map(|factor| number * factor)
}

/// What the three units have in common.
trait Unit: Sized {
    const KIND: &'static str;
    fn factor(unit: &str) -> Option<f64>;
    fn from_number(number: f64) -> Option<Self>;
}

impl Unit for Span {
    const KIND: &'static str = "duration (20s, 1.5ms, 100us, 15m, 12h)";
    fn factor(unit: &str) -> Option<f64> {
        seconds(unit)
    }
    fn from_number(number: f64) -> Option<Self> {
        Duration::try_from_secs_f64(number).ok().map(Self)
    }
}

impl Unit for BitRate {
    const KIND: &'static str = "rate in bits per second (500k, 12M, 1G)";
    fn factor(unit: &str) -> Option<f64> {
        thousands(unit)
    }
    fn from_number(number: f64) -> Option<Self> {
        (1.0..1e15).contains(&number).then_some(Self(number.round() as u64))
    }
}

impl Unit for Size {
    const KIND: &'static str = "size in bytes (1500, 64k, 1.5M)";
    fn factor(unit: &str) -> Option<f64> {
        thousands(unit)
    }
    fn from_number(number: f64) -> Option<Self> {
        (0.0..1e15).contains(&number).then_some(Self(number.round() as u64))
    }
}

fn parse<U: Unit>(text: &str) -> Result<U, BadUnit> {
    split(text)
        .and_then(|(number, unit)| U::factor(unit).map(|factor| number * factor))
        .and_then(U::from_number)
        .ok_or_else(|| BadUnit(text.to_owned(), U::KIND))
}

struct UnitVisitor<U>(PhantomData<U>);

impl<U: Unit> Visitor<'_> for UnitVisitor<U> {
    type Value = U;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {}", U::KIND)
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<U, E> {
        parse(text).map_err(E::custom)
    }
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<U, E> {
        U::from_number(number).ok_or_else(|| E::custom(BadUnit(number.to_string(), U::KIND)))
    }
    fn visit_i64<E: de::Error>(self, number: i64) -> Result<U, E> {
        self.visit_f64(number as f64)
    }
    fn visit_u64<E: de::Error>(self, number: u64) -> Result<U, E> {
        self.visit_f64(number as f64)
    }
}

macro_rules! unit {
    ($name:ident, $write:expr) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(UnitVisitor(PhantomData))
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let write: fn(&Self) -> String = $write;
                serializer.serialize_str(&write(self))
            }
        }
        impl std::str::FromStr for $name {
            type Err = BadUnit;
            fn from_str(text: &str) -> Result<Self, BadUnit> {
                parse(text)
            }
        }
    };
}

unit!(Span, |span| format!("{}s", span.0.as_secs_f64()));
unit!(BitRate, |rate| rate.0.to_string());
unit!(Size, |size| size.0.to_string());

impl Span {
    /// So many milliseconds.
    pub const fn millis(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// So many seconds.
    pub const fn secs(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }
}

impl BitRate {
    /// How long so many bytes take at this rate.
    pub fn time(self, bytes: usize) -> Duration {
        let ns = u128::from(bytes as u64) * 8_000_000_000 / u128::from(self.0.max(1));
        Duration::from_nanos(u64::try_from(ns).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_as_people_write_them() {
        assert_eq!("1.5ms".parse(), Ok(Span(Duration::from_micros(1500))));
        assert_eq!("12h".parse(), Ok(Span::secs(43200)));
        assert_eq!("12M".parse(), Ok(BitRate(12_000_000)));
        assert_eq!("64k".parse(), Ok(Size(64_000)));
        assert_eq!(value("250ms"), Some(0.25));
        for bad in ["", "x", "12 parsecs", "-3s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert!("10s".parse::<BitRate>().is_err());
        assert_eq!(BitRate(8_000_000).time(1000), Duration::from_millis(1));
    }
}
