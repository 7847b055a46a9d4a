//! Rules for connections.

use std::collections::BTreeMap;

use super::super::super::super::networking::virtual_service::{RouteDestination, TcpRoute, TlsRoute};
use super::super::super::super::tree::{Path, quote};
use super::super::super::super::value::{GatewayName, Host};
use super::super::{Report, destination, labels_at};
use super::{Whole, action, gateways};

pub(super) fn tls_route(path: Path<'_>, route: &TlsRoute, whole: &Whole<'_>, report: &mut Report<'_>) {
    if route.matches.is_empty() {
        report.error_with(path.key("match"), "required, but missing or empty", "name the sniHosts");
    }
    for (index, connection) in route.matches.iter().enumerate() {
        let path = path.key("match");
        let path = path.at(index);
        if connection.sni_hosts.is_empty() {
            report.error(path.key("sniHosts"), "required, but missing or empty");
        }
        for (index, host) in connection.sni_hosts.iter().enumerate() {
            sni_host(path.key("sniHosts").at(index), host, whole, report);
        }
        source(path, (&connection.source_labels, &connection.source_namespace), &connection.gateways, report);
    }
    destinations(path, &route.route, report);
}

pub(super) fn tcp_route(path: Path<'_>, route: &TcpRoute, report: &mut Report<'_>) {
    for (index, connection) in route.matches.iter().enumerate() {
        let path = path.key("match");
        let path = path.at(index);
        if connection.source_subnet.is_some() {
            report.warning(
                path.key("sourceSubnet"),
                "is ignored by Istio, and so by everything that follows it",
            );
        }
        source(path, (&connection.source_labels, &connection.source_namespace), &connection.gateways, report);
    }
    destinations(path, &route.route, report);
}

/// A server name must be one that the VirtualService is for.
fn sni_host(path: Path<'_>, host: &Host, whole: &Whole<'_>, report: &mut Report<'_>) {
    if let Host::Address(address) = host {
        let reason = format!("{address} is an address, which clients do not send as a server name");
        return report.warning(path, reason);
    }
    if host.is_sni_name() && whole.is_for_mesh {
        report.error(path, "is a name for traffic between gateways only");
    }
    if !whole.covers(host) {
        let reason = format!("{} is covered by no host of the VirtualService", quote(&host.to_string()));
        report.error_with(path, reason, "add it to spec.hosts");
    }
}

/// Conditions about the client.
fn source(
    path: Path<'_>,
    (labels, namespace): (&BTreeMap<String, String>, &str),
    names: &[GatewayName],
    report: &mut Report<'_>,
) {
    labels_at(path.key("sourceLabels"), labels, report);
    if !namespace.is_empty() {
        report.label(path.key("sourceNamespace"), namespace);
    }
    gateways(path.key("gateways"), names, report);
}

fn destinations(path: Path<'_>, route: &[RouteDestination], report: &mut Report<'_>) {
    let list = path.key("route");
    if route.is_empty() {
        report.error(list, "required, but missing or empty");
    }
    let mut total = 0_u64;
    for (index, target) in route.iter().enumerate() {
        destination(list.at(index).key("destination"), &target.destination, report);
        report.count(list.at(index).key("weight"), target.weight);
        total += u64::from(target.weight);
    }
    action::weights(list, route.len(), total, report);
}
