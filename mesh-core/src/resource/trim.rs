//! What of an object in a cluster the mesh has no use for.
//!
//! A control plane holds every Pod of its cluster, so what is never read is dropped before it gets a type. The second
//! reason counts as much: Nodes and Pods are updated all day by whoever keeps their status, and a version that differs
//! only in what was dropped is no change at all ([`super::Object::digest`]).

use super::kind::Kind;
use super::tree::Tree;

/// Drops it. Nothing that [`crate::model`] reads may be named here.
pub(super) fn trim(kind: Kind, tree: &mut Tree) {
    for path in EVERYWHERE {
        drop_at(tree, path);
    }
    if kind.is_custom() {
        // Whoever decides writes the status. What it has to find again is read before ([`super::status`]).
        drop_at(tree, &["status"]);
    }
    for path in of_kind(kind) {
        drop_at(tree, path);
    }
    if let Kind::Pod | Kind::Node = kind {
        keep_at(tree, &["status", "conditions"], &["type", "status"]);
    }
    if kind == Kind::Node {
        keep_at(tree, &["spec"], &["podCIDR", "podCIDRs"]);
        keep_at(tree, &["status"], &["addresses", "conditions"]);
    }
}

fn of_kind(kind: Kind) -> &'static [&'static [&'static str]] {
    match kind {
        Kind::Namespace => &[&["spec"], &["status"]],
        Kind::Node => &[&["metadata", "annotations"]],
        Kind::Pod => POD,
        Kind::Service => &[&["status", "conditions"]],
        Kind::ServiceAccount => &[&["secrets"], &["imagePullSecrets"]],
        Kind::EndpointSlice => {
            &[&["metadata", "annotations", "endpoints.kubernetes.io/last-change-trigger-time"]]
        }
        _ => &[],
    }
}

/// Removes what `path` leads to; lists on the way are taken item by item.
fn drop_at(tree: &mut Tree, path: &[&str]) {
    match (tree, path) {
        (Tree::List(items), path) => items.iter_mut().for_each(|item| drop_at(item, path)),
        (Tree::Map(entries), [last]) => entries.retain(|(key, _)| key != last),
        (tree, [first, rest @ ..]) => {
            if let Some(inner) = tree.get_mut(first) {
                drop_at(inner, rest);
            }
        }
        (_, []) => {}
    }
}

/// Of what `path` leads to, or of each of its items, keeps the entries named `keys`.
fn keep_at(tree: &mut Tree, path: &[&str], keys: &[&str]) {
    match (tree, path) {
        (Tree::List(items), path) => items.iter_mut().for_each(|item| keep_at(item, path, keys)),
        (Tree::Map(entries), []) => entries.retain(|(key, _)| keys.contains(&key.as_str())),
        (tree, [first, rest @ ..]) => {
            if let Some(inner) = tree.get_mut(first) {
                keep_at(inner, rest, keys);
            }
        }
        (_, []) => {}
    }
}

/// Bookkeeping of the API server and of its clients; and what the items of a list lack where an event has it.
const EVERYWHERE: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
    &["metadata", "selfLink"],
    &["metadata", "finalizers"],
    &["metadata", "annotations", "kubectl.kubernetes.io/last-applied-configuration"],
];

/// How a container is run is the kubelet's; the mesh wants to know its ports, its probes and whether it stays.
const POD: &[&[&str]] = &[
    &["spec", "affinity"],
    &["spec", "containers", "args"],
    &["spec", "containers", "command"],
    &["spec", "containers", "env"],
    &["spec", "containers", "envFrom"],
    &["spec", "containers", "lifecycle"],
    &["spec", "containers", "resources"],
    &["spec", "containers", "securityContext"],
    &["spec", "containers", "volumeDevices"],
    &["spec", "containers", "volumeMounts"],
    &["spec", "ephemeralContainers"],
    &["spec", "imagePullSecrets"],
    &["spec", "initContainers", "args"],
    &["spec", "initContainers", "command"],
    &["spec", "initContainers", "env"],
    &["spec", "initContainers", "envFrom"],
    &["spec", "initContainers", "lifecycle"],
    &["spec", "initContainers", "resources"],
    &["spec", "initContainers", "securityContext"],
    &["spec", "initContainers", "volumeDevices"],
    &["spec", "initContainers", "volumeMounts"],
    &["spec", "nodeSelector"],
    &["spec", "resourceClaims"],
    &["spec", "schedulingGates"],
    &["spec", "tolerations"],
    &["spec", "topologySpreadConstraints"],
    &["spec", "volumes"],
    &["status", "containerStatuses"],
    &["status", "ephemeralContainerStatuses"],
    &["status", "initContainerStatuses"],
    &["status", "resourceClaimStatuses"],
];
