//! The mesh's own gateway: Istio's resources in a directory.

use serde_json::{Value, json};

use super::{Place, Setup};
use crate::bench::l7::table::{Host, Route, RouteTable, Service, Upstream};

/// The gateway's labels are those of the pod that its name means. It writes its log to standard output, keeps metrics
/// and sets request ids without being told to.
pub(in crate::bench::l7) fn setup(table: &RouteTable, place: Place<'_>) -> Setup {
    let mut objects = surroundings(table.extras.is_some());
    objects.push(gateway(place.port, table.upstream));
    for service in &table.services {
        objects.extend(endpoints(service, table.upstream));
    }
    match table.upstream {
        Upstream::Tcp => objects.extend(table.services.iter().map(tcp_route)),
        _ => objects.extend(table.hosts.iter().map(|host| virtual_service(table, host))),
    }
    // JSON is YAML.
    let text = objects.iter().map(|object| format!("{object}\n")).collect::<Vec<_>>().join("---\n");
    // A directory for itself: it is watched, and each line of log beside it would be a change.
    let dir = place.file("config");
    let args =
        ["gateway", "--name", "istio-system/istio-ingressgateway", "--config", &dir, "--bind", "127.0.0.1"];
    Setup::new(vec![(RESOURCES, text)], &args)
}

fn surroundings(access_log: bool) -> Vec<Value> {
    let file = if access_log { "/dev/stdout" } else { "" };
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}),
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
            "data": {"mesh": format!("accessLogFile: {file:?}\n")}}),
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "istio-ingressgateway", "namespace": "istio-system",
                "labels": {"istio": "ingressgateway"}},
            "spec": {"containers": [{"name": "istio-proxy", "image": "local"}]}}),
    ]
}

fn gateway(port: u16, upstream: Upstream) -> Value {
    let protocol = if upstream == Upstream::Tcp { "TCP" } else { "HTTP" };
    json!({"apiVersion": "networking.istio.io/v1", "kind": "Gateway",
        "metadata": {"name": "gateway", "namespace": NAMESPACE},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            {"port": {"number": port, "name": protocol.to_lowercase(), "protocol": protocol}, "hosts": ["*"]}]}})
}

fn endpoints(service: &Service, upstream: Upstream) -> [Value; 2] {
    let protocol = match upstream {
        Upstream::Http1 => "http",
        Upstream::Grpc => "grpc",
        Upstream::Tcp => "tcp",
    };
    let (name, port) = (&service.name, service.address.port());
    [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"ports": [{"name": protocol, "port": SERVICE_PORT, "targetPort": port}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": name}},
            "endpoints": [{"addresses": [service.address.ip().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": protocol, "port": port, "protocol": "TCP"}]}),
    ]
}

fn virtual_service(table: &RouteTable, host: &Host) -> Value {
    let name = host.name.replace('.', "-");
    let routes: Vec<Value> = host.routes.iter().map(|it| route(table, it)).collect();
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"hosts": [host.name], "gateways": [format!("{NAMESPACE}/gateway")], "http": routes}})
}

fn tcp_route(service: &Service) -> Value {
    let host = format!("{}.{NAMESPACE}.svc.cluster.local", service.name);
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
        "metadata": {"name": service.name, "namespace": NAMESPACE},
        "spec": {"hosts": ["*"], "gateways": [format!("{NAMESPACE}/gateway")],
            "tcp": [{"route": [{"destination": {"host": host, "port": {"number": SERVICE_PORT}}}]}]}})
}

fn route(table: &RouteTable, route: &Route) -> Value {
    let service = format!("{}.{NAMESPACE}.svc.cluster.local", table.service_of(route));
    let mut value = json!({
        "name": route.name,
        "match": [{"uri": {"prefix": route.prefix}}],
        "route": [{"destination": {"host": service, "port": {"number": SERVICE_PORT}}}],
        // What is not said is two in Istio.
        "retries": {"attempts": 0},
    });
    if let Some(extras) = &table.extras {
        let answered: serde_json::Map<String, Value> =
            extras.answered.iter().map(|(name, to)| ((*name).to_owned(), (*to).into())).collect();
        value["headers"] = json!({
            "request": {"set": {"x-route": route.name}, "remove": extras.removed},
            "response": {"set": answered},
        });
        value["retries"] = json!({
            "attempts": extras.retries,
            "retryOn": "connect-failure,refused-stream,unavailable,cancelled,503",
        });
        value["timeout"] = format!("{}s", extras.timeout_s).into();
    }
    value
}

const RESOURCES: &str = "config/mesh.yaml";

const NAMESPACE: &str = "bench";

const SERVICE_PORT: u16 = 80;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use mesh_core::resource::{self, Level, SourceFile};

    use super::*;

    fn text(table: &RouteTable) -> String {
        let setup = setup(table, Place { dir: Path::new("/run/b"), port: 21130 });
        setup.file(RESOURCES).to_owned()
    }

    #[test]
    fn resources_are_what_the_mesh_takes() {
        for (table, objects) in [
            (RouteTable::plain(), 5 + 2 + 1),
            (RouteTable::grpc(), 5 + 2 + 1),
            (RouteTable::tcp(), 5 + 2 + 1),
            (RouteTable::realistic(), 5 + 150),
            (RouteTable::sized(100, 100), 5 + 300),
        ] {
            let text = text(&table);
            let parsed = resource::parse(&SourceFile { name: "mesh.yaml", text: &text });
            assert!(
                parsed.findings.iter().all(|finding| finding.level != Level::Error),
                "{:?}",
                parsed.findings
            );
            assert_eq!(parsed.objects.len(), objects);
        }
    }

    #[test]
    fn extras_are_written_out() {
        let plain = text(&RouteTable::plain());
        assert!(
            plain.contains("\"accessLogFile: \\\"\\\"\\n\"") && plain.contains("\"attempts\":0"),
            "{plain}"
        );
        assert!(!plain.contains("x-route") && !plain.contains("timeout"), "{plain}");
        let full = text(&RouteTable::realistic());
        for part in [
            "\"x-route\":\"route-49-9\"",
            "\"remove\":[\"x-internal\"]",
            "\"timeout\":\"10s\"",
            "/dev/stdout",
        ] {
            assert!(full.contains(part), "{part}");
        }
    }
}
