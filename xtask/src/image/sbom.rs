//! What an image is made of, in SPDX 2.3.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    shell,
    workspace::{Node, Package, Workspace},
};

/// What the programs are built of, and the files of others beside them.
pub(super) fn write(
    workspace: &Workspace,
    (version, programs): (&str, &[&str]),
    libraries: &BTreeSet<PathBuf>,
) -> Result<String> {
    let inside = inside(workspace, programs)?;
    let mut packages: Vec<Value> = workspace
        .packages
        .iter()
        .filter(|package| inside.contains(&*package.id))
        .map(|package| {
            json!({
                "SPDXID": id("crate", &format!("{}-{}", package.name, package.version)),
                "name": package.name, "versionInfo": package.version,
                "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
                "licenseDeclared": package.license.as_deref().unwrap_or("NOASSERTION").replace('/', " OR "),
                "externalRefs": [{
                    "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
                    "referenceLocator": format!("pkg:cargo/{}@{}", package.name, package.version),
                }],
            })
        })
        .collect();
    for library in libraries {
        let name = library.file_name().map(|name| name.to_string_lossy().into_owned()).context("a file")?;
        packages.push(json!({
            "SPDXID": id("library", &name), "name": name, "versionInfo": owner(library),
            "downloadLocation": "NOASSERTION", "filesAnalyzed": false,
        }));
    }
    packages.sort_by_key(|package| package["SPDXID"].to_string());
    packages.dedup_by_key(|package| package["SPDXID"].to_string());
    let contains = packages.iter().map(|package| {
        json!({"spdxElementId": "SPDXRef-image", "relationshipType": "CONTAINS", "relatedSpdxElement": package["SPDXID"]})
    });
    let describes = json!({"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": "SPDXRef-image"});
    let relationships: Vec<_> = [describes].into_iter().chain(contains).collect();
    packages.insert(
        0,
        json!({
            "SPDXID": "SPDXRef-image", "name": "mesh", "versionInfo": version,
            "downloadLocation": "NOASSERTION", "filesAnalyzed": false, "licenseDeclared": "Apache-2.0",
        }),
    );
    let document = json!({
        "spdxVersion": "SPDX-2.3", "SPDXID": "SPDXRef-DOCUMENT", "dataLicense": "CC0-1.0",
        "name": format!("mesh-{version}"),
        "documentNamespace": format!("https://mesh.internal/spdx/mesh-{version}"),
        "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: cargo-xtask-image"]},
        "packages": packages, "relationships": relationships,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

/// Ids of the packages that have these programs, and of all that they are linked with: nothing that only builds or tests them.
fn inside<'w>(workspace: &'w Workspace, programs: &[&str]) -> Result<BTreeSet<&'w str>> {
    let nodes =
        &workspace.resolve.as_ref().context("the packages were asked for without what they use")?.nodes;
    let nodes: BTreeMap<&str, &Node> = nodes.iter().map(|node| (&*node.id, node)).collect();
    let has_one =
        |package: &&Package| package.targets_of("bin").any(|name| programs.contains(&name) || name == KERNEL);
    let mut inside = BTreeSet::new();
    let mut open: Vec<&str> = workspace.ours().filter(has_one).map(|package| &*package.id).collect();
    while let Some(id) = open.pop() {
        if inside.insert(id) {
            let uses = nodes.get(id).into_iter().flat_map(|node| &node.deps);
            let linked = uses.filter(|edge| edge.dep_kinds.iter().any(|it| it.kind.is_none()));
            open.extend(linked.map(|edge| &*edge.pkg));
        }
    }
    Ok(inside)
}

/// The kernel programs, which are inside of a program.
const KERNEL: &str = "mesh-ebpf";

/// The package of the distribution that a library comes from; the file's own name where no package manager knows.
fn owner(library: &PathBuf) -> String {
    let query = Command::new("dpkg-query").arg("--search").arg(library).output();
    let found = query.ok().filter(|it| it.status.success()).and_then(|it| String::from_utf8(it.stdout).ok());
    let package = found.and_then(|text| text.split_once(": ").map(|(package, _)| package.to_owned()));
    let version = |package: &String| {
        shell::read(Command::new("dpkg-query").args([
            "--show",
            "--showformat=${Package} ${Version}",
            package,
        ]))
        .ok()
    };
    package.as_ref().and_then(version).unwrap_or_else(|| "NOASSERTION".to_owned())
}

/// Identifiers have letters, digits, dots and dashes.
fn id(kind: &str, name: &str) -> String {
    let safe = |letter: char| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '-' };
    format!("SPDXRef-{kind}-{}", name.chars().map(safe).collect::<String>())
}
