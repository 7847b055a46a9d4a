use super::*;

const UID: &str = "9cb8f555-2b1c-4c59-9d1e-0f2a3b4c5d6e";
const CID: &str = "0c929c26a1f04b7d8e5c3b2a190817263544536271809fae0c929c26a1f04b7d";

#[test]
fn mounts_of_pure_hybrid_and_old_machines() {
    let v1 = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
    let hybrid = format!("{v1}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
    for (mounts, expected) in [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", Some("/sys/fs/cgroup")),
        (hybrid.as_str(), Some("/sys/fs/cgroup/unified")),
        // A container's own view, and the node's that was mounted for it.
        (
            "cgroup /run/long/mount/of/cgroup2 cgroup2 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 ro 0 0\n",
            Some("/sys/fs/cgroup"),
        ),
        ("none /mnt/cgroup\\040two cgroup2 rw 0 0\n", Some("/mnt/cgroup two")),
        (v1, None),
        ("proc /proc proc rw 0 0\nbroken\n", None),
    ] {
        assert_eq!(cgroup2_mount(mounts).as_deref(), expected, "{mounts}");
    }
}

#[test]
fn layouts_of_kubelets_and_runtimes() {
    let under = UID.replace('-', "_");
    let inner = "11111111-2222-3333-4444-555555555555";
    for (path, pods, uid, has_container) in [
        (format!("/kubepods/burstable/pod{UID}/{CID}"), "/kubepods", UID, true),
        (format!("/kubepods/besteffort/pod{UID}/{CID}"), "/kubepods", UID, true),
        (format!("/kubepods/pod{UID}/{CID}"), "/kubepods", UID, true),
        (format!("/kubepods/pod{UID}"), "/kubepods", UID, false),
        (
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-{CID}.scope"
            ),
            "/kubepods.slice",
            UID,
            true,
        ),
        (format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{CID}.scope"), "/kubepods.slice", UID, true),
        // CRI-O puts a group into the scope.
        (
            format!("/kubepods.slice/kubepods-pod{under}.slice/crio-{CID}.scope/container"),
            "/kubepods.slice",
            UID,
            true,
        ),
        (
            format!("/kubepods.slice/kubepods-pod{under}.slice/crio-conmon-{CID}.scope"),
            "/kubepods.slice",
            UID,
            false,
        ),
        // Two nodes on one kernel.
        (format!("/k1n-node2/kubepods/burstable/pod{UID}/{CID}"), "/k1n-node2/kubepods", UID, true),
        // A node that is a container.
        (
            format!(
                "/docker/{CID}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{under}.slice/cri-containerd-{CID}.scope"
            ),
            &format!("/docker/{CID}/kubelet.slice/kubelet-kubepods.slice"),
            UID,
            true,
        ),
        // A node that is a pod.
        (
            format!("/kubepods/pod{UID}/{CID}/kubelet/kubepods/pod{inner}/{CID}"),
            &format!("/kubepods/pod{UID}/{CID}/kubelet/kubepods"),
            inner,
            true,
        ),
        (
            format!(
                "/system.slice/containerd.service/kubepods-burstable-pod{under}.slice:cri-containerd:{CID}"
            ),
            "/system.slice/containerd.service",
            UID,
            true,
        ),
        // The node's own group below its container.
        (format!("/kubepods/burstable/pod{UID}/{CID}/mesh-node-n1"), "/kubepods", UID, true),
        // A pod of a file, whose uid is a digest.
        (format!("/kubepods/burstable/pod{}/{CID}", "ab".repeat(16)), "/kubepods", &"ab".repeat(16), true),
    ] {
        let member = Member::parse(&path).unwrap_or_else(|| panic!("{path}"));
        assert_eq!((member.pods, member.uid.as_str()), (pods, uid), "{path}");
        assert_eq!(member.container, has_container.then_some(CID), "{path}");
    }
}

#[test]
fn what_is_no_pod() {
    for path in [
        "/",
        "",
        "/system.slice/sshd.service",
        "/kubepods",
        "/kubepods/burstable",
        "/machine.slice/podman-1234.scope",
        "/kubepods/podruntime.slice",
        "/kubepods/pod",
        "/user.slice/pod9cb8f555/x",
        "/kubepods.slice/kubepods-burstable.slice",
        "/kubepods/pod../x",
    ] {
        assert_eq!(Member::parse(path), None, "{path}");
    }
    assert_eq!(Member::parse(&format!("/kubepods/pod{}", "a".repeat(65))), None);
}

#[test]
fn a_process_is_known_by_any_hierarchy() {
    let v1 = format!("9:name=systemd:/kubepods/pod{UID}/{CID}\n8:pids:/kubepods/pod{UID}/{CID}\n");
    for (membership, uid) in [
        (format!("{v1}0::/kubepods/pod{UID}/{CID}\n"), Some(UID)),
        // Old runtimes on hybrid machines know nothing of cgroup v2.
        (format!("{v1}0::/\n"), Some(UID)),
        (format!("{v1}0::/system.slice/containerd.service\n"), Some(UID)),
        (v1.clone(), Some(UID)),
        ("8:pids:/\n0::/\n".to_owned(), None),
        ("8:pids\n::\n".to_owned(), None),
        (String::new(), None),
    ] {
        assert_eq!(Member::of(&membership).map(|it| it.uid).as_deref(), uid, "{membership}");
    }
    assert_eq!(unified_path("1:name=x:/a\n0::/b/c\n"), Some("/b/c"));
    assert_eq!(unified_path("1:name=x:/a\n"), None);
}

#[test]
fn the_pods_of_a_node_lie_under_one_group() {
    let agent = format!("/k1n-node2/kubepods/burstable/pod{UID}/{CID}/mesh-node-node2");
    assert_eq!(pods_root(&agent), Some("/k1n-node2/kubepods"));
    assert_eq!(
        pods_root("/kubelet.slice/kubelet-kubepods.slice/x"),
        Some("/kubelet.slice/kubelet-kubepods.slice")
    );
    assert_eq!(pods_root("/system.slice/mesh-node.service"), None);
    assert_eq!(
        pods_root(&format!("/kubepods/pod{UID}/{CID}/kubelet/kubepods/x")),
        Some(&*format!("/kubepods/pod{UID}/{CID}/kubelet/kubepods"))
    );
}
