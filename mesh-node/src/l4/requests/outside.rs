//! Connections to addresses that are nobody's: what they say decides where they go, as at a sidecar.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use mesh_core::model::{Snapshot, Workload};
use mesh_core::resource::mesh_config::settings::OutboundMode;
use mesh_core::route::{self, ClusterRef, MatchInfo, Outside, Route, RouteTable};
use tokio::net::TcpStream;

use super::{PodRequests, chosen, serve_at, sniff};
use crate::l7::site::{Chosen, Clients, Site};
use crate::redirect::LocalPod;
use crate::report::PseudoService;
use crate::run::worker::Worker;

/// What a port of the outside was for a pod, with one version of the configuration.
pub(super) struct Known {
    configs: u64,
    entries: u64,
    workload: Option<Arc<Workload>>,
    outside: Arc<Outside>,
}

/// What a connection turns out to be.
pub enum Kind {
    /// Nothing is known of it.
    Nobody(TcpStream),
    /// For the ServiceEntry of this host.
    Named(TcpStream, Arc<str>),
    /// Requests, each of which says where it goes.
    Requests(TcpStream, Rc<PodRequests>),
}

/// What stands in metrics for addresses that are nobody's.
pub fn pseudo_service(snapshot: &Snapshot) -> PseudoService {
    if refuses(snapshot) { PseudoService::BlackHole } else { PseudoService::Passthrough }
}

/// Looks at what a connection to `port` of an address that is nobody's begins with, if anything it may say makes a
/// difference.
pub async fn classify(
    worker: &Rc<Worker>,
    pod: &Arc<LocalPod>,
    snapshot: &Snapshot,
    (tcp, port): (TcpStream, u16),
) -> Kind {
    let refuses = refuses(snapshot);
    if !refuses && snapshot.configs().next().is_none() && snapshot.entry_generation() == 0 {
        return Kind::Nobody(tcp);
    }
    let requests = worker.requests(pod, || PodRequests::new(worker, pod));
    let outside = requests.outside(snapshot, port);
    let patience = sniff::patience(snapshot);
    // One look decides about all: a client that says nothing is waited for once.
    let wanted = sniff::Wanted {
        request: refuses || outside.requests().is_some(),
        name: outside.asks_for_names(),
        surely_tls: false,
    };
    let begins = sniff::beginning(&tcp, wanted, patience).await;
    if begins == sniff::Beginning::Request {
        return Kind::Requests(tcp, requests);
    }
    if let Some(host) = begins.name().and_then(|name| outside.of_name(name)) {
        return Kind::Named(tcp, Arc::clone(host));
    }
    match outside.of_bytes() {
        Some(host) => Kind::Named(tcp, Arc::clone(host)),
        None => Kind::Nobody(tcp),
    }
}

/// Serves the requests of one connection.
pub async fn serve(
    worker: &Rc<Worker>,
    requests: Rc<PodRequests>,
    source: &Arc<Workload>,
    opened: (TcpStream, std::net::SocketAddr, std::net::SocketAddr),
) {
    let engine = Rc::clone(&requests.engine);
    let port = opened.2.port();
    let to = ClusterRef { host: PseudoService::Passthrough.name().into(), subset: None, port: Some(port) };
    let snapshot = engine.snapshot();
    let settings = snapshot.virtuals().settings();
    let site = OutsideSite {
        requests,
        port,
        passed: chosen(Route { name: "allow_any".into(), ..Route::by_default(to, settings) }),
        refused: chosen(Route::refusal("block_all", StatusCode::BAD_GATEWAY)),
    };
    serve_at(worker, engine, source, Rc::new(site), opened).await;
}

fn refuses(snapshot: &Snapshot) -> bool {
    snapshot.mesh().outbound_traffic_policy.mode == OutboundMode::RegistryOnly
}

impl PodRequests {
    fn outside(&self, snapshot: &Snapshot, port: u16) -> Arc<Outside> {
        let (configs, entries) = (snapshot.config_generation(), snapshot.entry_generation());
        let workload = self.engine.client.workload(snapshot);
        let mut all = self.outside.borrow_mut();
        if let Some(known) = all.get(&port)
            && (known.configs, known.entries) == (configs, entries)
            && super::same_client(known.workload.as_ref(), workload.as_ref())
        {
            return Arc::clone(&known.outside);
        }
        let (namespace, labels) = self.engine.client.namespace_and_labels(snapshot);
        let client = route::Client { namespace: &namespace, labels: &labels };
        let outside = Arc::new(snapshot.outside(client, port));
        // Clients choose the port, and are not to fill the memory with it.
        if all.len() >= MAX_PORTS {
            all.clear();
        }
        all.insert(port, Known { configs, entries, workload, outside: Arc::clone(&outside) });
        outside
    }
}

/// A port of all addresses that are nobody's.
struct OutsideSite {
    requests: Rc<PodRequests>,
    port: u16,
    passed: Chosen,
    refused: Chosen,
}

impl Site for OutsideSite {
    fn routes(&self) -> Option<Arc<RouteTable>> {
        let snapshot = self.requests.engine.snapshot();
        self.requests.outside(&snapshot, self.port).requests().cloned()
    }

    /// Where it was going, or 502 as at Istio's sidecars.
    fn fallback(&self) -> Option<Chosen> {
        let refuses = refuses(&self.requests.engine.snapshot());
        Some(if refuses { self.refused.clone() } else { self.passed.clone() })
    }

    fn nobody(&self, matched: &Arc<MatchInfo>) -> Option<PseudoService> {
        Arc::ptr_eq(matched, &self.refused.1).then_some(PseudoService::BlackHole)
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn clients(&self) -> Clients {
        Clients::Own
    }
}

/// Ports that are remembered for one pod.
const MAX_PORTS: usize = 256;
