//! Who carries traffic, and how far they are.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::Dashboard;
use crate::hub::Client;
use crate::metrics::short;
use crate::session::Progress;
use crate::topology::{self, Proxy, Trouble, process_of};

/// `/api/v1/nodes`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Proxies {
    control_plane: ControlPlane,
    nodes: Vec<Node>,
    /// Gateways, waypoints, and whoever else subscribes.
    others: Vec<Other>,
}

#[derive(Debug, Serialize)]
struct ControlPlane {
    version: &'static str,
    ready: bool,
    sequence: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    name: Arc<str>,
    pods: usize,
    /// Pods whose traffic the mesh is to carry.
    enrolled: usize,
    #[serde(flatten)]
    proxy: Told,
    /// Pods of it that it says something is wrong with.
    troubles: Vec<Trouble>,
    subscriptions: Vec<Subscription>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Other {
    name: Arc<str>,
    #[serde(flatten)]
    proxy: Told,
    subscriptions: Vec<Subscription>,
}

/// What a proxy has told of itself; nothing, if it has told nothing.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    version: Option<Arc<str>>,
    captured: Option<u32>,
    pending: Option<u32>,
    connections: Option<u64>,
    seconds_since_report: Option<u64>,
    /// Whether it is connected to another replica of the control plane.
    elsewhere: bool,
}

/// A stream to the control plane.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    id: Arc<str>,
    identity: Arc<str>,
    address: Option<String>,
    connected_seconds: u64,
    synced: bool,
    types: Vec<Type>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Type {
    #[serde(rename = "type")]
    name: &'static str,
    status: &'static str,
    rejected: u64,
    last_rejection: Option<Arc<str>>,
}

impl Dashboard {
    pub(super) fn nodes(&self) -> Proxies {
        let now = topology::now();
        let mut proxies = self.traffic.proxies();
        let sequence = self.hub.shelf().sequence();
        let mut nodes: BTreeMap<Arc<str>, Node> = BTreeMap::new();
        let pods: Vec<_> = self.inventory().0.into_values().flatten().collect();
        let mut own = HashSet::new();
        for pod in &pods {
            if let Some(name) = &pod.node {
                let node = nodes.entry(Arc::clone(name)).or_default();
                node.pods += 1;
                node.enrolled += usize::from(pod.enrolled);
                own.insert((&**name, &*pod.namespace, &*pod.name));
            }
        }
        let mut others = Vec::new();
        for client in self.hub.clients() {
            let subscription = subscription(&client, sequence);
            if let Some(name) = client.node {
                nodes.entry(name).or_default().subscriptions.push(subscription);
            } else {
                let name = gateway_of(&client.id).unwrap_or_else(|| Arc::clone(&client.id));
                let process = client.address.map(|address| process_of(&name, address.ip()));
                let proxy = told(process.and_then(|process| proxies.remove(&*process)), now);
                others.push(Other { name, proxy, subscriptions: vec![subscription] });
            }
        }
        let nodes = nodes.into_iter().map(|(name, node)| {
            let proxy = proxies.remove(&name);
            let troubles = proxy.iter().flat_map(|proxy| &*proxy.troubles);
            let troubles = troubles.filter(|it| own.contains(&(&*name, &*it.namespace, &*it.name)));
            let troubles = troubles.cloned().collect();
            Node { proxy: told(proxy, now), name, troubles, ..node }
        });
        Proxies {
            control_plane: ControlPlane {
                version: env!("CARGO_PKG_VERSION"),
                ready: self.hub.is_ready(),
                sequence,
            },
            nodes: nodes.collect(),
            others,
        }
    }
}

fn told(proxy: Option<Proxy>, now: u64) -> Told {
    let Some(proxy) = proxy else { return Told::default() };
    Told {
        version: Some(proxy.version),
        captured: Some(proxy.captured),
        pending: Some(proxy.pending),
        connections: Some(proxy.connections),
        seconds_since_report: Some(now.saturating_sub(proxy.at)),
        elsewhere: proxy.is_relayed && now.saturating_sub(proxy.at) < SILENT,
    }
}

/// Seconds after which one that tells nothing any more is not connected.
const SILENT: u64 = 20;

/// `NAMESPACE/NAME` of `router~ADDRESS~NAME.NAMESPACE~DOMAIN`.
fn gateway_of(id: &str) -> Option<Arc<str>> {
    let mut parts = id.strip_prefix("router~")?.split('~').skip(1);
    let (name, namespace) = parts.next()?.rsplit_once('.')?;
    Some(format!("{namespace}/{name}").into())
}

fn subscription(client: &Client, sequence: u64) -> Subscription {
    let types: Vec<Type> = client
        .types
        .iter()
        .map(|(kind, progress, error)| Type {
            name: short(*kind),
            status: status(progress, sequence),
            rejected: progress.rejected,
            last_rejection: error.clone(),
        })
        .collect();
    Subscription {
        id: Arc::clone(&client.id),
        identity: Arc::clone(&client.identity),
        address: client.address.map(|address| address.to_string()),
        connected_seconds: SystemTime::now().duration_since(client.since).unwrap_or_default().as_secs(),
        synced: types.iter().all(|kind| kind.status == SYNCED),
        types,
    }
}

/// How far a subscriber is with a type, in the words that `istioctl proxy-status` has for it.
pub(crate) fn status(progress: &Progress, sequence: u64) -> &'static str {
    match progress {
        progress if progress.sent == 0 => "NOT SENT",
        progress if progress.in_flight == 0 && progress.sent >= sequence => SYNCED,
        _ => "STALE",
    }
}

const SYNCED: &str = "SYNCED";
