//! What gateways listen to, and what becomes of requests there.

use super::*;
use crate::resource::networking::gateway::ServerTlsMode;

/// Gateways of `yaml`: `gw NAMESPACE/NAME [@age]` and the spec below it; and VirtualServices.
fn parse(yaml: &str) -> (Vec<Gateway>, Vec<VirtualService>) {
    let parsed = resource::parse(&SourceFile { name: "test.yaml", text: &expand(yaml) });
    let errors: Vec<_> = parsed.findings.iter().filter(|it| it.level == resource::Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?} in\n{yaml}");
    let gateways = parsed.objects.into_iter().filter_map(|object| match object.spec {
        Spec::Gateway(spec) => Some(Gateway {
            namespace: object.meta.namespace,
            name: object.meta.name,
            created: object.meta.creation_timestamp,
            spec,
        }),
        _ => None,
    });
    (gateways.collect(), virtual_services(yaml))
}

/// Ports 80 and 8081 of the Service lead to 8080 of the pod, 443 to 8443.
pub(super) fn listeners(yaml: &str) -> Listeners {
    let (gateways, services) = parse(yaml);
    let virtuals = Virtuals::of(&services, &Settings::default());
    let labels = labels("istio=ingressgateway,app=edge");
    let pod = Client { namespace: "istio-system", labels: &labels };
    Listeners::of(&gateways, &virtuals, pod, |port| match port {
        80 | 8081 => 8080,
        443 => 8443,
        other => other,
    })
}

/// `PORT[ PROTOCOL SERVERS…]` of all listeners and the conflicts, a line each.
fn layout(listeners: &Listeners) -> String {
    let listening = listeners.listeners.iter().map(|listener| {
        let servers: Vec<_> =
            listener.servers.iter().map(|it| format!("{}:{}", it.gateway.name, it.port_name)).collect();
        let bind = listener.bind.as_ref().map(|bind| format!("{bind:?} ")).unwrap_or_default();
        format!("{bind}{} {:?} {}", listener.port, listener.protocol, servers.join(" "))
    });
    let conflicts = listeners.conflicts.iter();
    let conflicts = conflicts.map(|it| format!("{}[{}]: {}", it.gateway.name, it.server, it.reason));
    listening.chain(conflicts).collect::<Vec<_>>().join("\n")
}

/// What becomes of a request that comes to a port of the pod, with a server name if it is TLS.
fn ask(listeners: &Listeners, port: u16, server_name: Option<&str>, request: &str) -> String {
    let Some(listener) = listeners.listeners.iter().find(|it| it.port == port) else {
        return "not listening".to_owned();
    };
    let Some(server) = listener.server(server_name) else { return "no server".to_owned() };
    let table = match listener.protocol {
        ListenerProtocol::Http => Some(&listener.table),
        _ => server.table.as_ref(),
    };
    outcome(table, &Request::parse(request))
}

/// Rows of `id | port [server name] | request | outcome`.
fn check(yaml: &str, rows: &str) {
    let listeners = listeners(yaml);
    let mut wrong = String::new();
    for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let parts: Vec<_> = row.split(" | ").map(str::trim).collect();
        let [id, port, request, expected] = parts.as_slice() else { panic!("{row}") };
        let (port, name) = port.split_once(' ').map_or((*port, None), |(port, name)| (port, Some(name)));
        let actual = ask(&listeners, port.parse().unwrap(), name, &request.replace(" ; ", "\n"));
        if actual != *expected {
            let _ = writeln!(wrong, "{id}: {request} at {port}: {actual}, not {expected}");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}\nof{yaml}\n{}", layout(&listeners));
}

const ONE_PORT: &str = "
        gw edge/main
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 80, name: http, protocol: HTTP}
          hosts: [bookinfo.com, '*.shop.com', '*.deep.org', 'edge/private.com', './dot.com', 'web/only.com']";

#[test]
fn hosts_of_a_port() {
    let yaml = "
        vs web/books
        hosts: [bookinfo.com, private.com, only.com, dot.com, unserved.com]
        gateways: [edge/main]
        http:
        - match: [{uri: {prefix: /wpcatalog}}, {uri: {prefix: /consumercatalog}}]
          rewrite: {uri: /newcatalog}
          route: [{destination: {host: reviews}}]
        vs web/shop
        hosts: [a.shop.com, '*.b.shop.com']
        gateways: [edge/main]
        http:
        - route: [{destination: {host: shop}}]
        vs web/wide
        hosts: ['*.org']
        gateways: [edge/main]
        http:
        - route: [{destination: {host: wide}}]
        vs edge/private
        hosts: [private.com, dot.com]
        gateways: [main]
        http:
        - route: [{destination: {host: private}}]";
    check(
        &format!("{ONE_PORT}{yaml}"),
        "
        port-translated   | 8080 | GET http://bookinfo.com/wpcatalog/x     | reviews.web /newcatalog/x
        port-in-host      | 8080 | GET http://bookinfo.com:12345/wpcatalog | reviews.web /newcatalog
        second-match      | 8080 | GET http://bookinfo.com/consumercatalog | reviews.web /newcatalog
        no-rule           | 8080 | GET http://bookinfo.com/                | 404
        unknown-host      | 8080 | GET http://example.org/                 | no host
        unserved-host     | 8080 | GET http://unserved.com/                | no host
        exact-in-wildcard | 8080 | GET http://a.shop.com/                  | shop.web
        wildcard-in-wildcard | 8080 | GET http://x.b.shop.com/             | shop.web
        wildcard-around   | 8080 | GET http://c.deep.org/                  | wide.web
        wildcard-outside  | 8080 | GET http://c.org/                       | no host
        scope-other       | 8080 | GET http://private.com/                 | private.edge
        scope-own         | 8080 | GET http://dot.com/                     | private.edge
        scope-named       | 8080 | GET http://only.com/wpcatalog           | reviews.web /newcatalog
        port-as-written   | 80   | GET http://bookinfo.com/                | not listening",
    );
}

#[test]
fn virtual_services_that_are_not_for_a_gateway() {
    let yaml = "
        vs web/mesh-only
        hosts: [mesh.shop.com]
        http:
        - route: [{destination: {host: never}}]
        vs web/not-exported
        hosts: [secret.shop.com]
        gateways: [edge/main]
        exportTo: ['.']
        http:
        - route: [{destination: {host: never}}]
        vs web/exported
        hosts: [known.shop.com]
        gateways: [edge/main]
        exportTo: [istio-system]
        http:
        - route: [{destination: {host: known}}]
        vs web/other-gateway
        hosts: [bookinfo.com]
        gateways: [main]
        http:
        - route: [{destination: {host: never}}]
        vs web/other-match
        hosts: [match.shop.com]
        gateways: [edge/main]
        http:
        - match: [{gateways: [other]}, {sourceLabels: {app: other}}, {sourceNamespace: web}, {port: 8080}]
          route: [{destination: {host: never}}]";
    check(
        &format!("{ONE_PORT}{yaml}"),
        "
        for-the-mesh      | 8080 | GET http://mesh.shop.com/   | no host
        not-exported      | 8080 | GET http://secret.shop.com/ | no host
        exported-to-pod   | 8080 | GET http://known.shop.com/  | known.web
        same-name         | 8080 | GET http://bookinfo.com/    | no host
        no-match-for-it   | 8080 | GET http://match.shop.com/  | no host",
    );
}

#[test]
fn several_virtual_services_for_a_host() {
    check(
        "
        gw edge/main
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 80, name: http, protocol: HTTP}
          hosts: ['*']
        vs edge/young @3
        hosts: [a.com]
        gateways: [main]
        http:
        - match: [{uri: {prefix: /x}}]
          route: [{destination: {host: young-x}}]
        - match: [{uri: {prefix: /y}}]
          route: [{destination: {host: young-y}}]
        - route: [{destination: {host: young}}]
        vs edge/old @1
        hosts: [a.com]
        gateways: [main]
        http:
        - match: [{uri: {prefix: /x/1}}]
          route: [{destination: {host: old-x}}]
        - match: [{uri: {prefix: /}}]
          route: [{destination: {host: old}}]
        - match: [{uri: {prefix: /y}}]
          route: [{destination: {host: never}}]
        vs edge/all @0
        hosts: ['*']
        gateways: [main]
        http:
        - route: [{destination: {host: all}}]",
        "
        merge-old       | 8080 | GET http://a.com/x/1 | old-x.edge
        merge-young     | 8080 | GET http://a.com/x/2 | young-x.edge
        merge-cut       | 8080 | GET http://a.com/y   | young-y.edge
        merge-catch-all | 8080 | GET http://a.com/z   | old.edge
        merge-not-wider | 8080 | GET http://b.com/y   | all.edge",
    );
}

#[test]
fn https_redirect() {
    check(
        "
        gw edge/main
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 80, name: http, protocol: HTTP}
          hosts: [bookinfo.com, '*.bookinfo.com']
          tls: {httpsRedirect: true}
        - port: {number: 80, name: plain, protocol: HTTP}
          hosts: [plain.com]
        vs edge/books
        hosts: [bookinfo.com, plain.com]
        gateways: [main]
        http:
        - route: [{destination: {host: books}}]",
        "
        to-https           | 8080 | GET http://bookinfo.com/x?y=1  | 301 https://bookinfo.com/x?y=1
        to-https-no-rules  | 8080 | GET http://a.bookinfo.com/     | 301 https://a.bookinfo.com/
        to-https-default-port | 8080 | GET http://bookinfo.com:80/ | 301 https://bookinfo.com/
        to-https-port      | 8080 | GET http://bookinfo.com:8080/  | 301 https://bookinfo.com:8080/
        is-https           | 8080 | GET https://bookinfo.com/x     | books.edge
        other-server       | 8080 | GET http://plain.com/          | books.edge
        to-https-unknown   | 8080 | GET http://example.com/        | no host",
    );
}

#[test]
fn servers_are_told_apart_by_name() {
    let yaml = "
        gw edge/one @1
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 443, name: a, protocol: HTTPS}
          hosts: [a.com]
          tls: {mode: SIMPLE, credentialName: a}
        - port: {number: 443, name: any, protocol: HTTPS}
          hosts: ['*']
          tls: {mode: SIMPLE, credentialName: any}
        gw edge/two @2
        selector: {app: edge}
        servers:
        - port: {number: 443, name: sub, protocol: HTTPS}
          hosts: ['*.com']
          tls: {mode: MUTUAL, credentialName: sub}
        - port: {number: 443, name: pass, protocol: TLS}
          hosts: [pass.org]
          tls: {mode: PASSTHROUGH}
        vs edge/one
        hosts: [a.com, b.com]
        gateways: [one, two]
        http:
        - match: [{port: 443, uri: {prefix: /443}}]
          route: [{destination: {host: port}}]
        - match: [{gateways: [two]}]
          route: [{destination: {host: two}}]
        - match: [{sourceLabels: {app: edge}, sourceNamespace: istio-system}]
          route: [{destination: {host: pod}}]";
    check(
        yaml,
        "
        sni-exact       | 8443 a.com    | GET https://a.com/    | pod.edge
        sni-case        | 8443 A.COM    | GET https://a.com/443 | port.edge
        sni-wildcard    | 8443 b.com    | GET https://b.com/    | two.edge
        sni-any         | 8443 c.org    | GET https://b.com/    | pod.edge
        sni-none        | 8443          | GET https://a.com/    | pod.edge
        sni-other-host  | 8443 a.com    | GET https://b.com/    | no host
        sni-passthrough | 8443 pass.org | GET https://a.com/    | no table",
    );
    let listeners = listeners(yaml);
    assert_eq!(layout(&listeners), "8443 Tls one:a one:any two:sub two:pass");
    let mode = |name| {
        let server = listeners.listeners[0].server(Some(name)).unwrap();
        (server.tls.as_ref().unwrap().mode, &*server.tls.as_ref().unwrap().credential_name)
    };
    assert_eq!(mode("x.com"), (ServerTlsMode::Mutual, "sub"));
    assert_eq!(mode("pass.org").0, ServerTlsMode::Passthrough);
}

#[test]
fn servers_that_cannot_share_a_port() {
    let yaml = "
        gw edge/first @1
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 80, name: http, protocol: HTTP}
          hosts: ['*']
        - port: {number: 443, name: tls, protocol: HTTPS}
          hosts: [a.com, b.com]
          tls: {mode: SIMPLE, credentialName: a}
        - port: {number: 9000, name: tcp, protocol: TCP}
          hosts: ['*']
        - port: {number: 9000, name: tcp-here, protocol: TCP}
          bind: 127.0.0.1
          hosts: ['*']
        gw edge/second @2
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 8081, name: grpc, protocol: GRPC}
          hosts: ['*']
        - port: {number: 80, name: tcp, protocol: TCP}
          hosts: ['*']
        - port: {number: 443, name: again, protocol: HTTPS}
          hosts: [c.com, b.com]
          tls: {mode: SIMPLE, credentialName: b}
        - port: {number: 443, name: plain, protocol: HTTP}
          hosts: ['*']
        - port: {number: 9000, name: tcp-again, protocol: TCP}
          hosts: [x.com]
        gw edge/elsewhere
        selector: {istio: egressgateway}
        servers:
        - port: {number: 7, name: http, protocol: HTTP}
          hosts: ['*']
        gw other/everywhere @3
        servers:
        - port: {number: 0, name: http, protocol: HTTP}
          bind: unix:///var/run/edge.sock
          hosts: ['*']";
    assert_eq!(
        layout(&listeners(yaml)),
        "8080 Http first:http second:grpc
8443 Tls first:tls
9000 Tcp first:tcp
Address(127.0.0.1) 9000 Tcp first:tcp-here
Unix(\"/var/run/edge.sock\") 0 Http everywhere:http
second[1]: the port belongs to Gateway edge/first, which speaks another protocol
second[2]: b.com on this port belongs to Gateway edge/first
second[3]: the port belongs to Gateway edge/first, which speaks another protocol
second[4]: the port belongs to Gateway edge/first, which speaks another protocol"
    );
}

#[test]
fn what_no_parser_would_let_pass() {
    let (mut gateways, _) = parse(
        "
        gw edge/main
        selector: {istio: ingressgateway}
        servers:
        - port: {number: 80, name: http, protocol: HTTP}
          hosts: ['*']
        - port: {number: 443, name: tls, protocol: HTTPS}
          hosts: ['*']
          tls: {mode: SIMPLE, credentialName: a}",
    );
    gateways[0].spec.servers[0].port.number = 0;
    gateways[0].spec.servers[1].tls = None;
    let labels = labels("istio=ingressgateway");
    let pod = Client { namespace: "istio-system", labels: &labels };
    let listeners = Listeners::of(&gateways, &Virtuals::default(), pod, |port| port);
    assert!(listeners.listeners.is_empty());
    let reasons: Vec<_> = listeners.conflicts.into_iter().map(|it| it.reason).collect();
    assert_eq!(reasons, [ConflictReason::NoPort, ConflictReason::NoTls]);
}

#[test]
fn claims_of_tokens() {
    let claims =
        "@claims: {\"sub\": \"me\", \"groups\": [\"a\", \"b\"], \"deep\": {\"er\": \"x\"}, \"n\": 1}";
    let yaml = |matches: &str| {
        format!(
            "
        gw edge/main
        selector: {{istio: ingressgateway}}
        servers:
        - port: {{number: 80, name: http, protocol: HTTP}}
          hosts: ['*']
        vs edge/main
        hosts: ['*']
        gateways: [main]
        http:
        - match: [{matches}]
          route: [{{destination: {{host: yes}}}}]
        - route: [{{destination: {{host: no}}}}]"
        )
    };
    for (id, matches, with, without) in [
        ("claim-text", "{headers: {'@request.auth.claims.sub': {exact: me}}}", "yes", "no"),
        ("claim-list", "{headers: {'@request.auth.claims[groups]': {exact: b}}}", "yes", "no"),
        ("claim-list-not", "{headers: {'@request.auth.claims.groups': {exact: c}}}", "no", "no"),
        ("claim-deep", "{headers: {'@request.auth.claims[deep][er]': {prefix: x}}}", "yes", "no"),
        ("claim-present", "{headers: {'@request.auth.claims.n': {}}}", "yes", "no"),
        ("claim-number", "{headers: {'@request.auth.claims.n': {exact: '1'}}}", "no", "no"),
        ("claim-without", "{withoutHeaders: {'@request.auth.claims.sub': {regex: '.*'}}}", "no", "yes"),
    ] {
        let listeners = listeners(&yaml(matches));
        let ask = |claims: &str| ask(&listeners, 8080, None, &format!("GET http://a.com/\n{claims}"));
        let expected = (format!("{with}.edge"), format!("{without}.edge"));
        assert_eq!((ask(claims), ask("")), expected, "{id}");
    }
}
