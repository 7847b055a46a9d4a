//! Where the node's kernel objects are pinned: `<root>/<node>/<abi>/{map,prog,link}/`.
//!
//! A pod's links carry the pod in their name, `<hook>_<netns cookie>_<pod uid>`, so that a node that starts
//! knows what its predecessor captured without asking anyone.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The pin directory of one node.
#[derive(Clone, Debug)]
pub struct Pins {
    node: PathBuf,
    base: PathBuf,
}

/// A pod as the name of a pinned link tells it.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PinnedPod {
    /// Cookie of the pod's network namespace.
    pub cookie: u64,
    /// The pod's uid.
    pub uid: String,
}

impl Pins {
    /// The directory of `node` under `root` (usually `/sys/fs/bpf/mesh`), not created yet.
    pub fn new(root: &Path, node: &str) -> Self {
        let node = root.join(node);
        let base = node.join(mesh_common::ABI);
        Self { node, base }
    }

    /// Where the objects of all versions are.
    pub fn root(&self) -> PathBuf {
        self.node.clone()
    }

    /// Where the objects of this version are.
    pub fn directory(&self) -> &Path {
        &self.base
    }

    /// Creates the directories, readable by root only.
    pub fn create(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        for directory in ["map", "prog", "link"] {
            fs::create_dir_all(self.base.join(directory))?;
        }
        fs::set_permissions(&self.node, fs::Permissions::from_mode(0o700))
    }

    /// Path of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.base.join("map").join(name)
    }

    /// Path of a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.base.join("prog").join(name)
    }

    /// Path of a link that serves the whole node.
    pub fn node_link(&self, hook: &str) -> PathBuf {
        self.base.join("link").join(hook)
    }

    /// Path of a pod's link.
    pub fn pod_link(&self, hook: &str, pod: &PinnedPod) -> PathBuf {
        // The file system of pins refuses names with a dot, which interface names may contain.
        let hook = hook.replace('.', ",");
        self.base.join("link").join(format!("{hook}_{}_{}", pod.cookie, pod.uid))
    }

    /// Every pod that has a pinned link, without duplicates.
    pub fn pods(&self) -> io::Result<Vec<PinnedPod>> {
        let mut pods: Vec<PinnedPod> = self.links()?.iter().filter_map(|path| pod_of(path)).collect();
        pods.sort();
        pods.dedup();
        Ok(pods)
    }

    /// Numbers of the control groups of a machine whose capture is complete: the guard of what is sent comes last.
    ///
    /// # Errors
    /// If the links cannot be listed.
    pub fn guarded_groups(&self) -> io::Result<BTreeSet<u64>> {
        let links = self.links()?;
        let guards = links.iter().filter(|path| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(LAST_GUARD))
        });
        Ok(guards.filter_map(|path| pod_of(path)).filter(|it| it.uid == UNIT).map(|it| it.cookie).collect())
    }

    /// Paths of the pinned links of one pod.
    pub fn links_of(&self, pod: &PinnedPod) -> io::Result<Vec<PathBuf>> {
        Ok(self.links()?.into_iter().filter(|path| pod_of(path).as_ref() == Some(pod)).collect())
    }

    /// Removes everything, of every ABI version: hooks detach, maps are freed. Returns how many objects went.
    pub fn remove_all(&self) -> io::Result<usize> {
        remove_tree(&self.node, &|_| false)
    }

    /// Removes what a node of another ABI version has left. Both kinds of hooks are there until then, and what one steers the
    /// other knows nothing of: connections fail. Guards of pods with the uids `closed` stay: nothing of theirs passes, since
    /// what would let it past is gone. Returns how many objects went.
    pub fn remove_others(&self, closed: &BTreeSet<&str>) -> io::Result<usize> {
        let keeps = |path: &Path| {
            let is_guard = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(GUARD));
            is_guard && pod_of(path).is_some_and(|pod| closed.contains(pod.uid.as_str()))
        };
        let mut removed = 0;
        for entry in fs::read_dir(&self.node)? {
            let path = entry?.path();
            if path != self.base {
                removed += remove_tree(&path, &keeps)?;
            }
        }
        Ok(removed)
    }

    fn links(&self) -> io::Result<Vec<PathBuf>> {
        match fs::read_dir(self.base.join("link")) {
            Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn pod_of(link: &Path) -> Option<PinnedPod> {
    let mut parts = link.file_name()?.to_str()?.rsplitn(3, '_');
    let uid = parts.next()?.to_owned();
    let cookie = parts.next()?.parse().ok()?;
    parts.next()?;
    Some(PinnedPod { cookie, uid })
}

/// In place of the uid of a pod, in the names of links of a control group of a machine.
pub const UNIT: &str = "unit";
/// The guard of what enrolled processes of a machine send.
const LAST_GUARD: &[u8] = b"guard-out_";
/// What names of a guard's links begin with.
const GUARD: &[u8] = b"guard-";

/// Links go first, so that no hook runs while its maps disappear one by one. Directories with something that is kept stay.
fn remove_tree(directory: &Path, keeps: &impl Fn(&Path) -> bool) -> io::Result<usize> {
    let (mut removed, mut is_empty) = (0, true);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            removed += remove_tree(&path, keeps)?;
            is_empty &= !path.exists();
        } else if keeps(&path) {
            is_empty = false;
        } else {
            fs::remove_file(&path)?;
            removed += 1;
        }
    }
    if is_empty {
        fs::remove_dir(directory)?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_tell_the_pod() {
        let pins = Pins::new(Path::new("/p"), "node-1");
        let pod = PinnedPod { cookie: 42, uid: "0a1b-2c".into() };
        let path = pins.pod_link("guard-in-my_if.7", &pod);
        assert_eq!(path, Path::new("/p/node-1/v4/link/guard-in-my_if,7_42_0a1b-2c"));
        assert_eq!(pod_of(&path), Some(pod));
        assert_eq!(pod_of(Path::new("/p/node-1/v4/link/connect4")), None);
    }

    #[test]
    fn a_group_is_captured_when_its_last_guard_is_there() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let pins = Pins::new(root.path(), "n");
        assert_eq!(pins.guarded_groups().expect("nothing is there"), BTreeSet::new());
        pins.create().expect("created");
        let unit = |cookie| PinnedPod { cookie, uid: UNIT.to_owned() };
        let pod = PinnedPod { cookie: 9, uid: "0a1b".to_owned() };
        for link in [
            pins.pod_link("connect4", &unit(7)),
            pins.pod_link("guard-in", &unit(7)),
            pins.pod_link("guard-in", &unit(8)),
            pins.pod_link("guard-out", &unit(8)),
            pins.pod_link("guard-out-eth0", &pod),
            pins.pod_link("guard-out", &pod),
        ] {
            fs::write(link, "").expect("written");
        }
        assert_eq!(pins.guarded_groups().expect("listed"), BTreeSet::from([8]));
    }

    #[test]
    fn what_another_version_has_left_goes() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let pins = Pins::new(root.path(), "n");
        pins.create().expect("created");
        fs::write(pins.map("PODS"), "").expect("written");
        let old = root.path().join("n/v0/link");
        fs::create_dir_all(&old).expect("created");
        fs::write(old.join("connect4"), "").expect("written");
        for link in ["guard-in-eth0_7_bad", "lookup_7_bad", "guard-in-eth0_8_good"] {
            fs::write(old.join(link), "").expect("written");
        }
        assert_eq!(pins.remove_others(&BTreeSet::from(["bad"])).expect("removed"), 3);
        assert!(old.join("guard-in-eth0_7_bad").exists(), "the guard of a pod that nobody else closes");
        assert_eq!(pins.remove_others(&BTreeSet::new()).expect("removed"), 1);
        assert!(!root.path().join("n/v0").exists() && pins.map("PODS").exists());
        assert_eq!(pins.remove_others(&BTreeSet::new()).expect("nothing left"), 0);
    }

    #[test]
    fn removal_counts_and_tolerates_absence() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let pins = Pins::new(root.path(), "n");
        assert_eq!(pins.remove_all().expect("absent is fine"), 0);
        pins.create().expect("created");
        fs::write(pins.map("PODS"), "").expect("written");
        fs::write(pins.node_link("connect4"), "").expect("written");
        assert_eq!(pins.remove_all().expect("removed"), 2);
        assert!(!root.path().join("n").exists());
    }
}
