//! Validating admission: before something is written, those who want a say in it are asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::clock;
use super::request::Call;
use super::selector::Selector;
use super::state::State;
use super::status::Refusal;
use super::write::Plan;

/// A webhook that is to be asked.
#[derive(Debug, Clone)]
pub(super) struct Hook {
    name: String,
    /// Fails the request if it cannot be asked.
    strict: bool,
    patience: Duration,
    /// The name in its certificate, its path, and where it is, if that is known.
    host: String,
    path: String,
    address: Result<SocketAddr, String>,
    /// PEM.
    roots: Vec<u8>,
}

/// The webhooks whose rules match.
pub(super) fn hooks(state: &State, call: &Call, plan: &Plan) -> Vec<Hook> {
    let resource = "validatingwebhookconfigurations.admissionregistration.k8s.io";
    let configurations = state.store.list_at(resource, "", state.store.revision(), None);
    let hooks = configurations.flat_map(|(_, object)| object["webhooks"].as_array().into_iter().flatten());
    hooks.filter(|hook| is_asked(state, hook, call, plan)).map(|hook| Hook::read(state, hook)).collect()
}

/// Asks one. Returns its warnings.
pub(super) async fn ask(hook: &Hook, review: &Value) -> Result<Vec<String>, Refusal> {
    let answered = timeout(hook.patience, hook.call(review)).await;
    let answer = match answered.unwrap_or_else(|_| Err("context deadline exceeded".into())) {
        Ok(answer) => answer,
        Err(_) if !hook.strict => return Ok(Vec::new()),
        Err(why) => {
            return Err(Refusal::internal(format!("failed calling webhook \"{}\": {why}", hook.name)));
        }
    };
    let response = &answer["response"];
    if response["uid"] != review["request"]["uid"] {
        let message = format!("webhook \"{}\" answered another request", hook.name);
        return Err(Refusal::internal(message));
    }
    let warnings = response["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if response["allowed"] == true {
        return Ok(warnings.map(str::to_owned).collect());
    }
    let status = &response["status"];
    let message = status["message"].as_str().unwrap_or("without explanation");
    let message = format!("admission webhook \"{}\" denied the request: {message}", hook.name);
    let code = status["code"].as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| *code >= 400);
    let reason = status["reason"].as_str().unwrap_or("Forbidden");
    Err(Refusal::new(code.unwrap_or(403), reason, message))
}

/// What webhooks are asked: `admission.k8s.io/v1`.
pub(super) fn review(call: &Call, plan: &Plan) -> Value {
    let resource = &call.resource;
    let old = plan.before.as_deref().cloned().unwrap_or_default();
    json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": clock::uuid(),
            "kind": {"group": resource.group, "version": call.version, "kind": resource.kind},
            "resource": {"group": resource.group, "version": call.version, "resource": resource.plural},
            "subResource": call.subresource,
            "name": plan.key.name, "namespace": plan.key.namespace, "operation": plan.operation(),
            "userInfo": call.user.to_json(),
            "object": plan.after, "oldObject": old,
            "dryRun": call.query.text("dryRun").is_some(),
        },
    })
}

impl Hook {
    fn read(state: &State, hook: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let client = &hook["clientConfig"];
        let of_service = |service: &Value| {
            let (namespace, name) = (text(&service["namespace"]), text(&service["name"]));
            let known = state.services.get(&format!("{namespace}/{name}")).copied();
            let address = known.ok_or_else(|| format!("service {namespace}/{name} is not known"));
            let path = service["path"].as_str().unwrap_or("/").to_owned();
            (format!("{name}.{namespace}.svc"), path, address)
        };
        let (host, path, address) =
            client["url"].as_str().map_or_else(|| of_service(&client["service"]), of_url);
        Self {
            name: text(&hook["name"]),
            strict: hook["failurePolicy"] != "Ignore",
            patience: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
            host,
            path,
            address,
            roots: STANDARD.decode(text(&client["caBundle"])).unwrap_or_default(),
        }
    }

    async fn call(&self, review: &Value) -> Result<Value, String> {
        let show = |error: &dyn std::fmt::Display| error.to_string();
        let stream = TcpStream::connect(self.address.clone()?).await.map_err(|error| show(&error))?;
        let name = ServerName::try_from(self.host.clone()).map_err(|error| show(&error))?;
        let connector = TlsConnector::from(self.tls()?);
        let stream = connector.connect(name, stream).await.map_err(|error| show(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| show(&error))?;
        let request = Request::post(format!("{}?timeout={}s", self.path, self.patience.as_secs()))
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|error| show(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| show(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            if !status.is_success() {
                return Err(format!("it answered {status}"));
            }
            serde_json::from_slice(&body).map_err(|error| show(&error))
        };
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            // The connection may end as soon as the answer is there.
            _ = connection => exchange.await,
        }
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&self.roots) {
            let certificate = certificate.map_err(|error| format!("caBundle: {error}"))?;
            roots.add(certificate).map_err(|error| format!("caBundle: {error}"))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map_err(|error| error.to_string())?;
        Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

fn of_url(url: &str) -> (String, String, Result<SocketAddr, String>) {
    let rest = url.strip_prefix("https://").unwrap_or_default();
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = authority.replace("localhost", "127.0.0.1").parse();
    (host.to_owned(), format!("/{path}"), address.map_err(|_| format!("{url} is not https://ADDRESS:PORT/…")))
}

fn is_asked(state: &State, hook: &Value, call: &Call, plan: &Plan) -> bool {
    let resource = &call.resource;
    // Or a webhook could keep people from ever getting rid of it.
    if resource.group == "admissionregistration.k8s.io" {
        return false;
    }
    let among = |list: &Value, wanted: &str| {
        let mut listed = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        listed.any(|it| it == "*" || it == wanted)
    };
    let scope = if resource.namespaced { "Namespaced" } else { "Cluster" };
    let rules = hook["rules"].as_array().into_iter().flatten();
    let has_a_say = rules.into_iter().any(|rule| {
        among(&rule["operations"], plan.operation())
            && among(&rule["apiGroups"], &resource.group)
            && among(&rule["apiVersions"], &call.version)
            && among(&rule["resources"], &call.resource_name())
            && [Some("*"), Some(scope), None].contains(&rule["scope"].as_str())
    });
    has_a_say && of_selected_namespace(state, hook, plan) && is_selected(hook, plan)
}

fn of_selected_namespace(state: &State, hook: &Value, plan: &Plan) -> bool {
    let selector = Selector::of_object(&hook["namespaceSelector"]);
    let name = if plan.key.namespace.is_empty() { &plan.key.name } else { &plan.key.namespace };
    let namespace =
        super::store::Key { resource: "namespaces".into(), namespace: String::new(), name: name.clone() };
    match state.store.get(&namespace) {
        Some(namespace) => selector.matches(namespace),
        // It is about no namespace at all.
        None => true,
    }
}

fn is_selected(hook: &Value, plan: &Plan) -> bool {
    let selector = Selector::of_object(&hook["objectSelector"]);
    let versions = [plan.before.as_deref(), plan.after.as_ref()];
    versions.into_iter().flatten().any(|object| selector.matches(object))
}

/// Bytes of a webhook's answer.
const MAX_ANSWER: usize = 1 << 20;
