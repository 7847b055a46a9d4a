//! Statuses of Gateways and routes of the Gateway API: what [`Resources::report`] says, as objects show it.
//!
//! All of them are worked out anew whenever something changes that has a say in any of them, which costs what there is of
//! the Gateway API; what comes out the same is not written. So is what there is to do about each Gateway, once all that
//! exists has been read: half of it would have listeners taken away that come with the other half.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_core::gateway_api::{
    self, Ancestor, AncestorStatus, CONTROLLER, Facts, GROUP, GatewayStatus, ListenerSetStatus,
    ListenerStatus, ParentStatus, Plan, Resources, Settings,
};
use mesh_core::resource::gateway_api::ParentRef;
use mesh_core::resource::{Object, ObjectKey, Spec};
use mesh_source::kubernetes::status::{Condition, Parents, Status};
use serde_json::{Value, json};
use tokio::sync::watch;

/// What statuses depend on, and of whom something was told.
#[derive(Default)]
pub(super) struct GatewayApi {
    objects: BTreeMap<ObjectKey, Object>,
    facts: Facts,
    has_changed: bool,
    told: BTreeSet<ObjectKey>,
    settings: Settings,
    is_complete: bool,
    plans: watch::Sender<Arc<Plans>>,
}

/// What there is to do about each Gateway.
pub(super) type Plans = BTreeMap<ObjectKey, Plan>;

impl GatewayApi {
    /// Nothing is known yet. `settings` are for all that is made.
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, ..Self::default() }
    }

    /// What there is to do, now and later.
    pub(super) fn plans(&self) -> watch::Receiver<Arc<Plans>> {
        self.plans.subscribe()
    }

    /// All that exists has been applied.
    pub(super) fn complete(&mut self) {
        self.is_complete = true;
        self.has_changed = true;
    }

    /// Takes note of what keeps the objects of a Gateway from being made, or that nothing does.
    pub(super) fn set_obstacle(&mut self, gateway: &ObjectKey, why: Option<&str>) {
        self.has_changed |= self.facts.set_obstacle(gateway, why);
    }

    /// The `ConfigMap`s that classes name: their content is needed.
    pub(super) fn parameters_of_classes(&self) -> impl Iterator<Item = ObjectKey> {
        self.objects.values().filter_map(|object| {
            let Spec::GatewayClass(class) = &object.spec else { return None };
            let reference = class.parameters_ref.as_ref().filter(|it| *it.kind == *"ConfigMap")?;
            let namespace = Arc::from(&**reference.namespace.as_ref()?);
            Some(ObjectKey { kind: "ConfigMap", namespace, name: Arc::from(&*reference.name) })
        })
    }

    /// Takes note of an object, new or changed.
    pub(super) fn apply(&mut self, object: &Object) {
        if self.facts.apply(object) && !self.objects.is_empty() {
            self.has_changed = true;
        }
        let key = object.key();
        if KINDS.contains(&key.kind) {
            self.has_changed = true;
            self.objects.insert(key, object.clone());
        }
    }

    /// There is no such object any more.
    pub(super) fn remove(&mut self, key: &ObjectKey) {
        self.has_changed |= self.facts.remove(key);
        self.has_changed |= self.objects.remove(key).is_some();
        self.told.remove(key);
    }

    /// What is to be told of objects after the changes since the last call.
    pub(super) fn settle(&mut self) -> Vec<(ObjectKey, Status)> {
        if !std::mem::take(&mut self.has_changed) {
            return Vec::new();
        }
        let resources = Resources::of(self.objects.values());
        if self.is_complete {
            let plans = resources.plans(&self.facts, &self.settings);
            self.plans.send_if_modified(|known| {
                let differs = **known != plans;
                if differs {
                    *known = Arc::new(plans);
                }
                differs
            });
        }
        let report = resources.report(&self.facts);
        let mut statuses = Vec::new();
        for (key, status) in &report.gateways {
            if let Some(object) = self.objects.get(key) {
                statuses.push((key.clone(), of_gateway(object, status)));
            }
        }
        for (key, status) in &report.sets {
            if let Some(object) = self.objects.get(key) {
                statuses.push((key.clone(), of_set(object, status)));
            }
        }
        for (key, ancestors) in &report.policies {
            if let Some(object) = self.objects.get(key) {
                statuses.push((key.clone(), of_policy(object, ancestors)));
            }
        }
        for (key, parents) in &report.routes {
            // A route that has left our Gateways is told so, one that never was at any is not.
            let is_ours = !parents.is_empty() || self.told.contains(key);
            if let Some(object) = self.objects.get(key).filter(|_| is_ours) {
                statuses.push((key.clone(), of_route(object, parents)));
            }
        }
        self.told.extend(statuses.iter().map(|(key, _)| key.clone()));
        statuses
    }
}

fn of_gateway(object: &Object, status: &GatewayStatus) -> Status {
    let generation = object.meta.generation;
    let listeners = status.listeners.iter().map(|it| of_listener(it, generation));
    let addresses = status.addresses.iter().map(|address| {
        let is_ip = address.parse::<std::net::IpAddr>().is_ok();
        json!({"type": if is_ip { "IPAddress" } else { "Hostname" }, "value": &**address})
    });
    let fields = [
        ("listeners", listeners.collect::<Value>()),
        ("addresses", addresses.collect()),
        ("attachedListenerSets", json!(status.sets)),
    ];
    Status {
        uid: object.meta.uid.clone(),
        conditions: status.conditions.iter().map(|it| condition(it, generation)).collect(),
        fields: fields.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Status::default()
    }
}

fn of_set(object: &Object, status: &ListenerSetStatus) -> Status {
    let generation = object.meta.generation;
    let listeners: Value = status.listeners.iter().map(|it| of_listener(it, generation)).collect();
    Status {
        uid: object.meta.uid.clone(),
        conditions: status.conditions.iter().map(|it| condition(it, generation)).collect(),
        fields: [("listeners".to_owned(), listeners)].into(),
        ..Status::default()
    }
}

fn of_listener(status: &ListenerStatus, generation: Option<i64>) -> Value {
    let kinds = status.kinds.iter().map(|kind| json!({"group": GROUP, "kind": kind.name()}));
    let conditions = status.conditions.iter().map(|it| condition(it, generation).to_json());
    json!({
        "name": &*status.name,
        "supportedKinds": kinds.collect::<Vec<_>>(),
        "attachedRoutes": status.attached,
        "conditions": conditions.collect::<Vec<_>>(),
    })
}

fn of_route(object: &Object, parents: &[ParentStatus<'_>]) -> Status {
    let generation = object.meta.generation;
    let entries = parents.iter().map(|it| {
        let conditions = it.conditions.iter().map(|it| condition(it, generation).to_json());
        json!({"parentRef": reference(it.parent), "conditions": conditions.collect::<Vec<_>>()})
    });
    let parents = Parents { field: "parents", controller: CONTROLLER.to_owned(), entries: entries.collect() };
    Status { uid: object.meta.uid.clone(), parents: Some(parents), ..Status::default() }
}

fn of_policy(object: &Object, ancestors: &[AncestorStatus]) -> Status {
    let generation = object.meta.generation;
    let entries = ancestors.iter().map(|it| {
        let Ancestor { group, kind, namespace, name } = &it.ancestor;
        let reference = json!({"group": group, "kind": kind, "namespace": &**namespace, "name": &**name});
        let conditions = it.conditions.iter().map(|it| condition(it, generation).to_json());
        json!({"ancestorRef": reference, "conditions": conditions.collect::<Vec<_>>()})
    });
    let ancestors =
        Parents { field: "ancestors", controller: CONTROLLER.to_owned(), entries: entries.collect() };
    Status { uid: object.meta.uid.clone(), parents: Some(ancestors), ..Status::default() }
}

/// As the API server shows it, with the defaults that it gives.
fn reference(parent: &ParentRef) -> Value {
    let mut reference = json!({"group": &*parent.group, "kind": &*parent.kind, "name": &*parent.name});
    if let Some(namespace) = &parent.namespace {
        reference["namespace"] = json!(&**namespace);
    }
    if let Some(section) = &parent.section_name {
        reference["sectionName"] = json!(&**section);
    }
    if let Some(port) = parent.port {
        reference["port"] = json!(port.get());
    }
    reference
}

fn condition(condition: &gateway_api::Condition, observed_generation: Option<i64>) -> Condition {
    Condition {
        sort: condition.sort.to_owned(),
        status: if condition.holds { "True" } else { "False" }.to_owned(),
        reason: condition.reason.to_owned(),
        message: condition.message.clone(),
        observed_generation,
    }
}

/// The kinds that decide, besides those of [`Facts`].
const KINDS: [&str; 11] = [
    "GatewayClass",
    "KubernetesGateway",
    "ListenerSet",
    "HTTPRoute",
    "GRPCRoute",
    "TLSRoute",
    "TCPRoute",
    "UDPRoute",
    "BackendTLSPolicy",
    "ReferenceGrant",
    "Namespace",
];

#[cfg(test)]
mod tests;
