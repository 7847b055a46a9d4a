//! What tests set up in a cluster, and take down again: the same steps through the API of the suite's own server and of
//! a real one, where nobody can put a thing in its place behind the API server's back.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use http::Method;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::api::{Answer, Cluster, send, unique};
use crate::control::{manifests, program_at};
use crate::real;

/// Held by a cluster that a whole control plane works in, if it is a real one: of those, one at a time writes what is
/// the same for a whole cluster.
pub(crate) static ALONE: Mutex<()> = Mutex::const_new(());

impl Cluster {
    /// A cluster with all kinds of the mesh, and a mesh's own namespace in it with the roles of the manifest.
    pub(crate) async fn mesh() -> Self {
        Self::any().await.with_mesh().await
    }

    /// [`Self::mesh`] on the suite's own server whatever the environment says, for tests that break the server.
    pub(crate) async fn own_mesh() -> Self {
        Self::own().with_mesh().await
    }

    async fn with_mesh(mut self) -> Self {
        if self.ours.is_none() {
            self.alone = Some(ALONE.lock().await);
            self.root = unique("mesh");
        }
        self.kinds().await;
        let root = self.root.clone();
        self.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": root}})).await;
        for document in manifests("rbac/mesh-control.yaml") {
            self.put(&self.of_this_mesh(document)).await;
        }
        self
    }

    /// A document of the installation, for a mesh whose own namespace is this one's: what belongs to no namespace has
    /// that namespace's name in its own.
    pub(crate) fn of_this_mesh(&self, mut document: Value) -> Value {
        let cluster_role =
            |value: &Value| value["kind"].as_str().is_some_and(|it| it.starts_with("ClusterRole"));
        let own = |name: &Value| json!(format!("{}-{}", name.as_str().unwrap_or_default(), self.root));
        if document["metadata"]["namespace"].is_string() {
            document["metadata"]["namespace"] = json!(self.root);
        }
        if self.ours.is_none() && cluster_role(&document) {
            document["metadata"]["name"] = own(&document["metadata"]["name"]);
        }
        if self.ours.is_none() && cluster_role(&document["roleRef"]) {
            document["roleRef"]["name"] = own(&document["roleRef"]["name"]);
        }
        let subjects = document.get_mut("subjects").and_then(Value::as_array_mut);
        for subject in subjects.into_iter().flatten() {
            subject["namespace"] = json!(self.root);
        }
        document
    }

    /// Every kind of `deploy/crds`, defined where it is not and served. They stay: others may use them by then.
    pub(crate) async fn kinds(&self) {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");
        for file in std::fs::read_dir(directory).expect("the definitions") {
            let file = file.expect("a file").file_name();
            for definition in manifests(&format!("crds/{}", file.to_str().expect("text"))) {
                self.define(&definition).await;
            }
        }
    }

    /// A kind, unless it is there.
    pub(crate) async fn define(&self, definition: &Value) {
        let answer = self.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
        assert!([201, 409].contains(&answer.status), "{}", answer.body);
        let spec = &definition["spec"];
        let versions = spec["versions"].as_array().expect("versions").iter();
        for version in versions.filter(|version| version["served"] == true) {
            let [group, version, plural] = [&spec["group"], &version["name"], &spec["names"]["plural"]]
                .map(|text| text.as_str().expect("text"));
            self.get_soon(&format!("/apis/{group}/{version}/{plural}")).await;
        }
    }

    /// A namespace of its own in the mesh.
    pub(crate) async fn member(&self) -> String {
        let name = self.namespace().await;
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.put(&namespace).await;
        name
    }

    /// A node that nobody else has. No machine stands behind it.
    pub(crate) async fn node(&self) -> String {
        let name = unique("n");
        self.post("/api/v1/nodes", &json!({"metadata": {"name": name}})).await.expect(201);
        self.made.lock().expect("no panic").push(format!("/api/v1/nodes/{name}"));
        name
    }

    /// Writes an object, status and all, as users, controllers and kubelets together would. What a `Pod` needs is made
    /// first: its account, and a node, so that nobody schedules it.
    pub(crate) async fn put(&self, object: &Value) {
        let mut object = object.clone();
        if object["kind"] == "Pod" {
            self.prepare(&mut object).await;
        }
        let path = path_of(&object);
        if !path.contains("/namespaces/") || object["kind"] == "Namespace" {
            self.made.lock().expect("no panic").push(path.clone());
        }
        let status = object.as_object_mut().and_then(|fields| fields.remove("status"));
        let mut metadata = object["metadata"].clone();
        if let Some(fields) = metadata.as_object_mut() {
            fields.retain(|key, _| ["name", "namespace", "labels", "annotations"].contains(&key.as_str()));
        }
        object["metadata"] = metadata;
        let force = |path: &str| format!("{path}?fieldManager=test&force=true");
        let sort = "apply-patch+yaml";
        self.patch(&force(&path), sort, &object).await.expect_one_of(&[200, 201]);
        if let Some(status) = status {
            let (version, kind) = (&object["apiVersion"], &object["kind"]);
            let part = json!({"apiVersion": version, "kind": kind, "metadata": {"name": object["metadata"]["name"]}, "status": status});
            self.patch(&force(&format!("{path}/status")), sort, &part).await.expect(200);
        }
    }

    async fn prepare(&self, pod: &mut Value) {
        let namespace = pod["metadata"]["namespace"].as_str().expect("a namespace");
        if let Some(account) = pod["spec"]["serviceAccountName"].as_str() {
            let accounts = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
            let made = self.post(&accounts, &json!({"metadata": {"name": account}})).await;
            assert!([201, 409].contains(&made.status), "{}", made.body);
        }
        if pod["spec"]["nodeName"].is_null() {
            let node = self.nobody.get_or_init(|| self.node()).await;
            pod["spec"]["nodeName"] = json!(node);
        }
    }

    /// An object as it stands there.
    pub(crate) async fn read(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let answer = self.get(&path(kind, namespace, name)).await;
        (answer.status != 404).then(|| answer.expect(200))
    }

    /// Deletes an object at once, if it is there. Returns when it is gone; there may be another of its name by then.
    pub(crate) async fn remove(&self, kind: &str, namespace: &str, name: &str) {
        let path = path(kind, namespace, name);
        let Some(object) = self.read(kind, namespace, name).await else { return };
        let uid = &object["metadata"]["uid"];
        let deleted = self.delete_with(&path, &json!({"gracePeriodSeconds": 0})).await;
        deleted.expect_one_of(&[200, 202, 404]);
        let gone = async || {
            let left = self.read(kind, namespace, name).await;
            left.is_none_or(|left| left["metadata"]["uid"] != *uid)
        };
        soon("the end of an object", gone).await;
    }

    /// A token of a service account; `spec` is that of a `TokenRequest`.
    pub(crate) async fn token(&self, namespace: &str, account: &str, spec: &Value) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let made = self.post(&path, &json!({"spec": spec})).await.expect(201);
        made["status"]["token"].as_str().expect("a token").to_owned()
    }
}

impl Drop for Cluster {
    /// Takes away what was made in a real cluster. One that is started for the tests ends with them, but others of them
    /// may still run.
    fn drop(&mut self) {
        if self.ours.is_some() {
            return;
        }
        let made = std::mem::take(&mut *self.made.lock().expect("no panic"));
        let (config, mesh) = (self.config.clone(), self.alone.is_some());
        let clean = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(clean(config, &made, mesh));
        };
        // A test may end on a runtime, where nothing may wait.
        if std::thread::spawn(clean).join().is_err() {
            complain("what the test has made stays in the cluster");
        }
    }
}

impl Answer {
    fn expect_one_of(self, statuses: &[u16]) -> Value {
        assert!(statuses.contains(&self.status), "{}: {}", self.status, self.body);
        self.body
    }
}

/// Waits for something to come true that takes a question; fails after a minute.
pub(crate) async fn soon(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done().await {
        assert!(Instant::now() < deadline, "{what} did not come");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Deletes what was made, the last first.
async fn clean(config: kube::Config, made: &[String], mesh: bool) {
    let client = Client::try_from(config).expect("a client");
    if mesh {
        forget_roots(&client).await;
    }
    for path in made.iter().rev() {
        let answer = send(&client, Method::DELETE, path, "application/json", Vec::new()).await;
        if ![200, 202, 404, 409].contains(&answer.status) {
            complain(&format!("{path} stays in the cluster: {}", answer.body));
        }
    }
}

/// A test is not failed by what it leaves behind, but whoever runs it is told.
fn complain(text: &str) {
    // Without a place for complaints there is nobody to read them.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A control plane leaves its roots in every namespace, so those that are nobody's own are cleaned, too.
async fn forget_roots(client: &Client) {
    let list = "/api/v1/configmaps?fieldSelector=metadata.name%3Distio-ca-root-cert";
    let found = send(client, Method::GET, list, "application/json", Vec::new()).await;
    for map in found.body["items"].as_array().into_iter().flatten() {
        let namespace = map["metadata"]["namespace"].as_str().unwrap_or_default();
        let path = path("ConfigMap", namespace, "istio-ca-root-cert");
        send(client, Method::DELETE, &path, "application/json", Vec::new()).await;
    }
}

fn path_of(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    path(&text(&object["kind"]), &text(&metadata["namespace"]), &text(&metadata["name"]))
}

/// Where an object is.
fn path(kind: &str, namespace: &str, name: &str) -> String {
    let plural = kind.to_lowercase();
    let plural = match (plural.strip_suffix('y'), plural.ends_with('s')) {
        (Some(stem), _) if !stem.ends_with('a') => format!("{stem}ies"),
        (_, true) => format!("{plural}es"),
        _ => format!("{plural}s"),
    };
    let version = match kind {
        "AuthorizationPolicy" | "PeerAuthentication" => "/apis/security.istio.io/v1",
        "Gateway" | "VirtualService" | "WorkloadEntry" | "WorkloadGroup" => "/apis/networking.istio.io/v1",
        "GatewayClass" => "/apis/gateway.networking.k8s.io/v1",
        "Lease" => "/apis/coordination.k8s.io/v1",
        "ClusterRole" | "ClusterRoleBinding" | "Role" | "RoleBinding" => "/apis/rbac.authorization.k8s.io/v1",
        "ValidatingWebhookConfiguration" => "/apis/admissionregistration.k8s.io/v1",
        _ => "/api/v1",
    };
    match namespace {
        "" => format!("{version}/{plural}/{name}"),
        namespace => format!("{version}/namespaces/{namespace}/{plural}/{name}"),
    }
}

/// What tests do in a cluster that is not theirs alone: a process of its own, found by its kubeconfig.
#[tokio::test]
async fn what_a_test_makes_in_a_cluster_is_taken_away_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let kubeconfig = directory.path().join("kubeconfig");
    let mut command = Command::new(program_at("testbed"));
    command.args(["tool", "apiserver"]).arg(&kubeconfig).stdin(Stdio::piped());
    let mut process = command.spawn().expect("it starts");
    soon("its kubeconfig", async || kubeconfig.is_file()).await;
    let config = real::config_of(&kubeconfig).await;
    let left = Cluster::at(config.clone());
    let cluster = Cluster::at(config).with_mesh().await;
    let (namespace, node) = (cluster.member().await, cluster.node().await);
    cluster.put(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Running"},
    }))
    .await;
    let pod = left.read("Pod", &namespace, "p").await.expect("the pod");
    assert_eq!(pod["status"]["phase"], "Running");
    let (root, role) = (cluster.root.clone(), format!("mesh-control-{}", cluster.root));
    assert!(left.read("ClusterRole", "", &role).await.is_some());
    // Its own token is no administrator's.
    let client = cluster.client_of(&cluster.token(&root, "mesh-control", &json!({})).await);
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let refused = send(&client, Method::DELETE, accounts, "application/json", Vec::new()).await;
    assert_eq!(refused.refused(403), "Forbidden");
    drop(cluster);
    for (kind, namespace, name) in [
        ("Namespace", "", namespace.as_str()),
        ("Namespace", "", root.as_str()),
        ("Node", "", node.as_str()),
        ("ClusterRole", "", role.as_str()),
        ("ClusterRoleBinding", "", role.as_str()),
    ] {
        assert_eq!(left.read(kind, namespace, name).await, None, "{kind} {name}");
    }
    drop(process.stdin.take());
    assert!(process.wait().expect("it ends").success());
}
