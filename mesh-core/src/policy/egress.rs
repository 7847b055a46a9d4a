//! Decides about plain connections out of an enrolled pod, and of gateways.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::{Connection, Denied, DeniedBy, Notes, Permit};
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
        self.leads_to(target, destination)
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
        self.leads_to(target, destination)
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
            return Ok(Permit::mint(destination, Notes::default()));
        }
        match self.check_owner(destination) {
            Ok(()) => Ok(Permit::mint(destination, Notes::default())),
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

    /// Whether a name that a client has chosen may lead to `destination`: to nothing of the mesh, whatever its names are, and
    /// to nothing that is somebody else's for everybody who asks, like the host itself, its link with the cloud's metadata, and
    /// all who listen.
    pub fn may_be_named(&self, destination: SocketAddr) -> bool {
        let destination = canonical(destination);
        let is_nobodys = matches!(self.resolve(destination), Target::External);
        is_nobodys && leads_outside(destination.ip())
    }

    fn leads_to(&self, target: &Target, destination: SocketAddr) -> Result<Permit, Denied> {
        let leads_there = match target {
            // Where that leads, the client has said, and what is there was looked up.
            Target::Service { service, .. } if service.is_passthrough() => true,
            Target::Service { service, .. } if service.is_dynamic() => self.may_be_named(destination),
            Target::Service { service, port } => service
                .ports
                .get(*port)
                .is_some_and(|port| port.endpoints.iter().any(|endpoint| endpoint.addr == destination)),
            Target::Workload { addr, .. } => canonical(*addr) == destination,
            Target::External => true,
            Target::UnknownInPodNetwork => return Err(DeniedBy::UnknownInPodNetwork.into()),
            Target::ServiceWithoutPort(_) => false,
        };
        if leads_there {
            Ok(Permit::mint(destination, Notes::default()))
        } else {
            Err(DeniedBy::WrongDestination.into())
        }
    }
}

/// Whether an address means the same host for everybody who asks for it, also where one of IPv4 is written within one of IPv6
/// (RFC 6052, 2.1; RFC 3056, 2).
fn leads_outside(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            // "This network" and what is reserved, which some systems take for themselves.
            let reserved = first == 0 || first >= 240;
            !(reserved || v4.is_loopback() || v4.is_link_local() || v4.is_multicast())
        }
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let of = |high: u16, low: u16| {
                IpAddr::from(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
            };
            match segments {
                // `::`, `::1`, and addresses of IPv4 as they were once written.
                [0, 0, 0, 0, 0, 0, ..] => false,
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
                    leads_outside(of(high, low))
                }
                _ => !(v6.is_unicast_link_local() || v6.is_multicast()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
