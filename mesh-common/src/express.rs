//! The express path: connections between pods of one node that the kernel decides about by itself.

use crate::flow::{Address, Endpoint};

/// A connection before it is made: from a pod to an address.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Question {
    /// Cookie of the pod's network namespace.
    pub netns: u64,
    /// Where to.
    pub ip: Address,
    /// Host byte order; [`Question::ANY_PORT`] stands for all ports that have no entry of their own.
    pub port: u16,
    /// Always zero.
    pub reserved: [u16; 3],
}

/// What the policy engine has said about a connection to a pod of this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Verdict {
    /// [`Verdict::ALLOW`] or [`Verdict::DENY`].
    pub action: u32,
    /// Number of the source's identity, see [`Mark`].
    pub source: u32,
    /// Number of the destination's identity.
    pub destination: u32,
    /// Always zero.
    pub reserved: u32,
}

/// The pods of this node that are all there is behind a port of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Backends {
    /// How many of the following there are; at least one.
    pub count: u32,
    /// Number of the source's identity.
    pub source: u32,
    /// Connections to each of them are allowed.
    pub all: [Backend; Backends::MAX],
}

/// One of the pods behind a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Backend {
    /// Where it listens.
    pub at: Endpoint,
    /// Number of its identity.
    pub identity: u32,
}

/// What the kernel notes on both sockets of an express flow. Only kernel programs write it, but for the node's own sockets
/// ([`Mark::CARRIED`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Mark {
    /// Nanoseconds since boot at `connect`.
    pub started_ns: u64,
    /// Cookie of the client's network namespace.
    pub netns: u64,
    /// What the application asked for, or all zeros if that is where the connection leads. Of a connection that the node
    /// carries: the client that its server is shown.
    pub wanted: Endpoint,
    /// Number of the client's identity: the node gives every workload one, the same for as long as it runs.
    pub source: u32,
    /// Number of the server's identity.
    pub destination: u32,
    /// [`Mark::CLIENT`], [`Mark::SERVER`] or [`Mark::CARRIED`].
    pub side: u32,
}

/// An express flow that is open; the key is its [`Flow`](crate::Flow).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ExpressFlow {
    /// What its sockets bear.
    pub mark: Mark,
    /// Bits: [`ExpressFlow::ESTABLISHED`], [`ExpressFlow::SHORTCUT`].
    pub state: u32,
    /// What was decided: [`Verdict::ALLOW`].
    pub verdict: u32,
    /// Payload from the client that went by the host's end, bytes.
    pub sent: u64,
    /// Payload to the client, bytes.
    pub received: u64,
}

/// What the kernel tells of a flow that has ended, or was refused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ExpressEvent {
    /// What the client's socket bore.
    pub mark: Mark,
    /// Nanoseconds since boot.
    pub at_ns: u64,
    /// Payload bytes that the server's kernel has confirmed.
    pub sent: u64,
    /// Payload bytes that the client's kernel has received.
    pub received: u64,
    /// The connection; without a port of the client if it was refused.
    pub flow: crate::Flow,
    /// [`ExpressEvent::ENDED`], [`ExpressEvent::REFUSED`] or [`ExpressEvent::FAILED`].
    pub kind: u32,
}

impl Question {
    /// All ports without an entry of their own.
    pub const ANY_PORT: u16 = 0;

    /// A connection from a namespace.
    pub const fn new(netns: u64, ip: Address, port: u16) -> Self {
        Self { netns, ip, port, reserved: [0; 3] }
    }
}

impl Verdict {
    /// The connection may be made.
    pub const ALLOW: u32 = 1;
    /// The connection is refused.
    pub const DENY: u32 = 2;
}

impl Backends {
    /// Services with more pods on one node are left to the proxy.
    pub const MAX: usize = 8;
}

impl Mark {
    /// The socket of whoever has connected.
    pub const CLIENT: u32 = 1;
    /// The socket that was accepted.
    pub const SERVER: u32 = 2;
    /// A socket of the node's own in the client's pod, which goes to the server the way that a socket of the client's would.
    pub const CARRIED: u32 = 3;
}

impl ExpressFlow {
    /// Both ends have agreed.
    pub const ESTABLISHED: u32 = 1;
    /// Its packets go from one pod's interface straight into the other's.
    pub const SHORTCUT: u32 = 2;
}

impl ExpressEvent {
    /// The flow was established and is over.
    pub const ENDED: u32 = 1;
    /// A verdict refused it.
    pub const REFUSED: u32 = 2;
    /// It was allowed and never established: nobody listens there.
    pub const FAILED: u32 = 3;
}

const _: () = {
    assert!(size_of::<Question>() == 32);
    assert!(size_of::<Verdict>() == 16);
    assert!(size_of::<Backend>() == 24);
    assert!(size_of::<Backends>() == 8 + 24 * Backends::MAX);
    assert!(size_of::<Mark>() == 48);
    assert!(size_of::<ExpressFlow>() == 72);
    assert!(size_of::<ExpressEvent>() == 112);
};

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "a promise about the layout of plain data")]
mod user {
    use super::{Backends, ExpressEvent, ExpressFlow, Mark, Question, Verdict};

    // SAFETY: `repr(C)` integers and arrays of them, no padding (asserted by size), every bit pattern valid.
    unsafe impl aya::Pod for Question {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Verdict {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Backends {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Mark {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ExpressFlow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ExpressEvent {}
}
