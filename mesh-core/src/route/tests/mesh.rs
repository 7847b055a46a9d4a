use super::*;

/// Services on every port that a case asks for.
const SERVICES: [&str; 4] = [
    "reviews.default.svc.cluster.local",
    "ratings.default.svc.cluster.local",
    "core.other.svc.cluster.local",
    "www.example.org",
];

fn ask(rules: &str, client: &str, request: &str) -> String {
    let (namespace, text) = client.split_once(' ').unwrap_or((client, ""));
    let labels = labels(text);
    let request = Request::parse(request);
    let address = ["10.0.0.1".parse().unwrap()];
    let services: Vec<_> = SERVICES
        .iter()
        .enumerate()
        .map(|(at, host)| ServiceName { host, addresses: if at == 0 { &address } else { &[] } })
        .collect();
    let virtuals = Virtuals::of(&virtual_services(rules), &Settings::default());
    let client = Client { namespace, labels: &labels };
    let table = RouteTable::for_mesh(&virtuals, client, request.port, &services);
    outcome(table.as_ref(), &request)
}

#[test]
fn smoke() {
    let rules = "
        vs default/reviews
        hosts: [reviews]
        http:
        - match: [{uri: {prefix: /a}, headers: {end-user: {exact: jason}}}]
          route: [{destination: {host: reviews, subset: v2}}]
        - route: [{destination: {host: reviews, subset: v1}}]";
    assert_eq!(ask(rules, "default", "GET http://reviews:9080/a\nend-user: jason"), "reviews/v2");
    assert_eq!(ask(rules, "default", "GET http://reviews:9080/a"), "reviews/v1");
    assert_eq!(ask(rules, "default", "GET http://10.0.0.1:9080/a"), "reviews/v1");
    assert_eq!(ask(rules, "other", "GET http://reviews:9080/a"), "no host");
    assert_eq!(ask(rules, "other", "GET http://reviews.default:9080/a"), "reviews/v1");
}
