//! Whose rules are in force at a waypoint, and for whom.

use super::*;
use crate::route::Owners;

#[test]
fn rules_of_the_service_and_of_the_waypoint_are_in_force_for_everybody() {
    let rules = "
        vs shop/own
        hosts: [web]
        exportTo: ['.']
        http:
        - match: [{sourceLabels: {app: a}}]
          route: [{destination: {host: labelled}}]
        - match: [{sourceNamespace: far}]
          route: [{destination: {host: from-far}}]
        - match: [{headers: {own: {}}}]
          route: [{destination: {host: own}}]
        vs edge/of-the-waypoint
        hosts: [api.shop.svc.cluster.local]
        http: [{route: [{destination: {host: edge}}]}]
        vs far/of-a-client
        hosts: [db.shop.svc.cluster.local]
        http: [{route: [{destination: {host: far}}]}]";
    let virtuals = Virtuals::of(&virtual_services(rules), &Settings::default());
    let owners = Owners { service: "shop", waypoint: "edge" };
    let ask = |host: &str, namespace: &str, text: &str, request: &str| {
        let labels = labels(text);
        let client = Client { namespace, labels: &labels };
        let about = virtuals.about(&format!("{host}.shop.svc.cluster.local"));
        let table = RouteTable::for_waypoint(&about, client, 80, owners);
        outcome(table.as_ref(), &Request::parse(request))
    };
    let (plain, own) = ("GET http://x/", "GET http://x/\nown: 1");
    for (host, namespace, labels, request, expected) in [
        ("web", "far", "", own, "from-far.shop"),
        ("web", "near", "", own, "own.shop"),
        ("web", "near", "", plain, "404"),
        ("web", "near", "app=a", own, "labelled.shop"),
        ("api", "far", "", plain, "edge.edge"),
        // A sidecar of `far` would follow its own rule; a waypoint does not.
        ("db", "far", "", plain, "no table"),
    ] {
        let actual = ask(host, namespace, labels, request);
        assert!(actual.starts_with(expected), "{host} from {namespace} {labels}: {actual}, not {expected}");
    }
    let about = |host: &str| virtuals.about(&format!("{host}.shop.svc.cluster.local"));
    assert!(about("web").asks_for_source() && !about("api").asks_for_source());
}
