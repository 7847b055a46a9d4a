//! What became of resources, for their status: the conditions that ambient Istio writes on policies and services, the
//! addresses of hosts that have none, and which `GatewayClass`es are ours.
//!
//! What is decided is decided elsewhere: by the compiler, which says what it found, by [`Attachments`] and [`Allocator`].
//! Here it becomes a status of each object. A commit costs what changed and what has findings, not what exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mesh_core::allocate::{Allocator, Ranges, same};
use mesh_core::gateway_api::{CONTROLLER, REMOTE_CONTROLLER};
use mesh_core::resource::status::{WAYPOINT_ACCEPTED, WAYPOINT_BOUND};
use mesh_core::resource::{Finding, Level, Object, ObjectKey, Origin, Spec};
use mesh_core::waypoint::{Attachments, Verdict, WAYPOINT_CONTROLLER, targets};
use mesh_source::kubernetes::status::{Addresses, Condition, Status, Statuses};
use mesh_source::{About, Change};
use tokio::sync::watch;

use super::gateway_api::GatewayApi;
use super::roots::Namespaces;

/// Turns what was found into statuses, and knows the namespaces.
pub(super) struct Reports {
    sink: Box<dyn Sink>,
    namespaces: watch::Sender<Namespaces>,
    policies: BTreeMap<Arc<str>, Policy>,
    /// Policies of which something may have to be said with the next commit.
    changed: BTreeSet<Arc<str>>,
    /// Policies that had findings at the last commit.
    talked_of: BTreeSet<Arc<str>>,
    attachments: Attachments,
    allocator: Allocator,
    /// Shared with who makes what runs Gateways, and says what is in the way of that.
    gateway_api: Arc<Mutex<GatewayApi>>,
    /// Services, and what else may be attached to something.
    attached: BTreeMap<ObjectKey, Attached>,
    /// `ServiceEntries` some host of which has no address, and how many of them.
    lacking: BTreeMap<ObjectKey, usize>,
}

/// What a status of it is about, and what it shows already.
struct Attached {
    uid: Option<Arc<str>>,
    generation: Option<i64>,
    conditions: BTreeSet<Arc<str>>,
}

/// Where statuses go.
pub(super) trait Sink: Send {
    /// What the status of an object should say from now on.
    fn set(&self, key: ObjectKey, status: Status);
    /// There is no such object any more.
    fn forget(&self, key: &ObjectKey);
}

/// A policy, valid or not.
struct Policy {
    key: ObjectKey,
    uid: Option<Arc<str>>,
    generation: Option<i64>,
    /// Whether a valid version of it has been seen.
    is_valid: bool,
}

impl Reports {
    /// Tells `sink` of statuses, and `namespaces` of namespaces.
    pub(super) fn new(
        sink: impl Sink + 'static,
        namespaces: watch::Sender<Namespaces>,
        root_namespace: &str,
        gateway_api: Arc<Mutex<GatewayApi>>,
    ) -> Self {
        Self {
            sink: Box::new(sink),
            namespaces,
            policies: BTreeMap::new(),
            changed: BTreeSet::new(),
            talked_of: BTreeSet::new(),
            attachments: Attachments::new(root_namespace),
            allocator: Allocator::new(Ranges::default()),
            gateway_api,
            attached: BTreeMap::new(),
            lacking: BTreeMap::new(),
        }
    }

    fn apply(&mut self, object: &Object) {
        let key = object.key();
        self.attachments.apply(object);
        self.allocator.apply(object);
        self.gateway_api().apply(object);
        if Attached::matters(object) {
            self.attached.insert(key.clone(), Attached::new(object));
        } else if self.attached.remove(&key).is_some() {
            self.sink.forget(&key);
        }
        if is_policy(&key) {
            let (uid, generation) = (object.meta.uid.clone(), object.meta.generation);
            let name = Arc::clone(&object.origin.file);
            self.changed.insert(Arc::clone(&name));
            self.policies.insert(name, Policy { key, uid, generation, is_valid: true });
        } else if let Spec::GatewayClass(class) = &object.spec {
            if CONTROLLERS.contains(&class.controller_name.as_ref()) {
                self.sink.set(key, class_status(object));
            }
        } else if key.kind == "Namespace" {
            self.namespaces.send_if_modified(|known| {
                !known.contains(&key.name) && Arc::make_mut(known).insert(Arc::clone(&key.name))
            });
        }
    }

    fn remove(&mut self, key: &ObjectKey) {
        self.attachments.remove(key);
        self.allocator.remove(key);
        self.gateway_api().remove(key);
        self.lacking.remove(key);
        if self.attached.remove(key).is_some() {
            self.sink.forget(key);
        }
        if is_policy(key) {
            self.policies.remove(key.to_string().as_str());
            self.sink.forget(key);
        } else if OF_GATEWAY_API.contains(&key.kind) {
            self.sink.forget(key);
        } else if key.kind == "Namespace" {
            self.namespaces.send_if_modified(|known| {
                known.contains(&key.name) && Arc::make_mut(known).remove(&key.name)
            });
        }
    }

    /// The source has something to say about a policy; if it was never valid, this is how we hear of it.
    fn note(&mut self, key: &ObjectKey, findings: &[Finding]) {
        if !is_policy(key) {
            return;
        }
        let name: Arc<str> = key.to_string().into();
        self.changed.insert(Arc::clone(&name));
        let key = key.clone();
        if findings.is_empty() {
            if self.policies.get(&name).is_some_and(|policy| !policy.is_valid) {
                self.policies.remove(&name);
                self.sink.forget(&key);
            }
        } else {
            let unseen = Policy { key, uid: None, generation: None, is_valid: false };
            self.policies.entry(name).or_insert(unseen);
        }
    }
}

impl Reports {
    /// The `ConfigMap`s whose content is needed to know what is to run Gateways, besides those that Gateways name.
    pub(super) fn needs(&self) -> Vec<ObjectKey> {
        self.gateway_api().parameters_of_classes().collect()
    }

    fn gateway_api(&self) -> MutexGuard<'_, GatewayApi> {
        self.gateway_api.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of resources before they are compiled.
    pub(super) fn saw(&mut self, batch: &[Change]) {
        for change in batch {
            match change {
                Change::Apply(object) => self.apply(object),
                Change::Delete(key) => self.remove(key),
                Change::Findings(About::Object(key), findings) => self.note(key, findings),
                Change::Synced => self.gateway_api().complete(),
                Change::Findings(About::Source | About::WrittenBack, _) => {}
            }
        }
    }

    /// Decides about what is attached and about addresses. Returns all there is to say about that.
    pub(super) fn conclude(&mut self) -> Vec<Finding> {
        let mut changed = self.attachments.take_changed();
        for key in self.allocator.settle() {
            match self.allocator.of(&key).map_or(0, |(grant, _)| grant.lacking) {
                0 => self.lacking.remove(&key),
                hosts => self.lacking.insert(key.clone(), hosts),
            };
            changed.insert(key);
        }
        for key in changed {
            if is_policy(&key) {
                self.changed.insert(key.to_string().into());
            } else if let Some(attached) = self.attached.get(&key) {
                match attached.status(&key, &self.attachments, &self.allocator) {
                    Some(status) => self.sink.set(key, status),
                    None => self.sink.forget(&key),
                }
            }
        }
        // What is said first must not be heard last, so nobody else may say anything meanwhile.
        let mut gateway_api = self.gateway_api.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, status) in gateway_api.settle() {
            self.sink.set(key, status);
        }
        drop(gateway_api);
        let ranges = self.allocator.ranges();
        self.lacking.iter().map(|(key, hosts)| no_address(key, *hosts, ranges)).collect()
    }

    /// Takes note of what there is to say about them.
    pub(super) fn compiled(&mut self, findings: &mut dyn Iterator<Item = &Finding>) {
        let mut by_policy: BTreeMap<Arc<str>, Vec<&Finding>> = BTreeMap::new();
        for finding in findings.filter(|finding| finding.level >= Level::Warning) {
            if self.policies.contains_key(&finding.origin.file) {
                by_policy.entry(Arc::clone(&finding.origin.file)).or_default().push(finding);
            }
        }
        let now: BTreeSet<_> = by_policy.keys().cloned().collect();
        let mut names = std::mem::take(&mut self.changed);
        names.append(&mut self.talked_of);
        names.extend(now.iter().cloned());
        for name in &names {
            if let Some(policy) = self.policies.get(name) {
                let findings = by_policy.get(name).map(Vec::as_slice).unwrap_or_default();
                let accepted = self.attachments.accepted(&policy.key);
                self.sink.set(policy.key.clone(), policy.status(findings, accepted));
            }
        }
        self.talked_of = now;
    }
}

impl Attached {
    /// Whether there may be something to say about an object, or to take back.
    fn matters(object: &Object) -> bool {
        match &object.spec {
            Spec::Service(_) | Spec::ServiceEntry(_) => true,
            spec @ (Spec::RequestAuthentication(_) | Spec::Telemetry(_)) => {
                targets(spec).next().is_some() || !object.status.conditions.is_empty()
            }
            _ => false,
        }
    }

    fn new(object: &Object) -> Self {
        let (uid, generation) = (object.meta.uid.clone(), object.meta.generation);
        Self { uid, generation, conditions: object.status.conditions.clone() }
    }

    /// What it should say; `None` if that is nothing, and nothing of ours is there.
    fn status(&self, key: &ObjectKey, attachments: &Attachments, allocator: &Allocator) -> Option<Status> {
        let (sort, verdict) = match key.kind {
            "Service" | "ServiceEntry" => (WAYPOINT_BOUND, attachments.bound(key)),
            _ => (WAYPOINT_ACCEPTED, attachments.accepted(key)),
        };
        let is_over = verdict.is_none() && self.conditions.contains(sort);
        let addresses = allocator.of(key).filter(|(grant, held)| !same(&grant.addresses, held));
        let addresses =
            addresses.map(|(grant, held)| Addresses { seen: held.to_vec(), wanted: grant.addresses.clone() });
        let status = Status {
            uid: self.uid.clone(),
            conditions: verdict.map(|it| condition(sort, it, self.generation)).into_iter().collect(),
            absent: is_over.then(|| sort.to_owned()).into_iter().collect(),
            addresses,
            ..Status::default()
        };
        let is_empty = status.conditions.is_empty() && status.absent.is_empty() && status.addresses.is_none();
        (!is_empty).then_some(status)
    }
}

impl Policy {
    /// What became of it: `accepted` says what waypoints make of its targets, if it has some, for then nodes pass it over.
    fn status(&self, findings: &[&Finding], accepted: Option<Verdict>) -> Status {
        let refused = findings.iter().any(|finding| finding.level == Level::Error);
        let (sort, other) = match &accepted {
            Some(_) => (WAYPOINT_ACCEPTED, ZTUNNEL_ACCEPTED),
            None => (ZTUNNEL_ACCEPTED, WAYPOINT_ACCEPTED),
        };
        let verdict = match accepted {
            Some(verdict) if !refused => verdict,
            _ => {
                let (holds, reason) = match findings {
                    _ if refused => (false, "Invalid"),
                    [] => (true, "Accepted"),
                    _ => (true, "UnsupportedValue"),
                };
                let message = match findings {
                    [] => "in force on every node that it concerns".to_owned(),
                    findings => findings.iter().map(|finding| text(finding)).collect::<Vec<_>>().join("; "),
                };
                Verdict { holds, reason, message }
            }
        };
        // What was refused is a version that has not been read as far as its generation.
        let condition = condition(sort, verdict, self.generation.filter(|_| !refused));
        let absent = vec![other.to_owned()];
        Status { uid: self.uid.clone(), conditions: vec![condition], absent, ..Status::default() }
    }
}

impl Sink for Statuses {
    fn set(&self, key: ObjectKey, status: Status) {
        Self::set(self, key, status);
    }

    fn forget(&self, key: &ObjectKey) {
        Self::forget(self, key);
    }
}

/// What a class says that names us. Whether its parameters can be used is said by each of its Gateways.
fn class_status(object: &Object) -> Status {
    let condition = Condition {
        sort: "Accepted".to_owned(),
        status: "True".to_owned(),
        reason: "Accepted".to_owned(),
        message: "handled by mesh-control".to_owned(),
        observed_generation: object.meta.generation,
    };
    Status { uid: object.meta.uid.clone(), conditions: vec![condition], ..Status::default() }
}

fn condition(sort: &str, verdict: Verdict, observed_generation: Option<i64>) -> Condition {
    Condition {
        sort: sort.to_owned(),
        status: if verdict.holds { "True" } else { "False" }.to_owned(),
        reason: verdict.reason.to_owned(),
        message: cut(verdict.message),
        observed_generation,
    }
}

/// Said of a ServiceEntry when all addresses are given away.
fn no_address(key: &ObjectKey, hosts: usize, Ranges { v4, v6 }: Ranges) -> Finding {
    Finding {
        origin: Origin::in_cluster(key),
        level: Level::Warning,
        field: "spec.hosts".to_owned(),
        reason: format!("{hosts} of its hosts lack an address: all of {v4} or of {v6} are given away"),
        hint: Some("write spec.addresses, or remove entries that nobody uses".to_owned()),
    }
}

/// A finding without the name of the object in whose status it stands.
fn text(finding: &Finding) -> String {
    let line = finding.to_string();
    let start = format!("{} {} ", finding.origin, finding.level);
    line.strip_prefix(&start).map_or_else(|| line.clone(), str::to_owned)
}

fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let end = (0..=MAX_MESSAGE).rev().find(|end| message.is_char_boundary(*end)).unwrap_or_default();
        message.truncate(end);
        message.push('…');
    }
    message
}

fn is_policy(key: &ObjectKey) -> bool {
    POLICIES.contains(&key.kind)
}

/// The condition that ambient Istio writes, and that people wait for: whether the proxies of nodes enforce a policy.
const ZTUNNEL_ACCEPTED: &str = "ZtunnelAccepted";
/// Kinds that nodes enforce.
const POLICIES: [&str; 2] = ["AuthorizationPolicy", "PeerAuthentication"];
/// Kinds of the Gateway API that have a status of ours.
const OF_GATEWAY_API: [&str; 9] = [
    "GatewayClass",
    "KubernetesGateway",
    "ListenerSet",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "BackendTLSPolicy",
];
/// Who takes care of a `GatewayClass` that is ours.
const CONTROLLERS: [&str; 3] = [CONTROLLER, WAYPOINT_CONTROLLER, REMOTE_CONTROLLER];
/// Bytes; Kubernetes allows a condition 32 KiB, and nobody reads more than this.
const MAX_MESSAGE: usize = 2048;

#[cfg(test)]
mod tests;
