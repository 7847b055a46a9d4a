//! A small shop, and what becomes of requests in it.

use mesh_core::resource::{SourceFile, parse};

use super::*;

const SHOP: &str = r"
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
---
{apiVersion: v1, kind: Service, metadata: {name: reviews, namespace: shop},
  spec: {clusterIP: 10.96.0.3, selector: {app: reviews}, ports: [{name: http, port: 9080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: page, namespace: shop, labels: {app: page}},
  spec: {nodeName: node-1, serviceAccountName: page, containers: [{name: main, image: any}]}, status: {podIP: 10.0.0.1}}
---
{apiVersion: v1, kind: Pod, metadata: {name: reviews-1, namespace: shop, labels: {app: reviews, version: v1}},
  spec: {nodeName: node-1, containers: [{name: main, image: any}]},
  status: {podIP: 10.0.0.2, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: reviews-2, namespace: shop, labels: {app: reviews, version: v2}},
  spec: {nodeName: node-2, containers: [{name: main, image: any}]},
  status: {podIP: 10.0.0.3, conditions: [{type: Ready, status: 'True'}]}}
";

const RULES: &str = r"
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: versions, namespace: shop},
  spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: reviews, namespace: shop},
  spec: {hosts: [reviews], http: [
    {name: jason, match: [{headers: {end-user: {exact: jason}}}], timeout: 2s,
     route: [{destination: {host: reviews, subset: v2}}]},
    {match: [{uri: {prefix: /old}}], redirect: {uri: /new}},
    {match: [{uri: {prefix: /lost}}], route: [{destination: {host: reviews, subset: v9}}]},
    {route: [{destination: {host: reviews, subset: v1}, weight: 75}, {destination: {host: reviews, subset: v2}, weight: 25}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: v2-reads, namespace: shop},
  spec: {selector: {matchLabels: {version: v2}}, rules: [{to: [{operation: {methods: [GET]}}]}]}}
";

/// Text and whether it is carried.
fn traced(
    yaml: &str,
    method: &Method,
    url: &str,
    headers: &[(&'static str, &'static str)],
) -> (String, bool) {
    traced_from("shop/page", yaml, (method, url), headers)
}

fn traced_from(
    from: &str,
    yaml: &str,
    (method, url): (&Method, &str),
    headers: &[(&'static str, &'static str)],
) -> (String, bool) {
    let objects = parse(&SourceFile { name: "shop", text: yaml }).objects;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().expect("a value"));
    }
    let url = url.parse().expect("an address");
    let from = from.parse().expect("somebody");
    let asked = Asked { method, url: &url, headers: &map, from: &from };
    let answer = follow(&objects, "istio-system", &asked).expect("an answer");
    (answer.text(), answer.is_carried())
}

#[track_caller]
fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} in\n{text}");
    }
}

#[test]
fn without_rules_it_goes_to_any_endpoint_of_its_service() {
    for host in ["reviews:9080", "reviews.shop:9080", "reviews.shop.svc.cluster.local:9080", "10.96.0.3:9080"]
    {
        let (text, carried) = traced(SHOP, &Method::GET, &format!("http://{host}/"), &[]);
        has(
            &text,
            &[
                "client       shop/page on node-1, as spiffe://cluster.local/ns/shop/sa/page\n",
                "service      shop/reviews (reviews.shop.svc.cluster.local), port 9080\n",
                "rule         none: no VirtualService",
                "   endpoint     shop/reviews-1 at 10.0.0.2:9080 on node-1, mutual TLS, or within the node; allowed\n",
                "   endpoint     shop/reviews-2 at 10.0.0.3:9080 on node-2",
            ],
        );
        assert!(carried, "{text}");
    }
}

#[test]
fn rules_shares_subsets_and_policies_are_told() {
    let all = SHOP.to_owned() + RULES;
    let (text, _) = traced(&all, &Method::GET, "http://reviews:9080/", &[("end-user", "jason")]);
    has(
        &text,
        &[
            "rule         VirtualService shop/reviews, \"jason\"; at most 2s",
            "subset v2, DestinationRule shop/versions",
        ],
    );
    assert!(!text.contains("reviews-1"), "{text}");
    let (text, carried) = traced(&all, &Method::POST, "http://reviews:9080/", &[]);
    has(&text, &["destination  75 %: reviews.shop", "destination  25 %: reviews.shop", "denied: "]);
    assert!(carried, "v1 takes it: {text}");
    let (text, carried) = traced(&all, &Method::POST, "http://reviews:9080/", &[("end-user", "jason")]);
    assert!(!carried, "nobody takes it: {text}");
}

#[test]
fn what_leads_nowhere_says_why() {
    let all = SHOP.to_owned() + RULES;
    for (url, why) in [
        ("http://reviews:9080/old", "the client is sent elsewhere"),
        ("http://reviews:9080/lost", "no DestinationRule has a subset \"v9\""),
        ("http://reviews:81/", "shop/reviews has no port 81; it has 9080"),
        ("http://nobody.example/", "is the name or address of no service"),
    ] {
        let (text, carried) = traced(&all, &Method::GET, url, &[]);
        has(&text, &[why]);
        assert!(!carried, "{text}");
    }
    let empty = SHOP.replace("selector: {app: reviews}", "selector: {app: nobody}");
    let (text, carried) = traced(&empty, &Method::GET, "http://reviews:9080/", &[]);
    has(&text, &["none that is ready: 503, flag UH"]);
    assert!(!carried);
}

#[test]
fn who_is_outside_of_the_mesh_is_told_so() {
    let outside = SHOP.replace(", labels: {istio.io/dataplane-mode: ambient}", "") + RULES;
    let (text, _) = traced(&outside, &Method::GET, "http://reviews:9080/", &[]);
    has(&text, &["is outside of the mesh: no rule is about what it sends", "plain text"]);
    assert!(!text.contains("VirtualService"), "{text}");
}

#[test]
fn files_with_deployments_alone_say_what_will_run() {
    let deployment = |name: &str| {
        format!(
            "\n---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}, namespace: shop}}, spec: {{\
             selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}, version: v1}}}}, \
             spec: {{serviceAccountName: {name}-account, containers: [{{name: main, image: any}}]}}}}}}}}"
        )
    };
    let services: String = SHOP.split("---").take(2).collect::<Vec<_>>().join("---");
    let (text, carried) = traced(
        &(services + &deployment("page") + &deployment("reviews")),
        &Method::GET,
        "http://reviews:9080/",
        &[],
    );
    has(
        &text,
        &[
            "client       shop/page on no node yet, as spiffe://cluster.local/ns/shop/sa/page-account\n",
            "   endpoint     shop/reviews at 198.18.0.2:9080 on no node yet, mutual TLS, or within the node; allowed\n",
        ],
    );
    assert!(carried);
}

const WAYPOINT: &str = r"
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: way, namespace: shop},
  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: reads, namespace: shop},
  spec: {targetRefs: [{kind: Service, group: '', name: reviews}], rules: [{to: [{operation: {methods: [GET]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: by-waypoint, namespace: shop},
  spec: {selector: {matchLabels: {app: reviews}}, rules: [{from: [{source: {principals: ['*/sa/way']}}]}]}}
";

fn with_waypoint(name: &str) -> String {
    let labels = format!("labels: {{istio.io/dataplane-mode: ambient, istio.io/use-waypoint: {name}}}");
    SHOP.replace("labels: {istio.io/dataplane-mode: ambient}", &labels) + WAYPOINT
}

#[test]
fn a_waypoint_is_asked_and_calls_as_itself() {
    let shop = with_waypoint("way");
    let (text, carried) = traced(&shop, &Method::GET, "http://reviews:9080/", &[]);
    has(
        &text,
        &[
            "listener     127.0.0.1:15001 in the pod's network; its bytes go through the service's waypoint\n",
            "waypoint     shop/way at 198.18.0.1:15008 decides what follows\n",
            "policy       waypoint shop/way: allowed\n",
            "   endpoint     shop/reviews-1 at 10.0.0.2:9080 on node-1, mutual TLS, or within the node; allowed\n",
        ],
    );
    assert!(carried, "{text}");
    let (text, carried) = traced(&shop, &Method::POST, "http://reviews:9080/", &[]);
    has(&text, &["policy       waypoint shop/way: denied: "]);
    assert!(!text.contains("endpoint") && !carried, "{text}");
    let (text, carried) = traced(&shop, &Method::GET, "https://reviews:9080/", &[]);
    has(&text, &["policy       waypoint shop/way: denied: "]);
    assert!(!carried, "bytes have no method: {text}");
}

#[test]
fn nothing_gets_through_a_waypoint_that_is_refused_or_not_ready() {
    let refused = with_waypoint("nowhere");
    let unready = with_waypoint("way")
        + "---\n{apiVersion: v1, kind: Pod, metadata: {name: way-1, namespace: shop, labels: \
           {gateway.networking.k8s.io/gateway-name: way}}, spec: {containers: [{name: main, image: any}]}}\n";
    for shop in [refused, unready] {
        let (text, carried) = traced(&shop, &Method::GET, "http://reviews:9080/", &[]);
        has(&text, &["which cannot be used: ", "Nothing gets through\n"]);
        assert!(!text.contains("endpoint") && !carried, "{text}");
    }
}

#[test]
fn what_is_aborted_is_not_carried() {
    let rule = |share: &str| {
        format!(
            "{SHOP}---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: reviews, namespace: shop}}, \
             spec: {{hosts: [reviews], http: [{{fault: {{delay: {{fixedDelay: 2s, percentage: {{value: 50}}}}, \
             abort: {{httpStatus: 418, percentage: {{value: {share}}}}}}}, route: [{{destination: {{host: reviews}}}}]}}]}}}}\n"
        )
    };
    let (text, carried) = traced(&rule("100"), &Method::GET, "http://reviews:9080/", &[]);
    has(&text, &["fault        50 % wait 2s; all are answered with 418, flag FI, and not sent\n"]);
    assert!(!text.contains("endpoint") && !carried, "{text}");
    let (text, carried) = traced(&rule("0.5"), &Method::GET, "http://reviews:9080/", &[]);
    has(&text, &["; 0.5 % are answered with 418", "shop/reviews-1"]);
    assert!(carried, "{text}");
}

#[test]
fn tls_goes_by_its_name() {
    let tls = SHOP.to_owned()
        + "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: names, namespace: shop}, \
           spec: {hosts: [reviews], tls: [{match: [{sniHosts: [reviews]}], route: [{destination: {host: reviews}}]}]}}\n";
    let (text, carried) = traced(&tls, &Method::GET, "https://reviews:9080/", &[]);
    has(&text, &["its node reads the server name of its TLS", "rule         shop/names, about TLS or TCP\n"]);
    assert!(carried, "{text}");
    let (text, carried) = traced(SHOP, &Method::GET, "https://reviews:9080/", &[]);
    has(&text, &["rule         none: no rule about TLS or TCP is about it\n", "shop/reviews-2"]);
    assert!(carried, "{text}");
}

const EDGE: &str = r"
---
{apiVersion: v1, kind: Service, metadata: {name: edge, namespace: front},
  spec: {selector: {app: edge}, ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: edge, namespace: front}, spec: {selector: {matchLabels: {app: edge}},
  template: {metadata: {labels: {app: edge}}, spec: {serviceAccountName: edge-account, containers: [{name: main, image: any}]}}}}
---
{apiVersion: networking.istio.io/v1, kind: Gateway, metadata: {name: shop, namespace: front}, spec: {selector: {app: edge}, servers: [
  {port: {number: 80, name: http, protocol: HTTP}, hosts: [shop.example]},
  {port: {number: 443, name: https, protocol: HTTPS}, hosts: [shop.example], tls: {mode: SIMPLE, credentialName: shop}}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: shop, namespace: front}, spec: {
  hosts: [shop.example], gateways: [shop], http: [
    {name: all, match: [{uri: {prefix: /reviews}}], route: [{destination: {host: reviews.shop.svc.cluster.local}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: no-admin, namespace: front},
  spec: {action: DENY, selector: {matchLabels: {app: edge}}, rules: [{to: [{operation: {paths: [/reviews/admin]}}]}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: by-edge, namespace: shop},
  spec: {selector: {matchLabels: {app: reviews}}, rules: [{from: [{source: {principals: ['*/ns/front/sa/edge-account']}}]}]}}
";

#[test]
fn a_gateway_takes_it_by_a_listener() {
    let shop = SHOP.to_owned() + EDGE;
    let asked = |url: &str| traced_from("gateway/front/edge", &shop, (&Method::GET, url), &[]);
    for (url, listener) in [
        ("http://shop.example/reviews/1", "listener     port 8080 of Gateway front/shop: HTTP\n"),
        (
            "https://shop.example/reviews/1",
            "listener     port 8443 of Gateway front/shop: TLS, which is opened here\n",
        ),
    ] {
        let (text, carried) = asked(url);
        has(
            &text,
            &[
                "client       somebody outside, who asks gateway front/edge\n",
                listener,
                "policy       gateway front/edge: allowed\n",
                "rule         VirtualService front/shop, \"all\"",
                "   endpoint     shop/reviews-1 at 10.0.0.2:9080 on node-1, mutual TLS, or within the node; allowed\n",
            ],
        );
        assert!(carried, "{text}");
    }
    for (url, why) in [
        ("http://shop.example:81/", "listener     none on port 81: its listeners are on 8080, 8443\n"),
        ("http://shop.example:443/", "takes TLS, and this is plain HTTP"),
        ("https://shop.example:80/", "takes plain HTTP, and this is TLS"),
        ("https://other.example/", "no server of it is for other.example"),
        ("http://other.example/", "none is about this host: 404"),
        ("http://shop.example/", "none of those about the host matches: 404"),
        ("http://shop.example/reviews/admin", "policy       gateway front/edge: denied: "),
    ] {
        let (text, carried) = asked(url);
        has(&text, &[why]);
        assert!(!carried && !text.contains("endpoint"), "{text}");
    }
    // The pods may be called by the gateway alone.
    let (text, carried) = traced(&shop, &Method::GET, "http://reviews:9080/", &[]);
    assert!(!carried, "{text}");
}
