//! Rules become one policy: they are merged, and what is more particular overrides what is more general.

use std::fmt;
use std::sync::Arc;

use super::{Client, ClusterPolicy, Destination, DestinationRule, Rules};
use crate::resource::networking::destination_rule::{
    ClientTls, ConnectionPool, LoadBalancer, OutlierDetection, ProxyProtocol, RetryBudget, Subset,
    TrafficPolicy, Tunnel,
};

/// No rule that applies has a subset of this name: there is nothing to send the request to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownSubset(pub Arc<str>);

/// What `client` has to know about `service`, or about its `subset`, for which nothing and the empty name mean all of it.
///
/// Several rules for one host in one namespace count as one: their subsets are put together, and the oldest says what holds
/// for all. A subset's policy replaces the blocks it has. A policy of a port replaces what it can have, even with nothing;
/// it cannot have a tunnel, the PROXY protocol or a retry budget, so these are inherited.
pub fn resolve(
    rules: &Rules,
    client: &Client<'_>,
    service: &Destination<'_>,
    subset: Option<&str>,
) -> Result<ClusterPolicy, UnknownSubset> {
    let applicable = rules.applicable(client, service);
    let subset = match subset.filter(|name| !name.is_empty()) {
        Some(name) => Some(find(&applicable, name).ok_or_else(|| UnknownSubset(name.into()))?),
        None => None,
    };
    let general = applicable.iter().find_map(|rule| rule.spec.traffic_policy.as_ref());
    let particular = subset.and_then(|subset| subset.traffic_policy.as_ref());
    let blocks = [general, particular].into_iter().flatten();
    let blocks = blocks.fold(Blocks::default(), |blocks, policy| blocks.overridden_by(policy, service.port));
    let namespace = applicable.first().map_or_else(|| Arc::from(""), |rule| Arc::clone(&rule.namespace));
    let distribution = service.traffic_distribution;
    let mut policy = ClusterPolicy::new(&blocks, &namespace, rules.defaults(), distribution);
    if let (None, Some(tls)) = (blocks.tls, service.tls) {
        policy.tls = tls.policy();
    }
    policy.rules = applicable.iter().map(|rule| rule.key()).collect();
    policy.subset_labels = subset.map(|subset| Arc::new(subset.labels.clone()));
    Ok(policy)
}

/// The blocks of a policy, each from wherever it is said.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Blocks<'a> {
    pub(super) load_balancer: Option<&'a LoadBalancer>,
    pub(super) connection_pool: Option<&'a ConnectionPool>,
    pub(super) outlier_detection: Option<&'a OutlierDetection>,
    pub(super) tls: Option<&'a ClientTls>,
    pub(super) tunnel: Option<&'a Tunnel>,
    pub(super) proxy_protocol: Option<&'a ProxyProtocol>,
    pub(super) retry_budget: Option<&'a RetryBudget>,
}

impl<'a> Blocks<'a> {
    fn overridden_by(self, policy: &'a TrafficPolicy, port: u16) -> Self {
        let inherited = Self {
            tunnel: policy.tunnel.as_ref().or(self.tunnel),
            proxy_protocol: policy.proxy_protocol.as_ref().or(self.proxy_protocol),
            retry_budget: policy.retry_budget.as_ref().or(self.retry_budget),
            ..self
        };
        let mut ports = policy.port_level_settings.iter();
        match ports.find(|settings| settings.port.is_some_and(|own| own.number.get() == port)) {
            Some(settings) => Self {
                load_balancer: settings.load_balancer.as_ref(),
                connection_pool: settings.connection_pool.as_ref(),
                outlier_detection: settings.outlier_detection.as_ref(),
                tls: settings.tls.as_ref(),
                ..inherited
            },
            None => Self {
                load_balancer: policy.load_balancer.as_ref().or(self.load_balancer),
                connection_pool: policy.connection_pool.as_ref().or(self.connection_pool),
                outlier_detection: policy.outlier_detection.as_ref().or(self.outlier_detection),
                tls: policy.tls.as_ref().or(self.tls),
                ..inherited
            },
        }
    }
}

impl fmt::Display for UnknownSubset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no DestinationRule defines the subset {}", self.0)
    }
}

impl std::error::Error for UnknownSubset {}

fn find<'a>(rules: &[&'a DestinationRule], name: &str) -> Option<&'a Subset> {
    rules.iter().flat_map(|rule| &rule.spec.subsets).find(|subset| subset.name == name)
}
