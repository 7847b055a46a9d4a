//! A `ztunnel` that the user brings, run as Istio runs it: one process for each node, which opens its sockets inside
//! the pods, and rules in each pod that lead connections to them.
//!
//! Istio's node agent is replaced by [`zds`], its control plane by a file, its certificate authority by ztunnel's own
//! stand-in (`FAKE_CA`), which is only in builds with `--features testing`. Nothing of ztunnel is part of this project.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use self::zds::Agent;
use super::stand::NODES;
use crate::{
    bed::{Bed, PodHandle, PodStatus, Process},
    http::{self, Request},
};

mod zds;

/// The proxies of both nodes.
#[derive(Debug)]
pub(super) struct Ztunnel {
    program: PathBuf,
    files: PathBuf,
    agents: Vec<Agent>,
    /// One for each node, in order.
    processes: Vec<Process>,
}

impl Ztunnel {
    /// Enrols all pods of a bed without mesh and starts a proxy on each node.
    pub(super) fn start(bed: &Bed, program: &Path) -> Result<Self> {
        let program =
            fs::canonicalize(program).with_context(|| format!("cannot use {}", program.display()))?;
        let files = bed.layout().state.join("ztunnel");
        fs::create_dir_all(&files)?;
        let pods = bed.status().pods;
        fs::write(files.join("workloads.yaml"), workloads(&pods)?)?;
        let mut agents = Vec::new();
        for node in NODES {
            let mut served = Vec::new();
            for pod in pods.iter().filter(|pod| pod.node == node) {
                let pod = bed.pod(&format!("{}/{}", pod.namespace, pod.name))?;
                redirect(&pod)?;
                served.push(pod);
            }
            agents.push(Agent::listen(&files.join(format!("{node}.sock")), &served)?);
        }
        let mut ztunnel = Self { program, files, agents, processes: Vec::new() };
        ztunnel.restart(bed)?;
        Ok(ztunnel)
    }

    /// The numbers of the processes, node by node.
    pub(super) fn pids(&self) -> Result<Vec<u32>> {
        ensure!(self.processes.len() == NODES.len(), "ztunnel does not run on each node");
        for process in &self.processes {
            let pid = process.pid();
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // A child that has ended stays as a zombie until somebody asks for it.
            ensure!(!stat.is_empty() && !stat.contains(") Z "), "a ztunnel has ended");
        }
        Ok(self.processes.iter().map(Process::pid).collect())
    }

    /// Ends the processes and starts them again.
    pub(super) fn restart(&mut self, bed: &Bed) -> Result<()> {
        self.processes.clear();
        for node in NODES {
            self.processes.push(self.spawn(bed, node)?);
        }
        for (node, agent) in NODES.into_iter().zip(&self.agents) {
            let (mut ready, mut ended) = (false, false);
            let waited = bed.wait("a ztunnel that is ready", Duration::from_secs(20), |bed| {
                ready = agent.all_taken() && is_ready(bed, node).unwrap_or(false);
                ended = self.pids().is_err();
                ready || ended
            });
            if waited.is_err() || ended {
                let log = fs::read_to_string(log_of(bed, node)).unwrap_or_default();
                let words = last_lines(&log);
                bail!("ztunnel of {node} is not ready: {}; its last words:\n{words}", agent.state());
            }
        }
        Ok(())
    }

    fn spawn(&self, bed: &Bed, node: &str) -> Result<Process> {
        let file = |name: String| self.files.join(name).display().to_string();
        let variables = [
            ("PROXY_MODE", "shared".to_owned()),
            ("NODE_NAME", node.to_owned()),
            ("INPOD_UDS", file(format!("{node}.sock"))),
            ("LOCAL_XDS_PATH", file("workloads.yaml".to_owned())),
            // Without an address it does not look for a control plane.
            ("XDS_ADDRESS", String::new()),
            ("FAKE_CA", "true".to_owned()),
            // Names are not resolved in the benches, and its resolver wants a port of each pod.
            ("ISTIO_META_DNS_CAPTURE", "false".to_owned()),
            ("IPV6_ENABLED", "false".to_owned()),
            ("RUST_LOG", "info".to_owned()),
        ];
        let mut words = vec!["env".to_owned(), "-i".to_owned()];
        words.extend(variables.map(|(name, value)| format!("{name}={value}")));
        // Its access log goes to a file, as that of the mesh does.
        let script = format!("exec \"$0\" >>{} 2>&1", log_of(bed, node).display());
        words.extend(["/bin/sh".to_owned(), "-c".to_owned(), script, self.program.display().to_string()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Ok(bed.node(node)?.spawn(&words)?)
    }
}

fn log_of(bed: &Bed, node: &str) -> PathBuf {
    bed.layout().logs().join(format!("{node}.ztunnel.log"))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines.get(lines.len().saturating_sub(8)..).unwrap_or_default().join("\n")
}

fn is_ready(bed: &Bed, node: &str) -> Result<bool> {
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, READY_PORT));
    let ask = || http::fetch(addr, &Request::get("/healthz/ready"), Duration::from_secs(1));
    Ok(bed.node(node)?.run_in_netns(ask)??.status == 200)
}

/// The rules of a pod: what it opens goes to ztunnel's outbound port, what reaches it to one of the inbound ones, but
/// for what ztunnel itself does (mark 0x539) and for what it does under a client's address (mark 0x111).
fn redirect(pod: &PodHandle) -> Result<()> {
    let output = pod.exec(&["sh", "-ec", RULES])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the rules of {} cannot be set: {errors}", pod.name());
    Ok(())
}

/// What a control plane would tell of the pods.
fn workloads(pods: &[PodStatus]) -> Result<String> {
    let workload = |pod: &PodStatus| {
        serde_json::json!({
            "uid": zds::uid(&pod.namespace, &pod.name),
            "name": pod.name,
            "namespace": pod.namespace,
            "serviceAccount": pod.name,
            "trustDomain": "cluster.local",
            "workloadIps": pod.ips.iter().filter(|ip| ip.is_ipv4()).collect::<Vec<_>>(),
            "protocol": "HBONE",
            "node": pod.node,
            "network": "",
            "services": {},
        })
    };
    let all = serde_json::json!({ "workloads": pods.iter().map(workload).collect::<Vec<_>>() });
    // JSON is YAML as well.
    Ok(serde_json::to_string(&all)?)
}

/// Where a ztunnel says whether it is ready.
const READY_PORT: u16 = 15021;

const RULES: &str = "\
iptables-restore --noflush <<RULES
*mangle
-A PREROUTING -m mark --mark 0x539/0xfff -j CONNMARK --set-xmark 0x111/0xfff
-A OUTPUT -m connmark --mark 0x111/0xfff -j CONNMARK --restore-mark
COMMIT
*nat
-A OUTPUT -p tcp -m mark --mark 0x111/0xfff -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -o lo -j ACCEPT
-A OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15001
-A PREROUTING ! -d 127.0.0.1/32 -p tcp ! --dport 15008 -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports 15006
COMMIT
RULES
ip route add local 0.0.0.0/0 dev lo table 100
ip rule add fwmark 0x111/0xfff pref 32764 lookup 100
";
