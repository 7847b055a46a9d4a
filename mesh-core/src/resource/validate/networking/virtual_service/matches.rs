//! What a rule for HTTP asks of a request.

use std::collections::BTreeMap;

use super::super::super::super::networking::virtual_service::HttpMatch;
use super::super::super::super::tree::Path;
use super::super::super::super::value::{HeaderKey, StringMatch};
use super::super::{Report, labels_at};
use super::{expression, gateways};

pub(super) fn http(path: Path<'_>, request: &HttpMatch, report: &mut Report<'_>) {
    if let Some(uri) = &request.uri {
        expression(path.key("uri"), uri, report);
        if request.ignore_uri_case && matches!(uri, StringMatch::Regex(_)) {
            let reason = "has no effect on a regex";
            report.warning_with(path.key("ignoreUriCase"), reason, "begin the regex with (?i)");
        }
    } else if request.ignore_uri_case {
        report.warning(path.key("ignoreUriCase"), "has no effect without uri");
    }
    for (name, value) in
        [("scheme", &request.scheme), ("method", &request.method), ("authority", &request.authority)]
    {
        if let Some(value) = value {
            text(path.key(name), value, report);
        }
    }
    headers(path.key("headers"), &request.headers, report);
    headers(path.key("withoutHeaders"), &request.without_headers, report);
    let parameters = path.key("queryParams");
    for (name, value) in &request.query_params {
        text(parameters.key(name), value, report);
    }
    labels_at(path.key("sourceLabels"), &request.source_labels, report);
    if !request.source_namespace.is_empty() {
        report.label(path.key("sourceNamespace"), &request.source_namespace);
    }
    gateways(path.key("gateways"), &request.gateways, report);
}

fn headers(path: Path<'_>, headers: &BTreeMap<HeaderKey, StringMatch>, report: &mut Report<'_>) {
    for (key, value) in headers {
        let name = match key {
            HeaderKey::Name(name) => name.as_str(),
            HeaderKey::Claim(_) => "@request.auth.claims",
        };
        text(path.key(name), value, report);
        if IGNORED.contains(&name) {
            let reason = format!("a header {name} is not looked at");
            report.warning_with(path.key(name), reason, format!("use {name} beside headers"));
        }
    }
}

/// An empty prefix, which every text begins with, is a slip.
fn text(path: Path<'_>, value: &StringMatch, report: &mut Report<'_>) {
    if matches!(value, StringMatch::Prefix(prefix) if prefix.is_empty()) {
        report.error_with(path.key("prefix"), "must not be empty", "write {} where any value will do");
    }
    expression(path, value, report);
}

/// Names under `headers` that Istio takes for the fields beside it and then leaves out.
const IGNORED: &[&str] = &["uri", "scheme", "method", "authority"];
