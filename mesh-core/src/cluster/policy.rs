//! The settings of one service, subset and port for one client.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::outlier::OutlierPolicy;
use super::pool::ConnectionPool;
use super::resolve::Blocks;
use super::rules::{Defaults, RuleName};
use super::tls::TlsPolicy;
use super::{ProxyProtocolVersion, TrafficDistribution, TunnelProtocol};
use crate::balance::Settings;
use crate::balance::locality::LocalityPolicy;
use crate::resource::networking::destination_rule as spec;
use crate::resource::value::{DurationOrZero, Host};

/// Everything `DestinationRules` say about one service, subset and port to one client. Equal for equal rules: a data thread
/// keeps its state for as long as the policy does not change.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPolicy {
    /// The rules it is made of, the most important first; none means that all of it is defaults.
    pub rules: Vec<RuleName>,
    /// What the labels of endpoints must have; absent without a subset.
    pub subset_labels: Option<Arc<BTreeMap<String, String>>>,
    /// Which endpoint is chosen.
    pub balance: Settings,
    /// Which endpoints are preferred.
    pub locality: LocalityPolicy,
    /// How much goes at once.
    pub pool: ConnectionPool,
    /// When an endpoint is left out; absent means never.
    pub outlier: Option<OutlierPolicy>,
    /// TLS towards it.
    pub tls: TlsPolicy,
    /// Which version of the PROXY protocol begins each connection; absent means none.
    pub proxy_protocol: Option<ProxyProtocolVersion>,
    /// A proxy to go through.
    pub tunnel: Option<Tunnel>,
    /// How many requests may be retries, instead of [`super::Limits::retries`].
    pub retry_budget: Option<RetryBudget>,
}

/// A proxy to go through with TCP and TLS: the endpoints are the proxies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The method that asks for it.
    pub protocol: TunnelProtocol,
    /// Where the proxy is asked to connect to: a name or an address.
    pub host: Host,
    /// And on which port.
    pub port: u16,
}

/// How many requests may be retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Share of all requests, 0..=1,000,000; 200,000, which is 20 %.
    pub parts_per_million: u32,
    /// But so many always; 3.
    pub min_concurrency: u32,
    /// Time over which requests are counted; absent means only those that are under way.
    pub interval: Option<Duration>,
}

impl ClusterPolicy {
    /// Whether an endpoint with these labels belongs to it.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let subset = self.subset_labels.iter().flat_map(|subset| subset.iter());
        subset.into_iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    pub(super) fn new(
        blocks: &Blocks<'_>,
        namespace: &Arc<str>,
        defaults: &Defaults,
        distribution: Option<TrafficDistribution>,
    ) -> Self {
        let meshwide = &defaults.traffic_policy;
        let pool = blocks.connection_pool.or(meshwide.connection_pool.as_ref());
        let outlier =
            blocks.outlier_detection.or(meshwide.outlier_detection.as_ref()).map(OutlierPolicy::new);
        let none = spec::ConnectionPool::default();
        let min_health_percent = outlier.as_ref().map_or(0, |outlier| outlier.min_health_percent);
        Self {
            rules: Vec::new(),
            subset_labels: None,
            balance: Settings::new(blocks.load_balancer, min_health_percent),
            locality: locality(blocks.load_balancer, defaults, distribution, outlier.is_some()),
            pool: ConnectionPool::new(pool.unwrap_or(&none), defaults),
            outlier,
            tls: TlsPolicy::new(blocks.tls, namespace),
            proxy_protocol: blocks.proxy_protocol.map(|protocol| protocol.version),
            tunnel: blocks.tunnel.map(Tunnel::new),
            retry_budget: blocks.retry_budget.map(RetryBudget::new),
        }
    }
}

impl Tunnel {
    fn new(tunnel: &spec::Tunnel) -> Self {
        Self { protocol: tunnel.protocol, host: tunnel.target_host.clone(), port: tunnel.target_port.get() }
    }
}

impl RetryBudget {
    fn new(budget: &spec::RetryBudget) -> Self {
        // Formatting rounds, and within the range nothing else can happen to the number.
        let millionths = |percent: f64| format!("{:.0}", percent.clamp(0.0, 100.0) * 10_000.0).parse().ok();
        Self {
            parts_per_million: budget.percent.and_then(millionths).unwrap_or(200_000),
            min_concurrency: budget.min_retry_concurrency.filter(|number| *number > 0).unwrap_or(3),
            interval: budget.budget_interval.and_then(DurationOrZero::get),
        }
    }

    /// Retries that may be under way beside `requests`.
    pub fn limit(&self, requests: u32) -> u32 {
        let share = u64::from(requests) * u64::from(self.parts_per_million) / 1_000_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(self.min_concurrency)
    }
}

/// The rule's, else the owner's of the service, else the mesh's.
fn locality(
    balancer: Option<&spec::LoadBalancer>,
    defaults: &Defaults,
    distribution: Option<TrafficDistribution>,
    outliers: bool,
) -> LocalityPolicy {
    if let Some(setting) = balancer.and_then(|balancer| balancer.zone_aware_lb_setting.as_ref()) {
        return LocalityPolicy::zone_aware(setting);
    }
    if let Some(setting) = balancer.and_then(|balancer| balancer.locality_lb_setting.as_ref()) {
        return LocalityPolicy::new(setting, outliers);
    }
    match (distribution, &defaults.zone_aware, &defaults.locality) {
        (Some(distribution), _, _) => {
            LocalityPolicy::prefer(distribution == TrafficDistribution::PreferSameNode)
        }
        (None, Some(setting), _) => LocalityPolicy::zone_aware(setting),
        (None, None, Some(setting)) => LocalityPolicy::new(setting, outliers),
        (None, None, None) => LocalityPolicy::new(&spec::LocalityLbSetting::default(), outliers),
    }
}
