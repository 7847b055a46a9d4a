use std::collections::BTreeMap;

use super::{Attachments, Verdict};
use crate::resource::{Object, ObjectKey, Origin, ServedKind, from_json};

/// A cluster with namespaces `shop` and `edge`, a waypoint in each, and what `objects` add.
fn cluster(objects: &[&str]) -> Attachments {
    let mut attachments = Attachments::new("istio-system");
    let own = [
        "Namespace: {metadata: {name: shop, labels: {team: a}}}",
        "Namespace: {metadata: {name: edge}}",
        "GatewayClass: {metadata: {name: istio-waypoint}, spec: {controllerName: istio.io/mesh-controller}}",
        "GatewayClass: {metadata: {name: nginx}, spec: {controllerName: example.com/nginx}}",
        &waypoint("shop/way", "istio-waypoint", "Same"),
        &waypoint("edge/way", "istio-waypoint", "All"),
    ];
    for text in own.iter().chain(objects) {
        attachments.apply(&object(text));
    }
    attachments
}

fn waypoint(name: &str, class: &str, from: &str) -> String {
    let (namespace, name) = name.split_once('/').expect("a namespace");
    format!(
        "KubernetesGateway: {{metadata: {{name: {name}, namespace: {namespace}}}, spec: {{gatewayClassName: {class}, \
         listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}, \
         status: {{addresses: [{{value: 10.0.0.1}}]}}}}"
    )
}

/// A Service of namespace `shop`.
fn service(labels: &str) -> String {
    format!(
        "Service: {{metadata: {{name: web, namespace: shop, labels: {{{labels}}}}}, spec: {{ports: [{{port: 80}}]}}}}"
    )
}

fn policy(namespace: &str, targets: &str) -> String {
    format!(
        "AuthorizationPolicy: {{metadata: {{name: p, namespace: {namespace}}}, spec: {{targetRefs: [{targets}], rules: [{{}}]}}}}"
    )
}

/// `KIND: OBJECT` in YAML.
fn object(text: &str) -> Object {
    let parsed: BTreeMap<String, serde_json::Value> = serde_yaml_ng::from_str(text).expect("YAML");
    let (kind, value) = parsed.into_iter().next().expect("an object");
    let kind = ServedKind::all().find(|known| known.key() == kind).expect("a kind");
    let received = from_json(kind, &value.to_string(), &Origin { file: "f".into(), document: 1 });
    received.object.unwrap_or_else(|| panic!("{:?}", received.findings))
}

fn key(kind: &'static str, namespace: &str, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: namespace.into(), name: name.into() }
}

fn bound(attachments: &Attachments) -> Option<(bool, &'static str)> {
    attachments.bound(&key("Service", "shop", "web")).map(|verdict| (verdict.holds, verdict.reason))
}

fn accepted(attachments: &Attachments, namespace: &str) -> Verdict {
    attachments.accepted(&key("AuthorizationPolicy", namespace, "p")).expect("a verdict")
}

#[test]
fn a_service_is_bound_by_its_label_or_its_namespaces() {
    let labelled = "Namespace: {metadata: {name: shop, labels: {istio.io/use-waypoint: way}}}";
    let away = "Namespace: {metadata: {name: shop, labels: {istio.io/use-waypoint: way, istio.io/use-waypoint-namespace: edge}}}";
    let yes = Some((true, "WaypointAccepted"));
    for (namespace, labels, expected) in [
        ("", "", None),
        ("", "istio.io/use-waypoint: way", yes),
        ("", "istio.io/use-waypoint: ''", None),
        ("", "istio.io/use-waypoint-namespace: edge", None),
        ("", "istio.io/use-waypoint: way, istio.io/use-waypoint-namespace: edge", yes),
        (labelled, "", yes),
        (labelled, "istio.io/use-waypoint: none", None),
        (labelled, "istio.io/use-waypoint: other", Some((false, "WaypointIsNotReady"))),
        (away, "", yes),
        (away, "istio.io/use-waypoint: way", yes),
    ] {
        let service = service(labels);
        let objects = [namespace, &service];
        let objects: Vec<_> = objects.into_iter().filter(|text| !text.is_empty()).collect();
        let attachments = cluster(&objects);
        assert_eq!(bound(&attachments), expected, "{namespace} {labels}");
    }
    let attachments = cluster(&[away, &service("istio.io/use-waypoint: way")]);
    let message = attachments.bound(&key("Service", "shop", "web")).expect("a verdict").message;
    assert_eq!(message, "Successfully attached to waypoint shop/way");
    let labels = "istio.io/use-waypoint: way, istio.io/ingress-use-waypoint: 'true'";
    let attachments = cluster(&[&service(labels)]);
    let message = attachments.bound(&key("Service", "shop", "web")).expect("a verdict").message;
    assert!(message.ends_with("Requests from gateways go through it, too"), "{message}");
}

#[test]
fn a_service_that_is_not_bound_is_told_why() {
    let asks = |namespace: &str| {
        service(&format!("istio.io/use-waypoint: way, istio.io/use-waypoint-namespace: {namespace}"))
    };
    let selector = "{from: Selector, selector: {matchLabels: {team: a}}}";
    let selects = waypoint("edge/way", "istio-waypoint", "Same").replace("{from: Same}", selector);
    let selects_other = selects.replace("team: a", "team: b");
    let unserved = waypoint("edge/way", "istio-waypoint", "All").replace("{value: 10.0.0.1}", "");
    let labelled = |traffic: &str| {
        let gateway = waypoint("edge/way", "istio-waypoint", "All");
        gateway.replace(
            "namespace: edge}",
            &format!("namespace: edge, labels: {{istio.io/waypoint-for: {traffic}}}}}"),
        )
    };
    let class = "GatewayClass: {metadata: {name: istio-waypoint, labels: {istio.io/waypoint-for: workload}}, \
                 spec: {controllerName: istio.io/mesh-controller}}";
    let other_listener = waypoint("edge/way", "istio-waypoint", "Same").replace(
        "listeners: [",
        "listeners: [{name: open, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}, ",
    );
    for (gateway, expected) in [
        (waypoint("edge/way", "istio-waypoint", "All"), "WaypointAccepted"),
        (waypoint("edge/way", "istio-waypoint", "Same"), "AttachmentDenied"),
        (selects, "WaypointAccepted"),
        (selects_other, "AttachmentDenied"),
        // Only the listener that takes the mesh's connections admits services.
        (other_listener, "AttachmentDenied"),
        (unserved, "WaypointIsNotReady"),
        (waypoint("edge/way", "nginx", "All"), "WaypointIsNotReady"),
        (labelled("workload"), "UnsupportedTrafficType"),
        (labelled("none"), "UnsupportedTrafficType"),
        (labelled("all"), "WaypointAccepted"),
        (class.to_owned(), "UnsupportedTrafficType"),
    ] {
        let attachments = cluster(&[&gateway, &asks("edge")]);
        let verdict = attachments.bound(&key("Service", "shop", "web")).expect("a verdict");
        assert_eq!(verdict.reason, expected, "{gateway}: {}", verdict.message);
        assert_eq!(verdict.holds, expected == "WaypointAccepted");
        assert!(verdict.message.contains("edge/way"), "{}", verdict.message);
    }
}

#[test]
fn targets_are_found_where_istio_looks_for_them() {
    let bound = service("istio.io/use-waypoint: way");
    let entry = "ServiceEntry: {metadata: {name: db, namespace: shop, labels: {istio.io/use-waypoint: way}}, \
                 spec: {hosts: [db.example], resolution: DNS, ports: [{name: tcp, number: 5432}]}}";
    let elsewhere = bound.replace("namespace: shop", "namespace: edge");
    let to_service = "{kind: Service, name: web}";
    let to_entry = "{group: networking.istio.io, kind: ServiceEntry, name: db}";
    let to_gateway =
        |name: &str| format!("{{group: gateway.networking.k8s.io, kind: Gateway, name: {name}}}");
    let to_class =
        |name: &str| format!("{{group: gateway.networking.k8s.io, kind: GatewayClass, name: {name}}}");
    let ingress = waypoint("shop/ingress", "nginx", "Same");
    for (namespace, target, objects, expected) in [
        ("shop", to_service, vec![&*bound], "Accepted"),
        ("shop", to_service, vec![], "TargetNotFound"),
        ("shop", to_service, vec![&*elsewhere], "TargetNotFound"),
        ("shop", to_service, vec![&*service("")], "AncestorNotBound"),
        ("shop", to_service, vec![&*service("istio.io/use-waypoint: gone")], "AncestorNotBound"),
        ("shop", to_entry, vec![entry], "Accepted"),
        ("shop", to_entry, vec![], "TargetNotFound"),
        ("shop", &to_gateway("way"), vec![], "Accepted"),
        ("shop", &to_gateway("gone"), vec![], "TargetNotFound"),
        ("shop", &to_gateway("ingress"), vec![&*ingress], "UnsupportedValue"),
        ("istio-system", &to_class("istio-waypoint"), vec![], "Accepted"),
        ("istio-system", &to_class("nginx"), vec![], "Invalid"),
        ("istio-system", &to_class("gone"), vec![], "TargetNotFound"),
        ("shop", &to_class("istio-waypoint"), vec![], "Invalid"),
    ] {
        let policy = policy(namespace, target);
        let objects: Vec<_> = objects.into_iter().chain([&*policy]).collect();
        let served = accepted(&cluster(&objects), namespace);
        assert_eq!(
            (served.holds, served.reason),
            (expected == "Accepted", expected),
            "{target}: {}",
            served.message
        );
        assert_eq!(served.holds, !served.message.starts_with("not enforced: "), "{}", served.message);
    }
}

#[test]
fn several_targets_come_to_one_verdict() {
    let (web, gone) = ("{kind: Service, name: web}", "{kind: Service, name: gone}");
    let way = "{group: gateway.networking.k8s.io, kind: Gateway, name: way}";
    let plain = "{kind: Service, name: plain}";
    let bound = service("istio.io/use-waypoint: way");
    let unbound = service("").replace("name: web", "name: plain");
    for (targets, holds, reason) in [
        (vec![web, way], true, "Accepted"),
        (vec![web, gone], true, "PartiallyInvalid"),
        (vec![gone, gone], false, "TargetNotFound"),
        (vec![gone, plain], false, "Invalid"),
    ] {
        let policy = policy("shop", &targets.join(", "));
        let verdict = accepted(&cluster(&[&bound, &unbound, &policy]), "shop");
        assert_eq!((verdict.holds, verdict.reason), (holds, reason), "{}", verdict.message);
        assert_eq!(verdict.message.matches("; ").count(), 1, "{}", verdict.message);
    }
}

#[test]
fn what_may_have_changed_is_looked_at_again_and_nothing_else() {
    let web = service("istio.io/use-waypoint: way");
    let other = service("").replace("name: web", "name: other");
    let policy = policy("shop", "{kind: Service, name: web}");
    let mut attachments = cluster(&[&web, &other, &policy]);
    let mut changed = |apply: &str| {
        if let Some(name) = apply.strip_prefix("- ") {
            let (kind, name) = name.split_once(' ').expect("a name");
            let kind =
                ["Service", "KubernetesGateway"].into_iter().find(|known| *known == kind).expect("a kind");
            attachments.remove(&key(kind, "shop", name));
        } else if !apply.is_empty() {
            attachments.apply(&object(apply));
        }
        let changed = attachments.take_changed();
        changed.iter().map(|key| format!("{} {}", key.kind, key.name)).collect::<Vec<_>>().join(", ")
    };
    let everything = "AuthorizationPolicy p, Service other, Service web";
    assert_eq!(changed(""), everything);
    assert_eq!(changed(""), "");
    assert_eq!(changed(&other), "Service other");
    assert_eq!(changed(&web), "AuthorizationPolicy p, Service web");
    assert_eq!(changed(&policy), "AuthorizationPolicy p");
    assert_eq!(changed("Namespace: {metadata: {name: shop, labels: {team: a}}}"), "", "the same again");
    assert_eq!(changed("Namespace: {metadata: {name: shop, labels: {team: b}}}"), everything);
    assert_eq!(changed(&waypoint("shop/way", "istio-waypoint", "Same")), "", "the same again");
    assert_eq!(changed(&waypoint("shop/way", "istio-waypoint", "All")), everything);
    assert_eq!(changed("- KubernetesGateway way"), everything);
    assert_eq!(changed("- Service web"), "AuthorizationPolicy p");
    assert_eq!(changed("- Service other"), "");
    // A policy that has no target any more is told so once.
    let selects = "AuthorizationPolicy: {metadata: {name: p, namespace: shop}, spec: {rules: [{}]}}";
    assert_eq!(changed(selects), "AuthorizationPolicy p");
    assert_eq!(changed(selects), "");
    assert_eq!(attachments.accepted(&key("AuthorizationPolicy", "shop", "p")), None);
}

#[test]
fn a_waypoint_is_ready_with_an_address_or_a_pod_that_is() {
    let without = waypoint("shop/way", "istio-waypoint", "Same").replace("{value: 10.0.0.1}", "");
    let mut attachments = cluster(&[&without, &service("istio.io/use-waypoint: way")]);
    assert_eq!(bound(&attachments), Some((false, "WaypointIsNotReady")));
    let message = attachments.bound(&key("Service", "shop", "web")).expect("a verdict").message;
    assert!(message.ends_with("connections are refused until it has"), "{message}");
    let pod = |ready: &str, labels: &str| {
        format!(
            "Pod: {{metadata: {{name: p, namespace: shop, labels: {{{labels}}}}}, spec: {{containers: [{{name: c, image: i}}]}}, \
             status: {{conditions: [{{type: Ready, status: '{ready}'}}]}}}}"
        )
    };
    let ours = "gateway.networking.k8s.io/gateway-name: way";
    attachments.take_changed();
    for (ready, labels, expected) in [
        ("False", ours, false),
        ("True", "", false),
        ("True", "gateway.networking.k8s.io/gateway-name: other", false),
        ("True", ours, true),
        ("True", ours, true),
        ("False", ours, false),
    ] {
        let before = bound(&attachments);
        attachments.apply(&object(&pod(ready, labels)));
        let now = bound(&attachments);
        assert_eq!(now.map(|(holds, _)| holds), Some(expected), "{ready} {labels}");
        let changed = attachments.take_changed();
        assert!(before == now || changed.contains(&key("Service", "shop", "web")), "{ready} {labels}");
    }
    attachments.apply(&object(&pod("True", ours)));
    attachments.remove(&key("Pod", "shop", "p"));
    assert_eq!(bound(&attachments), Some((false, "WaypointIsNotReady")));
}

#[test]
fn a_canary_that_cannot_be_is_none() {
    let asks = |labels: &str, weight: &str| {
        service(&format!("istio.io/use-waypoint: way, {labels}")).replace(
            "namespace: shop, ",
            &format!("namespace: shop, annotations: {{istio.io/use-waypoint-canary-weight: '{weight}'}}, "),
        )
    };
    let edge = "istio.io/use-waypoint-canary: way, istio.io/use-waypoint-canary-namespace: edge";
    for (labels, weight, reason, percent) in [
        (edge, "30", "WaypointAccepted", Some(30)),
        (edge, "0", "WaypointAccepted", Some(0)),
        (edge, "101", "CanaryInvalidWeight", None),
        (edge, "many", "CanaryInvalidWeight", None),
        ("istio.io/use-waypoint-canary: way", "30", "CanarySameAsPrimary", None),
        ("istio.io/use-waypoint-canary: gone", "30", "WaypointIsNotReady", None),
    ] {
        let attachments = cluster(&[&asks(labels, weight)]);
        assert_eq!(bound(&attachments), Some((true, reason)), "{labels} {weight}");
        let waypoint = attachments.waypoint(&key("Service", "shop", "web")).expect("a waypoint");
        assert_eq!(waypoint.canary.map(|(_, percent)| percent), percent, "{labels} {weight}");
    }
}

#[test]
fn whoever_runs_a_waypoint_is_not_bound_to_it() {
    let shop = "Namespace: {metadata: {name: shop, labels: {istio.io/use-waypoint: way}}}";
    let own = service("").replace("name: web", "name: way");
    let labelled = service("gateway.networking.k8s.io/gateway-name: way");
    let attachments = cluster(&[shop, &own, &labelled]);
    assert_eq!(attachments.bound(&key("Service", "shop", "way")), None);
    assert_eq!(attachments.bound(&key("Service", "shop", "web")), None);
}

#[test]
fn of_policies_with_targets_only_some_kinds_are_enforced() {
    let bound = service("istio.io/use-waypoint: way");
    let telemetry = "Telemetry: {metadata: {name: p, namespace: shop}, \
                     spec: {targetRefs: [{kind: Service, name: web}]}}";
    let attachments = cluster(&[&bound, telemetry]);
    let verdict = attachments.accepted(&key("Telemetry", "shop", "p")).expect("a verdict");
    assert!(!verdict.message.contains("do not enforce"), "{}", verdict.message);
    let tokens = "RequestAuthentication: {metadata: {name: p, namespace: shop}, \
                  spec: {targetRefs: [{kind: Service, name: web}]}}";
    let attachments = cluster(&[&bound, tokens]);
    let verdict = attachments.accepted(&key("RequestAuthentication", "shop", "p")).expect("a verdict");
    assert!(!verdict.message.contains("do not enforce"), "{}", verdict.message);
}
