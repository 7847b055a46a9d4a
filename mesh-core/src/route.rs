//! Where an HTTP request goes and what happens to it on the way, and where a connection goes whose bytes are nobody's
//! business: `VirtualServices` compiled to tables that answer for one kind of client, and the pure acts that an answer
//! asks for.
//!
//! [`Virtuals`] holds all `VirtualServices`, compiled as far as they can be before it is known who asks. From it, a
//! [`RouteTable`] is made for the clients that see the same rules: of the mesh, or of a gateway's port. What a client
//! can never match (its labels, its namespace, the port) is not in its table.
//!
//! Invariants: the first rule that matches is the one that is used, in the order that Istio gives them. Picking does
//! not allocate, but where a rule looks at a header that the request repeats, or at `:path` with its query; and it
//! looks at few rules, however many there are.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, Method};
use serde_json::{Map, Value};

pub use self::action::{Action, ClusterRef, DirectResponse, Forward, Mirror, Route, Split, Weighted};
pub(crate) use self::api::none_such;
pub use self::api::{ApiRules, Backends};
pub(crate) use self::condition::Condition;
pub use self::cors::{Cors, CorsAnswer};
pub use self::fault::{Fault, Injection, is_drawn};
pub use self::gateway::{
    Conflict, ConflictReason, GatewayListener, GatewayServer, ListenerProtocol, Listeners,
};
pub use self::header_ops::{HeaderEdit, HeaderOps};
pub use self::mesh::{MeshRoute, MeshRules, MeshStreams, Parent};
pub use self::outside::{Outside, OutsideName};
pub use self::passthrough::{destination_of, is_of_mesh};
pub use self::redirect::{Redirect, https_location};
pub use self::rewrite::{Piece, Rewrite};
pub use self::session::{Held, Session};
pub use self::stream::{StreamRoute, StreamTable, StreamView};
pub(crate) use self::table::{Attached, Scope};
pub use self::table::{Picked, RouteTable, ServiceName};
pub use self::virtuals::{About, Settings, Virtuals};
use crate::resource::{GatewaySpec, VirtualServiceSpec};

mod action;
mod api;
mod condition;
mod cors;
mod delegate;
mod fault;
mod gateway;
mod header_ops;
mod hosts;
mod index;
mod mesh;
mod outside;
mod passthrough;
mod redirect;
mod rewrite;
mod session;
mod stream;
mod table;
mod virtuals;

/// A VirtualService as the model carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtualService {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since the Unix epoch: the oldest comes first. One without, which never
    /// saw an API server, comes last.
    pub created: Option<i64>,
    /// What it says.
    pub spec: VirtualServiceSpec,
}

/// A Gateway of Istio as the model carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// As [`VirtualService::created`].
    pub created: Option<i64>,
    /// What it says.
    pub spec: GatewaySpec,
}

/// An object of the user, as `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Who asks: a workload of the mesh, or a gateway's own pod. Decides what it sees (`exportTo`) and which rules are for it
/// (`sourceLabels`, `sourceNamespace`).
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a std::collections::BTreeMap<String, String>,
}

/// The namespaces whose VirtualServices are in force for a service at its waypoint.
#[derive(Debug, Clone, Copy)]
pub struct Owners<'a> {
    /// The service's.
    pub service: &'a str,
    /// The waypoint's.
    pub waypoint: &'a str,
}

/// A request, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The method.
    pub method: &'a Method,
    /// `http` or `https`, as the client spoke to the first proxy that is trusted.
    pub scheme: &'a str,
    /// The host that was asked for, as it was sent, with its port if it had one.
    pub authority: &'a str,
    /// The path in its normal form, without the query.
    pub path: &'a str,
    /// What follows the `?`, as it was sent.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The port of the service, or of the gateway, that was asked for.
    pub port: u16,
    /// The claims of a token that was verified; only gateways have rules about them.
    pub claims: Option<&'a Map<String, Value>>,
}

/// Which match of a rule a request met. One for each match, made once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchInfo {
    /// The rule's name, `.` and the match's, as far as they have any; for logs and metrics.
    pub name: Arc<str>,
    /// `statPrefix` of the match.
    pub stat_prefix: Option<Arc<str>>,
    /// What of the path it was about.
    pub path: MatchedPath,
}

/// What of a path a match was about, which is what a rewrite replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchedPath {
    /// This many bytes at its start. A match that says nothing about the path is about the first slash.
    Prefix(usize),
    /// All of it.
    Whole,
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
