//! Authorizers outside of the mesh's own rules: whom a CUSTOM AuthorizationPolicy has asked, what they are shown of a request, and
//! what comes of what they say. They are named by `extensionProviders` of MeshConfig.
//!
//! Invariant: whoever cannot be asked, or says what nobody understands, has not said yes; only [`Authorizer::fails_open`] makes a
//! yes of it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

pub use self::names::Names;
use crate::resource::mesh_config::MeshConfig;
use crate::resource::mesh_config::provider::{
    ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider, ProviderKind, RequestBody,
};
use crate::resource::value::Duration as Written;
use crate::route::ClusterRef;

mod names;

/// Somebody who is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Authorizer {
    /// What policies call it.
    pub name: Box<str>,
    /// The service.
    pub to: ClusterRef,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Whether requests pass when it cannot be asked.
    pub fails_open: bool,
    /// The status when it cannot be asked and they do not.
    pub status_on_error: StatusCode,
    /// The part of the body that it gets to see.
    pub body: Option<RequestBody>,
    /// How it is asked.
    pub asked: Asked,
}

/// How an authorizer is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// By Envoy's protocol.
    Grpc,
    /// With the request itself.
    Http(Box<ByHttp>),
}

/// What of a request is shown by HTTP, and what of the answer goes where.
#[derive(Debug, Clone, PartialEq)]
pub struct ByHttp {
    prefix: Box<str>,
    shown: Names,
    added: Vec<(HeaderName, HeaderValue)>,
    to_upstream: Names,
    /// `None`: all of them.
    on_deny: Option<Names>,
    on_allow: Names,
}

/// What an authorizer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The request passes, with these changes.
    Allowed(Changes),
    /// It does not, and this is its answer.
    Denied(Denial),
}

/// What becomes of a request that passes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Headers that go, before any other change.
    pub remove: Vec<HeaderName>,
    /// Headers that it gets, and how.
    pub set: Vec<(HeaderName, HeaderValue, How)>,
    /// What the answer to the client gets.
    pub answer: Vec<(HeaderName, HeaderValue)>,
}

/// How a header is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// In place of those of its name.
    Replace,
    /// Beside them.
    Append,
    /// If there are none.
    IfAbsent,
    /// In place of those of its name, if there are any.
    IfPresent,
}

/// The answer to a request that does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Authorizer {
    /// The one of this name; `None` if there is none, or it is something else.
    pub fn find(mesh: &MeshConfig, name: &str) -> Option<Self> {
        mesh.extension_providers.iter().find(|provider| provider.name == name).and_then(Self::of)
    }

    /// Of a provider; `None` if it is something else.
    pub fn of(provider: &ExtensionProvider) -> Option<Self> {
        let new = |service: &str, port: u16, timeout: Option<Duration>, asked| Self {
            name: provider.name.as_str().into(),
            to: cluster(service, port),
            timeout: timeout.unwrap_or(TIMEOUT),
            fails_open: false,
            status_on_error: StatusCode::FORBIDDEN,
            body: None,
            asked,
        };
        match &provider.kind {
            ProviderKind::ExtAuthzHttp(it) => Some(Self {
                fails_open: it.fail_open,
                status_on_error: status(&it.status_on_error),
                body: it.include_request_body_in_check,
                ..new(
                    &it.service,
                    it.port.get(),
                    it.timeout.map(Written::get),
                    Asked::Http(Box::new(ByHttp::of(it))),
                )
            }),
            ProviderKind::ExtAuthzGrpc(it) => Some(Self::by_grpc(it, new)),
            _ => None,
        }
    }

    fn by_grpc(it: &ExtAuthzGrpc, new: impl Fn(&str, u16, Option<Duration>, Asked) -> Self) -> Self {
        Self {
            fails_open: it.fail_open,
            status_on_error: status(&it.status_on_error),
            body: it.include_request_body_in_check,
            ..new(&it.service, it.port.get(), it.timeout.map(Written::get), Asked::Grpc)
        }
    }
}

impl ByHttp {
    fn of(it: &ExtAuthzHttp) -> Self {
        let added = it.include_additional_headers_in_check.iter();
        let added = added.filter_map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).ok().filter(may_be_set)?;
            Some((name, HeaderValue::from_str(value).ok()?))
        });
        let shown = it.include_headers_in_check.iter().chain(&it.include_request_headers_in_check);
        let on_deny = it.headers_to_downstream_on_deny.as_slice();
        Self {
            prefix: it.path_prefix.as_str().into(),
            shown: Names::of(shown),
            added: added.collect(),
            to_upstream: Names::of(&it.headers_to_upstream_on_allow),
            on_deny: (!on_deny.is_empty()).then(|| Names::of(on_deny)),
            on_allow: Names::of(&it.headers_to_downstream_on_allow),
        }
    }

    /// Path and query of the question.
    pub fn target(&self, target: &str) -> String {
        format!("{}{target}", self.prefix)
    }

    /// The headers of the question. `Authorization` is always shown: Envoy's.
    pub fn headers(&self, request: &HeaderMap) -> HeaderMap {
        let is_shown = |name: &HeaderName| *name == header::AUTHORIZATION || self.shown.matches(name);
        let shown = request.iter().filter(|(name, _)| is_shown(name) && may_be_set(name));
        let mut headers = HeaderMap::new();
        shown.for_each(|(name, value)| _ = headers.append(name.clone(), value.clone()));
        self.added.iter().for_each(|(name, value)| _ = headers.insert(name.clone(), value.clone()));
        headers
    }

    /// What an answer comes to; `None` if it says that something is wrong there.
    pub fn verdict(&self, status: StatusCode, headers: &HeaderMap, body: Vec<u8>) -> Option<Verdict> {
        if status.is_server_error() || status.is_informational() {
            return None;
        }
        let those = |names: &Names| {
            let all = headers.iter().filter(|(name, _)| names.matches(name) && may_be_set(name));
            all.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
        };
        if status == StatusCode::OK {
            let set = those(&self.to_upstream).into_iter();
            let removed = headers.get_all(TO_REMOVE).iter().filter_map(|value| value.to_str().ok());
            let removed = removed.flat_map(|names| names.split(','));
            let removed = removed.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
            return Some(Verdict::Allowed(Changes {
                remove: removed.filter(may_be_set).take(MAX_CHANGES).collect(),
                set: in_order(set).take(MAX_CHANGES).collect(),
                answer: those(&self.on_allow).into_iter().take(MAX_CHANGES).collect(),
            }));
        }
        let always = [header::WWW_AUTHENTICATE, header::LOCATION, header::CONTENT_TYPE];
        let goes_on = |name: &HeaderName| {
            let listed = self.on_deny.as_ref().is_none_or(|names| names.matches(name));
            (listed || always.contains(name)) && may_be_set(name)
        };
        let all = headers.iter().filter(|(name, _)| goes_on(name));
        let headers = all.map(|(name, value)| (name.clone(), value.clone())).take(MAX_CHANGES).collect();
        Some(Verdict::Denied(Denial { status, headers, body }))
    }
}

/// The first of a name replaces what there was, the others stand beside it.
fn in_order(
    all: impl Iterator<Item = (HeaderName, HeaderValue)>,
) -> impl Iterator<Item = (HeaderName, HeaderValue, How)> {
    let mut last = None;
    all.map(move |(name, value)| {
        let how = if last.as_ref() == Some(&name) { How::Append } else { How::Replace };
        last = Some(name.clone());
        (name, value, how)
    })
}

impl Changes {
    /// Makes them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        self.remove.iter().for_each(|name| _ = headers.remove(name));
        for (name, value, how) in &self.set {
            let is_there = headers.contains_key(name);
            match how {
                How::Append => _ = headers.append(name.clone(), value.clone()),
                How::IfAbsent if is_there => {}
                How::IfPresent if !is_there => {}
                How::Replace | How::IfAbsent | How::IfPresent => {
                    headers.insert(name.clone(), value.clone());
                }
            }
        }
    }
}

/// Whether somebody else may set this header: what frames a message, or says where it goes, is the proxy's.
pub fn may_be_set(name: &HeaderName) -> bool {
    ![
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::HOST,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
    ]
    .contains(name)
        && !["keep-alive", "proxy-connection", "x-forwarded-client-cert"].contains(&name.as_str())
}

fn cluster(service: &str, port: u16) -> ClusterRef {
    // Before a slash stands the namespace whose view of the name is meant; a whole name is the same for all.
    let host = service.split_once('/').map_or(service, |(_, host)| host);
    ClusterRef { host: host.to_ascii_lowercase().into(), subset: None, port: Some(port) }
}

/// `MeshConfig` is checked before.
fn status(text: &str) -> StatusCode {
    text.parse().unwrap_or(StatusCode::FORBIDDEN)
}

/// Istio's, where a provider says nothing.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Headers that one answer may change.
pub const MAX_CHANGES: usize = 64;
/// By which an authorizer says what is to go; Envoy's.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

#[cfg(test)]
mod tests;
