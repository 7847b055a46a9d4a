//! Routes.

use super::super::super::gateway_api::HttpFilter;
use super::super::super::gateway_api::{
    GrpcMethodMatch, GrpcRouteSpec, GrpcRule, HeaderName, HttpMatch, HttpRouteSpec, HttpRule, L4Rule,
    PathMatch, TcpRouteSpec, Timeout, TlsRouteSpec, UdpRouteSpec, ValueMatch,
};
use super::super::Report;
use super::filter::{grpc_filters, http_filters, replaces_prefix};
use super::{backend, header_names, hostname_is_no_address, hostnames, parents, rule_names, unique, within};

pub(in super::super) fn http_route(spec: &HttpRouteSpec, report: &mut Report<'_>) {
    parents(&spec.parent_refs, spec.use_default_gateways, report);
    hostnames(&spec.hostnames, 16, report);
    within(1..=16, "spec.rules", spec.rules.len(), report);
    rule_names(spec.rules.iter().map(|rule| rule.name.as_ref()), report);
    matches_in_all(spec.rules.iter().map(|rule| rule.matches.len()), report);
    for (index, rule) in spec.rules.iter().enumerate() {
        http_rule(&format!("spec.rules[{index}]"), rule, report);
    }
}

pub(in super::super) fn grpc_route(spec: &GrpcRouteSpec, report: &mut Report<'_>) {
    parents(&spec.parent_refs, spec.use_default_gateways, report);
    hostnames(&spec.hostnames, 16, report);
    within(0..=16, "spec.rules", spec.rules.len(), report);
    rule_names(spec.rules.iter().map(|rule| rule.name.as_ref()), report);
    matches_in_all(spec.rules.iter().map(|rule| rule.matches.len()), report);
    for (index, rule) in spec.rules.iter().enumerate() {
        grpc_rule(&format!("spec.rules[{index}]"), rule, report);
    }
}

/// `version` is that of the object; in `v1alpha2` more is allowed than later.
pub(in super::super) fn tls_route(spec: &TlsRouteSpec, version: &str, report: &mut Report<'_>) {
    parents(&spec.parent_refs, spec.use_default_gateways, report);
    let first = version == "v1alpha2";
    within(usize::from(!first)..=1024, "spec.hostnames", spec.hostnames.len(), report);
    for (index, hostname) in spec.hostnames.iter().enumerate() {
        let field = format!("spec.hostnames[{index}]");
        if first {
            hostname_is_no_address(&field, hostname, report);
        } else if hostname.parse::<std::net::IpAddr>().is_ok() {
            report.error(field, format!("{hostname} is an IP address, which SNI cannot carry"));
        }
    }
    l4_rules(&spec.rules, first, report);
}

/// As [`tls_route`].
pub(in super::super) fn tcp_route(spec: &TcpRouteSpec, version: &str, report: &mut Report<'_>) {
    parents(&spec.parent_refs, spec.use_default_gateways, report);
    l4_rules(&spec.rules, version == "v1alpha2", report);
}

/// As [`tls_route`]. Pods' own datagrams pass the mesh, so that a Service as parent has no effect.
pub(in super::super) fn udp_route(spec: &UdpRouteSpec, version: &str, report: &mut Report<'_>) {
    parents(&spec.parent_refs, spec.use_default_gateways, report);
    l4_rules(&spec.rules, version == "v1alpha2", report);
    let of_services = spec
        .parent_refs
        .iter()
        .enumerate()
        .filter(|(_, parent)| parent.group.is_empty() && *parent.kind == *"Service");
    for (index, _) in of_services {
        let reason = "clients in the mesh do not follow UDPRoutes: this parent has no effect";
        let hint = "name a Gateway with a listener of protocol UDP";
        report.warning_with(format_args!("spec.parentRefs[{index}]"), reason, hint);
    }
}

fn http_rule(field: &str, rule: &HttpRule, report: &mut Report<'_>) {
    within(0..=64, &format!("{field}.matches"), rule.matches.len(), report);
    for (index, it) in rule.matches.iter().enumerate() {
        let field = format!("{field}.matches[{index}]");
        match &it.path {
            PathMatch::Regex(regex) => report.regex(format_args!("{field}.path.value"), regex),
            PathMatch::Unread(why) => left_out(&format!("{field}.path.value"), why, report),
            PathMatch::Exact(_) | PathMatch::Prefix(_) => {}
        }
        let named = it.headers.iter().map(|header| (&header.name, &header.value));
        headers(&format!("{field}.headers"), named, report);
        let field = format!("{field}.queryParams");
        within(0..=16, &field, it.query_params.len(), report);
        unique(&field, "name", it.query_params.iter().map(|param| &*param.name), report);
        for (index, param) in it.query_params.iter().enumerate() {
            value(&format!("{field}[{index}].value"), &param.value, report);
        }
    }
    let filters = format!("{field}.filters");
    http_filters(&filters, &rule.filters, report);
    prefix_replaced(&filters, &rule.filters, rule, report);
    within(0..=16, &format!("{field}.backendRefs"), rule.backend_refs.len(), report);
    for (index, it) in rule.backend_refs.iter().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        backend(&field, &it.backend, report);
        let filters = format!("{field}.filters");
        http_filters(&filters, &it.filters, report);
        prefix_replaced(&filters, &it.filters, rule, report);
    }
    let redirects = rule.filters.iter().any(|filter| matches!(filter, HttpFilter::RequestRedirect(_)));
    if redirects && !rule.backend_refs.is_empty() {
        let reason = "a rule that redirects sends nothing to backends";
        report.error_with(format_args!("{field}.backendRefs"), reason, "remove it, or the RequestRedirect");
    }
    let timeouts = &rule.timeouts;
    if let (Some(Timeout::After(all)), Some(Timeout::After(one))) =
        (timeouts.request, timeouts.backend_request)
        && one > all
    {
        let reason = "must not be longer than timeouts.request";
        report.error(format_args!("{field}.timeouts.backendRequest"), reason);
    }
    retry(field, rule, report);
}

fn retry(field: &str, rule: &HttpRule, report: &mut Report<'_>) {
    let Some(retry) = &rule.retry else { return };
    let codes = format!("{field}.retry.codes");
    for (index, code) in retry.codes.iter().enumerate().filter(|(_, code)| !(400..=599).contains(*code)) {
        report.error(format_args!("{codes}[{index}]"), format!("{code} is not between 400 and 599"));
    }
    unique(&codes, "value", &retry.codes, report);
}

/// The prefix that a filter replaces must be known, and one.
fn prefix_replaced(field: &str, filters: &[HttpFilter], rule: &HttpRule, report: &mut Report<'_>) {
    let one_prefix = matches!(&rule.matches[..], [HttpMatch { path: PathMatch::Prefix(_), .. }]);
    if let Some(index) = filters.iter().position(replaces_prefix).filter(|_| !one_prefix) {
        let reason = "ReplacePrefixMatch needs a rule with exactly one match, of type PathPrefix";
        report.error_with(format_args!("{field}[{index}]"), reason, "write one rule per prefix");
    }
}

fn grpc_rule(field: &str, rule: &GrpcRule, report: &mut Report<'_>) {
    within(0..=64, &format!("{field}.matches"), rule.matches.len(), report);
    for (index, it) in rule.matches.iter().enumerate() {
        let field = format!("{field}.matches[{index}]");
        if let Some(GrpcMethodMatch::Regex { service, method }) = &it.method {
            for (name, regex) in [("service", service), ("method", method)] {
                if let Some(regex) = regex {
                    report.regex(format_args!("{field}.method.{name}"), regex);
                }
            }
        }
        if let Some(GrpcMethodMatch::Unread(why)) = &it.method {
            left_out(&format!("{field}.method"), why, report);
        }
        let named = it.headers.iter().map(|header| (&header.name, &header.value));
        headers(&format!("{field}.headers"), named, report);
    }
    grpc_filters(&format!("{field}.filters"), &rule.filters, report);
    within(0..=16, &format!("{field}.backendRefs"), rule.backend_refs.len(), report);
    for (index, it) in rule.backend_refs.iter().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        backend(&field, &it.backend, report);
        grpc_filters(&format!("{field}.filters"), &it.filters, report);
    }
}

/// The headers of a match.
fn headers<'m>(
    field: &str,
    headers: impl ExactSizeIterator<Item = (&'m HeaderName, &'m ValueMatch)> + Clone,
    report: &mut Report<'_>,
) {
    within(0..=16, field, headers.len(), report);
    header_names(field, headers.clone().map(|(name, _)| name), report);
    for (index, (_, value)) in headers.enumerate() {
        self::value(&format!("{field}[{index}].value"), value, report);
    }
}

fn value(field: &str, value: &ValueMatch, report: &mut Report<'_>) {
    match value {
        ValueMatch::Regex(regex) => report.regex(field, regex),
        ValueMatch::Unread(why) => left_out(field, why, report),
        ValueMatch::Exact(_) => {}
    }
}

/// The schema takes it, so that it is no reason to refuse the other rules.
fn left_out(field: &str, why: &str, report: &mut Report<'_>) {
    let hint = "mend the expression; the condition PartiallyInvalid of the route names the rule";
    report.warning_with(field, format!("{why}: the rule is left out"), hint);
}

fn l4_rules(rules: &[L4Rule], many: bool, report: &mut Report<'_>) {
    within(1..=if many { 16 } else { 1 }, "spec.rules", rules.len(), report);
    rule_names(rules.iter().map(|rule| rule.name.as_ref()), report);
    if many && rules.len() > 1 {
        let reason = "nothing tells connections apart: the first rule gets all of them";
        report.warning("spec.rules[1]", reason);
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("spec.rules[{index}].backendRefs");
        within(1..=16, &field, rule.backend_refs.len(), report);
        for (index, it) in rule.backend_refs.iter().enumerate() {
            backend(&format!("{field}[{index}]"), &it.backend, report);
        }
    }
}

fn matches_in_all(counts: impl Iterator<Item = usize>, report: &mut Report<'_>) {
    let count: usize = counts.sum();
    if count > 128 {
        report.error("spec.rules", format!("have {count} matches together, the limit is 128"));
    }
}
