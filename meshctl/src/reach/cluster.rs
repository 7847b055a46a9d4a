//! Which pods of a cluster are meant.

use std::rc::Rc;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1;
use kube::api::{Api, ListParams};
use mesh_source::kubernetes::Client;
use tokio::runtime::Runtime;

pub(super) use super::forward::Pod;
use crate::kubeconfig::Kubeconfig;

/// A cluster, asked as whoever owns the kubeconfig.
pub(super) struct Cluster {
    runtime: Rc<Runtime>,
    client: Client,
    /// The mesh's.
    namespace: String,
}

impl Cluster {
    /// The one that is named, with the mesh in `namespace`.
    pub(super) fn find(place: &Kubeconfig, namespace: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, _) = runtime.block_on(place.connect())?;
        Ok(Self { runtime: Rc::new(runtime), client, namespace: namespace.to_owned() })
    }

    /// All replicas of the control plane that are ready.
    pub(super) fn control_plane(&self, port: u16) -> Result<Vec<Pod>> {
        let found = self.pods(&self.namespace, &ListParams::default().labels("app=istiod"))?;
        ensure!(!found.is_empty(), "no pod of the control plane is ready in namespace {:?}", self.namespace);
        Ok(found.into_iter().map(|pod| self.reach(&self.namespace, pod, port)).collect())
    }

    /// The proxy of the cluster's node, if it has one node.
    pub(super) fn only_node(&self, port: u16) -> Result<Pod> {
        let mut found = self.nodes("")?;
        match (found.pop(), found.len()) {
            (Some(pod), 0) => Ok(self.reach(&self.namespace, pod, port)),
            (None, _) => bail!("no node agent is ready in namespace {:?}", self.namespace),
            (Some(last), _) => {
                let nodes: Vec<_> = found.iter().chain([&last]).filter_map(node_of).collect();
                bail!("which one? --proxy {}", nodes.join(", --proxy "))
            }
        }
    }

    /// A node's proxy by the name of the node; a pod, or a pod of a waypoint or gateway, by `NAMESPACE/NAME`.
    pub(super) fn proxy(&self, name: &str, port: u16) -> Result<Pod> {
        let Some((namespace, name)) = name.split_once('/') else {
            let found = self.nodes(name)?.pop();
            let pod = found.with_context(|| format!("no node agent is ready on node {name:?}"))?;
            return Ok(self.reach(&self.namespace, pod, port));
        };
        let by_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let labelled = |label: &str| ListParams::default().labels(&format!("{label}={name}"));
        for wanted in [by_name, labelled("gateway.networking.k8s.io/gateway-name"), labelled("app")] {
            if let Some(pod) = self.pods(namespace, &wanted)?.into_iter().next() {
                return Ok(self.reach(namespace, pod, port));
            }
        }
        bail!("no pod, waypoint or gateway {name:?} is ready in namespace {namespace:?}")
    }

    fn nodes(&self, name: &str) -> Result<Vec<v1::Pod>> {
        let on = if name.is_empty() { String::new() } else { format!("spec.nodeName={name}") };
        self.pods(&self.namespace, &ListParams::default().labels("app=ztunnel").fields(&on))
    }

    /// Those that are ready.
    fn pods(&self, namespace: &str, wanted: &ListParams) -> Result<Vec<v1::Pod>> {
        let pods: Api<v1::Pod> = Api::namespaced(self.client.clone(), namespace);
        let list = self.runtime.block_on(pods.list(wanted)).context("listing pods")?;
        Ok(list.items.into_iter().filter(is_ready).collect())
    }

    fn reach(&self, namespace: &str, pod: v1::Pod, port: u16) -> Pod {
        let pods = Api::namespaced(self.client.clone(), namespace);
        let name = pod.metadata.name.unwrap_or_default();
        Pod::new(Rc::clone(&self.runtime), pods, (namespace.to_owned(), name), port)
    }
}

fn is_ready(pod: &v1::Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn node_of(pod: &v1::Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}
