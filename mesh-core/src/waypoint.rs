//! Which waypoint a service is bound to, and what becomes of policies that name a target instead of selecting workloads.
//!
//! A waypoint is a Gateway of the Gateway API whose class is one of waypoints; services ask for it by label, their own or
//! their namespace's, and it must admit them. Policies with targets are for waypoints and gateways alone: nodes pass them
//! over. The rules, the conditions that tell users of the outcome and the reasons in them are those of ambient Istio.
//!
//! [`Attachments`] is kept up to date with objects and says which verdicts may have changed. Invariant: a verdict never
//! says more than is true; while nothing here serves waypoints ([`Serving::Nothing`]) no verdict holds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use self::target::Target;
pub use self::target::targets;
use crate::resource::gateway_api::{self, Protocol, RouteNamespaces};
use crate::resource::{Object, ObjectKey, Spec};

mod target;

/// Everything that decides about waypoints and targets, as far as it has been seen.
#[derive(Debug)]
pub struct Attachments {
    root_namespace: Arc<str>,
    serving: Serving,
    /// Labels of namespaces.
    namespaces: BTreeMap<Arc<str>, Labels>,
    gateways: BTreeMap<Name, Gateway>,
    classes: BTreeMap<Arc<str>, Class>,
    /// Services and `ServiceEntries`.
    services: BTreeMap<ObjectKey, Service>,
    /// Policies that have targets.
    policies: BTreeMap<ObjectKey, Vec<Target>>,
    changed: BTreeSet<ObjectKey>,
    /// Whether every verdict may have changed.
    all_changed: bool,
}

/// What the mesh makes of waypoints and gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// Nothing yet: traffic goes to workloads directly, whatever is bound.
    Nothing,
    /// Waypoints stand where they are asked for.
    Waypoints,
}

/// What a condition says, but for its type and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Its status.
    pub holds: bool,
    /// One word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    namespace: Arc<str>,
    name: Arc<str>,
}

#[derive(Debug, PartialEq, Eq)]
struct Gateway {
    class: Arc<str>,
    waypoint_for: Option<Arc<str>>,
    /// Of its HBONE listeners, or of all if there is none of these.
    admits: Vec<RouteNamespaces>,
    is_served: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Class {
    controller: Arc<str>,
    waypoint_for: Option<Arc<str>>,
}

/// The labels of a service that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Service {
    waypoint: Option<Arc<str>>,
    waypoint_namespace: Option<Arc<str>>,
    /// Whether gateways are to send their requests through it.
    ingress: bool,
}

/// What a service asks for.
enum Wish {
    Nothing,
    Waypoint(Name),
}

/// What came of it.
enum Binding {
    /// It asks for none.
    None,
    Bound(Name),
    Refused(Refusal),
}

/// Why a service is not bound to the waypoint that it asks for.
struct Refusal {
    reason: &'static str,
    message: String,
}

type Labels = BTreeMap<String, String>;

impl Attachments {
    /// Nothing has been seen yet. Policies of `root_namespace` may target classes.
    pub fn new(root_namespace: &str, serving: Serving) -> Self {
        Self {
            root_namespace: root_namespace.into(),
            serving,
            namespaces: BTreeMap::new(),
            gateways: BTreeMap::new(),
            classes: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            changed: BTreeSet::new(),
            all_changed: false,
        }
    }

    /// Takes note of an object, new or changed. Kinds that decide nothing here cost nothing.
    pub fn apply(&mut self, object: &Object) {
        let key = object.key();
        let labels = &object.meta.labels;
        match &object.spec {
            Spec::Namespace(_) => {
                let before = self.namespaces.insert(key.name, labels.clone());
                self.all_changed |= before.as_ref() != Some(labels);
            }
            Spec::KubernetesGateway(spec) => {
                let gateway = Gateway::new(spec, object);
                let name = Name { namespace: key.namespace, name: key.name };
                self.all_changed |= self.gateways.get(&name) != Some(&gateway);
                self.gateways.insert(name, gateway);
            }
            Spec::GatewayClass(spec) => {
                let controller = spec.controller_name.as_ref().into();
                let class = Class { controller, waypoint_for: label(labels, WAYPOINT_FOR) };
                self.all_changed |= self.classes.get(&key.name) != Some(&class);
                self.classes.insert(key.name, class);
            }
            Spec::Service(_) | Spec::ServiceEntry(_) => {
                self.services.insert(key.clone(), Service::new(labels));
                self.service_changed(key);
            }
            spec => {
                let targets: Vec<_> = targets(spec).map(|it| Target::new(it, &key.namespace)).collect();
                if !targets.is_empty() {
                    self.policies.insert(key.clone(), targets);
                    self.changed.insert(key);
                } else if self.policies.remove(&key).is_some() {
                    self.changed.insert(key);
                }
            }
        }
    }

    /// There is no such object any more.
    pub fn remove(&mut self, key: &ObjectKey) {
        let name = || Name { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) };
        match key.kind {
            "Namespace" => self.all_changed |= self.namespaces.remove(&key.name).is_some(),
            "KubernetesGateway" => self.all_changed |= self.gateways.remove(&name()).is_some(),
            "GatewayClass" => self.all_changed |= self.classes.remove(&key.name).is_some(),
            "Service" | "ServiceEntry" => {
                if self.services.remove(key).is_some() {
                    self.service_changed(key.clone());
                    self.changed.remove(key);
                }
            }
            _ => {
                self.policies.remove(key);
                self.changed.remove(key);
            }
        }
    }

    /// Services and policies of which the verdict may be another than at the last call, in order.
    pub fn take_changed(&mut self) -> BTreeSet<ObjectKey> {
        let mut changed = std::mem::take(&mut self.changed);
        if std::mem::take(&mut self.all_changed) {
            changed.extend(self.services.keys().chain(self.policies.keys()).cloned());
        }
        changed
    }

    /// Whether a service is bound to the waypoint that it asks for; `None` if it asks for none.
    pub fn bound(&self, service: &ObjectKey) -> Option<Verdict> {
        match self.binding(service) {
            Binding::None => None,
            Binding::Bound(waypoint) => {
                let ingress = self.services.get(service).is_some_and(|service| service.ingress);
                let through = if ingress { ". Requests from gateways go through it, too" } else { "" };
                let message = format!("Successfully attached to waypoint {waypoint}{through}");
                Some(Verdict { holds: true, reason: "WaypointAccepted", message })
            }
            Binding::Refused(Refusal { reason, message }) => Some(Verdict { holds: false, reason, message }),
        }
    }

    /// Whether waypoints enforce a policy; `None` if it has no target, or is not known.
    pub fn accepted(&self, policy: &ObjectKey) -> Option<Verdict> {
        let targets = self.policies.get(policy)?;
        Some(target::summary(targets.iter().map(|target| self.target(target)).collect()))
    }

    /// Policies name what they target, so those that name `service` are looked for; there are few.
    fn service_changed(&mut self, service: ObjectKey) {
        let concerned = self.policies.iter().filter(|(_, targets)| {
            targets.iter().any(|target| target.service_key().as_ref() == Some(&service))
        });
        self.changed.extend(concerned.map(|(policy, _)| policy.clone()));
        self.changed.insert(service);
    }

    fn binding(&self, key: &ObjectKey) -> Binding {
        let Some(service) = self.services.get(key) else { return Binding::None };
        let no_labels = Labels::new();
        let namespace = self.namespaces.get(&key.namespace).unwrap_or(&no_labels);
        let Wish::Waypoint(name) = service.wish(&key.namespace, namespace) else { return Binding::None };
        let refused = |reason, message: String| Binding::Refused(Refusal { reason, message });
        let not_ready = |why: String| refused(NOT_READY, format!("waypoint \"{name}\" is not ready: {why}"));
        let Some(gateway) = self.gateways.get(&name) else {
            return not_ready("there is no Gateway of this name".to_owned());
        };
        if !self.is_of_waypoints(&gateway.class) {
            return not_ready(format!("Gateways of class {} are no waypoints", gateway.class));
        }
        let same = name.namespace == key.namespace;
        if !gateway.admits.iter().any(|routes| routes.admit(same, namespace)) {
            let message = format!(
                "waypoint \"{name}\" does not admit namespace {} (see allowedRoutes of its listeners)",
                key.namespace
            );
            return refused("AttachmentDenied", message);
        }
        let traffic = self.traffic(gateway);
        if !matches!(traffic, "service" | "all") {
            let message = format!(
                "waypoint \"{name}\" is for traffic of type \"{traffic}\", not for that of services (label {WAYPOINT_FOR})"
            );
            return refused("UnsupportedTrafficType", message);
        }
        match self.serving {
            Serving::Nothing => not_ready(NOT_SERVED.to_owned()),
            Serving::Waypoints if !gateway.is_served => not_ready("it has no address yet".to_owned()),
            Serving::Waypoints => Binding::Bound(name),
        }
    }

    /// The traffic that a waypoint takes: its own label's, its class's or the default.
    fn traffic<'a>(&'a self, gateway: &'a Gateway) -> &'a str {
        let of_class = || self.classes.get(&gateway.class)?.waypoint_for.as_deref();
        gateway.waypoint_for.as_deref().or_else(of_class).unwrap_or("service")
    }

    /// Whether Gateways of this class are waypoints.
    fn is_of_waypoints(&self, class: &str) -> bool {
        class == WAYPOINT_CLASS
            || self.classes.get(class).is_some_and(|class| *class.controller == *WAYPOINT_CONTROLLER)
    }
}

impl Gateway {
    fn new(spec: &gateway_api::GatewaySpec, object: &Object) -> Self {
        let tunnels = spec.listeners.iter().filter(|listener| listener.protocol == Protocol::Hbone);
        let mut admits: Vec<_> = tunnels.map(|listener| listener.allowed_routes.namespaces.clone()).collect();
        if admits.is_empty() {
            let all = spec.listeners.iter().map(|listener| listener.allowed_routes.namespaces.clone());
            admits = all.collect();
        }
        Self {
            class: spec.gateway_class_name.as_ref().into(),
            waypoint_for: label(&object.meta.labels, WAYPOINT_FOR),
            admits,
            is_served: object.status.is_served,
        }
    }
}

impl Service {
    fn new(labels: &Labels) -> Self {
        Self {
            waypoint: label(labels, USE_WAYPOINT),
            waypoint_namespace: label(labels, USE_WAYPOINT_NAMESPACE),
            ingress: labels.get(INGRESS_USE_WAYPOINT).is_some_and(|value| value == "true"),
        }
    }

    /// What it asks for in `namespace`, whose own labels count where it says nothing.
    fn wish(&self, namespace: &Arc<str>, labels: &Labels) -> Wish {
        let (waypoint, of) = match &self.waypoint {
            Some(waypoint) => (Some(Arc::clone(waypoint)), self.waypoint_namespace.clone()),
            None => (label(labels, USE_WAYPOINT), label(labels, USE_WAYPOINT_NAMESPACE)),
        };
        match waypoint {
            Some(name) if *name != *NO_WAYPOINT => {
                Wish::Waypoint(Name { namespace: of.unwrap_or_else(|| Arc::clone(namespace)), name })
            }
            _ => Wish::Nothing,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The value of a label; an empty one says nothing.
fn label(labels: &Labels, key: &str) -> Option<Arc<str>> {
    labels.get(key).filter(|value| !value.is_empty()).map(|value| value.as_str().into())
}

/// Istio's labels, on services and namespaces…
const USE_WAYPOINT: &str = "istio.io/use-waypoint";
const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const INGRESS_USE_WAYPOINT: &str = "istio.io/ingress-use-waypoint";
/// …whose value says that it is to be none…
const NO_WAYPOINT: &str = "none";
/// …and on Gateways and their classes.
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// Istio's class of waypoints, and who takes care of it. The class counts also before it exists.
const WAYPOINT_CLASS: &str = "istio-waypoint";
const WAYPOINT_CONTROLLER: &str = "istio.io/mesh-controller";
/// The reason in a condition: the binding does not apply, and traffic goes on without the waypoint.
const NOT_READY: &str = "WaypointIsNotReady";
const NOT_SERVED: &str =
    "this mesh does not serve waypoints yet, so connections go to the workloads directly";

#[cfg(test)]
mod tests;
