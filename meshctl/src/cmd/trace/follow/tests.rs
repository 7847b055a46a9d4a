//! A small shop, and what becomes of requests in it.

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
    let objects = parse(&SourceFile { name: "shop", text: yaml }).objects;
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().expect("a value"));
    }
    let url = url.parse().expect("an address");
    let asked = Asked { method, url: &url, headers: &map, from: "shop/page" };
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
