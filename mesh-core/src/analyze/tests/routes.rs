//! Routes of the Gateway API.

use super::lines;

const EDGE: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: edge, namespace: book}, spec: {gatewayClassName: istio,
  listeners: [{name: web, port: 80, protocol: HTTP, hostname: '*.example'}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: theirs, namespace: book}, spec: {gatewayClassName: other,
  listeners: [{name: web, port: 80, protocol: HTTP}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: bad, namespace: book}, spec: {ports: [{port: 0}]}}
---
";

/// What there is to say about a route with these parents, hosts and backends.
fn of(parents: &str, hosts: &str, backend: &str) -> Vec<String> {
    let route = format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: book}}, \
         spec: {{parentRefs: [{parents}], hostnames: [{hosts}], rules: [{{backendRefs: [{backend}]}}]}}}}"
    );
    let all = lines(&[EDGE, &route].concat());
    let about = |line: &String| line.contains("parentRefs") || line.contains("spec.rules");
    all.into_iter()
        .filter(about)
        .map(|line| line.split_once(' ').map_or("", |(_, it)| it).to_owned())
        .collect()
}

const GOOD: &str = "{name: reviews, port: 9080}";

#[test]
fn a_route_that_is_attached_and_leads_somewhere_is_fine() {
    assert_eq!(of("{name: edge}", "a.example", GOOD), [""; 0]);
    assert_eq!(of("{name: theirs}", "a.other", "{name: nobody, port: 1}"), [""; 0], "somebody else's");
    let service = "{group: '', kind: Service, name: reviews}";
    assert_eq!(of(service, "", GOOD), [""; 0]);
    let refused = "{name: bad, port: 80}";
    assert_eq!(of("{name: edge}", "a.example", refused), [""; 0], "what is refused is said once");
}

#[test]
fn a_route_that_is_not_attached_says_where_and_why() {
    let found = of("{name: edge}, {name: lost}", "a.example", GOOD);
    let [lost] = &found[..] else { panic!("{found:#?}") };
    assert!(lost.contains("[IST0101] spec.parentRefs[1].name: there is no Gateway \"book/lost\""), "{lost}");
    let found = of("{name: edge, sectionName: none}", "a.example", GOOD);
    let [none] = &found[..] else { panic!("{found:#?}") };
    assert!(none.contains("[IST0101] spec.parentRefs[0]: the route is not attached: "), "{none}");
    let found = of("{name: edge}", "a.other", GOOD);
    let [host] = &found[..] else { panic!("{found:#?}") };
    assert!(host.contains("[IST0133] spec.parentRefs[0]: the route is not attached: "), "{host}");
}

#[test]
fn a_route_that_leads_nowhere_says_so_once() {
    let found = of(
        "{name: edge}, {group: '', kind: Service, name: reviews}",
        "a.example",
        "{name: nobody, port: 80}",
    );
    let [nobody] = &found[..] else { panic!("{found:#?}") };
    assert!(nobody.contains("[IST0101] spec.rules: ") && nobody.contains("book/nobody"), "{nobody}");
}
