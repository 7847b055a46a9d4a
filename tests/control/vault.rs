//! What replicas share: one certificate authority, whoever made it, and join tokens that are good as often as they say.

use mesh_tests::apiserver::ApiServer;
use serde_json::{Value, json};
use tonic::Code;

use crate::control::{Control, cluster};

const IDENTITY: &str = "spiffe://cluster.local/ns/nodes.mesh/sa/n1";

fn secret(server: &ApiServer, name: &str) -> Option<Value> {
    server.read("Secret", "istio-system", name)
}

/// A token that lets a node in so many times.
fn join_token(control: &Control, uses: &str) -> String {
    let made = control.run(&["join", "create", "--kubernetes", "--node", "n1", "--uses", uses]);
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
    let server = cluster();
    let mut replicas: Vec<_> = (0..3).map(|_| Control::start(&server)).collect();
    let mut found = Vec::new();
    for replica in &mut replicas {
        replica.until_ready().await;
        found.push(roots(replica).await);
    }
    assert!(found.iter().all(|roots| *roots == found[0]), "{found:?}");
    let secret = secret(&server, "istio-ca-secret").expect("the CA");
    assert_eq!(secret["type"], "istio.io/ca-root");
    let mut names: Vec<_> = secret["data"].as_object().expect("data").keys().cloned().collect();
    names.sort();
    assert_eq!(names, ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"]);
}

#[tokio::test]
async fn a_ca_that_is_plugged_in_is_used_and_left_alone() {
    let server = cluster();
    let first = Control::ready(&server).await;
    let root = roots(&first).await;
    let mut made = secret(&server, "istio-ca-secret").expect("the CA");
    drop(first);
    server.remove("Secret", "istio-system", "istio-ca-secret");
    made["metadata"] = json!({"name": "cacerts", "namespace": "istio-system"});
    server.put(&made);
    let before = secret(&server, "cacerts");
    let control = Control::ready(&server).await;
    assert_eq!(roots(&control).await, root);
    let refused = control.run(&["ca", "rotate", "begin", "--kubernetes"]);
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && why.contains("belongs to whoever made it"), "{why}");
    assert_eq!(secret(&server, "cacerts"), before);
    assert_eq!(secret(&server, "istio-ca-secret"), None);
}

#[tokio::test]
async fn the_ca_that_istio_has_made_goes_on() {
    let server = cluster();
    let first = Control::ready(&server).await;
    let root = roots(&first).await;
    let mut made = secret(&server, "istio-ca-secret").expect("the CA");
    drop(first);
    // Istio's has these two, and the others empty.
    for name in ["root-cert.pem", "cert-chain.pem"] {
        made["data"][name] = json!("");
    }
    server.put(&made);
    let control = Control::ready(&server).await;
    assert_eq!(roots(&control).await, root);
}

#[tokio::test]
async fn a_join_token_is_good_once_whichever_replica_sees_it() {
    let server = cluster();
    let (first, second) = (Control::ready(&server).await, Control::ready(&server).await);
    let token = join_token(&first, "1");
    let text = secret(&server, "mesh-join-tokens").expect("tokens").to_string();
    assert!(!text.contains(token.rsplit_once('.').expect("a secret part").1), "the token itself is kept");
    let (one, other) =
        tokio::join!(first.certificate(&token, Some(IDENTITY)), second.certificate(&token, Some(IDENTITY)));
    let codes: Vec<_> = [one, other].into_iter().map(|answer| answer.err().map(|it| it.code())).collect();
    let mut sorted = codes.clone();
    sorted.sort_by_key(Option::is_some);
    assert_eq!(sorted, [None, Some(Code::Unauthenticated)], "{codes:?}");
    let listed = second.run(&["join", "list", "--kubernetes"]);
    assert!(listed.status.success());
    assert!(!String::from_utf8_lossy(&listed.stdout).contains("n1"), "a used token is still listed");
}
