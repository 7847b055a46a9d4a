//! Who may depend on whom.
//!
//! The layers are what keeps decisions testable without a machine around them and kernel code small; a manifest is
//! where they are lost, one line at a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::workspace::{Package, Resolve, Workspace};

/// Every dependency that breaks a layer, with the reason for the layer.
pub(super) fn judge(workspace: &Workspace) -> Vec<String> {
    let ours: Vec<&Package> = workspace.ours().collect();
    let mut findings: Vec<String> =
        ours.iter().flat_map(|package| own_dependencies(package, &ours)).collect();
    for package in ours.iter().filter(|package| package.name == "mesh-common") {
        findings.extend(foreign_dependencies(package));
    }
    for package in ours.iter().filter(|package| package.name == "mesh-core") {
        let resolve = workspace.resolve.as_ref().expect("the whole graph was asked for");
        findings.extend(impure_dependencies(package, &workspace.packages, resolve));
    }
    findings
}

fn own_dependencies(package: &Package, ours: &[&Package]) -> Vec<String> {
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == package.name) else {
        return vec![format!(
            "{}: not in the table of layers (xtask/src/check/graph.rs): decide what it may depend on, and why",
            package.name
        )];
    };
    let names: BTreeSet<&str> = ours.iter().map(|package| &*package.name).collect();
    let used: BTreeSet<&str> = package.dependencies.iter().map(|dependency| &*dependency.name).collect();
    used.intersection(&names)
        .filter(|used| !layer.may_use.contains(*used))
        .map(|used| format!("{} must not depend on {used}: {}", package.name, layer.why))
        .collect()
}

fn foreign_dependencies(package: &Package) -> Vec<String> {
    let must_have = package.dependencies.iter().filter(|dependency| {
        !dependency.optional
            && dependency.kind.as_deref() != Some("dev")
            && !dependency.name.starts_with("mesh-")
    });
    must_have
        .map(|dependency| {
            format!("mesh-common must not depend on {}: kernel programs compile all of it", dependency.name)
        })
        .collect()
}

/// Walks what `package` is linked with, and names the way to each crate that does I/O.
fn impure_dependencies(package: &Package, packages: &[Package], resolve: &Resolve) -> Vec<String> {
    let names: BTreeMap<&str, &str> = packages.iter().map(|p| (&*p.id, &*p.name)).collect();
    let nodes: BTreeMap<&str, _> = resolve.nodes.iter().map(|node| (&*node.id, node)).collect();
    let mut ways: BTreeMap<&str, String> = BTreeMap::from([(&*package.id, package.name.clone())]);
    let mut next = vec![&*package.id];
    while let Some(id) = next.pop() {
        let linked = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        for edge in linked.filter(|edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none())) {
            let name = names.get(&*edge.pkg).copied().unwrap_or(&edge.pkg);
            let way = format!("{} → {name}", ways.get(id).map_or("", String::as_str));
            if ways.insert(&edge.pkg, way).is_none() {
                next.push(&edge.pkg);
            }
        }
    }
    let impure = ways.iter().filter_map(|(id, way)| {
        let name = names.get(id)?;
        let (_, does) = IMPURE.iter().find(|(crates, _)| crates.contains(name))?;
        Some(format!("{way}: {name} {does}; mesh-core decides from its arguments alone"))
    });
    impure.collect()
}

/// What a package of ours may use of the others.
struct Layer {
    name: &'static str,
    may_use: &'static [&'static str],
    why: &'static str,
}

const LAYERS: [Layer; 11] = [
    Layer { name: "mesh-common", may_use: &[], why: "it is the ABI that kernel and user space share" },
    Layer {
        name: "mesh-ebpf",
        may_use: &["mesh-common"],
        why: "kernel programs know the ABI and nothing else",
    },
    Layer {
        name: "mesh-core",
        may_use: &[],
        why: "it is pure: everything may rest on it, it rests on nothing",
    },
    Layer {
        name: "mesh-ca",
        may_use: &["mesh-core"],
        why: "the node's own CA and the control plane sign with the same code",
    },
    Layer {
        name: "mesh-proto",
        may_use: &["mesh-core"],
        why: "it parses wire types into those of mesh-core",
    },
    Layer {
        name: "mesh-source",
        may_use: &["mesh-core"],
        why: "it hands resources to whoever compiles them",
    },
    Layer {
        name: "mesh-node",
        may_use: &["mesh-ca", "mesh-common", "mesh-core", "mesh-proto", "mesh-source"],
        why: "the data plane runs without the control plane",
    },
    Layer {
        name: "mesh-control",
        may_use: &["mesh-ca", "mesh-core", "mesh-proto", "mesh-source"],
        why: "the control plane talks to nodes over the wire only",
    },
    Layer {
        name: "meshctl",
        may_use: &["mesh-core", "mesh-proto", "mesh-source"],
        why: "the command line talks to the others over the wire only",
    },
    Layer {
        name: "mesh-tests",
        may_use: &[
            "mesh-ca",
            "mesh-common",
            "mesh-control",
            "mesh-core",
            "mesh-node",
            "mesh-proto",
            "mesh-source",
        ],
        why: "the suites run the real binaries, and benches take parts of them in hand",
    },
    Layer { name: "xtask", may_use: &[], why: "it must build before anything else does" },
];

/// Crates that reach outside of a program, by what they reach.
const IMPURE: [(&[&str], &str); 4] = [
    (
        &["async-io", "h2", "hyper", "mio", "quinn", "reqwest", "smol", "socket2", "tokio", "ureq"],
        "speaks to the network or drives those that do",
    ),
    (&["aya", "inotify", "libc", "nix", "notify", "rustix"], "speaks to the kernel"),
    (&["fastrand", "getrandom", "rand", "rand_core"], "makes randomness"),
    (&["aws-lc-rs", "ring", "rustls"], "makes keys and randomness"),
];

#[cfg(test)]
mod tests;
