//! A cluster to ask: the suite's own API server, or a real one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, header};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::{Client, Config};
use mesh_tests::apiserver::{ApiServer, Settings, Token, User};
use serde_json::{Value, json};
use tokio::sync::{MutexGuard, OnceCell};
use tokio::time::{Instant, timeout, timeout_at};

use crate::real;

/// A cluster in which a test may do what it likes, in namespaces of its own.
pub(crate) struct Cluster {
    /// None, if it is a real one.
    pub(crate) ours: Option<ApiServer>,
    /// The mesh's own namespace, where there is a mesh.
    pub(crate) root: String,
    pub(crate) config: Config,
    client: Client,
    /// Paths of what the test has made besides what is in namespaces.
    pub(crate) made: Mutex<Vec<String>>,
    /// A node for pods that are to be nowhere in particular.
    pub(crate) nobody: OnceCell<String>,
    pub(crate) alone: Option<MutexGuard<'static, ()>>,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

/// The lines of a watch.
pub(crate) struct Events {
    body: Body,
    begun: Vec<u8>,
}

impl Cluster {
    /// A real one if the environment names one; see [`real`].
    pub(crate) async fn any() -> Self {
        match real::config().await {
            Some(config) => Self::at(config),
            None => Self::own(),
        }
    }

    /// One that is there already.
    pub(crate) fn at(config: Config) -> Self {
        let client = Client::try_from(config.clone()).expect("a client");
        Self::new(None, config, client)
    }

    /// The suite's own, for tests that need more of a server than its protocol.
    pub(crate) fn own() -> Self {
        let settings = Settings {
            rbac: true,
            private: true,
            bookmark_interval: Duration::from_millis(500),
            ..Settings::default()
        };
        let server = ApiServer::start(&settings).expect("a server");
        server.add_token("admin", Token::of(User::admin()));
        let mut config = Config::new(server.url().parse().expect("a URL"));
        config.default_retry = false;
        let client = with_token(&config, "admin");
        Self::new(Some(server), config, client)
    }

    fn new(ours: Option<ApiServer>, config: Config, client: Client) -> Self {
        Self {
            ours,
            root: "istio-system".to_owned(),
            config,
            client,
            made: Mutex::default(),
            nobody: OnceCell::new(),
            alone: None,
        }
    }

    /// The suite's own server, where a test has chosen it.
    pub(crate) fn server(&mut self) -> &mut ApiServer {
        self.ours.as_mut().expect("Cluster::own or Cluster::own_mesh")
    }

    /// The way to it for the administrator.
    pub(crate) fn admin(&self) -> Config {
        match &self.ours {
            Some(_) => authorized(&self.config, "admin"),
            None => self.config.clone(),
        }
    }

    /// The same cluster, asked by whoever owns a token.
    pub(crate) fn client_of(&self, token: &str) -> Client {
        with_token(&self.config, token)
    }

    /// A kubeconfig for the administrator, or for whoever owns a token.
    pub(crate) fn kubeconfig(&self, token: Option<&str>) -> Value {
        let token = token.or(self.ours.as_ref().map(|_| "admin")).map(|token| json!({"token": token}));
        let user = token.unwrap_or_else(|| serde_json::to_value(&self.config.auth_info).expect("JSON"));
        let server = self.config.cluster_url.to_string();
        let mut cluster = json!({"server": server});
        if let Some(roots) = &self.config.root_cert {
            let pem: String = roots.iter().map(|root| mesh_ca::bundle::pem("CERTIFICATE", root)).collect();
            cluster["certificate-authority-data"] = json!(STANDARD.encode(pem));
        } else if self.config.accept_invalid_certs {
            // The one that we start makes its certificate itself.
            cluster["insecure-skip-tls-verify"] = json!(true);
        }
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        })
    }

    /// A namespace of its own, freshly made.
    pub(crate) async fn namespace(&self) -> String {
        let name = unique("t");
        let made = self.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await;
        made.expect(201);
        self.made.lock().expect("no panic").push(format!("/api/v1/namespaces/{name}"));
        name
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(&self.client, Method::GET, path, "application/json", Vec::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(&self.client, Method::POST, path, "application/json", bytes(body)).await
    }

    pub(crate) async fn update(&self, path: &str, body: &Value) -> Answer {
        send(&self.client, Method::PUT, path, "application/json", bytes(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(&self.client, Method::DELETE, path, "application/json", Vec::new()).await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: &Value) -> Answer {
        send(&self.client, Method::DELETE, path, "application/json", bytes(options)).await
    }

    /// `sort`: the content type without `application/`.
    pub(crate) async fn patch(&self, path: &str, sort: &str, body: &Value) -> Answer {
        send(&self.client, Method::PATCH, path, &format!("application/{sort}"), bytes(body)).await
    }

    /// Server-side apply in somebody's name.
    pub(crate) async fn apply(&self, path: &str, manager: &str, body: &Value) -> Answer {
        self.patch(&format!("{path}?fieldManager={manager}"), "apply-patch+yaml", body).await
    }

    /// With a wish for the form of the answer.
    pub(crate) async fn get_as(&self, path: &str, accept: &str) -> Answer {
        let request =
            Request::get(path).header(header::ACCEPT, accept).body(Body::empty()).expect("a request");
        let response = self.client.send(request).await.expect("an answer");
        read(response).await
    }

    pub(crate) async fn watch(&self, path: &str) -> Events {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Events {
        let request =
            Request::get(path).header(header::ACCEPT, accept).body(Body::empty()).expect("a request");
        let response = self.client.send(request).await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        Events { body: response.into_body(), begun: Vec::new() }
    }

    /// A custom kind of its own group, defined and served: its path below a namespace is
    /// `/apis/GROUP/v1/namespaces/NAMESPACE/things`.
    pub(crate) async fn define_things(&self) -> String {
        let group = format!("{}.mesh.test", unique("g"));
        let made = self
            .post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition_of_things(&group))
            .await;
        made.expect(201);
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.{group}");
        self.made.lock().expect("no panic").push(path);
        self.get_soon(&format!("/apis/{group}/v1/things")).await;
        group
    }

    /// What is there now, or comes within 20 s.
    pub(crate) async fn get_soon(&self, path: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let answer = self.get(path).await;
            if answer.status == 200 {
                return answer.body;
            }
            assert!(Instant::now() < deadline, "{path} is not served");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Answer {
    /// The body of an answer that must have this status.
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The reason of a refusal that must have this status.
    pub(crate) fn refused(self, status: u16) -> String {
        let body = self.expect(status);
        assert_eq!(body["kind"], "Status", "{body}");
        assert_eq!(body["status"], "Failure", "{body}");
        assert_eq!(body["code"], status, "{body}");
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

impl Events {
    /// The next event that is no bookmark, within 20 s: its type and object; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let (sort, object) = self.next_of_any_sort().await?;
            if sort != "BOOKMARK" {
                return Some((sort, object));
            }
        }
    }

    /// The next event.
    pub(crate) async fn next_of_any_sort(&mut self) -> Option<(String, Value)> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(end) = self.begun.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.begun.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("a line of JSON");
                let sort = event["type"].as_str().expect("a type").to_owned();
                return Some((sort, event["object"].clone()));
            }
            let frame = timeout_at(deadline, self.body.frame()).await.expect("an event in time")?;
            let data = frame.expect("an unbroken stream").into_data().unwrap_or_default();
            self.begun.extend_from_slice(&data);
        }
    }

    /// Type and name of the next event that is no bookmark.
    pub(crate) async fn summary(&mut self) -> String {
        match self.next().await {
            Some((sort, object)) => {
                format!("{sort} {}", object["metadata"]["name"].as_str().unwrap_or_default())
            }
            None => "END".into(),
        }
    }

    /// Whether nothing comes for a moment.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(300), self.next()).await.is_err()
    }
}

/// One exchange.
pub(crate) async fn send(client: &Client, method: Method, path: &str, sort: &str, body: Vec<u8>) -> Answer {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, sort);
    let request = request.body(Body::from(body)).expect("a request");
    read(client.send(request).await.expect("an answer")).await
}

/// A name that no other test has.
pub(crate) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn with_token(config: &Config, token: &str) -> Client {
    Client::try_from(authorized(config, token)).expect("a client")
}

/// The same way for whoever owns a token.
pub(crate) fn authorized(config: &Config, token: &str) -> Config {
    let mut config = config.clone();
    config.auth_info = kube::config::AuthInfo { token: Some(token.to_owned().into()), ..Default::default() };
    config
}

fn bytes(body: &Value) -> Vec<u8> {
    body.to_string().into_bytes()
}

async fn read(response: http::Response<Body>) -> Answer {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a whole answer").to_bytes();
    let body = serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body)));
    Answer { status, body }
}

/// Things have a status and two versions; their list of parts is merged by name, and their conditions by type.
fn definition_of_things(group: &str) -> Value {
    let keyed = |key: &str| {
        json!({
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key],
            "items": {
                "type": "object", "required": [key], "properties": {key: {"type": "string"}},
                "x-kubernetes-preserve-unknown-fields": true,
            },
        })
    };
    let schema = json!({
        "type": "object",
        "properties": {
            "spec": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"parts": keyed("name")},
            },
            "status": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"conditions": keyed("type")},
            },
        },
    });
    let version = |name: &str, storage: bool| {
        json!({
            "name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        })
    };
    json!({
        "metadata": {"name": format!("things.{group}")},
        "spec": {
            "group": group, "scope": "Namespaced",
            "names": {"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"},
            "versions": [version("v1beta1", false), version("v1", true)],
        },
    })
}
