//! What `meshctl manifest generate` prints.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::de::DeserializeOwned;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::cluster::Cluster;

/// A program that was built beside this one.
pub(crate) fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a program");
    let path = own.ancestors().nth(2).expect("a target directory").join(name);
    assert!(path.is_file(), "there is no {} (`cargo build -p {name}` makes it)", path.display());
    path
}

/// Runs `meshctl` with nothing on its standard input.
pub(crate) fn meshctl(words: &[&str]) -> Output {
    Command::new(program("meshctl")).args(words).stdin(Stdio::null()).output().expect("it starts")
}

/// What it prints when it must succeed.
pub(crate) fn printed(words: &[&str]) -> String {
    let output = meshctl(words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The objects of a profile.
pub(crate) fn generated(words: &[&str]) -> Vec<Value> {
    let text = printed(&[&["manifest", "generate"], words].concat());
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    documents.map(|document| Value::deserialize(document).expect("YAML")).collect()
}

/// What the type of Kubernetes' published schema has no field for is lost on the way through it.
fn passes_through<T: DeserializeOwned + Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone()).expect("its type");
    assert_eq!(serde_json::to_value(typed).expect("JSON"), *document);
}

/// Numbers in schemas become fractions on the way, so it is only looked whether there is a way.
fn parses<T: DeserializeOwned>(document: &Value) {
    drop::<T>(serde_json::from_value(document.clone()).expect("its type"));
}

fn is_what_kubernetes_takes(document: &Value) {
    let check = match document["kind"].as_str().expect("a kind") {
        "ClusterRole" => passes_through::<ClusterRole>,
        "ClusterRoleBinding" => passes_through::<ClusterRoleBinding>,
        "ConfigMap" => passes_through::<ConfigMap>,
        "CustomResourceDefinition" => parses::<CustomResourceDefinition>,
        "DaemonSet" => passes_through::<DaemonSet>,
        "Deployment" => passes_through::<Deployment>,
        "HorizontalPodAutoscaler" => passes_through::<HorizontalPodAutoscaler>,
        "Namespace" => passes_through::<Namespace>,
        "PodDisruptionBudget" => passes_through::<PodDisruptionBudget>,
        "Role" => passes_through::<Role>,
        "RoleBinding" => passes_through::<RoleBinding>,
        "Service" => passes_through::<Service>,
        "ServiceAccount" => passes_through::<ServiceAccount>,
        "ValidatingWebhookConfiguration" => passes_through::<ValidatingWebhookConfiguration>,
        kind => return assert_eq!(kind, "one that is looked at"),
    };
    check(document);
    let namespace = document["metadata"]["namespace"].as_str();
    assert!(namespace.is_none_or(|namespace| namespace == "istio-system"), "{document}");
}

#[test]
fn every_profile_is_what_kubernetes_takes() {
    let all = "control.autoscale.enabled=true";
    for profile in ["default", "demo", "minimal", "ambient", "empty"] {
        let profile = format!("profile={profile}");
        for more in
            [&[][..], &["--set", all, "--set", "node.cni.enabled=true", "--set", "image.pullSecrets[0]=s"]]
        {
            let objects = generated(&[&["--set", &profile], more].concat());
            objects.iter().for_each(is_what_kubernetes_takes);
            assert!(objects.len() >= 18, "{profile}: {}", objects.len());
        }
    }
}

#[test]
fn plain_manifests_are_those_of_the_chart() {
    let directory = tempfile::tempdir().expect("a directory");
    let to = directory.path().to_str().expect("text");
    printed(&["manifest", "generate", "--output-dir", to]);
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let mut count = 0;
    for entry in fs::read_dir(directory.path()).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|it| it.to_str()).expect("a name");
        let file = match name {
            "rbac.yaml" => "rbac/mesh-control.yaml".to_owned(),
            "webhook.yaml" => "webhook/validating.yaml".to_owned(),
            name => format!("manifests/{name}"),
        };
        let [wanted, there] =
            [path.clone(), deploy.join(&file)].map(|it| fs::read_to_string(it).expect("a file"));
        assert_eq!(there, wanted, "deploy/{file} is not what the chart says (run `cargo xtask manifests`)");
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn an_operators_file_of_a_tutorial_is_taken() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("operator.yaml");
    let text = "
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
metadata: {namespace: istio-system, name: istiocontrolplane}
spec:
  profile: default
  addonComponents: {kiali: {enabled: true}}
  components:
    ingressGateways:
    - {enabled: false, name: istio-ingressgateway}
    - enabled: true
      name: ingressgateway
      k8s:
        service:
          type: NodePort
          ports:
          - {name: http2, nodePort: 32502, port: 80, targetPort: 8080}
          - {name: status-port, nodePort: 31507, port: 15021, targetPort: 15021}
";
    fs::write(&file, text).expect("written");
    let output = meshctl(&["manifest", "generate", "-f", file.to_str().expect("text")]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("spec.addonComponents.kiali: is not part of the mesh ("), "{said}");
    let objects = generated(&["-f", file.to_str().expect("text")]);
    let named = |kind: &str, name: &str| {
        objects.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name).map(|it| &it["spec"])
    };
    assert_eq!(named("Deployment", "istio-ingressgateway"), None);
    let service = named("Service", "ingressgateway").expect("its Service");
    assert_eq!((&service["type"], &service["ports"][0]["nodePort"]), (&"NodePort".into(), &32_502.into()));
    assert_eq!(service["selector"]["istio"], "ingressgateway");
    objects.iter().for_each(is_what_kubernetes_takes);
}

#[test]
fn mistakes_are_told_with_their_field() {
    let output = meshctl(&["manifest", "generate", "--set", "node.replicas=2"]);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(!output.status.success() && said.contains("node.replicas: there is no such field"), "{said}");
}

/// `meshctl manifest generate | kubectl apply --dry-run=client -f -`: kubectl asks the server which kinds there are, and
/// with validation, which the suite's own server does not know how to answer, for their schemas.
#[test]
fn kubectl_takes_what_is_printed() {
    let cluster = Cluster::own();
    let all = generated(&["--set", "profile=demo"]);
    let file = cluster.directory.path().join("all.json");
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": all});
    fs::write(&file, list.to_string()).expect("written");
    let mut kubectl = Command::new("kubectl");
    kubectl.args(["apply", "--dry-run=client", "--validate=false", "-f"]).arg(&file);
    let output = kubectl.env("KUBECONFIG", &cluster.kubeconfig).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(text.lines().filter(|line| line.ends_with("created (dry run)")).count(), all.len(), "{text}");
}
