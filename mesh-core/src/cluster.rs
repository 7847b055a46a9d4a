//! What `DestinationRules` decide: how a service is talked to once a route has chosen it.
//!
//! [`Rules`] finds the rules of a client and a service, [`resolve()`] makes one [`ClusterPolicy`] of them; both are for when
//! configuration changes. What a policy needs while requests run are state machines that a data thread drives:
//! [`Outliers`], [`Admission`], [`crate::balance::Balancer`] and [`crate::retry`].
//!
//! Invariant: nothing here can fail at run time. What a user can write wrong was refused when it was read; numbers that a
//! type still allows but nobody can mean are brought into range.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

pub use self::backend::{BackendTls, BackendTrust};
pub use self::limits::{Admission, Limits, Overflow, Resource, Ticket};
pub use self::outlier::{Ejected, Ejection, Outcome, OutlierPolicy, Outliers, SharedOutliers};
pub use self::policy::{ClusterPolicy, RetryBudget, Tunnel};
pub use self::pool::{ConnectionPool, Http2KeepAlive, HttpPool, TcpKeepalive, Upstream};
pub use self::resolve::{UnknownSubset, resolve};
pub use self::rules::{Defaults, RuleName, Rules};
pub use self::tls::{ClientCertificate, Credential, TlsOrigination, TlsPolicy, Trust};
use crate::resource::DestinationRuleSpec;
pub use crate::resource::networking::destination_rule::{ProxyProtocolVersion, TunnelProtocol};

mod backend;
mod limits;
mod outlier;
mod policy;
mod pool;
mod resolve;
mod rules;
mod tls;

/// A DestinationRule as the model carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct DestinationRule {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since the Unix epoch; of several rules for a host the oldest wins, and
    /// rules without one are the oldest.
    pub created: Option<i64>,
    /// As the user wrote it.
    pub spec: DestinationRuleSpec,
}

/// Who talks to a service.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels, which rules with a `workloadSelector` look at.
    pub labels: &'a BTreeMap<String, String>,
}

/// The service that is talked to.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its full host name in lower case; wildcards of a ServiceEntry begin with `*`.
    pub hostname: &'a str,
    /// The port that clients use with its address.
    pub port: u16,
    /// Which endpoints its owner wants clients to prefer.
    pub traffic_distribution: Option<TrafficDistribution>,
    /// The TLS that its owner asks for. What a DestinationRule says of TLS comes before it.
    pub tls: Option<&'a BackendTls>,
}

/// `trafficDistribution` of a Service, or Istio's annotation of the same name. What a DestinationRule says of locality comes
/// before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum TrafficDistribution {
    /// `PreferSameZone`, and `PreferClose`, its older name.
    PreferSameZone,
    /// `PreferSameNode`.
    PreferSameNode,
}

impl TrafficDistribution {
    /// Reads what users write; `None` for what nobody knows, which prefers nobody.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "PreferClose" | "PreferSameZone" => Some(Self::PreferSameZone),
            "PreferSameNode" => Some(Self::PreferSameNode),
            _ => None,
        }
    }
}

impl<'a> Destination<'a> {
    /// A service whose owner does not care which endpoints are preferred.
    pub fn new(namespace: &'a str, hostname: &'a str, port: u16) -> Self {
        Self { namespace, hostname, port, traffic_distribution: None, tls: None }
    }
}

#[cfg(test)]
mod tests;
