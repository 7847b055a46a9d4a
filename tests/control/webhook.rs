//! The admission webhook, asked by the API server as the manifest says.

use std::collections::BTreeSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use mesh_core::resource::ServedKind;
use mesh_tests::apiserver::ApiServer;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::api::{Answer, send};
use crate::control::{Control, cluster, manifests, namespace, until};
use crate::kubernetes_control::admin;

/// A cluster that asks a control plane.
async fn guarded() -> (ApiServer, Control) {
    let server = cluster();
    server.put(&namespace("shop"));
    for document in manifests("webhook/validating.yaml") {
        server.put(&document);
    }
    let control = Control::ready(&server).await;
    server.place_service("istio-system", "mesh-control", control.webhook);
    until("the trust of the API server", || roots(&server).is_some()).await;
    (server, control)
}

/// Whom the API server trusts.
fn roots(server: &ApiServer) -> Option<Vec<u8>> {
    let configuration = server.read("ValidatingWebhookConfiguration", "", "mesh-validator")?;
    let bundle = configuration["webhooks"][0]["clientConfig"]["caBundle"].as_str()?;
    STANDARD.decode(bundle).ok()
}

fn service(name: &str, http: &Value) -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": name},
        "spec": {"hosts": ["reviews"], "http": http},
    })
}

async fn apply(server: &ApiServer, object: &Value) -> Answer {
    let path = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices";
    send(&admin(server), Method::POST, path, "application/json", object.to_string().into_bytes()).await
}

#[tokio::test]
async fn what_is_wrong_is_not_taken_and_it_is_said_why() {
    let (server, _control) = guarded().await;
    let configuration = server.read("ValidatingWebhookConfiguration", "", "mesh-validator").expect("it");
    // Nothing but the trust has been changed.
    assert_eq!(
        configuration["webhooks"][0]["rules"],
        manifests("webhook/validating.yaml")[0]["webhooks"][0]["rules"]
    );
    let bad = service("v", &json!([{"rout": [{"destination": {"host": "reviews"}}]}]));
    let refused = apply(&server, &bad).await.expect(400);
    let message = refused["message"].as_str().expect("a message");
    let start = "admission webhook \"validation.mesh.internal\" denied the request: ";
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains("spec.http[0].rout") && message.contains("route"), "{message}");
    assert_eq!(server.read("VirtualService", "shop", "v"), None);
    let good = service("v", &json!([{"route": [{"destination": {"host": "reviews"}}]}]));
    apply(&server, &good).await.expect(201);
}

#[tokio::test]
async fn without_a_control_plane_nothing_is_taken_and_everything_can_be_deleted() {
    let (server, control) = guarded().await;
    let good = service("v", &json!([{"route": [{"destination": {"host": "reviews"}}]}]));
    apply(&server, &good).await.expect(201);
    drop(control);
    let other = service("w", &json!([{"route": [{"destination": {"host": "reviews"}}]}]));
    apply(&server, &other).await.expect(500);
    let path = "/apis/networking.istio.io/v1/namespaces/shop/virtualservices/v";
    send(&admin(&server), Method::DELETE, path, "application/json", Vec::new()).await.expect(200);
}

/// The status line of the answer to a request.
async fn ask(server: &ApiServer, control: &Control, head: &str, body: &[u8]) -> String {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(&roots(server).expect("roots")) {
        store.add(root.expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(store).with_no_client_auth();
    let stream = TcpStream::connect(control.webhook).await.expect("a connection");
    let name = ServerName::try_from("mesh-control.istio-system.svc").expect("a name");
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
    let (server, control) = guarded().await;
    let post = "POST /validate HTTP/1.1\r\ncontent-type: application/json";
    for body in ["", "{}", "[[[[", "{\"apiVersion\":\"admission.k8s.io/v1\"}", "\u{0}"] {
        let line = ask(&server, &control, post, body.as_bytes()).await;
        assert!(line.contains(" 400 "), "{body:?}: {line}");
    }
    let deep = "[".repeat(1 << 20);
    assert!(ask(&server, &control, post, deep.as_bytes()).await.contains(" 400 "));
    let large = vec![b' '; (3 << 20) + 1];
    let line = ask(&server, &control, post, &large).await;
    assert!(line.is_empty() || line.contains(" 413 "), "{line}");
    assert!(ask(&server, &control, "GET /validate HTTP/1.1", b"").await.contains(" 405 "));
    assert!(ask(&server, &control, "POST /other HTTP/1.1", b"").await.contains(" 404 "));
    let plain = "POST /validate HTTP/1.1\r\ncontent-type: text/plain";
    assert!(ask(&server, &control, plain, b"{}").await.contains(" 415 "));
    // And it still answers those who ask in good order.
    let good = service("v", &json!([{"route": [{"destination": {"host": "reviews"}}]}]));
    apply(&server, &good).await.expect(201);
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
    let definitions = ServedKind::all().filter(|kind| kind.group().ends_with(".istio.io")).map(|kind| {
        let name = kind.name().to_lowercase();
        let plural = match name.strip_suffix('y') {
            Some(stem) if !stem.ends_with('a') => format!("{stem}ies"),
            _ => format!("{name}s"),
        };
        format!("{plural}.{}", kind.group())
    });
    assert_eq!(found, definitions.collect());
}
