use serde_json::{Value, json};

use super::{Received, ServedKind, from_json};
use crate::model::{CompileOptions, compile};
use crate::resource::{self, Level, Object, ObjectKey, Origin, SourceFile, Spec};

fn kind(key: &str) -> ServedKind {
    ServedKind::all().find(|kind| kind.key() == key).expect("a kind of the mesh")
}

fn receive(key: &str, value: &Value) -> Received {
    let name = value["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default();
    let object = ObjectKey { kind: kind(key).key(), namespace: namespace.into(), name: name.into() };
    from_json(kind(key), &value.to_string(), &Origin::in_cluster(&object))
}

fn accepted(key: &str, value: &Value) -> Object {
    let received = receive(key, value);
    assert_eq!(lines(&received), Vec::<String>::new());
    received.object.expect("a valid object")
}

fn lines(received: &Received) -> Vec<String> {
    received.findings.iter().map(ToString::to_string).collect()
}

/// A Pod as kubelets leave it, cut down.
fn pod() -> Value {
    json!({
        "metadata": {
            "name": "p", "namespace": "a", "resourceVersion": "1", "generation": 3,
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "kept": "yes"},
        },
        "spec": {
            "containers": [{
                "name": "c", "image": "i", "env": [{"name": "SECRET", "value": "hunter2"}],
                "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}], "fieldOfTheFuture": {"a": 1},
            }],
            "volumes": [{"name": "v", "emptyDir": {}}],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2025-01-01T00:00:00Z"}],
            "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 1,
            }],
        },
    })
}

#[test]
fn origins_in_a_cluster_name_the_object() {
    let mut bad = pod();
    bad["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(70000);
    let received = receive("Pod", &bad);
    assert!(received.object.is_none());
    let expected =
        "Pod a/p Error spec.containers[0].ports[0].containerPort: port 70000 is not between 1 and 65535";
    assert_eq!(lines(&received), [expected]);
}

#[test]
fn bookkeeping_is_no_change() {
    let first = accepted("Pod", &pod());
    let mut later = pod();
    later["metadata"]["resourceVersion"] = json!("2");
    later["metadata"]["managedFields"] = json!([]);
    // Events say it, items of lists do not.
    (later["apiVersion"], later["kind"]) = (json!("v1"), json!("Pod"));
    later["status"]["conditions"][0]["lastTransitionTime"] = json!("2025-01-01T00:00:07Z");
    later["status"]["containerStatuses"][0]["restartCount"] = json!(2);
    assert_eq!(accepted("Pod", &later).digest, first.digest);
    later["status"]["conditions"][0]["status"] = json!("False");
    assert_ne!(accepted("Pod", &later).digest, first.digest);
    let Spec::Pod(pod) = &first.spec else { panic!("kind") };
    let container = &pod.spec.as_ref().expect("a spec").containers[0];
    assert!(container.env.is_none() && container.ports.is_some() && container.readiness_probe.is_some());
    assert_eq!(first.meta.generation, Some(3));
    assert_eq!(first.meta.annotations.keys().collect::<Vec<_>>(), ["kept"]);
}

#[test]
fn a_node_is_little_more_than_its_addresses() {
    let node = |time: &str, labels: Value| {
        json!({
            "metadata": {"name": "n", "labels": labels, "annotations": {"changes": time}},
            "spec": {"podCIDR": "10.1.0.0/24", "providerID": "x"},
            "status": {
                "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": time}],
                "images": [{"names": ["a"], "sizeBytes": 1}], "capacity": {"cpu": "2"},
            },
        })
    };
    let first = accepted("Node", &node("2025-01-01T00:00:00Z", json!({})));
    assert_eq!(accepted("Node", &node("2025-01-01T00:05:00Z", json!({}))).digest, first.digest);
    let moved = json!({"topology.kubernetes.io/zone": "z"});
    assert_ne!(accepted("Node", &node("2025-01-01T00:00:00Z", moved)).digest, first.digest);
    let Spec::Node(node) = &first.spec else { panic!("kind") };
    let status = node.status.as_ref().expect("a status");
    assert!(status.images.is_none() && status.capacity.is_none());
    assert_eq!(status.addresses.as_ref().map(Vec::len), Some(1));
}

#[test]
fn unknown_fields_are_let_pass_where_they_are_the_cluster_s() {
    let policy = |spec: Value| {
        json!({
            "metadata": {"name": "p", "namespace": "a", "fieldOfTheFuture": 1},
            "spec": spec, "status": {"anything": 1},
        })
    };
    let good = accepted("PeerAuthentication", &policy(json!({"mtls": {"mode": "STRICT"}})));
    let mut other_status = policy(json!({"mtls": {"mode": "STRICT"}}));
    other_status["status"] = json!({});
    assert_eq!(accepted("PeerAuthentication", &other_status).digest, good.digest);
    let received = receive("PeerAuthentication", &policy(json!({"mtls": {"mod": "STRICT"}})));
    assert!(received.object.is_none());
    assert_eq!(
        lines(&received),
        ["PeerAuthentication a/p Error spec.mtls.mod: unknown field \"mod\" (did you mean \"mode\"?)"]
    );
}

#[test]
fn a_newer_gateway_api_is_read_with_warnings() {
    let class = json!({
        "metadata": {"name": "c", "fieldOfTheFuture": 1},
        "spec": {"controllerName": "mesh.io/gateway", "fieldOfTheFuture": 1}, "status": {"anything": 1},
    });
    let received = receive("GatewayClass", &class);
    assert!(received.object.is_some(), "{:?}", lines(&received));
    let unknown = "GatewayClass c Warning spec.fieldOfTheFuture: unknown field \"fieldOfTheFuture\"";
    assert!(lines(&received).iter().any(|line| line.starts_with(unknown)), "{:?}", lines(&received));
}

#[test]
fn what_is_no_object_is_an_error_of_its_own() {
    let origin = || Origin { file: "Pod a/p".into(), document: usize::MAX };
    for (text, reason) in [
        ("{", "not valid JSON"),
        ("{} {}", "not valid JSON"),
        ("[]", "expected object"),
        ("{\"metadata\":{},\"metadata\":{}}", "given twice"),
        (&"[".repeat(100), "nested deeper"),
    ] {
        let received = from_json(kind("Pod"), text, &origin());
        assert!(received.object.is_none());
        let first = received.findings.first().expect("a finding");
        assert!(first.reason.contains(reason) && first.level == Level::Error, "{first}");
    }
}

#[test]
fn a_cluster_compiles_to_the_same_model_as_its_files() {
    let text = include_str!("../testdata/all-kinds.yaml");
    let parsed = resource::parse(&SourceFile { name: "all.yaml", text });
    let mut values: Vec<Value> = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        values.push(serde::Deserialize::deserialize(document).expect("YAML"));
    }
    let mut objects = Vec::new();
    for (value, original) in values.iter_mut().zip(&parsed.objects) {
        value["metadata"]["resourceVersion"] = json!("7");
        value["metadata"]["namespace"] = json!(original.meta.namespace.as_ref());
        let key = original.key();
        let received = from_json(kind(key.kind), &value.to_string(), &Origin::in_cluster(&key));
        objects.push(received.object.unwrap_or_else(|| panic!("{key}: {:?}", received.findings)));
    }
    let options = CompileOptions { node: "n1".into(), ..CompileOptions::default() };
    let show = |objects: &[Object]| serde_json::to_value(compile(objects, &options).snapshot).expect("JSON");
    assert_eq!(parsed.objects.len(), 10);
    assert_eq!(show(&objects), show(&parsed.objects));
}
