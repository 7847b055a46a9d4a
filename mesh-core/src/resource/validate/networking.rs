//! The kinds of `networking.istio.io`: the rules of Istio's schemas and of its validating webhook.

use std::collections::{BTreeMap, BTreeSet};

use super::super::Meta;
use super::super::networking::destination_rule::{ConnectionPool, H2UpgradePolicy};
use super::super::networking::{Destination, LabelSelector};
use super::super::tree::{Path, quote};
use super::super::value::{ExportTo, Host};
use super::{Report, is_dns_label};

pub(super) use self::destination_rule::destination_rule;
pub(super) use self::gateway::gateway;
pub(super) use self::service_entry::service_entry;
pub(super) use self::sidecar::sidecar;
pub(super) use self::virtual_service::{never_used, virtual_service};
pub(super) use self::workload::{workload_entry, workload_group};

mod destination_rule;
mod gateway;
mod load_balancer;
mod service_entry;
mod sidecar;
mod virtual_service;
mod workload;

/// `exportTo` of any kind but ServiceEntry, which alone may be seen by nobody.
fn export_to(entries: &[ExportTo], meta: &Meta, report: &mut Report<'_>) {
    visibility(entries, meta, report);
    let root = Path::Root("spec.exportTo");
    if let Some(index) = entries.iter().position(|entry| *entry == ExportTo::Nobody) {
        report.error_with(root.at(index), "~ is only for ServiceEntry", "write . for its own namespace");
    }
}

/// What holds for `exportTo` of every kind: no entry twice, and none beside one that says it all.
fn visibility(entries: &[ExportTo], meta: &Meta, report: &mut Report<'_>) {
    let root = Path::Root("spec.exportTo");
    let mut seen = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = root.at(index);
        let namespace = match entry {
            ExportTo::Own => &*meta.namespace,
            ExportTo::Namespace(name) => name,
            ExportTo::All => "*",
            ExportTo::Nobody => "~",
        };
        if !seen.insert(namespace) {
            report.error(path, format!("{} is given twice", quote(namespace)));
        }
        if entries.len() > 1 && matches!(entry, ExportTo::All | ExportTo::Nobody) {
            report.error(path, format!("{namespace} must be the only entry"));
        }
    }
}

/// Where a route leads.
fn destination(path: Path<'_>, destination: &Destination, report: &mut Report<'_>) {
    let host = path.key("host");
    match &destination.host {
        Host::Any => report.error(host, "* is no destination"),
        other => domain(host, other, report),
    }
    if !destination.subset.is_empty() {
        report.dns_label(path.key("subset"), &destination.subset);
    }
}

/// A name or a wildcard, where an address has no meaning.
fn domain(path: Path<'_>, host: &Host, report: &mut Report<'_>) {
    match host {
        Host::Address(address) => {
            report.error_with(path, format!("{address} is an address, not a name"), "name a service");
        }
        host if host.is_sni_name() => report.error(path, "is a name for traffic between gateways only"),
        _ => {}
    }
}

/// A selector of the kinds where Istio spells it `labels`.
fn label_selector(selector: &LabelSelector, report: &mut Report<'_>) {
    let field = "spec.workloadSelector";
    if selector.labels.is_empty() {
        let hint = "remove the selector if all workloads are meant";
        report.warning_with(field, "a selector without labels selects every workload", hint);
    }
    super::security::match_labels("spec.workloadSelector.labels", &selector.labels, report);
}

/// Labels that a workload has or must have.
fn labels_at(path: Path<'_>, labels: &BTreeMap<String, String>, report: &mut Report<'_>) {
    if !labels.is_empty() {
        super::labels(&path.to_string(), labels, report);
    }
}

/// Limits of a pool.
fn connection_pool(path: Path<'_>, pool: &ConnectionPool, report: &mut Report<'_>) {
    if pool.tcp.is_none() && pool.http.is_none() {
        report.error_with(path, "must not be empty", "give it tcp or http, or remove it");
    }
    let Some(http) = &pool.http else { return };
    let field = path.key("http");
    if http.use_client_protocol && http.h2_upgrade_policy == H2UpgradePolicy::Upgrade {
        report.error(field.key("useClientProtocol"), "cannot be true with h2UpgradePolicy UPGRADE");
    }
    if let Some(keep_alive) = &http.http2_keep_alive {
        let field = field.key("http2KeepAlive");
        for (name, given) in
            [("interval", keep_alive.interval.is_some()), ("timeout", keep_alive.timeout.is_some())]
        {
            if !given {
                report.error(field.key(name), "required, but missing");
            }
        }
    }
}

impl Report<'_> {
    /// A DNS label that need not be in lower case, as Istio names subsets and ports.
    fn dns_label(&mut self, path: Path<'_>, value: &str) {
        if !is_dns_label(&value.to_ascii_lowercase()) {
            let reason = format!("{} is not a DNS label", quote(value));
            self.error_with(path, reason, "at most 63 letters, digits and -, not - at either end");
        }
    }

    /// A count of Istio's, which has 31 bits.
    fn count(&mut self, path: Path<'_>, value: u32) {
        if i32::try_from(value).is_err() {
            self.error(path, format!("{value} is out of range (0 to {})", i32::MAX));
        }
    }

    /// Whole per cents.
    fn percent(&mut self, path: Path<'_>, value: u32) {
        if value > 100 {
            self.error(path, format!("{value} is not between 0 and 100"));
        }
    }
}
