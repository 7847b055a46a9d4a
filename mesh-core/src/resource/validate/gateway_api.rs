//! Gateway API: the rules of its schemas that are about more than one value.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;

use super::super::gateway_api::{
    Backend, BackendTlsPolicySpec, CaSource, DefaultGateways, HeaderName, Hostname, LocalPolicyTarget,
    ParentRef, ReferenceGrantSpec, SectionName,
};
use super::Report;

pub(super) use self::gateway::{gateway, gateway_class, listener_set};
pub(super) use self::route::{grpc_route, http_route, tcp_route, tls_route, udp_route};

mod filter;
mod gateway;
mod route;

pub(super) fn reference_grant(spec: &ReferenceGrantSpec, report: &mut Report<'_>) {
    within(1..=16, "spec.from", spec.from.len(), report);
    within(1..=16, "spec.to", spec.to.len(), report);
}

pub(super) fn backend_tls_policy(spec: &BackendTlsPolicySpec, report: &mut Report<'_>) {
    within(1..=16, "spec.targetRefs", spec.target_refs.len(), report);
    let refs = match &spec.validation.ca {
        CaSource::Refs(refs) => refs.len(),
        CaSource::System | CaSource::Named(_) => 0,
    };
    within(0..=8, "spec.validation.caCertificateRefs", refs, report);
    within(0..=5, "spec.validation.subjectAltNames", spec.validation.subject_alt_names.len(), report);
    options("spec.options", &spec.options, report);
    let mut targets = Repeats::default();
    for (index, target) in spec.target_refs.iter().enumerate() {
        let LocalPolicyTarget { group, kind, name, section_name } = target;
        let field = format!("spec.targetRefs[{index}]");
        targets.check(&field, ((group, kind, name), section_name.is_some(), section_name), report);
        if !(group.is_empty() && **kind == *"Service") {
            let reason = format!("{kind} is not a kind this policy has an effect on");
            report.warning_with(format_args!("{field}.kind"), reason, "only Service is");
        }
    }
}

/// What all routes have.
fn parents(parents: &[ParentRef], default: Option<DefaultGateways>, report: &mut Report<'_>) {
    within(0..=32, "spec.parentRefs", parents.len(), report);
    let mut seen = Repeats::default();
    for (index, parent) in parents.iter().enumerate() {
        let ParentRef { group, kind, namespace, name, section_name, port } = parent;
        let shape = (section_name.is_some(), port.is_some());
        let field = format!("spec.parentRefs[{index}]");
        seen.check(&field, ((group, kind, namespace, name), shape, (section_name, port)), report);
    }
    if default == Some(DefaultGateways::All) {
        let reason = "default Gateways are not supported: the route attaches to those it names only";
        report.warning_with("spec.useDefaultGateways", reason, "name them in parentRefs");
    }
}

/// References to one object more than once: all by the same means, none to the same part.
struct Repeats<K, S, P> {
    shapes: BTreeMap<K, S>,
    parts: BTreeSet<(K, P)>,
}

impl<K: Ord, S, P: Ord> Default for Repeats<K, S, P> {
    fn default() -> Self {
        Self { shapes: BTreeMap::new(), parts: BTreeSet::new() }
    }
}

impl<K: Ord + Copy, S: PartialEq + Copy, P: Ord> Repeats<K, S, P> {
    fn check(&mut self, field: &str, (key, shape, part): (K, S, P), report: &mut Report<'_>) {
        let first = *self.shapes.entry(key).or_insert(shape);
        if !self.parts.insert((key, part)) {
            let hint = "refer to the object once, or to different sections or ports of it";
            report.error_with(field, "refers to the same as an earlier one", hint);
        } else if first != shape {
            let reason = "refers to an object that an earlier one refers to by other means";
            report.error_with(field, reason, "give all of them a sectionName, or all a port");
        }
    }
}

/// The fields that a backend needs.
fn backend(field: &str, backend: &Backend, report: &mut Report<'_>) {
    if backend.is_service() && backend.port.is_none() {
        report.error(format_args!("{field}.port"), "required for a Service, but missing");
    }
}

fn hostnames(hostnames: &[Hostname], limit: usize, report: &mut Report<'_>) {
    within(0..=limit, "spec.hostnames", hostnames.len(), report);
    for (index, hostname) in hostnames.iter().enumerate() {
        hostname_is_no_address(&format!("spec.hostnames[{index}]"), hostname, report);
    }
}

/// The pattern of host names lets IPv4 addresses pass, the API's text does not.
fn hostname_is_no_address(field: &str, hostname: &Hostname, report: &mut Report<'_>) {
    if hostname.parse::<std::net::IpAddr>().is_ok() {
        report.warning(field, format!("{hostname} is an IP address, which no request names as its host"));
    }
}

fn rule_names<'r>(names: impl Iterator<Item = Option<&'r SectionName>>, report: &mut Report<'_>) {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        let Some(name) = name else { continue };
        if !seen.insert(name) {
            report.error(format_args!("spec.rules[{index}].name"), format!("\"{name}\" is used twice"));
        }
    }
}

/// Settings of an implementation's own.
fn options(field: &str, options: &BTreeMap<String, String>, report: &mut Report<'_>) {
    within(0..=16, field, options.len(), report);
    for (key, value) in options {
        if value.chars().count() > 4096 {
            report.error(super::child(field, key), "has more than 4096 characters");
        }
    }
}

/// As many entries as the schema allows.
fn within(range: std::ops::RangeInclusive<usize>, field: &str, count: usize, report: &mut Report<'_>) {
    if count < *range.start() {
        report.error(field, "must not be empty");
    } else if count > *range.end() {
        report.error(field, format!("has {count} entries, the limit is {}", range.end()));
    }
}

/// Names that must differ; those that differ in case only are one and the same header, of which the first counts.
fn header_names<'h>(field: &str, names: impl Iterator<Item = &'h HeaderName>, report: &mut Report<'_>) {
    let mut seen: HashMap<&HeaderName, HashSet<&str>> = HashMap::new();
    for (index, name) in names.enumerate() {
        let spellings = seen.entry(name).or_default();
        let first = spellings.is_empty();
        if !spellings.insert(name.written()) {
            report.error(format_args!("{field}[{index}]"), "has the name of an earlier entry");
        } else if !first {
            let reason = "is the same header as that of an earlier entry, and has no effect";
            report.warning(format_args!("{field}[{index}]"), reason);
        }
    }
}

/// Entries of a list that must differ; `what` says in what.
fn unique<T: Eq + Hash>(
    field: &str,
    what: &str,
    items: impl IntoIterator<Item = T>,
    report: &mut Report<'_>,
) {
    let mut seen = HashSet::new();
    for (index, item) in items.into_iter().enumerate() {
        if !seen.insert(item) {
            report.error(format_args!("{field}[{index}]"), format!("has the {what} of an earlier entry"));
        }
    }
}
