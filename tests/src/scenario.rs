//! What most suites start from: two nodes, an enrolled client with a neighbour on its own node and a server on the
//! other, and somebody outside of the mesh.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_core::model::{CompileOptions, Service, compile};
use mesh_core::resource::{SourceFile, parse};
use serde::Deserialize;

use crate::bed::{Bed, Builder, PodHandle};

/// Starts a bed and waits until every enrolled pod is captured.
pub fn start(builder: Builder) -> Result<Bed> {
    let bed = builder.start()?;
    captured(&bed, Duration::from_secs(10))?;
    Ok(bed)
}

/// Waits until every node knows every pod, and every enrolled one is captured.
pub fn captured(bed: &Bed, patience: Duration) -> Result<()> {
    let mut last = String::new();
    let all = bed.wait("every enrolled pod captured", patience, |bed| {
        last = captures(bed).unwrap_or_else(|error| format!("{error:#}"));
        last.is_empty()
    });
    all.with_context(|| format!("pods: {last}"))
}

/// Waits until the log of a node says all of `words` in one line.
pub fn logged(bed: &Bed, node: &str, words: &[&str]) -> Result<()> {
    let mut last = String::new();
    let said = bed.wait("a line in the log", Duration::from_secs(5), |bed| {
        last = bed.node(node).and_then(|node| node.log()).unwrap_or_default();
        last.lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
    said.with_context(|| format!("{words:?} in the log of {node}:\n{last}"))
}

/// What is missing until every node knows every pod and every enrolled one is captured.
fn captures(bed: &Bed) -> Result<String> {
    let mut missing = Vec::new();
    let status = bed.status();
    for node in &status.nodes {
        let dump: serde_json::Value = serde_json::from_str(&bed.node(&node.name)?.admin("/config_dump")?)?;
        let known = dump["workloads"].as_array().map_or(0, Vec::len);
        if known < status.pods.len() {
            missing.push(format!("{} knows {known} of {} pods", node.name, status.pods.len()));
        }
        let (served, published) = (endpoints_of(&dump), published_endpoints(bed, &node.name)?);
        if served != published {
            missing.push(format!("{} has {served} endpoints of {published}", node.name));
        }
        let empty = serde_json::Map::new();
        for (uid, pod) in dump["workloadState"].as_object().unwrap_or(&empty) {
            if pod["state"] != "captured" {
                missing.push(format!("{uid} is {}", pod["state"]));
            }
        }
    }
    Ok(missing.join("; "))
}

/// Pods behind services, as a node's dump lists them.
fn endpoints_of(dump: &serde_json::Value) -> usize {
    let services = dump["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    services.iter().filter_map(|service| service["endpoints"].as_object()).map(serde_json::Map::len).sum()
}

/// The same from what the bed has published.
fn published_endpoints(bed: &Bed, node: &str) -> Result<usize> {
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(bed.layout().objects())? {
        let path = entry?.path();
        // A file may be replaced at this moment; the next look finds it.
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        objects.extend(parse(&SourceFile { name: &name, text: &text }).objects);
    }
    let options = CompileOptions { node: node.to_owned(), ..CompileOptions::default() };
    let snapshot = compile(&objects, &options).snapshot;
    let pods_behind = |service: &Arc<Service>| {
        let endpoints = service.ports.iter().flat_map(|port| &port.endpoints);
        let pods = endpoints.filter_map(|endpoint| Some(endpoint.workload.as_ref()?.uid.clone()));
        pods.collect::<BTreeSet<_>>().len()
    };
    Ok(snapshot.services().map(pods_behind).sum())
}

/// Pods `mesh/client` and `mesh/near` on node-1, `mesh/far` on node-2, `outside/stranger` on node-1 without
/// enrolment. The servers run `netprobe serve` on port 7000, behind the services `near`, `far` and `both`.
pub fn manifests() -> String {
    let mut all = String::from(
        "{apiVersion: v1, kind: Namespace, metadata: {name: mesh, labels: {istio.io/dataplane-mode: ambient}}}\n---\n\
         {apiVersion: v1, kind: Namespace, metadata: {name: outside}}\n---\n",
    );
    all.push_str(&pod("mesh", "client", "node-1", &["sleep", "infinity"]));
    all.push_str(&pod("outside", "stranger", "node-1", &["sleep", "infinity"]));
    for (name, node) in [("near", "node-1"), ("far", "node-2")] {
        all.push_str(&pod("mesh", name, node, &["netprobe", "serve", "--port", "7000"]));
        all.push_str(&service("mesh", name, &format!("app: {name}")));
    }
    all.push_str(&service("mesh", "both", "serves: \"yes\""));
    all
}

/// A pod with its own service account. Pods that run a server carry `serves: "yes"` and are ready when it is.
pub fn pod(namespace: &str, name: &str, node: &str, command: &[&str]) -> String {
    let serves = command.first() == Some(&"netprobe");
    let command = command.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    let (label, probe) = if serves {
        (
            ", serves: \"yes\"",
            ", ports: [{containerPort: 7000}], readinessProbe: {tcpSocket: {port: 7000}, periodSeconds: 1}",
        )
    } else {
        ("", "")
    };
    format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {namespace}}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}{label}}}}}, \
         spec: {{serviceAccountName: {name}, nodeName: {node}, \
         containers: [{{name: main, image: local, command: [{command}]{probe}}}]}}}}\n---\n"
    )
}

/// A service on port 80 that leads to port 7000.
pub fn service(namespace: &str, name: &str, selector: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: {namespace}}}, \
         spec: {{ipFamilyPolicy: PreferDualStack, selector: {{{selector}}}, \
         ports: [{{name: tcp, port: 80, targetPort: 7000}}]}}}}\n---\n"
    )
}

/// What one `netprobe dial` saw.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Dialled {
    /// Kind of error, if the connection did not come about.
    pub error: Option<String>,
    /// `getpeername` of the client.
    pub peername: Option<String>,
    /// `getsockname` of the client.
    pub sockname: Option<String>,
    /// The server's first line: what it sees of the connection.
    #[serde(default)]
    pub greeting: String,
    /// Bytes after that line.
    #[serde(default)]
    pub received: usize,
    /// The first of them.
    #[serde(default)]
    pub start: String,
    /// How it ended: `eof` or the kind of error.
    #[serde(default)]
    pub end: String,
}

impl Dialled {
    /// Whether a server answered and the connection ended cleanly.
    pub fn served(&self) -> bool {
        self.error.is_none() && self.end == "eof" && self.greeting.starts_with("accepted=")
    }

    /// Whether no server was reached: refused, reset, or closed without a byte.
    pub fn refused(&self) -> bool {
        self.greeting.is_empty()
    }

    /// The value of `accepted=`, `peer=` or `local=` in the server's line.
    pub fn seen(&self, name: &str) -> &str {
        let prefix = format!("{name}=");
        self.greeting.split(' ').find_map(|word| word.strip_prefix(&prefix)).unwrap_or_default()
    }
}

/// Dials from a pod; `words` are those of `netprobe dial`.
pub fn dial(pod: &PodHandle, words: &[&str]) -> Result<Dialled> {
    let mut all = vec!["netprobe", "dial"];
    all.extend_from_slice(words);
    let output = pod.exec(&all)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "netprobe: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).with_context(|| format!("netprobe printed {text:?}"))
}

/// `IP:7000` of a pod, IPv4.
pub fn at(pod: &PodHandle) -> String {
    format!("{}:7000", pod.ip())
}

/// `[IP]:7000` of a pod, IPv6.
pub fn at6(pod: &PodHandle) -> String {
    pod.ip6().map(|ip| format!("[{ip}]:7000")).unwrap_or_default()
}

/// Waits until a dial has the outcome that is wanted, and says what it was otherwise. Each dial is given up before the wait
/// is: one that begins before a change holds may lead to where nobody answers.
pub fn eventually(bed: &Bed, from: &PodHandle, to: &str, wanted: fn(&Dialled) -> bool) -> Result<Dialled> {
    let mut last = Dialled::default();
    let reached = bed.wait("the wanted outcome of a connection", Duration::from_secs(8), |_| {
        last = dial(from, &[to, "--timeout", "1500"]).unwrap_or_default();
        wanted(&last)
    });
    reached.with_context(|| format!("{} to {to} at last: {last:?}", from.name()))?;
    Ok(last)
}
