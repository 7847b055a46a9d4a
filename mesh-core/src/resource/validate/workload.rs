//! Pods, and what makes them.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, PodSpec, PodStatus, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::super::tree::quote;
use super::{Report, child, labels};

pub(super) fn pod(pod: &Pod, report: &mut Report<'_>) {
    match &pod.spec {
        Some(spec) => pod_spec("spec", spec, report),
        None => report.error("spec", "required, but missing"),
    }
    if let Some(status) = &pod.status {
        pod_status(status, report);
    }
    super::proxy::annotation(&pod.metadata, report);
}

pub(super) fn deployment(deployment: &Deployment, report: &mut Report<'_>) {
    let spec = &deployment.spec;
    if spec.replicas.is_some_and(|replicas| replicas < 0) {
        report.error("spec.replicas", "must not be negative");
    }
    let selected = spec.selector.match_labels.as_ref();
    let expressions = spec.selector.match_expressions.as_ref().is_some_and(|list| !list.is_empty());
    if selected.is_none_or(std::collections::BTreeMap::is_empty) && !expressions {
        report.error("spec.selector", "required, but missing or empty");
    }
    let template = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref());
    if let Some(template) = template {
        labels("spec.template.metadata.labels", template, report);
    }
    for (key, value) in selected.into_iter().flatten() {
        if template.and_then(|labels| labels.get(key)) != Some(value) {
            let reason = format!("the template's labels have no {}={}", quote(key), quote(value));
            report.error(child("spec.selector.matchLabels", key), reason);
        }
    }
    match &spec.template.spec {
        Some(spec) => pod_spec("spec.template.spec", spec, report),
        None => report.error("spec.template.spec", "required, but missing"),
    }
}

pub(super) fn config_map(map: &ConfigMap, report: &mut Report<'_>) {
    let data = map.data.iter().flatten().map(|(key, _)| ("data", key));
    let binary = map.binary_data.iter().flatten().map(|(key, _)| ("binaryData", key));
    let mut seen = BTreeSet::new();
    for (field, key) in data.chain(binary) {
        let valid = (1..=253).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !valid {
            let reason = "not a valid key";
            report.error_with(child(field, key), reason, "at most 253 letters, digits, -, _ and .");
        }
        if !seen.insert(key) {
            report.error(child(field, key), "is in data as well");
        }
    }
}

fn pod_spec(field: &str, spec: &PodSpec, report: &mut Report<'_>) {
    if spec.containers.is_empty() {
        report.error(format_args!("{field}.containers"), "required, but missing or empty");
    }
    if let Some(account) = spec.service_account_name.as_deref().filter(|name| !name.is_empty()) {
        report.subdomain(format_args!("{field}.serviceAccountName"), account);
    }
    if let Some(node) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        report.subdomain(format_args!("{field}.nodeName"), node);
    }
    if let Some(policy) = spec.restart_policy.as_deref() {
        report.one_of(format_args!("{field}.restartPolicy"), policy, &["Always", "OnFailure", "Never"]);
    }
    let initial = spec.init_containers.iter().flatten().map(|container| ("initContainers", container));
    let normal = spec.containers.iter().map(|container| ("containers", container));
    let mut names = BTreeSet::new();
    let (mut list, mut index) = ("", 0);
    for (kind, item) in initial.chain(normal) {
        index = if kind == list { index + 1 } else { 0 };
        list = kind;
        let path = format!("{field}.{kind}[{index}]");
        if item.name.is_empty() {
            report.error(format_args!("{path}.name"), "required, but missing");
        } else {
            report.label(format_args!("{path}.name"), &item.name);
            if !names.insert(item.name.as_str()) {
                report.error(format_args!("{path}.name"), format!("{} is used twice", quote(&item.name)));
            }
        }
        container(&path, item, report);
    }
}

fn container(path: &str, container: &Container, report: &mut Report<'_>) {
    let mut names = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{index}]");
        report.port(format_args!("{path}.containerPort"), port.container_port);
        if let Some(host) = port.host_port.filter(|port| *port != 0) {
            report.port(format_args!("{path}.hostPort"), host);
        }
        if let Some(protocol) = &port.protocol {
            report.one_of(format_args!("{path}.protocol"), protocol, super::network::PROTOCOLS);
        }
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            report.port_name(format_args!("{path}.name"), name);
            if !names.insert(name) {
                report.error(format_args!("{path}.name"), format!("{} is used twice", quote(name)));
            }
        }
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (kind, probe) in probes {
        if let Some(probe) = probe {
            self::probe(&format!("{path}.{kind}"), probe, report);
        }
    }
}

fn probe(path: &str, probe: &Probe, report: &mut Report<'_>) {
    if let Some(http) = &probe.http_get {
        int_or_name(&format!("{path}.httpGet.port"), &http.port, report);
    }
    if let Some(tcp) = &probe.tcp_socket {
        int_or_name(&format!("{path}.tcpSocket.port"), &tcp.port, report);
    }
    if let Some(grpc) = &probe.grpc {
        report.port(format_args!("{path}.grpc.port"), grpc.port);
    }
    let handlers =
        [probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some(), probe.exec.is_some()];
    if handlers.into_iter().filter(|present| *present).count() != 1 {
        report.error(path, "must have exactly one of exec, grpc, httpGet and tcpSocket");
    }
}

/// A port number or the name of a port.
pub(super) fn int_or_name(field: &str, port: &IntOrString, report: &mut Report<'_>) {
    match port {
        IntOrString::Int(number) => report.port(field, *number),
        IntOrString::String(name) if name.parse::<u32>().is_ok() => {
            report.error_with(field, format!("{} is a number in quotes", quote(name)), "remove the quotes");
        }
        IntOrString::String(name) => report.port_name(field, name),
    }
}

fn pod_status(status: &PodStatus, report: &mut Report<'_>) {
    if let Some(phase) = status.phase.as_deref().filter(|phase| !phase.is_empty()) {
        report.one_of("status.phase", phase, &["Pending", "Running", "Succeeded", "Failed", "Unknown"]);
    }
    if let Some(ip) = status.pod_ip.as_deref().filter(|ip| !ip.is_empty()) {
        report.address("status.podIP", ip);
    }
    for (index, ip) in status.pod_ips.iter().flatten().enumerate() {
        report.address(format_args!("status.podIPs[{index}].ip"), &ip.ip);
    }
    if let Some(ip) = status.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        report.address("status.hostIP", ip);
    }
}
