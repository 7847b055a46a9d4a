//! Where a client is sent instead.

use std::sync::Arc;

use http::StatusCode;

use super::hosts::split_port;
use super::rewrite::{replace_matched, replace_segments};
use super::{MatchInfo, RequestView};
use crate::resource::gateway_api::{PathModifier, RequestRedirect, Scheme};
use crate::resource::networking::virtual_service::{self, DerivePort, RedirectScheme};

/// An answer with another address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    path: Option<NewPath>,
    authority: Option<Arc<str>>,
    scheme: Option<&'static str>,
    port: Option<NewPort>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum NewPath {
    /// Instead of the path; the request's query stays unless it brings its own.
    Whole(Box<str>),
    /// Instead of the prefix that matched.
    Prefix(Box<str>),
    /// As [`NewPath::Prefix`], by whole segments.
    Segments(Box<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NewPort {
    Number(u16),
    OfRequest,
}

impl Redirect {
    /// `None` for a status that no proxy redirects with: the rule is left out.
    pub(super) fn of(redirect: &virtual_service::Redirect) -> Option<Self> {
        let code = redirect.redirect_code.unwrap_or(301);
        let code = Some(code).filter(|code| virtual_service::Redirect::CODES.contains(code))?;
        let text = |text: &str| Some(text).filter(|text| !text.is_empty()).map(Box::from);
        let from_request = redirect.derive_port == Some(DerivePort::FromRequestPort);
        Some(Self {
            status: StatusCode::from_u16(u16::try_from(code).ok()?).ok()?,
            path: text(&redirect.uri)
                .map(NewPath::Whole)
                .or_else(|| text(&redirect.prefix_rewrite).map(NewPath::Prefix)),
            authority: text(&redirect.authority).map(Arc::from),
            scheme: redirect.scheme.map(|scheme| match scheme {
                RedirectScheme::Http => "http",
                RedirectScheme::Https => "https",
            }),
            port: match redirect.port {
                Some(port) => Some(NewPort::Number(port.get())),
                None => from_request.then_some(NewPort::OfRequest),
            },
        })
    }

    /// That of the Gateway API: where no port is named, that of the new scheme is meant, or that of the listener.
    pub(super) fn of_filter(redirect: &RequestRedirect) -> Self {
        let scheme = redirect.scheme.map(|scheme| match scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        });
        let port = match (redirect.port, scheme.and_then(default_port)) {
            (Some(port), _) => NewPort::Number(port.get()),
            (None, Some(port)) => NewPort::Number(port),
            (None, None) => NewPort::OfRequest,
        };
        Self {
            status: StatusCode::from_u16(redirect.status_code.code()).unwrap_or(StatusCode::FOUND),
            path: redirect.path.as_ref().map(|path| match path {
                PathModifier::ReplaceFullPath(path) => NewPath::Whole((&**path).into()),
                PathModifier::ReplacePrefixMatch(path) => NewPath::Segments((&**path).into()),
            }),
            authority: redirect.hostname.as_ref().map(|host| Arc::from(&**host)),
            scheme,
            port: Some(port),
        }
    }

    /// The `Location` that a request which met `matched` is sent to.
    pub fn location(&self, request: &RequestView<'_>, matched: &MatchInfo) -> String {
        let scheme = self.scheme.unwrap_or(request.scheme);
        let port = self.port.map(|port| match port {
            NewPort::Number(port) => port,
            NewPort::OfRequest => request.port,
        });
        let host = match &self.authority {
            Some(authority) => authority,
            None => host(request, scheme, port),
        };
        let port = port.filter(|port| Some(*port) != default_port(scheme));
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let target = match &self.path {
            None => request.path.to_owned(),
            Some(NewPath::Whole(path)) if path.contains('?') => {
                return [scheme, "://", host, &port, path].concat();
            }
            Some(NewPath::Whole(path)) => path.to_string(),
            Some(NewPath::Prefix(text)) => replace_matched(text, request.path, matched),
            Some(NewPath::Segments(text)) => replace_segments(text, request.path, matched),
        };
        let slash = if target.starts_with('/') { "" } else { "/" };
        let (mark, query) = request.query.map_or(("", ""), |query| ("?", query));
        [scheme, "://", host, &port, slash, &target, mark, query].concat()
    }
}

/// The same address in `https`: where a request in plain text is sent by `httpsRedirect`, with 301.
pub fn https_location(request: &RequestView<'_>) -> String {
    let host = host(request, "https", None);
    let (mark, query) = request.query.map_or(("", ""), |query| ("?", query));
    ["https://", host, request.path, mark, query].concat()
}

/// The host that was asked for, without a port that is replaced, or that was only there because of the old scheme.
fn host<'r>(request: &RequestView<'r>, scheme: &str, port: Option<u16>) -> &'r str {
    let (host, old) = split_port(request.authority);
    let Some(old) = old.and_then(|old| old.get(1..)?.parse::<u16>().ok()) else { return host };
    let stays = match port {
        // Left to the client's taste where it says nothing.
        Some(new) => new == old && default_port(scheme) == Some(old),
        None => scheme == request.scheme || default_port(request.scheme) != Some(old),
    };
    if stays { request.authority } else { host }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
