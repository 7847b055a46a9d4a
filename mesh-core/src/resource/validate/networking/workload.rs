//! WorkloadEntry and WorkloadGroup.

use std::collections::{BTreeMap, HashSet};

use super::super::super::networking::workload::{
    Address, ReadinessProbe, WorkloadEntrySpec, WorkloadGroupSpec,
};
use super::super::super::tree::{Path, quote};
use super::super::is_qualified_name;
use super::{Report, labels_at};

pub(in crate::resource::validate) fn workload_entry(spec: &WorkloadEntrySpec, report: &mut Report<'_>) {
    let root = Path::Root("spec");
    endpoint(root, spec, report);
    endpoint_ports(root, spec, None, report);
}

pub(in crate::resource::validate) fn workload_group(spec: &WorkloadGroupSpec, report: &mut Report<'_>) {
    let root = Path::Root("spec");
    let metadata = root.key("metadata");
    labels_at(metadata.key("labels"), &spec.metadata.labels, report);
    for key in spec.metadata.annotations.keys().filter(|key| !is_qualified_name(key)) {
        // API servers refuse every WorkloadEntry with it.
        report.error(metadata.key("annotations").key(key), "not a valid annotation key");
    }
    for (name, map) in [("labels", &spec.metadata.labels), ("annotations", &spec.metadata.annotations)] {
        entries(metadata.key(name), map.len(), 256, report);
    }
    // The address is what each workload brings itself.
    let template = root.key("template");
    sizes(template, &spec.template, report);
    endpoint_ports(template, &spec.template, None, report);
    if let Some(probe) = &spec.probe {
        self::probe(root.key("probe"), probe, report);
    }
}

/// An endpoint, wherever it is listed.
pub(super) fn endpoint(path: Path<'_>, entry: &WorkloadEntrySpec, report: &mut Report<'_>) {
    if entry.address.is_none() && entry.network.is_empty() {
        report.error(path.key("address"), "required, but missing");
    } else if entry.address.is_none() {
        let reason = format!("absent: the gateway of network {} is asked", quote(&entry.network));
        report.warning(path.key("address"), reason);
    }
    sizes(path, entry, report);
}

/// Ports of an endpoint; `names` are those of the service, where they are known.
pub(super) fn endpoint_ports(
    path: Path<'_>,
    entry: &WorkloadEntrySpec,
    names: Option<&HashSet<&str>>,
    report: &mut Report<'_>,
) {
    let field = path.key("ports");
    if matches!(entry.address, Some(Address::Unix(_))) && !entry.ports.is_empty() {
        report.error(field, "a Unix domain socket has no ports");
    }
    for name in entry.ports.keys() {
        report.dns_label(field.key(name), name);
        if names.is_some_and(|names| !names.contains(name.as_str())) {
            let reason = format!("the ServiceEntry has no port {}", quote(name));
            report.error(field.key(name), reason);
        }
    }
}

fn sizes(path: Path<'_>, entry: &WorkloadEntrySpec, report: &mut Report<'_>) {
    labels_at(path.key("labels"), &entry.labels, report);
    entries(path.key("labels"), entry.labels.len(), 256, report);
    entries(path.key("ports"), entry.ports.len(), 128, report);
    for (name, text, limit) in [("network", &entry.network, 2048), ("locality", &entry.locality, 2048)] {
        if text.len() > limit {
            report.error(path.key(name), format!("has {} bytes, the limit is {limit}", text.len()));
        }
    }
    if !entry.service_account.is_empty() {
        report.subdomain(path.key("serviceAccount"), &entry.service_account);
    }
    let parts = entry.locality.split('/');
    if !entry.locality.is_empty() && (parts.clone().count() > 3 || parts.clone().any(str::is_empty)) {
        let reason = format!("{} is not a locality", quote(&entry.locality));
        report.error_with(path.key("locality"), reason, "write REGION[/ZONE[/SUBZONE]]");
    }
}

fn entries(path: Path<'_>, count: usize, limit: usize, report: &mut Report<'_>) {
    if count > limit {
        report.error(path, format!("has {count} entries, the limit is {limit}"));
    }
}

fn probe(path: Path<'_>, probe: &ReadinessProbe, report: &mut Report<'_>) {
    let times: BTreeMap<_, _> = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ]
    .into();
    for (name, value) in times {
        report.count(path.key(name), value);
    }
    let methods =
        [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.exec.is_some(), probe.grpc.is_some()];
    if methods.into_iter().filter(|given| *given).count() != 1 {
        report.error(path, "must have exactly one of exec, grpc, httpGet and tcpSocket");
    }
    if let Some(http) = &probe.http_get {
        let path = path.key("httpGet");
        if !matches!(http.scheme.as_str(), "" | "HTTP" | "HTTPS") {
            report.one_of(path.key("scheme"), &http.scheme, &["HTTP", "HTTPS"]);
        }
        for (index, header) in http.http_headers.iter().enumerate() {
            let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            if header.name.is_empty() || !header.name.bytes().all(legal) {
                let reason = format!("{} is not the name of a header", quote(&header.name));
                report.error(path.key("httpHeaders").at(index).key("name"), reason);
            }
        }
    }
    for (name, host) in [
        ("httpGet", probe.http_get.as_ref().map(|it| &it.host)),
        ("tcpSocket", probe.tcp_socket.as_ref().map(|it| &it.host)),
    ] {
        if host.is_some_and(|host| !host.is_empty()) {
            let reason = "nobody connects there: the address of the WorkloadEntry is asked, from outside";
            report.warning(path.key(name).key("host"), reason);
        }
    }
    if let Some(exec) = &probe.exec {
        let path = path.key("exec");
        let reason = "has no effect: commands that are written into a cluster are not run on machines";
        report.warning_with(path, reason, "use httpGet, grpc or tcpSocket");
        if exec.command.is_empty() {
            report.error(path.key("command"), "required, but missing or empty");
        }
        if let Some(index) = exec.command.iter().position(String::is_empty) {
            report.error(path.key("command").at(index), "must not be empty");
        }
    }
}
