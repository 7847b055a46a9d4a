use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use mesh_core::resource::ServedKind;
use serde::Deserialize as _;

use super::{Content, PASSED_OVER, watched};

/// The plural of a kind, by the rule that Kubernetes itself guesses by.
fn plural(kind: ServedKind) -> String {
    let name = kind.name().to_lowercase();
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if name.ends_with('s') => format!("{name}es"),
        _ => format!("{name}s"),
    }
}

/// What the manifest grants: verbs by group and resource, for the whole cluster and in the mesh's own namespace. What it
/// grants of objects with certain names only has their names behind the resource.
fn granted() -> (BTreeMap<String, BTreeSet<String>>, BTreeMap<String, BTreeSet<String>>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/rbac/mesh-control.yaml");
    let text = std::fs::read_to_string(path).expect("the manifest");
    let (mut cluster, mut local) = (BTreeMap::new(), BTreeMap::new());
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let value = serde_json::Value::deserialize(document).expect("YAML");
        let place = match value["kind"].as_str() {
            Some("ClusterRole") => &mut cluster,
            Some("Role") => &mut local,
            _ => continue,
        };
        // The two kinds of roles have the same rules.
        let mut role: serde_json::Value = value.clone();
        role["kind"] = "Role".into();
        let role: Role = serde_json::from_value(role).expect("a role");
        for rule in role.rules.unwrap_or_default() {
            grant(&rule, place);
        }
    }
    (cluster, local)
}

fn grant(rule: &PolicyRule, place: &mut BTreeMap<String, BTreeSet<String>>) {
    for group in rule.api_groups.iter().flatten() {
        for resource in rule.resources.iter().flatten() {
            let names = rule.resource_names.as_deref().unwrap_or_default().join(" ");
            let resource = format!("{group}/{resource} {names}");
            let verbs = place.entry(resource.trim_end().to_owned()).or_default();
            verbs.extend(rule.verbs.iter().cloned());
        }
    }
}

#[test]
fn the_role_grants_what_is_watched_and_nothing_else() {
    let (mut cluster, _) = granted();
    for watched in watched() {
        let resource = format!("{}/{}", watched.kind.group(), plural(watched.kind));
        let verbs =
            cluster.remove(&resource).unwrap_or_else(|| panic!("{resource} is watched but not granted"));
        let needed = if resource == "/services" {
            // They are made for Gateways as well.
            MADE.to_vec()
        } else if resource == "networking.istio.io/workloadentries" {
            // Machines that register themselves have one made for them.
            MADE.to_vec()
        } else if resource == "gateway.networking.k8s.io/gatewayclasses" {
            // Those that are ours are made where they are missing.
            vec!["create", "get", "list", "watch"]
        } else if watched.content == Content::OnDemand {
            vec!["get", "list", "watch"]
        } else {
            vec!["list", "watch"]
        };
        assert_eq!(verbs.iter().map(String::as_str).collect::<Vec<_>>(), needed, "{resource}");
    }
    // What is written beside statuses has a name.
    for (resource, needed) in WRITTEN {
        let verbs = cluster.remove(resource).unwrap_or_else(|| panic!("{resource} is not granted"));
        assert_eq!(verbs.iter().map(String::as_str).collect::<Vec<_>>(), needed, "{resource}");
    }
    // What is left is asked or written, not read.
    for (resource, verbs) in &cluster {
        let verbs: Vec<_> = verbs.iter().map(String::as_str).collect();
        match resource.strip_suffix("/status") {
            None => {
                let review = ("authentication.k8s.io/tokenreviews", vec!["create"]);
                assert_eq!((resource.as_str(), verbs), review);
            }
            Some(kind) => {
                let known = watched().any(|it| format!("{}/{}", it.kind.group(), plural(it.kind)) == kind);
                assert!(known, "{resource} is granted, but nobody knows the kind");
                assert_eq!(verbs, ["get", "patch"], "{resource}");
            }
        }
    }
}

#[test]
fn in_its_own_namespace_it_may_write_what_replicas_share() {
    let (_, local) = granted();
    let local: Vec<_> = local.iter().map(|(resource, verbs)| (resource.as_str(), verbs)).collect();
    let expected = [
        ("/secrets", vec!["create"]),
        ("/secrets istio-ca-secret mesh-join-tokens", vec!["patch"]),
        ("coordination.k8s.io/leases", vec!["create"]),
        ("coordination.k8s.io/leases mesh-control", vec!["get", "update"]),
    ];
    assert_eq!(local.len(), expected.len(), "{local:?}");
    for ((resource, verbs), (name, needed)) in local.into_iter().zip(expected) {
        assert_eq!(resource, name);
        assert_eq!(verbs.iter().map(String::as_str).collect::<Vec<_>>(), needed, "{resource}");
    }
}

#[test]
fn nothing_is_granted_by_wildcard() {
    let (cluster, local) = granted();
    for (resource, verbs) in cluster.iter().chain(&local) {
        assert!(!resource.contains('*') && !verbs.contains("*"), "{resource}: {verbs:?}");
    }
}

#[test]
fn what_is_passed_over_exists() {
    for name in PASSED_OVER {
        assert!(ServedKind::all().any(|kind| kind.key() == name), "{name}");
    }
}

/// What the leader writes for others to read, and what it makes for Gateways besides Services.
const WRITTEN: [(&str, &[&str]); 8] = [
    ("/configmaps istio-ca-root-cert", &["create", "patch"]),
    ("/events", &["create"]),
    ("/pods/status", &["patch"]),
    ("/serviceaccounts", MADE),
    ("admissionregistration.k8s.io/validatingwebhookconfigurations mesh-validator", &["get", "patch"]),
    ("apps/deployments", MADE),
    ("autoscaling/horizontalpodautoscalers", MADE),
    ("policy/poddisruptionbudgets", MADE),
];
/// Of what is made for Gateways, in order.
const MADE: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];
