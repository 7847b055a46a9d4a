//! What is known about a bed from outside, in the process and as the file `status.json`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::{BedError, Result};
use super::network::Network;
use super::place::Place;

/// A bed at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The bed's name.
    pub name: String,
    /// Where its files are.
    pub state_directory: PathBuf,
    /// The network namespace that joins the nodes.
    pub wire: PathBuf,
    /// How pods are connected.
    pub network: Network,
    /// Every pod is ready or has ended well, and so has every node's `mesh-node`.
    pub ready: bool,
    /// The nodes, by number.
    pub nodes: Vec<NodeStatus>,
    /// The pods, by namespace and name.
    pub pods: Vec<PodStatus>,
    /// The services, by namespace and name.
    pub services: Vec<ServiceStatus>,
    /// What is wrong with the manifests.
    pub problems: Vec<String>,
    /// Where the machine itself reaches the mesh page, on a bed with a control plane.
    #[serde(default)]
    pub dashboard: Option<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Such as `node-1`.
    pub name: String,
    /// The file of its network namespace.
    pub netns: PathBuf,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Its addresses, IPv4 first.
    pub ips: Vec<IpAddr>,
    /// The `mesh-node` process, if it runs.
    pub pid: Option<u32>,
    /// Where the machine itself reaches the node's admin page.
    pub admin: Option<String>,
    /// What `mesh-node` said.
    pub log: Option<PathBuf>,
    /// `mesh-node` says so; `true` for a bed without mesh.
    pub ready: bool,
    /// How often `mesh-node` was started again.
    pub restarts: u32,
    /// Why `mesh-node` does not come up.
    pub failed: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it runs; empty while it runs nowhere.
    pub node: String,
    /// Its first address.
    pub ip: Option<IpAddr>,
    /// All its addresses.
    pub ips: Vec<IpAddr>,
    /// `metadata.uid`.
    pub uid: String,
    /// Its namespaces and cgroup, once it has them.
    #[serde(flatten)]
    pub place: Option<Place>,
    /// As in Kubernetes: `Pending`, `Running`, `Succeeded` or `Failed`; `Terminating` as tools show it.
    pub phase: String,
    /// All its containers are ready.
    pub ready: bool,
    /// Why it is not.
    pub message: Option<String>,
    /// How often its containers were started again.
    pub restarts: u32,
    /// The containers' output.
    pub logs: Vec<PathBuf>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its cluster IPs.
    pub ips: Vec<IpAddr>,
}

impl PodStatus {
    /// `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Where it runs; an error while it runs nowhere.
    pub fn place(&self) -> Result<&Place> {
        self.place.as_ref().ok_or_else(|| BedError::Unknown {
            what: "pod",
            name: self.full_name(),
            reason: format!("does not run: {}", self.message.as_deref().unwrap_or("it is starting")),
        })
    }

    /// Nothing more is to be expected of it: it is ready, or ended well, or is going away.
    pub(crate) fn settled(&self) -> bool {
        self.ready || self.phase == "Succeeded" || self.phase == "Terminating"
    }
}

impl Status {
    /// The pod that `NAMESPACE/NAME` means; the name may be a unique prefix.
    pub fn pod(&self, name: &str) -> Result<&PodStatus> {
        let unknown = |reason: String| BedError::Unknown { what: "pod", name: name.to_owned(), reason };
        let Some((namespace, prefix)) = name.split_once('/') else {
            return Err(unknown("is not of the form NAMESPACE/POD".to_owned()));
        };
        let fitting: Vec<&PodStatus> =
            self.pods.iter().filter(|p| p.namespace == namespace && p.name.starts_with(prefix)).collect();
        if let Some(exact) = fitting.iter().find(|p| p.name == prefix) {
            return Ok(exact);
        }
        // A pod on its way out is rarely meant while its successor is there.
        let staying: Vec<&&PodStatus> = fitting.iter().filter(|p| p.phase != "Terminating").collect();
        match (staying.as_slice(), fitting.as_slice()) {
            ([one], _) => Ok(one),
            ([], [one]) => Ok(one),
            ([], []) => Err(unknown(format!("does not exist (there are: {})", self.pod_names()))),
            _ => {
                let names: Vec<String> = fitting.iter().map(|p| p.full_name()).collect();
                Err(unknown(format!("fits several: {}", names.join(", "))))
            }
        }
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Result<&NodeStatus> {
        let reason = || self.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", ");
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| BedError::Unknown {
            what: "node",
            name: name.to_owned(),
            reason: format!("does not exist (there are: {})", reason()),
        })
    }

    /// The first address of the service `NAMESPACE/NAME`.
    pub fn service_ip(&self, name: &str) -> Result<IpAddr> {
        let found = self.services.iter().find(|s| format!("{}/{}", s.namespace, s.name) == name);
        found.and_then(|s| s.ips.first().copied()).ok_or_else(|| BedError::Unknown {
            what: "service",
            name: name.to_owned(),
            reason: "does not exist or has no cluster IP".to_owned(),
        })
    }

    /// What keeps the bed from being ready, one line each.
    pub fn unready(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for node in self.nodes.iter().filter(|n| !n.ready) {
            let reason = node.failed.as_deref().unwrap_or("mesh-node is not ready");
            lines.push(format!("{}: {reason} (log: {})", node.name, show(node.log.as_deref())));
        }
        for pod in self.pods.iter().filter(|p| !p.settled()) {
            let reason = pod.message.as_deref().unwrap_or("starting");
            lines.push(format!(
                "{}: {}: {reason} (log: {})",
                pod.full_name(),
                pod.phase,
                show(pod.logs.first().map(PathBuf::as_path))
            ));
        }
        lines
    }

    /// One line for each pod: namespace, pod, node, IP, network namespace.
    pub fn table(&self) -> String {
        let mut rows = vec![["NAMESPACE", "POD", "NODE", "IP", "NETNS"].map(str::to_owned)];
        for pod in &self.pods {
            let or_none =
                |text: Option<String>| text.filter(|t| !t.is_empty()).unwrap_or_else(|| "<none>".to_owned());
            rows.push([
                pod.namespace.clone(),
                pod.name.clone(),
                or_none(Some(pod.node.clone())),
                or_none(pod.ip.map(|ip| ip.to_string())),
                or_none(pod.place.as_ref().map(|p| p.netns.display().to_string())),
            ]);
        }
        let width =
            |column: usize| rows.iter().filter_map(|r| r.get(column)).map(String::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..5).map(width).collect();
        let line = |row: &[String; 5]| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", cells.join("   ").trim_end())
        };
        rows.iter().map(line).collect()
    }

    fn pod_names(&self) -> String {
        self.pods.iter().map(PodStatus::full_name).collect::<Vec<_>>().join(", ")
    }
}

fn show(path: Option<&Path>) -> String {
    path.map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pods: &[(&str, &str)]) -> Status {
        let pod = |(name, phase): &(&str, &str)| PodStatus {
            namespace: "default".to_owned(),
            name: (*name).to_owned(),
            node: "node-1".to_owned(),
            ip: None,
            ips: Vec::new(),
            uid: String::new(),
            place: None,
            phase: (*phase).to_owned(),
            ready: true,
            message: None,
            restarts: 0,
            logs: Vec::new(),
        };
        Status {
            name: "x".to_owned(),
            state_directory: PathBuf::new(),
            wire: PathBuf::new(),
            network: Network::Routed,
            ready: true,
            nodes: Vec::new(),
            pods: pods.iter().map(pod).collect(),
            services: Vec::new(),
            problems: Vec::new(),
            dashboard: None,
        }
    }

    #[test]
    fn a_prefix_must_be_unique_and_a_whole_name_wins() {
        let status = status(&[
            ("web", "Running"),
            ("web-2", "Running"),
            ("api-x", "Terminating"),
            ("api-y", "Running"),
        ]);
        assert_eq!(status.pod("default/web").unwrap().name, "web");
        assert_eq!(status.pod("default/web-").unwrap().name, "web-2");
        assert_eq!(status.pod("default/api").unwrap().name, "api-y", "the other one is going");
        assert_eq!(status.pod("default/api-x").unwrap().name, "api-x");
        for bad in ["default/we", "web", "other/web", "default/none"] {
            assert!(status.pod(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_table_has_the_agreed_columns() {
        let table = status(&[("web", "Running")]).table();
        let words: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words[0], ["NAMESPACE", "POD", "NODE", "IP", "NETNS"]);
        assert_eq!(words[1], ["default", "web", "node-1", "<none>", "<none>"]);
    }

    #[test]
    fn status_survives_json() {
        let mut status = status(&[("web", "Running")]);
        status.pods[0].place = Some(Place { netns: "/n".into(), pid: 1, cgroup: "/c".into() });
        let text = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&text).unwrap(), status);
        assert!(text.contains("\"netns\":\"/n\""), "{text}");
    }
}
