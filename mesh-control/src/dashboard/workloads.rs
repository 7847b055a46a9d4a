//! What runs, and what it has to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::model::{Record, WaypointName, Workload, WorkloadType};
use mesh_core::topology::{Edge, Level, Link, Party, Point, Rates};
use mesh_proto::names::ResourceType;
use serde::Serialize;

use super::Dashboard;
use super::policies::{About, Policy};
use super::query::Query;
use crate::topology::{self, Proxy, Trouble};

/// A namespace, as `/api/v1/mesh` has it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Namespace {
    pub(super) name: Arc<str>,
    pub(super) pods: usize,
    /// Pods of it whose traffic the mesh carries.
    pub(super) enrolled: usize,
}

/// An element of `/api/v1/workloads`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    #[serde(rename = "type")]
    kind: WorkloadType,
    app: Arc<str>,
    version: Arc<str>,
    pods: usize,
    ready: usize,
    /// Pods of it whose traffic the mesh carries.
    enrolled: usize,
    identities: BTreeSet<String>,
    nodes: BTreeSet<Arc<str>>,
    /// `NAMESPACE/NAME` of services that it is an endpoint of.
    services: BTreeSet<String>,
    /// `NAMESPACE/NAME` of the waypoint that connections to its pods go through.
    waypoint: Option<String>,
    /// Why nothing is sent there; connections are refused then.
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint_refused: Option<Arc<str>>,
    inbound: Rates,
    outbound: Rates,
}

/// `/api/v1/workloads/NAMESPACE/NAME`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    #[serde(flatten)]
    row: Row,
    instances: Vec<Instance>,
    policies: Vec<Policy>,
    /// Who asks it, and whom it asks.
    edges: Vec<Link>,
    series: Series,
}

/// A pod.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    name: Arc<str>,
    node: Option<Arc<str>>,
    addresses: Vec<IpAddr>,
    ready: bool,
    enrolled: bool,
    /// Why its traffic is not captured although it should be, as its node says.
    capture: Option<Box<str>>,
    /// Why it has no new certificate although it should have one, as its node says.
    certificate: Option<Box<str>>,
}

#[derive(Debug, Serialize)]
struct Series {
    inbound: Vec<Point>,
    outbound: Vec<Point>,
}

/// A workload by namespace and name, and its pods.
pub(super) type Inventory = BTreeMap<(Arc<str>, Arc<str>), Vec<Arc<Workload>>>;

impl Dashboard {
    /// Everything that runs.
    pub(super) fn inventory(&self) -> (Inventory, Vec<Namespace>) {
        let mut inventory = Inventory::new();
        let mut namespaces: BTreeMap<Arc<str>, Namespace> = BTreeMap::new();
        for entry in self.hub.shelf().store(ResourceType::Address).iter() {
            let Record::Workload(workload) = &entry.record else { continue };
            let key = (Arc::clone(&workload.namespace), Arc::clone(&workload.workload_name));
            inventory.entry(key).or_default().push(Arc::clone(workload));
            let space = namespaces.entry(Arc::clone(&workload.namespace)).or_default();
            space.name = Arc::clone(&workload.namespace);
            space.pods += 1;
            space.enrolled += usize::from(workload.enrolled);
        }
        (inventory, namespaces.into_values().collect())
    }

    pub(super) fn workloads(&self, query: &Query) -> Vec<Row> {
        let mut rates = self.rates(query);
        let wanted = self.inventory().0.into_iter().filter(|((namespace, _), _)| query.wants(namespace));
        wanted
            .filter_map(|((namespace, name), pods)| {
                let rates = rates.remove(&format!("{namespace}/{name}")).unwrap_or_default();
                row(&pods, rates)
            })
            .collect()
    }

    pub(super) fn workload(&self, (namespace, name): (&str, &str), query: &Query) -> Option<Detail> {
        let mut pods = self.inventory().0.remove(&(namespace.into(), name.into()))?;
        pods.sort_by(|a, b| a.name.cmp(&b.name));
        let proxies = self.traffic.proxies();
        let id = format!("{namespace}/{name}");
        let rates = self.rates(query).remove(&id).unwrap_or_default();
        let is = |party: Option<&Arc<Party>>| {
            party.is_some_and(|party| *party.namespace == *namespace && *party.workload == *name)
        };
        let now = topology::now();
        let store = self.traffic.store();
        let graph = store.graph(now, query.window, Level::Workload, |edge| {
            is(edge.source.as_ref()) || is(edge.destination.as_ref())
        });
        let series = Series {
            inbound: store.series(now, |edge: &Edge| is(edge.destination.as_ref())),
            outbound: store.series(now, |edge: &Edge| is(edge.source.as_ref())),
        };
        drop(store);
        let members = pods.iter().flat_map(|pod| &pod.services);
        let services: BTreeSet<About<'_>> =
            members.map(|it| about(&it.service.namespace, &it.service.hostname)).collect();
        let services: Vec<_> = services.into_iter().collect();
        Some(Detail {
            row: row(&pods, rates)?,
            instances: pods.iter().map(|pod| instance(pod, &proxies)).collect(),
            policies: self.policies_of(&id, &services),
            edges: graph.edges,
            series,
        })
    }

    /// What every workload was asked for and has asked for, by id.
    fn rates(&self, query: &Query) -> BTreeMap<String, (Rates, Rates)> {
        let graph = self.traffic.store().graph(topology::now(), query.window, Level::Workload, |_| true);
        graph.nodes.into_iter().map(|node| (node.id, (node.inbound, node.outbound))).collect()
    }
}

fn row(pods: &[Arc<Workload>], (inbound, outbound): (Rates, Rates)) -> Option<Row> {
    let first = pods.first()?;
    let count = |wanted: fn(&Workload) -> bool| pods.iter().filter(|pod| wanted(pod)).count();
    let services = pods.iter().flat_map(|pod| &pod.services);
    Some(Row {
        namespace: Arc::clone(&first.namespace),
        name: Arc::clone(&first.workload_name),
        kind: first.workload_type,
        app: Arc::clone(&first.canonical_name),
        version: Arc::clone(&first.canonical_revision),
        pods: pods.len(),
        ready: count(|pod| pod.ready),
        enrolled: count(|pod| pod.enrolled),
        identities: pods.iter().map(|pod| pod.identity.uri().to_owned()).collect(),
        nodes: pods.iter().filter_map(|pod| pod.node.clone()).collect(),
        services: services.map(|member| short(&member.service.namespace, &member.service.hostname)).collect(),
        waypoint: first.waypoint.as_ref().map(|waypoint| WaypointName(&waypoint.service).to_string()),
        waypoint_refused: pods.iter().find_map(|pod| pod.waypoint.as_ref()?.refused.clone()),
        inbound,
        outbound,
    })
}

/// A service of Kubernetes by its short name, another by its host.
fn short(namespace: &str, hostname: &str) -> String {
    let (namespace, name, _) = about(namespace, hostname);
    format!("{namespace}/{name}")
}

fn about<'a>(namespace: &'a str, hostname: &'a str) -> About<'a> {
    let suffix = format!(".{namespace}.svc.");
    let name = hostname.split_once(&suffix).map_or(hostname, |(name, _)| name);
    (namespace, name, hostname)
}

fn instance(pod: &Workload, proxies: &BTreeMap<Arc<str>, Proxy>) -> Instance {
    // A node is believed about the pods that run on it.
    let node = pod.node.as_ref().and_then(|node| proxies.get(node));
    let is = |trouble: &&Trouble| *trouble.namespace == *pod.namespace && *trouble.name == *pod.name;
    let trouble = node.and_then(|node| node.troubles.iter().find(is));
    Instance {
        capture: trouble.and_then(|trouble| trouble.capture.clone()),
        certificate: trouble.and_then(|trouble| trouble.certificate.clone()),
        name: Arc::clone(&pod.name),
        node: pod.node.clone(),
        addresses: pod.ips.clone(),
        ready: pod.ready,
        enrolled: pod.enrolled,
    }
}
