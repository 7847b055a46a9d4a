//! What is refused, a row for each rule.

use super::{assert_rejected, document, lines, yaml};

/// A spec or a part of one, the field to blame, and a part of what is said about it.
type Row = (&'static str, &'static str, &'static str);

/// A VirtualService of host `a` with one rule for HTTP.
fn assert_http(rows: &[(&str, &str, &str)]) {
    let rows: Vec<_> = rows
        .iter()
        .map(|(rule, field, reason)| {
            let field =
                if field.is_empty() { "spec.http[0]".into() } else { format!("spec.http[0].{field}") };
            (format!("{{hosts: [a.b], gateways: [g], http: [{rule}]}}"), field, *reason)
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(spec, field, reason)| (&**spec, &**field, *reason)).collect();
    assert_rejected("VirtualService", &rows);
}

/// As [`assert_http`], for rules that are complete but for one part.
fn assert_route(rows: &[(&str, &str, &str)]) {
    let rows: Vec<_> = rows
        .iter()
        .map(|(part, field, reason)| {
            (format!("{{{part}, route: [{{destination: {{host: a}}}}]}}"), *field, *reason)
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(rule, field, reason)| (&**rule, *field, *reason)).collect();
    assert_http(&rows);
}

#[test]
fn virtual_services_as_a_whole() {
    let route = "http: [{route: [{destination: {host: a}}]}]";
    let spec = |part: &str| format!("{{{part}, {route}}}");
    let rows = [
        (spec("hosts: ['*']"), "spec.hosts[0]", "* is only for gateways"),
        (spec("hosts: ['*'], gateways: [g, mesh]"), "spec.hosts[0]", "* is only for gateways"),
        (spec("hosts: [a, b, a]"), "spec.hosts[2]", "overlaps with a"),
        (spec("hosts: [x.a.b, '*.a.b']"), "spec.hosts[1]", "overlaps with x.a.b"),
        (spec("hosts: ['*.b', c, '*.a.b']"), "spec.hosts[2]", "overlaps with *.b"),
        (spec("hosts: [a_b]"), "spec.hosts[0]", "is not a host"),
        (spec("hosts: ['']"), "spec.hosts[0]", "must not be empty"),
        (spec("hosts: [outbound_.80_._.a.b], gateways: [g]"), "spec.hosts[0]", "between gateways"),
        (
            spec("hosts: [a], gateways: ['mesh#모든 사이드카']"),
            "spec.gateways[0]",
            "a comment begins with a space and #",
        ),
        (spec("hosts: [a], gateways: [a/b/c]"), "spec.gateways[0]", "is not the name of a gateway"),
        (spec("gateways: [g]"), "spec.gateways", "without hosts"),
        (spec("tcp: [{route: [{destination: {host: a}}]}]"), "spec.tcp", "without hosts"),
        ("{hosts: [a]}".into(), "spec", "one of http, tls and tcp is required"),
        (spec("hosts: [a], exportTo: [., book]"), "spec.exportTo[1]", "given twice"),
        (spec("hosts: [a], exportTo: ['*', other]"), "spec.exportTo[0]", "must be the only entry"),
        (spec("hosts: [a], exportTo: ['~']"), "spec.exportTo[0]", "only for ServiceEntry"),
        (spec("hosts: [a], exportTo: [A]"), "spec.exportTo[0]", "is not a namespace"),
        (spec("hosts: [a], host: [b]"), "spec.host", "did you mean \"hosts\"?"),
        (spec("hosts: a"), "spec.hosts", "write [\"a\"]"),
    ];
    let rows: Vec<_> = rows.iter().map(|(spec, field, reason)| (&**spec, *field, *reason)).collect();
    assert_rejected("VirtualService", &rows);
}

#[test]
fn http_rules_do_one_thing() {
    assert_http(ACTIONS);
}

const ACTIONS: &[Row] = &[
    ("{}", "", "one of route, redirect, directResponse and delegate is required"),
    ("{route: [{destination: {host: a}}], redirect: {uri: /}}", "redirect", "only one of route and redirect"),
    ("{directResponse: {status: 200}, redirect: {uri: /}}", "directResponse", "only one of"),
    (
        "{delegate: {name: d}, route: [{destination: {host: a}}]}",
        "delegate",
        "only one of route and delegate",
    ),
    (
        "{redirect: {uri: /}, fault: {abort: {httpStatus: 500, percentage: {value: 1}}}}",
        "fault",
        "cannot be combined with redirect",
    ),
    ("{redirect: {uri: /}, rewrite: {uri: /}}", "rewrite", "cannot be combined with redirect"),
    (
        "{directResponse: {status: 200}, rewrite: {uri: /}}",
        "rewrite",
        "cannot be combined with directResponse",
    ),
    ("{delegate: {namespace: x}}", "delegate.name", "required"),
    ("{delegate: {name: x, namespace: X}}", "delegate.namespace", "is not a DNS label"),
    ("{redirect: {}}", "redirect", "is required"),
    ("{redirect: {uri: /, prefixRewrite: /}}", "redirect.prefixRewrite", "only one of"),
    (
        "{match: [{uri: {exact: /}}], redirect: {prefixRewrite: /}}",
        "redirect.prefixRewrite",
        "needs every uri",
    ),
    ("{redirect: {uri: /, redirectCode: 200}}", "redirect.redirectCode", "is not between 300 and 399"),
    ("{redirect: {scheme: ftp}}", "redirect.scheme", "one of http, https"),
    ("{redirect: {port: 70000}}", "redirect.port", "port 70000 is not between 1 and 65535"),
    ("{redirect: {port: 80, derivePort: FROM_REQUEST_PORT}}", "redirect.derivePort", "only one of"),
    ("{directResponse: {status: 99}}", "directResponse.status", "is not an HTTP status"),
    ("{directResponse: {}}", "directResponse", "the field status is required"),
    ("{directResponse: {status: 200, body: {}}}", "directResponse.body", "string or bytes is required"),
    ("{directResponse: {status: 200, body: {string: a, bytes: YQ==}}}", "directResponse.body", "only one of"),
    ("{directResponse: {status: 200, body: {bytes: '*'}}}", "directResponse.body.bytes", "not base64"),
    ("{route: [{destination: {}}]}", "route[0].destination", "the field host is required"),
    ("{route: [{weight: 1}]}", "route[0]", "the field destination is required"),
    ("{route: [{destination: {host: '*'}}]}", "route[0].destination.host", "is no destination"),
    ("{route: [{destination: {host: 10.0.0.1}}]}", "route[0].destination.host", "is an address"),
    ("{route: [{destination: {host: a, subset: a.b}}]}", "route[0].destination.subset", "is not a DNS label"),
    (
        "{route: [{destination: {host: a, port: {}}}]}",
        "route[0].destination.port",
        "the field number is required",
    ),
    ("{route: [{destination: {host: a, port: {number: 0}}}]}", "route[0].destination.port.number", "port 0"),
    ("{route: [{destination: {host: a, port: 80}}]}", "route[0].destination.port", "expected object"),
    ("{route: [{destination: {host: a}, weight: -1}]}", "route[0].weight", "-1 is out of range"),
    ("{route: [{destination: {host: a}, weight: 4000000000}]}", "route[0].weight", "out of range"),
    ("{route: [{destination: {host: a}}, {destination: {host: b}}]}", "route", "all weights are 0"),
    (
        "{route: [{destination: {host: a}, headers: {request: {remove: [host]}}}]}",
        "route[0].headers.request.remove[0]",
        "cannot be removed",
    ),
];

#[test]
fn http_matches() {
    assert_route(&[
        ("match: [{uri: {exact: /, prefix: /}}]", "match[0].uri", "only one of exact, prefix and regex"),
        ("match: [{uri: {regex: ''}}]", "match[0].uri.regex", "must not be empty"),
        ("match: [{uri: {regex: '*'}}]", "match[0].uri.regex", "is not a regular expression"),
        ("match: [{uri: {regex: '(?=a)'}}]", "match[0].uri.regex", "the syntax is that of RE2"),
        ("match: [{uri: {regex: '(\\pL{99}){99}'}}]", "match[0].uri.regex", "too large together"),
        ("match: [{uri: {regex: '\\pL{100}'}}]", "match[0].uri.regex", "compiles to more than 512 KiB"),
        ("match: [{uri: {exat: /}}]", "match[0].uri.exat", "did you mean \"exact\"?"),
        ("match: [{uri: /}]", "match[0].uri", "expected object"),
        ("match: [{method: {prefix: ''}}]", "match[0].method.prefix", "must not be empty"),
        ("match: [{headers: {x: {prefix: ''}}}]", "match[0].headers.x.prefix", "must not be empty"),
        ("match: [{headers: {x: }}]", "match[0].headers.x", "expected object, found null"),
        (
            "match: [{headers: {'a b': {exact: c}}}]",
            "match[0].headers[\"a b\"]",
            "is not the name of a header",
        ),
        (
            "match: [{headers: {'@request.auth.claims': {exact: c}}}]",
            "match[0].headers[\"@request.auth.claims\"]",
            "names no claim",
        ),
        (
            "match: [{queryParams: {x: {regex: '('}}}]",
            "match[0].queryParams.x.regex",
            "is not a regular expression",
        ),
        ("match: [{port: 0}]", "match[0].port", "port 0"),
        ("match: [{sourceLabels: {a*: b}}]", "match[0].sourceLabels[\"a*\"]", "not a valid label key"),
        ("match: [{sourceNamespace: A}]", "match[0].sourceNamespace", "is not a DNS label"),
        ("match: [{gateways: [/x]}]", "match[0].gateways[0]", "is not the name of a gateway"),
        ("match: {uri: {exact: /}}", "match", "expected list"),
    ]);
    let text = "{hosts: [a], http: [{match: [{headers: {'@request.auth.claims.sub': {exact: x}}}], route: [{destination: {host: a}}]}]}";
    assert_rejected("VirtualService", &[(text, "spec.http[0].match[0].headers", "claims of a token")]);
}

#[test]
fn what_happens_to_requests() {
    assert_route(TRAFFIC);
}

const TRAFFIC: &[Row] = &[
    ("timeout: 0s", "timeout", "is shorter than 1ms"),
    ("timeout: 5", "timeout", "write 5s if seconds are meant"),
    ("timeout: 1500us", "timeout", "whole number of milliseconds"),
    ("timeout: true", "timeout", "expected duration, found boolean"),
    ("rewrite: {}", "rewrite", "is required"),
    ("rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}", "rewrite.uriRegexRewrite", "only one of"),
    ("rewrite: {uriRegexRewrite: {match: a}}", "rewrite.uriRegexRewrite", "the field rewrite is required"),
    ("rewrite: {uriRegexRewrite: {match: a, rewrite: ''}}", "rewrite.uriRegexRewrite.rewrite", "required"),
    (
        "rewrite: {uriRegexRewrite: {match: '(a)', rewrite: '\\2'}}",
        "rewrite.uriRegexRewrite.rewrite",
        "match has 1",
    ),
    (
        "rewrite: {uriRegexRewrite: {match: a, rewrite: 'b\\'}}",
        "rewrite.uriRegexRewrite.rewrite",
        "followed by a digit",
    ),
    ("rewrite: {authority: x}, headers: {request: {set: {Host: y}}}", "rewrite.authority", "already set"),
    ("rewrite: {authority: 'a b'}", "rewrite.authority", "is not a host"),
    ("headers: {request: {set: {host: a}, add: {':authority': b}}}", "headers.request", "more than once"),
    ("headers: {request: {set: {':path': a}}}", "headers.request.set[\":path\"]", "cannot be changed"),
    ("headers: {response: {set: {host: a}}}", "headers.response.set.host", "cannot be changed"),
    ("headers: {request: {set: {'a b': a}}}", "headers.request.set[\"a b\"]", "is not the name of a header"),
    (
        "headers: {request: {set: {X-A: b, x-a: c}}}",
        "headers.request.set",
        "differ only in upper and lower case",
    ),
    ("match: [{headers: {X-A: {}, x-a: {}}}]", "match[0].headers", "differ only in upper and lower case"),
    ("headers: {request: {set: {a: '50%'}}}", "headers.request.set.a", "write %% for a per cent sign"),
    ("headers: {request: {set: {a: 1}}}", "headers.request.set.a", "quote it"),
    ("headers: {response: {remove: [':status']}}", "headers.response.remove[0]", "cannot be removed"),
    ("retries: {retryOn: 5xx}", "retries.attempts", "0 or absent means no retries"),
    ("retries: {attempts: 0, perTryTimeout: 1s}", "retries.attempts", "but perTryTimeout is given"),
    ("retries: {attempts: -1}", "retries.attempts", "-1 is out of range"),
    ("retries: {attempts: 1, retryOn: '5xx,reste'}", "retries.retryOn", "did you mean \"reset\"?"),
    ("retries: {attempts: 1, retryOn: '999'}", "retries.retryOn", "is nothing to retry on"),
    ("retries: {attempts: 1, backoff: 0s}", "retries.backoff", "is shorter than 1ms"),
    ("mirror: {host: a}, mirrors: [{destination: {host: b}}]", "mirrors", "only one of"),
    ("mirrors: [{}]", "mirrors[0]", "the field destination is required"),
    ("mirror: {host: a}, mirrorPercentage: {value: 101}", "mirrorPercentage.value", "101 is no percentage"),
    ("mirror: {host: a}, mirrorPercent: 101", "mirrorPercent", "is not between 0 and 100"),
    ("corsPolicy: {allowOrigins: [{}]}", "corsPolicy.allowOrigins[0]", "names no origin"),
    ("corsPolicy: {allowMethods: [get]}", "corsPolicy.allowMethods[0]", "is not a method of HTTP"),
    ("corsPolicy: {allowHeaders: ['a b']}", "corsPolicy.allowHeaders[0]", "is not the name of a header"),
    ("corsPolicy: {exposeHeaders: ['']}", "corsPolicy.exposeHeaders[0]", "is not the name of a header"),
    ("corsPolicy: {maxAge: 1500ms}", "corsPolicy.maxAge", "whole number of seconds"),
    ("corsPolicy: {unmatchedPreflights: DROP}", "corsPolicy.unmatchedPreflights", "one of"),
];

#[test]
fn faults() {
    assert_route(&[
        ("fault: {}", "fault", "one of delay and abort is required"),
        ("fault: {delay: {exponentialDelay: 1s}}", "fault.delay.exponentialDelay", "use fixedDelay"),
        ("fault: {delay: {fixedDelay: 0s}}", "fault.delay.fixedDelay", "is shorter than 1ms"),
        (
            "fault: {delay: {fixedDelay: 1s, percentage: {value: 0.00001}}}",
            "fault.delay.percentage.value",
            "is no percentage",
        ),
        (
            "fault: {delay: {fixedDelay: 1s, percentage: {value: '5'}}}",
            "fault.delay.percentage.value",
            "expected number",
        ),
        (
            "fault: {abort: {httpStatus: 199, percentage: {value: 1}}}",
            "fault.abort.httpStatus",
            "is not an HTTP status",
        ),
        (
            "fault: {abort: {httpStatus: 601, percentage: {value: 1}}}",
            "fault.abort.httpStatus",
            "is not an HTTP status",
        ),
        (
            "fault: {abort: {grpcStatus: UNAVAILIBLE, percentage: {value: 1}}}",
            "fault.abort.grpcStatus",
            "did you mean \"UNAVAILABLE\"?",
        ),
        ("fault: {abort: {httpStatus: 500, grpcStatus: OK}}", "fault.abort.grpcStatus", "only one of"),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: 1}, http2Error: x}}",
            "fault.abort.http2Error",
            "use httpStatus",
        ),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: 1}, percent: 1}}",
            "fault.abort.percent",
            "only one of",
        ),
        ("fault: {delay: {fixedDelay: 1s, percent: 101}}", "fault.delay.percent", "is not between 0 and 100"),
        ("fault: {abort: {httpStatus: 500, percentage: 50}}", "fault.abort.percentage", "expected object"),
    ]);
}

#[test]
fn tls_and_tcp_rules() {
    assert_rejected(
        "VirtualService",
        &[
            ("{hosts: [a.b], tls: [{route: [{destination: {host: a}}]}]}", "spec.tls[0].match", "required"),
            (
                "{hosts: [a.b], tls: [{match: [{}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].sniHosts",
                "required",
            ),
            (
                "{hosts: [a.b], tls: [{match: [{sniHosts: [c.b]}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].sniHosts[0]",
                "covered by no host",
            ),
            (
                "{hosts: ['*.b'], tls: [{match: [{sniHosts: ['*']}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].sniHosts[0]",
                "covered by no host",
            ),
            (
                "{hosts: [a.b], tls: [{match: [{sniHosts: [a.b], destinationSubnets: [x]}], route: [{destination: {host: a}}]}]}",
                "spec.tls[0].match[0].destinationSubnets[0]",
                "neither an IP address nor a CIDR",
            ),
            ("{hosts: [a.b], tls: [{match: [{sniHosts: [a.b]}]}]}", "spec.tls[0].route", "required"),
            ("{hosts: [a.b], tcp: [{match: [{port: 1}]}]}", "spec.tcp[0].route", "required"),
            (
                "{hosts: [a.b], tcp: [{match: [{port: 0}], route: [{destination: {host: a}}]}]}",
                "spec.tcp[0].match[0].port",
                "port 0",
            ),
            (
                "{hosts: [a.b], tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
                "spec.tcp[0].route",
                "all weights are 0",
            ),
            (
                "{hosts: [a.b], tcp: [{match: [{gateways: [A]}], route: [{destination: {host: a}}]}]}",
                "spec.tcp[0].match[0].gateways[0]",
                "is not the name",
            ),
        ],
    );
}

#[test]
fn destination_rules() {
    let rows: Vec<_> = POLICIES
        .iter()
        .map(|(policy, field, reason)| {
            let dot = if field.is_empty() { "" } else { "." };
            (
                format!("{{host: a, trafficPolicy: {policy}}}"),
                format!("spec.trafficPolicy{dot}{field}"),
                *reason,
            )
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(spec, field, reason)| (&**spec, &**field, *reason)).collect();
    assert_rejected("DestinationRule", &rows);
    assert_rejected(
        "DestinationRule",
        &[
            ("{}", "spec", "the field host is required"),
            ("{host: 10.0.0.1}", "spec.host", "is an address"),
            ("{host: a, subsets: [{name: v1}, {name: v1}]}", "spec.subsets[1].name", "used twice"),
            ("{host: a, subsets: [{}]}", "spec.subsets[0].name", "required"),
            ("{host: a, subsets: [{name: v.1}]}", "spec.subsets[0].name", "is not a DNS label"),
            (
                "{host: a, subsets: [{name: v1, labels: {a: 'b c'}}]}",
                "spec.subsets[0].labels.a",
                "not a valid label value",
            ),
            (
                "{host: a, subsets: [{name: v1, trafficPolicy: {}}]}",
                "spec.subsets[0].trafficPolicy",
                "must not be empty",
            ),
            (
                "{host: a, exportTo: ['*'], workloadSelector: {matchLabels: {a: b}}}",
                "spec.exportTo",
                "only seen in its own namespace",
            ),
            (
                "{host: a, workloadSelector: {matchLabels: {a: '*'}}}",
                "spec.workloadSelector.matchLabels.a",
                "no wildcards",
            ),
        ],
    );
}

const POLICIES: &[Row] = &[
    ("{}", "", "must not be empty"),
    ("{tunnel: {targetHost: a.b, targetPort: 1}, proxyProtocol: {}}", "proxyProtocol", "only one of"),
    ("{tunnel: {targetHost: '*.b', targetPort: 1}}", "tunnel.targetHost", "without wildcard"),
    ("{tunnel: {targetHost: a.b}}", "tunnel", "the field targetPort is required"),
    ("{tunnel: {targetHost: a.b, targetPort: 1, protocol: GET}}", "tunnel.protocol", "unknown value"),
    ("{proxyProtocol: {version: V3}}", "proxyProtocol.version", "did you mean"),
    ("{retryBudget: {percent: 101}}", "retryBudget.percent", "is not between 0 and 100"),
    ("{connectionPool: {}}", "connectionPool", "must not be empty"),
    (
        "{connectionPool: {tcp: {maxConnections: -1}}}",
        "connectionPool.tcp.maxConnections",
        "-1 is out of range (0 to 2147483647)",
    ),
    (
        "{connectionPool: {tcp: {connectTimeout: 0s}}}",
        "connectionPool.tcp.connectTimeout",
        "is shorter than 1ms",
    ),
    (
        "{connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}",
        "connectionPool.http.useClientProtocol",
        "cannot be true",
    ),
    (
        "{connectionPool: {http: {http2KeepAlive: {interval: 1s}}}}",
        "connectionPool.http.http2KeepAlive.timeout",
        "required",
    ),
    ("{connectionPool: {http: {http3: {}}}}", "connectionPool.http.http3", "unknown field"),
    (
        "{outlierDetection: {consecutiveLocalOriginFailures: 3}}",
        "outlierDetection.consecutiveLocalOriginFailures",
        "splitExternalLocalOriginErrors: true",
    ),
    (
        "{outlierDetection: {maxEjectionPercent: 101}}",
        "outlierDetection.maxEjectionPercent",
        "is not between 0 and 100",
    ),
    (
        "{outlierDetection: {minHealthPercent: 101}}",
        "outlierDetection.minHealthPercent",
        "is not between 0 and 100",
    ),
    (
        "{outlierDetection: {outlierDetectionHttpErrorCodes: [99]}}",
        "outlierDetection.outlierDetectionHttpErrorCodes[0]",
        "is not between 100 and 599",
    ),
    ("{outlierDetection: {interval: 1}}", "outlierDetection.interval", "expected duration"),
    ("{tls: {mode: MUTUAL, privateKey: /k}}", "tls.clientCertificate", "required for MUTUAL"),
    (
        "{tls: {mode: SIMPLE, credentialName: a, caCertificates: /c}}",
        "tls.caCertificates",
        "cannot be combined with credentialName",
    ),
    (
        "{tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [a]}}",
        "tls.insecureSkipVerify",
        "cannot be true",
    ),
    (
        "{tls: {mode: SIMPLE, credentialName: 'configmap://other/x'}}",
        "tls.credentialName",
        "of the rule's namespace",
    ),
    ("{tls: {mode: TLS}}", "tls.mode", "one of DISABLE, SIMPLE, MUTUAL, ISTIO_MUTUAL"),
    ("{portLevelSettings: [{tls: {}}]}", "portLevelSettings[0].port", "required"),
    ("{portLevelSettings: [{port: {number: 1}}]}", "portLevelSettings[0]", "is required"),
];

#[test]
fn load_balancers() {
    let rows = [
        ("{simple: RANDOM, consistentHash: {useSourceIp: true}}", "consistentHash", "only one of"),
        ("{simple: RANDON}", "simple", "did you mean \"RANDOM\"?"),
        (
            "{consistentHash: {useSourceIp: true, httpHeaderName: x}}",
            "consistentHash.useSourceIp",
            "only one of",
        ),
        (
            "{consistentHash: {httpHeaderName: ''}}",
            "consistentHash.httpHeaderName",
            "is not the name of a header",
        ),
        ("{consistentHash: {httpCookie: {ttl: 0s}}}", "consistentHash.httpCookie.name", "required"),
        (
            "{consistentHash: {httpCookie: {name: c, attributes: [{name: a}, {name: a}]}}}",
            "consistentHash.httpCookie.attributes[1].name",
            "used twice",
        ),
        ("{consistentHash: {useSourceIp: true, maglev: {}}}", "consistentHash.maglev.tableSize", "required"),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}",
            "consistentHash.maglev.tableSize",
            "is not a prime",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 5000011}}}",
            "consistentHash.maglev.tableSize",
            "is not a prime below",
        ),
        (
            "{consistentHash: {useSourceIp: true, maglev: {tableSize: 7}, ringHash: {}}}",
            "consistentHash.maglev",
            "only one of",
        ),
        ("{localityLbSetting: {}, zoneAwareLbSetting: {}}", "zoneAwareLbSetting", "only one of"),
        (
            "{localityLbSetting: {distribute: [{from: a, to: {b: 100}}], failover: [{from: a, to: b}]}}",
            "localityLbSetting.failover",
            "only one of",
        ),
        (
            "{localityLbSetting: {distribute: [{from: a, to: {b: 99}}]}}",
            "localityLbSetting.distribute[0].to",
            "add up to 99",
        ),
        (
            "{localityLbSetting: {distribute: [{from: a, to: {b: 100, c: 0}}]}}",
            "localityLbSetting.distribute[0].to.c",
            "is not between 1 and 100",
        ),
        (
            "{localityLbSetting: {distribute: [{from: a/*/c, to: {b: 100}}]}}",
            "localityLbSetting.distribute[0].from",
            "is not a locality",
        ),
        (
            "{localityLbSetting: {distribute: [{from: a//c, to: {b: 100}}]}}",
            "localityLbSetting.distribute[0].from",
            "is not a locality",
        ),
        (
            "{localityLbSetting: {distribute: [{from: a, to: {b: 100}}, {from: a/z, to: {b: 100}}]}}",
            "localityLbSetting.distribute[1].from",
            "overlaps",
        ),
        (
            "{localityLbSetting: {distribute: [{from: a, to: {b/z: 50, b/*: 50}}]}}",
            "localityLbSetting.distribute[0].to",
            "overlaps",
        ),
        (
            "{zoneAwareLbSetting: {minClusterSize: 0}}",
            "zoneAwareLbSetting.minClusterSize",
            "must be at least 1",
        ),
        (
            "{zoneAwareLbSetting: {failover: [{from: a, to: a}]}}",
            "zoneAwareLbSetting.failover[0]",
            "the same region",
        ),
        (
            "{zoneAwareLbSetting: {failover: [{from: a/b, to: c}]}}",
            "zoneAwareLbSetting.failover[0].from",
            "is not a region",
        ),
        (
            "{zoneAwareLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}}",
            "zoneAwareLbSetting.failoverPriority[0]",
            "looked at in any case",
        ),
        (
            "{localityLbSetting: {failoverPriority: [topology.kubernetes.io/zone], failover: [{from: a, to: b}]}}",
            "localityLbSetting.failoverPriority[0]",
            "cannot be combined",
        ),
        ("{warmup: {}}", "warmup.duration", "required"),
        (
            "{warmup: {duration: 1s, minimumPercent: 101}}",
            "warmup.minimumPercent",
            "is not between 0 and 100",
        ),
        ("{warmup: {duration: 1s, aggression: 0}}", "warmup.aggression", "is not greater than 0"),
    ];
    let rows: Vec<_> = rows
        .iter()
        .map(|(balancer, field, reason)| {
            let spec =
                format!("{{host: a, trafficPolicy: {{outlierDetection: {{}}, loadBalancer: {balancer}}}}}");
            (spec, format!("spec.trafficPolicy.loadBalancer.{field}"), *reason)
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(spec, field, reason)| (&**spec, &**field, *reason)).collect();
    assert_rejected("DestinationRule", &rows);
}

#[test]
fn gateways() {
    let rows = [
        ("{port: {number: 80, name: h, protocol: HTTP}, hosts: []}", "hosts", "must not be empty"),
        ("{port: {number: 80, name: h, protocol: HTTP}}", "", "the field hosts is required"),
        ("{hosts: ['*']}", "", "the field port is required"),
        ("{port: {number: 0, name: h, protocol: HTTP}, hosts: ['*']}", "port.number", "port 0"),
        (
            "{port: {number: 70000, name: h, protocol: HTTP}, hosts: ['*']}",
            "port.number",
            "70000 is out of range",
        ),
        ("{port: {number: 80, name: '', protocol: HTTP}, hosts: ['*']}", "port.name", "required"),
        ("{port: {number: 80, name: h}, hosts: ['*']}", "port", "the field protocol is required"),
        (
            "{port: {number: 80, name: h, protocol: HTTTP}, hosts: ['*']}",
            "port.protocol",
            "did you mean \"HTTP\"?",
        ),
        (
            "{port: {number: 80, name: h, protocol: HTTP, targetPort: 8080}, hosts: ['*']}",
            "port.targetPort",
            "no meaning",
        ),
        ("{port: {number: 80, name: h, protocol: HTTP}, hosts: [short]}", "hosts[0]", "is a short name"),
        (
            "{port: {number: 80, name: h, protocol: HTTP}, hosts: [ns/*foo.com]}",
            "hosts[0]",
            "a part of a label",
        ),
        ("{port: {number: 80, name: h, protocol: HTTP}, hosts: [N/a.b]}", "hosts[0]", "is not a namespace"),
        (
            "{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*'], bind: host}",
            "bind",
            "is not an IP address",
        ),
        (
            "{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*'], bind: 'unix:///x'}",
            "port.number",
            "must be 0",
        ),
        (
            "{port: {number: 443, name: h, protocol: HTTPS}, hosts: ['*']}",
            "tls",
            "required for HTTPS and TLS",
        ),
        (
            "{port: {number: 80, name: h, protocol: TCP}, hosts: ['*'], tls: {}}",
            "tls",
            "is only for HTTPS and TLS",
        ),
        (
            "{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: a}}",
            "tls",
            "nothing but httpsRedirect",
        ),
    ];
    let tls = [
        ("{mode: SIMPLE, serverCertificate: /c}", "privateKey", "required in this mode"),
        ("{mode: SIMPLE, privateKey: /c}", "serverCertificate", "required in this mode"),
        (
            "{mode: MUTUAL, serverCertificate: /c, privateKey: /k}",
            "caCertificates",
            "certificates of clients",
        ),
        ("{mode: SIMPLE, credentialName: a, credentialNames: [b]}", "credentialNames", "only one of"),
        ("{mode: SIMPLE, credentialNames: [a, b, c]}", "credentialNames", "the limit is 2"),
        (
            "{mode: SIMPLE, tlsCertificates: [{serverCertificate: /c}]}",
            "tlsCertificates[0].privateKey",
            "required",
        ),
        ("{mode: ISTIO_MUTUAL, credentialName: a}", "credentialName", "cannot be given for ISTIO_MUTUAL"),
        (
            "{mode: SIMPLE, serverCertificate: /c, privateKey: /k, caCrl: /r}",
            "caCrl",
            "no meaning for SIMPLE",
        ),
        ("{mode: MUTUAL, credentialName: a, caCrl: /r}", "caCrl", "put it into the Secret"),
        ("{mode: SIMPL, credentialName: a}", "mode", "did you mean \"SIMPLE\"?"),
        (
            "{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}",
            "maxProtocolVersion",
            "older than",
        ),
        (
            "{mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_4}",
            "minProtocolVersion",
            "did you mean",
        ),
    ];
    let tls = tls.iter().map(|(tls, field, reason)| {
        let server = format!("{{port: {{number: 443, name: h, protocol: HTTPS}}, hosts: ['*'], tls: {tls}}}");
        (server, format!("tls.{field}"), *reason)
    });
    let rows =
        rows.iter().map(|(server, field, reason)| ((*server).to_owned(), (*field).to_owned(), *reason));
    let rows: Vec<_> = rows
        .chain(tls)
        .map(|(server, field, reason)| {
            let dot = if field.is_empty() { "" } else { "." };
            (
                format!("{{selector: {{a: b}}, servers: [{server}]}}"),
                format!("spec.servers[0]{dot}{field}"),
                reason,
            )
        })
        .collect();
    let rows: Vec<_> = rows.iter().map(|(spec, field, reason)| (&**spec, &**field, *reason)).collect();
    assert_rejected("Gateway", &rows);
    let twice = "{selector: {a: b}, servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}, \
                 {port: {number: 81, name: h, protocol: HTTP}, hosts: ['*']}]}";
    assert_rejected(
        "Gateway",
        &[
            ("{selector: {a: b}}", "spec.servers", "required"),
            (twice, "spec.servers[1].port.name", "used twice"),
        ],
    );
}

#[test]
fn service_entries() {
    let rows = |row: &(&str, &'static str, &'static str)| {
        (format!("{{{}, ports: [{{number: 80, name: http, protocol: HTTP}}]}}", row.0), row.1, row.2)
    };
    let rows: Vec<_> = HTTP_SERVICES.iter().map(rows).collect();
    let rows: Vec<_> = rows.iter().map(|(spec, field, reason)| (&**spec, *field, *reason)).collect();
    assert_rejected("ServiceEntry", &rows);
    assert_rejected("ServiceEntry", SERVICES);
}

/// With one port for HTTP.
const HTTP_SERVICES: &[Row] = &[
    ("hosts: ['*']", "spec.hosts[0]", "every host there is"),
    ("hosts: [10.0.0.1]", "spec.hosts[0]", "is an address"),
    ("hosts: [a.b], prots: []", "spec.prots", "did you mean \"ports\"?"),
    ("hosts: [a.b], addresses: [10.0.0.0/8], resolution: DNS", "spec.addresses[0]", "only NONE and STATIC"),
    ("hosts: [a.b], addresses: [x]", "spec.addresses[0]", "neither an IP address nor a CIDR"),
    ("hosts: [a.b], endpoints: [{address: 1.1.1.1}]", "spec.endpoints", "set resolution to STATIC or DNS"),
    (
        "hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {a: b}}, endpoints: [{address: 1.1.1.1}]",
        "spec.endpoints",
        "only one of",
    ),
    (
        "hosts: [a.b], resolution: STATIC, workloadSelector: {labels: {a: '*'}}",
        "spec.workloadSelector.labels.a",
        "no wildcards",
    ),
    (
        "hosts: [a.b], resolution: STATIC, endpoints: [{address: c.d}]",
        "spec.endpoints[0].address",
        "STATIC takes addresses only",
    ),
    ("hosts: [a.b], resolution: STATIC, endpoints: [{}]", "spec.endpoints[0].address", "required"),
    (
        "hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix:///x', ports: {http: 1}}]",
        "spec.endpoints[0].ports",
        "has no ports",
    ),
    (
        "hosts: [a.b], resolution: STATIC, endpoints: [{address: 'unix://x'}]",
        "spec.endpoints[0].address",
        "neither an IP address nor a name",
    ),
    (
        "hosts: [a.b], resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {htp: 1}}]",
        "spec.endpoints[0].ports.htp",
        "has no port \"htp\"",
    ),
    (
        "hosts: [a.b], resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {http: 0}}]",
        "spec.endpoints[0].ports.http",
        "port 0",
    ),
    ("hosts: ['*.b'], resolution: DNS", "spec.hosts[0]", "a wildcard cannot be looked up"),
    (
        "hosts: [a.b], resolution: DNS_ROUND_ROBIN, endpoints: [{address: c.d}, {address: e.f}]",
        "spec.endpoints",
        "DNS_ROUND_ROBIN takes one",
    ),
    (
        "hosts: [a.b], resolution: DNS, endpoints: [{address: 'unix:///x'}]",
        "spec.endpoints[0].address",
        "needs resolution STATIC",
    ),
    (
        "hosts: ['*.b'], resolution: DNS, workloadSelector: {labels: {a: b}}",
        "spec.hosts[0]",
        "cannot be looked up",
    ),
    ("hosts: [a.b], resolution: DYNAMIC_DNS", "spec.hosts[0]", "DYNAMIC_DNS is for wildcards"),
    (
        "hosts: ['*.b'], resolution: DYNAMIC_DNS, addresses: [1.1.1.1]",
        "spec.addresses",
        "not used with DYNAMIC_DNS",
    ),
    (
        "hosts: ['*.b'], resolution: DYNAMIC_DNS, endpoints: [{address: 1.1.1.1}]",
        "spec.endpoints",
        "not used with DYNAMIC_DNS",
    ),
    ("hosts: [a.b], resolution: DSN", "spec.resolution", "did you mean \"DNS\"?"),
    ("hosts: [a.b], location: OUTSIDE", "spec.location", "one of"),
    ("hosts: [a.b], exportTo: ['~', x]", "spec.exportTo[0]", "must be the only entry"),
];

const SERVICES: &[Row] = &[
    ("{ports: [{number: 80, name: http}]}", "spec.hosts", "required"),
    (
        "{hosts: [a.b, c.d], resolution: DNS, ports: [{number: 1, name: t, protocol: TCP}]}",
        "spec.ports[0]",
        "told apart in HTTP and TLS",
    ),
    (
        "{hosts: ['*.b'], resolution: DYNAMIC_DNS, ports: [{number: 1, name: t, protocol: TCP}]}",
        "spec.ports[0]",
        "one of HTTP, HTTP2, GRPC, TLS",
    ),
    (
        "{hosts: [a.b], ports: [{number: 1, name: t}, {number: 1, name: u}]}",
        "spec.ports[1].number",
        "given twice",
    ),
    (
        "{hosts: [a.b], ports: [{number: 1, name: t}, {number: 2, name: t}]}",
        "spec.ports[1].name",
        "used twice",
    ),
    ("{hosts: [a.b], ports: [{number: 1}]}", "spec.ports[0]", "the field name is required"),
    ("{hosts: [a.b], ports: [{number: 1, name: t_u}]}", "spec.ports[0].name", "is not a DNS label"),
    ("{hosts: [a.b], ports: [{number: 1, name: t, targetPort: 0}]}", "spec.ports[0].targetPort", "port 0"),
    (
        "{hosts: [a.b], ports: [{number: 1, name: t, protocol: XTP}]}",
        "spec.ports[0].protocol",
        "unknown protocol",
    ),
];

#[test]
fn workloads() {
    assert_rejected(
        "WorkloadEntry",
        &[
            ("{}", "spec.address", "required"),
            ("{address: '*.b'}", "spec.address", "neither an IP address nor a name"),
            ("{address: 'unix:///x', ports: {a: 1}}", "spec.ports", "has no ports"),
            ("{address: 1.1.1.1, ports: {a_b: 1}}", "spec.ports.a_b", "is not a DNS label"),
            ("{address: 1.1.1.1, ports: {a: 65536}}", "spec.ports.a", "port 65536"),
            ("{address: 1.1.1.1, labels: {a: 'b c'}}", "spec.labels.a", "not a valid label value"),
            ("{address: 1.1.1.1, locality: a//b}", "spec.locality", "is not a locality"),
            ("{address: 1.1.1.1, serviceAccount: A}", "spec.serviceAccount", "is not a DNS name"),
            ("{address: 1.1.1.1, weight: -1}", "spec.weight", "-1 is out of range"),
        ],
    );
    assert_rejected(
        "WorkloadGroup",
        &[
            ("{}", "spec", "the field template is required"),
            ("{template: {address: 'unix:///x', ports: {a: 1}}}", "spec.template.ports", "has no ports"),
            (
                "{template: {}, metadata: {labels: {a: 'b c'}}}",
                "spec.metadata.labels.a",
                "not a valid label value",
            ),
            ("{template: {}, probe: {}}", "spec.probe", "must have exactly one of"),
            (
                "{template: {}, probe: {tcpSocket: {port: 1}, exec: {command: [a]}}}",
                "spec.probe",
                "must have exactly one of",
            ),
            (
                "{template: {}, probe: {periodSeconds: -1, tcpSocket: {port: 1}}}",
                "spec.probe.periodSeconds",
                "-1 is out of range",
            ),
            ("{template: {}, probe: {httpGet: {}}}", "spec.probe.httpGet", "the field port is required"),
            (
                "{template: {}, probe: {httpGet: {port: 1, scheme: http}}}",
                "spec.probe.httpGet.scheme",
                "one of HTTP, HTTPS",
            ),
            (
                "{template: {}, probe: {httpGet: {port: 1, httpHeaders: [{name: 'a b'}]}}}",
                "spec.probe.httpGet.httpHeaders[0].name",
                "is not the name of a header",
            ),
            ("{template: {}, probe: {exec: {}}}", "spec.probe.exec.command", "required"),
            (
                "{template: {}, probe: {exec: {command: ['']}}}",
                "spec.probe.exec.command[0]",
                "must not be empty",
            ),
            ("{template: {}, probe: {grpc: {port: 0}}}", "spec.probe.grpc.port", "port 0"),
        ],
    );
}

#[test]
fn sidecars() {
    assert_rejected(
        "Sidecar",
        &[
            ("{}", "spec", "is required"),
            (
                "{workloadSelector: {labels: {a: '*'}}, egress: [{hosts: ['*/*']}]}",
                "spec.workloadSelector.labels.a",
                "no wildcards",
            ),
            ("{egress: [{}]}", "spec.egress[0].hosts", "required"),
            ("{egress: [{hosts: [a.b]}]}", "spec.egress[0].hosts[0]", "names no namespace"),
            ("{egress: [{hosts: ['*/a']}]}", "spec.egress[0].hosts[0]", "is a short name"),
            (
                "{egress: [{hosts: ['*/*']}, {hosts: ['*/*'], port: {number: 1}}]}",
                "spec.egress[0].port",
                "only the last listener",
            ),
            (
                "{egress: [{hosts: ['*/*'], port: {number: 1}}, {hosts: ['*/*'], port: {number: 1}}]}",
                "spec.egress[1].port.number",
                "the same port",
            ),
            (
                "{egress: [{hosts: ['*/*'], port: {protocol: HTTP}}]}",
                "spec.egress[0].port.number",
                "0 is only for a Unix domain socket",
            ),
            (
                "{egress: [{hosts: ['*/*'], port: {number: 1}, bind: 'unix:///x'}]}",
                "spec.egress[0].bind",
                "must be an IP address",
            ),
            (
                "{egress: [{hosts: ['*/*'], port: {number: 0}, bind: 'unix:///x', captureMode: IPTABLES}]}",
                "spec.egress[0].captureMode",
                "write DEFAULT or NONE",
            ),
            (
                "{egress: [{hosts: ['*/*'], port: {number: 1, protocol: XX}}]}",
                "spec.egress[0].port.protocol",
                "unknown protocol",
            ),
            (
                "{egress: [{hosts: ['*/*'], port: {number: 1, targetPort: 2}}]}",
                "spec.egress[0].port.targetPort",
                "no meaning",
            ),
            (
                "{outboundTrafficPolicy: {egressProxy: {host: a.b, port: {number: 1}}}}",
                "spec.outboundTrafficPolicy.egressProxy",
                "is only for ALLOW_ANY",
            ),
            (
                "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.b}}}",
                "spec.outboundTrafficPolicy.egressProxy.port",
                "required",
            ),
            (
                "{outboundTrafficPolicy: {mode: ALLOW_ANY_DYNAMIC_DNS}}",
                "spec.outboundTrafficPolicy.mode",
                "unknown value",
            ),
            ("{inboundConnectionPool: {}}", "spec.inboundConnectionPool", "must not be empty"),
            ("{ingress: [{}]}", "spec.ingress[0]", "the field port is required"),
            ("{ingress: [{port: {number: 0}}]}", "spec.ingress[0].port.number", "port 0"),
            (
                "{ingress: [{port: {number: 1}}, {port: {number: 1}}]}",
                "spec.ingress[1].port.number",
                "the same port",
            ),
            (
                "{ingress: [{port: {number: 1}, defaultEndpoint: '10.0.0.1:1'}]}",
                "spec.ingress[0].defaultEndpoint",
                "is not in the workload",
            ),
            (
                "{ingress: [{port: {number: 1}, defaultEndpoint: '127.0.0.1:x'}]}",
                "spec.ingress[0].defaultEndpoint",
                "is not in the workload",
            ),
            (
                "{ingress: [{port: {number: 1, protocol: HTTPS}, tls: {mode: SIMPLE, credentialName: a}}]}",
                "spec.ingress[0].tls.credentialName",
                "not for a Sidecar",
            ),
            (
                "{ingress: [{port: {number: 1, protocol: HTTPS}, tls: {mode: ISTIO_MUTUAL}}]}",
                "spec.ingress[0].tls.mode",
                "not for a Sidecar",
            ),
            (
                "{ingress: [{port: {number: 1, protocol: HTTP}, tls: {}}]}",
                "spec.ingress[0].tls",
                "is only for HTTPS and TLS",
            ),
        ],
    );
}

#[test]
fn all_problems_are_found_at_once() {
    let text = document(
        "VirtualService",
        "{hosts: [a], http: [{timeout: 5, retries: {attempts: x}, rooute: []}], tcp: [{route: []}]}",
    );
    let lines = lines(&yaml(&text));
    let fields: Vec<_> = lines.iter().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(fields, ["spec.http[0].timeout:", "spec.http[0].retries.attempts:", "spec.http[0].rooute:"]);
}

#[test]
fn what_all_kinds_refuse() {
    let cases = [
        (
            "v1alpha1",
            "VirtualService",
            "{}",
            "apiVersion",
            "use networking.istio.io/v1 or networking.istio.io/v1beta1 or networking.istio.io/v1alpha3",
        ),
        ("v1", "VirtulService", "{}", "kind", "did you mean \"VirtualService\"?"),
        ("v1", "Ingress", "{}", "kind", "there is no kind"),
    ];
    for (version, kind, spec, field, reason) in cases {
        let parsed = yaml(&format!(
            "apiVersion: networking.istio.io/{version}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n"
        ));
        let lines = lines(&parsed);
        assert!(
            lines.len() == 1 && lines[0].contains(&format!("Error {field}: ")) && lines[0].contains(reason),
            "{lines:#?}"
        );
    }
    let head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n";
    let cases = [
        ("metadata: {name: x}\n", "spec", "required, but missing"),
        (
            "metadata: {name: x, namesapce: book}\nspec: {host: a}\n",
            "metadata.namesapce",
            "did you mean \"namespace\"?",
        ),
        ("metadata: {name: x}\nspec: {host: a, subsets: }\n", "spec.subsets", "null is not a value"),
        (
            "metadata: {name: x, annotations: {istio.io/dry-run: 'true'}}\nspec: {host: a}\n",
            "metadata.annotations[\"istio.io/dry-run\"]",
            "is only for",
        ),
        (
            "metadata: {name: x, annotations: {internal.istio.io/a: b}}\nspec: {host: a}\n",
            "metadata.annotations[\"internal.istio.io/a\"]",
            "reserved",
        ),
        ("metadata: {name: x}\nspec: {host: a}\nsepc: {}\n", "sepc", "did you mean \"spec\"?"),
    ];
    for (rest, field, reason) in cases {
        let lines = lines(&yaml(&format!("{head}{rest}")));
        assert!(
            lines.len() == 1 && lines[0].contains(&format!("Error {field}: ")) && lines[0].contains(reason),
            "{lines:#?}"
        );
    }
    let dots = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: a.b}\nspec: {selector: {a: b}, \
                servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}\n";
    assert!(lines(&yaml(dots))[0].contains("metadata.name: \"a.b\" is not a DNS label"));
}
