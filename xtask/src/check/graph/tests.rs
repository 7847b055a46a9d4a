use serde_json::{Value, json};

use super::*;

/// A workspace of packages given as (name, uses), with everything that starts with `mesh-` or is `xtask` our own.
fn workspace(packages: &[(&str, &[&str])]) -> Workspace {
    let ours = |name: &str| name.starts_with("mesh") || name == "xtask";
    let members: Vec<&str> = packages.iter().map(|(name, _)| *name).filter(|name| ours(name)).collect();
    let declared =
        |uses: &[&str]| -> Vec<Value> { uses.iter().map(|n| json!({"name": n, "kind": null})).collect() };
    let edges = |uses: &[&str]| -> Vec<Value> {
        uses.iter().map(|n| json!({"pkg": n, "dep_kinds": [{"kind": null}]})).collect()
    };
    let list: Vec<Value> = packages
        .iter()
        .map(|(name, uses)| json!({"id": name, "name": name, "dependencies": declared(uses)}))
        .collect();
    let nodes: Vec<Value> =
        packages.iter().map(|(name, uses)| json!({"id": name, "deps": edges(uses)})).collect();
    serde_json::from_value(json!({
        "target_directory": "/x/target", "workspace_members": members,
        "packages": list, "resolve": {"nodes": nodes},
    }))
    .unwrap()
}

#[test]
fn the_layers_as_designed_are_clean() {
    let tree = workspace(&[
        ("mesh-common", &[]),
        ("mesh-ebpf", &["mesh-common", "aya-ebpf"]),
        ("mesh-core", &["serde"]),
        ("mesh-source", &["mesh-core", "notify"]),
        ("mesh-ca", &["mesh-core", "rcgen"]),
        ("mesh-node", &["mesh-ca", "mesh-common", "mesh-core", "mesh-source", "tokio"]),
        ("mesh-tests", &["mesh-core", "libc"]),
        ("xtask", &["clap"]),
        ("serde", &[]),
    ]);
    assert_eq!(judge(&tree), Vec::<String>::new());
}

#[test]
fn a_broken_layer_names_both_and_the_reason() {
    let tree =
        workspace(&[("mesh-core", &["mesh-source"]), ("mesh-source", &["mesh-core"]), ("mesh-odd", &[])]);
    let findings = judge(&tree);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("mesh-core must not depend on mesh-source: it is pure"), "{findings:?}");
    assert!(findings[1].contains("mesh-odd: not in the table"), "{findings:?}");
}

#[test]
fn io_is_found_behind_other_crates_and_named_with_the_way() {
    let tree = workspace(&[
        ("mesh-core", &["k8s", "serde"]),
        ("k8s", &["http-client", "serde"]),
        ("http-client", &["tokio"]),
        ("serde", &[]),
        ("tokio", &[]),
    ]);
    let findings = judge(&tree);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].starts_with("mesh-core → k8s → http-client → tokio: tokio speaks"), "{findings:?}");
}

#[test]
fn the_shared_abi_stands_alone_but_for_what_a_feature_adds() {
    let mut tree = workspace(&[("mesh-common", &["aya"]), ("aya", &[])]);
    assert!(judge(&tree)[0].contains("mesh-common must not depend on aya"));
    tree.packages[0].dependencies[0].optional = true;
    assert_eq!(judge(&tree), Vec::<String>::new());
}

#[test]
fn test_and_build_dependencies_are_not_linked() {
    let mut tree = workspace(&[("mesh-core", &["tokio"]), ("tokio", &[])]);
    let resolve = tree.resolve.as_mut().unwrap();
    resolve.nodes[0].deps[0].dep_kinds[0].kind = Some("dev".to_owned());
    assert_eq!(judge(&tree), Vec::<String>::new());
}
