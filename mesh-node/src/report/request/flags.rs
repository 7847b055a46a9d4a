//! Envoy's response flags: what the proxy has to say about how a request ended.

use std::fmt;
use std::ops::BitOr;

/// A set of response flags. Displays them in Envoy's order, separated by commas; the empty set as `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The local health check failed.
    pub const LH: Self = Self(1);
    /// No healthy endpoint.
    pub const UH: Self = Self(1 << 1);
    /// The server did not answer in time.
    pub const UT: Self = Self(1 << 2);
    /// The proxy reset the connection.
    pub const LR: Self = Self(1 << 3);
    /// The server reset the request.
    pub const UR: Self = Self(1 << 4);
    /// No connection to the server.
    pub const UF: Self = Self(1 << 5);
    /// The server's connection ended in the middle.
    pub const UC: Self = Self(1 << 6);
    /// A limit of the connection pool was reached.
    pub const UO: Self = Self(1 << 7);
    /// No route.
    pub const NR: Self = Self(1 << 8);
    /// Delayed on purpose.
    pub const DI: Self = Self(1 << 9);
    /// Aborted on purpose.
    pub const FI: Self = Self(1 << 10);
    /// Rate limited.
    pub const RL: Self = Self(1 << 11);
    /// Refused by the external authorisation service.
    pub const UAEX: Self = Self(1 << 12);
    /// The rate limit service failed.
    pub const RLSE: Self = Self(1 << 13);
    /// The client went away.
    pub const DC: Self = Self(1 << 14);
    /// All retries were used up.
    pub const URX: Self = Self(1 << 15);
    /// Nothing moved for too long.
    pub const SI: Self = Self(1 << 16);
    /// A header of Envoy's own had a value that is none.
    pub const IH: Self = Self(1 << 17);
    /// The client does not speak HTTP as it should.
    pub const DPE: Self = Self(1 << 18);
    /// The request took longer than a stream to a server may.
    pub const UMSDR: Self = Self(1 << 19);
    /// Answered from a cache.
    pub const RFCF: Self = Self(1 << 20);
    /// The configuration of a filter had not arrived.
    pub const NFCF: Self = Self(1 << 21);
    /// The request took longer than it may.
    pub const DT: Self = Self(1 << 22);
    /// The server does not speak HTTP as it should.
    pub const UPE: Self = Self(1 << 23);
    /// The route leads to a cluster that does not exist.
    pub const NC: Self = Self(1 << 24);
    /// Refused because the proxy is overloaded.
    pub const OM: Self = Self(1 << 25);
    /// The server's name could not be resolved.
    pub const DF: Self = Self(1 << 26);
    /// Dropped because the cluster is overloaded.
    pub const DO: Self = Self(1 << 27);

    /// Adds those of `other`.
    pub const fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether all of `other` are in.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One bit for each flag, Envoy's first one lowest.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The names of those that are in, in Envoy's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, name)| name)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str(NO_FLAG);
        }
        self.names().enumerate().try_for_each(|(place, name)| {
            f.write_str(if place == 0 { "" } else { "," })?;
            f.write_str(name)
        })
    }
}

/// What stands for the empty set.
const NO_FLAG: &str = "-";

/// Every flag, in Envoy's order, which is the order of their bits.
const NAMES: [(Flags, &str); 28] = [
    (Flags::LH, "LH"),
    (Flags::UH, "UH"),
    (Flags::UT, "UT"),
    (Flags::LR, "LR"),
    (Flags::UR, "UR"),
    (Flags::UF, "UF"),
    (Flags::UC, "UC"),
    (Flags::UO, "UO"),
    (Flags::NR, "NR"),
    (Flags::DI, "DI"),
    (Flags::FI, "FI"),
    (Flags::RL, "RL"),
    (Flags::UAEX, "UAEX"),
    (Flags::RLSE, "RLSE"),
    (Flags::DC, "DC"),
    (Flags::URX, "URX"),
    (Flags::SI, "SI"),
    (Flags::IH, "IH"),
    (Flags::DPE, "DPE"),
    (Flags::UMSDR, "UMSDR"),
    (Flags::RFCF, "RFCF"),
    (Flags::NFCF, "NFCF"),
    (Flags::DT, "DT"),
    (Flags::UPE, "UPE"),
    (Flags::NC, "NC"),
    (Flags::OM, "OM"),
    (Flags::DF, "DF"),
    (Flags::DO, "DO"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_show_in_the_order_of_their_bits() {
        for (place, (flag, name)) in NAMES.into_iter().enumerate() {
            assert_eq!(flag.bits(), 1 << place);
            assert_eq!(flag.to_string(), name);
        }
        assert_eq!(Flags::NONE.to_string(), "-");
        let mut flags = Flags::default();
        for flag in [Flags::DO, Flags::URX, Flags::UF, Flags::UAEX, Flags::UF] {
            flags.insert(flag);
        }
        assert_eq!(flags.to_string(), "UF,UAEX,URX,DO");
        assert!(flags.contains(Flags::UF | Flags::DO) && !flags.contains(Flags::UF | Flags::DC));
        assert!(!flags.is_empty() && Flags::NONE.is_empty());
    }
}
