//! Numbers with a range: ports, percentages, HTTP status codes.

use std::fmt;

use serde::de::{Deserialize, Deserializer};

use super::{Refusal, inline_schema};

/// A port of 1..=65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(u16);

/// A share of 0, or of 0.0001 % to 100 %, which is as fine as Istio's proxies draw lots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

/// A status of 200..=600 that a proxy answers with; Istio lets 600 pass, and so it stays legal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpStatus(u16);

impl Port {
    /// `None` for 0.
    pub fn new(port: u16) -> Option<Self> {
        Some(Self(port)).filter(|port| port.0 > 0)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl Percent {
    /// Everything.
    pub const ALL: Self = Self(1_000_000);

    /// `None` outside of 0..=100.
    pub fn whole(percent: u32) -> Option<Self> {
        Some(percent).filter(|percent| *percent <= 100).map(|percent| Self(percent * 10_000))
    }

    /// `numerator` of `denominator`, rounded down, but never to nothing. `None` for more than all, and of 0.
    pub fn fraction(numerator: u32, denominator: u32) -> Option<Self> {
        let share = (u64::from(numerator) * 1_000_000).checked_div(u64::from(denominator))?;
        let share = u32::try_from(share).ok().filter(|share| *share <= 1_000_000)?;
        Some(Self(share.max(u32::from(numerator > 0))))
    }

    /// In parts per million: 0..=1,000,000. Something happens if a number drawn below 1,000,000 is below it.
    pub fn parts_per_million(self) -> u32 {
        self.0
    }

    fn parse(percent: f64) -> Result<Self, Refusal> {
        let legal = percent == 0.0 || (0.0001..=100.0).contains(&percent);
        // Formatting rounds; within the range nothing else can happen to the number.
        let millionths = format!("{:.0}", percent * 10_000.0).parse().ok().filter(|_| legal);
        millionths.map(Self).ok_or_else(|| {
            Refusal::new(format!("{percent} is no percentage: neither 0 nor from 0.0001 to 100"))
        })
    }
}

impl HttpStatus {
    /// `None` outside of 200..=600.
    pub fn new(status: u16) -> Option<Self> {
        Some(Self(status)).filter(|status| (200..=600).contains(&status.0))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let port = u16::try_from(number).ok().and_then(Self::new);
        port.ok_or_else(|| Refusal::new(format!("port {number} is not between 1 and 65535")).into_error())
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(f64::deserialize(deserializer)?).map_err(Refusal::into_error)
    }
}

impl<'de> Deserialize<'de> for HttpStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let status = u16::try_from(number).ok().and_then(Self::new);
        status.ok_or_else(|| {
            Refusal::new(format!("{number} is not an HTTP status from 200 to 599")).into_error()
        })
    }
}

inline_schema!(Port, {"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535});
inline_schema!(Percent, {"type": "number", "format": "double", "minimum": 0, "maximum": 100});
inline_schema!(HttpStatus, {"type": "integer", "format": "int32", "minimum": 200, "maximum": 600});
