//! What of the mesh the pods of a node can see, and which policies decide about them, so that the node need not be told
//! the rest.
//!
//! `Sidecar` resources narrow what their workloads see, `exportTo` narrows who sees a service, a VirtualService or a
//! DestinationRule. What a node's pods cannot see is no secret: whoever is asked for by address is told all the same.
//! Policies are enforced where their workloads run, and nowhere else. Gateways are no business of nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::record::Record;
use super::{Config, Service, ServiceKey};
use crate::policy::{Policy, PolicyName, Scope};
use crate::resource::gateway_api::ParentRef;
use crate::resource::mesh_config::MeshConfig;
use crate::resource::networking::{DestinationRuleSpec, VirtualServiceSpec};
use crate::resource::value::{EgressHost, ExportTo, GatewayName, Host};
use crate::resource::{Object, Spec};

/// What the pods of one node see together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// What different pods see.
    views: BTreeSet<View>,
    needs: Needs,
    defaults: ExportDefaults,
}

/// Who sees `VirtualServices` and `DestinationRules` that do not say; none means everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ExportDefaults {
    virtual_services: Vec<ExportTo>,
    destination_rules: Vec<ExportTo>,
}

/// The policies that decide about the pods of one node, besides those of the mesh.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Whose own policies do.
    pub(super) namespaces: BTreeSet<Arc<str>>,
    /// Those that select any of the pods.
    pub(super) listed: BTreeSet<Arc<PolicyName>>,
}

/// What some pods of a namespace see.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct View {
    pub(super) namespace: Arc<str>,
    /// Hosts of a `Sidecar`; without one, everything.
    pub(super) hosts: Option<Arc<[EgressHost]>>,
}

/// Who sees a service: `networking.istio.io/exportTo`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Exported {
    /// Everybody.
    #[default]
    Everywhere,
    /// These namespaces.
    To(BTreeSet<Arc<str>>),
}

impl Reach {
    pub(super) fn of(views: BTreeSet<View>, needs: Needs, defaults: ExportDefaults) -> Self {
        Self { views, needs, defaults }
    }

    /// Whether services, workloads and endpoints are in view of one of the two exactly if they are of the other.
    pub fn sees_like(&self, other: &Self) -> bool {
        self.views == other.views
    }

    /// Whether the same resources of traffic management are for the pods of both.
    pub fn follows_like(&self, other: &Self) -> bool {
        self.sees_like(other) && self.defaults == other.defaults
    }

    /// Whether the same policies decide about the pods of both.
    pub fn needs_like(&self, other: &Self) -> bool {
        self.needs == other.needs
    }

    /// Whether a node with this reach is told of `record`.
    pub fn includes(&self, record: &Record) -> bool {
        match record {
            Record::Policy(policy) => self.needs.include(policy),
            Record::Config(config) => self.follows(config),
            // What is bound to a waypoint is nobody's secret, and without it nobody gets there.
            Record::Service(service) => service.key().is_of_waypoint() || self.sees_service(service),
            Record::Workload(workload) => {
                // A workload without services is reached by its address, if at all.
                let seen = |key: &ServiceKey| key.is_of_waypoint() || self.sees(key);
                self.sees_any_host() || workload.services.iter().any(|one| seen(&one.service))
            }
            Record::StaticEndpoint(endpoint) => endpoint.services.iter().any(|one| self.sees(&one.service)),
            _ => true,
        }
    }

    fn sees_service(&self, service: &Service) -> bool {
        let key = service.key();
        self.views.iter().any(|view| service.exported.is_to(&view.namespace) && view.sees(&key))
    }

    /// Whether a resource may make a difference to what some pod sends. What is not certain counts as if it did.
    fn follows(&self, config: &Config) -> bool {
        let Object { meta, spec, .. } = config.object();
        match spec {
            Spec::VirtualService(spec) => self.follows_routes(&meta.namespace, spec),
            Spec::DestinationRule(spec) => self.follows_rule(&meta.namespace, spec),
            // Waypoints and gateways have no reach, and are told of everything.
            Spec::Gateway(_)
            | Spec::AuthorizationPolicy(_)
            | Spec::KubernetesGateway(_)
            | Spec::ListenerSet(_)
            | Spec::GatewayClass(_) => false,
            // Whether its namespace may have it, the node sees for each pod.
            Spec::Service(_) => {
                let (namespace, name) = (&meta.namespace, &meta.name);
                let key = ServiceKey {
                    namespace: Arc::clone(namespace),
                    hostname: super::world::hostname(name, namespace),
                };
                self.sees(&key)
            }
            Spec::TlsRoute(spec) => self.follows_parents(&meta.namespace, &spec.parent_refs),
            Spec::TcpRoute(spec) => self.follows_parents(&meta.namespace, &spec.parent_refs),
            Spec::UdpRoute(spec) => self.follows_parents(&meta.namespace, &spec.parent_refs),
            Spec::HttpRoute(spec) => self.follows_parents(&meta.namespace, &spec.parent_refs),
            Spec::GrpcRoute(spec) => self.follows_parents(&meta.namespace, &spec.parent_refs),
            _ => true,
        }
    }

    fn follows_routes(&self, namespace: &Arc<str>, spec: &VirtualServiceSpec) -> bool {
        if spec.is_delegate() {
            // For whom it is, those who delegate to it say.
            return true;
        }
        if !spec.gateways.is_empty() && !spec.gateways.contains(&GatewayName::Mesh) {
            return false;
        }
        let exported = Exported::of(&spec.export_to, &self.defaults.virtual_services, namespace);
        let hosts = || spec.hosts.iter().map(|host| host.qualified(namespace, CLUSTER_DOMAIN));
        self.views.iter().any(|view| {
            exported.is_to(&view.namespace) && hosts().any(|host| view.sees_name(Some(namespace), &host))
        })
    }

    /// A route for a Service of another namespace is for clients of its own.
    fn follows_parents(&self, namespace: &Arc<str>, parents: &[ParentRef]) -> bool {
        let is_own = |parent: &ParentRef| parent.namespace.as_deref().is_none_or(|it| *it == **namespace);
        let has_clients = || self.views.iter().any(|view| view.namespace == *namespace);
        parents.iter().filter(|parent| is_service(parent)).any(|parent| is_own(parent) || has_clients())
    }

    fn follows_rule(&self, namespace: &Arc<str>, spec: &DestinationRuleSpec) -> bool {
        let exported = Exported::of(&spec.export_to, &self.defaults.destination_rules, namespace);
        let host = spec.host.qualified(namespace, CLUSTER_DOMAIN);
        let of = namespace_of(&host);
        self.views.iter().any(|view| exported.is_to(&view.namespace) && view.sees_name(of, &host))
    }

    fn sees(&self, key: &ServiceKey) -> bool {
        self.views.iter().any(|view| view.sees(key))
    }

    fn sees_any_host(&self) -> bool {
        self.views.iter().any(|view| view.hosts.is_none())
    }
}

impl Needs {
    fn include(&self, policy: &Policy) -> bool {
        match policy.scope {
            Scope::Mesh => true,
            Scope::Namespace => self.namespaces.contains(&policy.name.namespace),
            Scope::Listed => self.listed.contains(&policy.key()),
        }
    }
}

impl View {
    fn sees(&self, key: &ServiceKey) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        let covers = |host: &EgressHost, excluding: bool| match host {
            EgressHost::Include(scope, host) if !excluding => {
                scope.contains(&key.namespace, &self.namespace) && host.matches(&key.hostname)
            }
            EgressHost::Exclude(scope, host) if excluding => {
                scope.contains(&key.namespace, &self.namespace) && host.matches(&key.hostname)
            }
            _ => false,
        };
        hosts.iter().any(|host| covers(host, false)) && !hosts.iter().any(|host| covers(host, true))
    }
}

impl View {
    /// Whether hosts that are let in, from `namespace` if it matters, have a name in common with `host`.
    fn sees_name(&self, namespace: Option<&str>, host: &Host) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        hosts.iter().any(|one| match one {
            EgressHost::Include(scope, own) => {
                namespace.is_none_or(|namespace| scope.contains(namespace, &self.namespace))
                    && own.overlaps(host)
            }
            EgressHost::Exclude(..) | EgressHost::Nothing => false,
        })
    }
}

/// Whether a route is for clients in the mesh.
fn is_service(parent: &ParentRef) -> bool {
    parent.group.is_empty() && *parent.kind == *"Service"
}

impl ExportDefaults {
    pub(super) fn of(config: &MeshConfig) -> Self {
        Self {
            virtual_services: config.default_virtual_service_export_to.clone(),
            destination_rules: config.default_destination_rule_export_to.clone(),
        }
    }
}

/// The namespace of the service, if `host` is the full name of one of the cluster's.
fn namespace_of(host: &Host) -> Option<&str> {
    let Host::Name(name) = host else { return None };
    let name = name.strip_suffix(CLUSTER_DOMAIN)?.strip_suffix(".svc.")?;
    name.split_once('.').map(|(_, namespace)| namespace)
}

/// What short names end with.
const CLUSTER_DOMAIN: &str = "cluster.local";

impl Exported {
    /// What `exportTo` of an object of namespace `own` says, or `default` if it says nothing; everybody if neither
    /// does.
    pub(crate) fn of(given: &[ExportTo], default: &[ExportTo], own: &Arc<str>) -> Self {
        let given = if given.is_empty() { default } else { given };
        if given.is_empty() || given.contains(&ExportTo::All) {
            return Self::Everywhere;
        }
        let names = given.iter().filter_map(|to| match to {
            ExportTo::All | ExportTo::Nobody => None,
            ExportTo::Own => Some(Arc::clone(own)),
            ExportTo::Namespace(name) => Some(Arc::clone(name)),
        });
        Self::To(names.collect())
    }

    /// Whether pods of `namespace` see it.
    pub fn is_to(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(namespaces) => namespaces.contains(namespace),
        }
    }

    /// What an annotation says on an object of namespace `own`: namespaces, `.` and `*`, separated by commas. Nothing,
    /// or nothing that can be read, means everybody, as it does for Istio.
    pub(super) fn parse(text: &str, own: &Arc<str>) -> Self {
        let parts: Vec<&str> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.is_empty() || parts.contains(&"*") {
            return Self::Everywhere;
        }
        let namespace = |part: &&str| match *part {
            "." => Some(Arc::clone(own)),
            "~" => None,
            name => Some(name.into()),
        };
        Self::To(parts.iter().filter_map(namespace).collect())
    }
}
