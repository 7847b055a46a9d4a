//! What the bench of layer 7 measures.

use std::fmt;

use super::table::RouteTable;

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// One route of HTTP/1.1, as many requests as go through.
    Plain,
    /// 50 hosts, 500 routes, header operations, retries, metrics and access log.
    Realistic,
    /// Times at a constant rate: 70 % of what Envoy does at most in the same run.
    Latency,
    /// HTTP/2 from clients, HTTP/1.1 to services.
    H2,
    /// Unary calls of gRPC.
    Grpc,
    /// 10 routes, the measure for the next.
    TenRoutes,
    /// 10,000 routes, each as often in use as any other.
    ManyRoutes,
    /// Bytes over one connection, by a route of TCP.
    Tcp,
    /// Memory of a gateway that has nothing to do.
    Idle,
    /// A service with a route of its own, handled on the client's node, beside one without.
    Node,
    /// The same route at a waypoint, beside the client's node.
    Waypoint,
    /// Answers of the client's node to queries of DNS for a name of the mesh.
    Names,
}

/// What comes from clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// One request, again and again (`wrk`).
    Same,
    /// A request for each route in turn, with the headers of a browser (`wrk` with a script).
    InTurn,
    /// One request, at times that do not depend on the answers (`netprobe pace`).
    Paced,
    /// One request over HTTP/2 (`h2load`).
    H2,
    /// One call over HTTP/2 (`h2load`).
    Grpc,
    /// As many bytes as go through one connection (`iperf3`).
    Bulk,
}

impl Subject {
    /// All of them, in the order in which they run.
    pub fn all() -> [Self; 12] {
        [
            Self::Plain,
            Self::Realistic,
            Self::Latency,
            Self::H2,
            Self::Grpc,
            Self::TenRoutes,
            Self::ManyRoutes,
            Self::Tcp,
            Self::Idle,
            Self::Node,
            Self::Waypoint,
            Self::Names,
        ]
    }

    /// Its name in rows.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "l7/plain/32",
            Self::Realistic => "l7/realistic/32",
            Self::Latency => "l7/latency/32",
            Self::H2 => "l7/h2/128",
            Self::Grpc => "l7/grpc/128",
            Self::TenRoutes => "l7/10-routes/32",
            Self::ManyRoutes => "l7/10000-routes/32",
            Self::Tcp => "l7/tcp/1",
            Self::Idle => "l7/rss/idle",
            Self::Node => "l7/node/32",
            Self::Waypoint => "l7/waypoint/32",
            Self::Names => "l7/names/32",
        }
    }

    pub(super) fn table(self) -> RouteTable {
        match self {
            Self::Plain
            | Self::Latency
            | Self::H2
            | Self::Idle
            | Self::Node
            | Self::Waypoint
            | Self::Names => RouteTable::plain(),
            Self::Realistic => RouteTable::realistic(),
            Self::Grpc => RouteTable::grpc(),
            Self::Tcp => RouteTable::tcp(),
            // The same services behind both: what is compared is routes, and not pools of connections.
            Self::TenRoutes => RouteTable::sized(10, 1),
            Self::ManyRoutes => RouteTable::sized(100, 100).over(10),
        }
    }

    pub(super) fn load(self) -> Load {
        match self {
            Self::Plain | Self::Idle | Self::Node | Self::Waypoint | Self::Names => Load::Same,
            Self::Realistic | Self::TenRoutes | Self::ManyRoutes => Load::InTurn,
            Self::Latency => Load::Paced,
            Self::H2 => Load::H2,
            Self::Grpc => Load::Grpc,
            Self::Tcp => Load::Bulk,
        }
    }
}

impl Load {
    pub(super) fn is_h2(self) -> bool {
        matches!(self, Self::H2 | Self::Grpc)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
