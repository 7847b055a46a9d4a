//! Which `Sidecar` is in force for which pods, and what that and their policies come to for their node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::policies::EVERYWHERE;
use super::selector::selects;
use super::{Name, Report, World};
use crate::model::reach::{ExportDefaults, Needs, View};
use crate::model::{Reach, Record, RecordKey};
use crate::policy::PolicyName;
use crate::resource::Object;
use crate::resource::networking::SidecarSpec;
use crate::resource::value::EgressHost;

/// What is kept of a `Sidecar` that narrows anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SidecarFacts {
    created: Option<i64>,
    /// Empty: all workloads of the namespace.
    selector: BTreeMap<String, String>,
    hosts: Arc<[EgressHost]>,
}

/// All `Sidecar`s, and what nodes were told of them.
#[derive(Debug, Default)]
pub(super) struct Sidecars {
    by_name: HashMap<Name, SidecarFacts>,
    by_namespace: HashMap<Arc<str>, BTreeSet<Name>>,
    told: HashMap<Arc<str>, Arc<Reach>>,
}

impl SidecarFacts {
    /// `None` for one that says nothing about what is seen.
    pub(super) fn of(spec: &SidecarSpec, created: Option<i64>) -> Option<Self> {
        if spec.egress.is_empty() {
            return None;
        }
        let hosts = spec.egress.iter().flat_map(|listener| listener.hosts.iter().cloned());
        let selector = spec.workload_selector.as_ref().map(|selector| selector.labels.clone());
        Some(Self { created, selector: selector.unwrap_or_default(), hosts: hosts.collect() })
    }
}

/// Names what a `Sidecar` asks for beside what is seen.
pub(super) fn warn_about(object: &Object, spec: &SidecarSpec, report: &mut Report) {
    let fields = [
        ("spec.ingress", !spec.ingress.is_empty()),
        ("spec.inboundConnectionPool", spec.inbound_connection_pool.is_some()),
        ("spec.outboundTrafficPolicy", spec.outbound_traffic_policy.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, given)| *given) {
        report.warning(object, field, "is not enforced yet and changes nothing");
    }
}

impl World {
    pub(super) fn put_sidecar(&mut self, name: &Name, facts: Option<SidecarFacts>) {
        if self.sidecars.by_name.get(name) == facts.as_ref() {
            return;
        }
        self.sidecars.by_name.remove(name);
        super::forget(&mut self.sidecars.by_namespace, &name.namespace, name);
        if let Some(facts) = facts {
            self.sidecars.by_name.insert(name.clone(), facts);
            let names = self.sidecars.by_namespace.entry(Arc::clone(&name.namespace)).or_default();
            names.insert(name.clone());
        }
        let everywhere = *name.namespace == *self.options.root_namespace;
        let scope = if everywhere { EVERYWHERE } else { &*name.namespace };
        let nodes: Vec<_> = match scope {
            EVERYWHERE => self.pods_by_node.keys().cloned().collect(),
            namespace => {
                let pods = self.pods_by_namespace.get(namespace).into_iter().flatten();
                pods.filter_map(|pod| self.pods.get(pod)?.node.clone()).collect()
            }
        };
        self.dirty.nodes.extend(nodes);
        let machines = self.machines_of(Some(scope).filter(|scope| *scope != EVERYWHERE));
        self.dirty.nodes.extend(machines);
    }

    /// What the pods of nodes see differently since the last call.
    pub fn take_reaches(&mut self) -> Vec<(Arc<str>, Arc<Reach>)> {
        let nodes = std::mem::take(&mut self.dirty.nodes);
        let mut news = Vec::new();
        for node in nodes {
            let reach = self.reach(&node);
            if self.sidecars.told.get(&node).is_none_or(|told| **told != reach) {
                let reach = Arc::new(reach);
                self.sidecars.told.insert(Arc::clone(&node), Arc::clone(&reach));
                news.push((node, reach));
            }
        }
        news
    }

    fn reach(&self, node: &str) -> Reach {
        let pods = || self.pods_by_node.get(node).into_iter().flatten();
        let view = |name: &Name| {
            let pod = self.pods.get(name).filter(|pod| !pod.host_network)?;
            let hosts = self.sidecar_of(name, &pod.labels).map(|sidecar| Arc::clone(&sidecar.hosts));
            Some(View { namespace: Arc::clone(&name.namespace), hosts })
        };
        let mut needs = Needs {
            namespaces: pods().map(|name| Arc::clone(&name.namespace)).collect(),
            listed: pods().flat_map(|name| self.listed_by(&self.uid_of(name))).cloned().collect(),
        };
        let mut views: Vec<_> = pods().filter_map(view).collect();
        if let Some((name, labels)) = self.machine(node) {
            let hosts = self.sidecar_of(&name, labels).map(|sidecar| Arc::clone(&sidecar.hosts));
            views.push(View { namespace: Arc::clone(&name.namespace), hosts });
            needs.listed.extend(self.listed_by(&self.entry_uid_of(&name)).iter().cloned());
            needs.namespaces.insert(name.namespace);
        }
        let defaults = ExportDefaults::of(self.mesh.text.config());
        Reach::of(views.into_iter().collect(), needs, defaults)
    }

    /// The policies that a pod was last told to list.
    pub(super) fn listed_by(&self, uid: &Arc<str>) -> &[Arc<PolicyName>] {
        match self.told.get(&RecordKey::Workload(Arc::clone(uid))) {
            Some(Record::Workload(workload)) => &workload.policies,
            _ => &[],
        }
    }

    /// The `Sidecar` in force for a pod: one that selects it, else its namespace's, else the mesh's; the oldest of
    /// several.
    fn sidecar_of(&self, name: &Name, labels: &BTreeMap<String, String>) -> Option<&SidecarFacts> {
        let of_namespace = |namespace: &str, selecting: bool| {
            let names = self.sidecars.by_namespace.get(namespace).into_iter().flatten();
            let facts = names.filter_map(|name| Some((name, self.sidecars.by_name.get(name)?)));
            let fitting = facts.filter(|(_, one)| {
                if selecting {
                    !one.selector.is_empty() && selects(&one.selector, labels)
                } else {
                    one.selector.is_empty()
                }
            });
            fitting.min_by_key(|(name, one)| (one.created, *name)).map(|(_, one)| one)
        };
        of_namespace(&name.namespace, true)
            .or_else(|| of_namespace(&name.namespace, false))
            .or_else(|| of_namespace(&self.options.root_namespace, false))
    }
}
