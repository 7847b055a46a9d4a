//! ServiceEntry.

use std::collections::{BTreeSet, HashSet};

use super::super::super::networking::service_entry::{Location, Resolution, ServiceEntrySpec};
use super::super::super::networking::workload::{Address, WorkloadEntrySpec};
use super::super::super::tree::{Path, quote};
use super::super::super::value::{Host, Protocol};
use super::workload::{endpoint, endpoint_ports};
use super::{Meta, Report, domain, label_selector, visibility};

pub(in crate::resource::validate) fn service_entry(
    spec: &ServiceEntrySpec,
    meta: &Meta,
    report: &mut Report<'_>,
) {
    limits(spec, report);
    hosts(spec, report);
    addresses(spec, meta, report);
    let names = ports(spec, report);
    if let Some(selector) = &spec.workload_selector {
        label_selector(selector, report);
        if !spec.endpoints.is_empty() {
            report.error("spec.endpoints", "only one of workloadSelector and endpoints may be given");
        }
    }
    match spec.resolution {
        Resolution::None => without_resolution(spec, report),
        Resolution::Static => {
            let list = Path::Root("spec.endpoints");
            for (index, entry) in spec.endpoints.iter().enumerate() {
                endpoint(list.at(index), entry, report);
                endpoint_ports(list.at(index), entry, Some(&names), report);
                static_endpoint(list.at(index), entry, names.len(), report);
            }
        }
        Resolution::Dns | Resolution::DnsRoundRobin => by_dns(spec, &names, report),
        Resolution::DynamicDns => by_dynamic_dns(spec, meta, report),
    }
    visibility(&spec.export_to, meta, report);
}

/// Sizes that Istio's schema limits.
fn limits(spec: &ServiceEntrySpec, report: &mut Report<'_>) {
    let lists = [
        ("spec.hosts", spec.hosts.len(), 256),
        ("spec.addresses", spec.addresses.len(), 256),
        ("spec.ports", spec.ports.len(), 256),
        ("spec.endpoints", spec.endpoints.len(), 4096),
    ];
    for (field, count, limit) in lists {
        if count > limit {
            report.error(field, format!("has {count} entries, the limit is {limit}"));
        }
    }
}

fn hosts(spec: &ServiceEntrySpec, report: &mut Report<'_>) {
    let root = Path::Root("spec.hosts");
    if spec.hosts.is_empty() {
        report.error(root, "required, but missing or empty");
    }
    for (index, host) in spec.hosts.iter().enumerate() {
        match host {
            Host::Any => {
                report.error_with(root.at(index), "* would be every host there is", "write *.DOMAIN");
            }
            Host::Suffix(suffix) if !suffix.starts_with('.') && spec.resolution != Resolution::DynamicDns => {
                let reason = "a * for a part of a label is not understood everywhere";
                report.warning_with(root.at(index), reason, "write *.DOMAIN");
            }
            other => domain(root.at(index), other, report),
        }
    }
    let opaque = |protocol: Option<Protocol>| !protocol.is_some_and(|it| it.is_http() || it.is_tls());
    if spec.resolution != Resolution::None && spec.hosts.len() > 1 {
        let ports = Path::Root("spec.ports");
        if let Some(index) = spec.ports.iter().position(|port| opaque(port.protocol)) {
            let reason = "several hosts can only be told apart in HTTP and TLS";
            report.error_with(ports.at(index), reason, "make a ServiceEntry of each host");
        }
    }
}

fn addresses(spec: &ServiceEntrySpec, meta: &Meta, report: &mut Report<'_>) {
    let root = Path::Root("spec.addresses");
    let networks = matches!(spec.resolution, Resolution::None | Resolution::Static);
    for (index, address) in spec.addresses.iter().enumerate() {
        let network = address.get();
        if !networks && network.prefix_len() != network.max_prefix_len() {
            let reason = format!("{network} is a network, which only NONE and STATIC resolution can serve");
            report.error(root.at(index), reason);
        }
    }
    let allocates = meta.labels.get(AUTO_ALLOCATE).is_none_or(|value| value != "false");
    if spec.addresses.is_empty() && !allocates {
        let ports = Path::Root("spec.ports");
        for (index, port) in spec.ports.iter().enumerate() {
            if matches!(port.protocol, None | Some(Protocol::Tcp)) {
                let reason = "TCP is only told apart by address, and there is none";
                report.warning_with(
                    ports.at(index),
                    reason,
                    format!("add spec.addresses or remove the label {AUTO_ALLOCATE}"),
                );
            }
        }
    }
}

/// The names of the ports.
fn ports<'s>(spec: &'s ServiceEntrySpec, report: &mut Report<'_>) -> HashSet<&'s str> {
    let root = Path::Root("spec.ports");
    let mut names = HashSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in spec.ports.iter().enumerate() {
        let path = root.at(index);
        report.dns_label(path.key("name"), &port.name);
        if !names.insert(port.name.as_str()) {
            report.error(path.key("name"), format!("{} is used twice", quote(&port.name)));
        }
        if !numbers.insert(port.number) {
            report.error(path.key("number"), format!("port {} is given twice", port.number));
        }
    }
    if spec.ports.is_empty() {
        report.warning_with(
            root,
            "absent: no traffic belongs to this service",
            "add the ports that clients use",
        );
    }
    names
}

fn without_resolution(spec: &ServiceEntrySpec, report: &mut Report<'_>) {
    if !spec.endpoints.is_empty() {
        let reason = "are not used with resolution NONE, which keeps the address that was asked for";
        report.error_with("spec.endpoints", reason, "set resolution to STATIC or DNS");
    }
    if spec.workload_selector.is_some() {
        let reason = "has no effect with resolution NONE";
        report.warning_with("spec.workloadSelector", reason, "set resolution to STATIC");
    }
}

/// Names would have to be looked up, and sockets carry one port only.
fn static_endpoint(path: Path<'_>, entry: &WorkloadEntrySpec, ports: usize, report: &mut Report<'_>) {
    match &entry.address {
        Some(Address::Name(name)) => {
            let reason = format!("{name} is a name; STATIC takes addresses only");
            report.error_with(path.key("address"), reason, "set resolution to DNS");
        }
        Some(Address::Unix(_)) if ports != 1 => {
            let reason =
                format!("a Unix domain socket is for exactly one port, the ServiceEntry has {ports}");
            report.error(path.key("address"), reason);
        }
        _ => {}
    }
}

fn by_dns(spec: &ServiceEntrySpec, names: &HashSet<&str>, report: &mut Report<'_>) {
    let root = Path::Root("spec");
    if spec.endpoints.is_empty() {
        let hosts = root.key("hosts");
        if let Some(index) = spec.hosts.iter().position(Host::is_wildcard) {
            let reason = "a wildcard cannot be looked up";
            let hint = "list spec.endpoints, or set resolution to NONE or DYNAMIC_DNS";
            report.error_with(hosts.at(index), reason, hint);
        }
    }
    if spec.resolution == Resolution::DnsRoundRobin && spec.endpoints.len() > 1 {
        let reason = format!("has {} entries, DNS_ROUND_ROBIN takes one", spec.endpoints.len());
        report.error_with("spec.endpoints", reason, "set resolution to DNS");
    }
    let list = root.key("endpoints");
    for (index, entry) in spec.endpoints.iter().enumerate() {
        endpoint(list.at(index), entry, report);
        endpoint_ports(list.at(index), entry, Some(names), report);
        match &entry.address {
            Some(Address::Unix(_)) => {
                report.error(list.at(index).key("address"), "a Unix domain socket needs resolution STATIC");
            }
            None if !entry.network.is_empty() => {
                report.error(list.at(index).key("address"), "without an address there is nothing to look up");
            }
            _ => {}
        }
    }
    let bytes = |port: Option<Protocol>| port.is_some_and(|port| !port.is_http() && port != Protocol::Udp);
    if !spec.addresses.is_empty()
        && spec.hosts.len() > 1
        && spec.ports.iter().any(|port| bytes(port.protocol))
    {
        let reason = "several hosts share these addresses, and TCP cannot tell them apart";
        report.warning_with("spec.addresses", reason, "make a ServiceEntry of each host");
    }
}

fn by_dynamic_dns(spec: &ServiceEntrySpec, meta: &Meta, report: &mut Report<'_>) {
    let root = Path::Root("spec");
    for (index, _) in spec.hosts.iter().enumerate().filter(|(_, host)| !host.is_wildcard()) {
        let reason = "DYNAMIC_DNS is for wildcards";
        report.error_with(root.key("hosts").at(index), reason, "set resolution to DNS");
    }
    for (name, given) in
        [("addresses", !spec.addresses.is_empty()), ("endpoints", !spec.endpoints.is_empty())]
    {
        if given {
            report.error(root.key(name), "are not used with DYNAMIC_DNS, which looks up what is asked for");
        }
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let named = [Protocol::Http, Protocol::Http2, Protocol::Grpc, Protocol::Tls];
        if !port.protocol.is_some_and(|protocol| named.contains(&protocol)) {
            let reason = "DYNAMIC_DNS needs a protocol that names its host";
            report.error_with(root.key("ports").at(index), reason, "one of HTTP, HTTP2, GRPC, TLS");
        }
    }
    let waypoint =
        meta.labels.get(WAYPOINT).filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("none"));
    if spec.location == Location::MeshInternal && waypoint.is_some() {
        let reason = "DYNAMIC_DNS at a waypoint is only for MESH_EXTERNAL";
        report.error(root.key("location"), reason);
    }
}

/// Switches the mesh's own addresses off, by `false`.
const AUTO_ALLOCATE: &str = "networking.istio.io/enable-autoallocate-ip";
/// Names the waypoint that traffic goes through.
const WAYPOINT: &str = "istio.io/use-waypoint";
