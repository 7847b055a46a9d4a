//! Create, update, patch and delete: from a request to what is to be stored, and storing it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::clock;
use super::fields::{self, Manager};
use super::kinds::Resource;
use super::patch;
use super::request::{Call, Verb};
use super::state::State;
use super::status::Refusal;
use super::store::Key;

/// A write that has not been done yet.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) key: Key,
    /// As it was when the plan was made.
    pub(super) before: Option<Arc<Value>>,
    /// `None`: it is deleted.
    pub(super) after: Option<Value>,
}

impl Plan {
    /// As admission calls it.
    pub(super) fn operation(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "CREATE",
            (Some(_), Some(_)) => "UPDATE",
            (Some(_), None) => "DELETE",
        }
    }
}

/// Decides what a request wants to write.
pub(super) fn plan(state: &State, call: &Call) -> Result<Plan, Refusal> {
    match call.verb {
        Verb::Create => create(state, call, call.body.clone(), "Update"),
        Verb::Update => update(state, call),
        Verb::Patch => patched(state, call),
        _ => delete(state, call, call.key()),
    }
}

/// Does it, unless somebody else has written since the plan was made. Returns what is stored, or was stored last.
pub(super) fn commit(state: &mut State, call: &Call, plan: &Plan) -> Option<Arc<Value>> {
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let current = state.store.get(&plan.key);
    if current.map(|it| version(it)) != plan.before.as_deref().map(version) {
        return None;
    }
    let Some(after) = &plan.after else {
        return remove(state, call, &plan.key);
    };
    if let Some(before) = &plan.before
        && before.as_ref() == after
    {
        return Some(Arc::clone(before));
    }
    if plan.before.is_some() && is_finished(after) {
        // What waited for its finalizers is gone with the last of them.
        return remove(state, call, &plan.key);
    }
    if call.resource.kind == "CustomResourceDefinition"
        && let Ok(resource) = Resource::defined_by(after)
    {
        state.registry.define(resource);
    }
    Some(state.store.put(plan.key.clone(), after.clone()))
}

/// Deletes, with all that hangs on it.
fn remove(state: &mut State, call: &Call, key: &Key) -> Option<Arc<Value>> {
    let every = |state: &State, matching: &dyn Fn(&Key) -> bool| -> Vec<Key> {
        let resources: Vec<_> = state.registry.all().map(|resource| resource.full_name()).collect();
        let revision = state.store.revision();
        let keys = resources.iter().flat_map(|resource| state.store.list_at(resource, "", revision, None));
        keys.map(|(key, _)| key.clone()).filter(|key| matching(key)).collect()
    };
    let children = match call.resource.kind.as_str() {
        "Namespace" => every(state, &|it| it.namespace == key.name),
        "CustomResourceDefinition" => every(state, &|it| it.resource == key.name),
        _ => Vec::new(),
    };
    for child in children {
        state.store.delete(&child);
    }
    if call.resource.kind == "CustomResourceDefinition"
        && let Some((plural, group)) = key.name.split_once('.')
    {
        state.registry.remove(group, plural);
    }
    state.store.delete(key)
}

fn create(state: &State, call: &Call, mut object: Value, operation: &'static str) -> Result<Plan, Refusal> {
    let resource = &call.resource;
    if resource.namespaced == call.namespace.is_empty() || call.resource_name().contains('/') {
        return Err(Refusal::method_not_allowed());
    }
    check_shape(call, &object)?;
    let given = object["metadata"]["name"].as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let generated = || {
        let prefix = object["metadata"]["generateName"].as_str()?;
        Some(format!("{prefix}{:05x}", clock::random() & 0xf_ffff))
    };
    let why = "name or generateName is required";
    let name =
        given.or_else(generated).ok_or_else(|| Refusal::invalid(&resource.kind, "", "metadata.name", why))?;
    check_name(resource, &name)?;
    let namespace = key("namespaces", "", &call.namespace);
    if resource.namespaced && state.store.get(&namespace).is_none() {
        return Err(Refusal::not_found("namespaces", &call.namespace));
    }
    let key = key(&resource.full_name(), &call.namespace, &name);
    if state.store.get(&key).is_some() {
        return Err(Refusal::already_exists(&resource.full_name(), &name));
    }
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|version| !version.is_empty()) {
        return Err(Refusal::bad_request("resourceVersion should not be set on objects to be created"));
    }
    complete(&mut object, call, &name);
    let manager = manager(call, operation);
    if operation == "Update" {
        fields::note_update(None, &mut object, manager, &resource.lists);
    } else {
        object = fields::apply(&object, &part_of(call, &call.body), &manager, false, &resource.lists)?;
    }
    Ok(Plan { key, before: None, after: Some(object) })
}

/// What the server itself says of a new object.
fn complete(object: &mut Value, call: &Call, name: &str) {
    let resource = &call.resource;
    object["kind"] = json!(resource.kind);
    object["apiVersion"] = json!(resource.api_version(&call.version));
    let metadata = &mut object["metadata"];
    metadata["name"] = json!(name);
    if resource.namespaced {
        metadata["namespace"] = json!(call.namespace);
    }
    metadata["uid"] = json!(clock::uuid());
    metadata["creationTimestamp"] = json!(clock::now());
    if let Some(metadata) = metadata.as_object_mut() {
        for key in ["managedFields", "selfLink", "deletionTimestamp", "generation", "resourceVersion"] {
            metadata.remove(key);
        }
    }
    if resource.generation {
        metadata["generation"] = json!(1);
    }
    if let (true, Some(fields)) = (resource.status, object.as_object_mut()) {
        fields.remove("status");
    }
    match resource.kind.as_str() {
        "Pod" => object["status"] = json!({"phase": "Pending"}),
        "Namespace" => {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
            object["status"] = json!({"phase": "Active"});
        }
        "CustomResourceDefinition" => {
            let conditions = ["NamesAccepted", "Established"]
                .map(|it| json!({"type": it, "status": "True", "reason": "Test", "message": ""}));
            object["status"] = json!({"conditions": conditions});
        }
        _ => {}
    }
}

fn update(state: &State, call: &Call) -> Result<Plan, Refusal> {
    let (resource, key) = (&call.resource, call.key());
    check_shape(call, &call.body)?;
    let Some(before) = state.store.get(&key) else {
        if resource.create_on_update && call.subresource.is_empty() {
            return create(state, call, call.body.clone(), "Update");
        }
        return Err(Refusal::not_found(&resource.full_name(), &call.name));
    };
    if call.body["metadata"]["name"] != call.name.as_str() {
        return Err(Refusal::bad_request("the name of the object does not match the name on the URL"));
    }
    let named = call.body["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if named.is_empty() && !resource.unconditional {
        let why = "Invalid value: 0x0: must be specified for an update";
        return Err(Refusal::invalid(&resource.kind, &call.name, "metadata.resourceVersion", why));
    }
    let mut after = settle(call, before, call.body.clone())?;
    fields::note_update(Some(before), &mut after, manager(call, "Update"), &resource.lists);
    Ok(Plan { key, before: Some(Arc::clone(before)), after: Some(after) })
}

fn patched(state: &State, call: &Call) -> Result<Plan, Refusal> {
    let (resource, key) = (&call.resource, call.key());
    let applies = call.content_type == "application/apply-patch+yaml";
    let Some(before) = state.store.get(&key) else {
        if applies && call.subresource.is_empty() {
            check_apply(call)?;
            return create(state, call, call.body.clone(), "Apply");
        }
        return Err(Refusal::not_found(&resource.full_name(), &call.name));
    };
    let mut wanted = before.as_ref().clone();
    wanted["apiVersion"] = json!(resource.api_version(&call.version));
    match call.content_type.as_str() {
        "application/merge-patch+json" => patch::merge(&mut wanted, &call.body),
        "application/json-patch+json" => patch::apply_operations(&mut wanted, &call.body)?,
        "application/strategic-merge-patch+json" if !resource.custom => {
            patch::strategic(&mut wanted, &call.body, "", &resource.lists);
        }
        _ if applies => {
            check_apply(call)?;
            let force = call.query.is_true("force");
            let body = part_of(call, &call.body);
            wanted = fields::apply(&wanted, &body, &manager(call, "Apply"), force, &resource.lists)?;
        }
        other => {
            let message = format!("the body of the request was in an unknown format: {other}");
            return Err(Refusal::new(415, "UnsupportedMediaType", message));
        }
    }
    let managed = wanted["metadata"]["managedFields"].clone();
    let mut after = settle(call, before, wanted)?;
    if applies {
        after["metadata"]["managedFields"] = managed;
    } else {
        fields::note_update(Some(before), &mut after, manager(call, "Update"), &resource.lists);
    }
    Ok(Plan { key, before: Some(Arc::clone(before)), after: Some(after) })
}

/// What somebody applies to a status is a status, and otherwise is none.
fn part_of(call: &Call, wanted: &Value) -> Value {
    let mut wanted = wanted.clone();
    if let Some(fields) = wanted.as_object_mut()
        && call.resource.status
    {
        if call.subresource == "status" {
            fields.retain(|key, _| ["apiVersion", "kind", "status"].contains(&key.as_str()));
        } else {
            fields.remove("status");
        }
    }
    wanted
}

/// What is left of a wish where the server has its say.
fn settle(call: &Call, before: &Value, mut wanted: Value) -> Result<Value, Refusal> {
    let resource = &call.resource;
    let named =
        |object: &Value, field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
    let version = named(&wanted, "resourceVersion");
    if !version.is_empty() && version != named(before, "resourceVersion") {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        return Err(Refusal::conflict(&resource.full_name(), &call.name, why));
    }
    let uid = named(&wanted, "uid");
    if !uid.is_empty() && uid != named(before, "uid") {
        return Err(Refusal::conflict(&resource.full_name(), &call.name, "Precondition failed: UID"));
    }
    let created = named(&wanted, "creationTimestamp");
    if !created.is_empty() && created != named(before, "creationTimestamp") {
        let field = "metadata.creationTimestamp";
        return Err(Refusal::invalid(&resource.kind, &call.name, field, "field is immutable"));
    }
    let mut after = if call.subresource == "status" {
        let mut after = before.clone();
        after["status"] = wanted["status"].take();
        // As Kubernetes has it: of a Pod this path keeps the spec alone from change.
        if resource.kind == "Pod" {
            for field in ["labels", "annotations"] {
                after["metadata"][field] = wanted["metadata"][field].take();
            }
            if let Some(metadata) = after["metadata"].as_object_mut() {
                metadata.retain(|_, value| !value.is_null());
            }
        }
        after
    } else {
        if resource.status {
            wanted["status"] = before["status"].clone();
        }
        wanted
    };
    if let Some(fields) = after.as_object_mut() {
        fields.retain(|key, value| key != "status" || !value.is_null());
    }
    after["kind"] = json!(resource.kind);
    after["apiVersion"] = json!(resource.api_version(&call.version));
    for field in KEPT {
        match &before["metadata"][field] {
            Value::Null => drop(after["metadata"].as_object_mut().map(|metadata| metadata.remove(field))),
            kept => after["metadata"][field] = kept.clone(),
        }
    }
    if resource.generation && rest(before) != rest(&after) {
        let generation = before["metadata"]["generation"].as_u64().unwrap_or_default();
        after["metadata"]["generation"] = json!(generation + 1);
    }
    Ok(after)
}

/// What a generation counts.
pub(super) fn rest(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(fields) = rest.as_object_mut() {
        for key in ["metadata", "status", "apiVersion"] {
            fields.remove(key);
        }
    }
    rest
}

/// What is to be deleted waits for its finalizers.
pub(super) fn delete(state: &State, call: &Call, key: Key) -> Result<Plan, Refusal> {
    let resource = &call.resource;
    let not_found = || Refusal::not_found(&resource.full_name(), &key.name);
    let before = Arc::clone(state.store.get(&key).ok_or_else(not_found)?);
    for (condition, field) in [("uid", "uid"), ("resourceVersion", "resourceVersion")] {
        let wanted = &call.body["preconditions"][condition];
        if !wanted.is_null() && *wanted != before["metadata"][field] {
            let why = format!("the {condition} in the precondition does not match");
            return Err(Refusal::conflict(&resource.full_name(), &key.name, &why));
        }
    }
    let waits = before["metadata"]["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    let after = waits.then(|| {
        let mut after = before.as_ref().clone();
        if after["metadata"]["deletionTimestamp"].is_null() {
            after["metadata"]["deletionTimestamp"] = json!(clock::now());
            after["metadata"]["deletionGracePeriodSeconds"] = json!(0);
        }
        after
    });
    Ok(Plan { key, before: Some(before), after })
}

/// Whether an object was waiting for finalizers and has none any more.
fn is_finished(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let waits = metadata["finalizers"].as_array().is_some_and(|list| !list.is_empty());
    !metadata["deletionTimestamp"].is_null() && !waits
}

fn check_shape(call: &Call, object: &Value) -> Result<(), Refusal> {
    let resource = &call.resource;
    if !object.is_object() || !object["metadata"].is_object() {
        return Err(Refusal::bad_request("the body must be an object with metadata"));
    }
    let api_version = resource.api_version(&call.version);
    for (field, expected) in [("kind", &resource.kind), ("apiVersion", &api_version)] {
        let given = object[field].as_str().unwrap_or(expected);
        if given != expected {
            let message = format!("{field} {given} does not match the expected {expected}");
            return Err(Refusal::bad_request(message));
        }
    }
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&call.namespace);
    if resource.namespaced && namespace != call.namespace {
        let message = "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Refusal::bad_request(message));
    }
    Ok(())
}

fn check_apply(call: &Call) -> Result<(), Refusal> {
    check_shape(call, &call.body)?;
    if call.query.text("fieldManager").is_none() {
        let why = "is required for apply patch";
        return Err(Refusal::invalid("PatchOptions", "", "fieldManager", why));
    }
    if !call.body["metadata"]["managedFields"].is_null() {
        return Err(Refusal::bad_request("metadata.managedFields must be nil"));
    }
    Ok(())
}

/// Names are DNS subdomains.
fn check_name(resource: &Resource, name: &str) -> Result<(), Refusal> {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() <= 253 && name.split('.').all(label) || resource.group.starts_with("rbac.") {
        return Ok(());
    }
    let why = format!("Invalid value: \"{name}\": a lowercase RFC 1123 subdomain is required");
    Err(Refusal::invalid(&resource.kind, name, "metadata.name", &why))
}

fn manager(call: &Call, operation: &'static str) -> Manager {
    Manager { name: call.manager.clone(), operation, subresource: call.subresource.clone() }
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
}

/// Metadata that only the server writes.
const KEPT: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "resourceVersion",
];
