//! Clusters to install into.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use mesh_tests::apiserver::{ApiServer, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The suite's own API server, and what would be controllers of a cluster with two nodes.
pub(crate) struct Cluster {
    pub(crate) server: Arc<ApiServer>,
    pub(crate) directory: TempDir,
    pub(crate) kubeconfig: PathBuf,
    controllers: Option<Controllers>,
}

struct Controllers {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Cluster {
    /// Nobody acts on what is written.
    pub(crate) fn own() -> Self {
        let server = Arc::new(ApiServer::start(&Settings::default()).expect("a server"));
        let directory = tempfile::tempdir().expect("a directory");
        let kubeconfig = directory.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server.url()}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(&kubeconfig, config.to_string()).expect("written");
        Self { server, directory, kubeconfig, controllers: None }
    }

    /// Whatever runs pods has them ready after a moment.
    pub(crate) fn alive() -> Self {
        let mut cluster = Self::own();
        let is_over = Arc::new(AtomicBool::new(false));
        let (server, over) = (Arc::clone(&cluster.server), Arc::clone(&is_over));
        let thread = spawn(move || {
            while !over.load(Ordering::Relaxed) {
                act(&server);
                sleep(Duration::from_millis(50));
            }
        });
        cluster.controllers = Some(Controllers { is_over, thread });
        cluster
    }

    /// `Kind name` of all that is there and is labelled as a part of the mesh.
    pub(crate) fn parts(&self) -> Vec<String> {
        let kinds = [
            "Namespace",
            "ServiceAccount",
            "ClusterRole",
            "ClusterRoleBinding",
            "Role",
            "RoleBinding",
            "ConfigMap",
            "Service",
            "Deployment",
            "DaemonSet",
            "PodDisruptionBudget",
            "HorizontalPodAutoscaler",
            "ValidatingWebhookConfiguration",
        ];
        let part = |it: &Value| it["metadata"]["labels"]["app.kubernetes.io/part-of"] == "mesh";
        let all = kinds.into_iter().flat_map(|kind| {
            let objects = self.server.list(kind).into_iter().filter(part);
            objects.map(move |it| format!("{kind} {}", it["metadata"]["name"].as_str().unwrap_or_default()))
        });
        all.collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(Controllers { is_over, thread }) = self.controllers.take() {
            is_over.store(true, Ordering::Relaxed);
            // Its panic has been printed where it happened.
            let _ = thread.join();
        }
    }
}

fn act(server: &ApiServer) {
    for mut deployment in server.list("Deployment") {
        let generation = deployment["metadata"]["generation"].clone();
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let status = json!({
            "observedGeneration": generation, "replicas": wanted, "updatedReplicas": wanted, "availableReplicas": wanted,
        });
        if deployment["status"] != status {
            deployment["status"] = status;
            server.put(&deployment);
        }
    }
    for mut webhook in server.list("ValidatingWebhookConfiguration") {
        if webhook["webhooks"][0]["clientConfig"]["caBundle"].is_null() {
            webhook["webhooks"][0]["clientConfig"]["caBundle"] = json!("Q0E=");
            server.put(&webhook);
        }
    }
    for mut set in server.list("DaemonSet") {
        let generation = set["metadata"]["generation"].clone();
        let status = json!({
            "observedGeneration": generation, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2,
            "numberAvailable": 2,
        });
        if set["status"] != status {
            set["status"] = status;
            server.put(&set);
        }
        if set["metadata"]["name"] == "mesh-node-cleanup" {
            ["a", "b"].iter().for_each(|node| server.put(&cleaner(node)));
        }
    }
}

/// A pod that has cleaned its node, and is started again as pods of daemon sets are.
fn cleaner(node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("mesh-node-cleanup-{node}"), "namespace": "istio-system",
            "labels": {"app": "mesh-node-cleanup"},
        },
        "spec": {"nodeName": node, "containers": [{"name": "mesh-node", "image": "mesh"}]},
        "status": {"containerStatuses": [{
            "name": "mesh-node", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 0}},
        }]},
    })
}
