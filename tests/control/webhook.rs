//! The admission webhook, asked by the API server as the manifest says. In any cluster: see [`crate::real`].

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mesh_core::resource::ServedKind;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::{Answer, Cluster};
use crate::control::{Control, manifests};
use crate::stage::soon;

/// A cluster that asks a control plane about a namespace, and that namespace. In a real one the webhook is not that of a
/// Service, behind which no pod could be, but at an address, which must be within the API server's reach; everything
/// else is as in the manifest.
async fn guarded() -> (Cluster, String, Control) {
    guard(Cluster::mesh().await).await
}

async fn guarded_by_our_own() -> (Cluster, String, Control) {
    guard(Cluster::own_mesh().await).await
}

async fn guard(mut cluster: Cluster) -> (Cluster, String, Control) {
    let namespace = cluster.member().await;
    let control = Control::ready(&cluster).await;
    for mut document in manifests("webhook/validating.yaml") {
        for webhook in document["webhooks"].as_array_mut().expect("a list") {
            webhook["namespaceSelector"] = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
            if cluster.ours.is_none() {
                let url = format!("https://{}/validate", control.webhook);
                webhook["clientConfig"] = json!({"url": url});
            }
        }
        cluster.put(&document).await;
    }
    if cluster.ours.is_some() {
        let root = cluster.root.clone();
        cluster.server().place_service(&root, "mesh-control", control.webhook);
    }
    soon("the trust of the API server", async || roots(&cluster).await.is_some()).await;
    // A server takes a moment to hear of its webhooks, and of whom to trust.
    let bad = service(
        "v",
        &json!([{"match": [{"uri": {"regex": "("}}], "route": [{"destination": {"host": "reviews"}}]}]),
    );
    let asks = async || {
        let answer = dry_run(&cluster, &namespace, &bad).await;
        answer.body["message"].as_str().is_some_and(|text| text.contains("denied the request"))
    };
    soon("the first review", asks).await;
    (cluster, namespace, control)
}

/// Whom the API server trusts.
async fn roots(cluster: &Cluster) -> Option<Vec<u8>> {
    let configuration = cluster.read("ValidatingWebhookConfiguration", "", "mesh-validator").await?;
    let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str()?;
    STANDARD.decode(bundle).ok()
}

fn service(name: &str, http: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name},
        "spec": {"hosts": ["reviews"], "http": http},
    })
}

const SERVICES: &str = "virtualservices";

async fn apply(cluster: &Cluster, namespace: &str, object: &Value) -> Answer {
    cluster.post(&format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{SERVICES}"), object).await
}

async fn dry_run(cluster: &Cluster, namespace: &str, object: &Value) -> Answer {
    let path = format!("/apis/networking.istio.io/v1/namespaces/{namespace}/{SERVICES}?dryRun=All");
    cluster.post(&path, object).await
}

#[tokio::test]
async fn what_is_wrong_is_not_taken_and_it_is_said_why() {
    let (cluster, shop, _control) = guarded().await;
    let configuration =
        cluster.read("ValidatingWebhookConfiguration", "", "mesh-validator").await.expect("it");
    // Nothing but the trust has been changed.
    let rules = |webhook: &Value| {
        let rules = webhook["webhooks"][0]["rules"].as_array().cloned().unwrap_or_default().into_iter();
        let named = ["apiGroups", "apiVersions", "operations", "resources"];
        rules.map(|rule| named.map(|field| rule[field].clone())).collect::<Vec<_>>()
    };
    assert_eq!(rules(&configuration), rules(&manifests("webhook/validating.yaml")[0]));
    // No schema finds fault with it.
    let bad = service(
        "v",
        &json!([{"match": [{"uri": {"regex": "("}}], "route": [{"destination": {"host": "reviews"}}]}]),
    );
    let refused = apply(&cluster, &shop, &bad).await.expect(400);
    let message = refused["message"].as_str().expect("a message");
    let start = "admission webhook \"validation.mesh.internal\" denied the request: ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains("spec.http[0].match[0].uri"), "{message}");
    assert_eq!(cluster.read("VirtualService", &shop, "v").await, None);
    let good = service("v", &json!([{"route": [{"destination": {"host": "reviews"}}]}]));
    apply(&cluster, &shop, &good).await.expect(201);
}

/// On the suite's own server only: a schema prunes what it does not know.
#[tokio::test]
async fn a_field_that_nobody_knows_is_named_with_what_was_meant() {
    let (cluster, shop, _control) = guarded_by_our_own().await;
    let bad = service("v", &json!([{"rout": [{"destination": {"host": "reviews"}}]}]));
    let refused = apply(&cluster, &shop, &bad).await.expect(400);
    let message = refused["message"].as_str().expect("a message");
    assert!(message.contains("spec.http[0].rout") && message.contains("route"), "{message}");
}

#[tokio::test]
async fn without_a_control_plane_nothing_is_taken_and_everything_can_be_deleted() {
    let (cluster, shop, control) = guarded().await;
    let good = |name| service(name, &json!([{"route": [{"destination": {"host": "reviews"}}]}]));
    apply(&cluster, &shop, &good("v")).await.expect(201);
    drop(control);
    apply(&cluster, &shop, &good("w")).await.expect(500);
    cluster.remove("VirtualService", &shop, "v").await;
}

/// The status line of the answer to a request.
async fn ask(cluster: &Cluster, control: &Control, head: &str, body: &[u8]) -> String {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&roots(cluster).await.expect("roots")) {
        store.add(root.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(store).with_no_client_auth();
    let stream = TcpStream::connect(control.webhook).await.expect("a connection");
    let name = format!("mesh-control.{}.svc", cluster.root);
    let name = ServerName::try_from(name).expect("a name");
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
    let head = format!("{head}\r\nhost: h\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.expect("written");
    // It may be refused before all of it is sent.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn what_is_no_review_is_a_bad_request() {
    let (cluster, shop, control) = guarded().await;
    let post = "POST /validate HTTP/1.1\r\ncontent-type: application/json";
    for body in ["", "{}", "[[[[", "{\"apiVersion\":\"admission.k8s.io/v1\"}", "\u{0}"] {
        let line = ask(&cluster, &control, post, body.as_bytes()).await;
        assert!(line.contains(" 400 "), "{body:?}: {line}");
    }
    let deep = "[".repeat(1 << 20);
    assert!(ask(&cluster, &control, post, deep.as_bytes()).await.contains(" 400 "));
    let large = vec![b' '; (3 << 20) + 1];
    let line = ask(&cluster, &control, post, &large).await;
    assert!(line.is_empty() || line.contains(" 413 "), "{line}");
    assert!(ask(&cluster, &control, "GET /validate HTTP/1.1", b"").await.contains(" 405 "));
    assert!(ask(&cluster, &control, "POST /other HTTP/1.1", b"").await.contains(" 404 "));
    let plain = "POST /validate HTTP/1.1\r\ncontent-type: text/plain";
    assert!(ask(&cluster, &control, plain, b"{}").await.contains(" 415 "));
    // And it still answers those who ask in good order.
    let good = service("v", &json!([{"route": [{"destination": {"host": "reviews"}}]}]));
    apply(&cluster, &shop, &good).await.expect(201);
}

#[test]
fn the_manifest_names_every_kind_that_users_configure() {
    let configuration = &manifests("webhook/validating.yaml")[0];
    let mut found = BTreeSet::new();
    for rule in configuration["webhooks"][0]["rules"].as_array().expect("rules") {
        let texts = |field: &str| {
            let list = rule[field].as_array().expect("a list").iter();
            list.map(|it| it.as_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        for group in texts("apiGroups") {
            found.extend(texts("resources").into_iter().map(|resource| format!("{resource}.{group}")));
        }
    }
    let configured = |group: &str| group.ends_with(".istio.io") || group == "policy.mesh.internal";
    let definitions = ServedKind::all().filter(|kind| configured(kind.group())).map(|kind| {
        let name = kind.name().to_lowercase();
        let plural = match name.strip_suffix('y') {
            Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
            _ => format!("{name}s"),
        };
        format!("{plural}.{}", kind.group())
    });
    assert_eq!(found, definitions.collect());
}
