//! A mesh in a cluster that has nodes, from its installation to nothing being left: where `KUBECONFIG` names one.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::real::Server;

/// The namespace of the pods that are looked at.
const NAMESPACE: &str = "mesh-suite";

/// A pod that answers its kubelet's probe, of the mesh's own image: a cluster without a way to registries has that one.
fn pod(name: &str) -> Value {
    let probe = json!({"httpGet": {"path": "/ready", "port": 15014}, "periodSeconds": 1});
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": "suite"}},
        "spec": {
            "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": false,
            "containers": [{
                "name": "server", "image": image(), "imagePullPolicy": "IfNotPresent",
                "command": ["mesh-control", "--config=/tmp", "--state=/tmp/state", "--monitoring=[::]:15014"],
                "ports": [{"containerPort": 15014}], "readinessProbe": probe,
                "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            }],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    })
}

/// `MESH_IMAGE`, `REPOSITORY:TAG`, where the nodes have it by another name than the chart's.
fn image() -> String {
    std::env::var("MESH_IMAGE").unwrap_or_else(|_| concat!("mesh:", env!("CARGO_PKG_VERSION")).to_owned())
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|it| it["type"] == "Ready" && it["status"] == "True")
}

fn is_captured(pod: &Value) -> bool {
    pod["metadata"]["annotations"]["ambient.istio.io/redirection"] == "enabled"
}

async fn until(server: &Server, what: &str, name: &str, holds: impl Fn(&Value) -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let found = server.read(&pod(name)).await.unwrap_or_default();
        if holds(&found) {
            return;
        }
        assert!(Instant::now() < end, "{name} is not {what}: {:#}", found["status"]);
        sleep(Duration::from_millis(500)).await;
    }
}

/// Without nodes there is nothing that could run, and [`super::real`] looks at the objects alone.
pub(super) async fn passes(server: &Server) {
    let image = image();
    let (repository, tag) = image.rsplit_once(':').expect("MESH_IMAGE is REPOSITORY:TAG");
    let [repository, tag] = [format!("image.repository={repository}"), format!("image.tag={tag}")];
    // Where this cluster is not as most are: `--set node.cni.binDir=DIR`, for one.
    let more = std::env::var("MESH_INSTALL").unwrap_or_default();
    let usual = ["--set", &repository, "--set", &tag, "--timeout", "120s"];
    let set: Vec<&str> = usual.into_iter().chain(more.split_whitespace()).collect();
    server.meshctl(&[&["install", "-y"], &set[..]].concat());
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    server.make(&namespace).await;
    server.make(&pod("before")).await;
    until(server, "ready", "before", is_ready).await;

    let enrolled = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"istio.io/dataplane-mode": "ambient"}},
    });
    server.make(&enrolled).await;
    until(server, "captured", "before", is_captured).await;
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": NAMESPACE}, "spec": {"mtls": {"mode": "STRICT"}},
    });
    server.make(&strict).await;
    // Through the CNI plugin where there is one; its kubelet's probe passes all the same.
    server.make(&pod("after")).await;
    until(server, "captured and ready", "after", |it| is_captured(it) && is_ready(it)).await;
    server.meshctl(&[&["upgrade", "-y"], &set[..]].concat());
    until(server, "captured and ready after an upgrade", "after", |it| is_captured(it) && is_ready(it)).await;

    server.meshctl(&["uninstall", "-y"]);
    until(server, "let go", "after", |it| !is_captured(it)).await;
    // Nodes that still asked the plugin's agent would start none.
    server.make(&pod("later")).await;
    until(server, "ready without the mesh", "later", is_ready).await;
    server.remove(&strict).await;
    server.remove(&namespace).await;
}
