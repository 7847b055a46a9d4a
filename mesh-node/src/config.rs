//! The command line.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use mesh_core::{id::TrustDomain, resource::value::time};

pub use self::machine::MachineOptions;
use crate::{
    redirect::{Inbound, TcHook},
    report::AccessLogFormat,
    tls::Protocols,
};

mod machine;

/// The data plane of the mesh.
#[derive(Debug, Parser)]
#[command(name = "mesh-node", version, about, long_about = None)]
pub struct Command {
    /// What to be.
    #[command(subcommand)]
    pub role: Role,
}

/// What a process of this binary can be.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Serve every enrolled pod of this node.
    ///
    /// Example: mesh-node node --node node-1 --config /etc/mesh/config
    ///
    /// Example: mesh-node node --node node-1 --control `https://mesh-control.istio-system.svc:15012`
    ///     --control-ca /var/run/secrets/istio/root-cert.pem --token /var/run/secrets/tokens/istio-token
    Node(Box<NodeOptions>),
    /// Serve what Gateways say at the edge of the mesh. Needs no privilege but for ports below 1024, and nothing in the
    /// kernel.
    ///
    /// Example: mesh-node gateway --name istio-system/istio-ingressgateway --config /etc/mesh/config --bind 127.0.0.1
    ///
    /// Example: mesh-node gateway --name shop/edge --config . --label istio=edge --admin-port 16000
    ///     --metrics-port 16020 --ready-port 16021
    Gateway(Box<GatewayOptions>),
    /// Enforce the rules of services, and of workloads, that are bound to a waypoint. Takes tunnels on port 15008 and needs
    /// no privilege, and nothing in the kernel. Its pods have the label gateway.networking.k8s.io/gateway-name.
    ///
    /// Example: mesh-node waypoint --name shop/waypoint --config /etc/mesh/config
    Waypoint(Box<GatewayOptions>),
    /// Succeed when the node process of this pod is ready, for a readiness probe: beside another pod of the same machine, whoever
    /// answers at port 15021 may be the other's. Both read which pod they are of from the variable `MESH_INSTANCE`.
    Ready,
    /// Wait until the control group of whoever runs this is captured by the node of this machine. Run before a service of the
    /// machine (`ExecStartPre=` of systemd), it keeps the service from starting in the clear.
    ///
    /// Example: mesh-node enrolled --node vm
    Enrolled(EnrolledOptions),
    /// Remove everything that a node process has put into the kernel: its pods are outside of the mesh then.
    ///
    /// Example: mesh-node cleanup --node node-1
    Cleanup(CleanupOptions),
}

/// Whether the express path is used.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
pub enum ExpressPath {
    /// Everything goes through the proxy.
    Disabled,
    /// What can go past it does.
    #[default]
    Enabled,
}

/// Options of the node role.
#[derive(Clone, Debug, Args)]
pub struct NodeOptions {
    /// Name of this node, as in `spec.nodeName` of its pods.
    #[arg(long)]
    pub node: String,
    /// Directory of Kubernetes YAML to follow, with a control plane inside this process.
    #[arg(long, value_name = "DIR", conflicts_with = "control", required_unless_present = "control")]
    pub config: Option<PathBuf>,
    /// Control plane to follow, for example `https://mesh-control.istio-system.svc:15012`.
    #[arg(long, value_name = "URL")]
    pub control: Option<String>,
    /// File with the root certificates of the control plane (PEM).
    #[arg(long, value_name = "FILE", requires = "control")]
    pub control_ca: Option<PathBuf>,
    /// File with the token that this node shows to the control plane: one of its service account, or a join token.
    #[arg(long, value_name = "FILE", requires = "control")]
    pub token: Option<PathBuf>,
    /// Directory in memory (tmpfs) that keeps certificates and keys while this process restarts, so that it can serve
    /// while the control plane is away [default: /run/mesh/NODE].
    #[arg(long, value_name = "DIR", requires = "control")]
    pub svid_cache: Option<PathBuf>,
    /// Directory for what must survive a restart: the certificate authority of a control plane inside this process, or
    /// what a control plane outside of it told last.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mesh")]
    pub state: PathBuf,
    /// Where the servers of DNS are written that know the names behind services.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Where kernel objects are pinned.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_ROOT)]
    pub pin_root: PathBuf,
    /// Cgroup that holds this node's pods and processes [default: the root of cgroup v2].
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// How inbound connections are brought to this process.
    #[arg(long, value_enum, default_value_t)]
    pub inbound: Inbound,
    /// How the guard is attached to pods' interfaces.
    #[arg(long, value_enum, default_value_t)]
    pub tc: TcHook,
    /// Whether connections between pods of this node that need nothing but layer 4 are decided and carried by the kernel.
    #[arg(long, value_enum, default_value_t)]
    pub express_path: ExpressPath,
    /// Data threads [default: one for each core].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Limit of open files of this process [default: the hard limit].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(MIN_OPEN_FILES..))]
    pub open_files: Option<u64>,
    /// Trust domain of all identities.
    #[arg(long, default_value = "cluster.local", value_parser = TrustDomain::parse)]
    pub trust_domain: TrustDomain,
    /// Lifetime of the certificates of pods, for example 24h, 90m or 30s.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub svid_lifetime: Duration,
    /// What is spoken between nodes: `mesh/1` with those that offer it and HBONE with all others, or one of the two alone.
    #[arg(long, value_enum, default_value_t)]
    pub tunnel_protocol: Protocols,
    /// How connections and HTTP requests are logged, one line each on standard output; without it as MeshConfig's
    /// accessLogEncoding and accessLogFormat say, text if they say nothing.
    #[arg(long, value_enum)]
    pub access_log: Option<AccessLogFormat>,
    /// What is logged on standard error, as a tracing filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How long connections may go on after a request to stop.
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = time)]
    pub drain: Duration,
    /// The CNI plugin.
    #[command(flatten)]
    pub cni: CniOptions,
    /// A machine in place of pods.
    #[command(flatten)]
    pub machine: MachineOptions,
}

/// Options about the CNI plugin, which keeps pods from starting before they are captured.
#[derive(Clone, Debug, Args)]
pub struct CniOptions {
    /// Directory of the node's network configurations, usually /etc/cni/net.d: the plugin is put into the one that is in
    /// use, and again whenever somebody rewrites it. Without it nothing is installed.
    #[arg(long, value_name = "DIR", requires = "cni_bin_dir")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Directory of the node's CNI plugins, usually /opt/cni/bin.
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Socket on which the plugin is answered, at the same path on the host; given alone, the plugin is answered but not
    /// installed [default: /run/mesh/NODE/cni.sock].
    #[arg(long, value_name = "FILE")]
    pub cni_socket: Option<PathBuf>,
    /// How long the start of a pod waits for this process and for capture before it fails; at most 90 s.
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = time)]
    pub cni_wait: Duration,
    /// Namespace whose pods start without asking: those that the cluster and the mesh itself need; may be given several
    /// times.
    #[arg(long = "cni-exclude-namespace", value_name = "NAMESPACE", default_values = ["kube-system", "istio-system"])]
    pub cni_exclude_namespaces: Vec<String>,
}

/// Options of the gateway role, and of the waypoint role.
#[derive(Clone, Debug, Args)]
pub struct GatewayOptions {
    /// Who this process is: namespace and name of its Pod, Deployment, Service, or Gateway of the Gateway API, from which
    /// it has its labels. Gateways select it by these. A waypoint has the name of its Gateway.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = namespaced)]
    pub name: Namespaced,
    /// Its service account, in whose name it has its identity [default: that of its Pod, as far as it is known].
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<String>,
    /// Directory of Kubernetes YAML to follow, with a control plane inside this process.
    #[arg(long, value_name = "DIR", conflicts_with = "control", required_unless_present = "control")]
    pub config: Option<PathBuf>,
    /// Control plane to follow, for example `https://mesh-control.istio-system.svc:15012`.
    #[arg(long, value_name = "URL")]
    pub control: Option<String>,
    /// File with the root certificates of the control plane (PEM).
    #[arg(long, value_name = "FILE", requires = "control")]
    pub control_ca: Option<PathBuf>,
    /// File with the token that this gateway shows to the control plane: one of its service account, or a join token.
    #[arg(long, value_name = "FILE", requires = "control")]
    pub token: Option<PathBuf>,
    /// Directory in memory (tmpfs) that keeps certificates and keys while this process restarts, so that it can serve
    /// while the control plane is away [default: /run/mesh/NAMESPACE.NAME].
    #[arg(long, value_name = "DIR", requires = "control")]
    pub svid_cache: Option<PathBuf>,
    /// Directory with the certificate authority that nodes with a control plane of their own share, from which this
    /// process has its identity in the mesh, and for what a control plane told last. Without it a gateway has no
    /// identity, and reaches only what is reached without; a waypoint uses /var/lib/mesh, as nodes do.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Where the servers of DNS are written that know the names behind services.
    #[arg(long, value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
    /// Where to listen, unless a Gateway says it [default: all addresses].
    #[arg(long, value_name = "IP")]
    pub bind: Option<IpAddr>,
    /// A label of this gateway, besides those it has by its name; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Data threads [default: one for each core].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Limit of open files of this process [default: the hard limit].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(MIN_OPEN_FILES..))]
    pub open_files: Option<u64>,
    /// Port for people and tools on this machine, on loopback.
    #[arg(long, value_name = "PORT", default_value_t = 15000)]
    pub admin_port: u16,
    /// Port for metrics.
    #[arg(long, value_name = "PORT", default_value_t = 15020)]
    pub metrics_port: u16,
    /// Port for readiness probes.
    #[arg(long, value_name = "PORT", default_value_t = 15021)]
    pub ready_port: u16,
    /// Trust domain of all identities.
    #[arg(long, default_value = "cluster.local", value_parser = TrustDomain::parse)]
    pub trust_domain: TrustDomain,
    /// Lifetime of the gateway's own certificate, for example 24h, 90m or 30s.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub svid_lifetime: Duration,
    /// What is spoken between nodes: `mesh/1` with those that offer it and HBONE with all others, or one of the two alone.
    #[arg(long, value_enum, default_value_t)]
    pub tunnel_protocol: Protocols,
    /// How requests and connections are logged, one line each on standard output; without it as MeshConfig's
    /// accessLogEncoding and accessLogFormat say, text if they say nothing.
    #[arg(long, value_enum)]
    pub access_log: Option<AccessLogFormat>,
    /// What is logged on standard error, as a tracing filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How long connections may go on after a request to stop.
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = time)]
    pub drain: Duration,
}

/// `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespaced {
    /// Before the slash.
    pub namespace: String,
    /// Behind it.
    pub name: String,
}

impl std::fmt::Display for Namespaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Options of those who wait for capture.
#[derive(Clone, Debug, Args)]
pub struct EnrolledOptions {
    /// Name of the node.
    #[arg(long)]
    pub node: String,
    /// Where kernel objects are pinned.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_ROOT)]
    pub pin_root: PathBuf,
    /// How long to wait before this fails [default: for as long as it takes].
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub patience: Option<Duration>,
}

/// Options of the cleanup role.
#[derive(Clone, Debug, Args)]
pub struct CleanupOptions {
    /// Name of the node.
    #[arg(long)]
    pub node: String,
    /// Where kernel objects are pinned.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_ROOT)]
    pub pin_root: PathBuf,
    /// Cgroup that holds the node's pods [default: the root of cgroup v2].
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Directory of the node's network configurations, to take the CNI plugin out of them.
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Directory of the node's CNI plugins, to remove ours from it.
    #[arg(long, value_name = "DIR", requires = "cni_conf_dir")]
    pub cni_bin_dir: Option<PathBuf>,
    /// Where the node process has kept certificates and keys, as it was told [default: /run/mesh/NODE, which is not where that of
    /// a machine (`--host`) has them].
    #[arg(long, value_name = "DIR")]
    pub svid_cache: Option<PathBuf>,
    /// Where it has kept what a control plane told. A certificate authority there stays.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mesh")]
    pub state: PathBuf,
}

fn namespaced(text: &str) -> Result<Namespaced, String> {
    let dns = |name: &str| {
        let labels = name.split('.').all(|label| {
            !label.is_empty()
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        });
        labels && name.len() <= 253
    };
    match text.split_once('/') {
        Some((namespace, name)) if dns(namespace) && dns(name) && !namespace.contains('.') => {
            Ok(Namespaced { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not KEY=VALUE")),
    }
}

const DEFAULT_PIN_ROOT: &str = "/sys/fs/bpf/mesh";
/// What a node of a few pods needs for itself, and a few connections.
const MIN_OPEN_FILES: u64 = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Command::command().debug_assert();
    }

    #[test]
    fn names_and_labels() {
        let name = namespaced("istio-system/istio-ingressgateway").expect("good");
        assert_eq!(
            (name.to_string().as_str(), &*name.name),
            ("istio-system/istio-ingressgateway", "istio-ingressgateway")
        );
        for wrong in ["", "a", "a/", "/b", "a/b/c", "A/b", "a.b/c", "a/-b", "a/b..c"] {
            assert!(namespaced(wrong).is_err(), "{wrong}");
        }
        assert_eq!(label("istio=edge"), Ok(("istio".to_owned(), "edge".to_owned())));
        assert_eq!(label("empty="), Ok(("empty".to_owned(), String::new())));
        assert!(label("istio").is_err() && label("=x").is_err());
    }
}
