#![doc = include_str!("reasons.md")]

use std::fmt;

/// The step at which a connection failed. See the module's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Finding out where a captured connection wanted to go and which pod it belongs to.
    Capture,
    /// Authorisation.
    Policy,
    /// Choosing an endpoint.
    Resolve,
    /// The TCP connection to the endpoint.
    Dial,
    /// The TLS handshake and the check of the peer's identity.
    Tls,
    /// The HTTP/2 preface and settings.
    H2,
    /// The CONNECT request and its answer.
    Connect,
    /// Carrying bytes; the connection had been established.
    Relay,
    /// Ending what is still open because the process stops; the connection had been established.
    Drain,
}

impl Stage {
    /// Every stage, in the order a connection passes them.
    pub const ALL: [Self; 9] = [
        Self::Capture,
        Self::Policy,
        Self::Resolve,
        Self::Dial,
        Self::Tls,
        Self::H2,
        Self::Connect,
        Self::Relay,
        Self::Drain,
    ];

    /// The stable token in access logs.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Capture => "capture",
            Self::Policy => "policy",
            Self::Resolve => "resolve",
            Self::Dial => "dial",
            Self::Tls => "tls",
            Self::H2 => "h2",
            Self::Connect => "connect",
            Self::Relay => "relay",
            Self::Drain => "drain",
        }
    }

    /// The flag of a failure of this stage, unless the caller states another.
    pub const fn flag(self) -> Flag {
        match self {
            Self::Capture => Flag::NoRoute,
            Self::Policy => Flag::Deny,
            Self::Resolve => Flag::NoUpstream,
            Self::Dial | Self::Connect => Flag::Connect,
            Self::Tls => Flag::TlsFailure,
            Self::H2 => Flag::H2Failure,
            Self::Relay => Flag::Terminated,
            Self::Drain => Flag::Drained,
        }
    }

    /// Whether a connection that fails here was never established: only those count as failed connections.
    pub const fn is_before_established(self) -> bool {
        !matches!(self, Self::Relay | Self::Drain)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

/// The value of the label `response_flags`. See the module's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flag {
    /// No failure.
    #[default]
    None,
    /// Refused by policy.
    Deny,
    /// No connection to the destination.
    Connect,
    /// No secure channel.
    TlsFailure,
    /// No tunnel on the secure channel.
    H2Failure,
    /// No certificate for the local pod.
    IdentityError,
    /// Destination unknown.
    NoRoute,
    /// No usable endpoint.
    NoUpstream,
    /// A rule names a service or a subset that is not there.
    NoCluster,
    /// A circuit breaker is open.
    Overflow,
    /// A limit of connections in a time is reached.
    RateLimited,
    /// Cut in mid-stream.
    Terminated,
    /// Cut by this proxy's stop.
    Drained,
}

impl Flag {
    /// Every flag; a flag's place in it is [`Flag::index`].
    pub const ALL: [Self; 13] = [
        Self::None,
        Self::Deny,
        Self::Connect,
        Self::TlsFailure,
        Self::H2Failure,
        Self::IdentityError,
        Self::NoRoute,
        Self::NoUpstream,
        Self::NoCluster,
        Self::Overflow,
        Self::RateLimited,
        Self::Terminated,
        Self::Drained,
    ];

    /// The metric label and access-log token.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2Failure => "H2_HANDSHAKE_FAILURE",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::NoRoute => "NR",
            Self::NoUpstream => "UH",
            Self::NoCluster => "NC",
            Self::Overflow => "UO",
            Self::RateLimited => "RL",
            Self::Terminated => "UC",
            Self::Drained => "LR",
        }
    }

    /// The place of this flag in tables of counters.
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Flag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why and where a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step that gave up.
    pub stage: Stage,
    /// What metrics call it.
    pub flag: Flag,
    /// A sentence for people. May hold text of the peer's choosing: writers escape and cap it.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cells of every table row of the module's documentation.
    fn rows() -> Vec<Vec<&'static str>> {
        include_str!("reasons.md")
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect())
            .collect()
    }

    #[test]
    fn every_stage_has_its_flag_and_its_line_of_documentation() {
        let documented: Vec<_> = rows().into_iter().filter(|row| row.len() == 3).collect();
        let coded: Vec<_> = Stage::ALL.iter().map(|stage| (stage.token(), stage.flag().label())).collect();
        let listed: Vec<_> = documented.iter().map(|row| (row[0], row[1])).collect();
        assert_eq!(listed, coded);
        assert!(documented.iter().all(|row| !row[2].is_empty()), "a meaning for each");
    }

    #[test]
    fn every_flag_has_one_label_and_its_line_of_documentation() {
        let listed: Vec<_> =
            rows().into_iter().filter(|row| row.len() == 2).map(|row| (row[0], !row[1].is_empty())).collect();
        let coded: Vec<_> = Flag::ALL.iter().map(|flag| (flag.label(), true)).collect();
        assert_eq!(listed, coded);
        for (place, flag) in Flag::ALL.iter().enumerate() {
            assert_eq!(flag.index(), place);
        }
    }

    #[test]
    fn the_order_of_stages_is_the_order_a_connection_passes_them() {
        assert!(Stage::ALL.is_sorted());
        assert!(Stage::Connect.is_before_established() && !Stage::Relay.is_before_established());
    }
}
