//! What a node has put into the kernel: pinned programs and links, and the programs' counters.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bed::{Bed, NodeHandle};

/// The pins of one node.
#[derive(Debug)]
pub(super) struct Pins {
    /// Their directory.
    pub(super) root: PathBuf,
}

/// The links of one node, as their names tell them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Links {
    /// Hooks that serve the whole node.
    pub(super) node: Vec<String>,
    /// How many pods have each hook of their own.
    pub(super) pods: BTreeMap<String, usize>,
}

impl Pins {
    /// The pins of a node, in the directory of the ABI version that it runs.
    pub(super) fn of(bed: &Bed, node: &str) -> Result<Self> {
        let parent = bed.layout().pins.join(node);
        let version = names(&parent)?.pop().with_context(|| format!("{} is empty", parent.display()))?;
        Ok(Self { root: parent.join(version) })
    }

    /// The programs.
    pub(super) fn programs(&self) -> Result<Vec<String>> {
        names(&self.root.join("prog"))
    }

    /// The links: what keeps programs attached when nobody runs.
    pub(super) fn links(&self) -> Result<Links> {
        Ok(Links::read(&names(&self.root.join("link"))?))
    }

    /// The command that shows the counters.
    pub(super) fn counters_command(&self) -> String {
        format!("bpftool map dump pinned {}/map/STATS", self.root.display())
    }

    /// Reads the programs' counters, by index, summed over processors; `None` without `bpftool`.
    pub(super) fn counters(&self, node: &NodeHandle<'_>) -> Result<Option<BTreeMap<u64, u64>>> {
        let path = self.root.join("map/STATS").display().to_string();
        match node.exec(&["bpftool", "-j", "map", "dump", "pinned", &path]) {
            Ok(output) if output.status.success() => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                counters(&text).with_context(|| format!("bpftool printed {text}")).map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Links {
    /// A pod's link is named `<hook>_<cookie>_<uid>`, the node's `<hook>`.
    fn read(names: &[String]) -> Self {
        let mut links = Self::default();
        for name in names {
            match name.split_once('_') {
                Some((hook, _)) => *links.pods.entry(hook.to_owned()).or_default() += 1,
                None => links.node.push(name.clone()),
            }
        }
        links
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.node.len() + self.pods.values().sum::<usize>()
    }
}

fn counters(json: &str) -> Option<BTreeMap<u64, u64>> {
    let entries: Vec<Value> = serde_json::from_str(json).ok()?;
    let entry = |entry: &Value| {
        let entry = entry.get("formatted")?;
        let values = entry.get("values")?.as_array()?;
        let sum = values.iter().filter_map(|cpu| cpu.get("value")?.as_u64()).sum();
        Some((entry.get("key")?.as_u64()?, sum))
    };
    entries.iter().map(entry).collect()
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let read = || -> std::io::Result<Vec<String>> {
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    let mut names = read().with_context(|| format!("cannot read {}", directory.display()))?;
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_belong_to_the_node_or_to_a_pod() {
        let names = ["connect4", "lookup_7_a-b", "lookup_8_c", "guard-in-eth0_7_a-b"].map(str::to_owned);
        let links = Links::read(&names);
        assert_eq!(links.node, ["connect4"]);
        assert_eq!(links.pods, BTreeMap::from([("lookup".to_owned(), 2), ("guard-in-eth0".to_owned(), 1)]));
        assert_eq!(links.count(), 4);
    }

    #[test]
    fn counters_are_summed() {
        let json =
            r#"[{"key":["0x00"],"formatted":{"key":0,"values":[{"cpu":0,"value":2},{"cpu":1,"value":3}]}}]"#;
        assert_eq!(counters(json), Some(BTreeMap::from([(0, 5)])));
        assert_eq!(counters("[{}]"), None);
    }
}
