//! What is accepted but said to be old, without effect or not as intended.

use super::{assert_warned, document, lines, yaml};
use crate::resource::Spec;

fn assert_route(rows: &[(&str, &str, &str)]) {
    let rows: Vec<_> = rows
        .iter()
        .map(|(part, field, reason)| {
            let spec = format!(
                "{{hosts: [a.b], gateways: [g], http: [{{{part}, route: [{{destination: {{host: a}}}}]}}]}}"
            );
            (spec, format!("spec.http[0].{field}"), *reason)
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(spec, field, reason)| (&**spec, &**field, *reason)).collect();
    assert_warned("VirtualService", &rows);
}

#[test]
fn old_spellings_still_work() {
    assert_route(&[
        (
            "fault: {delay: {fixedDelay: 1s, percent: 10}}",
            "fault.delay.percent",
            "use percentage: {value: 10}",
        ),
        (
            "fault: {abort: {httpStatus: 500, percent: 100}}",
            "fault.abort.percent",
            "use percentage: {value: 100}",
        ),
        ("mirror: {host: b}, mirrorPercent: 5", "mirrorPercent", "use mirrorPercentage: {value: 5}"),
        ("mirror: {host: b}, mirror_percent: 5", "mirrorPercent", "use mirrorPercentage: {value: 5}"),
        ("corsPolicy: {allowOrigin: [a]}", "corsPolicy.allowOrigin", "use allowOrigins"),
    ]);
    let route = "http: [{route: [{destination: {host: a}}]}]";
    assert_warned(
        "VirtualService",
        &[(
            &format!("{{hosts: [a], gateways: [g.ns.svc.cluster.local], {route}}}"),
            "spec.gateways[0]",
            "write \"ns/g\"",
        )],
    );
    assert_warned(
        "DestinationRule",
        &[
            (
                "{host: a, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}}",
                "spec.trafficPolicy.loadBalancer.simple",
                "write LEAST_REQUEST",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, minimumRingSize: 2}}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash.minimumRingSize",
                "use ringHash",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {warmupDurationSecs: 30s}}}",
                "spec.trafficPolicy.loadBalancer.warmupDurationSecs",
                "use warmup",
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {consecutiveErrors: 3}}}",
                "spec.trafficPolicy.outlierDetection.consecutiveErrors",
                "use consecutive5xxErrors",
            ),
        ],
    );
    let parsed = yaml(&document(
        "VirtualService",
        "{hosts: [a], http: [{fault: {abort: {httpStatus: 400, percent: 25}}, route: [{destination: {host: a}}]}]}",
    ));
    let Spec::VirtualService(spec) = &parsed.objects[0].spec else { panic!("kind") };
    let abort = spec.http[0].fault.as_ref().and_then(|fault| fault.abort.as_ref()).expect("given");
    assert_eq!(abort.share().parts_per_million(), 250_000);
}

#[test]
fn what_has_no_effect() {
    assert_route(&[
        ("fault: {abort: {httpStatus: 500}}", "fault.abort", "happens to no request"),
        ("fault: {abort: {percentage: {value: 1}}}", "fault.abort", "aborts nothing"),
        ("fault: {delay: {percentage: {value: 1}}}", "fault.delay", "delays nothing"),
        ("mirrorPercentage: {value: 1}", "mirrorPercentage", "no effect without mirror"),
        ("match: [{ignoreUriCase: true}]", "match[0].ignoreUriCase", "no effect without uri"),
        (
            "match: [{uri: {regex: a}, ignoreUriCase: true}]",
            "match[0].ignoreUriCase",
            "begin the regex with (?i)",
        ),
        (
            "match: [{headers: {method: {exact: GET}}}]",
            "match[0].headers.method",
            "use method beside headers",
        ),
    ]);
    let large = format!(
        "{{hosts: [a], http: [{{directResponse: {{status: 200, body: {{string: {}}}}}}}]}}",
        "x".repeat(110_000)
    );
    assert_warned(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{redirect: {uri: /, redirectCode: 304}}]}",
                "spec.http[0].redirect.redirectCode",
                "one of 301",
            ),
            (&large, "spec.http[0].directResponse.body", "keeps in memory"),
            (
                "{hosts: [a.b], tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], route: [{destination: {host: a}}]}]}",
                "spec.tcp[0].match[0].sourceSubnet",
                "is ignored by Istio",
            ),
            (
                "{hosts: [a.b], tls: [{match: [{sniHosts: [10.0.0.1, a.b]}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].sniHosts[0]",
                "is an address",
            ),
        ],
    );
}

#[test]
fn what_has_no_effect_on_services() {
    assert_warned(
        "DestinationRule",
        &[
            ("{host: a, workloadSelector: {}}", "spec.workloadSelector", "selects every workload"),
            (
                "{host: a, trafficPolicy: {tls: {mode: DISABLE, caCertificates: /c}}}",
                "spec.trafficPolicy.tls.caCertificates",
                "no effect in this mode",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {}}}}",
                "spec.trafficPolicy.loadBalancer.consistentHash",
                "names nothing to hash",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}}}",
                "spec.trafficPolicy.loadBalancer.warmup",
                "only an effect with",
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}}}",
                "spec.trafficPolicy.loadBalancer.localityLbSetting",
                "add outlierDetection",
            ),
            (
                "{host: a, trafficPolicy: {tunnel: {targetHost: a, targetPort: 1}}}",
                "spec.trafficPolicy.tunnel.targetHost",
                "is a short name",
            ),
        ],
    );
}

#[test]
fn what_has_no_effect_at_gateways() {
    let gateway = |server: &str| format!("{{selector: {{a: b}}, servers: [{{hosts: ['*'], {server}}}]}}");
    let tls = |tls: &str| gateway(&format!("port: {{number: 443, name: h, protocol: TLS}}, tls: {tls}"));
    assert_warned(
        "Gateway",
        &[
            (
                "{servers: [{hosts: ['*'], port: {number: 80, name: h, protocol: HTTP}}]}",
                "spec.selector",
                "selects every workload",
            ),
            (
                &gateway("port: {number: 80, name: h, protocol: HTTP}, defaultEndpoint: '127.0.0.1:1'"),
                "spec.servers[0].defaultEndpoint",
                "has no effect",
            ),
            (&tls("{credentialName: a}"), "spec.servers[0].tls.credentialName", "passed on unopened"),
            (&tls("{httpsRedirect: true}"), "spec.servers[0].tls.httpsRedirect", "for plain HTTP"),
            (
                &tls("{minProtocolVersion: TLSV1_0}"),
                "spec.servers[0].tls.minProtocolVersion",
                "needs cipherSuites",
            ),
            (
                &tls("{cipherSuites: [AES256-SHA, RC4]}"),
                "spec.servers[0].tls.cipherSuites[1]",
                "unknown and ignored",
            ),
            (
                &tls("{cipherSuites: [AES256-SHA, AES256-SHA]}"),
                "spec.servers[0].tls.cipherSuites[1]",
                "given twice",
            ),
        ],
    );
}

#[test]
fn services_that_may_be_meant_otherwise() {
    assert_warned(
        "ServiceEntry",
        &[
            ("{hosts: [a.b]}", "spec.ports", "no traffic belongs to this service"),
            (
                "{hosts: ['*foo.b'], ports: [{number: 80, name: h, protocol: HTTP}]}",
                "spec.hosts[0]",
                "write *.DOMAIN",
            ),
            (
                "{hosts: [a.b], workloadSelector: {labels: {a: b}}, ports: [{number: 80, name: h}]}",
                "spec.workloadSelector",
                "set resolution to STATIC",
            ),
            (
                "{hosts: [a.b], resolution: STATIC, workloadSelector: {}, ports: [{number: 80, name: h}]}",
                "spec.workloadSelector",
                "selects every workload",
            ),
            (
                "{hosts: [a.b, c.d], addresses: [1.1.1.1], resolution: DNS, ports: [{number: 443, name: t, protocol: TLS}]}",
                "spec.addresses",
                "cannot tell them apart",
            ),
        ],
    );
    assert_warned(
        "WorkloadEntry",
        &[("{network: n}", "spec.address", "the gateway of network \"n\" is asked")],
    );
    assert_warned(
        "Sidecar",
        &[
            ("{egress: [{hosts: [./a.b, book/a.b]}]}", "spec.egress[0].hosts[1]", "already included"),
            ("{egress: [{hosts: [./*, ./a.b]}]}", "spec.egress[0].hosts[1]", "already included"),
            ("{egress: [{hosts: ['*/*', x/*]}]}", "spec.egress[0].hosts", "includes everything"),
            ("{ingress: [{port: {number: 80}}]}", "spec.ingress", "has no effect"),
            (
                "{workloadSelector: {}, egress: [{hosts: ['*/*']}]}",
                "spec.workloadSelector",
                "selects every workload",
            ),
        ],
    );
    let labels = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: x, labels: {LABEL}}\n\
                  spec: {hosts: ['*.b'], resolution: DYNAMIC_DNS, location: MESH_INTERNAL, ports: [{number: 80, name: h, protocol: HTTP}]}\n";
    let waypoint = lines(&yaml(&labels.replace("LABEL", "istio.io/use-waypoint: w")));
    assert_eq!(
        waypoint,
        ["f.yaml:1 Error spec.location: DYNAMIC_DNS at a waypoint is only for MESH_EXTERNAL"]
    );
    assert!(lines(&yaml(&labels.replace("LABEL", "istio.io/use-waypoint: none"))).is_empty());
    let allocate = labels.replace("LABEL", "networking.istio.io/enable-autoallocate-ip: 'false'");
    let allocate =
        allocate.replace("resolution: DYNAMIC_DNS, ", "").replace("protocol: HTTP", "protocol: TCP");
    let allocate = lines(&yaml(&allocate));
    assert!(
        allocate.len() == 1
            && allocate[0].contains("Warning spec.ports[0]: TCP is only told apart by address"),
        "{allocate:#?}"
    );
}

#[test]
fn rules_that_are_never_used() {
    let vs = |rules: &str| {
        let rules = rules.replace("ROUTE", "route: [{destination: {host: a}}]");
        format!("{{hosts: [a.b], http: [{rules}]}}")
    };
    assert_warned(
        "VirtualService",
        &[
            (&vs("{ROUTE}, {match: [{uri: {exact: /}}], ROUTE}"), "spec.http[1]", "rule 0 has no match"),
            (&vs("{ROUTE}, {ROUTE}"), "spec.http[1]", "rule 0 has no match"),
            (
                &vs("{match: [{name: x, uri: {exact: /}}], ROUTE}, {match: [{uri: {exact: /}}], ROUTE}"),
                "spec.http[1].match[0]",
                "rule 0 asks for the same",
            ),
            (
                &vs("{match: [{uri: {prefix: /a}}], ROUTE}, {match: [{uri: {exact: /ab}}], ROUTE}"),
                "spec.http[1].match[0]",
                "rule 0 takes all of prefix \"/a\"",
            ),
            (
                &vs(
                    "{match: [{uri: {prefix: /ab}}], ROUTE}, {match: [{uri: {prefix: /a}}], ROUTE}, {match: [{uri: {prefix: /abc}, method: {exact: GET}}], ROUTE}",
                ),
                "spec.http[2].match[0]",
                "rule 1 takes all of prefix \"/a\"",
            ),
            (
                &vs("{match: [{uri: {prefix: /a}}], ROUTE}, {match: [{uri: {prefix: /a}}], ROUTE}"),
                "spec.http[1].match[0]",
                "asks for the same",
            ),
            (
                "{hosts: [a.b], tcp: [{route: [{destination: {host: a}}]}, {match: [{port: 1}], route: [{destination: {host: a}}]}]}",
                "spec.tcp[1]",
                "rule 0 has no match",
            ),
            (
                "{hosts: [a.b], tls: [{match: [{sniHosts: [a.b]}, {sniHosts: [a.b]}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[1]",
                "rule 0 asks for the same",
            ),
        ],
    );
    for used in [
        "{match: [{uri: {prefix: /a}, method: {exact: GET}}], ROUTE}, {match: [{uri: {prefix: /ab}}], ROUTE}",
        "{match: [{uri: {prefix: /ab}}], ROUTE}, {match: [{uri: {prefix: /a}}], ROUTE}",
        "{match: [{uri: {prefix: /b}}], ROUTE}, {match: [{uri: {prefix: /a}}], ROUTE}, {match: [{uri: {prefix: /c}}], ROUTE}",
        "{match: [{uri: {prefix: /a}}], ROUTE}, {match: [{uri: {regex: /ab}}], ROUTE}",
        "{match: [{uri: {prefix: /a}}], ROUTE}, {match: [{uri: {prefix: /A}, ignoreUriCase: true}], ROUTE}",
        "{match: [{uri: {exact: /}}], ROUTE}, {ROUTE}",
    ] {
        assert_eq!(lines(&yaml(&document("VirtualService", &vs(used)))), Vec::<String>::new(), "{used}");
    }
}

#[test]
fn users_are_told_what_nothing_acts_on() {
    let group = |rest: &str| {
        let parsed = yaml(&document("WorkloadGroup", &format!("{{template: {{address: 1.1.1.1}}{rest}}}")));
        assert_eq!(parsed.objects.len(), 1, "{:?}", parsed.findings);
        parsed.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(group(""), "", "machines register themselves with it");
    let labelled = |probe: &str| group(&format!(", metadata: {{labels: {{a: b}}}}, probe: {{{probe}}}"));
    assert_eq!(labelled("tcpSocket: {port: 1}"), "");
    assert!(labelled("exec: {command: [a]}").contains("spec.probe.exec: has no effect"));
    assert!(
        labelled("tcpSocket: {port: 1, host: a}")
            .contains("spec.probe.tcpSocket.host: nobody connects there")
    );
    assert!(labelled("httpGet: {port: 1, host: a}").contains("spec.probe.httpGet.host: nobody"));
    assert_eq!(group(", probe: {tcpSocket: {port: 1}}"), "", "it is the machine's own node that asks");
    let refused = "{template: {address: 1.1.1.1}, metadata: {annotations: {a/b/c: x, fine.io/d: y}}}";
    let refused = yaml(&document("WorkloadGroup", refused));
    let said: Vec<_> = refused.findings.iter().map(ToString::to_string).collect();
    assert!(refused.objects.is_empty() && said.len() == 1, "{said:?}");
    assert!(said[0].contains("not a valid annotation key"), "{said:?}");
    let list = "apiVersion: networking.istio.io/v1\nkind: WorkloadGroupList\nitems: [{metadata: {name: x}, spec: {template: {address: 1.1.1.1}, probe: {exec: {command: [a]}}}}]\n";
    let parsed = yaml(list);
    assert_eq!(parsed.findings[0].field, "items[0].spec.probe.exec");
}
