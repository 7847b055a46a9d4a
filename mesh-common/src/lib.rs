//! The ABI between the kernel programs (`mesh-ebpf`) and the node (`mesh-node`): what the maps hold, what they
//! are called, how large they are. Both sides compile this one source; [`ABI`] names the pin directory, so two
//! versions never share a map.
//!
//! Invariants: every type is plain old data without hidden padding (the asserts below), ports are in host byte
//! order and addresses are 16 bytes with IPv4 in its IPv4-mapped form, so that one map serves every socket
//! family and `bpftool map dump` prints what a person expects.
#![no_std]

mod express;
mod flow;
pub mod maps;
mod pod;
mod stats;

pub use express::{Backend, Backends, ExpressEvent, ExpressFlow, Mark, Question, Verdict};
pub use flow::{
    Address, Endpoint, Flow, ListenerKey, LocalSocket, OriginalDestination, RealPeer, Resolvers, Seen,
};
pub use pod::{NodeConfig, Pod, Shortcut};
pub use stats::Stat;

/// Version of everything in this crate, and of what the suite `ebpf` has recorded of the maps.
///
/// Agents that replace each other share the maps of a version, so that no connection ends. A map whose key, value, size or meaning has to
/// change gets a new name, and is filled from the one before by the agent, before programs read it; the version changes only where that cannot be.
pub const ABI: &str = "v4";

/// Port of the outbound listener in each enrolled pod, where nothing else in the pod holds it.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of the resolver in each enrolled pod, where nothing else in the pod holds it.
pub const DNS_PORT: u16 = 15053;
/// The port that names are asked at, of UDP and TCP.
pub const DOMAIN: u16 = 53;
/// Port of the listener for plaintext arriving at an enrolled pod.
pub const INBOUND_PLAINTEXT_PORT: u16 = 15006;
/// Port of the tunnel (HBONE), the only port that carries traffic between nodes.
pub const TUNNEL_PORT: u16 = 15008;

/// Log level of the kernel programs: nothing.
pub const LOG_OFF: u32 = 0;
/// Log level of the kernel programs: refusals and drops.
pub const LOG_INFO: u32 = 1;
/// Log level of the kernel programs: every decision.
pub const LOG_DEBUG: u32 = 2;

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Resolvers>() == 40);
    assert!(size_of::<LocalSocket>() == 32);
    assert!(size_of::<Flow>() == 36);
    assert!(size_of::<ListenerKey>() == 20);
    assert!(size_of::<Seen>() == 8);
    assert!(size_of::<Pod>() == 24);
    assert!(size_of::<NodeConfig>() == 32);
};
