//! Nodes → where they are, and the networks that their pods get addresses from.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;

use super::{Report, World};
use crate::resource::Object;

/// What is kept of a Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct NodeFacts {
    pub(super) region: Arc<str>,
    pub(super) zone: Arc<str>,
    pub(super) pod_networks: BTreeSet<IpNet>,
}

impl World {
    pub(super) fn put_node(&mut self, name: &Arc<str>, facts: Option<NodeFacts>) {
        let old = match &facts {
            Some(facts) => self.nodes.insert(Arc::clone(name), facts.clone()),
            None => self.nodes.remove(name),
        };
        let (old, new) = (old.unwrap_or_default(), facts.unwrap_or_default());
        self.dirty.mesh |= old.pod_networks != new.pod_networks;
        if (&old.region, &old.zone) != (&new.region, &new.zone) {
            let pods = self.pods_by_node.get(name).into_iter().flatten().cloned();
            self.dirty.pods.extend(pods);
        }
    }
}

impl NodeFacts {
    pub(super) fn of(object: &Object, node: &Node, report: &mut Report) -> Self {
        let label = |key| object.meta.labels.get(key).map_or("", String::as_str).into();
        let spec = node.spec.iter();
        let texts: BTreeSet<_> =
            spec.flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr)).collect();
        let mut pod_networks = BTreeSet::new();
        for text in texts {
            match text.parse::<IpNet>() {
                Ok(network) => drop(pod_networks.insert(network.trunc())),
                Err(_) => report.warning(object, "spec.podCIDRs", format!("\"{text}\" is not a network")),
            }
        }
        let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
        Self { region, zone, pod_networks }
    }
}
