//! `EndpointSlices` → what is kept of them, who serves what, and addresses that no workload owns.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{self as discovery, EndpointSlice};

use super::few::Few;
use super::pods::{PodFacts, valid};
use super::services::{Served, is_tcp, is_udp};
use super::shared::Values;
use super::{Name, Report, World, addresses};
use crate::model::{Families, Membership, Service, ServicePort, StaticEndpoint};
use crate::net::canonical_ip;
use crate::resource::Object;

/// What is kept of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceFacts {
    /// Whose endpoints these are.
    pub(super) service: Name,
    pub(super) families: Families,
    /// Those of TCP by name; unnamed ones have an empty name.
    ports: Vec<(Box<str>, u16)>,
    /// The same of UDP.
    udp_ports: Vec<(Box<str>, u16)>,
    pub(super) endpoints: Vec<SliceEndpoint>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SliceEndpoint {
    pub(super) ips: Vec<IpAddr>,
    /// The API defines an absent `ready` as ready.
    ready: bool,
    terminating: bool,
    node: Option<Arc<str>>,
    /// The pod that it refers to.
    pub(super) pod: Option<Name>,
}

impl SliceFacts {
    /// `None` for slices that are no service's, or name hosts instead of addresses.
    pub(super) fn of(object: &Object, slice: &EndpointSlice, report: &mut Report) -> Option<Self> {
        let service = object.meta.labels.get("kubernetes.io/service-name")?;
        let families = match slice.address_type.as_str() {
            "FQDN" => return None,
            "IPv6" => Families::V6,
            _ => Families::V4,
        };
        let service = Name { namespace: Arc::clone(&object.meta.namespace), name: service.as_str().into() };
        let endpoints = slice.endpoints.iter().flatten().enumerate();
        let endpoints = endpoints.map(|(index, one)| endpoint(object, index, one, report)).collect();
        let ports = |is_it: fn(Option<&String>) -> bool| {
            let all = slice.ports.iter().flatten().filter(|port| is_it(port.protocol.as_ref()));
            all.filter_map(|port| {
                Some((port.name.as_deref().unwrap_or_default().into(), port.port.and_then(valid)?))
            })
            .collect()
        };
        Some(Self { service, families, ports: ports(is_tcp), udp_ports: ports(is_udp), endpoints })
    }

    /// Shares what many slices say alike.
    pub(super) fn share(&mut self, values: &mut Values) {
        for endpoint in &mut self.endpoints {
            if let Some(node) = &mut endpoint.node {
                *node = values.texts.share(Arc::clone(node));
            }
            if let Some(pod) = &mut endpoint.pod {
                pod.namespace = values.texts.share(Arc::clone(&pod.namespace));
            }
        }
    }
}

impl World {
    pub(super) fn put_slice(&mut self, name: &Name, facts: Option<SliceFacts>) {
        if self.slices.get(name) == facts.as_ref() {
            return;
        }
        self.mark_endpoints(name);
        if let Some(old) = self.slices.remove(name) {
            for (index, ip) in addresses(&old) {
                let slices = self.slices_by_ip.entry(ip).or_default();
                slices.remove(&(name.clone(), index));
                if slices.is_empty() {
                    self.slices_by_ip.remove(&ip);
                }
            }
            self.group_slice(&old.service, name, false);
        }
        if let Some(new) = facts {
            for (index, ip) in addresses(&new) {
                self.slices_by_ip.entry(ip).or_default().insert((name.clone(), index));
            }
            self.group_slice(&new.service, name, true);
            self.slices.insert(name.clone(), new);
        }
        self.mark_endpoints(name);
        self.dirty.slices.insert(name.clone());
    }

    /// With its first slice a service stops looking for pods itself, and with its last it begins to.
    fn group_slice(&mut self, service: &Name, slice: &Name, present: bool) {
        let slices = self.slices_by_service.entry(service.clone()).or_default();
        let before = slices.len();
        if present {
            slices.insert(slice.clone());
        } else {
            slices.remove(slice);
        }
        let after = slices.len();
        if after == 0 {
            self.slices_by_service.remove(service);
        }
        if (before == 0) != (after == 0) {
            self.mark_selected_by(service);
        }
        self.dirty.services.insert(service.clone());
    }

    /// The services that a pod is an endpoint of, and whether one of their slices calls it ready.
    pub(super) fn memberships(&self, name: &Name, pod: &PodFacts) -> (Vec<Membership>, bool) {
        let mut services: BTreeMap<&Name, Served> = BTreeMap::new();
        let mut ready = false;
        for (slice, endpoint) in pod.ips.iter().flat_map(|ip| self.endpoints_at(*ip)) {
            if !self.is_behind(endpoint, name, pod) {
                continue;
            }
            let Some(facts) = self.services.get(&slice.service) else { continue };
            let published = endpoint.ready || facts.service.publish_not_ready;
            // A pod that is not ready says so itself.
            if endpoint.terminating || (!published && pod.ready) {
                continue;
            }
            ready |= endpoint.ready;
            services.entry(&slice.service).or_default().extend(self.slice_ports(slice));
        }
        let selected = self.selectors.matching(&name.namespace, &pod.labels);
        let selected = selected.iter().filter(|name| !self.slices_by_service.contains_key(*name));
        for service in selected.filter(|_| !pod.terminating) {
            if let Some((service, facts)) = self.services.get_key_value(service) {
                services.entry(service).or_default().extend(facts.ports_of(pod));
            }
        }
        let memberships = services.into_iter().filter_map(|(name, ports)| self.membership(name, ports));
        let waypoint = self.waypoint_run_by(&name.namespace, &pod.labels).filter(|_| !pod.terminating);
        let waypoint = waypoint.map(|waypoint| Membership::of_waypoint(&name.namespace, waypoint));
        let memberships = memberships.chain(waypoint);
        let mut memberships: Vec<_> = memberships.chain(self.entries_with_pod(name, pod)).collect();
        memberships.sort();
        memberships.shrink_to_fit();
        (memberships, ready)
    }

    /// The addresses of a slice that no workload owns.
    pub(super) fn static_endpoints(&self, slice_name: &Name) -> Vec<StaticEndpoint> {
        let Some(slice) = self.slices.get(slice_name) else { return Vec::new() };
        let living = slice.endpoints.iter().filter(|endpoint| !endpoint.terminating);
        let unowned = living.flat_map(|endpoint| endpoint.ips.iter().map(move |ip| (endpoint, *ip)));
        let unowned = unowned.filter(|(endpoint, ip)| self.owner_of(endpoint, *ip).is_none());
        let Name { namespace, name } = slice_name;
        let record = |(endpoint, ip): (&SliceEndpoint, IpAddr)| {
            let ports = self.slice_ports(slice);
            Some(StaticEndpoint {
                uid: format!("{}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{ip}", self.cluster)
                    .into(),
                namespace: Arc::clone(namespace),
                ip,
                node: endpoint.node.clone(),
                services: vec![self.membership(&slice.service, ports)?],
                ready: endpoint.ready,
            })
        };
        unowned.filter_map(record).collect()
    }

    /// The pod behind an endpoint. The reference is only believed if the pod says the same; it is needed for pods in
    /// their node's network, whose address does not tell who they are.
    pub(super) fn owner_of<'a>(&'a self, endpoint: &'a SliceEndpoint, ip: IpAddr) -> Option<&'a Name> {
        let referenced = endpoint
            .pod
            .as_ref()
            .filter(|name| self.pods.get(name).is_some_and(|pod| pod.host_network && pod.ips.contains(&ip)));
        referenced.or_else(|| self.pod_claims.owner(ip))
    }

    fn is_behind(&self, endpoint: &SliceEndpoint, name: &Name, pod: &PodFacts) -> bool {
        endpoint.ips.iter().any(|ip| pod.ips.contains(ip) && self.owner_of(endpoint, *ip) == Some(name))
    }

    fn endpoints_at(&self, ip: IpAddr) -> impl Iterator<Item = (&SliceFacts, &SliceEndpoint)> {
        let places = self.slices_by_ip.get(&ip).into_iter().flat_map(Few::iter);
        places.filter_map(|(slice, index)| {
            let slice = self.slices.get(slice)?;
            Some((slice, slice.endpoints.get(*index)?))
        })
    }

    /// The numbers behind the ports of the service: the names are equal, or both are absent.
    fn slice_ports(&self, slice: &SliceFacts) -> Served {
        let Some(facts) = self.services.get(&slice.service) else { return Served::default() };
        let of = |ports: &[ServicePort], own: &[(Box<str>, u16)]| {
            let number = |name: &str| own.iter().find(|(known, _)| **known == *name).map(|(_, port)| *port);
            let pair =
                |port: &ServicePort| Some((port.number, number(port.name.as_deref().unwrap_or_default())?));
            ports.iter().filter_map(pair).collect()
        };
        let Service { ports, udp_ports, .. } = &facts.service;
        Served { tcp: of(ports, &slice.ports), udp: of(udp_ports, &slice.udp_ports) }
    }

    fn membership(&self, name: &Name, served: Served) -> Option<Membership> {
        Some(self.services.get(name)?.membership(served))
    }
}

fn endpoint(
    object: &Object,
    index: usize,
    endpoint: &discovery::Endpoint,
    report: &mut Report,
) -> SliceEndpoint {
    let mut ips = Vec::with_capacity(endpoint.addresses.len());
    for text in &endpoint.addresses {
        if let Ok(ip) = text.parse().map(canonical_ip) {
            ips.push(ip);
        } else {
            let field = format!("endpoints[{index}].addresses");
            report.warning(object, field, format!("\"{text}\" is not an IP address"));
        }
    }
    let conditions = endpoint.conditions.as_ref();
    let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
    let pod = pod.and_then(|target| {
        let namespace = target.namespace.as_deref().unwrap_or(&object.meta.namespace);
        Some(Name { namespace: namespace.into(), name: target.name.as_deref()?.into() })
    });
    SliceEndpoint {
        ips,
        ready: conditions.and_then(|conditions| conditions.ready).unwrap_or(true),
        terminating: conditions.and_then(|conditions| conditions.terminating).unwrap_or_default(),
        node: endpoint.node_name.as_deref().map(Arc::from),
        pod,
    }
}
