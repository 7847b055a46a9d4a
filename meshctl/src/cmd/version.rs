//! `meshctl version`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::json;

use crate::output::Format;
use crate::reach::ControlPlane;

/// Print the version of this command line, and those of the control plane and of the proxies.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Whether the mesh is asked as well.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    remote: bool,
    #[command(flatten)]
    control: ControlPlane,
    /// How versions are printed.
    #[arg(short, long, value_name = "FORMAT", default_value = "text", ignore_case = true)]
    output: Format,
}

/// What `/api/v1/nodes` answers, as far as it is shown.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Nodes {
    control_plane: ControlVersion,
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct ControlVersion {
    version: String,
}

#[derive(Debug, Deserialize)]
struct Node {
    name: String,
    /// Of one that has told something.
    version: Option<String>,
}

/// Which versions there are, and how many of each.
#[derive(Debug, Default, PartialEq, Eq)]
struct Versions {
    control: BTreeMap<String, usize>,
    nodes: BTreeMap<String, usize>,
}

/// Runs the command. Without a mesh to ask, that is said on standard error, and the rest is printed.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let versions = if args.remote { ask(&args.control) } else { Ok(Versions::default()) };
    let versions = versions.unwrap_or_else(|error| {
        crate::note(&format!("the mesh cannot be asked: {error:#}"));
        Versions::default()
    });
    crate::emit(&match args.output {
        Format::Text => text(&versions),
        Format::Json => {
            let said = json!({"client": OWN, "controlPlane": versions.control, "dataPlane": versions.nodes});
            serde_json::to_string_pretty(&said)? + "\n"
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn ask(control: &ControlPlane) -> Result<Versions> {
    let mut versions = Versions::default();
    // Every replica knows all nodes by their pods, and the versions of those that tell it something.
    let mut of_node = BTreeMap::new();
    for answer in control.get_all("/api/v1/nodes")? {
        let Nodes { control_plane, nodes } =
            serde_json::from_str(&answer).context("the control plane's answer")?;
        *versions.control.entry(control_plane.version).or_default() += 1;
        of_node.extend(nodes.into_iter().filter_map(|node| Some((node.name, node.version?))));
    }
    for version in of_node.into_values() {
        *versions.nodes.entry(version).or_default() += 1;
    }
    Ok(versions)
}

fn text(versions: &Versions) -> String {
    let mut lines = vec![format!("client version: {OWN}")];
    let listed = |of: &BTreeMap<String, usize>, what: &str| {
        let each = of.iter().map(|(version, count)| format!("{version} ({count} {what})"));
        each.collect::<Vec<_>>().join(", ")
    };
    if !versions.control.is_empty() {
        lines.push(format!("control plane version: {}", listed(&versions.control, "replicas")));
    }
    if !versions.nodes.is_empty() {
        lines.push(format!("data plane version: {}", listed(&versions.nodes, "nodes")));
    }
    lines.join("\n") + "\n"
}

const OWN: &str = env!("CARGO_PKG_VERSION");

const EXAMPLES: &str = "\
Example: meshctl version
         meshctl version --remote=false
         meshctl version -o json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_counted() {
        let control = BTreeMap::from([("0.2.0".to_owned(), 2)]);
        let nodes = BTreeMap::from([("0.1.0".to_owned(), 1), ("0.2.0".to_owned(), 3)]);
        let all = text(&Versions { control, nodes });
        assert!(all.contains("\ncontrol plane version: 0.2.0 (2 replicas)\n"), "{all}");
        assert!(all.ends_with("\ndata plane version: 0.1.0 (1 nodes), 0.2.0 (3 nodes)\n"), "{all}");
        assert_eq!(text(&Versions::default()).lines().count(), 1);
    }
}
