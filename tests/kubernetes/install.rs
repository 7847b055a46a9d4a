//! `meshctl install`, `upgrade` and `uninstall`, as users run them.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::cluster::Cluster;
use crate::manifests::program;

fn run(cluster: &Cluster, words: &[&str], answer: &str) -> Output {
    let mut command = Command::new(program("meshctl"));
    command.args(words).arg("--kubeconfig").arg(&cluster.kubeconfig);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    // Who asks nothing may have ended by now.
    let _ = child.stdin.take().expect("a pipe").write_all(answer.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn succeeds(cluster: &Cluster, words: &[&str]) -> String {
    let output = run(cluster, words, "");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn fails(cluster: &Cluster, words: &[&str]) -> String {
    let output = run(cluster, words, "");
    assert!(!output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_mesh_is_installed_in_order_changed_and_removed() {
    let cluster = Cluster::alive();
    let said = succeeds(&cluster, &["install", "--set", "profile=demo", "-y"]);
    let steps: Vec<_> = said.lines().filter(|line| line.starts_with('✔')).collect();
    assert_eq!(
        steps,
        [
            "✔ Namespace and kinds installed",
            "✔ Control plane installed",
            "✔ Node agents installed",
            "✔ Gateways installed",
            "✔ Validation installed",
            "✔ Installation complete",
        ]
    );
    let parts = cluster.parts();
    for part in [
        "Deployment mesh-control",
        "DaemonSet mesh-node",
        "Deployment istio-egressgateway",
        "ConfigMap istio",
    ] {
        assert!(parts.iter().any(|it| it == part), "{part}: {parts:?}");
    }
    assert_eq!(cluster.server.list("CustomResourceDefinition").len(), 17);

    // What others have written stays, and what is asked for no more goes.
    let mut webhook =
        cluster.server.read("ValidatingWebhookConfiguration", "", "mesh-validator").expect("it is there");
    webhook["webhooks"][0]["clientConfig"]["caBundle"] = json!("Q0E=");
    cluster.server.put(&webhook);
    let foreign = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "users", "namespace": "istio-system"}});
    cluster.server.put(&foreign);
    let said = succeeds(&cluster, &["upgrade", "-y"]);
    assert!(said.contains("removes Deployment istio-system/istio-egressgateway"), "{said}");
    assert!(!cluster.parts().iter().any(|it| it.contains("egress")), "{:?}", cluster.parts());
    let webhook =
        cluster.server.read("ValidatingWebhookConfiguration", "", "mesh-validator").expect("it is there");
    assert_eq!(webhook["webhooks"][0]["clientConfig"]["caBundle"], "Q0E=");

    let said = succeeds(&cluster, &["uninstall", "-y"]);
    assert!(said.contains("✔ 2 nodes cleaned") && !said.contains("Gateways of users"), "{said}");
    assert_eq!(cluster.parts(), ["Namespace istio-system"]);
    assert_eq!(cluster.server.list("CustomResourceDefinition").len(), 17);
    assert!(cluster.server.read("ConfigMap", "istio-system", "users").is_some());
    assert_eq!(succeeds(&cluster, &["uninstall", "-y"]), "There is nothing to uninstall.\n");
    succeeds(&cluster, &["uninstall", "--purge", "-y"]);
    assert!(cluster.server.list("CustomResourceDefinition").is_empty());
    assert!(cluster.server.read("Namespace", "", "istio-system").is_none());
}

/// What the control plane has written into namespaces goes with it, unless somebody else has a part in it; what it has made for Gateways
/// of users stays with these, and is named.
#[test]
fn what_the_control_plane_has_made_goes_or_is_named() {
    let cluster = Cluster::alive();
    succeeds(&cluster, &["install", "-y"]);
    let by = |manager: &str| json!([{"manager": manager, "operation": "Apply", "apiVersion": "v1"}]);
    let roots = |namespace: &str, managers: serde_json::Value| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"root-cert.pem": "PEM"},
            "metadata": {"name": "istio-ca-root-cert", "namespace": namespace, "managedFields": managers},
        })
    };
    let both = [by("mesh-control"), by("users")].map(|it| it[0].clone());
    cluster.server.put(&roots("istio-system", by("mesh-control")));
    cluster.server.put(&roots("shop", by("mesh-control")));
    cluster.server.put(&roots("shared", json!(both)));
    cluster.server.put(&roots("istios", by("pilot-discovery")));
    for (namespace, gateway, manager) in
        [("shop", "waypoint", "mesh-control"), ("istios", "other", "pilot-discovery")]
    {
        let labels = json!({
            "gateway.istio.io/managed": "istio.io-mesh-controller", "gateway.networking.k8s.io/gateway-name": gateway,
        });
        cluster.server.put(&json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": gateway, "namespace": namespace, "labels": labels, "managedFields": by(manager)},
            "spec": {"selector": {"matchLabels": {"app": gateway}}, "template": {}},
        }));
    }
    let said = succeeds(&cluster, &["uninstall", "-y"]);
    assert!(said.contains("  the root certificates in namespaces (2)\n"), "{said}");
    let command = "  kubectl -n shop delete gateways.gateway.networking.k8s.io waypoint\n";
    assert!(said.contains("Gateways of users stay") && said.ends_with(command), "{said}");
    assert!(!said.contains("delete gateways.gateway.networking.k8s.io other"), "{said}");
    let left = ["istio-system", "shop", "shared", "istios"]
        .map(|namespace| cluster.server.read("ConfigMap", namespace, "istio-ca-root-cert").is_some());
    assert_eq!(left, [false, false, true, true]);
    // What Helm leaves is removed by the same command.
    cluster.server.put(&roots("shop", by("mesh-control")));
    let said = succeeds(&cluster, &["uninstall", "-y"]);
    assert!(said.contains("the root certificates in namespaces (1)"), "{said}");
    assert!(cluster.server.read("ConfigMap", "shop", "istio-ca-root-cert").is_none());
}

#[test]
fn nothing_is_done_without_a_yes() {
    let cluster = Cluster::own();
    let output = run(&cluster, &["install"], "n\n");
    let said = String::from_utf8(output.stdout).expect("text");
    assert!(!output.status.success() && said.contains("Proceed? (y/N) Nothing was done."), "{said}");
    assert!(said.contains("among them Deployment istio-system/mesh-control"), "{said}");
    assert_eq!(cluster.parts(), Vec::<String>::new());
    let output = run(&cluster, &["install", "--no-wait"], "y\n");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn who_waits_in_vain_is_told_for_what() {
    let cluster = Cluster::own();
    let said = fails(&cluster, &["install", "-y", "--timeout", "1s"]);
    assert!(
        said.contains("Deployment istio-system/mesh-control is not ready in time: no controller"),
        "{said}"
    );
    // The nodes wait for the control plane.
    assert!(cluster.server.read("DaemonSet", "istio-system", "mesh-node").is_none());
}

#[test]
fn what_is_not_there_is_not_upgraded_and_what_is_helms_is_left_to_helm() {
    let cluster = Cluster::own();
    assert!(fails(&cluster, &["upgrade", "-y"]).contains("there is no installation to upgrade"));
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {
            "name": "mesh-node", "namespace": "istio-system", "labels": {"app.kubernetes.io/part-of": "mesh"},
            "annotations": {"meta.helm.sh/release-name": "mesh"},
        },
    });
    cluster.server.put(&account);
    for command in ["install", "uninstall"] {
        assert!(fails(&cluster, &[command, "-y"]).contains("installed by Helm"), "{command}");
    }
}

/// What Helm's chart runs before Helm removes the rest.
#[test]
fn nodes_alone_are_cleaned_for_helm() {
    let cluster = Cluster::alive();
    succeeds(&cluster, &["install", "-y"]);
    let mut agents = cluster.server.read("DaemonSet", "istio-system", "mesh-node").expect("the agents");
    agents["metadata"]["annotations"]["meta.helm.sh/release-name"] = json!("mesh");
    cluster.server.put(&agents);
    let before = cluster.parts();
    let said = succeeds(&cluster, &["uninstall", "--nodes-only", "-y"]);
    assert!(said.contains("✔ 2 nodes cleaned"), "{said}");
    let mut wanted = before.clone();
    wanted.retain(|it| it != "DaemonSet mesh-node");
    assert_eq!((cluster.parts(), before.len()), (wanted.clone(), wanted.len() + 1));
    let said = succeeds(&cluster, &["uninstall", "--nodes-only", "-y"]);
    assert!(said.contains("There are no agents on nodes."), "{said}");
}

#[test]
fn a_node_that_does_not_answer_is_told() {
    let cluster = Cluster::own();
    succeeds(&cluster, &["install", "-y", "--no-wait"]);
    let said = fails(&cluster, &["uninstall", "-y", "--timeout", "1s"]);
    assert!(said.contains("mesh-node cleanup --node NAME"), "{said}");
    // Everything else went.
    assert_eq!(cluster.parts(), ["Namespace istio-system"]);
}
