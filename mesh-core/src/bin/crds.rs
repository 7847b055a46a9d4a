//! Writes the `CustomResourceDefinitions` of the kinds that the mesh reads to standard output, as one JSON object: file
//! names and their content. `cargo xtask crds` puts them where they belong.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use mesh_core::resource::schema;

fn main() -> io::Result<()> {
    let mut files = BTreeMap::new();
    for crd in schema::crds() {
        let yaml = serde_yaml_ng::to_string(&crd.definition).map_err(io::Error::other)?;
        files.insert(crd.file, format!("{HEAD}{yaml}"));
    }
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &files)?;
    out.write_all(b"\n")
}

/// Tells readers of a file where it comes from.
const HEAD: &str = "# Written by `cargo xtask crds` from the types in mesh-core; edit those.\n";
