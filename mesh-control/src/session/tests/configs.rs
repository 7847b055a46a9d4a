//! Resources of traffic management go to the nodes with pods that they may be for.

use super::*;

fn rule(kind: &str, name: &str, namespace: &str, spec: &str) -> String {
    let meta = format!("{{name: {name}, namespace: {namespace}}}");
    format!("{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {meta}, spec: {{{spec}}}}}")
}

const ROUTE: &str = "http: [{route: [{destination: {host: two.b.svc.cluster.local}}]}]";

fn virtual_service(name: &str, namespace: &str, audience: &str) -> String {
    rule("VirtualService", name, namespace, &format!("{audience}, {ROUTE}"))
}

fn follow(shelf: &Shelf) -> Session {
    let mut session = Session::new(View::of(Some("n1".into())));
    session.request(ask(ResourceType::Config), shelf).unwrap();
    session
}

#[test]
fn a_node_is_told_of_rules_that_may_be_for_its_pods() {
    let mut shelf = Shelf::default();
    let mut world = world(SERVICES);
    apply(&mut world, &[POD, FAR]);
    let rules = [
        virtual_service("all", "b", "hosts: [two]"),
        virtual_service("own", "b", "hosts: [two], exportTo: ['.']"),
        virtual_service("ours", "b", "hosts: [two], exportTo: [a]"),
        virtual_service("edge", "b", "hosts: [shop.example], gateways: [front]"),
        virtual_service("both", "b", "hosts: [shop.example], gateways: [front, mesh]"),
        rule("VirtualService", "leaf", "b", ROUTE),
        rule(
            "Gateway",
            "front",
            "b",
            "servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]",
        ),
        rule("DestinationRule", "all", "b", "host: two"),
        rule("DestinationRule", "own", "b", "host: two, exportTo: ['.']"),
    ];
    apply(&mut world, &rules.each_ref().map(String::as_str));
    publish(&mut world, &mut shelf);
    let mut session = follow(&shelf);
    let mut told = all(&mut session, &shelf);
    told.sort();
    let expected = [
        "+DestinationRule/b/all",
        "+VirtualService/b/all",
        "+VirtualService/b/both",
        "+VirtualService/b/leaf",
        "+VirtualService/b/ours",
    ];
    assert_eq!(told, expected);
    // Those that are for others from now on are taken back, those that were for others are told.
    let changed = [
        virtual_service("all", "b", "hosts: [two], exportTo: ['.']"),
        virtual_service("own", "b", "hosts: [two]"),
        rule("DestinationRule", "all", "b", "host: two, exportTo: ['.']"),
        rule("DestinationRule", "own", "b", "host: two"),
    ];
    apply(&mut world, &changed.each_ref().map(String::as_str));
    publish(&mut world, &mut shelf);
    let mut told = all(&mut session, &shelf);
    told.sort();
    let expected = [
        "+DestinationRule/b/own",
        "+VirtualService/b/own",
        "-DestinationRule/b/all",
        "-VirtualService/b/all",
    ];
    assert_eq!(told, expected);
    // Whoever comes anew is told the same.
    let mut told = all(&mut follow(&shelf), &shelf);
    told.sort();
    let expected = [
        "+DestinationRule/b/own",
        "+VirtualService/b/both",
        "+VirtualService/b/leaf",
        "+VirtualService/b/ours",
        "+VirtualService/b/own",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_sidecar_and_the_defaults_of_the_mesh_narrow_them() {
    let mut shelf = Shelf::default();
    let mut world = world(SERVICES);
    let rules = [
        virtual_service("near", "a", "hosts: [one]"),
        virtual_service("far", "b", "hosts: [two]"),
        rule("DestinationRule", "near", "a", "host: one"),
        rule("DestinationRule", "far", "b", "host: two"),
    ];
    apply(&mut world, &[POD, FAR]);
    apply(&mut world, &rules.each_ref().map(String::as_str));
    publish(&mut world, &mut shelf);
    let mut session = follow(&shelf);
    assert_eq!(all(&mut session, &shelf).len(), 4);
    apply(&mut world, &[SIDECAR]);
    publish(&mut world, &mut shelf);
    let far = ["-DestinationRule/b/far", "-VirtualService/b/far"];
    assert_eq!(all(&mut session, &shelf), far);
    let sidecar =
        mesh_core::resource::ObjectKey { kind: "Sidecar", namespace: "a".into(), name: "default".into() };
    world.remove(&sidecar);
    publish(&mut world, &mut shelf);
    assert_eq!(all(&mut session, &shelf).len(), 2);
    let mesh = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, \
        data: {mesh: \"{defaultVirtualServiceExportTo: ['.'], defaultDestinationRuleExportTo: ['.']}\"}}";
    apply(&mut world, &[mesh]);
    publish(&mut world, &mut shelf);
    assert_eq!(all(&mut session, &shelf), far);
}
