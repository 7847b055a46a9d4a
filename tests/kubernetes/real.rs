//! What a real API server makes of the objects: that of `KUBECONFIG`, or one of the programs in `KUBEBUILDER_ASSETS`; with
//! neither, the suite's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::Cluster;
use crate::manifests::{generated, program};

#[path = "../control/real.rs"]
mod api;

/// A server, and a kubeconfig for it.
pub(super) struct Server {
    client: Client,
    kubeconfig: PathBuf,
    _own: Option<Cluster>,
    _directory: TempDir,
}

impl Server {
    async fn any() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let kubeconfig = directory.path().join("kubeconfig");
        let Some(config) = api::config().await else {
            let own = Cluster::own();
            let config = api::config_of(&own.kubeconfig).await;
            let client = Client::try_from(config).expect("a client");
            return Self {
                client,
                kubeconfig: own.kubeconfig.clone(),
                _own: Some(own),
                _directory: directory,
            };
        };
        let users =
            std::env::var_os("KUBECONFIG").filter(|_| std::env::var_os("KUBEBUILDER_ASSETS").is_none());
        let kubeconfig = users.map_or(kubeconfig, PathBuf::from);
        if kubeconfig.starts_with(directory.path()) {
            fs::write(&kubeconfig, written(&config).to_string()).expect("written");
        }
        let client = Client::try_from(config).expect("a client");
        Self { client, kubeconfig, _own: None, _directory: directory }
    }

    fn api(&self, object: &Value) -> Api<DynamicObject> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let (group, version) = (group.to_owned(), version.to_owned());
        let plural = format!("{}s", kind.to_lowercase());
        let resource = ApiResource { group, version, api_version, kind, plural };
        match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    async fn has(&self, object: &Value) -> bool {
        let name = object["metadata"]["name"].as_str().expect("a name");
        self.api(object).get_opt(name).await.expect("an answer").is_some()
    }

    async fn has_nodes(&self) -> bool {
        let nodes = self.api(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {}}));
        !nodes.list(&ListParams::default()).await.expect("an answer").items.is_empty()
    }

    pub(super) async fn read(&self, object: &Value) -> Option<Value> {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let found = self.api(object).get_opt(name).await.expect("an answer");
        found.map(|it| serde_json::to_value(it).expect("JSON"))
    }

    /// Makes an object, or changes what is said of it.
    pub(super) async fn make(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let params = PatchParams::apply("test").force();
        let made = self.api(object).patch(name, &params, &Patch::Apply(object)).await;
        assert!(made.is_ok(), "{} {name}: {made:?}", object["kind"]);
    }

    pub(super) async fn remove(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let removed = self.api(object).delete(name, &DeleteParams::default()).await;
        assert!(removed.is_ok(), "{} {name}: {removed:?}", object["kind"]);
    }

    pub(super) fn meshctl(&self, words: &[&str]) {
        let mut command = Command::new(program("meshctl"));
        command.args(words).env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        let output = command.output().expect("it starts");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The server that was started here, whose certificate nobody knows.
fn written(config: &Config) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": config.cluster_url.to_string(), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "test", "user": {"token": "admin"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    })
}

/// The server checks each object and stores none; those of the mesh's namespace are looked at in `default`, as that one
/// need not be there.
#[tokio::test(flavor = "multi_thread")]
async fn every_object_of_every_profile_is_taken() {
    let server = Server::any().await;
    let params = PatchParams { dry_run: true, ..PatchParams::apply("test").force() };
    for profile in ["demo", "minimal", "ambient"] {
        let more = ["--set", "control.autoscale.enabled=true", "--set", "node.cni.enabled=true"];
        let set = format!("profile={profile}");
        for mut object in generated(&[&["--set", &set], &more[..]].concat()) {
            if object["metadata"]["namespace"].is_string() {
                object["metadata"]["namespace"] = json!("default");
            }
            let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            let taken = server.api(&object).patch(&name, &params, &Patch::Apply(&object)).await;
            assert!(taken.is_ok(), "{} {name}: {taken:?}", object["kind"]);
        }
    }
}

/// Objects alone, where a server has no nodes; else a mesh's whole life. What a cluster has of Istio's configuration stays there.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_installed_and_removed() {
    let server = Server::any().await;
    let agents = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "mesh-node", "namespace": "istio-system"}});
    assert!(
        !server.has(&agents).await,
        "this cluster has a mesh, which is not for tests to replace: `meshctl uninstall` first"
    );
    let kind = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "virtualservices.networking.istio.io"},
    });
    let has_kinds = server.has(&kind).await;
    if server.has_nodes().await {
        super::life::passes(&server).await;
    } else {
        objects_come_and_go(&server).await;
    }
    if !has_kinds {
        server.meshctl(&["uninstall", "-y", "--purge"]);
    }
}

async fn objects_come_and_go(server: &Server) {
    server.meshctl(&["install", "-y", "--no-wait", "--set", "profile=demo"]);
    let objects = generated(&["--set", "profile=demo"]);
    for object in &objects {
        assert!(server.has(object).await, "{} {}", object["kind"], object["metadata"]["name"]);
    }
    server.meshctl(&["uninstall", "-y", "--keep-nodes"]);
    let stays = |object: &&Value| {
        ["Namespace", "CustomResourceDefinition"].iter().any(|kind| object["kind"] == *kind)
    };
    for object in objects.iter().filter(|it| !stays(it)) {
        assert!(!server.has(object).await, "{} {}", object["kind"], object["metadata"]["name"]);
    }
}
