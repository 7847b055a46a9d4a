//! Control groups: where programs attach, which one is the node's own, and which pod lives where. Names are read by
//! [`mesh_core::cgroup`]; this looks at the machine.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use mesh_core::cgroup::{self, Member};

use crate::sys::netns::NetNs;

/// Where a pod's processes are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// In this directory of cgroup v2 and below.
    Directory(PathBuf),
    /// Cgroup v2 does not know: these had its uid in a hierarchy of v1.
    Processes(Vec<u32>),
}

/// The mount point of cgroup v2: `/sys/fs/cgroup`, or wherever a hybrid machine has it.
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    cgroup::cgroup2_mount(&mounts).map(PathBuf::from).ok_or_else(|| {
        let hint = "mount -t cgroup2 none /sys/fs/cgroup/unified adds one";
        io::Error::new(
            io::ErrorKind::NotFound,
            format!("no cgroup v2 file system is mounted; capture needs one ({hint})"),
        )
    })
}

/// The cgroup under `scope` that holds the pods of this node, or `scope` itself. Programs on a child run before those of a
/// CNI at the root, so capture sees the destination that the application asked for.
///
/// Where this process is in a pod itself, that pod lies among those of its node; two nodes of one kernel are told apart by
/// that.
pub fn pods_cgroup(scope: &Path) -> PathBuf {
    let mount = cgroup2_mount().unwrap_or_else(|_| scope.to_owned());
    let own = own_group(&mount).ok();
    let beside = own.and_then(|own| cgroup::pods_root(own.to_str()?).map(PathBuf::from));
    match beside.filter(|root| root.starts_with(scope) && root.is_dir()) {
        Some(root) => root,
        None => pods_below(scope, 0).unwrap_or_else(|| scope.to_owned()),
    }
}

/// The one group that holds pods, so far below `directory` as known layouts have it. Of several none is this node's for
/// sure.
fn pods_below(directory: &Path, depth: usize) -> Option<PathBuf> {
    let children = children(directory);
    let is_root =
        |path: &PathBuf| path.file_name().and_then(|name| name.to_str()).is_some_and(cgroup::is_pods_root);
    let (roots, others): (Vec<_>, Vec<_>) = children.into_iter().partition(is_root);
    if !roots.is_empty() || depth == ROOT_DEPTH {
        return only(roots);
    }
    only(others.iter().filter_map(|path| pods_below(path, depth + 1)).collect())
}

/// A kubelet whose driver was changed leaves its old groups behind, empty.
fn only(mut roots: Vec<PathBuf>) -> Option<PathBuf> {
    if roots.len() > 1 {
        roots.retain(|root| !pods(root).is_empty());
    }
    roots.pop().filter(|_| roots.is_empty())
}

/// Moves this process into a cgroup of its own, below the one it was started in, and returns that cgroup with its id: the
/// mark by which the kernel programs know the node's sockets, which no pod can forge.
pub fn enter_own(mount: &Path, node: &str) -> io::Result<(PathBuf, u64)> {
    let name = format!("mesh-node-{node}");
    let mut own = own_group(mount)?;
    if !own.ends_with(&name) {
        own.push(&name);
        fs::create_dir_all(&own)?;
        fs::write(own.join("cgroup.procs"), std::process::id().to_string())?;
    }
    let id = id(&own)?;
    Ok((own, id))
}

/// What the kernel knows a cgroup by; never another's while the machine runs.
pub fn id(group: &Path) -> io::Result<u64> {
    Ok(fs::metadata(group)?.ino())
}

/// The control group of this process.
///
/// # Errors
/// If it is in none of cgroup v2, or that cannot be seen.
pub fn own(mount: &Path) -> io::Result<PathBuf> {
    own_group(mount)
}

/// The cgroup of this process below `mount`. A container may be told a path that begins at itself: there the whole
/// tree is looked through.
fn own_group(mount: &Path) -> io::Result<PathBuf> {
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let current = cgroup::unified_path(&membership)
        .ok_or_else(|| io::Error::other("this process is in no cgroup v2 group"))?;
    let own = mount.join(current.trim_start_matches('/'));
    let pid = std::process::id();
    let is_it = |group: &Path| processes_in(group).any(|listed| listed == pid);
    if is_it(&own) {
        return Ok(own);
    }
    search(mount, 0, &is_it).ok_or_else(|| {
        io::Error::other(format!(
            "this process is in no group below {}: mount the node's /sys/fs/cgroup there",
            mount.display()
        ))
    })
}

fn search(directory: &Path, depth: usize, is_it: &impl Fn(&Path) -> bool) -> Option<PathBuf> {
    if is_it(directory) {
        return Some(directory.to_owned());
    }
    let deeper = (depth < OWN_DEPTH).then(|| children(directory));
    deeper.into_iter().flatten().find_map(|path| search(&path, depth + 1, is_it))
}

/// The pods' cgroup directories by pod uid.
pub fn pods(root: &Path) -> HashMap<String, Group> {
    let mut found = HashMap::new();
    collect(root, 0, &mut found);
    found
}

fn collect(directory: &Path, depth: usize, found: &mut HashMap<String, Group>) {
    for path in children(directory) {
        if let Some(uid) = path.file_name().and_then(|name| cgroup::pod_uid(name.to_str()?)) {
            found.insert(uid, Group::Directory(path));
        } else if depth < MAX_DEPTH {
            collect(&path, depth + 1, found);
        }
    }
}

/// Pods of which cgroup v2 does not know, by the processes of this machine. Reads a file for each of them: not for every
/// day.
pub fn pods_by_processes() -> HashMap<String, Group> {
    let mut found: HashMap<String, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let membership = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if let Some(member) = Member::of(&membership) {
            found.entry(member.uid).or_default().push(pid);
        }
    }
    found.into_iter().map(|(uid, processes)| (uid, Group::Processes(processes))).collect()
}

/// The network namespace of the processes of a pod; `None` while there are none, or while they still use the host's.
///
/// A pod keeps its namespace: of several, `known` is the pod's. Another is that of a process on its way into the pod.
pub fn netns_of(pod: &Group, host: &NetNs, known: Option<&NetNs>) -> Option<NetNs> {
    let mut first = None;
    for (_, ns) in inside(pod, host) {
        if known.is_none_or(|known| known.inode() == ns.inode()) {
            return Some(ns);
        }
        first.get_or_insert(ns);
    }
    first
}

/// One of the processes of a pod that do not use the host's network namespace.
pub fn process_of(pod: &Group, host: &NetNs) -> Option<u32> {
    inside(pod, host).next().map(|(pid, _)| pid)
}

fn inside(pod: &Group, host: &NetNs) -> impl Iterator<Item = (u32, NetNs)> {
    let mut processes = Vec::new();
    match pod {
        Group::Directory(directory) => processes_under(directory, &mut processes),
        Group::Processes(pids) => processes.extend(pids.iter().map(|pid| (*pid, None))),
    }
    processes.into_iter().filter_map(|(pid, group)| {
        // Of one that cgroup v2 does not know, only that it is still where it was can be said.
        let before = group.is_none().then(|| membership(pid));
        let ns = NetNs::open(Path::new(&format!("/proc/{pid}/ns/net"))).ok()?;
        // The number may have been given to another process between reading and opening.
        let after = membership(pid)?;
        let same = match group {
            Some(group) => cgroup::unified_path(&after).is_some_and(|path| group.ends_with(below(path))),
            None => before.flatten().as_ref() == Some(&after),
        };
        (same && ns.inode() != host.inode()).then_some((pid, ns))
    })
}

/// In a cgroup namespace of its own a process is shown the way up to the root first.
fn below(path: &str) -> &str {
    let mut path = path.trim_start_matches('/');
    while let Some(rest) = path.strip_prefix("../") {
        path = rest;
    }
    path
}

fn membership(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()
}

fn processes_under(directory: &Path, found: &mut Vec<(u32, Option<PathBuf>)>) {
    found.extend(processes_in(directory).map(|pid| (pid, Some(directory.to_owned()))));
    for path in children(directory) {
        processes_under(&path, found);
    }
}

fn processes_in(group: &Path) -> impl Iterator<Item = u32> + use<> {
    let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    listed.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>().into_iter()
}

pub(super) fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// `kubepods/burstable/pod…` and its systemd form need two levels; one more for a surprise.
const MAX_DEPTH: usize = 3;
/// `kubelet.slice/kubelet-kubepods.slice`, and `<node>/kubepods`, are at one.
const ROOT_DEPTH: usize = 1;
/// A container of a node that is a container of a pod is at ten.
const OWN_DEPTH: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "9cb8f555-01";

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary directory");
        for path in paths {
            fs::create_dir_all(root.path().join(path)).expect("created");
        }
        root
    }

    #[test]
    fn finds_the_pods_of_known_layouts() {
        let kind = "kubelet.slice/kubelet-kubepods.slice";
        let pod = "kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod9cb8f555_01.slice/cri-containerd-0.scope";
        for (paths, expected) in [
            (vec!["kubepods/burstable/pod9cb8f555-01/c", "system.slice"], Some("kubepods")),
            (
                vec!["kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod9cb8f555_01.slice"],
                Some("kubepods.slice"),
            ),
            (vec![&*format!("{kind}/{pod}")], Some(kind)),
            (vec!["node-1/kubepods/besteffort/pod9cb8f555-01"], Some("node-1/kubepods")),
            // Whose the pods are, nobody can tell from outside.
            (vec!["node-1/kubepods/pod9cb8f555-01", "node-2/kubepods/podab"], None),
            (
                vec!["kubepods/burstable", "kubepods.slice/kubepods-pod9cb8f555_01.slice"],
                Some("kubepods.slice"),
            ),
            (vec!["system.slice/a.service", "user.slice"], None),
        ] {
            let root = tree(&paths);
            let found = pods_below(root.path(), 0);
            assert_eq!(found, expected.map(|path| root.path().join(path)), "{paths:?}");
            if let Some(found) = found {
                assert!(pods(&found).contains_key(UID), "{paths:?}");
            }
        }
    }

    #[test]
    fn paths_seen_from_a_cgroup_namespace_are_those_of_the_tree() {
        assert_eq!(below("/kubepods/podab/c"), "kubepods/podab/c");
        assert_eq!(below("/../../podab/c"), "podab/c");
        assert_eq!(below("/"), "");
    }

    #[test]
    fn a_node_is_looked_for_where_it_is_said_to_be() {
        let root = tree(&["node-1/kubepods/pod9cb8f555-01", "node-2/kubepods/podab"]);
        assert_eq!(pods_cgroup(&root.path().join("node-2")), root.path().join("node-2/kubepods"));
        assert_eq!(pods_cgroup(&root.path().join("none")), root.path().join("none"));
    }
}
