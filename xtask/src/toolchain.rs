//! The choice of the eBPF toolchain: the very file that the node's build script uses, so that they cannot disagree.

#[path = "../../mesh-node/build/ebpf.rs"]
mod ebpf;

pub(crate) use ebpf::*;

#[cfg(test)]
mod tests;
