//! Time grows with the number of objects, not with its square.

use std::fmt::Write as _;
use std::time::Instant;

use super::*;

/// `count` of each: a service, its deployment, a route that is fine and one that is not, a rule, a policy, a gateway.
fn mesh(count: usize) -> Parsed {
    let mut text = String::from(BOOK);
    for number in 0..count {
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{number}, namespace: book}}
spec: {{selector: {{app: s{number}}}, ports: [{{name: http, port: 80}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: p{number}, namespace: book, labels: {{app: s{number}, common: yes}}}}
spec: {{containers: [{{name: x, image: x}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: v{number}, namespace: book}}
spec:
  hosts: [s{number}, same.example.com]
  gateways: [mesh, g{number}]
  http: [{{route: [{{destination: {{host: s{number}, subset: v1}}, weight: 1}}, {{destination: {{host: gone{number}}}, weight: 1}}]}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: d{number}, namespace: book}}
spec: {{host: s{number}, subsets: [{{name: v1, labels: {{common: yes}}}}, {{name: v2, labels: {{version: v2}}}}]}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: a{number}, namespace: book}}
spec: {{selector: {{matchLabels: {{common: yes}}}}, rules: [{{}}]}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: g{number}, namespace: book}}
spec:
  selector: {{istio: ingress}}
  servers:
  - {{port: {{number: 443, name: a, protocol: HTTPS}}, hosts: ['*'], tls: {{mode: SIMPLE, credentialName: c}}}}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: c{number}, namespace: book}}
spec: {{workloadSelector: {{labels: {{app: s{number}}}}}, egress: [{{hosts: ['./*']}}]}}
"
        );
    }
    read(&[&text])
}

#[test]
fn ten_thousand_objects_take_less_than_two_seconds() {
    let count = 10_000_usize.div_ceil(7);
    let parsed = mesh(count);
    assert!(parsed.objects.len() >= 10_000, "{:?}", parsed.findings.first());
    let start = Instant::now();
    let messages = analyze(&parsed, &Options::default());
    let taken = start.elapsed();
    // Of each: a missing host, a subset without pods, a host of another VirtualService, a certificate and a host of
    // another Gateway. The Gateway of the base has a host and port of its own.
    assert_eq!(messages.len(), 5 * count);
    assert!(taken.as_secs() < 2, "{taken:?} for {} objects", parsed.objects.len());
}
