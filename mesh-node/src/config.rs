//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use mesh_core::id::TrustDomain;

use crate::{
    redirect::{Inbound, TcHook},
    report::AccessLogFormat,
};

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
    /// Remove everything that a node process has put into the kernel: its pods are outside of the mesh then.
    ///
    /// Example: mesh-node cleanup --node node-1
    Cleanup(CleanupOptions),
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
    /// Data threads [default: one for each core].
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Limit of open files of this process [default: the hard limit].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(MIN_OPEN_FILES..))]
    pub open_files: Option<u64>,
    /// Trust domain, unless the mesh configuration names one.
    #[arg(long, default_value = "cluster.local", value_parser = trust_domain)]
    pub trust_domain: TrustDomain,
    /// Lifetime of the certificates of pods, for example 24h, 90m or 30s.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = duration)]
    pub svid_lifetime: Duration,
    /// How connections and HTTP requests are logged: one line each on standard output.
    #[arg(long, value_enum, default_value = "text")]
    pub access_log: AccessLogFormat,
    /// What is logged on standard error, as a tracing filter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How long connections may go on after a request to stop.
    #[arg(long, value_name = "TIME", default_value = "25s", value_parser = duration)]
    pub drain: Duration,
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
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::parse(text).map_err(|error| error.to_string())
}

/// Parses `24h`, `90m`, `30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 24h, 90m, 30s or 500ms");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => None,
    };
    milliseconds.filter(|n| *n > 0).map(Duration::from_millis).ok_or_else(wrong)
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
    fn durations() {
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for wrong in ["", "h", "5", "0s", "-1s", "1d", "99999999999999999999s", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
