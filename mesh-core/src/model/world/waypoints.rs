//! Waypoints: what stands for them, who runs them, and what is bound to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Name, World};
use crate::model::{Record, RecordKey, Service, ServiceKey, Waypoint};
use crate::resource::{Object, ObjectKey, Spec};
use crate::waypoint::GATEWAY_NAME;

impl World {
    /// Takes note of an object that decides about waypoints.
    pub(super) fn note_attachment(&mut self, object: &Object) {
        let decides = matches!(
            object.spec,
            Spec::Namespace(_)
                | Spec::KubernetesGateway(_)
                | Spec::GatewayClass(_)
                | Spec::Service(_)
                | Spec::ServiceEntry(_)
        );
        if decides {
            self.attachments.apply(object);
        }
    }

    /// Tells of waypoints that have come or gone, and marks what may be bound otherwise than before.
    pub(super) fn commit_waypoints(&mut self) {
        for ObjectKey { kind, namespace, name } in self.attachments.take_changed() {
            let name = Name { namespace, name };
            match kind {
                "Service" => drop(self.dirty.services.insert(name)),
                "ServiceEntry" => drop(self.dirty.entries.insert(name)),
                _ => {}
            }
        }
        let gateways = self.attachments.take_changed_gateways();
        if gateways.is_empty() {
            return;
        }
        for (namespace, name) in gateways {
            let key = RecordKey::Service(Arc::new(ServiceKey::of_waypoint(&namespace, &name)));
            let service = self.attachments.is_waypoint(&namespace, &name);
            let service = service.then(|| Service::of_waypoint(&namespace, &name));
            self.emit(key, service.map(|service| Record::Service(Arc::new(service))));
            let label = BTreeMap::from([(GATEWAY_NAME.to_owned(), name.to_string())]);
            let pods: Vec<_> = self.pods_by_label.candidates(Some(&namespace), &label).cloned().collect();
            self.dirty.pods.extend(pods);
        }
        let asks = |(name, pod): (&Name, &super::PodFacts)| {
            self.attachments.asks(&name.namespace, &pod.labels).then(|| name.clone())
        };
        let asking: Vec<_> = self.pods.iter().filter_map(asks).collect();
        self.dirty.pods.extend(asking);
        self.mark_workload_entries_of(None);
    }

    /// What connections to a Service, or a ServiceEntry, go through.
    pub(super) fn waypoint_of(&self, kind: &'static str, name: &Name) -> Option<Arc<Waypoint>> {
        let Name { namespace, name } = name;
        let key = ObjectKey { kind, namespace: Arc::clone(namespace), name: Arc::clone(name) };
        self.attachments.waypoint(&key).map(Arc::new)
    }

    /// What connections to the addresses of a workload with these labels go through.
    pub(super) fn waypoint_of_workload(
        &self,
        namespace: &Arc<str>,
        labels: &BTreeMap<String, String>,
    ) -> Option<Arc<Waypoint>> {
        self.attachments.workload_waypoint(namespace, labels).map(Arc::new)
    }

    /// The waypoint that a pod with these labels is one of.
    pub(super) fn waypoint_run_by<'p>(
        &self,
        namespace: &Arc<str>,
        labels: &'p BTreeMap<String, String>,
    ) -> Option<&'p str> {
        let name = labels.get(GATEWAY_NAME)?;
        self.attachments.is_waypoint(namespace, name).then_some(name)
    }
}

#[cfg(test)]
mod tests;
