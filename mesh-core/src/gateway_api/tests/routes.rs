//! Requests and connections.

use super::{ListenerProtocol, Resources, Sightings, ask, check, objects, serve, served};

const ONE: &str = "
    gateway infra/gw
      gatewayClassName: istio
      listeners: [{name: http, port: 80, protocol: HTTP}]
";

#[test]
fn the_most_exact_match_is_used() {
    let yaml = format!(
        "{ONE}
    http infra/a
      parentRefs: [{{name: gw}}]
      rules:
      - {{name: root, backendRefs: [{{name: root, port: 80}}]}}
      - {{name: v2, matches: [{{path: {{value: /v2}}}}], backendRefs: [{{name: v2, port: 80}}]}}
      - {{name: v2b, matches: [{{path: {{value: /v2/b/}}}}], backendRefs: [{{name: v2b, port: 80}}]}}
      - {{name: exact, matches: [{{path: {{type: Exact, value: /v2/b/c}}}}], backendRefs: [{{name: exact, port: 80}}]}}
      - {{name: regex, matches: [{{path: {{type: RegularExpression, value: '/v[23]/r.*'}}}}], backendRefs: [{{name: regex, port: 80}}]}}
      - {{name: header, matches: [{{headers: [{{name: Version, value: two}}]}}], backendRefs: [{{name: header, port: 80}}]}}
      - {{name: headers, matches: [{{headers: [{{name: version, value: two}}, {{name: color, value: blue}}]}}], backendRefs: [{{name: headers, port: 80}}]}}
      - {{name: method, matches: [{{method: POST}}], backendRefs: [{{name: method, port: 80}}]}}
      - {{name: query, matches: [{{queryParams: [{{name: animal, value: whale}}]}}], backendRefs: [{{name: query, port: 80}}]}}
"
    );
    check(
        &yaml,
        "
        80 | GET http://a.test/ | root: root:80
        80 | GET http://a.test/v2example | root: root:80
        80 | GET http://a.test/v2 | v2: v2:80
        80 | GET http://a.test/v2/ | v2: v2:80
        80 | GET http://a.test/v2/x | v2: v2:80
        80 | GET http://a.test/v2/b | v2b: v2b:80
        80 | GET http://a.test/v2/bc | v2: v2:80
        80 | GET http://a.test/v2/b/c | exact: exact:80
        80 | GET http://a.test/v2/b/c/ | v2b: v2b:80
        80 | GET http://a.test/v2/red | regex: regex:80
        80 | GET http://a.test/ ; version: two | header: header:80
        80 | GET http://a.test/ ; version: two ; color: blue | headers: headers:80
        80 | POST http://a.test/ ; version: two | method: method:80
        80 | GET http://a.test/?animal=whale | query: query:80
        80 | GET http://a.test/v2?animal=whale | v2: v2:80
        80 | GET http://a.test/?animal=whale ; version: two | header: header:80
        ",
    );
}

#[test]
fn of_equal_matches_the_oldest_route_is_used_then_the_first_by_name() {
    let route = |name: &str, age: u8| {
        format!(
            "
    http infra/{name} @{age}
      parentRefs: [{{name: gw}}]
      rules: [{{name: {name}, matches: [{{path: {{value: /x}}}}], backendRefs: [{{name: {name}, port: 80}}]}}]
"
        )
    };
    let routes = [route("a", 2), route("c", 1), route("b", 1)].concat();
    check(&format!("{ONE}{routes}"), "80 | GET http://a.test/x | b: b:80");
}

#[test]
fn a_listener_is_for_its_hosts_and_no_other_has_them() {
    let yaml = "
    gateway infra/gw
      gatewayClassName: istio
      listeners:
      - {name: any, port: 80, protocol: HTTP}
      - {name: wild, port: 80, protocol: HTTP, hostname: '*.example.com'}
      - {name: foo, port: 80, protocol: HTTP, hostname: '*.foo.example.com'}
      - {name: abc, port: 80, protocol: HTTP, hostname: abc.foo.example.com}
    http infra/any
      parentRefs: [{name: gw, sectionName: any}]
      rules: [{name: any, matches: [{path: {value: /any}}], backendRefs: [{name: v1, port: 80}]}]
    http infra/wild
      parentRefs: [{name: gw, sectionName: wild}]
      rules: [{name: wild, matches: [{path: {value: /wild}}], backendRefs: [{name: v1, port: 80}]}]
    http infra/foo
      parentRefs: [{name: gw, sectionName: foo}]
      rules: [{name: foo, matches: [{path: {value: /foo}}], backendRefs: [{name: v1, port: 80}]}]
    http infra/abc
      parentRefs: [{name: gw, sectionName: wild}]
      hostnames: [abc.foo.example.com, bar.example.com]
      rules: [{name: abc, matches: [{path: {value: /abc}}], backendRefs: [{name: v1, port: 80}]}]
    ";
    check(
        yaml,
        "
        80 | GET http://bar.com/any | any: v1:80
        80 | GET http://bar.com/wild | 404
        80 | GET http://bar.example.com/any | 404
        80 | GET http://bar.example.com/wild | wild: v1:80
        80 | GET http://bar.example.com/abc | abc: v1:80
        80 | GET http://bar.foo.example.com/wild | 404
        80 | GET http://bar.foo.example.com/foo | foo: v1:80
        80 | GET http://abc.foo.example.com/foo | 404
        80 | GET http://abc.foo.example.com/abc | 404
        80 | GET http://abc.foo.example.com/any | 404
        ",
    );
}

#[test]
fn hosts_are_those_of_listener_and_route() {
    let yaml = "
    gateway infra/gw
      gatewayClassName: istio
      listeners:
      - {name: exact, port: 80, protocol: HTTP, hostname: very.specific.com}
      - {name: wild, port: 80, protocol: HTTP, hostname: '*.wildcard.io'}
    http infra/a
      parentRefs: [{name: gw}]
      hostnames: [non.matching.com, '*.specific.com', foo.wildcard.io, '*.bar.wildcard.io']
      rules: [{name: a, backendRefs: [{name: v1, port: 80}]}]
    http infra/b
      parentRefs: [{name: gw}]
      hostnames: ['*.wildcard.io']
      rules: [{name: b, matches: [{path: {value: /b}}], backendRefs: [{name: v2, port: 80}]}]
    ";
    check(
        yaml,
        "
        80 | GET http://very.specific.com/ | a: v1:80
        80 | GET http://very.specific.com:8080/ | a: v1:80
        80 | GET http://other.specific.com/ | no host
        80 | GET http://non.matching.com/ | no host
        80 | GET http://foo.wildcard.io/ | a: v1:80
        80 | GET http://foo.wildcard.io/b | a: v1:80
        80 | GET http://x.y.bar.wildcard.io/ | a: v1:80
        80 | GET http://z.wildcard.io/ | 404
        80 | GET http://z.wildcard.io/b/c | b: v2:80
        80 | GET http://wildcard.io/b | no host
        ",
    );
}

#[test]
fn what_the_rules_of_a_host_leave_is_for_those_of_wider_hosts() {
    let yaml = "
    gateway infra/gw
      gatewayClassName: istio
      listeners: [{name: http, port: 80, protocol: HTTP}]
    http infra/narrow
      parentRefs: [{name: gw}]
      hostnames: [a.example.com]
      rules: [{name: narrow, matches: [{path: {value: /n}}], backendRefs: [{name: v1, port: 80}]}]
    http infra/wide
      parentRefs: [{name: gw}]
      hostnames: ['*.example.com']
      rules: [{name: wide, matches: [{path: {type: Exact, value: /n/x}}, {path: {value: /w}}], backendRefs: [{name: v2, port: 80}]}]
    http infra/widest
      parentRefs: [{name: gw}]
      rules: [{name: widest, backendRefs: [{name: v3, port: 80}]}]
    ";
    check(
        yaml,
        "
        80 | GET http://a.example.com/n/x | narrow: v1:80
        80 | GET http://a.example.com/w | wide: v2:80
        80 | GET http://a.example.com/o | widest: v3:80
        80 | GET http://b.example.com/n | widest: v3:80
        80 | GET http://10.1.2.3/ | widest: v3:80
        ",
    );
}

#[test]
fn backends_that_are_none_take_their_share() {
    let yaml = format!(
        "{ONE}
    http infra/a
      parentRefs: [{{name: gw}}]
      hostnames: [a.test]
      rules:
      - {{name: none, matches: [{{path: {{value: /none}}}}]}}
      - {{name: zero, matches: [{{path: {{value: /zero}}}}], backendRefs: [{{name: v1, port: 80, weight: 0}}]}}
      - {{name: kind, matches: [{{path: {{value: /kind}}}}], backendRefs: [{{group: example.com, kind: Thing, name: v1}}]}}
      - {{name: far, matches: [{{path: {{value: /far}}}}], backendRefs: [{{namespace: web, name: v1, port: 80}}]}}
      - {{name: near, matches: [{{path: {{value: /near}}}}], backendRefs: [{{namespace: web, name: v2, port: 80, weight: 9}}, {{namespace: web, name: v1, port: 80}}]}}
      - {{name: host, matches: [{{path: {{value: /host}}}}], backendRefs: [{{group: networking.istio.io, kind: Hostname, name: out.example, port: 443}}]}}
      - {{name: filter, matches: [{{path: {{value: /filter}}}}], filters: [{{type: ExtensionRef, extensionRef: {{group: example.com, kind: F, name: f}}}}], backendRefs: [{{name: v1, port: 80}}]}}
    grpc infra/b
      parentRefs: [{{name: gw}}]
      hostnames: [grpc.test]
      rules: [{{name: calls}}]
    grant web/g
      from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: infra}}, {{group: gateway.networking.k8s.io, kind: Gateway, namespace: other}}]
      to: [{{group: '', kind: Service, name: v2}}]
"
    );
    check(
        &yaml,
        "
        80 | GET http://a.test/none | none: no backend
        80 | GET http://a.test/zero | zero: no backend
        80 | GET http://a.test/kind | kind: no backend
        80 | GET http://a.test/far | far: no backend
        80 | GET http://a.test/near | near: v2.web:80*9 no backend
        80 | GET http://a.test/host | host: out.example:443
        80 | GET http://a.test/filter | filter: 500
        80 | POST http://grpc.test/a.B/C | calls: no backend
        ",
    );
}

#[test]
fn calls_are_told_apart_by_service_and_method() {
    let yaml = format!(
        "{ONE}
    grpc infra/a
      parentRefs: [{{name: gw}}]
      rules:
      - {{name: method, matches: [{{method: {{method: Login}}}}], backendRefs: [{{name: method, port: 80}}]}}
      - {{name: service, matches: [{{method: {{service: foo.User}}}}], backendRefs: [{{name: service, port: 80}}]}}
      - {{name: both, matches: [{{method: {{service: foo.User, method: Login}}}}], backendRefs: [{{name: both, port: 80}}]}}
      - {{name: regex, matches: [{{method: {{type: RegularExpression, service: 'bar[.].+'}}}}], backendRefs: [{{name: regex, port: 80}}]}}
      - {{name: header, matches: [{{headers: [{{name: version, value: two}}]}}], backendRefs: [{{name: header, port: 80}}]}}
"
    );
    check(
        &yaml,
        "
        80 | POST http://a.test/foo.User/Login | both: both:80
        80 | POST http://a.test/foo.User/Logout | service: service:80
        80 | POST http://a.test/other.Service/Login | method: method:80
        80 | POST http://a.test/bar.Any/Thing | regex: regex:80
        80 | POST http://a.test/other.Service/Other | 404
        80 | POST http://a.test/other.Service/Other ; version: two | header: header:80
        ",
    );
}

#[test]
fn paths_and_addresses_are_replaced_by_segments() {
    let route = |kind: &str, filter: &str, prefix: &str, text: &str| {
        format!(
            "{ONE}
    http infra/a
      parentRefs: [{{name: gw}}]
      rules: [{{matches: [{{path: {{value: '{prefix}'}}}}], filters: [{{type: {kind}, {filter}: {{path: {{type: ReplacePrefixMatch, replacePrefixMatch: '{text}'}}}}}}]{}}}]
",
            if kind == "URLRewrite" { ", backendRefs: [{name: v1, port: 80}]" } else { "" }
        )
    };
    // The table of the API's documentation: path, prefix, text, new path.
    for (path, prefix, text, new) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
    ] {
        let rewritten = served(&objects(&route("URLRewrite", "urlRewrite", prefix, text)));
        let asked = ask(&rewritten, 80, None, &format!("GET http://a.test{path}"));
        assert_eq!(asked, format!("v1:80 {new}"), "{path} {prefix} {text}");
        let redirected = served(&objects(&route("RequestRedirect", "requestRedirect", prefix, text)));
        let asked = ask(&redirected, 80, None, &format!("GET http://a.test{path}"));
        assert_eq!(asked, format!("302 http://a.test{new}"), "{path} {prefix} {text}");
    }
}

#[test]
fn redirects_name_the_port_of_the_scheme_or_of_the_listener() {
    let gateway = "
    gateway infra/gw
      gatewayClassName: istio
      listeners:
      - {name: http, port: 80, protocol: HTTP}
      - {name: odd, port: 8080, protocol: HTTP}
";
    let route = |to: &str| {
        format!(
            "{gateway}
    http infra/a
      parentRefs: [{{name: gw}}]
      rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{{to}}}}}]}}]
"
        )
    };
    for (to, at_80, at_8080) in [
        ("hostname: example.org", "302 http://example.org/x", "302 http://example.org:8080/x"),
        ("scheme: https", "302 https://a.test/x", "302 https://a.test/x"),
        ("scheme: https, port: 8443", "302 https://a.test:8443/x", "302 https://a.test:8443/x"),
        ("port: 80, statusCode: 301", "301 http://a.test/x", "301 http://a.test/x"),
        ("port: 443", "302 http://a.test:443/x", "302 http://a.test:443/x"),
        (
            "path: {type: ReplaceFullPath, replaceFullPath: /full}",
            "302 http://a.test/full",
            "302 http://a.test:8080/full",
        ),
        ("statusCode: 303", "303 http://a.test/x", "303 http://a.test:8080/x"),
    ] {
        let served = served(&objects(&route(to)));
        assert_eq!(ask(&served, 80, None, "GET http://a.test/x"), at_80, "{to}");
        assert_eq!(ask(&served, 8080, None, "GET http://a.test:8080/x"), at_8080, "{to}");
    }
}

#[test]
fn tls_is_told_apart_by_name_and_requests_must_fit_it() {
    let yaml = "
    gateway infra/gw
      gatewayClassName: istio
      listeners:
      - {name: a, port: 443, protocol: HTTPS, hostname: a.test, tls: {certificateRefs: [{name: c}]}}
      - {name: wild, port: 443, protocol: HTTPS, hostname: '*.test', tls: {certificateRefs: [{name: c}]}}
      - {name: pass, port: 443, protocol: TLS, hostname: p.test, tls: {mode: Passthrough}}
      - {name: open, port: 443, protocol: TLS, hostname: o.test, tls: {mode: Terminate, certificateRefs: [{name: c}]}}
      - {name: far, port: 443, protocol: HTTPS, hostname: far.example, tls: {certificateRefs: [{name: c, namespace: web}]}}
      - {name: tcp, port: 9000, protocol: TCP}
    http infra/all
      parentRefs: [{name: gw}]
      rules: [{name: all, backendRefs: [{name: v1, port: 80}]}]
    tls infra/tls
      parentRefs: [{name: gw}]
      hostnames: [p.test, o.test, q.test]
      rules: [{backendRefs: [{name: v2, port: 443}, {name: v3, port: 443, weight: 3}]}]
    tcp infra/tcp
      parentRefs: [{name: gw, port: 9000}]
      rules: [{backendRefs: [{name: v4, port: 9}, {namespace: web, name: v5, port: 9}]}]
    ";
    check(
        yaml,
        "
        443 a.test | GET https://a.test/ | all: v1:80
        443 a.test | GET https://b.test/ | 421
        443 b.test | GET https://b.test/ | all: v1:80
        443 b.test | GET https://a.test/ | 421
        443 b.test | GET https://elsewhere/ | no host
        443 far.example | GET https://far.example/ | no server
        443 p.test | GET https://x/ | v2.infra.svc.cluster.local*1 v3.infra.svc.cluster.local*3
        443 o.test | GET https://x/ | v2.infra.svc.cluster.local*1 v3.infra.svc.cluster.local*3
        9000 | GET http://x/ | v4.infra.svc.cluster.local*1 no backend*1
        ",
    );
}

#[test]
fn only_gateways_of_ours_are_served_and_by_their_own_process() {
    let yaml = "
    class /other
      controllerName: example.com/other
    class /mine
      controllerName: istio.io/gateway-controller
    class /istio-waypoint
      controllerName: istio.io/mesh-controller
    gateway infra/gw
      gatewayClassName: CLASS
      listeners: [{name: http, port: 80, protocol: HTTP}]
    gateway infra/another
      gatewayClassName: istio
      listeners: [{name: http, port: 81, protocol: HTTP}]
    gateway web/gw
      gatewayClassName: istio
      listeners: [{name: http, port: 82, protocol: HTTP}]
    gateway infra/manual
      gatewayClassName: istio
      addresses: [{type: Hostname, value: gw.infra.svc.cluster.local}]
      listeners: [{name: http, port: 83, protocol: HTTP}]
    ";
    for (class, ports) in [
        ("istio", vec![80, 83]),
        ("mine", vec![80, 83]),
        ("other", vec![83]),
        ("unknown", vec![83]),
        ("istio-waypoint", vec![83]),
    ] {
        let served = served(&objects(&yaml.replace("CLASS", class)));
        let mut listening: Vec<_> = served.listeners.iter().map(|it| it.port).collect();
        listening.sort_unstable();
        assert_eq!(listening, ports, "{class}");
    }
}

#[test]
fn datagrams_go_where_the_oldest_route_says_whatever_tcp_does_on_the_port() {
    let objects = objects(
        "
        gateway infra/gw
          gatewayClassName: istio
          listeners: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
        service infra/gw
          selector: {app: gw}
          ports: [{name: dns, port: 53, targetPort: 5353, protocol: UDP}, {name: dns-tcp, port: 53, targetPort: 5354}]
        udp infra/late @2
          parentRefs: [{name: gw}]
          rules: [{backendRefs: [{name: v2, port: 53}]}]
        udp infra/early @1
          parentRefs: [{name: gw, port: 53}]
          rules: [{backendRefs: [{name: v1, port: 53, weight: 3}, {name: v3, port: 53, weight: 0}, {name: w1, namespace: web, port: 53}]}]
        tcp infra/tcp
          parentRefs: [{name: gw}]
          rules: [{backendRefs: [{name: t, port: 53}]}]
        ",
    );
    let mut sightings = Sightings::of("infra", "gw", [("app".to_owned(), "gw".to_owned())]);
    objects.iter().for_each(|object| sightings.apply(object));
    let served = serve(&Resources::of(&objects), &sightings.own());
    assert!(served.findings.is_empty(), "{:?}", served.findings);
    let protocols: Vec<_> = served.listeners.iter().map(|it| (it.port, it.protocol)).collect();
    assert_eq!(protocols, [(5354, ListenerProtocol::Tcp), (5353, ListenerProtocol::Udp)]);
    assert_eq!(ask(&served, 5354, None, ""), "t.infra.svc.cluster.local*1");
    // Nothing is permitted in `web`: its share goes nowhere.
    assert_eq!(ask(&served, 5353, None, ""), "v1.infra.svc.cluster.local*3 no backend*1");
}
