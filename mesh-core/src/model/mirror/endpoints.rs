//! Where the pods of a service are, from what was told of each.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Mirror;
use crate::model::service::StaticEndpoint;
use crate::model::workload::{Membership, ServiceKey};
use crate::model::{Endpoint, Service, Workload};

impl Mirror {
    /// The endpoints of a port that may be chosen here, sorted by address. `serves` are the ports of its protocol.
    pub(super) fn endpoints(
        &self,
        key: &Arc<ServiceKey>,
        service: &Service,
        number: u16,
        serves: impl Fn(&Membership) -> &[(u16, u16)],
    ) -> Vec<Endpoint> {
        let mut endpoints: BTreeMap<SocketAddr, Endpoint> = BTreeMap::new();
        let members = self.members.get(key).into_iter().flatten();
        for (ips, node, ready, memberships, workload) in members.filter_map(|uid| self.member(uid)) {
            let here = !service.local_only || node.is_some_and(|node| *node == *self.snapshot.node);
            if !here || !(ready || service.publish_not_ready) {
                continue;
            }
            let target = memberships.iter().find(|one| one.service == *key).and_then(|membership| {
                serves(membership).iter().find(|(from, _)| *from == number).map(|(_, to)| *to)
            });
            let Some(target) = target else { continue };
            let ips = workload.map_or(ips, |workload| self.addresses_of(workload, service));
            for ip in ips.iter().filter(|ip| service.families.contains(**ip)) {
                let endpoint = Endpoint::new(SocketAddr::new(*ip, target), workload.cloned());
                // An address that a workload owns is its own, whatever a slice says.
                let taken = endpoints.get(&endpoint.addr).is_some_and(|old| old.workload.is_some());
                if !taken {
                    endpoints.insert(endpoint.addr, endpoint);
                }
            }
        }
        endpoints.into_values().collect()
    }

    /// Those that it has, or that its name leads to.
    fn addresses_of<'a>(&'a self, workload: &'a Workload, service: &Service) -> &'a [IpAddr] {
        let Some(hostname) = &workload.hostname else { return &workload.ips };
        let all = self.addresses.get(hostname).map(|all| &**all).unwrap_or_default();
        match &service.entry {
            Some(entry) if entry.first_address_only => all.get(..1).unwrap_or_default(),
            _ => all,
        }
    }

    fn member(&self, uid: &str) -> Option<Member<'_>> {
        if let Some(workload) = self.snapshot.by_uid.get(uid) {
            let Workload { ips, node, ready, services, .. } = &**workload;
            return Some((ips, node.as_deref(), *ready, services, Some(workload)));
        }
        let StaticEndpoint { ip, node, ready, services, .. } = &**self.statics.get(uid)?;
        Some((std::slice::from_ref(ip), node.as_deref(), *ready, services, None))
    }
}

/// Addresses, node, readiness, memberships and the workload, if it is one.
type Member<'a> = (&'a [IpAddr], Option<&'a str>, bool, &'a [Membership], Option<&'a Arc<Workload>>);
