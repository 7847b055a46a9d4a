//! What the server has: the documents under `/api` and `/apis`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kinds::{Registry, Resource};
use super::status::Refusal;

/// Answers for a path that is not about objects.
pub(super) fn describe(registry: &Registry, path: &[&str]) -> Result<Value, Refusal> {
    match path {
        ["api"] => Ok(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "127.0.0.1"}],
        })),
        ["apis"] => {
            let groups: Vec<_> =
                groups(registry).iter().map(|(group, versions)| of_group(group, versions)).collect();
            Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["apis", group] => {
            let known = groups(registry);
            let versions = known.get(*group).ok_or_else(Refusal::no_such_path)?;
            let mut group = of_group(group, versions);
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            Ok(group)
        }
        ["api", version] => resources(registry, "", version),
        ["apis", group, version] => resources(registry, group, version),
        ["version"] => Ok(json!({"major": "1", "minor": "34", "gitVersion": "v1.34.0-mesh-tests"})),
        _ => Err(Refusal::no_such_path()),
    }
}

/// The groups but the core, each with its versions in the order of preference.
fn groups(registry: &Registry) -> BTreeMap<&str, Vec<&str>> {
    // This group is made of questions and answers, and has no objects.
    let mut groups = BTreeMap::from([("authentication.k8s.io", vec!["v1"])]);
    for resource in registry.all().filter(|resource| !resource.group.is_empty()) {
        let versions = groups.entry(&resource.group).or_default();
        for version in &resource.versions {
            if !versions.contains(&version.as_str()) {
                versions.push(version);
            }
        }
    }
    groups
}

fn of_group(group: &str, versions: &[&str]) -> Value {
    let versions: Vec<_> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

fn resources(registry: &Registry, group: &str, version: &str) -> Result<Value, Refusal> {
    let served = |resource: &&_| is_served(resource, group, version);
    let mut list: Vec<Value> =
        registry.all().map(AsRef::as_ref).filter(served).flat_map(of_resource).collect();
    if group.is_empty() {
        list.push(json!({
            "name": "serviceaccounts/token", "singularName": "", "namespaced": true,
            "group": "authentication.k8s.io", "version": "v1", "kind": "TokenRequest", "verbs": ["create"],
        }));
    }
    if (group, version) == ("authentication.k8s.io", "v1") {
        list.push(json!({
            "name": "tokenreviews", "singularName": "tokenreview", "namespaced": false, "kind": "TokenReview",
            "verbs": ["create"],
        }));
    }
    if list.is_empty() {
        return Err(Refusal::no_such_path());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Ok(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list,
    }))
}

fn is_served(resource: &Resource, group: &str, version: &str) -> bool {
    resource.group == group && resource.versions.iter().any(|it| it == version)
}

fn of_resource(resource: &Resource) -> Vec<Value> {
    let mut list = vec![json!({
        "name": resource.plural, "singularName": resource.kind.to_lowercase(), "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
    })];
    if resource.status {
        list.push(json!({
            "name": format!("{}/status", resource.plural), "singularName": "", "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": ["get", "patch", "update"],
        }));
    }
    list
}
