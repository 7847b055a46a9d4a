//! What happens to a request on its way: headers, copies, faults, retries, permissions for other origins.

use super::super::super::super::networking::virtual_service::{
    CorsPolicy, Fault, HeaderOperations, Headers, HttpRoute, Percentage, Retries,
};
use super::super::super::super::tree::{Path, quote};
use super::super::super::super::value::{HeaderName, Percent, StringMatch};
use super::super::{Report, destination};
use super::expression;

/// Only the host of a request can be changed under a name that belongs to the protocol.
pub(super) fn headers(path: Path<'_>, headers: &Headers, report: &mut Report<'_>) {
    operations(path.key("request"), &headers.request, true, report);
    operations(path.key("response"), &headers.response, false, report);
    let request = &headers.request;
    let mut hosts = request.set.keys().chain(request.add.keys()).filter(|name| name.is_authority());
    if hosts.next().is_some() && hosts.next().is_some() {
        report.error(path.key("request"), "the host is set more than once");
    }
}

fn operations(path: Path<'_>, operations: &HeaderOperations, host: bool, report: &mut Report<'_>) {
    let protected = |name: &HeaderName, host: bool| {
        let authority = name.is_authority();
        (authority && !host) || (name.is_pseudo() && !authority)
    };
    for (part, map) in [("set", &operations.set), ("add", &operations.add)] {
        for name in map.keys().filter(|name| protected(name, host)) {
            let reason = format!("{} cannot be changed", quote(name.as_str()));
            report.error(path.key(part).key(name.as_str()), reason);
        }
    }
    for (index, name) in operations.remove.iter().enumerate().filter(|(_, name)| protected(name, false)) {
        let reason = format!("{} cannot be removed", quote(name.as_str()));
        report.error(path.key("remove").at(index), reason);
    }
}

pub(super) fn mirrors(path: Path<'_>, route: &HttpRoute, report: &mut Report<'_>) {
    if let Some(mirror) = &route.mirror {
        destination(path.key("mirror"), mirror, report);
        if !route.mirrors.is_empty() {
            report.error(path.key("mirrors"), "only one of mirror and mirrors may be given");
        }
    }
    if let Some(percent) = route.mirror_percent {
        let hint = format!("use mirrorPercentage: {{value: {percent}}}");
        report.warning_with(path.key("mirrorPercent"), "is deprecated", hint);
        report.percent(path.key("mirrorPercent"), percent);
    }
    let shares = [
        ("mirrorPercentage", route.mirror_percentage.is_some()),
        ("mirrorPercent", route.mirror_percent.is_some()),
    ];
    for (name, _) in shares.into_iter().filter(|(_, given)| *given && route.mirror.is_none()) {
        report.warning(path.key(name), "has no effect without mirror");
    }
    for (index, mirror) in route.mirrors.iter().enumerate() {
        destination(path.key("mirrors").at(index).key("destination"), &mirror.destination, report);
    }
}

pub(super) fn cors(path: Path<'_>, policy: &CorsPolicy, report: &mut Report<'_>) {
    if !policy.allow_origin.is_empty() {
        let hint = "use allowOrigins: [{exact: ORIGIN}]";
        report.warning_with(path.key("allowOrigin"), "is deprecated", hint);
    }
    for (index, origin) in policy.allow_origins.iter().enumerate() {
        let path = path.key("allowOrigins");
        let path = path.at(index);
        let empty = match origin {
            StringMatch::Present => true,
            StringMatch::Exact(text) | StringMatch::Prefix(text) => text.is_empty(),
            StringMatch::Regex(_) => false,
        };
        if empty {
            report.error_with(path, "names no origin", "write {exact: ORIGIN}, or {exact: \"*\"} for all");
        }
        expression(path, origin, report);
    }
    for (index, method) in policy.allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            let reason = format!("{} is not a method of HTTP", quote(method));
            report.error_with(
                path.key("allowMethods").at(index),
                reason,
                format!("one of {}", METHODS.join(", ")),
            );
        }
    }
    for (field, names) in [("allowHeaders", &policy.allow_headers), ("exposeHeaders", &policy.expose_headers)]
    {
        for (index, name) in names.iter().enumerate().filter(|(_, name)| *name != "*") {
            let valid = HeaderName::parse(name).is_ok_and(|name| !name.is_pseudo());
            if !valid {
                let reason = format!("{} is not the name of a header", quote(name));
                report.error(path.key(field).at(index), reason);
            }
        }
    }
    if policy.max_age.is_some_and(|age| age.get().subsec_nanos() > 0) {
        report.error(path.key("maxAge"), "must be a whole number of seconds");
    }
}

pub(super) fn fault(path: Path<'_>, fault: &Fault, report: &mut Report<'_>) {
    if fault.delay.is_none() && fault.abort.is_none() {
        report.error(path, "one of delay and abort is required");
    }
    if let Some(delay) = &fault.delay {
        let path = path.key("delay");
        share(path, delay.percentage, delay.percent, report);
        if delay.exponential_delay.is_some() {
            report.error_with(path.key("exponentialDelay"), "is not implemented by Istio", "use fixedDelay");
        } else if delay.fixed_delay.is_none() {
            report.warning(path, "without fixedDelay it delays nothing");
        } else if delay.share() == Percent::default() {
            nothing(path, report);
        }
    }
    if let Some(abort) = &fault.abort {
        let path = path.key("abort");
        share(path, abort.percentage, abort.percent, report);
        if abort.http2_error.is_some() {
            report.error_with(path.key("http2Error"), "is not implemented by Istio", "use httpStatus");
        }
        if abort.http_status.is_some() && abort.grpc_status.is_some() {
            report.error(path.key("grpcStatus"), "only one of httpStatus and grpcStatus may be given");
        } else if abort.error().is_none() {
            report.warning(path, "without httpStatus or grpcStatus it aborts nothing");
        } else if abort.share() == Percent::default() {
            nothing(path, report);
        }
    }
}

fn share(path: Path<'_>, percentage: Option<Percentage>, percent: Option<u32>, report: &mut Report<'_>) {
    let Some(percent) = percent else { return };
    let field = path.key("percent");
    report.percent(field, percent);
    if percentage.is_some() {
        report.error(field, "only one of percentage and percent may be given");
    } else {
        report.warning_with(field, "is deprecated", format!("use percentage: {{value: {percent}}}"));
    }
}

fn nothing(path: Path<'_>, report: &mut Report<'_>) {
    report.warning_with(path, "happens to no request", "give it percentage: {value: 100} for all");
}

pub(super) fn retries(path: Path<'_>, retries: &Retries, report: &mut Report<'_>) {
    report.count(path.key("attempts"), retries.attempts);
    let given = [
        ("perTryTimeout", retries.per_try_timeout.is_some()),
        ("retryOn", !retries.retry_on.is_empty()),
        ("retryRemoteLocalities", retries.retry_remote_localities.is_some()),
    ];
    if let Some((name, _)) = given.into_iter().find(|(_, is)| *is && retries.attempts == 0) {
        let reason = format!("0 or absent means no retries, but {name} is given");
        report.error_with(path.key("attempts"), reason, "give it a number above 0");
    }
}

/// Methods that a page can be allowed to use.
const METHODS: &[&str] =
    &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*"];
