//! What cargo knows of this workspace.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::shell;

/// The part of `cargo metadata` that is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Workspace {
    /// Where cargo builds.
    #[serde(rename = "target_directory")]
    pub(crate) target_dir: PathBuf,
    /// Ids of our own packages.
    #[serde(rename = "workspace_members")]
    pub(crate) members: Vec<String>,
    /// All packages, or only ours: see [`Workspace::load`].
    pub(crate) packages: Vec<Package>,
    /// Which package uses which; absent if only ours were asked for.
    pub(crate) resolve: Option<Resolve>,
}

/// A package of the workspace or of the registry.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Package {
    /// Unique id.
    pub(crate) id: String,
    /// Name in its manifest.
    pub(crate) name: String,
    /// Version in its manifest.
    #[serde(default)]
    pub(crate) version: String,
    /// Licence in its manifest, if it names one.
    #[serde(default)]
    pub(crate) license: Option<String>,
    /// Dependencies as declared.
    pub(crate) dependencies: Vec<Dependency>,
    /// What can be built from it.
    #[serde(default)]
    pub(crate) targets: Vec<Target>,
}

/// A declared dependency.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Dependency {
    /// Name of the package.
    pub(crate) name: String,
    /// `dev` or `build`; none for the ordinary kind.
    pub(crate) kind: Option<String>,
    /// Only there if a feature asks for it.
    #[serde(default)]
    pub(crate) optional: bool,
}

/// A library, binary or test of a package.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Target {
    /// Name, as given to `--bin` or `--test`.
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, ...
    pub(crate) kind: Vec<String>,
}

/// The resolved graph.
#[derive(Debug, Deserialize)]
pub(crate) struct Resolve {
    /// One node for each package in use.
    pub(crate) nodes: Vec<Node>,
}

/// A package of the resolved graph.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Node {
    /// Id of the package.
    pub(crate) id: String,
    /// What it uses.
    pub(crate) deps: Vec<Edge>,
}

/// A use of a package by another.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Edge {
    /// Id of the package used.
    pub(crate) pkg: String,
    /// In which ways it is used.
    pub(crate) dep_kinds: Vec<EdgeKind>,
}

/// A way of using a package.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct EdgeKind {
    /// As in [`Dependency::kind`].
    pub(crate) kind: Option<String>,
}

/// How much of the graph to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Our own packages: quick, and needs no network.
    Ours,
    /// Everything they use on Linux hosts.
    All,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn load(depth: Depth) -> Result<Self> {
        let mut metadata = shell::cargo();
        metadata.current_dir(root()).args(["metadata", "--format-version", "1"]);
        match depth {
            Depth::Ours => metadata.arg("--no-deps"),
            Depth::All => metadata.args(["--filter-platform", "x86_64-unknown-linux-gnu"]),
        };
        let text = shell::read(&mut metadata)?;
        serde_json::from_str(&text).context("cargo metadata is not what it was")
    }

    /// Our own packages.
    pub(crate) fn ours(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.members.contains(&package.id))
    }

    /// Names of our packages that have a target of that kind and name.
    pub(crate) fn with_target(&self, kind: &str, name: &str) -> Vec<&str> {
        self.ours().filter(|package| package.has_target(kind, name)).map(|package| &*package.name).collect()
    }
}

impl Package {
    /// Names of the targets of a kind.
    pub(crate) fn targets_of(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.targets.iter().filter(move |t| t.kind.iter().any(|k| k == kind)).map(|t| &*t.name)
    }

    fn has_target(&self, kind: &str, name: &str) -> bool {
        self.targets_of(kind).any(|target| target == name)
    }
}

/// The top of the tree this program was built from, or is run from by cargo.
pub(crate) fn root() -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().expect("this package is a directory of the workspace").to_path_buf()
}
