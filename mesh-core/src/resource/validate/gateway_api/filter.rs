//! Filters of routes.

use std::collections::BTreeSet;

use super::super::super::gateway_api::{
    AllowList, AuthProtocol, Cors, ExternalAuth, GrpcFilter, HeaderModifier, HttpFilter, PathModifier,
};
use super::super::Report;
use super::{backend, header_names, unique, within};

/// The filters of an HTTPRoute's rule or backend.
pub(super) fn http_filters(field: &str, filters: &[HttpFilter], report: &mut Report<'_>) {
    within(0..=16, field, filters.len(), report);
    for (index, filter) in filters.iter().enumerate() {
        http_filter(&format!("{field}[{index}]"), filter, report);
    }
    let position = |wanted: fn(&HttpFilter) -> bool| filters.iter().position(wanted);
    let redirect = position(|filter| matches!(filter, HttpFilter::RequestRedirect(_)));
    let rewrite = position(|filter| matches!(filter, HttpFilter::UrlRewrite(_)));
    if let (Some(redirect), Some(rewrite)) = (redirect, rewrite) {
        let later = redirect.max(rewrite);
        report.error(format_args!("{field}[{later}]"), "RequestRedirect and URLRewrite exclude each other");
    }
    repeated(field, filters.iter().map(HttpFilter::type_name), report);
}

/// The filters of a GRPCRoute's rule or backend.
pub(super) fn grpc_filters(field: &str, filters: &[GrpcFilter], report: &mut Report<'_>) {
    within(0..=16, field, filters.len(), report);
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}[{index}]");
        match filter {
            GrpcFilter::RequestHeaderModifier(it) => {
                modifier(&format!("{field}.requestHeaderModifier"), it, report);
            }
            GrpcFilter::ResponseHeaderModifier(it) => {
                modifier(&format!("{field}.responseHeaderModifier"), it, report);
            }
            GrpcFilter::RequestMirror(it) => {
                backend(&format!("{field}.requestMirror.backendRef"), &it.backend, report);
            }
            GrpcFilter::ExtensionRef(it) => {
                extension(&field, &it.group, &it.kind, report);
            }
        }
    }
    repeated(field, filters.iter().map(GrpcFilter::type_name), report);
}

/// The filters that put something in the place of the prefix that the rule's match matched.
pub(super) fn replaces_prefix(filter: &HttpFilter) -> bool {
    let path = match filter {
        HttpFilter::RequestRedirect(redirect) => &redirect.path,
        HttpFilter::UrlRewrite(rewrite) => &rewrite.path,
        _ => return false,
    };
    matches!(path, Some(PathModifier::ReplacePrefixMatch(_)))
}

fn http_filter(field: &str, filter: &HttpFilter, report: &mut Report<'_>) {
    match filter {
        HttpFilter::RequestHeaderModifier(it) => {
            modifier(&format!("{field}.requestHeaderModifier"), it, report);
        }
        HttpFilter::ResponseHeaderModifier(it) => {
            modifier(&format!("{field}.responseHeaderModifier"), it, report);
        }
        HttpFilter::RequestMirror(it) => {
            backend(&format!("{field}.requestMirror.backendRef"), &it.backend, report);
        }
        HttpFilter::Cors(it) => cors(&format!("{field}.cors"), it, report),
        HttpFilter::ExternalAuth(it) => external_auth(&format!("{field}.externalAuth"), it, report),
        HttpFilter::ExtensionRef(it) => extension(field, &it.group, &it.kind, report),
        HttpFilter::RequestRedirect(_) | HttpFilter::UrlRewrite(_) => {}
    }
}

fn modifier(field: &str, modifier: &HeaderModifier, report: &mut Report<'_>) {
    let HeaderModifier { set, add, remove } = modifier;
    for (name, list) in [("set", set), ("add", add)] {
        let field = format!("{field}.{name}");
        within(0..=16, &field, list.len(), report);
        header_names(&field, list.iter().map(|header| &header.name), report);
    }
    let field = format!("{field}.remove");
    within(0..=16, &field, remove.len(), report);
    unique(&field, "name", remove, report);
}

fn cors(field: &str, cors: &Cors, report: &mut Report<'_>) {
    fn list<T: Eq + std::hash::Hash>(
        field: &str,
        limit: usize,
        list: &AllowList<T>,
        report: &mut Report<'_>,
    ) {
        within(0..=limit, field, list.len(), report);
        if let AllowList::Of(entries) = list {
            unique(field, "value", entries, report);
        }
    }
    list(&format!("{field}.allowOrigins"), 64, &cors.allow_origins, report);
    list(&format!("{field}.allowMethods"), 9, &cors.allow_methods, report);
    list(&format!("{field}.allowHeaders"), 64, &cors.allow_headers, report);
    let exposed = format!("{field}.exposeHeaders");
    within(0..=64, &exposed, cors.expose_headers.len(), report);
    unique(&exposed, "value", &cors.expose_headers, report);
    if cors.allow_origins.is_empty() {
        report.warning(format_args!("{field}.allowOrigins"), "empty: no other origin may use the route");
    }
}

fn external_auth(field: &str, auth: &ExternalAuth, report: &mut Report<'_>) {
    backend(&format!("{field}.backendRef"), &auth.backend, report);
    let lists = match &auth.protocol {
        AuthProtocol::Http { allowed_headers, allowed_response_headers, .. } => vec![
            ("http.allowedHeaders", allowed_headers),
            ("http.allowedResponseHeaders", allowed_response_headers),
        ],
        AuthProtocol::Grpc { allowed_headers } => vec![("grpc.allowedHeaders", allowed_headers)],
    };
    for (name, list) in lists {
        let field = format!("{field}.{name}");
        within(0..=64, &field, list.len(), report);
        unique(&field, "value", list, report);
    }
}

fn extension(field: &str, group: &str, kind: &str, report: &mut Report<'_>) {
    let group = if group.is_empty() { "core" } else { group };
    let reason =
        format!("the mesh has no filter of kind {kind} ({group}): what matches is answered with 500");
    report.warning(format_args!("{field}.extensionRef"), reason);
}

/// Of the types of filters, all but those that can do their work twice may be there once.
fn repeated<'t>(field: &str, types: impl Iterator<Item = &'t str>, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    for (index, name) in types.enumerate().filter(|(_, name)| ONCE.contains(name)) {
        if !seen.insert(name) {
            report.error(format_args!("{field}[{index}]"), format!("{name} may be there only once"));
        }
    }
}

/// Types of filters that a rule or backend has once at most.
const ONCE: [&str; 5] =
    ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS"];
