//! What became of policies, for their status: the condition that ambient Istio writes, from what the compiler found. And
//! which `GatewayClass`es are ours.
//!
//! A commit costs what changed and what has findings, not what exists.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::resource::{Finding, Level, Object, ObjectKey, Spec};
use mesh_source::kubernetes::status::{Condition, Status, Statuses};
use mesh_source::{About, Change};
use tokio::sync::watch;

use super::roots::Namespaces;

/// Turns findings into statuses, and knows the namespaces.
pub(super) struct Reports {
    sink: Box<dyn Sink>,
    namespaces: watch::Sender<Namespaces>,
    policies: BTreeMap<Arc<str>, Policy>,
    /// Policies of which something may have to be said with the next commit.
    changed: BTreeSet<Arc<str>>,
    /// Policies that had findings at the last commit.
    talked_of: BTreeSet<Arc<str>>,
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
    /// Tells `sink` of policies, and `namespaces` of namespaces.
    pub(super) fn new(sink: impl Sink + 'static, namespaces: watch::Sender<Namespaces>) -> Self {
        let (policies, changed, talked_of) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Self { sink: Box::new(sink), namespaces, policies, changed, talked_of }
    }

    fn apply(&mut self, object: &Object) {
        let key = object.key();
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
        if is_policy(key) {
            self.policies.remove(key.to_string().as_str());
            self.sink.forget(key);
        } else if key.kind == "GatewayClass" {
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
    /// Takes note of resources before they are compiled.
    pub(super) fn saw(&mut self, batch: &[Change]) {
        for change in batch {
            match change {
                Change::Apply(object) => self.apply(object),
                Change::Delete(key) => self.remove(key),
                Change::Findings(About::Object(key), findings) => self.note(key, findings),
                Change::Findings(About::Source, _) | Change::Synced => {}
            }
        }
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
                self.sink.set(policy.key.clone(), policy.status(findings));
            }
        }
        self.talked_of = now;
    }
}

impl Policy {
    fn status(&self, findings: &[&Finding]) -> Status {
        let refused = findings.iter().any(|finding| finding.level == Level::Error);
        let (status, reason) = match findings {
            _ if refused => ("False", "Invalid"),
            [] => ("True", "Accepted"),
            _ => ("True", "UnsupportedValue"),
        };
        let message = match findings {
            [] => "in force on every node that it concerns".to_owned(),
            findings => findings.iter().map(|finding| text(finding)).collect::<Vec<_>>().join("; "),
        };
        let condition = Condition {
            sort: ACCEPTED.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: cut(message),
            // What was refused is a version that has not been read as far as its generation.
            observed_generation: self.generation.filter(|_| !refused),
        };
        Status { uid: self.uid.clone(), conditions: vec![condition], ..Status::default() }
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

/// What a class says that names us. It depends on the class alone: its parameters are nothing that we read.
fn class_status(object: &Object) -> Status {
    let condition = Condition {
        sort: "Accepted".to_owned(),
        status: "True".to_owned(),
        reason: "Accepted".to_owned(),
        message: "handled by mesh-control, which does not serve Gateways yet".to_owned(),
        observed_generation: object.meta.generation,
    };
    Status { uid: object.meta.uid.clone(), conditions: vec![condition], ..Status::default() }
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
const ACCEPTED: &str = "ZtunnelAccepted";
/// Kinds that nodes enforce.
const POLICIES: [&str; 2] = ["AuthorizationPolicy", "PeerAuthentication"];
/// Who takes care of a `GatewayClass` that is ours: of gateways, and of waypoints. The names are Istio's.
const CONTROLLERS: [&str; 2] = ["istio.io/gateway-controller", "istio.io/mesh-controller"];
/// Bytes; Kubernetes allows a condition 32 KiB, and nobody reads more than this.
const MAX_MESSAGE: usize = 2048;

#[cfg(test)]
mod tests;
