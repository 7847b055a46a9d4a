//! Lengths of time, in the notation of Go: `7s`, `250ms`, `1h30m`.

use std::fmt;
use std::time::Duration as Time;

use serde::de::{self, Deserialize, Deserializer, Visitor};

use super::super::tree::quote;
use super::{Refusal, inline_schema};

/// A length of time of at least 1 ms, in whole milliseconds: as Istio wants all of its timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(Time);

/// A length of time in whole milliseconds, for fields where zero switches something off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DurationOrZero(Time);

impl Duration {
    /// Reads `text` in Go's notation.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let time = milliseconds(text)?;
        if time.is_zero() {
            let reason = format!("{} is shorter than 1ms", quote(text));
            return Err(Refusal::with_hint(reason, "remove it if no limit is meant"));
        }
        Ok(Self(time))
    }

    /// As the standard library has it.
    pub fn get(self) -> Time {
        self.0
    }
}

impl DurationOrZero {
    /// Reads `text` in Go's notation.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        milliseconds(text).map(Self)
    }

    /// As the standard library has it; `None` for zero.
    pub fn get(self) -> Option<Time> {
        Some(self.0).filter(|time| !time.is_zero())
    }
}

/// Reads a length of time of at least 1 ms from a command line, where what is wrong and what to write instead are one
/// text.
pub fn time(text: &str) -> Result<Time, String> {
    match milliseconds(text) {
        Ok(time) if time.is_zero() => Err(format!("{} is shorter than 1ms", quote(text))),
        Ok(time) => Ok(time),
        Err(Refusal { reason, hint: Some(hint) }) => Err(format!("{reason} ({hint})")),
        Err(Refusal { reason, hint: None }) => Err(reason),
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor(Self::parse))
    }
}

impl<'de> Deserialize<'de> for DurationOrZero {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DurationVisitor(Self::parse))
    }
}

struct DurationVisitor<T>(fn(&str) -> Result<T, Refusal>);

impl<T> DurationVisitor<T> {
    /// A bare number: seconds are the likely intention.
    fn number<E: de::Error>(number: impl fmt::Display) -> Result<T, E> {
        let reason = format!("expected duration, found number {number}");
        Err(Refusal::with_hint(reason, format!("write {number}s if seconds are meant")).into_error())
    }
}

impl<T> Visitor<'_> for DurationVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("duration")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(Refusal::into_error)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        Self::number(number)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        Self::number(number)
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        Self::number(number)
    }
}

inline_schema!(Duration, {
    "type": "string",
    "x-kubernetes-validations": [
        {"rule": "duration(self) >= duration('1ms')", "message": "must be a duration of at least 1ms"}
    ]
});
inline_schema!(DurationOrZero, {"type": "string"});

fn milliseconds(text: &str) -> Result<Time, Refusal> {
    if text.starts_with('-') {
        return Err(Refusal::new(format!("{} is negative", quote(text))));
    }
    let Some(nanoseconds) = nanoseconds(text) else {
        let reason = format!("{} is not a duration", quote(text));
        return Err(Refusal::with_hint(reason, "write for example 5s, 250ms or 1h30m"));
    };
    if nanoseconds % 1_000_000 != 0 {
        return Err(Refusal::new(format!("{} is not a whole number of milliseconds", quote(text))));
    }
    Ok(Time::from_nanos(nanoseconds))
}

/// Go's notation: numbers, each with a unit, added up. `None` also for more than Go can hold, about 292 years.
fn nanoseconds(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0_u64;
    loop {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        total = total.checked_add(scaled(number, unit_nanoseconds(unit)?)?)?;
        if after.is_empty() {
            return Some(total).filter(|total| i64::try_from(*total).is_ok());
        }
        rest = after;
    }
}

/// `number`, which may have a fraction, times `unit`. Digits below a nanosecond are dropped, as Go drops them.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let mut parts = 0_u64;
    let mut scale = unit;
    for digit in fraction.chars().map(|c| c.to_digit(10)) {
        scale /= 10;
        parts = parts.checked_add(u64::from(digit?).checked_mul(scale)?)?;
    }
    whole.checked_mul(unit)?.checked_add(parts)
}

fn unit_nanoseconds(unit: &str) -> Option<u64> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}
