//! Telemetry in force: what is told about the requests of a workload, a gateway or a waypoint, once all Telemetries that are for
//! it have been put together with `MeshConfig`: that of the root namespace first, then that of its own, then its own.
//!
//! Invariant: the same configuration gives the same answer, in whatever order resources came; what cannot be used changes nothing
//! and is named by [`Telemetries::notes`].

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::effective::{Effective, Families, Group, Log, Tag, ToService, Tracing};
pub use self::expression::{Attributes, Expression, ExpressionError, Value};
pub use self::label::{BadLabel, label_name};
use self::rule::{LogProvider, Rule};
use crate::model::{Service, Snapshot, Workload};
use crate::own::Own;
use crate::resource::Spec;
use crate::resource::mesh_config::MeshConfig;
use crate::waypoint::WAYPOINT_CLASS;

mod effective;
mod expression;
mod label;
mod rule;

/// Which side of requests is told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// What a workload or a gateway sends.
    Client,
    /// What a workload takes in, or a waypoint for it.
    Server,
}

/// All Telemetries of a configuration.
#[derive(Debug, Clone, Default)]
pub struct Telemetries {
    root: Arc<str>,
    mesh: Arc<MeshConfig>,
    /// The oldest first.
    rules: Vec<Rule>,
    /// Whether the mesh has services that are told what access logs have, whatever Telemetries say.
    logs_to_services: bool,
}

/// Those of them that are for one workload, in the order they are applied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Chosen([Option<usize>; 4]);

impl Telemetries {
    /// Those of a configuration.
    pub fn of(snapshot: &Snapshot) -> Self {
        let root = &*snapshot.mesh().root_namespace;
        let root = if root.is_empty() { DEFAULT_ROOT } else { root }.into();
        let mut rules: Vec<_> = snapshot
            .configs_of("Telemetry")
            .filter_map(|config| match &config.object().spec {
                Spec::Telemetry(spec) => Some(Rule::of(&config.object().meta, spec)),
                _ => None,
            })
            .collect();
        rules.sort_by(|one, other| one.age().cmp(&other.age()));
        let mesh = Arc::clone(snapshot.mesh());
        let is_service =
            |name: &String| matches!(LogProvider::find(&mesh, name), Some(LogProvider::Service(_)));
        let logs_to_services = mesh.default_providers.access_logging.iter().any(is_service);
        Self { root, mesh, rules, logs_to_services }
    }

    /// Those for a workload.
    pub fn of_workload(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Chosen {
        let [mesh, own] = self.around(namespace);
        let selected =
            self.find(|rule| (rule.is_in(namespace) || rule.is_in(&self.root)) && rule.selects(labels));
        Chosen([mesh, own, selected, None])
    }

    /// Those for a gateway, which may be named as well.
    pub fn of_gateway(&self, own: &Own) -> Chosen {
        let Chosen([mesh, namespace, selected, _]) = self.of_workload(&own.namespace, &own.labels);
        let named =
            |name: &str| name == &*own.name || own.labels.get(GATEWAY_NAME).is_some_and(|it| it == name);
        let named = self.find(|rule| rule.is_in(&own.namespace) && rule.targets("Gateway", named));
        Chosen([mesh, namespace, named.or(selected), None])
    }

    /// Those for what comes through a waypoint to a service, if it is one's. Waypoints do not ask selectors.
    pub fn of_waypoint(&self, (namespace, name): (&str, &str), service: Option<&Service>) -> Chosen {
        let [mesh, own] = self.around(namespace);
        let class = || {
            self.find(|rule| {
                rule.is_in(&self.root) && rule.targets("GatewayClass", |it| it == WAYPOINT_CLASS)
            })
        };
        let gateway = self.find(|rule| rule.is_in(namespace) && rule.targets("Gateway", |it| it == name));
        let served = service.and_then(|service| {
            let (kind, known_as) = match &service.entry {
                Some(entry) => ("ServiceEntry", &entry.name),
                None => ("Service", &service.name),
            };
            self.find(|rule| rule.is_in(&service.namespace) && rule.targets(kind, |it| it == &**known_as))
        });
        Chosen([mesh, own, gateway.or_else(class), served])
    }

    /// Whether nobody's connections are told about in another way than the usual one.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && !self.logs_to_services
    }

    /// What they come to for one side.
    pub fn effective(&self, chosen: Chosen, side: Side) -> Effective {
        let rules: Vec<_> = chosen.0.iter().flatten().filter_map(|index| self.rules.get(*index)).collect();
        Effective::of(&self.mesh, &rules, side)
    }

    /// Whether requests of a workload are to be read only so that they can be told about: its own label says so, else a
    /// Telemetry that is for it does.
    pub fn reads_requests(&self, workload: &Workload) -> bool {
        match workload.labels.get(READ_REQUESTS).map(String::as_str) {
            Some("enabled") => return true,
            Some("disabled") => return false,
            _ => {}
        }
        if self.rules.is_empty() {
            return false;
        }
        let chosen = self.of_workload(&workload.namespace, &workload.labels);
        let rules = chosen.0.iter().flatten().rev().filter_map(|index| self.rules.get(*index));
        rules.map(|rule| rule.reads_requests(&self.root)).find_map(|it| it).unwrap_or(false)
    }

    /// What in them cannot be used, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.rules.iter().flat_map(|rule| rule.notes(&self.mesh)).collect()
    }

    /// Those without a selector: the mesh's, and that of a namespace.
    fn around(&self, namespace: &str) -> [Option<usize>; 2] {
        let of = |namespace: &str| self.find(|rule| rule.is_in(namespace) && rule.is_for_all());
        [of(&self.root), if *namespace == *self.root { None } else { of(namespace) }]
    }

    /// Of several the oldest counts.
    fn find(&self, is: impl Fn(&Rule) -> bool) -> Option<usize> {
        self.rules.iter().position(is)
    }
}

/// Label of pods, and annotation of Telemetries: with the value `enabled` requests are read at the nodes wherever ports carry
/// HTTP, whether any rule is about them or not, so that they are counted, logged and traced; with `disabled` they are not read
/// only for that.
pub const READ_REQUESTS: &str = "mesh.internal/l7-telemetry";
/// Where `MeshConfig` says nothing.
const DEFAULT_ROOT: &str = "istio-system";
/// What the pods of a Gateway of Kubernetes have its name in.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

#[cfg(test)]
mod tests;
