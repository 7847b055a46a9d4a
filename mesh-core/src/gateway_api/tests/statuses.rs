//! Conditions.

use super::objects;
use crate::gateway_api::{Condition, Facts, ListenerStatus, Resources};
use crate::resource::networking::gateway::ServerTlsMode;

/// `KIND NAMESPACE/NAME: …` for each Gateway, listener and parent of a route.
fn told(yaml: &str) -> String {
    let objects = objects(yaml);
    let mut facts = Facts::default();
    for object in &objects {
        facts.apply(object);
    }
    let resources = Resources::of(&objects);
    let report = resources.report(&facts);
    let shown = |conditions: &[Condition]| {
        let all = conditions.iter().map(|it| {
            let sign = if it.holds { "" } else { "!" };
            if it.sort == it.reason {
                format!("{sign}{}", it.sort)
            } else {
                format!("{sign}{}={}", it.sort, it.reason)
            }
        });
        all.collect::<Vec<_>>().join(" ")
    };
    let of_listeners = |name: &str, listeners: &[ListenerStatus]| {
        let line = |it: &ListenerStatus| {
            let kinds: Vec<_> = it.kinds.iter().map(|kind| kind.name()).collect();
            let (kinds, conditions) = (kinds.join(","), shown(&it.conditions));
            format!("{name}/{}: {} {kinds} {conditions}", it.name, it.attached)
        };
        listeners.iter().map(line).collect::<Vec<_>>()
    };
    let mut lines = Vec::new();
    for (key, status) in &report.gateways {
        lines.push(format!("{}: {} {:?}", key.name, shown(&status.conditions), status.addresses));
        lines.extend(of_listeners(&key.name, &status.listeners));
    }
    for (key, status) in &report.sets {
        lines.push(format!("{}: {}", key.name, shown(&status.conditions)));
        lines.extend(of_listeners(&key.name, &status.listeners));
    }
    for (key, parents) in &report.routes {
        for parent in parents {
            lines.push(format!("{} at {}: {}", key.name, parent.parent.name, shown(&parent.conditions)));
        }
    }
    lines.join("\n")
}

pub(super) fn check(yaml: &str, expected: &str) {
    let expected: Vec<_> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(told(yaml), expected.join("\n"));
}

#[test]
fn a_gateway_that_runs_somewhere_else_is_where_it_says() {
    check(
        "
        gateway infra/lost
          gatewayClassName: istio-remote
          listeners: [{name: http, port: 80, protocol: HTTP}]
        gateway infra/there
          gatewayClassName: istio-remote
          addresses: [{type: IPAddress, value: 192.0.2.9}, {type: Hostname, value: east.example}]
          listeners: [{name: mesh, port: 15008, protocol: HBONE}]
        service infra/lost
          {ports: [{port: 80}], externalIPs: [192.0.2.7]}
        http infra/a
          parentRefs: [{name: there}]
          rules: [{backendRefs: [{name: lost, port: 80}]}]
        ",
        "
        lost: Accepted !Programmed=AddressNotAssigned []
        lost/http: 0  Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        there: Accepted Programmed [\"192.0.2.9\", \"east.example\"]
        there/mesh: 0  Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        ",
    );
}

#[test]
fn a_gateway_that_is_fine_says_so_and_counts_its_routes() {
    check(
        "
        gateway infra/gw
          gatewayClassName: istio
          listeners: [{name: http, port: 80, protocol: HTTP}, {name: tcp, port: 90, protocol: TCP}]
        service infra/gw
          {ports: [{port: 80}], externalIPs: [192.0.2.7]}
        service infra/v1
          {ports: [{port: 80}]}
        http infra/a
          parentRefs: [{name: gw}]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        http infra/b
          parentRefs: [{name: gw, sectionName: http}]
          rules: [{backendRefs: [{name: v1, port: 81}]}]
        ",
        "
        gw: Accepted Programmed [\"192.0.2.7\"]
        gw/http: 2 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        gw/tcp: 0 TCPRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        a at gw: Accepted ResolvedRefs
        b at gw: Accepted !ResolvedRefs=BackendNotFound
        ",
    );
}

#[test]
fn listeners_say_what_is_wrong_with_them() {
    check(
        "
        gateway infra/gw
          gatewayClassName: istio
          listeners:
          - {name: http, port: 80, protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: Nonsense}]}}
          - {name: none, port: 81, protocol: HTTP, allowedRoutes: {kinds: [{kind: TCPRoute}]}}
          - {name: own, port: 82, protocol: example.com/own}
          - {name: tls, port: 80, protocol: TLS, tls: {mode: Passthrough}}
          - {name: there, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: nowhere}]}}
          - {name: far, port: 444, protocol: HTTPS, tls: {certificateRefs: [{name: c, namespace: web}]}}
          - {name: map, port: 445, protocol: HTTPS, tls: {certificateRefs: [{name: c, kind: ConfigMap}]}}
        service infra/gw
          {ports: [{port: 80}]}
        ",
        "
        gw: Accepted=ListenersNotValid Programmed [\"gw.infra.svc.cluster.local\"]
        gw/http: 0 HTTPRoute Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidRouteKinds Programmed
        gw/none: 0  Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidRouteKinds Programmed
        gw/own: 0  !Accepted=UnsupportedProtocol !Conflicted=NoConflicts ResolvedRefs !Programmed=Invalid
        gw/tls: 0 TLSRoute !Accepted=ProtocolConflict Conflicted=ProtocolConflict ResolvedRefs !Programmed=Invalid
        gw/there: 0 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidCertificateRef !Programmed=Invalid
        gw/far: 0 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts !ResolvedRefs=RefNotPermitted !Programmed=Invalid
        gw/map: 0 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidCertificateRef !Programmed=Invalid
        ",
    );
}

#[test]
fn routes_say_why_they_are_attached_to_nothing() {
    check(
        "
        gateway infra/gw
          gatewayClassName: istio
          listeners:
          - {name: http, port: 80, protocol: HTTP, hostname: '*.a.test'}
          - {name: web, port: 81, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: web}}}}}
        namespace /web
          {}
        http infra/a-section
          parentRefs: [{name: gw, sectionName: nothing}]
        http infra/b-port
          parentRefs: [{name: gw, port: 8080}]
        http infra/c-both
          parentRefs: [{name: gw, sectionName: http, port: 81}]
        http infra/d-host
          parentRefs: [{name: gw, sectionName: http}]
          hostnames: [b.test]
        tcp infra/e-kind
          parentRefs: [{name: gw}]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        http other/f-namespace
          parentRefs: [{name: gw, namespace: infra}]
        http web/g-selected
          parentRefs: [{name: gw, namespace: infra}]
        http infra/h-elsewhere
          parentRefs: [{name: unknown}]
        ",
        "
        gw: Accepted !Programmed=AddressNotAssigned []
        gw/http: 0 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        gw/web: 1 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        a-section at gw: !Accepted=NoMatchingParent ResolvedRefs
        b-port at gw: !Accepted=NoMatchingParent ResolvedRefs
        c-both at gw: !Accepted=NoMatchingParent ResolvedRefs
        d-host at gw: !Accepted=NoMatchingListenerHostname ResolvedRefs
        f-namespace at gw: !Accepted=NotAllowedByListeners ResolvedRefs
        g-selected at gw: Accepted ResolvedRefs
        e-kind at gw: !Accepted=NotAllowedByListeners !ResolvedRefs=BackendNotFound
        ",
    );
}

#[test]
fn references_are_resolved_and_permitted() {
    check(
        "
        gateway infra/gw
          gatewayClassName: istio
          infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: nowhere}}
          listeners: [{name: own, port: 80, protocol: example.com/own}]
        gateway infra/odd
          gatewayClassName: istio
          addresses: [{type: NamedAddress, value: x}]
          listeners: [{name: http, port: 80, protocol: HTTP}]
        service web/v1
          {ports: [{port: 80}]}
        grant web/g
          from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: infra}]
          to: [{group: '', kind: Service}]
        http infra/a
          parentRefs: [{name: odd}]
          hostnames: [http.test]
          rules: [{backendRefs: [{name: v1, namespace: web, port: 80}]}]
        grpc infra/b
          parentRefs: [{name: odd}]
          hostnames: [grpc.test]
          rules: [{backendRefs: [{name: v1, namespace: web, port: 80}]}]
        http infra/c
          parentRefs: [{name: odd}]
          hostnames: [http.test]
          rules: [{backendRefs: [{group: example.com, kind: Thing, name: v1}]}]
        http infra/d
          parentRefs: [{name: odd}]
          hostnames: [http.test]
          rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}]}]
        http infra/e
          parentRefs: [{name: odd}]
          hostnames: [http.test]
          rules: [{filters: [{type: ExtensionRef, extensionRef: {group: example.com, kind: F, name: f}}]}]
        ",
        "
        gw: !Accepted=InvalidParameters !Programmed=Invalid []
        gw/own: 0  !Accepted=UnsupportedProtocol !Conflicted=NoConflicts ResolvedRefs !Programmed=Invalid
        odd: !Accepted=UnsupportedAddress !Programmed=Invalid []
        odd/http: 5 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        b at odd: Accepted !ResolvedRefs=RefNotPermitted
        a at odd: Accepted ResolvedRefs
        c at odd: Accepted !ResolvedRefs=InvalidKind
        d at odd: Accepted !ResolvedRefs=BackendNotFound
        e at odd: Accepted !ResolvedRefs=InvalidKind
        ",
    );
}

#[test]
fn clients_that_cannot_be_checked_are_not_let_in() {
    let gateway = |reference: &str, more: &str| {
        format!(
            "
        gateway infra/gw
          gatewayClassName: istio
          tls: {{frontend: {{default: {{validation: {{caCertificateRefs: [{reference}]{more}}}}}}}}}
          listeners: [{{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{{name: c}}]}}}}, {{name: http, port: 80, protocol: HTTP}}]
"
        )
    };
    for reference in [
        "{group: '', kind: ConfigMap, name: gone}",
        "{group: '', kind: Service, name: gone}",
        "{group: '', kind: ConfigMap, name: ca, namespace: web}",
    ] {
        let told = told(&gateway(reference, ", mode: AllowInsecureFallback"));
        assert!(told.contains("InsecureFrontendValidationMode=ConfigurationChanged"), "{told}");
        assert!(told.contains("gw/http: 0 HTTPRoute,GRPCRoute Accepted "), "{told}");
        assert!(told.contains("gw/https: 0 HTTPRoute,GRPCRoute !Accepted=NoValidCACertificate "), "{told}");
    }
    // A reference that must not be used is not used, and nobody gets in instead of everybody.
    let far = gateway("{group: '', kind: ConfigMap, name: ca, namespace: web}", "");
    let served = super::served(&objects(&far));
    assert_eq!(served.listeners.iter().map(|it| it.port).collect::<Vec<_>>(), [80]);
    let near = super::served(&objects(&gateway("{group: '', kind: ConfigMap, name: ca}", "")));
    let tls =
        near.listeners.iter().find(|it| it.port == 443).and_then(|it| it.servers[0].tls.clone()).unwrap();
    assert_eq!((tls.mode, tls.ca_cert_credential_name.as_str()), (ServerTlsMode::Mutual, "clients/gw/443"));
}

#[test]
fn of_an_http_route_and_a_grpc_route_for_the_same_host_the_older_is_accepted() {
    check(
        "
        gateway infra/gw
          gatewayClassName: istio
          listeners:
          - {name: http, port: 80, protocol: HTTP}
          - {name: other, port: 81, protocol: HTTP}
        service infra/gw
          {ports: [{port: 80}]}
        service infra/v1
          {ports: [{port: 80}]}
        grpc infra/a-older @1
          parentRefs: [{name: gw, sectionName: http}]
          hostnames: ['*.a.test', b.test]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        http infra/b-younger @2
          parentRefs: [{name: gw, sectionName: http}]
          hostnames: [x.a.test, c.test]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        grpc infra/c-of-who-is-refused @3
          parentRefs: [{name: gw, sectionName: http}]
          hostnames: [c.test]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        http infra/d-also-elsewhere @4
          parentRefs: [{name: gw}]
          hostnames: [b.test]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        http infra/e-another-host @5
          parentRefs: [{name: gw, sectionName: http}]
          hostnames: [a.test]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        grpc infra/z-as-old @6
          parentRefs: [{name: gw, sectionName: http}]
          hostnames: [e.test]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        http infra/y-as-old @6
          parentRefs: [{name: gw, sectionName: http}]
          hostnames: [e.test]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        ",
        "
        gw: Accepted Programmed [\"gw.infra.svc.cluster.local\"]
        gw/http: 4 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        gw/other: 1 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        a-older at gw: Accepted ResolvedRefs
        c-of-who-is-refused at gw: Accepted ResolvedRefs
        z-as-old at gw: !Accepted=HostnameConflict ResolvedRefs
        b-younger at gw: !Accepted=HostnameConflict ResolvedRefs
        d-also-elsewhere at gw: Accepted ResolvedRefs
        e-another-host at gw: Accepted ResolvedRefs
        y-as-old at gw: Accepted ResolvedRefs
        ",
    );
}

#[test]
fn a_rule_that_cannot_be_read_is_left_out_and_named() {
    let yaml = "
        gateway infra/gw
          gatewayClassName: istio
          listeners: [{name: http, port: 80, protocol: HTTP}]
        service infra/gw
          {ports: [{port: 80}]}
        service infra/v1
          {ports: [{port: 80}]}
        http infra/a
          parentRefs: [{name: gw}]
          hostnames: [a.test]
          rules:
          - {name: good, matches: [{path: {value: /good}}], backendRefs: [{name: v1, port: 80}]}
          - {name: path, matches: [{path: {type: RegularExpression, value: '('}}], backendRefs: [{name: v1, port: 80}]}
          - {name: one-of-two, matches: [{path: {value: /x}}, {headers: [{name: h, type: RegularExpression, value: '['}]}], backendRefs: [{name: v1, port: 80}]}
        http infra/b
          parentRefs: [{name: gw}, {group: '', kind: Service, name: v1}]
          hostnames: [b.test]
          rules: [{matches: [{queryParams: [{name: q, type: RegularExpression, value: '(?=a)'}]}], backendRefs: [{name: v1, port: 80}]}]
        grpc infra/c
          parentRefs: [{name: gw}]
          hostnames: [c.test]
          rules:
          - {name: good, matches: [{method: {service: s}}], backendRefs: [{name: v1, port: 80}]}
          - {name: bad, matches: [{method: {type: RegularExpression, service: '['}}], backendRefs: [{name: v1, port: 80}]}
        ";
    check(
        yaml,
        "
        gw: Accepted Programmed [\"gw.infra.svc.cluster.local\"]
        gw/http: 2 HTTPRoute,GRPCRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        c at gw: Accepted ResolvedRefs PartiallyInvalid=UnsupportedValue
        a at gw: Accepted ResolvedRefs PartiallyInvalid=UnsupportedValue
        b at gw: !Accepted=UnsupportedValue ResolvedRefs
        b at v1: !Accepted=UnsupportedValue ResolvedRefs
        ",
    );
    let objects = objects(yaml);
    let mut facts = Facts::default();
    objects.iter().for_each(|object| _ = facts.apply(object));
    let resources = Resources::of(&objects);
    let report = resources.report(&facts);
    let mut all = report.routes.values().flatten().flat_map(|it| &it.conditions);
    let said = all.find(|it| it.sort == "PartiallyInvalid" && it.message.contains("rules[2]")).unwrap();
    assert!(said.message.starts_with("Dropped Rule rules[1]: "), "{}", said.message);
    let served = super::served(&objects);
    let ask = |request: &str| super::ask(&served, 80, None, request);
    assert_eq!(ask("GET http://a.test/good"), "good: v1:80");
    assert_eq!(ask("GET http://a.test/x"), ask("GET http://a.test/nothing"));
    assert_eq!(ask("POST http://c.test/s/m"), "good: v1:80");
    assert_eq!(ask("GET http://b.test/"), ask("GET http://nobody.test/"));
}

#[test]
fn listeners_and_routes_of_udp_say_how_they_stand() {
    check(
        "
        gateway infra/gw
          gatewayClassName: istio
          listeners:
          - {name: dns, port: 53, protocol: UDP}
          - {name: dns-tcp, port: 53, protocol: TCP}
          - {name: odd, port: 54, protocol: UDP, allowedRoutes: {kinds: [{kind: UDPRoute}, {kind: TCPRoute}]}}
        service infra/gw
          {ports: [{port: 53}], externalIPs: [192.0.2.7]}
        service infra/v1
          {ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 80}]}
        service web/w1
          {ports: [{port: 53, protocol: UDP}]}
        udp infra/a
          parentRefs: [{name: gw}]
          rules: [{backendRefs: [{name: v1, port: 53}]}]
        udp infra/b
          parentRefs: [{name: gw, sectionName: dns-tcp}]
          rules: [{backendRefs: [{name: v1, port: 53}]}]
        udp infra/c
          parentRefs: [{name: gw, sectionName: dns}]
          rules: [{backendRefs: [{name: v1, port: 80}]}]
        udp infra/d
          parentRefs: [{name: gw, port: 55}]
          rules: [{backendRefs: [{name: w1, namespace: web, port: 53}]}]
        udp infra/e
          parentRefs: [{name: gw, sectionName: odd}]
          rules: [{backendRefs: [{group: networking.istio.io, kind: Hostname, name: a.example, port: 53}]}]
        udp infra/f
          parentRefs: [{name: v1, kind: Service, group: ''}]
          rules: [{backendRefs: [{name: v1, port: 53}]}]
        tcp infra/t
          parentRefs: [{name: gw}]
          rules: [{backendRefs: [{name: v1, port: 53}]}]
        ",
        "
        gw: Accepted Programmed [\"192.0.2.7\"]
        gw/dns: 2 UDPRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        gw/dns-tcp: 1 TCPRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        gw/odd: 2 UDPRoute Accepted !Conflicted=NoConflicts !ResolvedRefs=InvalidRouteKinds Programmed
        t at gw: Accepted !ResolvedRefs=BackendNotFound
        a at gw: Accepted ResolvedRefs
        b at gw: !Accepted=NotAllowedByListeners ResolvedRefs
        c at gw: Accepted !ResolvedRefs=BackendNotFound
        d at gw: !Accepted=NoMatchingParent !ResolvedRefs=RefNotPermitted
        e at gw: Accepted !ResolvedRefs=InvalidKind
        f at v1: !Accepted=NoMatchingParent ResolvedRefs
        ",
    );
}

#[test]
fn two_listeners_of_udp_cannot_have_one_port() {
    check(
        "
        gateway infra/gw
          gatewayClassName: istio
          listeners: [{name: a, port: 53, protocol: UDP}]
          allowedListeners: {namespaces: {from: Same}}
        set infra/more
          parentRef: {name: gw}
          listeners: [{name: b, port: 53, protocol: UDP}, {name: c, port: 53, protocol: TCP}]
        service infra/gw
          {ports: [{port: 53}]}
        ",
        "
        gw: Accepted Programmed [\"gw.infra.svc.cluster.local\"]
        gw/a: 0 UDPRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        more: Accepted=ListenersNotValid Programmed
        more/b: 0 UDPRoute !Accepted=ProtocolConflict Conflicted=ProtocolConflict ResolvedRefs !Programmed=Invalid
        more/c: 0 TCPRoute Accepted !Conflicted=NoConflicts ResolvedRefs Programmed
        ",
    );
}
