//! An API server for tests: real HTTP on loopback, everything in memory.
//!
//! It keeps to Kubernetes' protocol in what clients of the mesh rely on: versions and conflicts, lists in pages as of one
//! moment, watches with bookmarks that can begin in the past until that is forgotten, selectors, patches and server-side
//! apply with owners of fields, status as a path of its own, generations, finalizers, discovery, custom resources by
//! their definitions, tokens and their reviews, roles, and validating webhooks. A suite (`tests/control/apiserver.rs`)
//! holds it to that, and runs against a real one just as well.
//!
//! What it leaves out: schemas (no defaults, no pruning, no validation beyond names), conversion between versions beyond
//! their name, controllers (a namespace is deleted at once with all that is in it; nobody schedules a Pod), graceful
//! deletion, aggregated discovery, Protobuf.
//!
//! In return it can be made to fail: see [`Fault`], [`ApiServer::stop`], [`ApiServer::compact`],
//! [`ApiServer::end_watches`].

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub use self::alone::serve_alone;
pub use self::authn::{AUDIENCE, Token, User};
pub use self::kinds::{Lists, Resource};
use self::server::Place;
pub use self::state::Fault;
use self::state::{Shared, State};
pub use self::status::Refusal;
use self::store::Key;

mod alone;
mod authn;
mod clock;
mod discovery;
mod fields;
mod forward;
mod kinds;
mod logs;
mod patch;
mod rbac;
mod read;
mod request;
mod selector;
mod server;
mod state;
mod status;
mod store;
mod webhook;
mod write;

/// A server that runs until it is dropped. What it holds survives [`ApiServer::stop`].
pub struct ApiServer {
    address: SocketAddr,
    /// The certificate to trust, in PEM, if it speaks TLS.
    certificate: Option<String>,
    shared: Arc<Shared>,
    wanted: Option<watch::Sender<bool>>,
    there: watch::Receiver<bool>,
    thread: Option<JoinHandle<()>>,
}

/// How a server is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Speak TLS, with a certificate for `localhost` and 127.0.0.1.
    pub tls: bool,
    /// Refuse those who show no token.
    pub private: bool,
    /// Let roles decide who may do what; otherwise everybody may do everything.
    pub rbac: bool,
    /// Between two bookmarks of a watch; Kubernetes' is a minute.
    pub bookmark_interval: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { tls: false, private: false, rbac: false, bookmark_interval: Duration::from_secs(60) }
    }
}

impl ApiServer {
    /// Starts one with a namespace `default` in it.
    pub fn start(settings: &Settings) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on loopback")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut state = State::new(settings.bookmark_interval);
        (state.private, state.rbac) = (settings.private, settings.rbac);
        let shared = Shared::new(state);
        let (tls, certificate) = if settings.tls {
            let (acceptor, certificate) = tls()?;
            (Some(acceptor), Some(certificate))
        } else {
            (None, None)
        };
        let (wanted, is_wanted) = watch::channel(true);
        let (is_there, there) = watch::channel(false);
        let place = Place { address, tls, shared: Arc::clone(&shared) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = move || runtime.block_on(server::serve(place, listener, is_wanted, is_there));
        let thread = std::thread::Builder::new().name("apiserver".into()).spawn(serve)?;
        let server = Self { address, certificate, shared, wanted: Some(wanted), there, thread: Some(thread) };
        server.put(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}));
        Ok(server)
    }

    /// `http://…` or `https://…`.
    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The certificate to trust, in PEM; none without TLS.
    pub fn certificate(&self) -> Option<&str> {
        self.certificate.as_deref()
    }

    /// Stops listening and breaks off every connection. Returns when that is done.
    pub async fn stop(&mut self) {
        self.turn(false).await;
    }

    /// Listens again, on the same port, with everything there was.
    pub async fn start_again(&mut self) {
        self.turn(true).await;
    }

    /// Ends every watch in good order.
    pub fn end_watches(&self) {
        self.shared.lock().end_watches();
    }

    /// Forgets all history: watches that begin in the past, and lists that are half read, are refused as expired.
    pub fn compact(&self) {
        self.shared.lock().store.compact();
    }

    /// Lets something go wrong from now on.
    pub fn fail(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Nothing goes wrong any more.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
    }

    /// What has been asked since the last time: `verb resource namespace/name`, or method and path.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().seen)
    }

    /// Makes a token good.
    pub fn add_token(&self, text: &str, token: Token) {
        self.shared.lock().tokens.add(text, token);
    }

    /// Makes a token worthless.
    pub fn revoke_token(&self, text: &str) {
        self.shared.lock().tokens.revoke(text);
    }

    /// Serves one more custom resource, without a definition that anybody could read.
    pub fn define(&self, resource: Resource) {
        self.shared.lock().registry.define(resource);
    }

    /// Serves a resource no more; its objects are kept for when it is defined again.
    pub fn undefine(&self, group: &str, plural: &str) {
        self.shared.lock().registry.remove(group, plural);
    }

    /// Says where the webhooks of a service are.
    pub fn place_service(&self, namespace: &str, name: &str, address: SocketAddr) {
        self.shared.lock().services.insert(format!("{namespace}/{name}"), address);
    }

    /// Writes an object as it is, status and all, as controllers and kubelets together would. Creates its namespace. The kind
    /// must be known.
    pub fn put(&self, object: &Value) {
        let mut state = self.shared.lock();
        let mut object = object.clone();
        let resource = resource_of(&state, &object).expect("a test puts objects of known kinds");
        let name = object["metadata"]["name"].as_str().expect("a test's objects have names").to_owned();
        let namespace = match object["metadata"]["namespace"].as_str() {
            _ if !resource.namespaced => String::new(),
            namespace => namespace.unwrap_or("default").to_owned(),
        };
        if resource.namespaced {
            object["metadata"]["namespace"] = json!(namespace);
            let key = key("namespaces", "", &namespace);
            if state.store.get(&key).is_none() {
                let labels = json!({"kubernetes.io/metadata.name": namespace});
                let metadata = json!({"name": namespace, "uid": clock::uuid(), "labels": labels});
                let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
                state.store.put(key, made);
            }
        }
        let key = key(&resource.full_name(), &namespace, &name);
        let before = state.store.get(&key).cloned();
        let old = |field: &str| before.as_ref().map(|it| it["metadata"][field].clone());
        let rest = write::rest(&object);
        let metadata = &mut object["metadata"];
        metadata["uid"] = old("uid").unwrap_or_else(|| json!(clock::uuid()));
        metadata["creationTimestamp"] = old("creationTimestamp").unwrap_or_else(|| json!(clock::now()));
        if resource.generation {
            let generation = old("generation").and_then(|it| it.as_u64()).unwrap_or_default();
            let differs = before.as_ref().is_none_or(|before| write::rest(before) != rest);
            metadata["generation"] = json!(generation + u64::from(differs));
        }
        state.store.put(key, object);
    }

    /// Deletes an object, whatever its finalizers say; whether there was one.
    pub fn remove(&self, kind: &str, namespace: &str, name: &str) -> bool {
        let mut state = self.shared.lock();
        let key = of_kind(&state, kind, namespace, name);
        key.is_some_and(|key| state.store.delete(&key).is_some())
    }

    /// Writes lines to the log of a container.
    pub fn log(&self, (namespace, pod): (&str, &str), container: &str, text: &str) {
        self.shared.lock().logs.write([namespace, pod, container], text);
    }

    /// An object as it is stored; of several groups with such a kind, that which has one.
    pub fn read(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let state = self.shared.lock();
        let kinds = state.registry.all().filter(|resource| resource.kind == kind);
        let mut keys = kinds.map(|resource| key(&resource.full_name(), namespace, name));
        keys.find_map(|key| state.store.get(&key).map(|object| object.as_ref().clone()))
    }

    /// All objects of a kind as they are stored, by namespace and name.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let state = self.shared.lock();
        let Some(resource) = state.registry.all().find(|resource| resource.kind == kind) else {
            return Vec::new();
        };
        let revision = state.store.revision();
        let name = resource.full_name();
        let all = state.store.list_at(&name, "", revision, None);
        all.map(|(_, object)| object.as_ref().clone()).collect()
    }

    async fn turn(&mut self, on: bool) {
        if let Some(wanted) = &self.wanted {
            wanted.send_replace(on);
        }
        // It fails only if the thread has died, which the next request will show.
        let _ = self.there.wait_for(|there| *there == on).await;
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.wanted.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed where it happened.
            let _ = thread.join();
        }
    }
}

fn resource_of(state: &State, object: &Value) -> Result<Arc<Resource>> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    let group = text("apiVersion").rsplit_once('/').map_or("", |(group, _)| group);
    match state.registry.of_kind(group, text("kind")) {
        Some(resource) => Ok(Arc::clone(resource)),
        None => bail!("there is no kind {} in group {group:?}", text("kind")),
    }
}

fn of_kind(state: &State, kind: &str, namespace: &str, name: &str) -> Option<Key> {
    let resource = state.registry.all().find(|resource| resource.kind == kind)?;
    Some(key(&resource.full_name(), namespace, name))
}

fn key(resource: &str, namespace: &str, name: &str) -> Key {
    Key { resource: resource.into(), namespace: namespace.into(), name: name.into() }
}

fn tls() -> Result<(TlsAcceptor, String)> {
    let names = vec!["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
    let made = rcgen::generate_simple_self_signed(names).context("a certificate")?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}
