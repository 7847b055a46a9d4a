//! What a rule for HTTP does, and what it cannot do at once.

use super::super::super::super::networking::virtual_service::{
    DirectResponse, HttpRoute, Redirect, RegexRewrite, Rewrite,
};
use super::super::super::super::tree::Path;
use super::super::super::super::value::{HeaderName, StringMatch};
use super::super::{Report, destination};
use super::traffic;

/// The combinations that Istio refuses.
pub(super) fn exclusive(path: Path<'_>, route: &HttpRoute, is_delegate: bool, report: &mut Report<'_>) {
    let given = [
        ("route", !route.route.is_empty()),
        ("redirect", route.redirect.is_some()),
        // Of a rule that delegates it is what holds where the delegate has no action.
        ("directResponse", route.direct_response.is_some() && route.delegate.is_none()),
        ("delegate", route.delegate.is_some()),
    ];
    let given: Vec<_> = given.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    match given.as_slice() {
        [] => report.error(path, "one of route, redirect, directResponse and delegate is required"),
        [action] => {
            for (name, is) in [("fault", route.fault.is_some()), ("rewrite", route.rewrite.is_some())] {
                if is && matches!(*action, "redirect" | "directResponse") {
                    report.error(path.key(name), format!("cannot be combined with {action}"));
                }
            }
        }
        [_, others @ ..] => {
            let reason = format!("only one of {} may be given", given.join(" and "));
            report.error(path.key(others.first().copied().unwrap_or_default()), reason);
        }
    }
    if is_delegate && route.delegate.is_some() {
        let reason = "a VirtualService without hosts is delegated to, and cannot delegate further";
        report.error(path.key("delegate"), reason);
    }
}

pub(super) fn route(path: Path<'_>, route: &HttpRoute, report: &mut Report<'_>) {
    let list = path.key("route");
    let mut total = 0_u64;
    for (index, target) in route.route.iter().enumerate() {
        destination(list.at(index).key("destination"), &target.destination, report);
        report.count(list.at(index).key("weight"), target.weight);
        traffic::headers(list.at(index).key("headers"), &target.headers, report);
        total += u64::from(target.weight);
    }
    weights(list, route.route.len(), total, report);
    if let Some(redirect) = &route.redirect {
        self::redirect(path.key("redirect"), redirect, route, report);
    }
    if let Some(response) = &route.direct_response {
        direct_response(path.key("directResponse"), response, report);
    }
    if let Some(delegate) = &route.delegate {
        let path = path.key("delegate");
        if delegate.name.is_empty() {
            report.error(path.key("name"), "required, but missing");
        } else {
            report.subdomain(path.key("name"), &delegate.name);
        }
        if !delegate.namespace.is_empty() {
            report.label(path.key("namespace"), &delegate.namespace);
        }
    }
    if let Some(rewrite) = &route.rewrite {
        self::rewrite(path.key("rewrite"), rewrite, report);
        authority(path, rewrite, route, report);
    }
}

/// Shares that cannot be computed.
pub(super) fn weights(list: Path<'_>, destinations: usize, total: u64, report: &mut Report<'_>) {
    if destinations > 1 && total == 0 {
        report.error_with(list, "all weights are 0", "give at least one destination a weight");
    }
}

fn redirect(path: Path<'_>, redirect: &Redirect, route: &HttpRoute, report: &mut Report<'_>) {
    let both_paths = !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty();
    if both_paths {
        report.error(path.key("prefixRewrite"), "only one of uri and prefixRewrite may be given");
    }
    let prefixed = |uri: &StringMatch| matches!(uri, StringMatch::Prefix(_));
    if !redirect.prefix_rewrite.is_empty()
        && !both_paths
        && route.matches.iter().any(|request| request.uri.as_ref().is_some_and(|uri| !prefixed(uri)))
    {
        report.error(path.key("prefixRewrite"), "needs every uri under match to be a prefix");
    }
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        report.error(path.key("derivePort"), "only one of port and derivePort may be given");
    }
    let paths = redirect.uri.is_empty() && redirect.prefix_rewrite.is_empty();
    let ports = redirect.port.is_none() && redirect.derive_port.is_none();
    if paths && ports && redirect.authority.is_empty() && redirect.scheme.is_none() {
        report.error(path, "one of uri, prefixRewrite, authority, scheme and port is required");
    }
    match redirect.redirect_code {
        Some(code) if !(300..=399).contains(&code) => {
            report.error(path.key("redirectCode"), format!("{code} is not between 300 and 399"));
        }
        Some(code) if !Redirect::CODES.contains(&code) => {
            let reason = format!("{code} does not redirect: Istio drops the rule");
            report.warning_with(path.key("redirectCode"), reason, "one of 301, 302, 303, 307, 308");
        }
        _ => {}
    }
}

fn direct_response(path: Path<'_>, response: &DirectResponse, report: &mut Report<'_>) {
    let bytes = response.body.as_ref().map_or(0, |body| body.as_bytes().len());
    if bytes > MAX_BODY {
        let reason = format!("has {bytes} bytes, the limit is {MAX_BODY}");
        report.error(path.key("body"), reason);
    } else if bytes > LARGE_BODY {
        let reason = format!("has {bytes} bytes, which every proxy keeps in memory");
        report.warning(path.key("body"), reason);
    }
}

fn rewrite(path: Path<'_>, rewrite: &Rewrite, report: &mut Report<'_>) {
    if !rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_some() {
        report.error(path.key("uriRegexRewrite"), "only one of uri and uriRegexRewrite may be given");
    }
    if rewrite.uri.is_empty() && rewrite.uri_regex_rewrite.is_none() && rewrite.authority.is_empty() {
        report.error(path, "one of uri, uriRegexRewrite and authority is required");
    }
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        regex_rewrite(path.key("uriRegexRewrite"), regex, report);
    }
}

fn regex_rewrite(path: Path<'_>, rewrite: &RegexRewrite, report: &mut Report<'_>) {
    report.regex(path.key("match"), &rewrite.pattern);
    let field = path.key("rewrite");
    if rewrite.rewrite.is_empty() {
        report.error(field, "required, but missing");
    }
    let groups = rewrite.pattern.groups();
    let mut rest = rewrite.rewrite.chars();
    while rest.by_ref().any(|c| c == '\\') {
        match rest.next() {
            Some('\\') => {}
            Some(digit) if digit.is_ascii_digit() => {
                if digit.to_digit(10).is_none_or(|group| group as usize > groups) {
                    let reason = format!("\\{digit} is group {digit}, but match has {groups}");
                    report.error(field, reason);
                }
            }
            _ => report.error_with(field, "a \\ must be followed by a digit or another \\", "write \\\\"),
        }
    }
}

/// The host may be set in one place only.
fn authority(path: Path<'_>, rewrite: &Rewrite, route: &HttpRoute, report: &mut Report<'_>) {
    let request = &route.headers.request;
    let sets = request.set.keys().chain(request.add.keys()).any(HeaderName::is_authority);
    if sets && !rewrite.authority.is_empty() {
        report.error(path.key("rewrite").key("authority"), "the host is already set under headers.request");
    }
    let control = rewrite.authority.bytes().any(|b| !b.is_ascii_graphic());
    if control {
        report.error_with(path.key("rewrite").key("authority"), "is not a host", "write HOST or HOST:PORT");
    }
}

/// Bytes of an answer that is part of the configuration.
const MAX_BODY: usize = 1 << 20;
/// Bytes of an answer worth a warning.
const LARGE_BODY: usize = 100 << 10;
