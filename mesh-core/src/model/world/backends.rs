//! What owners of Services ask of clients with `BackendTLSPolicies`. Clients are told with the Service.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Name, World};
use crate::gateway_api::{BackendPolicy, deciding};
use crate::model::ServicePort;
use crate::resource::{Object, ObjectKey, Spec};

/// Policies by namespace and name.
#[derive(Debug, Default)]
pub(super) struct Backends {
    policies: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Object>>,
}

impl Backends {
    fn of(&self, namespace: &str) -> impl Iterator<Item = BackendPolicy<'_>> {
        self.policies.get(namespace).into_iter().flat_map(BTreeMap::values).filter_map(policy)
    }
}

impl World {
    /// Takes note of a BackendTLSPolicy, or that it is gone.
    pub(super) fn put_backend_policy(&mut self, name: &Name, object: Option<&Object>) {
        let Name { namespace, name } = name;
        let known = self.backends.policies.entry(Arc::clone(namespace)).or_default();
        let old = match object {
            Some(object) => known.insert(Arc::clone(name), object.clone()),
            None => known.remove(name),
        };
        if known.is_empty() {
            self.backends.policies.remove(namespace);
        }
        for policy in old.as_ref().into_iter().chain(object).filter_map(policy) {
            let targets = policy.targets().map(|(service, _)| service.into());
            let targets = targets.map(|name| Name { namespace: Arc::clone(namespace), name });
            self.dirty.services.extend(targets);
        }
    }

    /// Looks again at the Services whose clients trust what is in an object.
    pub(super) fn mark_backends_trusting(&mut self, kind: &str, name: &Name) {
        let names = |policy: &BackendPolicy<'_>| {
            let mut all = policy.authorities().filter_map(|(_, key)| key.ok());
            all.any(|key| key.kind == kind && key.name == name.name)
        };
        let policies = self.backends.of(&name.namespace).filter(names);
        let services: Vec<Name> = policies
            .flat_map(|policy| policy.targets())
            .map(|(service, _)| Name { namespace: Arc::clone(&name.namespace), name: service.into() })
            .collect();
        self.dirty.services.extend(services);
    }

    /// The objects that hold authorities which some policy names.
    pub(super) fn wanted_by_backends(&self) -> impl Iterator<Item = ObjectKey> {
        let all = self.backends.policies.values().flat_map(BTreeMap::values).filter_map(policy);
        all.flat_map(|policy| policy.authorities()).filter_map(|(_, key)| key.ok())
    }

    /// Says of each port of a Service how it is spoken to.
    pub(super) fn secure_ports(&self, service: &Name, ports: &mut [ServicePort]) {
        if !self.backends.policies.contains_key(&service.namespace) {
            return;
        }
        for port in ports {
            let policies = self.backends.of(&service.namespace);
            let policy = deciding(policies, &service.name, port.name.as_deref());
            port.tls = policy.map(|policy| Arc::new(policy.tls(|key| self.authorities_of(key))));
        }
    }
}

fn policy(object: &Object) -> Option<BackendPolicy<'_>> {
    let Spec::BackendTlsPolicy(spec) = &object.spec else { return None };
    Some(BackendPolicy { object, spec })
}

#[cfg(test)]
mod tests;
