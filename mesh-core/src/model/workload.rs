//! A workload, as data.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::waypoint::Waypoint;
use crate::id::SpiffeId;
use crate::policy::PolicyName;

/// A pod that the mesh knows, enrolled or not, or whatever a WorkloadEntry or an endpoint of a ServiceEntry stands for.
/// Pods that have ended are not workloads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a pod that are independent of each other")]
pub struct Workload {
    /// `<cluster>//Pod/<namespace>/<name>`, the form that Istio's discovery uses.
    pub uid: Arc<str>,
    /// The pod's `metadata.uid`, by which a node finds its processes; absent in hand-written manifests, and on other
    /// nodes.
    pub pod_uid: Option<Arc<str>>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The node it was scheduled to.
    pub node: Option<Arc<str>>,
    /// Its addresses, IPv4 and IPv6, the primary one first. Empty until it has one. Only one workload has an address,
    /// but for those in their node's network.
    pub ips: Vec<IpAddr>,
    /// The name of DNS that stands for its addresses where it has none.
    pub hostname: Option<Arc<str>>,
    /// Its share of a service's traffic beside the others'; 0 counts as 1.
    pub weight: u32,
    /// Who it is: its service account in its namespace.
    pub identity: SpiffeId,
    /// Whether its traffic is captured. Other nodes are only told whether it ends tunnels.
    pub enrolled: bool,
    /// The pod's labels. Nodes other than its own know only those that subsets tell endpoints apart by.
    pub labels: BTreeMap<String, String>,
    /// What owns the pod: the Deployment, `StatefulSet`, `DaemonSet` or Job, else the pod itself.
    pub workload_name: Arc<str>,
    /// What kind of thing [`Self::workload_name`] names.
    pub workload_type: WorkloadType,
    /// Label `app`, else `app.kubernetes.io/name`, else the canonical name.
    pub app: Arc<str>,
    /// Label `version`, else `app.kubernetes.io/version`, else the canonical revision.
    pub version: Arc<str>,
    /// Labels `service.istio.io/canonical-name`, `app.kubernetes.io/name`, `app`, else the workload's name.
    pub canonical_name: Arc<str>,
    /// Labels `service.istio.io/canonical-revision`, `app.kubernetes.io/version`, `version`, else `latest`.
    pub canonical_revision: Arc<str>,
    /// The name of its service account.
    pub service_account: Arc<str>,
    /// The cluster's name.
    pub cluster: Arc<str>,
    /// `topology.kubernetes.io/region` of its node; empty if unknown.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone` of its node; empty if unknown.
    pub zone: Arc<str>,
    /// TCP ports that the kubelet probes, sorted. Probes have no identity and must reach these even under STRICT. Only
    /// its own node knows them.
    pub probe_ports: Vec<u16>,
    /// Shares its node's network, hence its node's addresses, which therefore do not identify it.
    pub host_network: bool,
    /// The services it is an endpoint of, sorted.
    pub services: Vec<Membership>,
    /// Keys of the policies that apply to it because they select it, sorted. Those of its namespace and of the mesh
    /// apply as well.
    pub policies: Vec<Arc<PolicyName>>,
    /// Ready to serve. Services that publish addresses before they are ready do not ask.
    pub ready: bool,
    /// Annotation `ambient.istio.io/bypass-inbound-capture`: connections to it arrive as they are.
    pub inbound_bypass: bool,
    /// Annotation `ambient.istio.io/dns-capture: "false"`: it asks its resolvers itself. Only its own node knows.
    pub dns_bypass: bool,
    /// What connections to one of its addresses go through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waypoint: Option<Arc<Waypoint>>,
}

/// A service, and what a workload does for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Membership {
    /// The service.
    pub service: Arc<ServiceKey>,
    /// The TCP ports it serves: the service's number and its own, ascending.
    pub ports: Box<[(u16, u16)]>,
    /// The same of UDP.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub udp_ports: Box<[(u16, u16)]>,
}

/// What makes a service unique: two namespaces may define the same host name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its fully qualified host name.
    pub hostname: Arc<str>,
}

/// What only the node that runs a pod needs to know of it. Joined with the [`Workload`] of the same uid there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// [`Workload::uid`].
    pub uid: Arc<str>,
    /// The node.
    pub node: Arc<str>,
    /// [`Workload::pod_uid`].
    pub pod_uid: Option<Arc<str>>,
    /// [`Workload::labels`]. The pods of one Deployment share them.
    pub labels: Arc<BTreeMap<String, String>>,
    /// [`Workload::probe_ports`].
    pub probe_ports: Vec<u16>,
    /// [`Workload::enrolled`].
    pub enrolled: bool,
    /// [`Workload::inbound_bypass`].
    pub inbound_bypass: bool,
    /// [`Workload::dns_bypass`].
    pub dns_bypass: bool,
}

/// What kind of object runs a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadType {
    /// Through a `ReplicaSet` of it.
    Deployment,
    /// `apps/v1`.
    StatefulSet,
    /// `apps/v1`.
    DaemonSet,
    /// `batch/v1`.
    Job,
    /// Nothing, or something that is none of the above.
    Pod,
}

impl Workload {
    /// Whether connections to it go through a tunnel; if not, they are plain even from enrolled workloads.
    pub fn accepts_tunnel(&self) -> bool {
        self.enrolled && !self.inbound_bypass
    }

    /// Whether whoever connects to one of its addresses connects to it. Not so for pods in their node's network, and not
    /// for what a ServiceEntry lists: several may list the same.
    pub fn owns_addresses(&self) -> bool {
        let group = self.uid.split('/').nth(1);
        !self.host_network && group != Some("networking.istio.io")
    }

    /// As its own node knows it.
    pub(super) fn with_local(&self, pod: &LocalPod) -> Self {
        Self {
            pod_uid: pod.pod_uid.clone(),
            labels: BTreeMap::clone(&pod.labels),
            probe_ports: pod.probe_ports.clone(),
            enrolled: pod.enrolled,
            inbound_bypass: pod.inbound_bypass,
            dns_bypass: pod.dns_bypass,
            ..self.clone()
        }
    }

    /// Whether `ip` is one of its addresses.
    pub fn has_ip(&self, ip: IpAddr) -> bool {
        self.ips.contains(&crate::net::canonical_ip(ip))
    }
}

impl ServiceKey {
    /// The part of the host name before the first dot, which is the name of a Kubernetes Service.
    pub fn name(&self) -> &str {
        self.hostname.split('.').next().unwrap_or_default()
    }
}

impl fmt::Display for ServiceKey {
    /// `namespace/hostname`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
