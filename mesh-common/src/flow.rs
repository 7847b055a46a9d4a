//! Addresses, connections and what is remembered about them.

/// An IP address: IPv6, or IPv4 in its IPv4-mapped form (`::ffff:a.b.c.d`), in network byte order.
pub type Address = [u8; 16];

/// An address and a port (host byte order).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Endpoint {
    /// The address.
    pub ip: Address,
    /// The port, host byte order.
    pub port: u16,
    /// Always zero; keeps the layout free of hidden padding.
    pub reserved: u16,
}

/// Where the application wanted to connect before capture sent it to the node.
pub type OriginalDestination = Endpoint;

/// Whom a socket has asked for names, before capture sent its queries to the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Resolvers {
    /// The last one.
    pub last: Endpoint,
    /// The last other one; all zeros if there was none. Some programs ask several at once from one socket.
    pub before: Endpoint,
}

/// The client on whose behalf the node connects to an application.
pub type RealPeer = Endpoint;

/// A socket's own address in one network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct LocalSocket {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Local address of the socket.
    pub ip: Address,
    /// Local port, host byte order.
    pub port: u16,
    /// Always zero.
    pub reserved: [u16; 3],
}

/// One TCP connection by its four-tuple, seen from the side that opened it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Flow {
    /// Address of the opener.
    pub source: Address,
    /// Address connected to.
    pub destination: Address,
    /// Port of the opener, host byte order.
    pub source_port: u16,
    /// Port connected to, host byte order.
    pub destination_port: u16,
}

/// When a flow was recorded.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Seen {
    /// Nanoseconds since boot.
    pub at_ns: u64,
}

/// Names one of the node's listeners in one pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ListenerKey {
    /// The pod's address.
    pub ip: Address,
    /// [`ListenerKey::PLAINTEXT`] or [`ListenerKey::TUNNEL`].
    pub kind: u32,
}

impl Endpoint {
    /// An endpoint from its parts.
    pub const fn new(ip: Address, port: u16) -> Self {
        Self { ip, port, reserved: 0 }
    }
}

impl LocalSocket {
    /// A socket address in the namespace with this cookie.
    pub const fn new(netns: u64, ip: Address, port: u16) -> Self {
        Self { netns, ip, port, reserved: [0; 3] }
    }
}

impl ListenerKey {
    /// Everything but the tunnel: plaintext for whatever port it was meant.
    pub const PLAINTEXT: u32 = 1;
    /// Connections to the tunnel port.
    pub const TUNNEL: u32 = 2;
}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "a promise about the layout of plain data")]
mod user {
    use super::{Endpoint, Flow, ListenerKey, LocalSocket, Resolvers, Seen};

    // SAFETY: `repr(C)` integers and arrays of them, no padding (asserted by size), every bit pattern valid.
    unsafe impl aya::Pod for Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Resolvers {}
    // SAFETY: as above.
    unsafe impl aya::Pod for LocalSocket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Seen {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ListenerKey {}
}
