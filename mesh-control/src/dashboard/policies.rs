//! What users have written about traffic, whom it is for, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::analyze::Message;
use mesh_core::gateway_api::Route;
use mesh_core::model::{Record, RecordKey, Service, ServiceKey};
use mesh_core::resource::gateway_api::Backend;
use mesh_core::resource::networking::VirtualServiceSpec;
use mesh_core::resource::security::{Action, MutualTlsMode, PolicyTargetReference, WorkloadSelector};
use mesh_core::resource::{Level, Object, ObjectKey, Spec};
use mesh_core::topology::{Edge, Point, PolicyId, PolicyKind, VerdictPoint};
use mesh_proto::names::{self, ResourceType};
use serde::Serialize;

use super::Dashboard;
use super::query::Query;
use crate::topology;

/// An element of `/api/v1/policies`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Policy {
    kind: &'static str,
    namespace: Arc<str>,
    name: Arc<str>,
    /// What it does, in a few words.
    summary: String,
    /// Whom it is for.
    scope: Scope,
    /// `NAMESPACE/NAME` of the workloads that it is for, where it goes by workloads.
    workloads: BTreeSet<String>,
    /// `KIND/NAME` of what it is attached to.
    targets: Vec<String>,
    /// Hosts that it is about.
    hosts: Vec<String>,
    /// Hosts in full that it sends requests to.
    #[serde(skip)]
    leads_to: BTreeSet<String>,
    problems: Vec<Problem>,
}

/// `/api/v1/policies/KIND/NAMESPACE/NAME`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    #[serde(flatten)]
    policy: Policy,
    series: Series,
}

/// Over the last hour.
#[derive(Debug, Serialize)]
struct Series {
    /// What it has allowed and refused; `None` of resources that do neither.
    verdicts: Option<Vec<VerdictPoint>>,
    /// The traffic that it is for: of its workloads, or of the services that it is about.
    traffic: Vec<Point>,
}

/// Whom a policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Scope {
    Mesh,
    Namespace,
    Workloads,
    /// What it is attached to.
    Targets,
    /// Whoever asks for its hosts.
    Hosts,
}

/// `/api/v1/problems`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Problems {
    problems: Vec<Problem>,
    /// There are too many objects to look at together; `meshctl analyze` has no such limit.
    incomplete: bool,
}

/// Something that is wrong, or probably not as intended.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Problem {
    level: &'static str,
    code: String,
    kind: Option<&'static str>,
    namespace: Option<Arc<str>>,
    name: Option<Arc<str>>,
    /// Where it stands: file and document, or kind, namespace and name.
    origin: String,
    /// Path of the field; empty for the whole object.
    field: String,
    reason: String,
    hint: Option<String>,
}

/// A pod's workload, and what selectors look at.
struct Selectable {
    id: String,
    namespace: Arc<str>,
    labels: Arc<BTreeMap<String, String>>,
}

/// What is said of a policy before anybody looks at workloads.
#[derive(Default)]
struct Facts<'a> {
    summary: String,
    selector: Option<&'a WorkloadSelector>,
    /// By workload, mesh-wide in the root namespace; else by hosts or targets.
    selects: bool,
    targets: Vec<String>,
    hosts: Vec<String>,
    leads_to: BTreeSet<String>,
}

/// A service, by its namespace, name and host.
pub(super) type About<'a> = (&'a str, &'a str, &'a str);

impl Dashboard {
    pub(super) fn policies(&self, query: &Query) -> Vec<Policy> {
        let (pods, problems) = (self.selectable(), self.problems_by_object());
        let objects = self.findings.catalog.objects(is_policy);
        let wanted = objects.iter().filter(|object| query.wants(&object.meta.namespace));
        wanted.map(|object| self.policy(object, &pods, &problems)).collect()
    }

    /// One of them; of two that differ in nothing but their group the first.
    pub(super) fn policy_detail(&self, kind: &str, namespace: &str, name: &str) -> Option<Detail> {
        let is = |object: &Object| {
            let key = object.key();
            shown_kind(key.kind) == kind && *key.namespace == *namespace && *key.name == *name
        };
        let object =
            self.findings.catalog.objects(|object| is_policy(object) && is(object)).into_iter().next()?;
        let policy = self.policy(&object, &self.selectable(), &self.problems_by_object());
        let services = self.services_of(&policy);
        let concerns = |edge: &Edge| {
            let asked = edge.service.as_deref().map(|it| (Arc::clone(&it.namespace), Arc::clone(&it.name)));
            let party = edge.destination.as_deref();
            party.is_some_and(|it| policy.workloads.contains(&format!("{}/{}", it.namespace, it.workload)))
                || asked.is_some_and(|asked| services.contains(&asked))
        };
        let now = topology::now();
        let store = self.traffic.store();
        let verdicts = PolicyKind::of(policy.kind).map(|kind| {
            let (namespace, name) = (Arc::clone(&policy.namespace), Arc::clone(&policy.name));
            store.verdict_series(now, &PolicyId { kind, namespace, name })
        });
        let traffic = store.series(now, concerns);
        drop(store);
        Some(Detail { policy, series: Series { verdicts, traffic } })
    }

    /// The services that a policy is about, and those bound to a waypoint that it is attached to, by namespace and name.
    fn services_of(&self, policy: &Policy) -> BTreeSet<(Arc<str>, Arc<str>)> {
        let gateways = policy.targets.iter().filter_map(|target| target.strip_prefix("Gateway/"));
        let waypoints: Vec<_> =
            gateways.map(|name| ServiceKey::of_waypoint(&policy.namespace, name)).collect();
        let shelf = self.hub.shelf();
        let services = shelf.store(ResourceType::Address).iter().filter_map(|entry| match &entry.record {
            Record::Service(service) => Some(service),
            _ => None,
        });
        let wanted = services.filter(|service| {
            let bound = service.waypoint.as_ref();
            policy.is_about((&service.namespace, &service.name, &service.hostname))
                || bound.is_some_and(|waypoint| waypoints.iter().any(|key| waypoint.is(key)))
        });
        wanted.map(|service| (Arc::clone(&service.namespace), Arc::clone(&service.name))).collect()
    }

    /// Those that are for a workload, by its id, or about one of its services.
    pub(super) fn policies_of(&self, id: &str, services: &[About<'_>]) -> Vec<Policy> {
        let mut policies = self.policies(&Query::default());
        policies.retain(|policy| {
            policy.workloads.contains(id) || services.iter().any(|service| policy.is_about(*service))
        });
        policies
    }

    /// Those that name a service: as a host, as what they are attached to, or as where they lead.
    pub(super) fn policies_about(&self, service: &Service) -> Vec<Policy> {
        let mut policies = self.policies(&Query::default());
        policies.retain(|policy| policy.is_about((&service.namespace, &service.name, &service.hostname)));
        policies
    }

    pub(super) fn problems(&self, query: &Query) -> Problems {
        let analysis = self.findings.catalog.analysis(&self.root_namespace);
        let wanted = analysis.messages.iter().filter(|message| message.level() > Level::Info);
        let mut problems: Vec<Problem> = wanted
            .filter(|message| message.key.as_ref().is_none_or(|key| query.wants(&key.namespace)))
            .map(problem)
            .collect();
        problems.sort_by_key(|problem| problem.level != LEVEL_ERROR);
        Problems { problems, incomplete: analysis.is_incomplete }
    }

    fn problems_by_object(&self) -> BTreeMap<ObjectKey, Vec<Problem>> {
        let analysis = self.findings.catalog.analysis(&self.root_namespace);
        let mut problems: BTreeMap<ObjectKey, Vec<Problem>> = BTreeMap::new();
        for message in analysis.messages.iter().filter(|message| message.level() > Level::Info) {
            if let Some(key) = &message.key {
                problems.entry(key.clone()).or_default().push(problem(message));
            }
        }
        problems
    }

    fn selectable(&self) -> Vec<Selectable> {
        let shelf = self.hub.shelf();
        let pods = shelf.store(ResourceType::LocalPod);
        let workloads = shelf.store(ResourceType::Address).iter();
        workloads
            .filter_map(|entry| {
                let Record::Workload(workload) = &entry.record else { return None };
                let name = names::name(&RecordKey::LocalPod(Arc::clone(&workload.uid)));
                let labels = match pods.get(&name).map(|entry| &entry.record) {
                    Some(Record::LocalPod(pod)) => Arc::clone(&pod.labels),
                    _ => Arc::new(workload.labels.clone()),
                };
                let id = format!("{}/{}", workload.namespace, workload.workload_name);
                Some(Selectable { id, namespace: Arc::clone(&workload.namespace), labels })
            })
            .collect()
    }

    fn policy(
        &self,
        object: &Object,
        pods: &[Selectable],
        problems: &BTreeMap<ObjectKey, Vec<Problem>>,
    ) -> Policy {
        let facts = facts(object);
        let key = object.key();
        let is_mesh_wide = *key.namespace == *self.root_namespace;
        let labels = facts.selector.map(|selector| &selector.match_labels).filter(|it| !it.is_empty());
        let scope = match (facts.selects, facts.targets.is_empty(), labels) {
            (_, false, _) => Scope::Targets,
            (false, ..) => Scope::Hosts,
            (true, _, Some(_)) => Scope::Workloads,
            (true, ..) if is_mesh_wide => Scope::Mesh,
            _ => Scope::Namespace,
        };
        let goes_by_workload = !matches!(scope, Scope::Targets | Scope::Hosts);
        let selected = pods.iter().filter(|pod| {
            let is_near = is_mesh_wide || pod.namespace == key.namespace;
            let has = |(name, value): (&String, &String)| pod.labels.get(name) == Some(value);
            goes_by_workload && is_near && labels.is_none_or(|labels| labels.iter().all(has))
        });
        Policy {
            kind: shown_kind(key.kind),
            summary: facts.summary,
            scope,
            workloads: selected.map(|pod| pod.id.clone()).collect(),
            targets: facts.targets,
            hosts: facts.hosts,
            leads_to: facts.leads_to,
            problems: problems.get(&key).cloned().unwrap_or_default(),
            namespace: key.namespace,
            name: key.name,
        }
    }
}

impl Policy {
    fn is_about(&self, (namespace, name, hostname): About<'_>) -> bool {
        let here = *self.namespace == *namespace;
        let named = |host: &String| {
            *host == hostname || (here && *host == name) || *host == format!("{name}.{namespace}")
        };
        self.hosts.iter().any(named)
            || (here && self.targets.contains(&format!("Service/{name}")))
            || self.leads_to.contains(hostname)
    }
}

/// Whether an object is about traffic, and not what carries it.
pub(super) fn is_policy(object: &Object) -> bool {
    matches!(
        object.spec,
        Spec::AuthorizationPolicy(_)
            | Spec::PeerAuthentication(_)
            | Spec::RequestAuthentication(_)
            | Spec::VirtualService(_)
            | Spec::DestinationRule(_)
            | Spec::Gateway(_)
            | Spec::ServiceEntry(_)
            | Spec::Sidecar(_)
            | Spec::Telemetry(_)
            | Spec::RateLimit(_)
            | Spec::HealthCheck(_)
            | Spec::KubernetesGateway(_)
            | Spec::HttpRoute(_)
            | Spec::GrpcRoute(_)
            | Spec::TlsRoute(_)
            | Spec::TcpRoute(_)
            | Spec::UdpRoute(_)
            | Spec::BackendTlsPolicy(_)
    )
}

fn facts(object: &Object) -> Facts<'_> {
    match &object.spec {
        Spec::AuthorizationPolicy(spec) => {
            let action = match spec.action {
                Action::Allow => "ALLOW",
                Action::Deny => "DENY",
                Action::Audit => "AUDIT",
                Action::Custom => "CUSTOM",
            };
            Facts {
                summary: format!("{action}, {}", count(spec.rules.len(), "rule")),
                selector: spec.selector.as_ref(),
                selects: true,
                targets: targets(spec.target_ref.iter().chain(&spec.target_refs)),
                ..Facts::default()
            }
        }
        Spec::PeerAuthentication(spec) => Facts {
            summary: mode(spec.mtls.map(|mtls| mtls.mode).unwrap_or_default()).to_owned(),
            selector: spec.selector.as_ref(),
            selects: true,
            ..Facts::default()
        },
        Spec::RequestAuthentication(spec) => Facts {
            summary: format!("tokens of {}", count(spec.jwt_rules.len(), "issuer")),
            selector: spec.selector.as_ref(),
            selects: true,
            targets: targets(spec.target_ref.iter().chain(&spec.target_refs)),
            ..Facts::default()
        },
        Spec::Telemetry(spec) => Facts {
            summary: "metrics, logs and traces".to_owned(),
            selector: spec.selector.as_ref(),
            selects: true,
            targets: targets(spec.target_ref.iter().chain(&spec.target_refs)),
            ..Facts::default()
        },
        Spec::RateLimit(spec) => Facts {
            summary: format!("limits, {}", count(spec.rules.len(), "rule")),
            selector: spec.selector.as_ref(),
            selects: true,
            targets: targets(&spec.target_refs),
            ..Facts::default()
        },
        Spec::HealthCheck(spec) => Facts {
            summary: "health of endpoints".to_owned(),
            targets: targets(&spec.target_refs),
            ..Facts::default()
        },
        _ => Route::of(object).map_or_else(|| routing(object), |route| of_route(&route)),
    }
}

/// A route of the Gateway API goes by what it is attached to.
fn of_route<'a>(route: &Route<'a>) -> Facts<'a> {
    let host = |backend: &Backend| {
        let namespace = backend.namespace.as_deref().unwrap_or(route.namespace());
        backend.is_service().then(|| format!("{}.{namespace}.svc.{CLUSTER_DOMAIN}", backend.name))
    };
    Facts {
        summary: count(route.faults().1, "rule"),
        targets: route.parents().iter().map(|to| format!("{}/{}", to.kind, to.name)).collect(),
        hosts: route.hostnames().iter().map(ToString::to_string).collect(),
        leads_to: route.backends().filter_map(host).collect(),
        ..Facts::default()
    }
}

/// Where the routes of a `VirtualService` lead.
fn destinations(spec: &VirtualServiceSpec, namespace: &str) -> BTreeSet<String> {
    let http = spec.http.iter().flat_map(|it| &it.route).map(|it| &it.destination.host);
    let mirrors = spec.http.iter().flat_map(|it| &it.mirrors).map(|it| &it.destination.host);
    let tls = spec.tls.iter().flat_map(|it| &it.route).map(|it| &it.destination.host);
    let tcp = spec.tcp.iter().flat_map(|it| &it.route).map(|it| &it.destination.host);
    let all = http.chain(mirrors).chain(tls).chain(tcp);
    all.map(|host| host.qualified(namespace, CLUSTER_DOMAIN).to_string()).collect()
}

/// What goes by hosts.
fn routing(object: &Object) -> Facts<'_> {
    let text = |hosts: &mut dyn Iterator<Item = String>| hosts.collect::<Vec<_>>();
    let mut leads_to = BTreeSet::new();
    let (summary, hosts) = match &object.spec {
        Spec::VirtualService(spec) => {
            leads_to = destinations(spec, &object.meta.namespace);
            let routes = spec.http.len() + spec.tls.len() + spec.tcp.len();
            let faults = spec.http.iter().filter(|route| route.fault.is_some()).count();
            let faults =
                if faults > 0 { format!(", {} on purpose", count(faults, "fault")) } else { String::new() };
            let hosts = text(&mut spec.hosts.iter().map(ToString::to_string));
            (format!("{}{faults}", count(routes, "route")), hosts)
        }
        Spec::DestinationRule(spec) => (count(spec.subsets.len(), "subset"), vec![spec.host.to_string()]),
        Spec::ServiceEntry(spec) => {
            let hosts = text(&mut spec.hosts.iter().map(ToString::to_string));
            (count(spec.ports.len(), "port"), hosts)
        }
        Spec::Gateway(spec) => (count(spec.servers.len(), "server"), Vec::new()),
        Spec::Sidecar(_) => ("what clients see".to_owned(), Vec::new()),
        _ => (String::new(), Vec::new()),
    };
    Facts { summary, hosts, leads_to, ..Facts::default() }
}

fn targets<'a>(references: impl IntoIterator<Item = &'a PolicyTargetReference>) -> Vec<String> {
    references.into_iter().map(|to| format!("{}/{}", to.kind, to.name)).collect()
}

fn mode(mode: MutualTlsMode) -> &'static str {
    match mode {
        MutualTlsMode::Unset => "mTLS as its surroundings say",
        MutualTlsMode::Disable => "mTLS DISABLE",
        MutualTlsMode::Permissive => "mTLS PERMISSIVE",
        MutualTlsMode::Strict => "mTLS STRICT",
    }
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// As users write it.
fn shown_kind(kind: &'static str) -> &'static str {
    if kind == "KubernetesGateway" { "Gateway" } else { kind }
}

fn problem(message: &Message) -> Problem {
    let key = message.key.as_ref();
    Problem {
        level: if message.level() == Level::Error { LEVEL_ERROR } else { "warning" },
        code: message.code.to_string(),
        kind: key.map(|key| shown_kind(key.kind)),
        namespace: key.map(|key| Arc::clone(&key.namespace)),
        name: key.map(|key| Arc::clone(&key.name)),
        origin: message.origin.to_string(),
        field: message.field.clone(),
        reason: message.reason.clone(),
        hint: message.hint.clone(),
    }
}

/// What names of services of Kubernetes end with.
const CLUSTER_DOMAIN: &str = "cluster.local";
const LEVEL_ERROR: &str = "error";
