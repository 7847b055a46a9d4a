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
/// Ports of a machine's own addresses that are in the mesh, where the node serves processes of the machine itself.
pub const HOST_PORTS: &str = "HOST_PORTS";
/// What is decided about connections between pods of this node.
pub const VERDICTS: &str = "VERDICTS";
/// Services whose pods are all on this node.
pub const BACKENDS: &str = "BACKENDS";
/// Per socket of an express flow: its [`crate::Mark`].
pub const EXPRESS_MARKS: &str = "EXPRESS_MARKS";
/// Express flows that are open.
pub const EXPRESS_FLOWS: &str = "EXPRESS_FLOWS";
/// How many there are.
pub const EXPRESS_OPEN: &str = "EXPRESS_OPEN";
/// What is told of express flows, for the node to read.
pub const EVENTS: &str = "EVENTS";
/// Where the interfaces of pods are, by address.
pub const SHORTCUTS: &str = "SHORTCUTS";
/// Counters, one [`crate::Stat`] an entry.
pub const STATS: &str = "STATS";

/// Enrolled pods per node. Kubernetes recommends at most 110 pods per node; large nodes run 500.
pub const MAX_PODS: usize = 4096;
/// Captured connections between `connect` and `accept`, and open connections to applications. Least recently used
/// entries go first, so this bounds memory (about 5 MB), not connections.
pub const MAX_FLOWS: usize = 65_536;
/// Express flows that are open at a time; further connects go to the proxy. Half of what their map holds, and never more, so
/// that no open flow is pushed out of it: one that the node does not know of would go on whatever policy says.
pub const MAX_EXPRESS_FLOWS: u64 = MAX_FLOWS as u64 / 2;
/// Verdicts: two hundred pods with one for each other, and half as many again for ports that policies name.
pub const MAX_VERDICTS: usize = 65_536;
/// Services that pods of one node see with all of their pods on that node.
pub const MAX_BACKENDS: usize = 8_192;
/// Bytes of events that wait for the node: about 9,000.
pub const MAX_EVENT_BYTES: usize = 1 << 20;
/// Declared probe ports: three kinds of probe for a few containers of each pod.
pub const MAX_PROBE_PORTS: usize = 32_768;
/// Ports of the machine itself: those of a WorkloadEntry, at each of its addresses.
pub const MAX_HOST_PORTS: usize = 4096;
/// Listeners in the socket hash: two kinds for each address of a pod.
pub const MAX_LISTENERS: usize = 4 * MAX_PODS;
