//! The API of a cluster as a source, and what a control plane writes back to it.
//!
//! One task a kind lists once and watches from there (see [`reflector`]); what a kind is called and in which version it
//! is served is asked of the cluster ([`discovery`]), so a kind whose definition is not installed is passed over until
//! it is. An API server that cannot be reached, or has forgotten where we were, changes nothing but the time at which
//! news arrive: what was told stays in force, and what vanished meanwhile is told after the next list.
//!
//! No content of a Secret or a `ConfigMap` is read unless somebody says that it is [`Wanted`].

use std::collections::BTreeSet;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use mesh_core::resource::ObjectKey;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

pub use kube::Client;

use self::api::Api;
use self::discovery::{Discovery, Places};
use self::kinds::Content;
pub use self::kinds::watched_kinds;
use self::reflector::Reflector;
use crate::changes::{self, Change, Changes, Sender};

mod api;
mod backoff;
mod discovery;
mod kinds;
mod known;
pub mod leader;
pub mod once;
mod reflector;
pub mod status;
mod wire;

/// A cluster that is watched. Made by [`Kubernetes::new`].
pub struct Kubernetes {
    client: Client,
    pace: Pace,
    sender: Sender,
    wanted: Wanted,
    places: watch::Sender<Places>,
}

/// How a cluster is watched.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespace of mesh-wide configuration: its `ConfigMap` named `istio` is always wanted.
    pub root_namespace: String,
    /// When to ask, and when to ask again.
    pub pace: Pace,
}

/// How long things take, and how long they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// After a first failure the next attempt waits about so long, after every further one twice as long…
    pub least_backoff: Duration,
    /// …up to this. An API server that names a time itself (`Retry-After`) is obeyed.
    pub most_backoff: Duration,
    /// A watch is ended by the server after about so long. What it says at the end (a bookmark) is where the next one
    /// begins, so that the place is never so old that a server has forgotten it.
    pub watch: Duration,
    /// A watch that says nothing for so long is given up for a new one from the same place: the server may be gone
    /// without a word. Servers send a bookmark a minute.
    pub silence: Duration,
    /// An answer must have begun after so long.
    pub answer: Duration,
    /// While a kind is missing, the cluster is asked so often whether it has come.
    pub discovery: Duration,
    /// A kind must be missing for so long before its objects are. An API server that is starting up may deny what it has
    /// not loaded yet.
    pub gone: Duration,
}

/// Says which Secrets and `ConfigMap`s are to be read. Clones speak for the same source.
#[derive(Debug, Clone)]
pub struct Wanted {
    always: Arc<ObjectKey>,
    keys: Arc<watch::Sender<Arc<BTreeSet<ObjectKey>>>>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Neither a kubeconfig nor the files of a Pod's service account say where the API is.
    #[error("there is no cluster to connect to")]
    NoCluster(#[source] Box<kube::config::InferConfigError>),
    /// A kubeconfig cannot be read, or has no such context.
    #[error("the kubeconfig names no cluster")]
    Kubeconfig(#[source] Box<kube::config::KubeconfigError>),
    /// Keys, certificates or addresses are not what they should be.
    #[error("the connection to the cluster cannot be set up")]
    Client(#[source] Box<kube::Error>),
}

/// A client for the cluster that `$KUBECONFIG`, `~/.kube/config` or, in a Pod, its service account names. Does not
/// connect yet.
pub async fn connect() -> Result<Client, ConnectError> {
    client(infer().await?)
}

/// A client for the cluster of a context of a kubeconfig, and that cluster's address. Without `file` it is the kubeconfig
/// that `kubectl` would take, without `context` the one that is current there; without both, what [`connect`] finds.
pub async fn connect_to(
    file: Option<&Path>,
    context: Option<&str>,
) -> Result<(Client, String), ConnectError> {
    let wrong = |error| ConnectError::Kubeconfig(Box::new(error));
    let config = match (file, context) {
        (None, None) => infer().await?,
        (file, context) => {
            let kubeconfig = match file {
                Some(file) => Kubeconfig::read_from(file).map_err(wrong)?,
                None => Kubeconfig::read().map_err(wrong)?,
            };
            let options =
                KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
            kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(wrong)?
        }
    };
    let address = config.cluster_url.to_string();
    Ok((client(config)?, address))
}

/// A client for a cluster that the caller describes.
pub fn client(mut config: kube::Config) -> Result<Client, ConnectError> {
    // Whoever asks knows better whether, when and what to ask again.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}

impl Kubernetes {
    /// A source that will tell of everything the mesh uses in the cluster of `client`.
    pub fn new(client: Client, options: Options) -> (Self, Changes) {
        let (sender, changes) = changes::channel();
        let mesh_config = ObjectKey {
            kind: "ConfigMap",
            namespace: options.root_namespace.into(),
            name: MESH_CONFIG.into(),
        };
        let keys = BTreeSet::from([mesh_config.clone()]);
        let (keys, _) = watch::channel(Arc::new(keys));
        let wanted = Wanted { always: Arc::new(mesh_config), keys: Arc::new(keys) };
        let (places, _) = watch::channel(Places::new());
        (Self { client, pace: options.pace, sender, wanted, places }, changes)
    }

    /// The way to say which Secrets and `ConfigMap`s to read.
    pub fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    /// Tells of every change until nobody listens any more. Failures end nothing: they are logged and tried again.
    pub async fn run(self) {
        let Self { client, pace, sender, wanted, places } = self;
        let api = Api::new(client, pace.clone());
        let kinds: Vec<_> = kinds::watched().collect();
        let again = Arc::new(Notify::new());
        let found = places.subscribe();
        let discovery = Discovery::new(api.clone(), &kinds, Arc::clone(&again), places);
        let (in_sync, mut synced) = mpsc::channel(kinds.len().max(1));
        let mut tasks = JoinSet::new();
        for watched in &kinds {
            let reflector = Reflector::new(watched, api.clone(), found.clone(), Arc::clone(&again));
            let keys = (watched.content == Content::OnDemand).then(|| wanted.keys.subscribe());
            tasks.spawn(reflector.run(sender.clone(), keys, in_sync.clone()));
        }
        drop((in_sync, found));
        tasks.spawn(discovery.run());
        let synced = async {
            for _ in &kinds {
                // A reflector ends early only if nobody listens, or by a panic that is passed on below.
                let _ = synced.recv().await;
            }
            tracing::info!(kinds = kinds.len(), "Everything in the cluster is known.");
            let _ = sender.send(vec![Change::Synced]).await;
        };
        let work = async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    resume_unwind(error.into_panic());
                }
            }
        };
        tokio::select! {
            () = sender.closed() => {}
            () = async { tokio::join!(synced, work); } => {}
        }
    }
}

impl Wanted {
    /// Reads these from now on, and no others but the mesh's own configuration: what is no longer wanted is told as
    /// deleted, what is newly wanted as applied. Keys of other kinds mean nothing.
    pub fn set(&self, mut keys: BTreeSet<ObjectKey>) {
        keys.insert(self.always.as_ref().clone());
        self.keys.send_if_modified(|current| {
            let differs = **current != keys;
            if differs {
                *current = Arc::new(keys);
            }
            differs
        });
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { root_namespace: "istio-system".into(), pace: Pace::default() }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least_backoff: Duration::from_millis(500),
            most_backoff: Duration::from_secs(30),
            watch: Duration::from_secs(270),
            silence: Duration::from_secs(100),
            answer: Duration::from_secs(30),
            discovery: Duration::from_secs(15),
            gone: Duration::from_secs(30),
        }
    }
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("pace", &self.pace).finish_non_exhaustive()
    }
}

async fn infer() -> Result<kube::Config, ConnectError> {
    kube::Config::infer().await.map_err(|error| ConnectError::NoCluster(Box::new(error)))
}

/// `/api/v1/pods` in a namespace: `/api/v1/namespaces/NAMESPACE/pods`.
fn in_namespace(path: &str, namespace: &str) -> String {
    match path.rsplit_once('/') {
        Some((version, plural)) if !namespace.is_empty() => {
            format!("{version}/namespaces/{namespace}/{plural}")
        }
        _ => path.to_owned(),
    }
}

/// The `ConfigMap` of mesh-wide configuration.
const MESH_CONFIG: &str = "istio";
/// A server that does not take a connection within this time is tried again.
const CONNECT: Duration = Duration::from_secs(5);
