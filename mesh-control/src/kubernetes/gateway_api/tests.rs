//! Statuses, as objects show them.

use mesh_core::resource::{SourceFile, parse};

use super::*;

const YAML: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: infra, generation: 3, uid: a}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: infra, generation: 7, uid: b}
spec: {parentRefs: [{name: gw, sectionName: http, port: 80}, {name: theirs}], rules: [{backendRefs: [{name: v1, port: 80}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: gw, namespace: infra}
spec: {ports: [{port: 80}], externalIPs: [192.0.2.7]}
---
apiVersion: v1
kind: Service
metadata: {name: v1, namespace: infra}
spec: {ports: [{port: 80}]}
";

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = parse(&SourceFile { name: "test.yaml", text: yaml });
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.findings);
    parsed.objects
}

fn told(api: &mut GatewayApi) -> BTreeMap<String, Status> {
    api.settle().into_iter().map(|(key, status)| (key.name.to_string(), status)).collect()
}

/// The conditions of a list of them: `TYPE=STATUS/REASON@GENERATION`.
fn shown(conditions: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = conditions.as_array().into_iter().flatten().map(|it| {
        format!(
            "{}={}/{}@{}",
            text(&it["type"]),
            text(&it["status"]),
            text(&it["reason"]),
            it["observedGeneration"]
        )
    });
    all.collect::<Vec<_>>().join(" ")
}

#[test]
fn gateways_and_routes_say_what_became_of_them() {
    let mut api = GatewayApi::default();
    objects(YAML).iter().for_each(|object| api.apply(object));
    let mut statuses = told(&mut api);
    let gateway = statuses.remove("gw").unwrap();
    let of_gateway: Vec<_> = gateway.conditions.iter().map(Condition::to_json).collect();
    assert_eq!(shown(&json!(of_gateway)), "Accepted=True/Accepted@3 Programmed=True/Programmed@3");
    assert_eq!(gateway.fields["addresses"], json!([{"type": "IPAddress", "value": "192.0.2.7"}]));
    let listener = &gateway.fields["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&json!("http"), &json!(1)));
    assert_eq!(listener["supportedKinds"][1], json!({"group": GROUP, "kind": "GRPCRoute"}));
    assert_eq!(
        shown(&listener["conditions"]),
        "Accepted=True/Accepted@3 Conflicted=False/NoConflicts@3 ResolvedRefs=True/ResolvedRefs@3 Programmed=True/Programmed@3"
    );
    // Of a parent that is none of ours, nothing is said.
    let parents = statuses.remove("r").unwrap().parents.unwrap();
    let [entry] = parents.entries.as_slice() else { panic!("{parents:?}") };
    let named = json!({"group": GROUP, "kind": "Gateway", "name": "gw", "sectionName": "http", "port": 80});
    assert_eq!(entry["parentRef"], named);
    assert_eq!(shown(&entry["conditions"]), "Accepted=True/Accepted@7 ResolvedRefs=True/ResolvedRefs@7");
    assert_eq!(parents.controller, "istio.io/gateway-controller");
}

#[test]
fn what_others_say_changes_it_and_what_has_left_is_told() {
    let mut api = GatewayApi::default();
    objects(YAML).iter().for_each(|object| api.apply(object));
    told(&mut api);
    assert!(told(&mut api).is_empty(), "nothing has changed");
    let service = objects(YAML).remove(3);
    api.remove(&service.key());
    let resolved = |statuses: &BTreeMap<String, Status>| {
        shown(&statuses["r"].parents.as_ref().unwrap().entries[0]["conditions"])
    };
    assert!(resolved(&told(&mut api)).contains("ResolvedRefs=False/BackendNotFound"));
    api.apply(&service);
    assert!(resolved(&told(&mut api)).contains("ResolvedRefs=True"));
    let away = YAML.replace("{name: gw, sectionName: http, port: 80}, ", "");
    api.apply(&objects(&away)[1]);
    assert!(told(&mut api)["r"].parents.as_ref().unwrap().entries.is_empty());
    api.remove(&objects(YAML)[1].key());
    assert!(!told(&mut api).contains_key("r"));
}
