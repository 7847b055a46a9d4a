//! Control groups as text: where cgroup v2 is mounted, which pod a process is of, and under what the pods of a node lie.
//!
//! Kubelets name cgroups in two ways (their "drivers"), runtimes add theirs for containers, and all of it may lie below
//! some other group: another node's on the same kernel, or a container that is a node. Names decide nothing about
//! identity: a pod that is found by them is then known by its network namespace.

/// The mount point of cgroup v2 among the lines of `/proc/mounts`; the shortest, where there are several.
pub fn cgroup2_mount(mounts: &str) -> Option<String> {
    let points = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| unescaped(at))
    });
    points.min_by_key(String::len)
}

/// A process's group in cgroup v2, by its `/proc/PID/cgroup`.
pub fn unified_path(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| line.strip_prefix("0::"))
}

/// A cgroup of a pod, by its path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'p> {
    /// Under what the pods of its node lie: a prefix of the path.
    pub pods: &'p str,
    /// The pod's uid, with dashes.
    pub uid: String,
    /// The container's id, if the path leads into one.
    pub container: Option<&'p str>,
}

impl<'p> Member<'p> {
    /// Reads a path such as `/kubepods/burstable/pod<uid>/<container>`; the innermost pod, where a node is itself in one.
    pub fn parse(path: &'p str) -> Option<Self> {
        let parts = || path.split('/').filter(|part| !part.is_empty());
        // containerd with the driver of cgroupfs under a kubelet with that of systemd: all in one name.
        if let Some((slice, container)) =
            parts().next_back().and_then(|last| last.split_once(":cri-containerd:"))
        {
            let uid = pod_uid(slice)?;
            let pods = path.rsplit_once('/').map_or("", |(above, _)| above);
            return Some(Self { pods, uid, container: container_id(container) });
        }
        let (mut offset, mut pods, mut found) = (0, None, None::<(String, Option<&str>)>);
        for part in path.split('/') {
            let end = offset + part.len();
            if is_pods_root(part) {
                (pods, found) = (path.get(..end), None);
            } else if let Some((_, container)) = &mut found {
                *container = container.or_else(|| container_id(part));
            } else if pods.is_some() {
                found = pod_uid(part).map(|uid| (uid, None));
            }
            offset = end + 1;
        }
        let (uid, container) = found?;
        Some(Self { pods: pods?, uid, container })
    }

    /// The pod of a process, by its `/proc/PID/cgroup`: cgroup v2 where that tells, else any hierarchy of v1.
    pub fn of(membership: &'p str) -> Option<Self> {
        let v1 = membership.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        unified_path(membership).into_iter().chain(v1).find_map(Self::parse)
    }
}

/// Whether a cgroup's name is that of the one which holds all pods of a node.
pub fn is_pods_root(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name.ends_with("-kubepods.slice")
}

/// The innermost group on a path that holds all pods of a node: that of the node which runs whoever has the path.
pub fn pods_root(path: &str) -> Option<&str> {
    let mut offset = 0;
    let ends = path.split('/').map(|part| {
        let end = offset + part.len();
        offset = end + 1;
        (part, end)
    });
    let last = ends.filter(|(part, _)| is_pods_root(part)).last();
    last.and_then(|(_, end)| path.get(..end))
}

/// The uid that a pod's cgroup has in its name: `pod<uid>`, or `…-pod<uid with underscores>.slice`.
pub fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid.to_owned(),
        None => name.strip_suffix(".slice")?.rsplit_once("-pod")?.1.replace('_', "-"),
    };
    // A UUID, or a digest for pods that a kubelet has from a file: `podman-1.scope` is neither.
    let fits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b) || b == b'-';
    (!uid.is_empty() && uid.len() <= MAX_UID && uid.bytes().all(fits)).then_some(uid)
}

/// The id that a container's cgroup has in its name: alone, or as `<runtime>-<id>.scope`.
pub fn container_id(name: &str) -> Option<&str> {
    let bare = name.strip_suffix(".scope").unwrap_or(name);
    if bare.starts_with("crio-conmon-") {
        return None;
    }
    let id = RUNTIMES.iter().find_map(|runtime| bare.strip_prefix(runtime)).unwrap_or(bare);
    (id.len() >= MIN_CONTAINER_ID && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
}

/// The kernel writes blanks in paths of mounts as `\040`.
fn unescaped(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, text)| path.replace(code, text))
}

const RUNTIMES: [&str; 4] = ["cri-containerd-", "crio-", "docker-", "libpod-"];
/// A UUID has 36.
const MAX_UID: usize = 64;
/// Runtimes use 64; some tools 32.
const MIN_CONTAINER_ID: usize = 32;

#[cfg(test)]
mod tests;
