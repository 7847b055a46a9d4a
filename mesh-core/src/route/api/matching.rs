//! What a match of the Gateway API asks of a request, and how exactly.

use http::HeaderName;

use crate::resource::gateway_api::{GrpcMatch, GrpcMethodMatch, HttpMatch, PathMatch as ApiPath, ValueMatch};
use crate::resource::value::{Regex, StringMatch};
use crate::route::MatchedPath;
use crate::route::condition::{Check, Condition, Field, PathMatch};

/// How exactly a match matches; of two that a request meets, the greater is used. The API's order: an exact path, the
/// longest prefix, a method, the most headers, the most parameters. Where a regular expression stands is left to
/// implementations: here between exact paths and prefixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    path: PathRank,
    has_method: bool,
    headers: usize,
    parameters: usize,
}

/// By characters of the path, of gRPC by those of service and method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Prefix(usize, usize),
    Regex(usize, usize),
    Exact(usize, usize),
}

/// A match of an HTTPRoute; `None` for one that cannot be read, whose rule is left out.
pub(super) fn of_http(spec: &HttpMatch) -> Option<(Rank, Condition)> {
    let (path, rank) = match &spec.path {
        ApiPath::Unread(_) => return None,
        ApiPath::Exact(path) => (PathMatch::Exact(path.as_str().into()), PathRank::Exact(path.len(), 0)),
        ApiPath::Prefix(prefix) => {
            let path = prefix.strip_suffix('/').unwrap_or(prefix);
            let path = if path.is_empty() { PathMatch::Any } else { PathMatch::Segments(path.into()) };
            (path, PathRank::Prefix(prefix.len(), 0))
        }
        ApiPath::Regex(regex) => (PathMatch::Regex(regex.clone()), PathRank::Regex(regex.as_str().len(), 0)),
    };
    let exact =
        |field, text: &str| Check { field, want: StringMatch::Exact(text.to_owned()), negated: false };
    let method = spec.method.map(|method| exact(Field::Method, method.as_str()));
    // A header that is named twice counts as it is named first.
    let mut named: Vec<&str> = Vec::new();
    let headers = spec.headers.iter().filter_map(|it| {
        let is_first = !named.contains(&&*it.name);
        named.push(&it.name);
        is_first.then(|| header(&it.name, &it.value)).flatten()
    });
    let headers: Vec<_> = headers.collect();
    let parameters = spec.query_params.iter();
    let parameters = parameters.filter_map(|it| check(Field::Query((&*it.name).into()), &it.value));
    let rank = Rank {
        path: rank,
        has_method: method.is_some(),
        headers: headers.len(),
        parameters: spec.query_params.len(),
    };
    Some((rank, Condition { path, checks: method.into_iter().chain(headers).chain(parameters).collect() }))
}

/// A match of a GRPCRoute; `None` for one that cannot be read, whose rule is left out, and if two expressions together are
/// more than one may be: it matches nothing.
pub(super) fn of_grpc(spec: &GrpcMatch) -> Option<(Rank, Condition)> {
    let (path, rank) = match &spec.method {
        Some(GrpcMethodMatch::Unread(_)) => return None,
        None => (PathMatch::Any, PathRank::Prefix(0, 0)),
        Some(GrpcMethodMatch::Exact { service, method }) => {
            let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            let rank = (length(service), length(method));
            match (service, method) {
                (Some(service), Some(method)) => {
                    (PathMatch::Exact(format!("/{service}/{method}").into()), PathRank::Exact(rank.0, rank.1))
                }
                (Some(service), None) => {
                    (PathMatch::Segments(format!("/{service}").into()), PathRank::Prefix(rank.0, 0))
                }
                // A name of Protocol Buffers has no character that means something in an expression.
                (None, method) => {
                    (PathMatch::Regex(call(None, method.as_deref())?), PathRank::Prefix(0, rank.1))
                }
            }
        }
        Some(GrpcMethodMatch::Regex { service, method }) => {
            let text = |regex: &Option<Regex>| regex.as_ref().map(|it| it.as_str().to_owned());
            let (service, method) = (text(service), text(method));
            let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            let rank = PathRank::Regex(length(&service), length(&method));
            (PathMatch::Regex(call(service.as_deref(), method.as_deref())?), rank)
        }
    };
    let headers: Vec<_> = spec.headers.iter().filter_map(|it| header(&it.name, &it.value)).collect();
    let rank = Rank { path: rank, has_method: false, headers: headers.len(), parameters: 0 };
    Some((rank, Condition { path, checks: headers.into() }))
}

/// What a rule of a GRPCRoute without matches is for.
pub(super) fn every_call() -> (Rank, Condition) {
    let rank = Rank { path: PathRank::Prefix(0, 0), has_method: false, headers: 0, parameters: 0 };
    (rank, Condition::any())
}

/// What of the path a rewrite replaces: whole segments, so that what is left is nothing or begins with a slash.
pub(super) fn matched(condition: &Condition) -> MatchedPath {
    match &condition.path {
        PathMatch::Any => MatchedPath::Prefix(0),
        path => path.matched(),
    }
}

fn call(service: Option<&str>, method: Option<&str>) -> Option<Regex> {
    let part = |text: Option<&str>| text.map_or_else(|| "[^/]+".to_owned(), |text| format!("(?:{text})"));
    Regex::parse(&format!("/{}/{}", part(service), part(method))).ok()
}

fn header(name: &str, value: &ValueMatch) -> Option<Check> {
    check(Field::Header(HeaderName::from_bytes(name.as_bytes()).ok()?), value)
}

fn check(field: Field, value: &ValueMatch) -> Option<Check> {
    let want = match value {
        ValueMatch::Exact(text) => StringMatch::Exact(text.clone()),
        ValueMatch::Regex(regex) => StringMatch::Regex(regex.clone()),
        ValueMatch::Unread(_) => return None,
    };
    Some(Check { field, want, negated: false })
}
