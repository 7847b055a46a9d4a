//! What one match of a rule asks of a request, compiled.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderName;
use serde_json::Value;

use super::{MatchedPath, RequestView};
use crate::resource::networking::virtual_service::HttpMatch;
use crate::resource::value::{self, HeaderKey, Regex, StringMatch};

/// A match: all of it must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(super) path: PathMatch,
    pub(super) checks: Box<[Check]>,
}

/// What is asked of the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathMatch {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    /// This path, without a slash at its end, and those below it: `/v2`, `/v2/` and `/v2/x`, not `/v2x`.
    Segments(Box<str>),
    /// In lower case, compared without regard to case.
    ExactFolded(Box<str>),
    /// In lower case, compared without regard to case.
    PrefixFolded(Box<str>),
    Regex(Regex),
}

/// What is asked of one part of the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) field: Field,
    pub(super) want: StringMatch,
    /// Whether it must not be so. A header that is not there counts as an empty one then.
    pub(super) negated: bool,
}

/// A part of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Field {
    Method,
    Scheme,
    Authority,
    /// `:path`, which has the query.
    Target,
    Header(HeaderName),
    Query(Box<str>),
    Claim(Vec<Arc<str>>),
}

impl Condition {
    /// That of a rule without a match.
    pub(super) fn any() -> Self {
        Self { path: PathMatch::Any, checks: Box::default() }
    }

    pub(crate) fn of(spec: &HttpMatch) -> Self {
        let line = [
            (Field::Method, &spec.method),
            (Field::Scheme, &spec.scheme),
            (Field::Authority, &spec.authority),
        ];
        let line = line
            .into_iter()
            .filter_map(|(field, want)| Some(Check { field, want: want.clone()?, negated: false }));
        let headers = spec.headers.iter().map(|(key, want)| (key, want, false));
        let headers = headers.chain(spec.without_headers.iter().map(|(key, want)| (key, want, true)));
        let headers = headers.filter_map(|(key, want, negated)| {
            Some(Check { field: field(key)?, want: want.clone(), negated })
        });
        let query = spec.query_params.iter().map(|(name, want)| Check {
            field: Field::Query(name.as_str().into()),
            want: want.clone(),
            negated: false,
        });
        Self { path: PathMatch::of(spec), checks: line.chain(headers).chain(query).collect() }
    }

    /// Whether nothing behind it in a VirtualService can ever be used. As Istio has it: an expression other than `.*`
    /// is not looked into.
    pub(super) fn is_catch_all(&self) -> bool {
        let path = match &self.path {
            PathMatch::Any => true,
            PathMatch::Prefix(prefix) | PathMatch::PrefixFolded(prefix) => &**prefix == "/",
            PathMatch::Regex(regex) => regex.as_str() == ".*",
            PathMatch::Exact(_) | PathMatch::ExactFolded(_) | PathMatch::Segments(_) => false,
        };
        path && self.checks.is_empty()
    }

    /// Whether a request matches.
    pub(crate) fn holds(&self, request: &RequestView<'_>) -> bool {
        let path = || request.path.to_ascii_lowercase();
        let found = match &self.path {
            PathMatch::Any | PathMatch::Regex(_) => true,
            PathMatch::Exact(exact) => **exact == *request.path,
            PathMatch::Prefix(prefix) => request.path.starts_with(&**prefix),
            PathMatch::Segments(segments) => {
                let rest = request.path.strip_prefix(&**segments);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            PathMatch::ExactFolded(exact) => **exact == *path(),
            PathMatch::PrefixFolded(prefix) => path().starts_with(&**prefix),
        };
        found && self.holds_beyond_path(request)
    }

    /// Whether a request matches whose path has been found to.
    pub(super) fn holds_beyond_path(&self, request: &RequestView<'_>) -> bool {
        let path = match &self.path {
            PathMatch::Regex(regex) => regex.matches(request.path.as_bytes()),
            _ => true,
        };
        path && self.checks.iter().all(|check| check.holds(request))
    }
}

impl PathMatch {
    fn of(spec: &HttpMatch) -> Self {
        let folded = |text: &str| text.to_ascii_lowercase().into();
        match &spec.uri {
            None | Some(StringMatch::Present) => Self::Any,
            Some(StringMatch::Exact(path)) if spec.ignore_uri_case => Self::ExactFolded(folded(path)),
            Some(StringMatch::Prefix(path)) if spec.ignore_uri_case => Self::PrefixFolded(folded(path)),
            Some(StringMatch::Exact(path)) => Self::Exact(path.as_str().into()),
            Some(StringMatch::Prefix(path)) => Self::Prefix(path.as_str().into()),
            Some(StringMatch::Regex(regex)) => Self::Regex(regex.clone()),
        }
    }

    /// What a rewrite of a path that matches replaces.
    pub(super) fn matched(&self) -> MatchedPath {
        match self {
            Self::Any => MatchedPath::Prefix(1),
            Self::Prefix(prefix) | Self::PrefixFolded(prefix) | Self::Segments(prefix) => {
                MatchedPath::Prefix(prefix.len())
            }
            Self::Exact(_) | Self::ExactFolded(_) | Self::Regex(_) => MatchedPath::Whole,
        }
    }
}

impl Check {
    fn holds(&self, request: &RequestView<'_>) -> bool {
        if let Field::Claim(path) = &self.field {
            return claimed(request, path, &self.want) != self.negated;
        }
        let value = self.field.value(request);
        match (&self.want, self.negated) {
            (StringMatch::Present, negated) => value.is_some() != negated,
            (want, false) => value.is_some_and(|value| matches(want, &value)),
            (want, true) => !matches(want, &value.unwrap_or_default()),
        }
    }

    /// The value that it asks for, if there is only one that will do.
    pub(super) fn only(&self) -> Option<&str> {
        match &self.want {
            StringMatch::Exact(value) if !self.negated && !matches!(self.field, Field::Claim(_)) => {
                Some(value)
            }
            _ => None,
        }
    }
}

impl Field {
    /// What the request has there. Never anything for a claim, which may have many values.
    pub(super) fn value<'r>(&self, request: &RequestView<'r>) -> Option<Cow<'r, [u8]>> {
        match self {
            Self::Method => Some(request.method.as_str().as_bytes().into()),
            Self::Scheme => Some(request.scheme.as_bytes().into()),
            Self::Authority => Some(request.authority.as_bytes().into()),
            Self::Target => Some(match request.query {
                None => request.path.as_bytes().into(),
                Some(query) => format!("{}?{query}", request.path).into_bytes().into(),
            }),
            Self::Header(name) => header(request, name),
            Self::Query(name) => parameter(request.query?, name).map(|value| value.as_bytes().into()),
            Self::Claim(_) => None,
        }
    }
}

/// `None` for names under `headers` that Istio takes for the fields beside it and leaves out.
fn field(key: &HeaderKey) -> Option<Field> {
    let name = match key {
        HeaderKey::Claim(path) => return Some(Field::Claim(path.clone())),
        HeaderKey::Name(name) => name,
    };
    match name.as_str() {
        "uri" | "scheme" | "method" | "authority" => None,
        ":method" => Some(Field::Method),
        ":scheme" => Some(Field::Scheme),
        ":path" => Some(Field::Target),
        _ if name.is_authority() => Some(Field::Authority),
        _ => header_name(name).map(Field::Header),
    }
}

/// `None` for pseudo headers.
pub(super) fn header_name(name: &value::HeaderName) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_str().as_bytes()).ok()
}

pub(super) fn matches(want: &StringMatch, value: &[u8]) -> bool {
    match want {
        StringMatch::Present => true,
        StringMatch::Exact(exact) => exact.as_bytes() == value,
        StringMatch::Prefix(prefix) => value.starts_with(prefix.as_bytes()),
        StringMatch::Regex(regex) => regex.matches(value),
    }
}

/// The value of a header; one that is there more than once counts as the list that it is, RFC 9110 section 5.3.
fn header<'r>(request: &RequestView<'r>, name: &HeaderName) -> Option<Cow<'r, [u8]>> {
    let mut values = request.headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut list = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        list.push(b',');
        list.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(list))
}

/// The first parameter of this name, as it was sent; empty without a `=`.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Whether a claim is there and is, or has among its elements, the right text.
fn claimed(request: &RequestView<'_>, path: &[Arc<str>], want: &StringMatch) -> bool {
    let (Some(claims), Some((first, rest))) = (request.claims, path.split_first()) else { return false };
    let claim = rest.iter().try_fold(claims.get(&**first), |claim, name| Some(claim?.get(&**name)));
    let is_it = |value: &Value| value.as_str().is_some_and(|value| want.matches(value));
    match (want, claim.flatten()) {
        (_, None | Some(Value::Null)) => false,
        (StringMatch::Present, Some(_)) => true,
        (_, Some(Value::Array(elements))) => elements.iter().any(is_it),
        (_, Some(value)) => is_it(value),
    }
}
