//! Control groups: where programs attach, which one is the node's own, and which pod lives where.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::sys::netns::NetNs;

/// The mount point of cgroup v2: `/sys/fs/cgroup`, or wherever a hybrid machine has it.
pub fn cgroup2_mount() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mount_in(&mounts).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no cgroup v2 file system is mounted; capture needs one")
    })
}

fn mount_in(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// The cgroup under `scope` that holds the pods, or `scope` itself. Programs on a child run before those of a CNI
/// at the root, so capture sees the destination that the application asked for.
pub fn pods_cgroup(scope: &Path) -> PathBuf {
    ["kubepods", "kubepods.slice"]
        .iter()
        .map(|name| scope.join(name))
        .find(|path| path.is_dir())
        .unwrap_or_else(|| scope.to_owned())
}

/// Moves this process into a cgroup of its own, below the one it was started in, and returns that cgroup's id: the
/// mark by which the kernel programs know the node's sockets, which no pod can forge.
pub fn enter_own(mount: &Path, node: &str) -> io::Result<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let current =
        unified_path(&membership).ok_or_else(|| io::Error::other("this process is in no cgroup v2 group"))?;
    let name = format!("mesh-node-{node}");
    let mut own = mount.join(current.trim_start_matches('/'));
    if !own.ends_with(&name) {
        own.push(&name);
        fs::create_dir_all(&own)?;
        fs::write(own.join("cgroup.procs"), std::process::id().to_string())?;
    }
    Ok(fs::metadata(&own)?.ino())
}

fn unified_path(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| line.strip_prefix("0::"))
}

/// The pods' cgroup directories by pod uid. Both cgroup drivers are understood: `pod<uid>` and
/// `…-pod<uid with underscores>.slice`.
pub fn pods(root: &Path) -> HashMap<String, PathBuf> {
    let mut found = HashMap::new();
    collect(root, 0, &mut found);
    found
}

fn collect(directory: &Path, depth: usize, found: &mut HashMap<String, PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        if let Some(uid) = path.file_name().and_then(|name| pod_uid(name.to_str()?)) {
            found.insert(uid, path);
        } else if depth < MAX_DEPTH {
            collect(&path, depth + 1, found);
        }
    }
}

fn pod_uid(name: &str) -> Option<String> {
    if let Some(uid) = name.strip_prefix("pod") {
        return (!uid.is_empty()).then(|| uid.to_owned());
    }
    let (_, uid) = name.strip_suffix(".slice")?.rsplit_once("-pod")?;
    Some(uid.replace('_', "-"))
}

/// The network namespace of the processes in a pod's cgroup; `None` while there are none, or while they still use
/// the host's.
///
/// A pod keeps its namespace: of several, `known` is the pod's. Another is that of a process on its way into the pod.
pub fn netns_of(pod: &Path, host: &NetNs, known: Option<&NetNs>) -> Option<NetNs> {
    let mut first = None;
    for (_, ns) in inside(pod, host) {
        if known.is_none_or(|known| known.inode() == ns.inode()) {
            return Some(ns);
        }
        first.get_or_insert(ns);
    }
    first
}

/// One of the processes in a pod's cgroup that do not use the host's network namespace.
pub fn process_of(pod: &Path, host: &NetNs) -> Option<u32> {
    inside(pod, host).next().map(|(pid, _)| pid)
}

fn inside(pod: &Path, host: &NetNs) -> impl Iterator<Item = (u32, NetNs)> {
    let mut processes = Vec::new();
    processes_under(pod, &mut processes);
    processes.into_iter().filter_map(|(pid, group)| {
        let ns = NetNs::open(Path::new(&format!("/proc/{pid}/ns/net"))).ok()?;
        // The number may have been given to another process between reading and opening.
        let still = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let same = unified_path(&still).is_some_and(|path| group.ends_with(path.trim_start_matches('/')));
        (same && ns.inode() != host.inode()).then_some((pid, ns))
    })
}

fn processes_under(directory: &Path, found: &mut Vec<(u32, PathBuf)>) {
    let listed = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    found.extend(listed.lines().filter_map(|pid| Some((pid.parse().ok()?, directory.to_owned()))));
    let Ok(entries) = fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        processes_under(&path, found);
    }
}

/// `kubepods/burstable/pod…` and its systemd form need two levels; one more for a surprise.
const MAX_DEPTH: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_on_hybrid_and_pure_machines() {
        let hybrid =
            "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_in(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_in("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(mount_in("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn reads_pod_uids_of_both_cgroup_drivers() {
        assert_eq!(pod_uid("pod9cb8f555-01").as_deref(), Some("9cb8f555-01"));
        assert_eq!(pod_uid("kubepods-burstable-pod9cb8_01.slice").as_deref(), Some("9cb8-01"));
        assert_eq!(pod_uid("burstable"), None);
        assert_eq!(pod_uid("pod"), None);
    }

    #[test]
    fn reads_membership() {
        assert_eq!(unified_path("1:name=x:/a\n0::/b/c\n"), Some("/b/c"));
    }
}
