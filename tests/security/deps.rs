//! Releases of what we depend on that must not come back.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::stand::Stand;

/// The lock file has no release with a published fault. `cargo xtask check` asks the same of `deny.toml`, where an
/// advisory database is at hand also of it; this holds without one.
pub(crate) fn floors(_: &Stand) -> Result<()> {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock"))?;
    let packages = || lock.split("[[package]]").filter_map(package);
    for (name, floor) in FLOORS {
        let floor = version(floor).context("a floor")?;
        let mut found = packages().filter(|(own, _)| own == name).peekable();
        ensure!(!is_needed(name) || found.peek().is_some(), "{name} is not in the lock file");
        for (_, text) in found {
            let locked = version(text).with_context(|| format!("{name} {text}"))?;
            ensure!(locked >= floor, "{name} {text} has a published fault");
        }
    }
    Ok(())
}

fn package(text: &str) -> Option<(&str, &str)> {
    let field = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \"")?.strip_suffix('"'))
    };
    field("name").zip(field("version"))
}

fn version(text: &str) -> Option<[u64; 3]> {
    let mut numbers = text.split(['.', '-', '+']).map_while(|part| part.parse().ok());
    Some([numbers.next()?, numbers.next()?, numbers.next()?])
}

/// Whether the mesh cannot do without it, so that its absence means that this test looks at the wrong names.
fn is_needed(name: &str) -> bool {
    matches!(name, "h2" | "rustls" | "rustls-webpki" | "tonic")
}

/// The first release without the fault.
const FLOORS: &[(&str, &str)] = &[
    ("anyhow", "1.0.104"),
    ("h2", "0.4.18"),
    ("hickory-proto", "0.26.2"),
    ("hickory-resolver", "0.26.2"),
    ("rustls", "0.23.45"),
    ("rustls-webpki", "0.103.13"),
    ("tonic", "0.12.3"),
];
