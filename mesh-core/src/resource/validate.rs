//! What the types cannot say: ranges, names, addresses, and fields that need or exclude each other.
//!
//! The rules are Kubernetes' and Istio's own, as far as the mesh depends on a field. Fields that it never reads are
//! left to whoever does.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::kind::Kind;
use super::strict::Unknown;
use super::tree::{MAX_PROBLEMS, Path, Problem, Tree, quote};
use super::value::Regex;
use super::{Meta, Spec};

mod gateway_api;
mod health_check;
mod network;
mod networking;
mod proxy;
mod rate_limit;
mod request_authentication;
mod security;
mod telemetry;
mod workload;

/// Collects the problems of one object; fields are given relative to it.
pub(super) struct Report<'a> {
    prefix: &'a str,
    unknown: Unknown,
    problems: Vec<Problem>,
    /// Weights of the regular expressions that were compiled.
    regexes: u64,
}

impl<'a> Report<'a> {
    pub(super) fn new(prefix: &'a str) -> Self {
        Self { prefix, unknown: Unknown::Refused, problems: Vec::new(), regexes: 0 }
    }

    /// Of an object that stands for itself, whose unknown fields are treated as `unknown` says.
    pub(super) fn tolerating(unknown: Unknown) -> Self {
        Self { unknown, ..Self::new("") }
    }

    pub(super) fn unknown(&self) -> Unknown {
        self.unknown
    }

    pub(super) fn prefix(&self) -> &'a str {
        self.prefix
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }

    /// The path of `field` from the start of the document.
    pub(super) fn full(&self, field: impl fmt::Display) -> String {
        let field = field.to_string();
        match (self.prefix, field.as_str()) {
            ("", _) => field,
            (prefix, "") => prefix.to_owned(),
            (prefix, field) => format!("{prefix}.{field}"),
        }
    }

    /// Adds problems that carry full paths.
    pub(super) fn extend(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.problems.extend(problems);
    }

    pub(super) fn error(&mut self, field: impl fmt::Display, reason: impl Into<String>) {
        self.push(field, |field| Problem::error(field, reason));
    }

    pub(super) fn error_with(
        &mut self,
        field: impl fmt::Display,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(field, |field| Problem::error(field, reason).hint(hint));
    }

    pub(super) fn warning(&mut self, field: impl fmt::Display, reason: impl Into<String>) {
        self.push(field, |field| Problem::warning(field, reason));
    }

    pub(super) fn warning_with(
        &mut self,
        field: impl fmt::Display,
        reason: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.push(field, |field| Problem::warning(field, reason).hint(hint));
    }

    fn push(&mut self, field: impl fmt::Display, problem: impl FnOnce(String) -> Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            let problem = problem(self.full(field));
            self.problems.push(problem);
        }
    }

    /// A regular expression that must compile. Compiling is the one check that takes more time than reading.
    fn regex(&mut self, field: impl fmt::Display, regex: &Regex) {
        let before = self.regexes;
        self.regexes = before.saturating_add(regex.weight().max(MIN_WEIGHT));
        if self.regexes <= MAX_WEIGHT {
            if let Err(reason) = regex.compiled() {
                self.error(field, reason);
            }
        } else if before <= MAX_WEIGHT {
            self.error(field, "the regular expressions of this object are too large together");
        }
    }

    /// A port number of 1..=65535.
    fn port(&mut self, field: impl fmt::Display, port: i32) {
        if !(1..=65535).contains(&port) {
            self.error(field, format!("port {port} is not between 1 and 65535"));
        }
    }

    /// One of a few words.
    fn one_of(&mut self, field: impl fmt::Display, value: &str, allowed: &[&str]) {
        if !allowed.contains(&value) {
            let reason = format!("unknown value {}", quote(value));
            self.error_with(field, reason, format!("one of {}", allowed.join(", ")));
        }
    }

    fn address(&mut self, field: impl fmt::Display, value: &str) -> Option<IpAddr> {
        let address = value.parse().ok();
        if address.is_none() {
            self.error(field, format!("{} is not an IP address", quote(value)));
        }
        address
    }

    fn cidr(&mut self, field: impl fmt::Display, value: &str) {
        if value.parse::<ipnet::IpNet>().is_err() {
            self.error(field, format!("{} is not a CIDR", quote(value)));
        }
    }

    /// An address or a CIDR.
    fn block(&mut self, field: impl fmt::Display, value: &str) {
        if value.parse::<IpAddr>().is_err() && value.parse::<ipnet::IpNet>().is_err() {
            self.error(field, format!("{} is neither an IP address nor a CIDR", quote(value)));
        }
    }

    /// A DNS label, RFC 1123: at most 63 of a-z, 0-9 and `-`, which neither begins nor ends it.
    fn label(&mut self, field: impl fmt::Display, value: &str) {
        if !is_dns_label(value) {
            let reason = format!("{} is not a DNS label", quote(value));
            self.error_with(field, reason, "at most 63 of a-z, 0-9 and -, not - at either end");
        }
    }

    /// What API servers take for a DNS subdomain: parts joined by dots, at most 253 characters. A part may be longer than a
    /// label of DNS.
    fn subdomain(&mut self, field: impl fmt::Display, value: &str) {
        if !is_subdomain(value) {
            let reason = format!("{} is not a DNS name", quote(value));
            self.error_with(
                field,
                reason,
                "at most 253 of a-z, 0-9, - and ., each part begins and ends with a-z or 0-9",
            );
        }
    }

    /// The name of a port (an IANA service name): at most 15 of a-z, 0-9 and `-`, one of them a letter.
    fn port_name(&mut self, field: impl fmt::Display, value: &str) {
        let letters = value.bytes().any(|b| b.is_ascii_lowercase());
        if value.len() > 15 || !letters || !is_dns_label(value) || value.contains("--") {
            let reason = format!("{} is not a port name", quote(value));
            self.error_with(field, reason, "at most 15 of a-z, 0-9 and -, at least one letter");
        }
    }
}

/// Applies the defaults of `metadata` and checks what all kinds share.
pub(super) fn metadata(kind: Kind, metadata: &ObjectMeta, report: &mut Report<'_>) -> Meta {
    let name = metadata.name.as_deref().unwrap_or_default();
    match name {
        "" if metadata.generate_name.is_some() => {
            report.error_with("metadata.name", "required, but missing", "generateName needs an API server");
        }
        "" => report.error("metadata.name", "required, but missing"),
        _ if kind.is_named_by_label() => report.label("metadata.name", name),
        _ => report.subdomain("metadata.name", name),
    }
    let given = metadata.namespace.as_deref().unwrap_or_default();
    let namespace = match (kind.is_namespaced(), given) {
        (true, "") => "default",
        (true, given) => {
            report.label("metadata.namespace", given);
            given
        }
        (false, "") => "",
        (false, _) => {
            report.warning("metadata.namespace", format!("{} has no namespace; ignored", kind.name()));
            ""
        }
    };
    let labels = metadata.labels.clone().unwrap_or_default();
    self::labels("metadata.labels", &labels, report);
    let annotations = metadata.annotations.clone().unwrap_or_default();
    for key in annotations.keys().filter(|key| !is_qualified_name(&key.to_ascii_lowercase())) {
        report.error(child("metadata.annotations", key), "not a valid annotation key");
    }
    Meta {
        kind: kind.key(),
        namespace: Arc::from(namespace),
        name: Arc::from(name),
        labels,
        annotations,
        uid: metadata.uid.as_deref().filter(|uid| !uid.is_empty()).map(Arc::from),
        creation_timestamp: metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        generation: metadata.generation,
    }
}

/// Checks the annotations that mean something to Istio, on an object of one of its kinds.
pub(super) fn annotations(spec: &Spec, meta: &Meta, report: &mut Report<'_>) {
    let action = match spec {
        Spec::AuthorizationPolicy(spec) => Some(spec.action),
        _ => None,
    };
    security::annotations(meta, action, report);
}

/// Checks the object itself.
pub(super) fn spec(spec: &Spec, meta: &Meta, report: &mut Report<'_>) {
    match spec {
        // Of routes for TLS and TCP, what is right depends on the version.
        Spec::Namespace(_)
        | Spec::ServiceAccount(_)
        | Spec::TlsRoute(_)
        | Spec::TcpRoute(_)
        | Spec::UdpRoute(_) => {}
        Spec::Node(node) => network::node(node, report),
        Spec::Pod(pod) => workload::pod(pod, report),
        Spec::Service(service) => network::service(service, report),
        Spec::EndpointSlice(slice) => network::endpoint_slice(slice, report),
        Spec::Deployment(deployment) => workload::deployment(deployment, report),
        Spec::ConfigMap(map) => workload::config_map(map, report),
        Spec::PeerAuthentication(spec) => security::peer_authentication(spec, report),
        Spec::AuthorizationPolicy(spec) => security::authorization_policy(spec, meta, report),
        Spec::RequestAuthentication(spec) => {
            request_authentication::request_authentication(spec, meta, report);
        }
        Spec::Telemetry(spec) => telemetry::telemetry(spec, meta, report),
        Spec::ProxyConfig(spec) => proxy::proxy_config(spec, report),
        Spec::Secret(secret) => proxy::secret(secret, report),
        Spec::GatewayClass(spec) => gateway_api::gateway_class(spec, report),
        Spec::KubernetesGateway(spec) => gateway_api::gateway(spec, report),
        Spec::ListenerSet(spec) => gateway_api::listener_set(spec, report),
        Spec::HttpRoute(spec) => gateway_api::http_route(spec, report),
        Spec::GrpcRoute(spec) => gateway_api::grpc_route(spec, report),
        Spec::ReferenceGrant(spec) => gateway_api::reference_grant(spec, report),
        Spec::BackendTlsPolicy(spec) => gateway_api::backend_tls_policy(spec, report),
        Spec::RateLimit(spec) => rate_limit::rate_limit(spec, meta, report),
        Spec::HealthCheck(spec) => health_check::health_check(spec, meta, report),
        Spec::Gateway(spec) => networking::gateway(spec, report),
        Spec::VirtualService(spec) => networking::virtual_service(spec, meta, report),
        Spec::DestinationRule(spec) => networking::destination_rule(spec, meta, report),
        Spec::ServiceEntry(spec) => networking::service_entry(spec, meta, report),
        Spec::WorkloadEntry(spec) => networking::workload_entry(spec, report),
        Spec::WorkloadGroup(spec) => networking::workload_group(spec, report),
        Spec::Sidecar(spec) => networking::sidecar(spec, meta, report),
    }
}

/// Checks what depends on the version that the object was written in.
pub(super) fn version(spec: &Spec, version: &str, report: &mut Report<'_>) {
    match spec {
        Spec::TlsRoute(spec) => gateway_api::tls_route(spec, version, report),
        Spec::TcpRoute(spec) => gateway_api::tcp_route(spec, version, report),
        Spec::UdpRoute(spec) => gateway_api::udp_route(spec, version, report),
        _ => {}
    }
}

/// Warns of lists in `spec` that are there but empty: they restrict nothing, which is rarely what was meant.
pub(super) fn empty_lists(tree: &Tree, report: &mut Report<'_>) {
    if let Some(Tree::List(rules)) = tree.get("spec").and_then(|spec| spec.get("rules")) {
        for (index, rule) in rules.iter().enumerate() {
            let root = Path::Root("spec.rules");
            empty_lists_in(rule, Path::Index(&root, index), report);
        }
    }
}

fn empty_lists_in(tree: &Tree, path: Path<'_>, report: &mut Report<'_>) {
    match tree {
        Tree::List(items) if items.is_empty() => match path {
            Path::Key(_, "from" | "to") => {
                report.error_with(path, "must not be empty", "remove it to match all");
            }
            _ => report.warning_with(path, "an empty list restricts nothing", "remove it or name values"),
        },
        Tree::List(items) => {
            for (index, item) in items.iter().enumerate() {
                empty_lists_in(item, Path::Index(&path, index), report);
            }
        }
        Tree::Map(entries) => {
            for (key, value) in entries {
                empty_lists_in(value, Path::Key(&path, key), report);
            }
        }
        _ => {}
    }
}

/// What [`spec`] says of rules that are never used, and nothing else.
pub(super) fn never_used(spec: &super::VirtualServiceSpec) -> Vec<Problem> {
    let mut report = Report::new("");
    networking::never_used(spec, &mut report);
    report.into_problems()
}

/// Label keys are qualified names, values at most 63 of letters, digits, `-`, `_` and `.`.
fn labels<'l>(
    field: &str,
    labels: impl IntoIterator<Item = (&'l String, &'l String)>,
    report: &mut Report<'_>,
) {
    for (key, value) in labels {
        if !is_qualified_name(key) {
            report.error(child(field, key), "not a valid label key");
        } else if !is_label_value(value) {
            let reason = format!("{} is not a valid label value", quote(value));
            let hint = "at most 63 letters, digits, -, _ and ., a letter or digit at both ends";
            report.error_with(child(field, key), reason, hint);
        }
    }
}

/// The path of a map's entry.
fn child(field: &str, key: &str) -> String {
    Path::Key(&Path::Root(field), key).to_string()
}

/// Whether an API server takes it for a DNS subdomain, and so for the name of most objects.
pub(crate) fn is_subdomain(value: &str) -> bool {
    let is_part = |part: &str| {
        let byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        !part.is_empty() && part.bytes().all(byte) && !part.starts_with('-') && !part.ends_with('-')
    };
    value.len() <= 253 && value.split('.').all(is_part)
}

/// `[prefix/]name`: the prefix a DNS name, the name at most 63 characters.
fn is_qualified_name(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').unwrap_or(("x", key));
    prefix.len() <= 253 && prefix.split('.').all(is_dns_label) && !name.is_empty() && is_label_value(name)
}

fn is_label_value(value: &str) -> bool {
    let ends = |b: &u8| b.is_ascii_alphanumeric();
    value.len() <= 63
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && value.as_bytes().first().is_none_or(ends)
        && value.as_bytes().last().is_none_or(ends)
}

pub(super) fn is_dns_label(value: &str) -> bool {
    (1..=63).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !value.starts_with('-')
        && !value.ends_with('-')
}

/// Instructions that the regular expressions of one object may compile to, which bounds the time that an object
/// takes. Istio has no limit but that of etcd.
const MAX_WEIGHT: u64 = 1_000_000;
/// What a regular expression costs at least: a thousand of them are the most that an object can have.
const MIN_WEIGHT: u64 = 1_000;
