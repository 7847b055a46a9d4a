//! Which waypoint a service or a workload is bound to, and what becomes of policies that name a target instead of
//! selecting workloads.
//!
//! A waypoint is a Gateway of the Gateway API whose class is one of waypoints; services and workloads ask for it by label,
//! their own or their namespace's, and it must admit them. Policies with targets are for waypoints and gateways alone:
//! nodes pass them over. The labels, the conditions that tell users of the outcome and the reasons in them are those of
//! ambient Istio. One thing is not: what asks for a waypoint that is not there, or does not admit it, is not reached past
//! it, because whoever asks has rules that are enforced nowhere else.
//!
//! [`Attachments`] is kept up to date with objects and says which verdicts may have changed. Invariant: a verdict never
//! says more than is true.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use self::target::Target;
pub use self::target::targets;
use self::wish::{Asked, Wish};
use crate::model::{ServiceKey, Waypoint, is_ready};
use crate::resource::gateway_api::{self, Protocol, RouteNamespaces};
use crate::resource::{Object, ObjectKey, Spec};

mod target;
mod wish;

/// Everything that decides about waypoints and targets, as far as it has been seen.
#[derive(Debug)]
pub struct Attachments {
    root_namespace: Arc<str>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    gateways: BTreeMap<Name, Gateway>,
    classes: BTreeMap<Arc<str>, Class>,
    /// What services and `ServiceEntries` ask for.
    services: BTreeMap<ObjectKey, Wish>,
    /// Pods that are ready, by the Gateway that they run.
    ready: BTreeMap<Name, BTreeSet<Arc<str>>>,
    /// Policies that have targets.
    policies: BTreeMap<ObjectKey, Vec<Target>>,
    changed: BTreeSet<ObjectKey>,
    changed_namespaces: BTreeSet<Arc<str>>,
    changed_gateways: BTreeSet<(Arc<str>, Arc<str>)>,
    /// Whether every verdict may have changed.
    all_changed: bool,
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

#[derive(Debug, Default, PartialEq, Eq)]
struct Namespace {
    labels: Labels,
    wish: Wish,
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

/// What is addressed: a service, or a workload by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Traffic {
    Services,
    Workloads,
}

/// What came of a wish.
enum Binding {
    /// There is none.
    None,
    Bound(Bound),
    /// And whether gateways would go through it.
    Refused(Refusal, bool),
}

/// What somebody is bound to.
struct Bound {
    waypoint: Name,
    /// With its share, of a hundred.
    canary: Option<(Name, u8)>,
    /// Why the canary that is asked for gets nothing.
    no_canary: Option<Refusal>,
    ingress: bool,
}

/// Why nobody is bound to a waypoint.
struct Refusal {
    waypoint: Name,
    reason: &'static str,
    message: String,
}

type Labels = BTreeMap<String, String>;

impl Attachments {
    /// Nothing has been seen yet. Policies of `root_namespace` may target classes.
    pub fn new(root_namespace: &str) -> Self {
        Self {
            root_namespace: root_namespace.into(),
            namespaces: BTreeMap::new(),
            gateways: BTreeMap::new(),
            classes: BTreeMap::new(),
            services: BTreeMap::new(),
            ready: BTreeMap::new(),
            policies: BTreeMap::new(),
            changed: BTreeSet::new(),
            changed_namespaces: BTreeSet::new(),
            changed_gateways: BTreeSet::new(),
            all_changed: false,
        }
    }

    /// Takes note of an object, new or changed. Kinds that decide nothing here cost nothing.
    pub fn apply(&mut self, object: &Object) {
        let key = object.key();
        let labels = &object.meta.labels;
        match &object.spec {
            Spec::Namespace(_) => {
                let new = Namespace { labels: labels.clone(), wish: Wish::of(&object.meta) };
                if self.namespaces.get(&key.name) != Some(&new) {
                    self.changed_namespaces.insert(Arc::clone(&key.name));
                    self.namespaces.insert(key.name, new);
                }
            }
            Spec::KubernetesGateway(spec) => {
                let gateway = Gateway::new(spec, object);
                let name = Name { namespace: key.namespace, name: key.name };
                if self.gateways.get(&name) != Some(&gateway) {
                    self.gateway_changed(&name);
                    self.gateways.insert(name, gateway);
                }
            }
            Spec::GatewayClass(spec) => {
                let controller = spec.controller_name.as_ref().into();
                let class = Class { controller, waypoint_for: wish::label(labels, WAYPOINT_FOR) };
                if self.classes.get(&key.name) != Some(&class) {
                    self.classes.insert(Arc::clone(&key.name), class);
                    self.class_changed(&key.name);
                }
            }
            Spec::Service(_) | Spec::ServiceEntry(_) => {
                self.services.insert(key.clone(), Wish::of(&object.meta));
                self.service_changed(key);
            }
            Spec::Pod(pod) => {
                let ends = pod.metadata.deletion_timestamp.is_some();
                let gateway = labels.get(GATEWAY_NAME).filter(|_| !ends && is_ready(pod));
                self.set_ready(&key, gateway.map(String::as_str));
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
        match key.kind {
            "Namespace" => {
                if self.namespaces.remove(&key.name).is_some() {
                    self.changed_namespaces.insert(Arc::clone(&key.name));
                }
            }
            "KubernetesGateway" => {
                let name = Name { namespace: Arc::clone(&key.namespace), name: Arc::clone(&key.name) };
                if self.gateways.remove(&name).is_some() {
                    self.gateway_changed(&name);
                }
            }
            "GatewayClass" => {
                if self.classes.remove(&key.name).is_some() {
                    self.class_changed(&key.name);
                }
            }
            "Pod" => self.set_ready(key, None),
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
        let namespaces = std::mem::take(&mut self.changed_namespaces);
        let all = std::mem::take(&mut self.all_changed);
        if all || !namespaces.is_empty() {
            let keys = self.services.keys().chain(self.policies.keys());
            changed.extend(keys.filter(|key| all || namespaces.contains(&key.namespace)).cloned());
        }
        changed
    }

    /// Namespaces and names of Gateways that have changed, come or gone since the last call.
    pub(crate) fn take_changed_gateways(&mut self) -> BTreeSet<(Arc<str>, Arc<str>)> {
        std::mem::take(&mut self.changed_gateways)
    }

    /// Whether a service is bound to the waypoint that it asks for; `None` if it asks for none.
    pub fn bound(&self, service: &ObjectKey) -> Option<Verdict> {
        match self.binding(service) {
            Binding::None => None,
            Binding::Bound(Bound { waypoint, no_canary, ingress, .. }) => {
                if !self.is_ready(&waypoint) {
                    let message = format!(
                        "waypoint \"{waypoint}\" is not ready: it has no address and no pod that is; \
                         connections are refused until it has"
                    );
                    return Some(Verdict { holds: false, reason: NOT_READY, message });
                }
                let through = if ingress { ". Requests from gateways go through it, too" } else { "" };
                let message = format!("Successfully attached to waypoint {waypoint}{through}");
                Some(match no_canary {
                    None => Verdict { holds: true, reason: "WaypointAccepted", message },
                    Some(Refusal { reason, message: why, .. }) => Verdict {
                        holds: true,
                        reason,
                        message: format!("{message}. All connections go there: {why}"),
                    },
                })
            }
            Binding::Refused(Refusal { reason, message, .. }, _) => {
                let closed = if reason == OTHER_TRAFFIC { "" } else { "; connections are refused" };
                Some(Verdict { holds: false, reason, message: format!("{message}{closed}") })
            }
        }
    }

    /// Why a service is not bound to the waypoint that it asks for, if nothing can reach it therefore.
    pub(crate) fn refused(&self, service: &ObjectKey) -> Option<String> {
        match self.binding(service) {
            Binding::Refused(Refusal { reason, message, .. }, _) if reason != OTHER_TRAFFIC => Some(message),
            _ => None,
        }
    }

    /// What connections to a service go through.
    pub(crate) fn waypoint(&self, service: &ObjectKey) -> Option<Waypoint> {
        model(self.binding(service))
    }

    /// What connections to the addresses of a workload with these labels go through.
    pub(crate) fn workload_waypoint(&self, namespace: &Arc<str>, labels: &Labels) -> Option<Waypoint> {
        if labels.get(GATEWAY_NAME).is_some_and(|name| self.is_waypoint(namespace, name)) {
            return None;
        }
        model(self.resolve(&Wish::of_labels(labels), namespace, Traffic::Workloads))
    }

    /// Whether a workload with these labels asks for any waypoint.
    pub(crate) fn asks(&self, namespace: &str, labels: &Labels) -> bool {
        wish::asks(labels) || self.namespaces.get(namespace).is_some_and(|it| it.wish.primary.is_some())
    }

    /// Whether there is a waypoint of this name.
    pub(crate) fn is_waypoint(&self, namespace: &Arc<str>, name: &str) -> bool {
        let name = Name { namespace: Arc::clone(namespace), name: name.into() };
        self.gateways.get(&name).is_some_and(|gateway| self.is_of_waypoints(&gateway.class))
    }

    /// Whether waypoints enforce a policy; `None` if it has no target, or is not known.
    pub fn accepted(&self, policy: &ObjectKey) -> Option<Verdict> {
        let targets = self.policies.get(policy)?;
        let enforced = ENFORCED.contains(&policy.kind);
        let verdicts = targets.iter().map(|target| self.target(target)).map(|verdict| {
            if enforced || !verdict.holds { verdict } else { target::not_enforced(policy.kind) }
        });
        Some(target::summary(verdicts.collect()))
    }

    fn gateway_changed(&mut self, Name { namespace, name }: &Name) {
        self.changed_gateways.insert((Arc::clone(namespace), Arc::clone(name)));
        self.all_changed = true;
    }

    fn class_changed(&mut self, class: &str) {
        let of_class = self.gateways.iter().filter(|(_, gateway)| *gateway.class == *class);
        let names = of_class.map(|(name, _)| (Arc::clone(&name.namespace), Arc::clone(&name.name)));
        self.changed_gateways.extend(names);
        self.all_changed = true;
    }

    fn set_ready(&mut self, pod: &ObjectKey, gateway: Option<&str>) {
        let of = |name: &str| Name { namespace: Arc::clone(&pod.namespace), name: name.into() };
        let before = self
            .ready
            .iter()
            .find(|(name, pods)| name.namespace == pod.namespace && pods.contains(&pod.name));
        let before = before.map(|(name, _)| name.clone());
        let now = gateway.map(of);
        if before == now {
            return;
        }
        if let Some(name) = before
            && let Some(pods) = self.ready.get_mut(&name)
        {
            pods.remove(&pod.name);
            if pods.is_empty() {
                self.ready.remove(&name);
                self.all_changed = true;
            }
        }
        if let Some(name) = now {
            let pods = self.ready.entry(name).or_default();
            self.all_changed |= pods.is_empty();
            pods.insert(Arc::clone(&pod.name));
        }
    }

    fn is_ready(&self, waypoint: &Name) -> bool {
        self.ready.contains_key(waypoint) || self.gateways.get(waypoint).is_some_and(|it| it.is_served)
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
        let Some(wish) = self.services.get(key) else { return Binding::None };
        // Whoever reaches a waypoint by its own Service wants it, and not itself through itself.
        let runs = wish.runs.as_deref().unwrap_or(&key.name);
        if self.is_waypoint(&key.namespace, runs) {
            return Binding::None;
        }
        self.resolve(wish, &key.namespace, Traffic::Services)
    }

    /// What `wish`, of something in `namespace`, comes to. The namespace's own counts where it says nothing.
    fn resolve(&self, wish: &Wish, namespace: &Arc<str>, traffic: Traffic) -> Binding {
        let none = Namespace::default();
        let home = self.namespaces.get(namespace).unwrap_or(&none);
        let from = if wish.primary.is_some() { wish } else { &home.wish };
        let Some(waypoint) = from.primary.as_ref().and_then(|asked| asked.name_in(namespace)) else {
            return Binding::None;
        };
        let ingress = wish.ingress.or(home.wish.ingress).unwrap_or(false);
        if let Err(refusal) = self.admitted(&waypoint, (namespace, &home.labels), traffic) {
            return Binding::Refused(refusal, ingress);
        }
        let asked = from.canary.as_ref().filter(|_| traffic == Traffic::Services);
        let canary = asked.and_then(|canary| Some((canary.asked.name_in(namespace)?, canary.percent)));
        let (canary, no_canary) = match canary {
            None => (None, None),
            Some(canary) => match self.canary(&waypoint, canary, (namespace, &home.labels)) {
                Ok(canary) => (Some(canary), None),
                Err(refusal) => (None, Some(refusal)),
            },
        };
        Binding::Bound(Bound { waypoint, canary, no_canary, ingress })
    }

    /// A canary gets its share only where it is one; without it the waypoint gets all.
    fn canary(
        &self,
        waypoint: &Name,
        (canary, percent): (Name, Option<u8>),
        namespace: (&Arc<str>, &Labels),
    ) -> Result<(Name, u8), Refusal> {
        let refused = |reason, message| Refusal { waypoint: canary.clone(), reason, message };
        let Some(percent) = percent else {
            let message = format!("the weight of canary waypoint \"{canary}\" is no number from 0 to 100");
            return Err(refused("CanaryInvalidWeight", message));
        };
        if canary == *waypoint {
            let message = format!("canary waypoint \"{canary}\" is the waypoint itself");
            return Err(refused("CanarySameAsPrimary", message));
        }
        self.admitted(&canary, namespace, Traffic::Services)?;
        Ok((canary, percent))
    }

    /// Whether a waypoint is one, and takes this traffic of a namespace.
    fn admitted(
        &self,
        name: &Name,
        (namespace, labels): (&Arc<str>, &Labels),
        traffic: Traffic,
    ) -> Result<(), Refusal> {
        let refused = |reason, message| Refusal { waypoint: name.clone(), reason, message };
        let not_ready = |why: String| refused(NOT_READY, format!("waypoint \"{name}\" is not ready: {why}"));
        let Some(gateway) = self.gateways.get(name) else {
            return Err(not_ready("there is no Gateway of this name".to_owned()));
        };
        if !self.is_of_waypoints(&gateway.class) {
            return Err(not_ready(format!("Gateways of class {} are no waypoints", gateway.class)));
        }
        let same = name.namespace == *namespace;
        if !gateway.admits.iter().any(|routes| routes.admit(same, labels)) {
            let message = format!(
                "waypoint \"{name}\" does not admit namespace {namespace} (see allowedRoutes of its listeners)"
            );
            return Err(refused("AttachmentDenied", message));
        }
        let taken = self.traffic(gateway);
        let (own, what) = match traffic {
            Traffic::Services => ("service", "services"),
            Traffic::Workloads => ("workload", "workloads"),
        };
        if taken == own || taken == "all" {
            return Ok(());
        }
        let message = format!(
            "waypoint \"{name}\" is for traffic of type \"{taken}\", not for that of {what} (label {WAYPOINT_FOR})"
        );
        Err(refused(OTHER_TRAFFIC, message))
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

/// What the data plane is told of a binding. A waypoint that is not for this traffic leaves it alone; whatever else is
/// wrong with one closes the way.
fn model(binding: Binding) -> Option<Waypoint> {
    let key = |name: &Name| Arc::new(ServiceKey::of_waypoint(&name.namespace, &name.name));
    match binding {
        Binding::None => None,
        Binding::Refused(refusal, _) if refusal.reason == OTHER_TRAFFIC => None,
        Binding::Refused(Refusal { waypoint, message, .. }, ingress) => {
            Some(Waypoint { service: key(&waypoint), refused: Some(message.into()), canary: None, ingress })
        }
        Binding::Bound(Bound { waypoint, canary, ingress, .. }) => Some(Waypoint {
            service: key(&waypoint),
            refused: None,
            canary: canary.map(|(canary, percent)| (key(&canary), percent)),
            ingress,
        }),
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
            waypoint_for: wish::label(&object.meta.labels, WAYPOINT_FOR),
            admits,
            is_served: object.status.is_served,
        }
    }
}

impl Asked {
    /// The waypoint that somebody in `namespace` asks for; `None` if that is to be none.
    fn name_in(&self, namespace: &Arc<str>) -> Option<Name> {
        let of = self.namespace.as_ref().unwrap_or(namespace);
        let name = Name { namespace: Arc::clone(of), name: Arc::clone(&self.name) };
        (*self.name != *NO_WAYPOINT).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a label says that asks for none.
const NO_WAYPOINT: &str = "none";
/// On Gateways and their classes: the traffic that they take.
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
/// On the pods of a Gateway: its name.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Istio's class of waypoints. It counts also before it exists.
pub const WAYPOINT_CLASS: &str = "istio-waypoint";
/// Who takes care of waypoints; the name is Istio's.
pub const WAYPOINT_CONTROLLER: &str = "istio.io/mesh-controller";
/// Reasons in a condition.
const NOT_READY: &str = "WaypointIsNotReady";
const OTHER_TRAFFIC: &str = "UnsupportedTrafficType";
/// Kinds of policies with targets that waypoints enforce.
const ENFORCED: [&str; 3] = ["AuthorizationPolicy", "RequestAuthentication", "Telemetry"];

#[cfg(test)]
mod tests;
