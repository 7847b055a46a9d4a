//! One row per way to trigger a code.

use super::*;

/// What is wrong, what mends it.
struct Case {
    /// `CODE field` of each message: one, or two where two objects hear of a conflict.
    says: &'static [&'static str],
    text: &'static str,
    /// A piece of `text`, and what to write instead for nothing to be said at all.
    mend: (&'static str, &'static str),
}

#[test]
fn there_is_nothing_to_say_about_the_base() {
    assert_eq!(lines(""), Vec::<String>::new());
}

#[test]
fn every_case_says_one_thing_and_nothing_once_mended() {
    for Case { says, text, mend: (from, to) } in CASES {
        assert_eq!(places(text), *says, "{:#?}\nfor:\n{text}", lines(text));
        let mended = text.replacen(from, to, 1);
        assert_ne!(mended, *text, "the mend of {says:?} changes nothing:\n{text}");
        assert_eq!(lines(&mended), Vec::<String>::new(), "for:\n{mended}");
    }
}

#[test]
fn every_code_has_a_case() {
    let cased =
        |code: &Code| CASES.iter().any(|case| case.says.iter().any(|it| it.starts_with(&code.to_string())));
    let without: Vec<_> = Code::ALL.iter().filter(|code| !cased(code)).collect();
    assert!(without.is_empty(), "{without:?}");
}

const CASES: &[Case] = &[
    Case {
        says: &["IST0101 metadata.labels[\"istio.io/use-waypoint\"]"],
        text: "apiVersion: v1
kind: Service
metadata: {name: bound, namespace: book, labels: {istio.io/use-waypoint: way}}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}",
        mend: ("use-waypoint: way", "use-waypoint: none"),
    },
    Case {
        says: &["IST0101 metadata.labels[\"istio.io/use-waypoint\"]"],
        text: "apiVersion: v1
kind: Service
metadata: {name: bound, namespace: book, labels: {istio.io/use-waypoint: way}}
spec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: book}
spec: {gatewayClassName: mesh, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}",
        mend: ("gatewayClassName: mesh", "gatewayClassName: istio-waypoint"),
    },
    Case {
        says: &["IST0101 spec.http[0].route[0].destination.host"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: review}}]}]",
        mend: ("host: review}", "host: reviews}"),
    },
    Case {
        says: &["IST0101 spec.http[0].mirrors[0].destination.host"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}], mirrors: [{destination: {host: gone.book.svc.cluster.local}}]}]",
        mend: ("gone.book", "reviews.book"),
    },
    Case {
        says: &["IST0101 spec.tcp[0].route[0].destination.port.number"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  tcp: [{route: [{destination: {host: reviews, port: {number: 9081}}}]}]",
        mend: ("9081", "9080"),
    },
    Case {
        says: &["IST0101 spec.http[0].route[0].destination.subset"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews, subset: v2}}]}]",
        mend: ("v2", "v1"),
    },
    Case {
        says: &["IST0101 spec.gateways[1]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: other}
spec:
  hosts: [shop.example.com]
  gateways: [mesh, shop]
  http: [{route: [{destination: {host: reviews.book.svc.cluster.local}}]}]",
        mend: ("mesh, shop", "mesh, book/shop"),
    },
    Case {
        says: &["IST0101 spec.http[0].delegate.name"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http: [{match: [{uri: {prefix: /a}}], delegate: {name: y}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: z, namespace: book}
spec:
  http: [{route: [{destination: {host: reviews}}]}]",
        mend: ("delegate: {name: y}", "delegate: {name: z, namespace: book}"),
    },
    Case {
        says: &["IST0101 spec.selector"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: x, namespace: book}
spec:
  selector: {istio: gone}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [x.example.com]}]",
        mend: ("gone", "ingressgateway"),
    },
    Case {
        says: &["IST0101 spec.rules[0].from[0].source.notNamespaces[1]"],
        text: "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: book}
spec:
  action: DENY
  rules: [{from: [{source: {namespaces: [default, 'bo*'], notNamespaces: [istio-system, bok]}}]}]",
        mend: ("bok", "'*ok'"),
    },
    Case {
        says: &["IST0101 spec.targetRefs[0].name"],
        text: "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: book}
spec:
  targetRefs: [{kind: Service, name: review}]
  rules: [{}]",
        mend: ("name: review}", "name: reviews}"),
    },
    Case {
        says: &["IST0101 spec.targetRefs[0].name"],
        text: "apiVersion: policy.mesh.internal/v1alpha1
kind: HealthCheck
metadata: {name: x, namespace: book}
spec:
  targetRefs: [{kind: Service, name: review}]
  tcp: {}",
        mend: ("name: review}", "name: reviews}"),
    },
    Case {
        says: &["IST0167 spec.targetRefs[0]"],
        text: "apiVersion: policy.mesh.internal/v1alpha1
kind: HealthCheck
metadata: {name: a, namespace: book}
spec: {targetRefs: [{kind: Service, name: reviews}], tcp: {}}
---
apiVersion: policy.mesh.internal/v1alpha1
kind: HealthCheck
metadata: {name: b, namespace: book}
spec: {targetRefs: [{kind: Service, name: reviews}], http: {}}",
        mend: ("name: reviews}], http", "name: two}], http"),
    },
    Case {
        says: &["IST0101 spec.servers[1].tls.credentialNames[1]"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a, namespace: elsewhere}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 80, name: b, protocol: HTTP}, hosts: [b.example.com]}
  - port: {number: 443, name: a, protocol: HTTPS}
    hosts: [a.example.com]
    tls: {mode: SIMPLE, credentialNames: [c, d]}
---
apiVersion: v1
kind: Secret
metadata: {name: c, namespace: book}
type: kubernetes.io/tls
stringData: {tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----'}",
        mend: ("[c, d]", "[c]"),
    },
    Case {
        says: &["IST0101 spec.listeners[0].tls.certificateRefs[0].name"],
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: a, namespace: book}
spec:
  gatewayClassName: istio
  listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: d}]}}]
---
apiVersion: v1
kind: Secret
metadata: {name: c, namespace: book}
type: kubernetes.io/tls
stringData: {tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----'}",
        mend: ("{name: d}", "{name: c}"),
    },
    Case {
        says: &["IST0102 metadata.labels"],
        text: "{apiVersion: v1, kind: Namespace, metadata: {name: outside, labels: {a: b}}}",
        mend: ("a: b", "istio.io/dataplane-mode: none"),
    },
    Case {
        says: &["IST0106 spec.ports[0].port"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {ports: [{name: http, port: 70000}]}",
        mend: ("70000", "7000"),
    },
    Case {
        says: &["IST0106 metadata.name"],
        text: "apiVersion: v1
kind: Service
metadata: {name: two, namespace: book}
spec: {ports: [{name: http, port: 80}]}",
        mend: ("two", "three"),
    },
    Case {
        says: &["IST0107 metadata.annotations[\"sidecar.istio.io/status\"]"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book, annotations: {sidecar.istio.io/status: x}}
spec: {ports: [{name: http, port: 80}]}",
        mend: ("sidecar.istio.io/status", "networking.istio.io/exportTo"),
    },
    Case {
        says: &["IST0107 metadata.annotations[\"proxy.istio.io/config\"]"],
        text: "apiVersion: apps/v1
kind: Deployment
metadata: {name: x, namespace: book, annotations: {proxy.istio.io/config: '{}'}}
spec:
  selector: {matchLabels: {app: x}}
  template:
    metadata: {labels: {app: x}, annotations: {proxy.istio.io/config: '{}'}}
    spec: {containers: [{name: x, image: x}]}",
        mend: (", annotations: {proxy.istio.io/config: '{}'}}\nspec", "}\nspec"),
    },
    Case {
        says: &["IST0108 metadata.annotations[\"networking.istio.io/exportsTo\"]"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book, annotations: {networking.istio.io/exportsTo: .}}
spec: {ports: [{name: http, port: 80}]}",
        mend: ("exportsTo", "exportTo"),
    },
    Case {
        says: &["IST0109 spec.hosts[0]", "IST0109 spec.hosts[0]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a, namespace: book}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: b, namespace: book}
spec:
  hosts: [reviews.book.svc.cluster.local]
  http: [{route: [{destination: {host: reviews}}]}]",
        mend: ("reviews.book.svc", "reviews.other.svc"),
    },
    Case {
        says: &["IST0110 spec.workloadSelector", "IST0110 spec.workloadSelector"],
        text: "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a, namespace: book}
spec: {workloadSelector: {labels: {app: reviews}}, egress: [{hosts: ['./*']}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: b, namespace: book}
spec: {workloadSelector: {labels: {version: v1}}, egress: [{hosts: ['./*']}]}",
        mend: ("version: v1", "app: two"),
    },
    Case {
        says: &["IST0111 spec.workloadSelector", "IST0111 spec.workloadSelector"],
        text: "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a, namespace: book}
spec: {egress: [{hosts: ['./*']}]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: b, namespace: book}
spec: {egress: [{hosts: ['./*']}]}",
        mend: ("{egress", "{workloadSelector: {labels: {app: two}}, egress"),
    },
    Case {
        says: &["IST0112 spec.http[0].route[0].destination.port"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [two]
  http: [{route: [{destination: {host: two}}]}]",
        mend: ("host: two", "host: two, port: {number: 81}"),
    },
    Case {
        says: &["IST0116 metadata.name"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {selector: {version: v1}, ports: [{name: udp, port: 9080, protocol: UDP}]}",
        mend: ("UDP", "TCP"),
    },
    Case {
        says: &["IST0118 spec.ports[0].name"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {ports: [{name: web, port: 80}]}",
        mend: ("web", "http2-web"),
    },
    Case {
        says: &["IST0118 spec.ports[0].appProtocol"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {ports: [{name: http, port: 80, appProtocol: kubernetes.io/h2}]}",
        mend: ("h2}", "h2c}"),
    },
    Case {
        says: &["IST0118 spec.ports[0].name"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {ports: [{port: 3307}]}",
        mend: ("3307", "3306"),
    },
    Case {
        says: &["IST0123 metadata.labels.istio-injection"],
        text: "apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {istio-injection: enabled, istio.io/dataplane-mode: none}}",
        mend: ("enabled", "disabled"),
    },
    Case {
        says: &["IST0123 metadata.labels[\"istio.io/rev\"]"],
        text: "apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {istio-injection: enabled, istio.io/rev: canary}}",
        mend: (", istio.io/rev: canary", ""),
    },
    Case {
        says: &["IST0127 spec.selector"],
        text: "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: book}
spec: {selector: {matchLabels: {app: review}}, rules: [{}]}",
        mend: ("review}", "reviews}"),
    },
    Case {
        says: &["IST0127 spec.selector"],
        text: "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: x, namespace: book}
spec: {selector: {matchLabels: {app: review}}, jwtRules: [{issuer: a, jwksUri: 'https://a.example.com'}]}",
        mend: ("app: review}", "app: reviews}"),
    },
    Case {
        says: &["IST0127 spec.selector"],
        text: "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: x, namespace: book}
spec: {selector: {matchLabels: {app: review}}, accessLogging: [{disabled: true}]}",
        mend: ("app: review}", "app: reviews}"),
    },
    Case {
        says: &["IST0127 spec.workloadSelector"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec:
  host: two
  workloadSelector: {matchLabels: {app: reviews, version: v2}}
  exportTo: [.]",
        mend: ("v2", "v1"),
    },
    Case {
        says: &["IST0128 spec.trafficPolicy.tls"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec: {host: two, trafficPolicy: {tls: {mode: SIMPLE}}}",
        mend: ("SIMPLE", "SIMPLE, caCertificates: /etc/ca.pem"),
    },
    Case {
        says: &["IST0128 spec.subsets[0].trafficPolicy.tls"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}]",
        mend: ("insecureSkipVerify: true", "caCertificates: /etc/ca.pem"),
    },
    Case {
        says: &["IST0129 spec.trafficPolicy.portLevelSettings[0].tls"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec: {host: two, trafficPolicy: {portLevelSettings: [{port: {number: 81}, tls: {mode: SIMPLE}}]}}",
        mend: ("SIMPLE", "ISTIO_MUTUAL"),
    },
    Case {
        says: &["IST0130 spec.http[1]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  http:
  - route: [{destination: {host: reviews}}]
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: reviews}}]",
        mend: ("- route", "- match: [{uri: {prefix: /b}}]\n    route"),
    },
    Case {
        says: &["IST0130 spec.http[1]", "IST0131 spec.http[1].match[0]", "IST0131 spec.http[1].match[1]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /a}}, {uri: {exact: /c}}]
    route: [{destination: {host: reviews}}]
  - match: [{uri: {prefix: /a/b}}, {uri: {exact: /c}}]
    route: [{destination: {host: reviews}}]",
        mend: ("prefix: /a}}, {uri: {exact: /c}}]", "exact: /a}}, {uri: {exact: /d}}]"),
    },
    Case {
        says: &["IST0131 spec.http[1].match[0]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: reviews}}]
  - match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}]
    route: [{destination: {host: reviews}}]",
        mend: ("[{uri: {prefix: /a}}, ", "["),
    },
    Case {
        says: &["IST0132 spec.gateways[0]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [store.example.com]
  gateways: [shop]
  http: [{route: [{destination: {host: reviews}}]}]",
        mend: ("[store.example.com]", "[reviews, '*.example.com']"),
    },
    Case {
        says: &["IST0133 spec.http[0].mirrorPercent"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews}}], mirror: {host: reviews}, mirrorPercent: 10}]",
        mend: ("mirrorPercent: 10", "mirrorPercentage: {value: 10}"),
    },
    Case {
        says: &["IST0134 spec.ports[0]"],
        text: "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: book, labels: {networking.istio.io/enable-autoallocate-ip: 'false'}}
spec: {hosts: [db.example.com], ports: [{number: 5432, name: tcp, protocol: TCP}], resolution: DNS}",
        mend: ("resolution", "addresses: [192.0.2.1], resolution"),
    },
    Case {
        says: &["IST0135 metadata.annotations[\"sidecar.istio.io/inject\"]"],
        text: "apiVersion: v1
kind: Pod
metadata: {name: x, namespace: book, annotations: {sidecar.istio.io/inject: 'true'}}
spec: {containers: [{name: x, image: x}]}",
        mend: ("annotations", "labels"),
    },
    Case {
        says: &["IST0137 metadata.name"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {selector: {version: v1}, ports: [{name: http, port: 80, targetPort: 9080}]}",
        mend: ("port: 80,", "port: 9080,"),
    },
    Case {
        says: &["IST0138 spec.servers[0].tls", "IST0138 spec.servers[0].tls"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a, namespace: book}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: c}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: b, namespace: book}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 443, name: b, protocol: HTTPS}, hosts: [b.example.com], tls: {mode: SIMPLE, credentialName: c}}",
        mend: ("credentialName: c", "credentialName: d"),
    },
    Case {
        says: &["IST0140 spec.http[0].route[0].destination"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: book}
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http: [{route: [{destination: {host: reviews}}]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: inside, namespace: book}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews, subset: v1}}]}]",
        mend: ("host: reviews}", "host: reviews, subset: v1}"),
    },
    Case {
        says: &["IST0145 spec.servers[0].hosts", "IST0145 spec.servers[0].hosts"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: x, namespace: book}
spec:
  selector: {istio: ingress}
  servers: [{port: {number: 80, name: x, protocol: HTTP}, hosts: ['*.example.com']}]",
        mend: ("*.example.com", "*.example.org"),
    },
    Case {
        says: &["IST0149 spec.http[0].match[0].headers"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [shop.example.com]
  gateways: [shop]
  http:
  - match: [{headers: {'@request.auth.claims.group': {exact: staff}}}]
    route: [{destination: {host: reviews}}]
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: x, namespace: book}
spec: {selector: {matchLabels: {app: two}}, jwtRules: [{issuer: a, jwksUri: 'https://a.example.com'}]}",
        mend: ("app: two", "istio: ingress"),
    },
    Case {
        says: &["IST0150 spec.ports[0].name"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {type: ExternalName, externalName: example.com, ports: [{name: tcp, port: 80}]}",
        mend: ("name: tcp", "name: http"),
    },
    Case {
        says: &["IST0101 spec.http[0].route[0].destination.host"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {type: ExternalName, externalName: real.example.com}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: book}
spec: {hosts: [other.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec: {hosts: [reviews], http: [{route: [{destination: {host: x}}]}]}",
        mend: ("other.example.com", "real.example.com"),
    },
    Case {
        says: &["IST0101 spec.externalName", "IST0101 spec.externalName"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {type: ExternalName, externalName: y.book.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: y, namespace: book}
spec: {type: ExternalName, externalName: x.book.svc.cluster.local}",
        mend: ("externalName: x.book", "externalName: reviews.book"),
    },
    Case {
        says: &["IST0174 spec.host"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: book}
spec: {type: ExternalName, externalName: reviews.book.svc.cluster.local}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec: {host: x}",
        mend: ("host: x", "host: reviews"),
    },
    Case {
        says: &["IST0159 spec.selector", "IST0159 spec.selector"],
        text: "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: a, namespace: book}
spec: {selector: {matchLabels: {app: reviews}}, accessLogging: [{disabled: true}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: b, namespace: book}
spec: {selector: {matchLabels: {version: v1}}, accessLogging: [{disabled: true}]}",
        mend: ("version: v1", "app: two"),
    },
    Case {
        says: &["IST0160 spec.selector", "IST0160 spec.selector"],
        text: "apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: a, namespace: book}
spec: {accessLogging: [{disabled: true}]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: b, namespace: book}
spec: {tracing: [{disableSpanReporting: true}]}",
        mend: ("{tracing", "{selector: {matchLabels: {app: two}}, tracing"),
    },
    Case {
        says: &["IST0161 spec.servers[0].tls.credentialName"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a, namespace: book}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: SIMPLE, credentialName: c}}
---
apiVersion: v1
kind: Secret
metadata: {name: c, namespace: book}
stringData: {ca.crt: '-----BEGIN CERTIFICATE-----'}",
        mend: ("ca.crt: ", "key: '-----BEGIN EC PRIVATE KEY-----', cert: "),
    },
    Case {
        says: &["IST0161 spec.servers[0].tls.credentialName"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: a, namespace: book}
spec:
  selector: {istio: ingress}
  servers:
  - {port: {number: 443, name: a, protocol: HTTPS}, hosts: [a.example.com], tls: {mode: MUTUAL, credentialName: c}}
---
apiVersion: v1
kind: Secret
metadata: {name: c, namespace: book}
stringData: {tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----'}
---
apiVersion: v1
kind: Secret
metadata: {name: other-cacert, namespace: book}
stringData: {ca.crt: '-----BEGIN CERTIFICATE-----'}",
        mend: ("other-cacert", "c-cacert"),
    },
    Case {
        says: &["IST0161 spec.listeners[0].tls.certificateRefs[0].name"],
        text: "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: a, namespace: book}
spec:
  gatewayClassName: istio
  listeners: [{name: a, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}]
---
apiVersion: v1
kind: Secret
metadata: {name: c, namespace: book}
type: kubernetes.io/basic-auth
stringData: {tls.crt: '-----BEGIN CERTIFICATE-----', tls.key: '-----BEGIN PRIVATE KEY-----'}",
        mend: ("kubernetes.io/basic-auth", "kubernetes.io/tls"),
    },
    Case {
        says: &["IST0162 spec.servers[0].port.number"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: x, namespace: book}
spec:
  selector: {istio: ingress}
  servers: [{port: {number: 8080, name: x, protocol: HTTP}, hosts: [x.example.com]}]",
        mend: ("8080", "80"),
    },
    Case {
        says: &["IST0165 spec.gateways[0]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: book}
spec:
  hosts: [shop.example.com]
  gateways: [shop-istio-autogenerated-k8s-gateway]
  http: [{route: [{destination: {host: reviews}}]}]",
        mend: ("shop-istio-autogenerated-k8s-gateway", "shop"),
    },
    Case {
        says: &["IST0166 spec.selector"],
        text: "apiVersion: v1
kind: Pod
metadata: {name: edge, namespace: book, labels: {gateway.networking.k8s.io/gateway-name: edge}}
spec: {containers: [{name: x, image: x}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: book}
spec: {selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: edge}}, rules: [{}]}",
        mend: (
            "selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: edge}}",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]",
        ),
    },
    Case {
        says: &["IST0167 spec.selector"],
        text: "apiVersion: v1
kind: Pod
metadata: {name: x, namespace: book, labels: {app: x, istio.io/dataplane-mode: none}}
spec: {containers: [{name: x, image: x}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: x, namespace: book}
spec: {selector: {matchLabels: {app: x}}, mtls: {mode: STRICT}}",
        mend: (", istio.io/dataplane-mode: none", ""),
    },
    Case {
        says: &["IST0167 "],
        text: "apiVersion: v1
kind: Namespace
metadata: {name: out, labels: {istio.io/dataplane-mode: none}}
---
apiVersion: v1
kind: Pod
metadata: {name: x, namespace: out}
spec: {containers: [{name: x, image: x}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: x, namespace: out}
spec: {mtls: {mode: STRICT}}",
        mend: ("mode: none", "mode: ambient"),
    },
    Case {
        says: &["IST0167 spec.selector"],
        text: "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: x, namespace: istio-system}
spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}}",
        mend: ("istio-system", "book"),
    },
    Case {
        says: &["IST0173 spec.subsets[1].labels"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]",
        mend: ("version: v2", "topology.kubernetes.io/zone: a"),
    },
    Case {
        says: &["IST0173 spec.subsets[0].labels"],
        text: "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: book}
spec:
  hosts: [x.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1, labels: {version: v1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec:
  host: x.example.com
  subsets: [{name: v, labels: {version: v2}}]",
        mend: ("version: v2", "version: v1"),
    },
    Case {
        says: &["IST0174 spec.host"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec: {host: review, trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
        mend: ("review,", "reviews,"),
    },
    Case {
        says: &["IST0174 spec.host"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec: {host: '*.shop.svc.cluster.local', trafficPolicy: {loadBalancer: {simple: RANDOM}}}",
        mend: ("shop", "book"),
    },
    Case {
        says: &["IST0177 spec.ports[0].protocol", "IST0177 spec.ports[0].protocol"],
        text: "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: book}
spec: {hosts: [x.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b, namespace: book}
spec: {hosts: [x.example.com], ports: [{number: 80, name: tcp, protocol: TCP}], resolution: DNS, exportTo: [.]}",
        mend: ("protocol: TCP", "protocol: HTTP"),
    },
    Case {
        says: &["IST0101 spec.workloadSelector"],
        text: "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: a, namespace: book}
spec: {workloadSelector: {labels: {app: review}}, egress: [{hosts: ['./*']}]}",
        mend: ("review}", "reviews}"),
    },
    Case {
        says: &["IST0107 metadata.annotations[\"kubernetes.io/ingress.class\"]"],
        text: "apiVersion: v1
kind: Pod
metadata: {name: x, namespace: book, annotations: {kubernetes.io/ingress.class: istio}}
spec: {containers: [{name: x, image: x}]}",
        mend: ("kubernetes.io/ingress.class", "kubernetes.io/psp"),
    },
    Case {
        says: &["IST0123 metadata.labels.istio-injection"],
        text: "apiVersion: v1
kind: Namespace
metadata: {name: x, labels: {istio-injection: enabled, istio.io/dataplane-mode: ambient}}",
        mend: ("istio-injection: enabled, ", ""),
    },
    Case {
        says: &["IST0127 metadata.namespace"],
        text: "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: x, namespace: boook}
spec: {}",
        mend: ("boook", "book"),
    },
    Case {
        says: &["IST0128 spec.trafficPolicy.tls"],
        text: "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: book}
spec: {host: two, trafficPolicy: {tls: {mode: SIMPLE, credentialName: ca}}}",
        mend: ("spec: {", "spec: {exportTo: [.], workloadSelector: {matchLabels: {app: reviews}}, "),
    },
    Case {
        says: &["IST0145 spec.servers[0].hosts", "IST0145 spec.servers[0].hosts"],
        text: "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: narrow, namespace: book}
spec:
  selector: {istio: ingressgateway, app: istio-ingressgateway}
  servers: [{port: {number: 80, name: x, protocol: HTTP}, hosts: ['*.shop.example.com']}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: wide, namespace: book}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: x, protocol: HTTP}, hosts: ['*/*.example.com']}]",
        mend: ("name: wide, namespace: book}\nspec:\n  selector: {istio: ingressgateway}", "name: wide, namespace: book}\nspec:\n  selector: {istio: egressgateway}"),
    },
    Case {
        says: &["IST0173 spec.subsets[0].labels"],
        text: "apiVersion: v1
kind: Service
metadata: {name: x, namespace: other}
spec: {selector: {app: x}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: other}
spec:
  host: x
  subsets: [{name: v, labels: {topology.kubernetes.io/region: ''}}]",
        mend: ("region: ''", "region: r"),
    },
    Case {
        says: &["IST0133 spec.hosts[1]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: other}
spec:
  hosts: [own.example.com, reviews.book.svc.cluster.local]
  http: [{route: [{destination: {host: reviews.book.svc.cluster.local}}]}]",
        mend: ("  hosts:", "  exportTo: [.]\n  hosts:"),
    },
    Case {
        says: &["IST0133 spec.hosts[0]"],
        text: "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: x, namespace: other}
spec:
  exportTo: [., third]
  hosts: ['*.book.svc.cluster.local']
  http: [{directResponse: {status: 404}}]",
        mend: ("[., third]", "[.]"),
    },
    Case {
        says: &["IST0133 spec.hosts[0]"],
        text: "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: other}
spec:
  hosts: [reviews.book.svc.cluster.local]
  resolution: STATIC
  ports: [{name: http, number: 9080, protocol: HTTP}]
  endpoints: [{address: 192.0.2.1}]",
        mend: ("namespace: other", "namespace: book"),
    },
];
