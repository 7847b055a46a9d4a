//! Active health checks: whose endpoints are asked whether they are well, how they are asked, and what follows from it.
//!
//! Two resources ask for them: HealthCheck, a kind of our own, for the endpoints of a Service or ServiceEntry; and the probe
//! of a WorkloadGroup, for its `WorkloadEntries`. In Istio an agent on the machine makes that probe. Here nothing of the mesh
//! runs on the machine, so whoever sends to an endpoint asks it: the node for its pods, the gateway, the waypoint. A
//! HealthCheck comes before the probe of a group; of several for one service the oldest has the say.
//!
//! Whoever sends decides for itself, as with outlier detection: a [`Monitor`] for each client and cluster. Invariants: an
//! endpoint of which no answer is known is used; nobody is asked who is no endpoint any more, or by nobody's wish.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub use self::grpc::{Serving, question, serving};
pub use self::monitor::{Change, Monitor, Question, SharedMonitor, Standing, View};
use crate::model::{Endpoint, Service, Snapshot, Workload};
use crate::resource::health_check::{HealthCheckSpec, StatusRange};
use crate::resource::networking::workload::{ProbeMethod, ReadinessProbe};
use crate::resource::security::PolicyTargetReference;
use crate::resource::{Meta, Spec, WorkloadGroupSpec};

mod grpc;
mod monitor;

/// How an endpoint is asked, and what its answers are worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What asks for it, for logs: `HealthCheck shop/web`.
    pub by: Arc<str>,
    /// What is asked.
    pub ask: Ask,
    /// The port that is asked; `None` means the endpoint's own.
    pub port: Option<u16>,
    /// Whether the question is encrypted.
    pub cover: Cover,
    /// Before the first question.
    pub delay: Duration,
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good answers in a row before an endpoint comes back; at least 1.
    pub healthy: u32,
    /// Failures in a row before an endpoint is left out; at least 1.
    pub unhealthy: u32,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// GET.
    Http {
        /// Path and query.
        path: Arc<str>,
        /// `Host`; `None` means that of the service, or the address of the endpoint for the probe of a group.
        host: Option<Arc<str>>,
        /// Headers besides.
        headers: Vec<(String, String)>,
        /// Statuses that say that all is well.
        expected: Vec<StatusRange>,
    },
    /// gRPC's health protocol, for a service or, if that is empty, for the server as a whole.
    Grpc {
        /// Its name.
        service: Arc<str>,
    },
    /// A connection is enough.
    Tcp,
}

/// Whether a question is encrypted, beside the mesh's own tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// As the service's DestinationRule has it for all that is sent there.
    AsTraffic,
    /// Not.
    Plain,
    /// In TLS with whoever answers, as Istio's agent and Kubernetes do for probes.
    Anybody,
}

/// All checks of a configuration.
#[derive(Debug, Default)]
pub struct Checks {
    services: HashMap<Target, Arc<Check>>,
    groups: Vec<Group>,
}

/// A Service or a ServiceEntry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Target {
    entry: bool,
    namespace: Arc<str>,
    name: Arc<str>,
}

/// A WorkloadGroup with a probe that can be made from outside.
#[derive(Debug)]
struct Group {
    namespace: Arc<str>,
    labels: BTreeMap<String, String>,
    check: Arc<Check>,
}

impl Checks {
    /// Those of a configuration.
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut found: Vec<_> = snapshot.configs_of("HealthCheck").map(|config| config.object()).collect();
        // Those without a time are the oldest, as for other kinds.
        found.sort_by_key(|object| object.meta.creation_timestamp);
        let mut services = HashMap::new();
        for object in found {
            let Spec::HealthCheck(spec) = &object.spec else { continue };
            let Some(check) = Check::of(&object.meta, spec).map(Arc::new) else { continue };
            for target in spec.target_refs.iter().filter_map(|it| Target::of(&object.meta, it)) {
                services.entry(target).or_insert_with(|| Arc::clone(&check));
            }
        }
        let groups = snapshot.configs_of("WorkloadGroup").filter_map(|config| match &config.object().spec {
            Spec::WorkloadGroup(spec) => Group::of(&config.object().meta, spec),
            _ => None,
        });
        Self { services, groups: groups.collect() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.groups.is_empty()
    }

    /// How an endpoint of a service is asked, if it is.
    pub fn of_endpoint(&self, service: &Service, endpoint: &Endpoint) -> Option<&Arc<Check>> {
        self.of_service(service).or_else(|| self.of_workload(endpoint.workload.as_deref()?))
    }

    /// Whether any endpoint of a port of a service, by its index, is asked.
    pub fn concerns(&self, service: &Service, port: usize) -> bool {
        if self.is_empty() || service.is_passthrough() || service.is_dynamic() {
            return false;
        }
        let mut endpoints = service.ports.get(port).into_iter().flat_map(|port| &port.endpoints);
        let mut workloads = endpoints.by_ref().filter_map(|endpoint| endpoint.workload.as_deref());
        self.of_service(service).is_some()
            || (!self.groups.is_empty() && workloads.any(|it| self.of_workload(it).is_some()))
    }

    fn of_service(&self, service: &Service) -> Option<&Arc<Check>> {
        if self.services.is_empty() {
            return None;
        }
        let name = service.entry.as_ref().map_or(&service.name, |entry| &entry.name);
        let (namespace, name) = (Arc::clone(&service.namespace), Arc::clone(name));
        self.services.get(&Target { entry: service.entry.is_some(), namespace, name })
    }

    fn of_workload(&self, workload: &Workload) -> Option<&Arc<Check>> {
        // Whoever ends tunnels on the machine makes the probe, and says what comes of it.
        if !workload.uid.contains(WORKLOAD_ENTRY) || workload.enrolled {
            return None;
        }
        let is_its = |group: &&Group| {
            group.namespace == workload.namespace
                && group.labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
        };
        self.groups.iter().find(is_its).map(|group| &group.check)
    }
}

impl Check {
    /// `None` if nothing is asked, which is refused when it is read.
    fn of(meta: &Meta, spec: &HealthCheckSpec) -> Option<Self> {
        let http = spec.http.as_ref().map(|http| Ask::Http {
            path: path_of(&http.path),
            host: http.host.as_ref().map(|host| host.to_string().into()),
            headers: Vec::new(),
            expected: Some(&http.expected_statuses)
                .filter(|ranges| !ranges.is_empty())
                .map_or_else(|| vec![SUCCESS], Clone::clone),
        });
        let grpc = spec.grpc.as_ref().map(|grpc| Ask::Grpc { service: grpc.service.as_str().into() });
        let ask = http.or(grpc).or(spec.tcp.as_ref().map(|_| Ask::Tcp))?;
        let time = |given: Option<crate::resource::value::Duration>, default: Duration| {
            given.map_or(default, crate::resource::value::Duration::get)
        };
        Some(Self {
            by: format!("HealthCheck {}/{}", meta.namespace, meta.name).into(),
            ask,
            port: spec.port.map(crate::resource::value::Port::get),
            cover: Cover::AsTraffic,
            delay: Duration::ZERO,
            interval: time(spec.interval, INTERVAL),
            timeout: time(spec.timeout, TIMEOUT),
            healthy: spec.healthy_threshold.unwrap_or(1),
            unhealthy: spec.unhealthy_threshold.unwrap_or(3),
        })
    }

    /// The probe of a WorkloadGroup; `None` for a command, which nobody runs on the machine.
    pub fn of_probe(meta: &Meta, probe: &ReadinessProbe) -> Option<Self> {
        let (ask, port, cover) = match probe.method()? {
            ProbeMethod::Http(http) => {
                let headers = http.http_headers.iter().map(|it| (it.name.clone(), it.value.clone()));
                let host = Some(http.host.as_str()).filter(|host| !host.is_empty());
                let ask = Ask::Http {
                    path: path_of(&http.path),
                    host: host.map(Arc::from),
                    headers: headers.collect(),
                    expected: vec![NO_FAILURE],
                };
                (ask, http.port, if http.scheme == "HTTPS" { Cover::Anybody } else { Cover::Plain })
            }
            ProbeMethod::Tcp(tcp) => (Ask::Tcp, tcp.port, Cover::Plain),
            ProbeMethod::Grpc(grpc) => {
                (Ask::Grpc { service: grpc.service.as_str().into() }, grpc.port, Cover::Plain)
            }
            ProbeMethod::Exec(_) => return None,
        };
        let seconds = |given: u32, default: u32| {
            Duration::from_secs(u64::from(if given == 0 { default } else { given }))
        };
        let count = |given: u32, default: u32| if given == 0 { default } else { given };
        Some(Self {
            by: format!("WorkloadGroup {}/{}", meta.namespace, meta.name).into(),
            ask,
            port: Some(port.get()),
            cover,
            delay: seconds(probe.initial_delay_seconds, 0),
            interval: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1).min(MOST_TIMEOUT),
            healthy: count(probe.success_threshold, 1),
            unhealthy: count(probe.failure_threshold, 3),
        })
    }
}

impl Target {
    fn of(meta: &Meta, target: &PolicyTargetReference) -> Option<Self> {
        let entry = match target.kind.as_str() {
            "Service" => false,
            "ServiceEntry" => true,
            _ => return None,
        };
        Some(Self { entry, namespace: Arc::clone(&meta.namespace), name: target.name.as_str().into() })
    }
}

impl Group {
    /// Without labels there is nothing by which its `WorkloadEntries` could be known.
    fn of(meta: &Meta, spec: &WorkloadGroupSpec) -> Option<Self> {
        let check = Arc::new(Check::of_probe(meta, spec.probe.as_ref()?)?);
        let labels = spec.metadata.labels.iter().chain(&spec.template.labels);
        let labels: BTreeMap<_, _> = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        (!labels.is_empty()).then(|| Self { namespace: Arc::clone(&meta.namespace), labels, check })
    }
}

fn path_of(text: &str) -> Arc<str> {
    match text {
        "" => "/".into(),
        path if path.starts_with('/') => path.into(),
        path => format!("/{path}").into(),
    }
}

/// What the uid of a workload has in it that a WorkloadEntry is about.
const WORKLOAD_ENTRY: &str = "/networking.istio.io/WorkloadEntry/";
const SUCCESS: StatusRange = StatusRange { first: 200, last: 299 };
/// As Kubernetes reads the answer to a probe.
const NO_FAILURE: StatusRange = StatusRange { first: 200, last: 399 };
const INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(1);
/// Each question that is under way takes one of a few places.
const MOST_TIMEOUT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
