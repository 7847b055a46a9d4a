//! The configurations that tutorials begin with, in all three versions: nothing to say about them.

use super::{lines, yaml};
use crate::resource::Spec;

const BOOKINFO: &str = "
kind: Gateway
metadata: {name: bookinfo-gateway}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 8080, name: http, protocol: HTTP}
    hosts: ['*']
---
kind: VirtualService
metadata: {name: bookinfo}
spec:
  hosts: ['*']
  gateways: [bookinfo-gateway]
  http:
  - match:
    - uri: {exact: /productpage}
    - uri: {prefix: /static}
    - uri: {exact: /login}
    - uri: {exact: /logout}
    - uri: {prefix: /api/v1/products}
    route:
    - destination: {host: productpage, port: {number: 9080}}
---
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  trafficPolicy:
    loadBalancer: {simple: RANDOM}
  subsets:
  - {name: v1, labels: {version: v1}}
  - name: v2
    labels: {version: v2}
    trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}
  - {name: v3, labels: {version: v3}}
---
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match:
    - headers: {end-user: {exact: jason}}
    route:
    - destination: {host: reviews, subset: v2}
  - route:
    - destination: {host: reviews, subset: v1}
---
kind: VirtualService
metadata: {name: ratings-delay}
spec:
  hosts: [ratings]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    fault:
      delay:
        percentage: {value: 100.0}
        fixedDelay: 7s
    route: [{destination: {host: ratings, subset: v1}}]
  - route: [{destination: {host: ratings, subset: v1}}]
---
kind: VirtualService
metadata: {name: ratings-abort}
spec:
  hosts: [ratings]
  http:
  - match: [{headers: {end-user: {exact: jason}}}]
    fault: {abort: {percentage: {value: 100.0}, httpStatus: 500}}
    route: [{destination: {host: ratings, subset: v1}}]
  - route: [{destination: {host: ratings, subset: v1}}]
---
kind: VirtualService
metadata: {name: shares}
spec:
  hosts: [frontend]
  http:
  - route:
    - {destination: {host: frontend, subset: v1}, weight: 90}
    - {destination: {host: frontend, subset: v2}, weight: 10}
";

const EDGE: &str = "
kind: Gateway
metadata: {name: book-gateway, namespace: book}
spec:
  selector: {app: istio-ingress-gateway}
  servers:
  - hosts: [bookinfo.com]
    port: {number: 80, name: http, protocol: HTTP}
    tls: {httpsRedirect: true}
  - hosts: [bookinfo.com]
    port: {number: 443, name: https, protocol: HTTPS}
    tls:
      mode: SIMPLE
      serverCertificate: /etc/certs/servercert.pem
      privateKey: /etc/certs/privatekey.pem
---
kind: VirtualService
metadata: {name: book-route, namespace: book}
spec:
  gateways: [mesh, book-gateway]
  hosts: [bookinfo.com]
  http:
  - name: catalog
    match:
    - uri: {prefix: /wpcatalog}
    - uri: {prefix: /consumercatalog}
    rewrite: {uri: /newcatalog}
    route:
    - {weight: 50, destination: {host: reviews.book.svc.cluster.local, subset: v2}}
    - {weight: 50, destination: {host: reviews, subset: v1}}
  - name: rest
    route:
    - destination: {host: core.book.svc.cluster.local}
---
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [productcatalogservice]
  http:
  - match:
    - sourceLabels: {app: checkoutservice}
    fault:
      abort: {percentage: {value: 100}, httpStatus: 400}
    route: [{destination: {host: productcatalogservice}}]
  - route: [{destination: {host: productcatalogservice}}]
---
kind: ServiceEntry
metadata: {name: eubank}
spec:
  hosts: [www.ecb.europa.eu, ecb.europa.eu]
  ports: [{number: 80, name: http, protocol: HTTP}]
  location: MESH_EXTERNAL
  resolution: DNS
---
kind: Gateway
metadata: {name: passthrough}
spec:
  selector: {istio: egressgateway}
  servers:
  - port: {number: 443, name: tls, protocol: TLS}
    hosts: ['*/edition.cnn.com', ./*.example.com]
    tls: {mode: PASSTHROUGH}
  - port: {number: 15443, name: tls-auto, protocol: TLS}
    hosts: ['*.local']
    tls: {mode: AUTO_PASSTHROUGH}
---
kind: VirtualService
metadata: {name: through-egress}
spec:
  hosts: [edition.cnn.com]
  gateways: [mesh, istio-system/passthrough]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: [edition.cnn.com]}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, subset: cnn, port: {number: 443}}}]
  - match: [{gateways: [istio-system/passthrough], port: 443, sniHosts: [edition.cnn.com]}]
    route: [{destination: {host: edition.cnn.com, port: {number: 443}}, weight: 100}]
---
kind: VirtualService
metadata: {name: cross-network}
spec:
  hosts: [outbound_.80_._.e2e.foobar.mesh]
  gateways: [passthrough]
  tls:
  - match: [{sniHosts: [outbound_.80_._.e2e.foobar.mesh]}]
    route: [{destination: {host: e2e.foobar.svc.cluster.local}}]
---
kind: Sidecar
metadata: {name: default, namespace: book}
spec:
  egress:
  - hosts: [./*, istio-system/*]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
kind: WorkloadEntry
metadata: {name: vm}
spec:
  address: 2.2.2.2
  labels: {app: details-legacy}
  serviceAccount: details-legacy
  ports: {grpc: 3550, admin: 8080}
---
kind: WorkloadGroup
metadata: {name: reviews}
spec:
  metadata: {labels: {app.kubernetes.io/name: reviews}}
  template:
    ports: {grpc: 3550}
    serviceAccount: default
  probe:
    initialDelaySeconds: 5
    httpGet:
      path: /foo/bar
      host: 127.0.0.1
      port: 3100
      scheme: HTTPS
      httpHeaders: [{name: Lit-Header, value: Im-The-Best}]
";

#[test]
fn tutorials_have_nothing_to_fear() {
    for (text, count) in [(BOOKINFO, 7), (EDGE, 10)] {
        for version in ["v1", "v1beta1", "v1alpha3"] {
            let kind = format!("apiVersion: networking.istio.io/{version}\nkind:");
            let parsed = yaml(&text.replace("kind:", &kind));
            // Nothing of the mesh runs on the machine that could ask at its loopback address.
            let lines = lines(&parsed).into_iter().filter(|line| !line.contains("spec.probe.httpGet.host"));
            assert_eq!(lines.collect::<Vec<_>>(), Vec::<String>::new());
            assert_eq!(parsed.objects.len(), count);
        }
    }
}

/// Slips that tutorials made in earnest, and what must come of them.
#[test]
fn slips_of_tutorials_are_explained() {
    let cases = [
        (
            "kind: DestinationRule\nmetadata: {name: reviews, namesapce: book}\nspec: {host: reviews}\n",
            "Error metadata.namesapce: unknown field \"namesapce\" (did you mean \"namespace\"?)",
        ),
        (
            "kind: ServiceEntry\nmetadata: {name: eubank}\nspec: {hosts: [ecb.europa.eu], prots: [{number: 80, name: http, protocol: HTTP}]}\n",
            "Error spec.prots: unknown field \"prots\" (did you mean \"ports\"?)",
        ),
        (
            "kind: VirtualService\nmetadata: {name: r}\nspec:\n  hosts: [a.b]\n  gateways:\n  - mesh#all of them\n  - g\n  http: [{route: [{destination: {host: a}}]}]\n",
            "Error spec.gateways[0]: \"mesh#all of them\" is not the name of a gateway (a comment begins with a space and #)",
        ),
        (
            "kind: VirtualService\nmetadata: {name: c}\nspec: {hosts: [c], http: [{fault: {abort: {percent: 100, httpStatus: 400}}, route: [{destination: {host: c}}]}]}\n",
            "Warning spec.http[0].fault.abort.percent: is deprecated (use percentage: {value: 100})",
        ),
    ];
    for (text, expected) in cases {
        let parsed = yaml(&format!("apiVersion: networking.istio.io/v1alpha3\n{text}"));
        assert_eq!(lines(&parsed), [format!("f.yaml:1 {expected}")]);
    }
}

#[test]
fn two_gateways_stay_two() {
    let istio = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {a: b}, \
                 servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}\n";
    let parsed = yaml(istio);
    assert_eq!(parsed.objects[0].key().to_string(), "Gateway default/g");
    assert!(matches!(parsed.objects[0].spec, Spec::Gateway(_)));
    let kubernetes = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {gatewayClassName: c, listeners: []}\n";
    let parsed = yaml(kubernetes);
    assert!(parsed.objects.iter().all(|object| object.key().kind != "Gateway"));
    let lost = yaml("apiVersion: v1\nkind: Gateway\nmetadata: {name: g}\n");
    assert!(lines(&lost)[0].contains("use networking.istio.io/v1 "), "{:?}", lines(&lost));
}
