//! Sidecar.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::super::super::networking::gateway::ServerTlsMode;
use super::super::super::networking::sidecar::{
    CaptureMode, EgressListener, IngressListener, OutboundTrafficMode, OutboundTrafficPolicy, SidecarPort,
    SidecarSpec,
};
use super::super::super::tree::{Path, quote};
use super::super::super::value::{Bind, EgressHost, Host, NamespaceScope, Port, Protocol, is_unix_path};
use super::gateway::server_tls;
use super::{Meta, Report, connection_pool, destination, label_selector};

pub(in crate::resource::validate) fn sidecar(spec: &SidecarSpec, meta: &Meta, report: &mut Report<'_>) {
    let root = Path::Root("spec");
    if let Some(selector) = &spec.workload_selector {
        label_selector(selector, report);
    }
    let policies = spec.outbound_traffic_policy.is_some() || spec.inbound_connection_pool.is_some();
    if spec.egress.is_empty() && spec.ingress.is_empty() && !policies {
        let reason = "one of egress, ingress, inboundConnectionPool and outboundTrafficPolicy is required";
        report.error(root, reason);
    }
    let mut numbers = BTreeSet::new();
    for (index, listener) in spec.ingress.iter().enumerate() {
        let list = root.key("ingress");
        ingress(list.at(index), listener, report);
        if !numbers.insert(listener.port.number) {
            report.error(list.at(index).key("port").key("number"), "another listener has the same port");
        }
    }
    if !spec.ingress.is_empty() {
        let reason = "has no effect: traffic reaches the application on the port that was asked for";
        report.warning(root.key("ingress"), reason);
    }
    if let Some(pool) = &spec.inbound_connection_pool {
        connection_pool(root.key("inboundConnectionPool"), pool, report);
    }
    egress_listeners(root.key("egress"), &spec.egress, meta, report);
    if let Some(policy) = &spec.outbound_traffic_policy {
        outbound(root.key("outboundTrafficPolicy"), policy, report);
    }
}

fn ingress(path: Path<'_>, listener: &IngressListener, report: &mut Report<'_>) {
    let port = path.key("port");
    port_name(port, &listener.port, report);
    report.port(port.key("number"), i32::from(listener.port.number));
    if let Some(Bind::Unix(_)) = &listener.bind {
        report.error(path.key("bind"), "must be an IP address");
    }
    let endpoint = listener.default_endpoint.as_str();
    if !endpoint.is_empty() && !is_local_endpoint(endpoint) {
        let reason = format!("{} is not in the workload", quote(endpoint));
        let hint = "write 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT, :PORT or unix:///PATH";
        report.error_with(path.key("defaultEndpoint"), reason, hint);
    }
    if let Some(tls) = &listener.tls {
        let path = path.key("tls");
        let fields = [
            ("subjectAltNames", !tls.subject_alt_names.is_empty()),
            ("httpsRedirect", tls.https_redirect),
            ("credentialName", !tls.credential_name.is_empty()),
            ("credentialNames", !tls.credential_names.is_empty()),
            ("tlsCertificates", !tls.tls_certificates.is_empty()),
        ];
        for (name, _) in fields.into_iter().filter(|(_, given)| *given) {
            report.error(path.key(name), "is not for a Sidecar");
        }
        if matches!(tls.mode, ServerTlsMode::IstioMutual | ServerTlsMode::AutoPassthrough) {
            report.error(path.key("mode"), "is not for a Sidecar");
        }
        if !listener.port.protocol.is_some_and(Protocol::is_tls) {
            report.error_with(path, "is only for HTTPS and TLS", "set port.protocol to HTTPS or TLS");
        }
        server_tls(path, tls, report);
    }
    if let Some(pool) = &listener.connection_pool {
        connection_pool(path.key("connectionPool"), pool, report);
        let http = listener.port.protocol.is_some_and(Protocol::is_http);
        if pool.http.is_some() && !http {
            report.warning(path.key("connectionPool").key("http"), "has no effect: the port is not HTTP");
        }
    }
}

fn egress_listeners(path: Path<'_>, listeners: &[EgressListener], meta: &Meta, report: &mut Report<'_>) {
    let mut numbers = BTreeSet::new();
    let mut sockets = HashSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let path = path.at(index);
        egress_hosts(path.key("hosts"), &listener.hosts, meta, report);
        let Some(port) = &listener.port else {
            if index + 1 < listeners.len() {
                let reason = "only the last listener may have no port: it takes what the others leave";
                report.error(path.key("port"), reason);
            }
            continue;
        };
        egress_port(path, port, listener, report);
        let unique = match &listener.bind {
            Some(Bind::Unix(socket)) if port.number == 0 => sockets.insert(socket),
            _ => port.number == 0 || numbers.insert(port.number),
        };
        if !unique {
            report.error(path.key("port").key("number"), "another listener has the same port");
        }
    }
}

fn egress_port(path: Path<'_>, port: &SidecarPort, listener: &EgressListener, report: &mut Report<'_>) {
    port_name(path.key("port"), port, report);
    let unix = matches!(listener.bind, Some(Bind::Unix(_)));
    if port.number == 0 && !unix {
        let reason = "0 is only for a Unix domain socket";
        report.error_with(
            path.key("port").key("number"),
            reason,
            "bind to unix:///PATH, or give it a number",
        );
    }
    if port.number != 0 && unix {
        report.error(path.key("bind"), "must be an IP address unless port.number is 0");
    }
    if port.number == 0 && unix && listener.capture_mode == CaptureMode::Iptables {
        let reason = "a Unix domain socket cannot be redirected to";
        report.error_with(path.key("captureMode"), reason, "write DEFAULT or NONE");
    }
}

fn port_name(path: Path<'_>, port: &SidecarPort, report: &mut Report<'_>) {
    if !port.name.is_empty() {
        report.dns_label(path.key("name"), &port.name);
    }
    if port.target_port != 0 {
        report.error(path.key("targetPort"), "has no meaning for a Sidecar");
    }
}

fn egress_hosts(path: Path<'_>, hosts: &[EgressHost], meta: &Meta, report: &mut Report<'_>) {
    if hosts.is_empty() {
        report.error_with(path, "required, but missing or empty", "write [\"*/*\"] for everything");
    }
    // By namespace: hosts so far, and whether one of them is all.
    let mut seen: BTreeMap<&str, (HashSet<&Host>, bool)> = BTreeMap::new();
    for (index, entry) in hosts.iter().enumerate() {
        let EgressHost::Include(namespace, host) = entry else { continue };
        let namespace = match namespace {
            NamespaceScope::All => "*",
            NamespaceScope::Own => &*meta.namespace,
            NamespaceScope::Named(name) => name,
        };
        let (known, all) = seen.entry(namespace).or_default();
        let covered = *all || (*host == Host::Any && !known.is_empty());
        *all |= *host == Host::Any;
        if !known.insert(host) || covered {
            report.warning(path.at(index), "is already included by another host of this listener");
        }
    }
    if seen.len() > 1 && seen.get("*").is_some_and(|(_, all)| *all) {
        report.warning(path, "*/* includes everything; the other hosts have no effect");
    }
}

fn outbound(path: Path<'_>, policy: &OutboundTrafficPolicy, report: &mut Report<'_>) {
    let Some(proxy) = &policy.egress_proxy else { return };
    let path = path.key("egressProxy");
    if policy.mode != OutboundTrafficMode::AllowAny {
        return report.error_with(path, "is only for ALLOW_ANY", "set mode: ALLOW_ANY");
    }
    destination(path, proxy, report);
    if proxy.host.is_wildcard() {
        report.error(path.key("host"), "must not be a wildcard");
    }
    if proxy.port.is_none() {
        report.error(path.key("port"), "required, but missing");
    }
}

/// Whether an application listens there: its own host, or a socket.
fn is_local_endpoint(endpoint: &str) -> bool {
    if let Some(path) = endpoint.strip_prefix("unix://") {
        return is_unix_path(path);
    }
    let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
    let local = matches!(host, "" | "127.0.0.1" | "0.0.0.0" | "[::1]" | "[::]");
    local && port.parse().ok().and_then(Port::new).is_some()
}
