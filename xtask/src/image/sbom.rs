//! What an image is made of, in SPDX 2.3.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{shell, workspace::Workspace};

/// All packages that the programs may have been built of, by the lock file, and the libraries beside them.
pub(super) fn write(workspace: &Workspace, version: &str, libraries: &BTreeSet<PathBuf>) -> Result<String> {
    let mut packages: Vec<Value> = workspace
        .packages
        .iter()
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
