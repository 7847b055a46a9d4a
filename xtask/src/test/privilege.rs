//! Whether this machine lets the suites that need root and the kernel run at all.

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell;

/// Checks for what the eBPF and end-to-end suites need of the machine.
///
/// # Errors
/// If anything is missing: all of it, in one message.
pub(super) fn require() -> Result<()> {
    let status = shell::read(shell::as_root("cat")?.arg("/proc/self/status"))?;
    let mounts = shell::read(shell::as_root("cat")?.arg("/proc/mounts"))?;
    let mut lacks = lacking(&status, &mounts);
    for (file, why) in [
        ("/proc/sys/kernel/unprivileged_bpf_disabled", "a kernel with eBPF"),
        ("/proc/self/ns/net", "a kernel with network namespaces"),
    ] {
        if !Path::new(file).exists() {
            lacks.push(why);
        }
    }
    if lacks.is_empty() {
        return Ok(());
    }
    bail!("this machine lacks {}", lacks.join(", "))
}

fn lacking(status: &str, mounts: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default();
    let mut lacks: Vec<&str> = CAPABILITIES
        .into_iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0)
        .map(|(_, what)| what)
        .collect();
    if !mounts.lines().any(|mount| mount.split(' ').nth(2) == Some("cgroup2")) {
        lacks.push("a mounted cgroup2");
    }
    lacks
}

/// Bits as in linux/capability.h. Root in a container has them only if it was given them.
const CAPABILITIES: [(u32, &str); 3] = [
    (12, "the capability CAP_NET_ADMIN (make network namespaces and links)"),
    (21, "the capability CAP_SYS_ADMIN (enter network namespaces)"),
    (39, "the capability CAP_BPF (load eBPF)"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_root_with_cgroup2_lacks_nothing() {
        let status = "Name:\tcat\nCapInh:\t0000000000000000\nCapEff:\t000001ffffffffff\n";
        assert_eq!(lacking(status, "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), Vec::<&str>::new());
    }

    #[test]
    fn a_plain_container_lacks_capabilities_and_cgroup2() {
        let lacks = lacking("CapEff:\t00000000a80425fb\n", "cgroup /sys/fs/cgroup cgroup rw 0 0\n");
        assert_eq!(lacks.len(), 4, "{lacks:?}");
        assert_eq!(lacking("", "").len(), 4);
    }
}
