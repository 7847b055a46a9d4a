//! Services, their endpoints, and nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Node, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::super::tree::quote;
use super::workload::int_or_name;
use super::{Report, child, labels};

pub(super) fn service(service: &Service, report: &mut Report<'_>) {
    let Some(spec) = &service.spec else { return report.error("spec", "required, but missing") };
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    if let Some(kind) = &spec.type_ {
        report.one_of("spec.type", kind, &types);
    }
    let external_name = spec.type_.as_deref() == Some("ExternalName");
    if external_name {
        real_name(spec.external_name.as_deref().unwrap_or_default(), report);
    }
    cluster_ips(spec, report);
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        report.address(format_args!("spec.externalIPs[{index}]"), ip);
    }
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !headless && !external_name {
        report.error("spec.ports", "required, but missing or empty");
    }
    service_ports(ports, report);
    if let Some(selector) = &spec.selector {
        labels("spec.selector", selector, report);
    }
    if let Some(affinity) = &spec.session_affinity {
        report.one_of("spec.sessionAffinity", affinity, &["None", "ClientIP"]);
    }
    let timeout = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(seconds) = timeout.and_then(|client| client.timeout_seconds)
        && !(1..=86_400).contains(&seconds)
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        report.error(field, format!("{seconds} is not between 1 and 86400"));
    }
    for (field, policy) in [
        ("spec.internalTrafficPolicy", &spec.internal_traffic_policy),
        ("spec.externalTrafficPolicy", &spec.external_traffic_policy),
    ] {
        if let Some(policy) = policy {
            report.one_of(field, policy, &["Cluster", "Local"]);
        }
    }
}

/// What a Service is another name of. As an API server checks it, which lets a dot stand at the end.
fn real_name(text: &str, report: &mut Report<'_>) {
    let field = "spec.externalName";
    let name = text.strip_suffix('.').unwrap_or(text);
    match name.parse::<IpAddr>() {
        _ if name.is_empty() => report.error(field, "required for type ExternalName, but missing"),
        Ok(IpAddr::V4(_)) => {
            let reason = format!("{} is taken for a name of digits, which leads nowhere", quote(name));
            report.warning_with(field, reason, BY_ADDRESS);
        }
        Ok(IpAddr::V6(_)) => {
            let reason = format!("{} is an address, not a DNS name", quote(name));
            report.error_with(field, reason, BY_ADDRESS);
        }
        Err(_) => {
            report.subdomain(field, name);
            if let Some(part) = name.split('.').find(|part| part.len() > MAX_LABEL) {
                let reason =
                    format!("{} is longer than the {MAX_LABEL} bytes of a label of DNS", quote(part));
                report.warning_with(field, reason, "the name leads nowhere");
            }
        }
    }
}

pub(super) fn endpoint_slice(slice: &EndpointSlice, report: &mut Report<'_>) {
    match slice.address_type.as_str() {
        "" => report.error("addressType", "required, but missing"),
        kind => report.one_of("addressType", kind, &["IPv4", "IPv6", "FQDN"]),
    }
    let owner = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
    match owner {
        None => report.warning_with(
            child("metadata.labels", SERVICE_NAME),
            "missing: these endpoints belong to no Service",
            "set it to the Service's name",
        ),
        Some(name) => report.label(child("metadata.labels", SERVICE_NAME), name),
    }
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        if endpoint.addresses.is_empty() {
            report.error(format_args!("endpoints[{index}].addresses"), "required, but missing or empty");
        }
        for (at, address) in endpoint.addresses.iter().enumerate() {
            endpoint_address(
                &slice.address_type,
                &format!("endpoints[{index}].addresses[{at}]"),
                address,
                report,
            );
        }
    }
    let mut names = BTreeSet::new();
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        if let Some(number) = port.port {
            report.port(format_args!("ports[{index}].port"), number);
        }
        if let Some(protocol) = &port.protocol {
            report.one_of(format_args!("ports[{index}].protocol"), protocol, PROTOCOLS);
        }
        if !names.insert(port.name.as_deref().unwrap_or_default()) {
            report.error(format_args!("ports[{index}].name"), "another port has the same name");
        }
    }
}

pub(super) fn node(node: &Node, report: &mut Report<'_>) {
    if let Some(spec) = &node.spec {
        if let Some(cidr) = spec.pod_cidr.as_deref().filter(|cidr| !cidr.is_empty()) {
            report.cidr("spec.podCIDR", cidr);
        }
        for (index, cidr) in spec.pod_cidrs.iter().flatten().enumerate() {
            report.cidr(format_args!("spec.podCIDRs[{index}]"), cidr);
        }
    }
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    for (index, address) in addresses.into_iter().flatten().enumerate() {
        if matches!(address.type_.as_str(), "InternalIP" | "ExternalIP") {
            report.address(format_args!("status.addresses[{index}].address"), &address.address);
        }
    }
}

fn cluster_ips(spec: &ServiceSpec, report: &mut Report<'_>) {
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    if !matches!(first, "" | "None") {
        report.address("spec.clusterIP", first);
    }
    let all = spec.cluster_ips.as_deref().unwrap_or_default();
    for (index, ip) in all.iter().enumerate().filter(|(_, ip)| *ip != "None") {
        report.address(format_args!("spec.clusterIPs[{index}]"), ip);
    }
    if let Some(other) = all.first()
        && !first.is_empty()
        && first != other
    {
        let reason = format!("{} differs from spec.clusterIP {}", quote(other), quote(first));
        report.error("spec.clusterIPs[0]", reason);
    }
}

fn service_ports(ports: &[ServicePort], report: &mut Report<'_>) {
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        report.port(format_args!("{path}.port"), port.port);
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        report.one_of(format_args!("{path}.protocol"), protocol, PROTOCOLS);
        if !numbers.insert((protocol, port.port)) {
            report
                .error(format_args!("{path}.port"), format!("{protocol} port {} is given twice", port.port));
        }
        if let Some(target) = &port.target_port {
            int_or_name(&format!("{path}.targetPort"), target, report);
        }
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            report.port(format_args!("{path}.nodePort"), number);
        }
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => {
                report.error(format_args!("{path}.name"), "required where there is more than one port");
            }
            "" => {}
            name => {
                report.label(format_args!("{path}.name"), name);
                if !names.insert(name) {
                    report.error(format_args!("{path}.name"), format!("{} is used twice", quote(name)));
                }
            }
        }
    }
}

fn endpoint_address(kind: &str, field: &str, address: &str, report: &mut Report<'_>) {
    match kind {
        "FQDN" => report.subdomain(field, address),
        "IPv4" | "IPv6" => {
            let parsed = report.address(field, address);
            if parsed.is_some_and(|ip| ip.is_ipv4() != (kind == "IPv4")) {
                report.error(field, format!("{} is not of addressType {kind}", quote(address)));
            }
        }
        // The type itself has been reported.
        _ => {}
    }
}

/// Transport protocols of Kubernetes.
pub(super) const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
/// Says which Service a slice belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// What to use where there is no name.
const BY_ADDRESS: &str = "a Service without a selector and an EndpointSlice lead to addresses";
/// RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;
