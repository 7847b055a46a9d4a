//! What replicas share: one certificate authority, whoever made it, and join tokens that are good as often as they say.
//! In any cluster: see [`crate::real`].

use serde_json::{Value, json};
use tonic::Code;

use crate::api::Cluster;
use crate::control::Control;

const IDENTITY: &str = "spiffe://cluster.local/ns/nodes.mesh/sa/n1";

async fn secret(cluster: &Cluster, name: &str) -> Option<Value> {
    cluster.read("Secret", &cluster.root, name).await
}

/// A token that lets a node in so many times.
fn join_token(control: &Control, uses: &str) -> String {
    let made = control.run(&["join", "create", "--node", "n1", "--uses", uses]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).expect("text").trim().to_owned()
}

/// The roots that a replica hands out.
async fn roots(control: &Control) -> String {
    let token = join_token(control, "1");
    let answer = control.certificate(&token, None).await.expect("a certificate");
    answer.cert_chain.last().expect("roots").clone()
}

#[tokio::test]
async fn replicas_that_start_together_end_up_with_one_ca() {
    let cluster = Cluster::mesh().await;
    let mut replicas = Vec::new();
    for _ in 0..3 {
        replicas.push(Control::start(&cluster).await);
    }
    let mut found = Vec::new();
    for replica in &mut replicas {
        replica.until_ready().await;
        found.push(roots(replica).await);
    }
    assert!(found.iter().all(|roots| *roots == found[0]), "{found:?}");
    let secret = secret(&cluster, "istio-ca-secret").await.expect("the CA");
    assert_eq!(secret["type"], "istio.io/ca-root");
    let mut names: Vec<_> = secret["data"].as_object().expect("data").keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]);
}

#[tokio::test]
async fn a_ca_that_is_plugged_in_is_used_and_left_alone() {
    let cluster = Cluster::mesh().await;
    let first = Control::ready(&cluster).await;
    let root = roots(&first).await;
    let mut made = secret(&cluster, "istio-ca-secret").await.expect("the CA");
    drop(first);
    cluster.remove("Secret", &cluster.root, "istio-ca-secret").await;
    made["metadata"] = json!({"name": "cacerts", "namespace": cluster.root});
    cluster.put(&made).await;
    let before = secret(&cluster, "cacerts").await;
    let control = Control::ready(&cluster).await;
    assert_eq!(roots(&control).await, root);
    let refused = control.run(&["ca", "rotate", "begin"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("belongs to whoever made it"), "{why}");
    assert_eq!(secret(&cluster, "cacerts").await, before);
    assert_eq!(secret(&cluster, "istio-ca-secret").await, None);
}

#[tokio::test]
async fn the_ca_that_istio_has_made_goes_on() {
    let cluster = Cluster::mesh().await;
    let first = Control::ready(&cluster).await;
    let root = roots(&first).await;
    let mut made = secret(&cluster, "istio-ca-secret").await.expect("the CA");
    drop(first);
    // Istio's has these two, and the others empty.
    for name in ["root-cert.pem", "cert-chain.pem"] {
        made["data"][name] = json!("");
    }
    cluster.put(&made).await;
    let control = Control::ready(&cluster).await;
    assert_eq!(roots(&control).await, root);
}

#[tokio::test]
async fn a_join_token_is_good_once_whichever_replica_sees_it() {
    let cluster = Cluster::mesh().await;
    let (first, second) = (Control::ready(&cluster).await, Control::ready(&cluster).await);
    let token = join_token(&first, "1");
    let text = secret(&cluster, "mesh-join-tokens").await.expect("tokens").to_string();
    assert!(!text.contains(token.rsplit_once('.').expect("a secret part").1), "the token itself is kept");
    let (one, other) =
        tokio::join!(first.certificate(&token, Some(IDENTITY)), second.certificate(&token, Some(IDENTITY)));
    let codes: Vec<_> = [one, other].into_iter().map(|answer| answer.err().map(|it| it.code())).collect();
    let mut sorted = codes.clone();
    sorted.sort_by_key(Option::is_some);
    assert_eq!(sorted, [None, Some(Code::Unauthenticated)], "{codes:?}");
    let listed = second.run(&["join", "list"]);
    assert!(listed.status.success());
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("n1"), "a used token is still listed");
}
