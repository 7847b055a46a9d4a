//! A span: what is told of one request by one proxy, with the tags of Envoy and Istio.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use super::context::Own;

/// What is told of a request that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Its numbers.
    pub own: Own,
    /// Which end of the request tells it.
    pub kind: Kind,
    /// What was asked for.
    pub name: String,
    /// Who tells it.
    pub service: String,
    /// Its address.
    pub address: Option<IpAddr>,
    /// Microseconds since the Unix epoch.
    pub start: u64,
    /// Microseconds.
    pub duration: u64,
    /// In order; a later one of the same name takes the place of an earlier one.
    pub tags: Vec<(Cow<'static, str>, String)>,
    /// Whether it failed.
    pub failed: bool,
}

impl Span {
    /// Bytes of its texts.
    pub fn text_bytes(&self) -> usize {
        let tags = self.tags.iter().map(|(name, value)| name.len() + value.len());
        self.name.len() + self.service.len() + tags.sum::<usize>()
    }
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

/// The tags of a span.
pub fn tags(facts: &Facts<'_>) -> Vec<(Cow<'static, str>, String)> {
    let mut tags = Vec::with_capacity(TYPICAL);
    let mut tag = |name: &'static str, value: String| tags.push((Cow::Borrowed(name), value));
    let lossy = |bytes: Option<&[u8]>| bytes.map(|it| String::from_utf8_lossy(it).into_owned());
    let known = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    tag("component", "proxy".to_owned());
    tag("node_id", facts.node.to_owned());
    tag("http.url", format!("{}://{}{}", facts.scheme, facts.authority, cut(facts.path, facts.most)));
    tag("http.method", facts.method.to_owned());
    tag("http.protocol", facts.protocol.to_owned());
    tag("http.status_code", facts.code.to_string());
    tag("user_agent", lossy(facts.user_agent).unwrap_or_else(|| known("")));
    if let Some(id) = lossy(facts.request_id) {
        tag("guid:x-request-id", id);
    }
    tag("request_size", facts.received.to_string());
    tag("response_size", facts.sent.to_string());
    tag("response_flags", known(facts.flags));
    tag("upstream_cluster", known(facts.cluster));
    tag("upstream_cluster.name", known(facts.cluster));
    tag("downstream_cluster", known(""));
    tag("peer.address", facts.peer.ip().to_canonical().to_string());
    if let Some(status) = facts.grpc_status {
        tag("grpc.status_code", status.to_string());
        tag("grpc.path", cut(facts.path, facts.most).to_owned());
        tag("grpc.authority", facts.authority.to_owned());
    }
    if let Some(istio) = facts.istio {
        tag("istio.canonical_service", istio.service.to_owned());
        tag("istio.canonical_revision", istio.revision.to_owned());
        tag("istio.mesh_id", istio.mesh.to_owned());
        tag("istio.namespace", istio.namespace.to_owned());
        tag("istio.cluster_id", istio.cluster.to_owned());
    }
    if is_error(facts.code, facts.grpc_status) {
        tag("error", "true".to_owned());
    }
    tags
}

/// At most so many bytes of a text, whole characters.
pub fn cut(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

/// Tags of a span.
const TYPICAL: usize = 24;
