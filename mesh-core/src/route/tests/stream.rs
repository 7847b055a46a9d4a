//! Where connections of bytes go.

use super::gateway::listeners;
use super::*;

/// What becomes of a connection: `HOST/SUBSET:PORT*WEIGHT …`.
fn outcome(table: &StreamTable, server_name: Option<&str>, destination: &str) -> String {
    let view = StreamView { server_name, destination: destination.parse().unwrap() };
    let Some(route) = table.pick(&view) else { return "none".to_owned() };
    route.forward.destinations().iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn in_mesh(yaml: &str, client: (&str, &str), port: u16, server_name: Option<&str>) -> String {
    let services = virtual_services(yaml);
    let virtuals = Virtuals::of(&services, &Settings::default());
    let labels = labels(client.1);
    let client = Client { namespace: client.0, labels: &labels };
    let table = StreamTable::for_service(&virtuals.about("db.default.svc.cluster.local"), client, port);
    table.map_or_else(|| "no table".to_owned(), |table| outcome(&table, server_name, "10.96.0.7"))
}

fn at_gateway(yaml: &str, port: u16, server_name: Option<&str>) -> String {
    let listeners = listeners(yaml);
    let Some(listener) = listeners.listeners.iter().find(|it| it.port == port) else {
        return "not listening".to_owned();
    };
    let Some(server) = listener.server(server_name) else { return "no server".to_owned() };
    let name = server_name.filter(|_| server.passes_tls());
    outcome(server.streams.as_ref().expect("bytes are not opened"), name, "192.0.2.1")
}

const TCP: &str = "
    vs default/db
      hosts: [db]
      tcp:
      - match: [{port: 27017, sourceLabels: {app: ratings}}]
        route: [{destination: {host: db, subset: v2}}]
      - match: [{port: 27017, sourceNamespace: tests}, {destinationSubnets: [10.97.0.0/16]}]
        route: [{destination: {host: db, subset: v3}}]
      - match: [{port: 27017}]
        route:
        - {destination: {host: db, subset: v1}, weight: 80}
        - {destination: {host: other.there.svc.cluster.local, port: {number: 1}}, weight: 20}
        - {destination: {host: db, subset: v9}, weight: 0}
    ";

#[test]
fn the_first_rule_that_is_for_a_connection_is_used() {
    for (client, port, expected) in [
        (("default", "app=ratings"), 27017, "db/v2"),
        (("tests", "app=ratings"), 27017, "db/v2"),
        (("tests", "app=x"), 27017, "db/v3"),
        (("default", "app=x"), 27017, "db/v1*80 other.there:1*20"),
        (("default", "app=ratings"), 5432, "none"),
    ] {
        assert_eq!(in_mesh(TCP, client, port, None), expected, "{client:?} {port}");
    }
    let elsewhere = "
    vs default/other
      hosts: [other]
      tcp: [{route: [{destination: {host: db}}]}]
    ";
    assert_eq!(in_mesh(elsewhere, ("default", ""), 27017, None), "no table");
}

#[test]
fn rules_for_requests_are_not_for_connections() {
    let yaml = "
    vs default/db
      hosts: [db]
      http: [{route: [{destination: {host: other}}]}]
    ";
    assert_eq!(in_mesh(yaml, ("default", ""), 27017, None), "no table");
}

#[test]
fn who_does_not_see_it_is_not_ruled_by_it() {
    let yaml = "
    vs default/db
      hosts: [db]
      exportTo: ['.']
      tcp: [{route: [{destination: {host: other}}]}]
    ";
    assert_eq!(in_mesh(yaml, ("default", ""), 27017, None), "other");
    assert_eq!(in_mesh(yaml, ("tests", ""), 27017, None), "no table");
}

#[test]
fn names_of_tls_come_first_and_the_most_specific_counts() {
    let yaml = "
    vs default/db
      hosts: [db, '*.example.com']
      tls:
      - match: [{sniHosts: ['*.example.com']}]
        route: [{destination: {host: wide}}]
      - match: [{sniHosts: [a.example.com], port: 443}]
        route: [{destination: {host: narrow}}]
      - match: [{sniHosts: [a.example.com]}]
        route: [{destination: {host: second}}]
      tcp:
      - route: [{destination: {host: bytes}}]
    ";
    for (port, name, expected) in [
        (443, Some("a.example.com"), "narrow"),
        (8443, Some("A.example.com"), "second"),
        (443, Some("b.example.com"), "wide"),
        (443, Some("example.org"), "bytes"),
        (443, None, "bytes"),
    ] {
        assert_eq!(in_mesh(yaml, ("default", ""), port, name), expected, "{port} {name:?}");
    }
}

const EDGE: &str = "
    gw default/edge
      selector: {istio: ingressgateway}
      servers:
      - port: {number: 31400, name: tcp, protocol: TCP}
        hosts: ['*']
      - port: {number: 443, name: pass, protocol: TLS}
        hosts: ['*.example.com']
        tls: {mode: PASSTHROUGH}
      - port: {number: 443, name: opened, protocol: TLS}
        hosts: [opened.example.org]
        tls: {mode: SIMPLE, credentialName: c}
    vs default/edge
      hosts: ['*']
      gateways: [edge]
      tls:
      - match: [{sniHosts: [a.example.com]}]
        route: [{destination: {host: a, port: {number: 8443}}}]
      - match: [{sniHosts: [b.example.com], gateways: [mesh]}]
        route: [{destination: {host: b}}]
      tcp:
      - match: [{port: 31400}]
        route: [{destination: {host: echo, port: {number: 9000}}}]
      - match: [{port: 443}]
        route: [{destination: {host: plain}}]
    vs default/mesh
      hosts: [db]
      tcp: [{route: [{destination: {host: wrong}}]}]
    ";

#[test]
fn at_a_gateway_tls_that_is_passed_on_goes_by_its_name_and_the_rest_by_its_port() {
    for (port, name, expected) in [
        (31400, None, "echo:9000"),
        (8443, Some("a.example.com"), "a:8443"),
        (8443, Some("b.example.com"), "none"),
        (8443, Some("opened.example.org"), "plain"),
        (8443, Some("else.where"), "no server"),
    ] {
        assert_eq!(at_gateway(EDGE, port, name), expected, "{port} {name:?}");
    }
}
