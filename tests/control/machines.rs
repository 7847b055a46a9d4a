//! Machines that register themselves in a cluster: their `WorkloadEntries` are there for everybody to see.

use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;
use tonic::Code;

use crate::api::Cluster;
use crate::control::{Control, Subscriber, program_at};
use crate::stage::soon;

/// A namespace with the WorkloadGroup `db` of the service account `db`.
async fn shop(cluster: &Cluster, probe: &Value) -> String {
    let shop = cluster.member().await;
    for account in ["db", "web"] {
        let meta = json!({"name": account, "namespace": shop});
        cluster.put(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})).await;
    }
    let mut spec = json!({
        "metadata": {"labels": {"app": "db"}}, "template": {"serviceAccount": "db", "ports": {"sql": 5432}},
    });
    if !probe.is_null() {
        spec["probe"] = probe.clone();
    }
    cluster
        .put(&json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadGroup",
            "metadata": {"name": "db", "namespace": shop}, "spec": spec,
        }))
        .await;
    shop
}

/// A token as `meshctl x workload entry configure` asks for one: of a service account, bound to nothing.
async fn token(cluster: &Cluster, namespace: &str, account: &str) -> String {
    cluster.token(namespace, account, &json!({"audiences": ["istio-ca"]})).await
}

async fn attend(control: &Control, shop: &str, token: &str) -> Subscriber {
    let node = format!("{shop}/db-10.9.8.7");
    let said = [
        ("NODE_NAME", &*node),
        ("NAMESPACE", shop),
        ("AUTO_REGISTER_GROUP", "db"),
        ("INSTANCE_IPS", "10.9.8.7"),
    ];
    control.attend(&said, token).await
}

async fn entry(cluster: &Cluster, shop: &str) -> Option<Value> {
    cluster.read("WorkloadEntry", shop, "db-10.9.8.7").await
}

async fn health(cluster: &Cluster, shop: &str) -> Option<String> {
    let entry = entry(cluster, shop).await?;
    let conditions = entry["status"]["conditions"].as_array()?;
    let healthy = conditions.iter().find(|condition| condition["type"] == "Healthy")?;
    Some(healthy["status"].as_str()?.to_owned())
}

#[tokio::test]
async fn a_machine_has_a_workload_entry_while_it_is_there() {
    let cluster = Cluster::mesh().await;
    let probe = json!({"tcpSocket": {"port": 5432}});
    let shop = shop(&cluster, &probe).await;
    let control = Control::ready(&cluster).await;
    let token = token(&cluster, &shop, "db").await;
    let machine = attend(&control, &shop, &token).await;
    soon("the WorkloadEntry", async || entry(&cluster, &shop).await.is_some()).await;
    let written = entry(&cluster, &shop).await.expect("it is there");
    assert_eq!(
        written["spec"],
        json!({"address": "10.9.8.7", "serviceAccount": "db", "ports": {"sql": 5432}})
    );
    let meta = &written["metadata"];
    assert_eq!(
        (&meta["labels"]["app"], &meta["annotations"]["istio.io/autoRegistrationGroup"]),
        (&json!("db"), &json!("db"))
    );
    assert_eq!(meta["ownerReferences"][0]["kind"], "WorkloadGroup");
    let mut others = control.subscribe().await;
    others.until("the workload", |it| it.knows("/db-10.9.8.7")).await;

    machine.say_health(Some("connecting: refused")).await;
    soon("bad health", async || health(&cluster, &shop).await.as_deref() == Some("False")).await;
    machine.say_health(None).await;
    soon("good health", async || health(&cluster, &shop).await.as_deref() == Some("True")).await;

    drop(machine);
    sleep(Duration::from_secs(3)).await;
    assert!(entry(&cluster, &shop).await.is_some(), "it may come back");
    soon("the end of the WorkloadEntry", async || entry(&cluster, &shop).await.is_none()).await;
}

#[tokio::test]
async fn tokens_of_others_register_nothing() {
    let cluster = Cluster::mesh().await;
    let shop = shop(&cluster, &Value::Null).await;
    let other = self::shop(&cluster, &Value::Null).await;
    let control = Control::ready(&cluster).await;
    for (token, code, reason) in [
        (token(&cluster, &shop, "web").await, Code::PermissionDenied, "may not join the WorkloadGroup"),
        (token(&cluster, &other, "db").await, Code::PermissionDenied, "may not join the WorkloadGroup"),
    ] {
        let refused = attend(&control, &shop, &token).await.refusal().await;
        assert!(refused.code() == code && refused.message().contains(reason), "{refused}");
    }
    assert!(entry(&cluster, &shop).await.is_none());
}

/// A control plane that is started anew finds what its predecessor has left, and takes it away if nobody comes.
#[tokio::test]
async fn what_a_control_plane_has_left_goes_with_the_next() {
    let cluster = Cluster::mesh().await;
    let shop = shop(&cluster, &Value::Null).await;
    let token = token(&cluster, &shop, "db").await;
    let mut control = Control::ready(&cluster).await;
    let machine = attend(&control, &shop, &token).await;
    soon("the WorkloadEntry", async || entry(&cluster, &shop).await.is_some()).await;
    control.terminate().await;
    drop(machine);
    assert!(entry(&cluster, &shop).await.is_some(), "nobody is there to take it away");
    let mut next = Control::ready(&cluster).await;
    soon("the end of the WorkloadEntry", async || entry(&cluster, &shop).await.is_none()).await;
    next.terminate().await;
}

/// A certificate renews itself for as long as there is a group, or a workload, of its identity.
#[tokio::test]
async fn a_machine_whose_group_is_gone_renews_nothing() {
    let cluster = Cluster::mesh().await;
    let shop = shop(&cluster, &Value::Null).await;
    let control = Control::ready(&cluster).await;
    let token = token(&cluster, &shop, "db").await;
    let first = control.certify(None, Some(&token)).await.expect("a certificate");
    let second = control.certify(Some(&first), None).await.expect("a new one");
    cluster.remove("WorkloadGroup", &shop, "db").await;
    let renewal = async || control.certify(Some(&second), None).await.err();
    soon("the end of renewals", async || renewal().await.is_some()).await;
    let refused = renewal().await.expect("it is over");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("no workload and no WorkloadGroup has the identity"), "{refused}");
    assert!(control.log().contains("nobody"), "the audit log says so");
    // The next control plane knows it as well.
    let next = Control::ready(&cluster).await;
    assert!(next.certify(Some(&second), None).await.is_err());
    cluster
        .put(&json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
            "metadata": {"name": "till", "namespace": shop},
            "spec": {"address": "10.9.8.9", "serviceAccount": "db"},
        }))
        .await;
    soon("renewals", async || renewal().await.is_none()).await;
}

/// What `meshctl` writes is what a machine joins with.
#[tokio::test]
async fn what_meshctl_writes_lets_a_machine_in() {
    let cluster = Cluster::mesh().await;
    let shop = shop(&cluster, &Value::Null).await;
    let control = Control::ready(&cluster).await;
    soon("the roots", async || cluster.read("ConfigMap", &shop, "istio-ca-root-cert").await.is_some()).await;
    let place = tempfile::tempdir().expect("a directory");
    let at = |name: &str| place.path().join(name);
    fs::write(at("kubeconfig"), cluster.kubeconfig(None).to_string()).expect("written");
    let mut command = Command::new(program_at("meshctl"));
    command.args(["x", "workload", "entry", "configure", "--name", "db", "--namespace", &shop]);
    command.args(["--tokenDuration", "600", "--istioNamespace", &cluster.root]);
    command.arg("--kubeconfig").arg(at("kubeconfig")).arg("-o").arg(at("out"));
    let output = command.output().expect("meshctl runs");
    assert!(output.status.success(), "{output:?}");
    let said = |name: &str| fs::read_to_string(at("out").join(name)).expect("a file");
    assert!(said("cluster.env").contains(&format!("MESH_WORKLOAD_GROUP='{shop}/db'")));
    assert!(said("root-cert.pem").contains("BEGIN CERTIFICATE"));
    let _machine = attend(&control, &shop, said("istio-token").trim()).await;
    soon("the WorkloadEntry", async || entry(&cluster, &shop).await.is_some()).await;
}

/// What a machine that is here needs is written again, whoever has taken it away or over; one registration that cannot be is
/// nobody else's business.
#[tokio::test]
async fn a_machine_that_is_here_keeps_its_workload_entry() {
    let cluster = Cluster::mesh().await;
    let shop = shop(&cluster, &Value::Null).await;
    let control = Control::ready(&cluster).await;
    let token = token(&cluster, &shop, "db").await;
    let said = |name: &str, address: &str, network: &str| {
        let node = format!("{shop}/{name}");
        [
            ("NODE_NAME", node),
            ("NAMESPACE", shop.clone()),
            ("AUTO_REGISTER_GROUP", "db".to_owned()),
            ("INSTANCE_IPS", address.to_owned()),
            ("NETWORK", network.to_owned()),
        ]
    };
    for (name, address, network, reason) in [
        ("db-10.9.8.6-Bad_Net", "10.9.8.6", "Bad_Net", "is no name of a WorkloadEntry"),
        ("db-fd00--", "fd00::", "", "is no name of a WorkloadEntry"),
        ("db-127.0.0.1", "::ffff:127.0.0.1", "", "no address that others reach"),
        ("db-169.254.0.1", "169.254.0.1", "", "no address that others reach"),
    ] {
        let said = said(name, address, network);
        let said: Vec<_> = said.iter().map(|(key, value)| (*key, &**value)).collect();
        let refused = control.attend(&said, &token).await.refusal().await;
        assert!(refused.message().contains(reason), "{name}: {refused}");
    }
    let _machine = attend(&control, &shop, &token).await;
    soon("the WorkloadEntry", async || entry(&cluster, &shop).await.is_some()).await;
    cluster.remove("WorkloadEntry", &shop, "db-10.9.8.7").await;
    soon("it is there again", async || entry(&cluster, &shop).await.is_some()).await;
    let controller = async || {
        let entry = entry(&cluster, &shop).await?;
        entry["metadata"]["annotations"]["istio.io/workloadController"].as_str().map(str::to_owned)
    };
    let own = controller().await.expect("it says who has written it");
    let mut taken = entry(&cluster, &shop).await.expect("it is there");
    taken["metadata"]["annotations"]["istio.io/workloadController"] = json!("another_1");
    taken["metadata"]["managedFields"] = Value::Null;
    cluster.put(&taken).await;
    soon("it is its own again", async || controller().await.as_ref() == Some(&own)).await;
}

/// An address that a workload has is not another machine's for the asking.
#[tokio::test]
async fn an_address_that_another_has_is_refused() {
    let cluster = Cluster::mesh().await;
    let shop = shop(&cluster, &Value::Null).await;
    let control = Control::ready(&cluster).await;
    cluster
        .put(&json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
            "metadata": {"name": "till", "namespace": shop},
            "spec": {"address": "10.9.8.7", "serviceAccount": "web"},
        }))
        .await;
    let mut others = control.subscribe().await;
    others.until("the workload", |it| it.knows("/till")).await;
    let token = token(&cluster, &shop, "db").await;
    let refused = attend(&control, &shop, &token).await.refusal().await;
    assert!(refused.message().contains("the address 10.9.8.7 is another workload's"), "{refused}");
}

/// A machine is told what its WorkloadEntry entitles it to for as long as it does.
#[tokio::test]
async fn a_machine_whose_entry_becomes_anothers_is_sent_away() {
    let cluster = Cluster::mesh().await;
    let shop = shop(&cluster, &Value::Null).await;
    let control = Control::ready(&cluster).await;
    let token = token(&cluster, &shop, "db").await;
    // It is not there yet.
    let node = format!("{shop}/till");
    let mut machine = control.attend(&[("NODE_NAME", &node)], &token).await;
    cluster
        .put(&json!({
            "apiVersion": "networking.istio.io/v1", "kind": "WorkloadEntry",
            "metadata": {"name": "till", "namespace": shop},
            "spec": {"address": "10.9.8.9", "serviceAccount": "web"},
        }))
        .await;
    let refused = machine.refusal().await;
    assert!(refused.message().contains("is not the machine of the WorkloadEntry"), "{refused}");
}
