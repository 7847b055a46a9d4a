//! Active health checks: how many were made, and which endpoints are left out because of them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use mesh_core::health::Standing;
use prometheus_client::encoding::DescriptorEncoder;
use serde::Serialize;

use super::Reporter;
use super::metrics::{counters, gauge};

/// An endpoint that is checked for a client.
#[derive(Debug, Clone, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct CheckedEndpoint {
    /// For whom: the uid of a pod's workload, or `gateway`.
    pub client: Arc<str>,
    /// `outbound|PORT|SUBSET|HOST`.
    pub cluster: Arc<str>,
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// What asks for the check.
    pub check: Arc<str>,
    /// `unknown`, `healthy` or `unhealthy`, which is left out.
    pub standing: &'static str,
    /// How the last check failed; empty if it did not.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Arc<str>,
}

/// Whoever knows endpoints that are checked.
pub trait Checked: fmt::Debug + Send + Sync {
    /// All of them.
    fn checked(&self) -> Vec<CheckedEndpoint>;
}

/// What is counted, and who is asked for the rest.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    passed: AtomicU64,
    failed: AtomicU64,
    sources: Mutex<Vec<Weak<dyn Checked>>>,
}

impl CheckedEndpoint {
    /// As the field has it.
    pub fn standing(standing: Standing) -> &'static str {
        match standing {
            Standing::Unknown => "unknown",
            Standing::Healthy => "healthy",
            Standing::Unhealthy => UNHEALTHY,
        }
    }

    /// Whether it is left out.
    pub fn is_unhealthy(&self) -> bool {
        self.standing == UNHEALTHY
    }
}

impl Reporter {
    /// Counts a check.
    pub fn count_check(&self, passed: bool) {
        let counter = if passed { &self.health.passed } else { &self.health.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks `source` from now on, as long as it lives. The same one may be given several times.
    pub fn follow_checked<C: Checked + 'static>(&self, source: &Arc<C>) {
        let mut sources = self.health.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|known| known.strong_count() > 0);
        let new: Arc<dyn Checked> = source.clone();
        if !sources.iter().any(|known| std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(&new))) {
            sources.push(Arc::downgrade(&new));
        }
    }

    /// All endpoints that are checked, sorted.
    pub fn checked_endpoints(&self) -> Vec<CheckedEndpoint> {
        let sources = self.health.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<_> =
            sources.iter().filter_map(Weak::upgrade).flat_map(|source| source.checked()).collect();
        all.sort_unstable();
        all
    }

    pub(super) fn encode_checks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let count = |result, counter: &AtomicU64| (vec![("result", result)], counter.load(Ordering::Relaxed));
        let samples = [count("passed", &self.health.passed), count("failed", &self.health.failed)];
        counters(encoder, "mesh_health_checks", "Active health checks of endpoints", samples)?;
        let out = self.checked_endpoints().iter().filter(|it| it.is_unhealthy()).count();
        let help =
            "Endpoints left out because of active health checks, each once for each client and cluster";
        gauge(encoder, "mesh_unhealthy_endpoints", help, &i64::try_from(out).unwrap_or(i64::MAX))
    }
}

const UNHEALTHY: &str = "unhealthy";
