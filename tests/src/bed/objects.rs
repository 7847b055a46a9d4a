//! The directory that nodes read: what a cluster would show them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::addr;
use super::desired::uid;
use super::error::{Doing, Result};
use super::manifests::{Input, Objects, file_name};
use super::network::NodeNet;
use super::pod::{Facts, Health};
use super::services::ServiceView;

/// Writes the directory, each file in one step, and only those that change.
#[derive(Debug)]
pub(crate) struct Publisher {
    directory: PathBuf,
    /// A directory on the same file system where files are prepared.
    workshop: PathBuf,
    written: BTreeMap<String, String>,
}

impl Publisher {
    /// Both directories are made if they are missing.
    pub(crate) fn new(directory: PathBuf, workshop: PathBuf) -> Result<Self> {
        for path in [&directory, &workshop] {
            fs::create_dir_all(path).at("make", path)?;
        }
        Ok(Self { directory, workshop, written: BTreeMap::new() })
    }

    /// Makes the directory hold exactly these files.
    pub(crate) fn publish(&mut self, files: BTreeMap<String, String>) -> Result<()> {
        for (name, text) in &files {
            if self.written.get(name) == Some(text) {
                continue;
            }
            let (prepared, path) = (self.workshop.join(name), self.directory.join(name));
            fs::write(&prepared, text).at("write", &prepared)?;
            fs::rename(&prepared, &path).at("write", &path)?;
        }
        for name in self.written.keys().filter(|name| !files.contains_key(*name)) {
            let path = self.directory.join(name);
            fs::remove_file(&path).at("remove", &path)?;
        }
        self.written = files;
        Ok(())
    }
}

/// A pod with how it is.
pub(crate) struct PodView<'a> {
    pub(crate) facts: &'a Facts,
    pub(crate) health: &'a Health,
    pub(crate) created: Timestamp,
    pub(crate) terminating: Option<Timestamp>,
}

/// All files of the directory.
pub(crate) fn render(
    input: &Input,
    objects: &Objects,
    nodes: &[NodeNet],
    pods: &[PodView<'_>],
    services: &[ServiceView],
) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> =
        input.files.iter().map(|(name, file)| (name.clone(), file.published.clone())).collect();
    let mut documents: Vec<Value> = nodes.iter().map(|n| node(n, objects.nodes.get(&n.name))).collect();
    documents.extend(pods.iter().map(pod));
    for service in services {
        documents.push(identified(to_value(&service.manifest)));
        documents.extend(service.slices.iter().cloned().map(identified));
    }
    let used: BTreeSet<&str> =
        pods.iter().map(|p| p.facts.key.namespace.as_str()).chain(["default"]).collect();
    for name in used.into_iter().filter(|name| !objects.namespaces.contains(*name)) {
        documents.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }
    for document in documents {
        let text = |path: &str| document.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let name = file_name(text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        files.insert(format!("bed.{name}"), serde_yaml_ng::to_string(&document).unwrap_or_default());
    }
    files
}

fn node(node: &NodeNet, user: Option<&Node>) -> Value {
    let NodeNet { name, number, .. } = node;
    let networks = addr::pod_networks(*number);
    let mut addresses: Vec<Value> = node
        .address
        .both()
        .iter()
        .map(|ip| json!({"type": "InternalIP", "address": ip.to_string()}))
        .collect();
    addresses.push(json!({"type": "Hostname", "address": name}));
    let mut annotations = BTreeMap::new();
    if let Some(user) = user {
        annotations.extend(user.metadata.annotations.clone().into_iter().flatten());
    }
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "uid": uid(&("node", name)),
            "labels": node_labels(node, user),
            "annotations": annotations,
        },
        "spec": {"podCIDR": networks.first(), "podCIDRs": networks},
        "status": {"addresses": addresses, "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The labels of a node: those that a kubelet sets, and the user's, which win.
pub(crate) fn node_labels(node: &NodeNet, user: Option<&Node>) -> BTreeMap<String, String> {
    let NodeNet { name, number, .. } = node;
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), name.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("topology.kubernetes.io/region".to_owned(), "testbed".to_owned()),
        ("topology.kubernetes.io/zone".to_owned(), format!("zone-{number}")),
    ]);
    labels.extend(user.and_then(|u| u.metadata.labels.clone()).into_iter().flatten());
    labels
}

fn pod(view: &PodView<'_>) -> Value {
    let PodView { facts, health, created, terminating } = view;
    let mut manifest = facts.manifest.clone();
    manifest.metadata.uid = Some(facts.uid.clone());
    let spec = manifest.spec.get_or_insert_default();
    spec.node_name = Some(facts.node.clone());
    spec.service_account_name.get_or_insert_with(|| "default".to_owned());
    let mut value = to_value(&manifest);
    value["metadata"]["creationTimestamp"] = json!(created.to_string());
    if let Some(since) = terminating {
        value["metadata"]["deletionTimestamp"] = json!(since.to_string());
    }
    let truth = |holds: bool| if holds { "True" } else { "False" };
    let initialised = health.phase != "Pending";
    let ready = health.ready && terminating.is_none();
    let ips: Vec<Value> = facts.ips.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
    let containers: Vec<Value> = health.containers.iter().map(|c| container(c, &facts.manifest)).collect();
    value["status"] = json!({
        "phase": health.phase,
        "conditions": [
            {"type": "PodScheduled", "status": "True"},
            {"type": "Initialized", "status": truth(initialised)},
            {"type": "ContainersReady", "status": truth(health.ready)},
            {"type": "Ready", "status": truth(ready)},
        ],
        "hostIP": facts.host_ip.to_string(),
        "hostIPs": [{"ip": facts.host_ip.to_string()}],
        "podIP": facts.ips.first().map(ToString::to_string),
        "podIPs": ips,
        "startTime": created.to_string(),
        "containerStatuses": containers,
    });
    value
}

fn container(health: &super::pod::ContainerHealth, manifest: &k8s_openapi::api::core::v1::Pod) -> Value {
    let spec = manifest.spec.as_ref();
    let image =
        spec.and_then(|s| s.containers.iter().find(|c| c.name == health.name)).and_then(|c| c.image.clone());
    let state = match (health.running, health.exit) {
        (true, _) => json!({"running": {}}),
        (false, Some(success)) => json!({"terminated": {"exitCode": i32::from(!success)}}),
        (false, None) => json!({"waiting": {"reason": "ContainerCreating"}}),
    };
    json!({
        "name": health.name,
        "ready": health.ready,
        "started": health.running,
        "restartCount": health.restarts,
        "image": image.unwrap_or_default(),
        "imageID": "",
        "state": state,
    })
}

/// Adds the UID that an API server would have given.
fn identified(mut value: Value) -> Value {
    let identity = ["/kind", "/metadata/namespace", "/metadata/name"]
        .map(|path| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned());
    value["metadata"]["uid"] = json!(uid(&identity));
    value
}

fn to_value(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// Now, in whole seconds as Kubernetes writes times.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).ok().and_then(|s| Timestamp::from_second(s).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
