//! What is made for a Gateway, to the letter; and what users change about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;
use crate::resource::{self, Level, Object, Origin, ServedKind, SourceFile, from_json};

const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: gw
  namespace: infra
  uid: 6a1f
  labels: {team: edge}
  annotations: {note: ours, kubectl.kubernetes.io/last-applied-configuration: '{}'}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: http-again, port: 80, protocol: HTTP, hostname: a.test}
  - {name: api.v1, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c}]}}
  - {name: other, port: 80, protocol: TCP}
  - {name: raw, port: 9000, protocol: TCP}
";
const WAYPOINT: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: shop, uid: 7b20, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

fn objects(yaml: &str) -> Vec<Object> {
    let parsed = resource::parse(&SourceFile { name: "test.yaml", text: yaml });
    let errors: Vec<_> = parsed.findings.iter().filter(|it| it.level == Level::Error).collect();
    assert!(errors.is_empty(), "{errors:?} in\n{yaml}");
    parsed.objects
}

fn settings() -> Settings {
    Settings {
        image: "mesh:0.1.0".to_owned(),
        control: "https://mesh-control.istio-system.svc:15012".to_owned(),
        trust_domain: "cluster.local".to_owned(),
    }
}

/// What there is to do about the one Gateway in `yaml`.
fn plan(yaml: &str) -> Plan {
    let objects = objects(yaml);
    let mut facts = Facts::default();
    objects.iter().for_each(|object| _ = facts.apply(object));
    let mut plans = Resources::of(&objects).plans(&facts, &settings());
    assert_eq!(plans.len(), 1, "{plans:?}");
    plans.pop_first().expect("one").1
}

/// What is made, by kind.
fn made(yaml: &str) -> BTreeMap<&'static str, Value> {
    let plan = plan(yaml);
    let Plan::Objects(made) = plan else { panic!("{plan:?}") };
    for one in &made {
        assert_eq!(
            (&one.object["metadata"]["name"], &one.object["kind"]),
            (&json!(one.name), &json!(one.kind.name()))
        );
    }
    made.into_iter().map(|one| (one.kind.name(), one.object)).collect()
}

fn invalid(yaml: &str) -> String {
    let plan = plan(yaml);
    let Plan::Invalid(fault) = plan else { panic!("{plan:?}") };
    fault.to_string()
}

/// GATEWAY with parameters, and the ConfigMap that it names.
fn with_parameters(data: &str) -> String {
    let gateway = GATEWAY.replace(
        "  listeners:",
        "  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: options}}\n  listeners:",
    );
    format!(
        "{gateway}---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: options, namespace: infra}}\ndata:\n{data}"
    )
}

/// Holds what is made to a file beside this one. The environment variable `UPDATE_GOLDEN` writes it anew.
fn golden(name: &str, yaml: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gateway_api/deploy/golden").join(name);
    let Plan::Objects(made) = plan(yaml) else { panic!("it is deployed") };
    let documents: Vec<_> =
        made.iter().map(|one| serde_yaml_ng::to_string(&one.object).expect("YAML")).collect();
    let text = documents.join("---\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &text).expect("written");
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap_or_default(), "{}", path.display());
}

#[test]
fn a_gateway_gets_what_runs_it() {
    golden("gateway.yaml", GATEWAY);
}

#[test]
fn a_waypoint_gets_what_runs_it() {
    golden("waypoint.yaml", WAYPOINT);
}

#[test]
fn pods_are_told_where_the_control_plane_is() {
    let service = "---
apiVersion: v1
kind: Service
metadata: {name: mesh-control, namespace: istio-system}
spec: {clusterIP: 10.96.7.8, ports: [{port: 15012}]}
";
    for yaml in [GATEWAY, WAYPOINT] {
        let made = made(&format!("{yaml}{service}"));
        let container = &made["Deployment"]["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["env"], json!([{"name": "MESH_CONTROL_SERVICE_HOST", "value": "10.96.7.8"}]));
        let headless = made_without_address(&format!("{yaml}{service}"));
        assert!(headless["Deployment"]["spec"]["template"]["spec"]["containers"][0].get("env").is_none());
    }
}

fn made_without_address(yaml: &str) -> BTreeMap<&'static str, Value> {
    made(&yaml.replace("10.96.7.8", "None"))
}

#[test]
fn every_object_is_what_kubernetes_takes() {
    for yaml in [GATEWAY, WAYPOINT] {
        // A patch that changes nothing has each of them looked at.
        let all =
            ["deployment", "service", "serviceAccount", "horizontalPodAutoscaler", "podDisruptionBudget"];
        let data = all.map(|key| format!("  {key}: '{{}}'\n")).concat();
        let namespace = if yaml == GATEWAY { "infra" } else { "shop" };
        let yaml = yaml.replace(
            "  listeners:",
            "  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: options}}\n  listeners:",
        );
        let map = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: options, namespace: {namespace}}}\ndata:\n{data}"
        );
        assert_eq!(made(&format!("{yaml}---\n{map}")).len(), 5);
    }
}

#[test]
fn names_are_istio_s_unless_the_user_gives_others() {
    let names = |yaml: &str| {
        let Plan::Objects(made) = plan(yaml) else { panic!("it is deployed") };
        made.iter().map(|one| (one.name.clone(), one.may_be_foreign)).collect::<Vec<_>>()
    };
    let of = |name: &str| (name.to_owned(), false);
    assert_eq!(names(GATEWAY), [of("gw-istio"), of("gw-istio"), of("gw-istio")]);
    assert_eq!(names(WAYPOINT), [of("way"), of("way"), of("way")]);
    let given = GATEWAY.replace(
        "note: ours",
        "gateway.istio.io/name-override: edge, gateway.istio.io/service-account: door",
    );
    assert_eq!(names(&given), [("door".to_owned(), true), of("edge"), of("edge")]);
    let wrong = GATEWAY.replace("note: ours", "gateway.istio.io/name-override: Edge");
    assert!(invalid(&wrong).starts_with("annotation gateway.istio.io/name-override: \"Edge\" is no name"));
    let long = "a".repeat(63);
    let (name, _) = names(&GATEWAY.replace("name: gw", &format!("name: {long}"))).remove(0);
    assert!(name.len() == 63 && name.starts_with("aaaa") && !name.ends_with("a-istio"), "{name}");
}

#[test]
fn a_class_may_be_another_s_or_name_parameters_for_all() {
    let class = |controller: &str| {
        format!(
            "{}---\napiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {{name: wide}}\n\
             spec: {{controllerName: {controller}, parametersRef: {{group: '', kind: ConfigMap, name: all, namespace: mesh}}}}\n\
             ---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: all, namespace: mesh}}\n\
             data: {{service: '{{spec: {{type: NodePort, externalTrafficPolicy: Local}}}}'}}\n",
            GATEWAY.replace("gatewayClassName: istio", "gatewayClassName: wide")
        )
    };
    let ours = class("istio.io/gateway-controller");
    let service = made(&ours)["Service"].clone();
    assert_eq!(
        (&service["metadata"]["name"], &service["spec"]["type"]),
        (&json!("gw-wide"), &json!("NodePort"))
    );
    // The Gateway's own come after those of its class.
    let own = ours.replace(
        "  listeners:",
        "  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: own}}\n  listeners:",
    ) + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: own, namespace: infra}\ndata: {service: '{spec: {type: ClusterIP}}'}\n";
    let service = made(&own)["Service"].clone();
    assert_eq!(
        (&service["spec"]["type"], &service["spec"]["externalTrafficPolicy"]),
        (&json!("ClusterIP"), &json!("Local"))
    );
    assert_eq!(plan(&class("example.com/other")), Plan::Objects(Vec::new()));
    let unknown = objects(&GATEWAY.replace("gatewayClassName: istio", "gatewayClassName: wide"));
    assert!(
        Resources::of(&unknown).plans(&Facts::default(), &settings()).is_empty(),
        "it may be about to exist"
    );
}

#[test]
fn what_a_user_deploys_is_left_to_him() {
    let asks = |addresses: &str| {
        plan(&GATEWAY.replace("  listeners:", &format!("  addresses: [{addresses}]\n  listeners:")))
    };
    assert_eq!(asks("{type: Hostname, value: ingress.edge.svc.cluster.local}"), Plan::Objects(Vec::new()));
    assert_eq!(asks("{value: 192.0.2.1}, {value: 192.0.2.2}"), Plan::Objects(Vec::new()));
    let Plan::Objects(made) = asks("{value: 192.0.2.1}") else { panic!("it is deployed") };
    let service = made.iter().find(|one| one.kind == GeneratedKind::Service).expect("a Service");
    assert_eq!(service.object["spec"]["loadBalancerIP"], "192.0.2.1");
}

#[test]
fn infrastructure_marks_everything_in_place_of_what_the_gateway_is_marked_with() {
    let yaml = GATEWAY.replace(
        "  listeners:",
        "  infrastructure: {labels: {key1: value1}, annotations: {key2: value2}}\n  listeners:",
    );
    let made = made(&yaml);
    let template = made["Deployment"]["spec"]["template"].clone();
    for metadata in made.values().chain([&template]).map(|object| &object["metadata"]) {
        assert_eq!(metadata["labels"]["key1"], "value1", "{metadata}");
        assert_eq!(metadata["annotations"]["key2"], "value2", "{metadata}");
        assert!(
            metadata["labels"]["team"].is_null() && metadata["annotations"]["note"].is_null(),
            "{metadata}"
        );
        assert_eq!(metadata["labels"]["gateway.networking.k8s.io/gateway-name"], "gw");
    }
}

#[test]
fn the_service_is_of_the_type_that_an_annotation_names() {
    let of_type =
        |sort: &str| GATEWAY.replace("note: ours", &format!("networking.istio.io/service-type: {sort}"));
    assert_eq!(made(&of_type("ClusterIP"))["Service"]["spec"]["type"], "ClusterIP");
    assert_eq!(
        invalid(&of_type("clusterip")),
        "annotation networking.istio.io/service-type: \"clusterip\" is none of LoadBalancer, NodePort, ClusterIP"
    );
}

#[test]
fn parameters_change_what_is_made() {
    let made = made(&with_parameters(
        r"
  deployment: |
    spec:
      replicas: 3
      template:
        spec:
          containers:
          - name: istio-proxy
            resources: {requests: {cpu: 2}}
            env: [{name: A, value: b}]
  service: |
    spec: {externalTrafficPolicy: Local}
  horizontalPodAutoscaler: |
    spec: {minReplicas: 2, maxReplicas: 5}
  podDisruptionBudget: |
    spec: {minAvailable: 1}
",
    ));
    let deployment = &made["Deployment"]["spec"];
    let container = &deployment["template"]["spec"]["containers"][0];
    assert_eq!((&deployment["replicas"], &container["image"]), (&json!(3), &json!("mesh:0.1.0")));
    assert_eq!(container["resources"], json!({"requests": {"cpu": 2, "memory": "128Mi"}}));
    assert_eq!(made["Service"]["spec"]["externalTrafficPolicy"], "Local");
    let scaler = &made["HorizontalPodAutoscaler"]["spec"];
    assert_eq!((&scaler["minReplicas"], &scaler["maxReplicas"]), (&json!(2), &json!(5)));
    assert_eq!(scaler["scaleTargetRef"]["name"], "gw-istio");
    assert_eq!(made["PodDisruptionBudget"]["spec"]["minAvailable"], 1);
}

#[test]
fn bad_parameters_are_named() {
    for (data, why) in [
        ("  deploymnt: '{}'", "unknown key deploymnt: it may have deployment, service,"),
        ("  service: '- a'", "service: must be a part of a Service, in YAML"),
        ("  service: '{a: ]'", "service: did not find expected node"),
        ("  service: '{spec: {typ: ClusterIP}}'", "service: there is no field spec.typ"),
        ("  deployment: '{spec: {replicas: many}}'", "deployment: invalid type: string \"many\""),
        ("  deployment: '{metadata: {name: mine}}'", "deployment: metadata.name must not be changed"),
        (
            "  deployment: '{metadata: {ownerReferences: null}}'",
            "deployment: metadata.ownerReferences must not be changed",
        ),
        (
            "  deployment: '{spec: {$retainKeys: [a]}}'",
            "deployment: spec: the directive $retainKeys is not supported",
        ),
    ] {
        let found = invalid(&with_parameters(data));
        assert!(found.starts_with(&format!("ConfigMap infra/options: {why}")), "{found}");
    }
    let nowhere = with_parameters("  service: '{}'")
        .replace("name: options, namespace: infra", "name: other, namespace: infra");
    assert_eq!(invalid(&nowhere), "ConfigMap options is no ConfigMap that is there");
}

#[test]
fn a_name_that_no_label_can_have_is_said_to_be_one() {
    let long = GATEWAY.replace("name: gw", &format!("name: {}", ["a".repeat(60), "b".repeat(60)].join(".")));
    assert!(matches!(plan(&long), Plan::Impossible(why) if why.starts_with("its name has 121 characters")));
}

#[test]
fn listeners_of_others_have_ports_too_and_no_name_is_there_twice() {
    let yaml = format!(
        "{}---\napiVersion: gateway.networking.k8s.io/v1\nkind: ListenerSet\nmetadata: {{name: more, namespace: infra}}\n\
         spec: {{parentRef: {{name: gw}}, listeners: [{{name: http, port: 8080, protocol: HTTP}}, {{name: probes, port: 15021, protocol: HTTP}}]}}\n",
        GATEWAY.replace("  listeners:", "  allowedListeners: {namespaces: {from: Same}}\n  listeners:")
    );
    let ports = made(&yaml)["Service"]["spec"]["ports"].clone();
    let names: Vec<_> = ports
        .as_array()
        .expect("a list")
        .iter()
        .map(|port| format!("{}/{}", port["name"], port["port"]).replace('"', ""))
        .collect();
    assert_eq!(names, ["status-port/15021", "http/80", "api-v1/443", "raw/9000", "http-8080/8080"]);
}

/// An object as an API server has it.
fn in_cluster(kind: &str, object: &Value) -> Object {
    let kind = ServedKind::all().find(|known| known.key() == kind).expect("a kind");
    let origin = Origin { file: "f".into(), document: 1 };
    from_json(kind, &object.to_string(), &origin).object.expect("a valid object")
}

#[test]
fn a_gateway_is_programmed_once_what_was_made_for_it_has_an_address_and_a_pod() {
    let condition = |yaml: &str, facts: &Facts| {
        let objects = objects(yaml);
        let report = Resources::of(&objects);
        let report = report.report(facts);
        let status = report.gateways.values().next().expect("a status");
        let programmed = status.conditions.iter().find(|it| it.sort == "Programmed").expect("one");
        format!("{} {:?}", programmed.reason, status.addresses)
    };
    for (yaml, namespace, name, uid, pending) in
        [(GATEWAY, "infra", "gw", "6a1f", "[\"192.0.2.7\"]"), (WAYPOINT, "shop", "way", "7b20", "[]")]
    {
        let mut facts = Facts::default();
        assert_eq!(condition(yaml, &facts), "AddressNotAssigned []");
        let owner = json!([{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "name": name, "uid": uid}]);
        let mut service = json!({
            "metadata": {"name": "any", "namespace": namespace, "ownerReferences": owner},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]},
        });
        assert!(facts.apply(&in_cluster("Service", &service)));
        assert_eq!(condition(yaml, &facts), "AddressNotAssigned []");
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}});
        facts.apply(&in_cluster("Service", &service));
        assert_eq!(condition(yaml, &facts), format!("Pending {pending}"));
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": namespace, "labels": {"gateway.networking.k8s.io/gateway-name": name}},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False"}]},
        });
        assert!(!facts.apply(&in_cluster("Pod", &pod)));
        pod["status"]["conditions"][0]["status"] = json!("True");
        assert!(facts.apply(&in_cluster("Pod", &pod)) && !facts.apply(&in_cluster("Pod", &pod)));
        assert_eq!(condition(yaml, &facts), "Programmed [\"192.0.2.7\"]");
        // Whatever stands in the way of the rest is told, but where it works it works.
        let gateway = objects(yaml).remove(0).key();
        assert!(facts.set_obstacle(&gateway, Some("something is there")));
        assert_eq!(condition(yaml, &facts), "Programmed [\"192.0.2.7\"]");
        assert!(facts.remove(&in_cluster("Pod", &pod).key()));
        assert_eq!(condition(yaml, &facts), format!("NoResources {pending}"));
        assert!(facts.set_obstacle(&gateway, None) && !facts.set_obstacle(&gateway, None));
        assert_eq!(condition(yaml, &facts), format!("Pending {pending}"));
    }
}

#[test]
fn a_waypoint_says_what_becomes_of_its_listeners() {
    let yaml = WAYPOINT.replace(
        "[{name: mesh, port: 15008, protocol: HBONE}]",
        "[{name: mesh, port: 15008, protocol: HBONE}, {name: far, port: 15009, protocol: HBONE}, {name: http, port: 80, protocol: HTTP}]",
    );
    let objects = objects(&yaml);
    let report = Resources::of(&objects);
    let report = report.report(&Facts::default());
    let status = report.gateways.values().next().expect("a status");
    assert_eq!((status.conditions[0].holds, status.conditions[0].reason), (true, "ListenersNotValid"));
    let reasons: Vec<_> = status.listeners.iter().map(|it| it.conditions[0].reason).collect();
    assert_eq!(reasons, ["Accepted", "PortUnavailable", "UnsupportedProtocol"]);
    let Plan::Objects(made) = plan(&yaml) else { panic!("it is deployed") };
    let service = made.iter().find(|one| one.kind == GeneratedKind::Service).expect("a Service");
    assert_eq!(service.object["spec"]["ports"].as_array().expect("a list").len(), 2);
}

#[test]
fn a_config_map_that_changes_is_news() {
    let mut facts = Facts::default();
    let map = |text: &str| -> Object {
        let map = ConfigMap {
            data: Some(BTreeMap::from([("service".to_owned(), text.to_owned())])),
            ..ConfigMap::default()
        };
        let mut map = serde_json::to_value(map).expect("JSON");
        map["metadata"] = json!({"name": "m", "namespace": "a"});
        in_cluster("ConfigMap", &map)
    };
    assert!(facts.apply(&map("{}")) && !facts.apply(&map("{}")) && facts.apply(&map("{spec: {}}")));
}
