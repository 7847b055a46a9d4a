//! Names and capacities of the maps. A name is at most 15 characters (the kernel's limit) and says what the map
//! answers.

/// Enrolled pods by network-namespace cookie.
pub const PODS: &str = "PODS";
/// The one [`crate::NodeConfig`].
pub const NODE: &str = "NODE";
/// Per socket: the destination its application asked for.
pub const WANTED_DST: &str = "WANTED_DST";
/// Captured connections: the pod-side address of the socket → the destination its application asked for.
pub const ORIGINAL_DST: &str = "ORIGINAL_DST";
/// UDP sockets of pods by their cookie: the resolvers that they asked.
pub const RESOLVERS: &str = "RESOLVERS";
/// Per socket of the node: the client it connects for.
pub const ACTING_FOR: &str = "ACTING_FOR";
/// The node's connections to applications: local address → the client it connects for.
pub const REAL_PEERS: &str = "REAL_PEERS";
/// Sockets that are the node's own; listeners pass the mark on to what they accept.
pub const OWN_SOCKETS: &str = "OWN_SOCKETS";
/// Ports that pods declare for probes.
pub const PROBE_PORTS: &str = "PROBE_PORTS";
/// Open connections that processes of the node itself opened to declared probe ports.
pub const NODE_FLOWS: &str = "NODE_FLOWS";
/// The node's listeners inside pods.
pub const LISTENERS: &str = "LISTENERS";
/// Counters, one [`crate::Stat`] an entry.
pub const STATS: &str = "STATS";

/// Enrolled pods per node. Kubernetes recommends at most 110 pods per node; large nodes run 500.
pub const MAX_PODS: usize = 4096;
/// Captured connections between `connect` and `accept`, and open connections to applications. Least recently used
/// entries go first, so this bounds memory (about 5 MB), not connections.
pub const MAX_FLOWS: usize = 65_536;
/// Declared probe ports: three kinds of probe for a few containers of each pod.
pub const MAX_PROBE_PORTS: usize = 32_768;
/// Listeners in the socket hash: two kinds for each address of a pod.
pub const MAX_LISTENERS: usize = 4 * MAX_PODS;
