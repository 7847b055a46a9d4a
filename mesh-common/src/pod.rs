//! What the kernel programs know of a pod and of the node.

/// An enrolled pod; the key is the cookie of its network namespace, which no pod can choose.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Pod {
    /// The pod's IPv6 address, or zeros.
    pub ip6: [u8; 16],
    /// The pod's IPv4 address, or zeros.
    pub ip4: [u8; 4],
    /// Port of the outbound listener on `127.0.0.1` and `::1` in the pod, host byte order.
    pub outbound_port: u16,
    /// Port of the resolver at the same addresses, for UDP and TCP, host byte order; 0 leaves queries of DNS alone.
    pub dns_port: u16,
}

/// What holds for the whole node; entry 0 of its array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct NodeConfig {
    /// Ids of the cgroups that the node's own process, and nothing else, lives in: how its sockets are known. The second is
    /// that of its predecessor while both are there, or 0.
    pub agent_cgroups: [u64; 2],
    /// Cookie of the network namespace that the kubelet and other node processes use.
    pub host_netns: u64,
    /// `LOG_OFF`, `LOG_INFO` or `LOG_DEBUG`; changes at runtime.
    pub log_level: u32,
    /// Whether express flows may take the shortcut: 1, or 0.
    pub shortcut: u32,
}

/// The host's end of a pod's interface; the key is an address of the pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Shortcut {
    /// Index of the interface in the host's namespace.
    pub interface: u32,
    /// Hardware address of the pod's own end.
    pub hardware: [u8; 6],
    /// Always zero.
    pub reserved: [u8; 2],
}

impl NodeConfig {
    /// Whether the cgroup is the node's own; 0 is none.
    #[inline]
    pub fn is_agent(&self, cgroup: u64) -> bool {
        cgroup != 0 && (self.agent_cgroups[0] == cgroup || self.agent_cgroups[1] == cgroup)
    }
}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "a promise about the layout of plain data")]
mod user {
    use super::{NodeConfig, Pod, Shortcut};

    // SAFETY: `repr(C)` integers and arrays of them, no padding (asserted by size), every bit pattern valid.
    unsafe impl aya::Pod for Pod {}
    // SAFETY: as above.
    unsafe impl aya::Pod for NodeConfig {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Shortcut {}
}
