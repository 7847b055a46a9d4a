//! Which names are the mesh's, and what they lead to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::alias::Aliases;
use super::name;
use super::query::{Kind, Query};
use super::reply::{Code, Other, Records};
use crate::model::{Endpoint, Lead, Service, ServicePort, Snapshot, Workload, WorkloadType};

/// What is to be done about a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is the mesh's, and these are its records.
    Known(Records),
    /// The name is the mesh's, and an alias of one that the resolver of the pod knows, or nobody.
    Follow(Aliases),
    /// The name is the mesh's, and leads nowhere.
    Fail(Code),
    /// The resolver of the pod knows, or nobody.
    Elsewhere,
}

impl Snapshot {
    /// Answers a query of a pod of this node, as far as the mesh has the name.
    ///
    /// Names are those that a cluster's DNS has (Kubernetes' specification of DNS-based service discovery, 2.3 and 2.4) and
    /// the hosts of `ServiceEntries` that the pod sees, also with the domains behind them that a resolver tries first: then
    /// the answer is an alias of the real name, as Istio has it. A pod is told addresses of the families that it has itself.
    ///
    /// `seed` is where in the list the answer begins: clients tend to take the first.
    pub fn answer(&self, pod: &Workload, query: &Query, seed: u64) -> Answer {
        let Some(name) = query.name().filter(|_| query.kind() != Kind::Other) else {
            return Answer::Elsewhere;
        };
        if let Kind::Pointer | Kind::Location = query.kind() {
            let found = if query.kind() == Kind::Pointer {
                self.pointers(pod, name)
            } else {
                self.locations(pod, name)
            };
            let known = |(others, ttl)| Answer::Known(Records { others, ttl, ..Records::default() });
            return found.map_or(Answer::Elsewhere, known);
        }
        let Some((place, alias)) = self.find(pod, name) else {
            return self.follow_alias(pod, (name, query.kind()), seed);
        };
        match place.addresses().filter(|_| query.kind() != Kind::Alias || alias.is_some()) {
            Some(addresses) => {
                let aliases = alias.into_iter().collect();
                Answer::Known(records(pod, query.kind(), addresses, (aliases, seed)))
            }
            None => Answer::Elsewhere,
        }
    }

    /// The answer about a name that is an alias, as a Service of type `ExternalName` is: it is said to be one, and with the
    /// addresses of what it is an alias of, where they can be known.
    fn follow_alias(&self, pod: &Workload, (name, kind): (&str, Kind), seed: u64) -> Answer {
        let whole = whole(pod, name);
        let mut hosts = [Some(name), whole.as_deref()].into_iter().flatten();
        let Some(lead) = hosts.find_map(|host| self.follow(host, &pod.namespace)) else {
            return Answer::Elsewhere;
        };
        let names: Vec<_> = match lead {
            Lead::To(names) => names.iter().map(ToString::to_string).collect(),
            Lead::Round => return Answer::Fail(Code::ServerFailure),
            Lead::Nowhere => return Answer::Fail(Code::NoSuchName),
        };
        if !matches!(kind, Kind::A | Kind::Aaaa | Kind::Any) {
            // Who wants to know more asks about the real name.
            let aliases = names.into_iter().take(1).collect();
            return Answer::Known(Records { aliases, ttl: BRIEF, ..Records::default() });
        }
        let real = names.last().and_then(|real| self.place_of(pod, real)?.addresses());
        match real {
            Some((addresses, ttl)) => {
                Answer::Known(records(pod, kind, (addresses, ttl.min(BRIEF)), (names, seed)))
            }
            None if kind == Kind::Any => {
                Answer::Known(Records { aliases: names, ttl: BRIEF, ..Records::default() })
            }
            None => Answer::Follow(Aliases { names, ttl: BRIEF }),
        }
    }

    /// The names of an address of the mesh, and for how many seconds they may be kept: of a service, or of an endpoint of
    /// headless ones. Other addresses are somebody else's to name.
    fn pointers(&self, pod: &Workload, name: &str) -> Option<(Vec<Other>, u32)> {
        let ip = name::address(name)?;
        let sees = |service: &&Service| service.exported.is_to(&pod.namespace);
        if let Some(service) = self.service_at(ip).filter(sees) {
            let host = service.hostname.to_string();
            return (!host.starts_with('*')).then(|| (vec![Other::Pointer(host)], LASTING));
        }
        let workload = self.workload_by_ip(ip)?;
        let services = workload.services.iter().filter_map(|one| self.service(&one.service));
        let headless =
            services.map(AsRef::as_ref).filter(sees).filter(|it| it.headless && it.entry.is_none());
        let names: Vec<_> = headless
            .filter_map(|service| {
                let mut all = ports(service).flat_map(|port| &port.endpoints);
                let endpoint = all.find(|endpoint| endpoint.addr.ip() == ip)?;
                Some(Other::Pointer(format!("{}.{}", own_name(endpoint), service.hostname)))
            })
            .collect();
        (!names.is_empty()).then_some((names, BRIEF))
    }

    /// Where a port of a service is, by `_PORT._tcp` or `_PORT._udp` before the name of the service (Kubernetes'
    /// specification, 2.3.2 and 2.4.2).
    fn locations(&self, pod: &Workload, name: &str) -> Option<(Vec<Other>, u32)> {
        let (port, rest) = name.strip_prefix('_')?.split_once("._")?;
        let (protocol, rest) = rest.split_once('.')?;
        let (place, _) = self.find(pod, rest)?;
        let Place::Service(service) = place else { return None };
        if service.entry.is_some() {
            return None;
        }
        let is_it = |name: &str| name.eq_ignore_ascii_case(port);
        let ports = match protocol {
            "tcp" => &service.ports,
            "udp" => &service.udp_ports,
            _ => return None,
        };
        let port = ports.iter().find(|it| it.name.as_deref().is_some_and(is_it))?;
        if !service.vips.is_empty() {
            let host = service.hostname.to_string();
            return Some((vec![Other::Location { port: port.number, host }], LASTING));
        }
        let location = |endpoint: &Endpoint| {
            let host = format!("{}.{}", own_name(endpoint), service.hostname);
            Other::Location { port: endpoint.addr.port(), host }
        };
        service.headless.then(|| (port.endpoints.iter().map(location).collect(), BRIEF))
    }

    /// What a name is, and its real one if that is another.
    fn find(&self, pod: &Workload, name: &str) -> Option<(Place<'_>, Option<String>)> {
        if let Some(place) = self.place_of(pod, name) {
            return Some((place, None));
        }
        if let Some(place) = whole(pod, name).and_then(|whole| self.place_of(pod, &whole)) {
            return Some((place, None));
        }
        self.without_search_domain(pod, name)
    }

    fn place_of(&self, pod: &Workload, name: &str) -> Option<Place<'_>> {
        if let Some(service) = self.service_by_name(name, &pod.namespace) {
            return Some(Place::Service(service));
        }
        // A pod of a headless service.
        let (own, service) = name.split_once('.').filter(|_| name.ends_with(CLUSTER_DOMAIN))?;
        let service = self.service_by_host(&service.into(), &pod.namespace)?;
        let own = own.to_owned();
        (service.headless && service.entry.is_none())
            .then_some(Place::Member(service, own))
            .filter(|it| it.addresses().is_some())
    }

    /// A resolver with `ndots:5`, as Kubernetes has it, asks for `api.example.shop.svc.cluster.local` before
    /// `api.example`.
    fn without_search_domain(&self, pod: &Workload, name: &str) -> Option<(Place<'_>, Option<String>)> {
        let name = name.strip_suffix(CLUSTER_DOMAIN)?.strip_suffix('.')?;
        let namespaced = name
            .strip_suffix(SERVICES)
            .and_then(|name| name.strip_suffix(&*pod.namespace)?.strip_suffix('.'));
        let candidates = [namespaced, name.strip_suffix(SERVICES), Some(name)];
        candidates.into_iter().flatten().find_map(|name| {
            let service = self.service_by_name(name, &pod.namespace)?;
            service.entry.is_some().then(|| (Place::Service(service), Some(name.to_owned())))
        })
    }
}

/// Names without the domain that pods need not write, for resolvers that do not add it, with it.
fn whole(pod: &Workload, name: &str) -> Option<String> {
    match name.split_once('.') {
        None => Some(format!("{name}.{}.svc.{CLUSTER_DOMAIN}", pod.namespace)),
        Some((_, rest)) => rest.strip_suffix(SERVICES).map(|_| format!("{name}.{CLUSTER_DOMAIN}")),
    }
}

/// Addresses as a pod is told of them: of the kind that it asks for, and of the families that it has itself.
fn records(
    pod: &Workload,
    kind: Kind,
    (addresses, ttl): (Vec<IpAddr>, u32),
    (aliases, seed): (Vec<String>, u64),
) -> Records {
    let has = |v4: bool| pod.ips.iter().any(|ip| ip.is_ipv4() == v4);
    let wanted = |ip: &IpAddr| match kind {
        Kind::A => ip.is_ipv4(),
        Kind::Aaaa => ip.is_ipv6(),
        Kind::Any => true,
        // Hints of another server would lead clients past the addresses that are told here.
        Kind::Service | Kind::Alias | Kind::Pointer | Kind::Location | Kind::Other => false,
    };
    let mut addresses: Vec<IpAddr> =
        addresses.into_iter().filter(|ip| wanted(ip) && has(ip.is_ipv4())).collect();
    if let Some(first) = u64::try_from(addresses.len()).ok().and_then(|len| seed.checked_rem(len)) {
        addresses.rotate_left(usize::try_from(first).unwrap_or(0));
    }
    Records { aliases, addresses, ttl, ..Records::default() }
}

/// What has a name.
enum Place<'s> {
    Service(&'s Service),
    /// An endpoint of a headless service, by the name of its pod.
    Member(&'s Service, String),
}

impl Place<'_> {
    /// Its addresses, and for how many seconds they may be kept. `None` if the mesh knows of none, and another may.
    fn addresses(&self) -> Option<(Vec<IpAddr>, u32)> {
        match self {
            Self::Service(service) if !service.vips.is_empty() => Some((service.vips.clone(), LASTING)),
            Self::Service(service) => match &service.entry {
                Some(entry) if entry.passthrough => None,
                Some(_) => Some((outside(service), BRIEF)).filter(|(all, _)| !all.is_empty()),
                // Of a service without ports nobody here knows the endpoints.
                None if service.headless && ports(service).next().is_some() => {
                    Some((endpoints(service, |_| true), BRIEF))
                }
                None => None,
            },
            Self::Member(service, name) => {
                let own = |endpoint: &Endpoint| own_name(endpoint) == *name;
                Some((endpoints(service, own), BRIEF)).filter(|(all, _)| !all.is_empty())
            }
        }
    }
}

/// The addresses of a ServiceEntry that has none of its own: those that are written in it. Where a name stands in their
/// place, whoever knows the name is asked.
fn outside(service: &Service) -> Vec<IpAddr> {
    endpoints(service, |endpoint| {
        endpoint.workload.as_ref().is_none_or(|workload| workload.hostname.is_none())
    })
}

/// The addresses of ready endpoints, each once, in their order.
fn endpoints(service: &Service, which: impl Fn(&Endpoint) -> bool) -> Vec<IpAddr> {
    let all = ports(service).flat_map(|port| &port.endpoints);
    let addresses: BTreeSet<_> =
        all.filter(|endpoint| which(endpoint)).map(|endpoint| endpoint.addr.ip()).collect();
    addresses.into_iter().collect()
}

/// Its ports of either protocol.
fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.ports.iter().chain(&service.udp_ports)
}

/// What an endpoint is called before the name of its headless service: a `StatefulSet` gives its pods their names, others have
/// their address there, as `CoreDNS` writes it.
fn own_name(endpoint: &Endpoint) -> String {
    match &endpoint.workload {
        Some(workload) if workload.workload_type == WorkloadType::StatefulSet => workload.name.to_string(),
        _ => endpoint.addr.ip().to_string().replace(['.', ':'], "-"),
    }
}

/// What the names of the cluster's own services end with.
const CLUSTER_DOMAIN: &str = "cluster.local";
/// What stands between a namespace and the domain.
const SERVICES: &str = ".svc";
/// Seconds that an address of a service may be kept (Istio's).
const LASTING: u32 = 30;
/// Seconds that an address of an endpoint may be kept, which may be gone soon (`CoreDNS`' default).
const BRIEF: u32 = 5;
