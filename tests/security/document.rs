//! The table in `docs/security.md`, which is this one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::registry::{self, Advisory, Proof};

/// Whether the document has the table of today.
pub(crate) fn is_current() -> Result<()> {
    let (before, table, after) = split()?;
    ensure!(
        table == render(),
        "docs/security.md has another table ({} and {} bytes around it): cargo test --workspace --exclude mesh-ebpf --test security -- --write-table",
        before.len(),
        after.len()
    );
    Ok(())
}

/// Writes it there.
pub(crate) fn write() -> Result<()> {
    let (before, _, after) = split()?;
    fs::write(path(), format!("{before}{}{after}", render())).context("docs/security.md")
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md")
}

/// What stands before the table, the table, and what stands behind it.
fn split() -> Result<(String, String, String)> {
    let text = fs::read_to_string(path()).context("docs/security.md")?;
    let (before, rest) =
        text.split_once(BEGIN).context("docs/security.md does not say where its table begins")?;
    let (table, after) =
        rest.split_once(END).context("docs/security.md does not say where its table ends")?;
    Ok((format!("{before}{BEGIN}"), table.to_owned(), format!("{END}{after}")))
}

fn render() -> String {
    let mut text = String::from("\n");
    for (title, rows) in registry::chapters() {
        text.push_str("\n### ");
        text.push_str(title);
        text.push_str("\n\n| row | advisories | what must happen | shown by |\n|---|---|---|---|\n");
        rows.iter().for_each(|row| text.push_str(&line(row)));
    }
    text.push('\n');
    text
}

fn line(Advisory { row, ids, must, shown }: &Advisory) -> String {
    let proofs: Vec<_> = shown
        .iter()
        .map(|proof| match proof {
            Proof::Here(_) => format!("`security {row}`"),
            Proof::In(suite, name) => format!("`{} {name}`", suite.name()),
            Proof::Never(why) => format!("does not concern us: {why}"),
        })
        .collect();
    format!("| `{row}` | {} | {must} | {} |\n", ids.join(", "), proofs.join(", "))
}

const BEGIN: &str = "<!-- table -->";
const END: &str = "<!-- end of the table -->";
