//! The chart with Helm itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::manifests::{generated, meshctl, program};
use super::schemas::{MINORS, Published};

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/mesh");

fn helm(words: &[&str]) -> String {
    let (is_well, said) = try_helm(words);
    assert!(is_well, "helm {words:?}: {said}");
    said
}

/// What Helm prints if it is content, else what it complains about.
fn try_helm(words: &[&str]) -> (bool, String) {
    let target = program("meshctl").ancestors().nth(2).expect("a target directory").to_owned();
    let helm: PathBuf = target.join("helm/helm");
    assert!(helm.is_file(), "there is no {} (`cargo xtask setup` fetches it)", helm.display());
    let home = tempfile::tempdir().expect("a directory");
    let output = Command::new(helm).args(words).env("HOME", home.path()).output().expect("it starts");
    let [said, complained] = [output.stdout, output.stderr].map(|it| String::from_utf8(it).expect("text"));
    let is_well = output.status.success();
    (is_well, if is_well { said } else { said + &complained })
}

/// The objects of a profile as Helm makes them.
fn rendered(profile: &str, more: &[&str]) -> Vec<Value> {
    let values = format!("{CHART}/profiles/{profile}.yaml");
    let words =
        ["template", "mesh", CHART, "--namespace=istio-system", "--include-crds", "--values", &values];
    let text = helm(&[&words, more].concat());
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let objects = documents.map(|document| Value::deserialize(document).expect("YAML"));
    objects.filter(|object| !object.is_null()).collect()
}

fn is_hook(object: &Value) -> bool {
    !object["metadata"]["annotations"]["helm.sh/hook"].is_null()
}

fn named(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let name =
        |it: &Value| format!("{} {}/{}", it["kind"], it["metadata"]["namespace"], it["metadata"]["name"]);
    objects.into_iter().map(|object| (name(&object), object)).collect()
}

#[test]
fn helm_finds_no_fault_with_the_chart() {
    assert!(Path::new(CHART).is_dir());
    helm(&["lint", "--strict", CHART]);
}

#[test]
fn helm_makes_what_meshctl_makes() {
    let options = [
        &[][..],
        &["--set", "control.autoscale.enabled=true", "--set", "node.cni.enabled=true"],
        &[
            "--set",
            "image.pullSecrets[0]=s",
            "--set",
            "trustDomain=td.one",
            "--set",
            "node.extraArgs[0]=--threads=2",
        ],
        &[
            "--set",
            "gateways.istio-egressgateway.enabled=true",
            "--set",
            "gateways.istio-egressgateway.budget=false",
        ],
        // One of a name of its own has what is not said of it from the defaults, and they may be other ones.
        &["--set", "gateways.shop.service.type=NodePort", "--set", "gateways.shop.autoscale.max=7"],
        &[
            "--set",
            "gatewayDefaults.replicas=2",
            "--set",
            "gateways.shop.autoscale.enabled=false",
            "--set",
            "gateways.shop.labels.istio=edge",
        ],
    ];
    for profile in ["default", "demo", "minimal", "ambient", "empty"] {
        for more in options {
            let chart = named(rendered(profile, more).into_iter().filter(|it| !is_hook(it)));
            let of_profile = format!("profile={profile}");
            let mut ours = named(generated(&[&["--set", &of_profile], more].concat()));
            // Helm makes it by itself.
            ours.remove("\"Namespace\" null/\"istio-system\"").expect("the namespace");
            assert!(chart.keys().eq(ours.keys()), "{profile} {more:?}");
            for (name, object) in &chart {
                assert_eq!(object, &ours[name], "{profile} {more:?}: {name}");
            }
        }
    }
}

#[test]
fn a_gateway_of_another_name_needs_nothing_to_be_said_of_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let values = directory.path().join("values.yaml");
    std::fs::write(&values, "gateways: {shop: {}}").expect("written");
    let objects = rendered("minimal", &["--values", values.to_str().expect("text")]);
    let service = objects.iter().find(|it| it["kind"] == "Service" && it["metadata"]["name"] == "shop");
    let spec = &service.expect("its Service")["spec"];
    assert_eq!(
        (&spec["type"], &spec["selector"]),
        (&"LoadBalancer".into(), &json!({"app": "shop", "istio": "shop"}))
    );
}

/// What `meshctl` refuses Helm refuses as well, each by its name.
#[test]
fn helm_refuses_what_it_does_not_know() {
    for (value, field, path) in [
        ("node.replicas=2", "replicas", "node.replicas"),
        ("controll.replicas=2", "controll", "controll"),
        ("gateways.shop.service.kind=NodePort", "kind", "gateways.shop.service.kind"),
        ("gateways.istio-ingressgateway.service.type=Any", "type", "gateways.istio-ingressgateway"),
        ("gatewayDefaults.budget=maybe", "budget", "gatewayDefaults"),
        ("control.replicas=-1", "replicas", "control"),
    ] {
        let (is_well, said) = try_helm(&["template", "mesh", CHART, "--set", value]);
        let names =
            |said: &str| said.contains("values don't meet the specifications") && said.contains(field);
        assert!(!is_well && names(&said), "{value}: {said}");
        let output = meshctl(&["manifest", "generate", "--set", value]);
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(!output.status.success() && said.contains(path), "{value}: {said}");
    }
}

#[test]
fn what_helm_runs_before_it_removes_the_mesh_is_what_kubernetes_takes() {
    let hooks: Vec<Value> = rendered("default", &[]).into_iter().filter(is_hook).collect();
    let kinds: Vec<_> = hooks.iter().filter_map(|it| it["kind"].as_str()).collect();
    assert_eq!(kinds, ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Job"]);
    for minor in MINORS {
        let mut published = Published::load(minor);
        let said: Vec<_> = hooks.iter().flat_map(|it| published.complaints(it)).collect();
        assert!(said.is_empty(), "Kubernetes 1.{minor}: {said:#?}");
    }
    let without_agents = rendered("default", &["--set", "node.enabled=false"]);
    assert!(!without_agents.iter().any(is_hook), "there is nothing to clean without agents");
}
