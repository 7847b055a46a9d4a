//! Counts of what the proxy refused, dropped or survived outside the life of one reported connection.
//!
//! The set is closed: an event is a variant, never text of somebody's choosing, so its label sets are bounded.

use std::sync::atomic::{AtomicU64, Ordering};

use mesh_proto::names::ResourceType;

use crate::tls::Protocol;

/// Something worth a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A TLS handshake failed: no common parameters, an untrusted chain, an alert.
    HandshakeTls,
    /// A chain was good, the identity in it was not the one expected or not acceptable.
    HandshakeIdentity,
    /// A handshake did not end in time.
    HandshakeDeadline,
    /// A connection was dropped because too many handshakes were under way.
    HandshakeOverload,
    /// Plaintext where `PeerAuthentication` is STRICT.
    DeniedMutualTls,
    /// A DENY policy matched.
    DeniedPolicy,
    /// ALLOW policies apply and none matched.
    DeniedNoAllow,
    /// No configuration is loaded yet.
    DeniedNotLoaded,
    /// The destination is not what, or not where, the configuration says.
    DeniedTarget,
    /// A live connection ended because a policy change forbids it.
    DeniedLater,
    /// A request on a tunnel that is not CONNECT.
    GarbageMethod,
    /// A CONNECT request whose authority is not a plain address and port.
    GarbageAuthority,
    /// A CONNECT request for an address that is not the pod it reached.
    GarbageTarget,
    /// A peer that does not speak HTTP/2 as it should, or sends more of it than it may.
    GarbageProtocol,
    /// An HTTP request that is malformed, or that two programs could read in two ways.
    GarbageRequest,
    /// `accept()` failed: no file descriptor left.
    AcceptDescriptors,
    /// `accept()` failed: no memory.
    AcceptMemory,
    /// `accept()` failed for another reason.
    AcceptOther,
    /// A captured connection whose original destination is not known.
    LostDestination,
    /// A connection closed at once because a limit of the process was reached.
    ShedConnections,
    /// A connection closed at once because a limit of its pod was reached.
    ShedPod,
    /// A connection closed because a limit of connections in a time was reached.
    ShedRate,
    /// A connection closed because too many are open.
    ShedOpen,
    /// A session of datagrams given up for a newer one.
    ShedSession,
    /// A datagram of a client for whose session there is no room.
    DatagramNoRoom,
    /// A datagram of a client that is refused a session.
    DatagramRefused,
    /// A datagram, or an answer to one, that could not be sent at once.
    DatagramQueue,
    /// A datagram that is too long for its way.
    DatagramSize,
    /// A datagram from or to an address that cannot be answered from or to.
    DatagramAddress,
    /// A datagram of somebody new to a listener that is being closed.
    DatagramLeaving,
    /// A request refused because a rate limit service says nothing.
    LimitServiceDenied,
    /// A request let through although a rate limit service says nothing.
    LimitServicePassed,
    /// A request refused because an authorizer says nothing.
    AuthorizerDenied,
    /// A request let through although an authorizer says nothing.
    AuthorizerPassed,
    /// A request refused because of a token that no rule accepts.
    TokenRefused,
    /// A connection refused because the waypoint that it has to go through cannot be used.
    NoWaypoint,
    /// A tunnel of HBONE that a peer has made to this process.
    TunnelHbone,
    /// A tunnel of `mesh/1` that a peer has made to this process.
    TunnelMesh,
    /// A request to the admin port for a host that is not this one.
    AdminHost,
    /// A connection to an admin port beyond its limit.
    AdminConnections,
    /// An access-log line that found the queue full or could not be written.
    AccessLogDropped,
    /// A label set beyond the cap, counted under `unknown` labels instead.
    LabelOverflow,
    /// A span that its collector has taken.
    SpanSent,
    /// A span for which there was no room.
    SpanNoRoom,
    /// A span whose collector could not be reached, or did not take it.
    SpanUndelivered,
    /// An entry of an access log that its service has taken.
    LogSent,
    /// An entry of an access log for which there was no room.
    LogNoRoom,
    /// An entry of an access log whose service could not be reached, or did not take it.
    LogUndelivered,
    /// A message of the control plane about roots.
    ToldTrust,
    /// A message of the control plane about the mesh's settings.
    ToldMesh,
    /// A message of the control plane about policies.
    ToldAuthorization,
    /// A message of the control plane about certificates of gateways.
    ToldCredential,
    /// A message of the control plane about rules.
    ToldConfig,
    /// A message of the control plane about pods of this node.
    ToldLocalPod,
    /// A message of the control plane about workloads and services.
    ToldAddress,
    /// An attempt to connect to the control plane that has failed.
    ControlUnreached,
    /// A connection to the control plane that has broken.
    ControlLost,
    /// A connection that the control plane has ended.
    ControlEnded,
    /// Something for whose sake a name was looked up.
    NameLookedUp,
    /// A pod whose traffic was captured.
    ProxyStarted,
    /// A pod that was let go of.
    ProxyStopped,
    /// A task that panicked; must stay 0.
    Panic,
}

impl Event {
    /// Every event; an event's place in it is its discriminant.
    pub const ALL: [Self; 62] = [
        Self::HandshakeTls,
        Self::HandshakeIdentity,
        Self::HandshakeDeadline,
        Self::HandshakeOverload,
        Self::DeniedMutualTls,
        Self::DeniedPolicy,
        Self::DeniedNoAllow,
        Self::DeniedNotLoaded,
        Self::DeniedTarget,
        Self::DeniedLater,
        Self::GarbageMethod,
        Self::GarbageAuthority,
        Self::GarbageTarget,
        Self::GarbageProtocol,
        Self::GarbageRequest,
        Self::AcceptDescriptors,
        Self::AcceptMemory,
        Self::AcceptOther,
        Self::LostDestination,
        Self::ShedConnections,
        Self::ShedPod,
        Self::ShedRate,
        Self::ShedOpen,
        Self::ShedSession,
        Self::DatagramNoRoom,
        Self::DatagramRefused,
        Self::DatagramQueue,
        Self::DatagramSize,
        Self::DatagramAddress,
        Self::DatagramLeaving,
        Self::LimitServiceDenied,
        Self::LimitServicePassed,
        Self::AuthorizerDenied,
        Self::AuthorizerPassed,
        Self::TokenRefused,
        Self::NoWaypoint,
        Self::TunnelHbone,
        Self::TunnelMesh,
        Self::AdminHost,
        Self::AdminConnections,
        Self::AccessLogDropped,
        Self::LabelOverflow,
        Self::SpanSent,
        Self::SpanNoRoom,
        Self::SpanUndelivered,
        Self::LogSent,
        Self::LogNoRoom,
        Self::LogUndelivered,
        Self::ToldTrust,
        Self::ToldMesh,
        Self::ToldAuthorization,
        Self::ToldCredential,
        Self::ToldConfig,
        Self::ToldLocalPod,
        Self::ToldAddress,
        Self::ControlUnreached,
        Self::ControlLost,
        Self::ControlEnded,
        Self::NameLookedUp,
        Self::ProxyStarted,
        Self::ProxyStopped,
        Self::Panic,
    ];

    /// The metric family this event counts in.
    pub const fn family(self) -> &'static Family {
        match self {
            Self::HandshakeTls
            | Self::HandshakeIdentity
            | Self::HandshakeDeadline
            | Self::HandshakeOverload => &HANDSHAKES,
            Self::DeniedMutualTls
            | Self::DeniedPolicy
            | Self::DeniedNoAllow
            | Self::DeniedNotLoaded
            | Self::DeniedTarget
            | Self::DeniedLater => &DENIED,
            Self::GarbageMethod
            | Self::GarbageAuthority
            | Self::GarbageTarget
            | Self::GarbageProtocol
            | Self::GarbageRequest => &GARBAGE,
            Self::AcceptDescriptors | Self::AcceptMemory | Self::AcceptOther => &ACCEPT,
            Self::LostDestination
            | Self::ShedConnections
            | Self::ShedPod
            | Self::ShedRate
            | Self::ShedOpen
            | Self::ShedSession => &SHED,
            Self::DatagramNoRoom
            | Self::DatagramRefused
            | Self::DatagramQueue
            | Self::DatagramSize
            | Self::DatagramAddress
            | Self::DatagramLeaving => &DATAGRAMS,
            Self::LimitServiceDenied | Self::LimitServicePassed => &LIMIT_SERVICE,
            Self::AuthorizerDenied | Self::AuthorizerPassed => &AUTHORIZERS,
            Self::TokenRefused => &TOKENS,
            Self::NoWaypoint => &WAYPOINT,
            Self::TunnelHbone => &TUNNELS_HBONE,
            Self::TunnelMesh => &TUNNELS_MESH,
            Self::AdminHost | Self::AdminConnections => &ADMIN,
            Self::AccessLogDropped => &ACCESS_LOG,
            Self::LabelOverflow => &OVERFLOW,
            Self::SpanSent => &SPANS_SENT,
            Self::SpanNoRoom | Self::SpanUndelivered => &SPANS_DROPPED,
            Self::LogSent => &LOGS_SENT,
            Self::LogNoRoom | Self::LogUndelivered => &LOGS_DROPPED,
            Self::ToldTrust
            | Self::ToldMesh
            | Self::ToldAuthorization
            | Self::ToldCredential
            | Self::ToldConfig
            | Self::ToldLocalPod
            | Self::ToldAddress => &MESSAGES,
            Self::ControlUnreached | Self::ControlLost | Self::ControlEnded => &CONTROL,
            Self::NameLookedUp => &NAMES,
            Self::ProxyStarted => &STARTED,
            Self::ProxyStopped => &STOPPED,
            Self::Panic => &PANICS,
        }
    }

    /// The value of its family's label; empty for an event that has its family to itself.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::HandshakeTls => "tls",
            Self::HandshakeIdentity => "identity",
            Self::HandshakeDeadline => "deadline",
            Self::HandshakeOverload => "overload",
            Self::DeniedMutualTls => "mutual_tls",
            Self::DeniedPolicy => "policy",
            Self::DeniedNoAllow => "no_allow",
            Self::DeniedNotLoaded => "not_loaded",
            Self::DeniedLater => "changed",
            Self::GarbageMethod => "method",
            Self::GarbageAuthority => "authority",
            Self::DeniedTarget | Self::GarbageTarget => "target",
            Self::GarbageProtocol => "protocol",
            Self::GarbageRequest => "request",
            Self::AcceptDescriptors => "descriptors",
            Self::AcceptMemory => "memory",
            Self::AcceptOther => "other",
            Self::LostDestination => "destination",
            Self::ShedPod => "pod",
            Self::ShedRate => "rate",
            Self::ShedOpen => "open",
            Self::ShedSession => "session",
            Self::DatagramNoRoom => "sessions",
            Self::DatagramRefused => "refused",
            Self::DatagramQueue | Self::SpanNoRoom | Self::LogNoRoom => "queue",
            Self::DatagramSize => "size",
            Self::DatagramAddress => "address",
            Self::DatagramLeaving => "leaving",
            Self::LimitServiceDenied | Self::AuthorizerDenied => "denied",
            Self::LimitServicePassed | Self::AuthorizerPassed => "passed",
            Self::AdminHost => "host",
            Self::ShedConnections | Self::AdminConnections => "connections",
            Self::SpanUndelivered | Self::LogUndelivered => "delivery",
            Self::ToldTrust => ResourceType::Trust.url(),
            Self::ToldMesh => ResourceType::Mesh.url(),
            Self::ToldAuthorization => ResourceType::Authorization.url(),
            Self::ToldCredential => ResourceType::Credential.url(),
            Self::ToldConfig => ResourceType::Config.url(),
            Self::ToldLocalPod => ResourceType::LocalPod.url(),
            Self::ToldAddress => ResourceType::Address.url(),
            Self::ControlUnreached => "ConnectionError",
            Self::ControlLost => "Error",
            Self::ControlEnded => "Complete",
            Self::NameLookedUp
            | Self::ProxyStarted
            | Self::ProxyStopped
            | Self::TokenRefused
            | Self::NoWaypoint
            | Self::TunnelHbone
            | Self::TunnelMesh
            | Self::AccessLogDropped
            | Self::LabelOverflow
            | Self::SpanSent
            | Self::LogSent
            | Self::Panic => "",
        }
    }

    /// The event that counts a tunnel.
    pub const fn tunnel(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Hbone => Self::TunnelHbone,
            Protocol::Mesh => Self::TunnelMesh,
        }
    }

    /// The event that counts a message of the control plane.
    pub const fn message(about: ResourceType) -> Self {
        match about {
            ResourceType::Trust => Self::ToldTrust,
            ResourceType::Mesh => Self::ToldMesh,
            ResourceType::Authorization => Self::ToldAuthorization,
            ResourceType::Credential => Self::ToldCredential,
            ResourceType::Config => Self::ToldConfig,
            ResourceType::LocalPod => Self::ToldLocalPod,
            ResourceType::Address => Self::ToldAddress,
        }
    }

    /// The event that counts a refusal by policy.
    pub fn denied(by: &mesh_core::policy::DeniedBy) -> Self {
        use mesh_core::policy::DeniedBy;
        match by {
            DeniedBy::MutualTls { .. } => Self::DeniedMutualTls,
            DeniedBy::Policy { .. } => Self::DeniedPolicy,
            DeniedBy::NoAllowMatched { .. } => Self::DeniedNoAllow,
            DeniedBy::NotLoaded | DeniedBy::PolicyMissing { .. } => Self::DeniedNotLoaded,
            _ => Self::DeniedTarget,
        }
    }
}

/// A metric family of events.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Metric name, without the `_total` that the text format adds to counters.
    pub name: &'static str,
    /// One line for people, without a full stop.
    pub help: &'static str,
}

impl Family {
    /// The label that tells its events apart.
    pub fn label(&self) -> &'static str {
        if *self == MESSAGES { "url" } else { "reason" }
    }
}

/// One counter per event. Any thread may count.
#[derive(Debug)]
pub(super) struct Events([AtomicU64; Event::ALL.len()]);

impl Default for Events {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Events {
    /// Adds one.
    pub(super) fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Adds several.
    pub(super) fn add(&self, event: Event, n: u64) {
        // The array is as long as the enum has variants.
        if let Some(counter) = self.0.get(event as usize) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// How often an event has happened.
    pub(super) fn value(&self, event: Event) -> u64 {
        self.0.get(event as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

static HANDSHAKES: Family =
    Family { name: "mesh_handshakes_refused", help: "TLS handshakes that did not end in a tunnel" };
static DENIED: Family =
    Family { name: "mesh_connections_denied", help: "Connections refused or ended by policy" };
static GARBAGE: Family =
    Family { name: "mesh_invalid_requests", help: "Requests that are malformed or ask for what is not here" };
static ACCEPT: Family = Family { name: "mesh_accept_errors", help: "Failures of accept()" };
static SHED: Family = Family {
    name: "mesh_connections_shed",
    help: "Connections closed at once: over a limit, or origin unknown",
};
static DATAGRAMS: Family =
    Family { name: "mesh_datagrams_dropped", help: "Datagrams at gateways that were not sent on" };
static LIMIT_SERVICE: Family = Family {
    name: "mesh_rate_limit_service_failures",
    help: "Requests of which a rate limit service said nothing, and what became of them",
};
static AUTHORIZERS: Family = Family {
    name: "mesh_authorizer_failures",
    help: "Requests of which an external authorizer said nothing, and what became of them",
};
static SPANS_SENT: Family = Family { name: "mesh_spans_sent", help: "Spans that a collector has taken" };
static SPANS_DROPPED: Family =
    Family { name: "mesh_spans_dropped", help: "Spans that no collector has taken" };
static LOGS_SENT: Family =
    Family { name: "mesh_log_entries_sent", help: "Entries of access logs that a service has taken" };
static LOGS_DROPPED: Family =
    Family { name: "mesh_log_entries_dropped", help: "Entries of access logs that no service has taken" };
static TOKENS: Family = Family {
    name: "mesh_tokens_refused",
    help: "Requests refused because of a token that no RequestAuthentication accepts",
};
static TUNNELS_HBONE: Family = Family {
    name: "mesh_tunnels_taken_hbone",
    help: "Tunnels of HBONE that peers have made to this process",
};
static TUNNELS_MESH: Family = Family {
    name: "mesh_tunnels_taken_mesh",
    help: "Tunnels of mesh/1 that peers have made to this process",
};
static WAYPOINT: Family = Family {
    name: "mesh_waypoint_unavailable",
    help: "Connections refused because the waypoint that they have to go through cannot be used",
};
static ADMIN: Family = Family { name: "mesh_admin_refused", help: "Refused use of the admin ports" };
static ACCESS_LOG: Family = Family {
    name: "mesh_access_log_dropped",
    help: "Access-log lines lost because their reader is too slow",
};
static OVERFLOW: Family = Family {
    name: "mesh_label_sets_overflow",
    help: "Connections and requests counted under unknown labels because there are too many label sets",
};
/// These five have the names and labels that Istio's node proxy has for them.
static MESSAGES: Family =
    Family { name: "istio_xds_message", help: "Messages of the control plane, by what they are about" };
static CONTROL: Family = Family {
    name: "istio_xds_connection_terminations",
    help: "Connections to the control plane that have ended or not come about",
};
static NAMES: Family = Family {
    name: "istio_on_demand_dns",
    help: "Connections and requests for whose sake a name was looked up",
};
static STARTED: Family =
    Family { name: "workload_manager_proxies_started", help: "Pods whose traffic was captured" };
static STOPPED: Family =
    Family { name: "workload_manager_proxies_stopped", help: "Pods that were let go of" };
static PANICS: Family = Family { name: "mesh_panics", help: "Tasks that panicked" };

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_event_has_its_own_place_and_its_own_label_set() {
        let mut sets = BTreeSet::new();
        for (place, event) in Event::ALL.into_iter().enumerate() {
            assert_eq!(event as usize, place);
            assert!(sets.insert((event.family().name, event.reason())), "{event:?} shares a label set");
            assert!(!event.family().name.ends_with("_total"), "the text format adds it");
        }
    }

    #[test]
    fn the_events_of_a_family_are_neighbours() {
        let mut families: Vec<_> = Event::ALL.iter().map(|event| event.family().name).collect();
        families.dedup();
        let distinct: BTreeSet<_> = families.iter().collect();
        assert_eq!(distinct.len(), families.len(), "the encoder opens each family once");
    }
}
