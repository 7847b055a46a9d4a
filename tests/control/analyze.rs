//! `meshctl analyze --kubernetes`, as users run it, over the suite's own API server or a real one.

use std::fs;
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_tests::apiserver::{ApiServer, Settings};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Cluster, unique};
use crate::control::{manifests, program_at};
use crate::meshctl::Meshctl;

/// A cluster with Istio's kinds, a namespace in it, and a way for somebody to see it.
struct Bed {
    cluster: Cluster,
    namespace: String,
    directory: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let cluster = Cluster::any().await;
        for (plural, group) in
            [("virtualservices", "networking.istio.io"), ("gateways", "networking.istio.io")]
        {
            for definition in manifests(&format!("crds/{plural}.{group}.yaml")) {
                let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
                let answer = cluster.post(path, &definition).await;
                assert!([201, 409].contains(&answer.status), "{}", answer.body);
            }
            cluster.get_soon(&format!("/apis/{group}/v1/{plural}")).await;
        }
        let namespace = cluster.namespace().await;
        let bed = Self { cluster, namespace, directory: tempfile::tempdir().expect("a directory") };
        let spec = json!({"ports": [{"name": "http", "port": 80}], "selector": {"app": "reviews"}});
        bed.create("/api/v1", "services", &json!({"metadata": {"name": "reviews"}, "spec": spec})).await;
        let route = json!([{"route": [{"destination": {"host": "review"}}]}]);
        let spec = json!({"hosts": ["reviews"], "http": route});
        bed.create(ISTIO, "virtualservices", &json!({"metadata": {"name": "x"}, "spec": spec})).await;
        bed
    }

    async fn create(&self, version: &str, plural: &str, object: &Value) {
        let mut object = object.clone();
        if version == ISTIO {
            object["apiVersion"] = json!("networking.istio.io/v1");
            object["kind"] = json!(if plural == "gateways" { "Gateway" } else { "VirtualService" });
        }
        let path = format!("{version}/namespaces/{}/{plural}", self.namespace);
        self.cluster.post(&path, &object).await.expect(201);
    }

    /// Analyzes as the administrator, or as the owner of a token.
    fn analyze(&self, token: Option<&str>, args: &[&str]) -> Output {
        let words = ["analyze", "-n", &self.namespace];
        Meshctl::of(&self.cluster, token).run(&[&words, args].concat())
    }

    /// Writes a file with a `VirtualService` for `reviews`.
    fn file(&self, name: &str, host: &str) -> String {
        let route = json!([{"route": [{"destination": {"host": host}}]}]);
        let metadata = json!({"name": name, "namespace": self.namespace});
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": metadata, "spec": {"hosts": [format!("{name}.example.com")], "http": route},
        });
        let path = self.directory.path().join(format!("{name}.json"));
        fs::write(&path, object.to_string()).expect("written");
        path.to_str().expect("text").to_owned()
    }

    /// A service account with these rules, and a token of it.
    async fn account(&self, rules: &Value) -> String {
        let (namespace, role) = (&self.namespace, unique("reader"));
        self.create("/api/v1", "serviceaccounts", &json!({"metadata": {"name": "sa"}})).await;
        let access = "/apis/rbac.authorization.k8s.io/v1";
        let made = json!({"metadata": {"name": role}, "rules": rules});
        self.cluster.post(&format!("{access}/clusterroles"), &made).await.expect(201);
        let binding = json!({
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": "sa", "namespace": namespace}],
        });
        self.cluster.post(&format!("{access}/clusterrolebindings"), &binding).await.expect(201);
        let paths = ["clusterroles", "clusterrolebindings"].map(|it| format!("{access}/{it}/{role}"));
        self.cluster.made.lock().expect("no panic").extend(paths);
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/sa/token");
        let made = self.cluster.post(&path, &json!({"spec": {}})).await.expect(201);
        made["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// A Gateway with pods, that names a Secret.
    async fn gateway(&self) {
        let containers = json!([{"name": "c", "image": "i"}]);
        let metadata = json!({"name": "edge", "labels": {"istio": "edge"}});
        let pod = json!({"metadata": metadata, "spec": {"containers": containers}});
        self.create("/api/v1", "pods", &pod).await;
        let server = json!({
            "port": {"number": 443, "name": "https", "protocol": "HTTPS"}, "hosts": ["edge.example.com"],
            "tls": {"mode": "SIMPLE", "credentialName": "edge"},
        });
        let spec = json!({"selector": {"istio": "edge"}, "servers": [server]});
        self.create(ISTIO, "gateways", &json!({"metadata": {"name": "edge"}, "spec": spec})).await;
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// The lines with this code.
fn lines(output: &Output, code: &str) -> Vec<String> {
    text(&output.stdout).lines().filter(|line| line.contains(code)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_analyzed_and_nothing_in_it_is_touched() {
    let bed = Bed::new().await;
    let namespace = &bed.namespace;
    if let Some(server) = &bed.cluster.ours {
        server.requests();
    }
    let output = bed.analyze(None, &[]);
    let wrong = format!(
        "VirtualService {namespace}/x Error [IST0101] spec.http[0].route[0].destination.host: there is no service \
         \"review\" (a short name is a Service of namespace {namespace})"
    );
    assert_eq!(lines(&output, "IST0101"), [wrong], "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("meshctl: reading the cluster at http"),
        "{}",
        text(&output.stderr)
    );
    if let Some(server) = &bed.cluster.ours {
        let requests = server.requests();
        let is_read = |it: &String| ["list ", "get ", "GET "].iter().any(|verb| it.starts_with(verb));
        assert!(requests.iter().all(is_read) && requests.len() > 5, "{requests:?}");
        // Nobody names a Secret, so none is read.
        assert!(
            !requests.iter().any(|it| it.contains("secrets") || it.contains("configmaps")),
            "{requests:?}"
        );
    }

    let output = bed.analyze(None, &["-o", "log"]);
    let start = format!("Error [IST0101] (VirtualService {namespace}/x) spec.http[0]");
    assert!(text(&output.stdout).lines().any(|line| line.starts_with(&start)), "{}", text(&output.stdout));

    let output = bed.analyze(None, &["-o", "json", "--output-threshold", "Error"]);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let [row] = &rows[..] else { panic!("{rows:?}") };
    let origin = json!({
        "file": format!("VirtualService {namespace}/x"), "document": null,
        "kind": "VirtualService", "namespace": namespace, "name": "x",
    });
    assert_eq!((&row["code"], &row["origin"]), (&json!("IST0101"), &origin));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_analyzed_as_if_they_were_applied() {
    let bed = Bed::new().await;
    // It mends what is wrong in the cluster, and leads to a Service that only the cluster has.
    let output = bed.analyze(None, &[&bed.file("x", "reviews")]);
    assert_eq!(lines(&output, "Error"), Vec::<String>::new(), "{}", text(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
    // Another one changes nothing about it, and has something wrong itself.
    let output = bed.analyze(None, &[&bed.file("y", "nowhere")]);
    let wrong = lines(&output, "IST0101");
    let [live, file] = &wrong[..] else { panic!("{wrong:?}") };
    assert!(live.starts_with("VirtualService ") && file.starts_with("y.json:1 "), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secrets_that_gateways_name_are_looked_at() {
    let bed = Bed::new().await;
    bed.gateway().await;
    let missing = lines(&bed.analyze(None, &[]), "there is no Secret \"edge\"");
    assert!(matches!(&missing[..], [line] if line.contains(" [IST0101] ")), "{missing:?}");
    let secret = json!({"metadata": {"name": "edge"}, "stringData": {"password": "hidden"}});
    bed.create("/api/v1", "secrets", &secret).await;
    let output = bed.analyze(None, &[]);
    assert_eq!(lines(&output, "IST0161").len(), 1, "{}", text(&output.stdout));
    assert!(!text(&output.stdout).contains("hidden"));
    // Who may not read it hears that, and nothing about what is in it.
    let rule = |group: &str| json!({"apiGroups": [group], "resources": ["*"], "verbs": ["list"]});
    let groups =
        ["", "apps", "discovery.k8s.io", "networking.istio.io", "security.istio.io", "telemetry.istio.io"];
    let gateways = ["gateway.networking.k8s.io", "extensions.istio.io"];
    let rules: Vec<_> = groups.iter().chain(&gateways).map(|group| rule(group)).collect();
    let token = bed.account(&json!(rules)).await;
    let output = bed.analyze(Some(&token), &[]);
    let said = text(&output.stderr);
    assert!(said.contains(&format!("Secret {}/edge: may not be read", bed.namespace)), "{said}");
    assert_eq!(lines(&output, "IST0161").len() + lines(&output, "no Secret").len(), 0);
    assert_eq!(lines(&output, "IST0101").len(), 1, "{}", text(&output.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_is_named() {
    let bed = Bed::new().await;
    for definition in manifests("crds/envoyfilters.networking.istio.io.yaml") {
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
        let answer = bed.cluster.post(path, &definition).await;
        assert!([201, 409].contains(&answer.status), "{}", answer.body);
    }
    let version = "/apis/networking.istio.io/v1alpha3";
    bed.cluster.get_soon(&format!("{version}/envoyfilters")).await;
    assert_eq!(lines(&bed.analyze(None, &[]), "EnvoyFilter"), Vec::<String>::new());
    // Whatever is in it is taken as it is.
    let object = json!({
        "apiVersion": "networking.istio.io/v1alpha3", "kind": "EnvoyFilter", "metadata": {"name": "lua"},
        "spec": {"configPatches": [{"applyTo": "HTTP_FILTER", "patch": {"value": {"any": ["thing"]}}}]},
    });
    bed.create(version, "envoyfilters", &object).await;
    let output = bed.analyze(None, &[]);
    let named = lines(&output, "EnvoyFilter");
    let [line] = &named[..] else { panic!("{}", text(&output.stdout)) };
    let start = format!("EnvoyFilter {}/lua Warning", bed.namespace);
    assert!(line.starts_with(&start) && line.contains("EnvoyFilter is not supported"), "{line}");
    assert!(line.contains("there is no Envoy to patch"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_fails_the_whole() {
    let bed = Bed::new().await;
    let token = bed.account(&json!([])).await;
    let output = bed.analyze(Some(&token), &[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert!(text(&output.stderr).contains("403 Forbidden"), "{}", text(&output.stderr));
    let output = bed.analyze(Some("nobody's"), &[]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert!(text(&output.stderr).contains("401 Unauthorized"), "{}", text(&output.stderr));
}

#[test]
fn a_cluster_is_known_by_its_certificate() {
    let server = ApiServer::start(&Settings { tls: true, ..Settings::default() }).expect("a server");
    let directory = tempfile::tempdir().expect("a directory");
    let kubeconfig = directory.path().join("kubeconfig");
    let analyze = |roots: &str| {
        let cluster = json!({"server": server.url(), "certificate-authority-data": STANDARD.encode(roots)});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "other",
            "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "this", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(&kubeconfig, config.to_string()).expect("written");
        let mut command = Command::new(program_at("meshctl"));
        // Found as kubectl finds it.
        command.env("KUBECONFIG", &kubeconfig).args(["analyze", "--context", "this"]);
        command.stdin(Stdio::null()).output().expect("meshctl starts")
    };
    let output = analyze(server.certificate().expect("TLS"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let output = analyze(&other.cert.pem());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("certificate"), "{}", text(&output.stderr));
}

const ISTIO: &str = "/apis/networking.istio.io/v1";
