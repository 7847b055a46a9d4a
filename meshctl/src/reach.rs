//! Where the processes of the mesh are asked about themselves: at an address that was given, on this machine, or in a cluster.
//!
//! Their admin ports answer their own machine or pod alone. In a cluster they are reached as `kubectl port-forward` reaches
//! them, through the API server and the kubelet, by whoever may make `pods/portforward` there.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::http::Server;
use crate::kubeconfig::Kubeconfig;
use crate::reach::cluster::{Cluster, Pod};

mod cluster;
mod forward;

/// A process that can be asked.
#[derive(Debug)]
pub(crate) enum Admin {
    /// At an address.
    At(Server),
    /// In a pod.
    In(Box<Pod>),
}

impl Admin {
    /// The body of the answer to a GET of `path`, which must be a 200.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        match self {
            Self::At(server) => server.get(path),
            Self::In(pod) => pod.ask("GET", path),
        }
    }

    /// The same for a POST without a body.
    pub(crate) fn post(&self, path: &str) -> Result<String> {
        match self {
            Self::At(server) => server.post(path),
            Self::In(pod) => pod.ask("POST", path),
        }
    }

    /// The last bytes of what it has logged, if that is kept where it runs.
    pub(crate) fn log(&self, most: u64) -> Option<Result<String>> {
        match self {
            Self::At(_) => None,
            Self::In(pod) => Some(pod.log(most)),
        }
    }

    /// What it is called, for people.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::At(server) => server.url(),
            Self::In(pod) => pod.to_string(),
        }
    }

    /// The one on this machine, if anything listens there.
    fn here(port: u16) -> Option<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        TcpStream::connect_timeout(&address, HERE).ok()?;
        Some(Self::At(Server::at(address)))
    }
}

/// Which cluster, if it comes to one.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    kubeconfig: Kubeconfig,
    /// The namespace of the mesh in the cluster.
    #[arg(long, visible_alias = "istioNamespace", value_name = "NAMESPACE", default_value = "istio-system")]
    mesh_namespace: String,
}

impl Place {
    /// Whether a cluster was asked for by name.
    fn is_said(&self) -> bool {
        self.kubeconfig.is_said()
    }

    fn cluster(&self) -> Result<Cluster> {
        Cluster::find(&self.kubeconfig, &self.mesh_namespace)
    }
}

/// The control plane: where it was said, else on this machine if one answers here, else in the cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct ControlPlane {
    /// The control plane's monitoring address [default: this machine's port 15014 if it answers, else the cluster's].
    #[arg(long = "control", value_name = "URL")]
    address: Option<Server>,
    #[command(flatten)]
    place: Place,
    #[arg(skip)]
    found: OnceLock<Vec<Admin>>,
}

impl ControlPlane {
    /// Where else to look in the same cluster.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// The body of the answer of one replica to a GET of `path`.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        self.replicas()?.first().context("the control plane has no replica")?.get(path)
    }

    /// The bodies of the answers of all replicas: each knows the proxies that are connected to it.
    pub(crate) fn get_all(&self, path: &str) -> Result<Vec<String>> {
        self.replicas()?.iter().map(|replica| replica.get(path)).collect()
    }

    /// Every replica, and at least one.
    pub(crate) fn replicas(&self) -> Result<&[Admin]> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let found = self.find()?;
        Ok(self.found.get_or_init(|| found))
    }

    fn find(&self) -> Result<Vec<Admin>> {
        if let Some(server) = &self.address {
            return Ok(vec![Admin::At(server.clone())]);
        }
        if let Some(here) = (!self.place.is_said()).then(|| Admin::here(CONTROL_PORT)).flatten() {
            return Ok(vec![here]);
        }
        let in_cluster = || self.place.cluster()?.control_plane(CONTROL_PORT);
        let pods = in_cluster().with_context(|| {
            format!("no control plane at 127.0.0.1:{CONTROL_PORT} (--control names another), and none in a cluster")
        })?;
        Ok(pods.into_iter().map(|pod| Admin::In(Box::new(pod))).collect())
    }
}

/// A node's proxy, a waypoint or a gateway.
#[derive(Debug, clap::Args)]
pub(crate) struct Proxy {
    /// Which proxy: its admin address; or in a cluster the name of a node, or NAMESPACE/NAME of a pod, waypoint or gateway
    /// [default: this machine's port 15000 if it answers, else the cluster's node if there is but one].
    #[arg(long = "proxy", visible_alias = "node", value_name = "URL|NODE|NAMESPACE/NAME")]
    which: Option<Which>,
    #[command(flatten)]
    place: Place,
}

impl Proxy {
    /// Finds it.
    pub(crate) fn find(&self) -> Result<Admin> {
        if let Some(which) = &self.which {
            return which.find(&self.place);
        }
        if let Some(here) = (!self.place.is_said()).then(|| Admin::here(PROXY_PORT)).flatten() {
            return Ok(here);
        }
        let in_cluster = || self.place.cluster()?.only_node(PROXY_PORT);
        let pod = in_cluster().with_context(|| {
            format!("no proxy at 127.0.0.1:{PROXY_PORT} (--proxy names another), and none in a cluster")
        })?;
        Ok(Admin::In(Box::new(pod)))
    }
}

/// A proxy, as it is named on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Which {
    /// By its address.
    Address(Server),
    /// By its name in a cluster: a node's, or NAMESPACE/NAME.
    Name(String),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return text.parse().map(Self::Address);
        }
        let is_fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/');
        if text.is_empty() || !text.chars().all(is_fine) {
            return Err("write http://HOST:PORT, the name of a node, or NAMESPACE/NAME".to_owned());
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl Which {
    /// Finds it.
    pub(crate) fn find(&self, place: &Place) -> Result<Admin> {
        match self {
            Self::Address(server) => Ok(Admin::At(server.clone())),
            Self::Name(name) => Ok(Admin::In(Box::new(place.cluster()?.proxy(name, PROXY_PORT)?))),
        }
    }
}

/// The directory that the control plane on this machine follows, if there is one that follows any.
pub(crate) fn followed_here() -> Option<PathBuf> {
    let mesh = Admin::here(CONTROL_PORT)?.get("/api/v1/mesh").ok()?;
    let directory = json(&mesh).ok()?.get("configDirectory")?.as_str().map(PathBuf::from)?;
    directory.is_dir().then_some(directory)
}

/// JSON that the control plane or a proxy has answered.
pub(crate) fn json(answer: &str) -> Result<Value> {
    serde_json::from_str(answer).context("the answer is not JSON")
}

/// Where the control plane tells about itself.
const CONTROL_PORT: u16 = 15014;
/// Where proxies do.
const PROXY_PORT: u16 = 15000;
/// How long this machine may take to say that nobody listens.
const HERE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_an_address_or_a_name() {
        let which = |text: &str| text.parse::<Which>();
        assert_eq!(which("http://127.0.0.1:15101"), Ok(Which::Address("127.0.0.1:15101".parse().unwrap())));
        assert_eq!(which("127.0.0.1:15101"), which("http://127.0.0.1:15101"));
        assert_eq!(which("node-1"), Ok(Which::Name("node-1".to_owned())));
        assert_eq!(which("default/waypoint"), Ok(Which::Name("default/waypoint".to_owned())));
        for wrong in ["", "a b", "https://x", "a\nb"] {
            assert!(which(wrong).is_err(), "{wrong:?}");
        }
    }
}
