//! The express path, decided: which connections between pods of one node the kernel may make or refuse by itself.
//!
//! Only what needs nothing but layer 4 is decided: no waypoint on the way, no rule about requests or about the service,
//! and a decision of the policy engine that stands for all connections between the two ([`Standing`]). Everything else is
//! left out, and goes through the proxy.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::authn;
use crate::health::Checks;
use crate::limit;
use crate::model::{Service, Snapshot, Target, Workload};
use crate::policy::Standing;
use crate::resource::mesh_config::settings::ExpressPath;
use crate::telemetry::Telemetries;

/// A connection before it is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Question {
    /// Uid of the workload that connects.
    pub source: Arc<str>,
    /// Where to.
    pub ip: IpAddr,
    /// `None` for all ports that have no entry of their own.
    pub port: Option<u16>,
}

/// What stands for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the connection is made or refused.
    pub allowed: bool,
    /// Uid of the workload that has the address.
    pub destination: Arc<str>,
}

/// Everything that the kernel of one node may decide by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// By address of a pod.
    pub verdicts: BTreeMap<Question, Verdict>,
    /// By address and port of a service: all of its endpoints, each with the uid of its workload. Connections to each of
    /// them are allowed.
    pub backends: BTreeMap<Question, Vec<(SocketAddr, Arc<str>)>>,
}

/// Plans for the captured pods of this node. `is_plain` says whether no rule is about what a workload sends to a port of
/// a service, by its index.
pub fn plan(
    snapshot: &Snapshot,
    pods: &[Arc<Workload>],
    is_plain: impl Fn(&Arc<Workload>, &Arc<Service>, usize) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    if snapshot.mesh().express_path == ExpressPath::Disabled {
        return plan;
    }
    let checks = Checks::of(snapshot);
    let is_plain = |source: &Arc<Workload>, service: &Arc<Service>, port: usize| {
        !checks.concerns(service, port) && is_plain(source, service, port)
    };
    let told = Telemetries::of(snapshot);
    let local: BTreeMap<&str, &Arc<Workload>> = pods.iter().map(|pod| (&*pod.uid, pod)).collect();
    for source in pods.iter().filter(|pod| pod.enrolled && !opts_out(pod)) {
        let mut known: BTreeMap<IpAddr, Standing> = BTreeMap::new();
        for (destination, ip) in pods.iter().flat_map(|pod| pod.ips.iter().map(move |ip| (pod, *ip))) {
            if told.reads_requests(destination) {
                continue;
            }
            let Some(standing) = standing(snapshot, source, destination, ip) else { continue };
            plan.add(source, (destination, ip), &standing);
            known.insert(ip, standing);
        }
        for service in snapshot.services().filter(|_| !told.reads_requests(source)) {
            plan.add_service(snapshot, (source, service), (&local, &known), &is_plain);
        }
    }
    plan
}

/// Whether a connection that was opened past the proxy would not be now, because something has come about the service that it
/// was opened to. `is_plain` as for [`plan`].
pub fn is_overruled(
    snapshot: &Snapshot,
    source: &Arc<Workload>,
    asked: SocketAddr,
    is_plain: impl Fn(&Snapshot, &Arc<Workload>, &Arc<Service>, usize) -> bool,
) -> bool {
    let Target::Service { service, port } = snapshot.resolve_for(&source.namespace, asked) else {
        return false;
    };
    service.waypoint.is_some()
        || limit::concerns(snapshot, Some(&service), None)
        || Checks::of(snapshot).concerns(&service, port)
        || !is_plain(snapshot, source, &service, port)
}

/// Whether all of its connections go through the proxy, because its label says so.
fn opts_out(pod: &Workload) -> bool {
    pod.labels.get(LABEL).is_some_and(|value| value == "disabled")
}

/// What stands between two pods, if anything does.
fn standing(
    snapshot: &Snapshot,
    source: &Arc<Workload>,
    destination: &Arc<Workload>,
    ip: IpAddr,
) -> Option<Standing> {
    let from = source.ips.iter().find(|own| own.is_ipv4() == ip.is_ipv4())?;
    let plain = destination.accepts_tunnel() && !destination.inbound_bypass && destination.waypoint.is_none();
    let plain = plain && !opts_out(destination);
    let is_asked =
        limit::concerns(snapshot, None, Some(destination)) || authn::concerns(snapshot, destination);
    if source.uid == destination.uid || !plain || is_asked {
        return None;
    }
    // An address that a service claims as well is the service's.
    let target = snapshot.resolve_for(&source.namespace, SocketAddr::new(ip, 1));
    if !matches!(target, Target::Workload { ref workload, .. } if workload.uid == destination.uid) {
        return None;
    }
    snapshot.policies().standing(destination, (&source.identity, *from), ip)
}

type Known<'a> = (&'a BTreeMap<&'a str, &'a Arc<Workload>>, &'a BTreeMap<IpAddr, Standing>);

impl Plan {
    fn add(&mut self, source: &Workload, (destination, ip): (&Workload, IpAddr), standing: &Standing) {
        let ports = standing.exceptions().map(|(port, allowed)| (Some(port), allowed));
        for (port, allowed) in ports.chain([(None, standing.others())]) {
            let question = Question { source: Arc::clone(&source.uid), ip, port };
            self.verdicts.insert(question, Verdict { allowed, destination: Arc::clone(&destination.uid) });
        }
    }

    /// A service is decided about if every one of its endpoints is: the kernel chooses as the proxy would, and never
    /// between some that it knows and others that it does not.
    fn add_service(
        &mut self,
        snapshot: &Snapshot,
        (source, service): (&Arc<Workload>, &Arc<Service>),
        (local, known): Known<'_>,
        is_plain: &impl Fn(&Arc<Workload>, &Arc<Service>, usize) -> bool,
    ) {
        let special = service.waypoint.is_some()
            || service.is_passthrough()
            || service.is_dynamic()
            || service.session_affinity.is_some()
            || service.traffic_distribution.is_some()
            || limit::concerns(snapshot, Some(service), None);
        if special {
            return;
        }
        for (index, port) in service.ports.iter().enumerate() {
            let is_local = |workload: &Arc<Workload>| local.contains_key(&*workload.uid);
            // Whose protocol is counted by its name goes where somebody counts.
            if port.named().is_some() {
                continue;
            }
            // Most services have their endpoints elsewhere.
            if !port.endpoints.first().and_then(|it| it.workload.as_ref()).is_some_and(is_local) {
                continue;
            }
            for vip in &service.vips {
                let endpoints = port.endpoints_for(vip.is_ipv4());
                let all: Option<Vec<_>> = endpoints
                    .iter()
                    .map(|endpoint| {
                        let workload = endpoint.workload.as_ref();
                        let workload = workload.filter(|it| is_local(it) && service.admits(it))?;
                        let same_family = endpoint.addr.is_ipv4() == vip.is_ipv4();
                        let allowed = known.get(&endpoint.addr.ip())?.allows(endpoint.addr.port());
                        (allowed && same_family).then(|| (endpoint.addr, Arc::clone(&workload.uid)))
                    })
                    .collect();
                let Some(all) = all.filter(|all| !all.is_empty() && all.len() <= MAX_BACKENDS) else {
                    continue;
                };
                let target = snapshot.resolve_for(&source.namespace, SocketAddr::new(*vip, port.number));
                let leads = matches!(target, Target::Service { service: ref it, port } if it.key() == service.key() && port == index);
                if leads && is_plain(source, service, index) {
                    let question =
                        Question { source: Arc::clone(&source.uid), ip: *vip, port: Some(port.number) };
                    self.backends.insert(question, all);
                }
            }
        }
    }
}

/// Label of pods: with the value `disabled` none of their connections takes the express path.
pub const LABEL: &str = "mesh.internal/express-path";

/// Pods of one service on one node that the kernel chooses from.
pub const MAX_BACKENDS: usize = 8;

#[cfg(test)]
mod tests;
