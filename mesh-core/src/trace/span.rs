//! A span: what is told of one request by one proxy, with the tags of Envoy and Istio.

use std::net::{IpAddr, SocketAddr};

use super::context::Own;
use super::tags::Tags;

/// What is told of a request that is over. It lives only until it is written down in the words of whoever takes it: few requests are
/// traced, and what is kept of one in many pieces costs all the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    /// Its numbers.
    pub own: Own,
    /// Which end of the request tells it.
    pub kind: Kind,
    /// What was asked for.
    pub name: &'a str,
    /// Who tells it.
    pub service: &'a str,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Microseconds since the Unix epoch.
    pub start: u64,
    /// Microseconds.
    pub duration: u64,
    /// What is said of it.
    pub tags: &'a Tags,
    /// Whether it failed.
    pub failed: bool,
}

/// Which end of a request tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Whoever sends it, a gateway among them.
    Client,
    /// Whoever takes it in, a waypoint among them.
    Server,
}

/// What tags tell of a request. Empty texts are unknown ones.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The proxy, as Envoy names its node.
    pub node: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The method.
    pub method: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// `HTTP/1.1` and the like.
    pub protocol: &'a str,
    /// `user-agent`.
    pub user_agent: Option<&'a [u8]>,
    /// `x-request-id`.
    pub request_id: Option<&'a [u8]>,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the response's body.
    pub sent: u64,
    /// The status; 0 if there was none.
    pub code: u16,
    /// The status of a gRPC call.
    pub grpc_status: Option<u32>,
    /// What went wrong, as access logs have it.
    pub flags: &'a str,
    /// The cluster.
    pub cluster: &'a str,
    /// The client's address.
    pub peer: SocketAddr,
    /// Istio's own tags, if they are wanted.
    pub istio: Option<Istio<'a>>,
    /// Characters of a path.
    pub most: usize,
}

/// Who the proxy works for.
#[derive(Debug, Clone, Copy)]
pub struct Istio<'a> {
    /// The canonical service.
    pub service: &'a str,
    /// Its revision.
    pub revision: &'a str,
    /// The mesh.
    pub mesh: &'a str,
    /// The namespace.
    pub namespace: &'a str,
    /// The cluster of machines.
    pub cluster: &'a str,
}

/// Whether a request with this outcome failed, as Envoy sees it.
pub fn is_error(code: u16, grpc_status: Option<u32>) -> bool {
    code == 0 || code >= 500 || grpc_status.is_some_and(|status| matches!(status, 2 | 4 | 8 | 12..=15))
}

/// At most so many bytes of a text, whole characters.
pub fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}
