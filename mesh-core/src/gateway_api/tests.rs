//! Gateways and routes as users write them, requests, and what becomes of them; and what users are told.

mod listener_sets;
mod mesh;
mod routes;
mod statuses;

use std::fmt::Write as _;

use super::*;
use crate::own::Sightings;
use crate::resource::{self, Level, SourceFile};
use crate::route::tests::{Request, outcome};
use crate::route::{ListenerProtocol, StreamView};

/// Documents that a test is about: `KIND NAMESPACE/NAME [@age]`, and the fields of the spec in flow style below it.
pub(super) fn objects(yaml: &str) -> Vec<Object> {
    let mut text = String::new();
    let first = yaml.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let indent = first.len() - first.trim_start().len();
    for line in yaml.lines().map(|line| line.get(indent..).unwrap_or_default()) {
        let Some((kind, name)) =
            line.split_once(' ').filter(|(kind, _)| KINDS.iter().any(|it| it.0 == *kind))
        else {
            let _ = writeln!(text, "  {line}");
            continue;
        };
        let (name, age) = name.split_once(" @").unwrap_or((name, "0"));
        let (namespace, name) = name.split_once('/').unwrap();
        let (_, full, version) = KINDS.iter().find(|it| it.0 == kind).unwrap();
        let _ = writeln!(
            text,
            "---\napiVersion: {version}\nkind: {full}\nmetadata: {{namespace: '{namespace}', name: {name}, \
             labels: {{team: {name}}}, creationTimestamp: \"2024-01-01T00:00:0{age}Z\"}}\n{}:",
            if kind == "secret" { "stringData" } else { "spec" }
        );
    }
    let text = text.replace("namespace: '', ", "");
    let parsed = resource::parse(&SourceFile { name: "test.yaml", text: &text });
    let errors: Vec<_> = parsed.findings.iter().filter(|it| it.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?} in\n{text}");
    parsed.objects
}

/// What the process of Gateway `infra/gw` serves.
pub(super) fn served(objects: &[Object]) -> Served {
    let own = Sightings::of("infra", "gw", []).own();
    serve(&Resources::of(objects), &own)
}

/// What becomes of a request that comes to a port, with a server name if it is TLS.
pub(super) fn ask(served: &Served, port: u16, server_name: Option<&str>, request: &str) -> String {
    let Some(listener) = served.listeners.iter().find(|it| it.port == port) else {
        return "not listening".to_owned();
    };
    let Some(server) = listener.server(server_name) else { return "no server".to_owned() };
    if let Some(streams) = &server.streams {
        let view = StreamView { server_name, destination: [10, 0, 0, 1].into() };
        let Some(route) = streams.pick(&view) else { return "no route".to_owned() };
        let all = route.forward.destinations().iter();
        return all.map(|it| format!("{}*{}", it.to.host, it.weight)).collect::<Vec<_>>().join(" ");
    }
    let table = match listener.protocol {
        ListenerProtocol::Http => Some(&listener.table),
        _ => server.table.as_ref(),
    };
    outcome(table, &Request::parse(request)).replace(".infra", "").trim().to_owned()
}

/// Rows of `PORT [server name] | request | outcome`.
pub(super) fn check(yaml: &str, rows: &str) {
    let objects = objects(yaml);
    let served = served(&objects);
    let mut wrong = String::new();
    for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let parts: Vec<_> = row.split(" | ").map(str::trim).collect();
        let [port, request, expected] = parts.as_slice() else { panic!("{row}") };
        let (port, name) = port.split_once(' ').map_or((*port, None), |(port, name)| (port, Some(name)));
        let actual = ask(&served, port.parse().unwrap(), name, &request.replace(" ; ", "\n"));
        if actual != *expected {
            let _ = writeln!(wrong, "{request} at {port}: {actual}, not {expected}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}\n{:?}\nof{yaml}", served.findings);
}

const KINDS: [(&str, &str, &str); 11] = [
    ("gateway", "Gateway", "gateway.networking.k8s.io/v1"),
    ("set", "ListenerSet", "gateway.networking.k8s.io/v1"),
    ("http", "HTTPRoute", "gateway.networking.k8s.io/v1"),
    ("grpc", "GRPCRoute", "gateway.networking.k8s.io/v1"),
    ("tls", "TLSRoute", "gateway.networking.k8s.io/v1"),
    ("tcp", "TCPRoute", "gateway.networking.k8s.io/v1"),
    ("udp", "UDPRoute", "gateway.networking.k8s.io/v1"),
    ("grant", "ReferenceGrant", "gateway.networking.k8s.io/v1beta1"),
    ("class", "GatewayClass", "gateway.networking.k8s.io/v1"),
    ("service", "Service", "v1"),
    ("namespace", "Namespace", "v1"),
];
