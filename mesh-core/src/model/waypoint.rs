//! Waypoints as the data plane knows them: what goes through which, and where its pods are.
//!
//! The pods of a waypoint are the endpoints of a service that stands for it and has a name that no other can have, so
//! that they are found, and found to be ready, like any others.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use super::service::{Families, Service, ServicePort};
use super::workload::{Membership, ServiceKey};
use super::{Endpoint, Exported, Snapshot, Target};

/// What new connections to a service, or to a workload, go through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waypoint {
    /// What stands for it among the services.
    pub service: Arc<ServiceKey>,
    /// Why nothing may be sent there. It is what enforces rules, so connections are refused then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Arc<str>>,
    /// Another one that gets so many of a hundred connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<(Arc<ServiceKey>, u8)>,
    /// Whether gateways send their requests through it as well (`istio.io/ingress-use-waypoint`).
    pub ingress: bool,
}

impl Waypoint {
    /// The one for a new connection; `random` decides whether that is the canary.
    pub fn choose(&self, random: u64) -> &Arc<ServiceKey> {
        let canary = self.canary.as_ref().filter(|(_, percent)| random % 100 < u64::from(*percent));
        canary.map_or(&self.service, |(service, _)| service)
    }

    /// Whether connections may come through `service`.
    pub fn is(&self, service: &ServiceKey) -> bool {
        *self.service == *service || self.canary.as_ref().is_some_and(|(canary, _)| **canary == *service)
    }
}

/// As its user knows it: namespace and name of a Gateway.
#[derive(Debug, Clone, Copy)]
pub struct WaypointName<'a>(pub &'a ServiceKey);

impl fmt::Display for WaypointName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceKey { namespace, hostname } = self.0;
        let name = hostname.strip_suffix(SUFFIX).and_then(|host| host.strip_suffix(&**namespace));
        let name = name.and_then(|name| name.strip_suffix('.')).unwrap_or(hostname);
        write!(f, "{namespace}/{name}")
    }
}

impl ServiceKey {
    /// What stands for the waypoint of this name.
    pub fn of_waypoint(namespace: &Arc<str>, name: &str) -> Self {
        Self { namespace: Arc::clone(namespace), hostname: format!("{name}.{namespace}{SUFFIX}").into() }
    }

    /// Whether it stands for a waypoint.
    pub fn is_of_waypoint(&self) -> bool {
        self.hostname.ends_with(SUFFIX)
    }
}

impl Service {
    /// What connections to its `port` go through, and the address that is asked for there: one of its own, of this family
    /// if there is one. A service of Kubernetes without any is reached by its pods, which are bound by themselves.
    pub fn way(&self, port: usize, ipv4: bool) -> Option<(&Arc<Waypoint>, Result<SocketAddr, NoWay>)> {
        let waypoint = self.waypoint.as_ref()?;
        let port = self.ports.get(port)?.number;
        let like = |vip: &&IpAddr| vip.is_ipv4() == ipv4;
        let vip = self.vips.iter().find(like).or(self.vips.first());
        match vip {
            Some(vip) => Some((waypoint, Ok(SocketAddr::new(*vip, port)))),
            None if self.entry.is_some() => {
                Some((waypoint, Err(NoWay::Nameless(Arc::clone(&self.hostname)))))
            }
            None => None,
        }
    }

    /// What stands for the waypoint of this name.
    pub(super) fn of_waypoint(namespace: &Arc<str>, name: &str) -> Self {
        let ServiceKey { namespace, hostname } = ServiceKey::of_waypoint(namespace, name);
        Self {
            namespace,
            name: Arc::clone(&hostname),
            hostname,
            vips: Vec::new(),
            ports: vec![ServicePort {
                number: WAYPOINT_PORT,
                name: Some("mesh".into()),
                app_protocol: None,
                tls: None,
                endpoints: Vec::new(),
            }],
            udp_ports: Vec::new(),
            session_affinity: None,
            local_only: false,
            headless: true,
            publish_not_ready: false,
            families: Families::Any,
            exported: Exported::Everywhere,
            entry: None,
            traffic_distribution: None,
            waypoint: None,
        }
    }
}

impl Membership {
    /// That of a pod of the waypoint of this name.
    pub(super) fn of_waypoint(namespace: &Arc<str>, name: &str) -> Self {
        let service = Arc::new(ServiceKey::of_waypoint(namespace, name));
        Self { service, ports: [(WAYPOINT_PORT, WAYPOINT_PORT)].into(), udp_ports: Box::default() }
    }
}

impl Target {
    /// What a connection to it goes through.
    pub fn waypoint(&self) -> Option<&Arc<Waypoint>> {
        match self {
            Self::Service { service, .. } => service.waypoint.as_ref(),
            Self::Workload { workload, .. } => workload.waypoint.as_ref(),
            Self::ServiceWithoutPort(_) | Self::UnknownInPodNetwork | Self::External => None,
        }
    }
}

impl Snapshot {
    /// The pods that a new connection may go through, for a client with an address of this family: never none. `random`
    /// decides whether they are the canary's.
    pub fn way_through(&self, waypoint: &Waypoint, ipv4: bool, random: u64) -> Result<&[Endpoint], NoWay> {
        let refused = |why: Arc<str>| NoWay::Refused(Arc::clone(&waypoint.service), why);
        waypoint.refused.clone().map_or(Ok(()), |why| Err(refused(why)))?;
        let key = waypoint.choose(random);
        let service = self.service_of_waypoint(key).ok_or_else(|| NoWay::Missing(Arc::clone(key)))?;
        let port = service.ports.iter().find(|port| port.number == WAYPOINT_PORT);
        match port.map(|port| port.endpoints_for(ipv4)) {
            None | Some([]) => Err(NoWay::Unready(Arc::clone(key))),
            Some(endpoints) => Ok(endpoints),
        }
    }

    /// A control plane of Istio names a service of Kubernetes, or the address of one.
    fn service_of_waypoint(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        let by_address = || self.by_vip.get(&crate::net::canonical_ip(key.hostname.parse().ok()?));
        self.services.get(key).or_else(by_address)
    }
}

/// Why nothing can be sent through a waypoint. What is bound to it is not reached then: its rules are enforced there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWay {
    /// The configuration does not let it.
    #[error("{1}")]
    Refused(Arc<ServiceKey>, Arc<str>),
    /// Nothing is known of it.
    #[error("waypoint \"{}\" is not there", WaypointName(.0))]
    Missing(Arc<ServiceKey>),
    /// There is no address by which it could be asked for this host of a ServiceEntry.
    #[error("{0} has no address that its waypoint could be asked for")]
    Nameless(Arc<str>),
    /// It has no pod that is ready.
    #[error("waypoint \"{}\" is not ready: no pod of it is", WaypointName(.0))]
    Unready(Arc<ServiceKey>),
}

/// No host of a user may have an underscore.
const SUFFIX: &str = "._waypoint";
/// Where waypoints take tunnels, as in Istio.
pub const WAYPOINT_PORT: u16 = 15008;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_a_waypoint_has_a_name_of_its_own() {
        let key = ServiceKey::of_waypoint(&"shop".into(), "way.of.ours");
        assert!(key.is_of_waypoint());
        assert_eq!(WaypointName(&key).to_string(), "shop/way.of.ours");
        let service = ServiceKey { namespace: "shop".into(), hostname: "way.shop.svc.cluster.local".into() };
        assert!(!service.is_of_waypoint());
        assert_eq!(WaypointName(&service).to_string(), "shop/way.shop.svc.cluster.local");
    }

    #[test]
    fn a_canary_gets_its_share_of_connections() {
        let key = |name: &str| Arc::new(ServiceKey::of_waypoint(&"shop".into(), name));
        let mut waypoint = Waypoint { service: key("way"), refused: None, canary: None, ingress: false };
        let canaries = |waypoint: &Waypoint| {
            (0..1000).filter(|random| *waypoint.choose(*random) != waypoint.service).count()
        };
        assert_eq!(canaries(&waypoint), 0);
        for (percent, of_a_thousand) in [(0, 0), (7, 70), (100, 1000)] {
            waypoint.canary = Some((key("canary"), percent));
            assert_eq!(canaries(&waypoint), of_a_thousand);
        }
        assert!(waypoint.is(&key("way")) && waypoint.is(&key("canary")) && !waypoint.is(&key("other")));
    }
}
