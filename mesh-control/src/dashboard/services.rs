//! What can be asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::model::{Record, Service, ServicePort, WaypointName};
use mesh_core::topology::{Edge, Level, Link, Point, Rates};
use mesh_proto::names::ResourceType;
use serde::Serialize;

use super::Dashboard;
use super::policies::Policy;
use super::query::Query;
use crate::topology;

/// An element of `/api/v1/services`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    namespace: Arc<str>,
    name: Arc<str>,
    hostname: Arc<str>,
    addresses: Vec<IpAddr>,
    ports: Vec<Port>,
    endpoints: Endpoints,
    /// The servers are not of the mesh.
    external: bool,
    headless: bool,
    /// `NAMESPACE/NAME` of the waypoint that connections to it go through.
    waypoint: Option<String>,
    /// Why nothing is sent there; connections are refused then.
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint_refused: Option<Arc<str>>,
    #[serde(flatten)]
    rates: Rates,
}

#[derive(Debug, Clone, Serialize)]
struct Port {
    number: u16,
    name: Option<Arc<str>>,
    protocol: &'static str,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Endpoints {
    ready: usize,
    total: usize,
}

/// `/api/v1/services/NAMESPACE/NAME`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Detail {
    #[serde(flatten)]
    row: Row,
    /// `NAMESPACE/NAME` of workloads behind it.
    workloads: BTreeSet<String>,
    policies: Vec<Policy>,
    /// Who asks, and which workload answers.
    edges: Vec<Link>,
    series: Vec<Point>,
}

/// How many pods are behind each service, and which workloads they are of.
#[derive(Default)]
struct Behind {
    endpoints: Endpoints,
    workloads: BTreeSet<String>,
}

/// By namespace and name.
type Services = BTreeMap<(Arc<str>, Arc<str>), Arc<Service>>;

impl Dashboard {
    pub(super) fn service_count(&self) -> usize {
        let shelf = self.hub.shelf();
        let records = shelf.store(ResourceType::Address).iter();
        records.filter(|entry| matches!(&entry.record, Record::Service(service) if is_shown(service))).count()
    }

    pub(super) fn services(&self, query: &Query) -> Vec<Row> {
        let (services, mut behind) = self.all_services();
        let sums = self.traffic.store().by_service(topology::now(), query.window);
        let wanted = services.values().filter(|service| query.wants(&service.namespace));
        wanted
            .map(|service| {
                let behind = behind.remove(&service.hostname).unwrap_or_default();
                let key = (Arc::clone(&service.namespace), Arc::clone(&service.name));
                row(service, &behind, sums.get(&key).cloned().unwrap_or_default())
            })
            .collect()
    }

    pub(super) fn service(&self, (namespace, name): (&str, &str), query: &Query) -> Option<Detail> {
        let (mut services, mut behind) = self.all_services();
        let service = services.remove(&(namespace.into(), name.into()))?;
        let behind = behind.remove(&service.hostname).unwrap_or_default();
        let is = |edge: &Edge| {
            edge.service.as_deref().is_some_and(|it| *it.namespace == *namespace && *it.name == *name)
        };
        let now = topology::now();
        let store = self.traffic.store();
        let rates = store.by_service(now, query.window).remove(&(namespace.into(), name.into()));
        let edges = store.graph(now, query.window, Level::Workload, is).edges;
        let series = store.series(now, is);
        drop(store);
        Some(Detail {
            row: row(&service, &behind, rates.unwrap_or_default()),
            workloads: behind.workloads,
            policies: self.policies_about(&service),
            edges,
            series,
        })
    }

    fn all_services(&self) -> (Services, BTreeMap<Arc<str>, Behind>) {
        let mut services = Services::new();
        let mut behind: BTreeMap<Arc<str>, Behind> = BTreeMap::new();
        for entry in self.hub.shelf().store(ResourceType::Address).iter() {
            match &entry.record {
                Record::Service(service) if is_shown(service) => {
                    let key = (Arc::clone(&service.namespace), Arc::clone(&service.name));
                    services.insert(key, Arc::clone(service));
                }
                Record::Workload(workload) => {
                    let id = format!("{}/{}", workload.namespace, workload.workload_name);
                    for member in &workload.services {
                        let behind = behind.entry(Arc::clone(&member.service.hostname)).or_default();
                        behind.count(workload.ready);
                        behind.workloads.insert(id.clone());
                    }
                }
                Record::StaticEndpoint(endpoint) => {
                    for member in &endpoint.services {
                        behind.entry(Arc::clone(&member.service.hostname)).or_default().count(endpoint.ready);
                    }
                }
                _ => {}
            }
        }
        (services, behind)
    }
}

impl Behind {
    fn count(&mut self, ready: bool) {
        self.endpoints.total += 1;
        self.endpoints.ready += usize::from(ready);
    }
}

/// Not what stands for a waypoint: no client can ask for that.
fn is_shown(service: &Service) -> bool {
    !service.key().is_of_waypoint()
}

fn row(service: &Service, behind: &Behind, rates: Rates) -> Row {
    let port = |port: &ServicePort, plain: &'static str| Port {
        number: port.number,
        name: port.name.clone(),
        protocol: plain,
    };
    let tcp = service.ports.iter().map(|it| port(it, "TCP"));
    let udp = service.udp_ports.iter().map(|it| port(it, "UDP"));
    Row {
        namespace: Arc::clone(&service.namespace),
        name: Arc::clone(&service.name),
        hostname: Arc::clone(&service.hostname),
        addresses: service.vips.clone(),
        ports: tcp.chain(udp).collect(),
        endpoints: behind.endpoints,
        external: service.entry.as_ref().is_some_and(|entry| entry.external),
        headless: service.headless,
        waypoint: service.waypoint.as_ref().map(|waypoint| WaypointName(&waypoint.service).to_string()),
        waypoint_refused: service.waypoint.as_ref().and_then(|waypoint| waypoint.refused.clone()),
        rates,
    }
}
