//! Decides about plain connections out of an enrolled pod, and of gateways.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Connection, Denied, DeniedBy, Permit};
use crate::model::{Service, Snapshot, Target, Workload};
use crate::net::canonical;

impl Snapshot {
    /// Decides whether `source` may be connected to `destination` without a tunnel, because nobody there could end
    /// one: something outside of the mesh, or a pod that is not enrolled.
    ///
    /// `target` is what [`Snapshot::resolve`] made of the address that the pod asked for, and `destination` is where
    /// the proxy is about to dial: the same address, or the endpoint chosen for a service. What the destination is
    /// gets looked up again here, so a wrong target cannot smuggle plaintext to an enrolled pod.
    pub fn permit_egress(
        &self,
        source: &Workload,
        destination: SocketAddr,
        target: &Target,
    ) -> Result<Permit, Denied> {
        if !self.is_loaded() {
            return Err(DeniedBy::NotLoaded.into());
        }
        if self.workload_by_uid(&source.uid).is_none() {
            return Err(DeniedBy::UnknownWorkload.into());
        }
        let destination = canonical(destination);
        self.check_owner(destination)?;
        leads_to(target, destination)
    }

    /// Decides whether a gateway may be connected to `destination` without a tunnel, because nobody there could end one.
    ///
    /// As [`Snapshot::permit_egress`], but for a process that need not be a workload. What is on its own host, at a loopback
    /// address, is reached by no other way, whatever namespace it claims to be of; nobody else can listen in there.
    pub fn permit_gateway(&self, destination: SocketAddr, target: &Target) -> Result<Permit, Denied> {
        if !self.is_loaded() {
            return Err(DeniedBy::NotLoaded.into());
        }
        let destination = canonical(destination);
        if !destination.ip().is_loopback() {
            self.check_owner(destination)?;
        }
        leads_to(target, destination)
    }

    /// Decides whether a gateway may send datagrams to `destination`, an endpoint of `service.udp_ports[port]`; the
    /// destination sees them come from `source`.
    ///
    /// No tunnel carries datagrams, and the node of an enrolled pod lets them pass, so that nobody else asks: here its
    /// policies are asked, as about plain text of somebody without an identity. Where that is STRICT, it is refused.
    pub fn permit_datagrams(
        &self,
        source: IpAddr,
        destination: SocketAddr,
        (service, port): (&Service, usize),
    ) -> Result<Permit, Denied> {
        if !self.is_loaded() {
            return Err(DeniedBy::NotLoaded.into());
        }
        let destination = canonical(destination);
        let endpoints = service.udp_ports.get(port).map(|port| port.endpoints.as_slice()).unwrap_or_default();
        if !endpoints.iter().any(|endpoint| endpoint.addr == destination) {
            return Err(DeniedBy::WrongDestination.into());
        }
        if destination.ip().is_loopback() {
            return Ok(Permit::mint(destination, None));
        }
        match self.check_owner(destination) {
            Ok(()) => Ok(Permit::mint(destination, None)),
            Err(DeniedBy::NeedsTunnel { workload }) => {
                let workload = self.workload_by_uid(&workload).ok_or(DeniedBy::UnknownWorkload)?;
                let plain = Connection { peer: None, source_ip: source, destination, encrypted: false };
                self.policies().authorize(workload, &plain)
            }
            Err(denied) => Err(denied.into()),
        }
    }

    /// Refuses every destination that may not be dialled without a tunnel.
    fn check_owner(&self, destination: SocketAddr) -> Result<(), DeniedBy> {
        let target = match self.resolve(destination) {
            // A ServiceEntry names a place that is there without it.
            Target::Service { service, .. } if service.entry.is_some() => self.place(destination),
            other => other,
        };
        match target {
            // The address of a Service is a promise.
            Target::Service { .. } | Target::ServiceWithoutPort(_) => Err(DeniedBy::WrongDestination),
            Target::Workload { workload, .. } if workload.accepts_tunnel() => {
                Err(DeniedBy::NeedsTunnel { workload: Arc::clone(&workload.uid) })
            }
            Target::UnknownInPodNetwork => Err(DeniedBy::UnknownInPodNetwork),
            Target::Workload { .. } | Target::External => Ok(()),
        }
    }
}

fn leads_to(target: &Target, destination: SocketAddr) -> Result<Permit, Denied> {
    let leads_there = match target {
        // Where that leads, the client has said, and what is there was looked up.
        Target::Service { service, .. } if service.is_passthrough() => true,
        Target::Service { service, port } => service
            .ports
            .get(*port)
            .is_some_and(|port| port.endpoints.iter().any(|endpoint| endpoint.addr == destination)),
        Target::Workload { addr, .. } => canonical(*addr) == destination,
        Target::External => true,
        Target::UnknownInPodNetwork => return Err(DeniedBy::UnknownInPodNetwork.into()),
        Target::ServiceWithoutPort(_) => false,
    };
    if leads_there { Ok(Permit::mint(destination, None)) } else { Err(DeniedBy::WrongDestination.into()) }
}
