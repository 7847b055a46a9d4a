//! Names and places of a bed: everything it makes can be found again from its name alone, so that whoever cleans up
//! needs no memory of what was made.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{BedError, Doing, Result};

/// The name of a bed: a DNS label of at most 32 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BedName(String);

impl BedName {
    /// Checks a name.
    pub fn parse(name: &str) -> Result<Self> {
        let refuse = |reason| Err(BedError::Name { name: name.to_owned(), reason });
        if name.is_empty() || name.len() > 32 {
            return refuse("it must have 1 to 32 characters");
        }
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !name.bytes().all(fits) || name.starts_with('-') || name.ends_with('-') {
            return refuse("use lower-case letters, digits and '-' inside");
        }
        Ok(Self(name.to_owned()))
    }

    /// A name that no other bed of this machine has.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 5];
        let source = Path::new("/dev/urandom");
        File::open(source).and_then(|mut f| f.read_exact(&mut bytes)).at("read", source)?;
        Ok(Self(format!("t{}", bytes.map(|b| format!("{b:02x}")).concat())))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for BedName {
    fn default() -> Self {
        Self(DEFAULT_NAME.to_owned())
    }
}

impl fmt::Display for BedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a bed keeps what.
#[derive(Debug, Clone)]
pub struct Layout {
    /// The bed's name.
    pub name: BedName,
    /// Files: `/run/mesh-testbed/<bed>`.
    pub state: PathBuf,
    /// The bed's cgroup: `<cgroup2 mount>/mesh-<bed>`.
    pub cgroup: PathBuf,
    /// Where the nodes pin their programs and maps.
    pub pins: PathBuf,
}

impl Layout {
    /// The layout of a bed on this machine; fails where there is no cgroup v2 mount.
    pub fn new(name: BedName) -> Result<Self> {
        let cgroup = cgroup2_mount()?.join(format!("mesh-{name}"));
        let state = Path::new(STATE).join(name.as_str());
        let pins = match name.as_str() {
            DEFAULT_NAME => Path::new(BPF).join("mesh"),
            other => Path::new(BPF).join(format!("mesh-{other}")),
        };
        Ok(Self { name, state, cgroup, pins })
    }

    /// Where the node reads its resources.
    pub fn objects(&self) -> PathBuf {
        self.state.join("objects")
    }

    /// Files that must be in memory.
    pub fn memory(&self) -> PathBuf {
        Path::new(MEMORY).join(self.name.as_str())
    }

    /// One file of output for each process.
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }

    /// The cgroup of a node.
    pub fn node_cgroup(&self, node: &str) -> PathBuf {
        self.cgroup.join(node)
    }

    /// The cgroup of a pod, which holds one cgroup for each container.
    pub fn pod_cgroup(&self, node: &str, uid: &str) -> PathBuf {
        self.node_cgroup(node).join("kubepods/besteffort").join(format!("pod{uid}"))
    }

    /// Reserves a name for a network namespace and notes it for the cleaning up. `parts` such as `["default",
    /// "client"]` could be joined to a name that something else has: then a digest of them is added.
    pub(crate) fn reserve_netns(&self, parts: &[&str]) -> Result<String> {
        let mut name = format!("mesh-{}-{}", self.name, parts.join("-"));
        if name.len() > 120 || netns_path(&name).exists() {
            name.truncate(100);
            name = format!("{name}-{:08x}", digest(&parts) & 0xffff_ffff);
        }
        let path = self.state.join(NETNS_LIST);
        let mut list = OpenOptions::new().create(true).append(true).open(&path).at("open", &path)?;
        list.write_all(format!("{name}\n").as_bytes()).at("write", &path)?;
        Ok(name)
    }

    /// All network namespaces that this bed has ever made.
    pub(crate) fn netns_names(&self) -> Vec<String> {
        let list = fs::read_to_string(self.state.join(NETNS_LIST)).unwrap_or_default();
        let ours = format!("mesh-{}-", self.name);
        list.lines()
            .filter(|name| name.starts_with(&ours) && !name.contains('/'))
            .map(str::to_owned)
            .collect()
    }
}

/// A tmpfs on every Linux; `/run` is none in some containers.
const MEMORY: &str = "/dev/shm/mesh-testbed";

/// The file that names a network namespace.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS).join(name)
}

/// A digest that stays the same between runs of the same executable and of others (64-bit FNV-1a).
pub(crate) fn digest(value: &impl Hash) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        // FNV's low bits follow the last byte closely; mixing spreads it, as callers take any bits.
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// Where cgroup v2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` on hybrid systems.
pub(crate) fn cgroup2_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").at("read", Path::new("/proc/mounts"))?;
    find_cgroup2(&mounts).ok_or_else(|| {
        BedError::Environment(
            "no cgroup v2 file system is mounted (`mount -t cgroup2 none /sys/fs/cgroup/unified` adds one)"
                .into(),
        )
    })
}

fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    let fields = |line: &str| {
        let mut fields = line.split(' ');
        (fields.nth(1).map(PathBuf::from), fields.next().map(str::to_owned))
    };
    mounts.lines().map(fields).find_map(|(path, kind)| path.filter(|_| kind.as_deref() == Some("cgroup2")))
}

const DEFAULT_NAME: &str = "bed";
const STATE: &str = "/run/mesh-testbed";
const NETNS: &str = "/run/netns";
const NETNS_LIST: &str = "network-namespaces";
pub(crate) const BPF: &str = "/sys/fs/bpf";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["bed", "a", "t0a1b2", "my-bed", &"x".repeat(32)] {
            assert_eq!(BedName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "Bed", "a b", "-a", "a-", "a/b", "..", "ä", &"x".repeat(33)] {
            assert!(BedName::parse(bad).is_err(), "{bad}");
        }
        assert_ne!(BedName::random().unwrap(), BedName::random().unwrap());
        assert!(BedName::parse(BedName::random().unwrap().as_str()).is_ok());
    }

    #[test]
    fn finds_cgroup2_in_both_kinds_of_systems() {
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(find_cgroup2(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_cgroup2("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0"), Some("/sys/fs/cgroup".into()));
        assert_eq!(find_cgroup2("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0"), None);
    }

    #[test]
    fn digests_are_stable_and_spread() {
        assert_eq!(digest(&"reviews"), digest(&"reviews"));
        let low: std::collections::BTreeSet<u64> = (0..100_u32).map(|i| digest(&i) & 0xffff).collect();
        assert!(low.len() > 95, "{}", low.len());
    }
}
