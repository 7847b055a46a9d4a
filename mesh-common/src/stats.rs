//! Counters of the kernel programs.

/// What is counted; the index in the `STATS` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stat {
    /// Connects sent to the node.
    Captured = 0,
    /// Connects refused because their destination could not be remembered.
    CaptureRefused = 1,
    /// Connections to the plaintext listener.
    SteeredPlaintext = 2,
    /// Connections to the tunnel listener.
    SteeredTunnel = 3,
    /// Connections of node processes let through to declared probe ports.
    ProbesPassed = 4,
    /// Inbound connections dropped because the node's listener is gone.
    DroppedNoListener = 5,
    /// Packets of a pod that tried to leave around the node.
    DroppedEgress = 6,
    /// Packets that tried to reach a pod around the node.
    DroppedIngress = 7,
    /// Connects that took the express path.
    Express = 8,
    /// Connects that a verdict refused.
    ExpressRefused = 9,
    /// Express flows let past the node at the server's end.
    ExpressPassed = 10,
    /// Events that found no room: flows that are in no metric.
    ExpressEventsLost = 11,
    /// Connects left to the proxy because as many express flows are open as may be.
    ExpressFull = 12,
}

impl Stat {
    /// Every counter with the name it has in metrics and on the admin page.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::Captured, "captured"),
        (Self::CaptureRefused, "capture_refused"),
        (Self::SteeredPlaintext, "steered_plaintext"),
        (Self::SteeredTunnel, "steered_tunnel"),
        (Self::ProbesPassed, "probes_passed"),
        (Self::DroppedNoListener, "dropped_no_listener"),
        (Self::DroppedEgress, "dropped_egress"),
        (Self::DroppedIngress, "dropped_ingress"),
        (Self::Express, "express"),
        (Self::ExpressRefused, "express_refused"),
        (Self::ExpressPassed, "express_passed"),
        (Self::ExpressEventsLost, "express_events_lost"),
        (Self::ExpressFull, "express_full"),
    ];
    /// Entries of the `STATS` map.
    pub const COUNT: usize = Self::ALL.len();
}
